//! Device profiles from `profiles/devices/`.
//!
//! In: a name or path and a reader of texts. Out: a [`DeviceProfile`] whose numbers make sense, or diagnostics with
//! the place in the profile. The format is described in `profiles/README.md`.

use crate::codes::plan as codes;
use crate::device::{DeviceProfile, MAX_TOKENS_PER_SUBMIT};
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::expr::Expr;
use crate::span::{FileId, SourceMap, Sources, Span};
use crate::text::options;

pub mod edit;

/// The folder that names are looked up in.
pub const FOLDER: &str = "profiles/devices";

/// Whether what names a profile is the path of a file.
pub fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".ron")
}

/// Loads a profile: `nvidia-h200` means `profiles/devices/nvidia-h200.ron`; what has a `/` or ends in `.ron` is a path.
pub fn load(
    name: &str,
    sources: &dyn Sources,
    map: &mut SourceMap,
) -> Result<DeviceProfile, Diagnostics> {
    let is_path = is_path(name);
    let path = if is_path {
        name.to_owned()
    } else {
        format!("{FOLDER}/{name}.ron")
    };
    let text = sources
        .read(&path)
        .map_err(|error| missing(name, is_path, &error.to_string(), sources))?;
    let file = map.add(path, text);
    let profile = parse(file, map)?;
    check(&profile, file, map)?;
    Ok(profile)
}

/// What was asked of a device itself, with the roofs and choices of the profile file that matches its name, if there
/// is one. Limits and features stay the device's own, but for features that it cannot be asked about.
pub fn tune(
    found: DeviceProfile,
    sources: &dyn Sources,
    map: &mut SourceMap,
) -> Result<DeviceProfile, Diagnostics> {
    let device = found.name.to_lowercase();
    for name in names(sources) {
        let file = load(&name, sources, map)?;
        if !file.matches.is_empty() && device.contains(&file.matches.to_lowercase()) {
            let mut limits = found.limits;
            limits.compute_units = limits.compute_units.or(file.limits.compute_units);
            let measured = file.features.iter().filter(|feature| feature.is_measured());
            let features = found.features.iter().chain(measured).copied().collect();
            return Ok(DeviceProfile {
                limits,
                features,
                ..file
            });
        }
    }
    Ok(found)
}

/// The names of all profiles, sorted.
pub fn names(sources: &dyn Sources) -> Vec<String> {
    let paths = sources.list(FOLDER).unwrap_or_default();
    let stem = |path: &String| Some(path.rsplit('/').next()?.strip_suffix(".ron")?.to_owned());
    paths.iter().filter_map(stem).collect()
}

fn missing(name: &str, is_path: bool, reason: &str, sources: &dyn Sources) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        codes::NO_PROFILE,
        format!("there is no device profile `{name}`"),
    );
    if is_path {
        return diagnostic.note(reason);
    }
    let names = names(sources);
    let known = format!("known profiles: {}", names.join(", "));
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => diagnostic
            .note(known)
            .help(format!("did you mean `{near}`?")),
        None => diagnostic
            .note(known)
            .help("name one of these, or give the path of a .ron file"),
    }
}

fn parse(file: FileId, map: &SourceMap) -> Result<DeviceProfile, Diagnostic> {
    let text = &map.file(file).text;
    options().from_str(text).map_err(|error| {
        let start = offset(text, error.span.start.line, error.span.start.col);
        let end = offset(text, error.span.end.line, error.span.end.col).max(start);
        let span = Span { file, start, end };
        Diagnostic::error(
            codes::PROFILE_TEXT,
            format!("this is not a device profile: {}", error.code),
        )
        .at(span, "")
        .help("profiles/README.md describes every field")
    })
}

/// The byte at a 1-based line and column.
fn offset(text: &str, line: usize, col: usize) -> u32 {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = text.get(before..).unwrap_or_default();
    let within = rest
        .char_indices()
        .nth(col.saturating_sub(1))
        .map_or(rest.len(), |(at, _)| at);
    u32::try_from(before + within).unwrap_or(u32::MAX)
}

fn check(profile: &DeviceProfile, file: FileId, map: &SourceMap) -> Result<(), Diagnostics> {
    let text = &map.file(file).text;
    let mut found = Diagnostics::default();
    let mut wrong = |field: &str, message: String| {
        // Field names are unique in a profile, so the first one that is followed by a colon is the place.
        let start = text
            .find(&format!("{field}:"))
            .or_else(|| text.find(field))
            .unwrap_or(0);
        let span = Span {
            file,
            start: start as u32,
            end: (start + field.len()).min(text.len()) as u32,
        };
        found.push(Diagnostic::error(codes::PROFILE_VALUE, message).at(span, "in this profile"));
    };
    let limits = &profile.limits;
    let at_least_one = [
        ("max_storage_buffer_range", limits.max_storage_buffer_range),
        ("max_allocation", limits.max_allocation),
        ("max_invocations", u64::from(limits.max_invocations)),
        ("max_storage_buffers", u64::from(limits.max_storage_buffers)),
        (
            "max_workgroup_size",
            limits
                .max_workgroup_size
                .into_iter()
                .min()
                .map_or(0, u64::from),
        ),
        (
            "max_workgroup_count",
            limits
                .max_workgroup_count
                .into_iter()
                .min()
                .map_or(0, u64::from),
        ),
    ];
    for (field, _) in at_least_one.iter().filter(|(_, limit)| *limit == 0) {
        wrong(field, format!("`{field}` is 0: no kernel could run"));
    }
    let powers = [
        ("min_storage_alignment", limits.min_storage_alignment),
        ("subgroup_size", u64::from(limits.subgroup_size)),
    ];
    for (field, number) in powers
        .iter()
        .filter(|(_, number)| !number.is_power_of_two())
    {
        wrong(
            field,
            format!("`{field}` is {number}, which is no power of two"),
        );
    }
    let roofs = &profile.roofs;
    let speeds = [
        ("read_bytes_per_s", roofs.read_bytes_per_s),
        ("matrix_f16_flops", roofs.matrix_f16_flops),
        ("f32_flops", roofs.f32_flops),
        ("dependent_pass_s", roofs.dependent_pass_s),
        ("copy_bytes_per_s", roofs.copy_bytes_per_s),
        ("f16_flops", roofs.f16_flops),
        ("independent_pass_s", roofs.independent_pass_s),
        ("guard_s", roofs.guard_s),
        ("submit_s", roofs.submit_s),
        ("max_submit_ms", profile.max_submit_ms),
    ];
    if let Some(steps) = profile.tokens_per_submit
        && !(1..=MAX_TOKENS_PER_SUBMIT).contains(&steps)
    {
        wrong(
            "tokens_per_submit",
            format!("`tokens_per_submit` is {steps}; it must be 1 to {MAX_TOKENS_PER_SUBMIT}"),
        );
    }
    for (field, number) in speeds {
        if let Some(number) = number.filter(|number| !(number.is_finite() && *number > 0.0)) {
            wrong(
                field,
                format!("`{field}` is {number}; it must be a positive number"),
            );
        }
    }
    for (kernel, choice) in profile
        .choices
        .iter()
        .flat_map(|(kernel, list)| list.iter().map(move |choice| (kernel, choice)))
    {
        if let Some(when) = &choice.when
            && let Err(error) = Expr::parse(when)
        {
            let help = error.help.as_ref().map(|help| format!("; {help}"));
            wrong(
                when,
                format!(
                    "the condition `{when}` of a choice for `{kernel}` is no expression: {error}{}",
                    help.unwrap_or_default()
                ),
            );
        }
    }
    found.into_result().map(|_| ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::device::Feature;
    use std::collections::{BTreeMap, BTreeSet};

    const H200: &str = include_str!("../../profiles/devices/nvidia-h200.ron");
    const LAVAPIPE: &str = include_str!("../../profiles/devices/lavapipe.ron");

    fn shipped() -> BTreeMap<String, String> {
        let file = |name: &str, text: &str| (format!("{FOLDER}/{name}.ron"), text.to_owned());
        BTreeMap::from([file("nvidia-h200", H200), file("lavapipe", LAVAPIPE)])
    }

    fn rendered(name: &str, sources: &BTreeMap<String, String>) -> String {
        let mut map = SourceMap::default();
        load(name, sources, &mut map)
            .unwrap_err()
            .render(&map, false)
    }

    #[test]
    fn the_shipped_profiles_load_under_their_names() {
        for name in names(&shipped()) {
            let profile = load(&name, &shipped(), &mut SourceMap::default()).unwrap();
            assert_eq!(profile.name, name);
        }
        assert_eq!(names(&shipped()), ["lavapipe", "nvidia-h200"]);
    }

    #[test]
    fn a_device_keeps_its_limits_and_takes_the_roofs_of_its_profile() {
        let mut map = SourceMap::default();
        let file = load("nvidia-h200", &shipped(), &mut map).unwrap();
        let mut found = load("lavapipe", &shipped(), &mut map).unwrap();
        found.name = "NVIDIA H200 of tomorrow".into();
        let tuned = tune(found.clone(), &shipped(), &mut map).unwrap();
        assert_eq!((tuned.name, tuned.roofs), (file.name, file.roofs));
        assert_eq!(tuned.limits.max_allocation, found.limits.max_allocation);
        let measured = [Feature::CoopmatLanes, Feature::Relay];
        for feature in measured {
            assert!(file.features.contains(&feature) && !found.features.contains(&feature));
        }
        let with: BTreeSet<Feature> = found.features.iter().copied().chain(measured).collect();
        assert_eq!(tuned.features, with);
        found.name = "some other device".into();
        assert_eq!(tune(found.clone(), &shipped(), &mut map).unwrap(), found);
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one() {
        let text = rendered("nvidia-h100", &shipped());
        assert!(text.contains("did you mean `nvidia-h200`?"), "{text}");
    }

    #[test]
    fn mistakes_are_shown_in_their_place() {
        for (from, to, wanted) in [
            ("subgroup_size: 32", "subgroup_size: 33", ":15:9"),
            ("max_allocation", "max_alocation", ":7:9"),
            ("4.65e12", "-1.0", ":22:9"),
            ("tokens_per_submit: 8", "tokens_per_submit: 0", ":33:5"),
        ] {
            let path = format!("{FOLDER}/broken.ron");
            let sources = BTreeMap::from([(path.clone(), H200.replace(from, to))]);
            let text = rendered("broken", &sources);
            assert!(text.contains(&format!("{path}{wanted}")), "{from}: {text}");
        }
    }
}
