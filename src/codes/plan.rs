//! Codes of planning, verifying and reading plans (G05xx).

use super::Explained;
use crate::diag::Code;

/// A tensor that is larger than one binding.
pub const OVER_BINDING: Code = Code("G0501");
/// A tensor that is larger than one allocation.
pub const OVER_ALLOCATION: Code = Code("G0502");
/// An output that no pass writes.
pub const UNWRITTEN_OUTPUT: Code = Code("G0503");
/// One name that entries define in two ways.
pub const TWO_DEFINITIONS: Code = Code("G0504");
/// A carry that is not handed on.
pub const CARRY_LOST: Code = Code("G0505");
/// A time budget without roofs to estimate with.
pub const NO_ROOFS: Code = Code("G0506");
/// A wave that alone is longer than the time budget.
pub const LONG_WAVE: Code = Code("G0507");
/// A view that starts between the device's alignments.
pub const UNALIGNED_VIEW: Code = Code("G0508");
/// A profile that is not there.
pub const NO_PROFILE: Code = Code("G0509");
/// A profile that is not what profiles look like.
pub const PROFILE_TEXT: Code = Code("G0510");
/// A value of a profile that no device has.
pub const PROFILE_VALUE: Code = Code("G0511");
/// A pass that reads more than the device binds at once, and cannot be cut.
pub const NOT_SPLIT: Code = Code("G0512");
/// More memory than there is, wherever weights lie.
pub const TOO_LITTLE_MEMORY: Code = Code("G0513");
/// The verifier refuses a plan.
pub const UNPROVED: Code = Code("G0599");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: OVER_BINDING,
        title: "a tensor is larger than one binding",
        text: "A pass binds each of its tensors as one storage buffer range, and the device limits such a range \
               (`maxStorageBufferRange`: 128 MiB on lavapipe, 4 GiB on NVIDIA). The message names the tensor, its size \
               and the limit. Compile a smaller entry, for example with fewer sequences in a batch, or compile for a \
               profile whose device binds more.",
    },
    Explained {
        code: OVER_ALLOCATION,
        title: "a tensor is larger than one allocation",
        text: "Every tensor lies inside one memory allocation (`maxMemoryAllocationSize`). Inputs, outputs and carries \
               lie there twice, once for each parity, so that two submits can be in flight; for them the limit is half. \
               Compile a smaller entry, or for a profile whose device allocates more at once.",
    },
    Explained {
        code: UNWRITTEN_OUTPUT,
        title: "an output that no pass writes",
        text: "Outputs lie in memory that the host reads, and a pass must write them there. An output that is an input, \
               a weight, state or a carry has no such pass: read it where it comes from, or copy it with a pass.",
    },
    Explained {
        code: TWO_DEFINITIONS,
        title: "one name, two definitions",
        text: "Entries of a plan share weights, state and carries by name, so one name must have the same element type, \
               sizes and recipe in every entry. Give the two different names, or make them equal.",
    },
    Explained {
        code: CARRY_LOST,
        title: "a carry is not handed on",
        text: "A carry is read from one slot while the value for the next submit is written to the other. That value must \
               be written whole by a pass of the same submit, for this carry alone; it cannot be an input, an output, a \
               view, state, or the next value of a second carry. Every entry must hand on every carry, because the slots \
               swap with every submit, whichever entry runs.",
    },
    Explained {
        code: NO_ROOFS,
        title: "a time budget without roofs",
        text: "`--max-submit-ms` (or `max_submit_ms` of a profile) cuts a recording where its estimated time would run past \
               the budget. The estimate needs the profile's measured roofs `read_bytes_per_s` and one of `f32_flops` and \
               `matrix_f16_flops`. Measure them, or leave the budget away: one submit is the normal case.",
    },
    Explained {
        code: LONG_WAVE,
        title: "a wave longer than the time budget",
        text: "A recording can only be cut between waves, and this wave alone is estimated to take longer than the budget of \
               one submit. The plan is made all the same. On a device with a watchdog, compile a smaller entry.",
    },
    Explained {
        code: UNALIGNED_VIEW,
        title: "a view that cannot be bound",
        text: "A pass binds a view as its own storage buffer range, and the device wants such a range to start at a multiple of \
               its alignment (`minStorageBufferOffsetAlignment`, 16 bytes on most devices). Cut along an outer dimension, so \
               that the part starts at a whole row, or bind the whole value and let the kernel find the part.",
    },
    Explained {
        code: NO_PROFILE,
        title: "no such device profile",
        text: "`--profile` takes the name of a file in `profiles/devices/` (`nvidia-h200`, `lavapipe`) or the path of a `.ron` \
               file. The message lists the known names.",
    },
    Explained {
        code: PROFILE_TEXT,
        title: "a file that is no device profile",
        text: "The file is not RON, or has an unknown, missing or mistyped field. `profiles/README.md` describes every field; \
               copying the nearest profile and changing its numbers is the easiest way to a new one.",
    },
    Explained {
        code: PROFILE_VALUE,
        title: "a device profile with an impossible number",
        text: "Limits are at least 1, the alignment and the subgroup size are powers of two, roofs and time budgets are positive, \
               and the conditions of choices are expressions over a kernel's dims and options.",
    },
    Explained {
        code: NOT_SPLIT,
        title: "a pass that cannot be cut",
        text: "A weight is larger than the device binds at once (`maxStorageBufferRange`), so its pass becomes a chain of \
               passes with a range of rows each, if the kernel's manifest has `split`. Each pass of the chain writes its part \
               in place, so the result must not survive the entry as state or a carry, and what a fusion put behind the product \
               must not need whole rows.",
    },
    Explained {
        code: TOO_LITTLE_MEMORY,
        title: "more memory than there is",
        text: "Weights that do not fit the device's own memory (`device_memory` of a profile, or `--device-memory-limit`) lie \
               in the host's memory, those first that a step reads least of; everything else must fit. The table lists what \
               the plan takes. The caches of a language model are its state: `--ctx` sets how many tokens they hold, `--kv` \
               their element type. `--weights int8` or `--weights int4` makes weights smaller, and entries with fewer rows \
               need fewer transients.",
    },
    Explained {
        code: UNPROVED,
        title: "a plan that the verifier refuses",
        text: "Every plan is proved before it leaves the compiler: by code that shares nothing with the planner, every read \
               sees the bytes written for it and every hazard is separated by a barrier. A refusal is a mistake of graphc, \
               never of a graph file. Please report it together with the graph and the command.",
    },
];
