//! Reports over a plan of the repository and times that were made up, so that every number is known beforehand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use graphc::device::Roofs;
use graphc::dtype::DType;
use graphc::plan::{Plan, waves::waves};
use graphc::report::row::Bound;
use graphc::report::text::{self, Shape};
use graphc::report::trace::{Forward, Traced, trace};
use graphc::report::{Profile, ReportError, Samples, Setting};

/// Two layers of BERT.
fn plan() -> Plan {
    let tiny = &support::tiny::tiny()[0];
    let request = support::tiny::request(&tiny.config, 2, 16, DType::F32);
    support::plan(tiny.path, &request, true)
}

fn roofs() -> Roofs {
    Roofs {
        read_bytes_per_s: Some(1e10),
        f32_flops: Some(5e10),
        dependent_pass_s: Some(1e-6),
        ..Roofs::default()
    }
}

fn setting(roofs: Roofs) -> Setting {
    Setting {
        device: "paper".into(),
        driver: "1".into(),
        random_weights: true,
        roofs,
    }
}

/// Pass number i takes 10 (i + 1) us in the first forward and 1 us more in each later one.
fn samples(plan: &Plan) -> Samples {
    let entry = &plan.entries[0];
    let stamps = |items: usize, run: usize| {
        let ends = (0..items).scan(0.0, |sum, item| {
            *sum += (10.0 * (item + 1) as f64 + run as f64) * 1e3;
            Some(*sum)
        });
        std::iter::once(0.0).chain(ends).collect::<Vec<f64>>()
    };
    let runs = |items: usize| (0..3).map(|run| stamps(items, run)).collect();
    Samples {
        wall: vec![2.0e6; 3],
        whole: vec![1.0e6; 3],
        waves: runs(waves(entry).len()),
        passes: runs(entry.passes.len()),
    }
}

fn profile(plan: &Plan, roofs: Roofs) -> Profile {
    Profile::new(plan, &plan.entries[0], setting(roofs), &samples(plan)).unwrap()
}

#[test]
fn layers_fold_and_nothing_is_lost() {
    let plan = plan();
    let made = profile(&plan, roofs());
    let n = plan.entries[0].passes.len();
    assert_eq!(made.passes.len(), n);
    // The second forward is the median: 10 (i + 1) + 1.
    for (index, row) in made.passes.iter().enumerate() {
        assert_eq!(row.time.median.round(), 10.0 * (index + 1) as f64 + 1.0);
    }
    let total: f64 = made.passes.iter().map(|row| row.time.median).sum();
    assert!((made.passes_sum.median - total).abs() < 1e-6);
    let folded: f64 = made.folded.iter().map(|row| row.time.median).sum();
    assert!((folded - total).abs() < 1e-6, "{folded} {total}");
    let sums = |rows: &[graphc::report::row::Row]| {
        let sum = |of: fn(&graphc::report::row::Row) -> u64| rows.iter().map(of).sum::<u64>();
        (
            sum(|row| row.count),
            sum(|row| row.bytes),
            sum(|row| row.flops),
        )
    };
    assert_eq!(sums(&made.passes), sums(&made.folded));
    let layers: Vec<_> = made
        .folded
        .iter()
        .filter(|row| row.path.starts_with("l*/"))
        .collect();
    assert!(layers.len() >= 4, "{:?}", made.folded);
    assert!(layers.iter().all(|row| row.count == 2), "{layers:?}");
    assert!(
        made.folded
            .is_sorted_by(|a, b| a.time.median >= b.time.median)
    );
}

#[test]
fn the_roof_is_the_longest_of_three_times() {
    let made = profile(&plan(), roofs());
    for row in &made.passes {
        let memory = row.bytes as f64 / 1e10 * 1e6;
        let arithmetic = row.flops as f64 / 5e10 * 1e6;
        let least = memory.max(arithmetic).max(1.0);
        assert!((row.least.unwrap() - least).abs() < 1e-9, "{row:?}");
        let bound = match least {
            least if least == memory => Bound::Memory,
            least if least == arithmetic => Bound::Arithmetic,
            _ => Bound::Launch,
        };
        assert_eq!(row.bound, Some(bound), "{row:?}");
    }
    let bounds: Vec<_> = made.passes.iter().filter_map(|row| row.bound).collect();
    assert!(
        bounds.contains(&Bound::Memory) && bounds.contains(&Bound::Arithmetic),
        "{bounds:?}"
    );
}

#[test]
fn advice_names_the_three_places_with_their_evidence() {
    let made = profile(&plan(), roofs());
    assert_eq!(made.advice.len(), 3, "{:#?}", made.advice);
    let won = |row: &graphc::report::row::Row| row.time.median - row.least.unwrap();
    let most = made
        .folded
        .iter()
        .max_by(|a, b| won(a).total_cmp(&won(b)))
        .unwrap();
    for words in [&most.path, &most.kernel, &most.place()] {
        assert!(
            made.advice[0].contains(words.as_str()),
            "no {words} in {}",
            made.advice[0]
        );
    }
    let unknown = profile(&plan(), Roofs::default());
    assert_eq!(unknown.advice.len(), 1);
    assert!(
        unknown.advice[0].contains("graphc roof"),
        "{:?}",
        unknown.advice
    );
    assert!(unknown.passes.iter().all(|row| row.bound.is_none()));
}

#[test]
fn a_profile_survives_json_and_refuses_what_is_none() {
    let made = profile(&plan(), roofs());
    let text = serde_json::to_string(&made).unwrap();
    let read = Profile::from_json(&text).unwrap();
    assert_eq!(
        (&read.entry, &read.advice, read.rounds),
        (&made.entry, &made.advice, 1)
    );
    for (a, b) in read.folded.iter().zip(&made.folded) {
        assert_eq!(
            (&a.path, &a.source, a.bytes, a.bound),
            (&b.path, &b.source, b.bytes, b.bound)
        );
        assert!((a.time.median - b.time.median).abs() < 1e-6);
    }
    assert_eq!(read.folded.len(), made.folded.len());
    for (text, words) in [
        ("{", "no JSON"),
        ("{}", "without `format`"),
        ("{\"format\": 9}", "format 9"),
        ("{\"format\": 1}", "no profile"),
    ] {
        let error = Profile::from_json(text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn timestamps_of_another_plan_are_refused() {
    let plan = plan();
    let entry = &plan.entries[0];
    let mut wrong = samples(&plan);
    wrong.waves[1].pop();
    let error = Profile::new(&plan, entry, setting(roofs()), &wrong).unwrap_err();
    let wanted = waves(entry).len() + 1;
    let got = wanted - 1;
    let entry_name = entry.name.clone();
    assert_eq!(
        error,
        ReportError::Timestamps {
            entry: entry_name,
            wanted,
            got
        }
    );
    let none = Profile::new(&plan, entry, setting(roofs()), &Samples::default());
    assert_eq!(none.unwrap_err(), ReportError::NoRuns(entry.name.clone()));
}

#[test]
fn tables() {
    let made = profile(&plan(), roofs());
    let shape = |waves, unfolded| Shape { waves, unfolded };
    for (shape, lines) in [
        (shape(false, false), made.folded.len()),
        (shape(false, true), made.passes.len()),
        (shape(true, false), made.folded_waves.len()),
        (shape(true, true), made.waves.len()),
    ] {
        let csv = text::csv(&made, shape);
        assert_eq!(csv.lines().count(), lines + 1);
        let columns = csv.lines().next().unwrap().split(',').count();
        let plain = csv.lines().filter(|line| !line.contains('"'));
        plain.for_each(|line| assert_eq!(line.split(',').count(), columns, "{line}"));
        let table = text::table(&made, shape);
        assert!(
            table.contains("sum of passes") && table.contains("where most time"),
            "{table}"
        );
    }
    insta::assert_snapshot!("report_table", text::table(&made, Shape::default()));
}

/// The trace event format as its documentation has it ("Trace Event Format", complete, counter and metadata events).
fn check_trace(trace: &serde_json::Value) {
    assert!(["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap()));
    let mut ends = std::collections::BTreeMap::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        assert!(
            event["name"].is_string() && event["pid"].is_u64(),
            "{event}"
        );
        let number = |key: &str| {
            event[key]
                .as_f64()
                .filter(|number| number.is_finite())
                .unwrap()
        };
        match event["ph"].as_str().unwrap() {
            "X" => {
                assert!(number("ts") >= 0.0 && number("dur") >= 0.0, "{event}");
                assert!(
                    event["args"].is_object() && event["cat"].is_string(),
                    "{event}"
                );
                let track = (event["pid"].as_u64(), event["tid"].as_u64().unwrap());
                let end = ends.entry(track).or_insert(0.0);
                assert!(
                    number("ts") >= *end - 1e-6,
                    "zones of a track must not overlap: {event}"
                );
                *end = number("ts") + number("dur");
            }
            "C" => {
                let args = event["args"].as_object().unwrap();
                assert!(
                    number("ts") >= 0.0 && args.values().all(|value| value.is_u64()),
                    "{event}"
                );
            }
            "M" => {
                let kind = event["name"].as_str().unwrap();
                assert!(["process_name", "thread_name"].contains(&kind), "{event}");
                assert!(event["args"]["name"].is_string(), "{event}");
            }
            other => panic!("an event of kind {other}: {event}"),
        }
    }
}

#[test]
fn a_trace_has_every_pass_of_every_forward() {
    let plan = plan();
    let (entry, samples, made) = (&plan.entries[0], samples(&plan), profile(&plan, roofs()));
    let forwards = |stamps: &[Vec<f64>]| -> Vec<Forward> {
        let one = |(index, stamps): (usize, &Vec<f64>)| {
            let begin = 1e5 * index as f64;
            let (submitted, stamps) = (begin + 50.0, stamps.clone());
            // The second forward's end is seen too early for its timestamps to start at its submit.
            let late = if index == 1 { 20.0 } else { -20.0 };
            let done = submitted + stamps.last().unwrap() / 1e3 - late;
            Forward {
                begin,
                submitted,
                done,
                stamps,
            }
        };
        stamps.iter().enumerate().map(one).collect()
    };
    let (waves, passes) = (forwards(&samples.waves), forwards(&samples.passes));
    let traced = Traced {
        entry,
        profile: &made,
        waves: &waves,
        passes: &passes,
    };
    let made_trace = trace(&[traced, traced]);
    check_trace(&made_trace);
    let events = made_trace["traceEvents"].as_array().unwrap();
    let zones = |pid: u64, tid: u64| {
        let of = |event: &&serde_json::Value| {
            event["ph"] == "X" && event["pid"] == pid && event["tid"] == tid
        };
        events.iter().filter(of).count()
    };
    for pid in [1, 3] {
        assert_eq!(zones(pid, 2), 3 * made.waves.len());
        assert_eq!(zones(pid + 1, 2), 3 * made.passes.len());
        assert_eq!(zones(pid, 1), 6);
    }
    let most = |pid: u64| {
        let of = |event: &&serde_json::Value| event["ph"] == "C" && event["pid"] == pid;
        events
            .iter()
            .filter(of)
            .map(|event| event["args"]["bytes"].as_u64().unwrap())
            .max()
    };
    assert_eq!(most(1), Some(entry.stats.transient_bound));
    let paths: Vec<_> = entry.passes.iter().map(|pass| pass.path.as_str()).collect();
    assert!(
        paths
            .iter()
            .all(|path| events.iter().any(|event| event["name"] == *path))
    );
}

#[test]
fn two_plans_side_by_side() {
    use graphc::report::diff;
    let tiny = &support::tiny::tiny()[0];
    let request = support::tiny::request(&tiny.config, 2, 16, DType::F32);
    let (fused, plain) = (plan(), support::plan(tiny.path, &request, false));
    assert_eq!(diff::plans(&fused, &fused), "the plans are equal\n");
    let text = diff::plans(&fused, &plain);
    for words in [
        "passes",
        "barriers",
        "added:",
        "l*/layer/out/add_bias",
        "x 2",
        "re-placed:",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    // The other way round, what was added is removed.
    let back = diff::plans(&plain, &fused);
    assert!(
        back.contains("removed:") && back.contains("l*/layer/out/add_bias"),
        "{back}"
    );
    let mut moved = fused.clone();
    let last = moved.entries[0].passes.ids().last().unwrap();
    let tensor = moved.entries[0].passes[last].binds[0].tensor;
    moved.entries[0].tensors[tensor].offset += 64;
    let text = diff::plans(&fused, &moved);
    assert!(
        text.contains("re-placed:") && !text.contains("added:") && !text.contains("changed:"),
        "{text}"
    );
}

#[test]
fn two_profiles_side_by_side_with_their_noise() {
    use graphc::report::diff;
    let plan = plan();
    let (a, mut b) = (profile(&plan, roofs()), profile(&plan, roofs()));
    let same = diff::profiles(&a, &b);
    assert!(
        !same.contains("faster") && !same.contains("slower"),
        "{same}"
    );
    for spread in [&mut b.folded[0].time, &mut b.whole] {
        (spread.median, spread.p5, spread.p95) =
            (spread.median / 2.0, spread.p5 / 2.0, spread.p95 / 2.0);
    }
    b.folded[1].time.median *= 0.999;
    let gone = b.folded.pop().unwrap();
    let text = diff::profiles(&a, &b);
    let line = |path: &str| text.lines().find(|line| line.contains(path)).unwrap();
    assert!(
        line(&b.folded[0].path).contains("-50.0 %") && line(&b.folded[0].path).ends_with("faster")
    );
    assert!(
        line(&b.folded[1].path).ends_with("within the noise"),
        "{text}"
    );
    assert!(line(&gone.path).ends_with("removed"), "{text}");
    assert!(line("whole on the device").ends_with("faster"), "{text}");
}
