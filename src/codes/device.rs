//! Codes of devices and running (G07xx).

use super::Explained;

pub(super) const CODES: &[Explained] = &[];
