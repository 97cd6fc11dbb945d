//! `reauth task`: scripts of an app, and their runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use reauth_sdk::{InApp, LogLine, NewTask, Run, RunState, Schedule, Task};
use serde_json::{Map, Value, json};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::paging::{self, Progress};
use crate::times::{at_or, millis};

/// How often a run that goes on is looked at: a person does not notice the difference.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const PUT_EXAMPLES: &str = "\
A put says everything about a task: what is not given (schedule, scopes, params, variables), the
task does not have. The token that is used must be allowed every scope that the task gets.

Example:
  reauth task put sign-in-again.ts --schedule \"0 3 * * *\" --zone Europe/Vienna \\
    --scope users:read --scope sessions:end --single-instance";

const RUN_EXAMPLES: &str = "\
Waits until the run has ended and writes its result, as JSON, to stdout; the exit code is 1 if it
failed. Ending this program does not end the run.

Example:
  reauth task run sign-in-again --params '{\"days\": 30}'";

const LOGS_EXAMPLES: &str = "\
Examples:
  reauth task logs sign-in-again
  reauth task logs 01900000-0000-7000-8000-000000000001";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create or replace a task
    #[command(after_help = PUT_EXAMPLES)]
    Put(Put),
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
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Show the log of a run, or of a task's newest run
    #[command(after_help = LOGS_EXAMPLES)]
    Logs {
        /// The task's name or the run's id
        #[arg(value_name = "NAME|RUN")]
        of: String,
    },
    /// Delete a task
    Delete {
        /// The task's name
        name: String,
    },
}

/// A task as it is to be.
#[derive(Args)]
pub(crate) struct Put {
    /// The script: .ts and .mts are TypeScript, all else is JavaScript
    file: PathBuf,
    /// The task's name; the file's without its ending if not given
    #[arg(long)]
    name: Option<String>,
    /// When it runs by itself: minute, hour, day, month, weekday, such as "0 3 * * *"
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
    /// The time zone of the schedule, such as Europe/Vienna; UTC if not given
    #[arg(long, value_name = "ZONE", requires = "schedule")]
    zone: Option<String>,
    /// What its runs may do; several times, or with commas between
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// Never let two runs go at once
    #[arg(long)]
    single_instance: bool,
    /// What the script's `run` gets when nothing else is said
    #[arg(long, value_name = "JSON", value_parser = object)]
    params: Option<Value>,
    /// A variable that the script reads as process.env.NAME; several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
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
        Verb::Put(wanted) => put(context, wanted).await,
        Verb::List => {
            let tasks = paging::all(context.app().await?.tasks(), "tasks").await?;
            let columns = ["name", "schedule", "next run", "scopes", "runs at once"];
            context.output.list(&tasks, "tasks", columns, row)
        }
        Verb::Run { name, params, no_wait } => {
            let app = context.app().await?;
            if no_wait {
                let run = app.run_task(&name, params.as_ref()).await?;
                let text = format!("run {} of {name} is {}", run.id, state(&run.state));
                return context.output.either(&run, &text);
            }
            let run = ended(&app, &name, params.as_ref()).await?;
            show_result(context, &run)
        }
        Verb::Logs { of } => logs(context, &of).await,
        Verb::Delete { name } => {
            context.app().await?.delete_task(&name).await?;
            let fields = json!({ "task": name, "deleted": true });
            context.output.done(&format!("task {name} is deleted"), fields)
        }
    }
}

async fn put(context: &Context, wanted: Put) -> Result<()> {
    let (name, task) = described(wanted)?;
    let task = context.app().await?.put_task(&name, &task).await?;
    let fields = [
        ("name", task.name.clone()),
        ("schedule", schedule(&task)),
        ("next run", at_or(task.next_at, "by hand only")),
        ("scopes", task.scopes.join(" ")),
    ];
    context.output.one(&task, &fields)
}

/// The task's name and the task, with the script read from its file.
fn described(wanted: Put) -> Result<(String, NewTask)> {
    let Put { file, name, schedule, zone, scopes, single_instance, params, variables } = wanted;
    let part = |part: Option<&std::ffi::OsStr>| part.and_then(|it| it.to_str()).map(str::to_owned);
    let (Some(file_name), Some(stem)) = (part(file.file_name()), part(file.file_stem())) else {
        let what = format!("{} has no file name that can be sent", file.display());
        return Err(Failure::usage(what).help("give the path of a file"));
    };
    let schedule = schedule.map(|cron| {
        let zone = zone.unwrap_or_else(|| "UTC".to_owned());
        Schedule { cron, zone }
    });
    let task = NewTask {
        file: file_name,
        source: source(&file)?,
        scopes,
        schedule,
        params,
        env: variables.into_iter().collect(),
        single_instance,
    };
    Ok((name.unwrap_or(stem), task))
}

fn source(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        let what = format!("cannot read {}: {error}", file.display());
        Failure::new(what).help("a script is a text file in UTF-8")
    })
}

/// Runs a task and waits until the run has ended: the server waits with us for a while; after that
/// we look from time to time.
async fn ended(app: &InApp, name: &str, params: Option<&Value>) -> Result<Run> {
    let _progress = Progress::waiting(&format!("{name} is running"));
    let mut run = app.run_task_and_wait(name, params).await?;
    while !run.state.is_end() {
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
    if run.state == RunState::Succeeded {
        let result = serde_json::to_string_pretty(&run.result);
        let result = result.map_err(|error| Failure::new(format!("the result: {error}")))?;
        return context.output.either(run, &result);
    }
    context.output.either(run, "")?;
    Err(failed(run))
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
        let newest = app.task_runs(of, 1).await?.objects.into_iter().next();
        let none = || Failure::new(format!("task {of} has not run yet"));
        newest.ok_or_else(|| none().help(format!("run it with `reauth task run {of}`")))?.id
    };
    let run = app.task_run(&id).await?;
    context.output.either(&run, &log_text(run.log.as_deref().unwrap_or_default()))?;
    context.output.remark(&summary(&run));
    Ok(())
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
        at_or(task.next_at, "by hand only"),
        task.scopes.join(" "),
        at_once.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(file: PathBuf) -> Put {
        Put {
            file,
            name: None,
            schedule: Some("0 3 * * *".into()),
            zone: None,
            scopes: vec!["users:read".into()],
            single_instance: true,
            params: None,
            variables: vec![("A".into(), "b=c".into())],
        }
    }

    #[test]
    fn a_task_is_named_after_its_file_and_its_zone_is_utc() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidy.up.ts");
        std::fs::write(&file, "export async function run() {}").expect("a file");
        let (name, task) = described(put_of(file.clone())).expect("a task");
        assert_eq!((name.as_str(), task.file.as_str()), ("tidy.up", "tidy.up.ts"));
        assert_eq!(task.schedule.map(|it| it.zone).as_deref(), Some("UTC"));
        assert_eq!(task.source, "export async function run() {}");
        assert_eq!(task.env["A"], "b=c");
        let other = Put { name: Some("other".into()), ..put_of(file) };
        assert_eq!(described(other).expect("a task").0, "other");
    }

    #[test]
    fn a_script_that_cannot_be_read_is_named() {
        let failure = described(put_of("no/such/tidy.ts".into())).expect_err("no file");
        assert!(format!("{failure:?}").contains("no/such/tidy.ts"));
        assert!(described(put_of("..".into())).is_err());
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
