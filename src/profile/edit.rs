//! Profiles as texts that people edit. In: the text of a profile and what was measured. Out: the text with that one
//! field replaced; comments, order and everything else stay as they are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::device::{Choice, DeviceProfile, Feature, Roofs};
use crate::text::options;

/// `NVIDIA H200 (x)` becomes `nvidia-h200-x`.
pub fn file_name(device: &str) -> String {
    let lower = device.to_lowercase();
    let parts = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    match parts.is_empty() {
        true => "device".into(),
        false => parts.join("-"),
    }
}

/// The text with other roofs and a comment that says where they are from.
pub fn with_roofs(text: &str, roofs: &Roofs, note: &str) -> Result<String, String> {
    replaced(text, "roofs", &roofs_text(roofs, note))
}

/// The text with those features that `graphc roof` looks for as they are in `features`, and the others as they were.
pub fn with_measured_features(text: &str, features: &BTreeSet<Feature>) -> Result<String, String> {
    let profile = profile(text)?;
    let mut new = profile.features.clone();
    new.retain(|feature| !feature.is_sought());
    new.extend(features.iter().filter(|feature| feature.is_sought()));
    match new == profile.features {
        true => Ok(text.into()),
        false => replaced(text, "features", &features_text(&new)),
    }
}

/// The text with other choices.
pub fn with_choices(
    text: &str,
    choices: &[(String, Vec<(Choice, String)>)],
) -> Result<String, String> {
    replaced(text, "choices", &choices_text(choices))
}

/// A profile as a new text.
pub fn fresh(profile: &DeviceProfile, note: &str) -> String {
    let limits = &profile.limits;
    let mut out = format!(
        "// Limits as the driver reports them.\n(\n    name: {:?},\n    matches: {:?},\n    limits: (\n",
        profile.name, profile.matches
    );
    let [x, y, z] = limits.max_workgroup_size;
    let [gx, gy, gz] = limits.max_workgroup_count;
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "        {name}: {value},");
    };
    line(
        "max_storage_buffer_range",
        limits.max_storage_buffer_range.to_string(),
    );
    line("max_allocation", limits.max_allocation.to_string());
    line(
        "min_storage_alignment",
        limits.min_storage_alignment.to_string(),
    );
    line("max_shared_memory", limits.max_shared_memory.to_string());
    line("max_invocations", limits.max_invocations.to_string());
    line("max_workgroup_size", format!("({x}, {y}, {z})"));
    line("max_workgroup_count", format!("({gx}, {gy}, {gz})"));
    line("max_push_constants", limits.max_push_constants.to_string());
    line(
        "max_storage_buffers",
        limits.max_storage_buffers.to_string(),
    );
    line("subgroup_size", limits.subgroup_size.to_string());
    if let Some(units) = limits.compute_units {
        line("compute_units", units.to_string());
    }
    let memory = [
        ("device_memory", limits.device_memory),
        ("all_memory", limits.all_memory),
    ];
    for (name, bytes) in memory {
        if let Some(bytes) = bytes {
            line(name, bytes.to_string());
        }
    }
    let _ = writeln!(
        out,
        "    ),\n    features: {},",
        features_text(&profile.features)
    );
    let _ = writeln!(out, "    roofs: {},", roofs_text(&profile.roofs, note));
    let choices: Vec<_> = profile
        .choices
        .iter()
        .map(|(kernel, list)| {
            let list = list.iter().map(|choice| (choice.clone(), String::new()));
            (kernel.clone(), list.collect())
        })
        .collect();
    if !choices.is_empty() {
        let _ = writeln!(out, "    choices: {},", choices_text(&choices));
    }
    if let Some(ms) = profile.max_submit_ms {
        let _ = writeln!(out, "    max_submit_ms: {ms:?},");
    }
    if let Some(steps) = profile.tokens_per_submit {
        let _ = writeln!(out, "    tokens_per_submit: {steps},");
    }
    out + ")\n"
}

fn features_text(features: &BTreeSet<Feature>) -> String {
    let names: Vec<&str> = features.iter().map(|feature| feature.name()).collect();
    format!("[{}]", names.join(", "))
}

fn roofs_text(roofs: &Roofs, note: &str) -> String {
    let mut out = format!("(\n        // {note}\n");
    let all = [
        ("read_bytes_per_s", roofs.read_bytes_per_s),
        ("copy_bytes_per_s", roofs.copy_bytes_per_s),
        ("matrix_f16_flops", roofs.matrix_f16_flops),
        ("f32_flops", roofs.f32_flops),
        ("f16_flops", roofs.f16_flops),
        ("dependent_pass_s", roofs.dependent_pass_s),
        ("independent_pass_s", roofs.independent_pass_s),
        ("guard_s", roofs.guard_s),
        ("submit_s", roofs.submit_s),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            let _ = writeln!(out, "        {name}: {value:e},");
        }
    }
    out + "    )"
}

fn choices_text(choices: &[(String, Vec<(Choice, String)>)]) -> String {
    let mut out = String::from("{\n");
    for (kernel, list) in choices {
        let _ = writeln!(out, "        {kernel:?}: [");
        for (choice, note) in list {
            if !note.is_empty() {
                let _ = writeln!(out, "            // {note}");
            }
            let mut fields = Vec::new();
            fields.extend(choice.when.as_ref().map(|when| format!("when: {when:?}")));
            fields.push(format!("variant: {:?}", choice.variant));
            if !choice.spec.is_empty() {
                let spec: Vec<String> = choice
                    .spec
                    .iter()
                    .map(|(name, value)| format!("{name:?}: {value}"))
                    .collect();
                fields.push(format!("spec: {{ {} }}", spec.join(", ")));
            }
            let _ = writeln!(out, "            ({}),", fields.join(", "));
        }
        out += "        ],\n";
    }
    out + "    }"
}

/// Puts `value` in place of the field's, or at the end if there is no such field. The result is read before it is
/// given out.
fn replaced(text: &str, field: &str, value: &str) -> Result<String, String> {
    profile(text)?;
    let tokens = tokens(text);
    let depth_one = |at: &usize| tokens[*at].depth == 1 && tokens[*at].text == field;
    let new = match (0..tokens.len()).find(depth_one) {
        // The field's name, a colon, and a value in brackets.
        Some(at) => {
            let open = at + 2;
            let start = tokens.get(open).ok_or("a field without a value")?;
            let close = (open + 1..tokens.len())
                .find(|index| tokens[*index].depth == start.depth)
                .ok_or("brackets that do not match")?;
            format!(
                "{}{value}{}",
                &text[..start.at],
                &text[tokens[close].at + 1..]
            )
        }
        None => {
            let end = tokens.last().ok_or("an empty profile")?;
            let comma = match tokens.iter().rev().nth(1).map(|token| token.text) {
                Some("," | "(") => "",
                _ => ",",
            };
            let before = text[..end.at].trim_end();
            format!(
                "{before}{comma}\n    {field}: {value},\n{}",
                &text[end.at..]
            )
        }
    };
    profile(&new).map(|_| new)
}

fn profile(text: &str) -> Result<DeviceProfile, String> {
    let read = options().from_str::<DeviceProfile>(text);
    read.map_err(|error| format!("this is no device profile: {error}"))
}

struct Token<'a> {
    text: &'a str,
    at: usize,
    /// Brackets around it; an opening bracket and its closing one count as outside.
    depth: usize,
}

/// Words, signs and texts, without comments.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut all = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            c if c.is_alphanumeric() || c == '_' => rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let token = &rest[..length];
        if matches!(token, ")" | "]" | "}") {
            depth = depth.saturating_sub(1);
        }
        if !first.is_whitespace() && !token.starts_with("//") && !token.starts_with("/*") {
            all.push(Token {
                text: token,
                at,
                depth,
            });
        }
        if matches!(token, "(" | "[" | "{") {
            depth += 1;
        }
        at += length;
    }
    all
}

/// Of a text in quotes, from its first quote to its last.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const H200: &str = include_str!("../../profiles/devices/nvidia-h200.ron");
    const LAVAPIPE: &str = include_str!("../../profiles/devices/lavapipe.ron");

    fn parse(text: &str) -> DeviceProfile {
        options().from_str(text).unwrap()
    }

    fn roofs() -> Roofs {
        Roofs {
            read_bytes_per_s: Some(1.25e10),
            submit_s: Some(3.5e-5),
            ..Roofs::default()
        }
    }

    #[test]
    fn what_was_measured_of_features_changes_and_nothing_else() {
        let lanes = BTreeSet::from([Feature::CoopmatLanes]);
        assert_eq!(with_measured_features(H200, &lanes).unwrap(), H200);
        let none = BTreeSet::from([Feature::DotI8]);
        let without = with_measured_features(H200, &none).unwrap();
        let mut wanted = parse(H200);
        assert!(wanted.features.remove(&Feature::CoopmatLanes));
        assert_eq!(parse(&without), wanted);
        assert_eq!(
            parse(&with_measured_features(&without, &lanes).unwrap()),
            parse(H200)
        );
        let odd = with_measured_features("(name: 3)", &none).unwrap_err();
        assert!(odd.contains("no device profile"), "{odd}");
    }

    #[test]
    fn only_the_roofs_change() {
        for text in [H200, LAVAPIPE] {
            let edited = with_roofs(text, &roofs(), "Measured here.").unwrap();
            let (before, after) = (parse(text), parse(&edited));
            assert_eq!(after.roofs, roofs());
            assert_eq!(
                DeviceProfile {
                    roofs: roofs(),
                    ..before
                },
                after
            );
            assert_eq!(edited.lines().next(), text.lines().next(), "comments stay");
            assert!(edited.contains("// Measured here."));
            assert_eq!(
                with_roofs(&edited, &roofs(), "Measured here.").unwrap(),
                edited
            );
        }
    }

    #[test]
    fn choices_are_added_and_replaced() {
        let choice = Choice {
            when: Some("k % 4 == 0".into()),
            variant: "rows".into(),
            spec: [("LANES".to_string(), 64)].into(),
        };
        let list = vec![(
            "linear".to_string(),
            vec![(choice.clone(), "3 us, was 5 us".to_string())],
        )];
        for text in [H200, LAVAPIPE] {
            let edited = with_choices(text, &list).unwrap();
            let after = parse(&edited);
            assert_eq!(after.choices["linear"], std::slice::from_ref(&choice));
            assert_eq!(after.roofs, parse(text).roofs);
            assert!(edited.contains("// 3 us, was 5 us"), "{edited}");
        }
    }

    #[test]
    fn a_new_text_reads_as_the_profile() {
        for text in [H200, LAVAPIPE] {
            let profile = parse(text);
            assert_eq!(parse(&fresh(&profile, "note")), profile);
        }
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for text in ["", "(", "( name: \"x\" )"] {
            assert!(with_roofs(text, &roofs(), "").is_err());
        }
        assert_eq!(file_name("NVIDIA H200 (x)"), "nvidia-h200-x");
        assert_eq!(file_name("\u{e4}"), "device");
    }
}
