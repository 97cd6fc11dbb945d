//! Runs of tasks: wanted, looked at, ended, tried again.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::tasks::{self, LogRow, Order, Run, RunFilter, RunState, Task, Trigger};
use reauth_domain::{Error, RunId, Span, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::api::answer::{Answer, ErrorBody};
use crate::api::read::{KeptBody, List, Page, PageQuery, PathOf, QueryOf};
use crate::api::who::{Backend, RunsRead, TasksRead, TasksRun};
use crate::app::App;
use crate::workers::run;

/// How long a caller may wait for a run; then it is told where to look.
const WAIT: Duration = Duration::from_mins(1);
/// A run that is going is looked at this often by one who waits for its end.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A run that a run wants so long from now is no part of a circle.
const LATER: Span = Span::minutes(1);
/// As far ahead as a run can be asked for.
const AHEAD_MAX: Span = Span::days(366);

/// A run of a task.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunView {
    id: String,
    task: String,
    /// `hand`, `schedule`, `web`, `event` or `task`.
    trigger: String,
    /// `queued`, `running`, `succeeded`, `failed`, `dead` (no answer, as often as it was tried) or
    /// `cancelled`.
    state: &'static str,
    /// Which try this is, from 1.
    attempt: i64,
    due_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    took_ms: Option<i64>,
    #[schema(value_type = Value)]
    params: Box<RawValue>,
    /// What `run` returned.
    #[schema(value_type = Option<Value>)]
    result: Option<Box<RawValue>>,
    error: Option<RunError>,
    /// Runs with the same queue exclude each other.
    queue: Option<String>,
    /// Whether its changes were only noted.
    dry_run: bool,
    /// What it would have changed, if it was a dry run; with what the runs that it waited for
    /// would have changed, which have no list of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    changes: Option<Value>,
    /// Only when one run is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    log: Option<Vec<LogRow>>,
}

/// Why a run failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct RunError {
    /// `threw`, `timed_out`, `out_of_time`, `out_of_memory`, `too_large`, `crashed`, `refused`,
    /// `lost`, `cancelled` or `deleted`.
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
            took_ms: took.map(Span::whole_millis),
            params: run.params,
            result: run.result,
            error: run.error.map(|(kind, message)| RunError { kind, message }),
            queue: run.queue,
            dry_run: run.is_rehearsed,
            changes: run.changes,
            log: with_log.then_some(run.log),
        }
    }
}

/// How a run is wanted.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RunRequest {
    /// What `run` gets instead of the task's own params.
    #[schema(value_type = Option<Object>)]
    params: Option<reauth_sandbox::Json>,
    /// When it is to begin; now, if it is past or neither this nor `after` is given.
    #[schema(value_type = Option<String>, example = "2026-05-03T08:12:00Z")]
    at: Option<String>,
    /// How long from now it is to begin.
    #[schema(value_type = Option<String>, example = "10m")]
    after: Option<Span>,
    /// Excludes other runs with the same name, instead of the task's own queue.
    queue: Option<String>,
    /// Only note what it would change: its writes are answered as if they were done.
    dry_run: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// Answer when the run has ended, or after 60 seconds.
    wait: bool,
}

/// Runs a task: 202 with the queued run, or with `wait=true` 200 when it has ended. A task that
/// calls another and waits for it has it carried out at once. Scope: `tasks:run`.
#[utoipa::path(post, path = "/api/v4/{app}/tasks/{task}/run", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path), WaitQuery),
    request_body = Option<RunRequest>,
    responses((status = 202, body = RunView), (status = 200, body = RunView),
        (status = 429, body = ErrorBody)))]
pub(crate) async fn run(
    who: Backend<TasksRun>,
    PathOf((_, name)): PathOf<(String, String)>,
    QueryOf(query): QueryOf<WaitQuery>,
    KeptBody(wanted): KeptBody<RunRequest>,
) -> Result<(StatusCode, Json<RunView>), Answer> {
    let is_called = query.wait && who.run().is_some();
    // Asked before the writer is waited for: the run may end meanwhile.
    let is_rehearsed = who.is_rehearsed()?;
    // What a rehearsed run calls is rehearsed too, and carried out, so that it has a result.
    let mut tx = if is_called { who.write_for_good().await? } else { who.write().await? };
    let task = tasks::find(&mut tx, who.app, &name).await?;
    let mut order = order(wanted, tx.now())?;
    if is_called && order.due_at.is_some() {
        let why = "a run that another waits for begins at once: schedule it, and do not wait";
        return Err(Error::invalid("at", why).into());
    }
    if let Some(caller) = who.run() {
        order.trigger = Trigger::Task;
        // What is wanted for later goes round slowly, and is bounded by how much may wait.
        let is_later = order.due_at.is_some_and(|due_at| tx.now() + LATER <= due_at);
        order.depth = tasks::depth_of(&mut tx, caller).await? + i64::from(!is_later);
        order.is_rehearsed |= is_rehearsed;
    }
    if let Some(caller) = who.run().filter(|_| is_called) {
        return called(&who, tx, caller, task, order).await;
    }
    let (now, noted) = (tx.now(), is_rehearsed.then(|| order.clone()));
    let id = tasks::queue(&mut tx, who.app, &task, order).await?;
    tx.commit().await?;
    if let Some(noted) = noted {
        return Ok(answered(as_if_queued(id, &task, noted, now)?));
    }
    who.state.run_wake.notify_one();
    let run = found(&who.state, who.app, (id, query.wait)).await?;
    Ok(answered(run))
}

/// What a rehearsed run is told of a run that it wants.
fn as_if_queued(id: RunId, task: &Task, order: Order, now: Time) -> Result<Run, Error> {
    let own = || tasks::written(&task.definition.params);
    Ok(Run {
        id,
        task: task.definition.name.clone(),
        trigger: order.trigger.name().to_owned(),
        state: RunState::Queued,
        attempt: 0,
        params: order.params.map_or_else(own, Ok)?,
        due_at: order.due_at.unwrap_or(now),
        started_at: None,
        finished_at: None,
        result: None,
        error: None,
        queue: order.queue,
        is_rehearsed: order.is_rehearsed,
        changes: None,
        log: Vec::new(),
    })
}

fn answered(run: Run) -> (StatusCode, Json<RunView>) {
    let status = if run.state.is_end() { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(RunView::new(run, true)))
}

fn order(wanted: RunRequest, now: Time) -> Result<Order, Answer> {
    let due_at = match (wanted.at, wanted.after) {
        (None, None) => None,
        (Some(at), None) => {
            Some(Time::parse(&at).ok_or_else(|| {
                Error::invalid("at", "must be a moment like 2026-05-03T08:12:00Z")
            })?)
        }
        (None, Some(after)) => Some(now + after),
        (Some(_), Some(_)) => {
            return Err(Error::invalid("after", "say either when (at) or how long from now").into());
        }
    };
    if due_at.is_some_and(|due_at| due_at > now + AHEAD_MAX) {
        return Err(Error::invalid("at", "at most 366 days ahead").into());
    }
    Ok(Order {
        params: wanted.params.map(Into::into),
        // What waits is taken by its moment: a moment long past would go before all others.
        due_at: due_at.map(|due_at| due_at.max(now)),
        queue: wanted.queue,
        is_rehearsed: wanted.dry_run,
        ..Order::by(Trigger::Hand)
    })
}

/// A run that another run waits for takes no place in the queue: the two would wait for each other.
async fn called(
    who: &Backend<TasksRun>,
    mut tx: reauth_domain::Tx,
    caller: RunId,
    task: Task,
    order: Order,
) -> Result<(StatusCode, Json<RunView>), Answer> {
    let Some(place) = who.state.call_places.take(who.app) else {
        let why = "too many tasks wait for each other: try again, or schedule it".to_owned();
        return Err(Error::Busy { why, retry_after_s: 1 }.into());
    };
    let (app, of) = (who.state.clone(), who.app);
    // Whoever asked may go away meanwhile: a run that has begun is carried out all the same.
    let begun = tokio::spawn(async move {
        let claim = run::claim_of(&app, app.config.tasks.wall);
        let claimed = tasks::begin(&mut tx, of, task, order, claim).await?;
        let ready = run::Ready::called(&app, claimed, caller);
        let id = ready.id();
        tx.commit().await?;
        tokio::spawn(async move {
            run::carry_out(&app, ready).await;
            drop(place);
        });
        Ok::<_, Error>(id)
    });
    let id = begun.await.map_err(|error| Error::Internal(format!("a called run: {error}")))??;
    Ok(answered(wait_for(&who.state, who.app, id).await?))
}

/// The run as it is, or as it is when it has ended.
async fn found(
    state: &App,
    app: reauth_domain::AppId,
    (id, waits): (RunId, bool),
) -> Result<Run, Answer> {
    if waits {
        return wait_for(state, app, id).await;
    }
    Ok(tasks::find_run(&mut state.db.read().await?, app, id).await?)
}

async fn wait_for(state: &App, app: reauth_domain::AppId, id: RunId) -> Result<Run, Answer> {
    let mut ended = state.run_ended.subscribe();
    let until_end = async {
        loop {
            let run = tasks::find_run(&mut state.db.read().await?, app, id).await?;
            if run.state.is_end() {
                return Ok::<_, Answer>(run);
            }
            // Another server may carry it out: it does not tell us.
            let _ = tokio::time::timeout(LOOK_AGAIN, ended.changed()).await;
        }
    };
    match tokio::time::timeout(WAIT, until_end).await {
        Ok(run) => run,
        Err(_) => Ok(tasks::find_run(&mut state.db.read().await?, app, id).await?),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct RunsQuery {
    /// Only runs in this state.
    state: Option<String>,
    /// Only runs that have begun, the one that began last first.
    begun: bool,
}

impl RunsQuery {
    fn filter(self, task: Option<String>) -> Result<RunFilter, Answer> {
        let read = |text: String| {
            let why = "must be queued, running, succeeded, failed, dead or cancelled";
            text.parse().map_err(|()| Error::invalid("state", why))
        };
        let state = self.state.map(read).transpose()?;
        Ok(RunFilter { task, state, is_begun: self.begun })
    }
}

/// A page of a task's runs without their logs, newest first; those that wait for later are last.
/// Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/tasks/{task}/runs", tag = "tasks",
    params(("app" = String, Path), ("task" = String, Path), RunsQuery, PageQuery),
    responses((status = 200, body = List<RunView>), (status = 404, body = ErrorBody)))]
pub(crate) async fn list_of_task(
    who: Backend<TasksRead>,
    PathOf((_, name)): PathOf<(String, String)>,
    QueryOf(query): QueryOf<RunsQuery>,
    page: Page,
) -> Result<Json<List<RunView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let filter = query.filter(Some(name.clone()))?;
    let (runs, total) =
        tasks::page_of_runs(&mut read, who.app, &filter, page.limit, page.skip).await?;
    if total == 0 {
        // Runs outlive their task; neither of them is a wrong name.
        let any = RunFilter { task: Some(name.clone()), ..RunFilter::default() };
        if tasks::page_of_runs(&mut read, who.app, &any, 0, 0).await?.1 == 0 {
            tasks::find(&mut read, who.app, &name).await?;
        }
    }
    let views = runs.into_iter().map(|run| RunView::new(run, false)).collect();
    Ok(Json(List::new(views, total, page)))
}

/// A page of the app's runs without their logs, newest first; those that wait for later are last.
/// Scope: `tasks:read`.
#[utoipa::path(get, path = "/api/v4/{app}/runs", tag = "tasks",
    params(("app" = String, Path), RunsQuery, PageQuery),
    responses((status = 200, body = List<RunView>), (status = 422, body = ErrorBody)))]
pub(crate) async fn list(
    who: Backend<TasksRead>,
    QueryOf(query): QueryOf<RunsQuery>,
    page: Page,
) -> Result<Json<List<RunView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let filter = query.filter(None)?;
    let (runs, total) =
        tasks::page_of_runs(&mut read, who.app, &filter, page.limit, page.skip).await?;
    let views = runs.into_iter().map(|run| RunView::new(run, false)).collect();
    Ok(Json(List::new(views, total, page)))
}

/// One run with its log; with `wait=true` when it has ended, or after 60 seconds. Scope:
/// `tasks:read` or `tasks:run`.
#[utoipa::path(get, path = "/api/v4/{app}/runs/{run}", tag = "tasks",
    params(("app" = String, Path), ("run" = String, Path), WaitQuery),
    responses((status = 200, body = RunView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    who: Backend<RunsRead>,
    PathOf((_, run)): PathOf<(String, String)>,
    QueryOf(query): QueryOf<WaitQuery>,
) -> Result<Json<RunView>, Answer> {
    let id = id(&run)?;
    let mut run = found(&who.state, who.app, (id, query.wait)).await?;
    if run.state == RunState::Running
        && let Some(going) = who.state.going.run(id)
    {
        run.log = going.log();
    }
    Ok(Json(RunView::new(run, true)))
}

fn id(run: &str) -> Result<RunId, Answer> {
    run.parse().map_err(|_| Error::not_found(format!("run {run}")).into())
}

/// Ends a run that waits or is going; one that has ended stays as it is. Not for tasks. Scope:
/// `tasks:run`.
#[utoipa::path(post, path = "/api/v4/{app}/runs/{run}/cancel", tag = "tasks",
    params(("app" = String, Path), ("run" = String, Path)),
    responses((status = 200, body = RunView), (status = 202, body = RunView),
        (status = 404, body = ErrorBody)))]
pub(crate) async fn cancel(
    who: Backend<TasksRun>,
    PathOf((_, run)): PathOf<(String, String)>,
) -> Result<(StatusCode, Json<RunView>), Answer> {
    let id = id(&run)?;
    let is_rehearsed = who.is_rehearsed()?;
    let mut tx = who.write().await?;
    if tasks::cancel_queued(&mut tx, who.app, id).await? {
        tx.commit().await?;
        who.state.run_ended.send_replace(());
    } else if let Some(going) = who.state.going.run(id).filter(|_| !is_rehearsed) {
        // As the writer: its end is not being written down meanwhile.
        going.cancel();
        drop(tx);
        return Ok(answered(wait_for(&who.state, who.app, id).await?));
    } else {
        drop(tx);
    }
    let run = tasks::find_run(&mut who.state.db.read().await?, who.app, id).await?;
    Ok(answered(run))
}

/// Queues a run again that has ended without success. Not for tasks. Scope: `tasks:run`.
#[utoipa::path(post, path = "/api/v4/{app}/runs/{run}/retry", tag = "tasks",
    params(("app" = String, Path), ("run" = String, Path)),
    responses((status = 202, body = RunView), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)))]
pub(crate) async fn retry(
    who: Backend<TasksRun>,
    PathOf((_, run)): PathOf<(String, String)>,
) -> Result<(StatusCode, Json<RunView>), Answer> {
    let id = id(&run)?;
    let mut tx = who.write().await?;
    tasks::retry(&mut tx, who.app, id).await?;
    tx.commit().await?;
    who.state.run_wake.notify_one();
    let run = tasks::find_run(&mut who.state.db.read().await?, who.app, id).await?;
    Ok(answered(run))
}
