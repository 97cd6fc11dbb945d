//! What of sessions policies can ask, kept once for all that have it in common: a session in memory
//! has no room for more than a number.

use std::collections::HashMap;

use crate::access::{Assurance, Methods, Traits, platform};
use crate::apps::policies::Policy;
use crate::values::ids::AppId;

/// More different ones are told apart no longer: every policy is about them, the strictest decides.
const MANY: u16 = u16::MAX;

/// The traits of a session, with the patterns that its label fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) traits: Traits,
    pub(super) labels: Vec<u32>,
}

/// All kinds of sessions that there are, and all label patterns that were ever named.
#[derive(Default)]
pub(super) struct Kinds {
    all: Vec<Kind>,
    at: HashMap<String, u16>,
    patterns: Vec<String>,
    pattern_at: HashMap<AppId, HashMap<String, u32>>,
}

impl Kinds {
    /// The number of a kind.
    pub(super) fn number(&mut self, kind: Kind) -> u16 {
        let mut text = kind.traits.to_string();
        kind.labels.iter().for_each(|label| text.push_str(&format!(" {label}")));
        if let Some(known) = self.at.get(&text) {
            return *known;
        }
        let next = u16::try_from(self.all.len()).unwrap_or(MANY);
        if next < MANY {
            self.all.push(kind);
            self.at.insert(text, next);
        }
        next
    }

    /// As `number`, for traits as they are stored. None: they cannot be read.
    pub(super) fn number_of_text(&mut self, text: &str) -> Option<u16> {
        if let Some(known) = self.at.get(text) {
            return Some(*known);
        }
        let traits = text.parse().ok()?;
        Some(self.number(Kind { traits, labels: Vec::new() }))
    }

    /// None: there are too many to tell them apart.
    pub(super) fn kind(&self, number: u16) -> Option<&Kind> {
        self.all.get(usize::from(number))
    }

    /// The patterns that policies of the app ever named.
    pub(super) fn patterns(&self, app: AppId) -> Vec<String> {
        let mine = self.pattern_at.get(&app).into_iter().flatten();
        mine.map(|(pattern, _)| pattern.clone()).collect()
    }

    pub(super) fn pattern(&self, app: AppId, pattern: &str) -> Option<u32> {
        self.pattern_at.get(&app)?.get(pattern).copied()
    }

    pub(super) fn pattern_text(&self, at: u32) -> Option<&str> {
        self.patterns.get(usize::try_from(at).ok()?).map(String::as_str)
    }

    /// Makes a pattern known.
    pub(super) fn name_pattern(&mut self, app: AppId, pattern: &str) {
        if self.pattern(app, pattern).is_none() {
            let at = super::view::position(self.patterns.len());
            self.patterns.push(pattern.to_owned());
            self.pattern_at.entry(app).or_default().insert(pattern.to_owned(), at);
        }
    }

    /// The number of a kind with one more pattern.
    pub(super) fn labelled(&mut self, number: u16, pattern: u32) -> u16 {
        let Some(mut kind) = self.kind(number).cloned() else { return MANY };
        if !kind.labels.contains(&pattern) {
            kind.labels.push(pattern);
            kind.labels.sort_unstable();
        }
        self.number(kind)
    }
}

/// What a policy asks of sessions.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    platforms: Option<Vec<String>>,
    methods: Option<Methods>,
    assurance: Option<Vec<Assurance>>,
    labels: Option<Vec<u32>>,
}

impl Asked {
    /// None: nothing.
    pub(super) fn of(policy: &Policy, pattern: impl Fn(&str) -> Option<u32>) -> Option<Self> {
        let selector = &policy.applies_to;
        let platforms = selector.platforms.as_ref();
        let labels = selector.labels.as_ref();
        let asked = Self {
            platforms: platforms
                .map(|names| names.iter().filter_map(|name| platform(name)).collect()),
            methods: selector.methods,
            assurance: selector.assurance.clone(),
            labels: labels.map(|names| names.iter().filter_map(|name| pattern(name)).collect()),
        };
        let is_any = asked.platforms.is_some()
            || asked.methods.is_some()
            || asked.assurance.is_some()
            || asked.labels.is_some();
        is_any.then_some(asked)
    }

    /// The same without its patterns.
    pub(super) fn without_labels(self) -> Self {
        Self { labels: None, ..self }
    }

    /// Whether a session of this kind meets all of it.
    pub(super) fn is_met_by(&self, Kind { traits, labels }: &Kind) -> bool {
        let platform = traits.platform.as_ref();
        self.platforms.as_ref().is_none_or(|any| platform.is_some_and(|it| any.contains(it)))
            && self.methods.is_none_or(|any| traits.methods.meets(any))
            && self
                .assurance
                .as_ref()
                .is_none_or(|any| traits.assurance.is_some_and(|level| any.contains(&level)))
            && self.labels.as_ref().is_none_or(|any| any.iter().any(|it| labels.contains(it)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_kept_once_and_found_by_its_text() {
        let mut kinds = Kinds::default();
        let ios = kinds.number_of_text("ios/pwd/-").expect("it can be read");
        assert_eq!(kinds.number_of_text("ios/pwd/-"), Some(ios));
        assert_ne!(kinds.number_of_text("ios/otp/-"), Some(ios));
        assert_eq!(kinds.number_of_text("ios"), None);
        let app = AppId::mint();
        kinds.name_pattern(app, "till-*");
        kinds.name_pattern(app, "till-*");
        assert_eq!(kinds.patterns(app), ["till-*"]);
        let till = kinds.labelled(ios, 0);
        assert_eq!(kinds.labelled(till, 0), till);
        assert_eq!(kinds.kind(till).expect("it is kept").labels, [0]);
    }

    #[test]
    fn of_too_many_kinds_nothing_is_known_any_more() {
        let mut kinds = Kinds::default();
        for number in 0..70_000 {
            kinds.number_of_text(&format!("p{number}/-/-"));
        }
        assert_eq!(kinds.number_of_text("one_more/-/-"), Some(MANY));
        assert!(kinds.kind(MANY).is_none());
        assert_eq!(kinds.number_of_text("p1/-/-"), Some(1));
    }
}
