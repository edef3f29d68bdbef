#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::device::{Choice, Roofs};
use crate::kernel::manifest;
use crate::span::SourceMap;

/// Three ways to double a list: `wide` is preferred and needs much, `even` comes next, `plain` always works.
const DOUBLE: &str = r#"Kernel(
    name: "double", doc: "Twice.", types: { "A": ["f32", "f16"] },
    options: { "kind": Choice(of: ["near", "far"], default: "near"), "times": Int(default: "2", min: "1", max: "9") },
    ports: {
        "x": Read(of: "A", shape: ["n..."]),
        "bias": Read(of: "f32", shape: ["1"], optional: true),
        "y": Write(of: "A", shape: ["n..."]),
    },
    flops: "2 * n",
    touched: { "x": "min(n, 5)" },
    reference: ["y[i<n] = 2 * x[i]"],
    push: { "n": U32("n"), "times": I32("times") },
    variants: [
        Variant(
            name: "plain", shader: "double.comp",
            spec: { "WIDTH": Spec(default: "min(64, 8 * subgroup_size)", min: "8", max: "256") },
            defines: { "UNITS": "compute_units", "LONG": "n > 1000" },
            local_size: ["WIDTH", "1", "1"], dispatch: ["ceil(n / WIDTH)", "1", "1"], shared_bytes: "4 * WIDTH",
        ),
        Variant(
            name: "wide", shader: "wide.comp", prefer: 2, needs: ["subgroup32", "coopmat_f16"],
            local_size: ["32", "1", "1"], dispatch: ["1", "1", "1"],
        ),
        Variant(
            name: "even", shader: "even.comp", prefer: 1, when: "n % 2 == 0 && A == 'f32'",
            local_size: ["32", "1", "1"], dispatch: ["ceil(n / 64)", "1", "1"],
        ),
    ],
)"#;

fn double() -> Manifest {
    let mut map = SourceMap::default();
    let file = map.add("shaders/double.ron", DOUBLE);
    manifest::parse(file, &map).unwrap_or_else(|found| panic!("{}", found.render(&map, false)))
}

/// `double` on a list of `n` numbers.
fn list(n: u64, dtype: DType) -> Binding {
    Binding {
        dims: BTreeMap::from([("n".into(), n as i64)]),
        types: BTreeMap::from([("A".into(), dtype)]),
        options: BTreeMap::from([
            ("kind".into(), Value::Text("near".into())),
            ("times".into(), Value::Int(2)),
        ]),
        ports: vec![Some((dtype, vec![n])), None, Some((dtype, vec![n]))],
    }
}

/// A device with nothing but f16 storage.
fn device() -> DeviceProfile {
    DeviceProfile {
        name: "test".into(),
        matches: "test".into(),
        limits: Limits {
            min_storage_alignment: 16,
            max_shared_memory: 1024,
            max_workgroup_size: [128; 3],
            max_workgroup_count: [100; 3],
            max_storage_buffers: 16,
            subgroup_size: 8,
            ..Limits::default()
        },
        features: BTreeSet::from([Feature::StorageF16]),
        roofs: Roofs::default(),
        choices: BTreeMap::new(),
        max_submit_ms: None,
        tokens_per_submit: None,
    }
}

fn chosen(binding: &Binding, device: &DeviceProfile) -> Selected {
    select(&double(), binding, device, None).unwrap_or_else(|found| panic!("{found:?}"))
}

fn refused(binding: &Binding, device: &DeviceProfile, forced: Option<&str>) -> Diagnostic {
    select(&double(), binding, device, forced).unwrap_err()
}

#[test]
fn the_preferred_variant_that_is_possible_wins() {
    let mut rich = device();
    rich.features
        .extend([Feature::Subgroup32, Feature::CoopmatF16]);
    let best = chosen(&list(7, DType::F32), &rich);
    assert_eq!(best.variant, "wide");
    assert!(best.full_subgroups && best.matrix);
    assert_eq!((best.flops, best.touched), (14, BTreeMap::from([(0, 5)])));
    assert_eq!(
        best.needs,
        BTreeSet::from([Feature::Subgroup32, Feature::CoopmatF16])
    );
    // One of two needed features is not enough; then a condition decides, on dims and on types.
    rich.features.remove(&Feature::CoopmatF16);
    assert_eq!(chosen(&list(8, DType::F32), &rich).variant, "even");
    assert_eq!(chosen(&list(7, DType::F32), &rich).variant, "plain");
    let half = chosen(&list(8, DType::F16), &rich);
    assert_eq!(half.variant, "plain");
    assert_eq!(half.needs, BTreeSet::from([Feature::StorageF16]));
    assert!(!half.full_subgroups && !half.matrix);
}

#[test]
fn everything_that_a_recording_freezes_is_evaluated() {
    let mut device = device();
    device.limits.compute_units = Some(132);
    let mut binding = list(1001, DType::F16);
    binding
        .options
        .insert("kind".into(), Value::Text("far".into()));
    binding.ports[1] = Some((DType::F32, vec![1]));
    let plain = chosen(&binding, &device);
    assert_eq!(
        (plain.kernel.as_str(), plain.shader.as_str()),
        ("double", "double.comp")
    );
    assert_eq!(plain.label, "f16 bias far");
    // 8 * subgroup_size = 64 invocations, ceil(1001 / 64) = 16 workgroups of them.
    assert_eq!(plain.spec, [(0, 64)]);
    assert_eq!((plain.local_size, plain.groups), ([64, 1, 1], [16, 1, 1]));
    assert_eq!(
        plain.push,
        [&1001_u32.to_le_bytes()[..], &2_i32.to_le_bytes()].concat()
    );
    assert_eq!((plain.shared_bytes, plain.flops), (Some(256), 2002));
    let defined: BTreeMap<&str, &str> = plain
        .defines
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for (name, value) in [
        ("A", "float16_t"),
        ("A_F16", "1"),
        ("A_F32", "0"),
        ("KIND_NEAR", "0"),
        ("KIND_FAR", "1"),
        ("KIND", "KIND_FAR"),
        ("OPT_TIMES", "2"),
        ("HAS_BIAS", "1"),
        ("BIND_X", "0"),
        ("BIND_BIAS", "1"),
        ("BIND_Y", "2"),
        ("UNITS", "132"),
        ("LONG", "1"),
        ("LOCAL_X", "64"),
        ("LOCAL_Z", "1"),
    ] {
        assert_eq!(defined.get(name), Some(&value), "{name}");
    }
    // The same input gives the same choice.
    assert_eq!(plain, chosen(&binding, &device));
}

#[test]
fn the_choice_of_a_profile_comes_first() {
    type Line<'a> = (Option<&'a str>, &'a str, &'a [(&'a str, u32)]);
    let choose = |choices: &[Line]| {
        let mut device = device();
        let choices = choices.iter().map(|(when, variant, spec)| Choice {
            when: when.map(String::from),
            variant: (*variant).into(),
            spec: spec
                .iter()
                .map(|(name, value)| ((*name).into(), *value))
                .collect(),
        });
        device.choices.insert("double".into(), choices.collect());
        device
    };
    let even = list(8, DType::F32);
    let tuned = chosen(&even, &choose(&[(None, "plain", &[("WIDTH", 16)])]));
    assert_eq!(
        (tuned.variant.as_str(), tuned.local_size),
        ("plain", [16, 1, 1])
    );
    // The first whose condition holds; one that this device cannot run is passed over.
    let several = choose(&[
        (Some("n > 100"), "plain", &[("WIDTH", 16)]),
        (None, "wide", &[]),
        (
            Some("n > 4 && subgroup_size == 8"),
            "plain",
            &[("WIDTH", 32)],
        ),
    ]);
    assert_eq!(chosen(&even, &several).local_size, [32, 1, 1]);
    assert_eq!(
        chosen(&list(200, DType::F32), &several).local_size,
        [16, 1, 1]
    );
    assert_eq!(chosen(&list(2, DType::F32), &several).variant, "even");
    // What a profile cannot mean is an error and no fallback.
    for (when, variant, spec, words) in [
        (
            None,
            "plian",
            &[][..],
            "the choice of profile `test` is `plian`",
        ),
        (
            None,
            "plain",
            &[("WIDE", 16)],
            "has no such specialisation constant",
        ),
        (None, "plain", &[("WIDTH", 4)], "it may be 8 to 256"),
        (
            Some("m > 4"),
            "plain",
            &[],
            "chooses for kernel `double` when `m > 4`",
        ),
    ] {
        let found = refused(&even, &choose(&[(when, variant, spec)]), None);
        assert_eq!(found.code, code::BAD_CHOICE);
        assert!(found.message.contains(words), "{}", found.message);
    }
}

#[test]
fn a_forced_variant_is_taken_or_refused() {
    let even = list(8, DType::F32);
    let plain = select(&double(), &even, &device(), Some("plain")).unwrap();
    assert_eq!(plain.variant, "plain");
    for (name, words) in [
        (
            "wide",
            "cannot run as variant `wide`: the device lacks subgroup32, coopmat_f16",
        ),
        ("plian", "`plian`, which kernel `double` does not have"),
    ] {
        let found = refused(&even, &device(), Some(name));
        assert_eq!(found.code, code::BAD_CHOICE);
        assert!(found.message.contains(words), "{}", found.message);
    }
    let odd = refused(&list(7, DType::F32), &device(), Some("even"));
    assert!(odd.message.contains("does not hold"), "{}", odd.message);
}

#[test]
fn when_nothing_fits_every_variant_says_why() {
    let found = |n: u64, narrow: fn(&mut DeviceProfile)| {
        let mut device = device();
        narrow(&mut device);
        let found = refused(&list(n, DType::F16), &device, None);
        assert_eq!(found.code, code::NO_VARIANT);
        assert_eq!(found.notes.len(), 3, "{:?}", found.notes);
        assert!(found.notes[0].starts_with("variant `wide`: the device lacks"));
        assert!(found.notes[1].starts_with("variant `even`: "));
        found.notes[2].clone()
    };
    for (n, narrow, reason) in [
        (
            8,
            (|d| d.features.clear()) as fn(&mut DeviceProfile),
            "the device lacks storage_f16",
        ),
        (
            8,
            |d| d.limits.max_invocations = 63,
            "64 invocations exceeds the device's 63",
        ),
        (
            8,
            |d| d.limits.max_workgroup_size = [32; 3],
            "[64, 1, 1] is empty or exceeds the device's [32, 32, 32]",
        ),
        (
            8,
            |d| d.limits.max_shared_memory = 255,
            "256 bytes of shared memory, the device has 255",
        ),
        (
            8,
            |d| d.limits.max_storage_buffers = 1,
            "2 storage buffers, the device has 1",
        ),
        (
            8,
            |d| d.limits.max_push_constants = 7,
            "8 bytes of push constants, the device has 7",
        ),
        (
            8,
            |d| d.limits.subgroup_size = 0,
            "`WIDTH` would be 0, but may be 8 to 256",
        ),
        (
            64 * 10_001,
            |_| {},
            "it takes [10001, 1, 1] workgroups, the device allows [100, 100, 100]",
        ),
        (
            1 << 33,
            |d| d.limits.max_workgroup_count = [u32::MAX; 3],
            "push constant `n` is 8589934592, which is no u32",
        ),
    ] {
        let said = found(n, narrow);
        assert!(said.contains(reason), "{said}");
    }
}

/// `even` with another word in it: it is the best variant where n is even and the type f32.
fn even_but(from: &str, to: &str) -> Manifest {
    let text = DOUBLE.replacen(from, to, 1);
    assert_ne!(text, DOUBLE, "{from}");
    let mut map = SourceMap::default();
    let file = map.add("shaders/double.ron", text);
    manifest::parse(file, &map).unwrap_or_else(|found| panic!("{}", found.render(&map, false)))
}

#[test]
fn an_expression_without_a_value_is_an_error_and_no_fallback() {
    let even = "local_size: [\"32\", \"1\", \"1\"], dispatch: [\"ceil(n / 64)\"";
    for (from, to, words) in [
        (
            "[\"ceil(n / 64)\"",
            "[\"n / 64\"",
            "`dispatch` has no value: `n / 64`: 8 is not a multiple of 64",
        ),
        (
            even,
            "spec: { \"T\": Spec(default: \"n / 3\", min: \"1\", max: \"9\") }, local_size: [\"T\", \"1\", \"1\"], dispatch: [\"1\"",
            "the default of `T` has no value: `n / 3`: 8 is not a multiple of 3",
        ),
        (
            even,
            "defines: { \"D\": \"n / 3\" }, local_size: [\"1\", \"1\", \"1\"], dispatch: [\"1\"",
            "the definition `D` has no value",
        ),
        (
            "local_size: [\"32\", \"1\", \"1\"], dispatch: [\"ceil(n / 64)\"",
            "local_size: [\"4 - n\", \"1\", \"1\"], dispatch: [\"1\"",
            "`local_size` has no value: `4 - n`: expected a size, got -4",
        ),
        (
            "when: \"n % 2 == 0 && A == 'f32'\"",
            "when: \"n / 3 > 1\"",
            "`when` has no value: `n / 3 > 1`: 8 is not a multiple of 3",
        ),
    ] {
        let manifest = even_but(from, to);
        let found = select(&manifest, &list(8, DType::F32), &device(), None).unwrap_err();
        assert_eq!(found.code, code::NO_VALUE, "{to}: {}", found.message);
        let start = "nothing rules out variant `even` of kernel `double` here, but ";
        assert!(found.message.starts_with(start), "{}", found.message);
        assert!(found.message.contains(words), "{}", found.message);
        assert!(found.notes[0].contains("n = 8"), "{:?}", found.notes);
        assert!(found.help[0].contains("shaders/double.ron"));
    }
    let manifest = even_but("[\"ceil(n / 64)\"", "[\"n / 64\"");
    let select = |n, device: &DeviceProfile, forced| {
        select(&manifest, &list(n, DType::F32), device, forced)
            .map(|selected| selected.variant)
            .map_err(|found| found.code)
    };
    // Asked for by name or by a profile it is the same mistake.
    assert_eq!(select(8, &device(), Some("even")), Err(code::NO_VALUE));
    let mut asks = device();
    let choice = Choice {
        when: None,
        variant: "even".into(),
        spec: BTreeMap::new(),
    };
    asks.choices.insert("double".into(), vec![choice]);
    assert_eq!(select(8, &asks, None), Err(code::NO_VALUE));
    // Where `when` does not hold, or a better variant is possible, nobody looks.
    assert_eq!(select(7, &device(), None), Ok("plain".into()));
    assert_eq!(select(64, &device(), None), Ok("even".into()));
    let mut rich = device();
    rich.features
        .extend([Feature::Subgroup32, Feature::CoopmatF16]);
    assert_eq!(select(8, &rich, None), Ok("wide".into()));
}

#[test]
fn long_rows_of_workgroups_are_folded() {
    let limits = device().limits;
    assert_eq!(fold([100, 1, 1], &limits), Some([100, 1, 1]));
    assert_eq!(fold([101, 1, 1], &limits), Some([51, 2, 1]));
    assert_eq!(fold([10_000, 1, 1], &limits), Some([100, 100, 1]));
    assert_eq!(fold([10_001, 1, 1], &limits), None);
    // Counts along two axes mean something and stay as they are.
    assert_eq!(fold([101, 2, 1], &limits), None);
    assert_eq!(fold([0, 1, 1], &limits), None);
    let folded = chosen(&list(64 * 250 - 1, DType::F32), &device());
    assert_eq!(folded.groups, [84, 3, 1]);
}
