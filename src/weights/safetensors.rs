//! The header of a safetensors file: 8 bytes of length, that many bytes of JSON, then the tensors' data.
//!
//! In: the bytes of a whole file. Out: one [`Entry`] per tensor, in the order of their data.
//! Always: names are unique, every range lies in the file, the ranges cover the data without hole or overlap,
//! and each has exactly the bytes that its shape and type need.
//!
//! The crate `safetensors` has the last word on what a valid file is, but it is not asked first: it accepts
//! duplicate names silently, spends seconds on a million empty tensors, and its errors do not name the tensor.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use ::safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

/// Longest header that is looked at. The largest public checkpoints have headers below 1 MiB per shard.
pub(super) const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Most tensors that one file may list.
pub(super) const MAX_TENSORS: usize = 65_536;
/// Longest name of a tensor, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 1 << 10;
/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its sizes, outermost first.
    pub shape: Vec<u64>,
    /// First byte and end in the whole file.
    pub range: std::ops::Range<usize>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The header as a whole.
    Header(String),
    /// One tensor's place.
    Tensor(String, String),
}

/// The tensors of the file with the bytes `file`, and the length of its header with the 8 bytes before it.
pub(super) fn parse(file: &[u8]) -> Result<(Vec<Entry>, usize), Fault> {
    let (header, data_start) = header_text(file)?;
    let raw: RawHeader<'_> = serde_json::from_str(header)
        .map_err(|error| Fault::Header(format!("its header: {error}")))?;
    let data_bytes = (file.len() - data_start) as u64;
    let mut entries = raw
        .0
        .into_iter()
        .map(|tensor| checked(tensor, data_bytes))
        .collect::<Result<Vec<_>, Fault>>()?;
    entries.sort_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    check_cover(&entries, data_bytes)?;
    SafeTensors::read_metadata(file).map_err(|error| Fault::Header(error.to_string()))?;
    for entry in &mut entries {
        entry.range.start += data_start;
        entry.range.end += data_start;
    }
    Ok((entries, data_start))
}

fn header_text(file: &[u8]) -> Result<(&str, usize), Fault> {
    let fault = |reason: String| Err(Fault::Header(reason));
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return fault(format!(
            "it has {} bytes, and its first 8 should give the length of the header",
            file.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return fault(format!(
            "it says that its header has {length} bytes; at most {MAX_HEADER_BYTES} are read"
        ));
    }
    let Some(header) = rest.get(..length as usize) else {
        return fault(format!(
            "its header should have {length} bytes, but only {} follow",
            rest.len()
        ));
    };
    match std::str::from_utf8(header) {
        Ok(text) => Ok((text, 8 + length as usize)),
        Err(error) => fault(format!("its header is not UTF-8: {error}")),
    }
}

/// The tensor with its numbers checked against its own shape and the data's length. The range is still relative
/// to the data.
fn checked(raw: RawTensor<'_>, data_bytes: u64) -> Result<Entry, Fault> {
    let fault = |reason: String| Fault::Tensor(raw.name.clone(), reason);
    let dtype = Dtype::deserialize(de::value::StrDeserializer::<de::value::Error>::new(
        &raw.info.dtype,
    ))
    .map_err(|_| fault(format!("has the unknown type `{}`", raw.info.dtype)))?;
    let [start, end] = raw.info.data_offsets;
    if start > end || end > data_bytes {
        return Err(fault(format!(
            "lies at {start}..{end}, but the file has {data_bytes} bytes of data"
        )));
    }
    let shape = raw.info.shape.0.clone();
    let bits = shape
        .iter()
        .try_fold(dtype.bitsize() as u64, |bits, size| bits.checked_mul(*size));
    match bits {
        Some(bits) if bits.is_multiple_of(8) && bits / 8 == end - start => {}
        Some(bits) => {
            return Err(fault(format!(
                "of shape {} and type {dtype} needs {} bytes, but lies at {start}..{end}, which is {}",
                super::shape_text(&shape),
                bits.div_ceil(8),
                end - start
            )));
        }
        None => {
            return Err(fault(format!(
                "of shape {} has more bytes than can be counted",
                super::shape_text(&shape)
            )));
        }
    }
    Ok(Entry {
        name: raw.name,
        dtype,
        shape,
        range: start as usize..end as usize,
    })
}

/// Ranges in order must follow each other exactly and end where the data ends.
fn check_cover(entries: &[Entry], data_bytes: u64) -> Result<(), Fault> {
    let mut end = 0;
    let mut before: Option<&Entry> = None;
    for entry in entries {
        let fault = |reason| Err(Fault::Tensor(entry.name.clone(), reason));
        let range = &entry.range;
        if let Some(before) = before.filter(|_| range.start < end) {
            return fault(format!(
                "at {range:?} overlaps tensor `{}` at {:?}",
                before.name, before.range
            ));
        }
        if range.start > end {
            return fault(format!(
                "begins at byte {} of the data, but the bytes before it end at {end}: there is a hole",
                range.start
            ));
        }
        end = range.end;
        before = Some(entry);
    }
    if end as u64 != data_bytes {
        return Err(Fault::Header(format!(
            "its tensors end at byte {end} of the data, but the file has {data_bytes}"
        )));
    }
    Ok(())
}

/// The JSON of a header, still unchecked.
struct RawHeader<'a>(Vec<RawTensor<'a>>);

struct RawTensor<'a> {
    name: String,
    info: RawInfo<'a>,
}

#[derive(Deserialize)]
struct RawInfo<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: RawShape,
    data_offsets: [u64; 2],
}

/// Sizes, at most [`MAX_RANK`] of them.
struct RawShape(Vec<u64>);

impl<'de> Deserialize<'de> for RawShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = RawShape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawShape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if sizes.len() == MAX_RANK {
                        return Err(de::Error::custom(format!(
                            "a shape has more than {MAX_RANK} dimensions"
                        )));
                    }
                    sizes.push(size);
                }
                Ok(RawShape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

impl<'de> Deserialize<'de> for RawHeader<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry per tensor")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader<'de>, A::Error> {
                let mut tensors = Vec::new();
                let mut seen = BTreeSet::new();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    if name.len() > MAX_NAME_BYTES {
                        return Err(de::Error::custom(format!(
                            "a name has {} bytes, at most {MAX_NAME_BYTES} are allowed",
                            name.len()
                        )));
                    }
                    if !seen.insert(name.to_string()) {
                        return Err(de::Error::custom(format!("`{name}` appears twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<de::IgnoredAny>()?;
                        continue;
                    }
                    if tensors.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format!(
                            "it lists more than {MAX_TENSORS} tensors"
                        )));
                    }
                    let info = map
                        .next_value()
                        .map_err(|error| de::Error::custom(format!("tensor `{name}`: {error}")))?;
                    let name = name.into_owned();
                    tensors.push(RawTensor { name, info });
                }
                Ok(RawHeader(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use arbtest::arbitrary::Unstructured;

    /// A right file of a few tensors, and one of its headers' dangerous spellings now and then.
    fn file(u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<Vec<u8>> {
        let mut tensors = Vec::new();
        let mut end = 0u64;
        for number in 0..u.int_in_range(0..=4)? {
            let shape: Vec<u64> = (0..u.int_in_range(0..=3)?)
                .map(|_| u.int_in_range(0..=3))
                .collect::<Result<_, _>>()?;
            let (dtype, size) =
                *u.choose(&[("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("BOOL", 1)])?;
            let bytes = shape.iter().product::<u64>() * size;
            let start = end;
            end += bytes;
            tensors.push(format!(
                r#""t{number}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
            ));
        }
        if u.arbitrary()? {
            tensors.push(r#""__metadata__":{"format":"pt"}"#.into());
        }
        let header = format!("{{{}}}", tensors.join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend((0..end).map(|byte| byte as u8));
        Ok(file)
    }

    #[test]
    fn right_files_are_accepted() {
        arbtest::arbtest(|u| {
            let file = file(u)?;
            let (entries, _) = parse(&file).unwrap_or_else(|fault| panic!("{fault:?}"));
            let theirs = SafeTensors::deserialize(&file).unwrap();
            assert_eq!(entries.len(), theirs.len());
            for entry in entries {
                let tensor = theirs.tensor(&entry.name).unwrap();
                assert_eq!(&file[entry.range], tensor.data());
                assert_eq!(
                    entry.shape,
                    tensor
                        .shape()
                        .iter()
                        .map(|size| *size as u64)
                        .collect::<Vec<_>>()
                );
            }
            Ok(())
        })
        .budget_ms(500);
    }

    /// Whatever is done to a file: no panic, and what is accepted has exactly its own bytes.
    #[test]
    fn mutated_files_never_panic() {
        const PIECES: &[&str] = &[
            "\"",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "0",
            "-1",
            "1e9",
            "18446744073709551615",
            "4611686018427387904",
            "null",
            "\"t0\":{",
            "\\u0000",
            "F8_E4M3",
            "F4",
            "\"shape\":",
            "\u{feff}",
        ];
        let mut accepted = 0u64;
        arbtest::arbtest(|u| {
            let mut file = file(u)?;
            for _ in 0..u.int_in_range(1..=4)? {
                let at = u.choose_index(file.len() + 1)?;
                match u.int_in_range(0..=4)? {
                    0 => file.truncate(at.max(1)),
                    1 => file.insert(at, u.arbitrary()?),
                    2 => {
                        let piece = u.choose(PIECES)?;
                        file.splice(at..at, piece.bytes());
                        // With the length put right the piece is looked at and not only the length.
                        if let Some((length, _)) = file.split_first_chunk_mut::<8>() {
                            *length = (u64::from_le_bytes(*length)
                                .wrapping_add(piece.len() as u64))
                            .to_le_bytes();
                        }
                    }
                    3 => {
                        let end = at + u.choose_index(file.len() - at + 1)?;
                        let piece = file[at..end].to_vec();
                        file.splice(at..at, piece);
                    }
                    _ => {
                        if let Some(byte) = file.get_mut(at) {
                            *byte ^= 1 << u.int_in_range(0..=7)?;
                        }
                    }
                }
            }
            if let Ok((entries, data_start)) = parse(&file) {
                accepted += 1;
                let mut end = data_start;
                for entry in entries {
                    assert_eq!(entry.range.start, end);
                    end = entry.range.end;
                    let bits = entry.shape.iter().product::<u64>() * entry.dtype.bitsize() as u64;
                    assert_eq!(bits, entry.range.len() as u64 * 8);
                }
                assert_eq!(end, file.len());
            }
            Ok(())
        })
        .budget_ms(2_000);
        assert!(
            accepted > 0,
            "some mutations do not matter; if all are refused, the test tests nothing"
        );
    }
}
