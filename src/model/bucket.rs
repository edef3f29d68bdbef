//! Which compiled shapes exist, and which inputs go into which of them.
//!
//! An entry of the plan is a bucket: it runs `batch` sequences of `seq` rows each, and what a batch does not fill
//! is computed for nothing. In: token counts. Out: batches, each with the bucket it runs in. What always holds:
//! every input is in exactly one batch, no batch has more inputs than its bucket has places, and none is longer
//! than its bucket's rows.

/// Batch sizes of the default ladder.
const BATCHES: [u32; 4] = [1, 4, 8, 32];
/// The shortest row count of the default ladder; the next ones are its doublings.
const SHORTEST: u32 = 32;
/// The most rows a bucket of the default ladder has: 32 sequences of 512.
pub const MAX_ROWS: u32 = 32 * 512;

/// A compiled shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    /// Sequences.
    pub batch: u32,
    /// Rows of each.
    pub seq: u32,
}

impl Bucket {
    /// Rows that it computes, filled or not.
    pub fn rows(self) -> u64 {
        u64::from(self.batch) * u64::from(self.seq)
    }
}

impl std::fmt::Display for Bucket {
    /// The name of its entry.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch={},seq={}", self.batch, self.seq)
    }
}

/// The buckets for texts of up to `limit` tokens, none of more than `max_rows` rows, except that one sequence
/// of any length always has a place.
pub fn ladder(limit: u32, max_rows: u32) -> Vec<Bucket> {
    let doublings = std::iter::successors(Some(SHORTEST), |seq| seq.checked_mul(2));
    let seqs = doublings.take_while(|seq| *seq < limit).chain([limit]);
    seqs.flat_map(|seq| BATCHES.map(|batch| Bucket { batch, seq }))
        .filter(|bucket| bucket.batch == 1 || bucket.rows() <= u64::from(max_rows))
        .collect()
}

/// Inputs that run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The shape they run in.
    pub bucket: Bucket,
    /// Which inputs, as indices into the lengths.
    pub inputs: Vec<usize>,
}

/// Cuts inputs of these lengths into groups so that the sum of costs is least among all cuts of the inputs sorted
/// by length. A group costs the rows of its bucket plus `per_submit` rows, which is what one more submit is worth.
/// `None` if a length fits no bucket.
///
/// Exact, by dynamic programming over the sorted inputs: `best[i]` is the least cost of the `i` shortest ones, and
/// its last group is a bucket long enough for input `i` that takes as many of those before it as it has places.
pub fn group(lengths: &[u32], buckets: &[Bucket], per_submit: u64) -> Option<Vec<Group>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|index| (lengths[*index], *index));
    let mut best: Vec<(u64, Option<Bucket>)> = vec![(0, None)];
    for (count, index) in (1..).zip(&order) {
        let fitting = buckets
            .iter()
            .filter(|bucket| bucket.seq >= lengths[*index]);
        let choice = fitting
            .map(|bucket| {
                let (before, _) = best[start(count, *bucket)];
                (
                    before
                        .saturating_add(bucket.rows())
                        .saturating_add(per_submit),
                    Some(*bucket),
                )
            })
            .min()?;
        best.push(choice);
    }
    let mut groups = vec![];
    let mut end = order.len();
    while let Some(bucket) = best[end].1 {
        let from = start(end, bucket);
        groups.push(Group {
            bucket,
            inputs: order[from..end].to_vec(),
        });
        end = from;
    }
    groups.reverse();
    Some(groups)
}

/// Where the group begins that ends with the `count`-th input.
fn start(count: usize, bucket: Bucket) -> usize {
    count.saturating_sub(bucket.batch as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn bucket(batch: u32, seq: u32) -> Bucket {
        Bucket { batch, seq }
    }

    #[test]
    fn ladder_ends_at_the_limit_and_reaches_32_by_512() {
        let seqs = |limit| {
            let mut seqs: Vec<u32> = ladder(limit, MAX_ROWS)
                .iter()
                .map(|bucket| bucket.seq)
                .collect();
            seqs.dedup();
            seqs
        };
        assert_eq!(seqs(512), [32, 64, 128, 256, 512]);
        assert_eq!(seqs(384), [32, 64, 128, 256, 384]);
        assert_eq!(seqs(20), [20]);
        assert!(ladder(512, MAX_ROWS).contains(&bucket(32, 512)));
    }

    #[test]
    fn long_texts_come_in_small_batches() {
        let long = ladder(8192, MAX_ROWS);
        assert!(long.contains(&bucket(1, 8192)) && long.contains(&bucket(8, 2048)));
        assert!(
            long.iter()
                .all(|bucket| bucket.rows() <= u64::from(MAX_ROWS))
        );
        assert!(
            ladder(8192, 1024).contains(&bucket(1, 8192)),
            "one sequence always has a place"
        );
    }

    #[test]
    fn the_smallest_bucket_that_fits_one_text() {
        let groups = group(&[65], &ladder(512, MAX_ROWS), 0).unwrap();
        assert_eq!(
            groups,
            [Group {
                bucket: bucket(1, 128),
                inputs: vec![0]
            }]
        );
    }

    #[test]
    fn costly_submits_merge_groups_and_cheap_ones_split_them() {
        let lengths = [30; 9];
        let names = |per_submit| -> Vec<Bucket> {
            group(&lengths, &ladder(512, MAX_ROWS), per_submit)
                .unwrap()
                .iter()
                .map(|group| group.bucket)
                .collect()
        };
        // 1 * 32 + 8 * 32 rows in two submits; one submit of 32 * 32 rows.
        assert_eq!(names(1), [bucket(8, 32), bucket(1, 32)]);
        assert_eq!(names(1000), [bucket(32, 32)]);
    }

    #[test]
    fn shorter_texts_fill_the_places_of_a_longer_bucket() {
        // Alone the short text costs 32 + 100 rows; in the free place of the 4 x 64 bucket it costs nothing.
        let groups = group(&[60, 10, 50, 40], &ladder(512, MAX_ROWS), 100).unwrap();
        assert_eq!(
            groups,
            [Group {
                bucket: bucket(4, 64),
                inputs: vec![1, 3, 2, 0]
            }]
        );
    }

    #[test]
    fn too_long_for_every_bucket() {
        assert_eq!(group(&[513], &ladder(512, MAX_ROWS), 0), None);
        assert_eq!(group(&[], &[], 0), Some(vec![]));
    }

    #[test]
    fn every_input_once_and_no_group_over_full() {
        arbtest::arbtest(|u| {
            let limit = u.int_in_range(1..=600)?;
            let count = u.int_in_range(0..=80usize)?;
            let lengths = (0..count)
                .map(|_| u.int_in_range(1..=limit))
                .collect::<Result<Vec<u32>, _>>()?;
            let groups = group(
                &lengths,
                &ladder(limit, MAX_ROWS),
                u.int_in_range(0..=2000)?,
            )
            .unwrap();
            let mut seen: Vec<usize> = groups
                .iter()
                .flat_map(|group| group.inputs.clone())
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
            for group in groups {
                assert!(group.inputs.len() <= group.bucket.batch as usize);
                assert!(
                    group
                        .inputs
                        .iter()
                        .all(|input| lengths[*input] <= group.bucket.seq)
                );
            }
            Ok(())
        })
        .budget_ms(200);
    }
}
