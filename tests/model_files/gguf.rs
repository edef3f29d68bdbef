//! GGUF files written byte by byte, so that they can be wrong.

/// A GGUF file in the making. Every field is written as it stands.
#[derive(Clone)]
pub struct GgufFile {
    pub magic: [u8; 4],
    pub version: u32,
    /// Written in place of the true counts.
    pub counts: Option<(u64, u64)>,
    /// Name, type and the value's bytes.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    /// Tensors; their offsets are those of `data` unless given.
    pub tensors: Vec<GgufTensor>,
    pub alignment: u64,
}

/// A tensor of it: sizes are outermost first, as everywhere but in the file.
#[derive(Clone)]
pub struct GgufTensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub kind: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

pub fn text(value: &str) -> Vec<u8> {
    let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
    bytes.extend(value.bytes());
    bytes
}

/// A list of texts.
pub fn texts(values: &[&str]) -> Vec<u8> {
    list(8, values.iter().map(|value| text(value)).collect())
}

/// A list of items of the type `kind`.
pub fn list(kind: u32, items: Vec<Vec<u8>>) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    bytes.extend(items.concat());
    bytes
}

impl Default for GgufFile {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            counts: None,
            keys: vec![],
            tensors: vec![],
            alignment: 32,
        }
    }
}

impl GgufFile {
    /// A file with `general.architecture`.
    pub fn of(architecture: &str) -> Self {
        Self::default().text("general.architecture", architecture)
    }

    pub fn key(mut self, name: &str, kind: u32, value: impl Into<Vec<u8>>) -> Self {
        self.keys.push((name.into(), kind, value.into()));
        self
    }

    pub fn text(self, name: &str, value: &str) -> Self {
        self.key(name, 8, text(value))
    }

    pub fn u32(self, name: &str, value: u32) -> Self {
        self.key(name, 4, value.to_le_bytes())
    }

    pub fn f32(self, name: &str, value: f32) -> Self {
        self.key(name, 6, value.to_le_bytes())
    }

    pub fn tensor(mut self, name: &str, kind: u32, shape: &[u64], data: Vec<u8>) -> Self {
        self.tensors.push(GgufTensor {
            name: name.into(),
            shape: shape.to_vec(),
            kind,
            offset: None,
            data,
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let counts = (self.tensors.len() as u64, self.keys.len() as u64);
        let (tensors, keys) = self.counts.unwrap_or(counts);
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(keys.to_le_bytes());
        for (name, kind, value) in &self.keys {
            out.extend(text(name));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let pad = |bytes: &mut Vec<u8>| {
            let length = (bytes.len() as u64).next_multiple_of(self.alignment);
            bytes.resize(length as usize, 0);
        };
        let mut data = Vec::new();
        for tensor in &self.tensors {
            pad(&mut data);
            out.extend(text(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in tensor.shape.iter().rev() {
                out.extend(size.to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        pad(&mut out);
        out.extend(data);
        out
    }
}
