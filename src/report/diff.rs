//! Two plans or two profiles side by side. In: both. Out: what is in one and not in the other, what moved, and what
//! became faster or slower by more than the noise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::row::{Row, fold};
use super::text::{rate, time};
use super::{Profile, Spread};
use crate::plan::{Entry, Plan, waves};

/// Names of a list that are printed; the number of the others is.
const SHOWN: usize = 12;

/// What differs between two plans.
pub fn plans(a: &Plan, b: &Plan) -> String {
    let mut out = String::new();
    if a == b {
        return "the plans are equal\n".into();
    }
    field(&mut out, "graph", &a.graph, &b.graph);
    field(&mut out, "profile", &a.profile, &b.profile);
    for (name, before, after) in matched(&a.entries, &b.entries, |entry| entry.name.as_str()) {
        match (before, after) {
            (Some(before), Some(after)) => out += &entries(a, before, b, after),
            (Some(_), None) => out += &format!("entry {name}: removed\n"),
            _ => out += &format!("entry {name}: added\n"),
        }
    }
    out
}

/// Items of both lists by name, in the order of the first list; a single one in each belong together anyway.
fn matched<'a, T>(
    a: &'a [T],
    b: &'a [T],
    name: impl Fn(&T) -> &str,
) -> Vec<(String, Option<&'a T>, Option<&'a T>)> {
    if let ([one], [other]) = (a, b) {
        let title = match name(one) == name(other) {
            true => name(one).to_string(),
            false => format!("{} and {}", name(one), name(other)),
        };
        return vec![(title, Some(one), Some(other))];
    }
    let other = |item: &T| b.iter().find(|other| name(other) == name(item));
    let fresh = b
        .iter()
        .filter(|item| !a.iter().any(|old| name(old) == name(item)));
    a.iter()
        .map(|item| (name(item).to_string(), Some(item), other(item)))
        .chain(fresh.map(|item| (name(item).to_string(), None, Some(item))))
        .collect()
}

fn field(out: &mut String, name: &str, a: &str, b: &str) {
    if a != b {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name}: {a} -> {b}");
    }
}

/// What a pass is: everything but where its tensors lie.
#[derive(PartialEq)]
struct Shape<'a> {
    kernel: &'a str,
    variant: &'a str,
    label: &'a str,
    spec: &'a [(u32, u32)],
    groups: [u32; 3],
}

/// Where a pass stands: its wave, and the place of each port.
type Place = (usize, Vec<(String, u32, u64, u64)>);

fn passes<'a>(plan: &'a Plan, entry: &'a Entry) -> BTreeMap<&'a str, (Shape<'a>, Place)> {
    let mut all = BTreeMap::new();
    for (wave, ids) in waves::waves(entry).into_iter().enumerate() {
        for pass in ids.into_iter().filter_map(|id| entry.passes.get(id)) {
            let Some(kernel) = plan.kernels.get(pass.kernel) else {
                continue;
            };
            let shape = Shape {
                kernel: &kernel.name,
                variant: &kernel.variant,
                label: &kernel.label,
                spec: &kernel.spec,
                groups: pass.groups,
            };
            let ports = pass.binds.iter().filter_map(|bind| {
                let tensor = entry.tensors.get(bind.tensor)?;
                Some((
                    bind.port.clone(),
                    tensor.arena.0,
                    tensor.offset,
                    tensor.bytes,
                ))
            });
            all.insert(pass.path.as_str(), (shape, (wave, ports.collect())));
        }
    }
    all
}

fn entries(plan_a: &Plan, a: &Entry, plan_b: &Plan, b: &Entry) -> String {
    let mut out = format!(
        "entry {}\n",
        if a.name == b.name {
            a.name.clone()
        } else {
            format!("{} -> {}", a.name, b.name)
        }
    );
    let mut number = |name: &str, a: u64, b: u64, show: fn(u64) -> String| {
        let change = match a == b {
            true => "same".to_string(),
            false => format!(
                "{:+.1} %",
                100.0 * (b as f64 - a as f64) / (a as f64).max(1.0)
            ),
        };
        let _ = writeln!(
            out,
            "  {name:<18} {:>12} {:>12}  {change}",
            show(a),
            show(b)
        );
    };
    let plain = |count: u64| count.to_string();
    let bytes = |count: u64| rate(count as f64);
    let moved = |entry: &Entry| {
        entry
            .passes
            .iter()
            .fold(0u64, |sum, pass| sum.saturating_add(pass.bytes))
    };
    let work = |entry: &Entry| {
        entry
            .passes
            .iter()
            .fold(0u64, |sum, pass| sum.saturating_add(pass.flops))
    };
    number("passes", a.stats.passes, b.stats.passes, plain);
    number("waves", a.stats.waves, b.stats.waves, plain);
    number("barriers", a.stats.barriers, b.stats.barriers, plain);
    number("submits", a.stats.submits, b.stats.submits, plain);
    number("bytes moved", moved(a), moved(b), bytes);
    number("FLOP", work(a), work(b), |work| {
        super::text::prefixed(work as f64).trim_end().to_string()
    });
    number(
        "transient bytes",
        a.stats.transient_planned,
        b.stats.transient_planned,
        bytes,
    );
    number(
        "weight bytes",
        a.stats.weight_bytes,
        b.stats.weight_bytes,
        bytes,
    );
    number(
        "state bytes",
        a.stats.state_bytes,
        b.stats.state_bytes,
        bytes,
    );
    let (old, new) = (passes(plan_a, a), passes(plan_b, b));
    let both = || {
        old.iter()
            .filter_map(|(path, old)| Some((*path, old, new.get(path)?)))
    };
    let only = |of: &BTreeMap<&str, (Shape<'_>, Place)>,
                other: &BTreeMap<&str, (Shape<'_>, Place)>| {
        of.keys()
            .filter(|path| !other.contains_key(*path))
            .map(|path| path.to_string())
            .collect::<Vec<_>>()
    };
    list(&mut out, "added", only(&new, &old));
    list(&mut out, "removed", only(&old, &new));
    let changed = both().filter(|(_, old, new)| old.0 != new.0);
    let named = |shape: &Shape<'_>| format!("{} {}", shape.kernel, shape.variant);
    list(
        &mut out,
        "changed",
        changed
            .map(|(path, old, new)| match named(&old.0) == named(&new.0) {
                true => format!("{} ({})", fold(path), named(&old.0)),
                false => format!("{} ({} -> {})", fold(path), named(&old.0), named(&new.0)),
            })
            .collect(),
    );
    let waved = both().filter(|(_, old, new)| old.1.0 != new.1.0);
    list(
        &mut out,
        "in another wave",
        waved.map(|(path, ..)| path.to_string()).collect(),
    );
    let placed = both().filter(|(_, old, new)| old.1.1 != new.1.1);
    list(
        &mut out,
        "re-placed",
        placed.map(|(path, ..)| path.to_string()).collect(),
    );
    out
}

/// Paths folded over layers, with how many each stands for.
fn list(out: &mut String, title: &str, paths: Vec<String>) {
    let mut folded: BTreeMap<String, usize> = BTreeMap::new();
    for path in &paths {
        *folded.entry(fold(path)).or_default() += 1;
    }
    if folded.is_empty() {
        return;
    }
    let _ = writeln!(out, "  {title}: {}", paths.len());
    for (path, count) in folded.iter().take(SHOWN) {
        let times = if *count > 1 {
            format!("  x {count}")
        } else {
            String::new()
        };
        let _ = writeln!(out, "    {path}{times}");
    }
    if folded.len() > SHOWN {
        let _ = writeln!(out, "    and {} more", folded.len() - SHOWN);
    }
}

/// Whether two spreads are apart: nine of ten times of one lie outside those of the other.
fn apart(a: Spread, b: Spread) -> bool {
    a.p95 < b.p5 || b.p95 < a.p5
}

/// `1.2 ms   1.0 ms  -16.7 %`, and whether that is more than the noise.
fn change(a: Spread, b: Spread) -> String {
    let percent = 100.0 * (b.median - a.median) / a.median.max(f64::MIN_POSITIVE);
    let band = 50.0 * ((a.p95 - a.p5) + (b.p95 - b.p5)) / 2.0 / a.median.max(f64::MIN_POSITIVE);
    let word = match (apart(a, b), percent < 0.0) {
        (false, _) => "within the noise",
        (true, true) => "faster",
        (true, false) => "slower",
    };
    format!(
        "{:>10} {:>10}  {percent:>+7.1} % (noise {band:.1} %)  {word}",
        time(a.median),
        time(b.median)
    )
}

/// What differs between two profiles.
pub fn profiles(a: &Profile, b: &Profile) -> String {
    let mut out = String::new();
    field(&mut out, "graph", &a.graph, &b.graph);
    field(&mut out, "entry", &a.entry, &b.entry);
    field(&mut out, "device", &a.setting.device, &b.setting.device);
    field(&mut out, "driver", &a.setting.driver, &b.setting.driver);
    let _ = writeln!(
        out,
        "passes {} -> {}, waves {} -> {}, barriers {} -> {}, transient {} -> {}",
        a.passes.len(),
        b.passes.len(),
        a.waves.len(),
        b.waves.len(),
        a.barriers,
        b.barriers,
        rate(a.transient_bytes as f64),
        rate(b.transient_bytes as f64)
    );
    for (name, before, after) in [
        ("wall", a.wall, b.wall),
        ("whole on the device", a.whole, b.whole),
        ("sum of waves", a.waves_sum, b.waves_sum),
        ("sum of passes", a.passes_sum, b.passes_sum),
    ] {
        let _ = writeln!(out, "  {name:<36} {}", change(before, after));
    }
    out += "passes, the largest change first\n";
    let rows = |profile: &Profile| -> BTreeMap<String, Row> {
        profile
            .folded
            .iter()
            .map(|row| (fold(&row.path), row.clone()))
            .collect()
    };
    let (old, new) = (rows(a), rows(b));
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut lines: Vec<(f64, String)> = Vec::new();
    for path in paths {
        let line = match (old.get(path), new.get(path)) {
            (Some(a), Some(b)) => {
                let runs = match a.runs() == b.runs() {
                    true => String::new(),
                    false => format!("  {} -> {}", a.runs(), b.runs()),
                };
                let size = (b.time.median - a.time.median).abs();
                (
                    size,
                    format!("  {path:<36} {}{runs}", change(a.time, b.time)),
                )
            }
            (Some(a), None) => (
                a.time.median,
                format!(
                    "  {path:<36} {:>10} {:>10}  removed",
                    time(a.time.median),
                    "-"
                ),
            ),
            (None, Some(b)) => (
                b.time.median,
                format!(
                    "  {path:<36} {:>10} {:>10}  added",
                    "-",
                    time(b.time.median)
                ),
            ),
            (None, None) => continue,
        };
        lines.push(line);
    }
    lines.sort_by(|a, b| b.0.total_cmp(&a.0));
    lines.iter().for_each(|(_, line)| {
        out += line;
        out.push('\n');
    });
    out
}
