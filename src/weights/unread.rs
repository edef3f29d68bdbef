//! Tensors of a checkpoint that no weight of the graph is made of. Each is a part of the model that would be left out
//! without a word.

use std::collections::BTreeMap;

use super::checkpoint::Checkpoint;
use crate::diag::{Code, Diagnostic};
use crate::graph::Tensors;

/// The names that a warning lists.
const LISTED: usize = 3;

impl Checkpoint {
    /// What is said about the tensors that nobody reads: an error if they are layers beyond the graph's last one, a
    /// warning else. The graph says which it leaves out on purpose; tensors that were made and not read are no part of
    /// the file.
    pub fn unread(&self, wanted: &Tensors) -> Option<Diagnostic> {
        let made: Vec<&str> = self.made().map(|(name, _)| name).collect();
        let unread = |name: &&str| {
            !wanted.names.contains(*name) && !wanted.ignores(name) && !made.contains(name)
        };
        let unread: Vec<&str> = self.names().filter(unread).collect();
        let path = self.path().display();
        let graph = &wanted.graph;
        if !wanted.counted_by_hand
            && let Some((name, last, count)) = beyond(&unread, wanted)
        {
            let message = format!(
                "`{name}` of {path} is of a layer that the graph `{graph}` does not have: the last one that it reads is `{last}`"
            );
            let error = Diagnostic::error(Code("G0613"), message).note(format!(
                "{count} tensors are of such layers; without them the model is another one"
            ));
            return Some(match &wanted.count {
                Some(text) => error.help(format!(
                    "correct the number of layers in the model's configuration; if fewer are meant, give it by hand: `--set {text}=N`"
                )),
                None => error,
            });
        }
        let listed: Vec<String> = unread
            .iter()
            .take(LISTED)
            .map(|name| format!("`{name}`"))
            .collect();
        let more = match unread.len().checked_sub(LISTED) {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        let (count, all) = (unread.len(), self.names().count() - made.len());
        (count > 0).then(|| {
            let message = format!(
                "no weight of the graph `{graph}` reads {count} of the {all} tensors of {path}: {}{more}",
                listed.join(", ")
            );
            Diagnostic::warning(Code("G0612"), message).help(
                "if the model is right without them, list them under `ignores` in the graph; else it needs another graph",
            )
        })
    }
}

/// The first tensor whose name is that of one which is read, but for a higher number; the last one which is read and
/// how many there are.
fn beyond(unread: &[&str], wanted: &Tensors) -> Option<(String, String, usize)> {
    let mut last: BTreeMap<String, (u64, &str)> = BTreeMap::new();
    for name in &wanted.names {
        for (key, number) in numbered(name) {
            let known = last.entry(key).or_insert((number, name));
            if number >= known.0 {
                *known = (number, name);
            }
        }
    }
    let found = unread.iter().filter_map(|name| {
        numbered(name).find_map(|(key, number)| {
            let (most, known) = last.get(&key)?;
            (number > *most).then_some((number, *name, *known))
        })
    });
    let found: Vec<(u64, &str, &str)> = found.collect();
    let (_, name, known) = found.iter().min()?;
    Some(((*name).to_string(), (*known).to_string(), found.len()))
}

/// Every number between the dots of a name, with the name around it.
fn numbered(name: &str) -> impl Iterator<Item = (String, u64)> {
    let parts: Vec<&str> = name.split('.').collect();
    (0..parts.len()).filter_map(move |at| {
        let number = parts[at].parse().ok()?;
        let around = [&parts[..at], &["#"], &parts[at + 1..]].concat();
        Some((around.join("."), number))
    })
}
