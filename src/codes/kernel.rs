//! Codes of kernel manifests and shaders (G04xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
