//! The header of a GGUF file, versions 2 and 3, little-endian.
//!
//! ```text
//! "GGUF", version u32, tensors u64, keys u64
//! per key     name, type u32, value         a text is its length (u64) and its bytes;
//!                                           a list is its type (u32), its length (u64) and its items
//! per tensor  name, rank u32, sizes u64 (innermost first), type u32, offset u64 (from the data)
//! padding to `general.alignment` (32 if absent), then the data
//! ```
//! In: the bytes of a whole file. Out: [`Header`]. Nothing is copied but names and shapes, and nothing is allocated
//! for a count before that many items were read. Lists of lists end at [`MAX_DEPTH`].

use std::ops::Range;

use indexmap::IndexMap;

use super::super::safetensors::{Fault, MAX_NAME_BYTES, MAX_TENSORS};
use super::super::shape_text;
use super::super::types::SourceType;

/// Most keys. Real files have some dozens.
const MAX_KEYS: u64 = 65_536;
/// Longest text of a value; templates and licences stand in some.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Most items of a list. The largest vocabularies have some hundred thousand tokens.
const MAX_ITEMS: u64 = 1 << 24;
/// How deep lists may stand in lists.
const MAX_DEPTH: u32 = 4;
/// Most dimensions of a tensor, as the format has it.
const MAX_RANK: u32 = 4;
/// Largest alignment; the usual one is 32.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// The type of a value of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl Kind {
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::Text,
            9 => Kind::List,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    /// Bytes of one value; `None` for those that say their own length.
    pub fn size(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Text | Kind::List => None,
        }
    }
}

/// A value's type and its bytes in the file.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub kind: Kind,
    pub range: Range<usize>,
}

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(in super::super) struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: SourceType,
    /// Its sizes, outermost first.
    pub shape: Vec<u64>,
    /// First byte and end in the whole file.
    pub range: Range<usize>,
}

/// What a file says about itself.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub keys: IndexMap<String, Item>,
    pub entries: Vec<Entry>,
    /// Bytes before the data, padding included.
    pub bytes: usize,
}

/// Reads and checks the header of the file with the bytes `file`.
pub(super) fn parse(file: &[u8]) -> Result<Header, Fault> {
    let mut reader = Reader {
        file,
        at: 0,
        what: "the first 24 bytes".into(),
    };
    let magic = reader.take(4)?;
    if magic != b"GGUF" {
        return Err(Fault::Header(format!(
            "it begins with {} and not with \"GGUF\"",
            quoted(magic)
        )));
    }
    let version = reader.u32()?;
    match version {
        2 | 3 => {}
        1 => {
            return fault(
                "it has version 1 of the format, which nobody writes any more; versions 2 and 3 are read",
            );
        }
        0x0300_0000 | 0x0200_0000 => {
            return fault("it was written for big-endian machines; convert it to little-endian");
        }
        other => {
            return fault(format!(
                "it has version {other} of the format; versions 2 and 3 are read"
            ));
        }
    }
    let tensors = reader.count("tensors", MAX_TENSORS as u64)?;
    let count = reader.count("keys", MAX_KEYS)?;
    let mut keys = IndexMap::new();
    for number in 0..count {
        let (key, item) = reader.key(number)?;
        if keys.contains_key(&key) {
            return fault(format!("key `{key}` appears twice"));
        }
        keys.insert(key, item);
    }
    let alignment = alignment(file, &keys)?;
    let mut raws = IndexMap::new();
    for number in 0..tensors {
        let (name, raw) = reader.tensor(number)?;
        if raws.contains_key(&name) {
            return fault(format!("tensor `{name}` appears twice"));
        }
        raws.insert(name, raw);
    }
    let data = (reader.at as u64).next_multiple_of(alignment);
    let mut entries = raws
        .into_iter()
        .map(|(name, raw)| checked(name, raw, data, alignment, file.len() as u64))
        .collect::<Result<Vec<_>, Fault>>()?;
    check_overlap(&mut entries)?;
    Ok(Header {
        version,
        keys,
        entries,
        bytes: (data as usize).min(file.len()),
    })
}

fn fault<T>(reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Header(reason.into()))
}

/// Some bytes for a message.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn alignment(file: &[u8], keys: &IndexMap<String, Item>) -> Result<u64, Fault> {
    let Some(item) = keys.get("general.alignment") else {
        return Ok(32);
    };
    let bytes = file.get(item.range.clone()).unwrap_or_default();
    let value = match (item.kind, bytes) {
        (Kind::U32, &[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => return fault("`general.alignment` is not a u32"),
    };
    if !value.is_power_of_two() || value > MAX_ALIGNMENT {
        return fault(format!(
            "`general.alignment` is {value}; it must be a power of two of at most {MAX_ALIGNMENT}"
        ));
    }
    Ok(value)
}

/// A tensor's numbers as they stand.
struct Raw {
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// A walk over the bytes of a file that never leaves it.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    /// What is being read, for messages.
    what: String,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let part = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count));
        let Some(part) = part else {
            return fault(format!(
                "it ends inside {}: {count} bytes should follow byte {}, and {} do",
                self.what,
                self.at,
                rest.len()
            ));
        };
        self.at += part.len();
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, what: &str, most: u64) -> Result<u64, Fault> {
        match self.u64()? {
            count if count <= most => Ok(count),
            count => fault(format!(
                "it says that it has {count} {what}; at most {most} are read"
            )),
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        let bytes = self.text(MAX_NAME_BYTES as u64)?;
        match std::str::from_utf8(bytes) {
            Ok("") => fault(format!("{} has an empty name", self.what)),
            // Names go into messages, and a terminal obeys control characters.
            Ok(name) if name.contains(char::is_control) => fault(format!(
                "the name of {} has control characters: {}",
                self.what,
                quoted(bytes)
            )),
            Ok(name) => Ok(name.to_string()),
            Err(_) => fault(format!("the name of {} is not UTF-8", self.what)),
        }
    }

    /// A text's bytes, still unchecked.
    fn text(&mut self, most: u64) -> Result<&'a [u8], Fault> {
        match self.u64()? {
            length if length <= most => self.take(length),
            length => fault(format!(
                "{} has a text of {length} bytes; at most {most} are read",
                self.what
            )),
        }
    }

    fn key(&mut self, number: u64) -> Result<(String, Item), Fault> {
        self.what = format!("key number {number}");
        let key = self.name()?;
        self.what = format!("the value of key `{key}`");
        let kind = self.kind()?;
        let start = self.at;
        self.skip(kind, 0)?;
        let range = start..self.at;
        Ok((key, Item { kind, range }))
    }

    fn kind(&mut self) -> Result<Kind, Fault> {
        let number = self.u32()?;
        match Kind::of(number) {
            Some(kind) => Ok(kind),
            None => fault(format!("{} has the unknown type {number}", self.what)),
        }
    }

    /// Walks over a value and checks it.
    fn skip(&mut self, kind: Kind, depth: u32) -> Result<(), Fault> {
        match kind {
            Kind::Bool => self.bools(1),
            Kind::Text => {
                let bytes = self.text(MAX_TEXT_BYTES)?;
                match std::str::from_utf8(bytes) {
                    Ok(_) => Ok(()),
                    Err(_) => fault(format!("{} is not UTF-8", self.what)),
                }
            }
            Kind::List if depth == MAX_DEPTH => fault(format!(
                "{} has lists in lists deeper than {MAX_DEPTH}",
                self.what
            )),
            Kind::List => {
                let kind = self.kind()?;
                let count = self.u64()?;
                if count > MAX_ITEMS {
                    return fault(format!(
                        "{} has {count} items; at most {MAX_ITEMS} are read",
                        self.what
                    ));
                }
                match kind.size() {
                    _ if kind == Kind::Bool => self.bools(count),
                    Some(size) => self.take(count * size).map(|_| ()),
                    None => (0..count).try_for_each(|_| self.skip(kind, depth + 1)),
                }
            }
            plain => self.take(plain.size().unwrap_or(0)).map(|_| ()),
        }
    }

    fn bools(&mut self, count: u64) -> Result<(), Fault> {
        match self.take(count)?.iter().find(|byte| **byte > 1) {
            None => Ok(()),
            Some(byte) => fault(format!(
                "{} is a truth value of {byte}, which is neither 0 nor 1",
                self.what
            )),
        }
    }

    fn tensor(&mut self, number: u64) -> Result<(String, Raw), Fault> {
        self.what = format!("tensor number {number}");
        let name = self.name()?;
        self.what = format!("the description of tensor `{name}`");
        let rank = self.u32()?;
        if rank > MAX_RANK {
            return Err(Fault::Tensor(
                name,
                format!("has {rank} dimensions; at most {MAX_RANK} are read"),
            ));
        }
        let mut shape = (0..rank)
            .map(|_| self.u64())
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let raw = Raw {
            shape,
            kind: self.u32()?,
            offset: self.u64()?,
        };
        Ok((name, raw))
    }
}

/// The tensor with its numbers checked against each other and the file.
fn checked(name: String, raw: Raw, data: u64, alignment: u64, file: u64) -> Result<Entry, Fault> {
    let shape = shape_text(&raw.shape);
    let fault = |reason: String| Err(Fault::Tensor(name.clone(), reason));
    let Some((dtype, block)) = SourceType::of_gguf(raw.kind) else {
        return fault(format!("has the unknown type {}", raw.kind));
    };
    if raw.shape.contains(&0) {
        return fault(format!("of shape {shape} has no elements"));
    }
    let row = raw.shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(block.elements) {
        return fault(format!(
            "of shape {shape} and type {dtype} has rows of {row} elements, which is no multiple of {}",
            block.elements
        ));
    }
    let bytes = raw
        .shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
        .and_then(|elements| (elements / block.elements).checked_mul(block.bytes));
    let Some(bytes) = bytes else {
        return fault(format!(
            "of shape {shape} has more bytes than can be counted"
        ));
    };
    if !raw.offset.is_multiple_of(alignment) {
        return fault(format!(
            "lies at offset {}, which is no multiple of the alignment {alignment}",
            raw.offset
        ));
    }
    let range = data
        .checked_add(raw.offset)
        .and_then(|start| Some(start..start.checked_add(bytes)?));
    match range.filter(|range| range.end <= file) {
        Some(range) => Ok(Entry {
            name,
            dtype,
            shape: raw.shape,
            range: range.start as usize..range.end as usize,
        }),
        None => fault(format!(
            "of shape {shape} and type {dtype} needs {bytes} bytes at offset {}, but the file has {} bytes of data",
            raw.offset,
            file.saturating_sub(data)
        )),
    }
}

/// Sorts by place and refuses two tensors that share a byte.
fn check_overlap(entries: &mut [Entry]) -> Result<(), Fault> {
    entries.sort_by_key(|entry| entry.range.start);
    for pair in entries.windows(2) {
        if let [before, after] = pair
            && after.range.start < before.range.end
        {
            return Err(Fault::Tensor(
                after.name.clone(),
                format!(
                    "at {:?} overlaps tensor `{}` at {:?}",
                    after.range, before.name, before.range
                ),
            ));
        }
    }
    Ok(())
}
