//! Where embeddings go: standard output, or a file that is complete or untouched.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use graphc::model::output::{Format, Npy, copy_from_start, write_line};
use tempfile::NamedTempFile;

use crate::failure::Failure;

/// An open sink.
pub struct Sink {
    kind: Kind,
    format: Format,
    target: Option<PathBuf>,
}

enum Kind {
    /// Lines to standard output.
    Lines(BufWriter<io::Stdout>),
    /// Lines to a file beside its target.
    File(BufWriter<NamedTempFile>),
    /// An array in a file beside its target.
    Array(Npy<NamedTempFile>),
    /// An array whose header is not known yet, on its way to standard output.
    Spool(Npy<File>),
}

impl Sink {
    /// Opens it; `-` is standard output.
    pub fn new(format: Format, target: Option<PathBuf>) -> Result<Self, Failure> {
        let target = target.filter(|path| path.as_os_str() != "-");
        let kind = match (&target, format) {
            (None, Format::Npy) => Kind::Spool(Npy::new(tempfile::tempfile()?)?),
            (None, _) => Kind::Lines(BufWriter::with_capacity(1 << 16, io::stdout())),
            (Some(path), Format::Npy) => Kind::Array(Npy::new(beside(path)?)?),
            (Some(path), _) => Kind::File(BufWriter::new(beside(path)?)),
        };
        Ok(Self {
            kind,
            format,
            target,
        })
    }

    /// Adds an embedding.
    pub fn push(&mut self, embedding: &[f32]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Lines(out) => write_line(out, self.format, embedding),
            Kind::File(out) => write_line(out, self.format, embedding),
            Kind::Array(npy) => npy.push(embedding),
            Kind::Spool(npy) => npy.push(embedding),
        }
    }

    /// Ends it. After a failure lines that are due still go to standard output, but no file appears and no array
    /// is written.
    pub fn finish(self, success: bool) -> Result<(), Failure> {
        let file = match self.kind {
            Kind::Lines(mut out) => return Ok(out.flush()?),
            _ if !success => return Ok(()),
            Kind::Spool(npy) => {
                return Ok(copy_from_start(
                    &mut npy.finish()?,
                    &mut io::stdout().lock(),
                )?);
            }
            Kind::File(out) => out.into_inner().map_err(io::IntoInnerError::into_error)?,
            Kind::Array(npy) => npy.finish()?,
        };
        file.as_file().sync_all()?;
        let Some(target) = self.target else {
            return Ok(());
        };
        file.persist(&target).map_err(|error| {
            Failure::failed(format!(
                "cannot write `{}`: {}",
                target.display(),
                error.error
            ))
        })?;
        Ok(())
    }
}

/// A temporary file in the folder of `path`, as readable as a new file would be.
fn beside(path: &Path) -> Result<NamedTempFile, Failure> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    crate::output::aside(folder, path)
        .map_err(|error| Failure::failed(format!("cannot write `{}`: {error}", path.display())))
}
