//! GGUF files from end to end: what the metadata says, how tensors become weights, and that no file whatever does
//! more than be refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/cpu.rs"]
mod cpu;
mod model_files;
#[path = "support/random.rs"]
#[allow(dead_code)]
mod random;

use std::path::Path;

use arbtest::arbitrary::Unstructured;
use graphc::dtype::{DType, tiles};
use graphc::expr::Value;
use graphc::formula::encode;
use graphc::graph::Recipe;
use graphc::model::metadata::ModelMetadata;
use graphc::plan::Plan;
use graphc::weights::{
    CachePlace, Checkpoint, Gguf, GgufValue, PackOptions, PackedWeights, ResolvedRecipe,
    SourceType, WeightError,
};
use half::f16;
use model_files::gguf::{GgufFile, GgufTensor, list, text, texts};
use model_files::*;
use random::Random;

const F32: u32 = 0;
const F16: u32 = 1;
const Q4_0: u32 = 2;
const Q4_1: u32 = 3;
const Q5_0: u32 = 6;
const Q8_0: u32 = 8;
const Q6_K: u32 = 14;
const BF16: u32 = 30;

fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Blocks of Q8_0 with the scale 1/4; element i of row r is `(r * 7 + i) % 200 - 100`.
fn q8_0(rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut values) = (vec![], vec![]);
    for row in 0..rows {
        for first in (0..cols).step_by(32) {
            bytes.extend(half(0.25));
            for col in first..first + 32 {
                let q = ((row * 7 + col) % 200) as i32 - 100;
                bytes.push(q as i8 as u8);
                values.push(q as f32 * 0.25);
            }
        }
    }
    (bytes, values)
}

/// Blocks of Q4_1 with the scale 1/8 and the minimum -r.
fn q4_1(rows: usize, cols: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut values) = (vec![], vec![]);
    for row in 0..rows {
        for first in (0..cols).step_by(32) {
            bytes.extend(half(0.125));
            bytes.extend(half(-(row as f32)));
            let q: Vec<u8> = (0..32)
                .map(|at| ((row * 5 + first + at * 3) % 16) as u8)
                .collect();
            bytes.extend((0..16).map(|at| q[at] | q[at + 16] << 4));
            values.extend(q.iter().map(|q| f32::from(*q) * 0.125 - row as f32));
        }
    }
    (bytes, values)
}

/// A small model with every key that matters.
fn model() -> GgufFile {
    GgufFile::of("llama")
        .text("general.name", "Tiny")
        .u32("llama.block_count", 2)
        .u32("llama.context_length", 64)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .key(
            "llama.feed_forward_length",
            9,
            list(4, vec![128u32.to_le_bytes().to_vec(); 2]),
        )
        .key("big", 10, u64::MAX.to_le_bytes())
        .key("flag", 7, [1])
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .key("tokenizer.ggml.tokens", 9, texts(&["<s>", "a", "b", "ab"]))
        .key(
            "tokenizer.ggml.token_type",
            9,
            list(
                5,
                [3i32, 1, 1, 1]
                    .map(|kind| kind.to_le_bytes().to_vec())
                    .to_vec(),
            ),
        )
        .key("tokenizer.ggml.merges", 9, texts(&["a b"]))
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 3)
        .key("tokenizer.ggml.add_bos_token", 7, [0])
        .text("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", Q8_0, &[4, 32], q8_0(4, 32).0)
        .tensor("blk.0.attn_q.weight", Q4_1, &[8, 64], q4_1(8, 64).0)
        .tensor("blk.1.attn_q.weight", F16, &[2, 2], vec![0; 8])
        .tensor("output_norm.weight", F32, &[2], f32_bytes(&[1.0, 2.0]))
}

/// The file in a folder of its own.
fn folder_with(file: &GgufFile) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "model.gguf", file.bytes());
    folder
}

#[test]
fn metadata_becomes_params() {
    let folder = folder_with(&model());
    // The folder and the file are the same model.
    for path in [
        folder.path().to_path_buf(),
        folder.path().join("model.gguf"),
    ] {
        let metadata = ModelMetadata::open(&path).unwrap();
        assert_eq!(metadata.folder, folder.path());
        assert_eq!(metadata.checkpoint, folder.path().join("model.gguf"));
        for (key, value) in [
            ("model_type", Value::Text("llama".into())),
            ("general.name", Value::Text("Tiny".into())),
            ("llama.block_count", Value::Int(2)),
            ("block_count", Value::Int(2)),
            ("attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
            ("feed_forward_length.1", Value::Int(128)),
            ("big", Value::Float(u64::MAX as f64)),
            ("flag", Value::Bool(true)),
            ("max_positions", Value::Int(64)),
            ("vocab_size", Value::Int(4)),
            ("tie_word_embeddings", Value::Bool(true)),
            ("rope_factors", Value::Bool(false)),
            ("tokenizer.ggml.bos_token_id", Value::Int(0)),
        ] {
            assert_eq!(metadata.values.get(key), Some(&value), "{key}");
        }
        assert!(!metadata.values.contains_key("tokenizer.ggml.tokens.0"));
        let vocabulary = metadata.vocabulary().unwrap().unwrap();
        assert_eq!((vocabulary.model, vocabulary.pre), ("gpt2", Some("smollm")));
        assert_eq!(vocabulary.tokens, ["<s>", "a", "b", "ab"]);
        assert_eq!(vocabulary.kinds.as_deref(), Some(&[3, 1, 1, 1][..]));
        assert_eq!(vocabulary.merges, ["a b"]);
        assert_eq!(
            (vocabulary.bos, vocabulary.eos, vocabulary.eot),
            (Some(0), Some(3), None)
        );
        assert_eq!(
            (vocabulary.add_bos, vocabulary.add_eos),
            (Some(false), None)
        );
        assert_eq!(vocabulary.chat_template, Some("{{ messages }}"));
        assert!(vocabulary.scores.is_none());
    }
}

#[test]
fn lists_of_lists_are_walked() {
    let inner = |items: &[u8]| list(0, items.iter().map(|item| vec![*item]).collect());
    let outer = list(9, vec![inner(&[1, 2]), inner(&[]), inner(&[3])]);
    let folder = folder_with(&GgufFile::of("x").key("l", 9, outer).u32("after", 7));
    let file = Gguf::open(&folder.path().join("model.gguf")).unwrap();
    let items = file.get("l").unwrap().as_list().unwrap();
    let sums: Vec<Vec<i64>> = items
        .iter()
        .map(|item| {
            item.as_list()
                .unwrap()
                .iter()
                .filter_map(|item| item.as_int())
                .collect()
        })
        .collect();
    assert_eq!(sums, [vec![1, 2], vec![], vec![3]]);
    assert_eq!(file.get("after").unwrap().as_int(), Some(7));
}

/// Writes the file and compares what opening its tensors and metadata says with a golden message.
fn refused(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "model.gguf", bytes);
    let error = match name.starts_with("G0820") {
        false => Checkpoint::open(folder.path())
            .expect_err(name)
            .diagnostic(),
        true => match ModelMetadata::open(folder.path()) {
            Err(error) => error.diagnostic(),
            Ok(metadata) => metadata.vocabulary().expect_err(name).diagnostic(),
        },
    };
    assert_message(name, error, folder.path());
}

#[test]
fn damaged_headers_are_refused_by_name() {
    let one = |kind: u32, shape: &[u64], offset: Option<u64>, bytes: usize| {
        let mut file = GgufFile::default();
        file.tensors.push(GgufTensor {
            name: "w".into(),
            shape: shape.to_vec(),
            kind,
            offset,
            data: vec![0; bytes],
        });
        file
    };
    let with = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = model();
        change(&mut file);
        file.bytes()
    };
    let key =
        |name: &str, kind: u32, value: Vec<u8>| GgufFile::default().key(name, kind, value).bytes();
    let long = |length: u64| length.to_le_bytes().to_vec();
    let count = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), long(count)].concat();
    let mut deep = list(4, vec![]);
    for _ in 0..5 {
        deep = list(9, vec![deep]);
    }
    let cut = model().bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("G0602_gguf_empty", vec![]),
        ("G0602_gguf_magic", with(&|file| file.magic = *b"GGML")),
        ("G0602_gguf_version_1", with(&|file| file.version = 1)),
        ("G0602_gguf_version_4", with(&|file| file.version = 4)),
        (
            "G0602_gguf_big_endian",
            with(&|file| file.version = 0x0300_0000),
        ),
        (
            "G0602_gguf_tensor_count",
            with(&|file| file.counts = Some((u64::MAX, 0))),
        ),
        (
            "G0602_gguf_key_count",
            with(&|file| file.counts = Some((0, 1 << 40))),
        ),
        (
            "G0602_gguf_more_keys_than_there",
            with(&|file| file.counts = Some((0, 1000))),
        ),
        ("G0602_gguf_cut_in_a_list", cut[..400].to_vec()),
        ("G0602_gguf_text_length", key("k", 8, long(u64::MAX))),
        ("G0602_gguf_text_past_the_end", key("k", 8, long(1 << 20))),
        ("G0602_gguf_list_length", key("k", 9, count(4, u64::MAX))),
        (
            "G0602_gguf_list_past_the_end",
            key("k", 9, count(12, 1 << 24)),
        ),
        (
            "G0602_gguf_list_of_texts_past_the_end",
            key("k", 9, count(8, 1 << 24)),
        ),
        ("G0602_gguf_deep_lists", key("k", 9, deep)),
        ("G0602_gguf_value_type", key("k", 13, vec![0; 64])),
        ("G0602_gguf_truth_value", key("k", 7, vec![2])),
        (
            "G0602_gguf_not_utf8",
            key("k", 8, [long(2), vec![0xff, 0xfe]].concat()),
        ),
        (
            "G0602_gguf_key_twice",
            GgufFile::of("a").text("general.architecture", "b").bytes(),
        ),
        ("G0602_gguf_empty_key", key("", 7, vec![1])),
        (
            "G0602_gguf_control_characters",
            key("\u{1b}[2J", 7, vec![1]),
        ),
        (
            "G0602_gguf_alignment_33",
            GgufFile::default().u32("general.alignment", 33).bytes(),
        ),
        (
            "G0602_gguf_alignment_0",
            GgufFile::default().u32("general.alignment", 0).bytes(),
        ),
        (
            "G0602_gguf_alignment_type",
            GgufFile::default().text("general.alignment", "32").bytes(),
        ),
        (
            "G0602_gguf_tensor_twice",
            with(&|file| file.tensors[1].name = "token_embd.weight".into()),
        ),
        (
            "G0603_gguf_rank",
            one(F32, &[1, 1, 1, 1, 1], None, 4).bytes(),
        ),
        ("G0603_gguf_type", one(99, &[32], None, 64).bytes()),
        ("G0603_gguf_withdrawn_type", one(4, &[32], None, 64).bytes()),
        ("G0603_gguf_no_elements", one(F32, &[4, 0], None, 0).bytes()),
        (
            "G0603_gguf_rows_of_no_whole_blocks",
            one(Q6_K, &[2, 128], None, 210).bytes(),
        ),
        (
            "G0603_gguf_size_overflow",
            one(F32, &[1 << 40, 1 << 40], None, 64).bytes(),
        ),
        ("G0603_gguf_past_the_end", one(F32, &[17], None, 64).bytes()),
        (
            "G0603_gguf_offset_past_the_end",
            one(F32, &[16], Some(1 << 62), 64).bytes(),
        ),
        ("G0603_gguf_offset_odd", one(F32, &[1], Some(8), 64).bytes()),
        (
            "G0603_gguf_overlap",
            with(&|file| file.tensors[2].offset = Some(32)),
        ),
    ];
    for (name, bytes) in cases {
        refused(name, &bytes);
    }
}

#[test]
fn contradictory_metadata_is_refused() {
    let tokens = |count: usize| texts(&vec!["t"; count]);
    let vocabulary = |change: &dyn Fn(&mut GgufFile)| {
        let mut file = model();
        change(&mut file);
        file
    };
    let set = |file: &mut GgufFile, name: &str, kind: u32, value: Vec<u8>| {
        file.keys.retain(|(key, ..)| key != name);
        file.keys.push((name.into(), kind, value));
    };
    let number = |value: u32| value.to_le_bytes().to_vec();
    for (name, file) in [
        ("G0820_gguf_no_architecture", GgufFile::default()),
        (
            "G0820_gguf_architecture_type",
            GgufFile::default().u32("general.architecture", 1),
        ),
        (
            "G0820_gguf_layers",
            vocabulary(&|file| set(file, "llama.block_count", 4, number(128))),
        ),
        ("G0820_gguf_vocabulary", model().u32("llama.vocab_size", 5)),
        (
            "G0820_gguf_no_tokens",
            vocabulary(&|file| file.keys.retain(|(key, ..)| key != "tokenizer.ggml.tokens")),
        ),
        (
            "G0820_gguf_token_types",
            vocabulary(&|file| set(file, "tokenizer.ggml.tokens", 9, tokens(3))),
        ),
        (
            "G0820_gguf_tokens_of_numbers",
            vocabulary(&|file| {
                set(
                    file,
                    "tokenizer.ggml.tokens",
                    9,
                    list(4, vec![number(1); 4]),
                );
            }),
        ),
        (
            "G0820_gguf_id",
            vocabulary(&|file| set(file, "tokenizer.ggml.eos_token_id", 4, number(4))),
        ),
        (
            "G0820_gguf_more_layers",
            vocabulary(&|file| set(file, "llama.block_count", 4, number(1))),
        ),
        (
            "G0820_gguf_smaller_vocabulary",
            model().u32("llama.vocab_size", 1),
        ),
        (
            "G0820_gguf_no_merges",
            vocabulary(&|file| file.keys.retain(|(key, ..)| key != "tokenizer.ggml.merges")),
        ),
        (
            "G0820_gguf_empty_merges",
            vocabulary(&|file| set(file, "tokenizer.ggml.merges", 9, texts(&[]))),
        ),
        (
            "G0820_gguf_no_token_types",
            vocabulary(&|file| {
                file.keys
                    .retain(|(key, ..)| key != "tokenizer.ggml.token_type");
            }),
        ),
        (
            "G0820_gguf_score_nan",
            vocabulary(&|file| {
                let nan = f32::NAN.to_le_bytes().to_vec();
                set(file, "tokenizer.ggml.scores", 9, list(6, vec![nan; 4]));
            }),
        ),
        (
            "G0820_gguf_template_type",
            vocabulary(&|file| set(file, "tokenizer.chat_template", 7, vec![1])),
        ),
    ] {
        refused(name, &file.bytes());
    }
}

#[test]
fn numbers_of_the_model_are_above_0() {
    let mut file = model();
    file.keys.retain(|(key, ..)| key != "llama.context_length");
    let folder = folder_with(&file.u32("llama.context_length", 0));
    let metadata = ModelMetadata::open(folder.path()).unwrap();
    let error = metadata.positive("max_positions").unwrap_err();
    assert_message("G0820_gguf_context", error.diagnostic(), folder.path());
    assert_eq!(metadata.positive("vocab_size").unwrap(), Some(4));
    assert_eq!(metadata.positive("no_such_key").unwrap(), None);
}

/// One file of a folder is not taken for a damaged GGUF file.
#[test]
fn a_part_of_a_folder_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (name, golden) in [
        ("model.safetensors", "G0601_one_file_of_a_folder"),
        ("config.json", "G0601_config_json"),
    ] {
        put(folder.path(), name, "{}");
        let path = folder.path().join(name);
        let error = Checkpoint::open(&path).unwrap_err();
        assert_message(golden, error.diagnostic(), folder.path());
        let error = ModelMetadata::open(&path).unwrap_err();
        assert_message(golden, error.diagnostic(), folder.path());
        let shown = inspect(&[], &path);
        assert_eq!(shown.status.code(), Some(2));
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(
            said.contains("G0601") && said.contains("name its folder"),
            "{said}"
        );
    }
}

#[test]
fn folders_with_several_files_are_ambiguous() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.gguf", "a.GGUF", "c.txt"] {
        put(folder.path(), name, model().bytes());
    }
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert_message("G0601_gguf_several", error.diagnostic(), folder.path());
    assert!(Checkpoint::open(&folder.path().join("b.gguf")).is_ok());
    // With safetensors in it, the folder is that checkpoint.
    put(
        folder.path(),
        "model.safetensors",
        safetensors(&[("a", "F32", &[1], f32_bytes(&[1.0]))]),
    );
    assert_eq!(
        Checkpoint::open(folder.path())
            .unwrap()
            .names()
            .collect::<Vec<_>>(),
        ["a"]
    );
}

fn pack(plan: &Plan, folder: &Path) -> Result<PackedWeights, WeightError> {
    let options = PackOptions {
        place: CachePlace::Memory,
        strict: true,
    };
    PackedWeights::open_or_pack(plan, &Checkpoint::open(folder)?, &options, &mut |_, _| {})
}

/// The values of a packed weight.
fn unpack(dtype: DType, shape: &[u64], bytes: &[u8]) -> Vec<f32> {
    let elements = shape.iter().product::<u64>() as usize;
    let bytes = tiles::by_rows(dtype, shape, bytes.to_vec());
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    (0..elements)
        .map(|at| match dtype {
            DType::Int8 => f32::from(bytes[at] as i8) * half(elements + at / 32 * 2),
            DType::Int4 => {
                let q = f32::from(bytes[at / 2] >> (at % 2 * 4) & 15);
                let shared = elements / 2 + at / 32 * 4;
                q * half(shared) + half(shared + 2)
            }
            DType::F16 => half(at * 2),
            _ => f32::from_le_bytes(bytes[at * 4..][..4].try_into().unwrap()),
        })
        .collect()
}

/// Through recipes that move whole rows, blocks of the file become groups of the weight without a change.
#[test]
fn whole_rows_keep_their_blocks() {
    let rows = |values: &[f32], order: &[usize], cols: usize| -> Vec<f32> {
        let row = |row: &usize| values[row * cols..(row + 1) * cols].to_vec();
        order.iter().flat_map(row).collect()
    };
    for (kind, dtype, (bytes, values)) in [
        (Q8_0, DType::Int8, q8_0(4, 96)),
        (Q4_1, DType::Int4, q4_1(4, 96)),
    ] {
        let file = GgufFile::of("x")
            .tensor("a", kind, &[4, 96], bytes.clone())
            .tensor("b", kind, &[4, 96], bytes);
        let folder = folder_with(&file);
        let slice = Recipe::Slice {
            of: Box::new(tensor("b")),
            start: 1,
            count: 2,
        };
        let pairs = Recipe::PairHalves {
            of: Box::new(tensor("a")),
            group: 4,
        };
        let recipe = Recipe::Concat(vec![
            slice,
            pairs,
            Recipe::Interleave(vec![tensor("a"), tensor("b")]),
        ]);
        let plan = plan(vec![
            weight("w", dtype, &[14, 96], recipe.clone()),
            // The same as f32, by another way.
            weight("wide", DType::F32, &[14, 96], recipe.clone()),
        ]);
        let wanted = rows(&values, &[1, 2, 0, 2, 1, 3, 0, 0, 1, 1, 2, 2, 3, 3], 96);
        let packed = pack(&plan, folder.path()).unwrap();
        assert_eq!(unpack(dtype, &[14, 96], packed.bytes(0)), wanted, "{dtype}");
        assert_eq!(
            unpack(DType::F32, &[14, 96], packed.bytes(1)),
            wanted,
            "{dtype}"
        );
        assert_eq!(packed.rms_errors, [0.0, 0.0]);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.native_dtype(&recipe), Some(dtype));
    }
}

#[test]
fn other_rows_are_quantised_and_the_error_is_known() {
    let values: Vec<f32> = (0..64 * 96)
        .map(|at| ((at * 37 % 1001) as f32 - 500.0) / 300.0)
        .collect();
    let file = GgufFile::of("x")
        .tensor("a", F32, &[64, 96], f32_bytes(&values))
        .tensor("q", Q8_0, &[64, 96], q8_0(64, 96).0);
    let folder = folder_with(&file);
    let turned = Recipe::Transpose(Box::new(tensor("q")));
    let plan = plan(vec![
        weight("int8", DType::Int8, &[64, 96], tensor("a")),
        weight("int4", DType::Int4, &[64, 96], tensor("a")),
        weight(
            "both",
            DType::Int8,
            &[128, 96],
            Recipe::Concat(vec![tensor("q"), tensor("a")]),
        ),
        weight("turned", DType::Int8, &[96, 64], turned),
    ]);
    let packed = pack(&plan, folder.path()).unwrap();
    for (index, bound) in [(0, 0.004), (1, 1.0 / 15.0)] {
        let got = unpack(plan.weights[index].dtype, &[64, 96], packed.bytes(index));
        let squares: f32 = values.iter().map(|value| value * value).sum();
        let errors: f32 = got
            .iter()
            .zip(&values)
            .map(|(a, b)| (a - b) * (a - b))
            .sum();
        let relative = (errors / squares).sqrt();
        assert!(relative < bound && relative > bound / 10.0, "{relative}");
        assert!((packed.rms_errors[index] / relative - 1.0).abs() < 1e-3);
    }
    // The part that is copied does not thin the error of the part that is not.
    assert_eq!(packed.rms_errors[2], packed.rms_errors[0]);
    assert!(packed.rms_errors[3] > 0.0);
}

/// Weights of many blocks, with what their groups share behind all of them.
#[test]
fn block_formats_join_without_a_seam() {
    let (rows, cols) = (700, 1024);
    let (bytes, values) = q8_0(rows, cols);
    let folder =
        folder_with(&GgufFile::of("x").tensor("a", Q8_0, &[rows as u64, cols as u64], bytes));
    let shape = [rows as u64, cols as u64];
    let plan = plan(vec![
        weight("first", DType::Int8, &shape, tensor("a")),
        weight("second", DType::F16, &shape, tensor("a")),
        weight("third", DType::Int8, &shape, tensor("a")),
    ]);
    let packed = pack(&plan, folder.path()).unwrap();
    for (index, weight) in plan.weights.iter().enumerate() {
        let got = unpack(weight.dtype, &weight.shape, packed.bytes(index));
        assert!(got == values, "{}", weight.name);
    }
}

/// Values on levels, so that the packer and the interpreter round alike: both mean the same bytes. Rows are no whole
/// number of tiles, in what is joined and as a whole; rows are wider than a block of the packer; leading dimensions are
/// several.
#[test]
fn packed_bytes_are_those_of_the_interpreter() {
    let levels = |dtype: DType, count: usize| -> Vec<f32> {
        let level = |at: usize| match dtype {
            // Every group has the ends of the range.
            DType::Int8 | DType::Int8g64 if at % 32 == 7 => 31.75,
            DType::Int8 | DType::Int8g64 => (at * 37 % 255) as f32 * 0.25 - 31.75,
            _ => {
                let group = at / dtype.group() as usize;
                ((at * 7 + group) % 16) as f32 * 0.125 - (group % 5) as f32
            }
        };
        (0..count).map(level).collect()
    };
    for dtype in DType::block_formats() {
        let k = 3 * dtype.group();
        let long = 32_768 + k;
        let of = |rows: u64, k: u64| levels(dtype, (rows * k) as usize);
        let (joined, wide, cube) = (of(27, k), of(11, long), of(3 * 4, k));
        let part = |rows: std::ops::Range<usize>| {
            f32_bytes(&joined[rows.start * k as usize..rows.end * k as usize])
        };
        let file = GgufFile::of("x")
            .tensor("a", F32, &[5, k], part(0..5))
            .tensor("b", F32, &[9, k], part(5..14))
            .tensor("c", F32, &[13, k], part(14..27))
            .tensor("wide", F32, &[11, long], f32_bytes(&wide))
            .tensor("cube", F32, &[3, 4, k], f32_bytes(&cube));
        let folder = folder_with(&file);
        let concat = Recipe::Concat(["a", "b", "c"].map(tensor).to_vec());
        let plan = plan(vec![
            weight("joined", dtype, &[27, k], concat),
            weight("wide", dtype, &[11, long], tensor("wide")),
            weight("cube", dtype, &[3, 4, k], tensor("cube")),
        ]);
        let packed = pack(&plan, folder.path()).unwrap();
        for (index, (weight, values)) in plan.weights.iter().zip([joined, wide, cube]).enumerate() {
            let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
            let by_rows = encode(dtype, &values);
            let wanted = tiles::tiled(dtype, &weight.shape, by_rows);
            assert!(packed.bytes(index) == wanted, "{dtype} {}", weight.name);
        }
    }
}

#[test]
fn native_types() {
    let plain = |values: &[f32]| f32_bytes(&values.repeat(16));
    let brain = |bits: [u16; 2]| bits.map(u16::to_le_bytes).concat().repeat(16);
    let block = |bytes: usize| vec![0; bytes];
    let file = GgufFile::of("x")
        .tensor("q4_0", Q4_0, &[1, 32], block(18))
        .tensor("q4_1", Q4_1, &[1, 32], block(20))
        .tensor("q5_0", Q5_0, &[1, 32], block(22))
        .tensor("q8_0", Q8_0, &[1, 32], block(34))
        .tensor("q8_0_list", Q8_0, &[32], block(34))
        .tensor("q6_k", Q6_K, &[1, 256], block(210))
        .tensor("f16", F16, &[1, 32], block(64))
        .tensor("f32_in_f16", F32, &[1, 32], plain(&[0.5, -65504.0]))
        .tensor("f32", F32, &[1, 32], plain(&[0.5, 0.1]))
        .tensor("f32_large", F32, &[1, 32], plain(&[0.5, 65536.0]))
        .tensor("bf16_in_f16", BF16, &[1, 32], brain([0x3f80, 0xbe80]))
        .tensor("bf16", BF16, &[1, 32], brain([0x3f80, 0x7f00]));
    let folder = folder_with(&file);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let join = |names: &[&str]| Recipe::Concat(names.iter().map(|name| tensor(name)).collect());
    for (names, wanted) in [
        (&["q4_0"][..], DType::Int4),
        (&["q4_1"], DType::Int4),
        (&["q5_0"], DType::Int8),
        (&["q8_0"], DType::Int8),
        (&["q8_0_list"], DType::F16),
        (&["q6_k"], DType::F16),
        (&["f16"], DType::F16),
        (&["f32_in_f16"], DType::F16),
        (&["f32"], DType::F32),
        (&["f32_large"], DType::F32),
        (&["bf16_in_f16"], DType::F16),
        (&["bf16"], DType::F32),
        (&["q4_0", "q4_1"], DType::Int4),
        (&["q4_0", "q8_0", "q5_0"], DType::Int8),
        // A minimum has no place in int8.
        (&["q4_1", "q8_0"], DType::F16),
        (&["q8_0", "f16"], DType::F16),
        (&["q8_0", "f32"], DType::F32),
    ] {
        assert_eq!(
            checkpoint.native_dtype(&join(names)),
            Some(wanted),
            "{names:?}"
        );
    }
    let first = |recipes| checkpoint.native_dtype(&Recipe::AnyOf(recipes));
    assert_eq!(
        first(vec![tensor("absent"), tensor("q8_0")]),
        Some(DType::Int8)
    );
    assert_eq!(first(vec![tensor("absent")]), None);
    let turned = Recipe::Transpose(Box::new(tensor("q8_0")));
    assert_eq!(checkpoint.native_dtype(&turned), Some(DType::F16));
    let types: Vec<_> = checkpoint
        .types()
        .filter(|(name, _)| name.starts_with("q8"))
        .collect();
    assert_eq!(
        types,
        [("q8_0", SourceType::Q8_0), ("q8_0_list", SourceType::Q8_0)]
    );
}

#[test]
fn values_that_are_not_finite_are_named() {
    let mut values = vec![1.0; 3 * 64];
    values[64 + 40] = f32::NAN;
    let mut blocks = q8_0(3, 64).0;
    // The scale of the last block of row 2.
    blocks[5 * 34..5 * 34 + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let file = GgufFile::of("x")
        .tensor("a", F32, &[3, 64], f32_bytes(&values))
        .tensor("b", Q8_0, &[3, 64], blocks);
    let folder = folder_with(&file);
    let joined = Recipe::Concat(vec![
        Recipe::Slice {
            of: Box::new(tensor("a")),
            start: 0,
            count: 1,
        },
        tensor("b"),
    ]);
    for (name, dtype, shape, recipe) in [
        ("G0611_nan", DType::F32, [3, 64], tensor("a")),
        ("G0611_nan_quantised", DType::Int4, [3, 64], tensor("a")),
        (
            "G0611_nan_turned",
            DType::F16,
            [64, 3],
            Recipe::Transpose(Box::new(tensor("a"))),
        ),
        ("G0611_infinite_scale", DType::Int8, [4, 64], joined),
        (
            "G0611_nan_in_a_sum",
            DType::F32,
            [3, 64],
            Recipe::Sum(vec![tensor("a"), tensor("b")]),
        ),
    ] {
        let error = pack(
            &plan(vec![weight("l0/w", dtype, &shape, recipe)]),
            folder.path(),
        );
        assert_message(name, error.unwrap_err().diagnostic(), folder.path());
    }
}

#[test]
fn block_formats_need_rows_of_groups() {
    let values = f32_bytes(&[1.0; 96]);
    let folder = folder_with(&GgufFile::of("x").tensor("a", F32, &[96], values));
    for (name, shape) in [
        ("G0610_list_in_int8", vec![96]),
        ("G0610_rows_of_no_groups", vec![2, 48]),
    ] {
        let error = pack(
            &plan(vec![weight("w", DType::Int8, &shape, tensor("a"))]),
            folder.path(),
        );
        assert_message(name, error.unwrap_err().diagnostic(), folder.path());
    }
}

/// Two models in one folder do not take each other's cache.
#[test]
fn each_file_has_a_cache_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let one = |value: f32| {
        GgufFile::of("x")
            .tensor("a", F32, &[1, 1], f32_bytes(&[value]))
            .bytes()
    };
    put(folder.path(), "one.gguf", one(1.0));
    put(folder.path(), "two.gguf", one(2.0));
    let plan = plan(vec![weight("a", DType::F32, &[1, 1], tensor("a"))]);
    for cached in [false, true] {
        for (name, value) in [("one.gguf", 1.0), ("two.gguf", 2.0)] {
            let checkpoint = Checkpoint::open(&folder.path().join(name)).unwrap();
            let packed = PackedWeights::open_or_pack(
                &plan,
                &checkpoint,
                &PackOptions::default(),
                &mut |_, _| {},
            )
            .unwrap();
            assert_eq!(packed.bytes(0), f32_bytes(&[value]));
            assert_eq!(packed.from_cache, cached, "{name}: {:?}", packed.notes);
        }
    }
}

/// The factors of Llama 3 come from config.json, and the cache notices when they change.
#[test]
fn rope_factors_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    put(
        folder.path(),
        "model.safetensors",
        safetensors(&[("a", "F32", &[1], f32_bytes(&[1.0]))]),
    );
    let config = |factor: f64| {
        format!(
            r#"{{"model_type": "llama", "head_dim": 8, "rope_theta": 500000.0, "rope_scaling": {{"rope_type": "llama3",
            "factor": {factor:?}, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}}}"#
        )
    };
    let plan = plan(vec![weight(
        "f",
        DType::F32,
        &[4],
        tensor("rope_freqs.weight"),
    )]);
    for factor in [8.0, 32.0] {
        put(folder.path(), "config.json", config(factor));
        let metadata = ModelMetadata::open(folder.path()).unwrap();
        assert_eq!(
            metadata.values.get("rope_factors"),
            Some(&Value::Bool(true))
        );
        for cached in [false, true] {
            let checkpoint = Checkpoint::open(&metadata.checkpoint).unwrap();
            let options = PackOptions::default();
            let packed =
                PackedWeights::open_or_pack(&plan, &checkpoint, &options, &mut |_, _| {}).unwrap();
            assert_eq!(packed.from_cache, cached);
            let factors = unpack(DType::F32, &[4], packed.bytes(0));
            assert_eq!((factors[0], factors[3]), (1.0, factor as f32));
        }
    }
    let broken = config(8.0).replace("\"low_freq_factor\": 1.0, ", "");
    put(folder.path(), "config.json", broken);
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert_message("G0601_rope_scaling", error.diagnostic(), folder.path());
}

fn inspect(args: &[&str], path: &Path) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_graphc"))
        .arg("inspect")
        .args(args)
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn inspect_shows_what_is_there() {
    let file = model()
        .key("tokenizer.ggml.scores", 9, list(6, vec![vec![0; 4]; 20]))
        .text("general.escape", "\u{1b}[2J");
    let folder = folder_with(&file);
    let shown = inspect(&[], folder.path());
    assert!(
        shown.status.success(),
        "{}",
        String::from_utf8_lossy(&shown.stderr)
    );
    let text = String::from_utf8(shown.stdout).unwrap();
    let text = text.replace(folder.path().to_str().unwrap(), "MODEL");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cli/inspect_tiny.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&golden).unwrap_or_default());
    let json = inspect(&["--json"], &folder.path().join("model.gguf"));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["metadata"]["llama.block_count"], 2);
    assert_eq!(json["metadata"]["tokenizer.ggml.scores"]["items"], 20);
    assert_eq!(json["types"]["Q8_0"]["bytes"], 4 * 34);
    assert_eq!(json["tensors"][3]["shape"], serde_json::json!([4, 32]));
}

#[test]
fn inspect_refuses_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "model.gguf", b"GGUF");
    let shown = inspect(&[], folder.path());
    assert_eq!(shown.status.code(), Some(2));
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("G0602") && shown.stdout.is_empty(), "{said}");
}

/// A model of `tools/fetch-model`; these tests fail, and do not skip, without it.
fn fetched(name: &str) -> std::path::PathBuf {
    let variable = |name| std::env::var_os(name).map(std::path::PathBuf::from);
    let folder = variable("GRAPHC_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("graphc")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/graphc")))
        .unwrap()
        .join("models")
        .join(name);
    assert!(
        folder.is_dir(),
        "{} is missing; run tools/fetch-model {name}",
        folder.display()
    );
    folder
}

/// Both real models with the types that they have: matrices of blocks with a scale come out as they are, the others
/// close to it, and a second start finds all of it.
#[test]
fn real_models_pack_natively() {
    for (name, types) in [
        (
            "smollm2",
            [(DType::Int4, 210), (DType::Int8, 1), (DType::F16, 0)],
        ),
        (
            "gemma3-270m",
            [(DType::Int4, 27), (DType::Int8, 91), (DType::F16, 9)],
        ),
    ] {
        let folder = fetched(name);
        let cache = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let matrices = checkpoint
            .names()
            .filter_map(|name| checkpoint.tensor(name));
        let weights: Vec<_> = matrices
            .filter(|tensor| tensor.shape.len() == 2)
            .map(|found| {
                let recipe = tensor(found.name);
                let dtype = checkpoint.native_dtype(&recipe).unwrap();
                weight(found.name, dtype, found.shape, recipe)
            })
            .collect();
        for (dtype, count) in types {
            let found = weights
                .iter()
                .filter(|weight| weight.dtype == dtype)
                .count();
            assert_eq!(found, count, "{name} {dtype}");
        }
        let plan = plan(weights);
        let options = PackOptions {
            place: CachePlace::Folder(cache.path().into()),
            strict: true,
        };
        let open = || {
            let start = cpu::time();
            let checkpoint = Checkpoint::open(&folder).unwrap();
            let packed =
                PackedWeights::open_or_pack(&plan, &checkpoint, &options, &mut |_, _| {}).unwrap();
            (packed, cpu::time() - start)
        };
        let (packed, first) = open();
        for (index, weight) in plan.weights.iter().enumerate() {
            let cols = weight.shape[1];
            let recipe =
                ResolvedRecipe::new(&weight.recipe, &weight.shape, "", &checkpoint).unwrap();
            let row = weight.shape[0] - 1;
            let mut wanted = vec![0.0; cols as usize];
            recipe.fill(row..row + 1, 0..cols, &mut wanted);
            let got = unpack(weight.dtype, &weight.shape, packed.bytes(index));
            let got = &got[(row * cols) as usize..];
            let largest = wanted
                .iter()
                .fold(0f32, |most, value| most.max(value.abs()));
            let exact = checkpoint.tensor(&weight.name).unwrap().dtype != SourceType::Q4K
                && weight.dtype != DType::F16;
            let most = if exact {
                largest * 1e-7
            } else {
                largest / 1000.0
            };
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!(
                    (got - wanted).abs() <= most,
                    "{}: {got} {wanted}",
                    weight.name
                );
            }
            assert!(packed.rms_errors[index] < 1e-3, "{}", weight.name);
        }
        drop(packed);
        let (packed, second) = open();
        assert!(packed.from_cache);
        println!("{name}: packed in {first:?}, mapped in {second:?}");
        assert!(second.as_secs_f64() < 1.0, "{second:?}");
    }
}

/// Walks over everything that a file says.
fn walk(value: GgufValue<'_>) -> usize {
    match value {
        GgufValue::List(list) => {
            let items = list.iter().map(walk).collect::<Vec<_>>();
            assert_eq!(items.len(), list.len(), "the check saw every item");
            items.iter().sum()
        }
        GgufValue::Text(text) => text.len(),
        _ => 1,
    }
}

/// Whatever is done to a file: no panic, and what is accepted lies in the file and can be read.
#[test]
fn mutated_files_never_panic() {
    const NUMBERS: &[u64] = &[
        0,
        1,
        2,
        8,
        9,
        31,
        1 << 16,
        1 << 24,
        1 << 32,
        1 << 62,
        1 << 63,
        u64::MAX,
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let right = model().bytes();
    let header = right.len() - 600;
    let (mut accepted, mut refused) = (0u64, 0u64);
    let mutate = |u: &mut Unstructured<'_>| -> arbtest::arbitrary::Result<Vec<u8>> {
        let mut file = right.clone();
        for _ in 0..u.int_in_range(1..=3)? {
            let at = u.choose_index(file.len().min(header) + 1)?;
            match u.int_in_range(0..=5)? {
                0 => file.truncate(at),
                1 => file.insert(at, u.arbitrary()?),
                2 => {
                    let number = u.choose(NUMBERS)?.to_le_bytes();
                    let end = file.len().min(at + 8);
                    file.splice(at.min(end)..end, number);
                }
                3 => {
                    let end = at + u.choose_index(64)?;
                    let piece = file.get(at..end).unwrap_or_default().to_vec();
                    file.splice(at..at, piece);
                }
                4 => drop(file.splice(at..at, text("k"))),
                _ => {
                    if let Some(byte) = file.get_mut(at) {
                        *byte ^= 1 << u.int_in_range(0..=7)?;
                    }
                }
            }
        }
        Ok(file)
    };
    Random::from_env("mutated_files_never_panic").check(5_000, 512, |u| {
        let bytes = mutate(u)?;
        std::fs::write(&path, &bytes).unwrap();
        match Checkpoint::open(&path) {
            Ok(checkpoint) => {
                accepted += 1;
                let file = Gguf::open(&path).unwrap();
                file.values()
                    .for_each(|(_, value)| assert!(walk(value) <= bytes.len()));
                for name in checkpoint.names() {
                    let tensor = checkpoint.tensor(name).unwrap();
                    assert!(!tensor.bytes.is_empty() && tensor.bytes.len() <= bytes.len());
                    checkpoint
                        .native_dtype(&Recipe::Tensor(name.into()))
                        .unwrap();
                }
            }
            Err(error) => {
                refused += 1;
                assert!(["G0602", "G0603"].contains(&error.code().0), "{error}");
            }
        }
        if let Ok(metadata) = ModelMetadata::open(&path) {
            let _ = metadata.vocabulary();
        }
        Ok(())
    });
    assert!(
        accepted > 0 && refused > 0,
        "{accepted} accepted, {refused} refused"
    );
}
