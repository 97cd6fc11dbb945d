//! A comparable picture of the view, in an order that does not depend on how it came to be.

use std::collections::BTreeMap;

use super::view::{Session, View};
use crate::access::Ended;
use crate::values::ids::{SessionId, hex};
use crate::values::time::Time;

/// A comparable picture of the view: see `Live::picture`.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    /// One line a fact, by what it is about.
    pub lines: BTreeMap<String, String>,
    /// The ends of sessions that are written.
    pub written: BTreeMap<SessionId, Ended>,
}

impl View {
    pub(super) fn picture(&self, now: Time) -> Picture {
        let (mut lines, mut written) = (BTreeMap::new(), BTreeMap::new());
        lines.insert(
            "everyone".into(),
            format!("{:?} {:?}", self.everyone_not_before, self.fence_at),
        );
        for app in &self.apps {
            let line = format!("{:?} {:?} {:?}", app.not_before, app.warn_before, app.eras);
            lines.insert(format!("app {}", app.id), line);
            for rule in app.rules.all() {
                let key = format!("policy {} {} {:?}", app.id, rule.policy.name, rule.set_at);
                let line = format!("{:?} {:?}", rule.policy(), rule.era);
                lines.insert(key, line);
            }
        }
        // Of a group without a cut-off nothing is known but who is in it.
        for group in self.groups.iter().filter(|group| group.not_before > Time::ZERO) {
            let app = self.apps[group.app as usize].id;
            let line = format!("{:?}", group.not_before);
            lines.insert(format!("group {app} {}", group.name), line);
        }
        for (at, user) in &self.users {
            let mut groups: Vec<(&str, Time)> = user
                .groups
                .iter()
                .map(|place| (self.groups[place.group as usize].name.as_str(), place.since))
                .collect();
            groups.sort_unstable();
            let date = u32::try_from(at).ok().and_then(|at| self.dates.get(&at));
            let line = format!("{:?} {:?} {groups:?} {date:?}", user.ended, user.not_before);
            lines.insert(format!("user {}", user.id), line);
        }
        for at in self.positions() {
            let session = &self.sessions[at as usize];
            let (checked, active) = (self.judge(at, now), self.active_at(at));
            let (secret, traits) = (hex(&session.secret), self.traits_of(session));
            let (ended, policy) = (session.ended(), self.ends.policy(at));
            let warned = self.warned.get(&at);
            let line =
                format!("{checked:?} {active:?} {ended:?} {policy:?} {secret} {traits} {warned:?}");
            lines.insert(format!("session {}", session.id), line);
            written.extend(ended.map(|ended| (SessionId::from_uuid(session.id), ended)));
        }
        for (secret, token) in &self.tokens {
            let holder = (token.kind, token.id, token.app, &token.name, token.scopes);
            let line = format!("{holder:?} {:?}", token.facts(&[]));
            lines.insert(format!("token {secret:?}"), line);
        }
        Picture { lines, written }
    }

    /// Its traits, and the patterns that its label fits, as far as a policy names them: of an ended
    /// one nobody asks for them.
    fn traits_of(&self, session: &Session) -> String {
        let Some(kind) = self.kinds.kind(session.kind) else { return "many".into() };
        if session.ended().is_some() {
            return kind.traits.to_string();
        }
        let rules = &self.apps[self.users[session.user as usize].app as usize].rules;
        let is_named = |text: &&str| {
            let mut named = rules.all().iter().flat_map(|rule| &rule.policy.applies_to.labels);
            named.any(|patterns| patterns.iter().any(|pattern| pattern == text))
        };
        let labels = kind.labels.iter().filter_map(|label| self.kinds.pattern_text(*label));
        let mut labels: Vec<&str> = labels.filter(is_named).collect();
        labels.sort_unstable();
        format!("{} {labels:?}", kind.traits)
    }
}
