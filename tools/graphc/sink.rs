//! Where embeddings go: standard output, or a file that is complete or untouched.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use graphc::model::output::{Format, Npy, copy_from_start, write_line};

use crate::failure::Failure;
use crate::output::{Aside, Place};

/// An open sink.
pub struct Sink {
    kind: Kind,
    format: Format,
}

enum Kind {
    /// Lines to standard output, a device or a pipe.
    Lines(BufWriter<Box<dyn Write>>),
    /// Lines to a file beside its target.
    File(BufWriter<Aside>),
    /// An array in a file beside its target.
    Array(Npy<Aside>),
    /// An array whose header is not known yet, on its way to standard output, a device or a pipe.
    Spool(Npy<File>, Box<dyn Write>),
}

impl Sink {
    /// Opens it; no path and `-` are standard output.
    pub fn new(format: Format, target: Option<&Path>) -> Result<Self, Failure> {
        let kind = match (Place::of(target)?, format) {
            (Place::Stream(out), Format::Npy) => Kind::Spool(Npy::new(tempfile::tempfile()?)?, out),
            (Place::Stream(out), _) => Kind::Lines(BufWriter::with_capacity(1 << 16, out)),
            (Place::Aside(aside), Format::Npy) => Kind::Array(Npy::new(aside)?),
            (Place::Aside(aside), _) => Kind::File(BufWriter::new(aside)),
        };
        Ok(Self { kind, format })
    }

    /// Adds an embedding.
    pub fn push(&mut self, embedding: &[f32]) -> io::Result<()> {
        match &mut self.kind {
            Kind::Lines(out) => write_line(out, self.format, embedding),
            Kind::File(out) => write_line(out, self.format, embedding),
            Kind::Array(npy) => npy.push(embedding),
            Kind::Spool(npy, _) => npy.push(embedding),
        }
    }

    /// Ends it. After a failure lines that are due still go to standard output, but no file appears and no array
    /// is written.
    pub fn finish(self, success: bool) -> Result<(), Failure> {
        match self.kind {
            Kind::Lines(mut out) => Ok(out.flush()?),
            _ if !success => Ok(()),
            Kind::Spool(npy, mut out) => {
                copy_from_start(&mut npy.finish()?, &mut out)?;
                Ok(out.flush()?)
            }
            Kind::File(out) => out
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .keep(),
            Kind::Array(npy) => npy.finish()?.keep(),
        }
    }
}
