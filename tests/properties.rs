//! Random graphs through the planner: whatever the graph, the verifier accepts the plan, the waves are as few as the
//! longest dependency path, and sharing never costs memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/cpu.rs"]
mod cpu;
mod planning;

use std::collections::BTreeMap;

use graphc::graph::Graph;
use graphc::ids::Id;
use graphc::interp::{Interpreter, Placement};
use graphc::plan::Plan;
use graphc::plan::verify::{verify, verify_against};
use planning::random::{self, numbers, random_graphs};
use planning::{bert, plan, relaying_plan, schedules};

/// Length of the longest path, straight from the ports: independent of the planner and of `Graph::dependencies`.
fn longest_path(graph: &Graph) -> u64 {
    let mut level: Vec<u64> = Vec::new();
    for (pass, info) in graph.passes.enumerate() {
        let mut own = 1;
        for (other, before) in graph.passes.enumerate().take(pass.index()) {
            let meets = info.ports.iter().any(|port| {
                before.ports.iter().any(|earlier| {
                    graph.root(earlier.value) == graph.root(port.value)
                        && (earlier.access.writes() || port.access.writes())
                })
            });
            if meets {
                own = own.max(level[other.index()] + 1);
            }
        }
        level.push(own);
    }
    level.into_iter().max().unwrap_or(0)
}

fn assert_proved(graphs: &[Graph], plan: &Plan) {
    if let Err(violations) = verify(plan) {
        panic!("{violations:#?}\n{plan:#?}");
    }
    for (graph, entry) in graphs.iter().zip(&plan.entries) {
        verify_against(graph, entry).unwrap_or_else(|violations| panic!("{violations:#?}"));
    }
}

#[test]
fn every_random_graph_gets_a_plan_that_the_verifier_accepts() {
    arbtest::arbtest(|u| {
        let graphs = random_graphs(u)?;
        let plan = plan(&graphs);
        assert_proved(&graphs, &plan);
        for (graph, entry) in graphs.iter().zip(&plan.entries) {
            let stats = &entry.stats;
            assert_eq!(stats.waves, longest_path(graph));
            assert_eq!(stats.waves, stats.critical_path);
            assert!(
                stats.transient_bound <= stats.transient_planned,
                "{stats:?}"
            );
            assert!(
                stats.transient_planned <= stats.transient_naive,
                "{stats:?}"
            );
        }
        Ok(())
    })
    .budget_ms(4_000);
}

/// The same where some kernels wait in their own code, and read some of what they read before they wait.
#[test]
fn every_random_chain_of_relays_is_accepted() {
    let (mut chained, mut entries) = (0, 0);
    arbtest::arbtest(|u| {
        let graphs = random_graphs(u)?;
        let (relays, early): (u32, u32) = (
            u.arbitrary::<u32>()? | u.arbitrary::<u32>()?,
            u.arbitrary()?,
        );
        let bit = |bits: u32, at: usize| bits >> (at % 32) & 1 == 1;
        let plan = relaying_plan(&graphs, &|id, kernel| {
            let reads = kernel.bindings.iter().map(|(binding, _)| *binding);
            let early = reads.filter(|binding| bit(early, id.index() + *binding as usize));
            bit(relays, id.index()).then(|| early.collect())
        });
        assert_proved(&graphs, &plan);
        entries += plan.entries.len();
        chained += plan
            .entries
            .iter()
            .filter(|entry| entry.stats.relays > 0)
            .count();
        Ok(())
    })
    .budget_ms(4_000);
    // About one in forty, however many fit into the time.
    assert!(
        chained > entries / 200,
        "{chained} of {entries} entries have a chain"
    );
}

#[test]
fn the_same_graph_gives_the_same_plan() {
    arbtest::arbtest(|u| {
        let graphs = random_graphs(u)?;
        assert_eq!(plan(&graphs), plan(&graphs));
        Ok(())
    })
    .budget_ms(500);
}

/// Steps with the byte ranges that they touch, for messages.
fn brief(plan: &Plan) -> String {
    use graphc::plan::Step;
    let mut text = String::new();
    for (e, entry) in plan.entries.iter().enumerate() {
        for (s, step) in entry.steps.iter().enumerate() {
            text += &format!("{e}.{s} {step:?}");
            if let Step::Dispatch(pass) = step {
                for bind in &entry.passes[*pass].binds {
                    let tensor = &entry.tensors[bind.tensor];
                    text += &format!(
                        " {:?} {} {}@{:?};",
                        bind.access,
                        tensor.name,
                        tensor.arena.0,
                        tensor.range(0)
                    );
                }
            }
            text += "\n";
        }
    }
    text
}

/// Dropping or weakening any barrier of any plan breaks it: there is no barrier too many.
#[test]
fn no_barrier_of_a_random_plan_can_be_dropped_or_weakened() {
    use graphc::plan::{Barrier, Step};
    arbtest::arbtest(|u| {
        let graphs = random_graphs(u)?;
        let plan = plan(&graphs);
        for (e, entry) in plan.entries.iter().enumerate() {
            for (s, step) in entry.steps.iter().enumerate() {
                if let Step::Barrier(barrier) = step {
                    let mut dropped = plan.clone();
                    dropped.entries[e].steps.remove(s);
                    assert!(
                        verify(&dropped).is_err(),
                        "step {s} of {e}:\n{}",
                        brief(&plan)
                    );
                    let weaker = match barrier {
                        Barrier::Memory => Some(Barrier::Execution),
                        Barrier::Guard => Some(Barrier::Memory),
                        _ => None,
                    };
                    if let Some(weaker) = weaker {
                        let mut weakened = plan.clone();
                        weakened.entries[e].steps[s] = Step::Barrier(weaker);
                        assert!(
                            verify(&weakened).is_err(),
                            "step {s} of {e}:\n{}",
                            brief(&plan)
                        );
                    }
                }
            }
        }
        Ok(())
    })
    .budget_ms(2_000);
}

#[test]
fn bert_of_twelve_layers_meets_the_bound() {
    // 1 + 12 * 5 + 1 passes, each of which reads what the one before it wrote.
    let graphs = [
        bert("batch=32,seq=512", 12, 32 * 512, 384),
        bert("batch=1,seq=32", 12, 32, 384),
    ];
    let plan = plan(&graphs);
    assert_proved(&graphs, &plan);
    for entry in &plan.entries {
        let stats = &entry.stats;
        assert_eq!(
            (stats.passes, stats.waves, stats.critical_path),
            (62, 62, 62)
        );
        assert!(
            stats.transient_planned * 100 <= stats.transient_bound * 105,
            "{stats:?}"
        );
        assert_eq!(stats.submits, 1);
    }
    assert!(
        schedules(&graphs)
            .iter()
            .all(|schedule| schedule.waves().iter().all(|wave| wave.len() == 1))
    );
}

/// Three submits of the plan's entries in turn; the outputs of each.
fn interpreted(
    plan: &Plan,
    graphs: &[Graph],
    placement: Placement,
    seed: u64,
) -> Vec<BTreeMap<String, Vec<u8>>> {
    let mut interpreter = Interpreter::new(plan, random::weight)
        .unwrap()
        .with_placement(placement)
        .with_seed(seed);
    let submits = (0..3).map(|submit| {
        let graph = &graphs[submit % graphs.len()];
        let inputs = graph.inputs.iter().map(|input| {
            let info = &graph.values[*input];
            (info.name.clone(), numbers(info.shape[0], submit as u64))
        });
        interpreter
            .run(&graph.entry, submit as u64 % 2, &inputs.collect())
            .unwrap()
    });
    submits.collect()
}

/// Sharing bytes and any order inside a wave change no result.
#[test]
fn aliased_and_shuffled_equals_naive() {
    arbtest::arbtest(|u| {
        let graphs = random_graphs(u)?;
        let plan = plan(&graphs);
        let naive = interpreted(&plan, &graphs, Placement::Naive, 0);
        for seed in [0, 1, 2] {
            assert_eq!(
                interpreted(&plan, &graphs, Placement::Planned, seed),
                naive,
                "{}",
                brief(&plan)
            );
        }
        Ok(())
    })
    .budget_ms(3_000);
}

/// The proof costs a compilation next to nothing; an accidental square would show here.
#[test]
fn a_plan_of_many_entries_is_proved_in_time() {
    let graphs: Vec<Graph> = (1..=16)
        .map(|i| bert(&format!("seq={}", i * 32), 12, i * 32, 64))
        .collect();
    let start = cpu::time();
    let plan = plan(&graphs);
    let planned = cpu::time() - start;
    let proof = verify(&plan).unwrap();
    let proved = cpu::time() - start - planned;
    assert_eq!(proof.passes, 16 * 62);
    println!("16 entries: planned in {planned:?}, proved in {proved:?}");
    assert!(
        planned + proved < std::time::Duration::from_secs(5),
        "{planned:?} + {proved:?}"
    );
}
