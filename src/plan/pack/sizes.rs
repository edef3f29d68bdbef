//! What no placement can help: values that are larger than a binding or an allocation of the device, views that start
//! where it cannot bind.

use super::Packer;
use crate::codes::plan as codes;
use crate::diag::{Code, Diagnostic};
use crate::graph::{Class, Graph, Pass, ValueInfo};

impl Packer<'_> {
    /// What a pass binds must fit one binding, and what lies somewhere must fit one allocation.
    pub(super) fn check_sizes(&mut self, graph: &Graph) {
        for pass in &graph.passes {
            for port in &pass.ports {
                let info = &graph.values[port.value];
                let limit = self.limits.max_storage_buffer_range;
                let aligned = self.limits.min_storage_alignment.max(1);
                if let Some((_, first)) = info
                    .view
                    .filter(|(_, first)| !first.is_multiple_of(aligned))
                {
                    self.found.push(unaligned(pass, info, first, aligned));
                }
                if info.bytes().is_none_or(|bytes| bytes > limit) {
                    let message = format!(
                        "`{}` reads or writes `{}`, {}: more than the {limit} bytes that the device binds at once",
                        pass.path,
                        info.name,
                        size(info)
                    );
                    self.found
                        .push(too_large(codes::OVER_BINDING, info, message));
                }
            }
        }
        for info in graph.values.iter().filter(|info| info.view.is_none()) {
            let slots = if matches!(
                info.class,
                Class::Input | Class::Output | Class::Carry { .. }
            ) {
                2
            } else {
                1
            };
            let limit = self.capacity(slots);
            if info.bytes().is_none_or(|bytes| bytes > limit) {
                let message = format!(
                    "`{}`, {}, is more than the {limit} bytes that one allocation of the device has for it",
                    info.name,
                    size(info)
                );
                self.found
                    .push(too_large(codes::OVER_ALLOCATION, info, message));
            }
        }
    }
}

fn size(info: &ValueInfo) -> String {
    let bytes = info.bytes().map_or("more than 2^64 bytes".into(), |bytes| {
        format!("{bytes} bytes")
    });
    format!("{} {:?} = {bytes}", info.dtype, info.shape)
}

fn too_large(code: Code, info: &ValueInfo, message: String) -> Diagnostic {
    Diagnostic::error(code, message)
        .at(info.origin.span, "this tensor")
        .help("compile a smaller entry (fewer rows), or for a profile with a larger limit")
}

fn unaligned(pass: &Pass, info: &ValueInfo, first: u64, aligned: u64) -> Diagnostic {
    let message = format!(
        "`{}` binds the view `{}`, which starts at byte {first}; the device binds at multiples of {aligned}",
        pass.path, info.name
    );
    Diagnostic::error(codes::UNALIGNED_VIEW, message)
        .at(info.origin.span, "this view")
        .help("cut along an outer dimension, or let the kernel read the whole value")
}
