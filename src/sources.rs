//! Texts from a folder on disk. What comes in is a path below the root, what goes out its text or the reason why
//! not. Nothing above the root can be named, only regular files are opened, and a file past the cap is refused
//! after at most that many bytes.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::span::{SourceError, Sources};

/// The largest text that is read, in bytes. Kernel manifests and shaders are smaller still.
pub const MAX_TEXT_BYTES: u64 = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Reads below a folder.
#[derive(Clone, Debug)]
pub struct FsSources {
    root: PathBuf,
    absolute: bool,
}

impl FsSources {
    /// Reads below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            absolute: false,
        }
    }

    /// Lets absolute paths through as well: for a graph file that the user named outside the root, whose includes
    /// then are absolute, too.
    pub fn with_absolute(mut self) -> Self {
        self.absolute = true;
        self
    }

    /// The folder it reads below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn locate(&self, path: &str) -> Result<PathBuf, SourceError> {
        let refuse = |reason: &str| Err(error(path, reason));
        if path.split('/').any(|part| part == "..") {
            return refuse("the path leaves the root folder");
        }
        if path.contains('\0') {
            return refuse("the path holds a zero byte");
        }
        if Path::new(path).is_absolute() {
            return if self.absolute {
                Ok(PathBuf::from(path))
            } else {
                refuse("the path is absolute")
            };
        }
        Ok(self.root.join(path))
    }
}

fn error(path: &str, reason: impl Into<String>) -> SourceError {
    SourceError {
        path: path.into(),
        reason: reason.into(),
    }
}

/// The system's words without its error number, and without its capital letter.
fn said(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => cause.to_string(),
    }
}

impl Sources for FsSources {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        let place = self.locate(path)?;
        let io = |cause: std::io::Error| error(path, said(&cause));
        // Opening a pipe would block, so look before opening.
        if !std::fs::metadata(&place).map_err(io)?.is_file() {
            return Err(error(path, "not a file"));
        }
        let mut bytes = Vec::new();
        File::open(&place)
            .and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io)?;
        if bytes.len() as u64 > MAX_TEXT_BYTES {
            return Err(error(path, format!("larger than {MAX_TEXT_BYTES} bytes")));
        }
        // The mark that some editors put in front says nothing in UTF-8.
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        String::from_utf8(bytes).map_err(|cause| {
            let at = cause.utf8_error().valid_up_to();
            error(path, format!("not UTF-8 text (byte {at})"))
        })
    }

    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        let place = self.locate(path)?;
        let io = |cause: std::io::Error| error(path, said(&cause));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&place).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.ends_with(".ron")) {
                found.push(format!("{path}/{name}"));
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn folder() -> (tempfile::TempDir, FsSources) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("graphs")).unwrap();
        std::fs::write(root.join("graphs/b.ron"), "b").unwrap();
        std::fs::write(root.join("graphs/a.ron"), "a").unwrap();
        std::fs::write(root.join("graphs/readme.md"), "").unwrap();
        std::fs::write(root.join("graphs/latin.ron"), [b'x', 0xe9]).unwrap();
        std::fs::write(root.join("graphs/big.ron"), vec![b' '; 1 + (1 << 20)]).unwrap();
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        (folder, FsSources::new(root))
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        let (_keep, sources) = folder();
        std::fs::write(sources.root().join("marked.ron"), "\u{feff}Graph()").unwrap();
        assert_eq!(sources.read("marked.ron").unwrap(), "Graph()");
    }

    #[test]
    fn reads_and_lists_below_the_root() {
        let (_folder, sources) = folder();
        assert_eq!(sources.read("graphs/a.ron").unwrap(), "a");
        assert_eq!(
            sources.list("graphs").unwrap()[..2],
            ["graphs/a.ron".to_string(), "graphs/b.ron".to_string()]
        );
    }

    #[test]
    fn refuses_what_it_must_not_read() {
        let (folder, sources) = folder();
        let secret = folder.path().join("secret");
        for (path, reason) in [
            ("../secret", "leaves the root"),
            ("graphs/../../secret", "leaves the root"),
            (secret.to_str().unwrap(), "absolute"),
            ("graphs", "not a file"),
            ("graphs/latin.ron", "not UTF-8 text (byte 1)"),
            ("graphs/big.ron", "larger than"),
            ("graphs/none.ron", "no such file"),
            ("graphs/a.ron\0", "zero byte"),
        ] {
            let said = sources.read(path).unwrap_err().reason;
            assert!(said.contains(reason), "{path}: {said}");
        }
        let absolute = sources.with_absolute();
        assert_eq!(absolute.read(secret.to_str().unwrap()).unwrap(), "s");
    }
}
