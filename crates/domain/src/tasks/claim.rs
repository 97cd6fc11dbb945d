//! How a run begins to be carried out: claimed from the queue, or begun at once, with a lease and a
//! token that lives exactly as long as the run. How it ends is in `finish`.

use serde_json::value::RawValue;

use super::due::{end_schedule, stopped};
use super::finish::cancel;
use super::queue::{NewRun, Trigger, insert};
use super::runs::RunState;
use super::{COLUMNS, Order, Task, task, task_columns};
use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::secret::{Secret, SecretKind};
use crate::values::time::Span;

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
    pub params: Box<RawValue>,
    /// Whether its changes are only noted.
    pub is_rehearsed: bool,
    /// How many tasks started each other before it.
    pub depth: i64,
    /// Whether somebody waits for its answer.
    pub is_awaited: bool,
    /// The task as it is now.
    pub task: Task,
    /// The run's token.
    pub token: Secret,
}

/// Takes the oldest run that may begin, of the app with the fewest going, and mints its token. What
/// excludes each other waits for the one that is going: runs of a task with a single instance, and
/// those with the same queue. Requests to web tasks take no place from what is scheduled.
///
/// What began by itself and whose owner may not sign in ends here, with the reason: it would be
/// acting for somebody who is out.
pub async fn claim(tx: &mut Tx, claim: Claim) -> Result<Option<Claimed>> {
    loop {
        let Some(row) = oldest(tx, claim.per_app).await? else { return Ok(None) };
        let claimed = match claimed(&row) {
            Ok(claimed) => claimed,
            Err(error) => {
                leave_out(tx, &row, &error).await?;
                continue;
            }
        };
        let is_by_itself = matches!(claimed.trigger.as_str(), "schedule" | "event" | "task");
        match stopped(tx.live(), tx.now(), &claimed.task).filter(|_| is_by_itself) {
            None => {
                start(tx, &claimed, claim).await?;
                return Ok(Some(claimed));
            }
            Some(why) => {
                let name = claimed.task.definition.name;
                cancel(tx, claimed.app, (claimed.id, name), why).await?;
            }
        }
    }
}

/// The runs `r`, of the tasks `t`, that may begin at `$1` if an app may have `$2` going.
macro_rules! that_may_begin {
    () => {
        " from runs r join tasks t on t.app_id = r.app_id and t.name = r.task
          where r.state = 'queued' and r.due_at <= $1
          and (t.single_instance = 0 or not exists
            (select 1 from runs x
             where x.state = 'running' and x.app_id = r.app_id and x.task = r.task))
          and (r.queue is null or not exists
            (select 1 from runs x
             where x.state = 'running' and x.app_id = r.app_id and x.queue = r.queue))
          and (select count(*) from runs x where x.state = 'running'
               and x.app_id = r.app_id and x.awaited = 0) < $2"
    };
}

/// Whether there is a run that `claim` would take, if an app may have so many going.
pub async fn has_due(read: &mut Read, per_app: i64) -> Result<bool> {
    let (now, sql) = (read.now(), concat!("select 1", that_may_begin!(), " limit 1"));
    Ok(read.first(sql, args![now, per_app]).await?.is_some())
}

/// The oldest run that may begin.
async fn oldest(tx: &mut Tx, per_app: i64) -> Result<Option<Row>> {
    let now = tx.now();
    let sql = concat!(
        task_columns!(
            ", r.app_id, r.id, r.params, r.attempt, r.tries_left, r.trigger, r.rehearsed, r.depth"
        ),
        that_may_begin!(),
        " order by (select count(*) from runs x where x.state = 'running' and x.awaited = 0
                    and x.app_id = r.app_id), r.due_at, r.id limit 1"
    );
    tx.first(sql, args![now, per_app]).await
}

/// A run of a task that cannot be read ends, and says so: the others do not wait for it.
async fn leave_out(tx: &mut Tx, row: &Row, error: &Error) -> Result<()> {
    let (app, id, name) = (row.parsed(COLUMNS)?, row.parsed(COLUMNS + 1)?, row.text(0)?);
    end_schedule(tx, app, &name, error).await?;
    cancel(tx, app, (id, name), format!("its task cannot be read: {error}")).await
}

fn claimed(row: &Row) -> Result<Claimed> {
    Ok(Claimed {
        app: row.parsed(COLUMNS)?,
        id: row.parsed(COLUMNS + 1)?,
        params: row.json(COLUMNS + 2)?,
        attempt: row.int(COLUMNS + 3)? + 1,
        tries_left: row.int(COLUMNS + 4)? - 1,
        trigger: row.text(COLUMNS + 5)?,
        is_rehearsed: row.int(COLUMNS + 6)? != 0,
        depth: row.int(COLUMNS + 7)?,
        is_awaited: false,
        task: task(row)?,
        token: Secret::mint(SecretKind::Run),
    })
}

/// Begins a run at once, without a place in the queue: for an answer that somebody waits for. What
/// must not go at the same time is refused: to wait for it could be to wait for each other.
pub async fn begin(
    tx: &mut Tx,
    app: AppId,
    task: Task,
    order: Order,
    claim: Claim,
) -> Result<Claimed> {
    if let Some(why) =
        stopped(tx.live(), tx.now(), &task).filter(|_| order.trigger == Trigger::Task)
    {
        return Err(Error::Conflict(format!("{}: {why}", task.definition.name)));
    }
    let new = NewRun::of(tx, &task, Order { is_awaited: true, ..order.clone() })?;
    refuse_excluded(tx, app, &task, new.queue.as_deref()).await?;
    insert(tx, app, &new, RunState::Queued).await?;
    let claimed = Claimed {
        app,
        id: new.id,
        attempt: 1,
        // Who waits for it is told at once, and may ask again.
        tries_left: 0,
        trigger: order.trigger.name().to_owned(),
        params: new.params,
        is_rehearsed: order.is_rehearsed,
        depth: order.depth,
        is_awaited: true,
        task,
        token: Secret::mint(SecretKind::Run),
    };
    start(tx, &claimed, claim).await?;
    Ok(claimed)
}

async fn refuse_excluded(tx: &mut Tx, app: AppId, task: &Task, queue: Option<&str>) -> Result<()> {
    let name = &task.definition.name;
    let single = if task.definition.single_instance { Some(name.as_str()) } else { None };
    let sql = "select count(*) from runs where state = 'running' and app_id = $1
               and (task = $2 or queue = $3)";
    if tx.count(sql, args![app, single, queue]).await? == 0 {
        return Ok(());
    }
    let why = format!("another run that excludes {name} is going: try again when it has ended");
    Err(Error::Busy { why, retry_after_s: 1 })
}

async fn start(tx: &mut Tx, claimed: &Claimed, claim: Claim) -> Result<()> {
    let (now, hash) = (tx.now(), claimed.token.hash());
    let (scopes, expires_at) = (claimed.task.definition.scopes, now + claim.life);
    tx.change(
        "update runs set state = 'running', started_at = $1, attempt = $2, tries_left = $3,
         lease_until = $4, secret_hash = $5, secret_scopes = $6, secret_expires_at = $7
         where id = $8",
        args![
            now,
            claimed.attempt,
            claimed.tries_left,
            now + claim.lease,
            hash,
            scopes.to_string(),
            expires_at,
            claimed.id
        ],
    )
    .await?;
    let change = Change::RunStarted {
        task: claimed.task.definition.name.clone(),
        run: claimed.id,
        attempt: claimed.attempt,
        scopes,
        secret_sha256: hash,
        expires_at,
    };
    tx.record(Subject::app(claimed.app), None, change);
    Ok(())
}

/// Says that these tries of runs are still going. No entry of the ledger: it is a sign of life. A
/// run that was taken up meanwhile is another server's: its lease stays as it is.
pub async fn renew(tx: &mut Tx, tries: &[(RunId, i64)], lease: Span) -> Result<()> {
    let until = tx.now() + lease;
    for (run, attempt) in tries {
        tx.change(
            "update runs set lease_until = $1
             where id = $2 and attempt = $3 and state = 'running'",
            args![until, *run, *attempt],
        )
        .await?;
    }
    Ok(())
}
