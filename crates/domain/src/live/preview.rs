//! What a set of policies would do before it is stated: by the same rules and the same decision.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use super::forecast::{Crowd, Forecaster, Member, Room};
use super::policies::Rule;
use super::rules::Rules;
use super::scan::SLICE_ROWS;
use super::traits::Kind;
use super::view::{Session, User, View};
use super::{Forecast, Live, Preview, Seen};
use crate::access::{Era, Facts, Methods, decide};
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
    old: Set,
    new: Set,
}

/// A set of policies.
struct Set {
    rules: Rules,
    /// Whoever signs in uses these as well: it asks them of someone.
    methods: Methods,
    /// Whether it bounds how many sessions a user has.
    has_rooms: bool,
}

impl Set {
    fn new(rules: Vec<Rule>) -> Self {
        let hold = rules.iter().filter(|rule| !rule.is_replaced());
        let asked = hold.map(|rule| rule.era.limits.require_methods);
        let methods = asked.fold(Methods::NONE, Methods::and);
        let has_rooms = rules.iter().any(|rule| rule.era.limits.max_sessions.is_some());
        Self { rules: Rules::new(rules), methods, has_rooms }
    }
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
        let old = Set::new(view.app(app).ok_or_else(unknown)?.rules.all().to_vec());
        let new = Set::new(view.amended(app, policies, found, now)?);
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
            let before = scope.spawn(|| all.before.forecaster.run());
            let after = all.after.forecaster.run();
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
            looked.before.forecaster.settle();
            looked.after.forecaster.settle();
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
    before: Ahead,
    after: Ahead,
}

/// What one set asks of them from now on.
struct Ahead {
    forecaster: Forecaster,
    /// Kinds of sessions with the methods that a next sign-in adds.
    proved: HashMap<u16, Option<Kind>>,
}

impl Looked {
    fn new(now: Time) -> Self {
        Self {
            sessions: 0,
            ended_sessions: 0,
            users: HashSet::new(),
            ended_users: HashSet::new(),
            before: Ahead::new(now),
            after: Ahead::new(now),
        }
    }

    fn look_at(&mut self, view: &View, at: u32, asked: &Asked) {
        let session = &view.sessions[at as usize];
        if !view.is_of(at, asked.app) {
            return;
        }
        let user = &view.users[session.user as usize];
        let is_crowded = [&asked.old, &asked.new].map(|set| view.is_crowded(user, set, asked.now));
        if user.first_session == at {
            for (ahead, set, is_crowded) in [
                (&mut self.before, &asked.old, is_crowded[0]),
                (&mut self.after, &asked.new, is_crowded[1]),
            ] {
                if is_crowded {
                    ahead.add_crowd(view, user, (set, asked));
                }
            }
        }
        if session.ended().is_some() {
            return;
        }
        let is_valid = view.with_facts(session, user, &asked.old.rules, |facts| {
            let is_valid = decide(facts, asked.now).is_valid();
            if is_valid && !is_crowded[0] {
                self.before.add(facts, (view, session, user), &asked.old);
            }
            is_valid
        });
        if !is_valid {
            return;
        }
        self.sessions += 1;
        self.users.insert(user.id);
        view.with_facts(session, user, &asked.new.rules, |facts| {
            if !decide(facts, asked.now).is_valid() {
                self.ended_sessions += 1;
                self.ended_users.insert(user.id);
            }
            if !is_crowded[1] {
                self.after.add(facts, (view, session, user), &asked.new);
            }
        });
    }

    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.ended_sessions += other.ended_sessions;
        self.users.extend(other.users);
        self.ended_users.extend(other.ended_users);
        self.before.forecaster.merge(other.before.forecaster);
        self.after.forecaster.merge(other.after.forecaster);
    }
}

impl Ahead {
    fn new(now: Time) -> Self {
        Self { forecaster: Forecaster::new(now), proved: HashMap::new() }
    }

    fn add(&mut self, facts: &Facts<'_>, of: (&View, &Session, &User), set: &Set) {
        let proved = proved(&mut self.proved, of, set);
        self.forecaster.add(facts, more(proved, of, set));
    }

    fn add_crowd(&mut self, view: &View, user: &User, (set, asked): (&Set, &Asked)) {
        let mut members = Vec::new();
        for session in view.sessions_of_user(user).filter(|session| session.ended().is_none()) {
            let is_valid = view.with_facts(session, user, &asked.old.rules, |facts| {
                decide(facts, asked.now).is_valid()
            });
            if !is_valid {
                continue;
            }
            let of = (view, session, user);
            let proved = proved(&mut self.proved, of, set);
            members.push(view.with_facts(session, user, &set.rules, |facts| {
                Member::new(session.id, facts, more(proved, of, set), asked.now)
            }));
        }
        let rooms = view.rooms(user, &set.rules, asked.now).collect();
        self.forecaster.add_crowd(Crowd { members, rooms });
    }
}

/// What policies can ask of a session once it has signed in anew; none: what they can by now.
fn proved<'a>(
    known: &'a mut HashMap<u16, Option<Kind>>,
    (view, session, _): (&View, &Session, &User),
    set: &Set,
) -> Option<&'a Kind> {
    if set.methods.is_empty() {
        return None;
    }
    let new = || {
        let mut kind = view.kinds.kind(session.kind)?.clone();
        let is_more = !kind.traits.methods.contains(set.methods);
        kind.traits.methods = kind.traits.methods.and(set.methods);
        is_more.then_some(kind)
    };
    known.entry(session.kind).or_insert_with(new).as_ref()
}

/// The limits that are about a session only once it is proved like that. By more methods no policy
/// is about it no longer.
fn more<'a>(
    proved: Option<&'a Kind>,
    (view, session, user): (&'a View, &'a Session, &'a User),
    set: &'a Set,
) -> impl Iterator<Item = Era> + 'a {
    let by = move |rule: &Rule, kind| rule.since(user, Some(session), Some(kind));
    let rules = proved
        .into_iter()
        .flat_map(move |kind| set.rules.others(user).map(move |rule| (rule, kind)));
    rules.filter_map(move |(rule, kind)| {
        let from = by(rule, Some(kind))?;
        let is_new = by(rule, view.kinds.kind(session.kind)).is_none();
        is_new.then_some(Era { from, ..rule.era })
    })
}

impl View {
    /// Whether the user has more devices than some limit of the set has room for.
    fn is_crowded(&self, user: &User, set: &Set, now: Time) -> bool {
        if !set.has_rooms {
            return false;
        }
        let Some(max) = self.rooms(user, &set.rules, now).map(|room| room.max).min() else {
            return false;
        };
        let open = self.sessions_of_user(user).filter(|session| session.ended().is_none());
        open.count() > max
    }

    /// The limits on how many sessions the user has that hold now or later.
    fn rooms<'a>(
        &'a self,
        user: &'a User,
        rules: &'a Rules,
        now: Time,
    ) -> impl Iterator<Item = Room> + 'a {
        self.rooms_of(user, rules).filter_map(move |(_, (max, over), Era { from, until, .. })| {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            until.is_none_or(|until| now < until).then_some(Room { from, until, max, over })
        })
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
