//! Plans made by hand, right ones and ones with a single mistake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use super::*;
use crate::device::Limits;
use crate::plan::{Arena, Barrier, Bind, Kernel, Role, Stats, Tensor};

const TRANSIENT: ArenaId = ArenaId(2);

/// A plan under construction: input arena 0, output arena 1, transient arena 2, state arena 3, carry arena 4.
struct Builder {
    plan: Plan,
    entry: Entry,
}

impl Builder {
    fn new() -> Self {
        let kinds = [
            (ArenaKind::Input, 16),
            (ArenaKind::Output, 16),
            (ArenaKind::Transient, 64),
            (ArenaKind::State, 16),
            (ArenaKind::Carry, 32),
        ];
        let plan = Plan {
            graph: "test".into(),
            profile: "test".into(),
            device: String::new(),
            limits: Limits {
                min_storage_alignment: 4,
                max_storage_buffers: 8,
                subgroup_size: 8,
                ..Limits::default()
            },
            needs: BTreeSet::new(),
            source_hash: [0; 32],
            params: BTreeMap::new(),
            kernels: IdVec::new(),
            relay: None,
            arenas: kinds
                .iter()
                .map(|(kind, bytes)| Arena {
                    kind: *kind,
                    bytes: *bytes,
                })
                .collect(),
            weights: vec![],
            entries: vec![],
            sources: vec![],
        };
        let entry = Entry {
            name: "e".into(),
            dims: BTreeMap::new(),
            tensors: IdVec::new(),
            passes: IdVec::new(),
            steps: vec![],
            repeat: 1,
            guard: None,
            inputs: vec![],
            outputs: vec![],
            stats: Stats::default(),
        };
        Self { plan, entry }
    }

    /// A tensor of four f32.
    fn tensor(
        &mut self,
        name: &str,
        role: Role,
        arena: ArenaId,
        offset: u64,
        slot: Slot,
    ) -> TensorId {
        let id = self.entry.tensors.push(Tensor {
            name: name.into(),
            role,
            dtype: DType::F32,
            shape: vec![4],
            view_of: None,
            arena,
            offset,
            bytes: 16,
            slot,
        });
        match role {
            Role::Input => self.entry.inputs.push(id),
            Role::Output => self.entry.outputs.push(id),
            _ => {}
        }
        id
    }

    fn transient(&mut self, name: &str, offset: u64) -> TensorId {
        self.tensor(name, Role::Transient, TRANSIENT, offset, Slot::Fixed)
    }

    fn input(&mut self) -> TensorId {
        self.tensor("x", Role::Input, ArenaId(0), 0, Slot::Fixed)
    }

    fn output(&mut self) -> TensorId {
        self.tensor("out", Role::Output, ArenaId(1), 0, Slot::Fixed)
    }

    /// Dispatches a pass that runs `formula` over ports named as in `binds`.
    fn pass(&mut self, formula: &str, binds: &[(&str, TensorId, Access)]) {
        let kernel = self.plan.kernels.push(Kernel {
            name: "k".into(),
            variant: "plain".into(),
            label: "f32".into(),
            spirv: vec![],
            spec: vec![],
            bindings: vec![],
            push_bytes: 0,
            local_size: [1; 3],
            shared_bytes: 0,
            full_subgroups: false,
            relays: None,
            reference: vec![formula.into()],
        });
        let path = format!("p{}", self.entry.passes.len());
        let pass = self.entry.passes.push(PassInfo {
            path,
            source: ("test.ron".into(), 1, 1),
            kernel,
            groups: [1; 3],
            push: vec![],
            binds: binds
                .iter()
                .enumerate()
                .map(|(binding, (port, tensor, access))| Bind {
                    binding: binding as u32,
                    port: (*port).into(),
                    tensor: *tensor,
                    access: *access,
                    in_place: None,
                })
                .collect(),
            guarded: false,
            relay: Default::default(),
            dims: BTreeMap::from([("n".into(), 4)]),
            options: BTreeMap::new(),
            flops: 0,
            bytes: 0,
            fused: vec![],
        });
        self.entry.steps.push(Step::Dispatch(pass));
    }

    fn unary(&mut self, formula: &str, x: TensorId, y: TensorId) {
        self.pass(formula, &[("x", x, Access::Read), ("y", y, Access::Write)]);
    }

    fn barrier(&mut self) {
        self.entry.steps.push(Step::Barrier(Barrier::Memory));
    }

    fn finish(mut self) -> Plan {
        self.plan.entries.push(self.entry);
        self.plan
    }
}

fn run(interpreter: &mut Interpreter<'_>, parity: u64) -> Result<Vec<f64>, InterpError> {
    let inputs = BTreeMap::from([("x".to_string(), encode(DType::F32, &[1.0, 2.0, 3.0, 4.0]))]);
    let outputs = interpreter.run("e", parity, &inputs)?;
    Ok(decode(DType::F32, &outputs["out"]).unwrap())
}

fn once(plan: &Plan, placement: Placement, seed: u64) -> Result<Vec<f64>, InterpError> {
    let interpreter = Interpreter::new(plan, |_| vec![])?;
    run(
        &mut interpreter.with_placement(placement).with_seed(seed),
        0,
    )
}

/// ```text
/// x ─ p0 ─ a ─ p1 ─ b ─ p2 ─ out      b shares bytes with a only where that is right
/// ```
fn chain(a: u64, b: u64, formula: &str, barriers: bool) -> Plan {
    let mut builder = Builder::new();
    let (x, out) = (builder.input(), builder.output());
    let (a, b) = (builder.transient("a", a), builder.transient("b", b));
    builder.unary("y[i<n] = x[i] + 1", x, a);
    builder.barrier();
    builder.unary(formula, a, b);
    if barriers {
        builder.barrier();
    }
    builder.unary("y[i<n] = x[i] * 10", b, out);
    builder.finish()
}

#[test]
fn a_right_plan_gives_the_same_numbers_at_every_placement_and_order() {
    for b in [0, 16] {
        let mut plan = chain(0, b, "y[i<n] = x[i] * x[i]", true);
        if b == 0 {
            plan.entries[0].passes[PassId(1)].binds[1].in_place = Some(0);
        }
        for seed in 0..4 {
            for placement in [Placement::Planned, Placement::Naive] {
                let out = once(&plan, placement, seed).unwrap();
                assert_eq!(out, [40.0, 90.0, 160.0, 250.0]);
            }
        }
    }
}

#[test]
fn a_missing_barrier_meets_poison_in_one_of_two_orders() {
    let plan = chain(0, 16, "y[i<n] = x[i]", false);
    for seed in [0, 2, 4] {
        let runs = [seed, seed + 1].map(|seed| once(&plan, Placement::Planned, seed));
        let errors: Vec<_> = runs.into_iter().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors[0].to_string(),
            "pass `p2` computed a NaN at element 0 of `out`, because nothing had written `b` (x[0])"
        );
    }
}

#[test]
fn a_guarded_pass_runs_unless_the_guard_is_zero() {
    // x is 1, 2, 3, 4; the guard is its first element, and the same less one.
    for (decides, runs) in [("y[i<n] = x[i]", true), ("y[i<n] = x[i] - 1", false)] {
        let mut builder = Builder::new();
        let (x, out) = (builder.input(), builder.output());
        let guard = builder.tensor("g", Role::State, ArenaId(3), 0, Slot::Fixed);
        let a = builder.transient("a", 0);
        builder.unary(decides, x, guard);
        builder.barrier();
        builder.unary("y[i<n] = x[i]", x, a);
        builder.barrier();
        builder.unary("y[i<n] = x[i]", a, out);
        builder.entry.guard = Some(guard);
        builder.entry.passes[PassId(1)].guarded = true;
        let plan = builder.finish();
        match once(&plan, Placement::Planned, 0) {
            Ok(out) => assert!(runs && out == [1.0, 2.0, 3.0, 4.0], "{decides}: {out:?}"),
            Err(error) => assert!(
                !runs
                    && error
                        .to_string()
                        .ends_with("nothing had written `a` (x[0])"),
                "{decides}: {error}"
            ),
        }
    }
}

#[test]
fn a_write_that_may_land_before_a_read_of_its_wave_is_seen_in_every_order() {
    // p1 and p2 share a wave; p2 overwrites what p1 reads.
    let mut builder = Builder::new();
    let (x, out) = (builder.input(), builder.output());
    let (a, b) = (builder.transient("a", 0), builder.transient("b", 0));
    builder.unary("y[i<n] = x[i]", x, a);
    builder.barrier();
    builder.unary("y[i<n] = x[i]", a, out);
    builder.unary("y[i<n] = 0 * x[i]", x, b);
    let plan = builder.finish();
    for seed in 0..8 {
        assert_ne!(
            once(&plan, Placement::Planned, seed).ok(),
            Some(vec![1.0, 2.0, 3.0, 4.0])
        );
        assert_eq!(
            once(&plan, Placement::Naive, seed).unwrap(),
            [1.0, 2.0, 3.0, 4.0]
        );
    }
}

#[test]
fn overlapping_places_change_the_numbers_or_meet_poison() {
    // b starts inside a, which p1 reads while it writes.
    let plan = chain(0, 8, "y[i<n] = x[i]", true);
    once(&plan, Placement::Planned, 0).unwrap_err();
    assert_eq!(
        once(&plan, Placement::Naive, 0).unwrap(),
        [20.0, 30.0, 40.0, 50.0]
    );
    // A third tensor that is alive at the same time is not.
    let mut builder = Builder::new();
    let (x, out) = (builder.input(), builder.output());
    let (a, b) = (builder.transient("a", 0), builder.transient("b", 12));
    builder.unary("y[i<n] = x[i]", x, a);
    builder.barrier();
    builder.unary("y[i<n] = x[i]", x, b);
    builder.barrier();
    let binds = [
        ("x", a, Access::Read),
        ("z", b, Access::Read),
        ("y", out, Access::Write),
    ];
    builder.pass("y[i<n] = x[i] + z[i]", &binds);
    let plan = builder.finish();
    assert_eq!(
        once(&plan, Placement::Naive, 0).unwrap(),
        [2.0, 4.0, 6.0, 8.0]
    );
    assert_eq!(
        once(&plan, Placement::Planned, 0).unwrap(),
        [2.0, 4.0, 6.0, 5.0]
    );
}

#[test]
fn state_and_carries_live_from_run_to_run() {
    let mut builder = Builder::new();
    let (x, out) = (builder.input(), builder.output());
    let state = builder.tensor("count", Role::State, ArenaId(3), 0, Slot::Fixed);
    let old = builder.tensor("h", Role::Carry, ArenaId(4), 0, Slot::Same { stride: 16 });
    let new = builder.tensor(
        "h2",
        Role::CarryNext,
        ArenaId(4),
        0,
        Slot::Other { stride: 16 },
    );
    builder.pass(
        "count[i<n] = count[i] + 1",
        &[("count", state, Access::ReadWrite)],
    );
    builder.pass(
        "y[i<n] = 2 * h[i] + x[i]",
        &[
            ("h", old, Access::Read),
            ("x", x, Access::Read),
            ("y", new, Access::Write),
        ],
    );
    builder.barrier();
    let binds = [
        ("s", state, Access::Read),
        ("h", new, Access::Read),
        ("y", out, Access::Write),
    ];
    builder.pass("y[i<n] = 100 * s[i] + h[i]", &binds);
    let plan = builder.finish();
    let mut interpreter = Interpreter::new(&plan, |_| vec![]).unwrap();
    assert_eq!(run(&mut interpreter, 0).unwrap()[0], 101.0);
    assert_eq!(run(&mut interpreter, 1).unwrap()[0], 203.0);
    assert_eq!(run(&mut interpreter, 0).unwrap()[0], 307.0);
    // The same parity twice reads the slot of two runs ago.
    assert_eq!(run(&mut interpreter, 0).unwrap()[0], 407.0);
}

#[test]
fn poison_is_no_number_in_any_float_type_and_no_index() {
    let mut bytes = vec![0; 8];
    poison(&mut bytes);
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        assert!(
            decode(dtype, &bytes)
                .unwrap()
                .iter()
                .all(|value| value.is_nan()),
            "{dtype}"
        );
    }
    assert!(decode(DType::U32, &bytes).unwrap()[0] > 4e9);
}

#[test]
fn damaged_plans_are_refused() {
    let check = |damage: fn(&mut Plan)| {
        let mut plan = chain(0, 16, "y[i<n] = x[i]", true);
        damage(&mut plan);
        once(&plan, Placement::Planned, 0).unwrap_err().to_string()
    };
    let outside = "the plan is damaged: `a` does not lie inside its arena";
    assert_eq!(
        check(|plan| plan.entries[0].tensors[TensorId(2)].offset = 60),
        outside
    );
    assert_eq!(
        check(|plan| plan.entries[0].tensors[TensorId(2)].offset = u64::MAX),
        outside
    );
    assert_eq!(
        check(|plan| plan.entries[0].tensors[TensorId(2)].arena = ArenaId(9)),
        outside
    );
    assert_eq!(
        check(|plan| plan.arenas[TRANSIENT].bytes = u64::MAX),
        format!("no memory for an arena of {} bytes", u64::MAX)
    );
    assert_eq!(
        check(|plan| plan.entries[0].passes[PassId(1)].kernel = KernelId(9)),
        "the plan is damaged: pass `p1` has no kernel"
    );
    assert_eq!(
        check(|plan| plan.entries[0].name = "f".into()),
        "the plan has no entry `e`"
    );
    assert_eq!(
        check(|plan| plan.kernels[KernelId(1)].reference = vec!["y[i<n] = q[i]".into()]),
        "pass `p1` (kernel `k`): `q` is no earlier definition and no bound port, in `q[i]`"
    );
    assert_eq!(
        check(|plan| plan.entries[0].tensors[TensorId(0)].name = "z".into()),
        "input `z` was not given"
    );
}
