//! Results: to standard output, or to a file that is either complete or untouched.

use std::io::Write as _;
use std::path::Path;

use crate::failure::Failure;

/// Writes to standard output; a reader that has gone is not an error.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same for bytes.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes a file aside and renames it, so that a full disk or an interruption leaves no half of it. `-` is
/// standard output; a device or pipe is written directly.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        return print_bytes(bytes);
    }
    let special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    let written = if special {
        std::fs::write(path, bytes)
    } else {
        write_aside(path, bytes)
    };
    written.map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display())))
}

fn write_aside(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Through a symbolic link, so that the link stays and its target changes.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut aside = aside(folder, path)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// A file in `folder` that is to become `path`, as readable as that one is or a new file would be.
pub fn aside(folder: &Path, path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".graphc-");
    let permissions = match std::fs::metadata(path) {
        Ok(existing) => Some(existing.permissions()),
        Err(_) => default_permissions(),
    };
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    builder.tempfile_in(folder)
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
