//! Results: to standard output, to a device or a pipe, or to a file that is either complete or untouched.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Writes to standard output; a reader that has gone is not an error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same for bytes.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = standard_output();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes a result as [`Place::of`] says; `-` is standard output.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    match Place::of(Some(path))? {
        Place::Stream(mut out) => {
            out.write_all(bytes)?;
            Ok(out.flush()?)
        }
        Place::Aside(mut aside) => {
            aside.write_all(bytes)?;
            aside.keep()
        }
    }
}

/// Says before the work, and not behind it, that a result could not be written there.
#[cfg(feature = "gpu")]
pub fn writable(path: &Path) -> Result<(), Failure> {
    Place::of(Some(path)).map(drop)
}

/// Where a result goes.
pub enum Place {
    /// Standard output, a device or a pipe: what is written is gone.
    Stream(Box<dyn Write>),
    /// A file that becomes the named one at the end.
    Aside(Aside),
}

impl Place {
    /// Standard output for no path and for `-`; a device or pipe itself; else a new file in the same folder, so that
    /// a full disk or an interruption leaves no half of the result. A symbolic link stays, and its target changes.
    pub fn of(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(Self::Stream(Box::new(standard_output())));
        };
        let failed = |error| Failure::from(named(&path.display().to_string(), error));
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let inner = std::fs::File::options().write(true).open(path);
            let name = path.display().to_string();
            return Ok(Self::Stream(Box::new(Named {
                inner: inner.map_err(failed)?,
                name,
            })));
        }
        Aside::new(path).map(Self::Aside).map_err(failed)
    }
}

fn standard_output() -> Named<io::Stdout> {
    Named {
        inner: io::stdout(),
        name: "standard output".into(),
    }
}

/// A file in the folder of its target, which [`Aside::keep`] replaces by it.
pub struct Aside {
    file: Named<NamedTempFile>,
    target: PathBuf,
}

impl Aside {
    fn new(path: &Path) -> io::Result<Self> {
        let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            let reason = format!("there is no folder `{}`", folder.display());
            return Err(io::Error::new(ErrorKind::NotFound, reason));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".graphc-");
        let permissions = match std::fs::metadata(&target) {
            Ok(existing) => Some(existing.permissions()),
            Err(_) => default_permissions(),
        };
        if let Some(permissions) = permissions {
            builder.permissions(permissions);
        }
        let file = builder.tempfile_in(folder).map_err(without_path)?;
        remove_when_interrupted(file.path());
        let name = path.display().to_string();
        Ok(Self {
            file: Named { inner: file, name },
            target,
        })
    }

    /// Makes it the named file.
    pub fn keep(self) -> Result<(), Failure> {
        let Named { inner: file, name } = self.file;
        file.as_file()
            .sync_all()
            .map_err(|error| named(&name, error))?;
        file.persist(&self.target)
            .map_err(|error| named(&name, error.error))?;
        Ok(())
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Aside {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.inner.seek(to)
    }
}

/// A writer whose errors say where it writes.
struct Named<W> {
    inner: W,
    name: String,
}

impl<W: Write> Write for Named<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        written.map_err(|error| named(&self.name, error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        flushed.map_err(|error| named(&self.name, error))
    }
}

/// The kind stays, since some kinds are no errors: a write that was interrupted, a reader that has gone.
fn named(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write `{name}`: {error}"))
}

/// The name of a temporary file means nothing to anybody.
fn without_path(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ (ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::StorageFull) => kind.into(),
        _ => error,
    }
}

/// Temporary files are private by default; a result is as readable as any other new file.
#[cfg(unix)]
fn default_permissions() -> Option<std::fs::Permissions> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(std::fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn default_permissions() -> Option<std::fs::Permissions> {
    None
}

/// Files that an interruption must take along. One that was kept is no longer there under this name.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn remove_when_interrupted(path: &Path) {
    static WATCH: Once = Once::new();
    WATCH.call_once(watch);
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    unfinished.insert(path.to_path_buf());
}

/// Starts a thread that waits for the signals that end a program, tidies up and lets them end it.
#[cfg(unix)]
fn watch() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    // Without the thread, or with a signal that is ignored, everything else still works.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]) else {
        return;
    };
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            let unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
            for path in unfinished.iter() {
                let _ = std::fs::remove_file(path);
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    let _ = std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait);
}

#[cfg(not(unix))]
fn watch() {}
