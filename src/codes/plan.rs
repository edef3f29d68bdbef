//! Codes of planning, verifying and reading plans (G05xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
