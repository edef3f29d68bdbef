//! A device as data for tests that need none in particular. It stands in a file of its own and uses nothing else of
//! `support`, so that other shared modules can take it in by its path.

use std::collections::{BTreeMap, BTreeSet};

use graphc::device::{DeviceProfile, Feature, Limits, Roofs};

/// Roomy limits.
pub fn limits() -> Limits {
    Limits {
        max_allocation: 1 << 31,
        min_storage_alignment: 64,
        max_shared_memory: 32 << 10,
        max_invocations: 1024,
        max_workgroup_size: [1024; 3],
        max_storage_buffers: 16,
        subgroup_size: 8,
        ..Limits::default()
    }
}

/// A device with [`limits`] that can store f16 and nothing else.
pub fn profile() -> DeviceProfile {
    DeviceProfile {
        name: "test".into(),
        matches: "test".into(),
        limits: limits(),
        features: BTreeSet::from([Feature::StorageF16]),
        roofs: Roofs::default(),
        choices: BTreeMap::new(),
        max_submit_ms: None,
        tokens_per_submit: None,
    }
}
