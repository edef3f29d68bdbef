//! Which device is chosen by number, name or UUID.
#![allow(clippy::unwrap_used)]

use super::*;

fn device(index: usize, name: &str, kind: DeviceKind, uuid: &str) -> DeviceInfo {
    DeviceInfo {
        index,
        name: name.into(),
        uuid: uuid.into(),
        kind,
        vulkan: "1.3.0".into(),
        driver: "test".into(),
        memory_bytes: 0,
        memory_host_visible: false,
        profile: DeviceProfile {
            name: name.into(),
            matches: name.into(),
            limits: Limits::default(),
            features: Default::default(),
            roofs: Roofs::default(),
            choices: BTreeMap::new(),
            max_submit_ms: None,
            tokens_per_submit: None,
        },
        unusable: vec![],
    }
}

fn three() -> [DeviceInfo; 3] {
    [
        device(0, "llvmpipe", DeviceKind::Cpu, "6d657361-0000"),
        device(1, "Fast A", DeviceKind::Discrete, "aaaaaaaa-0001"),
        device(2, "Fast B", DeviceKind::Discrete, "aaaaaaaa-0002"),
    ]
}

fn chosen(all: &[DeviceInfo], wanted: Option<&str>) -> Result<usize, String> {
    let all: Vec<_> = all.iter().collect();
    choose(&all, wanted).map_err(|error| error.to_string())
}

#[test]
fn a_device_is_named_by_number_name_or_uuid() {
    let all = three();
    for (wanted, index) in [
        (None, 1), // a GPU before a device on the CPU
        (Some(""), 1),
        (Some("0"), 0),
        (Some(" 2 "), 2),
        (Some("LLVM"), 0),
        (Some("fast b"), 2),
        (Some("6d657361"), 0),
        (Some("AAAAAAAA-0002"), 2),
    ] {
        assert_eq!(chosen(&all, wanted), Ok(index), "{wanted:?}");
    }
}

#[test]
fn a_wish_that_fits_none_or_several_is_an_error() {
    for (wanted, words) in [
        ("3", "no device matches `3`; there is:"),
        ("slow", "no device matches `slow`; there is:"),
        ("fast", "more than one device matches `fast`; there is:"),
        ("aaaa", "no device matches `aaaa`; there is:"), // too short for a UUID
    ] {
        let text = chosen(&three(), Some(wanted)).unwrap_err();
        assert!(text.starts_with(words), "{text}");
        assert!(text.contains("1: Fast A (GPU, aaaaaaaa-0001)"), "{text}");
    }
}

#[test]
fn an_unusable_device_is_passed_over_but_never_taken_silently() {
    let mut all = three();
    all[1].unusable.push("it offers Vulkan 1.1".into());
    assert_eq!(chosen(&all, None), Ok(2));
    let text = chosen(&all, Some("1")).unwrap_err();
    assert_eq!(
        text,
        "device `Fast A` cannot run graphc: it offers Vulkan 1.1"
    );
    all.iter_mut()
        .for_each(|info| info.unusable = vec!["too old".into()]);
    let text = chosen(&all, None).unwrap_err();
    assert!(
        text.contains("2: Fast B (GPU, aaaaaaaa-0002): too old"),
        "{text}"
    );
}
