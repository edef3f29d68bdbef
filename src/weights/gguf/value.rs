//! Values of a GGUF file's metadata as views of its bytes.

use super::header::{Item, Kind};

/// A value of the metadata.
#[derive(Clone, Copy, Debug)]
pub enum GgufValue<'a> {
    /// Any integer that fits.
    Int(i64),
    /// A float, or an integer above `i64::MAX`.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// A list.
    List(GgufList<'a>),
}

/// A list of the metadata; walking over it reads the file.
#[derive(Clone, Copy, Debug)]
pub struct GgufList<'a> {
    kind: Kind,
    count: usize,
    items: &'a [u8],
}

impl<'a> GgufValue<'a> {
    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            GgufValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&'a str> {
        match self {
            GgufValue::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<GgufList<'a>> {
        match self {
            GgufValue::List(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'a> GgufList<'a> {
    /// The number of items.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = GgufValue<'a>> + use<'a> {
        let kind = self.kind;
        let mut rest = self.items;
        (0..self.count).map_while(move |_| one(kind, &mut rest))
    }
}

/// The value that `item` says where to find in `file`.
pub(super) fn read<'a>(file: &'a [u8], item: &Item) -> Option<GgufValue<'a>> {
    let mut bytes = file.get(item.range.clone())?;
    match item.kind {
        // Nothing follows it, so nobody has to find its end.
        Kind::List => list(&mut bytes).map(GgufValue::List),
        kind => one(kind, &mut bytes),
    }
}

/// A list without walking to its end.
fn list<'a>(rest: &mut &'a [u8]) -> Option<GgufList<'a>> {
    let kind = Kind::of(take::<4>(rest).map(u32::from_le_bytes)?)?;
    let count = take::<8>(rest).map(u64::from_le_bytes)?;
    let count = usize::try_from(count).ok()?;
    let items = *rest;
    Some(GgufList { kind, count, items })
}

/// One value from the front of `rest`. The header's check has seen all of it, so `None` does not happen.
fn one<'a>(kind: Kind, rest: &mut &'a [u8]) -> Option<GgufValue<'a>> {
    Some(match kind {
        Kind::U8 => GgufValue::Int(take::<1>(rest).map(u8::from_le_bytes)?.into()),
        Kind::I8 => GgufValue::Int(take::<1>(rest).map(i8::from_le_bytes)?.into()),
        Kind::U16 => GgufValue::Int(take::<2>(rest).map(u16::from_le_bytes)?.into()),
        Kind::I16 => GgufValue::Int(take::<2>(rest).map(i16::from_le_bytes)?.into()),
        Kind::U32 => GgufValue::Int(take::<4>(rest).map(u32::from_le_bytes)?.into()),
        Kind::I32 => GgufValue::Int(take::<4>(rest).map(i32::from_le_bytes)?.into()),
        Kind::I64 => GgufValue::Int(take::<8>(rest).map(i64::from_le_bytes)?),
        Kind::U64 => {
            let value = take::<8>(rest).map(u64::from_le_bytes)?;
            i64::try_from(value).map_or(GgufValue::Float(value as f64), GgufValue::Int)
        }
        Kind::F32 => GgufValue::Float(short(take::<4>(rest).map(f32::from_le_bytes)?)),
        Kind::F64 => GgufValue::Float(take::<8>(rest).map(f64::from_le_bytes)?),
        Kind::Bool => GgufValue::Bool(take::<1>(rest)? != [0]),
        Kind::Text => GgufValue::Text(text(rest)?),
        Kind::List => {
            let list = list(rest)?;
            for _ in 0..list.count {
                one_over(list.kind, rest)?;
            }
            GgufValue::List(list)
        }
    })
}

/// Walks over one value without looking at it.
fn one_over(kind: Kind, rest: &mut &[u8]) -> Option<()> {
    match kind.size() {
        Some(size) => {
            *rest = rest.get(size as usize..)?;
            Some(())
        }
        None => one(kind, rest).map(|_| ()),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk::<N>()?;
    *rest = others;
    Some(*first)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = take::<8>(rest).map(u64::from_le_bytes)?;
    let (text, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = others;
    std::str::from_utf8(text).ok()
}

/// The f64 that a person would write for this f32: `1e-5` and not `9.99999974737875e-6`. It rounds to the same f32.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
