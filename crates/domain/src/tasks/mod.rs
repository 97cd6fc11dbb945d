//! Tasks: scripts of an app with their rights and what starts them. How a script runs is not known
//! here; what a run may do and what became of it is in `runs`.

mod claim;
mod due;
mod events;
mod finish;
mod options;
mod queue;
mod runs;
mod schedule;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ledger::{self, Change, Subject};
use crate::live::Live;
use crate::store::{Read, Row, Tx, args};
use crate::tokens::{Scope, Scopes};
use crate::users;
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::secret::SecretHash;
use crate::values::time::Time;

pub use claim::{Claim, Claimed, begin, claim, has_due, renew};
pub use due::{Fired, fire_due, next_due};
pub use events::{KINDS as EVENT_KINDS, Looked, fire_events};
pub use finish::{Ending, Finished, cancel_queued, finish, put_back, recover, retry};
pub use options::{Misfire, Options};
pub use queue::{DEPTH_MAX, Order, PARAMS_BYTES_MAX, QUEUED_MAX, Trigger, queue, written};
pub use runs::{
    Filter as RunFilter, LogRow, Run, RunState, depth_of, find as find_run, forget as forget_runs,
    page as page_of_runs, state_counts,
};
pub use schedule::Schedule;

/// The most tasks of an app: all of them are read when one page is shown.
pub const TASKS_MAX: i64 = 1_000;
/// More tasks that rest are not named: nobody reads on.
const RESTING_MAX: usize = 1_000;
const NAME_CHARS_MAX: usize = 64;
/// A script is written by people; bundled libraries fit too.
pub const SOURCE_BYTES_MAX: usize = 512 * 1024;
/// More files than these belong into a bundle.
const FILES_MAX: usize = 50;
const FILE_NAME_CHARS_MAX: usize = 200;
const VARIABLES_MAX: usize = 100;
const VARIABLES_BYTES_MAX: usize = 64 * 1024;
/// A page of tasks holds the params of each; a run may get longer ones.
const OWN_PARAMS_BYTES_MAX: usize = 64 * 1024;

/// What a caller says about a task.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its name within the app.
    pub name: String,
    /// The name of the file whose exports are called; its ending says the language.
    pub file: String,
    /// That file's text as it was written.
    pub source: String,
    /// The other files by name.
    pub files: BTreeMap<String, String>,
    /// The script as it runs: what the compiler made of the files.
    pub script: String,
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
    /// What else was said.
    pub options: Options,
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
    /// Why it does not run by itself although it should.
    pub stopped: Option<String>,
}

/// The columns that `task` reads, of `tasks t`.
macro_rules! task_columns {
    ($rest:literal) => {
        concat!(
            "select t.name, t.file, t.source, t.javascript, t.scopes, t.cron, t.zone, t.params, \
             t.env, t.single_instance, t.created_at, t.updated_at, t.next_at, t.files, \
             t.options, t.stopped",
            $rest
        )
    };
}
pub(crate) use task_columns;
/// How many columns that are.
const COLUMNS: usize = 16;

/// Creates or replaces a task; answers it and whether it is new. A running run goes on with the
/// script that it began with.
pub async fn put(
    tx: &mut Tx,
    app: AppId,
    definition: Definition,
    held: Scopes,
) -> Result<(Task, bool)> {
    // One could take the place of the task that locks people who have left.
    tx.refuse_task()?;
    check(&definition, held)?;
    if let Some(owner) = definition.options.owner {
        let found = users::find(tx, app, owner).await;
        found.map_err(|_| Error::invalid("owner", "no user of this app has this id"))?;
    }
    let old = old(tx, app, &definition.name).await?;
    if old.is_none() {
        let sql = "select count(*) from tasks where app_id = $1";
        if tx.count(sql, args![app]).await? >= TASKS_MAX {
            return Err(Error::Conflict(format!("an app has at most {TASKS_MAX} tasks")));
        }
    }
    let now = tx.now();
    let mut next_at = definition.schedule.as_ref().map(|plan| plan.next_after(now)).transpose()?;
    // A moment that has come is not lost because the task is put again before it was looked at.
    let due = old.as_ref().filter(|old| old.has_schedule_of(&definition));
    next_at = due.and_then(|old| old.next_at.filter(|due| *due <= now)).or(next_at);
    let created_at = old.as_ref().map_or(now, |old| old.created_at);
    let looked_seq = match &old {
        _ if definition.options.on.is_empty() => None,
        Some(old) if old.is_watching_as(&definition) => old.looked_seq,
        // What happened before it was put starts no run of it.
        _ => Some(ledger::head(tx).await?.seq),
    };
    write(tx, app, &definition, (created_at, now, next_at, looked_seq)).await?;
    let sources = (&definition.file, &definition.source, &definition.files);
    let change = Change::TaskPut {
        task: definition.name.clone(),
        scopes: definition.scopes,
        source_sha256: if definition.files.is_empty() {
            SecretHash::of(&definition.source)
        } else {
            SecretHash::of(&json_text("task files", &sources)?)
        },
    };
    tx.record(Subject::app(app), None, change);
    let task = Task { definition, created_at, updated_at: now, next_at, stopped: None };
    let task = task.told(tx.live(), now);
    Ok((task, old.is_none()))
}

/// What a task that is put again goes on with. Also of one that cannot be read otherwise: it is
/// put again to be mended.
struct Old {
    created_at: Time,
    next_at: Option<Time>,
    plan: (Option<String>, Option<String>),
    options: Option<Options>,
    looked_seq: Option<i64>,
}

impl Old {
    fn has_schedule_of(&self, definition: &Definition) -> bool {
        let plan = definition.schedule.as_ref();
        let new = (plan.map(Schedule::cron), plan.map(Schedule::zone));
        (self.plan.0.as_deref(), self.plan.1.as_deref()) == new
    }

    /// Whether the same entries start it: others count from the moment at which they are asked for.
    fn is_watching_as(&self, definition: &Definition) -> bool {
        let (old, new) = (self.options.as_ref(), &definition.options);
        self.looked_seq.is_some()
            && old.is_some_and(|old| old.on == new.on && old.filter == new.filter)
    }
}

async fn old(read: &mut Read, app: AppId, name: &str) -> Result<Option<Old>> {
    let sql = "select created_at, next_at, cron, zone, options, looked_seq from tasks
               where app_id = $1 and name = $2";
    let Some(row) = read.first(sql, args![app, name]).await? else { return Ok(None) };
    Ok(Some(Old {
        created_at: row.time(0)?,
        next_at: row.time_or_null(1)?,
        plan: (row.text_or_null(2)?, row.text_or_null(3)?),
        options: row.json(4).ok(),
        looked_seq: row.int_or_null(5)?,
    }))
}

fn json_text<T: serde::Serialize>(what: &str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(format!("{what}: {error}")))
}

async fn write(
    tx: &mut Tx,
    app: AppId,
    definition: &Definition,
    (created_at, now, next_at, looked_seq): (Time, Time, Option<Time>, Option<i64>),
) -> Result<()> {
    let Definition { name, file, source, script, .. } = definition;
    let env = json_text("task variables", &definition.env)?;
    let files = json_text("task files", &definition.files)?;
    let options = json_text("task options", &definition.options)?;
    let cron = definition.schedule.as_ref().map(|plan| plan.cron().to_owned());
    let zone = definition.schedule.as_ref().map(|plan| plan.zone().to_owned());
    tx.change(
        "insert into tasks (app_id, name, file, source, javascript, scopes, cron, zone, params,
         env, single_instance, created_at, updated_at, next_at, files, options, looked_seq)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         on conflict (app_id, name) do update set file = excluded.file, source = excluded.source,
         javascript = excluded.javascript, scopes = excluded.scopes, cron = excluded.cron,
         zone = excluded.zone, params = excluded.params, env = excluded.env,
         single_instance = excluded.single_instance, updated_at = excluded.updated_at,
         next_at = excluded.next_at, files = excluded.files, options = excluded.options,
         looked_seq = excluded.looked_seq, stopped = null, wait_until = null",
        args![
            app,
            name,
            file,
            source,
            script,
            definition.scopes.to_string(),
            cron,
            zone,
            definition.params.to_string(),
            env,
            definition.single_instance,
            created_at,
            now,
            next_at,
            files,
            options,
            looked_seq
        ],
    )
    .await?;
    Ok(())
}

/// Whether a task can be what it is said to be, for someone who holds these scopes.
pub fn check(definition: &Definition, held: Scopes) -> Result<()> {
    let name = &definition.name;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
        let why = format!("must have 1 to {NAME_CHARS_MAX} characters of a-z, 0-9, -, _ and .");
        return Err(Error::invalid("name", why));
    }
    check_files(definition)?;
    if !definition.params.is_object() {
        return Err(Error::invalid("params", "must be a JSON object"));
    }
    if definition.params.to_string().len() > OWN_PARAMS_BYTES_MAX {
        let why = format!("a task's own params have {OWN_PARAMS_BYTES_MAX} bytes at most");
        return Err(Error::invalid("params", why));
    }
    let env = &definition.env;
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > VARIABLES_MAX || bytes > VARIABLES_BYTES_MAX {
        let why =
            format!("at most {VARIABLES_MAX} variables of {VARIABLES_BYTES_MAX} bytes in all");
        return Err(Error::invalid("env", why));
    }
    // A task ends access; what could hand out access is not for it.
    if definition.scopes.allow(Scope::AppAdmin) {
        return Err(Error::invalid("scopes", "a task cannot have app:admin or operator"));
    }
    if !held.cover(definition.scopes) {
        let why = format!("your token lacks some of {}: it cannot pass them on", definition.scopes);
        return Err(Error::Denied(why));
    }
    definition.options.check(definition.scopes)
}

fn check_files(definition: &Definition) -> Result<()> {
    let Definition { file, source, files, .. } = definition;
    let is_name = |name: &String| {
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        name.len() <= FILE_NAME_CHARS_MAX
            && name.split('/').all(is_part)
            && !name.contains(['\\', ':', '\0', '\n'])
    };
    if let Some(wrong) = std::iter::once(file).chain(files.keys()).find(|name| !is_name(name)) {
        let why = format!("{wrong:?} is no path of a file: write one like \"lib/mail.ts\"");
        return Err(Error::invalid("file", why));
    }
    if files.len() >= FILES_MAX {
        let why = format!("at most {FILES_MAX} files: bundle them with `reauth task build`");
        return Err(Error::invalid("files", why));
    }
    check_sources(files.values().chain([source]))
}

/// Refuses sources that are too long in all, or that no database could keep.
pub fn check_sources<'a>(all: impl Iterator<Item = &'a String> + Clone) -> Result<()> {
    if all.clone().map(String::len).sum::<usize>() > SOURCE_BYTES_MAX {
        let why = format!("must be at most {SOURCE_BYTES_MAX} bytes in all");
        return Err(Error::invalid("source", why));
    }
    if all.into_iter().any(|text| text.contains('\0')) {
        return Err(Error::invalid("source", "must not have U+0000: write \\0 in the script"));
    }
    Ok(())
}

/// The task with this name.
pub async fn find(read: &mut Read, app: AppId, name: &str) -> Result<Task> {
    try_find(read, app, name).await?.ok_or_else(|| Error::not_found(format!("task {name}")))
}

async fn try_find(read: &mut Read, app: AppId, name: &str) -> Result<Option<Task>> {
    // No task is called so, and PostgreSQL has no text with it.
    if name.contains('\0') {
        return Ok(None);
    }
    let sql = task_columns!(" from tasks t where t.app_id = $1 and t.name = $2");
    let row = read.first(sql, args![app, name]).await?;
    let found = row.map(|row| task(&row)).transpose()?;
    Ok(found.map(|task| task.told(read.live(), read.now())))
}

/// The variables of a task; none if there is no such task.
pub async fn variables(
    read: &mut Read,
    app: AppId,
    name: &str,
) -> Result<BTreeMap<String, String>> {
    if name.contains('\0') {
        return Ok(BTreeMap::new());
    }
    let sql = "select env from tasks where app_id = $1 and name = $2";
    let row = read.first(sql, args![app, name]).await?;
    row.map_or(Ok(BTreeMap::new()), |row| row.json(0))
}

/// All tasks of an app by name.
pub async fn all(read: &mut Read, app: AppId) -> Result<Vec<Task>> {
    let sql = task_columns!(" from tasks t where t.app_id = $1 order by t.name limit $2");
    let rows = read.rows(sql, args![app, TASKS_MAX]).await?;
    // Of one that cannot be read the doctor tells: the others are listed all the same.
    let readable = rows.iter().filter_map(|row| task(row).ok());
    Ok(readable.map(|task| task.told(read.live(), read.now())).collect())
}

/// A task that does not run by itself although it should.
#[derive(Clone, Debug)]
pub struct Resting {
    /// Its app: the id, and the name, which others may have too.
    pub app: (AppId, String),
    /// Its name.
    pub task: String,
    /// Why it rests.
    pub why: String,
}

/// What someone should look at: how many runs are dead, and the tasks that rest.
pub async fn needs_attention(read: &mut Read) -> Result<(i64, Vec<Resting>)> {
    let dead = read.count("select count(*) from runs where state = 'dead'", args![]).await?;
    let sql = task_columns!(
        ", a.id, a.name from tasks t join apps a on a.id = t.app_id order by a.name, a.id, t.name"
    );
    let (db, now, mut resting) = (read.db().clone(), read.now(), Vec::new());
    // One after the other: each has its sources with it.
    read.each(sql, args![], |row| {
        let why = match task(&row) {
            Ok(task) => task.told(db.live(), now).stopped,
            Err(error) => Some(format!("it cannot be read: {error}; put it again")),
        };
        if let Some(why) = why.filter(|_| resting.len() < RESTING_MAX) {
            let app = (row.parsed(COLUMNS)?, row.text(COLUMNS + 1)?);
            resting.push(Resting { app, task: row.text(0)?, why });
        }
        Ok(())
    })
    .await?;
    Ok((dead, resting))
}

impl Task {
    /// With why it does not run by itself now, as far as that is not stored.
    fn told(self, live: &Live, now: Time) -> Self {
        let stopped = due::stopped(live, now, &self).or_else(|| self.stopped.clone());
        Self { stopped, ..self }
    }
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
        script: row.text(3)?,
        scopes: row.parsed(4)?,
        schedule,
        params: row.json(7)?,
        env: row.json(8)?,
        single_instance: row.int(9)? != 0,
        files: row.json(13)?,
        options: row.json(14)?,
    };
    Ok(Task {
        definition,
        created_at: row.time(10)?,
        updated_at: row.time(11)?,
        next_at: row.time_or_null(12)?,
        stopped: row.text_or_null(15)?,
    })
}

/// Deletes a task. Its runs stay to be read; those that wait are given up.
pub async fn delete(tx: &mut Tx, app: AppId, name: &str) -> Result<()> {
    tx.refuse_task()?;
    let sql = "delete from tasks where app_id = $1 and name = $2";
    if name.contains('\0') || tx.change(sql, args![app, name]).await? == 0 {
        return Err(Error::not_found(format!("task {name}")));
    }
    finish::give_up_deleted(tx, app, name).await?;
    tx.record(Subject::app(app), None, Change::TaskDeleted { task: name.to_owned() });
    Ok(())
}
