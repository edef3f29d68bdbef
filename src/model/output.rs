//! Embeddings as text or as a NumPy file.
//!
//! In: embeddings in order. Out: bytes. JSON and text are one line for each; NumPy's header holds the number of
//! rows, which is known at the end only, so its room is kept at the start and filled in last. That needs a
//! seekable sink; a pipe gets a copy of a temporary file, so that memory stays constant.

use std::io::{self, Read as _, Seek, SeekFrom, Write};

/// How embeddings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON array of numbers a line.
    Json,
    /// One NumPy array of shape (inputs, width), little-endian f32.
    Npy,
    /// Numbers separated by spaces, one line for each embedding.
    Text,
}

/// Bytes of the header of a NumPy file: magic, version, length and the padded description. Large enough for any
/// two numbers, and a multiple of 64 as the format wants.
const NPY_HEADER: usize = 128;

/// Writes embeddings line by line.
pub fn write_line(out: &mut dyn Write, format: Format, embedding: &[f32]) -> io::Result<()> {
    let (open, between, close) = match format {
        Format::Json => ("[", ",", "]\n"),
        Format::Text => ("", " ", "\n"),
        Format::Npy => {
            return embedding
                .iter()
                .try_for_each(|value| out.write_all(&value.to_le_bytes()));
        }
    };
    out.write_all(open.as_bytes())?;
    for (index, value) in embedding.iter().enumerate() {
        if index > 0 {
            out.write_all(between.as_bytes())?;
        }
        // The shortest digits that give the same f32 again.
        serde_json::to_writer(&mut *out, value)?;
    }
    out.write_all(close.as_bytes())
}

/// A NumPy file that grows row by row.
pub struct Npy<F: Write + Seek> {
    file: io::BufWriter<F>,
    rows: u64,
    width: Option<usize>,
}

impl<F: Write + Seek> Npy<F> {
    /// Starts at the beginning of `file`, which is empty.
    pub fn new(file: F) -> io::Result<Self> {
        let mut file = io::BufWriter::new(file);
        file.write_all(&[0; NPY_HEADER])?;
        Ok(Self {
            file,
            rows: 0,
            width: None,
        })
    }

    /// Adds a row. All have the same width.
    pub fn push(&mut self, embedding: &[f32]) -> io::Result<()> {
        if *self.width.get_or_insert(embedding.len()) != embedding.len() {
            return Err(io::Error::other(
                "embeddings of different widths do not make an array",
            ));
        }
        self.rows += 1;
        write_line(&mut self.file, Format::Npy, embedding)
    }

    /// Fills in the header and gives the file back, at its end.
    pub fn finish(mut self) -> io::Result<F> {
        let header = npy_header(self.rows, self.width.unwrap_or(0));
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)?;
        self.file.seek(SeekFrom::End(0))?;
        self.file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
    }
}

/// NumPy format 1.0: magic, version, length of the rest as u16, a Python dict padded with spaces to a newline.
fn npy_header(rows: u64, width: usize) -> [u8; NPY_HEADER] {
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut header = [b' '; NPY_HEADER];
    header[..6].copy_from_slice(b"\x93NUMPY");
    header[6..8].copy_from_slice(&[1, 0]);
    header[8..10].copy_from_slice(&((NPY_HEADER - 10) as u16).to_le_bytes());
    // 58 characters and two numbers of at most 20 digits each: it always fits.
    header[10..]
        .iter_mut()
        .zip(dict.bytes())
        .for_each(|(place, byte)| *place = byte);
    header[NPY_HEADER - 1] = b'\n';
    header
}

/// Copies a finished temporary file to a sink that cannot seek.
pub fn copy_from_start(file: &mut std::fs::File, out: &mut dyn Write) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut part = vec![0; 1 << 16];
    loop {
        match file.read(&mut part)? {
            0 => return out.flush(),
            count => out.write_all(&part[..count])?,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn line(format: Format) -> String {
        let mut out = vec![];
        write_line(&mut out, format, &[0.1, -2.0, 1e-20]).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        assert_eq!(line(Format::Json), "[0.1,-2.0,1e-20]\n");
        assert_eq!(line(Format::Text), "0.1 -2.0 1e-20\n");
        let back: Vec<f32> = serde_json::from_str(&line(Format::Json)).unwrap();
        assert_eq!(back, [0.1, -2.0, 1e-20]);
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let mut npy = Npy::new(io::Cursor::new(vec![])).unwrap();
        npy.push(&[1.0, 2.0, 3.0]).unwrap();
        assert!(npy.push(&[1.0]).is_err());
    }

    #[test]
    fn numpy_file_bytes() {
        let mut npy = Npy::new(io::Cursor::new(vec![])).unwrap();
        npy.push(&[1.0, 2.0, 3.0]).unwrap();
        npy.push(&[4.0, 5.0, 6.0]).unwrap();
        let bytes = npy.finish().unwrap().into_inner();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let dict = std::str::from_utf8(&bytes[10..NPY_HEADER]).unwrap();
        assert!(dict.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  "));
        assert!(dict.ends_with(" \n"));
        let values: Vec<f32> = bytes[NPY_HEADER..]
            .chunks(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn the_largest_numbers_fit_the_numpy_header() {
        let header = npy_header(u64::MAX, usize::MAX);
        assert!(header.windows(4).any(|part| part == b"), }") && header.ends_with(b" \n"));
    }
}
