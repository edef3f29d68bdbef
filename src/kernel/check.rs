//! Compares a module with the manifest that describes it. The plan's barriers and its memory follow the manifest, so
//! a shader that does more than its manifest says would be a silent race.
//!
//! In: manifest, choice, reflection. Out: the access of every bound port, or the first lie ([`MISMATCH`]).
//!
//! What the GLSL compiler leaves out because no invocation can reach it is fine: a specialisation constant, a port
//! that is only read, a scratch port, the push constants. A read port under a wrong number shows as a binding that
//! no port has. A port that is written must be there.

use spirv::Capability;

use super::reflect::{Bound, Reflection, Scalar};
use super::select::Selected;
use super::{Access, Manifest, Port};
use crate::codes::kernel::MISMATCH;
use crate::device::Feature;
use crate::diag::Diagnostic;
use crate::dtype::DType;

/// The access of every port that `bound` marks, in order of their numbers, if the module keeps the manifest's word.
/// `bound[i]` says whether a pass binds port `i`.
pub fn check(
    manifest: &Manifest,
    selected: &Selected,
    bound: &[bool],
    module: &Reflection,
) -> Result<Vec<(u32, Access)>, Diagnostic> {
    let rules = [
        bindings(manifest, selected, bound, module),
        push(manifest, selected, module),
        spec(selected, module),
        workgroup(selected, module),
        needs(selected, module),
    ];
    for rule in rules {
        rule.map_err(|lie| {
            let message = format!(
                "shader `{}` does not do what variant `{}` of kernel `{}` says: {lie}",
                selected.shader, selected.variant, selected.kernel
            );
            Diagnostic::error(MISMATCH, message).help(format!(
                "correct the shader or its manifest `{}`",
                manifest.path
            ))
        })?;
    }
    let ports = (0..).zip(&manifest.ports).zip(bound);
    Ok(ports
        .filter(|(_, bound)| **bound)
        .map(|((number, port), _)| (number, port.access))
        .collect())
}

/// Words that continue `..does not do what .. says: `.
type Lie = String;

fn bindings(
    manifest: &Manifest,
    selected: &Selected,
    bound: &[bool],
    module: &Reflection,
) -> Result<(), Lie> {
    let cells = |found: &Bound| {
        selected.relays.is_some()
            && (found.set, found.number, found.storage) == (0, super::RELAY_BINDING, true)
    };
    if selected.relays.is_some() && !module.bindings.iter().any(cells) {
        return Err("it has `relays`, but does not use `include/relay.glsl`".into());
    }
    for found in module.bindings.iter().filter(|found| !cells(found)) {
        let number = found.number as usize;
        let port = manifest.ports.get(number).filter(|_| {
            found.set == 0 && found.storage && bound.get(number).copied().unwrap_or(false)
        });
        match port {
            Some(port) => {
                access(port, found)?;
                let before = selected.relays.as_ref();
                if found.private && before.is_some_and(|before| !before.contains(&found.number)) {
                    return Err(format!(
                        "it has `relays`, but the buffer of port `{}` (binding {number}), which is not in `before`, is not \
                         `RELAYED`",
                        port.name
                    ));
                }
            }
            None => {
                return Err(format!(
                    "it uses {} {} of set {}, which is no bound port",
                    if found.storage {
                        "storage buffer"
                    } else {
                        "resource"
                    },
                    found.number,
                    found.set
                ));
            }
        }
    }
    for ((number, port), bound) in (0_u32..).zip(&manifest.ports).zip(bound) {
        let there = module.bindings.iter().any(|found| found.number == number);
        if *bound && port.access == Access::Write && !port.scratch && !there {
            return Err(format!(
                "it never writes port `{}` (binding {number})",
                port.name
            ));
        }
    }
    Ok(())
}

fn access(port: &Port, found: &Bound) -> Result<(), Lie> {
    let number = found.number;
    match port.access {
        Access::Read if found.writes => Err(format!(
            "port `{}` (binding {number}) is only read, but its buffer is not `readonly`",
            port.name
        )),
        Access::Write if found.reads && !port.rereads => Err(format!(
            "port `{}` (binding {number}) is only written, but its buffer is not `writeonly`; if the shader reads \
             back what it wrote itself, the port takes `rereads: true`",
            port.name
        )),
        Access::Read | Access::Write | Access::ReadWrite => Ok(()),
    }
}

fn push(manifest: &Manifest, selected: &Selected, module: &Reflection) -> Result<(), Lie> {
    let Some(block) = &module.push else {
        return Ok(());
    };
    let declared = u64::from(super::push_size(
        selected.push.len() as u32,
        selected.relays.is_some(),
    ));
    if block.bytes != declared {
        return Err(format!(
            "its push constants take {} bytes, those of the manifest {declared}",
            block.bytes
        ));
    }
    for (offset, found) in &block.members {
        // Bytes agree and fields are 4 bytes each, so that only a vector or matrix has no field of its own.
        let (Some(found), Some(field)) = (found, manifest.push.get(*offset as usize / 4)) else {
            continue;
        };
        let wanted = match field.dtype {
            DType::F32 => Scalar::F32,
            DType::I32 => Scalar::I32,
            _ => Scalar::U32,
        };
        if *found != wanted {
            return Err(format!(
                "the push constant at byte {offset} is {found:?}, but `{}` is {wanted:?}",
                field.name
            ));
        }
    }
    Ok(())
}

fn spec(selected: &Selected, module: &Reflection) -> Result<(), Lie> {
    for (number, scalar) in &module.spec {
        if !selected.spec.iter().any(|(id, _)| id == number) {
            return Err(format!(
                "its specialisation constant {number} is not in the manifest"
            ));
        }
        if *scalar == Scalar::F32 {
            return Err(format!(
                "its specialisation constant {number} is a float; those of a manifest are integers"
            ));
        }
    }
    Ok(())
}

fn workgroup(selected: &Selected, module: &Reflection) -> Result<(), Lie> {
    if module.local_size != selected.local_size {
        return Err(format!(
            "its workgroup is {:?}, that of the manifest {:?}",
            module.local_size, selected.local_size
        ));
    }
    let declared = selected.shared_bytes.unwrap_or(0);
    match module.shared_bytes {
        Some(found) if found > declared => Err(format!(
            "it takes {found} bytes of shared memory, the manifest's `shared_bytes` says {declared}"
        )),
        Some(_) => Ok(()),
        None => Err("the size of its shared memory is not known".into()),
    }
}

/// Every capability must be one that any Vulkan 1.3 device has, or one that a declared feature brings.
fn needs(selected: &Selected, module: &Reflection) -> Result<(), Lie> {
    for capability in &module.capabilities {
        let Some(any_of) = brought_by(*capability) else {
            return Err(format!(
                "it declares {capability:?}, which no feature of a manifest brings"
            ));
        };
        if !any_of.is_empty() && !any_of.iter().any(|one| selected.needs.contains(one)) {
            let names: Vec<&str> = any_of.iter().map(|one| one.name()).collect();
            return Err(format!(
                "it declares {capability:?}, but `needs` lacks `{}`",
                names.join("` or `")
            ));
        }
    }
    Ok(())
}

/// The features any of which brings a capability; an empty list where every Vulkan 1.3 device has it.
fn brought_by(capability: Capability) -> Option<&'static [Feature]> {
    Some(match capability {
        Capability::Shader
        | Capability::Matrix
        | Capability::GroupNonUniform
        | Capability::VulkanMemoryModel
        | Capability::VulkanMemoryModelDeviceScope => &[],
        Capability::StorageBuffer16BitAccess | Capability::UniformAndStorageBuffer16BitAccess => {
            &[Feature::StorageF16]
        }
        Capability::Float16 => &[Feature::ArithmeticF16, Feature::CoopmatF16],
        Capability::StorageBuffer8BitAccess | Capability::UniformAndStorageBuffer8BitAccess => {
            &[Feature::StorageI8]
        }
        Capability::GroupNonUniformArithmetic => {
            &[Feature::SubgroupArithmetic, Feature::Subgroup32]
        }
        Capability::GroupNonUniformBallot => &[Feature::SubgroupBroadcast],
        Capability::GroupNonUniformQuad => &[Feature::SubgroupQuad],
        Capability::GroupNonUniformShuffle => &[Feature::Subgroup32],
        Capability::CooperativeMatrixKHR => &[Feature::CoopmatF16],
        Capability::DotProduct | Capability::DotProductInput4x8BitPacked => &[Feature::DotI8],
        _ => return None,
    })
}
