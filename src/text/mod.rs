//! Stage 1: RON text to syntax. What comes out is [`ast`] with a span on every name and expression; nothing is
//! resolved. Files are only reached through [`crate::span::Sources`].
//!
//! [`load()`] reads a graph and what it includes, [`parse()`] one file, [`print()`] writes a file in its canonical
//! form.

pub mod ast;
mod load;
mod parse;
pub(crate) mod place;
mod print;
mod tokens;

pub use load::{Loaded, load, normalise};
pub(crate) use parse::read;
pub use parse::{MAX_FILE_BYTES, options, parse};
pub use print::print;
