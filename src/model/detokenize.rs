//! Token ids back to text, one at a time.
//!
//! A token is a run of bytes and not always of characters: an emoji may take four tokens. In: ids as they come.
//! Out: text that is complete UTF-8 each time. What always holds: what was given out is never taken back; bytes
//! that can be no character any more become U+FFFD; control tokens are no text.

use super::bpe::byte_of;
use super::spm::SPACE;
use super::text_tokenizer::{FileRules, Listed, Rules, TextTokenizer};
use super::token_table::{Family, TokenKind, TokenTable};

/// The text of a growing list of tokens.
pub struct Detokenizer<'t> {
    tokenizer: &'t TextTokenizer,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
    /// State of the decoder of a `tokenizer.json`: tokens it still needs, their text, and how many it covers.
    window: (Vec<u32>, String, usize),
    /// Whether a space before the first text is the family's and not the model's.
    strip: bool,
}

impl<'t> Detokenizer<'t> {
    /// For what a model writes after a prompt: spaces are the model's own.
    pub fn continuing(tokenizer: &'t TextTokenizer) -> Self {
        Self::new(tokenizer, false)
    }

    /// For a text from its beginning: the space that the tokenizer put there is taken off again.
    pub fn whole(tokenizer: &'t TextTokenizer) -> Self {
        let strip = match &tokenizer.rules {
            Rules::Listed(listed) => listed.vocabulary.add_space_prefix,
            Rules::File(_) => false,
        };
        Self::new(tokenizer, strip)
    }

    fn new(tokenizer: &'t TextTokenizer, strip: bool) -> Self {
        Self {
            tokenizer,
            pending: vec![],
            window: (vec![], String::new(), 0),
            strip,
        }
    }

    /// The text that is complete with token `id`.
    pub fn push(&mut self, id: u32) -> String {
        match &self.tokenizer.rules {
            Rules::Listed(listed) => {
                self.pending.extend(piece(listed, id));
                self.complete()
            }
            Rules::File(file) => self.push_file(file, id),
        }
    }

    /// What is left when no token follows: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if let Rules::File(file) = &self.tokenizer.rules {
            let (ids, prefix, _) = std::mem::take(&mut self.window);
            let all = file.inner.decode(&ids, true).unwrap_or_default();
            return all
                .strip_prefix(prefix.as_str())
                .unwrap_or_default()
                .to_string();
        }
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }

    fn push_file(&mut self, file: &FileRules, id: u32) -> String {
        let (ids, prefix, index) = &mut self.window;
        let step = tokenizers::tokenizer::step_decode_stream(
            &file.inner,
            vec![id],
            true,
            ids,
            prefix,
            index,
        );
        // A decoder that takes back what it gave out cannot be streamed; the rest comes with the next token.
        step.ok().flatten().unwrap_or_default()
    }

    fn complete(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    break;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.pending.drain(..valid);
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + bad);
                }
            }
        }
        if self.strip && !text.is_empty() {
            self.strip = false;
            if text.starts_with(' ') {
                text.remove(0);
            }
        }
        text
    }
}

/// The bytes of a token.
fn piece(listed: &Listed, id: u32) -> Vec<u8> {
    let vocabulary = &listed.vocabulary;
    let (Some(text), Some(kind)) = (vocabulary.text(id), vocabulary.kind(id)) else {
        return vec![];
    };
    match kind {
        TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => vec![],
        TokenKind::UserDefined => text.as_bytes().to_vec(),
        TokenKind::Byte => byte(text).map_or_else(|| text.as_bytes().to_vec(), |byte| vec![byte]),
        TokenKind::Normal => normal(vocabulary, text),
    }
}

fn normal(vocabulary: &TokenTable, text: &str) -> Vec<u8> {
    match vocabulary.family {
        Family::Spm => text.replace(SPACE, " ").into_bytes(),
        Family::Bpe => {
            let mut bytes = vec![];
            for character in text.chars() {
                match byte_of(character) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend(character.to_string().bytes()),
                }
            }
            bytes
        }
    }
}

/// The byte that `<0x0A>` spells.
fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}
