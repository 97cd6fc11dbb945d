//! Policies and revocations in the view: their versions over time, and whom they are about.

use std::collections::HashSet;
use std::sync::Arc;

use super::traits::{Asked, Kind};
use super::view::{Group, Session, User, View};
use crate::access::{Cut, Era, Limits, Traits};
use crate::apps::policies::{Policy, PolicyLimits};
use crate::apps::selectors::Found;
use crate::cutoffs::revocations::{Filter, Met};
use crate::groups;
use crate::sessions::State;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::Time;

/// A group that nobody was ever in.
const NOBODY: u32 = u32::MAX;

/// One version of a policy, with what its selector names found.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) policy: Policy,
    /// When it was stated.
    pub(super) set_at: Time,
    /// When another set took its place.
    pub(super) replaced_at: Option<Time>,
    pub(super) era: Era,
    /// Users are in one of these.
    pub(super) groups: Option<Box<[u32]>>,
    /// Users are in all of these.
    all_groups: Box<[u32]>,
    users: Option<Arc<HashSet<UserId>>>,
    asked: Option<Asked>,
    /// Of a revocation: the sessions that meet what only the tables know. In a preview: those whose
    /// labels fit patterns that nobody has named before.
    sessions: Option<Arc<HashSet<SessionId>>>,
}

impl Rule {
    fn replace(&mut self, now: Time) {
        self.replaced_at = Some(now);
        self.era.until = Some(self.era.until.map_or(now, |until| until.min(now)));
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced_at.is_some()
    }

    /// Whether its limits are all that it asks, besides one group at most: then they hold for every
    /// session of whoever is in it.
    pub(super) fn is_plain(&self) -> bool {
        self.policy().is_some()
            && self.groups.as_ref().is_none_or(|groups| groups.len() == 1)
            && self.all_groups.is_empty()
            && self.users.is_none()
            && !self.is_about_sessions()
    }

    /// Users are in one of these; none: it names no group.
    pub(super) fn named_groups(&self) -> Option<&[u32]> {
        self.groups.as_deref()
    }

    pub(super) fn names_group(&self, group: u32) -> bool {
        self.groups.as_ref().is_some_and(|groups| groups.contains(&group))
    }

    /// The policy; none for a revocation.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.era.limits.cut.is_none().then_some(&self.policy)
    }

    /// Whether it tells the sessions of a user apart.
    pub(super) fn is_about_sessions(&self) -> bool {
        self.asked.is_some() || self.sessions.is_some()
    }

    /// Whether its sessions are named one by one: one that is yet to begin is none of them.
    pub(super) fn names_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    /// Since when it is about the session; without one, about all sessions of the user. A kind of
    /// which nothing is known is met by everything: the strictest decides.
    pub(super) fn since(
        &self,
        user: &User,
        session: Option<&Session>,
        kind: Option<Option<&Kind>>,
    ) -> Option<Time> {
        if let (Some(of), Some(session)) = (&self.sessions, session) {
            of.contains(&SessionId::from_uuid(session.id)).then_some(())?;
        }
        if session.is_none() && self.is_about_sessions() {
            return None;
        }
        self.since_of(user, kind)
    }

    /// Since when it is about sessions of this kind.
    pub(super) fn since_of(&self, user: &User, kind: Option<Option<&Kind>>) -> Option<Time> {
        if let Some(users) = &self.users {
            users.contains(&UserId::from_uuid(user.id)).then_some(())?;
        }
        let mut from = self.era.from;
        if let Some(groups) = &self.groups {
            let mine = user.groups.iter().filter(|place| groups.contains(&place.group));
            from = from.max(mine.map(|place| place.since).min()?);
        }
        for group in &self.all_groups {
            let mine = user.groups.iter().find(|place| place.group == *group)?;
            from = from.max(mine.since);
        }
        if let (Some(asked), Some(Some(kind))) = (&self.asked, kind) {
            asked.is_met_by(kind).then_some(())?;
        }
        if self.policy().is_none() && from > self.era.from {
            // A revocation is about those who were in the group then. It is dropped when their ends
            // are written: whoever it began to be about later would be revived by that.
            return None;
        }
        Some(from)
    }
}

impl View {
    /// Makes known what policies name, before anyone meets it.
    pub(super) fn name(&mut self, app: AppId, policy: &Policy) -> Result<()> {
        let unknown = || Error::Internal(format!("a policy of an unknown app {app}"));
        let selector = &policy.applies_to;
        let groups = selector.groups.iter().flatten().cloned();
        for name in groups.chain(selector.attribute_groups()) {
            self.group(app, &name).ok_or_else(unknown)?;
        }
        for pattern in selector.labels.iter().flatten() {
            self.kinds.name_pattern(app, pattern);
        }
        Ok(())
    }

    /// Notes who meets what is named for the first time.
    pub(super) fn meet(&mut self, app: AppId, found: &Found, now: Time) -> Option<()> {
        for (name, members) in &found.groups {
            let group = self.group(app, name)?;
            members.iter().try_for_each(|user| self.join(*user, group, now))?;
        }
        for (user, session, pattern) in &found.labels {
            let (at, pattern) =
                (self.session_of(*user, *session)?, self.kinds.pattern(app, pattern)?);
            let number = self.sessions[at as usize].kind;
            self.session_mut(at).kind = self.kinds.labelled(number, pattern);
        }
        Some(())
    }

    /// The kind of a session of a user with these traits and a label that fits these patterns.
    pub(super) fn kind_of(&self, user: UserId, traits: &Traits, labels: &[String]) -> Option<Kind> {
        let app = self.apps[self.users[self.user(user)? as usize].app as usize].id;
        let mut labels: Vec<u32> =
            labels.iter().filter_map(|pattern| self.kinds.pattern(app, pattern)).collect();
        labels.sort_unstable();
        Some(Kind { traits: traits.clone(), labels })
    }

    /// The app's groups that keep themselves.
    pub(super) fn kept_groups(&self, app: AppId) -> Vec<String> {
        let of_app = |group: &&Group| self.apps[group.app as usize].id == app;
        let names = self.groups.iter().filter(of_app).map(|group| &group.name);
        names.filter(|name| name.starts_with(groups::KEPT)).cloned().collect()
    }

    /// A version of a policy that was stated at a moment and replaced at another.
    pub(super) fn rule(
        &self,
        app: AppId,
        policy: Policy,
        (set_at, replaced_at): (Time, Option<Time>),
        found: &Found,
    ) -> Result<Rule> {
        let limits = policy.check()?;
        let (valid_from, valid_until) = policy.validity()?;
        let until = [replaced_at, valid_until].into_iter().flatten().min();
        let era = Era { from: set_at.max(valid_from), until, limits };
        Ok(Rule { set_at, replaced_at, ..self.selected(app, policy, era, found) })
    }

    /// A revocation by a filter, as a rule like any other.
    pub(super) fn cut(
        &self,
        app: AppId,
        filter: &Filter,
        met: &Met,
        wipes: bool,
        at: Time,
    ) -> Rule {
        let authenticated_by = filter.authenticated_before.map_or(at, |before| before.min(at));
        let limits = Limits { cut: Some(Cut { authenticated_by, wipes }), ..Limits::default() };
        let era = Era { from: at, until: None, limits };
        let mut applies_to = filter.applies_to.clone();
        (applies_to.attributes, applies_to.labels) = (None, None);
        let policy = Policy {
            name: String::new(),
            applies_to,
            limits: PolicyLimits::default(),
            valid_from: None,
            valid_until: None,
        };
        let mut rule = self.selected(app, policy, era, &Found::default());
        if let Some(met) = &met.users {
            let met: HashSet<UserId> = met.iter().copied().collect();
            rule.users = Some(Arc::new(match rule.users {
                Some(users) => users.intersection(&met).copied().collect(),
                None => met,
            }));
        }
        rule.sessions.clone_from(&met.sessions);
        rule
    }

    /// Whether a revocation would end a session.
    pub(super) fn is_met(&self, at: u32, rule: &Rule, now: Time) -> bool {
        let session = &self.sessions[at as usize];
        let is_open = if rule.era.limits.cut.is_some_and(|cut| cut.wipes) {
            session.ended().is_none_or(|ended| State::after(ended.because) != State::Reset)
        } else {
            self.judge(at, now).verdict.is_valid()
        };
        is_open && self.is_cut(session, &self.users[session.user as usize], rule)
    }

    /// Whether a revocation is about the session as it was authenticated last.
    pub(super) fn is_cut(&self, session: &Session, user: &User, rule: &Rule) -> bool {
        let Some(cut) = rule.era.limits.cut else { return false };
        let kind = Some(self.kinds.kind(session.kind));
        session.authenticated_at <= cut.authenticated_by
            && rule.since(user, Some(session), kind).is_some()
    }

    fn selected(&self, app: AppId, policy: Policy, era: Era, found: &Found) -> Rule {
        let selector = &policy.applies_to;
        let find = |name: &String| self.find_group(app, name).unwrap_or(NOBODY);
        let groups = selector.groups.as_ref().map(|names| names.iter().map(find).collect());
        let mut users: Option<HashSet<UserId>> =
            selector.users.as_ref().map(|users| users.iter().copied().collect());
        let mut all_groups = Vec::new();
        for name in selector.attribute_groups() {
            match found.groups.iter().find(|(group, _)| *group == name) {
                Some((_, members)) if self.find_group(app, &name).is_none() => {
                    let met: HashSet<UserId> = members.iter().copied().collect();
                    users = Some(match users {
                        Some(users) => users.intersection(&met).copied().collect(),
                        None => met,
                    });
                }
                _ => all_groups.push(find(&name)),
            }
        }
        let pattern = |text: &str| self.kinds.pattern(app, text);
        let named = selector.labels.iter().flatten();
        let new: HashSet<&String> = named.filter(|text| pattern(text).is_none()).collect();
        let sessions = (!new.is_empty()).then(|| {
            let is_named = |text| selector.labels.iter().flatten().any(|it| it == text);
            let fits = found.labels.iter().filter(|(.., text)| is_named(text));
            Arc::new(fits.map(|(_, session, _)| *session).collect())
        });
        let mut asked = Asked::of(&policy, pattern);
        if sessions.is_some() {
            asked = asked.map(Asked::without_labels);
        }
        let (all_groups, users) = (all_groups.into(), users.map(Arc::new));
        let (set_at, replaced_at) = (era.from, None);
        Rule { policy, set_at, replaced_at, era, groups, all_groups, users, asked, sessions }
    }

    /// The versions of an app's policies, once the whole set has been stated anew at a moment.
    pub(super) fn amended(
        &self,
        app: AppId,
        policies: &[Policy],
        found: &Found,
        now: Time,
    ) -> Result<Vec<Rule>> {
        let unknown = || Error::not_found(format!("app {app}"));
        let mut rules = self.app(app).ok_or_else(unknown)?.rules.all().to_vec();
        let mut new: Vec<&Policy> = policies.iter().collect();
        let holds = |rule: &&mut Rule| rule.replaced_at.is_none() && rule.policy().is_some();
        for rule in rules.iter_mut().filter(holds) {
            match new.iter().position(|policy| **policy == rule.policy) {
                Some(same) => drop(new.swap_remove(same)),
                None => rule.replace(now),
            }
        }
        for policy in new {
            rules.push(self.rule(app, policy.clone(), (now, None), found)?);
        }
        Ok(rules)
    }
}
