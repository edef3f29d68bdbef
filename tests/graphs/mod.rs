//! Runs the graph stages on a graph of the repository.
#![allow(dead_code)]

use std::collections::BTreeMap;

use graphc::diag::{Diagnostic, Diagnostics};
use graphc::expr::Value;
use graphc::graph::{Checked, FuseOptions, Fused, Request, check, expand, fuse, infer};
use graphc::kernel::Library;
use graphc::sources::FsSources;
use graphc::span::{SourceMap, Sources};
use graphc::text::{Loaded, load};

/// What each stage made.
pub struct Stages {
    pub flat: String,
    pub typed: String,
    pub warnings: Vec<String>,
    pub fused: Fused,
}

/// Texts of the repository, with some in memory beside them.
pub struct Overlay {
    pub disk: FsSources,
    pub memory: BTreeMap<String, String>,
}

impl Overlay {
    pub fn new(memory: &[(&str, &str)]) -> Self {
        let memory = memory
            .iter()
            .map(|(path, text)| (path.to_string(), text.to_string()))
            .collect();
        Self {
            disk: FsSources::new(env!("CARGO_MANIFEST_DIR")),
            memory,
        }
    }
}

impl Sources for Overlay {
    fn read(&self, path: &str) -> Result<String, graphc::span::SourceError> {
        self.memory.read(path).or_else(|_| self.disk.read(path))
    }
    fn list(&self, path: &str) -> Result<Vec<String>, graphc::span::SourceError> {
        self.disk.list(path)
    }
}

impl Stages {
    /// All stages on the graph at `path`; a problem fails the test with its rendered text.
    pub fn of(path: &str, request: &Request, options: &FuseOptions) -> Self {
        Self::try_of(&Overlay::new(&[]), path, request, options)
            .unwrap_or_else(|text| panic!("{path}:\n{text}"))
    }

    /// All stages; a problem comes back as people see it.
    pub fn try_of(
        sources: &dyn Sources,
        path: &str,
        request: &Request,
        options: &FuseOptions,
    ) -> Result<Self, String> {
        let mut map = SourceMap::default();
        let stages = run(sources, path, request, options, &mut map);
        stages.map_err(|problems| problems.render(&map, false))
    }
}

fn run(
    sources: &dyn Sources,
    path: &str,
    request: &Request,
    options: &FuseOptions,
    map: &mut SourceMap,
) -> Result<Stages, Diagnostics> {
    let library = library(sources, map)?;
    let loaded = load(path, sources, map)?;
    let flat = expand(&loaded, request)?;
    let flat_dump = flat.dump();
    let typed = infer(flat, &library)?;
    let typed_dump = typed.dump();
    let checked: Checked = check(typed)?;
    let warning =
        |warning: &Diagnostic| format!("warning[{}]: {}", warning.code.0, warning.message);
    let warnings = checked.warnings().iter().map(warning).collect();
    let mut options = options.clone();
    options
        .disabled
        .extend(loaded.graph.disable.iter().cloned());
    let fused = fuse(checked, &loaded.fusions, &library, &options)?;
    Ok(Stages {
        flat: flat_dump,
        typed: typed_dump,
        warnings,
        fused,
    })
}

/// Every kernel of the repository.
pub fn library(sources: &dyn Sources, map: &mut SourceMap) -> Result<Library, Diagnostics> {
    graphc::kernel::manifest::load(sources, map)
}

/// The graph at `path` as syntax.
pub fn loaded(path: &str) -> Loaded {
    load(path, &Overlay::new(&[]), &mut SourceMap::default()).unwrap()
}

/// The fusion rules that the graph at `path` includes.
pub fn rules(path: &str) -> Vec<String> {
    loaded(path)
        .fusions
        .iter()
        .map(|rule| rule.name.value.clone())
        .collect()
}

/// Metadata as a model's configuration gives it.
pub fn metadata(pairs: &[(&str, Value)]) -> BTreeMap<String, Value> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.clone()))
        .collect()
}
