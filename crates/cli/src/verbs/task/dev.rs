//! `reauth task dev`: checks and tests again whenever a file changes, and runs one task on a
//! throw-away server with sample data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use reauth_sdk::{Run, RunRequest, RunState};
use reauth_server::sandbox::Outcome;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::files::{LocalTask, here, tasks_at, tests_at};
use super::lab::Lab;
use super::{Tests, changed, log_text, object, state, test, write};
use crate::connect::Context;
use crate::failure::{Failure, Result};

pub(super) const EXAMPLES: &str = "\
A named task is run too, with 20 users who signed in on two devices each within the last 60 days,
on a throw-away server. Its log, what it changed and its result are shown. If it may reach hosts of
the world, it is a dry run: what would change something there is listed and not sent.

Examples:
  reauth task dev
  reauth task dev sign-in-again --params '{\"days\": 30}'
  reauth task dev other-tasks sign-in-again";

/// Makes the world in which the named task runs.
const FURNISH: &str = "export { furnish as run } from \"reauth:test\";";
/// A file that is saved is often written twice: then both are one change.
const SETTLED: Duration = Duration::from_millis(200);

/// What is watched, and what is run.
#[derive(Args)]
pub(crate) struct Dev {
    /// A folder of tasks, a task, or a test; may be left out [default: tasks, or else this folder]
    path: Option<PathBuf>,
    /// The name of a task that is run too
    name: Option<String>,
    /// Only tests with this in their name
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// What the script's `run` gets instead of the task's own params
    #[arg(long, value_name = "JSON", value_parser = object)]
    params: Option<Value>,
}

/// The task that is run, and how.
struct Named {
    task: String,
    params: Option<Value>,
}

/// Checks, tests and runs again whenever something changes, until it is ended.
pub(super) async fn dev(context: &Context, wanted: Dev) -> Result<()> {
    let (path, name) = path_and_name(wanted.path, wanted.name);
    let named = match (name, wanted.params) {
        (Some(task), params) => Some(Named { task, params }),
        (None, None) => None,
        (None, Some(_)) => {
            let help = "name it, as in `reauth task dev sign-in-again --params …`";
            return Err(Failure::usage("--params is for a task that is run").help(help));
        }
    };
    if let Some(named) = &named {
        find(&tasks_at(&path)?, &path, &named.task)?;
    }
    let tests = Tests { path, filter: wanted.filter };
    let path = &tests.path;
    loop {
        let before = newest(path);
        for failure in once(context, &tests, named.as_ref()).await {
            let _ = failure.report();
        }
        context.output.remark(&format!("watching {}; end with Ctrl-C", path.display()));
        while newest(path) == before {
            tokio::time::sleep(SETTLED).await;
        }
        tokio::time::sleep(SETTLED).await;
    }
}

/// A word that is no path by itself is the name of a task.
fn path_and_name(path: Option<PathBuf>, name: Option<String>) -> (PathBuf, Option<String>) {
    match (path, name) {
        (Some(word), None) if !word.exists() => (here(), Some(word.to_string_lossy().into_owned())),
        (path, name) => (path.unwrap_or_else(here), name),
    }
}

fn find<'a>(tasks: &'a [LocalTask], path: &Path, name: &str) -> Result<&'a LocalTask> {
    tasks.iter().find(|task| task.name == name).ok_or_else(|| {
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        let what = format!("there is no task {name} in {}", path.display());
        Failure::usage(what).help(format!("these are there: {}", names.join(", ")))
    })
}

/// What is wrong with the tasks, their tests and the run: a task that is wrong is not tested, and
/// one whose tests fail is run, so that its developer sees why.
async fn once(context: &Context, tests: &Tests, named: Option<&Named>) -> Vec<Failure> {
    if let Err(failure) = write::check(context, std::slice::from_ref(&tests.path)) {
        return vec![failure];
    }
    let mut failures = Vec::new();
    let has_tests = tests_at(&tests.path).is_ok_and(|found| !found.tests.is_empty());
    if has_tests || named.is_none() {
        failures.extend(test::test(context, tests).await.err());
    }
    if let Some(named) = named {
        failures.extend(run(context, &tests.path, named).await.err());
    }
    failures
}

/// Runs the task in a new world with sample data.
async fn run(context: &Context, path: &Path, named: &Named) -> Result<()> {
    let tasks = test::right_tasks(tasks_at(path)?, &named.task)?;
    let dry_run = reaches_the_world(find(&tasks, path, &named.task)?, &tasks)?;
    let wanted = RunRequest { params: named.params.clone(), dry_run };
    // No test tells anything here.
    let (sender, _told) = mpsc::unbounded_channel();
    let lab = Lab::new(tasks, named.task.clone(), sender);
    let done = run_in(&lab, &wanted).await;
    lab.end().await;
    show(context, &done?, dry_run)
}

async fn run_in(lab: &Lab, wanted: &RunRequest) -> Result<Run> {
    let furnish = test::with_lab(FURNISH.to_owned(), BTreeMap::new())?;
    let report = test::in_child(&furnish, json!({}), lab).await?;
    match report.outcome {
        Outcome::Done(_) => lab.run_once(wanted).await.map_err(Failure::new),
        other => Err(Failure::new(format!("the sample data could not be made: {other:?}"))),
    }
}

/// Whether a run of this task, or of one that it may call, may ask hosts beside the throw-away
/// server: what they are asked is really done there.
fn reaches_the_world(task: &LocalTask, all: &[LocalTask]) -> Result<bool> {
    let config = write::checked(task)?.config;
    let may_call = config.scopes.iter().flatten().any(|scope| scope == "tasks:run");
    for other in all.iter().filter(|other| may_call || other.name == task.name) {
        if write::checked(other)?.config.allow_hosts.is_some_and(|hosts| !hosts.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// As `task logs` and `task run` show it. How long it took is not known: its clock stands still.
fn show(context: &Context, run: &Run, dry_run: bool) -> Result<()> {
    let outcome = format!("run of {} {}", run.task, state(&run.state));
    let mut text = vec![log_text(run.log.as_deref().unwrap_or_default()), outcome.clone()];
    text.extend(run.changes.as_deref().map(|changes| changed(changes, dry_run)));
    if run.state == RunState::Succeeded {
        let result = serde_json::to_string_pretty(&run.result);
        text.push(result.map_err(|error| Failure::new(format!("the result: {error}")))?);
    }
    text.retain(|part| !part.is_empty());
    context.output.either(run, &text.join("\n"))?;
    let Some(error) = &run.error else { return Ok(()) };
    Err(Failure::new(format!("{outcome}: {}", error.message)))
}

/// When something in this folder was last changed, and how many files it has.
fn newest(path: &Path) -> (Option<SystemTime>, usize) {
    let mut open = vec![path.to_owned()];
    if path.is_file() {
        open.extend(path.parent().map(Path::to_owned));
    }
    let (mut newest, mut count) = (None, 0);
    while let Some(path) = open.pop() {
        let Ok(about) = std::fs::metadata(&path) else { continue };
        count += 1;
        newest = newest.max(about.modified().ok());
        if about.is_dir() && !path.ends_with("node_modules") {
            let inner = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(inner.map(|entry| entry.path()));
        }
    }
    (newest, count)
}
