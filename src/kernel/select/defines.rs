//! What a shader is told of an instance by the preprocessor, and what a person is told of it by its label.

use super::bound;
use crate::dtype::DType;
use crate::expr::Value;
use crate::kernel::{Binding, Manifest, OptionDecl, PortType};

/// `f16 bias gelu`: element types, bound optional ports, choices that differ from their default.
pub(super) fn label(manifest: &Manifest, binding: &Binding) -> String {
    let mut words: Vec<&str> = Vec::new();
    let used = |name: &String| {
        let mut ports = bound(manifest, binding).filter(|(_, _, bound)| bound.is_some());
        ports.any(|(_, port, _)| matches!(&port.dtype, PortType::Var(variable) if variable == name))
    };
    for (_, dtype) in binding.types.iter().filter(|(name, _)| used(name)) {
        if !words.contains(&dtype.name()) {
            words.push(dtype.name());
        }
    }
    for (_, port, bound) in bound(manifest, binding) {
        if port.optional && bound.is_some() {
            words.push(&port.name);
        }
    }
    for (name, decl) in &manifest.options {
        if let (OptionDecl::Choice { default, .. }, Some(Value::Text(value))) =
            (decl, binding.options.get(name))
            && value != default
        {
            words.push(value);
        }
    }
    words.join(" ")
}

/// The definitions that every shader of the kernel sees: types, options, ports, then the variant's own and the
/// workgroup size (`LOCAL_X`, `LOCAL_Y`, `LOCAL_Z`).
pub(super) fn defines(
    manifest: &Manifest,
    binding: &Binding,
    own: &[(String, Value)],
    local_size: [u32; 3],
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, dtype) in &binding.types {
        out.push((name.clone(), glsl_type(*dtype).to_string()));
        // Shaders see the same integers in all sizes of groups, and that size beside it.
        for other in DType::ALL.into_iter().filter(|one| one.narrow() == *one) {
            let flag = format!("{name}_{}", other.name().to_uppercase());
            out.push((flag, u8::from(dtype.narrow() == other).to_string()));
        }
        out.push((format!("{name}_GROUP"), dtype.group().to_string()));
    }
    for (name, decl) in &manifest.options {
        let upper = name.to_uppercase();
        match (decl, binding.options.get(name)) {
            (OptionDecl::Choice { of, .. }, Some(Value::Text(value))) => {
                for (number, choice) in of.iter().enumerate() {
                    out.push((
                        format!("{upper}_{}", choice.to_uppercase()),
                        number.to_string(),
                    ));
                }
                out.push((upper.clone(), format!("{upper}_{}", value.to_uppercase())));
            }
            (_, Some(Value::Int(value))) => out.push((format!("OPT_{upper}"), value.to_string())),
            (_, Some(Value::Bool(value))) => {
                out.push((format!("OPT_{upper}"), u8::from(*value).to_string()))
            }
            _ => {}
        }
    }
    for (index, port, bound) in bound(manifest, binding) {
        let upper = port.name.to_uppercase();
        out.push((
            format!("HAS_{upper}"),
            u8::from(bound.is_some()).to_string(),
        ));
        out.push((format!("BIND_{upper}"), index.to_string()));
    }
    for (name, value) in own {
        let text = match value {
            Value::Bool(value) => u8::from(*value).to_string(),
            value => value.to_string(),
        };
        out.push((name.clone(), text));
    }
    for (axis, size) in ["X", "Y", "Z"].into_iter().zip(local_size) {
        out.push((format!("LOCAL_{axis}"), size.to_string()));
    }
    out
}

fn glsl_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 => "float16_t",
        DType::Bf16 => "uint16_t",
        DType::I32 => "int",
        DType::U32 => "uint",
        DType::I8 => "int8_t",
        DType::U8 => "uint8_t",
        // Sixteen bytes of them at a time; see `W_INT8`.
        DType::Int8 | DType::Int4 | DType::Int8g64 | DType::Int4g128 => "uvec4",
    }
}
