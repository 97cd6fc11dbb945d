//! Tasks and their runs.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::tasks::{self, Definition, LogRow, Run, Schedule, Task, Trigger};
use reauth_domain::tokens::Scopes;
use reauth_domain::{Error, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Answer, ErrorBody};
use super::read::{Body, List, MaybeBody, Page, PageQuery, PathOf, QueryOf};
use super::who::{Backend, TasksRead, TasksRun, TasksWrite};
use crate::app::App;

/// How long a caller may wait for a run; then it is told where to look.
const WAIT: Duration = Duration::from_mins(1);

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
    created_at: String,
    updated_at: String,
    /// When it will next run by itself.
    next_at: Option<String>,
    /// The script; only when one task is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

/// When a task runs by itself.
#[derive(Serialize, Deserialize, ToSchema)]
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
    fn new(task: Task, with_source: bool) -> Self {
        let it = task.definition;
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
            created_at: task.created_at.to_string(),
            updated_at: task.updated_at.to_string(),
            next_at: task.next_at.map(|at| at.to_string()),
            source: with_source.then_some(it.source),
        }
    }
}

/// A run of a task.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunView {
    id: String,
    task: String,
    /// `hand` or `schedule`.
    trigger: String,
    /// `queued`, `running`, `succeeded` or `failed`.
    state: &'static str,
    /// Which try this is, from 1.
    attempt: i64,
    due_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    took_ms: Option<i64>,
    params: Value,
    /// What `run` returned.
    result: Option<Value>,
    error: Option<RunError>,
    /// Only when one run is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    log: Option<Vec<LogRow>>,
}

/// Why a run failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunError {
    /// `threw`, `timed_out`, `out_of_time`, `out_of_memory`, `too_large`, `crashed`, `refused`,
    /// `lost` or `deleted`.
    kind: String,
    message: String,
}

impl RunView {
    fn new(run: Run, with_log: bool) -> Self {
        let took = run.finished_at.zip(run.started_at).map(|(end, start)| end - start);
        Self {
            id: run.id.to_string(),
            task: run.task,
            trigger: run.trigger,
            state: run.state.name(),
            attempt: run.attempt,
            due_at: run.due_at.to_string(),
            started_at: run.started_at.map(|at| at.to_string()),
            finished_at: run.finished_at.map(|at| at.to_string()),
            took_ms: took.map(reauth_domain::Span::whole_millis),
            params: run.params,
            result: run.result,
            error: run.error.map(|(kind, message)| RunError { kind, message }),
            log: with_log.then_some(run.log),
        }
    }
}

/// What a task is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutTask {
    /// The file's name; `.ts` is TypeScript.
    #[schema(example = "sign-in-again.ts")]
    file: String,
    /// The script: an ES module that exports `run`.
    source: String,
    /// What a run's token may do; not more than your own.
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    schedule: Option<ScheduleView>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
    /// The task's variables.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Whether at most one run may be going at any time.
    #[serde(default)]
    single_instance: bool,
}

/// All tasks of the app by name. Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/tasks", tag = "tasks",
    params(("app" = String, Path)),
    responses((status = 200, body = List<TaskView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(who: Backend<TasksRead>) -> Result<Json<List<TaskView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let found = tasks::all(&mut read, who.app).await?;
    let total = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let views = found.into_iter().map(|task| TaskView::new(task, false)).collect();
    Ok(Json(List::new(views, total, Page { limit: tasks::TASKS_MAX, skip: 0 })))
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
    Ok(Json(TaskView::new(tasks::find(&mut read, who.app, &name).await?, true)))
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
    let script = reauth_sandbox::compile(&wanted.file, &wanted.source)
        .map_err(|error| Error::invalid("source", error.to_string()))?;
    let schedule =
        wanted.schedule.map(|plan| Schedule::parse(&plan.cron, &plan.zone)).transpose()?;
    let definition = Definition {
        name,
        file: wanted.file,
        source: wanted.source,
        javascript: script.javascript,
        scopes: Scopes::from_names(&wanted.scopes)?,
        schedule,
        params: wanted.params.unwrap_or_else(|| json!({})),
        env: wanted.env,
        single_instance: wanted.single_instance,
    };
    let mut tx = who.write().await?;
    let (task, is_new) = tasks::put(&mut tx, who.app, definition, who.scopes).await?;
    tx.commit().await?;
    who.state.schedule_wake.notify_one();
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TaskView::new(task, true))))
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
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunRequest {
    /// What `run` gets instead of the task's own params.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// Answer when the run has ended, or after 60 seconds.
    wait: bool,
}

/// Runs a task by hand: 202 with the queued run, or with `wait=true` 200 when it has ended. Scope:
/// `tasks:run`.
#[utoipa::path(post, path = "/api/v4/{app}/tasks/{task}/run", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path), WaitQuery),
    request_body = Option<RunRequest>,
    responses((status = 202, body = RunView), (status = 200, body = RunView),
        (status = 429, body = ErrorBody)))]
pub(crate) async fn run(
    who: Backend<TasksRun>,
    PathOf((_, name)): PathOf<(String, String)>,
    QueryOf(query): QueryOf<WaitQuery>,
    MaybeBody(wanted): MaybeBody<RunRequest>,
) -> Result<(StatusCode, Json<RunView>), Answer> {
    let mut tx = who.write().await?;
    let task = tasks::find(&mut tx, who.app, &name).await?;
    let id = tasks::queue(&mut tx, who.app, &task, wanted.params, Trigger::Hand).await?;
    tx.commit().await?;
    who.state.run_wake.notify_one();
    let run = if query.wait {
        wait_for(&who.state, who.app, id).await?
    } else {
        tasks::find_run(&mut who.state.db.read().await?, who.app, id).await?
    };
    let status = if run.state.is_end() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(RunView::new(run, true))))
}

async fn wait_for(state: &App, app: reauth_domain::AppId, id: RunId) -> Result<Run, Answer> {
    let mut ended = state.run_ended.subscribe();
    let until_end = async {
        loop {
            let run = tasks::find_run(&mut state.db.read().await?, app, id).await?;
            if run.state.is_end() || ended.changed().await.is_err() {
                return Ok::<_, Answer>(run);
            }
        }
    };
    match tokio::time::timeout(WAIT, until_end).await {
        Ok(run) => run,
        Err(_) => Ok(tasks::find_run(&mut state.db.read().await?, app, id).await?),
    }
}

/// A page of a task's runs without their logs, newest first. Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/tasks/{task}/runs", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path), PageQuery),
    responses((status = 200, body = List<RunView>), (status = 404, body = ErrorBody)))]
pub(crate) async fn list_runs(
    who: Backend<TasksRead>,
    PathOf((_, name)): PathOf<(String, String)>,
    page: Page,
) -> Result<Json<List<RunView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (runs, total) =
        tasks::page_of_runs(&mut read, who.app, &name, page.limit, page.skip).await?;
    if total == 0 {
        // Runs outlive their task; neither of them is a wrong name.
        tasks::find(&mut read, who.app, &name).await?;
    }
    let views = runs.into_iter().map(|run| RunView::new(run, false)).collect();
    Ok(Json(List::new(views, total, page)))
}

/// One run with its log. Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/runs/{run}", tag = "tasks",
    params(("app" = String, Path), ("run" = String, Path)),
    responses((status = 200, body = RunView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show_run(
    who: Backend<TasksRead>,
    PathOf((_, run)): PathOf<(String, String)>,
) -> Result<Json<RunView>, Answer> {
    let id: RunId = run.parse().map_err(|_| Error::not_found(format!("run {run}")))?;
    let found = tasks::find_run(&mut who.state.db.read().await?, who.app, id).await?;
    Ok(Json(RunView::new(found, true)))
}
