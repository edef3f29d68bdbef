//! Codes of devices and running (G07xx).

use super::Explained;
use crate::diag::Code;

const fn explained(code: &'static str, title: &'static str, text: &'static str) -> Explained {
    Explained {
        code: Code(code),
        title,
        text,
    }
}

pub(super) const CODES: &[Explained] = &[
    explained(
        "G0701",
        "no Vulkan loader, or one that is too old",
        "graphc talks to devices through libvulkan, version 1.3 or later. On Debian and Ubuntu it is in `libvulkan1`. The \
         loader alone is not enough: it needs a driver, from the vendor or, for the CPU, from `mesa-vulkan-drivers`.",
    ),
    explained(
        "G0702",
        "no device that can run graphc",
        "The loader is there, but it knows no device, or none with Vulkan 1.3, timeline semaphores, synchronization2 and \
         a compute queue. `graphc devices` shows each device and what it lacks. VK_DRIVER_FILES and VK_ICD_FILENAMES \
         change which drivers the loader sees.",
    ),
    explained(
        "G0703",
        "`--device` does not name one device",
        "A device is named by its number in `graphc devices`, a part of its name in any case, or its UUID. The wish must \
         fit exactly one: graphc never takes another device than the one that was asked for.",
    ),
    explained(
        "G0704",
        "the device lacks a feature that the plan needs",
        "A plan is compiled for one device or profile, and its kernels were chosen for what that device can do. Compile \
         it for this device: leave `--profile` out, or name another profile. No device can be asked about \
         `coopmat_lanes` and `relay`: a plan that needs them runs on devices that its profile describes. `graphc roof` \
         looks for the former and writes it to a profile.",
    ),
    explained(
        "G0705",
        "the plan does not fit the device's limits",
        "Some buffer, workgroup or shared array of the plan is larger than this device allows; the message names each. \
         This is checked before anything is made, because drivers answer a broken limit with a lost device. Compile \
         the plan for this device: large tensors are then split and smaller tiles are chosen.",
    ),
    explained(
        "G0706",
        "the plan contradicts itself",
        "A plan names a tensor, kernel or byte that it does not have. `graphc verify PLAN` says more. Compile it again.",
    ),
    explained(
        "G0707",
        "out of memory",
        "The message has a table of what the plan takes, by kind. Transients shrink with smaller entries (batch, seq), \
         weights with `--dtype f16`. Other programs on the same device may hold memory.",
    ),
    explained(
        "G0708",
        "the device was lost",
        "The driver stopped the device. The usual reasons are a submit that ran past the watchdog (2 seconds on many \
         desktops; `--max-submit-ms` cuts the plan into shorter ones), a driver's fault, or a reset from outside. The \
         kernel's log (`dmesg`) has the driver's words. Start again; nothing of the session can be used any more.",
    ),
    explained(
        "G0709",
        "no result in time",
        "graphc never waits without an end. Either the device hangs, or it is busy with other work, or the forward really \
         takes that long: then raise the time-out (`--timeout SECONDS`, 120 if missing) or use smaller entries.",
    ),
    explained(
        "G0710",
        "the validation layer spoke",
        "With GRAPHC_VALIDATION=1 every use of Vulkan is checked, memory hazards included, and any message is an error: \
         either the plan misses a barrier or the runtime breaks a rule. Please report it with the message. The layer \
         itself is in `vulkan-validationlayers`.",
    ),
    explained(
        "G0711",
        "a weight could not be filled",
        "The source of the weights failed while the session was opened. The message names the weight and the reason.",
    ),
    explained(
        "G0712",
        "the pipeline cache was not written",
        "Compiled pipelines are kept on disk so that the next start is faster. If the folder cannot be written or the \
         disk is full, everything works and the next start compiles again.",
    ),
    explained(
        "G0713",
        "a Vulkan call failed",
        "The message names what graphc was doing and the driver's answer.",
    ),
    explained(
        "G0714",
        "no such entry, input or output",
        "A session runs the entries that its plan was compiled for, each with the graph's inputs and outputs. The \
         message lists them.",
    ),
    explained(
        "G0715",
        "a tensor was used wrongly",
        "An input or output was asked for with elements of another size than it has, or a result was read after a later \
         forward had overwritten it.",
    ),
    explained(
        "G0716",
        "the device has no timestamps",
        "Times of passes come from timestamps that the device writes while it runs a recording. Vulkan lets a queue have \
         none (`timestampValidBits` is 0), and then only whole forwards can be measured, on the clock of the host: \
         `graphc bench` does that.",
    ),
    explained(
        "G0717",
        "Tracy cannot listen",
        "With `--tracy` graphc listens on the loopback interface for Tracy's viewer: at port 8086, or where TRACY_PORT \
         says. The port must be free; another program that is profiled with Tracy takes the same one. Give each its own \
         with TRACY_PORT, and name it in the viewer (`tracy-profiler -a 127.0.0.1 -p PORT`) or to `tracy-capture -p PORT`.",
    ),
];
