//! The items that make values: passes, weights, state and views.

use super::names::{Bound, Frame, break_outputs, suggest, twice, unique};
use super::{Problem, Unroller};
use crate::codes::graph as codes;
use crate::diag::Diagnostic;
use crate::dtype::DType;
use crate::graph::expand::eval::{self, Scope};
use crate::graph::expand::{params, recipe};
use crate::graph::flat::{Declared, FlatKind, FlatPass, FlatValue, Setting};
use crate::graph::{Origin, Recipe};
use crate::ids::ValueId;
use crate::text::ast::{Map, Name, PassItem, StateItem, TensorDecl, ViewItem, WeightItem};

impl<'a> Unroller<'a> {
    pub(super) fn pass(
        &mut self,
        item: &'a PassItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.left_out(&item.outputs, &item.otherwise, frame);
        }
        let origin = frame.origin(item.at.span);
        let mut broken = false;
        let mut reads = Vec::new();
        for (port, name) in &item.inputs {
            match self.lookup(frame, name, true)? {
                Bound::Value(value) => reads.push((port.clone(), value)),
                Bound::Absent | Bound::AbsentState => {}
                Bound::Broken => broken = true,
            }
        }
        let mut set = Vec::new();
        for (name, text) in &item.set {
            let (value, bare) = eval::word(text, &frame.env)?;
            set.push(Setting {
                name: Name {
                    value: name.value.clone(),
                    span: text.span,
                },
                value,
                bare,
            });
        }
        let mut types = Vec::new();
        for (name, dtype) in &item.types {
            types.push((name.clone(), self.dtype(dtype)?));
        }
        twice(&item.outputs)?;
        if broken {
            break_outputs(&item.outputs, frame);
            return Ok(());
        }
        let mut writes = Vec::new();
        for (port, name) in &item.outputs {
            let value = match frame.names.get(&name.value) {
                // State is updated where it is; any other name is bound anew.
                Some(Bound::Value(value)) if self.is_state(*value) => *value,
                Some(Bound::AbsentState) => continue,
                _ => {
                    let value = self.new_value(frame, name, FlatKind::Written, origin.clone());
                    self.bind(frame, name, Bound::Value(value))?;
                    value
                }
            };
            writes.push((port.clone(), value));
        }
        let last = item.name.as_ref().unwrap_or(&item.kernel);
        let path = unique(
            &mut self.pass_paths,
            format!("{}{}", frame.prefix, last.value),
        );
        self.flat.passes.push(FlatPass {
            path,
            kernel: item.kernel.clone(),
            reads,
            writes,
            set,
            types,
            origin,
        });
        Ok(())
    }

    pub(super) fn weight(
        &mut self,
        item: &'a WeightItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.bind(frame, &item.name, Bound::Absent);
        }
        let recipe = recipe::resolve(&item.from, &frame.env)?;
        let mut declared = self.sizes(&item.shape, &frame.env)?;
        declared.dtype = self.weight_dtype(&item.dtype, &declared.shape, &recipe)?;
        check_bytes(&declared, &item.shape)?;
        let key = format!("{} {:?} {recipe:?}", declared.dtype, declared.shape);
        let value = match self.weights.get(&key) {
            Some(value) => {
                self.flat.values[*value].named |= frame.taken.contains(item.name.value.as_str());
                *value
            }
            None => {
                let origin = frame.origin(item.name.span);
                let value = self.new_value(
                    frame,
                    &item.name,
                    FlatKind::Weight(declared, recipe),
                    origin,
                );
                self.weights.insert(key, value);
                value
            }
        };
        self.bind(frame, &item.name, Bound::Value(value))
    }

    /// State has one place in all entries, found by its path. A path with a number behind it depends on which blocks
    /// an entry has switched on, so such a path is refused.
    pub(super) fn state(
        &mut self,
        item: &'a StateItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.bind(frame, &item.name, Bound::AbsentState);
        }
        let declared = self.declared(&item.dtype, &item.shape, &frame.env)?;
        let path = format!("{}{}", frame.prefix, item.name.value);
        if frame.numbered || self.paths.contains_key(&path) {
            let message = format!("another value or block has the path of the state `{path}`");
            return Err(Diagnostic::error(codes::STATE_PATH, message)
                .at(item.name.span, "")
                .help("entries find their state by its path: give the state, or the `Use` around it, a `name` of its own")
                .into());
        }
        let origin = frame.origin(item.name.span);
        let value = self.new_value(frame, &item.name, FlatKind::State(declared), origin);
        self.bind(frame, &item.name, Bound::Value(value))
    }

    pub(super) fn view(
        &mut self,
        item: &'a ViewItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        let bound = match self.lookup(frame, &item.of, true)? {
            Bound::Value(of) => {
                let shape = item
                    .shape
                    .iter()
                    .map(|size| eval::size(size, &frame.env))
                    .collect::<Result<_, _>>()?;
                let offset = item
                    .offset
                    .as_ref()
                    .map_or(Ok(0), |offset| eval::count(offset, &frame.env))?;
                let origin = frame.origin(item.name.span);
                Bound::Value(self.new_value(
                    frame,
                    &item.name,
                    FlatKind::View { of, shape, offset },
                    origin,
                ))
            }
            other => other,
        };
        self.bind(frame, &item.name, bound)
    }

    /// A `Pass` or `Use` whose `when` is false: its names stand for what `otherwise` says, or stay as they were.
    pub(super) fn left_out(
        &mut self,
        outputs: &'a Map<Name>,
        otherwise: &'a Map<Name>,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        let mut bound = Vec::new();
        for (name, instead) in otherwise {
            let Some((_, output)) = outputs
                .iter()
                .find(|(_, output)| output.value == name.value)
            else {
                let message = format!(
                    "`otherwise` names `{}`, which is not under `out`",
                    name.value
                );
                let names: Vec<Name> = outputs.iter().map(|(_, name)| name.clone()).collect();
                let error = Diagnostic::error(codes::UNKNOWN_VALUE, message).at(name.span, "");
                return Err(suggest(error, &name.value, &names).into());
            };
            bound.push((output, self.lookup(frame, instead, true)?));
        }
        for (name, value) in bound {
            self.bind(frame, name, value)?;
        }
        Ok(())
    }

    pub(super) fn declare(
        &mut self,
        frame: &mut Frame<'a>,
        tensors: &Map<TensorDecl>,
        kind: impl Fn(Declared) -> FlatKind,
    ) {
        for (name, decl) in tensors {
            match self.declared(&decl.dtype, &decl.shape, &frame.env) {
                Ok(declared) => {
                    let value =
                        self.new_value(frame, name, kind(declared), frame.origin(name.span));
                    frame.names.insert(name.value.clone(), Bound::Value(value));
                }
                Err(problem) => {
                    self.report(frame, problem);
                    frame.names.insert(name.value.clone(), Bound::Broken);
                }
            }
        }
    }

    pub(super) fn carry_next(&mut self, frame: &mut Frame<'a>, next: &Name, carry: Option<Bound>) {
        let Some(Bound::Value(carry)) = carry else {
            return;
        };
        match self.lookup(frame, next, false) {
            Ok(Bound::Value(value)) => {
                if let FlatKind::Carry(_, slot) = &mut self.flat.values[carry].kind {
                    *slot = value;
                }
            }
            Ok(_) => {}
            Err(problem) => self.report(frame, problem),
        }
    }

    pub(super) fn declared(
        &self,
        dtype: &Name,
        shape: &[Name],
        env: &Scope,
    ) -> Result<Declared, Problem> {
        let mut declared = self.sizes(shape, env)?;
        declared.dtype = self.dtype(dtype)?;
        check_bytes(&declared, shape)?;
        Ok(declared)
    }

    /// A declaration whose element type is still open.
    fn sizes(&self, shape: &[Name], env: &Scope) -> Result<Declared, Problem> {
        Ok(Declared {
            dtype: DType::U8,
            shape: shape
                .iter()
                .map(|size| eval::size(size, env))
                .collect::<Result<_, _>>()?,
            text: shape.iter().map(|size| size.value.clone()).collect(),
        })
    }

    /// The element type of a weight. What the alias `weight` asks for is a wish: the checkpoint's own type may come
    /// first, rows that are no whole number of wide groups have narrow ones, and lists and rows that are no whole number of
    /// those have no block format.
    fn weight_dtype(&self, name: &Name, shape: &[u64], recipe: &Recipe) -> Result<DType, Problem> {
        let dtype = self.dtype(name)?;
        if name.value != "weight" {
            return Ok(dtype);
        }
        let native = self.native.and_then(|native| native.of(recipe));
        let wanted = native.unwrap_or(dtype);
        if !wanted.is_block() {
            return Ok(wanted);
        }
        let row = shape.last().filter(|_| shape.len() > 1);
        let grouped = row.and_then(|row| wanted.in_rows_of(*row));
        Ok(grouped.unwrap_or(DType::F16))
    }

    pub(super) fn dtype(&self, name: &Name) -> Result<DType, Problem> {
        let alias = self.flat.dtypes.get(&name.value).copied();
        alias
            .map_or_else(|| name.value.parse(), Ok)
            .map_err(|_| params::unknown_dtype(name, &self.flat.dtypes).into())
    }

    pub(super) fn new_value(
        &mut self,
        frame: &Frame<'a>,
        name: &Name,
        kind: FlatKind,
        origin: Origin,
    ) -> ValueId {
        let path = unique(&mut self.paths, format!("{}{}", frame.prefix, name.value));
        self.flat.values.push(FlatValue {
            name: path,
            kind,
            named: frame.taken.contains(name.value.as_str()),
            origin,
        })
    }

    pub(super) fn is_state(&self, value: ValueId) -> bool {
        matches!(
            self.flat.values[self.flat.root(value)].kind,
            FlatKind::State(_)
        )
    }
}

/// A tensor's bytes are counted in 64 bits, and groups of a block format lie in rows.
fn check_bytes(declared: &Declared, shape: &[Name]) -> Result<(), Problem> {
    let Declared {
        dtype,
        shape: sizes,
        ..
    } = declared;
    let uneven = sizes
        .last()
        .is_some_and(|row| !row.is_multiple_of(dtype.group()));
    if dtype.is_block()
        && uneven
        && let Some(last) = shape.last()
    {
        let message = format!(
            "{dtype} has groups of {} elements, rows of `{}` do not divide",
            dtype.group(),
            last.value
        );
        let narrow = match dtype.narrow() {
            same if same == *dtype => String::new(),
            narrow => format!("{narrow} has groups of {}; ", narrow.group()),
        };
        let help = format!(
            "{narrow}types without groups take rows of any length; of a language model's cache: `--kv f16`"
        );
        return Err(Diagnostic::error(codes::BAD_SIZE, message)
            .at(last.span, "")
            .help(help)
            .into());
    }
    match shape.first() {
        Some(first) if dtype.size_of(sizes).is_none() => {
            let factors: Vec<String> = sizes.iter().map(u64::to_string).collect();
            let message = format!(
                "a tensor of {} elements of {dtype} has more than 2^64 bytes",
                factors.join(" * ")
            );
            Err(Diagnostic::error(codes::BAD_SIZE, message)
                .at(first.span, "")
                .into())
        }
        _ => Ok(()),
    }
}
