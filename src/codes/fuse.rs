//! Codes of fusion rules (G03xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
