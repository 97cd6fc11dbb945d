//! The decision. `decide` answers "may this credential be used now, until when, and why not?" from
//! facts alone: no clock, no database, no memory of its own. Every path calls it; nothing else
//! decides.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::{Span, Time};

/// What an app allows a session, as it holds from one moment on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The longest time from the real authentication; none is no limit.
    pub max_age: Option<Span>,
    /// The longest time from the last activity; none is no limit.
    pub max_idle: Option<Span>,
}

impl Limits {
    /// Refuses what cannot be meant: a limit of nothing, or an idle time beyond the age.
    pub fn check(self) -> Result<Self> {
        let least = Span::seconds(1);
        // Ten years: longer is no limit, and says so more honestly.
        let most = Span::days(3_660);
        for (field, span) in [("max_session_age", self.max_age), ("max_idle", self.max_idle)] {
            if span.is_some_and(|span| span < least || span > most) {
                return Err(Error::invalid(field, "must be between \"1s\" and \"3660d\""));
            }
        }
        if let (Some(age), Some(idle)) = (self.max_age, self.max_idle)
            && idle > age
        {
            let why = format!("must not be longer than max_session_age ({age})");
            return Err(Error::invalid("max_idle", why));
        }
        Ok(self)
    }
}

/// Limits and the moment from which they hold. The eras of an app are in order; each ends where the
/// next begins. They are kept so that a longer limit never revives what a shorter one had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era {
    /// The first moment at which the limits hold.
    pub from: Time,
    /// The limits.
    pub limits: Limits,
}

/// Whom a cut-off is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum CutOffScope {
    /// Every user of every app.
    Everyone,
    /// Every user of an app.
    App {
        /// The app.
        app: AppId,
    },
    /// The members of a group.
    Group {
        /// The app.
        app: AppId,
        /// The group's name.
        name: String,
    },
    /// One user.
    User {
        /// The user.
        user: UserId,
    },
}

/// What kind of cut-off was decisive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as CutOffScope")]
pub enum CutOffKind {
    Everyone,
    App,
    Group,
    User,
}

/// Why a credential may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Because {
    /// Nobody knows this credential.
    Unknown,
    /// The user was forced to sign in again.
    ReAuthenticate,
    /// The device was told to wipe its data.
    Wiped,
    /// The user signed out.
    SignedOut,
    /// Another device took the user's only place.
    Replaced,
    /// The user was locked.
    UserLocked,
    /// The user was deleted.
    UserDeleted,
    /// Everyone in this scope had to sign in again.
    CutOff(CutOffKind),
    /// The authentication is older than the app allows.
    TooOld,
    /// The device was not active for longer than the app allows.
    Idle,
    /// The credential's own end has come.
    Expired,
    /// The credential was revoked.
    Revoked,
    /// The one use has been made.
    Used,
}

impl Because {
    const ALL: [(Self, &'static str, &'static str); 16] = [
        (Self::Unknown, "unknown", "this credential is not known"),
        (Self::ReAuthenticate, "re_authenticate", "the user was asked to sign in again"),
        (Self::Wiped, "wipe", "the device was told to wipe its data"),
        (Self::SignedOut, "sign_out", "the user signed out"),
        (Self::Replaced, "replaced", "the user signed in on another device"),
        (Self::UserLocked, "user_locked", "the user is locked"),
        (Self::UserDeleted, "user_deleted", "the user was deleted"),
        (Self::CutOff(CutOffKind::Everyone), "cut_off_everyone", "everyone must sign in again"),
        (Self::CutOff(CutOffKind::App), "cut_off_app", "all users of the app must sign in again"),
        (Self::CutOff(CutOffKind::Group), "cut_off_group", "the user's group must sign in again"),
        (Self::CutOff(CutOffKind::User), "cut_off_user", "the user must sign in again"),
        (Self::TooOld, "max_session_age", "the sign-in is older than the app allows"),
        (Self::Idle, "max_idle", "the device was not used for longer than the app allows"),
        (Self::Expired, "expired", "the credential has expired"),
        (Self::Revoked, "revoked", "the credential was revoked"),
        (Self::Used, "used", "the credential has been used already"),
    ];

    /// The reason's name in answers, rows and ledger.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The reason as a sentence for people.
    pub fn sentence(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (Self, &'static str, &'static str) {
        let found = Self::ALL.into_iter().find(|(because, ..)| *because == self);
        found.expect("ALL has every reason: a test proves it")
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::str::FromStr for Because {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|(_, name, _)| *name == text).map(|row| row.0).ok_or(())
    }
}

/// An end that has been written down: it holds for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When it ended.
    pub at: Time,
    /// Why.
    pub because: Because,
}

/// All that is known about a credential when it is used. Whatever kind it is of — a session, an API
/// token, a run's token, an enrolment: it is judged by the same facts; what does not apply is none.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// When its holder last really proved who they are.
    pub authenticated_at: Time,
    /// When it was last used.
    pub active_at: Time,
    /// Its end, when that has been written down.
    pub ended: Option<Ended>,
    /// Its own fixed end.
    pub expires_at: Option<Time>,
    /// Since when its user is locked or deleted.
    pub user_ended: Option<Ended>,
    /// The cut-offs that cover it; each ends what was authenticated at or before it.
    pub cut_offs: &'a [(CutOffKind, Time)],
    /// The limits that cover it, over time.
    pub eras: &'a [Era],
}

/// May it be used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and by itself until the given moment; none is "until someone ends it".
    Valid {
        /// The first moment at which it is no longer valid.
        ends_at: Option<Time>,
    },
    /// No, since a moment, for a reason.
    Ended(Ended),
}

impl Verdict {
    /// Whether it may be used.
    pub const fn is_valid(self) -> bool {
        matches!(self, Self::Valid { .. })
    }

    /// The end if there is one, as an error for those who cannot go on without a valid credential.
    pub fn require(self) -> Result<Option<Time>> {
        match self {
            Self::Valid { ends_at } => Ok(ends_at),
            Self::Ended(ended) => Err(Error::SignInAgain(ended.because)),
        }
    }
}

/// The decision: the earliest end of all that apply is decisive. What has ended stays ended: each
/// end is judged by what held at its time, so later facts only add ends, never remove one.
pub fn decide(facts: &Facts<'_>, now: Time) -> Verdict {
    if let Some(ended) = facts.ended {
        return Verdict::Ended(ended);
    }
    let mut first = facts.user_ended;
    let mut sooner = |at: Time, because: Because| {
        if first.is_none_or(|ended| at < ended.at) {
            first = Some(Ended { at, because });
        }
    };
    if let Some(at) = facts.expires_at {
        sooner(at, Because::Expired);
    }
    for &(kind, not_before) in facts.cut_offs {
        if facts.authenticated_at <= not_before {
            sooner(not_before, Because::CutOff(kind));
        }
    }
    for (at, era) in facts.eras.iter().enumerate() {
        let next = facts.eras.get(at + 1).map(|next| next.from);
        let mut limit = |since: Time, span: Option<Span>, because: Because| {
            let Some(span) = span else { return };
            let end = (since + span).max(era.from);
            if next.is_none_or(|next| end < next) {
                sooner(end, because);
            }
        };
        limit(facts.authenticated_at, era.limits.max_age, Because::TooOld);
        let active_at = facts.active_at.max(facts.authenticated_at);
        limit(active_at, era.limits.max_idle, Because::Idle);
    }
    match first {
        Some(ended) if ended.at <= now => Verdict::Ended(ended),
        first => Verdict::Valid { ends_at: first.map(|ended| ended.at) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AUTHENTICATED: Time = Time::from_micros(1_000_000_000);
    const MICRO: Span = Span::from_micros(1);

    fn fresh() -> Facts<'static> {
        Facts {
            authenticated_at: AUTHENTICATED,
            active_at: AUTHENTICATED,
            ended: None,
            expires_at: None,
            user_ended: None,
            cut_offs: &[],
            eras: &[],
        }
    }

    fn era(from: Time, max_age: Option<Span>, max_idle: Option<Span>) -> Era {
        Era { from, limits: Limits { max_age, max_idle } }
    }

    /// Valid one microsecond before `end`, ended at `end` and after it, for this reason.
    fn must_end_exactly(facts: &Facts<'_>, end: Time, because: Because) {
        assert_eq!(decide(facts, end - MICRO), Verdict::Valid { ends_at: Some(end) });
        for now in [end, end + MICRO, end + Span::days(400)] {
            assert_eq!(decide(facts, now), Verdict::Ended(Ended { at: end, because }));
        }
    }

    #[test]
    fn nothing_against_it_is_valid_without_an_end() {
        assert_eq!(decide(&fresh(), AUTHENTICATED), Verdict::Valid { ends_at: None });
    }

    #[test]
    fn each_condition_alone_refuses_from_its_very_moment() {
        let at = AUTHENTICATED + Span::hours(5);
        must_end_exactly(&Facts { expires_at: Some(at), ..fresh() }, at, Because::Expired);
        let locked = Ended { at, because: Because::UserLocked };
        must_end_exactly(&Facts { user_ended: Some(locked), ..fresh() }, at, Because::UserLocked);
        let age = [era(Time::ZERO, Some(Span::hours(5)), None)];
        must_end_exactly(&Facts { eras: &age, ..fresh() }, at, Because::TooOld);
        let idle = [era(Time::ZERO, None, Some(Span::hours(4)))];
        let active_at = AUTHENTICATED + Span::hours(1);
        let facts = Facts { eras: &idle, active_at, ..fresh() };
        must_end_exactly(&facts, at, Because::Idle);
    }

    #[test]
    fn a_written_end_holds_whatever_else_is_true() {
        for (because, ..) in Because::ALL {
            let ended = Ended { at: AUTHENTICATED, because };
            let facts = Facts { ended: Some(ended), ..fresh() };
            assert_eq!(decide(&facts, AUTHENTICATED), Verdict::Ended(ended));
            assert_eq!(decide(&facts, Time::ZERO), Verdict::Ended(ended));
        }
    }

    #[test]
    fn a_cut_off_ends_what_was_authenticated_at_or_before_it_and_nothing_later() {
        for kind in [CutOffKind::Everyone, CutOffKind::App, CutOffKind::Group, CutOffKind::User] {
            for (moved, is_valid) in [(0, false), (1, false), (-1, true)] {
                let not_before = Time::from_micros(AUTHENTICATED.micros() + moved);
                let facts = Facts { cut_offs: &[(kind, not_before)], ..fresh() };
                let verdict = decide(&facts, AUTHENTICATED + Span::hours(1));
                assert_eq!(verdict.is_valid(), is_valid, "{kind:?} {moved}");
            }
        }
    }

    #[test]
    fn the_earliest_end_is_the_decisive_one() {
        let eras = [era(Time::ZERO, Some(Span::days(30)), Some(Span::hours(1)))];
        let cut_offs = [(CutOffKind::App, AUTHENTICATED + Span::minutes(30))];
        let facts = Facts { eras: &eras, cut_offs: &cut_offs, ..fresh() };
        let end = AUTHENTICATED + Span::minutes(30);
        must_end_exactly(&facts, end, Because::CutOff(CutOffKind::App));
    }

    #[test]
    fn a_shorter_limit_acts_at_once_and_a_longer_one_revives_nothing() {
        let shortened = AUTHENTICATED + Span::days(10);
        let lengthened = AUTHENTICATED + Span::days(20);
        let mut eras = vec![
            era(Time::ZERO, Some(Span::days(30)), None),
            era(shortened, Some(Span::days(5)), None),
        ];
        let facts = Facts { eras: &eras, ..fresh() };
        must_end_exactly(&facts, shortened, Because::TooOld);
        eras.push(era(lengthened, Some(Span::days(90)), None));
        let old = Facts { eras: &eras, ..fresh() };
        must_end_exactly(&old, shortened, Because::TooOld);
        let young_at = lengthened - Span::days(1);
        let young = Facts { authenticated_at: young_at, active_at: young_at, ..old };
        must_end_exactly(&young, young_at + Span::days(90), Because::TooOld);
    }

    #[test]
    fn limits_that_cannot_be_meant_are_refused_by_name() {
        let limits = |max_age, max_idle| Limits { max_age, max_idle }.check();
        assert!(limits(Some(Span::days(30)), None).is_ok());
        assert!(limits(None, None).is_ok());
        for (age, idle, name) in [
            (Some(Span::seconds(0)), None, "max_session_age"),
            (Some(Span::days(36_600)), None, "max_session_age"),
            (None, Some(Span::seconds(-1)), "max_idle"),
            (Some(Span::hours(1)), Some(Span::hours(2)), "max_idle"),
        ] {
            let Err(Error::Invalid { field, .. }) = limits(age, idle) else {
                panic!("{age:?} {idle:?} must be refused")
            };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn reasons_have_names_that_lead_back_to_them() {
        for (because, name, _) in Because::ALL {
            assert_eq!(name.parse(), Ok(because));
            assert_eq!(because.name(), name);
            assert!(!because.sentence().is_empty());
        }
    }

    fn moments() -> impl Strategy<Value = Time> {
        (0..200_i64).prop_map(|hours| AUTHENTICATED + Span::hours(hours - 50))
    }

    fn spans() -> impl Strategy<Value = Option<Span>> {
        proptest::option::of((1..100_i64).prop_map(Span::hours))
    }

    fn histories() -> impl Strategy<Value = Vec<Era>> {
        proptest::collection::vec((moments(), spans(), spans()), 0..5).prop_map(|mut eras| {
            eras.sort_by_key(|era| era.0);
            eras.dedup_by_key(|era| era.0);
            eras.into_iter().map(|(from, age, idle)| era(from, age, idle)).collect()
        })
    }

    proptest! {
        /// What has ended stays ended: for every history, at every later moment, and whatever
        /// limits or cut-offs come later.
        #[test]
        fn an_end_is_for_good(
            eras in histories(),
            (cut_off, now, later) in (moments(), moments(), moments()),
            (age, idle) in (spans(), spans()),
        ) {
            let facts = Facts { eras: &eras, ..fresh() };
            let cut_offs = [(CutOffKind::User, cut_off)];
            let more = Facts { cut_offs: &cut_offs, ..facts };
            let ended = decide(&facts, now);
            prop_assert!(!decide(&more, now).is_valid() || ended.is_valid());
            if !ended.is_valid() && now <= later {
                prop_assert_eq!(decide(&facts, later), ended);
                if eras.last().is_none_or(|last| last.from < later) {
                    let mut changed = eras.clone();
                    changed.push(era(later.next(), age, idle));
                    let changed = Facts { eras: &changed, ..facts };
                    prop_assert_eq!(decide(&changed, later.next()), ended);
                }
            }
        }

        /// `ends_at` is what then happens: valid right up to it, ended from it on.
        #[test]
        fn ends_at_is_exact(eras in histories(), now in moments()) {
            let facts = Facts { eras: &eras, ..fresh() };
            if let Verdict::Valid { ends_at: Some(end) } = decide(&facts, now) {
                must_end_exactly_after(&facts, now, end)?;
            }
        }
    }

    /// The decision told a second time, without arithmetic on ends: time passes hour by hour, and
    /// at each hour one looks at what holds then.
    fn first_end(facts: &Facts<'_>, now: Time) -> Option<Time> {
        if let Some(ended) = facts.ended {
            return Some(ended.at);
        }
        let mut hour = Time::ZERO;
        while hour <= now {
            let is_locked = facts.user_ended.is_some_and(|ended| ended.at <= hour);
            let has_expired = facts.expires_at.is_some_and(|at| at <= hour);
            let is_cut_off =
                facts.cut_offs.iter().any(|(_, at)| *at <= hour && facts.authenticated_at <= *at);
            let era = facts.eras.iter().rev().find(|era| era.from <= hour);
            let is_over = era.is_some_and(|era| {
                let limits = era.limits;
                limits.max_age.is_some_and(|age| hour - facts.authenticated_at >= age)
                    || limits.max_idle.is_some_and(|idle| hour - facts.active_at >= idle)
            });
            if is_locked || has_expired || is_cut_off || is_over {
                return Some(hour);
            }
            hour = hour + Span::hours(1);
        }
        None
    }

    /// Every combination of facts in a small world of six hours.
    #[test]
    fn every_combination_of_facts_is_decided_as_time_itself_would() {
        let at = |hour: i64| Time::ZERO + Span::hours(hour);
        let spans = [None, Some(Span::hours(1)), Some(Span::hours(3))];
        let locked = |hour| Ended { at: at(hour), because: Because::UserLocked };
        let mut cut_offs: Vec<Vec<(CutOffKind, Time)>> = vec![vec![]];
        for kind in [CutOffKind::Everyone, CutOffKind::App, CutOffKind::Group, CutOffKind::User] {
            cut_offs.extend([0, 1, 3].map(|hour| vec![(kind, at(hour))]));
        }
        cut_offs.push(vec![(CutOffKind::Everyone, at(4)), (CutOffKind::User, at(2))]);
        let mut histories = vec![vec![]];
        for (age, idle) in spans.iter().flat_map(|age| spans.iter().map(move |idle| (age, idle))) {
            histories.push(vec![era(at(0), *age, *idle)]);
            for (from, age2, idle2) in [(2, None, None), (3, spans[1], None), (3, None, spans[2])] {
                histories.push(vec![era(at(0), *age, *idle), era(at(from), age2, idle2)]);
            }
        }
        let mut decided = 0;
        for (eras, cut_offs) in
            histories.iter().flat_map(|eras| cut_offs.iter().map(move |c| (eras, c)))
        {
            for ended in [None, Some(locked(2))] {
                for expires_at in [None, Some(at(2)), Some(at(4))] {
                    for user_ended in [None, Some(locked(0)), Some(locked(3))] {
                        for active_at in [at(1), at(2)] {
                            let facts = Facts {
                                authenticated_at: at(1),
                                active_at,
                                ended,
                                expires_at,
                                user_ended,
                                cut_offs,
                                eras,
                            };
                            for now in (0..6).map(at) {
                                agree(&facts, now);
                                decided += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(decided, 37 * 14 * 2 * 3 * 3 * 2 * 6);
    }

    fn agree(facts: &Facts<'_>, now: Time) {
        let found = match decide(facts, now) {
            Verdict::Ended(ended) => Some(ended.at),
            Verdict::Valid { .. } => None,
        };
        assert_eq!(found, first_end(facts, now), "{facts:?} at {now:?}");
    }

    fn must_end_exactly_after(
        facts: &Facts<'_>,
        now: Time,
        end: Time,
    ) -> Result<(), TestCaseError> {
        prop_assert!(end > now);
        prop_assert!(decide(facts, end - MICRO).is_valid());
        prop_assert!(!decide(facts, end).is_valid());
        Ok(())
    }
}
