//! Codes of kernel manifests and shaders (G04xx).

use super::Explained;
use crate::diag::Code;

/// Manifests cannot be listed or read.
pub const UNREADABLE: Code = Code("G0401");
/// An expression of a manifest does not parse or names something unknown.
pub const EXPRESSION: Code = Code("G0402");
/// One name for two things.
pub const DUPLICATE: Code = Code("G0403");
/// Every variant asks for something.
pub const NO_PLAIN_VARIANT: Code = Code("G0404");
/// Fields of a manifest that contradict each other.
pub const INCONSISTENT: Code = Code("G0405");
/// A reference formula that does not hold together.
pub const FORMULA: Code = Code("G0406");
/// No variant can run these sizes on this device.
pub const NO_VARIANT: Code = Code("G0410");
/// A choice of the profile or of the user that is not possible.
pub const BAD_CHOICE: Code = Code("G0411");
/// An expression of a variant that may run has no value.
pub const NO_VALUE: Code = Code("G0412");
/// The shader does not compile.
pub const BUILD: Code = Code("G0420");
/// SPIR-V that is not there and cannot be built.
pub const NO_COMPILER: Code = Code("G0421");
/// SPIR-V that cannot be read back.
pub const BAD_SPIRV: Code = Code("G0422");
/// The shader does not do what its manifest says.
pub const MISMATCH: Code = Code("G0423");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: UNREADABLE,
        title: "kernel manifests cannot be read",
        text: "Every kernel has a manifest `shaders/<kernel>.ron`. The folder cannot be listed or a manifest in it \
cannot be opened. The folder is looked for below the root that `--root` or `GRAPHC_ROOT` names.",
    },
    Explained {
        code: EXPRESSION,
        title: "an expression of a manifest is not understood",
        text: "Shapes, derived dims, push constants, specialisation constants, workgroup sizes and counts are \
expressions. They may use the dims that port shapes bind, derived dims that stand earlier, options, type variables \
as texts (`A == 'f16'`), and `has_<port>` for every port. Inside a variant also `subgroup_size` and \
`compute_units` of the device, specialisation constants that stand earlier, and, in `local_size`, `dispatch` and \
`shared_bytes`, the variant's definitions.",
    },
    Explained {
        code: DUPLICATE,
        title: "one name stands for two things in a manifest",
        text: "Type variables, options, dims, derived dims, specialisation constants and definitions share one set \
of names, because expressions use them side by side. Variants of a kernel have names of their own, each once.",
    },
    Explained {
        code: NO_PLAIN_VARIANT,
        title: "a kernel has no variant that runs anywhere",
        text: "At least one variant of every kernel must run on any Vulkan 1.3 device at any size: it has no \
`needs` and no `when`. Fast variants stand beside it and are preferred where they are possible.",
    },
    Explained {
        code: INCONSISTENT,
        title: "a manifest contradicts itself",
        text: "Examples: a default outside the option's range, an element type that does not exist, `in_place` on \
a port that is only read, a shader name that does not end in `.comp`, a manifest whose name differs from its file.",
    },
    Explained {
        code: FORMULA,
        title: "a reference formula does not hold together",
        text: "The list `reference` of a manifest defines every written port in terms of the ports that are read. \
A formula does not parse, uses a name or function that there is not, gives a function the wrong number of arguments, or \
defines a port with the wrong number of indices.\n\n\
Example: `\"y[i<m, j<n] = x[i,j] + bias[j]\"`. `shaders/README.md` describes the language.",
    },
    Explained {
        code: NO_VARIANT,
        title: "no variant of a kernel can run on the device",
        text: "Each variant is refused for a reason that the message lists: a feature that the device lacks, a \
condition that these sizes do not meet, a specialisation constant or push constant outside its range, or a limit \
(workgroup size, workgroup count, shared memory, push constants, storage buffers). The `tiled` or `plain` variant of a kernel fails only on the last ones, mostly because a dimension \
is out of proportion.",
    },
    Explained {
        code: BAD_CHOICE,
        title: "a chosen variant or specialisation is not possible",
        text: "A device profile (`profiles/devices/*.ron`, field `choices`) or a command line names a variant that \
the kernel does not have or that cannot run here, or gives a specialisation constant a value outside the range that \
the manifest allows.",
    },
    Explained {
        code: NO_VALUE,
        title: "an expression of a variant has no value",
        text: "The device has all that the variant needs and its `when` holds (or has itself no value), but an expression \
of the manifest cannot be evaluated for these sizes: `/` leaves a remainder, a size is negative, a dim would only be \
bound by an optional port that is not. Such a variant is not passed over, since a slower one would run in its place \
without a word. Let `when` say for which sizes the variant is: `n % 64 == 0`, `has_bias && k > 32` (behind `&&` nothing is \
looked at if the left side does not hold). `ceil(a / b)` needs no exact quotient.",
    },
    Explained {
        code: BUILD,
        title: "a shader does not compile",
        text: "The GLSL compiler's own messages follow, with file and line of the shader or include that they are \
about. Warnings count as errors. The shader's first line that is no comment is its `#version`, and no text holds a zero \
byte; that is looked at before the compiler sees it. Names such as `ACT_GELU`, `HAS_BIAS`, `BIND_Y` or `OPT_HEADS` come from the manifest: \
`shaders/README.md` lists them.",
    },
    Explained {
        code: NO_COMPILER,
        title: "SPIR-V is missing and this build of graphc has no shader compiler",
        text: "This graphc was built without the feature `shaderc` and the shader is not in the cache. Build with \
`--features shaderc`, run a finished plan, which carries its SPIR-V, or look at a plan alone with \
`graphc compile --no-shaders`.",
    },
    Explained {
        code: BAD_SPIRV,
        title: "SPIR-V cannot be read back",
        text: "Every module is read back after it was built, to check it against the manifest. This one is not \
well-formed. Modules in the cache carry a checksum, so that this points to a mistake in graphc or in the compiler.",
    },
    Explained {
        code: MISMATCH,
        title: "a shader does not do what its manifest says",
        text: "The built module is compared with the manifest: every bound port has its binding, `readonly` and \
`writeonly` agree with `Read` and `Write` (a port with `rereads` may read its own output), nothing else is bound, the \
push constant block has the declared fields, specialisation constants have the declared numbers, the workgroup has \
the declared size, and a capability of the module that not every device has stands in `needs`.",
    },
];
