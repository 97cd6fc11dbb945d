//! `reauth task init`, `check`, `build`, `put`, `deploy`: from the first line of a script to the
//! server.

use std::path::{Path, PathBuf};

use clap::Args;
use reauth_sdk::{NewTask, Schedule as WantedSchedule, Task, TaskConfig};
use reauth_server::check_task;
use reauth_server::domain::Clock;
use reauth_server::domain::tasks::Schedule;
use reauth_server::sandbox::inline_map;
use serde_json::{Value, json};

use super::bundle::sources;
use super::files::{LocalTask, Ready, read, tasks_at, tasks_to_send, with_imports};
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

pub(crate) const DEPLOY_EXAMPLES: &str = "\
All tasks are checked first: none is put if one is wrong. A task that imports npm packages is
bundled with them, by the esbuild beside its package.json (npm install --save-dev esbuild).

Examples:
  reauth task deploy
  reauth task deploy tasks/sign-in-again.ts --env KEY=secret";

pub(crate) const BUILD_EXAMPLES: &str = "\
`reauth task deploy` bundles what imports npm packages by itself; this is for those who want to see
the bundle, or deploy it from where there is no Node.js. Settings in a NAME.toml or task.toml come
along. It runs the esbuild beside the task's package.json (npm install --save-dev esbuild).

Examples:
  reauth task build tasks/sign-in-again.ts
  reauth task build tasks/sign-in-again --out build/sign-in-again.js && reauth task deploy build";

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
    let mut local = tasks_to_send(&file)?;
    let Some(found) = local.pop().filter(|_| local.is_empty()) else {
        let what = format!("{} is a folder of several tasks", file.display());
        return Err(Failure::usage(what).help("put one, or use `reauth task deploy`"));
    };
    let mut task = found.new_task()?;
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
    let local = tasks_to_send(path)?;
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
        let mut new = task.new_task()?;
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
    let ready = task.ready.clone()?;
    let files = (ready.entry.as_str(), ready.files);
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
                    warn_of_missing(context, &task);
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

/// What is imported at once and not there is wrong, and was told with its place. What is imported
/// later, by `import("./x.ts")`, may never be.
fn warn_of_missing(context: &Context, task: &LocalTask) {
    for (file, wanted) in &task.missing {
        let file = task.root.join(file);
        let what = format!("{} imports {wanted}, which is not there", file.display());
        context.output.remark(&format!("  warning: {what}: a run that comes to it fails"));
    }
}

fn told(task: &LocalTask, found: &Checked) -> String {
    let mut files = match task.written {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    if let Some(text) = task.bundle() {
        files.push_str(&format!(" and packages, {} KiB", text.len().div_ceil(1024)));
    }
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

/// Bundles tasks with the packages that they import, each with its settings beside it.
pub(super) fn build(context: &Context, path: &Path, out: Option<&Path>) -> Result<()> {
    let tasks = tasks_to_send(path)?;
    if tasks.len() > 1 && out.is_some() {
        let what = "--out would give one file to each of these tasks";
        return Err(Failure::usage(what).help("build one of them, or leave --out away"));
    }
    let mut made = Vec::new();
    for task in tasks {
        let file = out.map_or_else(|| bundle_of(&task), Path::to_owned);
        built(task, &file)?;
        made.push(file);
    }
    let text: Vec<String> = made.iter().map(|file| format!("made {}", file.display())).collect();
    context.output.either(&json!({ "made": made }), &text.join("\n"))
}

fn bundle_of(task: &LocalTask) -> PathBuf {
    let entry = task.root.join(&task.entry);
    let folder = entry.parent().unwrap_or(&task.root);
    folder.join("dist").join(format!("{}.js", task.name))
}

/// Writes the bundle of a task that is right, and its settings.
fn built(task: LocalTask, file: &Path) -> Result<()> {
    let settings = file.with_extension("toml");
    let said = task.toml.as_deref().map(read).transpose()?;
    may_set(said.as_deref(), file, &settings)?;
    let entry = task.root.join(&task.entry);
    let here = with_imports(&task.root, &task.entry)?.files.into_keys();
    may_replace(here.map(|name| task.root.join(name)), file)?;
    let why = format!("{} is to be bundled", entry.display());
    let ready = Ready::bundled(&task.root, &task.entry, &why)?;
    let task = LocalTask { ready: Ok(ready), ..task };
    checked(&task)?;
    let text = task.bundle().map(str::to_owned);
    // Those of packages too, and what is no script.
    let all = text.iter().flat_map(|text| sources(text));
    may_replace(all.map(|name| task.root.join(name)), file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
    for (path, text) in [(file, text), (&settings, said)] {
        let Some(text) = text else { continue };
        std::fs::write(path, text).map_err(|error| cannot_write(path, &error))?;
    }
    Ok(())
}

/// Whether a bundle's settings may be written: they replace no settings but those of a bundle.
fn may_set(said: Option<&str>, file: &Path, settings: &Path) -> Result<()> {
    if file.extension().is_some_and(|it| it.eq_ignore_ascii_case("toml")) {
        let what = format!("{} is a name for settings, not for a bundle", file.display());
        return Err(Failure::usage(what).help("give a name that ends in .js to --out"));
    }
    if !settings.exists() {
        return Ok(());
    }
    let Some(said) = said else {
        let what = format!("{} is there, but the task has no such settings", settings.display());
        return Err(Failure::new(what).help("delete it: it would outweigh what the script says"));
    };
    if !file.exists() && read(settings).ok().as_deref() != Some(said) {
        let what = format!("{} is there, with other settings than the task's", settings.display());
        let help = "delete it if nobody needs it, or give another file to --out";
        return Err(Failure::new(what).help(help));
    }
    Ok(())
}

/// Whether a bundle may be written to a file: it replaces none that it is made of, and no other
/// that has something else in it than a bundle.
fn may_replace(sources: impl IntoIterator<Item = PathBuf>, file: &Path) -> Result<()> {
    let own = std::fs::canonicalize(file).ok();
    let Some(own) = own.filter(|own| own.is_file()) else { return Ok(()) };
    let is_same = |source: &PathBuf| std::fs::canonicalize(source).is_ok_and(|it| it == own);
    if let Some(source) = sources.into_iter().find(is_same) {
        let what = format!("the bundle would replace {}, which is in it", source.display());
        return Err(Failure::usage(what).help("give another file to --out"));
    }
    let bytes = std::fs::read(&own).ok();
    let text = bytes.as_deref().map(String::from_utf8_lossy);
    if text.is_some_and(|text| text.is_empty() || inline_map(&text).is_some()) {
        return Ok(());
    }
    let what = format!("the bundle would replace {}, which is no bundle", file.display());
    let help = "delete it if nobody needs it, or give another file to --out";
    Err(Failure::usage(what).help(help))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}: {error}", path.display()))
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
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
    let mut made = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        if path.exists() {
            context.output.remark(&format!("{} is there already: it stays", path.display()));
            continue;
        }
        std::fs::write(&path, text).map_err(|error| cannot_write(&path, &error))?;
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
