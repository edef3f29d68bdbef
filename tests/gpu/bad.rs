//! What must be refused, in words that help, before the device sees it.

use std::sync::Arc;

use graphc::device::Feature;
use graphc::ids::{ArenaId, KernelId, PassId, TensorId};
use graphc::plan::{Plan, Step};
use graphc::run::{Session, SessionOptions};
use graphc::vk::fit;

use super::{checked, open, plans};

fn error(plan: Plan) -> String {
    match open(checked(), plan) {
        Ok(_) => panic!("the plan was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_unknown_device_lists_what_is_there() {
    let options = SessionOptions {
        device: Some("no such device".into()),
        ..checked()
    };
    let text = open(options, plans::chain())
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("no device matches `no such device`; there is:\n  0: "),
        "{text}"
    );
}

#[test]
fn a_plan_past_the_limits_names_what_and_how_far() {
    for (change, words) in [
        (
            Box::new(|plan: &mut Plan| plan.kernels[KernelId(0)].shared_bytes = 1 << 30)
                as Box<dyn Fn(&mut Plan)>,
            "kernel `scale/plain` needs 1073741824 bytes of shared memory, the device has",
        ),
        (
            Box::new(|plan| plan.kernels[KernelId(1)].local_size = [1 << 20, 1, 1]),
            "kernel `sum/plain` needs 1048576 invocations a workgroup",
        ),
        (
            Box::new(|plan| plan.arenas[ArenaId(1)].bytes = 1 << 60),
            "arena 1 (transients) has 1152921504606846976 bytes",
        ),
        (
            Box::new(|plan| plan.entries[0].passes[PassId(1)].groups = [1, u32::MAX, 1]),
            "pass `sum` of entry `n=64` runs 4294967295 workgroups along y",
        ),
        (
            Box::new(|plan| {
                plan.arenas[ArenaId(1)].bytes = 512;
                plan.entries[0].tensors[TensorId(2)].offset = 2;
            }),
            "pass `scale` of entry `n=64` binds `y` at an offset that is no multiple of 16",
        ),
        (
            // Float64 (capability 10) is in no list of what kernels may use.
            Box::new(|plan| plan.kernels[KernelId(0)].spirv[6] = 10),
            "kernel `scale/plain` declares the SPIR-V capability Float64",
        ),
    ] {
        let mut plan = plans::chain();
        change(&mut plan);
        let text = error(plan);
        assert!(text.contains(words), "{words}\nis not in\n{text}");
    }
}

#[test]
fn a_missing_feature_is_named() {
    let found = graphc::vk::device::describe(None).unwrap();
    // Whatever device this is, look for one feature that it lacks and was asked about; a device that has all cannot show
    // this.
    let Some((lacking, _)) = found.missing().find(|(one, _)| !one.is_measured()) else {
        return;
    };
    let mut plan = plans::chain();
    plan.needs.insert(lacking);
    let text = error(plan);
    assert!(
        text.contains(&format!("lacks `{}`", lacking.name())),
        "{text}"
    );
}

/// What no device can be asked about, a profile says of the devices that it describes.
#[test]
fn what_was_measured_on_one_device_holds_for_no_other() {
    let all = Feature::ALL.into();
    let mut plan = plans::chain();
    plan.device = "H200".into();
    plan.needs = [Feature::CoopmatLanes, Feature::DotI8].into();
    assert_eq!(fit::missing(&plan, &all, "NVIDIA H200 NVL"), []);
    let other = fit::missing(&plan, &all, "NVIDIA GeForce RTX 2080");
    assert_eq!(other, [Feature::CoopmatLanes]);
    plan.needs = [Feature::DotI8].into();
    assert_eq!(fit::missing(&plan, &all, "NVIDIA GeForce RTX 2080"), []);
}

#[test]
fn a_damaged_plan_is_refused_before_anything_is_made() {
    for (change, words) in [
        (
            Box::new(|plan: &mut Plan| plan.weights[0].offset = u64::MAX) as Box<dyn Fn(&mut Plan)>,
            "the plan is damaged: weight `w`: ",
        ),
        (
            Box::new(|plan| plan.entries[0].steps.push(Step::Dispatch(PassId(5)))),
            "a step runs pass 5, which is not there",
        ),
    ] {
        let mut plan = plans::chain();
        change(&mut plan);
        let text = error(plan);
        assert!(text.contains(words), "{words}\nis not in\n{text}");
    }
}

#[test]
fn weights_that_cannot_be_read_stop_the_session_cleanly() {
    let plan = Arc::new(plans::chain());
    let mut source = |_: usize, _: &graphc::plan::Weight, _: u64, into: &mut [u8]| {
        Err(format!("only 7 of {} bytes are there", into.len()).into())
    };
    let error = Session::open(checked(), plan, &mut source, &mut |_| {}).map(|_| ());
    assert_eq!(
        error.unwrap_err().to_string(),
        "weight `w`: only 7 of 256 bytes are there"
    );
}

#[test]
fn wrong_names_and_types_are_answered_with_what_there_is() {
    let mut session = open(checked(), plans::chain()).unwrap();
    let text = session.entry("n=65").unwrap_err().to_string();
    assert!(text.contains("no entry `n=65`; it has `n=64`"), "{text}");
    let entry = session.entry("n=64").unwrap();
    let mut slot = session.begin(entry).unwrap();
    let text = slot.input::<f32>("X").unwrap_err().to_string();
    assert!(text.contains("no input `X`; it has `x`"), "{text}");
    let text = slot.input::<u16>("x").unwrap_err().to_string();
    assert!(
        text.contains("holds f32 elements of 4 bytes, asked for were elements of 2"),
        "{text}"
    );
    let ticket = slot.submit().unwrap();
    let output = session.wait(ticket).unwrap();
    assert!(output.tensor::<f32>("x").is_err());
    assert!(output.tensor::<f64>("z").is_err());
    assert!(output.tensor::<u32>("z").is_ok());
}
