//! Codes of reading graph files (G00xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
