//! Binds a manifest to a pass: what comes in is the type and shape of every value the pass reads, what goes out is
//! a [`Binding`], where every name of the manifest has its number and every written port its type and shape.
//!
//! Always true of a `Binding`: each dim has one value wherever it stands, options lie in their ranges, every
//! `require` holds. A dim that stands only in optional ports that are not bound is 0.
//!
//! Expressions of a manifest see dims, options, type variables (as texts, `'f16'`) and `has_<port>` for every
//! optional port.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::scope::type_value;
use super::{Binding, Manifest, OptionDecl, Port, PortType, ShapeItem};
use crate::diag::nearest;
use crate::dtype::DType;
use crate::expr::{Env, Value};

pub use self::error::BindError;

/// What a pass gives a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing.
    Unbound,
    /// A value that exists before the pass: its type and shape.
    Read(DType, Vec<u64>),
    /// A new value, whose type and shape the kernel decides.
    Written,
}

/// Binds `manifest`: `given` stands in the order of its ports, `set` holds the pass's options, `types` its explicit
/// type variables, `defaults` says what a type variable is that nothing else fixes.
pub fn bind(
    manifest: &Manifest,
    given: &[Given],
    set: &BTreeMap<String, Value>,
    types: &BTreeMap<String, DType>,
    defaults: &dyn Fn(&str) -> Option<DType>,
) -> Result<Binding, BindError> {
    let mut binder = Binder::new(manifest, given);
    binder.presence()?;
    binder.options(set)?;
    binder.read_types(types)?;
    binder.default_types(defaults)?;
    binder.read_dims()?;
    binder.absent_dims();
    binder.derive()?;
    binder.check_shapes()?;
    binder.require()?;
    binder.finish()
}

/// The state of one binding in progress.
struct Binder<'a> {
    manifest: &'a Manifest,
    given: &'a [Given],
    /// Names that shapes do not bind: options and derived dims. A shape that mentions one is checked against it.
    computed: BTreeSet<&'a str>,
    dims: BTreeMap<String, i64>,
    /// The port on which each dim was first seen.
    source: BTreeMap<String, &'a str>,
    /// The dimensions behind each `m...`.
    leading: BTreeMap<String, Vec<u64>>,
    types: BTreeMap<String, DType>,
    options: BTreeMap<String, Value>,
}

impl Env for Binder<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        if let Some(dim) = self.dims.get(name) {
            return Some(Value::Int(*dim));
        }
        if let Some(option) = self.options.get(name) {
            return Some(option.clone());
        }
        if let Some(port) = name.strip_prefix("has_")
            && let Some((index, _)) = self.manifest.port(port)
        {
            return Some(Value::Bool(self.bound(index)));
        }
        type_value(&self.types, name)
    }
}

impl<'a> Binder<'a> {
    fn new(manifest: &'a Manifest, given: &'a [Given]) -> Self {
        let derived = manifest.derive.iter().map(|(name, _)| name.as_str());
        let options = manifest.options.keys().map(String::as_str);
        Self {
            manifest,
            given,
            computed: derived.chain(options).collect(),
            dims: BTreeMap::new(),
            source: BTreeMap::new(),
            leading: BTreeMap::new(),
            types: BTreeMap::new(),
            options: BTreeMap::new(),
        }
    }

    fn bound(&self, index: usize) -> bool {
        !matches!(self.given.get(index), None | Some(Given::Unbound))
    }

    fn reads(&self) -> impl Iterator<Item = (&'a Port, DType, &'a [u64])> + use<'a> {
        let pairs = self.manifest.ports.iter().zip(self.given);
        pairs.filter_map(|(port, given)| match given {
            Given::Read(dtype, shape) => Some((port, *dtype, shape.as_slice())),
            Given::Unbound | Given::Written => None,
        })
    }

    fn presence(&self) -> Result<(), BindError> {
        let missing = self
            .manifest
            .ports
            .iter()
            .enumerate()
            .find(|(index, port)| !port.optional && !port.scratch && !self.bound(*index));
        missing.map_or(Ok(()), |(_, port)| {
            Err(BindError::Unbound {
                port: port.name.clone(),
            })
        })
    }

    fn options(&mut self, set: &BTreeMap<String, Value>) -> Result<(), BindError> {
        let known = || self.manifest.options.keys().map(String::as_str);
        if let Some(name) = set
            .keys()
            .find(|name| !self.manifest.options.contains_key(*name))
        {
            let listed = known().collect::<Vec<_>>().join(", ");
            return Err(BindError::Option {
                option: name.clone(),
                problem: if listed.is_empty() {
                    "is unknown; the kernel has no options".into()
                } else {
                    format!("is unknown; the kernel has {listed}")
                },
                nearest: nearest(name, known()).map(String::from),
            });
        }
        for (name, decl) in &self.manifest.options {
            let value = option_value(decl, set.get(name)).map_err(|problem| BindError::Option {
                option: name.clone(),
                problem,
                nearest: None,
            })?;
            self.options.insert(name.clone(), value);
        }
        Ok(())
    }

    fn read_types(&mut self, explicit: &BTreeMap<String, DType>) -> Result<(), BindError> {
        let variable = |name: &str, problem: String| BindError::TypeVariable {
            variable: name.into(),
            problem,
        };
        for (name, dtype) in explicit {
            let Some(allowed) = self.manifest.types.get(name) else {
                return Err(variable(name, "is unknown to the kernel".into()));
            };
            if !allowed.contains(dtype) {
                return Err(variable(
                    name,
                    format!("cannot be {dtype}, only {}", list(allowed)),
                ));
            }
            self.types.insert(name.clone(), *dtype);
        }
        let mut fixed_by: BTreeMap<&str, &str> = BTreeMap::new();
        for (port, dtype, _) in self.reads() {
            let wrong = |expected: String| BindError::Type {
                port: port.name.clone(),
                expected,
                found: dtype,
            };
            match &port.dtype {
                PortType::Fixed(wanted) if *wanted != dtype => {
                    return Err(wrong(wanted.to_string()));
                }
                PortType::Fixed(_) => {}
                PortType::Var(name) => {
                    let allowed = self.manifest.types.get(name).map_or(&[][..], Vec::as_slice);
                    if !allowed.contains(&dtype) {
                        return Err(wrong(list(allowed)));
                    }
                    match self.types.get(name) {
                        Some(bound) if *bound != dtype => {
                            let by = fixed_by.get(name.as_str()).map_or_else(
                                || "the pass's `types`".into(),
                                |port| format!("port `{port}`"),
                            );
                            return Err(wrong(format!("{bound} ({name} is {bound} by {by})")));
                        }
                        Some(_) => {}
                        None => {
                            self.types.insert(name.clone(), dtype);
                        }
                    }
                    fixed_by.entry(name).or_insert(&port.name);
                }
            }
        }
        Ok(())
    }

    fn default_types(&mut self, defaults: &dyn Fn(&str) -> Option<DType>) -> Result<(), BindError> {
        for (name, allowed) in &self.manifest.types {
            if self.types.contains_key(name) {
                continue;
            }
            // Of ports that are not bound: nobody will look at it.
            if let Some(any) = allowed.first().filter(|_| !self.stands_for_a_port(name)) {
                self.types.insert(name.clone(), *any);
                continue;
            }
            let problem = match defaults(name) {
                Some(dtype) if allowed.contains(&dtype) => {
                    self.types.insert(name.clone(), dtype);
                    continue;
                }
                Some(dtype) => format!(
                    "would be {dtype} by default but can only be {}",
                    list(allowed)
                ),
                None => "is fixed by no input; set it in the pass's `types`".into(),
            };
            return Err(BindError::TypeVariable {
                variable: name.clone(),
                problem,
            });
        }
        Ok(())
    }

    /// Whether a bound port, or scratch, has that type variable.
    fn stands_for_a_port(&self, name: &str) -> bool {
        let mut ports = self.manifest.ports.iter().enumerate();
        ports.any(|(index, port)| {
            (port.scratch || self.bound(index))
                && matches!(&port.dtype, PortType::Var(variable) if variable == name)
        })
    }

    /// First appearances bind dims. Everything else is compared in [`Self::check_shapes`], when all is known.
    fn read_dims(&mut self) -> Result<(), BindError> {
        for (port, _, shape) in self.reads() {
            let (lead, items) = split(port);
            let rank_fits = match lead {
                Some(_) => shape.len() >= items.len(),
                None => shape.len() == items.len(),
            };
            if !rank_fits {
                return Err(self.shape_error(port, shape));
            }
            let (leading, tail) = shape.split_at(shape.len() - items.len());
            if let Some(name) = lead {
                let Some(product) = product(leading) else {
                    return Err(self.shape_error(port, shape));
                };
                self.leading
                    .entry(name.into())
                    .or_insert_with(|| leading.to_vec());
                self.first(name, product, &port.name);
            }
            for (item, size) in items.iter().zip(tail) {
                if let ShapeItem::Dim(name) = item {
                    let size = i64::try_from(*size).map_err(|_| self.shape_error(port, shape))?;
                    self.first(name, size, &port.name);
                }
            }
        }
        Ok(())
    }

    fn first(&mut self, name: &str, size: i64, port: &'a str) {
        if !self.computed.contains(name) && !self.dims.contains_key(name) {
            self.dims.insert(name.into(), size);
            self.source.insert(name.into(), port);
        }
    }

    fn absent_dims(&mut self) {
        let absent = self.manifest.ports.iter().zip(self.given);
        for (port, _) in absent.filter(|(_, given)| **given == Given::Unbound) {
            for item in &port.shape {
                if let ShapeItem::Dim(name) | ShapeItem::Leading(name) = item
                    && !self.computed.contains(name.as_str())
                {
                    self.dims.entry(name.clone()).or_insert(0);
                }
            }
        }
    }

    fn derive(&mut self) -> Result<(), BindError> {
        for (name, expr) in &self.manifest.derive {
            let value = expr
                .eval_int(self)
                .map_err(|error| self.expression(&format!("derived dim `{name}`"), expr, &error))?;
            self.dims.insert(name.clone(), value);
        }
        Ok(())
    }

    fn check_shapes(&self) -> Result<(), BindError> {
        for (port, _, shape) in self.reads() {
            let (lead, items) = split(port);
            let (leading, tail) = shape.split_at(shape.len().saturating_sub(items.len()));
            let mut fits = true;
            if let Some(name) = lead {
                fits &= product(leading) == self.dims.get(name).copied();
            }
            for (item, size) in items.iter().zip(tail) {
                fits &= self.size(port, item)? == *size;
            }
            if !fits {
                return Err(self.shape_error(port, shape));
            }
        }
        Ok(())
    }

    fn require(&self) -> Result<(), BindError> {
        for condition in &self.manifest.require {
            let holds = condition
                .eval_bool(self)
                .map_err(|error| self.expression("`require`", condition, &error))?;
            if !holds {
                return Err(BindError::Require {
                    condition: condition.text().into(),
                    arithmetic: self.arithmetic(condition.names()),
                });
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Binding, BindError> {
        let mut ports = Vec::with_capacity(self.manifest.ports.len());
        for (index, port) in self.manifest.ports.iter().enumerate() {
            ports.push(match self.given.get(index) {
                Some(Given::Read(dtype, shape)) => Some((*dtype, shape.clone())),
                Some(Given::Written) => Some((self.port_type(port)?, self.port_shape(port)?)),
                // Scratch of no elements is scratch that this pass does not need.
                _ if port.scratch => {
                    let shape = self.port_shape(port)?;
                    let needed = !shape.contains(&0);
                    needed.then_some((self.port_type(port)?, shape))
                }
                _ => None,
            });
        }
        Ok(Binding {
            dims: self.dims,
            types: self.types,
            options: self.options,
            ports,
        })
    }

    fn port_type(&self, port: &Port) -> Result<DType, BindError> {
        match &port.dtype {
            PortType::Fixed(dtype) => Ok(*dtype),
            PortType::Var(name) => {
                self.types
                    .get(name)
                    .copied()
                    .ok_or_else(|| BindError::TypeVariable {
                        variable: name.clone(),
                        problem: format!("of port `{}` is not declared", port.name),
                    })
            }
        }
    }

    fn port_shape(&self, port: &Port) -> Result<Vec<u64>, BindError> {
        let (lead, items) = split(port);
        let mut shape = match lead {
            Some(name) => match self.leading.get(name) {
                Some(leading) => leading.clone(),
                None => vec![self.size(port, &ShapeItem::Dim(name.into()))?],
            },
            None => Vec::with_capacity(items.len()),
        };
        for item in items {
            shape.push(self.size(port, item)?);
        }
        Ok(shape)
    }

    fn size(&self, port: &Port, item: &ShapeItem) -> Result<u64, BindError> {
        let place = || format!("port `{}`", port.name);
        match item {
            ShapeItem::Is(expr) => expr
                .eval_size(self)
                .map_err(|error| self.expression(&place(), expr, &error)),
            ShapeItem::Dim(name) | ShapeItem::Leading(name) => self
                .get(name)
                .and_then(|value| value.as_int())
                .and_then(|value| u64::try_from(value).ok())
                .ok_or_else(|| BindError::Expression {
                    place: place(),
                    expression: name.clone(),
                    reason: "no bound port has this dimension".into(),
                    arithmetic: vec![],
                }),
        }
    }
}

/// The value of an option, or the end of the sentence "option `x` ..".
fn option_value(decl: &OptionDecl, set: Option<&Value>) -> Result<Value, String> {
    let missing = || "must be set".to_string();
    let wrong = |wanted: &str, value: &Value| format!("must be {wanted}, got {value}");
    match decl {
        OptionDecl::Int { default, min, max } => {
            let value = match set {
                Some(value) => value.as_int().ok_or_else(|| wrong("an integer", value))?,
                None => default.ok_or_else(missing)?,
            };
            if value < *min || value > *max {
                return Err(format!("must be from {min} to {max}, got {value}"));
            }
            Ok(Value::Int(value))
        }
        OptionDecl::Float { default } => {
            let value = match set {
                Some(value) => value.as_float().ok_or_else(|| wrong("a number", value))?,
                None => default.ok_or_else(missing)?,
            };
            Ok(Value::Float(value))
        }
        OptionDecl::Bool { default } => {
            let value = match set {
                Some(value) => value
                    .as_bool()
                    .ok_or_else(|| wrong("true or false", value))?,
                None => *default,
            };
            Ok(Value::Bool(value))
        }
        OptionDecl::Choice { of, default } => {
            let value = match set {
                Some(value) => value.as_text().ok_or_else(|| wrong("a choice", value))?,
                None => default,
            };
            if !of.iter().any(|choice| choice == value) {
                return Err(format!("must be one of {}, got `{value}`", of.join(", ")));
            }
            Ok(Value::Text(value.into()))
        }
    }
}

/// The leading item of a port's pattern, if it has one, and the others.
fn split(port: &Port) -> (Option<&str>, &[ShapeItem]) {
    match port.shape.split_first() {
        Some((ShapeItem::Leading(name), rest)) => (Some(name), rest),
        _ => (None, &port.shape),
    }
}

fn product(shape: &[u64]) -> Option<i64> {
    let product = shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))?;
    i64::try_from(product).ok()
}

fn list(types: &[DType]) -> String {
    types
        .iter()
        .map(DType::to_string)
        .collect::<Vec<_>>()
        .join(" or ")
}

/// `[32, 384]`.
pub fn shape_text(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Unbound => f.write_str("nothing"),
            Given::Read(dtype, shape) => write!(f, "{dtype} {}", shape_text(shape)),
            Given::Written => f.write_str("a new value"),
        }
    }
}
