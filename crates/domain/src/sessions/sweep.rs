//! The sweep writes down what the decision says already: sessions that have ended by themselves, in
//! the order of their ends; warnings before an end; and it forgets what ended long ago. It decides
//! nothing: with the sweep stopped every verdict is the same.

use std::collections::HashMap;

use super::bounds;
use crate::access::Ended;
use crate::cutoffs::revocations;
use crate::ledger::{By, Change, Subject, Warning};
use crate::live::{Due, Looked};
use crate::store::{Db, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::{Span, Time};

/// SQLite has one writer: a batch of this size holds it for some tens of milliseconds.
const BATCH_ROWS: usize = 100;
/// Of so many sessions Live is asked at once: others change it in between.
const LOOK_ROWS: usize = 5_000;

/// What a sweep has found, in the order in which it is to be written.
#[derive(Debug)]
pub struct Sweep {
    looked: Looked,
    at: Time,
    /// Of each app, when the oldest authentication token was issued that could still be used.
    oldest_tokens: HashMap<AppId, Time>,
    /// When that was looked at.
    began_at: Time,
    /// By which building of Live.
    built: u64,
}

impl Sweep {
    /// Forgets what can end nothing more, when all that was found is written; answers whether it
    /// is. What could not be judged by may still end someone: nothing of those apps is forgotten.
    pub async fn close(&self, db: &Db) -> Result<bool> {
        if !self.is_empty() || db.live().built() != self.built {
            return Ok(false);
        }
        let skipped = &self.looked.skipped;
        for (app, set_at) in &self.looked.revocations {
            // One that was stated after the sweep's moment was not due to it yet.
            if *set_at <= self.at && !skipped.contains(app) {
                revocations::finish(db, (*app, *set_at)).await?;
            }
        }
        forget_limits(db, self).await?;
        Ok(true)
    }

    /// How much is left to write.
    pub fn len(&self) -> usize {
        self.looked.ended.len() + self.looked.ending_soon.len()
    }

    /// How many users had a session that nothing ends for sure, or a token that begins one.
    pub fn endless_users(&self) -> usize {
        self.looked.endless.len()
    }

    /// How many of them are of one app.
    pub fn endless_users_of(&self, app: AppId) -> usize {
        self.looked.endless.iter().filter(|(of, _)| *of == app).count()
    }

    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the next batch down. What has changed since it was found is judged anew.
    pub async fn write(&mut self, db: &Db) -> Result<()> {
        let mut tx = db.write(By::System).await?;
        let Looked { ended, ending_soon, .. } = &mut self.looked;
        if ended.is_empty() {
            let rest = ending_soon.len().saturating_sub(BATCH_ROWS);
            for due in ending_soon.split_off(rest) {
                warn(&mut tx, due).await?;
            }
        } else {
            let rest = ended.len().saturating_sub(BATCH_ROWS);
            for due in ended.split_off(rest).into_iter().rev() {
                end(&mut tx, due).await?;
            }
        }
        tx.commit().await.map(|_| ())
    }
}

/// Looks for all that is due, without holding anyone up.
pub async fn look(db: &Db) -> Result<Sweep> {
    // First: one that is used meanwhile begins a session that may not have been seen.
    let mut read = db.read().await?;
    let (began_at, tokens) = (read.now(), bounds::unused(&mut read, None).await?);
    drop(read);
    let (mut looked, mut from) = (Looked::default(), Some(0));
    let built = db.live().begin_sweep(&mut looked)?;
    // Not before: what the revocations that it has seen end is due by now.
    let now = db.now();
    while let Some(at) = from {
        from = db.live().due(at, LOOK_ROWS, now, &mut looked)?;
        tokio::task::yield_now().await;
    }
    if db.live().built() != built {
        return Err(Error::Unavailable("the view was built anew: the sweep begins again".into()));
    }
    looked.endless.extend(bounds::endless(&db.read().await?, &tokens));
    // The first to end comes last: batches are taken from there.
    let latest_first = |due: &Due| std::cmp::Reverse((due.ended.at, due.session));
    looked.ended.sort_unstable_by_key(latest_first);
    looked.ending_soon.sort_unstable_by_key(latest_first);
    let mut oldest_tokens = HashMap::new();
    for bounds::Unused { app, times: (issued_at, _), .. } in &tokens {
        let oldest = oldest_tokens.entry(*app).or_insert(*issued_at);
        *oldest = (*oldest).min(*issued_at);
    }
    Ok(Sweep { looked, at: now, oldest_tokens, began_at, built })
}

async fn end(tx: &mut Tx, due: Due) -> Result<()> {
    let now = tx.now();
    // It may have been written, or authenticated anew, since it was found.
    let Some(Due { app, user, session, ended, policy }) = tx.live().due_still(&due, true, now)?
    else {
        return Ok(());
    };
    super::write_end(tx, (user, session), (ended, policy.as_deref()), ended.at).await?;
    let because = ended.because.name().to_owned();
    let change = Change::SessionEnded { session, at: ended.at, because, policy };
    tx.record(Subject::user(app, user), None, change);
    Ok(())
}

async fn warn(tx: &mut Tx, due: Due) -> Result<()> {
    let now = tx.now();
    let Some(Due { app, user, session, ended, policy }) = tx.live().due_still(&due, false, now)?
    else {
        return Ok(());
    };
    let sql = "update sessions set warned_at = $1, warned_end = $2 where id = $3";
    tx.change(sql, args![now, ended.at, session]).await?;
    let Ended { at: ends_at, because } = ended;
    let warning = Warning { ends_at, because: because.name().to_owned(), policy };
    let change = Change::SessionEndingSoon { session, warning };
    tx.record(Subject::user(app, user), None, change);
    Ok(())
}

/// Forgets the limits of apps and the versions of policies that held no longer when a sweep looked
/// which has written all that it found, and when the oldest authentication token was issued that
/// could still be used. Whoever they would have ended by then has been ended; on whoever proved who
/// they are later they have no hold. So however often policies change, a check looks at few.
async fn forget_limits(db: &Db, sweep: &Sweep) -> Result<()> {
    let old = "select app_id, min(over_at) from
               (select app_id, until_at as over_at from policies where until_at <= $1
                union all select era.app_id, next.from_at from app_limits as era
                join app_limits as next on next.app_id = era.app_id and next.from_at > era.from_at
                where next.from_at <= $1) as old group by app_id";
    for row in db.read().await?.rows(old, args![sweep.began_at]).await? {
        let (app, first_over_at): (AppId, _) = (row.parsed(0)?, row.time(1)?);
        let oldest = sweep.oldest_tokens.get(&app);
        let before = oldest.map_or(sweep.began_at, |issued_at| sweep.began_at.min(*issued_at));
        if first_over_at <= before && !sweep.looked.skipped.contains(&app) {
            forget_limits_of(db, app, before).await?;
        }
    }
    Ok(())
}

async fn forget_limits_of(db: &Db, app: AppId, before: Time) -> Result<()> {
    let mut tx = db.write(By::System).await?;
    let sql = "delete from policies where until_at <= $1 and app_id = $2";
    let policies = tx.change(sql, args![before, app]).await?;
    let eras = tx
        .change(
            "delete from app_limits where app_id = $2 and exists (select 1 from app_limits as next
             where next.app_id = app_limits.app_id and next.from_at > app_limits.from_at
             and next.from_at <= $1)",
            args![before, app],
        )
        .await?;
    if policies + eras > 0 {
        tx.record(Subject::app(app), None, Change::LimitsForgotten { before });
    }
    tx.commit().await.map(|_| ())
}

/// Forgets a batch of sessions that ended longer ago than `kept`, and of authentication tokens;
/// their ledger entries stay. That a device is to wipe its data is remembered for so long since it
/// was asked for. Answers whether there may be more. To be asked when a sweep has written all that
/// it found. Whatever a policy says that cannot be read: these have ended.
pub async fn forget(db: &Db, kept: Span) -> Result<bool> {
    let before = db.now() - kept;
    let sql = "select id, user_id from sessions where ended_at < $1
               and (state <> 'RESET' or signed_out_at < $1) order by ended_at limit $2";
    let limit = i64::try_from(BATCH_ROWS).unwrap_or(i64::MAX);
    let rows = db.read().await?.rows(sql, args![before, limit]).await?;
    let mut found: Vec<(SessionId, UserId)> = Vec::new();
    for row in &rows {
        found.push((row.parsed(0)?, row.parsed(1)?));
    }
    let sql = "select 1 from enrolments where expires_at < $1 limit 1";
    let has_tokens = db.read().await?.first(sql, args![before]).await?.is_some();
    if found.is_empty() && !has_tokens {
        return Ok(false);
    }
    let mut tx = db.write(By::System).await?;
    let sql = "delete from enrolments where hash in (select hash from enrolments
               where expires_at < $1 order by expires_at limit $2)";
    let tokens = tx.change(sql, args![before, limit]).await?;
    let mut sessions = Vec::new();
    for (session, user) in found {
        let sql = "delete from sessions where id = $1 and ended_at < $2
                   and (state <> 'RESET' or signed_out_at < $2)";
        if tx.change(sql, args![session, before]).await? > 0 {
            sessions.push((user, session));
        }
    }
    let is_more = sessions.len().max(usize::try_from(tokens).unwrap_or(0)) == BATCH_ROWS;
    tx.record(Subject::none(), None, Change::SessionsForgotten { sessions, tokens });
    tx.commit().await?;
    Ok(is_more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::{self, Settings};
    use crate::cutoffs::revocations::Filter;
    use crate::store::Place;
    use crate::values::time::Clock;

    #[tokio::test]
    async fn a_revocation_that_the_sweep_could_not_see_is_not_finished_by_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::manual(Time::parse("2026-05-03T06:12:00Z").expect("a moment"));
        let db = Db::open(Place::Directory(dir.path().join("data")), clock.clone()).await;
        let db = db.expect("a store");
        let mut tx = db.write(By::System).await.expect("a change");
        let app = apps::create(&mut tx, ("shop", Settings::default()), false).await;
        let app = app.expect("an app");
        tx.commit().await.expect("it holds");
        let mut found = look(&db).await.expect("it looks");
        clock.pass(Span::seconds(1));
        let mut filter = Filter::default();
        filter.applies_to.everyone = true;
        let seen = revocations::look(&db, &app, filter, false).await.expect("it looks");
        let mut tx = db.write(By::System).await.expect("a change");
        revocations::set(&mut tx, app.id, seen, None).await.expect("it is stated");
        tx.commit().await.expect("it holds");
        // As if it had been stated while the sweep began.
        db.live().begin_sweep(&mut found.looked).expect("it begins");
        assert!(found.close(&db).await.expect("it closes"));
        let sql = "select count(*) from revocations";
        let mut read = db.read().await.expect("a view");
        assert_eq!(read.count(sql, args![]).await.expect("a number"), 1);
        assert!(look(&db).await.expect("it looks").close(&db).await.expect("it closes"));
        assert_eq!(read.count(sql, args![]).await.expect("a number"), 0, "all was seen");
    }
}
