//! What the graph says about keys of the model's metadata: with another value the model is not the one that it
//! computes.

use std::borrow::Cow;

use super::Request;
use super::eval::{self, Scope};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::expr::Value;
use crate::graph::pattern;
use crate::text::ast::{GraphFile, KeyRule, Name};

/// Looks at every key of the metadata that the graph has a rule for.
pub(super) fn check(graph: &GraphFile, request: &Request, env: &Scope) -> Result<(), Diagnostics> {
    let mut problems = Diagnostics::default();
    for rule in &graph.requires {
        if let Err(problem) = look(graph, rule, request, env, &mut problems) {
            problems.push(*problem);
        }
    }
    problems.into_result()?;
    Ok(())
}

/// Looks at the keys that one rule is about. Also where none is there, its expressions are.
fn look(
    graph: &GraphFile,
    rule: &KeyRule,
    request: &Request,
    env: &Scope,
    problems: &mut Diagnostics,
) -> Result<(), Box<Diagnostic>> {
    let mut env = Cow::Borrowed(env);
    let mut allowed = computed(rule, &mut env, 0)?;
    for name in &rule.names {
        if let Some(index) = &rule.index
            && name.value.matches('*').count() != 1
        {
            let message = format!(
                "`{}` stands for the number at a `*`, of which `{}` needs one",
                index.value, name.value
            );
            let problem = Diagnostic::error(codes::BAD_TEMPLATE, message);
            return Err(problem.at(name.span, "").into());
        }
        let there = request.params.iter();
        for (key, value) in there.filter(|(key, _)| pattern::matches(&name.value, key)) {
            if rule.index.is_some() {
                let Some(number) = pattern::number(&name.value, key) else {
                    continue;
                };
                allowed = computed(rule, &mut env, number)?;
            }
            if !allowed.iter().any(|allowed| same(allowed, value)) {
                let found = (key.as_str(), value);
                problems.push(refused(graph, (rule, name), found, &allowed, request));
            }
        }
    }
    Ok(())
}

/// The values that a rule allows, those of place `number` of a list.
fn computed(
    rule: &KeyRule,
    env: &mut Cow<'_, Scope>,
    number: i64,
) -> Result<Vec<Value>, Box<Diagnostic>> {
    if let Some(index) = &rule.index {
        let scope = env.to_mut();
        scope.insert(index.value.clone(), Value::Int(number));
    }
    let values = rule.is.iter();
    values
        .map(|text| eval::word(text, env).map(|(value, _)| value))
        .collect()
}

/// Whole numbers are the same as integers and as floats.
fn same(allowed: &Value, value: &Value) -> bool {
    match (allowed.as_float(), value.as_float()) {
        (Some(allowed), Some(value)) => allowed == value,
        _ => allowed == value,
    }
}

fn refused(
    graph: &GraphFile,
    (rule, name): (&KeyRule, &Name),
    (key, value): (&str, &Value),
    allowed: &[Value],
    request: &Request,
) -> Diagnostic {
    let mut words: Vec<String> = Vec::new();
    for word in allowed.iter().map(Value::to_string) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let runs = match words.as_slice() {
        [] => "without it".to_string(),
        [one] => format!("where it is {one}"),
        [most @ .., last] => format!("where it is {} or {last}", most.join(", ")),
    };
    let message = format!(
        "{} is {value}, but the graph `{}` runs models {runs}",
        place(key, request),
        graph.name.value
    );
    Diagnostic::error(codes::OTHER_MODEL, message)
        .at(name.span, rule.why.value.as_str())
        .help("run it with a graph that computes this: name the file with `--graph`, or write one (graphs/README.md)")
}

/// A key with the file that has it. Keys of a GGUF file's architecture are known without its name, too.
pub(super) fn place(key: &str, request: &Request) -> String {
    let architecture = request.params.get("model_type").and_then(Value::as_text);
    let whole = architecture.map(|architecture| format!("{architecture}.{key}"));
    let whole = whole.filter(|whole| request.params.contains_key(whole));
    let key = whole.as_deref().unwrap_or(key);
    match &request.file {
        Some(file) => format!("key `{key}` of {file}"),
        None => format!("key `{key}` of the model"),
    }
}
