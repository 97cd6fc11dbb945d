//! When a task runs by itself: a cron pattern in a time zone. A pattern that names hours means
//! local times: across daylight saving those in the spring gap run right after it, once, and those
//! in the autumn overlap once. One for every hour means real hours: it has no gap and no overlap.

use std::str::FromStr as _;

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::values::error::{Error, Result};
use crate::values::time::Time;

/// No zone has ever skipped more local time at once, nor is further from UTC.
const GAP_DAYS_MAX: i64 = 2;

/// A cron pattern and the zone in which it is meant.
#[derive(Clone, Debug)]
pub struct Schedule {
    pattern: Cron,
    cron: String,
    zone: Tz,
}

impl Schedule {
    /// Reads a pattern of five fields, or six with seconds first, and an IANA zone.
    pub fn parse(cron: &str, zone: &str) -> Result<Self> {
        let zone = Tz::from_str(zone).map_err(|_| {
            let why = format!("{zone:?} is no time zone; wanted: a name like Europe/Vienna or UTC");
            Error::invalid("schedule.zone", why)
        })?;
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let pattern = parser.parse(cron).map_err(|error| {
            let why = format!("{cron:?} is no cron pattern ({error}); an example: \"0 3 * * *\"");
            Error::invalid("schedule.cron", why)
        })?;
        Ok(Self { pattern, cron: cron.to_owned(), zone })
    }

    /// The pattern as it was written.
    pub fn cron(&self) -> &str {
        &self.cron
    }

    /// The zone's name.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// A moment as people in the zone say it, such as `Thu 2026-05-07 03:00 CEST`.
    pub fn told(&self, at: Time) -> String {
        at.utc().with_timezone(&self.zone).format("%a %Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// The first moment after `after` at which it fires.
    pub fn next_after(&self, after: Time) -> Result<Time> {
        let after = after.utc();
        let mut local = after.with_timezone(&self.zone);
        if self.is_for_every_hour() {
            local = self.pattern.find_next_occurrence(&local, false).map_err(|_| self.never())?;
            return Ok(Time::from_utc(local.to_utc()));
        }
        // A later local time is never an earlier moment: the first one that is later is the next.
        let mut local = local.naive_local();
        loop {
            let next = self.pattern.find_next_occurrence(&local.and_utc(), false);
            local = next.map_err(|_| self.never())?.naive_utc();
            let moment = self.moment_of(local);
            if moment > after {
                return Ok(Time::from_utc(moment));
            }
        }
    }

    /// Whether it means every hour, and none of its own.
    fn is_for_every_hour(&self) -> bool {
        self.pattern.pattern.hours.values().len() == 24
    }

    fn never(&self) -> Error {
        Error::invalid("schedule.cron", format!("{:?} never fires", self.cron))
    }

    /// When it is so late in the zone: the first time, or right after the gap in which it is not.
    fn moment_of(&self, local: NaiveDateTime) -> DateTime<Utc> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.to_utc(),
            LocalResult::None => self.end_of_gap(local),
        }
    }

    /// The first whole second at which it is later in the zone than in the gap.
    fn end_of_gap(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let middle = local.and_utc();
        let (mut before, mut after) =
            (middle - Duration::days(GAP_DAYS_MAX), middle + Duration::days(GAP_DAYS_MAX));
        while after - before > Duration::seconds(1) {
            let between = before + Duration::seconds((after - before).num_seconds() / 2);
            if between.with_timezone(&self.zone).naive_local() < local {
                before = between;
            } else {
                after = between;
            }
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(cron: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::parse(cron, zone).expect("a schedule");
        let after = Time::parse(after).expect("a moment");
        schedule.next_after(after).expect("it fires").to_string()
    }

    #[test]
    fn a_pattern_is_meant_in_its_zone() {
        assert_eq!(fires("0 3 * * *", "UTC", "2026-05-03T04:00:00Z"), "2026-05-04T03:00:00Z");
        let vienna = fires("0 3 * * *", "Europe/Vienna", "2026-05-03T04:00:00Z");
        assert_eq!(vienna, "2026-05-04T01:00:00Z");
        assert_eq!(fires("*/10 * * * * *", "UTC", "2026-05-03T04:00:01Z"), "2026-05-03T04:00:10Z");
    }

    #[test]
    fn moments_are_told_in_the_zone() {
        let schedule = Schedule::parse("0 3 * * *", "Europe/Vienna").expect("a schedule");
        let at = Time::parse("2026-05-07T01:00:00Z").expect("a moment");
        assert_eq!(schedule.told(at), "Thu 2026-05-07 03:00:00 CEST");
    }

    #[test]
    fn a_job_in_the_spring_gap_runs_right_after_it_and_once() {
        // 2026-03-29: Vienna goes from 02:00 to 03:00 (01:00 UTC).
        let first = fires("30 2 * * *", "Europe/Vienna", "2026-03-28T12:00:00Z");
        assert_eq!(first, "2026-03-29T01:00:00Z");
        assert_eq!(fires("30 2 * * *", "Europe/Vienna", &first), "2026-03-30T00:30:00Z");
    }

    #[test]
    fn a_job_in_the_autumn_overlap_runs_once() {
        // 2026-10-25: Vienna goes from 03:00 back to 02:00 (01:00 UTC).
        let first = fires("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00Z");
        assert_eq!(fires("30 2 * * *", "Europe/Vienna", &first), "2026-10-26T01:30:00Z");
    }

    /// The local times of all that fires between two local days.
    fn fired(cron: &str, zone: &str, days: [&str; 2]) -> Vec<String> {
        let schedule = Schedule::parse(cron, zone).expect("a schedule");
        let [mut at, end] = days.map(|day| Time::parse(day).expect("a moment"));
        let mut told = Vec::new();
        loop {
            at = schedule.next_after(at).expect("it fires");
            if at > end {
                return told;
            }
            told.push(at.utc().with_timezone(&schedule.zone).format("%H:%M %Z").to_string());
        }
    }

    #[test]
    fn lists_ranges_and_steps_hold_across_both_changes() {
        let (vienna, spring) = ("Europe/Vienna", ["2027-03-27T23:30:00Z", "2027-03-28T21:00:00Z"]);
        let autumn = ["2027-10-30T22:30:00Z", "2027-10-31T22:00:00Z"];
        for (cron, in_spring, in_autumn) in [
            ("30 2,14 * * *", vec!["03:00 CEST", "14:30 CEST"], vec!["02:30 CEST", "14:30 CET"]),
            ("0,30 2 * * *", vec!["03:00 CEST"], vec!["02:00 CEST", "02:30 CEST"]),
            (
                "0 2-4 * * *",
                vec!["03:00 CEST", "04:00 CEST"],
                vec!["02:00 CEST", "03:00 CET", "04:00 CET"],
            ),
            (
                "30 */8,2 * * *",
                vec!["03:00 CEST", "08:30 CEST", "16:30 CEST"],
                vec!["02:30 CEST", "08:30 CET", "16:30 CET"],
            ),
            ("*/20 2 * * *", vec!["03:00 CEST"], vec!["02:00 CEST", "02:20 CEST", "02:40 CEST"]),
            (
                "15 1-5/2 * * *",
                vec!["01:15 CET", "03:15 CEST", "05:15 CEST"],
                vec!["01:15 CEST", "03:15 CET", "05:15 CET"],
            ),
        ] {
            assert_eq!(fired(cron, vienna, spring), in_spring, "{cron}");
            assert_eq!(fired(cron, vienna, autumn), in_autumn, "{cron}");
        }
    }

    #[test]
    fn a_pattern_for_every_hour_means_real_hours() {
        let night = ["2027-03-27T23:30:00Z", "2027-03-28T02:00:00Z"];
        let spring = fired("30 * * * *", "Europe/Vienna", night);
        assert_eq!(spring, ["01:30 CET", "03:30 CEST"]);
        let night = ["2027-10-30T23:30:00Z", "2027-10-31T02:00:00Z"];
        let autumn = fired("30 * * * *", "Europe/Vienna", night);
        assert_eq!(autumn, ["02:30 CEST", "02:30 CET"]);
    }

    #[test]
    fn a_gap_of_a_whole_day_and_one_of_half_an_hour_end_when_they_do() {
        // Samoa went past 2011-12-30; Lord Howe goes from 02:00 to 02:30.
        assert_eq!(
            fires("0 9 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z"),
            "2011-12-30T10:00:00Z"
        );
        assert_eq!(
            fires("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z"),
            "2026-10-03T15:30:00Z"
        );
    }

    proptest::proptest! {
        #[test]
        fn moments_increase_and_no_local_time_comes_twice(
            (one, other) in (0_u32..24, 0_u32..24),
            minutes in proptest::sample::select(vec!["*", "*/7", "0,30", "59"]),
            zone in proptest::sample::select(vec![
                "Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "America/Havana",
            ]),
            day in 0_i64..365,
        ) {
            let schedule = Schedule::parse(&format!("{minutes} {one},{other} * * *"), zone);
            let schedule = schedule.expect("a schedule");
            let beginning = Time::parse("2027-01-01T00:00:00Z").expect("a moment");
            let mut last = beginning + crate::values::time::Span::days(day);
            let mut local = None;
            for _ in 0..20 {
                let next = schedule.next_after(last).expect("it fires");
                proptest::prop_assert!(next > last);
                let now = Some(next.utc().with_timezone(&schedule.zone).naive_local());
                proptest::prop_assert!(now > local);
                (last, local) = (next, now);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_or_never_fires_is_refused_by_field() {
        for (cron, zone, wanted) in [
            ("every day", "UTC", "schedule.cron"),
            ("0 3 * *", "UTC", "schedule.cron"),
            ("0 3 * * *", "Mars/Olympus", "schedule.zone"),
        ] {
            let Err(Error::Invalid { field, .. }) = Schedule::parse(cron, zone) else {
                panic!("{cron} {zone} must be refused")
            };
            assert_eq!(field, wanted);
        }
        let never = Schedule::parse("0 0 30 2 *", "UTC").expect("it reads");
        assert!(never.next_after(Time::ZERO).is_err());
    }
}
