//! How often devices will have to sign in again, if every one of them stays in use and signs in as
//! soon as it must. It moves whole classes of devices, those with the same limits, from one sign-in
//! to the next, by the decision: a thousand devices with one moment cost as much as one.

use std::collections::{BTreeMap, HashMap};

use crate::access::{Era, Facts, Methods, end};
use crate::values::time::{Span, Time};

const HOURS_A_DAY: usize = 24;
const SECONDS_AN_HOUR: usize = 3_600;
/// How far it looks ahead.
const HOURS: usize = 90 * HOURS_A_DAY;
const SECONDS: usize = HOURS * SECONDS_AN_HOUR;

/// Sign-ins that will be forced, from one moment on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// How many in each of the next 2160 hours.
    pub hours: Vec<u64>,
    /// The most in one second.
    pub peak_per_second: u64,
    /// The first second that has as many.
    pub peak_at: Option<Time>,
}

/// Devices with the same limits (and place, where ends are spread), by the second from now at
/// which they sign in next.
type Class = BTreeMap<usize, u64>;

/// Takes devices one by one, then looks ahead.
pub(super) struct Forecaster {
    now: Time,
    classes: HashMap<(u16, Vec<Era>), Class>,
}

impl Forecaster {
    pub(super) fn new(now: Time) -> Self {
        Self { now, classes: HashMap::new() }
    }

    /// A device that is signed in now, with the limits that it will have.
    pub(super) fn add(&mut self, facts: &Facts<'_>) {
        let eras: Vec<Era> = facts.eras.iter().copied().map(without_idle).collect();
        let facts = Facts { eras: &eras, ..*facts };
        let Some(end) = end(&facts) else { return };
        if !end.because.asks_to_sign_in() {
            return;
        }
        let open = eras.iter().filter(|era| era.until.is_none_or(|until| self.now < until));
        let limits: Vec<Era> = open.copied().map(|era| for_a_sign_in(era, self.now)).collect();
        let is_spread = limits.iter().any(|era| era.limits.spread_percent > 0);
        let class = (if is_spread { facts.phase } else { 0 }, limits);
        let seconds = self.classes.entry(class).or_default();
        *seconds.entry(second(end.at, self.now)).or_default() += 1;
    }

    /// Takes the devices of another as well.
    pub(super) fn merge(&mut self, other: Self) {
        for (class, devices) in other.classes {
            let mine = self.classes.entry(class).or_default();
            for (second, count) in devices {
                *mine.entry(second).or_default() += count;
            }
        }
    }

    /// Looks ahead.
    pub(super) fn run(mut self) -> Forecast {
        let mut seconds = vec![0_u32; SECONDS];
        for ((phase, eras), mut class) in std::mem::take(&mut self.classes) {
            while let Some((at, devices)) = class.pop_first()
                && let Some(place) = seconds.get_mut(at)
            {
                let signed_in = self.moment(at);
                let facts = Facts { eras: &eras, phase, ..Facts::made_at(signed_in) };
                let end = end(&facts);
                if end.is_some_and(|end| end.at <= signed_in) {
                    continue; // Whose date has come does not sign in again.
                }
                *place = place.saturating_add(u32::try_from(devices).unwrap_or(u32::MAX));
                if let Some(end) = end.filter(|end| end.because.asks_to_sign_in()) {
                    *class.entry(second(end.at, self.now).max(at + 1)).or_default() += devices;
                }
            }
        }
        let hour = |seconds: &[u32]| seconds.iter().copied().map(u64::from).sum();
        let peak = seconds.iter().copied().max().unwrap_or(0);
        let peak_at = seconds.iter().position(|count| peak > 0 && *count == peak);
        Forecast {
            hours: seconds.chunks(SECONDS_AN_HOUR).map(hour).collect(),
            peak_per_second: u64::from(peak),
            peak_at: peak_at.map(|at| self.moment(at)),
        }
    }

    fn moment(&self, second: usize) -> Time {
        self.now + Span::seconds(i64::try_from(second).unwrap_or(i64::MAX))
    }
}

/// A device that stays in use is never idle.
fn without_idle(mut era: Era) -> Era {
    era.limits.max_idle = None;
    era
}

/// What of it counts for a device that signs in from now on, as it is asked to: by the methods that
/// it must, in the place of its old session.
fn for_a_sign_in(mut era: Era, now: Time) -> Era {
    era.from = if era.from <= now { Time::ZERO } else { era.from };
    era.limits.require_methods = Methods::NONE;
    era.limits.max_sessions = None;
    era
}

/// In how many whole seconds, rounded up: who signs in at a second has the end behind them.
fn second(end: Time, now: Time) -> usize {
    let micros = u64::try_from((end - now).micros()).unwrap_or(0);
    usize::try_from(micros.div_ceil(1_000_000)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::*;
    use crate::access::{Calendar, Limits, Verdict, decide, time};

    const STEP: Span = Span::minutes(30);

    fn now() -> Time {
        Time::parse("2026-10-01T00:00:00Z").expect("a moment")
    }

    fn limits() -> impl Strategy<Value = Limits> {
        let none = Limits::default();
        let otp = Methods::of(["otp"]).expect("known");
        let calendar = |hour: u32| {
            let time = time(&format!("{hour:02}:30")).expect("a time");
            Calendar { weekday: None, time, zone: Tz::Europe__Vienna }
        };
        prop_oneof![
            4 => (1..900_i64)
                .prop_map(move |hours| Limits { max_age: Some(Span::hours(hours)), ..none }),
            2 => (0..24_u32).prop_map(move |at| Limits { calendar: Some(calendar(at)), ..none }),
            1 => (0..2_000_i64).prop_map(move |hours| Limits {
                not_after: Some(now() + Span::hours(hours)),
                ..none
            }),
            1 => Just(Limits { max_idle: Some(Span::hours(1)), ..none }),
            1 => Just(Limits { require_methods: otp, ..none }),
        ]
    }

    fn sets() -> impl Strategy<Value = Vec<Era>> {
        let era = (-900..900_i64, proptest::option::of(1..900_i64), limits());
        let era = era.prop_map(|(from, held, limits)| {
            let from = now() + Span::hours(from);
            Era { from, until: held.map(|hours| from + Span::hours(hours)), limits }
        });
        proptest::collection::vec(era, 1..4)
    }

    /// The same told by time itself: half hour by half hour, every device that has to signs in.
    fn lived(devices: &[i64], eras: &[Era]) -> Vec<u64> {
        let all = Methods::of(["pwd", "otp"]).expect("known");
        let mut hours = vec![0_u64; HOURS];
        for age in devices {
            let mut facts = Facts { eras, ..Facts::made_at(now() - Span::hours(*age)) };
            let mut at = now();
            while let Some(hour) = hours.get_mut(
                usize::try_from((at - now()).whole_seconds()).expect("time goes on")
                    / SECONDS_AN_HOUR,
            ) {
                facts.active_at = at;
                if let Verdict::Ended(ended) = decide(&facts, at) {
                    facts = Facts { methods: all, eras, ..Facts::made_at(at) };
                    if !ended.because.asks_to_sign_in() || !decide(&facts, at).is_valid() {
                        break;
                    }
                    *hour += 1;
                }
                at = at + STEP;
            }
        }
        hours
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_forecast_is_what_a_simulation_lives_through(
            devices in proptest::collection::vec(0..500_i64, 1..4), eras in sets(),
        ) {
            let mut forecaster = Forecaster::new(now());
            for age in &devices {
                let made = Facts::made_at(now() - Span::hours(*age));
                forecaster.add(&Facts { eras: &eras, active_at: now(), ..made });
            }
            prop_assert_eq!(forecaster.run().hours, lived(&devices, &eras));
        }
    }
}
