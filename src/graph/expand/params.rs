//! The numbers of one entry: params from the model's metadata, `--set` or defaults, then dims, then assertions.

use std::collections::BTreeMap;

use super::eval::{self, Scope};
use super::{Request, requires};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::dtype::DType;
use crate::expr::Value;
use crate::text::ast::{DimDecl, GraphFile, Map, Name, ParamDecl, ParamKind, TensorDecl};

/// The most rounds of one submit: far more tokens than anyone waits for at once.
const MAX_REPEAT: u32 = 4096;

/// Every param and dim of the graph, and the texts of computed dims.
pub(super) fn environment(
    graph: &GraphFile,
    request: &Request,
) -> Result<(Scope, BTreeMap<String, String>), Diagnostics> {
    let mut problems = Diagnostics::default();
    unique(graph, &mut problems);
    unknown_settings(graph, request, &mut problems);
    let mut env = Scope::new();
    for (name, decl) in &graph.params {
        match param(name, decl, request, &env) {
            Ok(value) => {
                env.insert(name.value.clone(), value);
            }
            Err(problem) => problems.push(*problem),
        }
    }
    // Dims and assertions are over params: without those, every further message would be a consequence.
    problems.into_result()?;
    requires::check(graph, request, &env)?;
    let mut problems = Diagnostics::default();
    let entry = entry_dims(graph, request, &env)?;
    unknown_dims(graph, request, &mut problems);
    let mut arithmetic = BTreeMap::new();
    for (name, decl) in &graph.dims {
        if let DimDecl::Is(text) = decl {
            arithmetic.insert(name.value.clone(), text.value.clone());
        }
        match dim(name, decl, &entry, &env) {
            Ok(size) => {
                env.insert(name.value.clone(), Value::Int(size));
            }
            Err(problem) => {
                problems.push(*problem);
                // Later dims that need this one would only repeat the message.
                break;
            }
        }
    }
    problems.into_result()?;
    asserts(&graph.asserts, &env)?;
    Ok((env, arithmetic))
}

/// The entry's name: given, or its variable dims in file order.
pub(super) fn entry_name(graph: &GraphFile, request: &Request, env: &Scope) -> String {
    if let Some(name) = &request.entry {
        return name.clone();
    }
    let dims = graph
        .dims
        .iter()
        .filter(|(_, decl)| matches!(decl, DimDecl::Var { .. }));
    let texts =
        dims.filter_map(|(name, _)| Some(format!("{}={}", name.value, env.get(&name.value)?)));
    texts.collect::<Vec<_>>().join(",")
}

/// How often one submit runs the body.
pub(super) fn repeat(graph: &GraphFile, env: &Scope) -> Result<u32, Diagnostics> {
    let Some(text) = &graph.repeat else {
        return Ok(1);
    };
    let count = eval::count(text, env).map_err(|problem| Diagnostics::from(*problem))?;
    if let (2.., Some((name, _))) = (count, graph.carry.first()) {
        let message = format!(
            "the body runs {count} times a submit, and carry `{}` turns once a submit",
            name.value
        );
        return Err(Diagnostic::error(codes::REPEATED_CARRY, message)
            .at(name.span, "this carry")
            .at(text.span, "this repeat")
            .help("hand the value from round to round in `state`, updated in place")
            .into());
    }
    u32::try_from(count.max(1))
        .ok()
        .filter(|count| *count <= MAX_REPEAT)
        .ok_or_else(|| {
            let message =
                format!("the body would run {count} times a submit, more than {MAX_REPEAT}");
            Diagnostic::error(codes::LIMIT, message)
                .at(text.span, "")
                .into()
        })
}

/// The aliases that `--dtype` is for.
const USUAL: [&str; 2] = ["act", "weight"];

/// The aliases of the graph, replaced where the request says so.
pub(super) fn dtypes(
    graph: &GraphFile,
    request: &Request,
) -> Result<BTreeMap<String, DType>, Diagnostics> {
    let mut problems = Diagnostics::default();
    let mut aliases = BTreeMap::new();
    for (name, dtype) in &graph.dtypes {
        let usual = || {
            request
                .dtype
                .filter(|_| USUAL.contains(&name.value.as_str()))
        };
        let asked = request.dtypes.get(&name.value).copied();
        match asked.or_else(usual).map_or_else(|| dtype.value.parse(), Ok) {
            Ok(dtype) => {
                aliases.insert(name.value.clone(), dtype);
            }
            Err(_) => problems.push(unknown_dtype(dtype, &BTreeMap::new())),
        }
    }
    let missing = request.dtypes.keys().map(String::as_str);
    let missing = missing.filter(|name| !aliases.contains_key(*name));
    let has_usual = USUAL.iter().any(|name| aliases.contains_key(*name));
    let none = (request.dtype.is_some() && !has_usual).then_some("act");
    for name in missing.chain(none) {
        let message = format!("the graph has no element type alias `{name}`");
        let listed = graph
            .dtypes
            .iter()
            .map(|(name, _)| name.value.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        problems.push(
            Diagnostic::error(codes::UNKNOWN_DTYPE, message).help(format!("its aliases: {listed}")),
        );
    }
    problems.into_result()?;
    Ok(aliases)
}

/// The error for a name that is neither an element type nor an alias.
pub(super) fn unknown_dtype(name: &Name, aliases: &BTreeMap<String, DType>) -> Diagnostic {
    let message = format!("unknown element type `{}`", name.value);
    let known = DType::ALL
        .map(DType::name)
        .into_iter()
        .chain(aliases.keys().map(String::as_str));
    let error = Diagnostic::error(codes::UNKNOWN_DTYPE, message).at(name.span, "");
    match nearest(&name.value, known) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => {
            error.help("element types are f32, f16, bf16, i32, u32, i8, u8 and the graph's aliases")
        }
    }
}

/// A value of the right kind for a declaration, or what it should have been.
pub(super) fn fit(kind: &ParamKind, value: &Value) -> Result<Value, String> {
    let text = value.as_text();
    let fitted = match kind {
        ParamKind::Int => match value {
            Value::Int(int) => Some(Value::Int(*int)),
            // Metadata formats write whole numbers as floats; 2^53 is where floats stop being exact.
            Value::Float(float) if float.fract() == 0.0 && float.abs() < 9.0e15 => {
                Some(Value::Int(*float as i64))
            }
            _ => text.and_then(|text| text.parse().ok()).map(Value::Int),
        },
        ParamKind::Float => value
            .as_float()
            .or_else(|| text.and_then(|text| text.parse().ok()))
            .filter(|float| float.is_finite())
            .map(Value::Float),
        ParamKind::Bool => value
            .as_bool()
            .or_else(|| text.and_then(|text| text.parse().ok()))
            .map(Value::Bool),
        ParamKind::Text => Some(Value::Text(value.to_string())),
        ParamKind::Choice(of) => {
            let fits = text.is_some_and(|text| of.iter().any(|choice| choice.value == text));
            fits.then(|| value.clone())
        }
    };
    fitted.ok_or_else(|| match kind {
        ParamKind::Int => "an integer".into(),
        ParamKind::Float => "a number".into(),
        ParamKind::Bool => "true or false".into(),
        ParamKind::Text => "a text".into(),
        ParamKind::Choice(of) => {
            format!(
                "one of {}",
                of.iter()
                    .map(|choice| choice.value.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
    })
}

/// The value that an expression or template of a file gives a param of this kind.
pub(super) fn written(
    kind: &ParamKind,
    name: &Name,
    text: &Name,
    env: &Scope,
) -> Result<Value, Box<Diagnostic>> {
    let value = match kind {
        ParamKind::Text => Value::Text(eval::template(text, env)?),
        ParamKind::Choice(_) => eval::word(text, env)?.0,
        _ => eval::value(text, env)?,
    };
    fit(kind, &value).map_err(|wanted| {
        let message = format!("param `{}` must be {wanted}, got `{value}`", name.value);
        Box::new(
            Diagnostic::error(codes::BAD_PARAM, message)
                .at(text.span, "")
                .at(name.span, "the param"),
        )
    })
}

fn param(
    name: &Name,
    decl: &ParamDecl,
    request: &Request,
    env: &Scope,
) -> Result<Value, Box<Diagnostic>> {
    let set = request
        .set
        .get(&name.value)
        .map(|value| ("`--set`".to_string(), value));
    let keys = std::iter::once(&name.value).chain(decl.from.iter().map(|key| &key.value));
    let found = set.or_else(|| {
        keys.filter_map(|key| {
            let value = request.params.get(key)?;
            Some((requires::place(key, request), value))
        })
        .next()
    });
    if let Some((source, value)) = found {
        return fit(&decl.kind, value).map_err(|wanted| {
            let message = format!(
                "param `{}` must be {wanted}, got `{value}` from {source}",
                name.value
            );
            Box::new(Diagnostic::error(codes::BAD_PARAM, message).at(name.span, "declared here"))
        });
    }
    if let Some(default) = &decl.default {
        return written(&decl.kind, name, default, env);
    }
    let message = format!("param `{}` has no value", name.value);
    let error = Diagnostic::error(codes::MISSING_PARAM, message).at(name.span, "");
    let error = match decl.from.as_slice() {
        [] => error,
        keys => {
            let keys: Vec<&str> = keys.iter().map(|key| key.value.as_str()).collect();
            error.note(format!(
                "the model's metadata has none of: {}",
                keys.join(", ")
            ))
        }
    };
    Err(error
        .help(format!(
            "name a model with `--model DIR`, or give it: `--set {}=..`",
            name.value
        ))
        .into())
}

fn dim(
    name: &Name,
    decl: &DimDecl,
    entry: &BTreeMap<String, i64>,
    env: &Scope,
) -> Result<i64, Box<Diagnostic>> {
    let (max, min) = match decl {
        DimDecl::Is(text) => {
            let size = eval::size(text, env)?;
            return i64::try_from(size).map_err(|_| {
                let message = format!("dim `{}` = {size} is too large", name.value);
                Diagnostic::error(codes::BAD_SIZE, message)
                    .at(text.span, "")
                    .into()
            });
        }
        DimDecl::Var { max, min } => (max, min),
    };
    let bound = eval::size(max, env)?;
    let least = min
        .as_ref()
        .map_or(Ok(1), |least| eval::count(least, env))?;
    let Some(size) = entry.get(&name.value) else {
        let message = format!("the entry gives no value for dim `{}`", name.value);
        return Err(Diagnostic::error(codes::BAD_ENTRY, message)
            .at(name.span, "declared here")
            .help(format!(
                "add it to the entry: `--entry {}=N`, N from {least} to {bound}",
                name.value
            ))
            .into());
    };
    if u64::try_from(*size).map_or(true, |size| size < least || size > bound) {
        let message = format!(
            "dim `{}` is {size}, outside its bound {least} to {bound}",
            name.value
        );
        let error = Diagnostic::error(codes::OUT_OF_BOUND, message).at(max.span, "the bound");
        return Err(eval::with_numbers(error, &eval::parse(max)?, env).into());
    }
    Ok(*size)
}

/// The dims of the entry: those of the file's named entry, replaced by the request's own.
fn entry_dims(
    graph: &GraphFile,
    request: &Request,
    env: &Scope,
) -> Result<BTreeMap<String, i64>, Diagnostics> {
    let mut dims = BTreeMap::new();
    if let Some(wanted) = &request.entry {
        let Some((_, entry)) = graph.entries.iter().find(|(name, _)| name.value == *wanted) else {
            let message = format!("the graph has no entry `{wanted}`");
            let names = graph.entries.iter().map(|(name, _)| name.value.as_str());
            let error = Diagnostic::error(codes::BAD_ENTRY, message).at(graph.name.span, "");
            let listed: Vec<&str> = names.collect();
            return Err(error
                .help(format!("its named entries: {}", listed.join(", ")))
                .into());
        };
        for (name, text) in entry {
            let known = graph
                .dims
                .iter()
                .any(|(dim, decl)| dim.value == name.value && matches!(decl, DimDecl::Var { .. }));
            if !known {
                let message = format!(
                    "entry `{wanted}` names `{}`, which is no variable dim",
                    name.value
                );
                return Err(Diagnostic::error(codes::BAD_ENTRY, message)
                    .at(name.span, "")
                    .into());
            }
            let size = eval::count(text, env).map_err(|problem| Diagnostics::from(*problem))?;
            dims.insert(name.value.clone(), i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
    dims.extend(
        request
            .dims
            .iter()
            .map(|(name, size)| (name.clone(), *size)),
    );
    Ok(dims)
}

fn unknown_dims(graph: &GraphFile, request: &Request, problems: &mut Diagnostics) {
    let variable = |decl: &DimDecl| matches!(decl, DimDecl::Var { .. });
    let known: Vec<&str> = graph
        .dims
        .iter()
        .filter(|(_, decl)| variable(decl))
        .map(|(name, _)| name.value.as_str())
        .collect();
    for name in request
        .dims
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
    {
        let computed = graph.dims.iter().find(|(dim, _)| dim.value == *name);
        let error = match computed {
            Some((dim, _)) => {
                let message = format!("the entry sets dim `{name}`, which the graph computes");
                Diagnostic::error(codes::BAD_ENTRY, message).at(dim.span, "computed here")
            }
            None => Diagnostic::error(
                codes::BAD_ENTRY,
                format!("the entry names unknown dim `{name}`"),
            ),
        };
        problems.push(match nearest(name, known.iter().copied()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("the graph's variable dims: {}", known.join(", "))),
        });
    }
}

fn unknown_settings(graph: &GraphFile, request: &Request, problems: &mut Diagnostics) {
    let known = || graph.params.iter().map(|(name, _)| name.value.as_str());
    for name in request
        .set
        .keys()
        .filter(|name| !known().any(|known| known == name.as_str()))
    {
        let error = Diagnostic::error(
            codes::UNKNOWN_PARAM,
            format!("`--set` names unknown param `{name}`"),
        )
        .at(graph.name.span, "of this graph");
        problems.push(match nearest(name, known()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!(
                "its params: {}",
                known().collect::<Vec<_>>().join(", ")
            )),
        });
    }
}

/// Params and dims share one space of names; so do inputs, state and carries.
fn unique(graph: &GraphFile, problems: &mut Diagnostics) {
    fn names<T>(map: &Map<T>) -> impl Iterator<Item = &Name> {
        map.iter().map(|(name, _)| name)
    }
    let numbers: Vec<&Name> = names(&graph.params).chain(names(&graph.dims)).collect();
    let values: Vec<&Name> = names(&graph.inputs)
        .chain(names(&graph.state))
        .chain(names(&graph.carry))
        .collect();
    for list in [numbers, values] {
        let mut seen: BTreeMap<&str, &Name> = BTreeMap::new();
        for name in list {
            if let Some(first) = seen.insert(&name.value, name) {
                let message = format!("`{}` is declared twice", name.value);
                let error = Diagnostic::error(codes::TWO_WRITERS, message);
                problems.push(error.at(name.span, "here").at(first.span, "and here"));
            }
        }
    }
}

fn asserts(conditions: &[Name], env: &Scope) -> Result<(), Diagnostics> {
    let mut problems = Diagnostics::default();
    for condition in conditions {
        match eval::holds(Some(condition), env) {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("`{}` does not hold", condition.value);
                let error =
                    Diagnostic::error(codes::ASSERT, message).at(condition.span, "asserted here");
                match eval::parse(condition) {
                    Ok(expr) => problems.push(eval::with_numbers(error, &expr, env)),
                    Err(problem) => problems.push(*problem),
                }
            }
            Err(problem) => problems.push(*problem),
        }
    }
    problems.into_result()?;
    Ok(())
}

/// The name of the state that guards a round.
pub(super) fn guard(graph: &GraphFile) -> Result<Option<String>, Diagnostics> {
    let Some(name) = &graph.guard else {
        return Ok(None);
    };
    let fits = |decl: &TensorDecl| decl.dtype.value == "u32";
    let state = graph
        .state
        .iter()
        .find(|(state, _)| state.value == name.value);
    match state {
        Some((_, decl)) if fits(decl) => Ok(Some(name.value.clone())),
        Some((state, decl)) => Err(Diagnostic::error(
            codes::GUARD,
            format!(
                "the guard `{}` is of `{}`; what decides whether passes run is a u32",
                name.value, decl.dtype.value
            ),
        )
        .at(name.span, "this guard")
        .at(state.span, "declared here")
        .into()),
        None => Err(Diagnostic::error(
            codes::GUARD,
            format!("the guard `{}` is no state of this graph", name.value),
        )
        .at(name.span, "")
        .help("declare it under `state`, as a tensor of u32 that a pass writes in every round")
        .into()),
    }
}
