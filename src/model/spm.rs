//! SentencePiece as llama.cpp runs it: characters, then again and again the neighbours whose joined text is the
//! token with the best score, leftmost first among equals.
//!
//! In: text with `▁` for spaces. Out: ids. What always holds: every byte of the text is in exactly one token; a
//! character that is no token becomes byte tokens, or the unknown token where the vocabulary has no bytes.
//!
//! The candidates wait in a heap, so a text of n characters takes O(n log n) steps whatever it says. A candidate
//! is checked when it is taken: it is stale if one of its two neighbours has grown or is gone since.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::token_table::TokenTable;

/// The space of SentencePiece.
pub const SPACE: char = '\u{2581}';

/// A piece of the text and its neighbours; an empty one has been swallowed by the piece to its left.
struct Piece {
    text: Range<usize>,
    left: Option<usize>,
    right: Option<usize>,
}

/// Two neighbours that could merge.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both; if they have another number by now, the candidate is stale.
    bytes: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first: the best score, then the leftmost.
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Appends the ids of `text`, which has [`SPACE`] for spaces.
pub fn encode(vocabulary: &TokenTable, text: &str, ids: &mut Vec<u32>) {
    let mut pieces = characters(text);
    let mut heap = BinaryHeap::new();
    for left in 0..pieces.len().saturating_sub(1) {
        heap.extend(candidate(vocabulary, text, &pieces, left, left + 1));
    }
    while let Some(best) = heap.pop() {
        let (left, right) = (best.left, best.right);
        let fresh = !pieces[left].text.is_empty()
            && !pieces[right].text.is_empty()
            && pieces[left].text.len() + pieces[right].text.len() == best.bytes;
        if !fresh {
            continue;
        }
        pieces[left].text.end = pieces[right].text.end;
        pieces[right].text = 0..0;
        pieces[left].right = pieces[right].right;
        if let Some(next) = pieces[left].right {
            pieces[next].left = Some(left);
            heap.extend(candidate(vocabulary, text, &pieces, left, next));
        }
        if let Some(before) = pieces[left].left {
            heap.extend(candidate(vocabulary, text, &pieces, before, left));
        }
    }
    for piece in pieces.iter().filter(|piece| !piece.text.is_empty()) {
        push(vocabulary, &text[piece.text.clone()], ids);
    }
}

fn characters(text: &str) -> Vec<Piece> {
    let count = text.chars().count();
    text.char_indices()
        .enumerate()
        .map(|(number, (start, character))| Piece {
            text: start..start + character.len_utf8(),
            left: number.checked_sub(1),
            right: (number + 1 < count).then_some(number + 1),
        })
        .collect()
}

fn candidate(
    vocabulary: &TokenTable,
    text: &str,
    pieces: &[Piece],
    left: usize,
    right: usize,
) -> Option<Candidate> {
    let joined = pieces[left].text.start..pieces[right].text.end;
    let id = vocabulary.id(&text[joined.clone()])?;
    Some(Candidate {
        score: vocabulary.score(id),
        left,
        right,
        bytes: joined.len(),
    })
}

fn push(vocabulary: &TokenTable, piece: &str, ids: &mut Vec<u32>) {
    if let Some(id) = vocabulary.id(piece) {
        ids.push(id);
        return;
    }
    for byte in piece.bytes() {
        ids.extend(
            vocabulary
                .id(&format!("<0x{byte:02X}>"))
                .or(vocabulary.unknown),
        );
    }
}
