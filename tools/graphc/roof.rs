//! `graphc roof`: what a device can do at best, measured in seconds and written to its profile.
//!
//! The kernels are ordinary ones under `shaders/roof`, the graphs are written here: big reads and copies, chains of
//! products in registers, chains of passes with next to nothing to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graphc::compile::{Job, compile};
use graphc::device::{DeviceProfile, Feature, Roofs};
use graphc::graph::Request;
use graphc::plan::{Plan, Weight};
use graphc::report::Spread;
use graphc::report::text::{flops, rate, time};
use graphc::run::{Progress, RunError, Session, SessionOptions, Timing};
use graphc::span::{SourceError, SourceMap, Sources};
use graphc::vk::device::{DeviceInfo, DeviceKind, describe};
use graphc::{profile, sources::FsSources};

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::{failed, forward, warm_up};
use crate::{model, output, shaders};

/// The largest profile that is read.
const MAX_PROFILE_BYTES: u64 = 16 << 20;

/// Arguments of `roof`.
#[derive(clap::Args)]
#[command(
    after_help = "The file's limits, tuned choices and comments stay as they are; only its roofs are replaced, and the \
    features that a device cannot be asked about (coopmat_lanes). \
    Run it while the device has nothing else to do."
)]
pub struct Args {
    /// Device: a number, a part of the name, or a UUID (see `graphc devices`)
    #[arg(
        long,
        value_name = "N|NAME|UUID",
        env = "GRAPHC_DEVICE",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    device: Option<String>,
    /// Where the profile goes; `-` is standard output [default: profiles/devices/<device>.ron below the root]
    #[arg(long, short, value_name = "FILE.ron")]
    output: Option<PathBuf>,
    /// Print the profile instead of writing it
    #[arg(long, conflicts_with = "output")]
    dry_run: bool,
    /// Forwards of each measurement
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

/// Measures and writes.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let info =
        describe(args.device.as_deref()).map_err(|error| Failure::coded(error.code(), &error))?;
    let sources = context.sources()?;
    let tuned = model::tuned(&info, &sources)?;
    let (name, default) = profile_file(&info, &tuned, &sources);
    let path = args.output.clone().unwrap_or(default);
    // What stands in the way of the result is said before the minutes that it takes.
    let here = existing(&path)?;
    if !args.dry_run {
        output::writable(&path)?;
    }
    let bench = Bench {
        context,
        sources: &sources,
        info: &info,
        profile: &tuned,
        runs: args.runs,
        device: args.device.clone(),
    };
    let roofs = bench.roofs()?;
    let mut features = info.profile.features.clone();
    if bench.lanes()? {
        features.insert(Feature::CoopmatLanes);
    }
    let note = format!(
        "Measured by `graphc roof` on {} ({}).",
        info.name, info.driver
    );
    let text = match here {
        Some(text) => profile::edit::with_roofs(&text, &roofs, &note)
            .and_then(|text| profile::edit::with_measured_features(&text, &features))
            .map_err(|error| Failure::bad_input(format!("`{}`: {error}", path.display())))?,
        None => profile::edit::fresh(
            &DeviceProfile {
                name,
                roofs,
                features,
                ..tuned.clone()
            },
            &note,
        ),
    };
    if args.dry_run {
        return output::print(&text);
    }
    output::write(&path, text.as_bytes())?;
    context.say(&format!("wrote `{}`", path.display()));
    Ok(())
}

/// The text of the profile at this path, if there is a file. One that is no profile is an error: what it holds could not be
/// kept.
pub fn existing(path: &Path) -> Result<Option<String>, Failure> {
    // A device or a pipe holds no profile to begin with.
    if std::fs::metadata(path).map_or_else(
        |error| error.kind() == std::io::ErrorKind::NotFound,
        |found| !found.is_file() && !found.is_dir(),
    ) {
        return Ok(None);
    }
    let bytes =
        graphc::weights::read_bounded(path, MAX_PROFILE_BYTES).map_err(Failure::bad_input)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        Failure::bad_input(format!(
            "`{}` is not UTF-8 (its byte {at} is not), so what it holds could not be kept",
            path.display()
        ))
    })?;
    match profile::edit::with_choices(&text, &[]) {
        Ok(_) => Ok(Some(text)),
        Err(error) => Err(Failure::bad_input(format!("`{}`: {error}", path.display()))),
    }
}

/// The name and the file of the device's profile: that of the profile which describes it, else a new one.
pub fn profile_file(
    info: &DeviceInfo,
    tuned: &DeviceProfile,
    sources: &FsSources,
) -> (String, PathBuf) {
    let known = tuned.name != info.profile.name && profile::names(sources).contains(&tuned.name);
    let name = match known {
        true => tuned.name.clone(),
        false => profile::edit::file_name(&info.name),
    };
    let path = sources
        .root()
        .join(format!("{}/{name}.ron", profile::FOLDER));
    (name, path)
}

/// The repository with the kernels of `shaders/roof`, and one graph.
struct Probe<'a> {
    inner: &'a FsSources,
    graph: &'a str,
}

const GRAPH: &str = "roof.ron";

impl Sources for Probe<'_> {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        match path {
            GRAPH => Ok(self.graph.to_string()),
            path => self.inner.read(path),
        }
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        match path {
            "shaders" => self.inner.list("shaders/roof"),
            path => self.inner.list(path),
        }
    }
}

/// A graph file: weights, passes, outputs.
#[derive(Default)]
struct Graph {
    /// Fields beside the body.
    fields: String,
    body: String,
    outputs: Vec<String>,
}

impl Graph {
    fn weight(&mut self, name: &str, dtype: &str, shape: &str) {
        self.body += &format!(
            "Weight(name: \"{name}\", dtype: \"{dtype}\", shape: [{shape}], from: Tensor(\"{name}\")),\n"
        );
    }

    fn pass(&mut self, name: &str, kernel: &str, input: &str, output: &str, set: &str) {
        self.body += &format!(
            "Pass(name: \"{name}\", kernel: \"{kernel}\", in: {{ {input} }}, out: {{ \"y\": \"{output}\" }}, set: {{ {set} }}),\n"
        );
    }

    fn output(&mut self, name: impl Into<String>) {
        self.outputs.push(format!("\"{}\"", name.into()));
    }

    fn text(&self) -> String {
        format!(
            "Graph(name: \"roof\", {}body: [\n{}], outputs: [{}])\n",
            self.fields,
            self.body,
            self.outputs.join(", ")
        )
    }
}

/// Nanoseconds of forwards of one graph.
struct Times {
    device: f64,
    wall: f64,
}

struct Bench<'a> {
    context: &'a Context,
    sources: &'a FsSources,
    info: &'a DeviceInfo,
    profile: &'a DeviceProfile,
    runs: u32,
    device: Option<String>,
}

/// A measurement of arithmetic lasts about this long, in nanoseconds.
const LONG: f64 = 5e6;

impl Bench<'_> {
    fn roofs(&self) -> Result<Roofs, Failure> {
        let features = &self.profile.features;
        let say = |what: &str, value: String| self.context.say(&format!("{what:<28} {value}"));
        let (read, copy) = self.memory()?;
        say("read", format!("{} a second", rate(read)));
        say("copy, both counted", format!("{} a second", rate(copy)));
        let f32_flops = self.arithmetic("f32")?;
        say("arithmetic, f32", flops(f32_flops));
        let f16_flops = match features.contains(&Feature::ArithmeticF16) {
            true => Some(self.arithmetic("f16")?),
            false => None,
        };
        f16_flops
            .iter()
            .for_each(|rate| say("arithmetic, f16", flops(*rate)));
        let matrix =
            features.contains(&Feature::CoopmatF16) && features.contains(&Feature::Subgroup32);
        let matrix = match matrix {
            true => Some(self.matrix()?),
            false => None,
        };
        matrix
            .iter()
            .for_each(|rate| say("matrix units, f16 to f32", flops(*rate)));
        let (dependent, independent, submit) = self.launches()?;
        say("dependent pass", time(dependent * 1e6));
        say("independent pass", time(independent * 1e6));
        say("submit until its end is known", time(submit * 1e6));
        let guard = self.guard()?;
        say("asking a guard", time(guard * 1e6));
        Ok(Roofs {
            read_bytes_per_s: Some(rounded(read)),
            matrix_f16_flops: matrix.map(rounded),
            f32_flops: Some(rounded(f32_flops)),
            dependent_pass_s: Some(rounded(dependent)),
            copy_bytes_per_s: Some(rounded(copy)),
            f16_flops: f16_flops.map(rounded),
            // Nothing at all cannot be written down as a speed.
            independent_pass_s: (independent > 0.0).then(|| rounded(independent)),
            guard_s: (guard > 0.0).then(|| rounded(guard)),
            submit_s: Some(rounded(submit)),
        })
    }

    /// Bytes a second of reads, and of copies with reads and writes counted.
    fn memory(&self) -> Result<(f64, f64), Failure> {
        let limits = &self.profile.limits;
        let cpu = self.info.kind == DeviceKind::Cpu;
        // More than any cache holds, in several buffers because one may not be larger than the device can bind.
        let total: u64 = if cpu { 256 << 20 } else { 4 << 30 };
        let total = total.min(self.info.memory_bytes / 4).max(64 << 20);
        let largest = limits.max_storage_buffer_range.min(limits.max_allocation) / 2;
        let each = largest.clamp(1 << 20, 1 << 30).min(total);
        let each = 1u64 << each.ilog2();
        let (elements, parts) = (each / 4, (each / 4096).min(1 << 18));
        let mut reads = Graph::default();
        let mut copies = Graph::default();
        let count = (total / each).max(1);
        for index in 0..count {
            let (x, read) = (format!("big{index}"), format!("sum{index}"));
            let set = format!("\"parts\": \"{parts}\"");
            reads.weight(&x, "f32", &format!("\"{elements}\""));
            reads.pass(
                &format!("read{index}"),
                "roof_read",
                &format!("\"x\": \"{x}\""),
                &read,
                &set,
            );
            reads.output(&read);
            copies.weight(&x, "f32", &format!("\"{elements}\""));
            copies.pass(
                &format!("copy{index}"),
                "roof_copy",
                &format!("\"x\": \"{x}\""),
                &format!("c{index}"),
                "",
            );
            copies.pass(
                &format!("read{index}"),
                "roof_read",
                &format!("\"x\": \"c{index}\""),
                &read,
                &set,
            );
            copies.output(&read);
        }
        let bytes = (count * each) as f64;
        let read = self.first_wave(&reads)?;
        let copy = self.first_wave(&copies)?;
        Ok((bytes / (read * 1e-9), 2.0 * bytes / (copy * 1e-9)))
    }

    /// Plain arithmetic in FLOP a second.
    fn arithmetic(&self, dtype: &str) -> Result<f64, Failure> {
        let n = 2048 * u64::from(self.profile.limits.compute_units.unwrap_or(16));
        self.rate(64.0 * n as f64, |rounds| {
            let mut graph = Graph::default();
            graph.weight("x", dtype, &format!("\"{n}\""));
            graph.weight("u", dtype, &format!("\"{n}\""));
            graph.pass(
                "multiply",
                "roof_multiply",
                "\"x\": \"x\", \"u\": \"u\"",
                "y",
                &format!("\"rounds\": \"{rounds}\""),
            );
            graph.output("y");
            graph
        })
    }

    /// Matrix units in FLOP a second.
    fn matrix(&self) -> Result<f64, Failure> {
        let subgroups = 32 * u64::from(self.profile.limits.compute_units.unwrap_or(16));
        self.rate(131_072.0 * subgroups as f64, |rounds| {
            let mut graph = Graph::default();
            graph.weight("x", "f16", "\"4\", \"16\", \"16\"");
            graph.weight("w", "f16", "\"4\", \"16\", \"16\"");
            graph.pass(
                "multiply",
                "roof_matrix",
                "\"x\": \"x\", \"w\": \"w\"",
                "y",
                &format!("\"rounds\": \"{rounds}\", \"subgroups\": \"{subgroups}\""),
            );
            graph.output("y");
            graph
        })
    }

    /// Work a second, with as many rounds as make a forward last long enough for its start not to matter.
    fn rate(&self, work: f64, graph: impl Fn(u64) -> Graph) -> Result<f64, Failure> {
        let few = 256u64;
        let first = self.first_wave(&graph(few))?;
        let rounds = (few as f64 * LONG / first.max(1.0)).clamp(16.0, 1_048_576.0) as u64;
        let last = self.first_wave(&graph(rounds))?;
        Ok(work * rounds as f64 / (last * 1e-9))
    }

    /// Seconds of a dependent pass, of an independent one, and of a submit.
    fn launches(&self) -> Result<(f64, f64, f64), Failure> {
        let n = 32 * u64::from(self.profile.limits.compute_units.unwrap_or(1));
        let chains = |beside: u64, length: u64| {
            let mut graph = Graph::default();
            graph.weight("start", "f32", &format!("\"{n}\""));
            for chain in 0..beside {
                for step in 0..length {
                    let from = match step {
                        0 => "start".to_string(),
                        _ => format!("h{chain}"),
                    };
                    let name = format!("c{chain}s{step}");
                    graph.pass(
                        &name,
                        "roof_step",
                        &format!("\"x\": \"{from}\""),
                        &format!("h{chain}"),
                        "",
                    );
                }
                graph.output(format!("h{chain}"));
            }
            graph
        };
        let (length, beside) = (256u64, 16u64);
        let one = self.times(&chains(1, 1), Timing::Ends)?;
        let alone = self.times(&chains(1, length), Timing::Ends)?;
        let together = self.times(&chains(beside, length / 8), Timing::Ends)?;
        let dependent = (alone.device - one.device).max(1.0) / (length - 1) as f64;
        let wave = together.device / (length / 8) as f64;
        let independent = (wave - dependent).max(0.0) / (beside - 1) as f64;
        Ok((dependent * 1e-9, independent * 1e-9, one.wall * 1e-9))
    }

    /// Seconds that a guard with something to do costs a round, its barriers included.
    fn guard(&self) -> Result<f64, Failure> {
        let rounds = 64;
        let graph = |guard: &str| {
            let mut graph = Graph {
                fields: format!(
                    "repeat: \"{rounds}\", {guard}state: {{ \"busy\": Tensor(\"u32\", [\"1\"]) }}, "
                ),
                ..Graph::default()
            };
            graph.weight("start", "f32", "\"1024\"");
            graph.body += "Pass(kernel: \"roof_decide\", in: { \"x\": \"start\" }, out: { \"y\": \"h\", \"busy\": \"busy\" }),\n";
            graph.pass("guarded", "roof_step", "\"x\": \"h\"", "g", "");
            graph.pass("always", "roof_step", "\"x\": \"g\"", "y", "");
            graph.output("y");
            graph
        };
        let with = self.times(&graph("guard: \"busy\", "), Timing::Ends)?;
        let without = self.times(&graph(""), Timing::Ends)?;
        Ok((with.device - without.device).max(0.0) / f64::from(rounds) * 1e-9)
    }

    /// Whether each element of a fragment of the matrix units is where kernels that need to know take it to be.
    fn lanes(&self) -> Result<bool, Failure> {
        let features = &self.profile.features;
        let needs = [Feature::CoopmatF16, Feature::Subgroup32];
        if !needs.iter().all(|feature| features.contains(feature)) {
            return Ok(false);
        }
        let mut graph = Graph::default();
        graph.pass("lanes", "roof_lanes", "", "elsewhere", "");
        graph.output("elsewhere");
        let mut profile = self.profile.clone();
        profile.features.insert(Feature::CoopmatLanes);
        let plan = Arc::new(self.compile_for(&graph.text(), profile)?);
        let mut session = self.open(&plan).map_err(failed)?;
        let entry = session.entry(&plan.entries[0].name).map_err(failed)?;
        let output = forward(&mut session, entry, &[]).map_err(failed)?;
        let elsewhere: f32 = output
            .tensor::<f32>("elsewhere")
            .map_err(failed)?
            .iter()
            .sum();
        self.context.say(&format!(
            "{:<28} {}",
            "elements of fragments",
            match elsewhere == 0.0 {
                true => "where `coopmat_lanes` says".to_owned(),
                false => format!("{elsewhere} of 768 elsewhere than `coopmat_lanes` says"),
            }
        ));
        Ok(elsewhere == 0.0)
    }

    /// Nanoseconds of the first wave.
    fn first_wave(&self, graph: &Graph) -> Result<f64, Failure> {
        Ok(self.times(graph, Timing::Waves)?.device)
    }

    fn times(&self, graph: &Graph, timing: Timing) -> Result<Times, Failure> {
        let plan = Arc::new(self.compile(&graph.text())?);
        let mut session = self.open(&plan).map_err(failed)?;
        session.need_timestamps().map_err(failed)?;
        let entry = session.entry(&plan.entries[0].name).map_err(failed)?;
        let mut series = |timing| -> Result<(Vec<f64>, Vec<f64>), Failure> {
            session.set_timing(timing).map_err(failed)?;
            warm_up(&mut session, entry, &[]).map_err(failed)?;
            let (mut walls, mut ends) = (Vec::new(), Vec::new());
            for _ in 0..self.runs {
                let start = std::time::Instant::now();
                let output = forward(&mut session, entry, &[]).map_err(failed)?;
                walls.push(start.elapsed().as_secs_f64() * 1e9);
                let stamps = output.timestamps().map_err(failed)?;
                // The end of the first wave, or of everything where only the ends have a timestamp.
                ends.extend(stamps.get(1).copied());
            }
            Ok((walls, ends))
        };
        let (walls, _) = series(Timing::Off)?;
        let (_, ends) = series(timing)?;
        Ok(Times {
            // Roofs are what is possible: the fast end, not the middle.
            device: Spread::of(ends).p5 * 1e3,
            wall: Spread::of(walls).median * 1e3,
        })
    }

    fn open(&self, plan: &Arc<Plan>) -> Result<Session, RunError> {
        let options = SessionOptions {
            device: self.device.clone(),
            ..SessionOptions::from_env()
        };
        Session::open(options, Arc::clone(plan), &mut fill, &mut |_: Progress| {})
    }

    fn compile(&self, graph: &str) -> Result<Plan, Failure> {
        self.compile_for(graph, self.profile.clone())
    }

    fn compile_for(&self, graph: &str, profile: DeviceProfile) -> Result<Plan, Failure> {
        let sources = Probe {
            inner: self.sources,
            graph,
        };
        // Choices of the device are for other kernels, and its roofs are what is asked for.
        let profile = DeviceProfile {
            choices: Default::default(),
            roofs: Roofs::default(),
            max_submit_ms: None,
            tokens_per_submit: None,
            ..profile
        };
        let builder = shaders::builder(self.context)?;
        let entries = [Request::default()];
        let job = Job {
            builder: Some(&*builder),
            ..Job::new(GRAPH, &sources, &profile, &entries)
        };
        let mut map = SourceMap::default();
        compile(&job, &mut map)
            .map(|compiled| compiled.plan)
            .map_err(|found| Failure::Diagnosed(found, map))
    }
}

/// Big weights stay as they are: what they hold changes no time. Small ones hold numbers that never overflow.
fn fill(
    _: usize,
    weight: &Weight,
    _: u64,
    into: &mut [u8],
) -> Result<(), graphc::vk::arena::SourceError> {
    if weight.name.starts_with("big") {
        return Ok(());
    }
    match weight.dtype {
        graphc::dtype::DType::F16 => {
            let half = half::f16::from_f32(0.5).to_le_bytes();
            into.chunks_exact_mut(2)
                .for_each(|bytes| bytes.copy_from_slice(&half));
        }
        _ => into
            .chunks_exact_mut(4)
            .for_each(|bytes| bytes.copy_from_slice(&0.5f32.to_le_bytes())),
    }
    Ok(())
}

/// Three digits: a measurement has no more.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}
