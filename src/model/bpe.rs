//! Byte-pair encoding from the lists of a GGUF file, on the crate `tokenizers`.
//!
//! A model's merges were learned on words, so text is first cut into words by the pattern that the model was
//! trained with; GGUF names it in `tokenizer.ggml.pre`. The bytes of a word become the printable characters of
//! GPT-2's alphabet, and those merge, best pair first. What always holds: a pattern that is not known is refused
//! by name, because a near one would give other ids without a word.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::token_table::{TokenTable, fault};
use super::tokenizer::TokenizerError;

/// English contractions, then words, numbers and the rest, each with the one space before it; spaces at the end.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Every digit is a word of its own.
const DIGIT: &str = r"\p{N}";
/// Llama 3: any one mark may lead a word, up to three digits stand together, line ends stay with what they end.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 and 3: as Llama 3, but digits stand alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How the words of a family of models are cut.
struct Words {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// A word that is a token stays whole, even if no merges lead to it.
    whole: bool,
}

const FAMILIES: &[Words] = &[
    Words {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"],
        patterns: &[GPT2],
        whole: false,
    },
    Words {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
        ],
        patterns: &[DIGIT, GPT2],
        whole: false,
    },
    Words {
        names: &["llama-bpe", "llama-v3", "llama3", "falcon3"],
        patterns: &[LLAMA3],
        whole: true,
    },
    Words {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        patterns: &[QWEN2],
        whole: false,
    },
];

/// The tokenizer of `vocabulary`. It knows no special tokens: who calls it has cut those out of the text.
pub fn build(vocabulary: &TokenTable) -> Result<Tokenizer, TokenizerError> {
    let words = FAMILIES
        .iter()
        .find(|family| family.names.contains(&vocabulary.pre.as_str()))
        .ok_or_else(|| unknown(&vocabulary.pre))?;
    let broken =
        |error: tokenizers::Error| fault(format!("the vocabulary cannot be used: {error}"));
    let ids: Vocab = vocabulary
        .tokens()
        .map(|(id, text)| (text.to_string(), id))
        .collect();
    let model = BPE::builder()
        .vocab_and_merges(ids, vocabulary.merges.clone())
        .ignore_merges(words.whole)
        .build()
        .map_err(broken)?;
    let mut steps = words
        .patterns
        .iter()
        .map(|pattern| {
            let pattern = SplitPattern::Regex((*pattern).to_string());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map(PreTokenizerWrapper::from)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(broken)?;
    steps.push(ByteLevel::new(false, false, false).into());
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(tokenizer)
}

fn unknown(name: &str) -> TokenizerError {
    let mut known: Vec<&str> = FAMILIES
        .iter()
        .flat_map(|family| family.names)
        .copied()
        .collect();
    known.sort_unstable();
    fault(format!(
        "`tokenizer.ggml.pre` is `{name}`, a way of cutting words that is not known; known are {}",
        known.join(", ")
    ))
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 stands for itself, and the others
/// follow from U+0100 on in their order.
pub fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| printable(*byte)),
        code => {
            let at = usize::try_from(code.checked_sub(0x100)?).ok()?;
            (0..=0xFFu8).filter(|byte| !printable(*byte)).nth(at)
        }
    }
}
