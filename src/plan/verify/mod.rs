//! The proof: a plan computes what its graph says, whatever order the device takes inside a wave.
//!
//! In: a plan, from the planner or from a file. Out: a [`Proof`], or every [`Violation`] found. Shares no code with
//! `schedule`, `live`, `pack`, `sync` and `lower`: it believes only the plan's own bytes, and it checks the plan it is
//! given, not every plan there could be (the idea of regalloc2's checker). What is proved:
//!
//! 1. Shape: every id and range is good and obeys the limits ([`Plan::validate`]).
//! 2. Steps: every pass runs once; cuts and the barrier for the host stand where they may; passes that a guard lets out
//!    come after it is written and write no output.
//! 3. Contents: simulating three submits (parity 0, 1, 0) of one round, or of two if a submit has several, every byte that a pass reads was last written for exactly
//!    the tensor it reads, by this submit, the host or the submit before (carry, state); outputs and the next values of
//!    carries are written whole. Transient memory and outputs are forgotten when a submit or a round starts.
//! 4. Order: two accesses to common bytes, one a write, have a barrier between them that is strong enough, also across
//!    submits of any two entries in any order and across the rounds of one. Passes without a barrier between them do not conflict at all, so step 3
//!    holds for every order inside a wave.
//! 5. Sharing: weights, state and carries of one name are the same bytes in every entry; what the host touches for one
//!    parity is disjoint from what any entry touches for the other.
//! 6. Relays: where passes wait for each other in their own code, they wait for what a barrier would wait for.
//!
//! [`verify_against`] adds that an entry runs the passes of its graph on the values of its graph.

mod against;
mod bytes;
mod contents;
mod order;
mod relay;
mod sharing;

use std::collections::BTreeSet;

use crate::ids::{IdVec, PassId, TensorId};

pub use self::against::verify_against;
use super::{Barrier, Entry, PassInfo, Plan, Role, Step, Tensor};

/// Violations after which we stop looking: the first few say what is wrong.
const MAX_VIOLATIONS: usize = 32;

/// Which part of the proof failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An id, range or limit.
    Shape,
    /// A pass that runs twice or never, a cut or host barrier in a wrong place.
    Steps,
    /// A read of bytes that hold something else.
    Contents,
    /// Two accesses without a sufficient barrier between them.
    Order,
    /// Memory that entries or parities share but must not, or must share but do not.
    Sharing,
    /// A pass that waits in its own code for something else than the pass before it.
    Relay,
    /// A difference between a plan and its graph.
    Graph,
}

/// One reason why a plan is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("entry `{entry}`: {message}")]
pub struct Violation {
    /// Which part of the proof failed.
    pub rule: Rule,
    /// The entry.
    pub entry: String,
    /// The pass, if one is to blame.
    pub pass: Option<String>,
    /// The tensor, if one is to blame.
    pub tensor: Option<String>,
    /// One sentence that names both sides.
    pub message: String,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Entries.
    pub entries: u64,
    /// Passes of all entries.
    pub passes: u64,
    /// Barriers of all entries.
    pub barriers: u64,
    /// Reads and writes that were compared, both parities.
    pub accesses: u64,
}

/// Collects violations up to a limit, each once.
#[derive(Default)]
struct Found(BTreeSet<Violation>);

impl Found {
    fn add(
        &mut self,
        rule: Rule,
        entry: &Entry,
        pass: Option<PassId>,
        tensor: Option<TensorId>,
        message: String,
    ) {
        if self.0.len() < MAX_VIOLATIONS {
            self.0.insert(Violation {
                rule,
                entry: entry.name.clone(),
                pass: pass
                    .and_then(|pass| entry.passes.get(pass))
                    .map(|pass| pass.path.clone()),
                tensor: tensor
                    .and_then(|tensor| entry.tensors.get(tensor))
                    .map(|tensor| tensor.name.clone()),
                message,
            });
        }
    }

    fn result(self) -> Result<(), Vec<Violation>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.0.into_iter().collect())
        }
    }
}

/// Proves a plan right, or says why it is not.
pub fn verify(plan: &Plan) -> Result<Proof, Vec<Violation>> {
    plan.validate().map_err(|malformed| {
        vec![Violation {
            rule: Rule::Shape,
            entry: String::new(),
            pass: None,
            tensor: None,
            message: malformed.to_string(),
        }]
    })?;
    let mut found = Found::default();
    for entry in &plan.entries {
        steps(entry, &mut found);
        guards(entry, &mut found);
        contents::check(plan, entry, &mut found);
    }
    order::check(plan, &mut found);
    sharing::check(plan, &mut found);
    relay::check(plan, &mut found);
    found.result()?;
    let count = |of: fn(&Entry) -> usize| plan.entries.iter().map(|entry| of(entry) as u64).sum();
    Ok(Proof {
        entries: plan.entries.len() as u64,
        passes: count(|entry| entry.passes.len()),
        barriers: count(|entry| {
            entry
                .steps
                .iter()
                .filter(|step| matches!(step, Step::Barrier(_)))
                .count()
        }),
        accesses: 2 * count(|entry| entry.passes.iter().map(|pass| pass.binds.len()).sum()),
    })
}

/// Every pass runs once; the barrier for the host is last, and there if the host reads; cuts separate dispatches; no
/// two barriers follow each other.
fn steps(entry: &Entry, found: &mut Found) {
    let mut runs: IdVec<PassId, u32> = entry.passes.iter().map(|_| 0).collect();
    let mut say = |pass, message: String| found.add(Rule::Steps, entry, pass, None, message);
    let mut before: Option<&Step> = None;
    for (index, step) in entry.steps.iter().enumerate() {
        let last = index + 1 == entry.steps.len();
        match (step, before) {
            (Step::Dispatch(pass), _) => runs[*pass] += 1,
            (Step::Barrier(Barrier::Host), Some(Step::Dispatch(_))) if last => {}
            (Step::Barrier(Barrier::Host), _) => say(
                None,
                format!("step {index} is a barrier for the host, not the end"),
            ),
            (Step::Barrier(_), Some(Step::Barrier(_))) => {
                say(None, format!("step {index} is a barrier after a barrier"))
            }
            (Step::Barrier(_), _) if last => {
                say(None, format!("step {index} is a barrier before nothing"))
            }
            (Step::Barrier(_), _) => {}
            (Step::Cut, Some(Step::Dispatch(_))) if !last => {}
            (Step::Cut, None) if entry.repeat > 1 && !last => {}
            (Step::Cut, _) => say(
                None,
                format!("step {index} cuts where no dispatch ends before and starts after"),
            ),
        }
        before = Some(step);
    }
    let carry = entry
        .tensors
        .iter()
        .find(|tensor| tensor.role == Role::Carry);
    if let (2.., Some(carry)) = (entry.repeat, carry) {
        say(
            None,
            format!(
                "{} rounds share a recording, and {} turns with every submit",
                entry.repeat,
                describe(carry)
            ),
        );
    }
    for (pass, runs) in runs.enumerate().filter(|(_, runs)| **runs != 1) {
        say(
            Some(pass),
            format!(
                "pass `{}` runs {runs} times instead of once",
                entry.passes[pass].path
            ),
        );
    }
    let host = matches!(entry.steps.last(), Some(Step::Barrier(Barrier::Host)));
    if host == entry.outputs.is_empty() {
        let what = if host {
            "there is a barrier for the host"
        } else {
            "there is no barrier for the host"
        };
        say(
            None,
            format!("{what}, which reads {} outputs", entry.outputs.len()),
        );
    }
}

/// What is guarded comes after the guard is written, which is itself not guarded, and writes no output: whoever needs
/// it, a round that has nothing to do gives it all the same.
fn guards(entry: &Entry, found: &mut Found) {
    let guard = entry.guard.map(|guard| root(entry, guard));
    let writes = |pass: &PassInfo, wanted: &dyn Fn(TensorId) -> bool| {
        pass.binds
            .iter()
            .any(|bind| bind.access.writes() && wanted(root(entry, bind.tensor)))
    };
    let mut decided = false;
    for step in &entry.steps {
        let Step::Dispatch(id) = step else { continue };
        let pass = &entry.passes[*id];
        let decides = writes(pass, &|tensor| Some(tensor) == guard);
        decided |= decides && !pass.guarded;
        let wrong = match (pass.guarded, guard) {
            (false, _) => None,
            (true, None) => Some("there is no guard"),
            (true, Some(_)) if decides => Some("it writes the guard"),
            (true, Some(_)) if !decided => Some("no pass before it writes the guard"),
            (true, Some(_)) => writes(pass, &|tensor| entry.tensors[tensor].role == Role::Output)
                .then_some("it writes an output"),
        };
        if let Some(wrong) = wrong {
            let message = format!("pass `{}` is guarded, but {wrong}", pass.path);
            found.add(Rule::Steps, entry, Some(*id), entry.guard, message);
        }
    }
}

/// The tensor whose bytes a tensor shows: itself unless it is a view.
fn root(entry: &Entry, tensor: TensorId) -> TensorId {
    entry.tensors[tensor].view_of.unwrap_or(tensor)
}

fn describe(tensor: &Tensor) -> String {
    format!("`{}` ({:?})", tensor.name, tensor.role)
}
