//! Codes of models, tokenizers and inputs (G08xx).

use super::Explained;
use crate::diag::Code;

/// A tokenizer file is missing, too large or broken.
pub const TOKENIZER_FILE: Code = Code("G0801");
/// The token limit leaves no room for text.
pub const TOKEN_LIMIT: Code = Code("G0802");
/// One text cannot be tokenised.
pub const TEXT: Code = Code("G0803");
/// A token id is no row of the embedding table.
pub const VOCABULARY: Code = Code("G0804");
/// An embedding holds NaN or infinity.
pub const NOT_FINITE: Code = Code("G0805");
/// A line of the input is not what the flags say.
pub const INPUT_LINE: Code = Code("G0806");
/// `hf:org/name` cannot be resolved.
pub const HUB: Code = Code("G0807");
/// A chat template is missing, does not parse, fails or does not end.
pub const CHAT: Code = Code("G0808");
/// A prompt cannot be continued.
pub const PROMPT: Code = Code("G0809");
/// The model's scores of tokens are not finite.
pub const LOGITS: Code = Code("G0810");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: TOKENIZER_FILE,
        title: "the tokenizer cannot be read",
        text: "A model folder needs a `tokenizer.json` (the file of the `tokenizers` library). Beside it, \
               `tokenizer_config.json` and `sentence_bert_config.json` are optional, but if they are there they \
               must be JSON objects with sensible lengths. The message names the file and what is wrong with it. \
               A download that was cut short is the usual cause: fetch the file again. A model that has only \
               `vocab.txt` or `tokenizer.model` can be converted by loading it with the `transformers` package \
               and saving it. \
               A GGUF file carries its tokenizer in the metadata under `tokenizer.ggml.`: lists of one length, ids \
               within them, merges of tokens that are there, and a way of cutting words that graphc knows.",
    },
    Explained {
        code: TOKEN_LIMIT,
        title: "no room for text within the token limit",
        text: "The limit is `max_seq_length` of sentence_bert_config.json, else `model_max_length` of \
               tokenizer_config.json, else the positions that the model has. The tokenizer's special tokens count \
               towards it. If they alone reach it, every text would be cut to nothing; correct the setting.",
    },
    Explained {
        code: TEXT,
        title: "a text cannot be tokenised",
        text: "The input with this number (the first is 1) is longer than 16 MiB, gives no token at all, or the \
               tokenizer's own rules refuse it, for example an unknown word in a vocabulary without an unknown \
               token. Split the text, or check that tokenizer.json belongs to the model.",
    },
    Explained {
        code: VOCABULARY,
        title: "a token id lies outside the embedding table",
        text: "The tokenizer gave an id that the checkpoint has no row for. Ids are checked on the host, because \
               the device would read past the table. Either the tokenizer comes from another model, or tokens \
               were added to the tokenizer and the embedding table was never enlarged.",
    },
    Explained {
        code: NOT_FINITE,
        title: "an embedding is not finite",
        text: "The embedding of the input with this number holds NaN or infinity, so it would poison every \
               similarity it takes part in. The input runs once more, and the message names the first pass that \
               writes such a value. With `--dtype f16` an activation may have overflowed: try `--dtype f32`. If \
               f32 fails too, the checkpoint itself holds such values.",
    },
    Explained {
        code: INPUT_LINE,
        title: "a line of the input is not usable",
        text: "Lines must be UTF-8. With `--jsonl FIELD` each one must be a JSON object whose FIELD is a string. \
               The message names the line. Nothing after it is embedded; what came before was already written.",
    },
    Explained {
        code: HUB,
        title: "a Hugging Face model is not at hand",
        text: "`hf:org/name` (or `hf:org/name@revision`) is looked up in the local Hugging Face cache: \
               `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`. Nothing is downloaded unless \
               `--download` is given, which needs a graphc built with the feature `hf-hub`. A folder with the \
               model's files can always be named instead.",
    },
    Explained {
        code: CHAT,
        title: "a chat template cannot be used",
        text: "`--chat` puts the prompt into the model's own template: `tokenizer.chat_template` of a GGUF file, \
               else `chat_template` of tokenizer_config.json, else chat_template.jinja. The template is a program: it \
               may fail by itself (some refuse a system message), and it is stopped when it has run for too many \
               steps, because one that loops would never end. A model without a template was not trained on chats; \
               use `--raw`.",
    },
    Explained {
        code: PROMPT,
        title: "a prompt cannot be continued",
        text: "A model continues at least one token, so an empty prompt for a model that begins texts with no token \
               of its own has nothing to continue. A prompt also has to leave a place for an answer: prompt and answer \
               together fit in the context (`--ctx N`, at most what the model was trained for).",
    },
    Explained {
        code: LOGITS,
        title: "the scores of the next token are not finite",
        text: "The device gave no token because the scores held NaN or infinity. graphc then runs the sequence again \
               on an empty cache, pass by pass, reads after each pass what it wrote, and names the first value that \
               is not finite: the pass, its kernel, the line of the graph that it comes from, and the element. It \
               looks into the prompt and into the step whose scores were bad; the steps between had finite scores. \
               With `--dtype f16` an activation may have overflowed there: try `--dtype f32`. The weights were \
               checked when they were packed. If no pass is named, all values were finite the second time, and the \
               fault lies in the device or in its driver.",
    },
];
