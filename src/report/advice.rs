//! Where most time could be won, in words. In: a profile with its rows. Out: sentences with their evidence.

use super::Profile;
use super::row::{Bound, Row};
use super::text::{flops, rate, time};
use crate::device::Roofs;

/// How many places are named.
const PLACES: usize = 3;
/// What is worth less than this part of the sum is not worth a sentence.
const WORTH: f64 = 0.01;

/// A pass that takes more than this many times its start has another reason than being started.
const FAR: f64 = 3.0;

/// The three places where most time could be won, the most first.
pub fn advice(profile: &Profile) -> Vec<String> {
    if profile.folded.iter().all(|row| row.least.is_none()) {
        return vec![format!(
            "No roofs are known for {}: `graphc roof` measures them, and then this list says where time could be won.",
            profile.setting.device
        )];
    }
    let total: f64 = profile.folded.iter().map(|row| row.time.median).sum();
    let mut places: Vec<(f64, &Row)> = profile
        .folded
        .iter()
        .filter_map(|row| Some((winnable(row)?, row)))
        .filter(|(won, _)| *won > WORTH * total)
        .collect();
    places.sort_by(|a, b| b.0.total_cmp(&a.0));
    places
        .iter()
        .take(PLACES)
        .map(|(won, row)| sentence(*won, row, profile))
        .collect()
}

/// Microseconds that lie above the roof; what is bound by its launch can be won as a whole, by not being a pass.
fn winnable(row: &Row) -> Option<f64> {
    match row.bound? {
        Bound::Launch => Some(row.time.median),
        _ => Some((row.time.median - row.least?).max(0.0)),
    }
}

fn sentence(won: f64, row: &Row, profile: &Profile) -> String {
    let roofs = &profile.setting.roofs;
    let passes = match row.count {
        1 => "once".to_string(),
        count => format!("{count} times"),
    };
    let what = format!(
        "`{}` ({}, {passes}, {}) takes {}, {:.0} % of the passes",
        row.path,
        row.runs(),
        row.place(),
        time(row.time.median),
        row.share * 100.0
    );
    let least = row.least.map(time).unwrap_or_default();
    let percent = row.roof_percent().unwrap_or(0.0);
    let reached = match row.bound {
        Some(Bound::Launch) => return format!("{what}: {}", launched(won, row, roofs)),
        Some(Bound::Memory) => format!(
            "it moves {} a second, {percent:.0} % of what the memory can",
            rate(row.bytes_per_s)
        ),
        Some(Bound::Matrix) => format!(
            "it reaches {}, {percent:.0} % of the matrix units",
            flops(row.flops_per_s)
        ),
        _ => format!(
            "it reaches {}, {percent:.0} % of the arithmetic without matrix units",
            flops(row.flops_per_s)
        ),
    };
    let help = if percent > 70.0 {
        "little is left but to move or compute less: a smaller element type, or a fusion that keeps a value out of memory"
    } else if matrix_would_help(row, profile) {
        "a variant for matrix units would raise its roof as well (`--dtype f16`, or a variant in the kernel's manifest)"
    } else {
        "`graphc tune` tries its variants and constants; beyond that it needs a faster variant in its manifest"
    };
    format!(
        "{what}: {reached}. At the roof it would take {least}, so up to {} could be won; {help}.",
        time(won)
    )
}

/// A pass of which the roofs ask less than its start costs.
fn launched(won: f64, row: &Row, roofs: &Roofs) -> String {
    let each = row.time.median / row.count.max(1) as f64;
    let start = roofs.dependent_pass_s.unwrap_or(0.0) * 1e6;
    if each < FAR * start {
        return format!(
            "{} each, of which starting a dependent pass alone costs {}. Up to {} could be won by folding it into a \
             neighbour with a fusion, or by letting it share a wave.",
            time(each),
            time(start),
            time(won)
        );
    }
    let workgroups: u64 = row.groups.iter().map(|count| u64::from(*count)).product();
    format!(
        "its bytes and its arithmetic ask for less than the {} that starting a pass costs, and it takes {} with {workgroups} \
         workgroups. Up to {} could be won by a variant that spreads or orders its work better; `graphc tune` tries those \
         that there are.",
        time(start),
        time(each),
        time((row.time.median - row.least.unwrap_or(0.0)).max(0.0))
    )
}

/// Whether products are done without the matrix units that the device has.
fn matrix_would_help(row: &Row, profile: &Profile) -> bool {
    let roofs = &profile.setting.roofs;
    let faster = match (roofs.matrix_f16_flops, roofs.f32_flops) {
        (Some(matrix), Some(plain)) => matrix > 1.5 * plain,
        (Some(_), None) => true,
        _ => false,
    };
    faster && !row.matrix && row.bound == Some(Bound::Arithmetic)
}
