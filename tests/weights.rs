//! Checkpoints, recipes and the pack cache on real files: what is right comes out exactly, what is wrong is
//! refused with a message that names it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model_files;

use std::path::Path;
use std::time::SystemTime;

use graphc::diag::Diagnostic;
use graphc::dtype::DType;
use graphc::graph::Recipe;
use graphc::plan::Plan;
use graphc::weights::{
    CachePlace, Checkpoint, PackOptions, PackedWeights, ResolvedRecipe, WeightError,
};
use model_files::*;

fn options(cache: &Path) -> PackOptions {
    PackOptions {
        place: CachePlace::Folder(cache.to_path_buf()),
        strict: false,
    }
}

fn pack(plan: &Plan, model: &Path, options: &PackOptions) -> Result<PackedWeights, WeightError> {
    PackedWeights::open_or_pack(plan, &Checkpoint::open(model)?, options, &mut |_, _| {})
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

/// `a` [2, 3] = 0..6 and `b` [3] in a folder.
fn small_model(folder: &Path) {
    let a: Vec<f32> = (0u8..6).map(f32::from).collect();
    let tensors = [
        ("a", "F32", &[2, 3][..], f32_bytes(&a)),
        ("b", "F32", &[3][..], f32_bytes(&[10.0, 20.0, 1e6])),
    ];
    put(folder, "model.safetensors", safetensors(&tensors));
}

#[test]
fn damaged_files_are_refused_by_name() {
    let one = |offsets: &str| {
        format!(r#"{{"w":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#)
    };
    let two = |a: &str, b: &str| {
        let tensor = |name: &str, at: &str| {
            format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{at}}}"#)
        };
        format!("{{{},{}}}", tensor("a", a), tensor("b", b))
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("G0602_five_bytes", vec![1, 2, 3, 4, 5]),
        (
            "G0602_header_longer_than_file",
            [&100u64.to_le_bytes()[..], b"{}"].concat(),
        ),
        (
            "G0602_header_of_2_to_the_63",
            [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat(),
        ),
        ("G0602_not_json", raw("version https://git-lfs", 0)),
        (
            "G0602_tensor_twice",
            raw(&two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), 8),
        ),
        ("G0602_trailing_bytes", raw(&one("[0,8]"), 9)),
        ("G0603_offsets_past_the_end", raw(&one("[0,8]"), 7)),
        ("G0603_offsets_backwards", raw(&one("[8,0]"), 8)),
        ("G0603_overlap", raw(&two("[0,4]", "[2,6]"), 6)),
        ("G0603_hole", raw(&two("[0,4]", "[5,9]"), 9)),
        ("G0603_wrong_size", raw(&one("[0,12]"), 12)),
        (
            "G0603_unknown_type",
            raw(&one("[0,8]").replace("F32", "Q4"), 8),
        ),
        (
            "G0603_size_overflow",
            raw(
                &one("[0,8]").replace("[2]", "[4294967296,4294967296,4294967296]"),
                8,
            ),
        ),
    ];
    for (name, bytes) in cases {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "model.safetensors", bytes);
        let error = Checkpoint::open(folder.path()).expect_err(name);
        assert_message(name, error.diagnostic(), folder.path());
    }
}

#[test]
fn headers_have_bounds() {
    let refuse = |bytes: Vec<u8>, part: &str| {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "model.safetensors", bytes);
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let empty =
        |name: &str| format!(r#""{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let many: Vec<String> = (0..65_537)
        .map(|number| empty(&number.to_string()))
        .collect();
    refuse(
        raw(&format!("{{{}}}", many.join(",")), 0),
        "more than 65536 tensors",
    );
    refuse(
        raw(&format!("{{{}}}", empty(&"n".repeat(1025))), 0),
        "a name has 1025 bytes",
    );
    refuse(
        raw(&" ".repeat((16 << 20) + 1), 0),
        "at most 16777216 are read",
    );
    let deep = empty("w").replace("[0]", &format!("[{}0]", "1,".repeat(8)));
    refuse(raw(&format!("{{{deep}}}"), 0), "more than 8 dimensions");
    let metadata = format!(
        "{{\"__metadata__\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refuse(raw(&metadata, 0), "expected a map");
}

#[test]
fn shards() {
    let index =
        |map: &str| format!(r#"{{"metadata": {{"total_size": 8}}, "weight_map": {{{map}}}}}"#);
    let model = |map: &str| {
        let folder = tempfile::tempdir().unwrap();
        let shard =
            |name: &str, value: f32| safetensors(&[(name, "F32", &[1], f32_bytes(&[value]))]);
        put(
            folder.path(),
            "model-00001-of-00002.safetensors",
            shard("a", 1.0),
        );
        put(
            folder.path(),
            "model-00002-of-00002.safetensors",
            shard("b", 2.0),
        );
        put(folder.path(), "model.safetensors.index.json", index(map));
        folder
    };
    let right =
        r#""a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors""#;
    let folder = model(right);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(floats(checkpoint.tensor("b").unwrap().bytes), [2.0]);

    for (name, map) in [
        ("G0604_shard_missing", right.replace("00002-of", "00003-of")),
        ("G0604_tensor_not_in_shard", right.replace("\"b\"", "\"c\"")),
        (
            "G0604_outside_the_folder",
            r#""a": "../model.safetensors""#.to_string(),
        ),
        ("G0604_absolute", r#""a": "/etc/passwd""#.to_string()),
        (
            "G0604_tensor_twice",
            format!(r#"{right}, "a": "model-00002-of-00002.safetensors""#),
        ),
        ("G0604_not_json", "]".to_string()),
    ] {
        let folder = model(&map);
        let error = Checkpoint::open(folder.path()).expect_err(name);
        assert_message(name, error.diagnostic(), folder.path());
    }
}

#[test]
fn folders_without_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let message = |name: &str, path: &Path| {
        let error = Checkpoint::open(path).unwrap_err();
        assert_message(name, error.diagnostic(), folder.path());
    };
    message("G0601_no_folder", &folder.path().join("nowhere"));
    message("G0601_no_checkpoint", folder.path());
    put(folder.path(), "pytorch_model.bin", "x");
    message("G0601_only_pickle", folder.path());
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    message("G0601_not_a_file", folder.path());
}

/// Weights that are too large to be held without their file need a place for it. The checkpoint is sparse.
#[test]
fn no_place_for_the_packed_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (rows, columns) = (1_u64 << 19, 1_u64 << 10);
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[0,{}]}}}}"#,
        4 * rows * columns
    );
    put(folder.path(), "model.safetensors", raw(&header, 0));
    let file = std::fs::File::options()
        .write(true)
        .open(folder.path().join("model.safetensors"));
    let file = file.unwrap();
    let start = file.metadata().unwrap().len();
    file.set_len(start + 4 * rows * columns).unwrap();
    put(folder.path(), "file", "a file where a folder should be");
    let options = options(&folder.path().join("file/cache"));
    let weights = ["a", "b"].map(|name| weight(name, DType::F32, &[rows, columns], tensor("w")));
    let error = pack(&plan(weights.into()), folder.path(), &options).unwrap_err();
    assert!(matches!(error, WeightError::Cache { .. }), "{error}");
    let said = error.diagnostic();
    // The name of the file is a hash over the plan and the checkpoint.
    let path = error.to_string();
    let hash = path
        .split("file/cache/")
        .nth(1)
        .unwrap()
        .split('.')
        .next()
        .unwrap();
    let said = Diagnostic::error(said.code, said.message.replace(hash, "HASH"));
    assert_message(
        "G0609_a_file_where_the_folder_should_be",
        said,
        folder.path(),
    );
}

#[test]
fn recipes_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |elements: u64| vec![0; elements as usize * 4];
    let tensors = [
        ("encoder.q.weight", "F32", &[4, 6][..], bytes(24)),
        ("encoder.k.weight", "F32", &[4, 5][..], bytes(20)),
        ("encoder.q.bias", "F32", &[4][..], bytes(4)),
        ("ids", "I64", &[2][..], vec![0; 16]),
    ];
    put(folder.path(), "model.safetensors", safetensors(&tensors));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (q, k, bias) = (
        tensor("encoder.q.weight"),
        tensor("encoder.k.weight"),
        tensor("encoder.q.bias"),
    );
    let slice = |of: &Recipe, start, count| Recipe::Slice {
        of: Box::new(of.clone()),
        start,
        count,
    };
    let pairs = |of: &Recipe, group| Recipe::PairHalves {
        of: Box::new(of.clone()),
        group,
    };
    let cases = [
        (
            "G0605_another_prefix",
            tensor("bert.encoder.q.weight"),
            vec![4, 6],
        ),
        ("G0605_misspelt", tensor("encoder.q.wieght"), vec![4, 6]),
        (
            "G0605_no_alternative",
            Recipe::AnyOf(vec![
                tensor("x"),
                Recipe::Concat(vec![q.clone(), tensor("y")]),
            ]),
            vec![1],
        ),
        ("G0606_not_the_plans_shape", q.clone(), vec![6, 4]),
        (
            "G0606_concat",
            Recipe::Concat(vec![q.clone(), q.clone(), k.clone()]),
            vec![12, 6],
        ),
        (
            "G0606_interleave",
            Recipe::Interleave(vec![q.clone(), slice(&q, 0, 2)]),
            vec![8, 6],
        ),
        ("G0606_slice", slice(&q, 3, 2), vec![2, 6]),
        ("G0606_slice_overflow", slice(&q, u64::MAX, 2), vec![2, 6]),
        (
            "G0606_transpose_of_a_list",
            Recipe::Transpose(Box::new(bias.clone())),
            vec![4],
        ),
        ("G0606_pair_halves", pairs(&q, 8), vec![4, 6]),
        (
            "G0606_sum",
            Recipe::Sum(vec![q.clone(), slice(&k, 0, 1)]),
            vec![4, 6],
        ),
        ("G0607_odd_group", pairs(&q, 3), vec![4, 6]),
        ("G0607_integers", tensor("ids"), vec![2]),
        ("G0607_no_parts", Recipe::Concat(vec![]), vec![2]),
    ];
    for (name, recipe, wanted) in cases {
        let error =
            ResolvedRecipe::new(&recipe, &wanted, "l0/attn/w_qkv", &checkpoint).expect_err(name);
        assert_message(name, error.diagnostic(), folder.path());
    }
}

#[test]
fn packing_and_coming_back() {
    let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_model(model.path());
    let plan = plan(vec![
        weight(
            "wt",
            DType::F32,
            &[3, 2],
            Recipe::Transpose(Box::new(tensor("a"))),
        ),
        weight("b", DType::F16, &[3], tensor("b")),
        weight(
            "none",
            DType::F32,
            &[0, 3],
            Recipe::Slice {
                of: Box::new(tensor("a")),
                start: 1,
                count: 0,
            },
        ),
    ]);
    let mut seen = Vec::new();
    let checkpoint = Checkpoint::open(model.path()).unwrap();
    let options = options(cache.path());
    let packed = PackedWeights::open_or_pack(&plan, &checkpoint, &options, &mut |done, all| {
        seen.push((done, all))
    })
    .unwrap();
    assert!(!packed.from_cache);
    assert_eq!(seen.first(), Some(&(0, 128)), "{seen:?}");
    let check = |packed: &PackedWeights| {
        assert_eq!(floats(packed.bytes(0)), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        // f16: 10 = 0x4900, 20 = 0x4d00, 1e6 overflows to infinity.
        assert_eq!(packed.bytes(1), [0x00, 0x49, 0x00, 0x4d, 0x00, 0x7c]);
        assert!(packed.bytes(2).is_empty() && packed.bytes(3).is_empty());
        assert_eq!(packed.lossy.len(), 1);
        assert_eq!(
            (
                packed.lossy[0].weight.as_str(),
                packed.lossy[0].losses.overflowed
            ),
            ("b", 1)
        );
        assert_eq!(packed.bytes(0).as_ptr() as usize % 64, 0);
    };
    check(&packed);
    let again = pack(&plan, model.path(), &options).unwrap();
    assert!(
        again.from_cache && again.notes.is_empty(),
        "{:?}",
        again.notes
    );
    check(&again);
    // Losses are remembered: strict refuses the cached file as well as a fresh pack, and leaves no file behind.
    let fresh = tempfile::tempdir().unwrap();
    for folder in [cache.path(), fresh.path()] {
        let strict = PackOptions {
            place: CachePlace::Folder(folder.into()),
            strict: true,
        };
        let error = pack(&plan, model.path(), &strict).unwrap_err();
        assert_message("G0608_too_large_for_f16", error.diagnostic(), model.path());
    }
    assert_eq!(packs(fresh.path()), Vec::<String>::new());
}

/// The finished and unfinished files of a cache folder, without the locks.
fn packs(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".lock")).collect()
}

#[test]
fn damaged_and_stale_caches_are_rebuilt() {
    let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_model(model.path());
    let plan = plan(vec![weight("a", DType::F32, &[2, 3], tensor("a"))]);
    let options = options(cache.path());
    let first = pack(&plan, model.path(), &options).unwrap();
    let wanted = first.bytes(0).to_vec();
    drop(first);
    let file = cache.path().join(&packs(cache.path())[0]);
    let good = std::fs::read(&file).unwrap();
    let mut bad: Vec<(String, Vec<u8>)> = Vec::new();
    for length in [0, 7, 60, 4095, 4096, 4100, good.len() - 1] {
        bad.push((format!("cut to {length}"), good[..length].to_vec()));
    }
    // Every byte that means something: header fields, the payload, the description.
    for at in (0..60).chain(4096..good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bad.push((format!("byte {at} changed"), bytes));
    }
    let mut longer = good.clone();
    longer.push(0);
    bad.push(("longer".into(), longer));
    for (what, bytes) in bad {
        // The old map may still be open in another process: replace the file as a new one.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let packed =
            pack(&plan, model.path(), &options).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(!packed.from_cache, "{what}");
        assert_eq!(packed.notes.len(), 1, "{what}: {:?}", packed.notes);
        assert_eq!(packed.bytes(0), wanted, "{what}");
        assert_eq!(std::fs::read(&file).unwrap(), good, "{what}: rebuilt");
    }
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_model(model.path());
    let plan = plan(vec![weight("a", DType::F32, &[2, 3], tensor("a"))]);
    let options = options(cache.path());
    pack(&plan, model.path(), &options).unwrap();
    let path = model.path().join("model.safetensors");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    // The last element of `a` lies before the three of `b`.
    bytes[end - 16..end - 12].copy_from_slice(&7.5f32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(time).unwrap();
    let packed = pack(&plan, model.path(), &options).unwrap();
    assert!(!packed.from_cache);
    assert!(
        packed.notes[0].contains("has changed"),
        "{:?}",
        packed.notes
    );
    assert_eq!(floats(packed.bytes(0))[5], 7.5);
    // Only the time: same content, so the cache stays good.
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert!(pack(&plan, model.path(), &options).unwrap().from_cache);
}

#[test]
fn where_the_cache_goes() {
    let (model, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_model(model.path());
    let plan = plan(vec![weight("a", DType::F32, &[2, 3], tensor("a"))]);
    let beside = PackOptions {
        place: CachePlace::BesideModel {
            or_else: Some(shared.path().to_path_buf()),
        },
        strict: false,
    };
    // A file where the folder should be: as unusable as a read-only disk, for root as well.
    put(model.path(), ".graphc", "in the way");
    let packed = pack(&plan, model.path(), &beside).unwrap();
    assert_eq!(
        (packs(shared.path()).len(), packed.notes.len()),
        (1, 2),
        "{:?}",
        packed.notes
    );
    assert!(pack(&plan, model.path(), &beside).unwrap().from_cache);
    std::fs::remove_file(model.path().join(".graphc")).unwrap();
    std::fs::remove_dir_all(shared.path()).unwrap();
    assert!(!pack(&plan, model.path(), &beside).unwrap().from_cache);
    assert_eq!(packs(&model.path().join(".graphc")).len(), 1);
    // Nowhere at all: the weights are there all the same, and a note says why nothing was kept.
    put(model.path(), "file", "x");
    let packed = pack(&plan, model.path(), &options(&model.path().join("file"))).unwrap();
    assert_eq!(floats(packed.bytes(0))[5], 5.0);
    assert!(
        packed.notes.iter().any(|note| note.contains("not kept")),
        "{:?}",
        packed.notes
    );
}

#[test]
fn two_writers_make_one_file() {
    let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let values: Vec<f32> = (0..300_000).map(|value| value as f32).collect();
    put(
        model.path(),
        "model.safetensors",
        safetensors(&[("w", "F32", &[1000, 300], f32_bytes(&values))]),
    );
    let plan = plan(vec![weight("w", DType::F32, &[1000, 300], tensor("w"))]);
    let options = options(cache.path());
    let made: usize = std::thread::scope(|scope| {
        let run = || {
            scope.spawn(|| {
                let packed = pack(&plan, model.path(), &options).unwrap();
                assert_eq!(floats(packed.bytes(0)), values);
                usize::from(!packed.from_cache)
            })
        };
        let writers: Vec<_> = (0..4).map(|_| run()).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum()
    });
    assert_eq!(made, 1, "the others find the first one's file");
    assert_eq!(packs(cache.path()).len(), 1);
}

#[test]
fn plans_that_were_tampered_with() {
    let model = tempfile::tempdir().unwrap();
    small_model(model.path());
    let memory = PackOptions {
        place: CachePlace::Memory,
        strict: false,
    };
    let mut deep = tensor("a");
    for _ in 0..40 {
        deep = Recipe::AnyOf(vec![deep]);
    }
    for (name, weight) in [
        (
            "G0610_too_large",
            weight("w", DType::F32, &[1 << 40, 1 << 40], tensor("a")),
        ),
        (
            "G0610_integers",
            weight("w", DType::U32, &[2, 3], tensor("a")),
        ),
        ("G0610_deep_recipe", weight("w", DType::F32, &[2, 3], deep)),
    ] {
        let error = pack(&plan(vec![weight]), model.path(), &memory).expect_err(name);
        assert_message(name, error.diagnostic(), model.path());
    }
}
