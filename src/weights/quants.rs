//! The blocks of quantised GGUF tensors: what their bytes mean.
//!
//! In: whole blocks. Out: f32 ([`decode`]), exactly as the format defines them up to the one rounding of a final
//! subtraction; or, for types whose groups are also groups of a weight's block format, the integers and scales
//! themselves ([`to_int8`], [`to_int4`]), so that packing changes no value.
//!
//! The legacy types have 32 elements: element j in the low half of byte j, element j + 16 in its high half. The K types
//! have 256, in groups with scales of their own, and are written here from the format's description.

use half::f16;

use super::types::SourceType;

/// Elements of a group of these blocks that shares a scale: those of `int8` and `int4`, too.
pub(super) const GROUP: usize = 32;

/// Decodes whole blocks. `bytes` has exactly the blocks of `out.len()` elements; plain types leave `out` alone.
pub(super) fn decode(dtype: SourceType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        SourceType::Q4_0 => each(bytes, out, q4_0),
        SourceType::Q4_1 => each(bytes, out, q4_1),
        SourceType::Q5_0 => each(bytes, out, q5_0),
        SourceType::Q5_1 => each(bytes, out, q5_1),
        SourceType::Q8_0 => each(bytes, out, q8_0),
        SourceType::Q4K => each(bytes, out, q4_k),
        SourceType::Q5K => each(bytes, out, q5_k),
        SourceType::Q6K => each(bytes, out, q6_k),
        SourceType::F32
        | SourceType::F16
        | SourceType::Bf16
        | SourceType::Other(_)
        | SourceType::Foreign(_) => {}
    }
}

/// Runs `one` on every block of `B` bytes and its `E` elements.
fn each<const B: usize, const E: usize>(
    bytes: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; B], &mut [f32; E]),
) {
    let (blocks, outs) = (bytes.as_chunks::<B>().0, out.as_chunks_mut::<E>().0);
    for (block, out) in blocks.iter().zip(outs) {
        one(block, out);
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The 4-bit integers of a block of 32, in order.
fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    let mut out = [0; 32];
    for (j, byte) in bytes.iter().enumerate() {
        out[j] = byte & 15;
        out[j + 16] = byte >> 4;
    }
    out
}

/// The 5-bit integers of a block of 32: the fifth bits stand apart.
fn five_bits(high: [u8; 4], low: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    let mut out = nibbles(low);
    for (j, value) in out.iter_mut().enumerate() {
        *value |= ((high >> j & 1) as u8) << 4;
    }
    out
}

fn part<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    // Constant offsets into arrays of known length; the fallback is never taken.
    block
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .unwrap_or(&[0; N])
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(nibbles(part(block, 2))) {
        *out = scale * (f32::from(q) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (out, q) in out.iter_mut().zip(nibbles(part(block, 4))) {
        *out = scale * f32::from(q) + min;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, q) in out
        .iter_mut()
        .zip(five_bits(*part(block, 2), part(block, 6)))
    {
        *out = scale * (f32::from(q) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (out, q) in out
        .iter_mut()
        .zip(five_bits(*part(block, 4), part(block, 8)))
    {
        *out = scale * f32::from(q) + min;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(*q as i8);
    }
}

/// Scale and minimum of each of the eight groups of a Q4_K or Q5_K block: 6 bits each, packed into 12 bytes. The first
/// four groups have theirs in the low six bits of bytes 0..4 and 4..8; the last four have the low four bits in bytes
/// 8..12 and the high two bits on top of the bytes of the first four.
fn k_scales(packed: &[u8; 12]) -> [(u8, u8); 8] {
    std::array::from_fn(|group| {
        if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let (low, scale_top, min_top) = (packed[group + 4], packed[group - 4], packed[group]);
            (
                (low & 15) | (scale_top >> 6) << 4,
                (low >> 4) | (min_top >> 6) << 4,
            )
        }
    })
}

/// The scale and the minimum that a Q4_K or Q5_K block's group has in the end; both products are exact.
fn k_groups(block: &[u8]) -> [(f32, f32); 8] {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    k_scales(part(block, 4)).map(|(s, m)| (scale * f32::from(s), min * f32::from(m)))
}

/// The 4-bit integers of group `group`: bytes of 32 hold two groups, one in each half.
fn k_nibbles(low: &[u8; 128], group: usize) -> [u8; 32] {
    let bytes: &[u8; 32] = part(low, group / 2 * 32);
    bytes.map(|byte| {
        if group.is_multiple_of(2) {
            byte & 15
        } else {
            byte >> 4
        }
    })
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let low = part(block, 16);
    let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(k_groups(block));
    for (group, (out, (scale, min))) in groups.enumerate() {
        for (out, q) in out.iter_mut().zip(k_nibbles(low, group)) {
            *out = scale * f32::from(q) - min;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (high, low): (&[u8; 32], _) = (part(block, 16), part(block, 48));
    let groups = out.as_chunks_mut::<32>().0.iter_mut().zip(k_groups(block));
    for (group, (out, (scale, min))) in groups.enumerate() {
        for ((out, q), high) in out.iter_mut().zip(k_nibbles(low, group)).zip(high) {
            let q = q | (high >> group & 1) << 4;
            *out = scale * f32::from(q) - min;
        }
    }
}

/// Two halves of 128 elements. In each, 64 bytes hold the low four bits of four runs of 32 (runs 0 and 2 share bytes,
/// so do 1 and 3), 32 bytes the high two bits of all four, and every 16 elements have a scale.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    for (index, out) in out.iter_mut().enumerate() {
        let (half, run, at) = (index / 128, index / 32 % 4, index % 32);
        let low = block[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
        let high = block[128 + half * 32 + at] >> (run * 2) & 3;
        let group = block[192 + index / 16] as i8;
        *out = scale * f32::from(group) * (f32::from(low | high << 4) - 32.0);
    }
}

/// The bytes of one group in the two parts of a block format.
pub(super) struct Group<'a> {
    /// 32 integers in int8, 16 bytes in int4.
    pub quants: &'a mut [u8],
    /// The scale in int8, scale and minimum in int4; f16.
    pub shared: &'a mut [u8],
}

/// Writes a row of blocks as groups of int8 if their values fit without a change: `bytes` are whole blocks, `groups`
/// what they become. False for every other type.
pub(super) fn to_int8<'a>(
    dtype: SourceType,
    bytes: &[u8],
    groups: impl Iterator<Item = Group<'a>>,
) -> bool {
    let put = |group: Group<'_>, scale: [u8; 2], q: [i8; 32]| {
        group.shared.copy_from_slice(&scale);
        for (out, q) in group.quants.iter_mut().zip(q) {
            *out = q as u8;
        }
    };
    match dtype {
        SourceType::Q8_0 => {
            for (block, group) in bytes.as_chunks::<34>().0.iter().zip(groups) {
                put(
                    group,
                    *part(block, 0),
                    part::<32>(block, 2).map(|q| q as i8),
                );
            }
        }
        SourceType::Q5_0 => {
            for (block, group) in bytes.as_chunks::<22>().0.iter().zip(groups) {
                let q = five_bits(*part(block, 2), part(block, 6));
                put(group, *part(block, 0), q.map(|q| q as i8 - 16));
            }
        }
        SourceType::Q4_0 => {
            for (block, group) in bytes.as_chunks::<18>().0.iter().zip(groups) {
                put(
                    group,
                    *part(block, 0),
                    nibbles(part(block, 2)).map(|q| q as i8 - 8),
                );
            }
        }
        _ => return false,
    }
    true
}

/// The same for int4. The minimum of Q4_0 is -8 times its scale, which f16 holds; scale and minimum of Q4_K are
/// products that are rounded to f16 here, the only values that change.
pub(super) fn to_int4<'a>(
    dtype: SourceType,
    bytes: &[u8],
    groups: impl Iterator<Item = Group<'a>>,
) -> bool {
    let put = |group: Group<'_>, scale: f32, min: f32, q: [u8; 32]| {
        put_shared(group.shared, f16::from_f32(scale), f16::from_f32(min));
        pack_nibbles(q, group.quants);
    };
    match dtype {
        SourceType::Q4_0 => {
            for (block, group) in bytes.as_chunks::<18>().0.iter().zip(groups) {
                let scale = half_at(block, 0);
                put(group, scale, -8.0 * scale, nibbles(part(block, 2)));
            }
        }
        SourceType::Q4_1 => {
            for (block, group) in bytes.as_chunks::<20>().0.iter().zip(groups) {
                put(
                    group,
                    half_at(block, 0),
                    half_at(block, 2),
                    nibbles(part(block, 4)),
                );
            }
        }
        SourceType::Q4K => {
            let mut groups = groups;
            for block in bytes.as_chunks::<144>().0 {
                for (index, (scale, min)) in k_groups(block).into_iter().enumerate() {
                    if let Some(group) = groups.next() {
                        put(group, scale, -min, k_nibbles(part(block, 16), index));
                    }
                }
            }
        }
        _ => return false,
    }
    true
}

/// Element 2i goes into the low half of byte i.
pub(super) fn pack_nibbles(q: impl IntoIterator<Item = u8>, out: &mut [u8]) {
    let mut q = q.into_iter();
    for out in out {
        let (low, high) = (q.next().unwrap_or(0), q.next().unwrap_or(0));
        *out = low | high << 4;
    }
}

/// Writes a scale and a minimum.
pub(super) fn put_shared(out: &mut [u8], scale: f16, min: f16) {
    let ([a, b], [c, d]) = (scale.to_le_bytes(), min.to_le_bytes());
    out.copy_from_slice(&[a, b, c, d]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn base64(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits: Vec<u32> = text
            .bytes()
            .filter(|byte| *byte != b'=')
            .map(|byte| DIGITS.iter().position(|digit| *digit == byte).unwrap() as u32)
            .collect();
        let bytes = digits.chunks(4).flat_map(|digits| {
            let bits = (0..4).fold(0, |bits, at| bits << 6 | digits.get(at).unwrap_or(&0));
            bits.to_be_bytes()[1..digits.len()].to_vec()
        });
        bytes.collect()
    }

    /// Blocks of every quantised type and what the Python package `gguf` decodes them to; made by
    /// `tools/reference_gguf.py`.
    fn goldens() -> Vec<(SourceType, Vec<u8>, Vec<f32>)> {
        let text = include_str!("../../tests/reference/gguf_blocks.json");
        let golden: serde_json::Value = serde_json::from_str(text).unwrap();
        let types = golden["types"].as_object().unwrap();
        let known = (0..64).filter_map(SourceType::of_gguf);
        let found: Vec<_> = known
            .filter(|(dtype, block)| dtype.readable() && block.elements > 1)
            .map(|(dtype, _)| {
                let golden = &types[&dtype.to_string()];
                let bytes = |key: &str| base64(golden[key].as_str().unwrap());
                let values = bytes("values");
                let values = values
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b));
                (dtype, bytes("bytes"), values.collect())
            })
            .collect();
        assert_eq!(found.len(), types.len());
        found
    }

    #[test]
    fn blocks_mean_what_the_gguf_package_says() {
        for (dtype, bytes, wanted) in goldens() {
            let mut out = vec![f32::NAN; wanted.len()];
            decode(dtype, &bytes, &mut out);
            for (index, (got, wanted)) in out.iter().zip(&wanted).enumerate() {
                assert!(
                    got == wanted,
                    "{dtype} element {index}: {got} is not {wanted}"
                );
            }
        }
    }

    /// The values of int8 or int4 groups.
    fn read(quants: &[u8], shared: &[u8]) -> Vec<f32> {
        if quants.len() == shared.len() * 16 {
            let q = quants.iter().map(|q| f32::from(*q as i8));
            return q
                .enumerate()
                .map(|(at, q)| half_at(shared, at / 32 * 2) * q)
                .collect();
        }
        let q = quants
            .iter()
            .flat_map(|byte| [byte & 15, byte >> 4])
            .map(f32::from);
        q.enumerate()
            .map(|(at, q)| half_at(shared, at / 32 * 4) * q + half_at(shared, at / 32 * 4 + 2))
            .collect()
    }

    #[test]
    fn groups_keep_the_values() {
        let mut exact = Vec::new();
        for (dtype, bytes, wanted) in goldens() {
            let groups = wanted.len() / GROUP;
            for (name, quants, shared) in [("int8", 32, 2), ("int4", 16, 4)] {
                let (mut q, mut s) = (vec![0; groups * quants], vec![0; groups * shared]);
                let group = q.chunks_mut(quants).zip(s.chunks_mut(shared));
                let group = group.map(|(quants, shared)| Group { quants, shared });
                let done = match name {
                    "int8" => to_int8(dtype, &bytes, group),
                    _ => to_int4(dtype, &bytes, group),
                };
                if !done {
                    continue;
                }
                exact.push(format!("{dtype} {name}"));
                let largest = wanted
                    .iter()
                    .fold(0f32, |most, value| most.max(value.abs()));
                for (got, wanted) in read(&q, &s).iter().zip(&wanted) {
                    // Q4_K's products are rounded to f16, one unit in 2^11; the rest is exact but for the order of
                    // the minimum's addition.
                    let most = if dtype == SourceType::Q4K {
                        largest / 2048.0
                    } else {
                        largest * 1e-7
                    };
                    assert!(
                        (got - wanted).abs() <= most,
                        "{dtype} {name}: {got} is not {wanted}"
                    );
                }
            }
        }
        assert_eq!(
            exact,
            [
                "Q4_0 int8",
                "Q4_0 int4",
                "Q4_1 int4",
                "Q5_0 int8",
                "Q8_0 int8",
                "Q4_K int4"
            ]
        );
    }
}
