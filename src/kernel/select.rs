//! Chooses the variant of a kernel that a device runs, and evaluates everything about it that a recording freezes:
//! specialisation constants, workgroup size and count, push constant bytes.
//!
//! In: a manifest, the sizes of one pass ([`Binding`]) and a device as data. Out: [`Selected`], or why each variant
//! is not possible. A pure function: the same device and sizes give the same choice.

mod defines;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};

use self::defines::{defines, label};
use self::refusal::{NoValue, Reason, Refusal};
use super::scope::type_values;
use super::{Binding, Manifest, Port, PushField, Variant};
use crate::codes::kernel as code;
use crate::device::{DeviceProfile, Feature, Limits};
use crate::diag::{Diagnostic, nearest};
use crate::dtype::DType;
use crate::expr::{Expr, Value};

/// Names that a variant's expressions may use beside dims and options: properties of the device.
/// `compute_units` is 0 where it is not known.
pub const DEVICE_NAMES: [&str; 2] = ["subgroup_size", "compute_units"];

/// A variant with every choice made.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// The kernel's name.
    pub kernel: String,
    /// The variant's name.
    pub variant: String,
    /// Distinguishes instances for people, for example `f16 bias gelu`.
    pub label: String,
    /// GLSL file under `shaders/`.
    pub shader: String,
    /// Preprocessor definitions in the order in which the shader sees them.
    pub defines: Vec<(String, String)>,
    /// Specialisation constants: id and value.
    pub spec: Vec<(u32, u32)>,
    /// Workgroup size.
    pub local_size: [u32; 3],
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// Push constant bytes.
    pub push: Vec<u8>,
    /// Shared memory in bytes, if the manifest says.
    pub shared_bytes: Option<u64>,
    /// Floating-point operations.
    pub flops: u64,
    /// Elements that it touches of bindings that it does not touch as a whole.
    pub touched: BTreeMap<u32, u64>,
    /// Features that it needs, those for 16-bit and 8-bit storage included.
    pub needs: BTreeSet<Feature>,
    /// Whether the pipeline must be made with full subgroups of the device's subgroup size.
    pub full_subgroups: bool,
    /// Whether the matrix units do the work.
    pub matrix: bool,
    /// If the module waits for the pass before it, where it is told to: the ports that it has from before its chain.
    pub relays: Option<Vec<u32>>,
}

/// Names and values that a manifest's expressions see: dims, options, type variables with their bits and groups,
/// `has_<port>`.
pub fn environment(manifest: &Manifest, binding: &Binding) -> BTreeMap<String, Value> {
    let dims = binding
        .dims
        .iter()
        .map(|(name, size)| (name.clone(), Value::Int(*size)));
    let types = binding
        .types
        .iter()
        .flat_map(|(name, dtype)| type_values(name, *dtype));
    let options = binding
        .options
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let ports = bound(manifest, binding);
    let has =
        ports.map(|(_, port, bound)| (format!("has_{}", port.name), Value::Bool(bound.is_some())));
    dims.chain(types).chain(options).chain(has).collect()
}

type BoundPort = Option<(DType, Vec<u64>)>;

fn bound<'a>(
    manifest: &'a Manifest,
    binding: &'a Binding,
) -> impl Iterator<Item = (usize, &'a Port, &'a BoundPort)> {
    let ports = manifest.ports.iter().zip(&binding.ports).enumerate();
    ports.map(|(index, (port, bound))| (index, port, bound))
}

/// The best variant for these sizes on this device. `forced` names a variant (a test, a user) and then only that
/// one is looked at; otherwise the profile's choices come first, then the manifest's own preference. A variant that the
/// device and `when` allow, but one of whose expressions has no value, is a mistake of its manifest and no variant to pass
/// over.
pub fn select(
    manifest: &Manifest,
    binding: &Binding,
    profile: &DeviceProfile,
    forced: Option<&str>,
) -> Result<Selected, Diagnostic> {
    let selector = Selector {
        manifest,
        binding,
        profile,
        env: device_environment(manifest, binding, profile),
    };
    let forced = match forced {
        Some(name) => Some(selector.variant(name, "the variant asked for")?),
        None => None,
    };
    for choice in profile.choices.get(&manifest.name).into_iter().flatten() {
        if !selector.holds(choice.when.as_deref())? {
            continue;
        }
        let variant = selector.variant(
            &choice.variant,
            &format!("the choice of profile `{}`", profile.name),
        )?;
        selector.known_constants(variant, &choice.spec)?;
        if forced.is_some_and(|forced| forced.name != variant.name) {
            continue;
        }
        if let Ok(selected) = selector.attempt(variant, &choice.spec)? {
            return Ok(selected);
        }
    }
    if let Some(variant) = forced {
        return selector
            .attempt(variant, &BTreeMap::new())?
            .map_err(|reason| {
                let message = format!(
                    "kernel `{}` cannot run as variant `{}`: {reason}",
                    manifest.name, variant.name
                );
                Diagnostic::error(code::BAD_CHOICE, message)
            });
    }
    let mut order: Vec<&Variant> = manifest.variants.iter().collect();
    order.sort_by_key(|variant| std::cmp::Reverse(variant.prefer));
    let mut reasons = Vec::new();
    for variant in order {
        match selector.attempt(variant, &BTreeMap::new())? {
            Ok(selected) => return Ok(selected),
            Err(reason) => reasons.push(format!("variant `{}`: {reason}", variant.name)),
        }
    }
    let message = format!(
        "no variant of kernel `{}` can run these sizes on `{}`",
        manifest.name, profile.name
    );
    let mut diagnostic = Diagnostic::error(code::NO_VARIANT, message);
    diagnostic.notes = reasons;
    Err(diagnostic)
}

fn device_environment(
    manifest: &Manifest,
    binding: &Binding,
    profile: &DeviceProfile,
) -> BTreeMap<String, Value> {
    let mut env = environment(manifest, binding);
    let units = profile.limits.compute_units.unwrap_or(0);
    for (name, value) in DEVICE_NAMES
        .into_iter()
        .zip([profile.limits.subgroup_size, units])
    {
        env.insert(name.into(), Value::Int(value.into()));
    }
    env
}

struct Selector<'a> {
    manifest: &'a Manifest,
    binding: &'a Binding,
    profile: &'a DeviceProfile,
    env: BTreeMap<String, Value>,
}

impl<'a> Selector<'a> {
    fn variant(&self, name: &str, what: &str) -> Result<&'a Variant, Diagnostic> {
        let variants = &self.manifest.variants;
        variants
            .iter()
            .find(|variant| variant.name == name)
            .ok_or_else(|| {
                let message = format!(
                    "{what} is `{name}`, which kernel `{}` does not have",
                    self.manifest.name
                );
                let names: Vec<&str> = variants
                    .iter()
                    .map(|variant| variant.name.as_str())
                    .collect();
                let diagnostic = Diagnostic::error(code::BAD_CHOICE, message);
                match nearest(name, names.iter().copied()) {
                    Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                    None => diagnostic.help(format!("its variants are {}", names.join(", "))),
                }
            })
    }

    /// Whether a profile's condition holds.
    fn holds(&self, when: Option<&str>) -> Result<bool, Diagnostic> {
        let Some(text) = when else { return Ok(true) };
        let value = Expr::parse(text).and_then(|expr| expr.eval_bool(&self.env));
        value.map_err(|error| {
            let message = format!(
                "profile `{}` chooses for kernel `{}` when `{text}`: {error}",
                self.profile.name, self.manifest.name
            );
            Diagnostic::error(code::BAD_CHOICE, message)
        })
    }

    fn known_constants(
        &self,
        variant: &Variant,
        spec: &BTreeMap<String, u32>,
    ) -> Result<(), Diagnostic> {
        for (name, value) in spec {
            let constant = variant.spec.iter().find(|constant| constant.name == *name);
            let problem = match constant {
                None => format!(
                    "variant `{}` has no such specialisation constant",
                    variant.name
                ),
                Some(constant) if *value < constant.min || *value > constant.max => {
                    format!("it may be {} to {}", constant.min, constant.max)
                }
                Some(_) => continue,
            };
            let message = format!(
                "profile `{}` sets `{name}` of kernel `{}` to {value}, but {problem}",
                self.profile.name, self.manifest.name
            );
            return Err(Diagnostic::error(code::BAD_CHOICE, message));
        }
        Ok(())
    }

    /// The variant with every choice made, or why the device or these sizes rule it out.
    fn attempt(
        &self,
        variant: &Variant,
        chosen: &BTreeMap<String, u32>,
    ) -> Result<Result<Selected, Reason>, Diagnostic> {
        match self.instance(variant, chosen) {
            Ok(selected) => Ok(Ok(selected)),
            Err(Refusal::Impossible(reason)) => Ok(Err(reason)),
            Err(Refusal::NoValue(missing)) => Err(missing.diagnostic(variant, self.manifest)),
        }
    }

    fn instance(
        &self,
        variant: &Variant,
        chosen: &BTreeMap<String, u32>,
    ) -> Result<Selected, Refusal> {
        let mut needs = self.needs(variant);
        let lacking: Vec<&str> = needs
            .difference(&self.profile.features)
            .map(|feature| feature.name())
            .collect();
        if !lacking.is_empty() {
            return Err(format!("the device lacks {}", lacking.join(", ")).into());
        }
        if let Some(when) = &variant.when
            && !when
                .eval_bool(&self.env)
                .map_err(|error| NoValue::new("`when`", when, &error, &self.env))?
        {
            return Err(format!("`{when}` does not hold").into());
        }
        let relays = self.relays(variant)?;
        needs.extend(relays.as_ref().map(|_| Feature::Relay));
        let mut env = self.env.clone();
        let mut spec = Vec::new();
        for (id, constant) in (0u32..).zip(&variant.spec) {
            let value = match chosen.get(&constant.name) {
                Some(value) => i64::from(*value),
                None => constant.default.eval_int(&env).map_err(|error| {
                    let place = format!("the default of `{}`", constant.name);
                    NoValue::new(&place, &constant.default, &error, &env)
                })?,
            };
            let value = u32::try_from(value)
                .ok()
                .filter(|value| (constant.min..=constant.max).contains(value))
                .ok_or_else(|| {
                    format!(
                        "`{}` would be {value}, but may be {} to {}",
                        constant.name, constant.min, constant.max
                    )
                })?;
            env.insert(constant.name.clone(), Value::Int(value.into()));
            spec.push((id, value));
        }
        let mut defined = Vec::new();
        for (name, expr) in &variant.defines {
            let value = expr.eval(&env).map_err(|error| {
                NoValue::new(&format!("the definition `{name}`"), expr, &error, &env)
            })?;
            defined.push((name.clone(), value));
        }
        env.extend(defined.iter().cloned());
        let local_size = self.local_size(variant, &env)?;
        let groups = self.groups(variant, &env)?;
        let mut defines = defines(self.manifest, self.binding, &defined, local_size);
        defines.push(("RELAY".into(), u8::from(relays.is_some()).to_string()));
        let shared_bytes = match &variant.shared_bytes {
            Some(expr) => Some(
                expr.eval_size(&env)
                    .map_err(|error| NoValue::new("`shared_bytes`", expr, &error, &env))?,
            ),
            None => None,
        };
        self.within_limits(shared_bytes, relays.is_some())?;
        Ok(Selected {
            kernel: self.manifest.name.clone(),
            variant: variant.name.clone(),
            label: label(self.manifest, self.binding),
            shader: variant.shader.clone(),
            defines,
            spec,
            local_size,
            groups,
            push: self.push()?,
            shared_bytes,
            flops: match &self.manifest.flops {
                Some(expr) => expr
                    .eval_size(&env)
                    .map_err(|error| NoValue::new("`flops`", expr, &error, &env))?,
                None => 0,
            },
            touched: self.touched(&env)?,
            full_subgroups: [Feature::Subgroup32, Feature::SubgroupArithmetic]
                .iter()
                .any(|feature| needs.contains(feature)),
            matrix: needs.contains(&Feature::CoopmatF16),
            relays,
            needs,
        })
    }

    /// What the variant declares, and what the element types of its ports imply.
    fn needs(&self, variant: &Variant) -> BTreeSet<Feature> {
        let stored = self
            .binding
            .ports
            .iter()
            .flatten()
            .filter_map(|(dtype, _)| match dtype {
                DType::F16 | DType::Bf16 => Some(Feature::StorageF16),
                // Their scales.
                DType::Int8 | DType::Int4 | DType::Int8g64 | DType::Int4g128 => {
                    Some(Feature::StorageF16)
                }
                DType::I8 | DType::U8 => Some(Feature::StorageI8),
                DType::F32 | DType::I32 | DType::U32 => None,
            });
        let declared = variant.needs.iter().copied();
        declared.chain(stored).collect()
    }

    /// The ports that the variant has from before its chain, if it waits for the pass before it here.
    fn relays(&self, variant: &Variant) -> Result<Option<Vec<u32>>, NoValue> {
        let can = self.profile.features.contains(&Feature::Relay);
        let Some(relays) = variant.relays.as_ref().filter(|_| can) else {
            return Ok(None);
        };
        let wanted = match &relays.when {
            Some(when) => when
                .eval_bool(&self.env)
                .map_err(|error| NoValue::new("`when` of `relays`", when, &error, &self.env))?,
            None => true,
        };
        Ok(wanted.then(|| relays.before.clone()))
    }

    fn local_size(
        &self,
        variant: &Variant,
        env: &BTreeMap<String, Value>,
    ) -> Result<[u32; 3], Refusal> {
        let limits = &self.profile.limits;
        let size = sizes("`local_size`", &variant.local_size, env)?;
        if size
            .iter()
            .zip(limits.max_workgroup_size)
            .any(|(size, limit)| *size == 0 || *size > limit.into())
        {
            return Err(format!(
                "its workgroup of {size:?} is empty or exceeds the device's {:?}",
                limits.max_workgroup_size
            )
            .into());
        }
        let invocations: u64 = size.iter().product();
        if invocations > limits.max_invocations.into() {
            return Err(format!(
                "its workgroup of {invocations} invocations exceeds the device's {}",
                limits.max_invocations
            )
            .into());
        }
        Ok(size.map(|axis| axis as u32))
    }

    fn groups(
        &self,
        variant: &Variant,
        env: &BTreeMap<String, Value>,
    ) -> Result<[u32; 3], Refusal> {
        let counts = sizes("`dispatch`", &variant.dispatch, env)?;
        let folded = fold(counts, &self.profile.limits);
        folded.ok_or_else(|| {
            format!(
                "it takes {counts:?} workgroups, the device allows {:?}",
                self.profile.limits.max_workgroup_count
            )
            .into()
        })
    }

    fn within_limits(&self, shared: Option<u64>, relays: bool) -> Result<(), Reason> {
        let limits = &self.profile.limits;
        // Cells are bound beside the ports.
        let bindings = self.binding.ports.iter().flatten().count() as u64 + u64::from(relays);
        let push = u64::from(super::push_size(
            4 * self.manifest.push.len() as u32,
            relays,
        ));
        let rules = [
            (
                "bytes of shared memory",
                shared.unwrap_or(0),
                limits.max_shared_memory,
            ),
            (
                "storage buffers",
                bindings,
                limits.max_storage_buffers.into(),
            ),
            (
                "bytes of push constants",
                push,
                limits.max_push_constants.into(),
            ),
        ];
        match rules.into_iter().find(|(_, wanted, limit)| wanted > limit) {
            Some((what, wanted, limit)) => {
                Err(format!("it takes {wanted} {what}, the device has {limit}"))
            }
            None => Ok(()),
        }
    }

    fn touched(&self, env: &BTreeMap<String, Value>) -> Result<BTreeMap<u32, u64>, NoValue> {
        let touched = self.manifest.touched.iter();
        touched
            .map(|(port, expr)| {
                let elements = expr.eval_size(env);
                let missing = |error| NoValue::new("`touched`", expr, &error, env);
                Ok((*port, elements.map_err(missing)?))
            })
            .collect()
    }

    fn push(&self) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::with_capacity(4 * self.manifest.push.len());
        for field in &self.manifest.push {
            bytes.extend(push_bytes(field, &self.env)?);
        }
        Ok(bytes)
    }
}

fn sizes(
    place: &str,
    exprs: &[Expr; 3],
    env: &BTreeMap<String, Value>,
) -> Result<[u64; 3], NoValue> {
    let mut sizes = [0; 3];
    for (size, expr) in sizes.iter_mut().zip(exprs) {
        *size = expr
            .eval_size(env)
            .map_err(|error| NoValue::new(place, expr, &error, env))?;
    }
    Ok(sizes)
}

/// Workgroup counts within the limits. Counts along one axis only may be folded into two: a shader that is
/// dispatched so takes its number from `gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x` and ignores
/// numbers past the end.
fn fold(counts: [u64; 3], limits: &Limits) -> Option<[u32; 3]> {
    let limit = limits.max_workgroup_count.map(u64::from);
    let mut folded = counts;
    if let [many, 1, 1] = counts
        && many > limit[0]
        && limit[0] > 0
    {
        let rows = many.div_ceil(limit[0]);
        folded = [many.div_ceil(rows), rows, 1];
    }
    let fits = folded
        .iter()
        .zip(limit)
        .all(|(count, limit)| *count > 0 && *count <= limit);
    fits.then(|| folded.map(|count| count as u32))
}

fn push_bytes(field: &PushField, env: &BTreeMap<String, Value>) -> Result<[u8; 4], Refusal> {
    let value = field.value.eval(env).map_err(|error| {
        let place = format!("push constant `{}`", field.name);
        NoValue::new(&place, &field.value, &error, env)
    })?;
    let wrong = || {
        Refusal::from(format!(
            "push constant `{}` is {value}, which is no {}",
            field.name, field.dtype
        ))
    };
    match field.dtype {
        DType::F32 => value
            .as_float()
            .map(|number| (number as f32).to_le_bytes())
            .ok_or_else(wrong),
        DType::I32 => {
            let number = value.as_int().and_then(|number| i32::try_from(number).ok());
            number.map(i32::to_le_bytes).ok_or_else(wrong)
        }
        _ => {
            let number = value.as_int().and_then(|number| u32::try_from(number).ok());
            number.map(u32::to_le_bytes).ok_or_else(wrong)
        }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
