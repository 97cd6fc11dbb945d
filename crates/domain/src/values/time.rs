//! Moments and spans in whole microseconds, and the one clock. Nothing else in Reauth reads one.
//! Not a calendar: local times of schedules are computed in `tasks`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Instant, SystemTime};

use chrono::{DateTime, Datelike as _, NaiveDate, SecondsFormat, Timelike as _, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A moment: microseconds since 1970-01-01T00:00:00Z. Shown as RFC 3339 in whole seconds.
///
/// Microseconds, because each write takes a moment of its own: a sign-in after a cut-off is always
/// strictly later than the cut-off, even when both happen within one millisecond.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// The beginning: earlier than everything that can happen.
    pub const ZERO: Self = Self(0);

    /// From microseconds since 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// The next moment that can be told from this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// As a calendar moment of the `chrono` crate, for schedules.
    pub(crate) fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    pub(crate) fn from_utc(moment: DateTime<Utc>) -> Self {
        Self(moment.timestamp_micros())
    }

    /// Reads `YYYY-MM-DDTHH:MM:SSZ` (RFC 3339, any offset) or a date, which means its start in UTC.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(moment.timestamp_micros()));
        }
        let day: NaiveDate = text.parse().ok()?;
        Some(Self(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros()))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.utc().naive_utc();
        let Ok(year @ 0..=9999) = u32::try_from(utc.year()) else {
            return f.write_str(&self.utc().to_rfc3339_opts(SecondsFormat::Secs, true));
        };
        // By hand, because every check answers with two of these.
        let mut text = *b"0000-00-00T00:00:00Z";
        write_digits(&mut text[..4], year);
        let rest = [utc.month(), utc.day(), utc.hour(), utc.minute(), utc.second()];
        for (number, at) in rest.into_iter().zip([5, 8, 11, 14, 17]) {
            write_digits(&mut text[at..at + 2], number);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

fn write_digits(places: &mut [u8], mut number: u32) {
    for place in places.iter_mut().rev() {
        *place = b"0123456789"[number as usize % 10];
        number /= 10;
    }
}

impl std::ops::Add<Span> for Time {
    type Output = Self;

    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl std::ops::Sub<Span> for Time {
    type Output = Self;

    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl std::ops::Sub for Time {
    type Output = Span;

    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// A length of time in microseconds, written as a number and one unit: `30d`, `12h`, `90m`, `45s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

impl Span {
    /// From whole seconds.
    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// From whole minutes.
    pub const fn minutes(minutes: i64) -> Self {
        Self::seconds(minutes.saturating_mul(60))
    }

    /// From whole hours.
    pub const fn hours(hours: i64) -> Self {
        Self::minutes(hours.saturating_mul(60))
    }

    /// From days of 24 hours.
    pub const fn days(days: i64) -> Self {
        Self::hours(days.saturating_mul(24))
    }

    /// From microseconds.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// In microseconds.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// In whole seconds, rounded down.
    pub const fn whole_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// In whole milliseconds, rounded down.
    pub const fn whole_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }
}

impl std::ops::Add for Span {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }
}

/// Why a text is no span.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASpan;

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(NotASpan)?;
        let (number, unit) = text.split_at(split);
        let number: i64 = number.parse().map_err(|_| NotASpan)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(NotASpan),
        };
        let seconds = number.checked_mul(seconds).ok_or(NotASpan)?;
        seconds.checked_mul(MICROS_PER_SECOND).map(Self).ok_or(NotASpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.whole_seconds();
        let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
        let unit = units.into_iter().find(|(size, _)| seconds != 0 && seconds % size == 0);
        let (size, name) = unit.unwrap_or((1, "s"));
        write!(f, "{}{name}", seconds / size)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Seconds(i64),
            Text(String),
        }
        let why = "a duration is a number and a unit, such as \"30d\", \"12h\", \"90m\" or \"45s\"";
        match Either::deserialize(deserializer).map_err(|_| serde::de::Error::custom(why))? {
            Either::Seconds(seconds) => Ok(Self::seconds(seconds)),
            Either::Text(text) => text.parse().map_err(|_| serde::de::Error::custom(why)),
        }
    }
}

/// The clock: the only reader of the machine's time. It never goes back, not below its floor and
/// not below a moment that it has already told, and it never stands still: when the machine's time
/// is set back, it goes on by the time that really passes. Clones share one state.
#[derive(Clone, Debug)]
pub struct Clock {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// When a manual clock stands at a time of its own: it does not follow the machine's.
    is_manual: AtomicBool,
    began: Instant,
    /// A manual clock's time of day, and what has passed on it.
    wall: AtomicI64,
    passed: AtomicI64,
    /// How far the told time is ahead of what has passed; it only grows.
    ahead: AtomicI64,
    /// How far the time of day was ahead of what had passed when that was last looked at.
    seen: AtomicI64,
}

/// A step of the machine's clock beyond this is told.
const JUMP: Span = Span::minutes(1);
/// Nobody has looked yet.
const UNSEEN: i64 = i64::MIN;

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(false)
    }

    /// A clock that stands at `start` until it is moved: for stories, simulations and the demo.
    pub fn manual(start: Time) -> Self {
        let clock = Self::new(true);
        clock.set(start);
        clock
    }

    fn new(is_manual: bool) -> Self {
        let began = Instant::now();
        let state = State {
            is_manual: AtomicBool::new(is_manual),
            began,
            wall: AtomicI64::new(0),
            passed: AtomicI64::new(0),
            ahead: AtomicI64::new(0),
            seen: AtomicI64::new(UNSEEN),
        };
        Self { state: Arc::new(state) }
    }

    /// The machine's own idea of now, without a floor.
    pub fn machine_time() -> Time {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// The time of day, and what has passed since some moment: both in microseconds.
    fn read(&self) -> (i64, i64) {
        let state = &self.state;
        if state.is_manual.load(Ordering::SeqCst) {
            return (state.wall.load(Ordering::SeqCst), state.passed.load(Ordering::SeqCst));
        }
        let passed = i64::try_from(state.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        (Self::machine_time().0, passed)
    }

    /// The present moment; never earlier than any moment told before.
    pub fn now(&self) -> Time {
        let (wall, passed) = self.read();
        let ahead = wall.saturating_sub(passed);
        Time(passed + self.state.ahead.fetch_max(ahead, Ordering::SeqCst).max(ahead))
    }

    /// From here on, no moment before `floor` is told.
    pub fn raise_floor(&self, floor: Time) {
        let (_, passed) = self.read();
        self.state.ahead.fetch_max(floor.0.saturating_sub(passed), Ordering::SeqCst);
    }

    /// By how much the time of day was moved since this was last asked, if by more than a minute;
    /// at first: by how much it is behind the clock's floor.
    pub fn jumped(&self) -> Option<Span> {
        let (wall, passed) = self.read();
        let ahead = wall.saturating_sub(passed);
        let before = match self.state.seen.swap(ahead, Ordering::SeqCst) {
            UNSEEN => self.state.ahead.load(Ordering::SeqCst).max(ahead),
            seen => seen,
        };
        let by = Span(ahead.saturating_sub(before));
        (by.0.abs() > JUMP.0).then_some(by)
    }

    /// What was told by `jumped` could not be written down: it is told again.
    pub fn tell_again(&self, by: Span) {
        self.state.seen.fetch_sub(by.0, Ordering::SeqCst);
    }

    /// Sets a manual clock's time of day, as someone sets a machine's: when it is set back, `now`
    /// does not follow.
    pub fn set(&self, moment: Time) {
        self.state.wall.store(moment.0, Ordering::SeqCst);
    }

    /// Time passes on a manual clock.
    pub fn pass(&self, span: Span) {
        self.state.passed.fetch_add(span.0, Ordering::SeqCst);
        self.state.wall.fetch_add(span.0, Ordering::SeqCst);
    }

    /// Follows the machine's clock from here on.
    pub fn follow_machine(&self) {
        let told = self.now();
        self.state.is_manual.store(false, Ordering::SeqCst);
        let (_, passed) = self.read();
        self.state.ahead.store(told.0.saturating_sub(passed), Ordering::SeqCst);
        self.state.seen.store(UNSEEN, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_in_their_largest_whole_unit() {
        for text in ["30d", "12h", "90m", "45s", "0s"] {
            assert_eq!(text.parse::<Span>().expect("a span").to_string(), text);
        }
        assert_eq!(Span::seconds(3_600).to_string(), "1h");
        for text in ["", "d", "30", "30 d", "-1d", "1w", "99999999999999999d"] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan), "{text}");
        }
    }

    #[test]
    fn moments_are_shown_in_whole_seconds_utc() {
        let moment = Time::parse("2026-05-03T08:12:00+02:00").expect("a moment");
        assert_eq!(moment.to_string(), "2026-05-03T06:12:00Z");
        assert_eq!(Time::parse("2026-05-03").expect("a day").to_string(), "2026-05-03T00:00:00Z");
        assert_eq!(Time::parse("yesterday"), None);
    }

    #[test]
    fn the_clock_never_goes_back_and_never_stands_still() {
        let start = Time::from_micros(1_000_000);
        let clock = Clock::manual(start);
        clock.pass(Span::hours(2));
        let later = clock.now();
        assert_eq!(later, start + Span::hours(2));
        clock.set(start);
        assert_eq!(clock.now(), later);
        clock.pass(Span::hours(1));
        assert_eq!(clock.now(), later + Span::hours(1), "an hour is an hour on a clock set back");
        clock.raise_floor(later + Span::days(1));
        assert_eq!(clock.now(), later + Span::days(1));
        assert!(Clock::system().now() > later);
        clock.follow_machine();
        assert!(clock.now() > later + Span::days(365));
    }

    #[test]
    fn a_jump_is_told_once_and_the_passing_of_time_is_none() {
        let clock = Clock::manual(Time::from_micros(1_000_000) + Span::days(9));
        assert_eq!(clock.jumped(), None);
        clock.pass(Span::days(3));
        assert_eq!(clock.jumped(), None);
        clock.set(clock.now() + Span::hours(2));
        assert_eq!((clock.jumped(), clock.jumped()), (Some(Span::hours(2)), None));
        clock.tell_again(Span::hours(2));
        assert_eq!((clock.jumped(), clock.jumped()), (Some(Span::hours(2)), None));
        clock.set(clock.now() - Span::minutes(90));
        assert_eq!(clock.jumped(), Some(Span::minutes(-90)));
        clock.set(clock.now() - Span::minutes(90) + Span::seconds(59));
        assert_eq!(clock.jumped(), None);
        // It stood behind its floor when the server began: someone set it back meanwhile.
        let late = Clock::manual(Time::from_micros(1_000_000));
        late.raise_floor(Time::from_micros(1_000_000) + Span::hours(1));
        assert_eq!(late.jumped(), Some(Span::hours(-1)));
    }
}
