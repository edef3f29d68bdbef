//! The shape of a plan: every id names something, every range lies inside its arena, every number obeys the limits.
//!
//! In: a plan from anywhere, a hostile file included. Out: what is wrong with it. Always: reads nothing but the plan,
//! and no number of the plan makes it allocate, recurse or overflow. After [`Plan::validate`] the ids of a plan can be
//! used to index; whether the plan computes what it should is the business of [`verify`](super::verify).

use super::place::{all_bytes, device_bytes};
use super::{Arena, ArenaKind, Entry, Kernel, PassInfo, Plan, Role, Slot, Tensor};
use crate::device::Limits;
use crate::dtype::DType;
use crate::ids::TensorId;

/// More bindings than any kernel has; keeps pairwise checks of one pass short.
pub const MAX_BINDINGS: usize = 32;
/// More entries than a plan has buckets.
pub const MAX_ENTRIES: usize = 1024;
/// More steps than the entries of a plan have together.
pub const MAX_STEPS: usize = 1 << 20;

/// What is wrong with a plan's shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Malformed {
    /// The part of the plan, for example "entry `decode`, pass `l3/mlp/up`".
    pub place: String,
    /// What is there and what should be.
    pub message: String,
}

type Checked = Result<(), Malformed>;

fn wrong<T>(place: impl Into<String>, message: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed {
        place: place.into(),
        message: message.into(),
    })
}

impl Plan {
    /// Checks every id, range and limit; the first thing wrong is the error.
    pub fn validate(&self) -> Checked {
        if self.entries.len() > MAX_ENTRIES {
            return wrong(
                "plan",
                format!("{} entries, more than {MAX_ENTRIES}", self.entries.len()),
            );
        }
        let steps = self.entries.iter().fold(0usize, |sum, entry| {
            let rounds = usize::try_from(entry.repeat).unwrap_or(usize::MAX);
            sum.saturating_add(entry.steps.len().saturating_mul(rounds))
        });
        if steps > MAX_STEPS {
            return wrong("plan", format!("{steps} steps, more than {MAX_STEPS}"));
        }
        if !self.limits.min_storage_alignment.is_power_of_two() {
            return wrong(
                "limits",
                "the storage buffer alignment is not a power of two",
            );
        }
        for (id, arena) in self.arenas.enumerate() {
            if arena.bytes == 0 || arena.bytes > self.limits.max_allocation {
                let limit = self.limits.max_allocation;
                return wrong(
                    format!("arena {}", id.0),
                    format!("{} bytes, not in 1..={limit}", arena.bytes),
                );
            }
        }
        let memory = [
            (
                self.limits.device_memory,
                device_bytes(&self.arenas),
                "device",
            ),
            (
                self.limits.all_memory,
                all_bytes(&self.arenas),
                "host and device",
            ),
        ];
        for (limit, bytes, what) in memory {
            if limit.is_some_and(|limit| bytes > limit) {
                return wrong(
                    "memory",
                    format!("{bytes} bytes of {what} memory, more than there are"),
                );
            }
        }
        if let Some(id) = self.relay {
            let arena = self.arenas.get(id);
            if arena.is_none_or(|arena| arena.kind != ArenaKind::State) {
                return wrong("relay", format!("arena {} is no state arena", id.0));
            }
        }
        for (id, kernel) in self.kernels.enumerate() {
            kernel_fits(kernel, &self.limits)
                .and_then(|()| match (&kernel.relays, self.relay) {
                    (Some(_), None) => Err("it relays, but the plan has no cells".into()),
                    _ => Ok(()),
                })
                .or_else(|message| wrong(format!("kernel {} `{}`", id.0, kernel.label), message))?;
        }
        for weight in &self.weights {
            let place = || format!("weight `{}`", weight.name);
            let Some(bytes) = weight.dtype.size_of(&weight.shape) else {
                return wrong(place(), "its type and shape have no size in bytes");
            };
            let arena = self
                .arenas
                .get(weight.arena)
                .filter(|arena| matches!(arena.kind, ArenaKind::Weight | ArenaKind::HostWeight));
            let Some(arena) = arena else {
                return wrong(place(), "no such weight arena");
            };
            inside(weight.offset, bytes, arena, &self.limits)
                .or_else(|message| wrong(place(), message))?;
        }
        self.entries.iter().try_for_each(|entry| self.entry(entry))
    }

    fn entry(&self, entry: &Entry) -> Checked {
        if entry.repeat == 0 {
            return wrong(format!("entry `{}`", entry.name), "it runs 0 rounds");
        }
        let place = |what: &str, name: &str| format!("entry `{}`, {what} `{name}`", entry.name);
        for (id, tensor) in entry.tensors.enumerate() {
            self.tensor(entry, id, tensor)
                .or_else(|message| wrong(place("tensor", &tensor.name), message))?;
        }
        for pass in &entry.passes {
            self.pass(entry, pass)
                .or_else(|message| wrong(place("pass", &pass.path), message))?;
        }
        if let Some(guard) = entry.guard {
            let fits = |tensor: &Tensor| {
                tensor.role == Role::State
                    && tensor.dtype == DType::U32
                    && tensor.bytes >= 4
                    && tensor.offset.is_multiple_of(4)
            };
            if !entry.tensors.get(guard).is_some_and(fits) {
                return wrong(
                    format!("entry `{}`", entry.name),
                    format!("its guard, tensor {}, is no u32 in state", guard.0),
                );
            }
        }
        for step in &entry.steps {
            if let super::Step::Dispatch(pass) = step
                && entry.passes.get(*pass).is_none()
            {
                return wrong(
                    format!("entry `{}`", entry.name),
                    format!("a step runs pass {}, which is not there", pass.0),
                );
            }
        }
        let lists = [("input", &entry.inputs), ("output", &entry.outputs)];
        for (what, id) in lists
            .iter()
            .flat_map(|(what, ids)| ids.iter().map(move |id| (*what, id)))
        {
            let root = entry
                .tensors
                .get(*id)
                .and_then(|tensor| match tensor.view_of {
                    None => Some(tensor),
                    Some(root) => entry.tensors.get(root),
                });
            let wanted = if what == "input" {
                Role::Input
            } else {
                Role::Output
            };
            if root.is_none_or(|root| root.role != wanted) {
                return wrong(
                    format!("entry `{}`", entry.name),
                    format!("tensor {} is no {what}", id.0),
                );
            }
        }
        Ok(())
    }

    fn tensor(&self, entry: &Entry, id: TensorId, tensor: &Tensor) -> Result<(), String> {
        let Some(arena) = self.arenas.get(tensor.arena) else {
            return Err(format!("arena {} is not there", tensor.arena.0));
        };
        let bytes = tensor.dtype.size_of(&tensor.shape);
        if bytes != Some(tensor.bytes) || tensor.bytes == 0 {
            return Err(format!(
                "{} bytes do not match {} {:?}",
                tensor.bytes, tensor.dtype, tensor.shape
            ));
        }
        let stride = match tensor.slot {
            Slot::Fixed => 0,
            Slot::Same { stride } | Slot::Other { stride } => stride,
        };
        if tensor.slot != Slot::Fixed
            && (stride < tensor.bytes || !stride.is_multiple_of(self.limits.min_storage_alignment))
        {
            return Err(format!(
                "slots {stride} bytes apart for {} bytes",
                tensor.bytes
            ));
        }
        let last = tensor
            .offset
            .checked_add(stride)
            .ok_or("an offset past 2^64")?;
        inside(tensor.offset, tensor.bytes, arena, &self.limits)?;
        inside(last, tensor.bytes, arena, &self.limits)?;
        match (tensor.role, tensor.view_of) {
            (Role::View, Some(root)) => {
                let root = entry
                    .tensors
                    .get(root)
                    .filter(|found| root != id && found.view_of.is_none());
                let root = root.ok_or("a view of what is not there or a view itself")?;
                let (start, end) = (tensor.offset, tensor.offset + tensor.bytes);
                let within = start >= root.offset && end <= root.offset.saturating_add(root.bytes);
                if !within || root.arena != tensor.arena || root.slot != tensor.slot {
                    return Err(format!("not inside `{}`, which it looks into", root.name));
                }
                Ok(())
            }
            (Role::View, None) | (_, Some(_)) => {
                Err("its role and what it looks into disagree".into())
            }
            (role, None) if role_fits(role, arena.kind, tensor.slot) => Ok(()),
            (role, None) => Err(format!(
                "{role:?} with {:?} in an arena for {:?}",
                tensor.slot, arena.kind
            )),
        }
    }

    fn pass(&self, entry: &Entry, pass: &PassInfo) -> Result<(), String> {
        let kernel = self
            .kernels
            .get(pass.kernel)
            .ok_or_else(|| format!("kernel {} is not there", pass.kernel.0))?;
        if pass.push.len() as u64 != u64::from(kernel.push_bytes) {
            return Err(format!(
                "{} push constant bytes for the {} of its kernel",
                pass.push.len(),
                kernel.push_bytes
            ));
        }
        let relay = &pass.relay;
        let cells = [
            relay.waits.map(|(cell, _)| cell),
            relay.signals,
            relay.clears,
        ];
        let room = self.relay.and_then(|arena| self.arenas.get(arena));
        let room = room.map_or(0, |arena| arena.bytes / 4);
        for cell in cells.into_iter().flatten() {
            if kernel.relays.is_none() || u64::from(cell) >= room {
                return Err(format!(
                    "it uses cell {cell} of {room}, with a kernel that {}",
                    if kernel.relays.is_some() {
                        "relays"
                    } else {
                        "does not relay"
                    }
                ));
            }
        }
        for (axis, count) in pass.groups.iter().enumerate() {
            let limit = self.limits.max_workgroup_count[axis];
            if *count == 0 || *count > limit {
                return Err(format!(
                    "{count} workgroups on axis {axis}, not in 1..={limit}"
                ));
            }
        }
        let buffers = kernel.storage_buffers();
        if pass.binds.len() > MAX_BINDINGS || buffers > u64::from(self.limits.max_storage_buffers) {
            return Err(format!(
                "{} bindings and {buffers} storage buffers, more than the device has",
                pass.binds.len()
            ));
        }
        for (index, bind) in pass.binds.iter().enumerate() {
            let port = &bind.port;
            let tensor = entry
                .tensors
                .get(bind.tensor)
                .ok_or_else(|| format!("`{port}` binds a tensor that is not there"))?;
            if tensor.bytes > self.limits.max_storage_buffer_range {
                return Err(format!("`{port}` binds {} bytes at once", tensor.bytes));
            }
            if pass.binds[..index]
                .iter()
                .any(|other| other.binding == bind.binding)
            {
                return Err(format!("binding {} is bound twice", bind.binding));
            }
            if let Some(from) = bind.in_place {
                let from = pass.binds.iter().find(|other| other.binding == from);
                if !bind.access.writes() || from.is_none_or(|from| from.access.writes()) {
                    return Err(format!(
                        "`{port}` takes over the bytes of a binding that is not read-only"
                    ));
                }
            }
        }
        let bound = |binding: u32, access| {
            pass.binds
                .iter()
                .any(|bind| bind.binding == binding && bind.access == access)
        };
        let same = kernel.bindings.len() == pass.binds.len()
            && kernel.bindings.iter().all(|(b, access)| bound(*b, *access));
        if same {
            Ok(())
        } else {
            Err(format!(
                "its bindings are not those of kernel `{}`",
                kernel.label
            ))
        }
    }
}

/// Where a role may lie and how its place may depend on the parity.
fn role_fits(role: Role, kind: ArenaKind, slot: Slot) -> bool {
    match role {
        Role::Input => kind == ArenaKind::Input && matches!(slot, Slot::Same { .. }),
        Role::Output => kind == ArenaKind::Output && matches!(slot, Slot::Same { .. }),
        Role::Carry => kind == ArenaKind::Carry && matches!(slot, Slot::Same { .. }),
        Role::CarryNext => kind == ArenaKind::Carry && matches!(slot, Slot::Other { .. }),
        Role::Weight => {
            matches!(kind, ArenaKind::Weight | ArenaKind::HostWeight) && slot == Slot::Fixed
        }
        Role::State | Role::Scratch => kind == ArenaKind::State && slot == Slot::Fixed,
        Role::Transient => kind == ArenaKind::Transient && slot == Slot::Fixed,
        Role::View => false,
    }
}

fn inside(offset: u64, bytes: u64, arena: &Arena, limits: &Limits) -> Result<(), String> {
    match offset.checked_add(bytes) {
        Some(end) if end <= arena.bytes => {}
        _ => {
            return Err(format!(
                "bytes {offset}..+{bytes} leave an arena of {} bytes",
                arena.bytes
            ));
        }
    }
    if !offset.is_multiple_of(limits.min_storage_alignment) {
        return Err(format!(
            "offset {offset} is no multiple of {}",
            limits.min_storage_alignment
        ));
    }
    Ok(())
}

fn kernel_fits(kernel: &Kernel, limits: &Limits) -> Result<(), String> {
    let invocations = kernel
        .local_size
        .iter()
        .try_fold(1u32, |all, size| all.checked_mul(*size));
    let sizes = kernel.local_size.iter().zip(limits.max_workgroup_size);
    if sizes
        .clone()
        .any(|(size, limit)| *size == 0 || *size > limit)
        || invocations.is_none_or(|all| all > limits.max_invocations)
    {
        return Err(format!(
            "workgroup size {:?} is past the device's limits",
            kernel.local_size
        ));
    }
    if kernel.shared_bytes > limits.max_shared_memory {
        return Err(format!(
            "{} bytes of shared memory, more than {}",
            kernel.shared_bytes, limits.max_shared_memory
        ));
    }
    if kernel.push_size() > limits.max_push_constants {
        return Err(format!(
            "{} push constant bytes, more than {}",
            kernel.push_size(),
            limits.max_push_constants
        ));
    }
    Ok(())
}
