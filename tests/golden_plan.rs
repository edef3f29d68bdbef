//! Small graphs with the planner's answer worked out by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod planning;

use graphc::graph::Class;
use graphc::plan::codec::{CodecError, decode, encode};
use graphc::plan::verify::verify;
use graphc::plan::{ArenaKind, Barrier, Slot, Step, dump};
use planning::{Builder, bert, plan, plan_within, profile, schedules};

/// ```text
/// x -> a -> t -+-> b -> u -+-> d -> y
///              +-> c -> v -+
/// ```
fn diamond() -> graphc::graph::Graph {
    let mut g = Builder::new("diamond");
    let x = g.value("x", Class::Input, 64);
    let [t, u, v, y] = ["t", "u", "v", "y"].map(|name| g.transient(name, 64));
    g.pass("a", &[x], &[t], false);
    g.pass("b", &[t], &[u], false);
    g.pass("c", &[t], &[v], false);
    g.pass("d", &[u, v], &[y], false);
    g.output(y);
    g.graph
}

#[test]
fn a_diamond_has_three_waves_and_no_barrier_for_replay() {
    let plan = plan(&[diamond()]);
    verify(&plan).unwrap();
    let entry = &plan.entries[0];
    let steps: Vec<String> = entry
        .steps
        .iter()
        .map(|step| match step {
            Step::Dispatch(pass) => entry.passes[*pass].path.clone(),
            Step::Barrier(barrier) => format!("{barrier:?}"),
            Step::Cut => "cut".into(),
        })
        .collect();
    // `a` writes t again in the next submit: `b` and `c` read it, but the barrier before `d` came after them, and y has
    // another slot then. So nothing is pending against wave 0.
    assert_eq!(steps, ["a", "Memory", "b", "c", "Memory", "d", "Host"]);
    // t lives in waves 0..2, u and v in 1..3: all three in wave 1. 3 * 256 bytes, nothing to share.
    let stats = &entry.stats;
    assert_eq!(
        (
            stats.transient_naive,
            stats.transient_planned,
            stats.transient_bound
        ),
        (768, 768, 768)
    );
    assert_eq!((stats.passes, stats.waves, stats.barriers), (4, 3, 3));
    // Two slots of y, one a parity.
    let y = entry
        .tensors
        .iter()
        .find(|tensor| tensor.name == "y")
        .unwrap();
    assert_eq!(y.slot, Slot::Same { stride: 256 });
}

#[test]
fn a_pass_with_slack_slides_to_its_reader() {
    // early (1 MiB from 4 bytes) could run in wave 0 but is read in wave 3: born there, it lives 2 waves, not 4.
    let mut g = Builder::new("slack");
    let x = g.value("x", Class::Input, 1);
    let big = g.transient("big", 1 << 18);
    let early = g.pass("early", &[x], &[big], false);
    let chain = ["p", "q", "r"].map(|name| g.transient(name, 64));
    g.pass("p", &[x], &[chain[0]], false);
    g.pass("q", &[chain[0]], &[chain[1]], false);
    g.pass("r", &[chain[1]], &[chain[2]], false);
    let y = g.transient("y", 64);
    g.pass("last", &[chain[2], big], &[y], false);
    g.output(y);
    let schedule = &schedules(&[g.graph])[0];
    assert_eq!(schedule.waves().len(), 4);
    assert_eq!(schedule.wave_of(early).0, 2);
}

#[test]
fn the_residual_stream_ping_pongs() {
    let graph = bert("e", 3, 64, 64);
    let plan = plan(std::slice::from_ref(&graph));
    let offset = |name: &str| {
        let tensor = plan.entries[0]
            .tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap();
        tensor.offset
    };
    // One row block is 64 * 64 * 4 = 16,384 bytes. Most is live in the wave of `up` or `down`: h or mid, `up` (4 blocks)
    // and for `down` the new h: 6 blocks = 98,304 bytes.
    let stats = &plan.entries[0].stats;
    assert_eq!(
        (stats.transient_planned, stats.transient_bound),
        (98_304, 98_304)
    );
    // A layer reads h, writes mid, and writes the next h where the last one is not: two placements take turns.
    assert_ne!(offset("l0/h"), offset("l0/mid"));
    assert_eq!(offset("l0/h"), offset("l1/h"));
    assert_eq!(offset("l0/mid"), offset("l1/mid"));
    let picture = dump::memory(&plan);
    assert!(
        picture.contains("bytes downwards, waves 0..17 to the right"),
        "{picture}"
    );
}

#[test]
fn a_budget_cuts_at_wave_edges() {
    // 17 waves. A wave takes its bytes at 1 GB/s and 1 us; `up` alone moves (1 + 4 + 4) blocks of 16 KiB = 147 us.
    let graph = bert("e", 3, 64, 64);
    let whole = plan_within(std::slice::from_ref(&graph), &profile(), None);
    let total = whole.entries[0].stats.estimate_ms.unwrap();
    assert_eq!(whole.entries[0].stats.submits, 1);
    let cut = plan_within(std::slice::from_ref(&graph), &profile(), Some(total / 3.0));
    let proof = verify(&cut).unwrap();
    assert_eq!(proof.passes, 17);
    let stats = &cut.entries[0].stats;
    assert!((3..=5).contains(&stats.submits), "{stats:?}");
    let cuts = cut.entries[0]
        .steps
        .windows(2)
        .filter(|pair| pair[0] == Step::Cut);
    assert!(cuts.clone().count() as u64 == stats.submits - 1);
    assert!(
        cuts.clone()
            .all(|pair| matches!(pair[1], Step::Barrier(Barrier::Memory))),
        "a cut stands before its barrier"
    );
    // The cuts are all that differs.
    let mut joined = cut.entries[0].steps.clone();
    joined.retain(|step| *step != Step::Cut);
    assert_eq!(joined, whole.entries[0].steps);
}

#[test]
fn transient_memory_splits_where_an_allocation_ends() {
    // t and u, 4 KiB each, are live together in the wave of `b`; one allocation holds 6 KiB.
    let mut small = profile();
    small.limits.max_allocation = 6 * 1024;
    let mut g = Builder::new("split");
    let x = g.value("x", Class::Input, 64);
    let [t, u, y] =
        [("t", 1024), ("u", 1024), ("y", 64)].map(|(name, count)| g.transient(name, count));
    g.pass("a", &[x], &[t], false);
    g.pass("b", &[t], &[u], false);
    g.pass("c", &[u], &[y], false);
    g.output(y);
    let plan = plan_within(&[g.graph], &small, None);
    verify(&plan).unwrap();
    let transient = plan
        .arenas
        .iter()
        .filter(|arena| arena.kind == ArenaKind::Transient);
    assert_eq!(
        transient.map(|arena| arena.bytes).collect::<Vec<_>>(),
        [4096, 4096]
    );
}

#[test]
fn a_plan_file_comes_back_and_is_the_same_every_time() {
    let plan = plan(&[bert("e", 3, 64, 64), diamond()]);
    let bytes = encode(&plan).unwrap();
    assert_eq!(bytes, encode(&plan).unwrap());
    assert_eq!(decode(&bytes).unwrap(), plan);
}

#[test]
fn damaged_plan_files_say_what_is_wrong() {
    let bytes = encode(&plan(&[diamond()])).unwrap();
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        decode(&bytes).unwrap_err()
    };
    assert!(matches!(with(|b| b.clear()), CodecError::Magic { .. }));
    assert!(matches!(with(|b| b[0] = b'P'), CodecError::Magic { .. }));
    assert!(matches!(
        with(|b| b[8] = 9),
        CodecError::Format { found: 9 }
    ));
    assert!(matches!(
        with(|b| b.truncate(40)),
        CodecError::Length { .. }
    ));
    assert!(matches!(
        with(|b| b.truncate(100)),
        CodecError::Length { .. }
    ));
    assert!(matches!(with(|b| b.push(0)), CodecError::Length { .. }));
    assert!(matches!(with(|b| b[26] = 1), CodecError::TooLarge { .. }));
    assert!(matches!(with(|b| b[30] ^= 1), CodecError::Hash { .. }));
    assert!(matches!(with(|b| b[80] ^= 1), CodecError::Hash { .. }));
}
