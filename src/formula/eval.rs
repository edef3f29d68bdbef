//! Runs bound definitions. One value at a time over a tree, except for the dot product `sum(p<k: x[i,p] * w[j,p])`,
//! which walks its two operands with strides: nearly all the time of a transformer goes there.

use std::collections::BTreeMap;
use std::ops::Range;

use super::FormulaError;
use super::parse::{Definition, Reduction};
use super::store::{decode, encode};
use crate::dtype::DType;

/// Bound definitions, ready to run.
#[derive(Debug)]
pub(super) struct Program {
    /// One for each definition, empty until its step ran, then one for each port.
    pub(super) tables: Vec<Table>,
    pub(super) steps: Vec<Step>,
}

/// A port's or definition's contents.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

/// One definition to run.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) definition: usize,
    pub(super) sizes: Vec<u64>,
    pub(super) slots: usize,
    pub(super) body: Num,
    /// The type in which it is stored, if it defines a port.
    pub(super) stored: Option<DType>,
}

/// A place in the definition's text.
type At = (u32, u32);

/// An expression with a real value.
#[derive(Clone, Debug)]
pub(super) enum Num {
    Const(f64),
    Int(Box<Int>),
    Element(Element),
    Binary(RealOp, Box<Num>, Box<Num>),
    Call1(fn(f64) -> f64, Box<Num>),
    Call2(fn(f64, f64) -> f64, Box<Num>, Box<Num>),
    Random(Box<[Num; 3]>),
    If(Box<(Bool, Num, Num)>),
    /// Over a slot from the first to before the second value.
    Reduce(Reduction, usize, Box<(Int, Int, Num)>),
    Dot(Box<Dot>),
}

/// An expression with an integer value.
#[derive(Clone, Debug)]
pub(super) enum Int {
    Const(i64),
    Slot(usize),
    Binary(IntOp, Box<Int>, Box<Int>, At),
    If(Box<(Bool, Int, Int)>),
    /// A real number that must be an integer.
    Exact(Box<Num>, At),
}

/// A condition.
#[derive(Clone, Debug)]
pub(super) enum Bool {
    Const(bool),
    Not(Box<Bool>),
    /// `||` if the first field is true, else `&&`: the second operand counts unless the first equals the field.
    Both(bool, Box<(Bool, Bool)>),
    Compare(fn(f64, f64) -> bool, Box<(Num, Num)>),
}

/// `table[index, ..]`
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) table: usize,
    pub(super) at: At,
    /// Index, size and stride of each dimension.
    pub(super) dims: Vec<(Int, u64, u64)>,
}

/// `sum(p in start..end: a * b)` where both operands move evenly with `p`.
#[derive(Clone, Debug)]
pub(super) struct Dot {
    pub(super) slot: usize,
    pub(super) start: Int,
    pub(super) end: Int,
    pub(super) a: Strided,
    pub(super) b: Strided,
}

/// An element and how far it moves when the dot product's index grows by one.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub(super) element: Element,
    pub(super) stride: u64,
}

impl Int {
    /// Whether the value depends on the index of `slot`.
    pub(super) fn mentions(&self, slot: usize) -> bool {
        match self {
            Int::Const(_) => false,
            Int::Slot(other) => *other == slot,
            Int::Binary(_, a, b, _) => a.mentions(slot) || b.mentions(slot),
            Int::If(parts) => {
                parts.0.mentions(slot) || parts.1.mentions(slot) || parts.2.mentions(slot)
            }
            Int::Exact(num, _) => num.mentions(slot),
        }
    }
}

impl Num {
    fn mentions(&self, slot: usize) -> bool {
        match self {
            Num::Const(_) => false,
            Num::Int(int) => int.mentions(slot),
            Num::Element(element) => element
                .dims
                .iter()
                .any(|(index, _, _)| index.mentions(slot)),
            Num::Call1(_, a) => a.mentions(slot),
            Num::Binary(_, a, b) | Num::Call2(_, a, b) => a.mentions(slot) || b.mentions(slot),
            Num::Random(args) => args.iter().any(|arg| arg.mentions(slot)),
            Num::If(parts) => {
                parts.0.mentions(slot) || parts.1.mentions(slot) || parts.2.mentions(slot)
            }
            // An inner reduction may use the number of an outer slot only for itself or for what lies outside
            // both; answering yes is always safe.
            Num::Reduce(..) | Num::Dot(_) => true,
        }
    }
}

impl Bool {
    fn mentions(&self, slot: usize) -> bool {
        match self {
            Bool::Const(_) => false,
            Bool::Not(a) => a.mentions(slot),
            Bool::Both(_, operands) => operands.0.mentions(slot) || operands.1.mentions(slot),
            Bool::Compare(_, operands) => operands.0.mentions(slot) || operands.1.mentions(slot),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum RealOp {
    Add,
    Sub,
    Mul,
    Div,
}

impl RealOp {
    pub(super) fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            RealOp::Add => a + b,
            RealOp::Sub => a - b,
            RealOp::Mul => a * b,
            RealOp::Div => a / b,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum IntOp {
    Add,
    Sub,
    Mul,
    FloorDiv,
    Rem,
}

impl IntOp {
    pub(super) fn apply(self, a: i64, b: i64) -> Result<i64, String> {
        let value = match self {
            IntOp::Add => a.checked_add(b),
            IntOp::Sub => a.checked_sub(b),
            IntOp::Mul => a.checked_mul(b),
            IntOp::FloorDiv | IntOp::Rem if b <= 0 => {
                return Err(format!(
                    "{a} divided by {b}, only positive divisors are defined"
                ));
            }
            // The divisor is positive, so Euclid's division is the floor.
            IntOp::FloorDiv => a.checked_div_euclid(b),
            IntOp::Rem => a.checked_rem_euclid(b),
        };
        value.ok_or_else(|| format!("integer overflow in {a} and {b}"))
    }
}

/// The integer that a real number is, if it is one that f64 holds exactly.
pub(super) fn exact(value: f64) -> Option<i64> {
    const LIMIT: f64 = (1_u64 << 53) as f64;
    (value.abs() <= LIMIT && value.fract() == 0.0).then_some(value as i64)
}

/// What went wrong at which part of the running definition. Boxed, because it hardly ever happens.
struct Fault {
    at: At,
    message: String,
}

fn fault<T>(at: At, message: String) -> Result<T, Box<Fault>> {
    Err(Box::new(Fault { at, message }))
}

/// Runs all steps in order and gives the values of the defined ports.
pub(super) fn run(
    program: &Program,
    definitions: &[Definition],
) -> Result<BTreeMap<String, Vec<f64>>, FormulaError> {
    let mut tables = program.tables.clone();
    let mut outputs = BTreeMap::new();
    for (number, step) in program.steps.iter().enumerate() {
        let values = define(step, &tables).map_err(|fault| {
            let text = &definitions[step.definition].text;
            FormulaError::new(step.definition, text, fault.at, fault.message)
        })?;
        let table = &mut tables[step.definition];
        let Some(dtype) = step.stored else {
            table.values = values;
            continue;
        };
        // Later definitions see what was stored.
        if number + 1 < program.steps.len() {
            table.values = decode(dtype, &encode(dtype, &values)).unwrap_or_default();
            table.values.truncate(values.len());
        }
        outputs.insert(table.name.clone(), values);
    }
    Ok(outputs)
}

/// Values of a definition at every index, the last index fastest.
fn define(step: &Step, tables: &[Table]) -> Result<Vec<f64>, Box<Fault>> {
    let elements: u64 = step.sizes.iter().product();
    let mut frame = Frame {
        tables,
        slots: vec![0; step.slots.max(step.sizes.len())],
    };
    let mut values = Vec::with_capacity(elements as usize);
    for _ in 0..elements {
        values.push(frame.num(&step.body)?);
        for (slot, size) in frame.slots.iter_mut().zip(&step.sizes).rev() {
            *slot += 1;
            if (*slot as u64) < *size {
                break;
            }
            *slot = 0;
        }
    }
    Ok(values)
}

struct Frame<'a> {
    tables: &'a [Table],
    /// Values of the indices around the current node.
    slots: Vec<i64>,
}

impl<'a> Frame<'a> {
    fn num(&mut self, num: &Num) -> Result<f64, Box<Fault>> {
        match num {
            Num::Const(value) => Ok(*value),
            Num::Int(int) => self.int(int).map(|value| value as f64),
            Num::Element(element) => {
                let place = self.place(element)?;
                self.read(element, place)
            }
            Num::Binary(op, a, b) => Ok(op.apply(self.num(a)?, self.num(b)?)),
            Num::Call1(function, a) => Ok(function(self.num(a)?)),
            Num::Call2(function, a, b) => Ok(function(self.num(a)?, self.num(b)?)),
            Num::Random(args) => {
                let [a, b, c] = &**args;
                let args = [self.num(a)?, self.num(b)?, self.num(c)?];
                Ok(super::math::random(args))
            }
            Num::If(parts) => {
                let (condition, a, b) = &**parts;
                if self.bool(condition)? {
                    self.num(a)
                } else {
                    self.num(b)
                }
            }
            Num::Reduce(reduction, slot, parts) => self.reduce(*reduction, *slot, parts),
            Num::Dot(dot) => self.dot(dot),
        }
    }

    fn int(&mut self, int: &Int) -> Result<i64, Box<Fault>> {
        match int {
            Int::Const(value) => Ok(*value),
            Int::Slot(slot) => Ok(self.slots[*slot]),
            Int::Binary(op, a, b, at) => {
                let (a, b) = (self.int(a)?, self.int(b)?);
                op.apply(a, b).or_else(|message| fault(*at, message))
            }
            Int::If(parts) => {
                let (condition, a, b) = &**parts;
                if self.bool(condition)? {
                    self.int(a)
                } else {
                    self.int(b)
                }
            }
            Int::Exact(num, at) => {
                let value = self.num(num)?;
                exact(value).map_or_else(
                    || fault(*at, format!("expected an integer, found {value}")),
                    Ok,
                )
            }
        }
    }

    fn bool(&mut self, condition: &Bool) -> Result<bool, Box<Fault>> {
        match condition {
            Bool::Const(holds) => Ok(*holds),
            Bool::Not(a) => self.bool(a).map(|holds| !holds),
            Bool::Both(decisive, operands) => {
                let (a, b) = &**operands;
                if self.bool(a)? == *decisive {
                    Ok(*decisive)
                } else {
                    self.bool(b)
                }
            }
            Bool::Compare(holds, operands) => {
                Ok(holds(self.num(&operands.0)?, self.num(&operands.1)?))
            }
        }
    }

    fn reduce(
        &mut self,
        reduction: Reduction,
        slot: usize,
        parts: &(Int, Int, Num),
    ) -> Result<f64, Box<Fault>> {
        let (start, end) = (self.int(&parts.0)?, self.int(&parts.1)?);
        let mut total = match reduction {
            Reduction::Sum => 0.0,
            Reduction::Max => f64::NEG_INFINITY,
        };
        for index in start..end {
            self.slots[slot] = index;
            let value = self.num(&parts.2)?;
            match reduction {
                Reduction::Sum => total += value,
                Reduction::Max if value.is_nan() || value > total => total = value,
                Reduction::Max => {}
            }
            if total.is_nan() {
                break;
            }
        }
        Ok(total)
    }

    fn dot(&mut self, dot: &Dot) -> Result<f64, Box<Fault>> {
        let (start, end) = (self.int(&dot.start)?, self.int(&dot.end)?);
        if end <= start {
            return Ok(0.0);
        }
        let (a, step_a) = self.walk(&dot.a, dot.slot, start..end)?;
        let (b, step_b) = self.walk(&dot.b, dot.slot, start..end)?;
        if step_a == 1 && step_b == 1 {
            return Ok(inner(a, b));
        }
        let pairs = a.iter().step_by(step_a).zip(b.iter().step_by(step_b));
        Ok(pairs.map(|(a, b)| a * b).sum())
    }

    /// The values of an evenly moving element, as a slice from its first to its last value, and their distance.
    fn walk(
        &mut self,
        strided: &Strided,
        slot: usize,
        range: Range<i64>,
    ) -> Result<(&'a [f64], usize), Box<Fault>> {
        let element = &strided.element;
        self.slots[slot] = range.start;
        let first = self.place(element)? as usize;
        self.slots[slot] = range.end - 1;
        let last = self.place(element)? as usize;
        let table = &self.tables[element.table];
        match table.values.get(first..=last) {
            Some(values) => Ok((values, strided.stride as usize)),
            None => fault(element.at, format!("`{}` has no values", table.name)),
        }
    }

    /// The position of an element in its table, each index checked against its dimension.
    fn place(&mut self, element: &Element) -> Result<u64, Box<Fault>> {
        let mut place = 0;
        for (dim, (index, size, stride)) in element.dims.iter().enumerate() {
            let index = self.int(index)?;
            if index < 0 || index as u64 >= *size {
                let name = &self.tables[element.table].name;
                let message =
                    format!("index {dim} of `{name}` is {index} but must be below {size}");
                return fault(element.at, message);
            }
            place += index as u64 * stride;
        }
        Ok(place)
    }

    fn read(&self, element: &Element, place: u64) -> Result<f64, Box<Fault>> {
        let table = &self.tables[element.table];
        match table.values.get(place as usize) {
            Some(value) => Ok(*value),
            None => fault(element.at, format!("`{}` has no values", table.name)),
        }
    }
}

/// Inner product with eight running sums, which the compiler turns into vector instructions.
fn inner(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, rest_a) = a.as_chunks::<8>();
    let (b, rest_b) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}
