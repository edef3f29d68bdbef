//! Codes of models, tokenizers and inputs (G08xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
