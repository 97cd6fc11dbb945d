//! The versions of an app's policies and its open revocations, by the groups that they are about: a
//! check looks at those of the user's groups only. At a million sessions, what that costs is the
//! memory that it touches: limits that ask nothing but a group lie side by side, and their rules
//! are not looked at.

use std::collections::HashMap;

use super::policies::Rule;
use super::view::User;
use crate::access::Era;
use crate::apps::policies::Policy;

/// All of an app, in the order in which they were stated.
#[derive(Default)]
pub(super) struct Rules {
    all: Vec<Rule>,
    /// Those that name no group.
    wide: Part,
    /// The others, by each of their groups.
    by_group: HashMap<u32, Part>,
}

/// Some rules, by their places.
#[derive(Default)]
struct Part {
    /// The limits of those that ask nothing else: not of the user, not of the session.
    plain: Vec<(u32, Era)>,
    others: Vec<u32>,
}

impl Rules {
    pub(super) fn new(all: Vec<Rule>) -> Self {
        let mut rules = Self::default();
        for rule in all {
            rules.push(rule);
        }
        rules
    }

    pub(super) fn push(&mut self, rule: Rule) {
        let place = super::view::position(self.all.len());
        match rule.named_groups() {
            None => self.wide.add(place, &rule),
            Some(groups) => {
                for group in groups {
                    self.by_group.entry(*group).or_default().add(place, &rule);
                }
            }
        }
        self.all.push(rule);
    }

    pub(super) fn retain(&mut self, is_left: impl FnMut(&Rule) -> bool) {
        let mut all = std::mem::take(&mut self.all);
        all.retain(is_left);
        *self = Self::new(all);
    }

    pub(super) fn all(&self) -> &[Rule] {
        &self.all
    }

    /// The limits of policies that are about every session of the user, each with its policy.
    pub(super) fn plain<'a>(&'a self, user: &'a User) -> impl Iterator<Item = (&'a Policy, Era)> {
        let of_groups = user.groups.iter().flat_map(move |membership| {
            let some = self.by_group.get(&membership.group);
            some.map_or(&[][..], |some| &some.plain)
                .iter()
                .map(move |(at, era)| (*at, Era { from: era.from.max(membership.since), ..*era }))
        });
        let of_all = self.wide.plain.iter().map(|(at, era)| (*at, *era));
        of_all.chain(of_groups).map(|(at, era)| (&self.all[at as usize].policy, era))
    }

    /// The rules besides `plain` that may be about the user, each once.
    pub(super) fn others<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Rule> {
        let of_groups = user.groups.iter().enumerate().flat_map(move |(place, membership)| {
            let some = self.by_group.get(&membership.group);
            let rules = some.map_or(&[][..], |some| &some.others).iter();
            let is_first = move |rule: &&Rule| {
                let mut earlier = user.groups[..place].iter();
                !earlier.any(|other| rule.names_group(other.group))
            };
            rules.map(|at| &self.all[*at as usize]).filter(is_first)
        });
        self.wide.others.iter().map(|at| &self.all[*at as usize]).chain(of_groups)
    }
}

impl Part {
    fn add(&mut self, place: u32, rule: &Rule) {
        if rule.is_plain() {
            self.plain.push((place, rule.era));
        } else {
            self.others.push(place);
        }
    }
}
