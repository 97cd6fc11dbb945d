//! Tasks: scripts of an app with their rights and their schedule. How a script runs is not known
//! here; what a run may do and what became of it is in `runs`.

mod runs;
mod schedule;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::tokens::{Scope, Scopes};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::secret::SecretHash;
use crate::values::time::Time;

pub use runs::{
    Claimed, Finished, LogRow, QUEUED_MAX, Run, RunState, Trigger, claim, find as find_run, finish,
    fire_due, next_due, page as page_of_runs, queue, recover, state_counts,
};
pub use schedule::Schedule;

/// The most tasks of an app: all of them are read when one page is shown.
pub const TASKS_MAX: i64 = 1_000;
const NAME_CHARS_MAX: usize = 64;
/// A script is written by people; bundled libraries fit too.
const SOURCE_BYTES_MAX: usize = 512 * 1024;

/// What a caller says about a task.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its name within the app.
    pub name: String,
    /// The file's name; its ending says the language.
    pub file: String,
    /// The script as it was written.
    pub source: String,
    /// The script as it runs: JavaScript without types.
    pub javascript: String,
    /// What a run's token may do.
    pub scopes: Scopes,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
    /// What `run` gets when the trigger brings nothing.
    pub params: Value,
    /// The task's variables: `process.env` in the script.
    pub env: BTreeMap<String, String>,
    /// Whether at most one run may be going at any time.
    pub single_instance: bool,
}

/// A task as it is stored.
#[derive(Clone, Debug)]
pub struct Task {
    /// What was said about it.
    pub definition: Definition,
    /// When it was first put.
    pub created_at: Time,
    /// When it was last put.
    pub updated_at: Time,
    /// When it will next run by itself.
    pub next_at: Option<Time>,
}

/// Creates or replaces a task; answers it and whether it is new. A running run goes on with the
/// script that it began with.
pub async fn put(
    tx: &mut Tx,
    app: AppId,
    definition: Definition,
    held: Scopes,
) -> Result<(Task, bool)> {
    check(&definition, held)?;
    let old = try_find(tx, app, &definition.name).await?;
    if old.is_none() {
        let sql = "select count(*) from tasks where app_id = $1";
        if tx.count(sql, args![app]).await? >= TASKS_MAX {
            return Err(Error::Conflict(format!("an app has at most {TASKS_MAX} tasks")));
        }
    }
    let now = tx.now();
    let next_at = definition.schedule.as_ref().map(|plan| plan.next_after(now)).transpose()?;
    let created_at = old.as_ref().map_or(now, |old| old.created_at);
    write(tx, app, &definition, (created_at, now, next_at)).await?;
    let change = Change::TaskPut {
        task: definition.name.clone(),
        scopes: definition.scopes,
        source_sha256: SecretHash::of(&definition.source),
    };
    tx.record(Subject::app(app), None, change);
    Ok((Task { definition, created_at, updated_at: now, next_at }, old.is_none()))
}

async fn write(
    tx: &mut Tx,
    app: AppId,
    definition: &Definition,
    (created_at, now, next_at): (Time, Time, Option<Time>),
) -> Result<()> {
    let Definition { name, file, source, javascript, .. } = definition;
    let env = serde_json::to_string(&definition.env)
        .map_err(|e| Error::Internal(format!("task variables: {e}")))?;
    let cron = definition.schedule.as_ref().map(|plan| plan.cron().to_owned());
    let zone = definition.schedule.as_ref().map(|plan| plan.zone().to_owned());
    tx.change(
        "insert into tasks (app_id, name, file, source, javascript, scopes, cron, zone, params,
         env, single_instance, created_at, updated_at, next_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict (app_id, name) do update set file = excluded.file, source = excluded.source,
         javascript = excluded.javascript, scopes = excluded.scopes, cron = excluded.cron,
         zone = excluded.zone, params = excluded.params, env = excluded.env,
         single_instance = excluded.single_instance, updated_at = excluded.updated_at,
         next_at = excluded.next_at",
        args![
            app,
            name,
            file,
            source,
            javascript,
            definition.scopes.to_string(),
            cron,
            zone,
            definition.params.to_string(),
            env,
            definition.single_instance,
            created_at,
            now,
            next_at
        ],
    )
    .await?;
    Ok(())
}

fn check(definition: &Definition, held: Scopes) -> Result<()> {
    let name = &definition.name;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
        let why = format!("must have 1 to {NAME_CHARS_MAX} characters of a-z, 0-9, -, _ and .");
        return Err(Error::invalid("name", why));
    }
    if definition.source.len() > SOURCE_BYTES_MAX {
        let why = format!("must be at most {SOURCE_BYTES_MAX} bytes");
        return Err(Error::invalid("source", why));
    }
    if !definition.params.is_object() {
        return Err(Error::invalid("params", "must be a JSON object"));
    }
    // A task ends access; what could hand out access is not for it.
    let all = Scopes::default().with(Scope::AppAdmin);
    if definition.scopes.allow(Scope::AppAdmin) || !all.cover(definition.scopes) {
        return Err(Error::invalid("scopes", "a task cannot have app:admin or operator"));
    }
    if !held.cover(definition.scopes) {
        let why = format!("your token lacks some of {}: it cannot pass them on", definition.scopes);
        return Err(Error::Denied(why));
    }
    Ok(())
}

/// The task with this name.
pub async fn find(read: &mut Read, app: AppId, name: &str) -> Result<Task> {
    try_find(read, app, name).await?.ok_or_else(|| Error::not_found(format!("task {name}")))
}

async fn try_find(read: &mut Read, app: AppId, name: &str) -> Result<Option<Task>> {
    let row = read
        .first(
            "select name, file, source, javascript, scopes, cron, zone, params, env,
             single_instance, created_at, updated_at, next_at
             from tasks where app_id = $1 and name = $2",
            args![app, name],
        )
        .await?;
    row.map(|row| task(&row)).transpose()
}

/// All tasks of an app by name.
pub async fn all(read: &mut Read, app: AppId) -> Result<Vec<Task>> {
    let rows = read
        .rows(
            "select name, file, source, javascript, scopes, cron, zone, params, env,
             single_instance, created_at, updated_at, next_at
             from tasks where app_id = $1 order by name limit $2",
            args![app, TASKS_MAX],
        )
        .await?;
    rows.iter().map(task).collect()
}

fn task(row: &Row) -> Result<Task> {
    let schedule = match (row.text_or_null(5)?, row.text_or_null(6)?) {
        (Some(cron), Some(zone)) => Some(Schedule::parse(&cron, &zone)?),
        _ => None,
    };
    let definition = Definition {
        name: row.text(0)?,
        file: row.text(1)?,
        source: row.text(2)?,
        javascript: row.text(3)?,
        scopes: row.parsed(4)?,
        schedule,
        params: row.json(7)?,
        env: row.json(8)?,
        single_instance: row.int(9)? != 0,
    };
    Ok(Task {
        definition,
        created_at: row.time(10)?,
        updated_at: row.time(11)?,
        next_at: row.time_or_null(12)?,
    })
}

/// Deletes a task. Its runs stay to be read; those that wait are given up.
pub async fn delete(tx: &mut Tx, app: AppId, name: &str) -> Result<()> {
    let gone =
        tx.change("delete from tasks where app_id = $1 and name = $2", args![app, name]).await?;
    if gone == 0 {
        return Err(Error::not_found(format!("task {name}")));
    }
    let now = tx.now();
    tx.change(
        "update runs set state = 'failed', finished_at = $1, error_kind = 'deleted',
         error = 'the task was deleted before the run began'
         where app_id = $2 and task = $3 and state = 'queued'",
        args![now, app, name],
    )
    .await?;
    tx.record(Subject::app(app), None, Change::TaskDeleted { task: name.to_owned() });
    Ok(())
}
