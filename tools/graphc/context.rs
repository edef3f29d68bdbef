//! What every command shares: where graphs, shaders and profiles are, where the cache is, how to talk.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use graphc::diag::Diagnostics;
use graphc::profile;
use graphc::sources::FsSources;
use graphc::span::SourceMap;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// Flags of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder with `graphs/`, `shaders/` and `profiles/` [default: searched from here upwards]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GRAPHC_ROOT",
        hide_env_values = true
    )]
    root: Option<PathBuf>,
    /// Folder for built shaders, packed weights and pipelines [default: the user's cache folder]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GRAPHC_CACHE_DIR",
        hide_env_values = true
    )]
    cache_dir: Option<PathBuf>,
    /// Longest wait for a result of the device before it counts as an error
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 120,
        env = "GRAPHC_TIMEOUT",
        hide_env_values = true,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    // A build without a device takes the flag as well, so that scripts need not know.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    timeout: u32,
    /// When to colour messages; NO_COLOR switches colours off, too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// No progress bars and no summaries on standard error
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// What every command shares.
pub struct Context {
    root: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    /// Whether messages on standard error have colours.
    pub color: bool,
    /// Whether to say only what was asked for and errors.
    pub quiet: bool,
    /// The longest wait for a result of the device.
    #[cfg(feature = "gpu")]
    pub timeout: std::time::Duration,
    /// Tracy, if the command listens for it.
    #[cfg(feature = "gpu")]
    pub listening: crate::tracy::Listening,
}

impl Context {
    /// From the flags and the environment.
    pub fn new(global: &Global) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal()
                    && !set("NO_COLOR")
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Self {
            root: global.root.clone().or_else(find_root),
            cache_dir: global.cache_dir.clone().or_else(user_cache),
            color,
            quiet: global.quiet,
            #[cfg(feature = "gpu")]
            timeout: std::time::Duration::from_secs(global.timeout.into()),
            #[cfg(feature = "gpu")]
            listening: Default::default(),
        }
    }

    /// The folder with `graphs/`, `shaders/` and `profiles/`.
    pub fn root(&self) -> Result<&Path, Failure> {
        let root = self.root.as_deref().ok_or_else(|| {
            Failure::bad_input(
                "no folder with `graphs/` and `shaders/` found from here upwards or beside graphc; \
                 name one with --root or GRAPHC_ROOT",
            )
        })?;
        // A folder that was named may hold kernels only, and the graph stand elsewhere.
        if root.join("shaders").is_dir() {
            Ok(root)
        } else {
            Err(Failure::bad_input(format!(
                "`{}` has no folder `shaders/`; name another root with --root or GRAPHC_ROOT",
                root.display()
            )))
        }
    }

    /// The folder for what can be made again, created if missing.
    pub fn cache_dir(&self) -> Result<&Path, Failure> {
        let folder = self.cache_dir.as_deref().ok_or_else(|| {
            Failure::bad_input(
                "no home folder for the cache; name one with --cache-dir or GRAPHC_CACHE_DIR",
            )
        })?;
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::failed(format!(
                "cannot make the cache folder `{}`: {error}",
                folder.display()
            ))
        })?;
        Ok(folder)
    }

    /// The reader of graphs, shaders and profiles.
    pub fn sources(&self) -> Result<FsSources, Failure> {
        Ok(FsSources::new(self.root()?))
    }

    /// A reader, and the path in it of a graph file named on the command line: relative to the current folder or,
    /// if it is not there, to the root.
    pub fn graph(&self, file: &Path) -> Result<(FsSources, String), Failure> {
        let sources = self.sources()?;
        let root = sources.root().canonicalize()?;
        let there = match file.canonicalize() {
            Ok(there) => there,
            Err(_) => match root.join(file).canonicalize() {
                Ok(there) => there,
                Err(error) => {
                    let shown = file.display();
                    return Err(Failure::bad_input(format!(
                        "cannot read `{shown}`: {error}"
                    )));
                }
            },
        };
        let below = there.strip_prefix(&root).ok().and_then(Path::to_str);
        match (below, there.to_str()) {
            (Some(below), _) => Ok((sources, below.replace('\\', "/"))),
            (None, Some(absolute)) => Ok((sources.with_absolute(), absolute.to_string())),
            (None, None) => Err(Failure::bad_input(format!(
                "`{}` is not UTF-8",
                file.display()
            ))),
        }
    }

    /// A reader, and what in it is the device profile that was named on the command line: the name of one in the
    /// root, or the path of a file as in [`Context::graph`].
    pub fn profile(&self, named: &str) -> Result<(FsSources, String), Failure> {
        if !profile::is_path(named) {
            return Ok((self.sources()?, named.to_string()));
        }
        let (sources, path) = self.graph(Path::new(named))?;
        // A file of the root itself must not be read as a name.
        let path = if profile::is_path(&path) {
            path
        } else {
            format!("./{path}")
        };
        Ok((sources, path))
    }

    /// One error message as a line for standard error.
    pub fn error_line(&self, message: &str) -> String {
        if self.color {
            format!("\u{1b}[1;31merror\u{1b}[0m: {message}\n")
        } else {
            format!("error: {message}\n")
        }
    }

    /// Says something on standard error that is not the result and not an error.
    pub fn say(&self, message: &str) {
        if !self.quiet {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// Shows warnings on standard error.
    pub fn warn(&self, warnings: &Diagnostics, map: &SourceMap) {
        if !self.quiet && !warnings.items().is_empty() {
            use std::io::Write as _;
            let _ = std::io::stderr().write_all(warnings.render(map, self.color).as_bytes());
        }
    }

    /// A progress bar over `total` steps on a terminal, an invisible one elsewhere.
    #[allow(dead_code)]
    pub fn bar(&self, total: u64, what: &str) -> ProgressBar {
        self.progress(total, what, "{msg} [{bar:30}] {pos}/{len} {eta}")
    }

    /// A progress bar over `total` bytes.
    #[allow(dead_code)]
    pub fn byte_bar(&self, total: u64, what: &str) -> ProgressBar {
        self.progress(total, what, "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
    }

    fn progress(&self, total: u64, what: &str, template: &str) -> ProgressBar {
        let target = if self.quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        // A template that did not parse would only look plainer.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_string());
        bar
    }
}

fn is_root(folder: &Path) -> bool {
    folder.join("graphs").is_dir() && folder.join("shaders").is_dir()
}

/// The current folder or one above it, else beside the executable or above that, else where graphc was built.
fn find_root() -> Option<PathBuf> {
    let above = |start: Option<PathBuf>| {
        start.and_then(|start| {
            start
                .ancestors()
                .find(|folder| is_root(folder))
                .map(Path::to_path_buf)
        })
    };
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    above(std::env::current_dir().ok())
        .or_else(|| above(std::env::current_exe().ok()))
        .or_else(|| is_root(&built).then_some(built))
}

fn user_cache() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("LOCALAPPDATA"))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("graphc"))
}
