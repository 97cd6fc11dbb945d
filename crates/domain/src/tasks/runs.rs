//! Runs of tasks as they are read: where each stands, what it said, what became of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::time::{Span, Time};

/// The most runs on one page.
const PAGE_ROWS_MAX: i64 = 1_000;
/// One batch of runs that are forgotten.
const FORGOTTEN_MAX: i64 = 500;

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
    /// It threw, or said too much.
    Failed,
    /// It gave no answer, as often as it was tried: someone must look at it.
    Dead,
    /// Someone asked for its end, or nobody waited for it any more.
    Cancelled,
}

impl RunState {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Dead, Self::Cancelled];

    /// The name in the API and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it will not change by itself any more.
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
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
    /// What brought it about: `hand`, `schedule`, `web`, `event` or `task`.
    pub trigger: String,
    /// Where it stands.
    pub state: RunState,
    /// Which try this is, from 1; 0 before the first.
    pub attempt: i64,
    /// What `run` gets, as it was written.
    pub params: Box<RawValue>,
    /// When it was to begin.
    pub due_at: Time,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// What it returned, as it was written: nothing is built of what is only handed on.
    pub result: Option<Box<RawValue>>,
    /// Why it failed: a kind for programs and a text for people.
    pub error: Option<(String, String)>,
    /// What it excludes and is excluded by.
    pub queue: Option<String>,
    /// Whether its changes were only noted.
    pub is_rehearsed: bool,
    /// What it would have changed, if it was rehearsed.
    pub changes: Option<Value>,
    /// Its log.
    pub log: Vec<LogRow>,
}

/// The columns that `run` reads, with a log or null.
macro_rules! run_columns {
    ($log:literal, $rest:literal) => {
        concat!(
            "select id, task, trigger, state, attempt, params, due_at, started_at, finished_at, \
             result, error_kind, error, queue, rehearsed, changes, ",
            $log,
            $rest
        )
    };
}

/// The run with this id, with its log.
pub async fn find(read: &mut Read, app: AppId, id: RunId) -> Result<Run> {
    let sql = run_columns!("log", " from runs where id = $1 and app_id = $2");
    let row = read.first(sql, args![id, app]).await?;
    row.map(|row| run(&row)).transpose()?.ok_or_else(|| Error::not_found(format!("run {id}")))
}

/// Which runs are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this task; of all if absent.
    pub task: Option<String>,
    /// In this state; in any if absent.
    pub state: Option<RunState>,
    /// Only those that have begun, the one that began last first.
    pub is_begun: bool,
}

/// One page of an app's runs without their logs, newest first, and how many there are in all. What
/// waits for later comes after all else: it may be more than a page.
pub async fn page(
    read: &mut Read,
    app: AppId,
    filter: &Filter,
    limit: i64,
    skip: i64,
) -> Result<(Vec<Run>, i64)> {
    // No task is called so, and PostgreSQL has no text with it.
    if filter.task.as_deref().is_some_and(|task| task.contains('\0')) {
        return Ok((Vec::new(), 0));
    }
    let state = filter.state.map(RunState::name);
    let task = filter.task.clone();
    let sql = "select count(*) from runs where app_id = $1
               and ($2 is null or task = $2) and ($3 is null or state = $3)
               and ($4 = 0 or started_at is not null)";
    let total = read.count(sql, args![app, task.clone(), state, filter.is_begun]).await?;
    // What is long is for those who ask for the one run.
    let sql = concat!(
        "select id, task, trigger, state, attempt,
         case when length(params) <= 4096 then params else '{}' end, due_at, started_at,
         finished_at, case when length(result) <= 4096 then result end, error_kind,
         substr(error, 1, 1000), queue, rehearsed, null, null",
        " from runs where app_id = $1 and ($2 is null or task = $2) and ($3 is null or state = $3)
         and ($4 = 0 or started_at is not null)
         order by case when $4 = 0 and state = 'queued' and due_at > $5 then 1 else 0 end,
         case when $4 = 0 then due_at else started_at end desc, id desc limit $6 offset $7"
    );
    let (limit, now) = (limit.clamp(0, PAGE_ROWS_MAX), read.now());
    let rows = read.rows(sql, args![app, task, state, filter.is_begun, now, limit, skip]).await?;
    let runs: Result<Vec<Run>> = rows.iter().map(run).collect();
    Ok((runs?, total))
}

/// How many runs wait and how many are going.
pub async fn state_counts(read: &mut Read) -> Result<(i64, i64)> {
    let queued = "select count(*) from runs where state = 'queued'";
    let running = "select count(*) from runs where state = 'running'";
    Ok((read.count(queued, args![]).await?, read.count(running, args![]).await?))
}

/// How many tasks started each other before this run.
pub async fn depth_of(read: &mut Read, id: RunId) -> Result<i64> {
    let row = read.first("select depth from runs where id = $1", args![id]).await?;
    row.map_or(Ok(0), |row| row.int(0))
}

/// Forgets one batch of runs that ended longer than `keep_runs` ago, and the logs of those that
/// ended longer than `keep_logs` ago. Answers whether there was any.
pub async fn forget(tx: &mut Tx, keep_runs: Span, keep_logs: Span) -> Result<bool> {
    let now = tx.now();
    let runs = tx
        .change(
            "delete from runs where id in
             (select id from runs where finished_at < $1 order by finished_at limit $2)",
            args![now - keep_runs, FORGOTTEN_MAX],
        )
        .await?;
    let logs = tx
        .change(
            "update runs set log = null where id in
             (select id from runs where finished_at < $1 and log is not null
              order by finished_at limit $2)",
            args![now - keep_logs, FORGOTTEN_MAX],
        )
        .await?;
    if runs + logs == 0 {
        return Ok(false);
    }
    tx.record(Subject::none(), None, Change::RunsForgotten { runs, logs });
    Ok(true)
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
        queue: row.text_or_null(12)?,
        is_rehearsed: row.int(13)? != 0,
        changes: row.json_or_null(14)?,
        log: row.json_or_null(15)?.unwrap_or_default(),
    })
}
