//! Codes of fusion rules (G03xx).

use super::Explained;
use crate::diag::Code;

/// A rule names a kernel, port or option that does not exist.
pub const RULE_NAMES: Code = Code("G0301");
/// The passes of a pattern do not hang together, or a variable is used before it is bound.
pub const RULE_PATTERN: Code = Code("G0302");
/// A rule would lose something that a matched pass does.
pub const RULE_LOSES: Code = Code("G0303");
/// The pass that a rule makes does not fit its kernel or the values around it.
pub const RULE_ILL_TYPED: Code = Code("G0304");
/// Rules that undo each other.
pub const RULES_ENDLESS: Code = Code("G0305");
/// A rule that is switched off but does not exist.
pub const UNKNOWN_RULE: Code = Code("G0306");
/// An expression of a rule without a value.
pub const RULE_EXPRESSION: Code = Code("G0307");

pub(super) const CODES: &[Explained] = &[
    Explained {
        code: RULE_NAMES,
        title: "a fusion rule names something that does not exist",
        text: "The rule's `match` or `into` names a kernel without a manifest, or a port or option that the kernel \
does not have on that side.",
    },
    Explained {
        code: RULE_PATTERN,
        title: "a fusion rule's pattern does not hold together",
        text: "The passes under `match` are connected through pattern variables: each pass after the first shares a \
variable with one before it. `into` may use only variables that the pattern binds, may write only variables that \
the pattern writes, and its `from` is the index of a matched pass.",
    },
    Explained {
        code: RULE_LOSES,
        title: "a fusion rule loses something",
        text: "Every matched pass except the one under `from` disappears, so each of its options must be fixed by the \
pattern's `set`, or used in `into`'s `set` or in `when`. Otherwise the rule would silently drop an epsilon or a \
kind. (Ports need no such care: a pass that binds a port which the pattern does not name never matches.) A result \
that other passes read, that has views or leaves the graph is never swallowed: the rule just does not apply there.",
    },
    Explained {
        code: RULE_ILL_TYPED,
        title: "a fusion rule makes a pass that does not fit",
        text: "The pattern matched, but the pass under `into` does not fit its kernel with these values, or writes \
another type or shape than the pass whose result it takes over. Add a condition under `when`, or name the ports \
that must be `absent`.",
    },
    Explained {
        code: RULES_ENDLESS,
        title: "fusion rules do not come to an end",
        text: "Rules are applied until none matches. Two rules that turn a pass into each other's pattern never \
stop. A rule should leave fewer passes, or bind a port that its pattern lists as `absent`.",
    },
    Explained {
        code: UNKNOWN_RULE,
        title: "unknown fusion rule",
        text: "`disable` in the graph, or `--no-fusion` on the command line, names a rule that none of the included \
files defines.",
    },
    Explained {
        code: RULE_EXPRESSION,
        title: "an expression of a fusion rule has no value",
        text: "Expressions under `set` and `when` see the options and dims of the matched passes as `p0.eps`, `p1.n` \
(p0 is the first pass of the pattern) and the graph's params and dims.",
    },
];
