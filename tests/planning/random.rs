//! Random graphs, and numbers for their inputs and weights.

use arbtest::arbitrary::{Result, Unstructured};
use graphc::dtype::DType;
use graphc::graph::{Class, Graph};
use graphc::kernel::Access;
use graphc::plan::Weight;

use super::Builder;

/// Names and sizes that all entries of one plan agree on.
struct Shared {
    weights: Vec<u64>,
    states: Vec<u64>,
    /// Whether the first state is the guard.
    guarded: bool,
    carries: Vec<u64>,
}

impl Shared {
    fn random(u: &mut Unstructured) -> Result<Self> {
        let mut sizes = |most: usize| -> Result<Vec<u64>> {
            let count = u.int_in_range(0..=most)?;
            (0..count).map(|_| u.int_in_range(1..=200)).collect()
        };
        Ok(Self {
            weights: sizes(3)?,
            states: sizes(2)?,
            carries: sizes(2)?,
            guarded: u.arbitrary()?,
        })
    }
}

/// A random graph: views, in-place passes, state in place, a guard, carries, scratch, values that nobody reads; without
/// carries its body is recorded up to three times.
fn random_graph(u: &mut Unstructured, entry: usize, shared: &Shared) -> Result<Graph> {
    let mut b = Builder::new(&format!("e{entry}"));
    if shared.carries.is_empty() {
        b.graph.repeat = u.int_in_range(1..=3)?;
    }
    let mut pool = vec![b.value("x", Class::Input, u.int_in_range(1..=300)?)];
    for (i, count) in shared.weights.iter().enumerate() {
        pool.push(b.value(format!("w{i}"), Class::Weight, *count));
    }
    let states: Vec<_> = shared
        .states
        .iter()
        .enumerate()
        .map(|(i, count)| b.value(format!("s{i}"), Class::State, *count))
        .collect();
    if let Some(guard) = states.first().filter(|_| shared.guarded) {
        b.graph.values[*guard].dtype = DType::U32;
        b.graph.guard = Some(b.graph.values[*guard].name.clone());
    }
    let mut carries = Vec::new();
    for (i, count) in shared.carries.iter().enumerate() {
        let next = b.transient(format!("next{i}"), *count);
        let carry = b.value(format!("c{i}"), Class::Carry { next }, *count);
        pool.push(carry);
        carries.push(next);
    }
    let mut written = Vec::new();
    for index in 0..u.int_in_range(1..=14)? {
        let mut ports = Vec::new();
        for _ in 0..u.int_in_range(1..=3)? {
            // Recent values more often, so that long paths arise.
            let back = if u.ratio(2, 3)? {
                u.int_in_range(0..=pool.len().min(3) - 1)?
            } else {
                u.int_in_range(0..=pool.len() - 1)?
            };
            let value = pool[pool.len() - 1 - back];
            if !ports.iter().any(|(other, _, _)| *other == value) {
                ports.push((value, Access::Read, None));
            }
        }
        if !states.is_empty() && u.ratio(1, 3)? {
            let access = *u.choose(&[Access::Read, Access::ReadWrite])?;
            ports.push((*u.choose(&states)?, access, None));
        }
        if u.ratio(1, 5)? {
            ports.push((
                b.value(
                    format!("scratch{index}"),
                    Class::Scratch,
                    u.int_in_range(1..=40)?,
                ),
                Access::ReadWrite,
                None,
            ));
        }
        let in_place = u.ratio(1, 2)?;
        let first = b.graph.values[ports[0].0].shape[0];
        let count = if in_place {
            first
        } else {
            u.int_in_range(1..=300)?
        };
        let out = match carries.pop() {
            Some(next) if index > 1 || u.ratio(1, 2)? => next,
            other => {
                carries.extend(other);
                b.transient(format!("t{index}"), count)
            }
        };
        ports.push((out, Access::Write, in_place.then_some(0)));
        b.ports(format!("pass{index}"), ports);
        pool.push(out);
        if !b.graph.values[out].name.starts_with("next") {
            written.push(out);
        }
        if count > 8 && u.ratio(1, 4)? && b.graph.values[out].shape[0] > 8 {
            let view = b.view(format!("t{index}.part"), out, 4, u.int_in_range(1..=4)?);
            pool.push(view);
        }
    }
    for (index, next) in carries.into_iter().enumerate() {
        b.pass(format!("carry{index}"), &[pool[0]], &[next], false);
    }
    if !written.is_empty() {
        for _ in 0..u.int_in_range(0..=2)? {
            let value = *u.choose(&written)?;
            if !b.graph.outputs.contains(&value) {
                b.output(value);
            }
        }
    }
    Ok(b.graph)
}

pub fn random_graphs(u: &mut Unstructured) -> Result<Vec<Graph>> {
    let shared = Shared::random(u)?;
    (0..u.int_in_range(1..=3)?)
        .map(|entry| random_graph(u, entry, &shared))
        .collect()
}

/// The bytes of so many small numbers, different ones for each salt.
pub fn numbers(count: u64, salt: u64) -> Vec<u8> {
    (0..count)
        .flat_map(|i| (((i * 7 + salt * 13) % 31) as f32 / 8.0 - 1.0).to_le_bytes())
        .collect()
}

/// The bytes of a weight.
pub fn weight(weight: &Weight) -> Vec<u8> {
    numbers(
        weight.shape.iter().product(),
        weight.name.len() as u64 + weight.offset,
    )
}
