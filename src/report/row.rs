//! One line of a report: a pass or a wave, or those of all layers together. In: timestamps. Out: rows with times,
//! work from the plan's own shapes, and how far each is from what the device can do.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{ReportError, Spread};
use crate::device::Roofs;
use crate::ids::PassId;
use crate::plan::{Entry, Kernel, Plan};

/// `OpCapability CooperativeMatrixKHR` as SPIR-V words.
const COOPERATIVE_MATRIX: [u32; 2] = [(2 << 16) | 17, 6022];

/// What keeps a pass from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The bytes that it must move.
    Memory,
    /// Its products, done by matrix units.
    Matrix,
    /// Its arithmetic, done without matrix units.
    Arithmetic,
    /// Being started.
    Launch,
}

impl Bound {
    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Matrix => "matrix unit",
            Bound::Arithmetic => "arithmetic",
            Bound::Launch => "launch",
        }
    }
}

/// A pass or a wave, or those that differ from it in the index of a repeat alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The path of the pass, `l*` standing for all indices; of a wave, those of its passes.
    pub path: String,
    /// The kernel's name.
    pub kernel: String,
    /// Its variant.
    pub variant: String,
    /// Element types, bound ports and choices.
    pub label: String,
    /// RON file, line and column.
    pub source: (String, u32, u32),
    /// How many there are in a submit.
    pub count: u64,
    /// The first wave it is in.
    pub wave: u64,
    /// Workgroups of one.
    pub groups: [u32; 3],
    /// Microseconds of all of them together.
    pub time: Spread,
    /// Part of the sum over all rows.
    pub share: f64,
    /// Bytes read and written at least once, all of them together.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes a second at the median time.
    pub bytes_per_s: f64,
    /// Operations a second.
    pub flops_per_s: f64,
    /// Whether matrix units do the arithmetic.
    pub matrix: bool,
    /// Microseconds that the device's roofs allow; none if they are not known.
    pub least: Option<f64>,
    /// Which roof that is.
    pub bound: Option<Bound>,
}

impl Row {
    /// Percent of the speed that the roof allows.
    pub fn roof_percent(&self) -> Option<f64> {
        let least = self.least?;
        (self.time.median > 0.0).then(|| 100.0 * least / self.time.median)
    }

    /// `file:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.source.0, self.source.1)
    }

    /// The kernel with its variant.
    pub fn runs(&self) -> String {
        if self.variant.is_empty() {
            self.kernel.clone()
        } else {
            format!("{} {}", self.kernel, self.variant)
        }
    }

    /// Fills in what follows from time and work.
    fn finish(&mut self, total: f64, roofs: &Roofs) {
        let seconds = self.time.median * 1e-6;
        let rate = |work: u64| {
            if seconds > 0.0 {
                work as f64 / seconds
            } else {
                0.0
            }
        };
        self.bytes_per_s = rate(self.bytes);
        self.flops_per_s = rate(self.flops);
        self.share = if total > 0.0 {
            self.time.median / total
        } else {
            0.0
        };
        let roof = least(self, roofs);
        self.least = roof.map(|(least, _)| least);
        self.bound = roof.map(|(_, bound)| bound);
    }
}

/// The roofline model (Williams, Waterman and Patterson 2009), with the start of a pass as a third roof: the longest
/// of the three times.
fn least(row: &Row, roofs: &Roofs) -> Option<(f64, Bound)> {
    // With only one kind of roof known, whatever is slow for another reason would seem to sit at that one.
    if !crate::plan::estimate::can_estimate(roofs) {
        return None;
    }
    let over = |work: u64, roof: Option<f64>| Some(work as f64 / roof? * 1e6);
    let arithmetic = match (row.matrix, roofs.matrix_f16_flops) {
        (true, Some(roof)) => (over(row.flops, Some(roof)), Bound::Matrix),
        _ => (over(row.flops, roofs.f32_flops), Bound::Arithmetic),
    };
    let launch = roofs
        .dependent_pass_s
        .map(|seconds| seconds * 1e6 * row.count as f64);
    [
        (over(row.bytes, roofs.read_bytes_per_s), Bound::Memory),
        arithmetic,
        (launch, Bound::Launch),
    ]
    .into_iter()
    .filter_map(|(time, bound)| Some((time?, bound)))
    .max_by(|a, b| a.0.total_cmp(&b.0))
}

/// Whether the module uses matrix units: its capabilities stand at its start.
pub fn uses_matrix_units(kernel: &Kernel) -> bool {
    let mut words = kernel.spirv.get(5..).unwrap_or_default();
    while let [first, rest @ ..] = words {
        let length = (first >> 16) as usize;
        // The first instruction that is no capability ends the list.
        if first & 0xffff != 17 || length != 2 {
            return false;
        }
        if [*first, rest.first().copied().unwrap_or(0)] == COOPERATIVE_MATRIX {
            return true;
        }
        words = rest.get(1..).unwrap_or_default();
    }
    false
}

/// A row with its time in each forward, in nanoseconds.
pub(super) struct Timed {
    pub(super) row: Row,
    each: Vec<f64>,
}

/// A row for each of `items` (the passes of a wave, or one pass), measured `rounds` times in each forward.
pub(super) fn rows(
    plan: &Plan,
    entry: &Entry,
    items: &[Vec<PassId>],
    roofs: &Roofs,
    stamps: &[Vec<f64>],
    rounds: u64,
) -> Result<Vec<Timed>, ReportError> {
    let wanted = items.len() * rounds as usize + 1;
    if stamps.is_empty() {
        return Err(ReportError::NoRuns(entry.name.clone()));
    }
    if let Some(wrong) = stamps.iter().find(|one| one.len() != wanted) {
        return Err(ReportError::Timestamps {
            entry: entry.name.clone(),
            wanted,
            got: wrong.len(),
        });
    }
    let wave_of = crate::plan::waves::waves(entry);
    let mut all = Vec::with_capacity(items.len());
    for (index, passes) in items.iter().enumerate() {
        let time = |one: &Vec<f64>| -> f64 {
            (0..rounds as usize)
                .map(|round| round * items.len() + index)
                .map(|at| (one[at + 1] - one[at]).max(0.0))
                .sum()
        };
        let each: Vec<f64> = stamps.iter().map(time).collect();
        let first = passes.first().copied().unwrap_or(PassId(0));
        let wave = wave_of.iter().position(|wave| wave.contains(&first));
        let mut row = blank(plan, entry, passes, wave.unwrap_or(0), rounds);
        row.time = Spread::of(each.iter().copied());
        all.push(Timed { row, each });
    }
    let total: f64 = all.iter().map(|timed| timed.row.time.median).sum();
    for timed in &mut all {
        timed.row.finish(total, roofs);
    }
    Ok(all)
}

/// A row without times.
fn blank(plan: &Plan, entry: &Entry, passes: &[PassId], wave: usize, rounds: u64) -> Row {
    let infos: Vec<_> = passes
        .iter()
        .filter_map(|pass| entry.passes.get(*pass))
        .collect();
    let kernels = || {
        infos
            .iter()
            .filter_map(|info| plan.kernels.get(info.kernel))
    };
    let sum = |of: fn(&crate::plan::PassInfo) -> u64| {
        let one = infos
            .iter()
            .fold(0u64, |sum, info| sum.saturating_add(of(info)));
        one.saturating_mul(rounds)
    };
    let joined = |mut names: Vec<&str>| {
        names.dedup();
        names.join(" + ")
    };
    let first = infos.first();
    Row {
        path: infos
            .iter()
            .map(|info| info.path.as_str())
            .collect::<Vec<_>>()
            .join(" + "),
        kernel: joined(kernels().map(|kernel| kernel.name.as_str()).collect()),
        variant: joined(kernels().map(|kernel| kernel.variant.as_str()).collect()),
        label: joined(kernels().map(|kernel| kernel.label.as_str()).collect()),
        source: first.map(|info| info.source.clone()).unwrap_or_default(),
        count: rounds,
        wave: wave as u64,
        groups: first.map(|info| info.groups).unwrap_or_default(),
        time: Spread::default(),
        share: 0.0,
        bytes: sum(|info| info.bytes),
        flops: sum(|info| info.flops),
        bytes_per_s: 0.0,
        flops_per_s: 0.0,
        matrix: kernels().any(uses_matrix_units),
        least: None,
        bound: None,
    }
}

/// Rows that differ only in the index of a repeat become one; the longest first.
pub(super) fn folded(rows: &[Timed], roofs: &Roofs) -> Vec<Row> {
    let key = |row: &Row| {
        let path = fold(&row.path);
        (
            path,
            row.kernel.clone(),
            row.variant.clone(),
            row.label.clone(),
        )
    };
    let mut groups: IndexMap<_, Vec<&Timed>> = IndexMap::new();
    for timed in rows {
        groups.entry(key(&timed.row)).or_default().push(timed);
    }
    let mut all: Vec<Row> = groups
        .into_values()
        .filter_map(|members| merged(&members))
        .collect();
    let total: f64 = all.iter().map(|row| row.time.median).sum();
    all.iter_mut().for_each(|row| row.finish(total, roofs));
    all.sort_by(|a, b| b.time.median.total_cmp(&a.time.median));
    all
}

fn merged(members: &[&Timed]) -> Option<Row> {
    let mut row = members.first()?.row.clone();
    if members.len() > 1 {
        row.path = fold(&row.path);
    }
    let sum = |of: fn(&Row) -> u64| {
        members
            .iter()
            .fold(0u64, |sum, timed| sum.saturating_add(of(&timed.row)))
    };
    row.count = sum(|row| row.count);
    row.bytes = sum(|row| row.bytes);
    row.flops = sum(|row| row.flops);
    let runs = members.iter().map(|timed| timed.each.len()).min()?;
    // Per forward first, then the percentile: percentiles do not add up.
    let each = (0..runs).map(|run| members.iter().map(|timed| timed.each[run]).sum());
    row.time = Spread::of(each.collect::<Vec<f64>>());
    Some(row)
}

/// `l3/attn/qkv` becomes `l*/attn/qkv`: a number at the end of a part is the index of a repeat, unless it is the
/// last part, which is the pass's own name.
pub fn fold(path: &str) -> String {
    let one = |path: &str| {
        let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        let last = parts.len() - 1;
        for part in &mut parts[..last] {
            let name = part.trim_end_matches(|c: char| c.is_ascii_digit());
            if !name.is_empty() && name.len() < part.len() {
                *part = format!("{name}*");
            }
        }
        parts.join("/")
    };
    path.split(" + ").map(one).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fold_over_repeats_and_not_over_names() {
        for (path, folded) in [
            ("l3/attn/qkv", "l*/attn/qkv"),
            ("l12/e4/up", "l*/e*/up"),
            ("head/fc1", "head/fc1"),
            ("fc2", "fc2"),
            ("l1/q + l1/k2", "l*/q + l*/k2"),
            ("7/x", "7/x"),
        ] {
            assert_eq!(fold(path), folded);
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks_in_microseconds() {
        let spread = Spread::of((1..=100).map(|n| f64::from(n) * 1e3));
        assert_eq!((spread.p5, spread.median, spread.p95), (5.0, 50.0, 95.0));
        assert_eq!(Spread::of([7e3]).p5, 7.0);
        assert_eq!(Spread::of([]).median, 0.0);
    }
}
