//! Plan files.
//!
//! In: a [`Plan`]; out: bytes that hold it, and back. Always: the same plan gives the same bytes; no byte of the payload
//! is used before magic, format number, lengths and hash were checked; no number of a file makes the reader allocate
//! more than the format allows; a plan that comes out has passed [`Plan::validate`].
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | the magic `\x89graphc\n`: not text, and broken by a transfer that changes line ends |
//! | 8..12 | the format number, [`FORMAT`] |
//! | 12..20 | length of the payload in bytes |
//! | 20..28 | length of the payload once decompressed, at most [`MAX_PLAIN`] |
//! | 28..60 | blake3 of bytes 0..28 and the payload |
//! | 60.. | the payload: the plan in postcard's encoding, compressed with zstd |
//!
//! Numbers are little-endian. Nothing follows the payload. A worked example:
//!
//! ```
//! use graphc::plan::codec::{CodecError, decode, encode};
//! # use graphc::{device::Limits, ids::IdVec, plan::Plan};
//! # let plan = Plan {
//! #     graph: "bert".into(), profile: "lavapipe".into(), device: "llvmpipe".into(), limits: Limits::default(), needs: Default::default(), source_hash: [0; 32],
//! #     params: Default::default(), kernels: IdVec::new(), arenas: IdVec::new(), relay: None, weights: vec![], entries: vec![],
//! #     sources: vec![],
//! # };
//! let mut bytes = encode(&plan)?;
//! assert_eq!(&bytes[..8], b"\x89graphc\n");
//! assert_eq!(bytes[8..12], 7u32.to_le_bytes()); // the format number
//! let payload = bytes.len() as u64 - 60;
//! assert_eq!(bytes[12..20], payload.to_le_bytes());
//! assert_eq!(decode(&bytes)?, plan);
//!
//! bytes[70] ^= 1; // one bit of the payload
//! assert!(matches!(decode(&bytes), Err(CodecError::Hash { .. })));
//! # Ok::<(), CodecError>(())
//! ```

use std::io::Read as _;

use super::validate::Malformed;
use super::{FORMAT, Plan};

/// The first bytes of a plan file.
pub const MAGIC: [u8; 8] = *b"\x89graphc\n";
/// The longest payload once decompressed: far more than a plan with every kernel of a large model.
pub const MAX_PLAIN: u64 = 64 << 20;
const HEADER: usize = 60;
const HASHED: usize = 28;
const LEVEL: i32 = 9;

/// Why a plan file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Too short to be a plan, or the wrong first bytes.
    #[error("not a plan file: {}", start(found))]
    Magic {
        /// The first bytes, at most eight.
        found: Vec<u8>,
    },
    /// Another version wrote it.
    #[error("plan format {found}, but this program reads format {FORMAT}: compile the plan again")]
    Format {
        /// The number in the file.
        found: u32,
    },
    /// Truncated, or something was appended.
    #[error(
        "the plan file has {found} bytes, but its header says {expected}: it is truncated or altered"
    )]
    Length {
        /// The length by the header.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// A payload larger than any plan.
    #[error("the plan takes {found} bytes decompressed, more than the {MAX_PLAIN} of the format")]
    TooLarge {
        /// The length.
        found: u64,
    },
    /// Altered.
    #[error("the plan file is damaged: its bytes hash to {found}, its header says {expected}")]
    Hash {
        /// The hash in the header.
        expected: String,
        /// The hash of the bytes.
        found: String,
    },
    /// The payload is no plan.
    #[error("the payload of the plan file cannot be read: {0}")]
    Payload(String),
    /// The plan contradicts itself.
    #[error("the plan file is not valid: {0}")]
    Invalid(#[from] Malformed),
}

/// How a file that is no plan starts, as people may know it again.
fn start(bytes: &[u8]) -> String {
    match bytes {
        [] => "it is empty".into(),
        _ if bytes
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')) =>
        {
            format!(
                "it is text that starts with {:?}",
                String::from_utf8_lossy(bytes)
            )
        }
        _ if MAGIC.starts_with(bytes) => format!("it ends after {} bytes", bytes.len()),
        _ => {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("it starts with the bytes {}", hex.join(" "))
        }
    }
}

/// The bytes of a plan file.
pub fn encode(plan: &Plan) -> Result<Vec<u8>, CodecError> {
    let plain =
        postcard::to_stdvec(plan).map_err(|error| CodecError::Payload(error.to_string()))?;
    let length = plain.len() as u64;
    if length > MAX_PLAIN {
        return Err(CodecError::TooLarge { found: length });
    }
    let payload = zstd::stream::encode_all(plain.as_slice(), LEVEL)
        .map_err(|error| CodecError::Payload(error.to_string()))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend(length.to_le_bytes());
    let hash = hash(&bytes, &payload);
    bytes.extend(hash.as_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

/// The plan in the bytes of a plan file.
pub fn decode(bytes: &[u8]) -> Result<Plan, CodecError> {
    let magic = bytes.first_chunk::<8>();
    if magic != Some(&MAGIC) {
        return Err(CodecError::Magic {
            found: bytes[..bytes.len().min(8)].to_vec(),
        });
    }
    let short = |expected: u64| CodecError::Length {
        expected,
        found: bytes.len() as u64,
    };
    let number = |at: usize| {
        bytes
            .get(at..at + 8)
            .and_then(|slice| slice.try_into().ok())
            .map(u64::from_le_bytes)
    };
    let format = bytes
        .get(8..12)
        .and_then(|slice| slice.try_into().ok())
        .map(u32::from_le_bytes);
    let format = format.ok_or_else(|| short(HEADER as u64))?;
    if format != FORMAT {
        return Err(CodecError::Format { found: format });
    }
    let (header, payload) = bytes
        .split_at_checked(HEADER)
        .ok_or_else(|| short(HEADER as u64))?;
    let length = number(12).ok_or_else(|| short(HEADER as u64))?;
    if length != payload.len() as u64 {
        return Err(short(length.saturating_add(HEADER as u64)));
    }
    let plain = number(20).ok_or_else(|| short(HEADER as u64))?;
    if plain > MAX_PLAIN {
        return Err(CodecError::TooLarge { found: plain });
    }
    let (hashed, expected) = header.split_at(HASHED);
    let found = hash(hashed, payload);
    if found.as_bytes() != expected {
        let expected = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(CodecError::Hash {
            expected,
            found: found.to_hex().to_string(),
        });
    }
    let plan: Plan = from_plain(&decompress(payload, plain)?)?;
    plan.validate()?;
    Ok(plan)
}

fn hash(header: &[u8], payload: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(payload);
    hasher.finalize()
}

/// Grows with what is there, not with what the file promises, and stops one byte past the promise.
fn decompress(payload: &[u8], length: u64) -> Result<Vec<u8>, CodecError> {
    let failed = |error: std::io::Error| CodecError::Payload(error.to_string());
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(payload).map_err(failed)?;
    decoder
        .take(length.saturating_add(1))
        .read_to_end(&mut plain)
        .map_err(failed)?;
    if plain.len() as u64 == length {
        Ok(plain)
    } else {
        Err(CodecError::Payload(format!(
            "it does not have the {length} bytes that its header says"
        )))
    }
}

fn from_plain(plain: &[u8]) -> Result<Plan, CodecError> {
    match postcard::take_from_bytes(plain) {
        Ok((plan, [])) => Ok(plan),
        Ok((_, rest)) => Err(CodecError::Payload(format!(
            "{} bytes follow the plan",
            rest.len()
        ))),
        Err(error) => Err(CodecError::Payload(error.to_string())),
    }
}
