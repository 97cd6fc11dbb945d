//! `reauth task init`, `check`, `build`, `put`, `deploy`: from the first line of a script to the
//! server.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use reauth_sdk::{NewTask, Schedule as WantedSchedule, Task, TaskConfig};
use reauth_server::check_task;
use reauth_server::domain::Clock;
use reauth_server::domain::tasks::Schedule;
use serde_json::{Value, json};

use super::files::{LocalTask, tasks_at};
use super::{object, schedule, variable};
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::output;
use crate::times::at_or;

/// How many firing times are shown.
const FIRES: usize = 5;

pub(crate) const PUT_EXAMPLES: &str = "\
A put says everything about a task: what is given neither here nor in the script's own
`export const config = {…}`, the task does not have. The token that is used must be allowed every
scope that the task gets.

Example:
  reauth task put sign-in-again.ts --schedule \"0 3 * * *\" --zone Europe/Vienna \\
    --scope users:read --scope sessions:end --single-instance";

/// A task as it is to be.
#[derive(Args)]
pub(crate) struct Put {
    /// The script: .ts and .mts are TypeScript, all else is JavaScript
    pub(super) file: PathBuf,
    /// The task's name; the file's without its ending if not given
    #[arg(long)]
    pub(super) name: Option<String>,
    /// When it runs by itself: minute, hour, day, month, weekday, such as "0 3 * * *"
    #[arg(long, value_name = "CRON")]
    pub(super) schedule: Option<String>,
    /// The time zone of the schedule, such as Europe/Vienna; UTC if not given
    #[arg(long, value_name = "ZONE", requires = "schedule")]
    pub(super) zone: Option<String>,
    /// What its runs may do; several times, or with commas between
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    pub(super) scopes: Vec<String>,
    /// Never let two runs go at once
    #[arg(long)]
    pub(super) single_instance: bool,
    /// Let it answer HTTP requests
    #[arg(long)]
    pub(super) web: bool,
    /// Where it may fetch from beside this API, such as api.example.com; several times
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(super) allow_hosts: Vec<String>,
    /// What the script's `run` gets when nothing else is said
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub(super) params: Option<Value>,
    /// A variable that the script reads as process.env.NAME; several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub(super) variables: Vec<(String, String)>,
}

pub(super) async fn put(context: &Context, wanted: Put) -> Result<()> {
    let (name, task) = described(wanted)?;
    let task = context.app().await?.put_task(&name, &task).await?;
    let fields = [
        ("name", task.name.clone()),
        ("schedule", schedule(&task)),
        ("next run", at_or(task.next_at, "not by a schedule")),
        ("scopes", task.scopes.join(" ")),
    ];
    context.output.one(&task, &fields)
}

/// The task's name and the task, with the script read from its file.
pub(super) fn described(wanted: Put) -> Result<(String, NewTask)> {
    let Put {
        file,
        name,
        schedule,
        zone,
        scopes,
        single_instance,
        web,
        allow_hosts,
        params,
        variables,
    } = wanted;
    let mut local = tasks_at(&file)?;
    let Some(found) = local.pop().filter(|_| local.is_empty()) else {
        let what = format!("{} is a folder of several tasks", file.display());
        return Err(Failure::usage(what).help("put one, or use `reauth task deploy`"));
    };
    let mut task = found.new_task();
    let config = &mut task.config;
    if let Some(cron) = schedule {
        let zone = zone.unwrap_or_else(|| "UTC".to_owned());
        config.schedule = Some(WantedSchedule { cron, zone });
    }
    if !scopes.is_empty() {
        config.scopes = Some(scopes);
    }
    if !allow_hosts.is_empty() {
        config.allow_hosts = Some(allow_hosts);
    }
    config.single_instance = single_instance.then_some(true).or(config.single_instance);
    config.web = web.then_some(true).or(config.web);
    config.params = params.or(config.params.take());
    config.env.extend(variables);
    Ok((name.unwrap_or(found.name), task))
}

/// Puts all tasks of a folder. All are checked first: none is put if one is wrong.
pub(super) async fn deploy(
    context: &Context,
    path: &Path,
    variables: Vec<(String, String)>,
) -> Result<()> {
    let local = tasks_at(path)?;
    for task in &local {
        checked(task)?;
    }
    if local.len() > 1 && !variables.is_empty() {
        let what = "--env would give its variables to each of these tasks";
        return Err(Failure::usage(what).help("deploy the task that needs them by itself"));
    }
    let app = context.app().await?;
    let mut put = Vec::new();
    for task in local {
        let mut new = task.new_task();
        new.config.env.extend(variables.clone());
        put.push(app.put_task(&task.name, &new).await?);
    }
    let columns = ["task", "schedule", "next run", "started by", "scopes"];
    context.output.list(&put, "tasks", columns, |task: &Task| {
        let starts: Vec<&str> =
            task.on.iter().chain(task.web.as_ref()).map(String::as_str).collect();
        [
            task.name.clone(),
            schedule(task),
            at_or(task.next_at, "not by a schedule"),
            starts.join(" "),
            task.scopes.join(" "),
        ]
    })
}

/// What a check found of a task.
pub(super) struct Checked {
    pub(super) config: TaskConfig,
    /// When it fires next, as people in its zone say it.
    fires: Vec<String>,
    kind: &'static str,
}

/// Compiles a task and reads what it says of itself, as the server will.
pub(super) fn checked(task: &LocalTask) -> Result<Checked> {
    let compiled = task.compiled()?;
    let config = task.config(&compiled)?;
    let has = |name: &str| compiled.exports.iter().any(|it| it == name);
    let kind = match () {
        () if config.web == Some(true) && !has("authenticate") => {
            return Err(task.wrong("a web task must export authenticate"));
        }
        () if has("authenticate") => "web task",
        () if has("run") => "task",
        () if has("extractIdentity") => "sign-in hook",
        () => return Err(task.wrong("it exports neither run nor authenticate")),
    };
    let said = serde_json::to_value(&task.said).map_err(|error| task.wrong(&error.to_string()))?;
    let said = said.as_object().cloned().unwrap_or_default();
    let files = (task.entry.as_str(), task.files.clone());
    check_task(&task.name, files, compiled, said).map_err(|why| task.wrong(&why))?;
    let mut fires = Vec::new();
    if let Some(plan) = &config.schedule {
        let wrong = |error: reauth_server::domain::Error| task.wrong(&error.to_string());
        let plan = Schedule::parse(&plan.cron, &plan.zone).map_err(wrong)?;
        let mut last = Clock::machine_time();
        for _ in 0..FIRES {
            last = plan.next_after(last).map_err(wrong)?;
            fires.push(plan.told(last));
        }
    }
    Ok(Checked { config, fires, kind })
}

/// Says whether tasks are right, without a server.
pub(super) fn check(context: &Context, paths: &[PathBuf]) -> Result<()> {
    let mut wrong = 0;
    let mut all = Vec::new();
    for path in paths {
        for task in tasks_at(path)? {
            match checked(&task) {
                Ok(found) => {
                    context.output.tell(&told(&task, &found))?;
                    all.push(json!({ "task": task.name, "ok": true, "next": found.fires }));
                }
                Err(failure) => {
                    wrong += 1;
                    let _ = failure.report();
                    all.push(json!({ "task": task.name, "ok": false }));
                }
            }
        }
    }
    context.output.either(&all, "")?;
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::new("1 task is wrong")),
        count => Err(Failure::new(format!("{count} tasks are wrong"))),
    }
}

fn told(task: &LocalTask, found: &Checked) -> String {
    let files = match task.files.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    let mut text = format!("{}: a {} of {files}, right", task.name, found.kind);
    if let Some(plan) = &found.config.schedule {
        text.push_str(&format!("\n  {} in {}, next:", plan.cron, plan.zone));
        found.fires.iter().for_each(|at| text.push_str(&format!("\n    {at}")));
    }
    for kind in found.config.on.iter().flatten() {
        text.push_str(&format!("\n  on {kind}"));
    }
    text
}

/// Bundles a task with the packages that it imports, by the esbuild of its own package.json.
pub(super) fn build(context: &Context, file: &Path, out: Option<PathBuf>) -> Result<()> {
    let folder = file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut above = std::path::absolute(folder)?;
    let esbuild = loop {
        let program = above.join("node_modules/.bin/esbuild");
        if program.exists() {
            break program;
        }
        if !above.pop() {
            let what = "there is no node_modules/.bin/esbuild beside the task or above it";
            let help =
                "install it where the task's package.json is: npm install --save-dev esbuild";
            return Err(Failure::new(what).help(help));
        }
    };
    let name = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("task");
    let out = out.unwrap_or_else(|| folder.join("dist").join(format!("{name}.js")));
    let status = Command::new(&esbuild)
        .arg(file)
        .args(["--bundle", "--format=esm", "--platform=neutral", "--target=es2023"])
        .args(["--main-fields=module,main", "--conditions=import", "--log-level=warning"])
        .arg(format!("--outfile={}", out.display()))
        .status();
    let status = status
        .map_err(|error| Failure::new(format!("{} does not run: {error}", esbuild.display())))?;
    if !status.success() {
        return Err(Failure::new("esbuild refused it; see above"));
    }
    let task = tasks_at(&out)?.remove(0);
    checked(&task)?;
    let fields = json!({ "file": out });
    context.output.done(&format!("{} is ready: deploy it", out.display()), fields)
}

const EXAMPLE: &str =
    include_str!("../../../../../examples/tasks/force-re-authentication/index.ts");
const EXAMPLE_TEST: &str = include_str!(
    "../../../../../examples/tasks/force-re-authentication/force-re-authentication.test.ts"
);
const TYPES: &str = include_str!("../../../../../examples/tasks/types.d.ts");
const GLOBAL_TYPES: &str = include_str!("../../../../../examples/tasks/globals.d.ts");
const TESTING_TYPES: &str = include_str!("../../../../../examples/tasks/testing.d.ts");
const TSCONFIG: &str = include_str!("../../../../../examples/tasks/tsconfig.json");

/// A folder to begin with. What is there already stays.
pub(super) fn init(context: &Context, folder: &Path) -> Result<()> {
    let files = [
        ("force-re-authentication.ts", EXAMPLE),
        ("force-re-authentication.test.ts", EXAMPLE_TEST),
        ("types.d.ts", TYPES),
        ("globals.d.ts", GLOBAL_TYPES),
        ("testing.d.ts", TESTING_TYPES),
        ("tsconfig.json", TSCONFIG),
    ];
    let cannot = |path: &Path, error: std::io::Error| {
        Failure::new(format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let mut made = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        if path.exists() {
            context.output.remark(&format!("{} is there already: it stays", path.display()));
            continue;
        }
        std::fs::write(&path, text).map_err(|error| cannot(&path, error))?;
        made.push(path.display().to_string());
    }
    let place = folder.display();
    let next = format!(
        "{}\nnext:\n  reauth task test {place}      # on a throw-away server, its clock moves\n  \
         reauth task deploy {place}    # onto the server of REAUTH_URL",
        made.iter().map(|path| format!("made {path}")).collect::<Vec<_>>().join("\n")
    );
    if context.output.is_json() {
        return context.output.either(&json!({ "made": made }), "");
    }
    output::print(&next)
}
