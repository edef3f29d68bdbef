//! What people see when a graph cannot be planned, letter for letter: one case for each code of the planner that a
//! graph or a profile can cause. `BLESS=1 cargo test --test plan_errors` rewrites `tests/errors/G05*.txt`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod planning;

use std::collections::BTreeMap;

use graphc::device::{DeviceProfile, Roofs};
use graphc::diag::Diagnostics;
use graphc::graph::{Class, Graph};
use graphc::plan::pack::pack;
use graphc::plan::place::Reads;
use graphc::span::SourceMap;
use planning::{Builder, attempt, profile, schedules, sources};

fn check(name: &str, text: &str) {
    let path = format!("{}/tests/errors/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap_or_default(),
        "{path}"
    );
}

fn refused(name: &str, graphs: &[Graph], profile: &DeviceProfile) {
    let schedules = schedules(graphs);
    let pairs: Vec<_> = graphs.iter().zip(&schedules).collect();
    let found: Diagnostics = pack(&pairs, &profile.limits, &Reads::default(), 0).unwrap_err();
    check(name, &found.render(&sources(), false));
}

/// x -> pass -> y
fn one_pass(entry: &str, weight: u64) -> Builder {
    let mut b = Builder::new(entry);
    let x = b.value("x", Class::Input, 64);
    let w = b.value("w", Class::Weight, weight);
    let y = b.transient("y", 64);
    b.pass("pass", &[x, w], &[y], false);
    b.output(y);
    b
}

#[test]
fn sizes_past_the_limits() {
    let mut small = profile();
    small.limits.max_storage_buffer_range = 1000;
    refused(
        "G0501_larger_than_a_binding",
        &[one_pass("e", 251).graph],
        &small,
    );
    let mut small = profile();
    small.limits.max_allocation = 1024;
    refused(
        "G0502_larger_than_an_allocation",
        &[one_pass("e", 300).graph],
        &small,
    );
}

#[test]
fn values_in_the_wrong_place() {
    let mut input = one_pass("e", 8);
    let x = input.graph.inputs[0];
    input.graph.outputs.push(x);
    refused("G0503_input_as_output", &[input.graph], &profile());

    refused(
        "G0504_two_sizes_of_a_weight",
        &[one_pass("e", 8).graph, one_pass("f", 9).graph],
        &profile(),
    );

    let mut carry = one_pass("e", 8);
    let y = carry.graph.outputs[0];
    let c = carry.value("c", Class::Carry { next: y }, 64);
    let z = carry.transient("z", 64);
    carry.pass("reads_c", &[c], &[z], false);
    refused("G0505_output_as_next_value", &[carry.graph], &profile());

    let mut view = one_pass("e", 8);
    let t = view.transient("t", 64);
    let z = view.transient("z", 64);
    let x = view.graph.inputs[0];
    view.pass("whole", &[x], &[t], false);
    let part = view.view("t.part", t, 1, 8);
    view.pass("part", &[part], &[z], false);
    refused("G0508_view_between_alignments", &[view.graph], &profile());
}

#[test]
fn time_budgets() {
    let graphs = [one_pass("e", 8).graph];
    let mut blind = profile();
    blind.roofs = Roofs::default();
    let found = attempt(&graphs, &blind, Some(1.0)).unwrap_err();
    check(
        "G0506_budget_without_roofs",
        &found.render(&sources(), false),
    );
    let (_, warnings) = attempt(&graphs, &profile(), Some(1e-6)).unwrap();
    let mut found = Diagnostics::default();
    warnings.into_iter().for_each(|warning| found.push(warning));
    check(
        "G0507_wave_past_the_budget",
        &found.render(&sources(), false),
    );
}

#[test]
fn profiles() {
    let text = include_str!("../profiles/devices/lavapipe.ron");
    for (case, name, change) in [
        ("G0509_no_such_profile", "lavapip", None),
        (
            "G0510_unknown_field",
            "changed",
            Some(("max_invocations", "max_invocation")),
        ),
        (
            "G0511_no_power_of_two",
            "changed",
            Some(("subgroup_size: 8", "subgroup_size: 7")),
        ),
    ] {
        let (from, to) = change.unwrap_or(("", ""));
        let mut texts =
            BTreeMap::from([("profiles/devices/lavapipe.ron".to_owned(), text.to_owned())]);
        if change.is_some() {
            texts.insert(
                "profiles/devices/changed.ron".into(),
                text.replace(from, to),
            );
        }
        let mut map = SourceMap::default();
        let found = graphc::profile::load(name, &texts, &mut map).unwrap_err();
        check(case, &found.render(&map, false));
    }
}
