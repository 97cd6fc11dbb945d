//! A run that is carried out: claimed with a lease and a token, kept alive, finished. Its token
//! lives exactly as long as it does.

use serde_json::Value;

use super::queue::{NewRun, insert};
use super::runs::{LogRow, RunState};
use super::{COLUMNS, Order, Task, task, task_columns};
use crate::ledger::{Change, Subject};
use crate::store::{Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::secret::{Secret, SecretHash, SecretKind};
use crate::values::time::{Span, Time};

/// Between two tries lies this at the most.
const PAUSE_MAX: Span = Span::minutes(10);

/// How runs are claimed.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// How long the run's token lives.
    pub life: Span,
    /// How long the claim holds unless it is renewed.
    pub lease: Span,
    /// The most runs of one app at once.
    pub per_app: i64,
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
    /// How many more there can be.
    pub tries_left: i64,
    /// What brought it about.
    pub trigger: String,
    /// What `run` gets.
    pub params: Value,
    /// Whether its changes are only noted.
    pub is_rehearsed: bool,
    /// How many tasks started each other before it.
    pub depth: i64,
    /// The task as it is now.
    pub task: Task,
    /// The run's token.
    pub token: Secret,
}

/// Whether a run that brought no result has said all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It answered: with a result, or with an error of its own.
    Answered,
    /// It crashed, took too long or was lost: it is tried again.
    NoAnswer,
    /// Someone asked for its end.
    Cancelled,
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// What it returned, or why it failed: a kind for programs and a text for people.
    pub outcome: Result<Value, (String, String)>,
    /// Whether it has said all.
    pub ending: Ending,
    /// Its log.
    pub log: Vec<LogRow>,
    /// What it would have changed, if it was rehearsed.
    pub changes: Option<Value>,
    /// How long to wait before the second try; before each further one twice as long.
    pub retry_after: Span,
}

/// Takes the oldest run that may begin, and mints its token. What excludes each other waits for the
/// one that is going: runs of a task with a single instance, and those with the same queue.
pub async fn claim(tx: &mut Tx, claim: Claim) -> Result<Option<Claimed>> {
    let now = tx.now();
    let found = tx
        .first(
            task_columns!(
                ", r.app_id, r.id, r.params, r.attempt, r.tries_left, r.trigger, r.rehearsed,
                 r.depth
                 from runs r join tasks t on t.app_id = r.app_id and t.name = r.task
                 where r.state = 'queued' and r.due_at <= $1
                 and (t.single_instance = 0 or not exists
                   (select 1 from runs x
                    where x.state = 'running' and x.app_id = r.app_id and x.task = r.task))
                 and (r.queue is null or not exists
                   (select 1 from runs x
                    where x.state = 'running' and x.app_id = r.app_id and x.queue = r.queue))
                 and (select count(*) from runs x
                      where x.state = 'running' and x.app_id = r.app_id) < $2
                 order by r.due_at, r.id limit 1"
            ),
            args![now, claim.per_app],
        )
        .await?;
    let Some(row) = found else { return Ok(None) };
    let claimed = Claimed {
        app: row.parsed(COLUMNS)?,
        id: row.parsed(COLUMNS + 1)?,
        params: row.json(COLUMNS + 2)?,
        attempt: row.int(COLUMNS + 3)? + 1,
        tries_left: row.int(COLUMNS + 4)? - 1,
        trigger: row.text(COLUMNS + 5)?,
        is_rehearsed: row.int(COLUMNS + 6)? != 0,
        depth: row.int(COLUMNS + 7)?,
        task: task(&row)?,
        token: Secret::mint(SecretKind::Run),
    };
    start(tx, &claimed, claim).await?;
    Ok(Some(claimed))
}

/// Begins a run at once, without a place in the queue: for an answer that somebody waits for.
pub async fn begin(
    tx: &mut Tx,
    app: AppId,
    task: Task,
    order: Order,
    claim: Claim,
) -> Result<Claimed> {
    let new = NewRun::of(tx, &task, order.clone())?;
    insert(tx, app, &new, RunState::Queued).await?;
    let claimed = Claimed {
        app,
        id: new.id,
        attempt: 1,
        // Who waits for it is told at once, and may ask again.
        tries_left: 0,
        trigger: order.trigger.name().to_owned(),
        params: serde_json::from_str(&new.params)
            .map_err(|error| Error::Internal(format!("a run's params: {error}")))?,
        is_rehearsed: order.is_rehearsed,
        depth: order.depth,
        task,
        token: Secret::mint(SecretKind::Run),
    };
    start(tx, &claimed, claim).await?;
    Ok(claimed)
}

async fn start(tx: &mut Tx, claimed: &Claimed, claim: Claim) -> Result<()> {
    let now = tx.now();
    let hash = claimed.token.hash();
    tx.change(
        "update runs set state = 'running', started_at = $1, attempt = $2, tries_left = $3,
         lease_until = $4, secret_hash = $5 where id = $6",
        args![now, claimed.attempt, claimed.tries_left, now + claim.lease, hash, claimed.id],
    )
    .await?;
    let change = Change::RunStarted {
        task: claimed.task.definition.name.clone(),
        run: claimed.id,
        attempt: claimed.attempt,
        scopes: claimed.task.definition.scopes,
        secret_sha256: hash,
        expires_at: now + claim.life,
    };
    tx.record(Subject::app(claimed.app), None, change);
    Ok(())
}

/// Says that these runs are still going. No entry of the ledger: it is a sign of life.
pub async fn renew(tx: &mut Tx, runs: &[RunId], lease: Span) -> Result<()> {
    let until = tx.now() + lease;
    for run in runs {
        tx.change(
            "update runs set lease_until = $1 where id = $2 and state = 'running'",
            args![until, *run],
        )
        .await?;
    }
    Ok(())
}

/// Ends a run and its token. Answers the run's state: queued again, if it is to be tried again;
/// none if someone else has taken it up or ended it meanwhile.
pub async fn finish(
    tx: &mut Tx,
    claimed: &Claimed,
    finished: Finished,
) -> Result<Option<RunState>> {
    let is_asked = claimed.task.definition.options.retries.is_some();
    let is_retried = claimed.tries_left > 0
        && match finished.ending {
            Ending::Answered => is_asked,
            Ending::NoAnswer => true,
            Ending::Cancelled => false,
        };
    let (state, result, kind, error) = match finished.outcome {
        Ok(result) => (RunState::Succeeded, Some(result.to_string()), None, None),
        Err((kind, text)) => {
            let state = match finished.ending {
                _ if is_retried => RunState::Queued,
                Ending::Answered => RunState::Failed,
                Ending::NoAnswer => RunState::Dead,
                Ending::Cancelled => RunState::Cancelled,
            };
            (state, None, Some(kind), Some(text))
        }
    };
    let log = serde_json::to_string(&finished.log)
        .map_err(|e| Error::Internal(format!("a run's log: {e}")))?;
    let now = tx.now();
    let finished_at = state.is_end().then_some(now);
    let next_at = now + pause(claimed, finished.retry_after);
    let changed = tx
        .change(
            "update runs set state = $1, finished_at = $2, result = $3, error_kind = $4,
             error = $5, log = $6, changes = $7, lease_until = null, secret_hash = null,
             due_at = case when $1 = 'queued' then $8 else due_at end
             where id = $9 and state = 'running' and attempt = $10",
            args![
                state.name(),
                finished_at,
                result,
                kind,
                error,
                log,
                finished.changes.map(|changes| changes.to_string()),
                next_at,
                claimed.id,
                claimed.attempt
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

/// Twice as long before each try, and up to half as much again, so that runs that failed together
/// are not tried together: by the run's id, since it is random.
fn pause(claimed: &Claimed, first: Span) -> Span {
    let doubled = u32::try_from(claimed.attempt - 1).unwrap_or(0).min(20);
    let pause = first.micros().saturating_mul(1 << doubled).min(PAUSE_MAX.micros());
    let jitter = i64::from(claimed.id.uuid().as_bytes()[15]);
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
/// enough. Answers whether there was one. `all` is for the start of the only server, when no run
/// can be going; else a run whose lease has passed is meant.
pub async fn recover(tx: &mut Tx, all: bool) -> Result<bool> {
    let (now, far) = (tx.now(), Time::from_micros(i64::MAX));
    let sql = "select app_id, id, task, tries_left, secret_hash from runs
               where state = 'running' and (lease_until is null or lease_until <= $1) limit 1";
    let Some(row) = tx.first(sql, args![if all { far } else { now }]).await? else {
        return Ok(false);
    };
    let (app, id, task) = (row.parsed(0)?, row.parsed(1)?, row.text(2)?);
    let secret = row.hash_or_null(4)?;
    let state = if row.int(3)? > 0 { RunState::Queued } else { RunState::Dead };
    let finished_at = state.is_end().then_some(now);
    tx.change(
        "update runs set state = $1, finished_at = $2, error_kind = 'lost',
         error = 'the server stopped during the run', lease_until = null, secret_hash = null
         where id = $3",
        args![state.name(), finished_at, id],
    )
    .await?;
    end(tx, app, (id, task), state, secret);
    Ok(true)
}

/// Gives up a run that waits. Answers whether it did: a run that is going is ended by its server.
pub async fn cancel_queued(tx: &mut Tx, app: AppId, id: RunId) -> Result<bool> {
    let run = super::find_run(tx, app, id).await?;
    if run.state != RunState::Queued {
        return Ok(false);
    }
    let now = tx.now();
    tx.change(
        "update runs set state = 'cancelled', finished_at = $1, error_kind = 'cancelled',
         error = 'it was cancelled before it began' where id = $2",
        args![now, id],
    )
    .await?;
    end(tx, app, (id, run.task), RunState::Cancelled, None);
    Ok(true)
}

/// Queues a run again that has ended without success, with as many tries as a new one. It keeps its
/// id: for the world it is the same piece of work.
pub async fn retry(tx: &mut Tx, app: AppId, id: RunId) -> Result<()> {
    let run = super::find_run(tx, app, id).await?;
    if !matches!(run.state, RunState::Failed | RunState::Dead | RunState::Cancelled) {
        let why =
            format!("the run is {}: only one that ended without success runs again", run.state);
        return Err(Error::Conflict(why));
    }
    let task = super::find(tx, app, &run.task).await?;
    let (now, tries) = (tx.now(), task.definition.options.tries());
    tx.change(
        "update runs set state = 'queued', due_at = $1, tries_left = $2, finished_at = null
         where id = $3",
        args![now, tries, id],
    )
    .await?;
    let change = Change::RunQueued { task: run.task, run: id, trigger: run.trigger };
    tx.record(Subject::app(app), None, change);
    Ok(())
}
