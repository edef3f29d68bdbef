//! `graphc inspect FILE|DIR`: what a checkpoint says about itself, and the tensors that it has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use graphc::diag::{Diagnostic, Diagnostics};
use graphc::expr::Value;
use graphc::model::metadata::ModelMetadata;
use graphc::span::SourceMap;
use graphc::weights::{Checkpoint, Gguf, GgufList, GgufValue, TensorRef, gguf_file};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Items of a longer list that are shown.
const FIRST: usize = 8;
/// Characters of a longer text that are shown.
const SHOWN: usize = 72;

/// Arguments of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a folder with one, or a model folder in the Hugging Face layout
    #[arg(value_name = "FILE|DIR")]
    model: PathBuf,
    /// Print JSON: texts in full, lists of more than 8 items as their number and the first of them
    #[arg(long)]
    json: bool,
}

/// A value of the metadata, ready to be shown.
enum Shown {
    Value(serde_json::Value),
    /// The number of items, and the first few.
    List(usize, Vec<serde_json::Value>),
}

/// Shows metadata, tensors and totals.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let checkpoint =
        Checkpoint::open(&args.model).map_err(|error| diagnosed(error.diagnostic()))?;
    let file = match gguf_file(&args.model).map_err(|error| diagnosed(error.diagnostic()))? {
        Some(path) => Some(Gguf::open(&path).map_err(|error| diagnosed(error.diagnostic()))?),
        None => None,
    };
    let (format, metadata) = match &file {
        Some(file) => {
            let values = file.values();
            let values = values.map(|(key, value)| (key.to_string(), shown(value)));
            (format!("GGUF version {}", file.version()), values.collect())
        }
        None => ("safetensors".to_string(), of_folder(&args.model, context)),
    };
    let tensors: Vec<TensorRef<'_>> = checkpoint
        .names()
        .filter_map(|name| checkpoint.tensor(name))
        .collect();
    let path = file.as_ref().map_or(args.model.as_path(), Gguf::path);
    let text = if args.json {
        let value = json_of(path, &format, &metadata, &tensors, checkpoint.file_bytes());
        let text = serde_json::to_string_pretty(&value).map_err(Failure::failed)?;
        format!("{text}\n")
    } else {
        text_of(path, &format, &metadata, &tensors, checkpoint.file_bytes())
    };
    output::print(&text)
}

fn diagnosed(diagnostic: Diagnostic) -> Failure {
    Failure::Diagnosed(Diagnostics::from(diagnostic), SourceMap::default())
}

/// The flat values of config.json and its neighbours; a folder of tensors alone has none.
fn of_folder(folder: &Path, context: &Context) -> Vec<(String, Shown)> {
    match ModelMetadata::open(folder) {
        Ok(metadata) => metadata
            .values
            .into_iter()
            .map(|(key, value)| {
                let value = match value {
                    Value::Int(value) => json!(value),
                    Value::Float(value) => json!(value),
                    Value::Bool(value) => json!(value),
                    Value::Text(value) => json!(value),
                };
                (key, Shown::Value(value))
            })
            .collect(),
        Err(error) => {
            context.say(&format!("no metadata: {error}"));
            vec![]
        }
    }
}

fn shown(value: GgufValue<'_>) -> Shown {
    match value {
        GgufValue::List(list) if list.len() > FIRST => Shown::List(list.len(), first(list)),
        other => Shown::Value(json_value(other)),
    }
}

fn first(list: GgufList<'_>) -> Vec<serde_json::Value> {
    list.iter().take(FIRST).map(json_value).collect()
}

fn json_value(value: GgufValue<'_>) -> serde_json::Value {
    match value {
        GgufValue::Int(value) => json!(value),
        // JSON has no infinity and no NaN.
        GgufValue::Float(value) if value.is_finite() => json!(value),
        GgufValue::Float(value) => json!(value.to_string()),
        GgufValue::Bool(value) => json!(value),
        GgufValue::Text(value) => json!(value),
        GgufValue::List(list) => json!(first(list)),
    }
}

/// Tensors, elements and bytes by type.
fn totals(tensors: &[TensorRef<'_>]) -> BTreeMap<String, (u64, u64, u64)> {
    let mut types: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for tensor in tensors {
        let (count, elements, bytes) = types.entry(tensor.dtype.to_string()).or_default();
        *count += 1;
        *elements += tensor.shape.iter().product::<u64>();
        *bytes += tensor.bytes.len() as u64;
    }
    types
}

fn json_of(
    path: &Path,
    format: &str,
    metadata: &[(String, Shown)],
    tensors: &[TensorRef<'_>],
    file_bytes: u64,
) -> serde_json::Value {
    let metadata: serde_json::Map<_, _> = metadata
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Shown::Value(value) => value.clone(),
                Shown::List(items, first) => json!({ "items": items, "first": first }),
            };
            (key.clone(), value)
        })
        .collect();
    let types: serde_json::Map<_, _> = totals(tensors)
        .into_iter()
        .map(|(name, (count, elements, bytes))| {
            let total = json!({ "tensors": count, "elements": elements, "bytes": bytes });
            (name, total)
        })
        .collect();
    let list: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "type": tensor.dtype.to_string(),
                "shape": tensor.shape,
                "bytes": tensor.bytes.len(),
            })
        })
        .collect();
    json!({
        "path": path.display().to_string(),
        "format": format,
        "file_bytes": file_bytes,
        "metadata": metadata,
        "types": types,
        "tensors": list,
    })
}

fn text_of(
    path: &Path,
    format: &str,
    metadata: &[(String, Shown)],
    tensors: &[TensorRef<'_>],
    file_bytes: u64,
) -> String {
    let mut text = String::new();
    let types = totals(tensors);
    let elements: u64 = types.values().map(|(_, elements, _)| elements).sum();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{}: {format}, {} tensors, {} parameters, {}",
        path.display(),
        tensors.len(),
        grouped(elements),
        size(file_bytes)
    );
    let rows = metadata
        .iter()
        .map(|(key, value)| vec![plain(key), shown_text(value)]);
    table(&mut text, "metadata", rows.collect());
    let rows = tensors.iter().map(|tensor| {
        let sizes: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            plain(tensor.name),
            tensor.dtype.to_string(),
            format!("[{}]", sizes.join(", ")),
            size(tensor.bytes.len() as u64),
        ]
    });
    table(&mut text, "tensors", rows.collect());
    let rows = types.into_iter().map(|(name, (count, elements, bytes))| {
        let bits = bytes as f64 * 8.0 / elements.max(1) as f64;
        vec![
            name,
            format!("{count} tensor{}", if count == 1 { "" } else { "s" }),
            format!("{} parameters", grouped(elements)),
            size(bytes),
            format!("{bits:.2} bits each"),
        ]
    });
    table(&mut text, "types", rows.collect());
    text
}

/// A heading and columns.
fn table(text: &mut String, heading: &str, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{heading}");
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "  {}", line.join("  ").trim_end());
    }
}

fn shown_text(value: &Shown) -> String {
    match value {
        Shown::Value(value) => short(value),
        Shown::List(items, first) => {
            let first: Vec<String> = first.iter().map(short).collect();
            format!("{items} items: {}, ..", first.join(", "))
        }
    }
}

/// A value on one line. A file's text could hold what a terminal obeys, so control characters are escaped.
fn short(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(short).collect();
            format!("[{}]", items.join(", "))
        }
        serde_json::Value::String(text) => format!("\"{}\"", plain(text)),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}

/// `134515008` as `134,515,008`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{size:.1} {unit}"),
    }
}
