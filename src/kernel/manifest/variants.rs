//! The variants of a manifest: shaders with what they need of a device, their specialisation constants and sizes. One
//! of them runs on any device.

use std::collections::BTreeMap;

use super::Reader;
use crate::codes::kernel as code;
use crate::device::Feature;
use crate::kernel::scope::Scope;
use crate::kernel::syntax::{RawKernel, RawPort, RawSpec, RawVariant};
use crate::kernel::{Relays, SpecConst, Variant, select};
use crate::text::ast::Name;

impl Reader {
    pub(super) fn variants(&mut self, raw: &RawKernel, scope: &Scope) -> Vec<Variant> {
        let mut names: Vec<&str> = Vec::new();
        for variant in &raw.variants {
            if names.contains(&variant.name.value.as_str()) {
                let message = format!(
                    "kernel `{}` has two variants named `{}`",
                    raw.name.value, variant.name.value
                );
                self.report(code::DUPLICATE, &variant.name, message, None);
            }
            names.push(&variant.name.value);
        }
        if !raw
            .variants
            .iter()
            .any(|variant| variant.needs.is_empty() && variant.when.is_none())
        {
            let message = format!(
                "kernel `{}` has no variant that runs on any device",
                raw.name.value
            );
            let help = "one variant must have neither `needs` nor `when`".to_string();
            self.report(code::NO_PLAIN_VARIANT, &raw.name, message, Some(help));
        }
        raw.variants
            .iter()
            .map(|variant| self.variant(variant, &raw.ports, scope))
            .collect()
    }

    /// The numbers of the ports that a variant has from before its chain.
    fn early(&mut self, names: &[Name], ports: &[(Name, RawPort)]) -> Vec<u32> {
        let mut numbers = Vec::new();
        for name in names {
            let known = ports.iter().position(|(port, _)| port.value == name.value);
            match known {
                Some(number)
                    if matches!(ports[number].1, RawPort::Read(_) | RawPort::ReadWrite(_)) =>
                {
                    numbers.push(number as u32)
                }
                _ => self.inconsistent(
                    name,
                    format!(
                        "`relays` names `{}`, which is no port that is read",
                        name.value
                    ),
                ),
            }
        }
        numbers
    }

    fn variant(
        &mut self,
        raw: &RawVariant,
        raw_ports: &[(Name, RawPort)],
        outer: &Scope,
    ) -> Variant {
        if !raw.shader.value.ends_with(".comp") || raw.shader.value.contains("..") {
            self.inconsistent(
                &raw.shader,
                format!(
                    "`{}` is not the name of a compute shader (`.comp`) under `shaders/`",
                    raw.shader.value
                ),
            );
        }
        let needs = raw
            .needs
            .iter()
            .filter_map(|text| self.feature(text))
            .collect();
        let mut scope = outer.clone();
        self.define_device_names(&raw.name, &mut scope);
        let when = raw.when.as_ref().map(|text| self.expr(text, &scope));
        let mut spec = Vec::new();
        for (name, decl) in &raw.spec {
            if let Some(constant) = self.spec(name, decl, &scope) {
                spec.push(constant);
            }
            self.define(name, &mut scope, "a specialisation constant");
        }
        let mut defines = BTreeMap::new();
        for (name, text) in &raw.defines {
            defines.insert(name.value.clone(), self.expr(text, &scope));
        }
        for (name, _) in &raw.defines {
            self.define(name, &mut scope, "a definition");
        }
        let shared_bytes = raw
            .shared_bytes
            .as_ref()
            .map(|text| self.expr(text, &scope));
        let relays = raw.relays.as_ref().map(|relays| Relays {
            before: self.early(&relays.before, raw_ports),
            when: relays.when.as_ref().map(|text| self.expr(text, outer)),
        });
        Variant {
            name: raw.name.value.clone(),
            shader: raw.shader.value.clone(),
            needs,
            when,
            prefer: raw.prefer,
            spec,
            defines,
            local_size: [0, 1, 2].map(|axis| self.expr(&raw.local_size[axis], &scope)),
            dispatch: [0, 1, 2].map(|axis| self.expr(&raw.dispatch[axis], &scope)),
            shared_bytes,
            relays,
        }
    }

    fn define_device_names(&mut self, at: &Name, scope: &mut Scope) {
        for name in select::DEVICE_NAMES {
            if let Err(other) = scope.define(name, "a property of the device") {
                self.report(
                    code::DUPLICATE,
                    at,
                    format!("`{name}` is {other}, but the name is taken by the device's property"),
                    None,
                );
            }
        }
    }

    fn feature(&mut self, text: &Name) -> Option<Feature> {
        let feature = Feature::ALL
            .into_iter()
            .find(|feature| feature.name() == text.value);
        if feature.is_none() {
            let help = format!(
                "features are {}",
                Feature::ALL.map(Feature::name).join(", ")
            );
            self.report(
                code::INCONSISTENT,
                text,
                format!("`{}` is no device feature", text.value),
                Some(help),
            );
        }
        feature
    }

    fn spec(&mut self, name: &Name, raw: &RawSpec, scope: &Scope) -> Option<SpecConst> {
        let default = self.expr(&raw.default, scope);
        let (min, max) = (
            self.number(&raw.min, "a size")?,
            self.number(&raw.max, "a size")?,
        );
        if min > max {
            self.inconsistent(
                &raw.min,
                format!("`{}` allows {min} to {max}, which is empty", name.value),
            );
        }
        Some(SpecConst {
            name: name.value.clone(),
            default,
            min,
            max,
        })
    }
}
