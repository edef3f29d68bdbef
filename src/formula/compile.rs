//! Definitions bound to ports, dims and options: every name becomes a number, a slot or a table with strides, and
//! every `if` that options decide keeps only its taken branch. Definitions are compiled from the last to the first,
//! and only those that an output needs.

use std::collections::{BTreeMap, BTreeSet};

use super::eval::{Bool, Dot, Element, Int, IntOp, Num, Program, RealOp, Step, Strided, Table};
use super::math::Function;
use super::parse::{Definition, Kind, Node, Op, Range, Reduction};
use super::{FormulaError, MAX_ELEMENTS, TensorView, decode};
use crate::expr::Value;
use crate::kernel::Access;

/// Binds `definitions`; see the module doc.
pub(super) fn compile(
    definitions: &[Definition],
    ports: &BTreeMap<String, TensorView<'_>>,
    dims: &BTreeMap<String, i64>,
    options: &BTreeMap<String, Value>,
) -> Result<Program, FormulaError> {
    let mut shared = Shared {
        definitions,
        ports,
        dims,
        options,
        needed: BTreeSet::new(),
        read: BTreeSet::new(),
    };
    for (name, port) in ports {
        let defined = definitions.iter().position(|one| one.name == *name);
        match (port.access, defined) {
            (Access::Write | Access::ReadWrite, Some(index)) => {
                shared.needed.insert(index);
            }
            (Access::Read, Some(index)) => {
                let one = &definitions[index];
                let at = (0, one.name.len() as u32);
                let message = format!("`{name}` is a port that the kernel only reads");
                return Err(FormulaError::new(index, &one.text, at, message));
            }
            (_, None) => {}
        }
    }
    let mut steps = Vec::new();
    for (index, definition) in definitions.iter().enumerate().rev() {
        if shared.needed.contains(&index) {
            steps.push(step(&mut shared, index, definition)?);
        }
    }
    steps.reverse();
    let mut tables = vec![Table::default(); definitions.len()];
    for (name, port) in ports {
        let values = match shared.read.contains(name.as_str()) {
            true => decode(port.dtype, port.bytes).unwrap_or_default(),
            false => Vec::new(),
        };
        tables.push(Table {
            name: name.clone(),
            values,
        });
    }
    for (table, definition) in tables.iter_mut().zip(definitions) {
        table.name.clone_from(&definition.name);
    }
    Ok(Program { tables, steps })
}

struct Shared<'a> {
    definitions: &'a [Definition],
    ports: &'a BTreeMap<String, TensorView<'a>>,
    dims: &'a BTreeMap<String, i64>,
    options: &'a BTreeMap<String, Value>,
    needed: BTreeSet<usize>,
    /// Ports whose contents some needed definition reads.
    read: BTreeSet<&'a str>,
}

fn step(
    shared: &mut Shared<'_>,
    index: usize,
    definition: &Definition,
) -> Result<Step, FormulaError> {
    let sizes = sizes(shared, index)?;
    let mut scope = Scope {
        shared,
        index,
        indices: definition
            .bounds
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
        slots: definition.bounds.len(),
    };
    let body = scope.num(&definition.body)?;
    let slots = scope.slots;
    let port = shared.ports.get(&definition.name);
    if let Some(port) = port {
        let at = (0, definition.name.len() as u32);
        let wanted = collapse(port.shape, sizes.len());
        if wanted.as_deref() != Some(&sizes) {
            let message = format!(
                "`{}` has shape {:?} but is defined over {sizes:?}",
                definition.name, port.shape
            );
            return Err(FormulaError::new(index, &definition.text, at, message));
        }
    }
    Ok(Step {
        definition: index,
        sizes,
        slots,
        body,
        stored: port.map(|port| port.dtype),
    })
}

/// The bounds of a definition, which dims and options alone must decide.
fn sizes(shared: &mut Shared<'_>, index: usize) -> Result<Vec<u64>, FormulaError> {
    let definition = &shared.definitions[index];
    let mut sizes = Vec::with_capacity(definition.bounds.len());
    for (_, bound) in &definition.bounds {
        let mut scope = Scope {
            shared,
            index: 0,
            indices: Vec::new(),
            slots: 0,
        };
        let fail = |message: String| FormulaError::new(index, &definition.text, bound.at, message);
        let value = scope.int(bound).map_err(|error| fail(error.message))?;
        let Int::Const(value) = value else {
            return Err(fail("a bound must follow from dims and options".into()));
        };
        sizes.push(u64::try_from(value).map_err(|_| fail(format!("a bound of {value}")))?);
    }
    let elements = sizes
        .iter()
        .try_fold(1_u64, |all, size| all.checked_mul(*size));
    if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
        let message = format!("a definition over {sizes:?} has more than {MAX_ELEMENTS} elements");
        let at = (0, definition.name.len() as u32);
        return Err(FormulaError::new(index, &definition.text, at, message));
    }
    Ok(sizes)
}

/// `shape` seen through `count` indices: the leading dimensions become one. `None` if that is not possible.
fn collapse(shape: &[u64], count: usize) -> Option<Vec<u64>> {
    if count == 0 {
        return shape.iter().all(|size| *size == 1).then(Vec::new);
    }
    if count > shape.len() {
        // No leading dimension at all counts as one of size 1.
        let missing = (count == shape.len() + 1).then_some(1);
        return missing.map(|one| [&[one], shape].concat());
    }
    let (leading, trailing) = shape.split_at(shape.len() + 1 - count);
    let product = leading
        .iter()
        .try_fold(1_u64, |all, size| all.checked_mul(*size))?;
    Some([&[product], trailing].concat())
}

/// Compiles the nodes of one definition.
struct Scope<'a, 'b> {
    shared: &'a mut Shared<'b>,
    /// The definition; only earlier ones can be named.
    index: usize,
    /// Names of the indices around the current node; the position is the slot.
    indices: Vec<String>,
    /// The most slots that are in use at once.
    slots: usize,
}

impl Scope<'_, '_> {
    fn fail<T>(&self, node: &Node, message: impl Into<String>) -> Result<T, FormulaError> {
        let text = &self.shared.definitions[self.index].text;
        Err(FormulaError::new(self.index, text, node.at, message))
    }

    fn slot(&self, name: &str) -> Option<usize> {
        self.indices.iter().rposition(|index| index == name)
    }

    fn is_defined(&self, name: &str) -> bool {
        let earlier = &self.shared.definitions[..self.index];
        earlier.iter().any(|one| one.name == name)
    }

    /// The option of that name, unless something nearer has the name.
    fn option(&self, name: &str) -> Option<&Value> {
        let nearer = self.slot(name).is_some()
            || self.is_defined(name)
            || self.shared.ports.contains_key(name)
            || self.shared.dims.contains_key(name);
        self.shared.options.get(name).filter(|_| !nearer)
    }

    fn num(&mut self, node: &Node) -> Result<Num, FormulaError> {
        match &node.kind {
            Kind::Number(value) => Ok(Num::Const(*value)),
            Kind::Text(_) => self.fail(node, "expected a number, found a text"),
            Kind::Not(_) => self.fail(node, "expected a number, found a condition"),
            Kind::Name(name) => self.named(node, name),
            Kind::Element(name, indices) => Ok(Num::Element(self.element(node, name, indices)?)),
            Kind::Negate(a) => Ok(match self.num(a)? {
                Num::Const(value) => Num::Const(-value),
                a => Num::Call1(|a| -a, Box::new(a)),
            }),
            Kind::Binary(Op::FloorDiv | Op::Rem, _, _) => Ok(match self.int(node)? {
                Int::Const(value) => Num::Const(value as f64),
                int => Num::Int(Box::new(int)),
            }),
            Kind::Binary(op, a, b) => {
                let op = match op {
                    Op::Add => RealOp::Add,
                    Op::Sub => RealOp::Sub,
                    Op::Mul => RealOp::Mul,
                    Op::Div => RealOp::Div,
                    _ => return self.fail(node, "expected a number, found a condition"),
                };
                let (a, b) = (self.num(a)?, self.num(b)?);
                Ok(match (&a, &b) {
                    (Num::Const(a), Num::Const(b)) => Num::Const(op.apply(*a, *b)),
                    _ => Num::Binary(op, Box::new(a), Box::new(b)),
                })
            }
            Kind::Call(name, args) => self.call(node, name, args),
            Kind::Reduce(reduction, index, range, body) => {
                self.reduce(*reduction, index, range, body)
            }
        }
    }

    fn named(&mut self, node: &Node, name: &str) -> Result<Num, FormulaError> {
        if let Some(slot) = self.slot(name) {
            return Ok(Num::Int(Box::new(Int::Slot(slot))));
        }
        if self.is_defined(name) || self.shared.ports.contains_key(name) {
            return Ok(Num::Element(self.element(node, name, &[])?));
        }
        if let Some(value) = self.shared.dims.get(name) {
            return Ok(Num::Const(*value as f64));
        }
        match self.shared.options.get(name) {
            Some(Value::Int(value)) => Ok(Num::Const(*value as f64)),
            Some(Value::Float(value)) => Ok(Num::Const(*value)),
            Some(value) => self.fail(node, format!("`{name}` is `{value}`, not a number")),
            None => self.fail(
                node,
                format!("`{name}` is no index, definition, bound port, dim or option"),
            ),
        }
    }

    fn element(
        &mut self,
        node: &Node,
        name: &str,
        indices: &[Node],
    ) -> Result<Element, FormulaError> {
        let earlier = &self.shared.definitions[..self.index];
        let definitions = self.shared.definitions.len();
        let (table, shape) = if let Some(index) = earlier.iter().position(|one| one.name == name) {
            self.shared.needed.insert(index);
            (index, sizes(self.shared, index)?)
        } else if let Some((place, (name, port))) = self
            .shared
            .ports
            .iter()
            .enumerate()
            .find(|(_, (port, _))| *port == name)
        {
            if !port.access.reads() {
                return self.fail(node, format!("port `{name}` is read before it is defined"));
            }
            self.shared.read.insert(name);
            if port.dtype.size_of(port.shape) != Some(port.bytes.len() as u64) {
                let message = format!(
                    "port `{name}` of {} {:?} has {} bytes",
                    port.dtype,
                    port.shape,
                    port.bytes.len()
                );
                return self.fail(node, message);
            }
            (definitions + place, port.shape.to_vec())
        } else {
            return self.fail(
                node,
                format!("`{name}` is no earlier definition and no bound port"),
            );
        };
        let Some(sizes) = collapse(&shape, indices.len()) else {
            let message = format!("`{name}` has shape {shape:?} but {} indices", indices.len());
            return self.fail(node, message);
        };
        let mut stride = 1_u64;
        let mut strides: Vec<u64> = Vec::with_capacity(sizes.len());
        for size in sizes.iter().rev() {
            strides.push(stride);
            stride = stride.saturating_mul(*size);
        }
        strides.reverse();
        let indices = indices
            .iter()
            .map(|index| self.int(index))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Element {
            table,
            at: node.at,
            dims: indices
                .into_iter()
                .zip(sizes)
                .zip(strides)
                .map(|((index, size), stride)| (index, size, stride))
                .collect(),
        })
    }

    fn call(&mut self, node: &Node, name: &str, args: &[Node]) -> Result<Num, FormulaError> {
        let Some(function) = Function::named(name) else {
            return self.fail(node, format!("`{name}` is not a function"));
        };
        match (function, args) {
            (Function::One(function), [a]) => Ok(match self.num(a)? {
                Num::Const(a) => Num::Const(function(a)),
                a => Num::Call1(function, Box::new(a)),
            }),
            (Function::Two(function), [a, b]) => Ok(match (self.num(a)?, self.num(b)?) {
                (Num::Const(a), Num::Const(b)) => Num::Const(function(a, b)),
                (a, b) => Num::Call2(function, Box::new(a), Box::new(b)),
            }),
            (Function::Random, [a, b, c]) => {
                let args = [self.num(a)?, self.num(b)?, self.num(c)?];
                Ok(Num::Random(Box::new(args)))
            }
            (Function::If, [condition, a, b]) => match self.bool(condition)? {
                Bool::Const(holds) => self.num(if holds { a } else { b }),
                condition => {
                    let branches = Box::new((condition, self.num(a)?, self.num(b)?));
                    Ok(Num::If(branches))
                }
            },
            (Function::Has, _) => self.fail(node, "expected a number, found a condition"),
            _ => self.fail(node, format!("`{name}` with {} arguments", args.len())),
        }
    }

    fn reduce(
        &mut self,
        reduction: Reduction,
        index: &str,
        range: &Range,
        body: &Node,
    ) -> Result<Num, FormulaError> {
        let start = range
            .start
            .as_ref()
            .map_or(Ok(Int::Const(0)), |start| self.int(start))?;
        let end = self.int(&range.end)?;
        self.indices.push(index.to_string());
        self.slots = self.slots.max(self.indices.len());
        let body = self.num(body);
        self.indices.pop();
        let (slot, body) = (self.indices.len(), body?);
        let body = match (reduction, body) {
            (Reduction::Sum, Num::Binary(RealOp::Mul, a, b)) => {
                match (strided(&a, slot), strided(&b, slot)) {
                    (Some(a), Some(b)) => {
                        return Ok(Num::Dot(Box::new(Dot {
                            slot,
                            start,
                            end,
                            a,
                            b,
                        })));
                    }
                    _ => Num::Binary(RealOp::Mul, a, b),
                }
            }
            (_, body) => body,
        };
        Ok(Num::Reduce(reduction, slot, Box::new((start, end, body))))
    }

    fn int(&mut self, node: &Node) -> Result<Int, FormulaError> {
        match &node.kind {
            Kind::Negate(a) => {
                let zero = Box::new(Int::Const(0));
                self.int_op(node, IntOp::Sub, zero, a)
            }
            Kind::Binary(op @ (Op::Add | Op::Sub | Op::Mul | Op::FloorDiv | Op::Rem), a, b) => {
                let op = match op {
                    Op::Add => IntOp::Add,
                    Op::Sub => IntOp::Sub,
                    Op::Mul => IntOp::Mul,
                    Op::FloorDiv => IntOp::FloorDiv,
                    _ => IntOp::Rem,
                };
                let a = Box::new(self.int(a)?);
                self.int_op(node, op, a, b)
            }
            Kind::Call(name, args) if name == "if" && args.len() == 3 => {
                match self.bool(&args[0])? {
                    Bool::Const(holds) => self.int(&args[if holds { 1 } else { 2 }]),
                    condition => {
                        let branches = (condition, self.int(&args[1])?, self.int(&args[2])?);
                        Ok(Int::If(Box::new(branches)))
                    }
                }
            }
            _ => match self.num(node)? {
                Num::Int(int) => Ok(*int),
                Num::Const(value) => match super::eval::exact(value) {
                    Some(value) => Ok(Int::Const(value)),
                    None => self.fail(node, format!("expected an integer, found {value}")),
                },
                num => Ok(Int::Exact(Box::new(num), node.at)),
            },
        }
    }

    fn int_op(
        &mut self,
        node: &Node,
        op: IntOp,
        a: Box<Int>,
        b: &Node,
    ) -> Result<Int, FormulaError> {
        let b = Box::new(self.int(b)?);
        if let (Int::Const(a), Int::Const(b)) = (&*a, &*b) {
            return match op.apply(*a, *b) {
                Ok(value) => Ok(Int::Const(value)),
                Err(message) => self.fail(node, message),
            };
        }
        Ok(Int::Binary(op, a, b, node.at))
    }

    fn bool(&mut self, node: &Node) -> Result<Bool, FormulaError> {
        match &node.kind {
            Kind::Not(a) => Ok(match self.bool(a)? {
                Bool::Const(holds) => Bool::Const(!holds),
                a => Bool::Not(Box::new(a)),
            }),
            Kind::Binary(op @ (Op::And | Op::Or), a, b) => {
                let decisive = *op == Op::Or;
                match self.bool(a)? {
                    Bool::Const(holds) if holds == decisive => Ok(Bool::Const(decisive)),
                    Bool::Const(_) => self.bool(b),
                    a => Ok(Bool::Both(decisive, Box::new((a, self.bool(b)?)))),
                }
            }
            Kind::Binary(op @ (Op::Eq | Op::Ne), a, b)
                if self.text(a).is_some() || self.text(b).is_some() =>
            {
                match (self.text(a), self.text(b)) {
                    (Some(a), Some(b)) => Ok(Bool::Const((a == b) == (*op == Op::Eq))),
                    _ => self.fail(node, "a text is compared with something else"),
                }
            }
            Kind::Binary(op @ (Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge), a, b) => {
                let (a, b) = (self.num(a)?, self.num(b)?);
                let holds: fn(f64, f64) -> bool = match op {
                    Op::Eq => |a, b| a == b,
                    Op::Ne => |a, b| a != b,
                    Op::Lt => |a, b| a < b,
                    Op::Le => |a, b| a <= b,
                    Op::Gt => |a, b| a > b,
                    _ => |a, b| a >= b,
                };
                Ok(match (&a, &b) {
                    (Num::Const(a), Num::Const(b)) => Bool::Const(holds(*a, *b)),
                    _ => Bool::Compare(holds, Box::new((a, b))),
                })
            }
            Kind::Call(name, args) if name == "has" => match args.as_slice() {
                [
                    Node {
                        kind: Kind::Name(port),
                        ..
                    },
                ] => Ok(Bool::Const(self.shared.ports.contains_key(port))),
                _ => self.fail(node, "`has` takes the name of a port"),
            },
            Kind::Name(name) => match (name.as_str(), self.option(name)) {
                ("true", _) => Ok(Bool::Const(true)),
                ("false", _) => Ok(Bool::Const(false)),
                (_, Some(Value::Bool(holds))) => Ok(Bool::Const(*holds)),
                _ => self.fail(node, format!("`{name}` is not a condition")),
            },
            _ => self.fail(node, "expected a condition"),
        }
    }

    /// The text that a node stands for.
    fn text<'n>(&'n self, node: &'n Node) -> Option<&'n str> {
        match &node.kind {
            Kind::Text(text) => Some(text),
            Kind::Name(name) => self.option(name).and_then(Value::as_text),
            _ => None,
        }
    }
}

/// An element whose place moves evenly with `slot`: exactly one of its indices is the slot plus or minus
/// something that stands still, and the others stand still.
fn strided(num: &Num, slot: usize) -> Option<Strided> {
    let Num::Element(element) = num else {
        return None;
    };
    let mut moving = element
        .dims
        .iter()
        .filter(|(index, _, _)| index.mentions(slot));
    let (Some((index, _, stride)), None) = (moving.next(), moving.next()) else {
        return None;
    };
    let is_slot = |int: &Int| matches!(int, Int::Slot(other) if *other == slot);
    let even = match index {
        Int::Binary(IntOp::Add, a, b, _) => {
            is_slot(a) && !b.mentions(slot) || is_slot(b) && !a.mentions(slot)
        }
        Int::Binary(IntOp::Sub, a, b, _) => is_slot(a) && !b.mentions(slot),
        index => is_slot(index),
    };
    even.then(|| Strided {
        element: element.clone(),
        stride: *stride,
    })
}
