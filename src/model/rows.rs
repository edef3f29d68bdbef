//! Sequences as the rows of a padded batch: what the host writes before a forward.
//!
//! Sequence b owns the rows `b * seq ..`. `spans[b]` is its first row and its length; kernels that look across rows
//! look within spans only, so what stands in the other rows never reaches a result. It is still valid: every row
//! has an id of the table and a position, and a place of the batch that no sequence fills has a span of one row.
//! Positions depend on the bucket alone, so a caller may write them once for many batches.

use super::bucket::Bucket;

/// Writes `ids`, `positions` (one for each row) and `spans` (two numbers for each sequence), each element once and
/// in order, because they may lie in device memory. The slices have the bucket's sizes; shorter ones are filled
/// as far as they go.
pub fn lay_out(
    bucket: Bucket,
    sequences: &[&[u32]],
    ids: &mut [u32],
    positions: &mut [u32],
    spans: &mut [u32],
) {
    let seq = bucket.seq as usize;
    let sequence = |b: usize| sequences.get(b).copied().unwrap_or(&[]);
    for (b, rows) in ids.chunks_mut(seq.max(1)).enumerate() {
        let tokens = sequence(b).iter().copied().chain(std::iter::repeat(0));
        rows.iter_mut().zip(tokens).for_each(|(row, id)| *row = id);
    }
    for rows in positions.chunks_mut(seq.max(1)) {
        rows.iter_mut()
            .zip(0..)
            .for_each(|(row, position)| *row = position);
    }
    for (b, span) in (0..).zip(spans.chunks_exact_mut(2)) {
        let length = sequence(b as usize).len().clamp(1, seq.max(1)) as u32;
        span.copy_from_slice(&[b * bucket.seq, length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_beyond_a_sequence_are_valid_and_outside_its_span() {
        let bucket = Bucket { batch: 3, seq: 4 };
        let (mut ids, mut positions, mut spans) = ([9; 12], [9; 12], [9; 6]);
        lay_out(
            bucket,
            &[&[101, 7, 102], &[101, 5, 6, 102]],
            &mut ids,
            &mut positions,
            &mut spans,
        );
        assert_eq!(ids, [101, 7, 102, 0, 101, 5, 6, 102, 0, 0, 0, 0]);
        assert_eq!(positions, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(spans, [0, 3, 4, 4, 8, 1]);
    }
}
