//! What a pass costs, by the roofline model (Williams, Waterman and Patterson 2009): the slower of its arithmetic
//! and its memory traffic. In: a pass and a profile's roofs. Out: bytes and seconds. Used to order passes inside a
//! wave, to cut submits and to see whether a guard pays, never to decide what is right.

use crate::device::Roofs;
use crate::graph::Graph;
use crate::ids::{PassId, WaveId};

use super::lower::{EntryParts, Lowered};

/// Bytes that a pass must move at least: every bound tensor once, or what it touches of it, twice if it is read and
/// written.
pub fn pass_bytes(graph: &Graph, pass: PassId, lowered: &Lowered) -> u64 {
    graph.passes[pass].ports.iter().fold(0, |sum, port| {
        let value = &graph.values[port.value];
        let mut bytes = value.bytes().unwrap_or(u64::MAX);
        let elements = value
            .shape
            .iter()
            .fold(1, |all: u64, size| all.saturating_mul(*size));
        if let Some(touched) = lowered.touched.get(&port.port)
            && *touched < elements
        {
            // Elements of block formats share bytes, so their part of all bytes counts.
            let part = u128::from(bytes) * u128::from(*touched) / u128::from(elements);
            bytes = u64::try_from(part).unwrap_or(u64::MAX);
        }
        let times = u64::from(port.access.reads()) + u64::from(port.access.writes());
        sum.saturating_add(bytes.saturating_mul(times))
    })
}

/// Seconds that a pass takes at least, without what it costs to start it. Roofs that were not measured count nothing.
pub fn pass_seconds(lowered: &Lowered, bytes: u64, roofs: &Roofs) -> f64 {
    let flops_roof = if lowered.matrix {
        roofs.matrix_f16_flops.or(roofs.f32_flops)
    } else {
        roofs.f32_flops.or(roofs.matrix_f16_flops)
    };
    let over = |amount: u64, roof: Option<f64>| match roof {
        Some(roof) if roof > 0.0 => amount as f64 / roof,
        _ => 0.0,
    };
    over(lowered.flops, flops_roof).max(over(bytes, roofs.read_bytes_per_s))
}

/// Seconds of one wave: what its passes need of arithmetic and memory, and one dependent dispatch.
pub fn wave_seconds(entry: &EntryParts<'_>, wave: WaveId, roofs: &Roofs) -> f64 {
    let passes = entry.schedule.waves()[wave].iter();
    let work = passes.map(|pass| {
        let lowered = &entry.lowered[*pass];
        pass_seconds(lowered, pass_bytes(entry.graph, *pass, lowered), roofs)
    });
    work.sum::<f64>() + roofs.dependent_pass_s.unwrap_or(0.0)
}

/// Seconds of one round.
pub fn round_seconds(entry: &EntryParts<'_>, roofs: &Roofs) -> f64 {
    let waves = entry.schedule.waves().ids();
    waves.map(|wave| wave_seconds(entry, wave, roofs)).sum()
}

/// Whether the profile has enough roofs for an estimate in seconds to mean anything.
pub fn can_estimate(roofs: &Roofs) -> bool {
    roofs.read_bytes_per_s.is_some()
        && (roofs.f32_flops.is_some() || roofs.matrix_f16_flops.is_some())
}
