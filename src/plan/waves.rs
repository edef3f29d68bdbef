//! What a finished plan's recording says about itself: its waves, and the waves in which bytes are in use. In: an
//! entry. Out: pass and tensor ids. For pictures and reports; the planner's own liveness is in [`super::live`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Entry, Role, Step};
use crate::ids::{PassId, TensorId};

/// The passes of each wave of one round, in the order of recording: a barrier or a cut ends a wave.
pub fn waves(entry: &Entry) -> Vec<Vec<PassId>> {
    let mut waves: Vec<Vec<PassId>> = Vec::new();
    let mut open = false;
    for step in &entry.steps {
        match step {
            Step::Dispatch(pass) => {
                if !open {
                    waves.push(Vec::new());
                }
                open = true;
                if let Some(wave) = waves.last_mut() {
                    wave.push(*pass);
                }
            }
            Step::Barrier(_) | Step::Cut => open = false,
        }
    }
    waves
}

/// The tensor whose bytes `id` shows: itself, or what it is a view of.
pub fn root(entry: &Entry, id: TensorId) -> TensorId {
    entry
        .tensors
        .get(id)
        .and_then(|tensor| tensor.view_of)
        .unwrap_or(id)
}

/// The waves in which each tensor's bytes are in use, views counted for what they look into.
pub fn lifetimes(entry: &Entry) -> BTreeMap<TensorId, Range<usize>> {
    let mut lives: BTreeMap<TensorId, Range<usize>> = BTreeMap::new();
    for (wave, passes) in waves(entry).into_iter().enumerate() {
        let passes = passes.iter().filter_map(|pass| entry.passes.get(*pass));
        for bind in passes.flat_map(|pass| &pass.binds) {
            let life = lives
                .entry(root(entry, bind.tensor))
                .or_insert(wave..wave + 1);
            *life = life.start.min(wave)..life.end.max(wave + 1);
        }
    }
    lives
}

/// Bytes of transient tensors that are in use in each wave.
pub fn live_bytes(entry: &Entry) -> Vec<u64> {
    let mut live = vec![0u64; waves(entry).len()];
    for (id, life) in lifetimes(entry) {
        let Some(tensor) = entry.tensors.get(id) else {
            continue;
        };
        if tensor.role == Role::Transient {
            for sum in live.iter_mut().take(life.end).skip(life.start) {
                *sum = sum.saturating_add(tensor.bytes);
            }
        }
    }
    live
}
