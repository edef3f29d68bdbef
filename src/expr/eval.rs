//! The value of an expression: checked integers, floats, conditions and texts.

use super::{Env, ExprError, Kind, Node, Op, Value};

fn fail(node: &Node, message: impl Into<String>) -> ExprError {
    ExprError {
        message: message.into(),
        at: node.start as usize..node.end as usize,
        help: None,
    }
}

pub(super) fn eval(node: &Node, env: &dyn Env) -> Result<Value, ExprError> {
    match &node.kind {
        Kind::Literal(value) => Ok(value.clone()),
        Kind::Name(name) => env
            .get(name)
            .ok_or_else(|| fail(node, format!("unknown name `{name}`"))),
        Kind::Unary(op, a) => match (op, eval(a, env)?) {
            (Op::Neg, Value::Int(v)) => v
                .checked_neg()
                .map(Value::Int)
                .ok_or_else(|| fail(node, "integer overflow")),
            (Op::Neg, Value::Float(v)) => Ok(Value::Float(-v)),
            (Op::Not, Value::Bool(v)) => Ok(Value::Bool(!v)),
            (_, v) => Err(fail(
                node,
                format!("this operator does not apply to {}", v.kind()),
            )),
        },
        Kind::Binary(Op::And, a, b) => Ok(Value::Bool(condition(a, env)? && condition(b, env)?)),
        Kind::Binary(Op::Or, a, b) => Ok(Value::Bool(condition(a, env)? || condition(b, env)?)),
        Kind::Binary(op, a, b) => binary(node, *op, eval(a, env)?, eval(b, env)?),
        Kind::Call(name, args) => call(node, name, args, env),
    }
}

fn condition(node: &Node, env: &dyn Env) -> Result<bool, ExprError> {
    let value = eval(node, env)?;
    value
        .as_bool()
        .ok_or_else(|| fail(node, format!("expected a condition, got {}", value.kind())))
}

fn binary(node: &Node, op: Op, a: Value, b: Value) -> Result<Value, ExprError> {
    let overflow = || fail(node, format!("integer overflow in {a} and {b}"));
    if let (Value::Int(a), Value::Int(b)) = (&a, &b) {
        let (a, b) = (*a, *b);
        let int = |v: Option<i64>| v.map(Value::Int).ok_or_else(overflow);
        return match op {
            Op::Add => int(a.checked_add(b)),
            Op::Sub => int(a.checked_sub(b)),
            Op::Mul => int(a.checked_mul(b)),
            Op::Div | Op::Rem if b == 0 => Err(fail(node, format!("{a} divided by zero"))),
            Op::Rem => int(a.checked_rem(b)),
            // The one remainder that does not exist, `i64::MIN % -1`, belongs to the quotient that overflows.
            Op::Div if a.checked_rem(b).is_some_and(|rest| rest != 0) => {
                Err(fail(node, format!("{a} is not a multiple of {b}")))
            }
            Op::Div => int(a.checked_div(b)),
            _ => compare(node, op, a.partial_cmp(&b)),
        };
    }
    match (&a, &b) {
        (Value::Text(x), Value::Text(y)) => compare(node, op, x.partial_cmp(y)),
        (Value::Bool(x), Value::Bool(y)) if matches!(op, Op::Eq | Op::Ne) => {
            Ok(Value::Bool((x == y) == (op == Op::Eq)))
        }
        _ => {
            let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else {
                return Err(fail(
                    node,
                    format!(
                        "this operator does not apply to {} and {}",
                        a.kind(),
                        b.kind()
                    ),
                ));
            };
            match op {
                Op::Add => Ok(Value::Float(x + y)),
                Op::Sub => Ok(Value::Float(x - y)),
                Op::Mul => Ok(Value::Float(x * y)),
                Op::Div if y == 0.0 => Err(fail(node, format!("{x} divided by zero"))),
                Op::Div => Ok(Value::Float(x / y)),
                Op::Rem => Err(fail(node, "`%` needs integers")),
                _ => compare(node, op, x.partial_cmp(&y)),
            }
        }
    }
}

fn compare(node: &Node, op: Op, order: Option<std::cmp::Ordering>) -> Result<Value, ExprError> {
    let order = order.ok_or_else(|| fail(node, "not a number"))?;
    let holds = match op {
        Op::Eq => order.is_eq(),
        Op::Ne => order.is_ne(),
        Op::Lt => order.is_lt(),
        Op::Le => order.is_le(),
        Op::Gt => order.is_gt(),
        Op::Ge => order.is_ge(),
        _ => return Err(fail(node, "this operator needs numbers")),
    };
    Ok(Value::Bool(holds))
}

fn call(node: &Node, name: &str, args: &[Node], env: &dyn Env) -> Result<Value, ExprError> {
    match (name, args) {
        ("if", [when, a, b]) => eval(if condition(when, env)? { a } else { b }, env),
        ("ceil", [a]) => ceil(node, a, env),
        ("min" | "max", [a, b]) => {
            let (a, b) = (eval(a, env)?, eval(b, env)?);
            let less = binary(node, Op::Lt, a.clone(), b.clone())? == Value::Bool(true);
            Ok(if less == (name == "min") { a } else { b })
        }
        ("sqrt", [a]) => float(node, a, env).map(|v| Value::Float(v.sqrt())),
        ("log2", [a]) => float(node, a, env).map(|v| Value::Float(v.log2())),
        ("pow", [a, b]) => Ok(Value::Float(
            float(node, a, env)?.powf(float(node, b, env)?),
        )),
        // The parser refuses these; a tree that was read from elsewhere is not believed.
        _ => Err(fail(
            node,
            format!("no function `{name}` of {} arguments", args.len()),
        )),
    }
}

/// The ceiling of `arg`; of a quotient of integers the exact one. Each operand is evaluated once, or nested calls
/// would take exponential time.
fn ceil(node: &Node, arg: &Node, env: &dyn Env) -> Result<Value, ExprError> {
    let value = match &arg.kind {
        Kind::Binary(Op::Div, a, b) => match (eval(a, env)?, eval(b, env)?) {
            (Value::Int(a), Value::Int(b)) if b <= 0 || a < 0 => {
                return Err(fail(node, format!("ceil of {a} / {b}")));
            }
            (Value::Int(a), Value::Int(b)) => {
                return Ok(Value::Int(a / b + i64::from(a % b != 0)));
            }
            (a, b) => binary(arg, Op::Div, a, b)?,
        },
        _ => eval(arg, env)?,
    };
    match value {
        Value::Int(v) => Ok(Value::Int(v)),
        // 2^63 is the first float past the integers.
        Value::Float(v) if v.ceil().abs() < 9_223_372_036_854_775_808.0 => {
            Ok(Value::Int(v.ceil() as i64))
        }
        Value::Float(v) => Err(fail(node, format!("ceil of {v} is no 64-bit integer"))),
        other => Err(fail(
            node,
            format!("expected a number, got {}", other.kind()),
        )),
    }
}

fn float(node: &Node, arg: &Node, env: &dyn Env) -> Result<f64, ExprError> {
    let value = eval(arg, env)?;
    value
        .as_float()
        .ok_or_else(|| fail(node, format!("expected a number, got {}", value.kind())))
}
