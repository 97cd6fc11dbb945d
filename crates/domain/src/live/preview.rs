//! What a set of policies would do before it is stated: by the same rules and the same decision.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::forecast::Forecaster;
use super::rules::Rules;
use super::scan::SLICE_ROWS;
use super::view::View;
use super::{Forecast, Live, Preview, Seen};
use crate::access::decide;
use crate::apps::policies::Policy;
use crate::apps::selectors::Found;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::Time;

/// More users are not named: their number is told.
const NAMED_MAX: usize = 100;
/// A preview takes no more of the machine than this.
const CORES_MAX: usize = 4;

/// Whose sessions are looked at, when, and by which versions of policies: the old, the new.
struct Asked {
    app: AppId,
    built: u64,
    now: Time,
    old: Rules,
    new: Rules,
}

impl Live {
    /// What a set of policies would do if it were stated now; `found` is who meets what it names
    /// for the first time. `seen` says meanwhile how far it is. A forecast that would take too long
    /// is left out.
    pub fn preview(
        &self,
        app: AppId,
        (policies, found): (&[Policy], &Found),
        now: Time,
        seen: &Seen,
    ) -> Result<Preview> {
        let view = self.known_in(app)?;
        let unknown = || Error::not_found(format!("app {app}"));
        let old = Rules::new(view.app(app).ok_or_else(unknown)?.rules.all().to_vec());
        let new = Rules::new(view.amended(app, policies, found, now)?);
        let asked = Asked { app, built: self.built(), now, old, new };
        seen.all.store(view.sessions.len(), Ordering::Relaxed);
        drop(view);
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(CORES_MAX);
        let next = AtomicUsize::new(0);
        let parts: Vec<Result<Looked>> = std::thread::scope(|scope| {
            let look = || self.look(&asked, &next, seen);
            // All begin before the first is waited for.
            let begun: Vec<_> = (0..cores).map(|_| scope.spawn(look)).collect();
            begun.into_iter().map(|part| part.join().expect("it does not panic")).collect()
        });
        let mut all = Looked::new(now);
        for part in parts {
            all.add(part?);
        }
        let mut who: Vec<UserId> = all.ended_users.iter().copied().map(UserId::from_uuid).collect();
        who.sort_unstable();
        who.truncate(NAMED_MAX);
        let (before, after) = std::thread::scope(|scope| {
            let before = scope.spawn(|| all.before.run());
            let after = all.after.run();
            (before.join().expect("it does not panic"), after)
        });
        let (after, unforeseen) = foreseen(after)?;
        Ok(Preview {
            sessions: all.sessions,
            users: all.users.len(),
            ended_sessions: all.ended_sessions,
            ended_users: all.ended_users.len(),
            who,
            // What holds now must not keep anyone from seeing what would be better.
            before: before.ok(),
            after,
            unforeseen,
        })
    }

    /// Looks at the next slice as long as there is one.
    fn look(&self, asked: &Asked, next: &AtomicUsize, seen: &Seen) -> Result<Looked> {
        let mut looked = Looked::new(asked.now);
        loop {
            let (from, mut rows) = (next.fetch_add(SLICE_ROWS, Ordering::Relaxed), 0);
            let is_more = self.slice(asked.app, asked.built, from, |view, at| {
                rows += 1;
                looked.look_at(view, at, asked);
            })?;
            seen.sessions.fetch_add(rows, Ordering::Relaxed);
            if !is_more {
                return Ok(looked);
            }
        }
    }
}

/// Whom a set ends at once is known all the same when what follows takes too long to foresee: then
/// it is said why.
fn foreseen(after: Result<Forecast>) -> Result<(Option<Forecast>, Option<String>)> {
    match after {
        Ok(after) => Ok((Some(after), None)),
        Err(Error::Invalid { why, .. }) => Ok((None, Some(why))),
        Err(error) => Err(error),
    }
}

/// What a preview has seen of some sessions.
struct Looked {
    sessions: usize,
    ended_sessions: usize,
    users: HashSet<Uuid>,
    ended_users: HashSet<Uuid>,
    before: Forecaster,
    after: Forecaster,
}

impl Looked {
    fn new(now: Time) -> Self {
        Self {
            sessions: 0,
            ended_sessions: 0,
            users: HashSet::new(),
            ended_users: HashSet::new(),
            before: Forecaster::new(now),
            after: Forecaster::new(now),
        }
    }

    fn look_at(&mut self, view: &View, at: u32, asked: &Asked) {
        let session = &view.sessions[at as usize];
        if session.ended().is_some() || !view.is_of(at, asked.app) {
            return;
        }
        let user = &view.users[session.user as usize];
        let is_valid = view.with_facts(session, user, &asked.old, |facts| {
            let is_valid = decide(facts, asked.now).is_valid();
            if is_valid {
                self.before.add(facts);
            }
            is_valid
        });
        if !is_valid {
            return;
        }
        self.sessions += 1;
        self.users.insert(user.id);
        view.with_facts(session, user, &asked.new, |facts| {
            if !decide(facts, asked.now).is_valid() {
                self.ended_sessions += 1;
                self.ended_users.insert(user.id);
            }
            self.after.add(facts);
        });
    }

    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.ended_sessions += other.ended_sessions;
        self.users.extend(other.users);
        self.ended_users.extend(other.ended_users);
        self.before.merge(other.before);
        self.after.merge(other.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_to_foresee_is_left_out_and_told_why() {
        let after = foreseen(Ok(Forecast::default())).expect("it is foreseen");
        assert_eq!(after, (Some(Forecast::default()), None));
        let after = foreseen(Err(Error::invalid("policies", "too often"))).expect("it is told");
        assert_eq!(after, (None, Some("too often".to_owned())));
        assert!(foreseen(Err(Error::Internal("no".to_owned()))).is_err());
    }
}
