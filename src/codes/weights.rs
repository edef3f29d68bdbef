//! Codes of checkpoints and packing (G06xx).

use super::Explained;
use crate::diag::Code;

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: Code("G0601"),
        title: "a file of the checkpoint cannot be read",
        text: "A model is a GGUF file, a folder with one, or a folder with `model.safetensors` or with \
               `model.safetensors.index.json` and the shards it names. The file is missing, is no regular file, may not be read, is larger than such a file can \
               sensibly be, or was changed by somebody else while it was being packed.",
    },
    Explained {
        code: Code("G0602"),
        title: "damaged header of a checkpoint",
        text: "A safetensors file begins with 8 bytes of length and a JSON object of that length, one entry per \
               tensor. It is refused if that object is cut off, is not JSON, lists a tensor twice, or is larger \
               than any real model needs (16 MiB of header, 65,536 tensors, names of 1 KiB, 8 dimensions). The \
               usual cause is a download that broke off, or a Git LFS pointer in place of the file.\n\n\
               A GGUF file begins with `GGUF`, its version (2 and 3 are read) and the counts of tensors and keys. It is \
               refused if a count or length is larger than any real model needs (65,536 tensors and keys, texts of \
               16 MiB, lists of 16,777,216 items), if it ends inside its header, if a type is unknown, a text is not \
               UTF-8, a key stands twice, or the alignment is no power of two.",
    },
    Explained {
        code: Code("G0603"),
        title: "a tensor's place in its file is impossible",
        text: "The byte ranges of the tensors must lie in the file, follow each other without hole or overlap, \
               and have exactly the bytes that shape and type need. Anything else means that the file is damaged \
               or was made to mislead. In a GGUF file there may be holes, every tensor begins at a multiple of \
               the alignment, and rows are whole blocks of their type.",
    },
    Explained {
        code: Code("G0604"),
        title: "the index of a sharded checkpoint does not fit",
        text: "`model.safetensors.index.json` maps every tensor to a shard in the same folder. A shard is \
               missing, lacks a tensor that the index promises, is named by a path that leaves the folder, or the \
               index itself is damaged.",
    },
    Explained {
        code: Code("G0605"),
        title: "the checkpoint lacks a tensor",
        text: "A weight of the graph is made from a tensor that the checkpoint does not have. Either the graph is \
               not the one for this model, or the checkpoint names its tensors with another prefix: then give the \
               recipe both names, `AnyOf([Tensor(\"a\"), Tensor(\"b\")])`.",
    },
    Explained {
        code: Code("G0606"),
        title: "a tensor has the wrong shape",
        text: "A packing recipe was given tensors whose shapes do not fit together, or its result is not the \
               shape that the graph declares. The message names the part of the recipe, both shapes and the file. \
               Compare the graph's params (`graphc compile --emit flat`) with the model's config.json.",
    },
    Explained {
        code: Code("G0607"),
        title: "a recipe cannot be carried out",
        text: "A recipe without parts, groups that have no two halves, nesting without end, or a tensor whose \
               element type cannot be read; the message names the types that can.",
    },
    Explained {
        code: Code("G0608"),
        title: "values that the weight's type cannot hold",
        text: "The checkpoint has finite values beyond 65504, which f16 cannot hold and which become infinite in it. By \
               default this is a warning with the count; with `--strict` it is this error. They are fine with \
               `--dtype f32`.",
    },
    Explained {
        code: Code("G0609"),
        title: "packed weights cannot be written",
        text: "Weights are packed once and kept in `.graphc` beside the model, or in the cache folder. Neither \
               could be written, and the weights are too large to be packed into memory at every start. Nothing half-written is left behind.",
    },
    Explained {
        code: Code("G0610"),
        title: "the plan's list of weights is not usable",
        text: "A weight of the plan is larger than can be addressed, has a type that weights cannot have, or a \
               recipe without end. A compiled plan never has one, so the plan file was altered; compile it again.",
    },
    Explained {
        code: Code("G0611"),
        title: "a weight is not finite",
        text: "A tensor of the checkpoint has a NaN or an infinite value, or a block whose scale is one. Everything \
               computed from it would be NaN, so the weights are not packed. The message names the tensor and the \
               element, counted from 0 in every dimension.",
    },
    Explained {
        code: Code("G0612"),
        title: "tensors that no weight reads",
        text: "The checkpoint has tensors that no weight of the graph is made of, in none of its entries: biases of \
               projections that the graph computes without, for example. Then the model is more than the graph \
               computes, and its results are wrong. What a graph leaves out on purpose it lists under `ignores`: \
               `ignores: [\"pooler.*\", \"*.position_ids\"]`, with `*` for any characters.",
    },
    Explained {
        code: Code("G0613"),
        title: "layers that the graph does not have",
        text: "A tensor of the checkpoint has the name of one that the graph reads, but with a higher number: the \
               model has more layers than its configuration counts (`num_hidden_layers`, `block_count`). Without \
               its last layers a model writes nonsense, so it is refused. A number of layers that is given with \
               `--set` is meant; then a warning lists what is left out.",
    },
];
