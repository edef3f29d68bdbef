//! A graph and every file it includes. A path in `include` is relative to the file it stands in; each file is
//! read once, however often it is named.

use std::collections::BTreeMap;

use crate::codes::text as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::span::{FileId, SourceMap, Sources, Span};
use crate::text::ast::{Block, File, Fuse, GraphFile, Name};
use crate::text::parse::{MAX_FILE_BYTES, parse};

/// The most files that one graph may include.
const MAX_FILES: usize = 256;

/// The most text that one graph and its files may have, in bytes.
const MAX_TOTAL_BYTES: usize = 8 * MAX_FILE_BYTES;

/// A graph with its blocks and fusion rules, in the order of the includes.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The graph.
    pub graph: GraphFile,
    /// Every block; names are unique.
    pub blocks: Vec<Block>,
    /// Every fusion rule; names are unique.
    pub fusions: Vec<Fuse>,
}

/// Reads the graph at `root` and what it includes, adding all texts to `map`.
pub fn load(root: &str, sources: &dyn Sources, map: &mut SourceMap) -> Result<Loaded, Diagnostics> {
    let root = normalise("", root).unwrap_or_else(|| root.to_string());
    let file = read(&root, None, sources, map)?;
    let graph = match parse(file, map)? {
        File::Graph(graph) => *graph,
        other => return Err(wrong_root(&other, file, map).into()),
    };
    let mut loader = Loader {
        root: &root,
        sources,
        map,
        seen: BTreeMap::from([(root.clone(), ())]),
        blocks: Vec::new(),
        fusions: Vec::new(),
        problems: Diagnostics::default(),
    };
    for include in &graph.include {
        if let Err(problems) = loader.include(include) {
            let full = problems
                .items()
                .iter()
                .any(|one| one.code == codes::TOO_BIG);
            loader.problems.extend(problems);
            // Every further file would be one too many as well.
            if full {
                break;
            }
        }
    }
    let Loader {
        blocks,
        fusions,
        mut problems,
        ..
    } = loader;
    unique(
        "block",
        blocks.iter().map(|block| &block.name),
        &mut problems,
    );
    unique(
        "fusion",
        fusions.iter().map(|fuse| &fuse.name),
        &mut problems,
    );
    problems.into_result()?;
    Ok(Loaded {
        graph,
        blocks,
        fusions,
    })
}

struct Loader<'a> {
    root: &'a str,
    sources: &'a dyn Sources,
    map: &'a mut SourceMap,
    seen: BTreeMap<String, ()>,
    blocks: Vec<Block>,
    fusions: Vec<Fuse>,
    problems: Diagnostics,
}

impl Loader<'_> {
    fn include(&mut self, include: &Name) -> Result<(), Diagnostics> {
        let Some(path) = normalise(self.root, include) else {
            let message = format!("`{}` leaves the root folder", include.value);
            return Err(Diagnostic::error(codes::UNREADABLE, message)
                .at(include.span, "")
                .help("included files lie under the root folder, beside the graph or below a sister folder")
                .into());
        };
        if path == self.root {
            let message = format!("`{path}` includes itself: {path} -> {path}");
            return Err(Diagnostic::error(codes::INCLUDE_CYCLE, message)
                .at(include.span, "here")
                .help("include files with blocks or fusions only")
                .into());
        }
        if self.seen.insert(path.clone(), ()).is_some() {
            return Ok(());
        }
        self.check_room(include)?;
        let file = read(&path, Some(include.span), self.sources, self.map)?;
        match parse(file, self.map)? {
            File::Blocks(blocks) => self.blocks.extend(blocks),
            File::Fusions(fusions) => self.fusions.extend(fusions),
            File::Graph(graph) => return Err(self.included_graph(&path, &graph, include)),
        }
        Ok(())
    }

    /// A graph cannot be included; if it includes the first one back, that is worth saying, too.
    fn included_graph(&self, path: &str, graph: &GraphFile, include: &Name) -> Diagnostics {
        let back = graph
            .include
            .iter()
            .find(|name| normalise(path, name).as_deref() == Some(self.root));
        match back {
            Some(back) => {
                let root = self.root;
                let message = format!("files include each other: {root} -> {path} -> {root}");
                Diagnostic::error(codes::INCLUDE_CYCLE, message)
                    .at(include.span, "from here")
                    .at(back.span, "and back from here")
                    .help("move what both need into a file with `Blocks([..])` and include that in each")
            }
            None => Diagnostic::error(
                codes::WRONG_FILE,
                format!("`{path}` holds a graph; only blocks and fusions can be included"),
            )
            .at(include.span, "included here")
            .at(graph.name.span, "this is a graph")
            .help("move what both need into a file with `Blocks([..])`"),
        }
        .into()
    }

    fn check_room(&self, include: &Name) -> Result<(), Diagnostics> {
        let bytes: usize = self.map.files().iter().map(|file| file.text.len()).sum();
        let message = if self.seen.len() > MAX_FILES {
            format!("more than {MAX_FILES} included files")
        } else if bytes > MAX_TOTAL_BYTES {
            format!("more than {MAX_TOTAL_BYTES} bytes of graph files")
        } else {
            return Ok(());
        };
        Err(Diagnostic::error(codes::TOO_BIG, message)
            .at(include.span, "this one is too many")
            .into())
    }
}

fn read(
    path: &str,
    from: Option<Span>,
    sources: &dyn Sources,
    map: &mut SourceMap,
) -> Result<FileId, Diagnostics> {
    match sources.read(path) {
        Ok(text) => Ok(map.add(path, text)),
        Err(error) => {
            let message = format!("cannot read `{}`: {}", error.path, error.reason);
            let mut problem = Diagnostic::error(codes::UNREADABLE, message);
            if let Some(span) = from {
                problem = problem.at(span, "included here").help(
                    "paths in `include` are relative to the file they stand in and end in `.ron`",
                );
            }
            Err(problem.into())
        }
    }
}

fn wrong_root(file: &File, id: FileId, map: &SourceMap) -> Diagnostic {
    let (what, place) = match file {
        File::Blocks(blocks) => ("blocks", blocks.first().map(|block| block.name.span)),
        File::Fusions(fusions) => ("fusions", fusions.first().map(|fuse| fuse.name.span)),
        File::Graph(_) => ("a graph", None),
    };
    let start = Span {
        file: id,
        start: 0,
        end: 0,
    };
    let message = format!("`{}` holds {what}, not a graph", map.file(id).path);
    Diagnostic::error(codes::WRONG_FILE, message)
        .at(place.unwrap_or(start), "")
        .help("name a file that starts with `Graph(`; files like this one are for `include`")
}

fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a Name>, problems: &mut Diagnostics) {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    for name in names {
        if let Some(first) = seen.get(name.value.as_str()) {
            let message = format!("two {kind}s are called `{}`", name.value);
            problems.push(
                Diagnostic::error(codes::DUPLICATE_NAME, message)
                    .at(name.span, "again here")
                    .at(*first, "first here")
                    .help("rename one of them, or include only one of the two files"),
            );
        } else {
            seen.insert(&name.value, name.span);
        }
    }
}

/// `path` as named in the file `from`, relative to the root folder, with `.` and `..` resolved. `None` if it
/// leaves the root folder or is absolute.
pub fn normalise(from: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains('\\') {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
