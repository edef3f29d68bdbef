//! Plan files are hostile input: whatever the bytes, reading them and proving what was read neither panics nor runs
//! away. Mutations are made below the hash too, since whoever can write a file can hash it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod planning;
#[path = "support/random.rs"]
#[allow(dead_code)]
mod random;

use graphc::plan::codec::{MAGIC, decode, encode};
use graphc::plan::verify::verify;
use graphc::plan::{FORMAT, Plan, dump};
use planning::{bert, plan};
use random::Random;

/// A plan file around any payload, with lengths and hash that fit.
fn file(plain: &[u8]) -> Vec<u8> {
    let payload = zstd::stream::encode_all(plain, 1).unwrap();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend((payload.len() as u64).to_le_bytes());
    bytes.extend((plain.len() as u64).to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes).update(&payload);
    bytes.extend(hasher.finalize().as_bytes());
    bytes.extend(payload);
    bytes
}

fn mutate(
    bytes: &mut Vec<u8>,
    u: &mut arbtest::arbitrary::Unstructured,
) -> arbtest::arbitrary::Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        let at = u.int_in_range(0..=bytes.len() - 1)?;
        match u.int_in_range(0..=4)? {
            0 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
            1 => bytes[at] = u.arbitrary()?,
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, u.arbitrary()?),
            _ => {
                let end = (at + 9).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
        }
    }
    Ok(())
}

/// Everything that reads a decoded plan must survive it.
fn exercise(plan: &Plan) {
    let _ = verify(plan);
    let _ = (
        dump::memory(plan),
        dump::plan(plan),
        dump::dot(plan),
        dump::summary(plan),
        dump::json(plan),
    );
}

#[test]
fn no_plan_file_panics() {
    let plan = plan(&[bert("e", 2, 64, 64), bert("f", 2, 32, 64)]);
    let whole = encode(&plan).unwrap();
    let plain = postcard::to_stdvec(&plan).unwrap();
    assert_eq!(decode(&file(&plain)).unwrap(), plan);
    let mut inside = 0;
    Random::from_env("no_plan_file_panics").check(20_000, 256, |u| {
        let mut bytes = whole.clone();
        mutate(&mut bytes, u)?;
        assert!(
            bytes == whole || decode(&bytes).is_err(),
            "an altered file was read"
        );
        let mut bytes = plain.clone();
        mutate(&mut bytes, u)?;
        if let Ok(plan) = decode(&file(&bytes)) {
            inside += 1;
            exercise(&plan);
        }
        Ok(())
    });
    println!("{inside} well-formed plans");
    // Below the hash some altered plans are well-formed, so that the verifier was fuzzed too.
    assert!(inside > 0);
}
