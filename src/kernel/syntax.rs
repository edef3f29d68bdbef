//! The syntax of a manifest, field for field: what serde fills from RON. Names and expressions keep their places;
//! nothing is resolved yet.

use serde::Deserialize;

use super::Access;
use crate::dtype::DType;
use crate::text::ast::{Map, Name};
use crate::text::place::map;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Kernel")]
pub(super) struct RawKernel {
    pub name: Name,
    pub doc: Name,
    #[serde(default, deserialize_with = "map")]
    pub types: Map<Vec<Name>>,
    #[serde(default, deserialize_with = "map")]
    pub options: Map<RawOption>,
    #[serde(default, deserialize_with = "map")]
    pub derive: Map<Name>,
    #[serde(deserialize_with = "map")]
    pub ports: Map<RawPort>,
    #[serde(default)]
    pub require: Vec<Name>,
    #[serde(default)]
    pub flops: Option<Name>,
    #[serde(default, deserialize_with = "map")]
    pub touched: Map<Name>,
    #[serde(default)]
    pub split: Option<RawSplit>,
    pub reference: Vec<Name>,
    #[serde(default, deserialize_with = "map")]
    pub push: Map<RawPush>,
    pub variants: Vec<RawVariant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum RawOption {
    Int {
        #[serde(default)]
        default: Option<Name>,
        min: Name,
        max: Name,
    },
    Float {
        #[serde(default)]
        default: Option<Name>,
    },
    Bool {
        default: Name,
    },
    Choice {
        of: Vec<Name>,
        default: Name,
    },
}

/// A port by how it is touched.
#[derive(Deserialize)]
pub(super) enum RawPort {
    Read(RawPortDecl),
    Write(RawPortDecl),
    ReadWrite(RawPortDecl),
    Scratch(RawPortDecl),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPortDecl {
    pub of: Name,
    pub shape: Vec<Name>,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub in_place: Option<Name>,
    #[serde(default)]
    pub rereads: bool,
    #[serde(default)]
    pub tiles: bool,
    #[serde(default = "yes")]
    pub zero: bool,
}

fn yes() -> bool {
    true
}

impl RawPort {
    pub(super) fn decl(&self) -> &RawPortDecl {
        match self {
            RawPort::Read(decl)
            | RawPort::Write(decl)
            | RawPort::ReadWrite(decl)
            | RawPort::Scratch(decl) => decl,
        }
    }
    pub(super) fn access(&self) -> Access {
        match self {
            RawPort::Read(_) => Access::Read,
            RawPort::Write(_) => Access::Write,
            RawPort::Scratch(decl) if !decl.zero => Access::Write,
            RawPort::ReadWrite(_) | RawPort::Scratch(_) => Access::ReadWrite,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Split")]
pub(super) struct RawSplit {
    pub port: Name,
    pub dim: Name,
    pub at: Name,
    pub of: Name,
    pub total: Name,
    pub chain: (Name, Name),
}

#[derive(Deserialize)]
pub(super) enum RawPush {
    U32(Name),
    I32(Name),
    F32(Name),
}

impl RawPush {
    pub(super) fn parts(&self) -> (DType, &Name) {
        match self {
            RawPush::U32(text) => (DType::U32, text),
            RawPush::I32(text) => (DType::I32, text),
            RawPush::F32(text) => (DType::F32, text),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Spec")]
pub(super) struct RawSpec {
    pub default: Name,
    pub min: Name,
    pub max: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Variant")]
pub(super) struct RawVariant {
    pub name: Name,
    pub shader: Name,
    #[serde(default)]
    pub needs: Vec<Name>,
    #[serde(default)]
    pub when: Option<Name>,
    #[serde(default)]
    pub prefer: i32,
    #[serde(default, deserialize_with = "map")]
    pub spec: Map<RawSpec>,
    #[serde(default, deserialize_with = "map")]
    pub defines: Map<Name>,
    #[serde(deserialize_with = "three")]
    pub local_size: [Name; 3],
    #[serde(deserialize_with = "three")]
    pub dispatch: [Name; 3],
    #[serde(default)]
    pub shared_bytes: Option<Name>,
    #[serde(default)]
    pub relays: Option<RawRelays>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Relays")]
pub(super) struct RawRelays {
    pub before: Vec<Name>,
    #[serde(default)]
    pub when: Option<Name>,
}

/// A list of three. RON would read a Rust array as a tuple, in parentheses.
fn three<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[Name; 3], D::Error> {
    let items = Vec::<Name>::deserialize(deserializer)?;
    let count = items.len();
    items
        .try_into()
        .map_err(|_| serde::de::Error::custom(format!("expected a list of 3, found {count}")))
}
