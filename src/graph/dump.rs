//! Graphs as text: one line a value that no pass writes, one line a pass, and a drawing for Graphviz.

use std::fmt;
use std::fmt::Write as _;

use super::{Class, Edge, Graph, Pass, Recipe};
use crate::ids::ValueId;
use crate::kernel::shape_text;

impl Graph {
    /// The graph as text; `stage` heads it. Numbers of the environment are left to the flat dump.
    pub fn dump(&self, stage: &str) -> String {
        let mut out = format!(
            "{stage} {} ({}), {} passes\n",
            self.name,
            self.entry,
            self.passes.len()
        );
        // Writing to a String cannot fail.
        for id in self.values.ids() {
            if let Some(line) = self.value_line(id) {
                let _ = writeln!(out, "{line}");
            }
        }
        for pass in &self.passes {
            let _ = writeln!(out, "{}", self.pass_line(pass));
        }
        let outputs: Vec<&str> = self
            .outputs
            .iter()
            .map(|value| self.values[*value].name.as_str())
            .collect();
        let _ = writeln!(out, "output {}", outputs.join(", "));
        out
    }

    /// The graph in Graphviz's language (`--emit dot`): passes are boxes, an arrow is a dependency, dashed where
    /// only the order counts.
    pub fn dot(&self) -> String {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut out = format!(
            "digraph \"{}\" {{\n  node [shape=box, fontname=\"monospace\"];\n",
            quoted(&self.name)
        );
        for (id, pass) in self.passes.enumerate() {
            let _ = writeln!(
                out,
                "  p{} [label=\"{}\\n{}\"];",
                id.0,
                quoted(&pass.path),
                quoted(&pass.kernel)
            );
        }
        let graph = self.dependencies();
        for edge in graph.edge_indices() {
            let Some((from, to)) = graph.edge_endpoints(edge) else {
                continue;
            };
            let (value, style) = match graph[edge] {
                Edge::Data(value) => (value, "solid"),
                Edge::Order(value) => (value, "dashed"),
            };
            let info = &self.values[value];
            let label = format!(
                "{} {} {}",
                quoted(&info.name),
                info.dtype,
                shape_text(&info.shape)
            );
            let _ = writeln!(
                out,
                "  p{} -> p{} [label=\"{label}\", style={style}];",
                graph[from].0, graph[to].0
            );
        }
        out + "}\n"
    }

    fn value_line(&self, id: ValueId) -> Option<String> {
        let info = &self.values[id];
        let typed = format!("{} {}", info.dtype, shape_text(&info.shape));
        let name = &info.name;
        if let Some((root, first)) = info.view {
            return Some(format!(
                "view {name}: {typed} in {} from byte {first}",
                self.values[root].name
            ));
        }
        match (&info.class, &info.recipe) {
            (Class::Input, _) => Some(format!("input {name}: {typed}")),
            (Class::Weight, Some(recipe)) => Some(format!("weight {name}: {typed} = {recipe}")),
            (Class::Weight, None) => Some(format!("weight {name}: {typed}")),
            (Class::State, _) => Some(format!("state {name}: {typed}")),
            (Class::Carry { next }, _) => Some(format!(
                "carry {name}: {typed}, next {}",
                self.values[*next].name
            )),
            (Class::Scratch, _) => Some(format!("scratch {name}: {typed}")),
            (Class::Workspace, _) => Some(format!("workspace {name}: {typed}")),
            (Class::Transient | Class::Output, _) => None,
        }
    }

    fn pass_line(&self, pass: &Pass) -> String {
        let side = |written: bool| {
            let ports = pass
                .ports
                .iter()
                .filter(|port| port.access.writes() == written);
            let texts = ports.map(|port| {
                let info = &self.values[port.value];
                if written {
                    format!(
                        "{}: {} {} {}",
                        port.name,
                        info.name,
                        info.dtype,
                        shape_text(&info.shape)
                    )
                } else {
                    format!("{}: {}", port.name, info.name)
                }
            });
            texts.collect::<Vec<_>>().join(", ")
        };
        let mut line = format!("{}: {}({})", pass.path, pass.kernel, side(false));
        let options: Vec<String> = pass
            .binding
            .options
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        if !options.is_empty() {
            let _ = write!(line, " with {}", options.join(", "));
        }
        let _ = write!(line, " -> {}", side(true));
        if !pass.fused.is_empty() {
            let _ = write!(line, " (with {})", pass.fused.join(", "));
        }
        line
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(f: &mut fmt::Formatter<'_>, name: &str, items: &[Recipe]) -> fmt::Result {
            write!(f, "{name}(")?;
            for (index, item) in items.iter().enumerate() {
                let comma = if index > 0 { ", " } else { "" };
                write!(f, "{comma}{item}")?;
            }
            write!(f, ")")
        }
        match self {
            Recipe::Tensor(name) => write!(f, "{name}"),
            Recipe::AnyOf(items) => list(f, "AnyOf", items),
            Recipe::Concat(items) => list(f, "Concat", items),
            Recipe::Interleave(items) => list(f, "Interleave", items),
            Recipe::Slice { of, start, count } => write!(f, "Slice({of}, {start}, {count})"),
            Recipe::Transpose(of) => write!(f, "Transpose({of})"),
            Recipe::PairHalves { of, group } => write!(f, "PairHalves({of}, {group})"),
            Recipe::Sum(items) => list(f, "Sum", items),
            Recipe::Plus { of, bits } => write!(f, "Plus({of}, {:?})", f64::from_bits(*bits)),
        }
    }
}
