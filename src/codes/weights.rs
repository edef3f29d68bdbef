//! Codes of checkpoints and packing (G06xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
