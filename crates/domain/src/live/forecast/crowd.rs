//! Devices of one user, of which there are more than there will be room for: which of them are
//! signed out, or refused, depends on the order in which they sign in. So each is followed by
//! itself, until there is room for all who are left.

use std::cmp::Reverse;

use uuid::Uuid;

use super::{SECONDS, STEP_UNITS, asks_to_sign_in, limits_of_a_sign_in, moment, next_end, second};
use crate::access::{Because, Ended, Era, Facts, end};
use crate::apps::policies::OverMax;
use crate::live::judge::strictness;
use crate::values::time::Time;

/// On how many devices the user is signed in at most, while that holds.
#[derive(Clone, Copy, Debug)]
pub(in crate::live) struct Room {
    pub(in crate::live) from: Time,
    pub(in crate::live) until: Option<Time>,
    pub(in crate::live) max: usize,
    pub(in crate::live) over: OverMax,
}

/// One of the devices.
#[derive(Debug)]
pub(in crate::live) struct Member {
    /// When it signed in, in which place among those of one second, and its session's id.
    signed_in: (Time, usize, Uuid),
    /// Its end, whatever the others do.
    end: Option<Ended>,
    /// Its limits once it has signed in anew.
    limits: Vec<Era>,
}

/// All devices of the user.
#[derive(Debug)]
pub(in crate::live) struct Crowd {
    pub(in crate::live) members: Vec<Member>,
    pub(in crate::live) rooms: Vec<Room>,
}

/// Who is left, by limits and the second of the next sign-in, and how much work is.
type Settled = (Vec<(Vec<Era>, usize)>, Option<u64>);

impl Member {
    /// See `Forecaster::add`.
    pub(in crate::live) fn new(
        id: Uuid,
        facts: &Facts<'_>,
        more: impl Iterator<Item = Era>,
        now: Time,
    ) -> Self {
        let end = next_end(&Facts { newer: &[], ..*facts }, now);
        let limits = limits_of_a_sign_in(facts, more, now);
        Self { signed_in: (facts.authenticated_at, 0, id), end, limits }
    }

    /// When something happens to it by itself: it ends, or signs in at the next whole second.
    fn turn(&self, now: Time) -> Option<Time> {
        let at = |end: Ended| {
            if asks_to_sign_in(&end) { moment(second(end.at, now), now) } else { end.at }
        };
        self.end.map(at)
    }

    fn is_there(&self, at: Time) -> bool {
        self.end.is_none_or(|end| at < end.at)
    }

    /// Answers whether it can.
    fn sign_in(&mut self, at: Time) -> bool {
        let facts = Facts { eras: &self.limits, ..Facts::made_at(at) };
        self.end = end(&facts);
        self.is_there(at)
    }
}

impl Crowd {
    /// Follows all to where there is room for those who are left; tells the second of each sign-in.
    pub(super) fn settle(
        mut self,
        now: Time,
        mut units_left: u64,
        mut tell: impl FnMut(usize),
    ) -> Settled {
        self.rooms.sort_by_key(|room| room.from);
        let (mut begun, mut sign_ins) = (0, 0);
        loop {
            let next = self.next(now);
            let room = self.rooms.get(begun).copied();
            let room = room.map(|room| (room.from.max(now), room.max));
            let room = room.filter(|(from, _)| next.is_none_or(|(at, _)| *from <= at));
            let Some(at) = room.map(|(from, _)| from).or(next.map(|(at, _)| at)) else {
                return (Vec::new(), Some(units_left));
            };
            if self.has_room(at) || second(at, now) >= SECONDS {
                return (self.left(now), Some(units_left));
            }
            let work = STEP_UNITS.saturating_mul(self.members.len() as u64);
            let Some(left) = units_left.checked_sub(work) else { return (Vec::new(), None) };
            units_left = left;
            match (room, next) {
                (Some((from, max)), _) => {
                    let too_many = (from, Because::TooMany);
                    self.end_oldest(from, max, |end| too_many < (end.at, end.because));
                    begun += 1;
                }
                (None, Some((_, place))) if self.turn_of(place, at, sign_ins) => {
                    sign_ins += 1;
                    tell(second(at, now));
                }
                _ => {}
            }
        }
    }

    /// To whom something happens next, and when. Who sign in at one second do so by their ids.
    fn next(&self, now: Time) -> Option<(Time, usize)> {
        let turns = self.members.iter().enumerate();
        let turns = turns.filter_map(|(place, member)| Some((member.turn(now)?, place)));
        turns.min_by_key(|(at, place)| (*at, self.members[*place].signed_in.2))
    }

    /// Whether there is for all, from now on.
    fn has_room(&self, at: Time) -> bool {
        let open = |room: &&Room| room.until.is_none_or(|until| at < until);
        self.rooms.iter().filter(open).all(|room| self.members.len() <= room.max)
    }

    /// Ends those for whom there is no room, as far as they have not ended by `at`; where that is
    /// told before their own end of the same moment, they end by that.
    fn end_oldest(&mut self, at: Time, max: usize, is_told_first: impl Fn(Ended) -> bool) {
        self.members.sort_by_key(|member| Reverse(member.signed_in));
        let mut there = 0;
        self.members.retain(|member| {
            let is_open = member.end.is_none_or(|end| at < end.at || is_told_first(end));
            let is_too_many = is_open && there >= max;
            there += usize::from(member.is_there(at));
            !is_too_many
        });
    }

    /// One ends for good, or signs in if it can; answers whether it did.
    fn turn_of(&mut self, place: usize, at: Time, sign_ins: usize) -> bool {
        let mut member = self.members.swap_remove(place);
        if !member.end.is_some_and(|end| asks_to_sign_in(&end)) || !member.sign_in(at) {
            return false;
        }
        let holds = |room: &&Room| room.from <= at && room.until.is_none_or(|until| at < until);
        let rooms = self.rooms.iter().filter(holds);
        let strictest = rooms.min_by_key(|room| strictness(room.max, room.over));
        if let Some(Room { max, over, .. }) = strictest.copied() {
            let others = self.members.iter().filter(|other| other.is_there(at)).count();
            if others >= max && over == OverMax::RefuseNew {
                return false;
            }
            self.end_oldest(at, max.saturating_sub(1), |_| false);
        }
        member.signed_in = (at, sign_ins + 1, member.signed_in.2);
        self.members.push(member);
        true
    }

    fn left(self, now: Time) -> Vec<(Vec<Era>, usize)> {
        let start = |member: Member| {
            let end = member.end.filter(asks_to_sign_in)?;
            Some((member.limits, second(end.at, now)))
        };
        self.members.into_iter().filter_map(start).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::access::{Limits, Newer, Verdict, decide};
    use crate::live::forecast::{SECONDS_AN_HOUR, UNITS_MAX};
    use crate::values::time::Span;

    const DAYS: usize = 20;

    fn now() -> Time {
        Time::parse("2026-10-01T00:00:00Z").expect("a moment")
    }

    fn hours(hours: i64) -> Span {
        Span::hours(hours)
    }

    /// A device: how long ago it signed in, since when it is idle, and the age that is asked of it.
    type Made = (i64, i64, Option<i64>);

    fn asked() -> impl Strategy<Value = (Vec<Room>, Option<i64>, Option<i64>)> {
        let over = prop_oneof![3 => Just(OverMax::EndOldest), 1 => Just(OverMax::RefuseNew)];
        let room = (-50..200_i64, proptest::option::weighted(0.3, 1..200_i64), 1..4_usize, over);
        let room = room.prop_map(|(from, held, max, over)| {
            // What held before had ended what is too many.
            let from = now() + hours(from.max(0));
            Room { from, until: held.map(|held| from + hours(held)), max, over }
        });
        let idle = proptest::option::weighted(0.3, 1..5_i64);
        let last = proptest::option::weighted(0.3, 1..300_i64);
        (proptest::collection::vec(room, 1..3), idle, last)
    }

    fn eras_of(
        (_, _, age): Made,
        rooms: &[Room],
        idle: Option<i64>,
        last: Option<i64>,
    ) -> Vec<Era> {
        let none = Limits::default();
        let era = |limits: Limits| Era { from: now(), until: None, limits };
        let mut eras: Vec<Era> = rooms
            .iter()
            .map(|room| {
                let max_sessions = u32::try_from(room.max).ok();
                Era { from: room.from, until: room.until, limits: Limits { max_sessions, ..none } }
            })
            .collect();
        eras.extend(age.map(|age| era(Limits { max_age: Some(hours(age)), ..none })));
        eras.extend(idle.map(|idle| era(Limits { max_idle: Some(hours(idle)), ..none })));
        eras.extend(last.map(|last| era(Limits { not_after: Some(now() + hours(last)), ..none })));
        eras
    }

    /// A device as it is lived with.
    struct Lived {
        id: u128,
        authenticated_at: Time,
        active_at: Time,
        eras: Vec<Era>,
    }

    impl Lived {
        fn facts<'a>(&'a self, newer: &'a [Newer]) -> Facts<'a> {
            let active_at = self.active_at;
            Facts { active_at, eras: &self.eras, newer, ..Facts::made_at(self.authenticated_at) }
        }

        fn verdict(&self, all: &[Self], at: Time) -> Verdict {
            let later = all.iter().filter(|other| {
                (other.authenticated_at, other.id) > (self.authenticated_at, self.id)
            });
            let newer: Vec<Newer> = later
                .map(|other| Newer {
                    authenticated_at: other.authenticated_at,
                    ended_at: end(&other.facts(&[])).map(|end| end.at),
                })
                .collect();
            decide(&self.facts(&newer), at)
        }
    }

    fn is_refused(all: &[Lived], rooms: &[Room], at: Time) -> bool {
        let hold = rooms
            .iter()
            .filter(|room| room.from <= at && room.until.is_none_or(|until| at < until));
        let there = all.iter().filter(|other| other.verdict(all, at).is_valid()).count();
        let strictest = hold.min_by_key(|room| (room.max, room.over == OverMax::EndOldest));
        strictest.is_some_and(|room| room.over == OverMax::RefuseNew && there >= room.max)
    }

    /// The same told by time itself and by the decision: hour by hour, every device that has to
    /// signs in; a moment later than the one before it.
    fn lived(mut all: Vec<Lived>, rooms: &[Room]) -> Vec<u64> {
        let mut told = vec![0; DAYS * 24];
        for (hour, count) in told.iter_mut().enumerate() {
            let at = now() + hours(i64::try_from(hour).expect("it is soon"));
            let is_begin = hour == 0;
            let mut due: Vec<u128> = Vec::new();
            let mut gone: Vec<u128> = Vec::new();
            for device in &all {
                if let Verdict::Ended(ended) = device.verdict(&all, at) {
                    let is_idle = ended.because == Because::Idle && is_begin;
                    if ended.because.asks_to_sign_in() || is_idle {
                        due.push(device.id);
                    } else {
                        gone.push(device.id);
                    }
                }
            }
            all.retain(|device| !gone.contains(&device.id));
            due.sort_unstable();
            for id in due {
                let place = all.iter().position(|device| device.id == id).expect("it is left");
                let mut device = all.remove(place);
                (device.authenticated_at, device.active_at) = (at, at);
                if is_refused(&all, rooms, at) || !decide(&device.facts(&[]), at).is_valid() {
                    continue;
                }
                *count += 1;
                // Whoever signs in first at a moment has the lower id.
                all.push(device);
                let out: Vec<u128> = all
                    .iter()
                    .filter(|one| {
                        matches!(one.verdict(&all, at), Verdict::Ended(end)
                        if end.because == Because::TooMany)
                    })
                    .map(|one| one.id)
                    .collect();
                all.retain(|one| !out.contains(&one.id));
            }
            // Whoever is there stays in use.
            for device in &mut all {
                device.active_at = at + hours(1);
            }
        }
        told
    }

    fn told(crowd: Crowd) -> Vec<u64> {
        let mut told = vec![0; DAYS * 24];
        let mut count = |second: usize| {
            told.get_mut(second / SECONDS_AN_HOUR).into_iter().for_each(|hour| *hour += 1);
        };
        let (left, units_left) = crowd.settle(now(), UNITS_MAX, &mut count);
        assert!(units_left.is_some(), "it is quick");
        for (limits, start) in left {
            let mut next = Some(start).filter(|start| *start < DAYS * 24 * SECONDS_AN_HOUR);
            while let Some(at) = next {
                let signed_in = moment(at, now());
                let facts = Facts { eras: &limits, ..Facts::made_at(signed_in) };
                let ends = end(&facts);
                if ends.is_some_and(|end| end.at <= signed_in) {
                    break;
                }
                count(at);
                let ends = ends.filter(asks_to_sign_in).map(|end| second(end.at, now()));
                next = ends.filter(|at| *at < DAYS * 24 * SECONDS_AN_HOUR);
            }
        }
        told
    }

    proptest! {
        #[test]
        fn a_crowd_is_told_as_the_decision_lives_with_it(
            made in proptest::collection::vec(
                (1..60_i64, 0..8_i64, proptest::option::weighted(0.8, 5..90_i64)), 1..5),
            (rooms, idle, last) in asked(),
        ) {
            let mut members = Vec::new();
            let mut devices = Vec::new();
            for (id, made) in (0_u32..).zip(made) {
                let authenticated_at = now() - hours(made.0);
                let active_at = authenticated_at.max(now() - hours(made.1));
                let id = u128::from(id);
                let eras = eras_of(made, &rooms, idle, last);
                let device = Lived { id, authenticated_at, active_at, eras };
                let facts = device.facts(&[]);
                members.push(Member::new(Uuid::from_u128(id), &facts, std::iter::empty(), now()));
                devices.push(device);
            }
            let told = told(Crowd { members, rooms: rooms.clone() });
            prop_assert_eq!(told, lived(devices, &rooms));
        }
    }
}
