//! When a task runs by itself: a cron pattern in a time zone. Across daylight saving a job in the
//! spring gap runs right after it, a job in the autumn overlap once.

use std::str::FromStr as _;

use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::values::error::{Error, Result};
use crate::values::time::Time;

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
        let local = after.utc().with_timezone(&self.zone);
        let next = self
            .pattern
            .find_next_occurrence(&local, false)
            .map_err(|_| Error::invalid("schedule.cron", format!("{:?} never fires", self.cron)))?;
        Ok(Time::from_utc(next.to_utc()))
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
