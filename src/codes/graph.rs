//! Codes of expanding, typing and checking graphs (G01xx, G02xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
