//! Model folders for tests: safetensors files written byte by byte, so that they can be wrong, and plans that
//! have nothing but weights.
#![allow(dead_code)]

#[path = "../support/device.rs"]
mod device;
pub mod gguf;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use graphc::diag::{Diagnostic, Diagnostics};
use graphc::dtype::DType;
use graphc::graph::Recipe;
use graphc::ids::{ArenaId, IdVec};
use graphc::plan::{Plan, Weight};
use graphc::span::SourceMap;

/// A safetensors file with this header and this many bytes of data, counting up from 0.
pub fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|byte| byte as u8));
    bytes
}

/// A right safetensors file.
pub fn safetensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let mut header = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let (start, end) = (data.len(), data.len() + bytes.len());
        data.extend(bytes);
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

pub fn weight(name: &str, dtype: DType, shape: &[u64], recipe: Recipe) -> Weight {
    Weight {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        recipe,
        arena: ArenaId(0),
        offset: 0,
    }
}

pub fn tensor(name: &str) -> Recipe {
    Recipe::Tensor(name.into())
}

pub fn plan(weights: Vec<Weight>) -> Plan {
    Plan {
        graph: "test".into(),
        profile: "test".into(),
        device: String::new(),
        limits: device::limits(),
        needs: BTreeSet::new(),
        source_hash: [0; 32],
        params: BTreeMap::new(),
        kernels: IdVec::new(),
        relay: None,
        arenas: IdVec::new(),
        weights,
        entries: vec![],
        sources: vec![],
    }
}

/// Compares what people see with `tests/errors/<name>.txt`; `BLESS=1` rewrites it. The folder's path is shown as
/// `MODEL`.
pub fn assert_message(name: &str, diagnostic: Diagnostic, folder: &Path) {
    let said = Diagnostics::from(diagnostic)
        .render(&SourceMap::default(), false)
        .replace(folder.to_str().unwrap(), "MODEL");
    let code = name.split('_').next().unwrap();
    assert!(said.contains(&format!("[{code}]")), "{name}: {said}");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/errors/{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    assert_eq!(
        said,
        std::fs::read_to_string(&golden).unwrap_or_default(),
        "{name}"
    );
}
