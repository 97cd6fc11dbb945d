//! Schedules whose time has come.

use super::queue::{Order, Trigger, queue};
use super::{COLUMNS, Misfire, Task, task, task_columns};
use crate::access::Verdict;
use crate::live::Live;
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
/// Moments that passed are counted one by one up to here, which holds the writer for a tenth of a
/// second: two months of minutes, a day of seconds. Beyond it is known only that they were more.
const COUNTED_MAX: u64 = 100_000;
/// No two moments of a schedule are closer.
const CRON_STEP: Span = Span::seconds(1);

/// What a look at the schedules did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Whether a schedule was due: there may be another.
    pub is_found: bool,
    /// Moments that passed without a run of their own; at most 100 000 of one schedule at once.
    pub missed: u64,
}

/// Looks after the first task whose time has come: queues what it asks for, and sets its next time.
pub async fn fire_due(tx: &mut Tx) -> Result<Fired> {
    let now = tx.now();
    let sql = task_columns!(
        ", t.app_id from tasks t where t.next_at <= $1 and coalesce(t.wait_until, 0) <= $1
         order by t.next_at, t.app_id, t.name limit 1"
    );
    let rows = tx.rows(sql, args![now]).await?;
    let Some(row) = rows.first() else { return Ok(Fired::default()) };
    let app: AppId = row.parsed(COLUMNS)?;
    let due = match task(row) {
        Ok(due) => due,
        Err(error) => return leave_out(tx, app, row.text(0)?, &error).await,
    };
    let misfire = due.definition.options.misfire;
    let (passed, stopped) = (Passed::of(&due, now), stopped(tx.live(), now, &due));
    let mut next_at = next_of(&due, now);
    let last = std::slice::from_ref(&passed.last);
    let wanted = match (misfire, stopped.is_some()) {
        (_, true) => &[][..],
        (Misfire::All, _) => {
            if passed.oldest.len() == CATCH_UP_MAX {
                // More are left: they come with the next look.
                next_at = next_of(&due, passed.last);
            }
            &passed.oldest[..]
        }
        (Misfire::Skip, _) if now - passed.last > LATE => &[],
        (Misfire::Once | Misfire::Skip, _) => last,
    };
    let (mut queued, mut missed, mut wait_until) = (0, passed.count, None);
    for moment in wanted {
        match queue_for(tx, app, &due, *moment).await? {
            Queued::Yes => queued += 1,
            // Not at once: the other schedules have their turn. The moment stays.
            Queued::Full if misfire != Misfire::Skip => {
                (next_at, wait_until) = (Some(*moment), Some(now + FULL_AGAIN));
                missed = if misfire == Misfire::All { queued } else { passed.count - 1 };
                break;
            }
            Queued::Waits | Queued::Full => {}
        }
    }
    tx.change(
        "update tasks set next_at = $1, wait_until = $2, stopped = $3
         where app_id = $4 and name = $5",
        args![next_at, wait_until, ended(&due, next_at), app, &due.definition.name],
    )
    .await?;
    Ok(Fired { is_found: true, missed: missed.saturating_sub(queued) })
}

/// A task that cannot be read runs no more by itself, and says so: the others do not wait for it.
async fn leave_out(tx: &mut Tx, app: AppId, name: String, error: &Error) -> Result<Fired> {
    end_schedule(tx, app, &name, error).await?;
    Ok(Fired { is_found: true, missed: 1 })
}

pub(super) async fn end_schedule(tx: &mut Tx, app: AppId, name: &str, error: &Error) -> Result<()> {
    tracing::error!(task = name, %error, "a task cannot be read");
    let why = format!("it cannot be read, so its schedule has ended: {error}; put it again");
    tx.change(
        "update tasks set next_at = null, stopped = $1 where app_id = $2 and name = $3",
        args![why, app, name],
    )
    .await
    .map(|_| ())
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

/// The moments from the one that was due until now.
struct Passed {
    /// Each of them, oldest first, if each is to have its run: as many as one look queues.
    oldest: Vec<Time>,
    /// How many, as far as they are counted.
    count: u64,
    /// The last of these for which one look queues runs; of all, if one run is for all.
    last: Time,
}

impl Passed {
    fn of(due: &Task, now: Time) -> Self {
        let is_each_wanted = due.definition.options.misfire == Misfire::All;
        let first = due.next_at.unwrap_or(now);
        let mut passed = Self { oldest: vec![first], count: 1, last: first };
        while let Some(next) = next_of(due, passed.last).filter(|next| *next <= now) {
            if is_each_wanted && passed.oldest.len() == CATCH_UP_MAX {
                break;
            }
            if passed.count == COUNTED_MAX {
                passed.last = last_of(due, (next, now));
                break;
            }
            if is_each_wanted {
                passed.oldest.push(next);
            }
            (passed.count, passed.last) = (passed.count + 1, next);
        }
        passed
    }
}

/// The last moment until `now`, from one on: halved until there is room for none between.
fn last_of(due: &Task, (mut last, now): (Time, Time)) -> Time {
    let mut none_after = now;
    while none_after - last >= CRON_STEP {
        let middle = last + Span::from_micros((none_after - last).micros() / 2);
        match next_of(due, middle).filter(|next| *next <= now) {
            Some(next) => last = next,
            None => none_after = middle,
        }
    }
    last
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
    // One that was tried is not meant: it waits to be tried again, and that may take long.
    let sql = "select count(*) from runs where app_id = $1 and task = $2 and state = 'queued'
               and trigger = 'schedule' and attempt = 0";
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
pub(super) fn stopped(live: &Live, now: Time, task: &Task) -> Option<String> {
    let owner = task.definition.options.owner?;
    match live.may_sign_in(owner, now) {
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
    let sql = "select min(case when wait_until > next_at then wait_until else next_at end)
               from tasks";
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
    use crate::tasks::{
        Claim, Definition, Options, RunState, Schedule, all, begin, claim, find_run,
        needs_attention, put, recover, runs,
    };
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

    struct Story {
        db: Db,
        clock: Clock,
        app: AppId,
        _dir: tempfile::TempDir,
    }

    impl Story {
        async fn begin() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let clock = Clock::manual(Time::parse("2026-05-03T06:12:30Z").expect("a moment"));
            let db = Db::open(Place::Directory(dir.path().join("data")), clock.clone()).await;
            let db = db.expect("a store");
            let mut tx = db.write(By::System).await.expect("a change");
            let app = apps::create(&mut tx, ("shop", Settings::default()), false).await;
            let app = app.expect("an app").id;
            tx.commit().await.expect("it holds");
            Self { db, clock, app, _dir: dir }
        }

        async fn put(&self, definition: Definition) -> Task {
            let mut tx = self.db.write(By::System).await.expect("a change");
            let made = put(&mut tx, self.app, definition, Scopes::default()).await;
            tx.commit().await.expect("it holds");
            made.expect("a task").0
        }

        /// Looks until nothing is due; answers how many moments had no run of their own.
        async fn look(&self) -> u64 {
            let (mut tx, mut missed) = (self.db.write(By::System).await.expect("a change"), 0);
            loop {
                let fired = fire_due(&mut tx).await.expect("it looks");
                missed += fired.missed;
                if !fired.is_found {
                    tx.commit().await.expect("it holds");
                    return missed;
                }
            }
        }

        /// The tasks whose runs wait, and for when, newest first.
        async fn runs(&self) -> Vec<(String, String)> {
            let mut read = self.db.read().await.expect("a view");
            let found = runs::page(&mut read, self.app, &runs::Filter::default(), 200, 0).await;
            let told = |run: runs::Run| (run.task, run.due_at.to_string());
            found.expect("the runs").0.into_iter().map(told).collect()
        }
    }

    fn every(cron: &str, misfire: Misfire) -> Definition {
        let schedule = Some(Schedule::parse(cron, "UTC").expect("a schedule"));
        Definition { schedule, options: Options { misfire, ..Options::default() }, ..hourly("t") }
    }

    #[tokio::test]
    async fn after_a_long_stop_the_last_moment_counts_and_all_that_were_missed_are_counted() {
        for (cron, misfire, stop, missed, due_at) in [
            ("* * * * *", Misfire::Once, Span::days(60), 86_399, Some("2026-07-02T06:12:00Z")),
            ("* * * * *", Misfire::Skip, Span::days(60), 86_399, Some("2026-07-02T06:12:00Z")),
            ("5 * * * *", Misfire::Once, Span::days(60), 1_439, Some("2026-07-02T06:05:00Z")),
            ("5 * * * *", Misfire::Skip, Span::days(60), 1_440, None),
            // More than are counted: the last one is found all the same.
            ("* * * * * *", Misfire::Skip, Span::days(3), 99_999, Some("2026-05-06T06:12:30Z")),
            ("* 3-5 * 6 *", Misfire::Once, Span::days(9_000), 99_999, Some("2050-06-30T05:59:00Z")),
        ] {
            let story = Story::begin().await;
            story.put(every(cron, misfire)).await;
            story.clock.pass(stop);
            assert_eq!(story.look().await, missed, "{cron} {misfire:?}");
            let runs: Vec<String> = story.runs().await.into_iter().map(|run| run.1).collect();
            assert_eq!(runs, Vec::from_iter(due_at.map(str::to_owned)), "{cron} {misfire:?}");
        }
    }

    #[tokio::test]
    async fn when_each_moment_has_its_run_none_is_missed() {
        let story = Story::begin().await;
        story.put(every("*/10 * * * *", Misfire::All)).await;
        story.clock.pass(Span::days(1));
        assert_eq!(story.look().await, 0);
        let runs = story.runs().await;
        assert_eq!((runs.len(), runs[0].1.as_str()), (144, "2026-05-04T06:10:00Z"));
        assert_eq!(runs[143].1, "2026-05-03T06:20:00Z");
    }

    #[tokio::test]
    async fn a_run_of_a_task_that_cannot_be_read_stops_no_other() {
        let story = Story::begin().await;
        let mut ids = Vec::new();
        for name in ["broken", "good"] {
            let put = story.put(hourly(name)).await;
            let mut tx = story.db.write(By::System).await.expect("a change");
            ids.push(
                queue(&mut tx, story.app, &put, Order::by(Trigger::Hand)).await.expect("a run"),
            );
            tx.commit().await.expect("it holds");
        }
        let mut tx = story.db.write(By::System).await.expect("a change");
        let sql = "update tasks set options = '{' where name = 'broken'";
        tx.change(sql, args![]).await.expect("the damage");
        let wanted = Claim { life: Span::hours(1), lease: Span::minutes(1), per_app: 2 };
        let claimed = claim(&mut tx, wanted).await.expect("it looks").expect("a run");
        assert_eq!(claimed.id, ids[1]);
        tx.commit().await.expect("it holds");
        let mut read = story.db.read().await.expect("a view");
        let left = find_run(&mut read, story.app, ids[0]).await.expect("the run");
        assert_eq!(left.state, RunState::Cancelled);
        let (_, resting) = needs_attention(&mut read).await.expect("what stands still");
        assert_eq!(resting.len(), 1);
        assert!(resting[0].task == "broken" && resting[0].why.contains("put it again"));
        let shown: Vec<String> = all(&mut read, story.app)
            .await
            .expect("tasks")
            .into_iter()
            .map(|it| it.definition.name)
            .collect();
        assert_eq!(shown, ["good"]);
    }

    #[tokio::test]
    async fn a_run_that_somebody_waited_for_is_not_dead_when_its_server_stopped() {
        let story = Story::begin().await;
        let task = story.put(hourly("callee")).await;
        let mut tx = story.db.write(By::System).await.expect("a change");
        let wanted = Claim { life: Span::hours(1), lease: Span::minutes(1), per_app: 2 };
        let order = Order::by(Trigger::Task);
        let begun = begin(&mut tx, story.app, task, order, wanted).await.expect("a run");
        assert!(recover(&mut tx, true, Span::minutes(1)).await.expect("it looks"));
        let run = find_run(&mut tx, story.app, begun.id).await.expect("the run");
        assert_eq!(run.state, RunState::Failed, "its caller was told: nobody else need look");
    }

    #[tokio::test]
    async fn a_schedule_that_cannot_be_read_stops_no_other_and_says_so() {
        let story = Story::begin().await;
        for name in ["broken", "good"] {
            story.put(hourly(name)).await;
        }
        let mut tx = story.db.write(By::System).await.expect("a change");
        let sql = "update tasks set zone = 'Mars/Olympus' where name = 'broken'";
        tx.change(sql, args![]).await.expect("the damage");
        tx.commit().await.expect("it holds");
        story.clock.pass(Span::hours(1));
        assert_eq!(story.look().await, 1);
        assert_eq!(story.runs().await, [("good".to_owned(), "2026-05-03T07:00:00Z".to_owned())]);
        let mut read = story.db.read().await.expect("a view");
        let (_, resting) = needs_attention(&mut read).await.expect("what stands still");
        assert_eq!(resting.len(), 1);
        let one = &resting[0];
        assert!(one.task == "broken" && one.why.contains("Mars/Olympus"), "{one:?}");
        drop(read);
        // Put again, it is mended.
        let mended = story.put(hourly("broken")).await;
        assert_eq!(mended.next_at.map(|at| at.to_string()), Some("2026-05-03T08:00:00Z".into()));
    }
}
