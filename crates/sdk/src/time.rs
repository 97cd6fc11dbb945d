//! Moments and spans as the API writes them, in whole seconds. No clock: what time it is, the
//! server says (see `Client::now`).

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment in UTC, in whole seconds. In JSON `"YYYY-MM-DDTHH:MM:SSZ"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

/// Why a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a moment is written 2026-05-01 or 2026-05-01T08:30:00Z (UTC)")]
pub struct NotAMoment;

impl Moment {
    /// From seconds since 1970-01-01T00:00:00Z.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub const fn seconds(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to this moment; nothing if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0).max(0))
    }

    /// The moment this long before.
    #[must_use]
    pub const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }

    /// The moment this long after.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// Reads an HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7). Its two
    /// obsolete forms are not written by any server of today.
    pub(crate) fn from_http(text: &str) -> Option<Self> {
        let mut words = text.split_once(", ")?.1.split(' ');
        let day = number(words.next()?, 2)?;
        let month = words.next()?;
        let month = MONTHS.iter().zip(1_i64..).find(|(name, _)| **name == month)?.1;
        let year = number(words.next()?, 4)?;
        let of_day = seconds_of_day(words.next()?)?;
        (words.next()? == "GMT" && words.next().is_none()).then_some(())?;
        Some(Self(days(year, month, day)? * SECONDS_PER_DAY + of_day))
    }
}

impl FromStr for Moment {
    type Err = NotAMoment;

    /// Reads `YYYY-MM-DDTHH:MM:SSZ` (a fraction of a second is left out), or a date, which means
    /// its start in UTC.
    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        let (date, time) = match text.split_once('T') {
            Some((date, time)) => (date, time.strip_suffix('Z').ok_or(NotAMoment)?),
            None => (text, "00:00:00"),
        };
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAMoment);
        }
        let read = || {
            let mut parts = date.split('-');
            let year = number(parts.next()?, 4)?;
            let month = number(parts.next()?, 2)?;
            let day = number(parts.next()?, 2)?;
            parts.next().is_none().then_some(())?;
            Some(days(year, month, day)? * SECONDS_PER_DAY + seconds_of_day(time)?)
        };
        read().map(Self).ok_or(NotAMoment)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(SECONDS_PER_DAY));
        let second = self.0.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Exactly `digits` digits, or nothing.
fn number(text: &str, digits: usize) -> Option<i64> {
    let is_plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

fn seconds_of_day(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(|part| number(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // 60 is a leap second: it counts as the next minute's first.
    let is_time = parts.next().is_none() && hour < 24 && minute < 60 && second <= 60;
    is_time.then_some(hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; nothing for a date that is none. The
/// year begins in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) {
        return None;
    }
    let from_march = (month + 9) % 12;
    let year_of_march = if month <= 2 { year - 1 } else { year };
    let era = year_of_march.div_euclid(400);
    let of_era = year_of_march.rem_euclid(400);
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (date(days) == (year, month, day)).then_some(days)
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// A length of time in whole seconds. In JSON a number and one unit: `"30d"`, `"12h"`, `"90m"`,
/// `"45s"`; a bare number of seconds is read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

/// Why a text is no span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a number and a unit, such as 30d, 12h, 90m or 45s")]
pub struct NotASpan;

impl Span {
    /// From whole seconds; less than nothing is nothing.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(if seconds < 0 { 0 } else { seconds })
    }

    /// In whole seconds, never below 0.
    pub const fn seconds(self) -> i64 {
        self.0
    }
}

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(NotASpan)?;
        let (number, unit) = text.split_at(split);
        let size = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => SECONDS_PER_DAY,
            _ => return Err(NotASpan),
        };
        let number: i64 = number.parse().map_err(|_| NotASpan)?;
        number.checked_mul(size).map(Self).ok_or(NotASpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(SECONDS_PER_DAY, "d"), (3_600, "h"), (60, "m")];
        let unit = units.into_iter().find(|(size, _)| self.0 != 0 && self.0 % size == 0);
        let (size, name) = unit.unwrap_or((1, "s"));
        write!(f, "{}{name}", self.0 / size)
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
            Seconds(u32),
            Text(String),
        }
        match Either::deserialize(deserializer).map_err(|_| D::Error::custom(NotASpan))? {
            Either::Seconds(seconds) => Ok(Self(i64::from(seconds))),
            Either::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written_alike() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-05-03T06:12:00Z", 1_777_788_720),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(text.parse(), Ok(Moment(seconds)), "{text}");
            assert_eq!(Moment(seconds).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_leads_back_to_itself() {
        for days_since in -146_097..146_097 {
            let (year, month, day) = date(days_since);
            assert_eq!(days(year, month, day), Some(days_since));
        }
    }

    #[test]
    fn a_date_means_its_start_and_a_fraction_is_left_out() {
        assert_eq!("2026-05-01".parse::<Moment>().unwrap().to_string(), "2026-05-01T00:00:00Z");
        let moment: Moment = "2026-05-01T10:00:00.987654Z".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-05-01T10:00:00Z");
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-02-30",
            "2026-13-01",
            "2026-00-10",
            "2026-1-1",
            "7d",
            "2026-05-01T10:00:00",
            "2026-05-01T24:00:00Z",
            "2026-05-01T10:00Z",
            "2026-05-01TZ",
            "+026-05-01",
            "2026-05-01T10:00:00+02:00",
            "2026-05-01T10:00:00.Z",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(NotAMoment), "{text}");
        }
    }

    #[test]
    fn http_dates_are_read() {
        let moment = Moment::from_http("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(moment.to_string(), "1994-11-06T08:49:37Z");
        for text in ["", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 08:49:37 CET", "1994-11-06"] {
            assert_eq!(Moment::from_http(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_counted_from_and_to() {
        let (early, late) = (Moment(1_000), Moment(1_090));
        assert_eq!(late.since(early), Span(90));
        assert_eq!(early.since(late), Span(0));
        assert_eq!(late.before(Span(90)), early);
    }

    #[test]
    fn spans_are_read_and_written_in_their_largest_whole_unit() {
        for text in ["30d", "12h", "45s", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90m".parse::<Span>().unwrap().to_string(), "90m");
        assert_eq!("7200s".parse::<Span>().unwrap().to_string(), "2h");
        for text in ["", "d", "30", "30 d", "-1d", "1w", "1.5h", "99999999999999999d"] {
            assert_eq!(text.parse::<Span>(), Err(NotASpan), "{text}");
        }
    }

    #[test]
    fn both_forms_of_a_span_are_read_from_json() {
        assert_eq!(serde_json::from_str::<Span>("\"30d\"").unwrap(), Span(30 * 86_400));
        assert_eq!(serde_json::from_str::<Span>("90").unwrap(), Span(90));
        assert!(serde_json::from_str::<Span>("-5").is_err());
        assert_eq!(serde_json::to_string(&Span(5_400)).unwrap(), "\"90m\"");
    }
}
