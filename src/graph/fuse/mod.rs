//! Stage 5: applies the rules of the fusion files until none matches. A rule replaces a pattern of passes by one pass;
//! rules are tried in file order, places in pass order, so the result is the same on every run.
//!
//! One legality check serves all rules. A value that disappears is read by matched passes only, has no view and does
//! not leave the graph. The replacement stands where the last matched pass stood; readers of its other results that
//! stood before it move behind it if they can. No access to state moves over another one that it conflicts with.
//! Where that does not hold the rule does not apply. A rule that applies and makes a pass which does not fit is
//! wrong, and an error that names the rule.

mod apply;
mod rule;
mod search;

use std::collections::BTreeSet;

use super::stages::{Checked, Fired, Fused};
use crate::codes::fuse as codes;
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::kernel::Library;
use crate::text::ast::{Fuse, Name};

/// Which rules to leave out.
#[derive(Clone, Debug, Default)]
pub struct FuseOptions {
    /// Rules that are switched off by name, on the command line.
    pub off: BTreeSet<String>,
    /// Rules that the graph switches off (`disable`).
    pub disabled: Vec<Name>,
    /// Apply no rule at all.
    pub none: bool,
}

/// Applies `rules` to `checked`.
pub fn fuse(
    checked: Checked,
    rules: &[Fuse],
    library: &Library,
    options: &FuseOptions,
) -> Result<Fused, Diagnostics> {
    let mut problems = Diagnostics::default();
    unknown_names(rules, options, &mut problems);
    let mut active = Vec::new();
    for fuse in rules {
        // A rule that is off is still checked: switching it on must not be the way to find its mistakes.
        match rule::read(fuse, library) {
            Ok(rule) => {
                let name = &fuse.name.value;
                let off = options.off.contains(name)
                    || options
                        .disabled
                        .iter()
                        .any(|disabled| disabled.value == *name);
                if !off && !options.none {
                    active.push(rule);
                }
            }
            Err(found) => problems.extend(found),
        }
    }
    problems.into_result()?;
    let Checked {
        graph,
        dtypes,
        warnings,
    } = checked;
    let limit = graph.passes.len().saturating_mul(4).saturating_add(16);
    let mut rewriter = apply::Rewriter::new(graph, dtypes, library);
    let mut fired: Vec<Fired> = Vec::new();
    // After a rule has fired the rules before it get another chance, so the result is a fixpoint of all of them.
    let mut at = 0;
    while let Some(rule) = active.get(at) {
        let new = rewriter.exhaust(rule, limit.saturating_sub(fired.len()))?;
        at = if new.is_empty() { at + 1 } else { 0 };
        fired.extend(new);
        if fired.len() >= limit {
            let message = format!(
                "fusion rules fired {limit} times and did not come to an end; the last was `{}`",
                rule.name
            );
            return Err(Diagnostic::error(codes::RULES_ENDLESS, message)
                .at(rule.span, "")
                .help("two rules undo each other, or one makes what it matches: switch one off under `disable`")
                .into());
        }
    }
    Ok(Fused {
        graph: rewriter.finish(),
        fired,
        warnings,
    })
}

fn unknown_names(rules: &[Fuse], options: &FuseOptions, problems: &mut Diagnostics) {
    let known = || rules.iter().map(|rule| rule.name.value.as_str());
    let off = options.off.iter().map(|name| (name.as_str(), None));
    let disabled = options
        .disabled
        .iter()
        .map(|name| (name.value.as_str(), Some(name.span)));
    for (name, span) in off
        .chain(disabled)
        .filter(|(name, _)| !known().any(|known| known == *name))
    {
        let mut error =
            Diagnostic::error(codes::UNKNOWN_RULE, format!("unknown fusion rule `{name}`"));
        if let Some(span) = span {
            error = error.at(span, "switched off here");
        }
        problems.push(match nearest(name, known()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!(
                "the graph's rules: {}",
                known().collect::<Vec<_>>().join(", ")
            )),
        });
    }
}
