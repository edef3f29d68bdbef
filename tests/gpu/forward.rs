//! Forwards: right numbers, nothing done twice, and a witness that is awake.

use std::sync::Arc;
use std::time::Duration;

use graphc::plan::{Barrier, Step};
use graphc::run::{Progress, RunError, Session, SessionOptions, Timing};
use graphc::vk::VkError;

use super::plans::{self, Expected, N};
use super::{checked, open};

fn input(forward: usize) -> [f32; N] {
    std::array::from_fn(|i| (i * 7 % 13) as f32 + forward as f32)
}

/// Two forwards in flight: forward k + 1 is written and submitted before k is read.
fn run(session: &mut Session, forwards: usize) -> Vec<Vec<f32>> {
    let entry = session.entry("n=64").unwrap();
    let mut results = Vec::new();
    let mut before = None;
    for forward in 0..forwards {
        let mut slot = session.begin(entry).unwrap();
        slot.input::<f32>("x")
            .unwrap()
            .copy_from_slice(&input(forward));
        let ticket = slot.submit().unwrap();
        if let Some(ticket) = before.replace(ticket) {
            results.push(session.wait(ticket).unwrap().tensor("z").unwrap().to_vec());
        }
    }
    results.push(
        session
            .wait(before.unwrap())
            .unwrap()
            .tensor("z")
            .unwrap()
            .to_vec(),
    );
    results
}

fn expected(forwards: usize) -> Vec<Vec<f32>> {
    let mut model = Expected::new();
    (0..forwards)
        .map(|forward| model.forward(&input(forward)))
        .collect()
}

#[test]
fn forwards_are_right_and_only_submit() {
    let mut session = open(checked(), plans::chain()).unwrap();
    let messages = session.messages();
    let first = run(&mut session, 2);
    let before = session.counters();
    // 6 arenas, 2 kernels, 3 descriptors for each parity of the first pass and 5 of the second, 2 recordings.
    assert_eq!((before.pipelines, before.descriptor_updates), (2, 16));
    assert_eq!((before.recordings, before.submits), (2, 2));
    assert_eq!(before.allocations, 6);

    let mut model = Expected::new();
    for (forward, z) in first.iter().enumerate() {
        assert_eq!(*z, model.forward(&input(forward)));
    }
    for (forward, z) in run(&mut session, 7).iter().enumerate() {
        assert_eq!(*z, model.forward(&input(forward)), "forward {forward}");
    }
    let mut after = session.counters();
    assert_eq!(after.submits, before.submits + 7);
    after.submits = before.submits;
    assert_eq!(after, before, "a forward did more than submit");

    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new());
}

#[test]
fn weights_that_cannot_be_written_in_place_are_staged() {
    let options = SessionOptions {
        staged_weights: true,
        ..checked()
    };
    let mut session = open(options, plans::chain()).unwrap();
    let messages = session.messages();
    assert_eq!(
        session.counters().allocations,
        7,
        "6 arenas and the staging buffer"
    );
    assert_eq!(run(&mut session, 2), expected(2));
    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new());
}

#[test]
fn guarded_passes_run_unless_the_guard_is_zero() {
    let mut session = open(checked(), plans::guarded()).unwrap();
    let messages = session.messages();
    let entry = session.entry("n=64").unwrap();
    let mut counted = 0.0;
    for flag in [1.0, 0.0, 0.0, 2.0, 0.0, 3.0] {
        let mut slot = session.begin(entry).unwrap();
        slot.input::<f32>("x").unwrap().fill(flag);
        let ticket = slot.submit().unwrap();
        counted += if flag > 0.0 { 2.0 } else { 0.0 };
        let output = session.wait(ticket).unwrap();
        assert_eq!(output.tensor::<f32>("z").unwrap(), [counted; N], "{flag}");
    }
    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new());
}

#[test]
fn a_cut_plan_submits_once_per_segment() {
    let mut plan = plans::chain();
    plan.entries[0].steps.insert(2, Step::Cut);
    let mut session = open(checked(), plan).unwrap();
    assert_eq!(run(&mut session, 3), expected(3));
    assert_eq!(session.counters().submits, 6);
}

/// Without this test zero messages would prove nothing: the layer might not be looking.
#[test]
fn validation_sees_a_missing_barrier() {
    let hazards = |remove: usize| {
        let mut plan = plans::chain();
        assert_eq!(
            plan.entries[0].steps.remove(remove),
            Step::Barrier(Barrier::Memory)
        );
        let mut session = open(checked(), plan).unwrap();
        let entry = session.entry("n=64").unwrap();
        for _ in 0..3 {
            let ticket = match session.begin(entry) {
                Ok(slot) => slot.submit().unwrap(),
                Err(RunError::Vk(VkError::Validation(messages))) => return messages,
                Err(error) => panic!("{error}"),
            };
            match session.wait(ticket) {
                Ok(_) => {}
                Err(RunError::Vk(VkError::Validation(messages))) => return messages,
                Err(error) => panic!("{error}"),
            }
        }
        vec![]
    };
    // Between the passes: `sum` reads what `scale` wrote.
    let inside = hazards(2);
    assert!(
        inside
            .iter()
            .any(|text| text.contains("READ-AFTER-WRITE") || text.contains("READ_AFTER_WRITE")),
        "{inside:#?}"
    );
    // Before the first pass: `scale` overwrites what `sum` of the submit before read.
    let between = hazards(0);
    assert!(
        between.iter().any(|text| text.contains("SYNC-HAZARD")),
        "{between:#?}\nthe layer looks between submits only with VK_LAYER_ENABLES (see .cargo/config.toml)"
    );
}

#[test]
fn timestamps_are_taken_only_when_asked_for() {
    let mut session = open(checked(), plans::chain()).unwrap();
    let entry = session.entry("n=64").unwrap();
    // Two for the ends; one more after each of 5 steps, or between 2 passes, each a wave.
    for (timing, count) in [
        (Timing::Off, 0),
        (Timing::Ends, 2),
        (Timing::Steps, 7),
        (Timing::Waves, 3),
        (Timing::Passes, 3),
    ] {
        session.set_timing(timing).unwrap();
        let ticket = session.begin(entry).unwrap().submit().unwrap();
        let stamps = session.wait(ticket).unwrap().timestamps().unwrap();
        assert_eq!(stamps.len(), count);
        assert!(stamps.is_sorted(), "{stamps:?}");
        assert!(stamps.last().is_none_or(|end| *end > 0.0));
    }
}

#[test]
fn a_result_that_was_overwritten_is_refused() {
    let mut session = open(checked(), plans::chain()).unwrap();
    let entry = session.entry("n=64").unwrap();
    let tickets: Vec<_> = (0..3)
        .map(|_| session.begin(entry).unwrap().submit().unwrap())
        .collect();
    let mut tickets = tickets.into_iter();
    let first = session.wait(tickets.next().unwrap());
    assert!(matches!(first, Err(RunError::Stale(0))));
    assert!(session.wait(tickets.next().unwrap()).is_ok());
    assert!(session.wait(tickets.next().unwrap()).is_ok());
}

#[test]
fn waits_block_when_they_do_not_poll() {
    let options = SessionOptions {
        poll: Duration::ZERO,
        ..checked()
    };
    assert_eq!(
        run(&mut open(options, plans::chain()).unwrap(), 3),
        expected(3)
    );
}

#[test]
fn a_wait_without_time_is_an_error_and_leaves_what_is_in_use_alone() {
    let mut session = open(checked(), plans::slow()).unwrap();
    let messages = session.messages();
    let entry = session.entry("n=64").unwrap();
    let ticket = session.begin(entry).unwrap().submit().unwrap();
    session.set_time_out(Duration::from_millis(1));
    let text = session.wait(ticket).map(|_| ()).unwrap_err().to_string();
    assert!(text.starts_with("no result after "), "{text}");
    // The forward still runs: destroying what it uses would be an error that the validation layer reports.
    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new());
}

#[test]
fn a_value_that_is_not_finite_is_found() {
    let mut session = open(checked(), plans::chain()).unwrap();
    let entry = session.entry("n=64").unwrap();
    for (x, found) in [(1.0, None), (f32::INFINITY, Some(5))] {
        let mut slot = session.begin(entry).unwrap();
        let values = slot.input::<f32>("x").unwrap();
        values.fill(1.0);
        values[5] = x;
        let ticket = slot.submit().unwrap();
        assert_eq!(
            session.wait(ticket).unwrap().first_not_finite("z").unwrap(),
            found
        );
    }
}

#[test]
fn progress_reaches_its_end() {
    let mut heard = Vec::new();
    let session = Session::open(
        SessionOptions::default(),
        Arc::new(plans::chain()),
        &mut plans::fill,
        &mut |progress| heard.push(progress),
    );
    assert!(session.is_ok());
    for wanted in [
        Progress::Weights {
            done: 256,
            total: 256,
        },
        Progress::Pipelines { done: 2, total: 2 },
    ] {
        assert!(heard.contains(&wanted), "{heard:?}");
    }
}

#[test]
fn pipelines_are_kept_on_disk_and_a_bad_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let options = || SessionOptions {
        pipeline_cache: Some(folder.path().join("cache")),
        ..checked()
    };
    let file = || {
        let mut files = std::fs::read_dir(folder.path().join("cache")).unwrap();
        files.next().unwrap().unwrap().path()
    };
    assert_eq!(
        run(&mut open(options(), plans::chain()).unwrap(), 2),
        expected(2)
    );
    let good = std::fs::read(file()).unwrap();
    std::fs::write(file(), &good[..good.len() - 1]).unwrap();
    let mut session = open(options(), plans::chain()).unwrap();
    assert_eq!(run(&mut session, 2), expected(2));
    assert_eq!(session.notes(), &[] as &[String]);
    assert_eq!(std::fs::read(file()).unwrap().len(), good.len());
}

#[test]
fn a_cache_that_cannot_be_written_is_noted_and_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let options = SessionOptions {
        pipeline_cache: Some(file),
        ..checked()
    };
    let mut session = open(options, plans::chain()).unwrap();
    assert_eq!(run(&mut session, 2), expected(2));
    assert!(
        session.notes()[0].contains("was not written"),
        "{:?}",
        session.notes()
    );
}

#[test]
fn a_session_can_move_to_another_thread() {
    fn check<T: Send>(value: T) -> T {
        value
    }
    let session = check(open(checked(), plans::chain()).unwrap());
    std::thread::spawn(move || drop(session)).join().unwrap();
}
