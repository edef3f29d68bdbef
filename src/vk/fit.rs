//! Does this plan fit this device? Asked before any Vulkan object exists, because drivers answer a broken limit
//! with a lost device more often than with an error.
//!
//! Pure functions over data, over plans that passed [`Plan::validate`]. [`limits`] holds the plan's real needs, not
//! the limits that it was compiled for, against the device's: a small plan for a large device runs on a small one.

use std::collections::BTreeSet;

use super::features::capability;
use crate::device::{Feature, Limits};
use crate::plan::place::arena_word;
use crate::plan::{Entry, Kernel, Plan};

/// The most problems that are listed.
const MAX_PROBLEMS: usize = 12;

/// Bytes of a packed weight, or `None` past 2^64.
pub fn weight_bytes(weight: &crate::plan::Weight) -> Option<u64> {
    weight.dtype.size_of(&weight.shape)
}

/// Features that the plan needs and the device lacks, which has `features` and that name. Of what no device can be asked
/// about, the plan's profile knows only that of devices like those that it describes; one that names none describes none.
pub fn missing(plan: &Plan, features: &BTreeSet<Feature>, device: &str) -> Vec<Feature> {
    let described =
        !plan.device.is_empty() && device.to_lowercase().contains(&plan.device.to_lowercase());
    let has =
        |feature: &Feature| features.contains(feature) && (described || !feature.is_measured());
    let needs = plan.needs.iter().filter(|feature| !has(feature));
    needs.copied().collect()
}

/// Every way in which the plan needs more than `limits`, one line each, at most a dozen.
pub fn limits(plan: &Plan, limits: &Limits, capabilities: &BTreeSet<u32>) -> Vec<String> {
    let mut problems = Vec::new();
    if plan.kernels.iter().any(|kernel| kernel.full_subgroups)
        && plan.limits.subgroup_size != limits.subgroup_size
    {
        problems.push(format!(
            "its kernels count on subgroups of {}, the device has {}",
            plan.limits.subgroup_size, limits.subgroup_size
        ));
    }
    for (id, arena) in plan.arenas.enumerate() {
        if arena.bytes > limits.max_allocation {
            problems.push(format!(
                "arena {} ({}) has {} bytes, one allocation may have {}",
                id.0,
                arena_word(arena.kind),
                arena.bytes,
                limits.max_allocation
            ));
        }
    }
    for kernel in &plan.kernels {
        kernel_limits(kernel, limits, capabilities, &mut problems);
    }
    for entry in &plan.entries {
        entry_limits(entry, limits, &mut problems);
    }
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

fn kernel_limits(
    kernel: &Kernel,
    limits: &Limits,
    capabilities: &BTreeSet<u32>,
    problems: &mut Vec<String>,
) {
    let name = format!("kernel `{}/{}`", kernel.name, kernel.variant);
    let mut check = |what: &str, needs: u64, has: u64| {
        if needs > has {
            problems.push(format!("{name} needs {needs} {what}, the device has {has}"));
        }
    };
    check(
        "bytes of shared memory",
        kernel.shared_bytes,
        limits.max_shared_memory,
    );
    let invocations = kernel.local_size.iter().fold(1u64, |product, size| {
        product.saturating_mul(u64::from(*size))
    });
    check(
        "invocations a workgroup",
        invocations,
        u64::from(limits.max_invocations),
    );
    for (axis, (needs, has)) in ["x", "y", "z"]
        .into_iter()
        .zip(kernel.local_size.into_iter().zip(limits.max_workgroup_size))
    {
        check(
            &format!("invocations along {axis}"),
            u64::from(needs),
            u64::from(has),
        );
    }
    check(
        "bytes of push constants",
        u64::from(kernel.push_size()),
        u64::from(limits.max_push_constants),
    );
    check(
        "storage buffers",
        kernel.storage_buffers(),
        u64::from(limits.max_storage_buffers),
    );
    if kernel.full_subgroups && !kernel.local_size[0].is_multiple_of(limits.subgroup_size.max(1)) {
        problems.push(format!(
            "{name} has {} invocations along x, which is no multiple of the subgroup size {}",
            kernel.local_size[0], limits.subgroup_size
        ));
    }
    for number in declared_capabilities(&kernel.spirv) {
        if !capabilities.contains(&number) {
            problems.push(format!(
                "{name} declares the SPIR-V capability {}, which the device does not offer",
                capability::name(number)
            ));
        }
    }
}

/// The capabilities of a SPIR-V module: `OpCapability` instructions stand first (SPIR-V 1.6, 2.4).
fn declared_capabilities(spirv: &[u32]) -> impl Iterator<Item = u32> + '_ {
    const HEADER_WORDS: usize = 5;
    const OP_CAPABILITY_OF_TWO_WORDS: u32 = 2 << 16 | 17;
    spirv
        .get(HEADER_WORDS..)
        .unwrap_or_default()
        .chunks_exact(2)
        .take_while(|words| words[0] == OP_CAPABILITY_OF_TWO_WORDS)
        .map(|words| words[1])
}

fn entry_limits(entry: &Entry, limits: &Limits, problems: &mut Vec<String>) {
    for pass in &entry.passes {
        let place = format!("pass `{}` of entry `{}`", pass.path, entry.name);
        for (axis, (needs, has)) in ["x", "y", "z"]
            .into_iter()
            .zip(pass.groups.into_iter().zip(limits.max_workgroup_count))
        {
            if needs > has {
                problems.push(format!(
                    "{place} runs {needs} workgroups along {axis}, the device allows {has}"
                ));
            }
        }
        for bind in &pass.binds {
            let tensor = &entry.tensors[bind.tensor];
            if tensor.bytes > limits.max_storage_buffer_range {
                problems.push(format!(
                    "{place} binds `{}` with {} bytes, one binding may have {}",
                    tensor.name, tensor.bytes, limits.max_storage_buffer_range
                ));
            }
            let align = limits.min_storage_alignment.max(1);
            if (0..2).any(|parity| !tensor.range(parity).start.is_multiple_of(align)) {
                problems.push(format!(
                    "{place} binds `{}` at an offset that is no multiple of {align}",
                    tensor.name
                ));
            }
        }
    }
}
