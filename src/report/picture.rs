//! A picture of one layer: its passes in their waves, what flows between them, and the memory map below. In: a plan.
//! Out: SVG, drawn from the plan alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use super::row::fold;
use super::text::rate;
use crate::ids::{PassId, TensorId};
use crate::plan::{Entry, Plan, Role, waves};

const COLUMN: usize = 172;
const BOX: [usize; 2] = [150, 40];
const LINE: usize = 56;
const LEFT: usize = 92;
const MAP: usize = 190;
const COLORS: [&str; 8] = [
    "#4878a8", "#5fa777", "#8a6fb0", "#c98b3c", "#4fa3b5", "#b5647a", "#8c8c5e", "#6c7a89",
];

/// The last entry's most common layer, one in the middle; a graph without layers as a whole.
pub fn picture(plan: &Plan) -> String {
    let Some(entry) = plan.entries.last() else {
        return String::new();
    };
    let all = waves::waves(entry);
    let shown = layer(entry, &all);
    let first = all
        .iter()
        .position(|wave| wave.iter().any(|pass| shown.contains(pass)))
        .unwrap_or(0);
    let columns: Vec<Vec<PassId>> = all
        .iter()
        .map(|wave| {
            wave.iter()
                .copied()
                .filter(|pass| shown.contains(pass))
                .collect()
        })
        .filter(|wave: &Vec<PassId>| !wave.is_empty())
        .collect();
    Picture {
        plan,
        entry,
        columns,
        first,
    }
    .svg()
}

/// The passes of a layer: those that share the first index of a repeat in their paths.
fn layer(entry: &Entry, all: &[Vec<PassId>]) -> BTreeSet<PassId> {
    let mut layers: BTreeMap<(usize, String), BTreeSet<PassId>> = BTreeMap::new();
    for pass in all.iter().flatten() {
        let path = &entry.passes[*pass].path;
        let folded = fold(path);
        let index = path
            .split('/')
            .zip(folded.split('/'))
            .find(|(part, fold)| part != fold);
        if let Some((part, _)) = index {
            layers
                .entry((part.len(), part.to_string()))
                .or_default()
                .insert(*pass);
        }
    }
    let middle = layers.len() / 2;
    let found = layers.into_values().nth(middle);
    found.unwrap_or_else(|| all.iter().flatten().copied().collect())
}

struct Picture<'a> {
    plan: &'a Plan,
    entry: &'a Entry,
    columns: Vec<Vec<PassId>>,
    /// The wave of the first column.
    first: usize,
}

impl Picture<'_> {
    fn svg(&self) -> String {
        let rows = self.columns.iter().map(Vec::len).max().unwrap_or(1);
        let wide = LEFT + self.columns.len() * COLUMN + 10;
        let top = 62 + rows * LINE;
        let high = top + MAP + 40;
        let mut out = String::new();
        // Writing into a String cannot fail, so the results below have nothing to say.
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" width=\"{wide}\" height=\"{high}\" \
             font-family=\"system-ui, DejaVu Sans, sans-serif\" font-size=\"11\">\n<rect width=\"{wide}\" height=\"{high}\" \
             rx=\"8\" fill=\"#fff\"/>\n<text x=\"12\" y=\"22\" font-size=\"14\" font-weight=\"600\" fill=\"#1c2430\">{}</text>",
            escaped(&format!(
                "{} {}: one layer",
                self.plan.graph, self.entry.name
            ))
        );
        for (column, passes) in self.columns.iter().enumerate() {
            let x = LEFT + column * COLUMN;
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"32\" width=\"{}\" height=\"{}\" rx=\"5\" fill=\"#f1f4f8\"/>\n<text x=\"{x}\" y=\"48\" \
                 fill=\"#5c6878\">wave {}</text>",
                x - 8,
                COLUMN - 6,
                high - 44,
                self.first + column
            );
            for (row, pass) in passes.iter().enumerate() {
                self.pass(&mut out, *pass, x, 58 + row * LINE);
            }
        }
        self.arrows(&mut out);
        self.map(&mut out, top);
        out + "</svg>\n"
    }

    fn color(&self, pass: PassId) -> &'static str {
        let name = |id: PassId| {
            let kernel = self.plan.kernels.get(self.entry.passes[id].kernel);
            kernel.map_or("", |kernel| kernel.name.as_str())
        };
        let names: BTreeSet<&str> = self.columns.iter().flatten().map(|id| name(*id)).collect();
        let at = names.iter().position(|other| *other == name(pass));
        COLORS[at.unwrap_or(0) % COLORS.len()]
    }

    fn pass(&self, out: &mut String, id: PassId, x: usize, y: usize) {
        let pass = &self.entry.passes[id];
        let kernel = self.plan.kernels.get(pass.kernel);
        let runs = kernel.map_or(String::new(), |kernel| {
            format!("{} {}", kernel.name, kernel.variant)
        });
        let [wide, high] = BOX;
        let name = pass.path.split('/').skip(1).collect::<Vec<_>>().join("/");
        let name = if name.is_empty() {
            pass.path.clone()
        } else {
            name
        };
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{high}\" rx=\"4\" fill=\"{}\"/>\n<text x=\"{}\" y=\"{}\" \
             fill=\"#fff\" font-weight=\"600\">{}</text>\n<text x=\"{}\" y=\"{}\" fill=\"#fff\">{}</text>",
            self.color(id),
            x + 8,
            y + 17,
            escaped(&name),
            x + 8,
            y + 32,
            escaped(&runs)
        );
    }

    /// From each pass to the later ones that read what it wrote.
    fn arrows(&self, out: &mut String) {
        let mut place = BTreeMap::new();
        for (column, passes) in self.columns.iter().enumerate() {
            for (row, pass) in passes.iter().enumerate() {
                place.insert(
                    *pass,
                    (LEFT + column * COLUMN, 58 + row * LINE + BOX[1] / 2),
                );
            }
        }
        let mut writer: BTreeMap<TensorId, PassId> = BTreeMap::new();
        for pass in self.columns.iter().flatten() {
            let binds = &self.entry.passes[*pass].binds;
            let mut from = BTreeSet::new();
            for bind in binds.iter().filter(|bind| bind.access.reads()) {
                from.extend(writer.get(&waves::root(self.entry, bind.tensor)));
            }
            for other in from {
                let ((x0, y0), (x1, y1)) = (place[&other], place[pass]);
                let start = x0 + BOX[0];
                // What passes over a column in between goes around it in an arc.
                let lift = if x1 > x0 + COLUMN { 34 } else { 0 };
                let _ = writeln!(
                    out,
                    "<path d=\"M{start} {y0} C{} {} {} {} {} {y1}\" fill=\"none\" stroke=\"#1c2430\" stroke-opacity=\".55\"/>\n\
                     <path d=\"M{x1} {y1} l-6 -3.5 v7 z\" fill=\"#1c2430\"/>",
                    start + 14,
                    y0 + lift,
                    x1 - 18,
                    y1 + lift,
                    x1 - 5
                );
            }
            for bind in binds.iter().filter(|bind| bind.access.writes()) {
                writer.insert(waves::root(self.entry, bind.tensor), *pass);
            }
        }
    }

    /// Transient tensors that live in these waves: bytes downwards.
    fn map(&self, out: &mut String, top: usize) {
        let range = self.first..self.first + self.columns.len();
        /// A tensor's name, bytes and waves, and the first pass that writes it.
        type Held<'a> = (&'a str, Range<u64>, Range<usize>, Option<PassId>);
        let mut boxes: Vec<Held> = Vec::new();
        for (id, life) in waves::lifetimes(self.entry) {
            let Some(tensor) = self.entry.tensors.get(id) else {
                continue;
            };
            let inside = life.start.max(range.start)..life.end.min(range.end);
            if tensor.role == Role::Transient && inside.start < inside.end {
                let writes = |pass: &&PassId| {
                    let binds = &self.entry.passes[**pass].binds;
                    binds.iter().any(|bind| {
                        bind.access.writes() && waves::root(self.entry, bind.tensor) == id
                    })
                };
                let by = self.columns.iter().flatten().find(writes).copied();
                boxes.push((&tensor.name, tensor.range(0), inside, by));
            }
        }
        let most = boxes
            .iter()
            .map(|(_, bytes, ..)| bytes.end)
            .max()
            .unwrap_or(1)
            .max(1);
        let y = |byte: u64| top as f64 + 20.0 + (MAP - 20) as f64 * byte as f64 / most as f64;
        let _ = writeln!(
            out,
            "<text x=\"12\" y=\"{}\" fill=\"#5c6878\">memory</text>",
            top + 12
        );
        for quarter in 0..=2u64 {
            let byte = most / 2 * quarter;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5c6878\">{}</text>",
                LEFT - 14,
                y(byte) + 4.0,
                rate(byte as f64)
            );
        }
        for (name, bytes, life, by) in boxes {
            let x = LEFT + (life.start - self.first) * COLUMN;
            let wide = life.len() * COLUMN - (COLUMN - BOX[0]);
            let high = (y(bytes.end) - y(bytes.start)).max(2.0);
            let color = by.map_or("#9aa5b1", |pass| self.color(pass));
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"{wide}\" height=\"{:.1}\" rx=\"2\" fill=\"{color}\" fill-opacity=\".85\" \
                 stroke=\"#fff\"/>",
                y(bytes.start),
                high
            );
            if high > 12.0 {
                let short = name.split('/').skip(1).collect::<Vec<_>>().join("/");
                let short = if short.is_empty() {
                    name.to_string()
                } else {
                    short
                };
                let _ = writeln!(
                    out,
                    "<text x=\"{}\" y=\"{:.1}\" fill=\"#fff\">{}</text>",
                    x + 7,
                    y(bytes.start) + high.min(26.0) / 2.0 + 4.0,
                    escaped(&short)
                );
            }
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
