//! What outlives an entry: weights, state and carries have one place under their name, whatever entry uses them.
//!
//! Always: a name means one type, shape and recipe, and every entry hands on every carry.

use std::collections::BTreeMap;

use super::{Filling, Packer, Place, Places};
use crate::codes::plan as codes;
use crate::diag::Diagnostic;
use crate::graph::{Class, Graph, ValueInfo};
use crate::plan::live::Live;
use crate::plan::{ArenaKind, Role, Slot, Weight};

impl Packer<'_> {
    /// Weights, state and carries: one place for each name, whatever entry uses it.
    pub(super) fn named(&mut self, graphs: &[(&Graph, &Live)], role: Role, places: &mut [Places]) {
        let (kind, slots) = match role {
            Role::Weight => (ArenaKind::Weight, 1),
            Role::Carry => (ArenaKind::Carry, 2),
            _ => (ArenaKind::State, 1),
        };
        let new = |kind| Filling {
            kind,
            slots,
            used: Vec::new(),
        };
        let (mut filling, mut host) = (new(kind), new(ArenaKind::HostWeight));
        let mut at: BTreeMap<&str, (bool, usize, u64)> = BTreeMap::new();
        let mut first: BTreeMap<&str, &ValueInfo> = BTreeMap::new();
        let mut order = Vec::new();
        for (graph, live) in graphs {
            for (value, _) in live.roles.iter().filter(|(_, found)| **found == role) {
                let info = &graph.values[*value];
                match first.get(info.name.as_str()) {
                    None => {
                        let on_host = role == Role::Weight && self.to_host.contains(&info.name);
                        let filling = if on_host { &mut host } else { &mut filling };
                        let (index, offset) = self.take(filling, info.bytes().unwrap_or(u64::MAX));
                        at.insert(&info.name, (on_host, index, offset));
                        first.insert(&info.name, info);
                        order.push(info);
                    }
                    Some(other) if !same(other, info) => {
                        self.found.push(two_definitions(role, other, info))
                    }
                    Some(_) => {}
                }
            }
        }
        let arenas = [self.make(&filling), self.make(&host)];
        let place = |name: &str| {
            let (on_host, index, offset) = at[name];
            (arenas[usize::from(on_host)][index], offset)
        };
        for info in order.iter().filter(|_| role == Role::Weight) {
            let ((arena, _), offset) = place(&info.name);
            let Some(recipe) = info.recipe.clone() else {
                let message = format!(
                    "weight `{}` has no recipe: nothing says how it is made",
                    info.name
                );
                self.found.push(
                    Diagnostic::error(codes::TWO_DEFINITIONS, message)
                        .at(info.origin.span, "this weight"),
                );
                continue;
            };
            let (name, dtype, shape) = (info.name.clone(), info.dtype, info.shape.clone());
            self.weights.push(Weight {
                name,
                dtype,
                shape,
                recipe,
                arena,
                offset,
            });
        }
        for ((graph, live), places) in graphs.iter().zip(places) {
            for (value, _) in live.roles.iter().filter(|(_, found)| **found == role) {
                let info = &graph.values[*value];
                let ((arena, stride), offset) = place(&info.name);
                let bytes = info.bytes().unwrap_or(u64::MAX);
                let slot = if role == Role::Carry {
                    Slot::Same { stride }
                } else {
                    Slot::Fixed
                };
                places.insert(
                    *value,
                    Place {
                        role,
                        arena,
                        offset,
                        bytes,
                        slot,
                    },
                );
                if let Class::Carry { next } = info.class {
                    if graph.values[next].bytes() != info.bytes() {
                        self.found
                            .push(two_definitions(role, info, &graph.values[next]));
                    }
                    let slot = Slot::Other { stride };
                    places.insert(
                        next,
                        Place {
                            role: Role::CarryNext,
                            arena,
                            offset,
                            bytes,
                            slot,
                        },
                    );
                }
            }
        }
        self.check_carries(graphs, role, &first);
    }

    /// The parity turns with every submit, so an entry that left a carry alone would hand on the older slot.
    fn check_carries(
        &mut self,
        graphs: &[(&Graph, &Live)],
        role: Role,
        all: &BTreeMap<&str, &ValueInfo>,
    ) {
        for (graph, live) in graphs.iter().filter(|_| role == Role::Carry) {
            let carries = live.roles.iter().filter(|(_, found)| **found == role);
            let names: Vec<&str> = carries
                .map(|(value, _)| graph.values[*value].name.as_str())
                .collect();
            for (name, info) in all.iter().filter(|(name, _)| !names.contains(*name)) {
                let message = format!(
                    "entry `{}` does not hand on the carry `{name}` that another entry has",
                    graph.entry
                );
                let diagnostic = Diagnostic::error(codes::CARRY_LOST, message)
                    .at(info.origin.span, "this carry");
                self.found
                    .push(diagnostic.help("use the carry in every entry of the graph"));
            }
        }
    }
}

fn same(a: &ValueInfo, b: &ValueInfo) -> bool {
    a.dtype == b.dtype && a.shape == b.shape && a.recipe == b.recipe
}

fn two_definitions(role: Role, first: &ValueInfo, second: &ValueInfo) -> Diagnostic {
    let what = match role {
        Role::Weight => "weight",
        Role::Carry => "carry",
        _ => "state",
    };
    let message = format!(
        "{what} `{}` is {} {:?}, but {} {:?} or made another way elsewhere; one name has one place",
        first.name, first.dtype, first.shape, second.dtype, second.shape
    );
    Diagnostic::error(codes::TWO_DEFINITIONS, message)
        .at(second.origin.span, "the second definition")
        .at(first.origin.span, "the first definition")
        .help("give the two different names, or the same type, sizes and recipe")
}
