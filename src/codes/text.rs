//! Codes of reading graph files (G00xx).

use super::Explained;
use crate::diag::Code;

/// A file cannot be had.
pub const UNREADABLE: Code = Code("G0001");
/// Not RON.
pub const SYNTAX: Code = Code("G0002");
/// A field that does not exist.
pub const UNKNOWN_FIELD: Code = Code("G0003");
/// An item, parameter kind or recipe that does not exist.
pub const UNKNOWN_ITEM: Code = Code("G0004");
/// A field that must be there.
pub const MISSING_FIELD: Code = Code("G0005");
/// A value of the wrong type.
pub const WRONG_TYPE: Code = Code("G0006");
/// A key or field twice.
pub const DUPLICATE_KEY: Code = Code("G0007");
/// Too many brackets inside each other.
pub const TOO_DEEP: Code = Code("G0008");
/// Files that include each other.
pub const INCLUDE_CYCLE: Code = Code("G0009");
/// A graph where blocks are wanted, or the other way round.
pub const WRONG_FILE: Code = Code("G0010");
/// A file that is too long, or too many files.
pub const TOO_BIG: Code = Code("G0011");
/// Two blocks or two fusions of one name.
pub const DUPLICATE_NAME: Code = Code("G0012");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: UNREADABLE,
        title: "a file cannot be read",
        text: "The graph itself or a file in its `include` list cannot be read: it is not there, it is not UTF-8 \
text, or its path leaves the root folder.\n\nPaths in `include` are relative to the file they stand in: \
`graphs/models/bert.ron` reaches `graphs/blocks/encoder.ron` as `\"../blocks/encoder.ron\"`. The root folder is \
the one that holds `graphs/` and `shaders/`; `--root` or `GRAPHC_ROOT` names another one.",
    },
    Explained {
        code: SYNTAX,
        title: "the text is not RON",
        text: "A bracket, a comma or a quote is missing, or a text holds an unknown escape. The place is where \
the reader gave up; the cause is often just before it.\n\nExpressions stand in quotes: write `\"heads * d_head\"`, \
not `heads * d_head`.",
    },
    Explained {
        code: UNKNOWN_FIELD,
        title: "unknown field",
        text: "The item has no field of this name. Nothing is ever ignored silently: a misspelt `wehn` would \
otherwise drop a condition. The help line names the nearest field, or all of them.",
    },
    Explained {
        code: UNKNOWN_ITEM,
        title: "unknown item",
        text: "A body holds `Pass`, `Use`, `Repeat`, `Weight` and `View`; parameters are `Int`, `Float`, `Bool`, \
`Text` and `Choice`; dims are `Var` and `Is`; recipes are `Tensor`, `AnyOf`, `Concat`, `Interleave`, `Slice`, \
`Transpose`, `PairHalves`, `Sum` and `Plus`; a file is a `Graph`, `Blocks` or `Fusions`.",
    },
    Explained {
        code: MISSING_FIELD,
        title: "a field is missing",
        text: "The item cannot do without this field. The place is the end of the item that lacks it.",
    },
    Explained {
        code: WRONG_TYPE,
        title: "a value of the wrong type",
        text: "Names, element types and expressions are texts in quotes, also when they are plain numbers \
(`max: \"64\"`). Lists stand in `[..]`, maps in `{ \"key\": value }`.",
    },
    Explained {
        code: DUPLICATE_KEY,
        title: "a key stands twice",
        text: "One map names the same key twice, or one item the same field. RON alone would keep the last one \
silently.",
    },
    Explained {
        code: TOO_DEEP,
        title: "nested too deeply",
        text: "Brackets stand inside each other more deeply than any graph needs. Move the inner items into a \
block and `Use` it.",
    },
    Explained {
        code: INCLUDE_CYCLE,
        title: "files include each other",
        text: "Following `include` leads back to where it started; the message spells out the path. A graph \
includes files with blocks and fusions, and those include nothing.",
    },
    Explained {
        code: WRONG_FILE,
        title: "the wrong kind of file",
        text: "The command line names a file that starts with `Graph(`; `include` names files that start with \
`Blocks(` or `Fusions(`.",
    },
    Explained {
        code: TOO_BIG,
        title: "too much text",
        text: "One file may have 1 MiB, a graph with all its files 8 MiB and 256 files. Real graphs need a few \
KiB; the bounds are there so that a damaged or hostile file cannot use up the memory.",
    },
    Explained {
        code: DUPLICATE_NAME,
        title: "two blocks or fusions of one name",
        text: "Blocks and fusion rules are found by name, so each name may be given once over all included \
files.",
    },
];
