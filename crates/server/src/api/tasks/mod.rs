//! Tasks: scripts of an app, what they may do and what starts them.

pub(crate) mod runs;
pub(crate) mod web;

use std::collections::BTreeMap;

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::tasks::{self, Definition, Misfire, Options, Schedule, Task};
use reauth_domain::tokens::{Scope, Scopes};
use reauth_domain::{Error, UserId};
use reauth_sandbox::{CALLED, Compiled, Uncompiled};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody, Kind};
use super::read::{Body, List, Page, PathOf, json_value};
use super::who::{Backend, TasksRead, TasksWrite};
use crate::app::App;
use crate::workers::egress::AllowedHost;
use crate::workers::run;

/// A compiler takes a child of its own: deployments do not take all from the runs.
static COMPILES: Semaphore = Semaphore::const_new(2);

/// A task.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskView {
    name: String,
    file: String,
    scopes: Vec<&'static str>,
    schedule: Option<ScheduleView>,
    params: Value,
    /// The names of the task's variables; their values are not shown again.
    env: Vec<String>,
    single_instance: bool,
    queue: Option<String>,
    retries: Option<i64>,
    /// `skip`, `once` or `all`.
    #[schema(value_type = String)]
    misfire: Misfire,
    /// Its own address, if it answers HTTP requests.
    web: Option<String>,
    allow_hosts: Vec<String>,
    on: Vec<String>,
    #[schema(value_type = Object)]
    r#where: BTreeMap<String, Value>,
    owner: Option<String>,
    created_at: String,
    updated_at: String,
    /// When it will next run by itself.
    next_at: Option<String>,
    /// Why it does not run by itself although it should.
    stopped: Option<String>,
    /// The script; only when one task is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Its other files by name; only when one task is asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, String>,
}

/// When a task runs by itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleView {
    /// Five fields, or six with seconds first.
    #[schema(example = "0 3 * * *")]
    cron: String,
    /// An IANA time zone.
    #[serde(default = "utc")]
    #[schema(example = "Europe/Vienna")]
    zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl TaskView {
    fn new(task: Task, base: &str, with_source: bool) -> Self {
        let it = task.definition;
        let web = it.options.web.then(|| format!("{base}/{}", it.name));
        Self {
            name: it.name,
            file: it.file,
            scopes: it.scopes.names(),
            schedule: it.schedule.map(|plan| ScheduleView {
                cron: plan.cron().to_owned(),
                zone: plan.zone().to_owned(),
            }),
            params: it.params,
            env: it.env.into_keys().collect(),
            single_instance: it.single_instance,
            queue: it.options.queue,
            retries: it.options.retries,
            misfire: it.options.misfire,
            web,
            allow_hosts: it.options.allow_hosts,
            on: it.options.on,
            r#where: it.options.filter,
            owner: it.options.owner.map(|owner| owner.to_string()),
            created_at: task.created_at.to_string(),
            updated_at: task.updated_at.to_string(),
            next_at: task.next_at.map(|at| at.to_string()),
            stopped: task.stopped,
            source: with_source.then_some(it.source),
            files: if with_source { it.files } else { BTreeMap::new() },
        }
    }
}

/// What a task is to be. Each field but `file`, `source` and `files` can be said in the script
/// itself too, as `export const config = {…}`; what is said here outweighs it, and null takes it
/// away.
#[derive(Deserialize, ToSchema)]
pub(crate) struct PutTask {
    /// The name of the file whose exports are called; `.ts` is TypeScript.
    #[schema(example = "sign-in-again.ts")]
    file: String,
    /// That file: an ES module that exports `run`, or `authenticate` and `get`, `post`…
    source: String,
    /// Other files that it imports, by their paths.
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(flatten)]
    #[schema(value_type = TaskConfig)]
    config: Map<String, Value>,
}

/// What a task says of itself.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TaskConfig {
    /// What a run's token may do; not more than the token with which the task is put.
    scopes: Vec<String>,
    schedule: Option<ScheduleView>,
    /// What `run` gets when the trigger brings nothing.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
    /// The task's variables. Said nowhere, those that it has stay; null or `{}` clears them.
    env: BTreeMap<String, String>,
    /// Whether at most one run may be going at any time.
    single_instance: bool,
    /// Runs with the same queue name exclude each other.
    queue: Option<String>,
    /// How often a run that failed is tried again, also if its script threw.
    retries: Option<i64>,
    /// What becomes of scheduled moments that were missed: `skip`, `once` or `all`.
    #[schema(value_type = Option<String>)]
    misfire: Option<Misfire>,
    /// Whether it answers HTTP requests at `/tasks/{app}/{task}`.
    web: bool,
    /// Where `fetch` may go: `api.example.com`, `*.example.com`, `http://mail.internal:8025`.
    allow_hosts: Vec<String>,
    /// The kinds of ledger entries that start a run, such as `session.ended`.
    on: Vec<String>,
    /// What these entries must hold: `{"change.because": "too_old"}`.
    #[schema(value_type = Object)]
    r#where: BTreeMap<String, Value>,
    /// A user for whom it runs: while they may not sign in, it does not run by itself.
    #[schema(value_type = Option<String>)]
    owner: Option<UserId>,
}

/// All tasks of the app by name. Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/tasks", tag = "tasks",
    params(("app" = String, Path)),
    responses((status = 200, body = List<TaskView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(who: Backend<TasksRead>) -> Result<Json<List<TaskView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let found = tasks::all(&mut read, who.app).await?;
    let total = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let base = base(&who);
    let views = found.into_iter().map(|task| TaskView::new(task, &base, false)).collect();
    Ok(Json(List::new(views, total, Page { limit: tasks::TASKS_MAX, skip: 0 })))
}

/// Where web tasks of this app are.
fn base<P>(who: &Backend<P>) -> String {
    format!("{}/tasks/{}", who.state.public_url(), who.app)
}

/// One task with its script. Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/tasks/{task}", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path)),
    responses((status = 200, body = TaskView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    who: Backend<TasksRead>,
    PathOf((_, name)): PathOf<(String, String)>,
) -> Result<Json<TaskView>, Answer> {
    let mut read = who.state.db.read().await?;
    let task = tasks::find(&mut read, who.app, &name).await?;
    Ok(Json(TaskView::new(task, &base(&who), true)))
}

/// Creates or replaces a task. A script that does not compile is refused with the place of the
/// error, and the old one goes on. Scope: `tasks:write`.
#[utoipa::path(put, path = "/api/v4/{app}/tasks/{task}", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path)), request_body = PutTask,
    responses((status = 200, body = TaskView), (status = 201, body = TaskView),
        (status = 422, body = ErrorBody)))]
pub(crate) async fn put(
    who: Backend<TasksWrite>,
    PathOf((_, name)): PathOf<(String, String)>,
    Body(wanted): Body<PutTask>,
) -> Result<(StatusCode, Json<TaskView>), Answer> {
    // Before anything is compiled for it.
    who.refuse_task()?;
    let says_variables = wanted.config.contains_key("env");
    let mut definition = definition(&who.state, name, wanted).await?;
    let mut tx = who.write().await?;
    if !says_variables && definition.env.is_empty() {
        // Whoever deploys a folder does not know what was given with `--env`.
        definition.env = tasks::variables(&mut tx, who.app, &definition.name).await?;
    }
    let (task, is_new) = tasks::put(&mut tx, who.app, definition, who.scopes).await?;
    tx.commit().await?;
    who.state.schedule_wake.notify_one();
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TaskView::new(task, &base(&who), true))))
}

/// The task that is meant: its files compiled, its own config read, and what was said beside them.
async fn definition(state: &App, name: String, wanted: PutTask) -> Result<Definition, Answer> {
    let PutTask { file, source, mut files, config } = wanted;
    files.insert(file.clone(), source);
    tasks::check_sources(files.values())?;
    let turn = COMPILES.acquire().await.map_err(|error| Error::Internal(error.to_string()))?;
    let compiled = state.sandbox.compile(&file, &files, &run::usual_limits(state)).await;
    drop(turn);
    let compiled = compiled.map_err(|why| match why {
        Uncompiled::Wrong(error) => Error::invalid("source", error.to_string()).into(),
        Uncompiled::Exhausted(why) => Error::invalid("source", why).into(),
        Uncompiled::NoChild(why) => {
            tracing::error!(why, "no script can be read");
            let detail = "no child for scripts can be started: nothing was changed; let the \
                          operator look at `reauth doctor`";
            Answer::new(Kind::Unavailable, detail)
        }
    })?;
    described(name, (file, files), compiled, config)
}

/// Says whether a task is right, as `put` would for the operator. For those who look before they
/// send: the text says what is wrong.
pub fn check_task(
    name: &str,
    (file, files): (&str, BTreeMap<String, String>),
    compiled: Compiled,
    config: Map<String, Value>,
) -> Result<(), String> {
    let operator = Scopes::default().with(Scope::Operator);
    let checked = described(name.to_owned(), (file.to_owned(), files), compiled, config)
        .and_then(|definition| Ok(tasks::check(&definition, operator)?));
    checked.map_err(|answer| answer.parts().2)
}

fn described(
    name: String,
    (file, mut files): (String, BTreeMap<String, String>),
    compiled: Compiled,
    config: Map<String, Value>,
) -> Result<Definition, Answer> {
    if !compiled.is_called() {
        let why = format!("{file} exports none of {}: nothing could be called", CALLED.join(", "));
        return Err(Error::invalid("source", why).into());
    }
    let own_scopes = compiled.config.as_ref().map_or(&Value::Null, |said| &said["scopes"]);
    let unlock = Scope::UsersUnlock.name();
    if own_scopes.as_array().is_some_and(|all| all.iter().any(|it| it == unlock)) {
        let why = format!("{unlock} is given by the operator in the request, not by the script");
        return Err(Error::invalid("scopes", why).into());
    }
    let mut said = match compiled.config {
        None => Map::new(),
        Some(Value::Object(said)) => said,
        Some(_) => return Err(Error::invalid("config", "must be an object").into()),
    };
    for (name, value) in config {
        // Null takes away what the script says.
        match value {
            Value::Null => drop(said.remove(&name)),
            value => drop(said.insert(name, value)),
        }
    }
    let said: TaskConfig = json_value(Value::Object(said))?;
    if let Some(wrong) = said.allow_hosts.iter().find_map(|text| AllowedHost::parse(text).err()) {
        return Err(Error::invalid("allow_hosts", wrong).into());
    }
    let script = serde_json::to_string(&compiled.script)
        .map_err(|error| Error::Internal(format!("a script: {error}")))?;
    let schedule = said.schedule.map(|it| Schedule::parse(&it.cron, &it.zone)).transpose()?;
    Ok(Definition {
        name,
        source: files.remove(&file).unwrap_or_default(),
        file,
        files,
        script,
        scopes: Scopes::from_names(&said.scopes)?,
        schedule,
        params: said.params.unwrap_or_else(|| json!({})),
        env: said.env,
        single_instance: said.single_instance,
        options: Options {
            queue: said.queue,
            retries: said.retries,
            misfire: said.misfire.unwrap_or_default(),
            web: said.web,
            allow_hosts: said.allow_hosts,
            on: said.on,
            filter: said.r#where,
            owner: said.owner,
        },
    })
}

/// Deletes a task; its runs stay to be read. Scope: `tasks:write`.
#[utoipa::path(delete, path = "/api/v4/{app}/tasks/{task}", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    who: Backend<TasksWrite>,
    PathOf((_, name)): PathOf<(String, String)>,
) -> Result<StatusCode, Answer> {
    let mut tx = who.write().await?;
    tasks::delete(&mut tx, who.app, &name).await?;
    tx.commit().await?;
    who.state.run_ended.send_replace(());
    Ok(StatusCode::NO_CONTENT)
}
