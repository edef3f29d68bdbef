//! `graphc devices`: each Vulkan device, what it lacks and what that costs.

use std::fmt::Write as _;

use graphc::vk::device::{self, DeviceInfo};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::{model, output};

/// Arguments of `devices`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON: everything that is known about each device
    #[arg(long)]
    json: bool,
}

/// Lists them.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut all = device::list().map_err(|error| Failure::coded(error.code(), &error))?;
    // Devices are there without graphs and profiles, too.
    if let Ok(sources) = context.sources() {
        for info in &mut all {
            info.profile.features = model::tuned(info, &sources)?.features;
        }
    }
    if args.json {
        let list: Vec<_> = all.iter().map(json_of).collect();
        let text = serde_json::to_string_pretty(&list).map_err(Failure::failed)?;
        return output::print(&format!("{text}\n"));
    }
    let texts: Vec<String> = all.iter().map(text_of).collect();
    output::print(&texts.join("\n"))
}

fn json_of(info: &DeviceInfo) -> serde_json::Value {
    let missing: Vec<_> = info
        .missing()
        .map(|(feature, cost)| json!({ "feature": feature.name(), "cost": cost }))
        .collect();
    let mut value = json!(info);
    value["missing"] = json!(missing);
    value
}

fn text_of(info: &DeviceInfo) -> String {
    let limits = &info.profile.limits;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut text = format!("{}: {} ({})\n", info.index, info.name, info.kind.words());
    let mut line = |name: &str, value: String| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "   {name:<10} {value}");
    };
    line("uuid", info.uuid.clone());
    line("driver", format!("{}, Vulkan {}", info.driver, info.vulkan));
    let place = if info.memory_host_visible {
        "all written in place"
    } else {
        "weights go through a staging buffer"
    };
    line(
        "memory",
        format!("{:.1} GiB, {place}", gib(info.memory_bytes)),
    );
    line(
        "limits",
        format!(
            "{:.3} GiB a binding, {:.1} GiB an allocation, {} KiB shared memory, subgroups of {}",
            gib(limits.max_storage_buffer_range),
            gib(limits.max_allocation),
            limits.max_shared_memory / 1024,
            limits.subgroup_size
        ),
    );
    let features: Vec<_> = info.profile.features.iter().map(|f| f.name()).collect();
    line("has", features.join(", "));
    for (feature, cost) in info.missing() {
        line("lacks", format!("{}: {cost}", feature.name()));
    }
    for reason in &info.unusable {
        line("unusable", reason.clone());
    }
    text
}
