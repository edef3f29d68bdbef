//! `graphc fmt`: graph files in their canonical form.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use graphc::diag::Diagnostics;
use graphc::span::{SourceMap, Sources as _};
use graphc::text;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Folders of the root that hold graph files.
const FOLDERS: [&str; 3] = ["graphs/models", "graphs/blocks", "graphs/fusions"];

/// Arguments of `fmt`.
#[derive(clap::Args)]
pub struct Args {
    /// Graph, block or fusion files; `-` reads standard input; none means all under `graphs/`
    #[arg(value_name = "FILE.ron")]
    files: Vec<PathBuf>,
    /// Change nothing; name the files that would change and exit with 1 if there are any
    #[arg(long)]
    check: bool,
}

/// Formats files in place.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if args.files == [Path::new("-")] {
        return standard_input(args.check);
    }
    let files = if args.files.is_empty() {
        all_files(context)?
    } else {
        args.files
    };
    let mut map = SourceMap::default();
    let mut problems = Diagnostics::default();
    let mut changed = Vec::new();
    for file in &files {
        let text = read(file)?;
        let id = map.add(file.display().to_string(), text);
        match text::print(id, &map) {
            Err(found) => problems.extend(found),
            Ok(printed) if printed == map.file(id).text => {}
            Ok(printed) => changed.push((file, printed)),
        }
    }
    if !args.check {
        for (file, printed) in &changed {
            output::write(file, printed.as_bytes())?;
        }
    }
    if problems.has_errors() {
        return Err(Failure::Diagnosed(problems, map));
    }
    if args.check && !changed.is_empty() {
        let lines: Vec<String> = changed
            .iter()
            .map(|(file, _)| format!("{}\n", file.display()))
            .collect();
        output::print(&lines.concat())?;
        return Err(Failure::failed(format!(
            "{} of {} files are not formatted; run `graphc fmt`",
            changed.len(),
            files.len()
        )));
    }
    let noun = if files.len() == 1 { "file" } else { "files" };
    context.say(&format!(
        "{} {noun}, {} changed",
        files.len(),
        changed.len()
    ));
    Ok(())
}

fn standard_input(check: bool) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    let cap = text::MAX_FILE_BYTES as u64 + 1;
    std::io::stdin().take(cap).read_to_end(&mut bytes)?;
    let given = String::from_utf8(bytes)
        .map_err(|_| Failure::bad_input("standard input is not UTF-8 text"))?;
    let mut map = SourceMap::default();
    let id = map.add("<stdin>", given);
    match text::print(id, &map) {
        Err(problems) => Err(Failure::Diagnosed(problems, map)),
        Ok(printed) if check && printed != map.file(id).text => {
            Err(Failure::failed("standard input is not formatted"))
        }
        Ok(_) if check => Ok(()),
        Ok(printed) => output::print(&printed),
    }
}

fn all_files(context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let sources = context.sources()?;
    let mut files = Vec::new();
    for folder in FOLDERS {
        if sources.root().join(folder).is_dir() {
            let found = sources.list(folder).map_err(Failure::bad_input)?;
            files.extend(found.iter().map(|path| sources.root().join(path)));
        }
    }
    Ok(files)
}

/// A file named on the command line, with the same cap as every other source.
fn read(file: &Path) -> Result<String, Failure> {
    let unreadable =
        |reason: String| Failure::bad_input(format!("cannot read `{}`: {reason}", file.display()));
    let there = file
        .canonicalize()
        .map_err(|error| unreadable(error.to_string()))?;
    let path = there
        .to_str()
        .ok_or_else(|| unreadable("the path is not UTF-8".into()))?;
    graphc::sources::FsSources::new("/")
        .with_absolute()
        .read(path)
        .map_err(|error| unreadable(error.reason))
}
