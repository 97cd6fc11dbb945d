//! `reauth task`: scripts of an app, and their runs.

mod bundle;
mod dev;
mod files;
mod lab;
mod test;
mod write;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use reauth_sdk::{InApp, LogLine, Run, RunRequest, RunState, Task};
use serde_json::{Map, Value, json};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output;
use crate::paging::{self, Progress};
use crate::times::{at_or, millis};

/// How often a run that goes on is looked at: a person does not notice the difference.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The newest runs that are listed.
const RUNS_SHOWN: u64 = 50;

const RUN_EXAMPLES: &str = "\
Waits until the run has ended and writes its result, as JSON, to stdout; the exit code is 1 if it
failed. Ending this program does not end the run. With --dry-run its changes are answered as if
they were done, and nothing is: what it would have changed is listed.

Examples:
  reauth task run sign-in-again --params '{\"days\": 30}'
  reauth task run sign-in-again --dry-run";

const LOGS_EXAMPLES: &str = "\
Examples:
  reauth task logs sign-in-again
  reauth task logs -f sign-in-again
  reauth task logs 01900000-0000-7000-8000-000000000001";

const TEST_EXAMPLES: &str = "\
Each test has a throw-away server of its own, with a clock that stands still until the test moves
it: `await clock.pass(\"31d\")`. `reauth task init` makes an example. A test is about the task whose
folder it is in, or whose name its own begins with: tidy.test.ts and tidy.when-idle.test.ts are
about tidy.

Examples:
  reauth task test
  reauth task test tasks/sign-in-again.ts
  reauth task test tasks/sign-in-again.test.ts --filter contractors";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a folder with a first task, its test and its types
    Init {
        /// The folder
        #[arg(default_value = "tasks")]
        folder: PathBuf,
    },
    /// Say whether tasks are right, and when they will run
    Check {
        /// Files, or folders of tasks
        #[arg(default_values_os_t = [files::here()])]
        paths: Vec<PathBuf>,
    },
    /// Run the tests beside tasks, on throw-away servers with a clock that the tests move
    #[command(after_help = TEST_EXAMPLES)]
    Test(Tests),
    /// Check and test tasks again whenever a file changes, and run one of them
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::Dev),
    /// Bundle tasks with their packages, each into one file, to be looked at or put elsewhere
    #[command(after_help = write::BUILD_EXAMPLES)]
    Build {
        /// A task, or a folder of tasks
        #[arg(default_value_os_t = files::here())]
        path: PathBuf,
        /// Where the bundle of one task goes [default: dist/NAME.js beside its file]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put all tasks of a folder onto the server
    #[command(after_help = write::DEPLOY_EXAMPLES)]
    Deploy {
        /// A folder of tasks, or one task
        #[arg(default_value_os_t = files::here())]
        path: PathBuf,
        /// A variable that the script reads as process.env.NAME, for one task; several times
        #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
        variables: Vec<(String, String)>,
    },
    /// Create or replace one task
    #[command(after_help = write::PUT_EXAMPLES)]
    Put(write::Put),
    /// List the tasks and when they run next
    List,
    /// Run a task now
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The task's name
        name: String,
        /// What the script's `run` gets instead of the task's own params
        #[arg(long, value_name = "JSON", value_parser = object)]
        params: Option<Value>,
        /// Only show what it would change
        #[arg(long)]
        dry_run: bool,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// List the newest runs, of one task or of all
    Runs {
        /// The task's name
        name: Option<String>,
        /// Only those in this state: queued, running, succeeded, failed, dead or cancelled
        #[arg(long)]
        state: Option<String>,
    },
    /// Show the log of a run, or of a task's newest run
    #[command(after_help = LOGS_EXAMPLES)]
    Logs {
        /// The task's name or the run's id
        #[arg(value_name = "NAME|RUN")]
        of: String,
        /// Go on with what is logged from now on, also by the runs that follow
        #[arg(short, long)]
        follow: bool,
    },
    /// End a run that waits or is going
    Cancel {
        /// The run's id
        run: String,
    },
    /// Run again what ended without success
    Retry {
        /// The run's id
        run: String,
    },
    /// Delete a task
    Delete {
        /// The task's name
        name: String,
    },
}

/// Which tests.
#[derive(Args)]
pub(crate) struct Tests {
    /// A folder of tasks, a task, or a test
    #[arg(default_value_os_t = files::here())]
    path: PathBuf,
    /// Only tests with this in their name
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

fn object(text: &str) -> Result<Value, String> {
    let read: serde_json::Result<Map<String, Value>> = serde_json::from_str(text);
    read.map(Value::Object).map_err(|error| format!("it must be a JSON object: {error}"))
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    match verb {
        Verb::Init { folder } => write::init(context, &folder),
        Verb::Check { paths } => write::check(context, &paths),
        Verb::Test(wanted) => test::test(context, &wanted).await,
        Verb::Dev(wanted) => dev::dev(context, wanted).await,
        Verb::Build { path, out } => write::build(context, &path, out.as_deref()),
        Verb::Deploy { path, variables } => write::deploy(context, &path, variables).await,
        Verb::Put(wanted) => write::put(context, wanted).await,
        Verb::List => {
            let tasks = paging::all(context.app().await?.tasks(), "tasks").await?;
            let columns = ["name", "schedule", "next run", "scopes", "runs at once"];
            context.output.list(&tasks, "tasks", columns, row)
        }
        Verb::Run { name, params, dry_run, no_wait } => {
            let (app, wanted) = (context.app().await?, RunRequest { params, dry_run });
            if no_wait {
                let run = app.run_task(&name, &wanted).await?;
                let text = format!("run {} of {name} is {}", run.id, state(&run.state));
                return context.output.either(&run, &text);
            }
            let run = ended(&context.output, &app, (&name, &wanted)).await?;
            show_result(context, &run)
        }
        Verb::Runs { name, state: wanted } => {
            let app = context.app().await?;
            let runs = app.runs(name.as_deref(), wanted.as_deref(), RUNS_SHOWN).await?.objects;
            let columns = ["run", "task", "by", "state", "due", "took", "why"];
            context.output.list(&runs, "runs", columns, run_row)
        }
        Verb::Logs { of, follow: true } => follow_logs(context, &of).await,
        Verb::Logs { of, follow: false } => logs(context, &of).await,
        Verb::Cancel { run } => {
            let run = context.app().await?.cancel_run(&run).await?;
            context.output.either(&run, &summary(&run))
        }
        Verb::Retry { run } => {
            let run = context.app().await?.retry_run(&run).await?;
            context.output.either(&run, &summary(&run))
        }
        Verb::Delete { name } => {
            context.app().await?.delete_task(&name).await?;
            let fields = json!({ "task": name, "deleted": true });
            context.output.done(&format!("task {name} is deleted"), fields)
        }
    }
}

/// Runs a task and waits until the run has ended: the server waits with us for a while; after that
/// we look from time to time.
async fn ended(
    output: &output::Output,
    app: &InApp,
    (name, wanted): (&str, &RunRequest),
) -> Result<Run> {
    let _progress = Progress::waiting(&format!("{name} is running"));
    let mut run = app.run_task_and_wait(name, wanted).await?;
    if run.state == RunState::Queued {
        let why = "others go before it, or none can begin: `reauth doctor` tells";
        output.remark(&format!("run {} still waits: {why}", run.id));
    }
    while !run.state.is_end() {
        if let Some(error) = run.error.as_ref().filter(|error| error.kind == "refused") {
            let what = format!("run {} waits: {}", run.id, error.message);
            let help = "it begins when a process can be started: see `reauth doctor`, or end it \
                        with `reauth task cancel`";
            return Err(Failure::new(what).help(help));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        run = app.task_run(&run.id).await.map_err(|error| {
            let what = format!("run {} goes on, but cannot be looked at: {}", run.id, error.what());
            let help = format!("look with `reauth task logs {}` (scope tasks:read)", run.id);
            Failure::new(what).help(help)
        })?;
    }
    Ok(run)
}

fn show_result(context: &Context, run: &Run) -> Result<()> {
    context.output.remark(&summary(run));
    if let Some(changes) = &run.changes {
        // The result alone is the answer: programs read it.
        changed(changes, true).lines().for_each(|line| context.output.remark(line));
    }
    if run.state == RunState::Succeeded {
        let result = serde_json::to_string_pretty(&run.result);
        let result = result.map_err(|error| Failure::new(format!("the result: {error}")))?;
        return context.output.either(run, &result);
    }
    context.output.either(run, "")?;
    Err(failed(run))
}

/// What a run has changed, or a dry run would have changed.
fn changed(changes: &[Value], dry_run: bool) -> String {
    let it = if dry_run { "it would have changed" } else { "it changed" };
    if changes.is_empty() {
        return format!("{it} nothing");
    }
    let mut lines = vec![format!("{it}:")];
    for one in changes {
        let user = one["user"].as_str().map(|user| format!(" of user {user}")).unwrap_or_default();
        let mut rest = one["change"].as_object().cloned().unwrap_or_default();
        let kind = rest.remove("kind").and_then(|kind| kind.as_str().map(str::to_owned));
        lines.push(match (kind, one["request"].as_str()) {
            (Some(kind), _) => format!("  {kind}{user} {}", Value::Object(rest)),
            (None, Some(request)) => format!("  request {request}"),
            (None, None) => format!("  and {} more", one["more"]),
        });
    }
    lines.join("\n")
}

fn failed(run: &Run) -> Failure {
    let why = run.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
    let what = format!("run {} of {} {}{why}", run.id, run.task, state(&run.state));
    Failure::new(what).help(format!("see `reauth task logs {}`", run.id))
}

async fn logs(context: &Context, of: &str) -> Result<()> {
    let app = context.app().await?;
    let id = if is_run_id(of) {
        of.to_owned()
    } else {
        let newest = app.begun_runs(of, 1).await?.objects.pop();
        let none = || Failure::new(format!("task {of} has not run yet"));
        newest.ok_or_else(|| none().help(format!("run it with `reauth task run {of}`")))?.id
    };
    let run = app.task_run(&id).await?;
    context.output.either(&run, &log_text(run.log.as_deref().unwrap_or_default()))?;
    told_end(context, &run);
    Ok(())
}

/// How a run has ended, and why it failed: with the places in the script.
fn told_end(context: &Context, run: &Run) {
    context.output.remark(&summary(run));
    let why = run.error.as_ref().map(|error| error.message.trim_end()).unwrap_or_default();
    why.lines().for_each(|line| context.output.remark(&format!("  {line}")));
}

/// Writes what is logged as it comes: by a run until its end, or by all of a task's runs from now
/// on until this program is ended.
async fn follow_logs(context: &Context, of: &str) -> Result<()> {
    let app = context.app().await?;
    let (mut seen, mut is_first) = (HashSet::new(), true);
    let mut current: Option<(String, usize)> = is_run_id(of).then(|| (of.to_owned(), 0));
    loop {
        if let Some((id, shown)) = &mut current {
            let run = app.task_run(id).await?;
            let log = run.log.as_deref().unwrap_or_default();
            // Tried again: its log begins anew.
            if log.len() < *shown {
                *shown = 0;
            }
            output::print(&output::plain_lines(&log_text(log.get(*shown..).unwrap_or_default())))?;
            *shown = log.len();
            if run.state.is_end() {
                told_end(context, &run);
                if is_run_id(of) {
                    return Ok(());
                }
                current = None;
            }
        } else {
            let runs = app.begun_runs(of, RUNS_SHOWN).await?.objects;
            // What had ended before we came is for `logs` without --follow.
            let old = |run: &&Run| is_first && run.state.is_end();
            seen.extend(runs.iter().filter(old).map(|run| run.id.clone()));
            is_first = false;
            let next = runs
                .iter()
                .rev()
                .find(|run| run.state != RunState::Queued && !seen.contains(&run.id));
            if let Some(run) = next {
                context.output.remark(&format!("run {} began", run.id));
                seen.insert(run.id.clone());
                current = Some((run.id.clone(), 0));
                continue;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn run_row(run: &Run) -> [String; 7] {
    let why = run.error.as_ref().and_then(|error| error.message.lines().next()).unwrap_or_default();
    let tries = if run.attempt > 1 { format!(" ({} tries)", run.attempt) } else { String::new() };
    [
        run.id.clone(),
        run.task.clone(),
        run.trigger.clone(),
        format!("{}{tries}", state(&run.state)),
        run.due_at.to_string(),
        run.took_ms.map(millis).unwrap_or_default(),
        why.chars().take(60).collect(),
    ]
}

/// A run's id is a lowercase UUID; no task is named like one.
fn is_run_id(text: &str) -> bool {
    let is_place = |(place, c): (usize, char)| match place {
        8 | 13 | 18 | 23 => c == '-',
        _ => matches!(c, '0'..='9' | 'a'..='f'),
    };
    text.len() == 36 && text.chars().enumerate().all(is_place)
}

/// Further lines of one text stand below its first.
fn log_text(log: &[LogLine]) -> String {
    let line = |line: &LogLine| {
        let head = format!("{:>10}  {:<5}  ", millis(line.at_ms), line.level);
        let indent = format!("\n{}", " ".repeat(head.len()));
        format!("{head}{}", line.text.trim_end().replace('\n', &indent))
    };
    let lines: Vec<String> = log.iter().map(line).collect();
    lines.join("\n")
}

fn summary(run: &Run) -> String {
    let took = run.took_ms.map(|took| format!(" after {}", millis(took))).unwrap_or_default();
    format!("run {} of {} {}{took}", run.id, run.task, state(&run.state))
}

fn state(state: &RunState) -> &str {
    match state {
        RunState::Queued => "queued",
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Dead => "dead",
        RunState::Cancelled => "cancelled",
        RunState::Other(name) => name,
    }
}

fn schedule(task: &Task) -> String {
    let schedule = task.schedule.as_ref();
    schedule.map_or("none".to_owned(), |it| format!("{} {}", it.cron, it.zone))
}

fn row(task: &Task) -> [String; 5] {
    let at_once = if task.single_instance { "one" } else { "several" };
    [
        task.name.clone(),
        schedule(task),
        match &task.stopped {
            Some(why) => format!("stopped: {why}"),
            None => at_or(task.next_at, "not by a schedule"),
        },
        task.scopes.join(" "),
        at_once.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(file: PathBuf) -> write::Put {
        write::Put {
            file,
            name: None,
            schedule: Some("0 3 * * *".into()),
            zone: None,
            scopes: vec!["users:read".into()],
            single_instance: true,
            web: false,
            allow_hosts: Vec::new(),
            params: None,
            variables: vec![("A".into(), "b=c".into())],
        }
    }

    #[test]
    fn a_task_is_named_after_its_file_and_its_zone_is_utc() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidy.up.ts");
        std::fs::write(&file, "export async function run() {}").expect("a file");
        let (name, task) = write::described(put_of(file.clone())).expect("a task");
        assert_eq!((name.as_str(), task.file.as_str()), ("tidy.up", "tidy.up.ts"));
        let config = task.config;
        assert_eq!(config.schedule.map(|it| it.zone).as_deref(), Some("UTC"));
        assert_eq!(task.source, "export async function run() {}");
        assert_eq!(config.env["A"], "b=c");
        let other = write::Put { name: Some("other".into()), ..put_of(file) };
        assert_eq!(write::described(other).expect("a task").0, "other");
    }

    #[test]
    fn a_script_that_cannot_be_read_is_named() {
        let failure = write::described(put_of("no/such/tidy.ts".into())).expect_err("no file");
        assert!(format!("{failure:?}").contains("no/such/tidy.ts"));
        assert!(write::described(put_of("..".into())).is_err());
    }

    #[test]
    fn what_a_dry_run_would_have_changed_is_listed() {
        let changes = [
            json!({ "user": "u1", "change": { "kind": "user.locked", "ended": [] } }),
            json!({ "request": "POST https://mail.example" }),
            json!({ "more": 7 }),
        ];
        assert_eq!(changed(&[], true), "it would have changed nothing");
        assert_eq!(changed(&changes[2..], false), "it changed:\n  and 7 more");
        let wanted = "it would have changed:\n  user.locked of user u1 {\"ended\":[]}\n  \
                      request POST https://mail.example\n  and 7 more";
        assert_eq!(changed(&changes, true), wanted);
    }

    #[test]
    fn params_are_objects_and_variables_have_names() {
        assert_eq!(object("{\"days\": 3}"), Ok(json!({ "days": 3 })));
        for text in ["", "3", "[1]", "{days: 3}"] {
            assert!(object(text).is_err(), "{text}");
        }
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Ok(("A".into(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
    }

    #[test]
    fn a_runs_id_is_told_from_a_tasks_name() {
        assert!(is_run_id("01900000-0000-7000-8000-00000000000a"));
        for text in ["tidy", "01900000-0000-7000-8000-00000000000A", "0190", ""] {
            assert!(!is_run_id(text), "{text}");
        }
        assert!(!is_run_id("01900000_0000_7000_8000_00000000000a"));
    }

    #[test]
    fn a_log_is_aligned_with_its_further_lines() {
        let line = |at_ms, level: &str, text: &str| LogLine {
            at_ms,
            level: level.to_owned(),
            text: text.to_owned(),
        };
        let log = [line(3, "info", "hello"), line(61_250, "error", "Error: no\n  at run\n")];
        let wanted = "   0.003 s  info   hello\n  61.250 s  error  Error: no\n\
                      \x20                    at run";
        assert_eq!(log_text(&log), wanted);
    }

    #[test]
    fn a_failed_run_says_why() {
        let run: Run = serde_json::from_value(json!({
            "id": "r", "task": "tidy", "trigger": "hand", "state": "failed", "attempt": 1,
            "due_at": "2026-05-01T08:00:00Z", "started_at": null, "finished_at": null,
            "took_ms": 1204, "error": { "kind": "threw", "message": "no such user" },
        }))
        .expect("a run");
        assert_eq!(summary(&run), "run r of tidy failed after 1.204 s");
        let text = format!("{:?}", failed(&run));
        assert!(text.contains("run r of tidy failed: no such user"), "{text}");
    }
}
