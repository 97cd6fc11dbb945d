//! Moments and spans in whole microseconds, and the one clock. Nothing else in Reauth reads one.
//! Not a calendar: local times of schedules are computed in `tasks`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

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

/// The clock: the only reader of the machine's time. It never goes back: not below its floor, and
/// not below a moment that it has already told. Clones share one state.
#[derive(Clone, Debug)]
pub struct Clock {
    told: Arc<AtomicI64>,
    /// Where a manual clock stands; `FOLLOWS` when it follows the machine's.
    stands_at: Arc<AtomicI64>,
}

/// No manual clock stands at this moment, 290 000 years ago.
const FOLLOWS: i64 = i64::MIN;

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        let (told, stands_at) = (AtomicI64::new(0), AtomicI64::new(FOLLOWS));
        Self { told: Arc::new(told), stands_at: Arc::new(stands_at) }
    }

    /// A clock that stands at `start` until it is moved: for stories, simulations and the demo.
    pub fn manual(start: Time) -> Self {
        let clock = Self::system();
        clock.raise_floor(start);
        clock.set(start);
        clock
    }

    /// The machine's own idea of now, without a floor.
    pub fn machine_time() -> Time {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// The present moment; never earlier than any moment told before.
    pub fn now(&self) -> Time {
        let wall = match self.stands_at.load(Ordering::SeqCst) {
            FOLLOWS => Self::machine_time().0,
            stands_at => stands_at,
        };
        Time(self.told.fetch_max(wall, Ordering::SeqCst).max(wall))
    }

    /// From here on, no moment before `floor` is told.
    pub fn raise_floor(&self, floor: Time) {
        self.told.fetch_max(floor.0, Ordering::SeqCst);
    }

    /// Stands at `moment` from here on. Setting a clock back is how a story turns the machine's
    /// clock back: `now` does not follow.
    pub fn set(&self, moment: Time) {
        self.stands_at.store(moment.0, Ordering::SeqCst);
    }

    /// Moves a manual clock on.
    pub fn pass(&self, span: Span) {
        self.set(self.now() + span);
    }

    /// Follows the machine's clock from here on.
    pub fn follow_machine(&self) {
        self.stands_at.store(FOLLOWS, Ordering::SeqCst);
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
    fn the_clock_never_goes_back() {
        let start = Time::from_micros(1_000_000);
        let clock = Clock::manual(start);
        clock.pass(Span::hours(2));
        let later = clock.now();
        clock.set(start);
        assert_eq!(clock.now(), later);
        clock.raise_floor(later + Span::days(1));
        assert_eq!(clock.now(), later + Span::days(1));
        assert!(Clock::system().now() > later);
        clock.follow_machine();
        assert!(clock.now() > later + Span::days(365));
    }
}
