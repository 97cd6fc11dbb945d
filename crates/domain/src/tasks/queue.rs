//! How a run comes to wait: by hand, by its schedule, by an entry of the ledger, by another task.

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::options::is_queue;
use super::{Task, runs::RunState};
use crate::ledger::{Change, Subject};
use crate::store::{Read, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId};
use crate::values::time::Time;

/// More runs than this do not wait for an app: the caller is told to come back. Those that are to
/// begin later are counted apart, up to as many: they cannot keep out what is due.
pub const QUEUED_MAX: i64 = 1_000;
/// The longest params of a run, as JSON (contract, section 4).
pub const PARAMS_BYTES_MAX: usize = 5 << 20;
/// Tasks start tasks so deep at most: beyond it is a circle.
pub const DEPTH_MAX: i64 = 5;

/// What brought a run about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A person or a program asked for it.
    Hand,
    /// The task's schedule.
    Schedule,
    /// An HTTP request to the task's own address.
    Web,
    /// An entry of the ledger.
    Event,
    /// Another task.
    Task,
}

impl Trigger {
    /// The name in the API and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::Schedule => "schedule",
            Self::Web => "web",
            Self::Event => "event",
            Self::Task => "task",
        }
    }
}

/// How a run is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// What brought it about.
    pub trigger: Trigger,
    /// What `run` gets instead of the task's own params.
    pub params: Option<Box<RawValue>>,
    /// When it is to begin; none is now.
    pub due_at: Option<Time>,
    /// Excludes others with the same name, instead of the task's own queue.
    pub queue: Option<String>,
    /// Whether its changes are only noted.
    pub is_rehearsed: bool,
    /// How many tasks started each other before it.
    pub depth: i64,
    /// Whether somebody waits for its answer: true of what is begun at once.
    pub is_awaited: bool,
}

impl Order {
    /// Now, with the task's own params.
    pub fn by(trigger: Trigger) -> Self {
        Self {
            trigger,
            params: None,
            due_at: None,
            queue: None,
            is_rehearsed: false,
            depth: 0,
            is_awaited: false,
        }
    }
}

/// Queues a run. One whose params are too long has failed with that reason.
pub async fn queue(tx: &mut Tx, app: AppId, task: &Task, order: Order) -> Result<RunId> {
    let new = NewRun::of(tx, task, order)?;
    let is_later = new.due_at > tx.now();
    refuse_full(tx, app, is_later).await?;
    let id = new.id;
    if new.params.get().len() <= PARAMS_BYTES_MAX {
        insert(tx, app, &new, RunState::Queued).await?;
        let (task, trigger) = (new.task, new.order.trigger.name().to_owned());
        tx.record(Subject::app(app), None, Change::RunQueued { task, run: id, trigger });
        return Ok(id);
    }
    insert(tx, app, &NewRun { params: written(&json!({}))?, ..new.clone() }, RunState::Failed)
        .await?;
    let (now, why) = (tx.now(), format!("params are longer than {PARAMS_BYTES_MAX} bytes"));
    tx.change(
        "update runs set finished_at = $1, error_kind = 'too_large', error = $2 where id = $3",
        args![now, why, id],
    )
    .await?;
    let change =
        Change::RunEnded { task: new.task, run: id, state: RunState::Failed, secret_sha256: None };
    tx.record(Subject::app(app), None, change);
    Ok(id)
}

/// Refuses a run more when too many wait that are due, or that are to begin later.
pub(super) async fn refuse_full(read: &mut Read, app: AppId, is_later: bool) -> Result<()> {
    let now = read.now();
    let sql = if is_later {
        "select count(*) from runs where app_id = $1 and state = 'queued' and due_at > $2"
    } else {
        "select count(*) from runs where app_id = $1 and state = 'queued' and due_at <= $2"
    };
    if read.count(sql, args![app, now]).await? < QUEUED_MAX {
        return Ok(());
    }
    let which = if is_later { "are to begin later" } else { "are waiting" };
    let why = format!("{QUEUED_MAX} runs of this app {which} already: try again later");
    Err(Error::Busy { why, retry_after_s: 10 })
}

/// A run that is about to be written.
#[derive(Clone)]
pub(super) struct NewRun {
    pub(super) id: RunId,
    pub(super) task: String,
    pub(super) params: Box<RawValue>,
    due_at: Time,
    tries: i64,
    pub(super) queue: Option<String>,
    order: Order,
}

impl NewRun {
    pub(super) fn of(tx: &Tx, task: &Task, mut order: Order) -> Result<Self> {
        let definition = &task.definition;
        let own = || written(&definition.params);
        let params = order.params.take().map_or_else(own, Ok)?;
        if !params.get().trim_start().starts_with('{') {
            return Err(Error::invalid("params", "must be a JSON object"));
        }
        if order.depth > DEPTH_MAX {
            let why = format!("tasks start each other {DEPTH_MAX} deep at most: is it a circle?");
            return Err(Error::Conflict(why));
        }
        let queue = order.queue.take();
        if queue.as_deref().is_some_and(|queue| !is_queue(queue)) {
            return Err(Error::invalid("queue", "must have 1 to 64 characters"));
        }
        Ok(Self {
            id: RunId::mint(),
            task: definition.name.clone(),
            params,
            due_at: order.due_at.unwrap_or(tx.now()),
            tries: definition.options.tries(),
            queue: queue.or_else(|| definition.options.queue.clone()),
            order,
        })
    }
}

pub(super) async fn insert(tx: &mut Tx, app: AppId, new: &NewRun, state: RunState) -> Result<()> {
    let NewRun { id, task, params, due_at, tries, queue, order } = new;
    tx.change(
        "insert into runs (id, app_id, task, trigger, state, attempt, params, due_at, tries_left,
         queue, depth, rehearsed, awaited)
         values ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9, $10, $11, $12)",
        args![
            *id,
            app,
            task,
            order.trigger.name(),
            state.name(),
            params.get(),
            *due_at,
            *tries,
            queue.clone(),
            order.depth,
            order.is_rehearsed,
            order.is_awaited
        ],
    )
    .await?;
    Ok(())
}

/// The params of a run that an entry of the ledger starts.
pub(super) fn event_params(own: &Value, event: Value) -> Result<Box<RawValue>> {
    let mut params = own.clone();
    match params.as_object_mut() {
        Some(fields) => {
            fields.insert("event".into(), event);
            written(&params)
        }
        None => written(&json!({ "event": event })),
    }
}

/// A value as text, as params are kept: many short values take a hundred times their length.
pub fn written(value: &Value) -> Result<Box<RawValue>> {
    to_raw_value(value).map_err(|error| Error::Internal(format!("a run's params: {error}")))
}
