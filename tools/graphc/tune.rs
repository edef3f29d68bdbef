//! `graphc tune`: tries the variants of each kernel and their constants at the sizes that the plan runs them with, and
//! writes the fastest to the device's profile.
//!
//! Passes of one kernel with the same sizes and element types are one place. Every place tries its next candidate in
//! the same round, each timed for itself by the timestamps of a recording whose passes run one after another, so that
//! a round costs one session whatever the number of places. A round's outputs are compared with those of the plain
//! variants; if they differ, its candidates are tried again one by one. The profile is written after each round
//! that found something: an interruption loses one round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use graphc::device::{Choice, DeviceProfile};
use graphc::kernel::{Library, Manifest, PortType, ShapeItem, Variant};
use graphc::plan::{Entry, PassInfo, Plan};
use graphc::profile;
use graphc::report::text::time;
use graphc::report::{Profile, Samples, Setting};
use graphc::run::Timing;
use graphc::span::SourceMap;

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::{failed, forward, inputs, warm_up};
use crate::output;
use crate::roof::{existing, profile_file};
use crate::subject::{Planned, SubjectArgs};

/// Arguments of `tune`.
#[derive(clap::Args)]
#[command(
    after_help = "The choices are data: read and edit them in the profile, or delete them. Ctrl-C keeps what was \
    found. Run it while the device has nothing else to do."
)]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// When to stop looking
    #[arg(long, value_name = "SECONDS", default_value = "60s", value_parser = seconds)]
    budget: Duration,
    /// Forwards of each round
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// The profile to write [default: profiles/devices/<device>.ron below the root]
    #[arg(long, short, value_name = "FILE.ron")]
    output: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e6 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, for example 60s".into()),
    }
}

/// A candidate is taken if it is faster by this part.
const GAIN: f64 = 0.02;
/// The largest difference of an output that is not a mistake, relative to the largest number in it.
const TOLERANCE: f64 = 2e-2;

/// A kernel at one size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Spot {
    kernel: String,
    when: String,
}

/// What is tried at a place.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    variant: String,
    spec: BTreeMap<String, u32>,
}

/// The search at one place.
struct Search {
    candidates: Vec<Candidate>,
    next: usize,
    best: Option<Candidate>,
    /// Microseconds of the best, and of what the profile chose before.
    fastest: f64,
    before: f64,
}

/// Tunes.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let start = Instant::now();
    args.subject.must_be_graph("tune")?;
    let target = args.subject.target(context)?;
    let sources = context.sources()?;
    let mut map = SourceMap::default();
    let library =
        graphc::kernel::load(&sources, &mut map).map_err(|found| Failure::Diagnosed(found, map))?;
    let tuner = Tuner {
        args: &args,
        context,
        library: &library,
        profile: target.profile,
    };
    let path = match &args.output {
        Some(path) => path.clone(),
        None => profile_file(&target.info, &tuner.profile, &sources).1,
    };
    output::writable(&path)?;
    let text = existing(&path)?.unwrap_or_else(|| {
        profile::edit::fresh(&tuner.profile, "Not measured; `graphc roof` does that.")
    });
    let reference = tuner.reference()?;
    let first = tuner.round(&BTreeMap::new())?;
    let mut searches: BTreeMap<Spot, Search> = BTreeMap::new();
    for (spot, us) in &first.times {
        let mut candidates = tuner.candidates(spot);
        // What runs there now is the yardstick.
        let runs = |candidate: &Candidate| {
            first
                .ran
                .get(spot)
                .is_some_and(|ran| tuner.is(spot, candidate, ran))
        };
        candidates.retain(|candidate| !runs(candidate));
        searches.insert(
            spot.clone(),
            Search {
                candidates,
                next: 0,
                best: None,
                fastest: *us,
                before: *us,
            },
        );
    }
    let total: usize = searches
        .values()
        .map(|search| search.candidates.len())
        .sum();
    context.say(&format!("{} places, {total} candidates", searches.len()));
    let mut wrote = false;
    while start.elapsed() < args.budget {
        let picks: BTreeMap<Spot, Candidate> = searches
            .iter_mut()
            .filter_map(|(spot, search)| {
                let pick = search.candidates.get(search.next)?.clone();
                search.next += 1;
                Some((spot.clone(), pick))
            })
            .collect();
        if picks.is_empty() {
            break;
        }
        let mut found = tuner.accept(&picks, &reference, &mut searches)?;
        if found.is_none() {
            // One of them is wrong or impossible: find out which.
            found = Some(false);
            for (spot, pick) in &picks {
                if start.elapsed() > args.budget {
                    break;
                }
                let one = BTreeMap::from([(spot.clone(), pick.clone())]);
                match tuner.accept(&one, &reference, &mut searches)? {
                    Some(better) => found = Some(found == Some(true) || better),
                    None => context.say(&format!(
                        "{} {} for {}: not possible or not right",
                        spot.kernel,
                        shown(pick),
                        spot.when
                    )),
                }
            }
        }
        if found == Some(true) {
            let text = profile::edit::with_choices(&text, &tuner.choices(&searches))
                .map_err(Failure::bad_input)?;
            output::write(&path, text.as_bytes())?;
            wrote = true;
        }
    }
    if tuner.confirm(&mut searches)? {
        let text = profile::edit::with_choices(&text, &tuner.choices(&searches))
            .map_err(Failure::bad_input)?;
        output::write(&path, text.as_bytes())?;
    }
    report(&searches, wrote.then_some(&*path), context)
}

fn shown(candidate: &Candidate) -> String {
    let spec = candidate
        .spec
        .iter()
        .map(|(name, value)| format!(" {name}={value}"));
    format!("{}{}", candidate.variant, spec.collect::<String>())
}

fn report(
    searches: &BTreeMap<Spot, Search>,
    wrote: Option<&std::path::Path>,
    context: &Context,
) -> Result<(), Failure> {
    for (spot, search) in searches {
        let tried = search.next;
        let line = match &search.best {
            Some(best) => {
                format!(
                    "{} -> {}  {}",
                    time(search.before),
                    time(search.fastest),
                    shown(best)
                )
            }
            None => format!("{} stays", time(search.before)),
        };
        output::print(&format!(
            "{:<12} {line}  ({tried} of {} tried)  {}\n",
            spot.kernel,
            search.candidates.len(),
            spot.when
        ))?;
    }
    match wrote {
        Some(path) => context.say(&format!("wrote `{}`", path.display())),
        None => context.say("nothing was faster; no file was written"),
    }
    Ok(())
}

/// What a round gave.
struct Round {
    /// Microseconds of all passes of a place.
    times: BTreeMap<Spot, f64>,
    /// The variant and constants that ran there.
    ran: BTreeMap<Spot, (String, Vec<(u32, u32)>)>,
    outputs: Vec<f32>,
}

struct Tuner<'a> {
    args: &'a Args,
    context: &'a Context,
    library: &'a Library,
    profile: DeviceProfile,
}

impl Tuner<'_> {
    /// Runs a round and keeps what is faster. None: the round is not possible, or its outputs are not right.
    fn accept(
        &self,
        picks: &BTreeMap<Spot, Candidate>,
        reference: &[f32],
        searches: &mut BTreeMap<Spot, Search>,
    ) -> Result<Option<bool>, Failure> {
        let Ok(round) = self.round(picks) else {
            return Ok(None);
        };
        if !close(reference, &round.outputs) {
            return Ok(None);
        }
        let mut better = false;
        for (spot, pick) in picks {
            let (Some(us), Some(search)) = (round.times.get(spot), searches.get_mut(spot)) else {
                continue;
            };
            // A candidate that these sizes rule out gives way to another one, silently.
            let ran = round
                .ran
                .get(spot)
                .is_some_and(|ran| self.is(spot, pick, ran));
            if ran && *us < search.fastest * (1.0 - GAIN) {
                search.fastest = *us;
                search.best = Some(pick.clone());
                better = true;
            }
        }
        Ok(Some(better))
    }

    /// Whether what ran is the candidate.
    fn is(&self, spot: &Spot, pick: &Candidate, ran: &(String, Vec<(u32, u32)>)) -> bool {
        let manifest = self.library.manifests.get(&spot.kernel);
        let variant = manifest.and_then(|manifest| {
            manifest
                .variants
                .iter()
                .find(|one| one.name == pick.variant)
        });
        let Some(variant) = variant.filter(|variant| variant.name == ran.0) else {
            return false;
        };
        pick.spec.iter().all(|(name, value)| {
            let id = variant
                .spec
                .iter()
                .position(|constant| constant.name == *name);
            id.is_some_and(|id| {
                ran.1
                    .iter()
                    .any(|(at, got)| *at as usize == id && got == value)
            })
        })
    }

    /// The winners once more beside what was there before, right after each other: what won by chance goes. Whether
    /// there were winners.
    fn confirm(&self, searches: &mut BTreeMap<Spot, Search>) -> Result<bool, Failure> {
        let best = |(spot, search): (&Spot, &Search)| Some((spot.clone(), search.best.clone()?));
        let winners: BTreeMap<Spot, Candidate> = searches.iter().filter_map(best).collect();
        if winners.is_empty() {
            return Ok(false);
        }
        let (before, after) = (self.round(&BTreeMap::new())?, self.round(&winners)?);
        for spot in winners.keys() {
            let times = before.times.get(spot).zip(after.times.get(spot));
            let (Some((before, after)), Some(search)) = (times, searches.get_mut(spot)) else {
                continue;
            };
            (search.before, search.fastest) = (*before, *after);
            if *after > *before * (1.0 - GAIN) {
                search.best = None;
            }
        }
        Ok(true)
    }

    /// The outputs of plain variants.
    fn reference(&self) -> Result<Vec<f32>, Failure> {
        let mut profile = self.profile.clone();
        for manifest in self.library.manifests.values() {
            if let Some(plain) = plain(manifest) {
                let choice = Choice {
                    when: None,
                    variant: plain.name.clone(),
                    spec: BTreeMap::new(),
                };
                profile.choices.insert(manifest.name.clone(), vec![choice]);
            }
        }
        Ok(self.measured(&profile, 1)?.outputs)
    }

    fn round(&self, picks: &BTreeMap<Spot, Candidate>) -> Result<Round, Failure> {
        let mut profile = self.profile.clone();
        for (spot, pick) in picks {
            let list = profile.choices.entry(spot.kernel.clone()).or_default();
            list.insert(0, choice(spot, pick));
        }
        self.measured(&profile, self.args.runs)
    }

    fn measured(&self, profile: &DeviceProfile, runs: u32) -> Result<Round, Failure> {
        let mut map = SourceMap::default();
        let subject = &self.args.subject;
        let plan = match subject.compile(profile, &mut map, self.context)? {
            Ok(plan) => plan,
            Err(found) => return Err(Failure::Diagnosed(found, map)),
        };
        let mut on = subject.start(Planned { plan, map }, self.context)?;
        on.session.need_timestamps().map_err(failed)?;
        let mut round = Round {
            times: BTreeMap::new(),
            ran: BTreeMap::new(),
            outputs: Vec::new(),
        };
        for index in on.chosen {
            let info = &on.plan.entries[index];
            let entry = on.session.entry(&info.name).map_err(failed)?;
            let inputs = inputs(&on.plan, info, subject.context);
            on.session.set_timing(Timing::Passes).map_err(failed)?;
            warm_up(&mut on.session, entry, &inputs).map_err(failed)?;
            let mut samples = Samples::default();
            for run in 0..runs {
                let output = forward(&mut on.session, entry, &inputs).map_err(failed)?;
                samples.passes.push(output.timestamps().map_err(failed)?);
                if run == 0 {
                    for id in &info.outputs {
                        let tensor = &info.tensors[*id];
                        if tensor.dtype == graphc::dtype::DType::F32 {
                            let values = output.tensor::<f32>(&tensor.name).map_err(failed)?;
                            round.outputs.extend_from_slice(values);
                        }
                    }
                }
            }
            self.times(&on.plan, info, &samples, &mut round)?;
        }
        Ok(round)
    }

    /// Adds up the passes of each place.
    fn times(
        &self,
        plan: &Plan,
        entry: &Entry,
        samples: &Samples,
        into: &mut Round,
    ) -> Result<(), Failure> {
        let rows = Profile::passes_of(plan, entry, &Setting::default(), samples)
            .map_err(Failure::failed)?;
        for row in rows {
            let pass = entry.passes.iter().find(|pass| pass.path == row.path);
            let Some((pass, kernel)) =
                pass.and_then(|pass| Some((pass, plan.kernels.get(pass.kernel)?)))
            else {
                continue;
            };
            if let Some(spot) = self.spot(plan, entry, pass) {
                into.ran
                    .insert(spot.clone(), (kernel.variant.clone(), kernel.spec.clone()));
                *into.times.entry(spot).or_default() += row.time.median;
            }
        }
        Ok(())
    }

    fn spot(&self, plan: &Plan, entry: &Entry, pass: &PassInfo) -> Option<Spot> {
        let kernel = plan.kernels.get(pass.kernel)?.name.clone();
        let manifest = self.library.manifests.get(&kernel)?;
        // Sizes that shapes bind; all others follow from them.
        let bound: BTreeSet<&str> = manifest
            .ports
            .iter()
            .flat_map(|port| &port.shape)
            .filter_map(|item| match item {
                ShapeItem::Leading(name) | ShapeItem::Dim(name) => Some(name.as_str()),
                ShapeItem::Is(_) => None,
            })
            .collect();
        let sizes = pass
            .dims
            .iter()
            .filter(|(name, size)| **size > 0 && bound.contains(name.as_str()));
        let mut parts: Vec<String> = sizes
            .map(|(name, size)| format!("{name} == {size}"))
            .collect();
        for bind in &pass.binds {
            let port = manifest.ports.iter().find(|port| port.name == bind.port)?;
            if let PortType::Var(name) = &port.dtype {
                let part = format!(
                    "{name} == '{}'",
                    entry.tensors.get(bind.tensor)?.dtype.name()
                );
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        Some(Spot {
            kernel,
            when: parts.join(" && "),
        })
    }

    /// Every variant as it is, then each of its constants at other powers of two.
    fn candidates(&self, spot: &Spot) -> Vec<Candidate> {
        let Some(manifest) = self.library.manifests.get(&spot.kernel) else {
            return Vec::new();
        };
        let as_is = |variant: &Variant| Candidate {
            variant: variant.name.clone(),
            spec: BTreeMap::new(),
        };
        let mut all: Vec<Candidate> = manifest.variants.iter().map(as_is).collect();
        for variant in &manifest.variants {
            for constant in &variant.spec {
                let powers = (0..32).map(|power| 1u32 << power);
                for value in powers.filter(|value| (constant.min..=constant.max).contains(value)) {
                    let mut candidate = as_is(variant);
                    candidate.spec.insert(constant.name.clone(), value);
                    all.push(candidate);
                }
            }
        }
        all
    }

    /// What was found, before what the profile said already.
    fn choices(&self, searches: &BTreeMap<Spot, Search>) -> Vec<(String, Vec<(Choice, String)>)> {
        let mut all: BTreeMap<String, Vec<(Choice, String)>> = BTreeMap::new();
        for (spot, search) in searches {
            if let Some(best) = &search.best {
                let note = format!(
                    "tuned: {}, was {}",
                    time(search.fastest),
                    time(search.before)
                );
                all.entry(spot.kernel.clone())
                    .or_default()
                    .push((choice(spot, best), note));
            }
        }
        for (kernel, list) in &self.profile.choices {
            let known = all.entry(kernel.clone()).or_default();
            for old in list {
                // The same condition is answered anew.
                if !known.iter().any(|(new, _)| new.when == old.when) {
                    known.push((old.clone(), String::new()));
                }
            }
        }
        all.into_iter().collect()
    }
}

fn choice(spot: &Spot, pick: &Candidate) -> Choice {
    Choice {
        when: Some(spot.when.clone()),
        variant: pick.variant.clone(),
        spec: pick.spec.clone(),
    }
}

/// The variant that runs anywhere.
fn plain(manifest: &Manifest) -> Option<&Variant> {
    let anywhere = |variant: &&Variant| variant.needs.is_empty() && variant.when.is_none();
    manifest.variants.iter().find(anywhere)
}

/// Whether all numbers are finite and near those of the reference.
fn close(reference: &[f32], got: &[f32]) -> bool {
    let largest = reference
        .iter()
        .fold(0.0f64, |most, value| most.max(f64::from(value.abs())));
    let near = |(a, b): (&f32, &f32)| f64::from((a - b).abs()) <= TOLERANCE * largest.max(1e-6);
    reference.len() == got.len() && reference.iter().zip(got).all(near)
}
