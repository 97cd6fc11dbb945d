//! Schedules whose time has come.

use super::queue::{Order, Trigger, queue};
use super::{COLUMNS, Misfire, Task, task, task_columns};
use crate::access::Verdict;
use crate::store::{Read, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::time::{Span, Time};

/// A run that begins later than this after its moment was missed, not merely late.
const LATE: Span = Span::minutes(1);
/// When the queue is full, a moment that is made up for is looked at again after this.
const FULL_AGAIN: Span = Span::seconds(10);
/// The most runs that one look queues for moments that were missed.
const CATCH_UP_MAX: usize = 100;

/// What a look at the schedules did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Whether a schedule was due: there may be another.
    pub is_found: bool,
    /// Moments that passed without a run of their own.
    pub missed: u64,
}

/// Looks after the first task whose time has come: queues what it asks for, and sets its next time.
pub async fn fire_due(tx: &mut Tx) -> Result<Fired> {
    let now = tx.now();
    let sql = task_columns!(
        ", t.app_id from tasks t where t.next_at <= $1 order by t.next_at, t.app_id, t.name limit 1"
    );
    let rows = tx.rows(sql, args![now]).await?;
    let Some(row) = rows.first() else { return Ok(Fired::default()) };
    let app: AppId = row.parsed(COLUMNS)?;
    let due = match task(row) {
        Ok(due) => due,
        Err(error) => return leave_out(tx, app, row.text(0)?, &error).await,
    };
    let moments = moments(&due, now);
    let mut next_at = next_of(&due, now);
    let stopped = stopped(tx, &due);
    let wanted = match (due.definition.options.misfire, stopped.is_some()) {
        (_, true) => &[][..],
        (Misfire::All, _) => {
            if moments.len() == CATCH_UP_MAX {
                // More are left: they come with the next look.
                let last = moments.last().copied().unwrap_or(now);
                next_at = next_of(&due, last);
            }
            &moments[..]
        }
        (Misfire::Once, _) => &moments[..moments.len().min(1)],
        (Misfire::Skip, _) => match moments.last() {
            Some(last) if now - *last <= LATE => &moments[moments.len() - 1..],
            _ => &[],
        },
    };
    let (mut queued, mut missed) = (0, moments.len() as u64);
    for moment in wanted {
        match queue_for(tx, app, &due, *moment).await? {
            Queued::Yes => queued += 1,
            // Not at once: the other schedules have their turn.
            Queued::Full if due.definition.options.misfire == Misfire::Once => {
                next_at = Some(next_at.map_or(now + FULL_AGAIN, |it| it.min(now + FULL_AGAIN)));
                missed -= 1;
            }
            Queued::Waits | Queued::Full => {}
        }
    }
    let noted = stopped.or_else(|| ended(&due, next_at));
    tx.change(
        "update tasks set next_at = $1, stopped = $2 where app_id = $3 and name = $4",
        args![next_at, noted, app, &due.definition.name],
    )
    .await?;
    Ok(Fired { is_found: true, missed: missed.saturating_sub(queued) })
}

/// A task that cannot be read runs no more by itself, and says so: the others do not wait for it.
async fn leave_out(tx: &mut Tx, app: AppId, name: String, error: &Error) -> Result<Fired> {
    tracing::error!(task = name, %error, "a scheduled task cannot be read");
    let why = format!("it cannot be read, so its schedule has ended: {error}; put it again");
    tx.change(
        "update tasks set next_at = null, stopped = $1 where app_id = $2 and name = $3",
        args![why, app, name],
    )
    .await?;
    Ok(Fired { is_found: true, missed: 1 })
}

/// When it fires first after this moment, if ever.
fn next_of(due: &Task, after: Time) -> Option<Time> {
    due.definition.schedule.as_ref().and_then(|plan| plan.next_after(after).ok())
}

/// Why the schedule, if there is one, has no next moment.
pub(super) fn ended(task: &Task, next_at: Option<Time>) -> Option<String> {
    let plan = task.definition.schedule.as_ref().filter(|_| next_at.is_none())?;
    Some(format!("its schedule {:?} has ended: no moment is left at which it fires", plan.cron()))
}

/// The moments from the one that is due until now, oldest first.
fn moments(due: &Task, now: Time) -> Vec<Time> {
    let mut moments = Vec::new();
    let mut next = due.next_at;
    while let Some(moment) = next.filter(|moment| *moment <= now) {
        moments.push(moment);
        if moments.len() == CATCH_UP_MAX {
            break;
        }
        next = next_of(due, moment);
    }
    moments
}

/// What became of a moment.
enum Queued {
    /// A run of its own waits.
    Yes,
    /// A run of the schedule waits already, and is for this moment too.
    Waits,
    /// Too many runs wait.
    Full,
}

async fn queue_for(tx: &mut Tx, app: AppId, due: &Task, moment: Time) -> Result<Queued> {
    let sql = "select count(*) from runs where app_id = $1 and task = $2 and state = 'queued'
               and trigger = 'schedule'";
    let name = &due.definition.name;
    if due.definition.options.misfire != Misfire::All && tx.count(sql, args![app, name]).await? > 0
    {
        return Ok(Queued::Waits);
    }
    let order = Order { due_at: Some(moment), ..Order::by(Trigger::Schedule) };
    match queue(tx, app, due, order).await {
        Ok(_) => Ok(Queued::Yes),
        Err(Error::Busy { why, .. }) => {
            tracing::warn!(task = name, why, "a scheduled run finds no place");
            Ok(Queued::Full)
        }
        Err(error) => Err(error),
    }
}

/// Why the task does not run by itself now: its owner may not sign in.
pub(super) fn stopped(tx: &Tx, task: &Task) -> Option<String> {
    let owner = task.definition.options.owner?;
    match tx.live().may_sign_in(owner, tx.now()) {
        Ok(Verdict::Valid { .. }) => None,
        Ok(Verdict::Ended(ended)) => {
            Some(format!("its owner {owner} may not sign in: {}", ended.because))
        }
        // Unknown is no: and no other task waits for this one.
        Err(error) => Some(format!("whether its owner {owner} may sign in is not known: {error}")),
    }
}

/// When the next task is due.
pub async fn next_due(read: &mut Read) -> Result<Option<Time>> {
    let sql = "select min(next_at) from tasks";
    let row = read.first(sql, args![]).await?;
    row.map_or(Ok(None), |row| row.time_or_null(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::apps::{self, Settings};
    use crate::ledger::By;
    use crate::store::{Db, Place};
    use crate::tasks::{Definition, Options, Schedule, needs_attention, put, runs};
    use crate::tokens::Scopes;
    use crate::values::time::Clock;

    fn hourly(name: &str) -> Definition {
        Definition {
            name: name.into(),
            file: "t.js".into(),
            source: "export function run() {}".into(),
            files: BTreeMap::new(),
            script: String::new(),
            scopes: Scopes::default(),
            schedule: Some(Schedule::parse("0 * * * *", "UTC").expect("a schedule")),
            params: json!({}),
            env: BTreeMap::new(),
            single_instance: false,
            options: Options::default(),
        }
    }

    #[tokio::test]
    async fn a_schedule_that_cannot_be_read_stops_no_other_and_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::manual(Time::parse("2026-05-03T06:12:00Z").expect("a moment"));
        let db = Db::open(Place::Directory(dir.path().join("data")), clock.clone()).await;
        let db = db.expect("a store");
        let mut tx = db.write(By::System).await.expect("a change");
        let app = apps::create(&mut tx, ("shop", Settings::default()), false).await;
        let app = app.expect("an app").id;
        for name in ["broken", "good"] {
            put(&mut tx, app, hourly(name), Scopes::default()).await.expect("a task");
        }
        let sql = "update tasks set zone = 'Mars/Olympus' where name = 'broken'";
        tx.change(sql, args![]).await.expect("the damage");
        tx.commit().await.expect("it holds");
        clock.pass(Span::hours(1));
        let mut tx = db.write(By::System).await.expect("a change");
        while fire_due(&mut tx).await.expect("it looks").is_found {}
        tx.commit().await.expect("it holds");
        let mut read = db.read().await.expect("a view");
        let (found, _) =
            runs::page(&mut read, app, &runs::Filter::default(), 10, 0).await.expect("the runs");
        assert_eq!(found.iter().map(|run| run.task.as_str()).collect::<Vec<_>>(), ["good"]);
        let (_, stopped) = needs_attention(&mut read).await.expect("what stands still");
        assert_eq!(stopped.len(), 1);
        assert!(stopped[0].0 == "broken" && stopped[0].1.contains("Mars/Olympus"), "{stopped:?}");
        drop(read);
        // Put again, it is mended.
        let mut tx = db.write(By::System).await.expect("a change");
        let (mended, _) =
            put(&mut tx, app, hourly("broken"), Scopes::default()).await.expect("a task");
        assert_eq!(mended.next_at.map(|at| at.to_string()), Some("2026-05-03T08:00:00Z".into()));
    }
}
