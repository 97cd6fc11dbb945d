//! What looks at every session of an app. It does so slice by slice, each under a lock of its own:
//! a change waits for one slice at most, and so does a check that comes after the change. What
//! changes meanwhile is seen as it was before or as it is after.

use std::collections::{HashMap, HashSet};

use super::view::{View, position};
use super::{Bounded, Live};
use crate::access::Traits;
use crate::cutoffs::revocations::{Filter, Met};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

/// Judging so many, twice each, takes some ten milliseconds.
pub(super) const SLICE_ROWS: usize = 5_000;

impl Live {
    /// The sessions that a revocation would end now, each with its user.
    pub fn met_by(
        &self,
        app: AppId,
        (filter, met): (&Filter, &Met),
        wipes: bool,
        now: Time,
    ) -> Result<Vec<(UserId, SessionId)>> {
        let (rule, built) = (self.known_in(app)?.cut(app, filter, met, wipes, now), self.built());
        let mut found = Vec::new();
        self.scan(app, built, |view, at| {
            if view.is_met(at, &rule, now) {
                found.push(view.ids(at));
            }
        })?;
        Ok(found)
    }

    /// As `met_by`, of some users, each once however often they are named.
    pub(crate) fn met_of(
        &self,
        app: AppId,
        users: &[UserId],
        (filter, met): (&Filter, &Met),
        wipes: bool,
        now: Time,
    ) -> Result<Vec<(UserId, SessionId)>> {
        let view = self.known_in(app)?;
        let rule = view.cut(app, filter, met, wipes, now);
        let users: HashSet<UserId> = users.iter().copied().collect();
        let mut found = Vec::new();
        for user in users {
            let known = view.user(user).map(|at| &view.users[at as usize]);
            let of_app = known.filter(|known| view.apps[known.app as usize].id == app);
            for session in of_app.into_iter().flat_map(|user| view.sessions_of_user(user)) {
                let at = view.session_of(user, SessionId::from_uuid(session.id));
                found.extend(at.filter(|at| view.is_met(*at, &rule, now)).map(|at| view.ids(at)));
            }
        }
        Ok(found)
    }

    /// Which of these unused authentication tokens could begin a session that a revocation would
    /// end. On which platform is not known. If it names sessions: that of one who has such a
    /// session, also one that has ended, since it may begin again.
    pub(crate) fn meant_tokens(
        &self,
        app: AppId,
        (filter, met): (&Filter, &Met),
        wipes: bool,
        now: Time,
        tokens: Vec<(UserId, Traits, SecretHash)>,
    ) -> Result<Vec<SecretHash>> {
        let view = self.known_in(app)?;
        let rule = view.cut(app, filter, met, wipes, now);
        let is_meant = |(user, traits, _): &(UserId, Traits, SecretHash)| {
            let Some(user) = view.user(*user).map(|at| &view.users[at as usize]) else {
                return false;
            };
            let mut own = view.sessions_of_user(user);
            rule.since_of(user, None).is_some()
                && rule.may_begin_with(traits)
                && met.sessions.as_ref().is_none_or(|named| {
                    own.any(|session| named.contains(&SessionId::from_uuid(session.id)))
                })
        };
        let meant = tokens.into_iter().filter(is_meant);
        Ok(meant.map(|(.., hash)| hash).collect())
    }

    /// The sessions of an app that are valid now, each with its user.
    pub fn valid_sessions(&self, app: AppId, now: Time) -> Result<Vec<(UserId, SessionId)>> {
        let mut found = Vec::new();
        self.scan(app, self.built(), |view, at| {
            if view.judge(at, now).verdict.is_valid() {
                found.push(view.ids(at));
            }
        })?;
        Ok(found)
    }

    /// The users of an app who have a session that is valid now, each with the latest bound.
    pub(crate) fn bounds(&self, app: AppId, now: Time) -> Result<HashMap<UserId, Bounded>> {
        let mut users: HashMap<UserId, Bounded> = HashMap::new();
        self.scan(app, self.built(), |view, at| {
            let Some(bound) = view.bound_of(at, now) else { return };
            let bounded = users.entry(view.ids(at).0).or_insert_with(Bounded::nothing);
            bounded.add(bound.map(|ended| ended.at));
        })?;
        Ok(users)
    }

    /// Looks at every session of an app.
    fn scan(&self, app: AppId, built: u64, mut look: impl FnMut(&View, u32)) -> Result<()> {
        let mut from = 0;
        while self.slice(app, built, from, |view, at| {
            if view.is_of(at, app) {
                look(view, at);
            }
        })? {
            from += SLICE_ROWS;
        }
        Ok(())
    }

    /// Looks at the sessions of all apps at some positions; answers whether there may be more.
    /// Positions, and those that rules hold, are of one building of the view.
    pub(super) fn slice(
        &self,
        app: AppId,
        built: u64,
        from: usize,
        mut look: impl FnMut(&View, u32),
    ) -> Result<bool> {
        let view = self.known_in(app)?;
        if self.built() != built {
            let why = "the view was built anew meanwhile: look again";
            return Err(Error::Unavailable(why.into()));
        }
        let until = from.saturating_add(SLICE_ROWS);
        let there = (from..until).filter(|at| view.sessions.contains(*at));
        there.for_each(|at| look(&view, position(at)));
        Ok(until < view.sessions.capacity())
    }
}

impl View {
    pub(super) fn is_of(&self, at: u32, app: AppId) -> bool {
        let user = &self.users[self.sessions[at as usize].user as usize];
        self.apps[user.app as usize].id == app
    }

    /// The ids of a session and its user.
    fn ids(&self, at: u32) -> (UserId, SessionId) {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        (UserId::from_uuid(user.id), SessionId::from_uuid(session.id))
    }
}
