//! Policies in the view: their versions over time, and what a new set would do before it is stated.

use std::collections::HashSet;

use super::Preview;
use super::forecast::Forecaster;
use super::view::{Rule, Session, User, View};
use crate::access::{CutOffKind, Era, Facts, decide};
use crate::apps::policies::Policy;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::Time;

/// More users are not named: their number is told.
const NAMED_MAX: usize = 100;
/// A group that nobody was ever in.
const NOBODY: u32 = u32::MAX;

impl View {
    /// Makes the groups that policies name known, before anyone joins them.
    pub(super) fn name_groups(&mut self, app: AppId, policy: &Policy) -> Result<()> {
        let unknown = || Error::Internal(format!("a policy of an unknown app {app}"));
        for name in policy.applies_to.groups.iter().flatten() {
            self.group(app, name).ok_or_else(unknown)?;
        }
        Ok(())
    }

    /// A version of a policy.
    pub(super) fn rule(
        &self,
        app: AppId,
        policy: Policy,
        (from, until): (Time, Option<Time>),
    ) -> Result<Rule> {
        let limits = policy.check()?;
        let find = |name: &String| self.find_group(app, name).unwrap_or(NOBODY);
        let groups =
            policy.applies_to.groups.as_ref().map(|names| names.iter().map(find).collect());
        let users = policy.applies_to.users.as_ref().map(|users| users.iter().copied().collect());
        Ok(Rule { policy, groups, users, era: Era { from, until, limits } })
    }

    /// The versions of an app's policies, once the whole set has been stated anew at a moment.
    pub(super) fn amended(&self, app: AppId, policies: &[Policy], now: Time) -> Result<Vec<Rule>> {
        let unknown = || Error::not_found(format!("app {app}"));
        let mut rules = self.app(app).ok_or_else(unknown)?.rules.clone();
        let holds =
            |rule: &Rule, policy: &Policy| rule.era.until.is_none() && rule.policy == *policy;
        let is_new = |policy: &&Policy| !rules.iter().any(|rule| holds(rule, policy));
        let new: Vec<&Policy> = policies.iter().filter(is_new).collect();
        for rule in &mut rules {
            if rule.era.until.is_none() && !policies.contains(&rule.policy) {
                rule.era.until = Some(now);
            }
        }
        for policy in new {
            rules.push(self.rule(app, policy.clone(), (now, None))?);
        }
        Ok(rules)
    }

    /// What would happen if this set were stated now: the same rules, the same decision.
    pub(super) fn preview(&self, app: AppId, policies: &[Policy], now: Time) -> Result<Preview> {
        let new = self.amended(app, policies, now)?;
        let old = &self.app(app).ok_or_else(|| Error::not_found(format!("app {app}")))?.rules;
        let mut preview = Preview::default();
        let (mut users, mut ended_users) = (HashSet::new(), HashSet::new());
        let (mut before, mut after) = (Forecaster::new(now), Forecaster::new(now));
        for (session, user) in self.sessions_of(app) {
            let (cut_offs, eras) = (self.cut_offs(user), self.eras_by(user, old));
            let facts = facts(session, user, &cut_offs, &eras);
            if !decide(&facts, now).is_valid() {
                continue;
            }
            preview.sessions += 1;
            users.insert(user.id);
            before.add(&facts);
            let eras = self.eras_by(user, &new);
            let facts = Facts { eras: &eras, ..facts };
            if !decide(&facts, now).is_valid() {
                preview.ended_sessions += 1;
                ended_users.insert(user.id);
            }
            after.add(&facts);
        }
        preview.users = users.len();
        preview.ended_users = ended_users.len();
        let mut who: Vec<UserId> = ended_users.into_iter().map(UserId::from_uuid).collect();
        who.sort_unstable();
        who.truncate(NAMED_MAX);
        preview.who = who;
        preview.before = before.run();
        preview.after = after.run();
        Ok(preview)
    }

    fn eras_by(&self, user: &User, rules: &[Rule]) -> Vec<Era> {
        self.rules_of(user, rules).map(|(_, era)| era).collect()
    }
}

fn facts<'a>(
    session: &Session,
    user: &User,
    cut_offs: &'a [(CutOffKind, Time)],
    eras: &'a [Era],
) -> Facts<'a> {
    Facts {
        authenticated_at: session.authenticated_at,
        active_at: session.last_at(),
        ended: session.ended(),
        expires_at: None,
        user_ended: user.ended,
        cut_offs,
        eras,
    }
}
