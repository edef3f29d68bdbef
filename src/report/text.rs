//! A profile as a table for people and as comma-separated values.

use std::fmt::Write as _;

use super::Profile;
use super::row::Row;

/// What stands in the lines of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Waves as production runs them, instead of passes one after another.
    pub waves: bool,
    /// Every pass or wave on its own, in the order of recording.
    pub unfolded: bool,
}

impl Shape {
    /// The rows that stand in the table.
    pub fn rows(self, profile: &Profile) -> &[Row] {
        match (self.waves, self.unfolded) {
            (false, false) => &profile.folded,
            (false, true) => &profile.passes,
            (true, false) => &profile.folded_waves,
            (true, true) => &profile.waves,
        }
    }
}

/// Microseconds for people.
pub fn time(us: f64) -> String {
    match us {
        us if us >= 1e5 => format!("{:.1} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.2} ms", us / 1e3),
        us if us >= 100.0 => format!("{us:.0} us"),
        us => format!("{us:.1} us"),
    }
}

/// A number with a decimal prefix, for example `4.7 T`.
pub fn prefixed(number: f64) -> String {
    let mut scaled = number;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P"] {
        if scaled.abs() < 1000.0 {
            break;
        }
        scaled /= 1000.0;
        prefix = next;
    }
    match scaled {
        _ if prefix.is_empty() => format!("{scaled:.0} "),
        scaled if scaled < 10.0 => format!("{scaled:.2} {prefix}"),
        scaled if scaled < 100.0 => format!("{scaled:.1} {prefix}"),
        scaled => format!("{scaled:.0} {prefix}"),
    }
}

/// Bytes for people, in powers of ten as rates are.
pub fn rate(bytes: f64) -> String {
    format!("{}B", prefixed(bytes))
}

/// Operations a second for people.
pub fn flops(per_second: f64) -> String {
    format!("{}FLOP/s", prefixed(per_second))
}

/// The whole report.
pub fn table(profile: &Profile, shape: Shape) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail, so the results below have nothing to say.
    let _ = head(&mut out, profile);
    let kind = match (shape.waves, shape.unfolded) {
        (false, false) => "passes, one after another, folded over layers, the longest first",
        (false, true) => "passes, one after another, in the order of recording",
        (true, false) => "waves as production runs them, folded over layers, the longest first",
        (true, true) => "waves as production runs them, in the order of recording",
    };
    let _ = writeln!(out, "\n{kind}");
    out += &columns(&lines(shape.rows(profile)));
    if !profile.advice.is_empty() {
        out += "\nwhere most time could be won\n";
        for (number, text) in (1..).zip(&profile.advice) {
            let _ = writeln!(out, "{number}. {text}");
        }
    }
    out
}

fn head(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let setting = &profile.setting;
    let random = if setting.random_weights {
        ", made-up weights"
    } else {
        ""
    };
    writeln!(
        out,
        "{} {} on {} ({}){random}: {} passes in {} waves, {} runs of each recording",
        profile.graph,
        profile.entry,
        setting.device,
        setting.driver,
        profile.passes.len(),
        profile.waves.len(),
        profile.runs
    )?;
    if profile.rounds > 1 {
        writeln!(
            out,
            "one submit runs {} rounds; times are of the submit",
            profile.rounds
        )?;
    }
    let whole = profile.whole.median;
    let gap = |sum: super::Spread| {
        let percent = 100.0 * (sum.median - whole) / whole.max(f64::MIN_POSITIVE);
        let apart = sum.p5 > profile.whole.p95 || sum.p95 < profile.whole.p5;
        let noise = if apart { "" } else { ", within the noise" };
        format!("gap {percent:+.1} %{noise}")
    };
    let line = |name: &str, spread: super::Spread, note: String| {
        format!(
            "  {name:<28} {:>11}  (p95 {:>9})  {note}\n",
            time(spread.median),
            time(spread.p95)
        )
    };
    *out += &line(
        "wall, nothing measured",
        profile.wall,
        format!(
            "{} beyond the device",
            time((profile.wall.median - whole).max(0.0))
        ),
    );
    *out += &line(
        "whole on the device",
        profile.whole,
        "two timestamps".into(),
    );
    *out += &line(
        "sum of waves",
        profile.waves_sum,
        format!(
            "{}: a timestamp between each two waves",
            gap(profile.waves_sum)
        ),
    );
    *out += &line(
        "sum of passes",
        profile.passes_sum,
        format!(
            "{}: passes of a wave cannot overlap, a timestamp between each two",
            gap(profile.passes_sum)
        ),
    );
    Ok(())
}

const HEAD: [&str; 12] = [
    "time",
    "p95",
    "share",
    "count",
    "pass",
    "kernel",
    "bytes",
    "FLOP",
    "B/s",
    "FLOP/s",
    "of roof",
    "bound, place",
];

fn lines(rows: &[Row]) -> Vec<[String; 12]> {
    let blank = |work: u64, text: String| if work == 0 { "-".into() } else { text };
    rows.iter()
        .map(|row| {
            [
                time(row.time.median),
                time(row.time.p95),
                format!("{:.1} %", row.share * 100.0),
                row.count.to_string(),
                shortened(&row.path),
                row.runs(),
                blank(row.bytes, rate(row.bytes as f64)),
                blank(row.flops, prefixed(row.flops as f64).trim_end().to_string()),
                blank(row.bytes, prefixed(row.bytes_per_s).trim_end().to_string()),
                blank(row.flops, prefixed(row.flops_per_s).trim_end().to_string()),
                row.roof_percent()
                    .map_or("-".into(), |percent| format!("{percent:.0} %")),
                format!(
                    "{:<11} {}",
                    row.bound.map_or("-", |bound| bound.name()),
                    row.place()
                ),
            ]
        })
        .collect()
}

/// A wave of many passes names the first ones.
fn shortened(path: &str) -> String {
    let parts: Vec<&str> = path.split(" + ").collect();
    match parts.as_slice() {
        [first, second, rest @ ..] if rest.len() > 1 => {
            format!("{first} + {second} + {} more", rest.len())
        }
        _ => path.to_string(),
    }
}

/// Columns as wide as their widest cell; numbers to the right, names to the left.
fn columns(lines: &[[String; 12]]) -> String {
    let head = HEAD.map(str::to_string);
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(lines);
        cells
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 12] = std::array::from_fn(width);
    let mut out = String::new();
    for line in std::iter::once(&head).chain(lines) {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                4 | 5 | 11 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

/// Comma-separated values with a header line; times in microseconds.
pub fn csv(profile: &Profile, shape: Shape) -> String {
    let mut out = String::from(
        "path,kernel,variant,label,count,wave,median_us,p95_us,share,bytes,flops,bytes_per_s,flops_per_s,roof_us,bound,\
         file,line\n",
    );
    let quoted = |text: &str| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_string()
        }
    };
    for row in shape.rows(profile) {
        let least = row
            .least
            .map_or(String::new(), |least| format!("{least:.3}"));
        let fields = [
            quoted(&row.path),
            quoted(&row.kernel),
            quoted(&row.variant),
            quoted(&row.label),
            row.count.to_string(),
            row.wave.to_string(),
            format!("{:.3}", row.time.median),
            format!("{:.3}", row.time.p95),
            format!("{:.5}", row.share),
            row.bytes.to_string(),
            row.flops.to_string(),
            format!("{:.4e}", row.bytes_per_s),
            format!("{:.4e}", row.flops_per_s),
            least,
            row.bound.map_or("", |bound| bound.name()).to_string(),
            quoted(&row.source.0),
            row.source.1.to_string(),
        ];
        out += &fields.join(",");
        out.push('\n');
    }
    out
}
