//! Runs of tasks: queued by hand or by schedule, claimed, finished, and taken up again when their
//! server died. A run's token lives exactly as long as the run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Task, task};
use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::secret::{Secret, SecretHash, SecretKind};
use crate::values::time::{Span, Time};

/// More runs than this do not wait for an app: the caller is told to come back.
pub const QUEUED_MAX: i64 = 1_000;
/// The most runs on one page.
const PAGE_ROWS_MAX: i64 = 1_000;
/// How often a run is tried when it crashes, takes too long, or its server dies under it.
const ATTEMPTS_MAX: i64 = 3;
/// One batch of schedules that are due.
const DUE_MAX: i64 = 100;

/// What brought a run about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A person or a program asked for it.
    Hand,
    /// The task's schedule.
    Schedule,
}

impl Trigger {
    /// The name in the API and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::Schedule => "schedule",
        }
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits.
    Queued,
    /// It is going.
    Running,
    /// It returned.
    Succeeded,
    /// It threw, broke a limit or died.
    Failed,
}

impl RunState {
    const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed];

    /// The name in the API and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// Whether it will not change any more.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl FromStr for RunState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.name() == text).ok_or(())
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of a run's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRow {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    /// `debug`, `log`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub text: String,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The task's name.
    pub task: String,
    /// What brought it about: `hand` or `schedule`.
    pub trigger: String,
    /// Where it stands.
    pub state: RunState,
    /// Which try this is, from 1; 0 before the first.
    pub attempt: i64,
    /// What `run` gets.
    pub params: Value,
    /// When it was to begin.
    pub due_at: Time,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// What it returned.
    pub result: Option<Value>,
    /// Why it failed: a kind for programs and a text for people.
    pub error: Option<(String, String)>,
    /// Its log.
    pub log: Vec<LogRow>,
}

/// A run that is to be carried out now.
#[derive(Debug)]
pub struct Claimed {
    /// The app.
    pub app: AppId,
    /// The run.
    pub id: RunId,
    /// Which try this is, from 1.
    pub attempt: i64,
    /// What `run` gets.
    pub params: Value,
    /// The task as it is now.
    pub task: Task,
    /// The run's token.
    pub token: Secret,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// What it returned, or why it failed: a kind for programs and a text for people.
    pub outcome: Result<Value, (String, String)>,
    /// It gave no answer, so it is tried again; an error that the script threw is an answer.
    pub is_worth_a_retry: bool,
    /// Its log.
    pub log: Vec<LogRow>,
}

/// Queues a run. `params` replace the task's own.
pub async fn queue(
    tx: &mut Tx,
    app: AppId,
    task: &Task,
    params: Option<Value>,
    trigger: Trigger,
) -> Result<RunId> {
    let sql = "select count(*) from runs where app_id = $1 and state = 'queued'";
    if tx.count(sql, args![app]).await? >= QUEUED_MAX {
        let why = format!("{QUEUED_MAX} runs of this app are waiting already");
        return Err(Error::Busy { why, retry_after_s: 10 });
    }
    let params = params.unwrap_or_else(|| task.definition.params.clone());
    if !params.is_object() {
        return Err(Error::invalid("params", "must be a JSON object"));
    }
    let (id, now, name) = (RunId::mint(), tx.now(), &task.definition.name);
    let due_at = match trigger {
        Trigger::Hand => now,
        Trigger::Schedule => task.next_at.unwrap_or(now),
    };
    tx.change(
        "insert into runs (id, app_id, task, trigger, state, attempt, params, due_at)
         values ($1, $2, $3, $4, 'queued', 0, $5, $6)",
        args![id, app, name, trigger.name(), params.to_string(), due_at],
    )
    .await?;
    let change =
        Change::RunQueued { task: name.clone(), run: id, trigger: trigger.name().to_owned() };
    tx.record(Subject::app(app), None, change);
    Ok(id)
}

/// Queues a run for the first task whose time has come, and sets its next time after now: what was
/// missed while nobody looked runs once. Answers whether one was found.
pub async fn fire_due(tx: &mut Tx) -> Result<bool> {
    let now = tx.now();
    let rows = tx
        .rows(
            "select name, file, source, javascript, scopes, cron, zone, params, env,
             single_instance, created_at, updated_at, next_at, app_id
             from tasks where next_at <= $1 order by next_at, app_id, name limit $2",
            args![now, DUE_MAX],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let (due, app): (Task, AppId) = (task(row)?, row.parsed(13)?);
    let name = due.definition.name.clone();
    // One that never fires again is not looked at again.
    let plan = due.definition.schedule.as_ref();
    let next_at = plan.and_then(|plan| plan.next_after(now).ok());
    tx.change(
        "update tasks set next_at = $1 where app_id = $2 and name = $3",
        args![next_at, app, &name],
    )
    .await?;
    let sql = "select count(*) from runs
               where app_id = $1 and task = $2 and state = 'queued' and trigger = 'schedule'";
    if tx.count(sql, args![app, &name]).await? == 0 {
        queue(tx, app, &due, None, Trigger::Schedule).await?;
    }
    Ok(true)
}

/// When the next task is due.
pub async fn next_due(read: &mut Read) -> Result<Option<Time>> {
    let sql = "select min(next_at) from tasks";
    let row = read.first(sql, args![]).await?;
    row.map_or(Ok(None), |row| row.time_or_null(0))
}

/// Takes the oldest run that may begin, and mints its token. A task with a single instance waits
/// for its run that is going.
pub async fn claim(tx: &mut Tx, life: Span) -> Result<Option<Claimed>> {
    let now = tx.now();
    let found = tx
        .first(
            "select t.name, t.file, t.source, t.javascript, t.scopes, t.cron, t.zone, t.params,
             t.env, t.single_instance, t.created_at, t.updated_at, t.next_at,
             r.app_id, r.id, r.params, r.attempt
             from runs r join tasks t on t.app_id = r.app_id and t.name = r.task
             where r.state = 'queued' and r.due_at <= $1
             and (t.single_instance = 0 or not exists
               (select 1 from runs x
                where x.app_id = r.app_id and x.task = r.task and x.state = 'running'))
             order by r.due_at, r.id limit 1",
            args![now],
        )
        .await?;
    let Some(row) = found else { return Ok(None) };
    let task = task(&row)?;
    let (app, id, attempt) = (row.parsed(13)?, row.parsed(14)?, row.int(16)? + 1);
    tx.change(
        "update runs set state = 'running', started_at = $1, attempt = $2 where id = $3",
        args![now, attempt, id],
    )
    .await?;
    let token = Secret::mint(SecretKind::Run);
    let change = Change::RunStarted {
        task: task.definition.name.clone(),
        run: id,
        attempt,
        scopes: task.definition.scopes,
        secret_sha256: token.hash(),
        expires_at: now + life,
    };
    tx.record(Subject::app(app), None, change);
    Ok(Some(Claimed { app, id, attempt, params: row.json(15)?, task, token }))
}

/// Ends a run and its token. Answers the run's state: queued again, if it is to be tried again.
pub async fn finish(tx: &mut Tx, claimed: &Claimed, finished: Finished) -> Result<RunState> {
    let is_retried = finished.is_worth_a_retry && claimed.attempt < ATTEMPTS_MAX;
    let (state, result, kind, error) = match finished.outcome {
        Ok(result) => (RunState::Succeeded, Some(result.to_string()), None, None),
        Err((kind, text)) => {
            let state = if is_retried { RunState::Queued } else { RunState::Failed };
            (state, None, Some(kind), Some(text))
        }
    };
    let log = serde_json::to_string(&finished.log)
        .map_err(|e| Error::Internal(format!("a run's log: {e}")))?;
    let finished_at = state.is_end().then_some(tx.now());
    tx.change(
        "update runs set state = $1, finished_at = $2, result = $3, error_kind = $4, error = $5,
         log = $6 where id = $7 and state = 'running'",
        args![state.name(), finished_at, result, kind, error, log, claimed.id],
    )
    .await?;
    let task = claimed.task.definition.name.clone();
    end(tx, claimed.app, (claimed.id, task), state, Some(claimed.token.hash()));
    Ok(state)
}

fn end(
    tx: &mut Tx,
    app: AppId,
    (run, task): (RunId, String),
    state: RunState,
    secret_sha256: Option<SecretHash>,
) {
    let change = Change::RunEnded { task, run, state, secret_sha256 };
    tx.record(Subject::app(app), None, change);
}

/// Takes up one run that was going when its server died: it runs again, or is given up after three
/// tries. Answers whether there was one. For the start, when no run can be going.
pub async fn recover(tx: &mut Tx) -> Result<bool> {
    let sql = "select app_id, id, task, attempt from runs where state = 'running' limit 1";
    let Some(row) = tx.first(sql, args![]).await? else { return Ok(false) };
    let (app, id, task) = (row.parsed(0)?, row.parsed(1)?, row.text(2)?);
    if row.int(3)? < ATTEMPTS_MAX {
        tx.change("update runs set state = 'queued' where id = $1", args![id]).await?;
        end(tx, app, (id, task), RunState::Queued, None);
    } else {
        let now = tx.now();
        tx.change(
            "update runs set state = 'failed', finished_at = $1, error_kind = 'lost',
             error = 'the server stopped during the run, three times' where id = $2",
            args![now, id],
        )
        .await?;
        end(tx, app, (id, task), RunState::Failed, None);
    }
    Ok(true)
}

/// The run with this id, with its log.
pub async fn find(read: &mut Read, app: AppId, id: RunId) -> Result<Run> {
    let row = read
        .first(
            "select id, task, trigger, state, attempt, params, due_at, started_at, finished_at,
             result, error_kind, error, log from runs where id = $1 and app_id = $2",
            args![id, app],
        )
        .await?;
    row.map(|row| run(&row)).transpose()?.ok_or_else(|| Error::not_found(format!("run {id}")))
}

/// One page of a task's runs without their logs, newest first, and how many there are in all.
pub async fn page(
    read: &mut Read,
    app: AppId,
    task: &str,
    limit: i64,
    skip: i64,
) -> Result<(Vec<Run>, i64)> {
    let sql = "select count(*) from runs where app_id = $1 and task = $2";
    let total = read.count(sql, args![app, task]).await?;
    let rows = read
        .rows(
            "select id, task, trigger, state, attempt, params, due_at, started_at, finished_at,
             result, error_kind, error, null from runs where app_id = $1 and task = $2
             order by due_at desc, id desc limit $3 offset $4",
            args![app, task, limit.clamp(0, PAGE_ROWS_MAX), skip],
        )
        .await?;
    let runs: Result<Vec<Run>> = rows.iter().map(run).collect();
    Ok((runs?, total))
}

/// How many runs wait and how many are going.
pub async fn state_counts(read: &mut Read) -> Result<(i64, i64)> {
    let queued = "select count(*) from runs where state = 'queued'";
    let running = "select count(*) from runs where state = 'running'";
    Ok((read.count(queued, args![]).await?, read.count(running, args![]).await?))
}

fn run(row: &Row) -> Result<Run> {
    Ok(Run {
        id: row.parsed(0)?,
        task: row.text(1)?,
        trigger: row.text(2)?,
        state: row.parsed(3)?,
        attempt: row.int(4)?,
        params: row.json(5)?,
        due_at: row.time(6)?,
        started_at: row.time_or_null(7)?,
        finished_at: row.time_or_null(8)?,
        result: row.json_or_null(9)?,
        error: row.text_or_null(10)?.zip(row.text_or_null(11)?),
        log: row.json_or_null(12)?.unwrap_or_default(),
    })
}
