//! The few things a graph cannot say: how text becomes token ids, which shapes are worth compiling, and how a
//! stream of texts is cut into batches for them.

pub mod bpe;
pub mod bucket;
pub mod chat;
pub mod detokenize;
pub mod embed;
mod flatten;
pub mod generate;
#[cfg(feature = "gpu")]
pub mod generate_runner;
pub mod gguf;
pub mod hub;
pub mod metadata;
pub mod output;
pub mod replay;
pub mod rows;
#[cfg(feature = "gpu")]
pub mod runner;
pub mod score;
pub mod sequence;
pub mod spm;
pub mod text_tokenizer;
pub mod texts;
pub mod token_table;
pub mod tokenizer;
