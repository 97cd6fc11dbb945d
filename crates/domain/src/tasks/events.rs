//! Tasks that entries of the ledger start. The ledger is the change feed: each such task has a
//! place in it, up to which it was looked at, and no entry is passed by or told twice.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::due::stopped;
use super::queue::{DEPTH_MAX, Order, Trigger, event_params, queue};
use super::runs::depth_of;
use super::{Options, Task};
use crate::ledger::{self, By, Stored, Wanted};
use crate::store::{Db, args};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;

/// What can start a task: all that happens to users, sessions and rules. Runs and bookkeeping start
/// none.
pub const KINDS: &[&str] = &[
    "app.changed",
    "limits.set",
    "policies.set",
    "token.created",
    "token.revoked",
    "user.created",
    "user.changed",
    "user.deleted",
    "user.not_after_set",
    "user.locked",
    "user.unlocked",
    "enrolment.issued",
    "session.enrolled",
    "session.re_authenticate",
    "session.wiped",
    "session.signed_out",
    "session.ended",
    "session.ending_soon",
    "cut_off.set",
    "revocation.set",
    "revocation.done",
    "group.member_added",
    "group.member_removed",
    "task.put",
    "task.deleted",
];
/// An app and a task's name.
type Place = (String, String);
/// The most tasks that are looked after at once, and the most entries that it reads for each.
const TASKS_MAX: i64 = 100;
const ENTRIES_MAX: i64 = 500;
/// So far a place may be behind in the table when nothing for the task has happened.
const BEHIND_MAX: i64 = 5_000;

/// Up to where the ledger was looked at for each task, beyond what is written down: nothing for the
/// task was there.
#[derive(Debug, Default)]
pub struct Looked {
    places: HashMap<(AppId, String), i64>,
}

/// Queues runs for what has happened since the last look. Answers whether there may be more.
pub async fn fire_events(db: &Db, looked: &mut Looked) -> Result<bool> {
    let (mut place, mut is_more) = (Some((String::new(), String::new())), false);
    while let Some(from) = place {
        let (some_more, next) = fire_some(db, looked, from).await?;
        (place, is_more) = (next, is_more | some_more);
    }
    Ok(is_more)
}

/// The same for some tasks, by their apps and names. Answers with which to go on, too.
async fn fire_some(
    db: &Db,
    looked: &mut Looked,
    (app, name): Place,
) -> Result<(bool, Option<Place>)> {
    let mut read = db.read().await?;
    let head = ledger::head(&mut read).await?.seq;
    let sql = "select app_id, name, looked_seq from tasks
               where looked_seq < $1 and (app_id, name) > ($2, $3)
               order by app_id, name limit $4";
    let rows = read.rows(sql, args![head, app, name, TASKS_MAX]).await?;
    let (mut found, mut is_more, mut next) = (Vec::new(), false, None);
    for row in &rows {
        next = Some((row.text(0)?, row.text(1)?));
        let (app, name, written): (AppId, String, i64) =
            (row.parsed(0)?, row.text(1)?, row.int(2)?);
        let key = (app, name);
        let from = looked.places.get(&key).copied().unwrap_or_default().max(written);
        if from >= head {
            continue;
        }
        let wanted =
            Wanted { after: from, app: Some(app), limit: ENTRIES_MAX, ..Wanted::default() };
        let (entries, more) = ledger::page(&mut read, wanted).await?;
        // Each statement sees what is there when it begins: there may be entries after `head`, and
        // they must not be met again.
        let last = entries.last().map_or(0, |last| last.entry.seq);
        let through = if more { last } else { last.max(head) };
        is_more |= more;
        if entries.is_empty() && through - written < BEHIND_MAX {
            looked.places.insert(key, through);
            continue;
        }
        let task = match super::find(&mut read, app, &key.1).await {
            Ok(task) => task,
            // Deleted just now, or unreadable: the others do not wait for that.
            Err(error) => {
                tracing::warn!(task = key.1, %error, "it is not known what starts this task");
                continue;
            }
        };
        let met: Vec<Stored> = entries.into_iter().filter(|it| meets(&task, it)).collect();
        if met.is_empty() && through - written < BEHIND_MAX {
            looked.places.insert(key, through);
        } else {
            found.push((app, task, met, (written, through)));
        }
    }
    drop(read);
    for (app, task, met, places) in found {
        match fire(db, app, &task, met, places).await {
            Ok(()) => is_more = true,
            // When there is room, all of it comes again; others do not wait for that.
            Err(error @ (Error::Unavailable(_) | Error::InDoubt(_))) => return Err(error),
            Err(error) => {
                tracing::warn!(task = task.definition.name, %error, "its events wait");
            }
        }
    }
    let is_full = i64::try_from(rows.len()).is_ok_and(|found| found == TASKS_MAX);
    Ok((is_more, next.filter(|_| is_full)))
}

/// The runs, and the place up to which was looked, in one transaction.
async fn fire(
    db: &Db,
    app: AppId,
    task: &Task,
    met: Vec<Stored>,
    (written, through): (i64, i64),
) -> Result<()> {
    let mut tx = db.write(By::System).await?;
    let name = &task.definition.name;
    let stopped = stopped(tx.live(), tx.now(), task);
    let moved = tx
        .change(
            "update tasks set looked_seq = $1
             where app_id = $2 and name = $3 and looked_seq = $4 and updated_at = $5",
            args![through, app, name, written, task.updated_at],
        )
        .await?;
    // Put anew or deleted meanwhile: the next look sees what it is now.
    if moved == 0 {
        return Ok(());
    }
    for stored in met {
        if stopped.is_some() {
            break;
        }
        let depth = match &stored.entry.by {
            By::Task { id, .. } => depth_of(&mut tx, *id).await? + 1,
            _ => 0,
        };
        if depth > DEPTH_MAX {
            tracing::warn!(task = name, "tasks start each other in a circle: this one rests");
            continue;
        }
        let params = event_params(&task.definition.params, event(&stored)?)?;
        let order = Order { params: Some(params), depth, ..Order::by(Trigger::Event) };
        // When too many wait, all of this is given up and comes again.
        queue(&mut tx, app, task, order).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What a run gets as `params.event`.
fn event(stored: &Stored) -> Result<Value> {
    let body: Value = serde_json::from_str(&stored.body)
        .map_err(|error| Error::Internal(format!("unreadable ledger entry: {error}")))?;
    Ok(json!({
        "seq": stored.entry.seq,
        "kind": stored.kind,
        "at": stored.entry.at.to_string(),
        "user": stored.entry.user,
        "by": body["by"],
        "why": body["why"],
        "change": body["change"],
    }))
}

/// Whether the entry starts the task. What a task's own run did does not start it again.
fn meets(task: &Task, stored: &Stored) -> bool {
    let definition = &task.definition;
    let is_own = matches!(&stored.entry.by, By::Task { name, .. } if *name == definition.name);
    !is_own && definition.options.on.contains(&stored.kind) && {
        let body: Value = serde_json::from_str(&stored.body).unwrap_or_default();
        holds(&definition.options, &body)
    }
}

/// Whether each value stands at its path.
fn holds(options: &Options, body: &Value) -> bool {
    options.filter.iter().all(|(path, wanted)| {
        let found = path.split('.').try_fold(body, |value, name| value.get(name));
        found.unwrap_or(&Value::Null) == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_paths_into_the_entry() {
        let body =
            json!({ "change": { "because": "too_old", "n": 3 }, "by": { "kind": "system" } });
        let with = |path: &str, value: Value| Options {
            filter: [(path.to_owned(), value)].into(),
            ..Options::default()
        };
        assert!(holds(&Options::default(), &body));
        assert!(holds(&with("change.because", json!("too_old")), &body));
        assert!(holds(&with("change.n", json!(3)), &body));
        assert!(holds(&with("change.missing", Value::Null), &body));
        assert!(!holds(&with("change.because", json!("idle")), &body));
        assert!(!holds(&with("because", json!("too_old")), &body));
    }

    #[test]
    fn every_kind_is_explained() {
        let guide = include_str!("../../../../docs/guide/ledger.md");
        for kind in KINDS {
            assert!(guide.contains(&format!("`{kind}`")), "{kind}");
        }
    }
}
