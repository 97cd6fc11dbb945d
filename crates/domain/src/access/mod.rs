//! The decision. `decide` answers "may this credential be used now, until when, and why not?" from
//! facts alone: no clock, no database, no memory of its own. Every path calls it; nothing else
//! decides.

mod calendar;
mod proof;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::{Span, Time};

pub use calendar::{Calendar, time, weekday_and_time};
pub use proof::{Assurance, Methods, Traits, platform};

/// What an app, or one of its policies, allows a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// The longest time from the real authentication; none is no limit.
    pub max_age: Option<Span>,
    /// The longest time from the last activity; none is no limit.
    pub max_idle: Option<Span>,
    /// Who signed in before the last such moment signs in again.
    #[serde(skip)]
    pub calendar: Option<Calendar>,
    /// Nobody is signed in from this moment on.
    #[serde(skip)]
    pub not_after: Option<Time>,
    /// On how many devices a user is signed in at most: those signed in last.
    #[serde(skip)]
    pub max_sessions: Option<u32>,
    /// Who did not prove themselves by all of these signs in again.
    #[serde(skip)]
    pub require_methods: Methods,
    /// Whoever signed in at this moment or before it signs in again, or wipes their data.
    #[serde(skip)]
    pub cut: Option<Cut>,
    /// By up to how many percent `max_age` is shorter, by the session's phase.
    #[serde(skip)]
    pub spread_percent: u8,
}

/// Ten years: longer is no limit, and says so more honestly.
pub const SPAN_MAX: Span = Span::days(3_660);

impl Limits {
    /// Refuses what cannot be meant: a limit of nothing, or an idle time beyond the age.
    pub fn check(self) -> Result<Self> {
        let least = Span::seconds(1);
        for (field, span) in [("max_session_age", self.max_age), ("max_idle", self.max_idle)] {
            if span.is_some_and(|span| span < least || span > SPAN_MAX) {
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

    /// The longest age of a session with this phase: never more than `max_age`.
    pub(crate) fn age(self, phase: u16) -> Option<Span> {
        let share = i64::from(self.spread_percent) * i64::from(phase);
        // Divided first: ten years in microseconds times a share would overflow.
        let less = |age: Span| age.micros() / (100 * (i64::from(u16::MAX) + 1)) * share;
        self.max_age.map(|age| Span::from_micros(age.micros() - less(age)))
    }
}

/// What a revocation by a filter ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// The sign-ins at this moment or before it.
    pub authenticated_by: Time,
    /// Whether their devices wipe their data.
    pub wipes: bool,
}

/// Limits and the time during which they hold. Those that hold no longer are kept, so that a longer
/// limit never revives what a shorter one had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Era {
    /// The first moment at which the limits hold.
    pub from: Time,
    /// The first moment at which they hold no longer.
    pub until: Option<Time>,
    /// The limits.
    pub limits: Limits,
}

impl Era {
    /// Whether its limits hold at a moment.
    pub fn holds(&self, at: Time) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }
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
    Restore,
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
    /// The authentication is older than is allowed.
    TooOld,
    /// The device was not active for longer than is allowed.
    Idle,
    /// The user signed in on more devices than are allowed, last on others.
    TooMany,
    /// The sign-in lacks a method that is asked for.
    MethodMissing,
    /// The day or hour has come at which everyone signs in again.
    Calendar,
    /// The date has come on which access was to end.
    NotAfter,
    /// The credential's own end has come.
    Expired,
    /// The credential was revoked.
    Revoked,
    /// The one use has been made.
    Used,
}

impl Because {
    const ALL: [(Self, &'static str, &'static str); 21] = [
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
        (Self::CutOff(CutOffKind::Restore), "restored", "all from before the restore is void"),
        (Self::TooOld, "max_session_age", "the sign-in is older than is allowed"),
        (Self::Idle, "max_idle", "the device was not used for longer than is allowed"),
        (
            Self::TooMany,
            "max_sessions",
            "the user is signed in on as many other devices as allowed",
        ),
        (Self::MethodMissing, "require_methods", "the sign-in lacks a method that is asked for"),
        (Self::Calendar, "calendar", "the sign-in is from before the last fixed time to sign in"),
        (Self::NotAfter, "not_after", "access was granted until a date that has come"),
        (Self::Expired, "expired", "the credential has expired"),
        (Self::Revoked, "revoked", "the credential was revoked"),
        (Self::Used, "used", "the credential has been used already"),
    ];

    /// The reason's name in answers, rows and ledger.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Whether such an end is mended by signing in again.
    pub const fn asks_to_sign_in(self) -> bool {
        matches!(self, Self::TooOld | Self::Calendar | Self::MethodMissing)
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

/// A session of the same user that was authenticated later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newer {
    /// When.
    pub authenticated_at: Time,
    /// When it ended, or will.
    pub ended_at: Option<Time>,
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
    /// The limits that cover it, whoever set them, each with its time.
    pub eras: &'a [Era],
    /// By which methods its holder proved who they are.
    pub methods: Methods,
    /// Its place among all sessions, by its id, to spread their ends.
    pub phase: u16,
    /// The user's sessions that were authenticated later; left out where no limit asks.
    pub newer: &'a [Newer],
}

impl Facts<'static> {
    /// Of a credential that was made at a moment, and of which nothing else is known.
    pub const fn made_at(at: Time) -> Self {
        Self {
            authenticated_at: at,
            active_at: at,
            ended: None,
            expires_at: None,
            user_ended: None,
            cut_offs: &[],
            eras: &[],
            methods: Methods::NONE,
            phase: 0,
            newer: &[],
        }
    }
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
    match end(facts) {
        Some(ended) if facts.ended.is_some() || ended.at <= now => {
            Verdict::Ended(wipe(facts, ended, now).unwrap_or(ended))
        }
        first => Verdict::Valid { ends_at: first.map(|ended| ended.at) },
    }
}

/// A wipe that was asked for is told, even if the session had ended before for another reason; its
/// end stays where it was.
fn wipe(facts: &Facts<'_>, ended: Ended, now: Time) -> Option<Ended> {
    if matches!(ended.because, Because::Wiped | Because::UserDeleted) {
        return None;
    }
    let mut is_asked = false;
    each_end(facts, |end, _| is_asked |= end.because == Because::Wiped && end.at <= now);
    is_asked.then_some(Ended { because: Because::Wiped, ..ended })
}

/// The decisive end: the one that was written, else the earliest.
pub fn end(facts: &Facts<'_>) -> Option<Ended> {
    if facts.ended.is_some() {
        return facts.ended;
    }
    earliest(facts, |_| true)
}

/// The end that nobody can put off, except by signing in again: the decisive one if activity never
/// ceases.
pub fn sure_end(facts: &Facts<'_>) -> Option<Ended> {
    if facts.ended.is_some() {
        return facts.ended;
    }
    // Another device that signs out makes room again.
    earliest(facts, |end| !matches!(end.because, Because::Idle | Because::TooMany))
}

fn earliest(facts: &Facts<'_>, counts: impl Fn(Ended) -> bool) -> Option<Ended> {
    let mut first: Option<Ended> = None;
    each_end(facts, |end, _| {
        // Of two at one moment always the same is told.
        let is_first = first.is_none_or(|one| (end.at, end.because) < (one.at, one.because));
        if is_first && counts(end) {
            first = Some(end);
        }
    });
    first
}

/// Every end that the facts know, in no order, each with the place in `eras` of the limits that set
/// it. The earliest is the decisive one.
pub fn each_end(facts: &Facts<'_>, mut say: impl FnMut(Ended, Option<usize>)) {
    if let Some(ended) = facts.user_ended {
        say(ended, None);
    }
    if let Some(at) = facts.expires_at {
        say(Ended { at, because: Because::Expired }, None);
    }
    for &(kind, not_before) in facts.cut_offs {
        if facts.authenticated_at <= not_before {
            say(Ended { at: not_before, because: Because::CutOff(kind) }, None);
        }
    }
    for (place, era) in facts.eras.iter().enumerate() {
        // What was over before it began never held for it.
        if era.until.is_some_and(|until| until <= facts.authenticated_at) {
            continue;
        }
        let mut limit = |end: Option<Time>, because: Because| {
            let Some(end) = end.map(|end| end.max(era.from)) else { return };
            if era.until.is_none_or(|until| end < until) {
                say(Ended { at: end, because }, Some(place));
            }
        };
        let Limits { max_idle, calendar, not_after, max_sessions, require_methods, .. } =
            era.limits;
        let active_at = facts.active_at.max(facts.authenticated_at);
        limit(era.limits.age(facts.phase).map(|age| facts.authenticated_at + age), Because::TooOld);
        limit(max_idle.map(|idle| active_at + idle), Because::Idle);
        limit(calendar.map(|times| times.next_after(facts.authenticated_at)), Because::Calendar);
        limit(not_after, Because::NotAfter);
        limit(max_sessions.and_then(|max| full_at(facts.newer, max, era.from)), Because::TooMany);
        let cut = era.limits.cut.filter(|cut| facts.authenticated_at <= cut.authenticated_by);
        let cut_as =
            if cut.is_some_and(|cut| cut.wipes) { Because::Wiped } else { Because::ReAuthenticate };
        limit(cut.map(|_| era.from), cut_as);
        let lacks = !facts.methods.contains(require_methods);
        limit(lacks.then_some(facts.authenticated_at), Because::MethodMissing);
    }
}

/// The first moment from `from` on at which as many newer sessions as allowed are there at once.
/// When one of them ends later, that revives nothing: the moment stays.
fn full_at(newer: &[Newer], max: u32, from: Time) -> Option<Time> {
    let begun = |one: &Newer| one.authenticated_at.max(from);
    let came = newer.iter().filter(|one| one.ended_at.is_none_or(|end| begun(one) < end));
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for one in came {
        begins.push(begun(one));
        ends.extend(one.ended_at);
    }
    begins.sort_unstable();
    ends.sort_unstable();
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    // Of some that begin at once, the last knows of all.
    (1..=begins.len()).find_map(|count| {
        let at = begins[count - 1];
        let gone = ends.partition_point(|end| *end <= at);
        (count - gone >= max).then_some(at)
    })
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
