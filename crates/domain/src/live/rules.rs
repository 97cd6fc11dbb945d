//! The versions of an app's policies and its open revocations, by the groups that they are about: a
//! check looks at those of the user's groups only.

use std::collections::HashMap;

use super::policies::Rule;
use super::view::User;

/// All of an app, in the order in which they were stated.
#[derive(Default)]
pub(super) struct Rules {
    all: Vec<Rule>,
    /// Those that name no group, by their places.
    wide: Vec<usize>,
    /// The others, by each of their groups.
    by_group: HashMap<u32, Vec<usize>>,
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
        let place = self.all.len();
        match &rule.groups {
            None => self.wide.push(place),
            Some(groups) => {
                for group in groups {
                    self.by_group.entry(*group).or_default().push(place);
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

    /// Those that may be about the user, each once.
    pub(super) fn about<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Rule> {
        let of_groups = user.groups.iter().enumerate().flat_map(move |(place, membership)| {
            let rules = self.by_group.get(&membership.group).into_iter().flatten();
            let is_first = move |rule: &&Rule| {
                let mut earlier = user.groups[..place].iter();
                !earlier.any(|other| rule.names_group(other.group))
            };
            rules.map(|at| &self.all[*at]).filter(is_first)
        });
        self.wide.iter().map(|at| &self.all[*at]).chain(of_groups)
    }
}
