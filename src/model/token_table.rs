//! The tokens of a language model as a GGUF file lists them, checked.
//!
//! In: a [`Vocabulary`], the lists and switches of `tokenizer.ggml.*` as they stand in the file. Out: a [`TokenTable`].
//! What always holds: the lists have one length, every id that the file names is a token, scores are numbers, and
//! each merge makes a token out of two tokens. Nothing behind this module looks an id up unchecked.

use std::collections::HashMap;

use super::gguf::Vocabulary;
use super::tokenizer::TokenizerError;

/// The most tokens of a vocabulary; the largest in use have 262,208.
pub const MAX_TOKENS: usize = 1 << 22;

/// What a token is for. The numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what no other token can express.
    Unknown,
    /// Steers the model and is no text: start, end, turns.
    Control,
    /// A piece of text that is never split and never merged.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte.
    Byte,
}

impl TokenKind {
    /// From the number in a file.
    pub fn of(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// The rules by which text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SentencePiece: the best-scored neighbours merge first, bytes stand in for unknown characters.
    Spm,
    /// Byte-pair encoding over words that a pattern cuts.
    Bpe,
}

/// The tokens of a model.
#[derive(Debug)]
pub struct TokenTable {
    /// The rules.
    pub family: Family,
    /// Name of the pattern that cuts words, for [`Family::Bpe`].
    pub pre: String,
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<TokenKind>,
    ids: HashMap<String, u32>,
    /// Pairs that merge, best first.
    pub merges: Vec<(String, String)>,
    /// Begins every text, if there is one.
    pub bos: Option<u32>,
    /// Stands for what cannot be expressed.
    pub unknown: Option<u32>,
    /// Whether `bos` is put before a prompt.
    pub add_bos: bool,
    /// Put after a prompt, for the few models that ask for it.
    pub eos_after: Option<u32>,
    /// Whether a text begins with a space that it does not have.
    pub add_space_prefix: bool,
    /// After one of these the text is complete.
    pub stops: Vec<u32>,
}

/// Tokens that end a turn or a text in the models that have them, whatever their file says about ends.
pub(super) const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<turn|>",
    "<|return|>",
    "<eos>",
];

impl TokenTable {
    /// Checks what a file says.
    pub fn new(parts: &Vocabulary<'_>) -> Result<Self, TokenizerError> {
        let family = match parts.model {
            "llama" => Family::Spm,
            "gpt2" => Family::Bpe,
            other => {
                return Err(fault(format!(
                    "`tokenizer.ggml.model` is `{other}`; `llama` (SentencePiece) and `gpt2` (byte-pair encoding) \
                     can be used"
                )));
            }
        };
        let count = parts.tokens.len();
        if count == 0 || count > MAX_TOKENS {
            return Err(fault(format!(
                "`tokenizer.ggml.tokens` has {count} tokens; 1 to {MAX_TOKENS} can be used"
            )));
        }
        let kinds = kinds(parts.kinds.as_deref(), count)?;
        let scores = scores(parts.scores.as_deref(), family, count)?;
        let owned = |text: &&str| (*text).to_string();
        let ids: HashMap<String, u32> = parts.tokens.iter().map(owned).zip(0..).collect();
        for (key, id) in [
            ("bos", parts.bos),
            ("eos", parts.eos),
            ("eot", parts.eot),
            ("unknown", parts.unk),
        ] {
            if let Some(id) = id.filter(|id| *id as usize >= count) {
                return Err(fault(format!(
                    "`tokenizer.ggml.{key}_token_id` is {id}, and the vocabulary has {count} tokens"
                )));
            }
        }
        let mut stops: Vec<u32> = parts.eos.into_iter().chain(parts.eot).collect();
        let special = |id: &u32| kinds[*id as usize] != TokenKind::Normal;
        stops.extend(
            ENDS.iter()
                .filter_map(|text| ids.get(*text).copied())
                .filter(special),
        );
        stops.sort_unstable();
        stops.dedup();
        let merges = match family {
            Family::Spm => vec![],
            Family::Bpe => merges(&parts.merges, &ids)?,
        };
        let spm = family == Family::Spm;
        Ok(Self {
            family,
            pre: parts.pre.unwrap_or_default().to_string(),
            scores,
            kinds,
            merges,
            bos: parts.bos,
            unknown: parts.unk,
            // llama.cpp's defaults where a file says nothing.
            add_bos: parts.bos.is_some() && parts.add_bos.unwrap_or(spm),
            eos_after: parts.eos.filter(|_| parts.add_eos == Some(true)),
            add_space_prefix: spm && parts.add_space_prefix.unwrap_or(true),
            stops,
            ids,
            tokens: parts.tokens.iter().map(owned).collect(),
        })
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: a vocabulary without tokens is refused.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id of a token.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The text of a token, as the file has it.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// What a token is for.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// The score of a token; higher ones merge first.
    pub fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// The tokens with their ids.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(self.tokens.iter().map(String::as_str))
    }
}

/// A fault of the metadata.
pub(super) fn fault(reason: String) -> TokenizerError {
    TokenizerError::Metadata(reason)
}

fn kinds(numbers: Option<&[i32]>, count: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    let Some(numbers) = numbers else {
        return Ok(vec![TokenKind::Normal; count]);
    };
    same_length("token_type", numbers.len(), count)?;
    let kind = |(at, number): (usize, &i32)| {
        TokenKind::of(*number).ok_or_else(|| {
            fault(format!(
                "`tokenizer.ggml.token_type` {at} is {number}; there are the types 1 to 6"
            ))
        })
    };
    numbers.iter().enumerate().map(kind).collect()
}

fn scores(
    scores: Option<&[f32]>,
    family: Family,
    count: usize,
) -> Result<Vec<f32>, TokenizerError> {
    if family == Family::Bpe {
        return Ok(vec![]);
    }
    let scores = scores.unwrap_or_default();
    same_length("scores", scores.len(), count)?;
    match scores.iter().position(|score| score.is_nan()) {
        Some(at) => Err(fault(format!(
            "`tokenizer.ggml.scores` {at} is not a number"
        ))),
        None => Ok(scores.to_vec()),
    }
}

fn same_length(list: &str, length: usize, count: usize) -> Result<(), TokenizerError> {
    if length == count {
        return Ok(());
    }
    Err(fault(format!(
        "`tokenizer.ggml.{list}` has {length} items for {count} tokens"
    )))
}

fn merges(
    lines: &[&str],
    ids: &HashMap<String, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut joined = String::new();
    let pair = |(at, line): (usize, &&str)| {
        let bad = |what: &str| fault(format!("`tokenizer.ggml.merges` {at} (`{line}`) {what}"));
        // The first character belongs to the left token even if it is a space.
        let first = line.chars().next().map_or(0, char::len_utf8);
        let space = line[first..]
            .find(' ')
            .ok_or_else(|| bad("has no space between two tokens"))?
            + first;
        let (left, right) = (&line[..space], &line[space + 1..]);
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for part in [left, right, &joined] {
            if !ids.contains_key(part) {
                return Err(bad(&format!(
                    "needs the token `{part}`, which is not there"
                )));
            }
        }
        Ok((left.to_string(), right.to_string()))
    };
    lines.iter().enumerate().map(pair).collect()
}
