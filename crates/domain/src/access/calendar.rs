//! Fixed times to sign in: "every day at 05:00", "every Monday at 05:00", meant in a time zone.
//! Across daylight saving a time in the spring gap is the first moment after it, and one in the
//! autumn overlap is its first occurrence.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeZone as _, Weekday};
use chrono_tz::Tz;

use crate::values::time::Time;

/// When everyone who signed in before signs in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Calendar {
    /// The day of the week; none is every day.
    pub weekday: Option<Weekday>,
    /// The local time.
    pub time: NaiveTime,
    /// The zone in which it is meant.
    pub zone: Tz,
}

impl Calendar {
    /// The first such moment strictly after `moment`.
    pub fn next_after(self, moment: Time) -> Time {
        let today = moment.utc().with_timezone(&self.zone).date_naive();
        // The same day may be over, and then a whole week passes: eight days have one for sure.
        let days = (0..=8).filter_map(|day| today.checked_add_days(Days::new(day)));
        let wanted = days.filter(|day| self.weekday.is_none_or(|weekday| day.weekday() == weekday));
        let mut moments = wanted.filter_map(|day| self.on(day));
        let next = moments.find(|next| *next > moment);
        // Beyond the calendar's own end nothing is known: it ends at once.
        next.unwrap_or(moment)
    }

    fn on(self, day: NaiveDate) -> Option<Time> {
        let local = day.and_time(self.time);
        let resolved = |at: DateTime<Tz>| Time::from_utc(at.to_utc());
        if let Some(first) = self.zone.from_local_datetime(&local).earliest() {
            return Some(resolved(first));
        }
        // The clocks were put forward over it: they are right again within a day.
        (1..=24 * 60).find_map(|minutes| {
            let later = local + chrono::TimeDelta::minutes(minutes);
            self.zone.from_local_datetime(&later).earliest().map(resolved)
        })
    }
}

/// `05:00` or `monday 05:00`.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(weekday) = self.weekday {
            write!(f, "{weekday} ")?;
        }
        write!(f, "{}", self.time.format("%H:%M"))
    }
}

/// Reads a local time, `HH:MM`.
pub fn time(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text, "%H:%M").ok()
}

/// Reads a day and a local time, `monday 05:00` or `Mon 05:00`.
pub fn weekday_and_time(text: &str) -> Option<(Weekday, NaiveTime)> {
    let (day, rest) = text.split_once(' ')?;
    Some((Weekday::from_str(day).ok()?, time(rest.trim())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(day: Option<Weekday>, text: &str, zone: Tz, after: &str) -> String {
        let calendar = Calendar { weekday: day, time: time(text).expect("a time"), zone };
        calendar.next_after(Time::parse(after).expect("a moment")).to_string()
    }

    #[test]
    fn a_time_is_meant_in_its_zone_and_comes_strictly_after() {
        let vienna = Tz::Europe__Vienna;
        assert_eq!(next(None, "05:00", vienna, "2026-05-03T02:59:59Z"), "2026-05-03T03:00:00Z");
        assert_eq!(next(None, "05:00", vienna, "2026-05-03T03:00:00Z"), "2026-05-04T03:00:00Z");
        let monday = Some(Weekday::Mon);
        // 2026-05-04 is a Monday.
        assert_eq!(next(monday, "05:00", vienna, "2026-05-03T00:00:00Z"), "2026-05-04T03:00:00Z");
        assert_eq!(next(monday, "05:00", vienna, "2026-05-04T03:00:00Z"), "2026-05-11T03:00:00Z");
        assert_eq!(next(None, "23:30", Tz::UTC, "2026-12-31T23:45:00Z"), "2027-01-01T23:30:00Z");
    }

    #[test]
    fn a_time_in_the_spring_gap_is_the_first_moment_after_it() {
        let vienna = Tz::Europe__Vienna;
        // 2026-03-29: from 02:00 to 03:00, which is 01:00 UTC.
        assert_eq!(next(None, "02:30", vienna, "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next(None, "02:30", vienna, "2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
    }

    #[test]
    fn a_time_in_the_autumn_overlap_is_its_first_occurrence() {
        let vienna = Tz::Europe__Vienna;
        // 2026-10-25: from 03:00 back to 02:00, which is 01:00 UTC.
        assert_eq!(next(None, "02:30", vienna, "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next(None, "02:30", vienna, "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn days_and_times_are_read_as_people_write_them() {
        let five = time("05:00").expect("a time");
        assert_eq!(weekday_and_time("monday 05:00"), Some((Weekday::Mon, five)));
        assert_eq!(weekday_and_time("Sun 05:00"), Some((Weekday::Sun, five)));
        for wrong in ["", "05:00", "monday", "someday 05:00", "monday 25:00", "monday 5"] {
            assert_eq!(weekday_and_time(wrong), None, "{wrong}");
        }
    }
}
