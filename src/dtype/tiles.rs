//! The order in which weights in a block format are stored.
//!
//! Kernels read several neighbouring rows of a weight at once, some bytes of each. So these stand beside each other: in
//! tiles of [`ROWS`] rows x 4 vectors of 16 bytes, tile after tile along the rows, then the next [`ROWS`] rows. All
//! dimensions but the last one, `k`, count as rows. Of a weight of `n` rows of `V` vectors (`k / 16` of 8 bits, `k / 32` of
//! 4), vector `v` of row `r` is number
//!
//! ```text
//! place(r, v) = (r - r % 8) * V + (v - v % 4) * h + (r % 8) * w + v % 4
//!           h = min(8, n - (r - r % 8)), w = min(4, V - (v - v % 4))
//! ```
//! so tiles at the edges are smaller and nothing is filled up. Of 10 rows of 6 vectors the first are
//!
//! ```text
//!              v  0  1  2  3    4  5
//! r = 0           0  1  2  3   32 33
//! r = 1           4  5  6  7   34 35
//! ..
//! r = 7          28 29 30 31   46 47
//! r = 8          48 49 50 51   56 57
//! r = 9          52 53 54 55   58 59
//! ```
//! What groups share stands in the order of the groups. A group is a vector in int4, two in int8, and four in int8g64 and
//! int4g128: all that a tile has of a row. So what the group of a vector shares stands at `place(r, v)` divided by the
//! vectors of a group.
//!
//! Caches have other rows than weights, written one at a time: they stay row after row, and so does every other tensor
//! that is no weight.

use super::DType;

/// Rows of a tile.
pub const ROWS: u64 = 8;
/// Bytes of integers that a tile has of a row.
const WIDTH: u64 = 64;

/// Where the groups of a matrix stand.
struct Tiles {
    rows: u64,
    /// Groups of a row.
    groups: u64,
    /// Groups that a tile has of a row.
    width: u64,
}

impl Tiles {
    fn of(dtype: DType, shape: &[u64]) -> Self {
        let (rows, k) = rows_of(shape);
        Self {
            rows,
            groups: k / dtype.group(),
            width: WIDTH / dtype.quant_bytes(),
        }
    }

    /// The number of group `group` of row `row`.
    fn place(&self, row: u64, group: u64) -> u64 {
        let (above, before) = (row - row % ROWS, group - group % self.width);
        let height = ROWS.min(self.rows - above);
        let width = self.width.min(self.groups - before);
        above * self.groups + before * height + row % ROWS * width + group % self.width
    }

    /// For every group: its number row after row, and its place.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> {
        let places = (0..self.rows)
            .flat_map(move |row| (0..self.groups).map(move |group| self.place(row, group)));
        places.map(|place| place as usize).enumerate()
    }
}

/// Rows of a tensor and the elements of each.
pub fn rows_of(shape: &[u64]) -> (u64, u64) {
    match shape.split_last() {
        Some((k, rows)) => (rows.iter().product(), *k),
        None => (1, 1),
    }
}

/// Puts what groups have, `size` bytes each, from row after row into tiles.
pub(crate) fn tile_groups(dtype: DType, shape: &[u64], bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    for (from, to) in Tiles::of(dtype, shape).moves() {
        out[to * size..][..size].copy_from_slice(&bytes[from * size..][..size]);
    }
    out
}

fn untile_groups(dtype: DType, shape: &[u64], bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    for (to, from) in Tiles::of(dtype, shape).moves() {
        out[to * size..][..size].copy_from_slice(&bytes[from * size..][..size]);
    }
    out
}

/// Applies `each` to the integers and to what groups share.
fn parts(
    dtype: DType,
    shape: &[u64],
    bytes: Vec<u8>,
    each: fn(DType, &[u64], &[u8], usize) -> Vec<u8>,
) -> Vec<u8> {
    if !dtype.is_block() {
        return bytes;
    }
    let (rows, k) = rows_of(shape);
    let (size, share) = (dtype.quant_bytes(), dtype.shared_bytes());
    let (quants, shared) = bytes.split_at((rows * k / dtype.group() * size) as usize);
    let mut out = each(dtype, shape, quants, size as usize);
    out.extend(each(dtype, shape, shared, share as usize));
    out
}

/// The bytes of a weight from those of the same tensor row after row: in tiles if it has a block format, unchanged in
/// every other type. There are [`DType::size_of`] `shape` bytes.
pub fn tiled(dtype: DType, shape: &[u64], by_rows: Vec<u8>) -> Vec<u8> {
    parts(dtype, shape, by_rows, tile_groups)
}

/// The reverse of [`tiled`].
pub fn by_rows(dtype: DType, shape: &[u64], tiled: Vec<u8>) -> Vec<u8> {
    parts(dtype, shape, tiled, untile_groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula of the module's text, in vectors.
    fn place(n: u64, vectors: u64, r: u64, v: u64) -> u64 {
        let h = 8.min(n - (r - r % 8));
        let w = 4.min(vectors - (v - v % 4));
        (r - r % 8) * vectors + (v - v % 4) * h + (r % 8) * w + v % 4
    }

    #[test]
    fn the_example_of_the_text() {
        let row = |r| -> Vec<u64> { (0..6).map(|v| place(10, 6, r, v)).collect() };
        assert_eq!(row(0), [0, 1, 2, 3, 32, 33]);
        assert_eq!(row(1), [4, 5, 6, 7, 34, 35]);
        assert_eq!(row(7), [28, 29, 30, 31, 46, 47]);
        assert_eq!(row(8), [48, 49, 50, 51, 56, 57]);
        assert_eq!(row(9), [52, 53, 54, 55, 58, 59]);
    }

    /// Every vector says where it came from: row and vector; every shared part, row and group.
    fn labelled(dtype: DType, rows: u64, k: u64) -> Vec<u8> {
        let label = |row: u64, at: u64, bytes: usize| {
            let number = (row * 1000 + at) as u16;
            number.to_le_bytes().repeat(bytes / 2)
        };
        let groups = k / dtype.group();
        let vectors = groups * dtype.quant_bytes() / 16;
        let all = |count: u64, bytes: usize| {
            (0..rows).flat_map(move |row| (0..count).flat_map(move |at| label(row, at, bytes)))
        };
        let shared = dtype.shared_bytes() as usize;
        all(vectors, 16).chain(all(groups, shared)).collect()
    }

    #[test]
    fn every_vector_and_every_scale_stands_in_its_place() {
        for dtype in DType::block_formats() {
            for (rows, groups) in [(1, 1), (3, 3), (8, 4), (10, 3), (17, 13), (24, 8), (31, 35)] {
                let k = groups * dtype.group();
                let by = labelled(dtype, rows, k);
                let tiles = tiled(dtype, &[rows, k], by.clone());
                assert_eq!(by.len() as u64, dtype.size_of(&[rows, k]).unwrap_or(0));
                let at = |at: u64, size: u64| &tiles[(at * size) as usize..][..size as usize];
                let vectors = groups * dtype.quant_bytes() / 16;
                let integers = rows * vectors;
                let share = dtype.shared_bytes();
                let first = integers * 16 / share;
                for row in 0..rows {
                    for v in 0..vectors {
                        let place = place(rows, vectors, row, v);
                        let label = (row * 1000 + v) as u16;
                        assert_eq!(at(place, 16), label.to_le_bytes().repeat(8));
                        // As shaders find it: beside the vector's place.
                        let group = place * 16 / dtype.quant_bytes();
                        let label = (row * 1000 + v * 16 / dtype.quant_bytes()) as u16;
                        let wanted = label.to_le_bytes().repeat(share as usize / 2);
                        assert_eq!(at(first + group, share), wanted);
                    }
                }
                assert_eq!(by_rows(dtype, &[rows, k], tiles), by);
            }
        }
    }

    #[test]
    fn leading_dimensions_are_rows_and_other_types_stay() {
        let by = labelled(DType::Int8, 12, 96);
        let matrix = tiled(DType::Int8, &[12, 96], by.clone());
        assert_eq!(tiled(DType::Int8, &[3, 4, 96], by.clone()), matrix);
        assert_ne!(matrix, by);
        assert_eq!(tiled(DType::F16, &[12, 51], by.clone()), by);
    }
}
