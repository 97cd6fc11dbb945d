//! Until when sessions surely let someone in, and what each policy says of one.

use super::judge::{counted, known_of};
use super::view::{App, Session, User, View};
use super::{Bounded, KnownEnd, OwnVerdict};
use crate::access::{Ended, Era, Facts, decide, end, sure_end};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::Time;

impl View {
    /// The end of a session that nobody can put off, if it is valid now.
    pub(super) fn bound_of(&self, at: u32, now: Time) -> Option<Option<Ended>> {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let rules = &self.apps[user.app as usize].rules;
        self.with_facts(session, user, rules, |facts| {
            decide(facts, now).is_valid().then(|| sure_end(facts))
        })
    }

    /// The sessions of a user that are valid now, each with its bound.
    pub(super) fn bounds_of(&self, user: UserId, now: Time) -> Vec<(SessionId, Option<Ended>)> {
        let Some(user) = self.user(user) else { return Vec::new() };
        let mut list = Vec::new();
        let mut next = self.users[user as usize].first_session;
        while let Some(session) = self.sessions.get(next as usize) {
            if let Some(bound) = self.bound_of(next, now) {
                list.push((SessionId::from_uuid(session.id), bound));
            }
            next = session.next;
        }
        list.sort_unstable_by_key(|(id, _)| *id);
        list
    }

    /// The open revocations: each by its app and moment.
    pub(super) fn open_revocations(&self) -> Vec<(AppId, Time)> {
        let of_app = |app: &App| -> Vec<(AppId, Time)> {
            let cuts = app.rules.all().iter().filter(|rule| rule.policy().is_none());
            cuts.map(|rule| (app.id, rule.set_at)).collect()
        };
        self.apps.iter().flat_map(of_app).collect()
    }

    /// What each policy that holds says of a session by itself. For when it was last active, see
    /// `explain`.
    pub(super) fn own_verdicts(
        &self,
        at: u32,
        active_at: Option<Time>,
        now: Time,
    ) -> Vec<OwnVerdict> {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let rules = &self.apps[user.app as usize].rules;
        let active_at = session.active_at().or(active_at);
        let policies = rules.all().iter().filter(|rule| !rule.is_replaced());
        let mut list: Vec<OwnVerdict> = policies
            .filter_map(|rule| {
                let policy = rule.policy()?.name.clone();
                let kind = Some(self.kinds.kind(session.kind));
                let since = rule.since(user, Some(session), kind);
                let own = |from| {
                    let era = known_of(Era { from, ..rule.era }, active_at);
                    self.end_by((session, active_at), user, &policy, era)
                };
                let end = since.and_then(own);
                let is_over = end.as_ref().is_some_and(|end| end.ended.at <= now);
                Some(OwnVerdict { policy, is_about_it: since.is_some(), end, is_over })
            })
            .collect();
        list.sort_by(|one, other| one.policy.cmp(&other.policy));
        list
    }

    /// When one policy alone would end a session.
    fn end_by(
        &self,
        (session, active_at): (&Session, Option<Time>),
        user: &User,
        policy: &str,
        era: Era,
    ) -> Option<KnownEnd> {
        let rules = &self.apps[user.app as usize].rules;
        self.with_facts(session, user, rules, |facts| {
            let alone = Facts { ended: None, user_ended: None, cut_offs: &[], ..*facts };
            let active_at = active_at.unwrap_or(facts.active_at);
            let facts = &Facts { eras: &[era], active_at, ..alone };
            let ended = end(facts)?;
            let counted = counted(facts, ended.because, era.limits);
            Some(KnownEnd { ended, policy: Some(policy.to_owned()), counted })
        })
    }
}

impl Bounded {
    /// No credential yet.
    pub(crate) const fn nothing() -> Self {
        Self { ends_by: Some(Time::ZERO), credentials: 0 }
    }

    /// One credential more, with its end if it has one.
    pub(crate) fn add(&mut self, ends_at: Option<Time>) {
        self.ends_by = self.ends_by.zip(ends_at).map(|(one, other)| one.max(other));
        self.credentials += 1;
    }
}
