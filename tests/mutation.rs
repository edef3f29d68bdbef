//! Is the verifier worth its name? A plan that is right is made wrong in one place at a time; the verifier must say no,
//! for the right reason, and name a pass or tensor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod planning;

use graphc::dtype::DType;
use graphc::graph::Class;
use graphc::ids::{ArenaId, Id, PassId, TensorId};
use graphc::kernel::Access;
use graphc::plan::verify::{Rule, Violation, verify, verify_against};
use graphc::plan::{Barrier, Plan, Role, Slot, Step};
use planning::{Builder, bert, plan};

fn bert_plan() -> Plan {
    plan(&[
        bert("batch=4,seq=64", 12, 256, 64),
        bert("batch=1,seq=64", 12, 64, 64),
    ])
}

/// Asserts that the verifier rejects `mutant` under one of `rules`, and names who is to blame.
fn rejected(mutant: &Plan, rules: &[Rule], what: &str) -> Vec<Violation> {
    let violations = verify(mutant).expect_err(what);
    let named = |v: &Violation| v.rule == Rule::Shape || v.pass.is_some() || v.tensor.is_some();
    assert!(
        violations
            .iter()
            .any(|v| rules.contains(&v.rule) && named(v)),
        "{what}: {violations:#?}"
    );
    violations
}

fn barriers(plan: &Plan, entry: usize) -> Vec<(usize, Barrier)> {
    let steps = plan.entries[entry].steps.iter().enumerate();
    let found = steps.filter_map(|(at, step)| match step {
        Step::Barrier(barrier) if *barrier != Barrier::Host => Some((at, *barrier)),
        _ => None,
    });
    found.collect()
}

#[test]
fn the_plan_itself_is_right() {
    let proof = verify(&bert_plan()).unwrap();
    assert_eq!((proof.entries, proof.passes), (2, 2 * 62));
}

#[test]
fn every_dropped_barrier_is_found() {
    let plan = bert_plan();
    for entry in 0..plan.entries.len() {
        // 61 edges between waves, and one before the first wave: `embed` writes where the last submit read.
        assert!(barriers(&plan, entry).len() >= 61);
        for (at, _) in barriers(&plan, entry) {
            let mut mutant = plan.clone();
            mutant.entries[entry].steps.remove(at);
            rejected(
                &mutant,
                &[Rule::Order],
                &format!("barrier at step {at} dropped"),
            );
        }
    }
}

#[test]
fn every_weakened_barrier_is_found() {
    let plan = bert_plan();
    for (at, barrier) in barriers(&plan, 0) {
        if barrier == Barrier::Memory {
            let mut mutant = plan.clone();
            mutant.entries[0].steps[at] = Step::Barrier(Barrier::Execution);
            rejected(
                &mutant,
                &[Rule::Order],
                &format!("barrier at step {at} weakened"),
            );
        }
    }
}

#[test]
fn every_swapped_pair_of_neighbouring_waves_is_found() {
    let plan = bert_plan();
    let dispatches: Vec<usize> = (0..plan.entries[0].steps.len())
        .filter(|at| matches!(plan.entries[0].steps[*at], Step::Dispatch(_)))
        .collect();
    for pair in dispatches.windows(2) {
        let mut mutant = plan.clone();
        mutant.entries[0].steps.swap(pair[0], pair[1]);
        rejected(
            &mutant,
            &[Rule::Contents],
            &format!("steps {pair:?} swapped"),
        );
    }
}

/// The bytes of every other tensor that lives in a common wave are off limits.
#[test]
fn every_offset_moved_onto_a_live_neighbour_is_found() {
    let plan = bert_plan();
    let entry = &plan.entries[0];
    // Tensors that one pass binds together are live together.
    for pass in &entry.passes {
        for one in &pass.binds {
            for other in &pass.binds {
                let (a, b) = (&entry.tensors[one.tensor], &entry.tensors[other.tensor]);
                let apart = a.offset != b.offset && one.tensor != other.tensor;
                if a.role == Role::Transient && b.role == Role::Transient && apart {
                    let offset = b.offset;
                    if offset + a.bytes <= plan.arenas[a.arena].bytes {
                        let mut mutant = plan.clone();
                        mutant.entries[0].tensors[one.tensor].offset = offset;
                        let what = format!("`{}` moved onto `{}`", a.name, b.name);
                        rejected(&mutant, &[Rule::Contents, Rule::Order], &what);
                    }
                }
            }
        }
    }
}

#[test]
fn an_offset_outside_its_arena_is_found() {
    let plan = bert_plan();
    for (id, tensor) in plan.entries[0].tensors.enumerate() {
        for offset in [
            plan.arenas[tensor.arena].bytes,
            u64::MAX - 255,
            tensor.offset + 4,
        ] {
            let mut mutant = plan.clone();
            mutant.entries[0].tensors[id].offset = offset;
            rejected(
                &mutant,
                &[Rule::Shape],
                &format!("`{}` at {offset}", tensor.name),
            );
        }
    }
}

#[test]
fn every_pair_of_swapped_bindings_is_found() {
    // By the verifier where a read then meets other bytes, otherwise by the comparison with the graph.
    let graph = bert("e", 2, 64, 64);
    let plan = plan(std::slice::from_ref(&graph));
    verify_against(&graph, &plan.entries[0]).unwrap();
    for (id, pass) in plan.entries[0].passes.enumerate() {
        for one in 0..pass.binds.len() {
            for other in 0..one {
                let mut mutant = plan.clone();
                let binds = &mut mutant.entries[0].passes[id].binds;
                let (a, b) = (binds[one].tensor, binds[other].tensor);
                (binds[one].tensor, binds[other].tensor) = (b, a);
                if a != b {
                    assert!(
                        verify(&mutant).is_err()
                            || verify_against(&graph, &mutant.entries[0]).is_err(),
                        "bindings {one} and {other} of `{}` swapped",
                        pass.path
                    );
                }
            }
        }
    }
}

#[test]
fn a_pass_that_runs_twice_or_never_is_found() {
    let plan = bert_plan();
    let at = plan.entries[0]
        .steps
        .iter()
        .position(|step| matches!(step, Step::Dispatch(_)))
        .unwrap();
    let mut twice = plan.clone();
    let again = twice.entries[0].steps[at].clone();
    twice.entries[0].steps.insert(at, again);
    rejected(&twice, &[Rule::Steps], "a pass runs twice");
    let mut never = plan;
    never.entries[0].steps.remove(at);
    rejected(&never, &[Rule::Steps], "a pass never runs");
}

#[test]
fn cuts_and_host_barriers_stand_where_they_may() {
    let plan = bert_plan();
    let steps = plan.entries[0].steps.len();
    for at in [0, steps] {
        let mut mutant = plan.clone();
        mutant.entries[0].steps.insert(at, Step::Cut);
        assert!(
            verify(&mutant)
                .unwrap_err()
                .iter()
                .any(|v| v.rule == Rule::Steps),
            "cut at {at}"
        );
    }
    let mut without = plan.clone();
    without.entries[0].steps.pop();
    assert!(
        verify(&without)
            .unwrap_err()
            .iter()
            .any(|v| v.message.contains("no barrier for the host"))
    );
    let mut early = plan;
    early.entries[0]
        .steps
        .insert(3, Step::Barrier(Barrier::Host));
    assert!(
        verify(&early)
            .unwrap_err()
            .iter()
            .any(|v| v.rule == Rule::Steps)
    );
}

/// x -> a -> b -> y, with `s` updated in place and the carry `c` handed on.
fn small(entry: &str) -> graphc::graph::Graph {
    let mut b = Builder::new(entry);
    let x = b.value("x", Class::Input, 64);
    let s = b.value("s", Class::State, 64);
    let s2 = b.value("s2", Class::State, 64);
    let next = b.transient("next", 64);
    let c = b.value("c", Class::Carry { next }, 64);
    let t = b.transient("t", 64);
    let u = b.transient("u", 64);
    let y = b.transient("y", 64);
    b.ports(
        "a",
        vec![
            (x, Access::Read, None),
            (s, Access::ReadWrite, None),
            (s2, Access::Read, None),
            (t, Access::Write, None),
        ],
    );
    b.pass("b", &[t], &[u], true);
    b.pass("c", &[u, c], &[next], false);
    b.pass("d", &[u], &[y], false);
    b.output(y);
    b.graph
}

fn tensor(plan: &Plan, entry: usize, name: &str) -> TensorId {
    plan.entries[entry]
        .tensors
        .enumerate()
        .find(|(_, tensor)| tensor.name == name)
        .unwrap()
        .0
}

#[test]
fn an_in_place_result_that_is_not_declared_is_found() {
    let plan = plan(&[small("e")]);
    let (t, u) = (tensor(&plan, 0, "t"), tensor(&plan, 0, "u"));
    assert_eq!(
        plan.entries[0].tensors[t].offset, plan.entries[0].tensors[u].offset,
        "b is in place"
    );
    let mut mutant = plan;
    for pass in mutant.entries[0].passes.iter_mut() {
        pass.binds.iter_mut().for_each(|bind| bind.in_place = None);
    }
    rejected(&mutant, &[Rule::Order], "in place without saying so");
}

#[test]
fn a_carry_that_does_not_flip_is_found() {
    let plan = plan(&[small("e")]);
    verify(&plan).unwrap();
    let next = tensor(&plan, 0, "next");
    let Slot::Other { stride } = plan.entries[0].tensors[next].slot else {
        panic!("the written side is the other slot")
    };
    for slot in [Slot::Same { stride }, Slot::Fixed] {
        let mut mutant = plan.clone();
        mutant.entries[0].tensors[next].slot = slot;
        rejected(
            &mutant,
            &[Rule::Shape],
            "the next value of a carry lies in the slot that is read",
        );
    }
    let mut alone = plan.clone();
    let t = tensor(&plan, 0, "c");
    alone.entries[0].tensors[t].name = "other".into();
    verify(&alone).unwrap();
    assert!(verify_against(&small("e"), &alone.entries[0]).is_err());
}

#[test]
fn state_that_two_entries_keep_apart_is_found() {
    let graphs = [small("e"), small("f")];
    let plan = plan(&graphs);
    verify(&plan).unwrap();
    let (s, s2) = (tensor(&plan, 1, "s"), tensor(&plan, 1, "s2"));
    let mut mutant = plan.clone();
    let (a, b) = (
        plan.entries[1].tensors[s].offset,
        plan.entries[1].tensors[s2].offset,
    );
    mutant.entries[1].tensors[s].offset = b;
    mutant.entries[1].tensors[s2].offset = a;
    rejected(
        &mutant,
        &[Rule::Sharing],
        "entries disagree where state lies",
    );
}

#[test]
fn host_slots_that_two_parities_share_are_found() {
    let plan = plan(&[small("e"), small("f")]);
    for name in ["x", "y"] {
        let id = tensor(&plan, 1, name);
        let mut mutant = plan.clone();
        let Slot::Same { stride } = mutant.entries[1].tensors[id].slot else {
            panic!("two slots")
        };
        // Entry f at parity 0 then lies where entry e is at parity 1.
        let place = &mut mutant.entries[1].tensors[id];
        let arena = place.arena;
        place.offset += stride;
        mutant.arenas[arena].bytes += stride;
        rejected(
            &mutant,
            &[Rule::Sharing],
            &format!("`{name}` of one parity on the other's slot"),
        );
    }
}

#[test]
fn a_weight_elsewhere_is_found() {
    let plan = bert_plan();
    let (a, b) = (tensor(&plan, 0, "l0/out.w"), tensor(&plan, 0, "l1/out.w"));
    let mut mutant = plan.clone();
    mutant.entries[0].tensors[a].offset = plan.entries[0].tensors[b].offset;
    rejected(
        &mutant,
        &[Rule::Sharing],
        "a weight lies where another one is",
    );
    let mut listed = plan.clone();
    listed.weights[1].offset = plan.weights[0].offset;
    assert!(verify(&listed).is_err());
    let mut written = plan;
    written.weights[0].arena = ArenaId(99);
    assert!(
        verify(&written).unwrap_err()[0]
            .message
            .contains("no such weight arena")
    );
}

#[test]
fn limits_are_kept() {
    let plan = bert_plan();
    type Change = fn(&mut Plan);
    let changes: [(&str, Change); 6] = [
        ("workgroups", |plan| {
            plan.entries[0].passes.iter_mut().next().unwrap().groups[1] = 70_000
        }),
        ("shared memory", |plan| {
            plan.kernels.iter_mut().next().unwrap().shared_bytes = 1 << 20
        }),
        ("push constants", |plan| {
            plan.kernels.iter_mut().next().unwrap().push_bytes = 4
        }),
        ("workgroup size", |plan| {
            plan.kernels.iter_mut().next().unwrap().local_size = [1024, 2, 1]
        }),
        ("binding range", |plan| {
            plan.limits.max_storage_buffer_range = 100
        }),
        ("allocation", |plan| plan.limits.max_allocation = 100),
    ];
    for (what, change) in changes {
        let mut mutant = plan.clone();
        change(&mut mutant);
        rejected(&mutant, &[Rule::Shape], what);
    }
}

#[test]
fn a_message_names_both_sides() {
    let plan = bert_plan();
    let mut mutant = plan.clone();
    let (at, _) = barriers(&plan, 0)[5];
    mutant.entries[0].steps.remove(at);
    let violations = rejected(&mutant, &[Rule::Order], "a dropped barrier");
    let pass = &violations[0].message;
    assert!(
        pass.contains("l0/down") || pass.contains("l0/up") || pass.contains("l0/out"),
        "{pass}"
    );
    assert!(pass.contains("arena"), "{pass}");
}

/// One pass that reads an input and writes an output, both with a slot for each parity.
///
/// ```text
///   x ── double ── y        round 1, round 2, .. of one submit share the slots
/// ```
fn rounds(repeat: u32) -> graphc::graph::Graph {
    let mut b = Builder::new("rounds");
    b.graph.repeat = repeat;
    let x = b.value("x", Class::Input, 64);
    let y = b.transient("y", 64);
    b.pass("double", &[x], &[y], false);
    b.output(y);
    b.graph
}

#[test]
fn a_second_round_meets_the_first_at_the_same_parity() {
    let plan = plan(&[rounds(2)]);
    assert_eq!(barriers(&plan, 0), [(0, Barrier::Memory)]);
    verify(&plan).unwrap();
    let mut weaker = plan.clone();
    weaker.entries[0].steps[0] = Step::Barrier(Barrier::Execution);
    rejected(&weaker, &[Rule::Order], "a weak barrier between rounds");
    let mut without = plan.clone();
    without.entries[0].steps.remove(0);
    rejected(&without, &[Rule::Order], "no barrier between rounds");
    let mut once = plan;
    once.entries[0].repeat = 1;
    assert!(verify_against(&rounds(2), &once.entries[0]).is_err());
    once.entries[0].repeat = 0;
    rejected(&once, &[Rule::Shape], "no round at all");
}

/// Two layers of a decoder: tokens in state, keys and values appended to a cache that the next pass reads.
fn decoder(entry: &str, repeat: u32) -> graphc::graph::Graph {
    let mut b = Builder::new(entry);
    b.graph.repeat = repeat;
    let ids = b.value("ids", Class::Input, 8);
    let progress = b.value("progress", Class::State, 8);
    let alive = b.value("alive", Class::State, 8);
    b.graph.values[alive].dtype = DType::U32;
    b.graph.guard = Some("alive".into());
    let mut h = b.transient("h", 64);
    b.ports(
        "begin",
        vec![
            (ids, Access::Read, None),
            (progress, Access::Read, None),
            (h, Access::Write, None),
            (alive, Access::ReadWrite, None),
        ],
    );
    for layer in 0..2 {
        let cache = b.value(format!("l{layer}/k"), Class::State, 256);
        let (q, y) = (
            b.transient(format!("l{layer}/q"), 64),
            b.transient(format!("l{layer}/y"), 64),
        );
        b.ports(
            format!("l{layer}/append"),
            vec![
                (h, Access::Read, None),
                (cache, Access::ReadWrite, None),
                (q, Access::Write, None),
            ],
        );
        b.ports(
            format!("l{layer}/attend"),
            vec![
                (q, Access::Read, None),
                (cache, Access::Read, None),
                (y, Access::Write, None),
            ],
        );
        h = y;
    }
    let tokens = b.transient("tokens", 8);
    b.ports(
        "sample",
        vec![
            (h, Access::Read, None),
            (progress, Access::ReadWrite, None),
            (tokens, Access::Write, None),
        ],
    );
    b.output(tokens);
    b.graph
}

#[test]
fn every_barrier_of_steps_with_state_counts() {
    // Prompt and steps share the caches, so that barriers between submits count, too.
    let graphs = [decoder("prefill", 1), decoder("steps", 4)];
    let plan = plan(&graphs);
    verify(&plan).unwrap();
    for (entry, graph) in graphs.iter().enumerate() {
        verify_against(graph, &plan.entries[entry]).unwrap();
        // Before the first pass and before each of the five after it.
        assert_eq!(barriers(&plan, entry).len(), 6);
        for (at, barrier) in barriers(&plan, entry) {
            let mut dropped = plan.clone();
            dropped.entries[entry].steps.remove(at);
            let what = format!("barrier at step {at} of {entry}");
            rejected(&dropped, &[Rule::Order], &what);
            if barrier == Barrier::Memory {
                let mut weaker = plan.clone();
                weaker.entries[entry].steps[at] = Step::Barrier(Barrier::Execution);
                rejected(&weaker, &[Rule::Order], &what);
            }
            if barrier == Barrier::Guard {
                let mut weaker = plan.clone();
                weaker.entries[entry].steps[at] = Step::Barrier(Barrier::Memory);
                rejected(&weaker, &[Rule::Order], &what);
            }
        }
    }
    let mut apart = plan.clone();
    let (one, other) = (tensor(&plan, 1, "l0/k"), tensor(&plan, 1, "l1/k"));
    apart.entries[1].tensors[one].offset = plan.entries[1].tensors[other].offset;
    apart.entries[1].tensors[other].offset = plan.entries[1].tensors[one].offset;
    rejected(&apart, &[Rule::Sharing], "another layer's cache");
}

#[test]
fn guarded_passes_follow_the_guard_and_write_no_output() {
    let mut graph = decoder("steps", 4);
    let plan = plan(std::slice::from_ref(&graph));
    let entry = &plan.entries[0];
    verify_against(&graph, entry).unwrap();
    graph.guard = Some("ids".into());
    assert!(verify_against(&graph, entry).is_err(), "another guard");
    assert_eq!(entry.guard, Some(tensor(&plan, 0, "alive")));
    // All but the first, which writes the guard, and the last, which writes an output.
    let guarded: Vec<bool> = entry.passes.iter().map(|pass| pass.guarded).collect();
    assert_eq!(guarded, [false, true, true, true, true, false]);
    let kinds: Vec<Barrier> = barriers(&plan, 0)
        .into_iter()
        .map(|(_, kind)| kind)
        .collect();
    let [guard, memory] = [Barrier::Guard, Barrier::Memory];
    assert_eq!(kinds, [guard, guard, memory, memory, memory, memory]);
    for (pass, guarded) in guarded.into_iter().enumerate() {
        let mut mutant = plan.clone();
        mutant.entries[0].passes[PassId::new(pass)].guarded = true;
        match guarded {
            true => assert!(verify(&mutant).is_ok()),
            false => {
                rejected(&mutant, &[Rule::Steps], "guarded");
            }
        }
    }
    let mut without = plan.clone();
    without.entries[0].guard = None;
    rejected(&without, &[Rule::Steps], "no guard");
    let mut other = plan.clone();
    other.entries[0].guard = Some(tensor(&plan, 0, "progress"));
    rejected(&other, &[Rule::Shape], "a guard of f32");
}

#[test]
fn a_guard_that_is_dear_in_one_entry_is_asked_in_none() {
    let mut profile = planning::profile();
    let entries = |profile: &graphc::device::DeviceProfile| {
        let mut long = decoder("long", 4);
        for value in long.values.ids().collect::<Vec<_>>() {
            if long.values[value].name.ends_with("/q") {
                long.values[value].shape = vec![1 << 16];
            }
        }
        let plan = planning::plan_within(&[decoder("short", 4), long], profile, None);
        verify(&plan).unwrap();
        plan.entries
    };
    let all = entries(&profile);
    let seconds: Vec<f64> = all
        .iter()
        .map(|entry| entry.stats.estimate_ms.unwrap() * 1e-3)
        .collect();
    assert!(2.0 * seconds[0] < seconds[1], "{seconds:?}");
    for (guard_s, asked) in [(seconds[0] / 101.0, true), (seconds[0] / 99.0, false)] {
        profile.roofs.guard_s = Some(guard_s);
        for entry in entries(&profile) {
            assert_eq!(entry.guard.is_some(), asked, "{guard_s} s, {}", entry.name);
            let guarded = entry.passes.iter().any(|pass| pass.guarded);
            assert_eq!(guarded, asked, "{guard_s} s, {}", entry.name);
        }
    }
}

#[test]
fn a_carry_does_not_turn_between_rounds() {
    let mut b = Builder::new("carried");
    let next = b.transient("next", 64);
    let old = b.value("old", Class::Carry { next }, 64);
    let y = b.transient("y", 64);
    b.pass("step", &[old], &[next], false);
    b.pass("show", &[next], &[y], false);
    b.output(y);
    let mut plan = plan(&[b.graph]);
    verify(&plan).unwrap();
    plan.entries[0].repeat = 2;
    let violations = verify(&plan).unwrap_err();
    assert!(
        violations.iter().any(|v| v.rule == Rule::Steps),
        "{violations:#?}"
    );
}

#[test]
fn rounds_are_cut_where_a_submit_would_last_too_long() {
    let profile = planning::profile();
    let long = planning::plan_within(&[rounds(3)], &profile, Some(1e-3));
    let entry = &long.entries[0];
    assert_eq!(
        entry.steps[..2],
        [Step::Cut, Step::Barrier(Barrier::Memory)]
    );
    let cuts = entry.recording().filter(|step| **step == Step::Cut).count();
    let runs = entry
        .recording()
        .filter(|step| matches!(step, Step::Dispatch(_)))
        .count();
    assert_eq!((cuts, runs, entry.stats.submits), (2, 3, 3));
    assert_eq!(
        entry.recording().last(),
        Some(&Step::Barrier(Barrier::Host))
    );
    verify(&long).unwrap();
}
