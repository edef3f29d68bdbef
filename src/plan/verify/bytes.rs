//! Byte ranges of arenas with a note on each: who wrote them, who last read them. Every operation costs the logarithm
//! of the number of ranges, plus the ranges it removes, each of which was added once.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ids::ArenaId;

/// Disjoint ranges, each with a note.
#[derive(Clone, Debug)]
pub(super) struct Bytes<T> {
    arenas: BTreeMap<ArenaId, BTreeMap<u64, (u64, T)>>,
}

impl<T> Default for Bytes<T> {
    fn default() -> Self {
        Self {
            arenas: BTreeMap::new(),
        }
    }
}

impl<T: Copy> Bytes<T> {
    /// Notes `note` on `range`; older notes on it are forgotten.
    pub(super) fn set(&mut self, arena: ArenaId, range: &Range<u64>, note: T) {
        let map = self.arenas.entry(arena).or_default();
        split(map, range.start);
        split(map, range.end);
        let covered: Vec<u64> = map.range(range.clone()).map(|(start, _)| *start).collect();
        for start in covered {
            map.remove(&start);
        }
        map.insert(range.start, (range.end, note));
    }

    /// The noted pieces of `range`, in order, clipped to it.
    pub(super) fn pieces(
        &self,
        arena: ArenaId,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, T)> {
        let map = self.arenas.get(&arena);
        let range = range.clone();
        let before = map.and_then(|map| map.range(..range.start).next_back());
        let within = map.into_iter().flat_map({
            let range = range.clone();
            move |map| map.range(range.clone())
        });
        before
            .into_iter()
            .chain(within)
            .filter_map(move |(start, (end, note))| {
                let piece = *(start.max(&range.start))..*(end.min(&range.end));
                (piece.start < piece.end).then_some((piece, *note))
            })
    }

    /// Whether every byte of `range` has a note.
    pub(super) fn covers(&self, arena: ArenaId, range: &Range<u64>) -> bool {
        let end = self
            .pieces(arena, range)
            .fold(range.start, |end, (piece, _)| {
                if piece.start == end { piece.end } else { end }
            });
        end == range.end
    }

    /// Every range with its note.
    pub(super) fn all(&self) -> impl Iterator<Item = (ArenaId, Range<u64>, T)> {
        self.arenas.iter().flat_map(|(arena, map)| {
            map.iter()
                .map(|(start, (end, note))| (*arena, *start..*end, *note))
        })
    }

    /// Adds all that `other` has, over what is here, and leaves that empty.
    pub(super) fn take(&mut self, other: &mut Self) {
        for (arena, range, note) in std::mem::take(other).all() {
            self.set(arena, &range, note);
        }
    }

    /// Forgets everything in an arena.
    pub(super) fn forget(&mut self, arena: ArenaId) {
        self.arenas.remove(&arena);
    }
}

/// Makes `at` a boundary: the range that contains it becomes two.
fn split<T: Copy>(map: &mut BTreeMap<u64, (u64, T)>, at: u64) {
    let around = map
        .range_mut(..at)
        .next_back()
        .filter(|(_, (end, _))| *end > at);
    if let Some((_, (end, note))) = around {
        let right = (*end, *note);
        *end = at;
        map.insert(at, right);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ARENA: ArenaId = ArenaId(0);

    #[test]
    fn a_new_note_splits_the_old_one() {
        let mut bytes = Bytes::default();
        bytes.set(ARENA, &(0..100), 'a');
        bytes.set(ARENA, &(40..60), 'b');
        let pieces: Vec<_> = bytes.pieces(ARENA, &(30..80)).collect();
        assert_eq!(pieces, [(30..40, 'a'), (40..60, 'b'), (60..80, 'a')]);
        assert!(bytes.covers(ARENA, &(0..100)));
        assert!(!bytes.covers(ARENA, &(0..101)));
    }

    #[test]
    fn agrees_with_an_array_of_bytes() {
        arbtest::arbtest(|u| {
            let mut array = [None; 32];
            let mut bytes = Bytes::default();
            for note in 0..u.int_in_range(0..=12)? {
                let start = u.int_in_range(0..=31u64)?;
                let end = u.int_in_range(start + 1..=32)?;
                bytes.set(ARENA, &(start..end), note);
                array[start as usize..end as usize].fill(Some(note));
            }
            for at in 0..32u64 {
                let found = bytes
                    .pieces(ARENA, &(at..at + 1))
                    .next()
                    .map(|(_, note)| note);
                assert_eq!(found, array[at as usize]);
            }
            assert_eq!(
                bytes.covers(ARENA, &(0..32)),
                array.iter().all(Option::is_some)
            );
            Ok(())
        })
        .budget_ms(300);
    }
}
