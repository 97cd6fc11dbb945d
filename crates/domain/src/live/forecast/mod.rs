//! How often devices will have to sign in again, if every one of them stays in use and signs in as
//! soon as it must. It moves whole classes of devices, those with the same limits, from one sign-in
//! to the next, by the decision: a thousand devices with one moment cost as much as one. What is
//! asked of most devices is just an age: these repeat, and cost an addition a sign-in. Only where a
//! user has more devices than there will be room for, each is followed by itself: see `crowd`.

mod crowd;

use std::collections::{BTreeMap, HashMap};

pub(super) use self::crowd::{Crowd, Member, Room};
use crate::access::{Because, Ended, Era, Facts, Limits, end};
use crate::values::error::{Error, Result};
use crate::values::time::{Span, Time};

const HOURS_A_DAY: usize = 24;
const SECONDS_AN_HOUR: usize = 3_600;
const MICROS_A_SECOND: u64 = 1_000_000;
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

/// How much work a forecast may be: some seconds. A sign-in of a class that always has the same
/// time between two of them is one unit of it, any other costs as much as `STEP_UNITS` of these.
const UNITS_MAX: u64 = 1_000_000_000;
const STEP_UNITS: u64 = 32;

/// Half a megabyte of counts.
const BLOCK_SECONDS: usize = 1 << 17;

/// Devices with the same limits, by the second from now at which they sign in next.
type Class = BTreeMap<usize, u64>;

/// Takes devices one by one, then looks ahead.
pub(super) struct Forecaster {
    now: Time,
    rhythm: fn(&[Era], Time) -> Option<Rhythm>,
    /// Devices that have a rhythm, by it and the second at which they sign in next.
    steady: HashMap<(Rhythm, usize), u64>,
    /// All others.
    classes: HashMap<Vec<Era>, Class>,
    /// Devices of users who have more than there will be room for.
    crowds: Vec<Crowd>,
    /// The sign-ins of crowds until there was room for all, by the second.
    settled: HashMap<usize, u64>,
    /// What is left of the work that crowds may be; none if that was not enough.
    crowd_units_left: Option<u64>,
}

impl Forecaster {
    pub(super) fn new(now: Time) -> Self {
        Self {
            now,
            rhythm,
            steady: HashMap::new(),
            classes: HashMap::new(),
            crowds: Vec::new(),
            settled: HashMap::new(),
            crowd_units_left: Some(UNITS_MAX),
        }
    }

    /// A device that is signed in now, with the limits that it has, and with those that it has as
    /// well once it has signed in anew.
    pub(super) fn add(&mut self, facts: &Facts<'_>, more: impl Iterator<Item = Era>) {
        if let Some(end) = next_end(facts, self.now).filter(asks_to_sign_in) {
            let limits = limits_of_a_sign_in(facts, more, self.now);
            self.enter(limits, second(end.at, self.now));
        }
    }

    /// Devices of one user that are signed in now.
    pub(super) fn add_crowd(&mut self, crowd: Crowd) {
        self.crowds.push(crowd);
    }

    /// Looks ahead at the crowds so far, to where there is room for all who are left of each. This
    /// may take long: no lock is held meanwhile.
    pub(super) fn settle(&mut self) {
        for crowd in std::mem::take(&mut self.crowds) {
            let Some(units_left) = self.crowd_units_left else { return };
            let (left, units) = crowd.settle(self.now, units_left, |second| {
                *self.settled.entry(second).or_default() += 1;
            });
            self.crowd_units_left = units;
            for (limits, start) in left {
                self.enter(limits, start);
            }
        }
    }

    /// A device with these limits that signs in next at this second.
    fn enter(&mut self, limits: Vec<Era>, start: usize) {
        let devices = match (self.rhythm)(&limits, self.now) {
            Some(rhythm) => self.steady.entry((rhythm, start)).or_default(),
            None => self.classes.entry(limits).or_default().entry(start).or_default(),
        };
        *devices += 1;
    }

    /// Takes the devices of another as well.
    pub(super) fn merge(&mut self, other: Self) {
        for (rhythm, devices) in other.steady {
            *self.steady.entry(rhythm).or_default() += devices;
        }
        for (class, starts) in other.classes {
            let class = self.classes.entry(class).or_default();
            for (second, devices) in starts {
                *class.entry(second).or_default() += devices;
            }
        }
        for (second, devices) in other.settled {
            *self.settled.entry(second).or_default() += devices;
        }
        self.crowds.extend(other.crowds);
        let both = self.crowd_units_left.zip(other.crowd_units_left);
        self.crowd_units_left = both.map(|(one, other)| one.min(other));
    }

    /// Looks ahead. Refused is what would take too long.
    pub(super) fn run(mut self) -> Result<Forecast> {
        self.settle();
        self.run_within(UNITS_MAX)
    }

    fn run_within(self, units_max: u64) -> Result<Forecast> {
        let mut ahead = Ahead { now: self.now, seconds: vec![0; SECONDS], units_left: units_max };
        self.crowd_units_left.ok_or_else(too_much)?;
        for (second, devices) in self.settled {
            add(&mut ahead.seconds[second], devices);
        }
        for (eras, class) in self.classes {
            ahead.step(&eras, class)?;
        }
        let mut steady: Vec<Steady> = self.steady.into_iter().collect();
        steady.sort_unstable();
        let mut beats = Vec::new();
        for class in steady.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
            ahead.repeat(class, &mut beats)?;
        }
        ahead.beat(beats);
        Ok(ahead.told())
    }
}

/// Devices that sign in again after the same time always, as long as they may, in seconds from now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Rhythm {
    period: usize,
    until: usize,
}

/// The rhythm of sign-ins with these limits, if nothing but an age and a last day is asked for.
fn rhythm(eras: &[Era], now: Time) -> Option<Rhythm> {
    let mut rhythm = Rhythm { period: SECONDS, until: SECONDS };
    for era in eras {
        let Limits { max_age, not_after, .. } = era.limits;
        let plain = Limits { max_age, not_after, ..Limits::default() };
        if era.from > Time::ZERO || era.until.is_some() || era.limits != plain {
            return None;
        }
        let period = max_age.map_or(SECONDS, |age| second(now + age, now));
        rhythm.period = rhythm.period.min(period.max(1));
        rhythm.until = rhythm.until.min(not_after.map_or(SECONDS, |end| second(end, now)));
    }
    Some(rhythm)
}

/// Devices with a rhythm, by it and the second at which they sign in next; how many.
type Steady = ((Rhythm, usize), u64);

/// Devices of one rhythm that sign in next at the same second.
struct Beat {
    next: usize,
    devices: u64,
    period: usize,
    until: usize,
}

/// The sign-ins that are counted so far.
struct Ahead {
    now: Time,
    seconds: Vec<u32>,
    units_left: u64,
}

impl Ahead {
    /// Moves a class from one sign-in to the next, by the decision.
    fn step(&mut self, eras: &[Era], mut class: Class) -> Result<()> {
        while let Some((at, devices)) = class.pop_first()
            && let Some(place) = self.seconds.get_mut(at)
        {
            let signed_in = moment(at, self.now);
            let facts = Facts { eras, ..Facts::made_at(signed_in) };
            let end = end(&facts);
            if end.is_some_and(|end| end.at <= signed_in) {
                continue; // Whose date has come does not sign in again.
            }
            add(place, devices);
            self.spend(STEP_UNITS)?;
            if let Some(end) = end.filter(|end| end.because.asks_to_sign_in()) {
                *class.entry(second(end.at, self.now).max(at + 1)).or_default() += devices;
            }
        }
        Ok(())
    }

    /// The same for devices of one rhythm: one by one if they are few, later and together with
    /// others; else every second takes over what was a period before it.
    fn repeat(&mut self, class: &[Steady], beats: &mut Vec<Beat>) -> Result<()> {
        let Some(((Rhythm { period, until }, _), _)) = class.first().copied() else {
            return Ok(());
        };
        let class = class.iter().map(|((_, start), devices)| (*start, *devices));
        let sign_ins = |(start, _)| until.saturating_sub(start).div_ceil(period) as u64;
        let (one_by_one, all_at_once) = (class.clone().map(sign_ins).sum(), 2 * until as u64);
        self.spend(all_at_once.min(one_by_one))?;
        if one_by_one <= all_at_once {
            beats.extend(class.map(|(next, devices)| Beat { next, devices, period, until }));
            return Ok(());
        }
        let mut seconds = vec![0_u32; until];
        for (start, devices) in class.filter(|(start, _)| *start < until) {
            add(&mut seconds[start], devices);
        }
        for at in period..until {
            seconds[at] = seconds[at].saturating_add(seconds[at - period]);
        }
        for (place, devices) in self.seconds.iter_mut().zip(seconds) {
            *place = place.saturating_add(devices);
        }
        Ok(())
    }

    /// Each of these signs in again and again: block by block, so that what is counted stays in the
    /// cache.
    fn beat(&mut self, mut beats: Vec<Beat>) {
        for block in (0..SECONDS).step_by(BLOCK_SECONDS) {
            for Beat { next, devices, period, until } in &mut beats {
                let until = (*until).min(block + BLOCK_SECONDS);
                while *next < until {
                    add(&mut self.seconds[*next], *devices);
                    *next += *period;
                }
            }
        }
    }

    fn spend(&mut self, units: u64) -> Result<()> {
        self.units_left = self.units_left.checked_sub(units).ok_or_else(too_much)?;
        Ok(())
    }

    fn told(&self) -> Forecast {
        let hour = |seconds: &[u32]| seconds.iter().copied().map(u64::from).sum();
        let peak = self.seconds.iter().copied().max().unwrap_or(0);
        let peak_at = self.seconds.iter().position(|count| peak > 0 && *count == peak);
        Forecast {
            hours: self.seconds.chunks(SECONDS_AN_HOUR).map(hour).collect(),
            peak_per_second: u64::from(peak),
            peak_at: peak_at.map(|at| moment(at, self.now)),
        }
    }
}

fn too_much() -> Error {
    let why = "sign-ins would be forced so often that their forecast takes too long: ask for a \
               longer max_age, for no spread, or for no valid_from and valid_until";
    Error::invalid("policies", why)
}

fn add(place: &mut u32, devices: u64) {
    *place = place.saturating_add(u32::try_from(devices).unwrap_or(u32::MAX));
}

fn moment(second: usize, now: Time) -> Time {
    now + Span::seconds(i64::try_from(second).unwrap_or(i64::MAX))
}

/// The end of a device that stays in use from now on: if it is idle by now, it is that.
fn next_end(facts: &Facts<'_>, now: Time) -> Option<Ended> {
    let is_idle = |end: &Ended| end.because == Because::Idle && end.at <= now;
    end(facts).filter(is_idle).or_else(|| {
        let eras: Vec<Era> = facts.eras.iter().copied().map(without_idle).collect();
        end(&Facts { eras: &eras, ..*facts })
    })
}

/// As if it were asked of who was idle, too.
fn asks_to_sign_in(end: &Ended) -> bool {
    end.because.asks_to_sign_in() || end.because == Because::Idle
}

/// The limits of a device's sessions after its next sign-in.
fn limits_of_a_sign_in(facts: &Facts<'_>, more: impl Iterator<Item = Era>, now: Time) -> Vec<Era> {
    let all = facts.eras.iter().copied().chain(more);
    let open = all.filter(|era| era.until.is_none_or(|until| now < until));
    let limits = open.map(|era| for_a_sign_in(era, facts.phase, now));
    limits.filter(|era| era.limits != Limits::default()).collect()
}

/// A device that stays in use is never idle.
fn without_idle(mut era: Era) -> Era {
    era.limits.max_idle = None;
    era
}

/// What of it counts for a device that signs in from now on, as it is asked to: by the methods that
/// it must, in the place of its old session. Devices sign in at whole seconds: so their age may be
/// rounded up to one, and places with the same age need not be told apart.
fn for_a_sign_in(mut era: Era, phase: u16, now: Time) -> Era {
    era.from = if era.from <= now { Time::ZERO } else { era.from };
    let Limits { calendar, not_after, .. } = era.limits;
    let age = era.limits.age(phase);
    let max_age = match era.until {
        None => age.map(|age| moment(second(now + age, now), now) - now),
        // Whether its end comes in time is a matter of less than a second.
        Some(_) => age,
    };
    era.limits = Limits { max_age, calendar, not_after, ..Limits::default() };
    era
}

/// In how many whole seconds, rounded up: who signs in at a second has the end behind them.
fn second(end: Time, now: Time) -> usize {
    let micros = u64::try_from((end - now).micros()).unwrap_or(0);
    usize::try_from(micros.div_ceil(MICROS_A_SECOND)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::iter::empty;

    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::*;
    use crate::access::{Calendar, Methods, Verdict, decide, time};

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
                forecaster.add(&Facts { eras: &eras, active_at: now(), ..made }, empty());
            }
            let told = forecaster.run().expect("it is quick");
            prop_assert_eq!(told.hours, lived(&devices, &eras));
        }

        #[test]
        fn what_has_a_rhythm_is_told_as_step_by_step(
            devices in proptest::collection::vec((0..9_000_000_i64, any::<u16>()), 1..20),
            limits in proptest::collection::vec(
                (proptest::option::of(20_000..9_000_000_i64), 0..50_u8,
                 proptest::option::of(0..9_000_000_i64)), 1..3),
            short in proptest::option::of(1..20_i64),
        ) {
            let whole = |seconds: i64| Span::from_micros(seconds * 1_000_000 + 7);
            let era = |limits: Limits| Era { from: Time::ZERO, until: None, limits };
            let mut eras: Vec<Era> = limits.into_iter().map(|(age, spread_percent, days)| {
                let max_age = age.map(Span::seconds);
                let not_after = days.map(|seconds| now() + whole(seconds));
                era(Limits { max_age, not_after, spread_percent, ..Limits::default() })
            }).collect();
            // So short an age for a while only: step by step it would take long.
            eras.extend(short.map(|seconds| era(Limits {
                max_age: Some(Span::seconds(seconds)),
                not_after: Some(now() + Span::seconds(1_000)),
                ..Limits::default()
            })));
            let told = |is_quick: bool, units_max| {
                let mut forecaster = Forecaster::new(now());
                if !is_quick {
                    forecaster.rhythm = |_, _| None;
                }
                for (age, phase) in &devices {
                    let made = Facts::made_at(now() - whole(*age));
                    let facts = Facts { eras: &eras, active_at: now(), phase: *phase, ..made };
                    forecaster.add(&facts, empty());
                }
                forecaster.run_within(units_max)
            };
            let quick = told(true, UNITS_MAX).expect("it is quick");
            let sign_ins = quick.hours.iter().sum::<u64>();
            prop_assert_eq!(quick, told(false, UNITS_MAX).expect("they are few"));
            prop_assert!(sign_ins == 0 || told(false, STEP_UNITS - 1).is_err(), "it is bounded");
        }
    }

    #[test]
    fn the_shortest_age_is_told_as_soon_as_any() {
        let mut forecaster = Forecaster::new(now());
        let limits =
            Limits { max_age: Some(Span::seconds(10)), spread_percent: 50, ..Limits::default() };
        let eras = [Era { from: Time::ZERO, until: None, limits }];
        for phase in 0..=u16::MAX {
            let made = Facts::made_at(now() - Span::seconds(1));
            forecaster.add(&Facts { eras: &eras, active_at: now(), phase, ..made }, empty());
        }
        assert!(forecaster.steady.len() <= 12, "of five to ten seconds");
        let told = forecaster.run().expect("it is quick");
        assert!(told.peak_per_second > 10_000 && told.hours[2_159] > 65_536 * 360);
    }
}
