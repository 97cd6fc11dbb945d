//! How a run ends: with an answer, without one, cancelled, with its server; and how it is tried
//! again. Its token dies with it.

use serde_json::Value;

use super::claim::Claimed;
use super::queue::refuse_full;
use super::runs::{LogRow, RunState};
use crate::ledger::{Change, Subject};
use crate::store::{Read, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::secret::SecretHash;
use crate::values::time::{Span, Time};

/// Between two tries lies this at the most.
const PAUSE_MAX: Span = Span::minutes(10);
/// Runs of a deleted task are read so many at once.
const GIVEN_UP_MAX: i64 = 500;

/// Whether a run that brought no result has said all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It answered: with a result, with an error of its own, or with more than it may say.
    Answered,
    /// It crashed, took too much time or memory, or was lost: it is tried again.
    NoAnswer,
    /// It could not begin: it is tried again, and the try does not count.
    NotBegun,
    /// Someone asked for its end, or nobody waits for it any more.
    Cancelled,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// What it returned, as JSON, or why it failed: a kind for programs and a text for people.
    pub outcome: Result<String, (String, String)>,
    /// Whether it has said all.
    pub ending: Ending,
    /// Its log.
    pub log: Vec<LogRow>,
    /// What it would have changed, if it was rehearsed.
    pub changes: Option<Value>,
    /// How long to wait before the second try; before each further one twice as long.
    pub retry_after: Span,
}

/// Ends a run and its token. Answers the run's state: queued again, if it is to be tried again;
/// none if someone else has taken it up or ended it meanwhile.
pub async fn finish(
    tx: &mut Tx,
    claimed: &Claimed,
    finished: &Finished,
) -> Result<Option<RunState>> {
    let is_asked = claimed.task.definition.options.retries.is_some();
    let tries_left = claimed.tries_left + i64::from(finished.ending == Ending::NotBegun);
    let is_retried = tries_left > 0
        && match finished.ending {
            Ending::Answered => is_asked,
            Ending::NoAnswer => true,
            Ending::NotBegun => !claimed.is_awaited,
            Ending::Cancelled => false,
        }
        && is_there(tx, claimed.app, &claimed.task.definition.name).await?;
    let (state, result, kind, error) = match &finished.outcome {
        Ok(result) => (RunState::Succeeded, Some(result.clone()), None, None),
        Err((kind, text)) => {
            let state = match finished.ending {
                _ if is_retried => RunState::Queued,
                Ending::NoAnswer | Ending::NotBegun if !claimed.is_awaited => RunState::Dead,
                Ending::Answered | Ending::NoAnswer | Ending::NotBegun => RunState::Failed,
                Ending::Cancelled => RunState::Cancelled,
            };
            // PostgreSQL has no U+0000 in a text; results and logs are JSON, which escapes it.
            (state, None, Some(kind.clone()), Some(text.replace('\0', "\u{fffd}")))
        }
    };
    let log = serde_json::to_string(&finished.log)
        .map_err(|e| Error::Internal(format!("a run's log: {e}")))?;
    let now = tx.now();
    let finished_at = state.is_end().then_some(now);
    let next_at = now + pause((claimed.id, claimed.attempt), finished.retry_after);
    let changed = tx
        .change(
            "update runs set state = $1, finished_at = $2, result = $3, error_kind = $4,
             error = $5, log = $6, changes = $7, lease_until = null, secret_hash = null,
             due_at = case when $1 = 'queued' then $8 else due_at end, tries_left = $11
             where id = $9 and state = 'running' and attempt = $10",
            args![
                state.name(),
                finished_at,
                result,
                kind,
                error,
                log,
                finished.changes.as_ref().map(Value::to_string),
                next_at,
                claimed.id,
                claimed.attempt,
                tries_left
            ],
        )
        .await?;
    if changed == 0 {
        return Ok(None);
    }
    let name = claimed.task.definition.name.clone();
    end(tx, claimed.app, (claimed.id, name), state, Some(claimed.token.hash()));
    Ok(Some(state))
}

/// Whether the task is still there: without it no run can be tried again.
async fn is_there(read: &mut Read, app: AppId, task: &str) -> Result<bool> {
    let sql = "select count(*) from tasks where app_id = $1 and name = $2";
    Ok(read.count(sql, args![app, task]).await? > 0)
}

/// Twice as long before each try, and up to half as much again, so that runs that failed together
/// are not tried together: by the run's id, since it is random.
fn pause((run, attempt): (RunId, i64), first: Span) -> Span {
    let doubled = u32::try_from(attempt - 1).unwrap_or(0).min(20);
    let pause = first.micros().saturating_mul(1 << doubled).min(PAUSE_MAX.micros());
    let jitter = i64::from(run.uuid().as_bytes()[15]);
    Span::from_micros(pause + pause / 2 * jitter / 255)
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

/// Takes up one run whose server died: it runs again, or is dead when it has been tried often
/// enough. The first time that is at once, since it is hardly to blame; then after a pause, as
/// after a crash, of which the first is `retry_after`. One that somebody waited for has failed:
/// they were told. Answers whether there was one. `all` is for the start of the only server, when
/// no run can be going; else a run whose lease has passed is meant.
pub async fn recover(tx: &mut Tx, all: bool, retry_after: Span) -> Result<bool> {
    let (now, far) = (tx.now(), Time::from_micros(i64::MAX));
    let sql = "select app_id, id, task, tries_left, secret_hash, awaited, attempt from runs
               where state = 'running' and (lease_until is null or lease_until <= $1) limit 1";
    let Some(row) = tx.first(sql, args![if all { far } else { now }]).await? else {
        return Ok(false);
    };
    let (app, id, task) = (row.parsed(0)?, row.parsed(1)?, row.text(2)?);
    let secret = row.hash_or_null(4)?;
    let state = if row.int(3)? > 0 && is_there(tx, app, &task).await? {
        RunState::Queued
    } else if row.int(5)? == 0 {
        RunState::Dead
    } else {
        RunState::Failed
    };
    let attempt = row.int(6)?;
    let wait = if attempt > 1 { pause((id, attempt), retry_after) } else { Span::seconds(0) };
    lose(tx, app, (id, task, secret), (state, 0, now + wait)).await.map(|()| true)
}

/// The server stopped during a run; so many tries are given back. It is due again then.
async fn lose(
    tx: &mut Tx,
    app: AppId,
    (id, task, secret): (RunId, String, Option<SecretHash>),
    (state, tries_back, due_at): (RunState, i64, Time),
) -> Result<()> {
    let finished_at = state.is_end().then_some(tx.now());
    tx.change(
        "update runs set state = $1, finished_at = $2, tries_left = tries_left + $3,
         error_kind = 'lost', error = 'the server stopped during the run', lease_until = null,
         secret_hash = null, due_at = case when $1 = 'queued' then $5 else due_at end
         where id = $4",
        args![state.name(), finished_at, tries_back, id, due_at],
    )
    .await?;
    end(tx, app, (id, task), state, secret);
    Ok(())
}

/// Queues a run again whose server stops on purpose: the try does not count. One that has ended in
/// its last moment stays so.
pub async fn put_back(tx: &mut Tx, id: RunId, attempt: i64) -> Result<()> {
    let sql = "select app_id, task, secret_hash from runs
               where id = $1 and state = 'running' and attempt = $2";
    let Some(row) = tx.first(sql, args![id, attempt]).await? else { return Ok(()) };
    let (app, task, secret) = (row.parsed(0)?, row.text(1)?, row.hash_or_null(2)?);
    if !is_there(tx, app, &task).await? {
        return Ok(());
    }
    let now = tx.now();
    lose(tx, app, (id, task, secret), (RunState::Queued, 1, now)).await
}

/// Gives up a run that waits. Answers whether it did: a run that is going is ended by its server.
/// A task may do neither: the run could be the one that locks people who have left.
pub async fn cancel_queued(tx: &mut Tx, app: AppId, id: RunId) -> Result<bool> {
    tx.refuse_task()?;
    let run = super::find_run(tx, app, id).await?;
    if run.state != RunState::Queued {
        return Ok(false);
    }
    cancel(tx, app, (id, run.task), "it was cancelled before it began".to_owned()).await?;
    Ok(true)
}

/// Ends a run that waits, and says why.
pub(super) async fn cancel(
    tx: &mut Tx,
    app: AppId,
    run: (RunId, String),
    why: String,
) -> Result<()> {
    end_waiting(tx, app, run, (RunState::Cancelled, "cancelled", why)).await
}

async fn end_waiting(
    tx: &mut Tx,
    app: AppId,
    (id, task): (RunId, String),
    (state, kind, why): (RunState, &str, String),
) -> Result<()> {
    let now = tx.now();
    tx.change(
        "update runs set state = $1, finished_at = $2, error_kind = $3, error = $4 where id = $5",
        args![state.name(), now, kind.to_owned(), why, id],
    )
    .await?;
    end(tx, app, (id, task), state, None);
    Ok(())
}

/// Ends the runs that wait for a task that was deleted.
pub(super) async fn give_up_deleted(tx: &mut Tx, app: AppId, task: &str) -> Result<()> {
    loop {
        let sql = "select id from runs where app_id = $1 and task = $2 and state = 'queued'
                   order by due_at, id limit $3";
        let waiting = tx.rows(sql, args![app, task, GIVEN_UP_MAX]).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        for row in waiting {
            let why = "the task was deleted while the run waited".to_owned();
            let run = (row.parsed(0)?, task.to_owned());
            end_waiting(tx, app, run, (RunState::Failed, "deleted", why)).await?;
        }
    }
}

/// Queues a run again that has ended without success, with as many tries as a new one. It keeps its
/// id: for the world it is the same piece of work.
pub async fn retry(tx: &mut Tx, app: AppId, id: RunId) -> Result<()> {
    tx.refuse_task()?;
    let run = super::find_run(tx, app, id).await?;
    if !matches!(run.state, RunState::Failed | RunState::Dead | RunState::Cancelled) {
        let why =
            format!("the run is {}: only one that ended without success runs again", run.state);
        return Err(Error::Conflict(why));
    }
    if run.trigger == "web" {
        let why = "it answered a request that is over: whoever asked may ask again";
        return Err(Error::Conflict(why.into()));
    }
    if run.attempt == 0 && run.state == RunState::Failed {
        let why = "it never began, and its params were not kept: want a new run instead";
        return Err(Error::Conflict(why.into()));
    }
    refuse_full(tx, app, false).await?;
    let task = super::find(tx, app, &run.task).await?;
    let (now, tries) = (tx.now(), task.definition.options.tries());
    tx.change(
        "update runs set state = 'queued', due_at = $1, tries_left = $2, finished_at = null,
         awaited = 0 where id = $3",
        args![now, tries, id],
    )
    .await?;
    let change = Change::RunQueued { task: run.task, run: id, trigger: run.trigger };
    tx.record(Subject::app(app), None, change);
    Ok(())
}
