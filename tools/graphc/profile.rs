//! `graphc profile`: where the time of a forward pass goes, pass by pass, beside what the device could do.

use std::collections::BTreeMap;
use std::path::PathBuf;

use graphc::plan::Plan;
use graphc::report::page::page;
use graphc::report::text::{self, Shape};
use graphc::report::trace::{Traced, trace};
use graphc::report::{Profile, Setting};
use graphc::span::{SourceMap, Sources as _};

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::failed;
use crate::output;
use crate::samples::{Measured, measure};
use crate::subject::{Subject, SubjectArgs};

/// Arguments of `profile`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc profile --model minilm --entry batch=32,seq=128 --dtype f16\n  \
    graphc profile graphs/models/bert.ron --set layers=2 --set d_model=64 ... --entry batch=4,seq=16 --by wave\n  \
    graphc profile --model minilm --format json > before.json   (`graphc diff` compares two of them)\n\n\
    Per wave is what production runs, with a timestamp between each two waves. Per pass runs the same passes one after \
    another, so that each can be told from its neighbours; its sum is larger than the whole where passes would \
    have overlapped.")]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Forwards that are measured of each recording
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// What stands in the lines of the table
    #[arg(long, value_name = "WHAT", default_value = "pass", value_parser = ["pass", "wave"])]
    by: String,
    /// Every pass on its own in the order of recording, instead of all layers together
    #[arg(long)]
    unfold: bool,
    /// The form of the result
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json", "csv"])]
    format: String,
    /// Also write a trace for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Also write a page that shows graph, memory, times and roofline together
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Measures and prints.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    for path in args.trace.iter().chain(&args.html) {
        output::writable(path)?;
    }
    let Subject {
        mut session,
        plan,
        random_weights,
        chosen,
        map,
    } = args.subject.open(context)?;
    let target = args.subject.target(context)?;
    let setting = Setting {
        device: target.info.name.clone(),
        driver: target.info.driver.clone(),
        random_weights,
        roofs: target.profile.roofs.clone(),
    };
    let shape = Shape {
        waves: args.by == "wave",
        unfolded: args.unfold,
    };
    let bar = context.bar(chosen.len() as u64, "measuring");
    let mut profiles: Vec<(usize, Profile, Measured)> = Vec::new();
    for index in chosen {
        let measured =
            measure(&mut session, &plan, index, args.runs, args.subject.context).map_err(failed)?;
        let profile = Profile::new(
            &plan,
            &plan.entries[index],
            setting.clone(),
            &measured.samples,
        )
        .map_err(Failure::failed)?;
        bar.inc(1);
        profiles.push((index, profile, measured));
    }
    bar.finish_and_clear();
    for (number, (_, profile, _)) in profiles.iter().enumerate() {
        output::print(&printed(&args, profile, shape, number > 0)?)?;
    }
    if let Some(path) = &args.trace {
        let traced: Vec<Traced<'_>> = profiles
            .iter()
            .map(|(index, profile, measured)| Traced {
                entry: &plan.entries[*index],
                profile,
                waves: &measured.waves,
                passes: &measured.passes,
            })
            .collect();
        let text = serde_json::to_string(&trace(&traced)).map_err(Failure::failed)?;
        output::write(path, text.as_bytes())?;
        context.say(&format!(
            "wrote `{}`; ui.perfetto.dev opens it",
            path.display()
        ));
    }
    if let Some(path) = &args.html {
        let entries: Vec<_> = profiles
            .iter()
            .map(|(index, profile, _)| (&plan.entries[*index], profile))
            .collect();
        let sources = sources(&map, &plan, context);
        output::write(path, page(&plan, &entries, &sources).as_bytes())?;
        context.say(&format!("wrote `{}`", path.display()));
    }
    Ok(())
}

/// The texts that the plan was made from; of a plan file those that are still below the root.
fn sources(map: &SourceMap, plan: &Plan, context: &Context) -> BTreeMap<String, String> {
    if !map.files().is_empty() {
        let files = map.files().iter();
        return files
            .map(|file| (file.path.clone(), file.text.clone()))
            .collect();
    }
    let Ok(below) = context.sources() else {
        return BTreeMap::new();
    };
    let read = |path: &String| Some((path.clone(), below.read(path).ok()?));
    plan.sources.iter().filter_map(read).collect()
}

/// One entry's report; JSON is one object for each entry, one after another.
fn printed(args: &Args, profile: &Profile, shape: Shape, later: bool) -> Result<String, Failure> {
    Ok(match args.format.as_str() {
        "json" => serde_json::to_string_pretty(profile).map_err(Failure::failed)? + "\n",
        "csv" => text::csv(profile, shape),
        _ if later => format!("\n{}", text::table(profile, shape)),
        _ => text::table(profile, shape),
    })
}
