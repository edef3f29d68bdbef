//! `graphc watch`: compiles and measures again whenever a graph, block, fusion, manifest or shader is saved, and shows
//! what changed. A mistake is shown as `compile` shows it, and what worked last stays the yardstick.
//!
//! Files are asked for their time and size a few times a second: editors replace files in many ways, and asking sees
//! all of them on every system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use graphc::plan::{Plan, dump};
use graphc::report::text::{self, Shape};
use graphc::report::{Profile, Setting, diff};
use graphc::span::SourceMap;

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::failed;
use crate::output;
use crate::samples::measure;
use crate::subject::{Planned, SubjectArgs};

/// Arguments of `watch`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  graphc watch graphs/models/bert.ron --model minilm --entry batch=8,seq=64\n\n\
    Ctrl-C ends it."
)]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Forwards that are measured of each recording
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Compile only, measure nothing
    #[arg(long)]
    no_run: bool,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    changes: Option<u32>,
}

/// How often files are asked.
const PAUSE: Duration = Duration::from_millis(150);
/// Files that are looked at, at most: a folder that was named by mistake must not be searched for ever.
const MOST: usize = 4096;

/// What worked last.
struct Good {
    plan: Plan,
    profiles: Vec<Profile>,
}

/// Watches.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    args.subject.must_be_graph("watch")?;
    let folders = folders(&args.subject, context)?;
    let mut seen = stamps(&folders);
    let mut good: Option<Good> = None;
    let mut changes = 0;
    loop {
        match state(&args, context) {
            Ok(fresh) => {
                output::print(&shown(good.as_ref(), &fresh))?;
                good = Some(fresh);
            }
            // Nobody listens any more.
            Err(Failure::BrokenPipe) => return Ok(()),
            Err(failure) => {
                let _ = failure.report(context);
                if let Some(good) = &good {
                    context.say(&format!(
                        "still up: {}",
                        dump::summary(&good.plan).trim_end()
                    ));
                }
            }
        }
        if args.changes.is_some_and(|most| changes >= most) {
            return Ok(());
        }
        context.say("watching; save a file");
        seen = changed(&folders, seen, context);
        changes += 1;
    }
}

/// Compiles and measures what the files say now.
fn state(args: &Args, context: &Context) -> Result<Good, Failure> {
    let target = args.subject.target(context)?;
    let mut map = SourceMap::default();
    let plan = match args.subject.compile(&target.profile, &mut map, context)? {
        Ok(plan) => plan,
        Err(found) => return Err(Failure::Diagnosed(found, map)),
    };
    if args.no_run {
        return Ok(Good {
            plan,
            profiles: Vec::new(),
        });
    }
    let planned = Planned {
        plan: plan.clone(),
        map,
    };
    let mut subject = args.subject.start(planned, context)?;
    let setting = Setting {
        device: target.info.name.clone(),
        driver: target.info.driver.clone(),
        random_weights: subject.random_weights,
        roofs: target.profile.roofs,
    };
    let mut profiles = Vec::new();
    for index in subject.chosen {
        let samples = measure(
            &mut subject.session,
            &subject.plan,
            index,
            args.runs,
            args.subject.context,
        )
        .map_err(failed)?
        .samples;
        let entry = &subject.plan.entries[index];
        let profile = Profile::new(&subject.plan, entry, setting.clone(), &samples);
        profiles.push(profile.map_err(Failure::failed)?);
    }
    Ok(Good { plan, profiles })
}

/// The first state as a whole, later ones as what changed.
fn shown(before: Option<&Good>, now: &Good) -> String {
    let Some(before) = before else {
        let tables = now
            .profiles
            .iter()
            .map(|one| text::table(one, Shape::default()));
        return dump::summary(&now.plan) + &tables.collect::<String>();
    };
    let mut out = diff::plans(&before.plan, &now.plan);
    for profile in &now.profiles {
        let old = before
            .profiles
            .iter()
            .find(|old| old.entry == profile.entry);
        out += &old.map_or_else(
            || text::table(profile, Shape::default()),
            |old| diff::profiles(old, profile),
        );
    }
    out
}

/// Where files are that can matter: graphs and shaders of the root, and the graph's own folder.
fn folders(subject: &SubjectArgs, context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let (sources, graph) = subject.graph(context)?;
    let root = sources.root();
    let own = root.join(graph).parent().map(Path::to_path_buf);
    let mut folders = vec![
        root.join("graphs"),
        root.join("shaders"),
        root.join("profiles"),
    ];
    folders.extend(own.filter(|own| !own.starts_with(root.join("graphs"))));
    Ok(folders)
}

type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Time and size of every text in the folders.
fn stamps(folders: &[PathBuf]) -> Stamps {
    let mut all = Stamps::new();
    let mut open = folders.to_vec();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // Of the link itself: a link to a folder above would never end.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if all.len() >= MOST {
                return all;
            }
            let text = path
                .extension()
                .is_some_and(|ending| ["ron", "comp", "glsl"].iter().any(|text| ending == *text));
            if kind.is_dir() {
                open.push(path);
            } else if text && let Ok(about) = std::fs::metadata(&path) {
                all.insert(path, (about.modified().ok(), about.len()));
            }
        }
    }
    all
}

/// Waits for a change, and for it to be over: editors write in several steps.
fn changed(folders: &[PathBuf], seen: Stamps, context: &Context) -> Stamps {
    let mut now = stamps(folders);
    while now == seen {
        std::thread::sleep(PAUSE);
        now = stamps(folders);
    }
    loop {
        std::thread::sleep(PAUSE);
        let later = stamps(folders);
        if later == now {
            break;
        }
        now = later;
    }
    let differs = |path: &&PathBuf| now.get(*path) != seen.get(*path);
    let paths = now
        .keys()
        .chain(seen.keys().filter(|path| !now.contains_key(*path)));
    for path in paths.filter(differs) {
        context.say(&format!("changed: {}", path.display()));
    }
    now
}
