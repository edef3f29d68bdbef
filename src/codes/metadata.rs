//! Codes of a model's configuration (G082x).

use super::Explained;
use crate::diag::Code;

/// A configuration file is missing, too large or broken.
pub const CONFIG: Code = Code("G0820");
/// No graph runs this architecture.
pub const ARCHITECTURE: Code = Code("G0821");
/// `modules.json` asks for something that graphs do not do.
pub const MODULES: Code = Code("G0822");
/// The pooling configuration is not one of those that the `pool` kernel has.
pub const POOLING: Code = Code("G0823");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: CONFIG,
        title: "the model's configuration cannot be read",
        text: "A model folder needs a `config.json`; `modules.json`, `1_Pooling/config.json` and \
               `sentence_bert_config.json` are read if they are there. Each must be JSON of moderate size and \
               depth without a key that appears twice. The message names the file and the place in it.\n\n\
               The metadata of a GGUF file must agree with its tensors: as many layers as there are, a vocabulary of \
               as many tokens as the embedding has rows. Its tokenizer needs `tokenizer.ggml.tokens`, `token_type` \
               and, for byte-pair encoding, `merges`.",
    },
    Explained {
        code: ARCHITECTURE,
        title: "no graph for this architecture",
        text: "`model_type` in config.json names the architecture. Every graph file lists the ones that it runs \
               under `accepts`. Name a graph file yourself if one fits, or write one: a graph is a text file.",
    },
    Explained {
        code: MODULES,
        title: "the model has a module that graphs do not run",
        text: "`modules.json` lists what sentence-transformers runs after the transformer. Graphs of this \
               program do one pooling and, after it, a normalisation. A Dense module, for example, changes the \
               embedding completely; leaving it out would give wrong vectors without a word, so it is an error.",
    },
    Explained {
        code: POOLING,
        title: "the pooling is not supported",
        text: "`1_Pooling/config.json` must switch on exactly one of mean, cls, last token and max. Several at \
               once are concatenated by sentence-transformers, which graphs do not do.",
    },
];
