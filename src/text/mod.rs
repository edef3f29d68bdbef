//! Stage 1: RON text to syntax. What comes out is [`ast`] with a span on every name and expression; nothing is
//! resolved. Files are only reached through [`crate::span::Sources`].

pub mod ast;
