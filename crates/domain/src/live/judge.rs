//! The facts of a credential, gathered for the decision. What is not asked is not looked up: most
//! apps have few policies, and a check is asked before every request.

use smallvec::SmallVec;

use super::policies::Rule;
use super::rules::Rules;
use super::traits::Kind;
use super::view::{Session, User, View, position};
use super::{Checked, Due, Explained, KnownEnd, Looked, Room, SignIn};
use crate::access::{
    Because, CutOffKind, Ended, Era, Facts, Limits, Methods, Newer, Traits, Verdict, decide,
    each_end, end, sure_end,
};
use crate::apps::policies::{OverMax, Policy};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::{Span, Time};

/// So many limits are about the sessions of most users.
type Eras = SmallVec<[Era; 6]>;

/// The order of limits on how many sessions a user has, the strictest first.
pub(super) fn strictness<N: Ord>(max: N, over: OverMax) -> (N, bool) {
    (max, over == OverMax::EndOldest)
}

impl Session {
    /// Its place among all sessions: the last bits of its id are random.
    fn phase(&self) -> u16 {
        let [.., high, low] = *self.id.as_bytes();
        u16::from_be_bytes([high, low])
    }
}

impl View {
    /// The decision on one session.
    pub(super) fn judge(&self, at: u32, now: Time) -> Checked {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let app = &self.apps[user.app as usize];
        let warn_before = app.warn_before;
        let (verdict, warn_at) = self.with_facts_to_judge(session, user, &app.rules, |facts| {
            let verdict = decide(facts, now);
            let sure = warn_before.filter(|_| verdict.is_valid()).zip(sure_end(facts));
            (verdict, sure.map(|(before, end)| end.at - before))
        });
        Checked {
            app: app.id,
            user: UserId::from_uuid(user.id),
            session: SessionId::from_uuid(session.id),
            authenticated_at: session.authenticated_at,
            verdict,
            warn_at,
        }
    }

    /// Hands on the facts of a session, by these versions of the app's policies.
    pub(super) fn with_facts<T>(
        &self,
        session: &Session,
        user: &User,
        rules: &Rules,
        tell: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        self.gathered((session, user), rules, true, tell)
    }

    /// As `with_facts`, as far as the decision asks: an end that is written stays, however many
    /// other sessions there are.
    fn with_facts_to_judge<T>(
        &self,
        session: &Session,
        user: &User,
        rules: &Rules,
        tell: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        self.gathered((session, user), rules, session.ended().is_none(), tell)
    }

    fn gathered<T>(
        &self,
        (session, user): (&Session, &User),
        rules: &Rules,
        has_newer: bool,
        tell: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        let cut_offs = self.cut_offs(user);
        let eras = self.eras_of(user, Some(session), rules);
        let place = |session: &Session| (session.authenticated_at, session.id);
        let later = |other: &&Session| place(other) > place(session);
        let newer = if has_newer { self.newer(user, rules, &eras, later) } else { Vec::new() };
        let facts = self.facts(session, user);
        tell(&Facts { cut_offs: &cut_offs, eras: &eras, newer: &newer, ..facts })
    }

    fn facts(&self, session: &Session, user: &User) -> Facts<'static> {
        Facts {
            active_at: session.last_at(),
            ended: session.ended(),
            user_ended: user.ended,
            methods: self.kinds.kind(session.kind).map_or(Methods::NONE, |it| it.traits.methods),
            phase: session.phase(),
            ..Facts::made_at(session.authenticated_at)
        }
    }

    /// The user's sessions that were authenticated later, if a limit counts them. That they may be
    /// too many themselves need not be known: then there are as many that are newer still.
    fn newer(
        &self,
        user: &User,
        rules: &Rules,
        eras: &[Era],
        are_later: impl Fn(&&Session) -> bool,
    ) -> Vec<Newer> {
        if eras.iter().all(|era| era.limits.max_sessions.is_none()) {
            return Vec::new();
        }
        let cut_offs = self.cut_offs(user);
        let newer = |other: &Session| {
            let eras = self.eras_of(user, Some(other), rules);
            let facts = self.facts(other, user);
            let ended = end(&Facts { cut_offs: &cut_offs, eras: &eras, ..facts });
            Newer {
                authenticated_at: other.authenticated_at,
                ended_at: ended.map(|ended| ended.at),
            }
        };
        self.sessions_of_user(user).filter(are_later).map(newer).collect()
    }

    /// The limits of the app's settings, those of its policies that are about the session (without
    /// one: about all sessions of the user), and the user's own date.
    fn rules_of<'a>(
        &'a self,
        user: &'a User,
        session: Option<&'a Session>,
        rules: &'a Rules,
    ) -> impl Iterator<Item = (Option<&'a Policy>, Era)> {
        let app = &self.apps[user.app as usize];
        let kind = session.map(|session| self.kinds.kind(session.kind));
        let others = rules.others(user).filter_map(move |rule| {
            let from = rule.since(user, session, kind)?;
            Some((rule.policy(), Era { from, ..rule.era }))
        });
        let plain = rules.plain(user).map(|(policy, era)| (Some(policy), era));
        let settings = app.eras.iter().map(|era| (None, *era));
        settings.chain(plain).chain(others).chain(self.date_of(user))
    }

    /// The date on which the user's access ends, from the moment on at which that was said.
    fn date_of(&self, user: &User) -> Option<(Option<&'static Policy>, Era)> {
        if self.dates.is_empty() {
            return None;
        }
        let (from, not_after) = *self.dates.get(&self.user(UserId::from_uuid(user.id))?)?;
        let limits = Limits { not_after: Some(not_after), ..Limits::default() };
        Some((None, Era { from, until: None, limits }))
    }

    /// As `rules_of`: of few, as most users have, without asking for memory.
    fn eras_of(&self, user: &User, session: Option<&Session>, rules: &Rules) -> Eras {
        self.rules_of(user, session, rules).map(|(_, era)| era).collect()
    }

    /// Every end that is known of a session, the earliest first, each with the policy that asks for
    /// it; and the longest age that is asked of it now. Of a session whose end is written, only the
    /// caller may know when it was last active: without that, no end by that is told.
    pub(super) fn explain(&self, at: u32, active_at: Option<Time>, now: Time) -> Explained {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let rules = &self.apps[user.app as usize].rules;
        let named: Vec<(Option<&Policy>, Era)> =
            self.rules_of(user, Some(session), rules).collect();
        let mut ends: Vec<KnownEnd> = Vec::new();
        let policy = self.ends.policy(at).map(str::to_owned);
        let active_at = session.active_at().or(active_at);
        let active_at = active_at.or_else(|| idle_since(session, policy.as_deref(), &named));
        self.with_facts(session, user, rules, |facts| {
            let eras: Eras = facts.eras.iter().map(|era| known_of(*era, active_at)).collect();
            let active_at = active_at.unwrap_or(facts.active_at);
            let facts = &Facts { active_at, eras: &eras, ..*facts };
            ends.extend(facts.ended.map(|ended| KnownEnd { ended, policy, counted: None }));
            each_end(facts, |ended, place| {
                let (policy, era) = match place {
                    Some(place) => (named[place].0, Some(named[place].1)),
                    None => (None, None),
                };
                let policy = policy.map(|policy| policy.name.clone());
                let counted = era.and_then(|era| counted(facts, ended.because, era.limits));
                let end = KnownEnd { ended, policy, counted };
                match ends.first_mut().filter(|_| facts.ended == Some(ended)) {
                    // The limit by which it was written that it ended.
                    Some(written) if written.policy == end.policy => *written = end,
                    _ => ends.push(end),
                }
            });
        });
        let first = usize::from(session.ended().is_some());
        let order = |end: &KnownEnd| (end.ended.at, end.ended.because, end.policy.is_none());
        ends[first..].sort_by_key(order);
        // A wipe is told even if the session had ended before: see `decide`.
        let wiped = ends.iter().position(|end| end.ended.because == Because::Wiped);
        if let Some(place) = wiped
            && ends[0].ended.because != Because::UserDeleted
        {
            ends[..=place].rotate_right(1);
        }
        let hold = named.iter().filter(|(_, era)| era.holds(now));
        let max_age = hold.filter_map(|(_, era)| era.limits.age(session.phase())).min();
        Explained { ends, max_age }
    }

    /// The policy that asks for this end of a session.
    pub(super) fn policy_of(&self, at: u32, ended: Ended, now: Time) -> Option<String> {
        let ends = self.explain(at, None, now).ends.into_iter();
        ends.filter(|end| end.ended == ended).find_map(|end| end.policy)
    }

    /// The decision on a user who would prove who they are now, by what is about all of their
    /// sessions.
    pub(super) fn may_sign_in(&self, user: UserId, now: Time) -> Option<Verdict> {
        let user = &self.users[self.user(user)? as usize];
        let mut eras = self.eras_of_sign_in(user, None);
        // By which methods they will prove themselves is not known yet.
        for era in &mut eras {
            era.limits.require_methods = Methods::NONE;
        }
        let (cut_offs, user_ended) = (self.cut_offs(user), user.ended);
        let made = Facts::made_at(now);
        Some(decide(&Facts { user_ended, cut_offs: &cut_offs, eras: &eras, ..made }, now))
    }

    /// The decision on a session that would begin now. Whoever proved who they are later has the
    /// place before it, as once it has begun.
    pub(super) fn judge_sign_in(&self, begun: &SignIn<'_>, now: Time) -> Option<Verdict> {
        let kind = self.kind_of(begun.user, begun.traits, begun.labels)?;
        let user = &self.users[self.user(begun.user)? as usize];
        let (eras, cut_offs) = (self.eras_of_sign_in(user, Some(&kind)), self.cut_offs(user));
        let rules = &self.apps[user.app as usize].rules;
        let own = begun.known.map(SessionId::uuid);
        let later = |other: &&Session| {
            other.authenticated_at > begun.authenticated_at && Some(other.id) != own
        };
        let facts = Facts {
            active_at: now,
            user_ended: user.ended,
            methods: begun.traits.methods,
            cut_offs: &cut_offs,
            eras: &eras,
            newer: &self.newer(user, rules, &eras, later),
            ..Facts::made_at(begun.authenticated_at)
        };
        Some(decide(&facts, now))
    }

    /// The limits of a session of this kind that the user would begin; without a kind, those that
    /// are about all sessions of the user.
    fn eras_of_sign_in(&self, user: &User, kind: Option<&Kind>) -> Vec<Era> {
        let rules = &self.apps[user.app as usize].rules;
        let mut eras: Vec<Era> = self.rules_of(user, None, rules).map(|(_, era)| era).collect();
        if let Some(kind) = kind {
            let is_asked = |rule: &&Rule| rule.is_about_sessions() && !rule.names_sessions();
            let asked = rules.others(user).filter(is_asked);
            eras.extend(asked.filter_map(|rule| {
                let from = rule.since_of(user, Some(Some(kind)))?;
                Some(Era { from, ..rule.era })
            }));
        }
        eras
    }

    /// The end that nobody can put off of a session with these traits of a user who proved who they
    /// are at a moment. On which device is not known: of all that it could be, the last.
    pub(super) fn bound_of_sign_in(
        &self,
        user: UserId,
        traits: &Traits,
        at: Time,
    ) -> Option<Option<Ended>> {
        let user = &self.users[self.user(user)? as usize];
        let kind = Kind { traits: traits.clone(), labels: Vec::new() };
        let (eras, cut_offs) = (self.eras_of_sign_in(user, Some(&kind)), self.cut_offs(user));
        let (user_ended, methods) = (user.ended, traits.methods);
        let made = Facts::made_at(at);
        Some(sure_end(&Facts { user_ended, methods, cut_offs: &cut_offs, eras: &eras, ..made }))
    }

    /// The strictest limit on how many sessions the user has, if there is one now.
    pub(super) fn room(&self, user: UserId, now: Time) -> Option<Room> {
        let user = &self.users[self.user(user)? as usize];
        let rules = &self.apps[user.app as usize].rules;
        let rooms = self.rooms_of(user, rules).filter(|(.., era)| era.holds(now));
        let strictest = rooms.min_by_key(|(_, (max, over), _)| strictness(*max, *over));
        strictest.map(|(policy, (max, over), _)| Room { max, over, policy: policy.name.clone() })
    }

    /// Every limit on how many sessions the user has, with the policy that asks for it and the time
    /// in which it holds.
    pub(super) fn rooms_of<'a>(
        &'a self,
        user: &'a User,
        rules: &'a Rules,
    ) -> impl Iterator<Item = (&'a Policy, (u32, OverMax), Era)> {
        self.rules_of(user, None, rules).filter_map(|(policy, era)| {
            let (policy, max) = (policy?, era.limits.max_sessions?);
            let over = policy.limits.over_max.unwrap_or_default();
            Some((policy, (max, over), era))
        })
    }

    /// The decision on an authentication token of this user.
    pub(super) fn judge_enrolment(
        &self,
        user: UserId,
        (created_at, expires_at): (Time, Time),
        ended: Option<Ended>,
        now: Time,
    ) -> Option<Verdict> {
        let user = &self.users[self.user(user)? as usize];
        let (made, cut_offs) = (Facts::made_at(created_at), self.cut_offs(user));
        let (expires_at, user_ended) = (Some(expires_at), user.ended);
        let facts = Facts { ended, expires_at, user_ended, cut_offs: &cut_offs, ..made };
        Some(decide(&facts, now))
    }

    fn cut_offs(&self, user: &User) -> [(CutOffKind, Time); 5] {
        let app = &self.apps[user.app as usize];
        let groups = user.groups.iter();
        let group = groups.map(|place| self.groups[place.group as usize].not_before).max();
        [
            (CutOffKind::Everyone, self.everyone_not_before),
            (CutOffKind::App, app.not_before),
            (CutOffKind::Group, group.unwrap_or(Time::ZERO)),
            (CutOffKind::User, user.not_before),
            (CutOffKind::Restore, self.fence_at),
        ]
    }

    /// What the sweep must write of a session: its end, or a warning of it. Without a bound it is
    /// told as `endless`.
    fn due_of(
        &self,
        at: u32,
        now: Time,
        endless: impl FnOnce((AppId, UserId)),
    ) -> Option<(Due, bool)> {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let app = &self.apps[user.app as usize];
        // By activity nobody puts off what it is warned of.
        let (verdict, sure) = self.with_facts(session, user, &app.rules, |facts| {
            let verdict = decide(facts, now);
            (verdict, verdict.is_valid().then(|| sure_end(facts)))
        });
        if sure == Some(None) {
            endless((app.id, UserId::from_uuid(user.id)));
        }
        let (ended, is_over) = match verdict {
            Verdict::Ended(ended) => (ended, true),
            Verdict::Valid { .. } => (sure.flatten()?, false),
        };
        if session.ended() == Some(ended) {
            return None;
        }
        // An end that has moved since is told again.
        let is_soon = self.warned.get(&at) != Some(&ended.at)
            && app.warn_before.is_some_and(|warn_before| ended.at <= now + warn_before);
        let due = || Due {
            app: app.id,
            user: UserId::from_uuid(user.id),
            session: SessionId::from_uuid(session.id),
            ended,
            policy: None,
        };
        (is_over || is_soon).then(|| (due(), is_over))
    }

    /// Looks at up to `rows_max` sessions from a position on for what is due; answers the next
    /// position, if there is one.
    pub(super) fn due(
        &self,
        from: usize,
        rows_max: usize,
        now: Time,
        looked: &mut Looked,
    ) -> Option<usize> {
        let until = from.saturating_add(rows_max);
        for at in from..until {
            let Some(session) = self.sessions.get(at) else { continue };
            let app = &self.apps[self.users[session.user as usize].app as usize];
            if app.unreadable.is_some() {
                looked.skipped.insert(app.id);
                continue;
            }
            let mut endless = None;
            let due = self.due_of(position(at), now, |user| endless = Some(user));
            looked.endless.extend(endless);
            match due {
                Some((due, true)) => looked.ended.push(due),
                Some((due, false)) => looked.ending_soon.push(due),
                None => {}
            }
        }
        (until < self.sessions.capacity()).then_some(until)
    }

    /// What is due of a session now, with the policy that asks for it; none when that is not the
    /// end (or not the warning) that it was, or nothing any more.
    pub(super) fn due_still(&self, due: &Due, is_end: bool, now: Time) -> Option<Due> {
        let at = self.session_of(due.user, due.session)?;
        let (found, is_over) = self.due_of(at, now, |_| {})?;
        let policy = self.policy_of(at, found.ended, now);
        (is_over == is_end).then_some(Due { policy, ..found })
    }

    /// The positions of all sessions, for those who look at each.
    pub(super) fn positions(&self) -> impl Iterator<Item = u32> {
        self.sessions.iter().map(|(at, _)| position(at))
    }
}

/// Since when a session was idle that was written to have ended by that: the limit that held then
/// says it.
fn idle_since(
    session: &Session,
    policy: Option<&str>,
    named: &[(Option<&Policy>, Era)],
) -> Option<Time> {
    let ended = session.ended().filter(|ended| ended.because == Because::Idle)?;
    // At the beginning of a limit, whoever had been idle for longer ended by it, too.
    let held = |era: &Era| era.from < ended.at && era.until.is_none_or(|until| ended.at < until);
    let by_it = named.iter().filter(|(of, era)| {
        of.map(|of| of.name.as_str()) == policy && era.limits.max_idle.is_some() && held(era)
    });
    let max_idle = by_it.filter_map(|(_, era)| era.limits.max_idle).min()?;
    Some(ended.at - max_idle).filter(|since| *since >= session.authenticated_at)
}

/// A limit without what cannot be told of a session of which it is not known when it was active.
pub(super) fn known_of(mut era: Era, active_at: Option<Time>) -> Era {
    era.limits.max_idle = era.limits.max_idle.filter(|_| active_at.is_some());
    era
}

/// How long a limit is, and since when that is counted.
pub(super) fn counted(facts: &Facts<'_>, because: Because, limits: Limits) -> Option<(Span, Time)> {
    match because {
        Because::TooOld => limits.age(facts.phase).map(|age| (age, facts.authenticated_at)),
        Because::Idle => limits.max_idle.map(|idle| (idle, facts.active_at)),
        _ => None,
    }
}
