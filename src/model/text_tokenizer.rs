//! Text to token ids and back for models that write text.
//!
//! In: a text, with or without the model's special tokens spelled out in it. Out: ids, all of the vocabulary. The
//! rules come from a GGUF file ([`TokenTable`]) or from the `tokenizer.json` of a Hugging Face folder. What always
//! holds: nothing is cut and nothing is padded; without [`Special::Parsed`] no text can become a control token.
//!
//! Special tokens are cut out before the family's rules see the text, the longest ones first and each leftmost
//! first, as llama.cpp does it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::metadata::ModelMetadata;
use super::token_table::{ENDS, Family, TokenKind, TokenTable};
use super::tokenizer::{
    MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES, TokenizerError, broken, read_capped, read_settings,
};
use super::{bpe, spm};

/// What a control token that is spelled out in a text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The token: in prompts and templates.
    Parsed,
    /// The characters: in texts that are data.
    AsText,
}

/// A language model's tokenizer.
pub struct TextTokenizer {
    pub(super) rules: Rules,
    stops: Vec<u32>,
}

pub(super) enum Rules {
    /// Of a GGUF file.
    Listed(Box<Listed>),
    /// Of a `tokenizer.json`.
    File(Box<FileRules>),
}

pub(super) struct Listed {
    pub(super) vocabulary: TokenTable,
    specials: Specials,
    /// For [`Family::Bpe`].
    words: Option<tokenizers::Tokenizer>,
}

pub(super) struct FileRules {
    pub(super) inner: tokenizers::Tokenizer,
    /// The same without special tokens, made when it is needed.
    as_text: OnceLock<tokenizers::Tokenizer>,
    bos: Option<String>,
}

impl TextTokenizer {
    /// The one of a model: of its GGUF file, or of its folder.
    pub fn of(metadata: &ModelMetadata) -> Result<Self, TokenizerError> {
        let listed = metadata
            .vocabulary()
            .map_err(|error| TokenizerError::Metadata(error.to_string()))?;
        match listed {
            Some(vocabulary) => Self::listed(TokenTable::new(&vocabulary)?),
            None => Self::open(&metadata.folder),
        }
    }

    /// By the lists of a GGUF file.
    pub fn listed(vocabulary: TokenTable) -> Result<Self, TokenizerError> {
        let words = match vocabulary.family {
            Family::Bpe => Some(bpe::build(&vocabulary)?),
            Family::Spm => None,
        };
        Ok(Self {
            stops: vocabulary.stops.clone(),
            rules: Rules::Listed(Box::new(Listed {
                specials: Specials::of(&vocabulary),
                vocabulary,
                words,
            })),
        })
    }

    /// By `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` of a folder.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = read_capped(&path, MAX_TOKENIZER_BYTES)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| broken(&path, error.to_string()))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| broken(&path, error.to_string()))?;
        let (mut bos, mut stops) = (None, BTreeSet::new());
        if let Some((_, config)) = read_settings(folder, "tokenizer_config.json")? {
            bos = named(&config, "bos_token");
            stops.extend(named(&config, "eos_token").and_then(|text| inner.token_to_id(&text)));
        }
        if let Some((_, config)) = read_settings(folder, "generation_config.json")? {
            let ends = match config.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.iter().collect(),
                other => Vec::from_iter(other),
            };
            let ids = ends.into_iter().filter_map(Value::as_u64);
            stops.extend(ids.filter_map(|id| u32::try_from(id).ok()));
        }
        let added = inner.get_added_tokens_decoder();
        let end = |text: &&str| {
            let id = inner.token_to_id(text)?;
            added.contains_key(&id).then_some(id)
        };
        stops.extend(ENDS.iter().filter_map(end));
        Ok(Self {
            stops: stops.into_iter().collect(),
            rules: Rules::File(Box::new(FileRules {
                inner,
                as_text: OnceLock::new(),
                bos,
            })),
        })
    }

    /// The tokens after which a text is complete.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The text of the token that begins a prompt, for templates that spell it out.
    pub fn bos(&self) -> Option<&str> {
        match &self.rules {
            Rules::Listed(listed) => listed
                .vocabulary
                .bos
                .and_then(|id| listed.vocabulary.text(id)),
            Rules::File(file) => file.bos.as_deref(),
        }
    }

    /// The text of a token, special ones spelled out.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.rules {
            Rules::Listed(listed) => listed.vocabulary.text(id).map(str::to_string),
            Rules::File(file) => file.inner.id_to_token(id),
        }
    }

    /// The ids of `text`; with `add`, with what the model wants before and after every prompt. `rows` is the size
    /// of the model's embedding table, which the device indexes unchecked.
    pub fn encode(
        &self,
        text: &str,
        special: Special,
        add: bool,
        rows: u64,
    ) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            let reason = format!(
                "it is {} bytes long, and {MAX_TEXT_BYTES} are the most",
                text.len()
            );
            return Err(TokenizerError::Text { input: 1, reason });
        }
        let ids = match &self.rules {
            Rules::Listed(listed) => listed.encode(text, special, add),
            Rules::File(file) => file.encode(text, special, add),
        };
        let ids = ids.map_err(|error| TokenizerError::Text {
            input: 1,
            reason: error.to_string(),
        })?;
        match ids.iter().find(|id| u64::from(**id) >= rows) {
            Some(id) => Err(TokenizerError::Vocabulary {
                input: 1,
                id: *id,
                rows,
            }),
            None => Ok(ids),
        }
    }
}

impl Listed {
    fn encode(
        &self,
        text: &str,
        special: Special,
        add: bool,
    ) -> Result<Vec<u32>, tokenizers::Error> {
        let vocabulary = &self.vocabulary;
        let mut ids = vec![];
        if add && vocabulary.add_bos {
            ids.extend(vocabulary.bos);
        }
        // A space goes before the text's beginning and after each special token, where the family has that rule.
        let mut boundary = true;
        for part in self.specials.cut(text, special) {
            match part {
                Part::Token(id) => {
                    ids.push(id);
                    boundary = true;
                }
                Part::Text(range) => {
                    self.encode_part(&text[range], boundary, &mut ids)?;
                    boundary = false;
                }
            }
        }
        if add {
            ids.extend(vocabulary.eos_after);
        }
        Ok(ids)
    }

    fn encode_part(
        &self,
        text: &str,
        boundary: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), tokenizers::Error> {
        match &self.words {
            Some(words) => ids.extend_from_slice(words.encode_fast(text, false)?.get_ids()),
            None => {
                let prefix = if self.vocabulary.add_space_prefix && boundary {
                    " "
                } else {
                    ""
                };
                let escaped: String = prefix
                    .chars()
                    .chain(text.chars())
                    .map(|character| {
                        if character == ' ' {
                            spm::SPACE
                        } else {
                            character
                        }
                    })
                    .collect();
                spm::encode(&self.vocabulary, &escaped, ids);
            }
        }
        Ok(())
    }
}

impl FileRules {
    fn encode(
        &self,
        text: &str,
        special: Special,
        add: bool,
    ) -> Result<Vec<u32>, tokenizers::Error> {
        let inner = match special {
            Special::Parsed => &self.inner,
            Special::AsText => self.as_text.get_or_init(|| {
                let mut copy = self.inner.clone();
                copy.set_encode_special_tokens(true);
                copy
            }),
        };
        Ok(inner.encode_fast(text, add)?.get_ids().to_vec())
    }
}

/// A token that `tokenizer_config.json` names: a text, or an object with the text in `content`.
fn named(config: &Value, key: &str) -> Option<String> {
    let value = config.get(key)?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_string())
}

/// A part of a text.
enum Part {
    Text(Range<usize>),
    Token(u32),
}

/// The tokens that are cut out of a text before anything else.
struct Specials {
    /// Lengths in bytes and the ids of the tokens of that length by text, longest first.
    by_length: Vec<(usize, OfOneLength)>,
}

/// Tokens by their text.
type OfOneLength = BTreeMap<Vec<u8>, (u32, TokenKind)>;

impl Specials {
    fn of(vocabulary: &TokenTable) -> Self {
        let mut by_length = BTreeMap::<usize, OfOneLength>::new();
        for (id, text) in vocabulary.tokens() {
            let kind = vocabulary.kind(id).unwrap_or(TokenKind::Normal);
            let special = matches!(
                kind,
                TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown
            );
            if special && !text.is_empty() {
                let same = by_length.entry(text.len()).or_default();
                same.insert(text.as_bytes().to_vec(), (id, kind));
            }
        }
        Self {
            by_length: by_length.into_iter().rev().collect(),
        }
    }

    fn cut(&self, text: &str, special: Special) -> Vec<Part> {
        let mut parts = vec![];
        if !text.is_empty() {
            parts.push(Part::Text(0..text.len()));
        }
        for (length, tokens) in &self.by_length {
            if *length > text.len() {
                continue;
            }
            let wanted = |kind| special == Special::Parsed || kind == TokenKind::UserDefined;
            let find = |bytes: &[u8]| {
                tokens
                    .get(bytes)
                    .filter(|(_, kind)| wanted(*kind))
                    .map(|(id, _)| *id)
            };
            parts = parts
                .into_iter()
                .flat_map(|part| match part {
                    Part::Token(id) => vec![Part::Token(id)],
                    Part::Text(range) => cut_one(text, range, *length, &find),
                })
                .collect();
        }
        parts
    }
}

/// Cuts the tokens of one length out of a part, leftmost first.
fn cut_one(
    text: &str,
    range: Range<usize>,
    length: usize,
    find: &dyn Fn(&[u8]) -> Option<u32>,
) -> Vec<Part> {
    let bytes = text.as_bytes();
    let mut parts = vec![];
    let (mut rest, mut at) = (range.start, range.start);
    while at + length <= range.end {
        match find(&bytes[at..at + length]) {
            // A token's text is UTF-8, so where it matches is a character boundary.
            Some(id) => {
                if rest < at {
                    parts.push(Part::Text(rest..at));
                }
                parts.push(Part::Token(id));
                at += length;
                rest = at;
            }
            None => at += 1,
        }
    }
    if rest < range.end {
        parts.push(Part::Text(rest..range.end));
    }
    parts
}
