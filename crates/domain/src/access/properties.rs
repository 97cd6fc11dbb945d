//! Properties of the decision over random sets of policies, histories and clocks.

use super::*;
use chrono_tz::Tz;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const HOUR: Span = Span::hours(1);

fn at(hour: i64) -> Time {
    Time::from_micros(1_790_000_000_000_000) + Span::hours(hour)
}

fn moments() -> impl Strategy<Value = Time> {
    (0..400_i64).prop_map(at)
}

fn methods() -> impl Strategy<Value = Methods> {
    let names = subsequence(vec!["pwd", "otp", "hwk"], 0..=3);
    names.prop_map(|names| Methods::of(&names).expect("known"))
}

fn calendars() -> impl Strategy<Value = Calendar> {
    let zones = select(vec![Tz::UTC, Tz::Europe__Vienna, Tz::America__New_York, Tz::Asia__Kolkata]);
    let days = proptest::option::of(select(vec![chrono::Weekday::Mon, chrono::Weekday::Sun]));
    (days, 0..24_u32, select(vec![0, 30_u32]), zones).prop_map(|(weekday, hour, minute, zone)| {
        let time = time(&format!("{hour:02}:{minute:02}")).expect("a time");
        Calendar { weekday, time, zone }
    })
}

/// What one policy asks, at least one thing.
fn limits() -> impl Strategy<Value = Limits> {
    let spans = || (1..300_i64).prop_map(|hours| Some(Span::hours(hours)));
    let none = Limits::default();
    let age = (spans(), 0..50_u8).prop_map(move |(max_age, spread_percent)| Limits {
        max_age,
        spread_percent,
        ..none
    });
    prop_oneof![
        age,
        spans().prop_map(move |max_idle| Limits { max_idle, ..none }),
        (spans(), spans()).prop_map(move |(max_age, max_idle)| Limits {
            max_age,
            max_idle,
            ..none
        }),
        calendars().prop_map(move |one| Limits { calendar: Some(one), ..none }),
        moments().prop_map(move |one| Limits { not_after: Some(one), ..none }),
        (1..4_u32).prop_map(move |max| Limits { max_sessions: Some(max), ..none }),
        methods().prop_map(move |require_methods| Limits { require_methods, ..none }),
        (moments(), any::<bool>()).prop_map(move |(authenticated_by, wipes)| Limits {
            cut: Some(Cut { authenticated_by, wipes }),
            ..none
        }),
    ]
}

fn eras() -> impl Strategy<Value = Era> {
    (moments(), proptest::option::of(1..300_i64), limits()).prop_map(|(from, held, limits)| Era {
        from,
        until: held.map(|hours| from + Span::hours(hours)),
        limits,
    })
}

fn sets() -> impl Strategy<Value = Vec<Era>> {
    proptest::collection::vec(eras(), 0..8)
}

/// A session and all that was said about it, with memory of its own.
#[derive(Clone, Debug)]
struct Known {
    authenticated_at: Time,
    active_at: Time,
    expires_at: Option<Time>,
    user_ended: Option<Ended>,
    cut_offs: Vec<(CutOffKind, Time)>,
    methods: Methods,
    phase: u16,
    newer: Vec<Newer>,
    eras: Vec<Era>,
}

impl Known {
    fn facts(&self) -> Facts<'_> {
        Facts {
            active_at: self.active_at,
            ended: None,
            expires_at: self.expires_at,
            user_ended: self.user_ended,
            cut_offs: &self.cut_offs,
            eras: &self.eras,
            methods: self.methods,
            phase: self.phase,
            newer: &self.newer,
            ..Facts::made_at(self.authenticated_at)
        }
    }

    fn end(&self) -> Option<Ended> {
        end(&self.facts())
    }

    /// The end without the one that activity puts off.
    fn absolute_end(&self) -> Option<Ended> {
        let mut known = self.clone();
        known.eras.iter_mut().for_each(|era| era.limits.max_idle = None);
        known.end()
    }
}

fn newer() -> impl Strategy<Value = Newer> {
    (moments(), proptest::option::of(1..200_i64)).prop_map(|(authenticated_at, held)| Newer {
        authenticated_at,
        ended_at: held.map(|hours| authenticated_at + Span::hours(hours)),
    })
}

fn cut_offs() -> impl Strategy<Value = (CutOffKind, Time)> {
    let kinds = [CutOffKind::Everyone, CutOffKind::App, CutOffKind::Group, CutOffKind::User];
    (select(kinds.to_vec()), moments())
}

fn known() -> impl Strategy<Value = Known> {
    let times = (moments(), 0..200_i64, proptest::option::of(moments()));
    let locked = moments().prop_map(|at| Ended { at, because: Because::UserLocked });
    let many = (proptest::collection::vec(cut_offs(), 0..3), methods(), any::<u16>());
    let lists = (proptest::collection::vec(newer(), 0..4), sets());
    (times, proptest::option::weighted(0.2, locked), many, lists).prop_map(
        |((authenticated_at, used, expires_at), user_ended, (cut_offs, methods, phase), lists)| {
            let active_at = authenticated_at + Span::hours(used);
            let (newer, eras) = lists;
            Known {
                authenticated_at,
                active_at,
                expires_at,
                user_ended,
                cut_offs,
                methods,
                phase,
                newer,
                eras,
            }
        },
    )
}

/// None is never.
fn is_no_later(one: Option<Ended>, other: Option<Ended>) -> bool {
    other.is_none_or(|other| one.is_some_and(|one| one.at <= other.at))
}

proptest! {
    /// All that apply hold: the earliest end of any one alone is the end of all together, and its
    /// reason is told.
    #[test]
    fn the_strictest_decides(known in known()) {
        let nothing = Known { eras: vec![], cut_offs: vec![], expires_at: None, user_ended: None,
            ..known.clone() };
        let mut alone = vec![
            Known { expires_at: known.expires_at, ..nothing.clone() },
            Known { user_ended: known.user_ended, ..nothing.clone() },
        ];
        alone.extend(known.cut_offs.iter().map(|one| Known { cut_offs: vec![*one],
            ..nothing.clone() }));
        alone.extend(known.eras.iter().map(|one| Known { eras: vec![*one], ..nothing.clone() }));
        let ends = alone.iter().filter_map(Known::end);
        let strictest = ends.min_by_key(|ended| (ended.at, ended.because));
        prop_assert_eq!(known.end(), strictest);
    }

    /// In which order policies, cut-offs and other sessions are told changes nothing.
    #[test]
    fn the_order_is_irrelevant(
        (known, seed) in known().prop_flat_map(|known| {
            let places = (0..known.eras.len()).collect::<Vec<_>>();
            (Just(known), Just(places).prop_shuffle())
        }),
    ) {
        let mut other = known.clone();
        other.eras = seed.iter().map(|place| known.eras[*place]).collect();
        other.cut_offs.reverse();
        other.newer.reverse();
        prop_assert_eq!(known.end(), other.end());
    }

    /// One policy, cut-off or sign-in elsewhere more never lengthens.
    #[test]
    fn adding_never_lengthens(known in known(), era in eras(), cut in cut_offs(), new in newer()) {
        let before = known.end();
        let mut with = [known.clone(), known.clone(), known];
        with[0].eras.push(era);
        with[1].cut_offs.push(cut);
        with[2].newer.push(new);
        for more in &with {
            prop_assert!(is_no_later(more.end(), before), "{:?} {:?}", more.end(), before);
        }
    }

    /// Activity puts off the idle end only; a lock, a cut-off, the end of a policy's time or time
    /// itself put off nothing that has come. Only a real authentication does.
    #[test]
    fn activity_puts_off_the_idle_end_only(known in known(), used in 1..200_i64) {
        let mut used_later = known.clone();
        used_later.active_at = used_later.active_at + Span::hours(used);
        prop_assert_eq!(used_later.absolute_end(), known.absolute_end());
        prop_assert!(is_no_later(known.end(), used_later.end()));
    }

    /// Whatever set takes the place of the one before, what had ended by then stays ended, at the
    /// very same moment and for the same reason.
    #[test]
    fn a_new_set_of_policies_revives_nothing(
        known in known(), new in proptest::collection::vec(limits(), 0..5), now in moments(),
    ) {
        prop_assume!(known.authenticated_at < now);
        let mut later = known.clone();
        later.eras.retain(|era| era.from < now);
        for era in &mut later.eras {
            era.until = Some(era.until.map_or(now, |until| until.min(now)));
        }
        later.eras.extend(new.into_iter().map(|limits| Era { from: now, until: None, limits }));
        // What was to begin later never began: it is not a part of the history.
        let mut before = known;
        before.eras.retain(|era| era.from < now);
        if let Verdict::Ended(ended) = decide(&before.facts(), now - Span::from_micros(1)) {
            match decide(&later.facts(), now) {
                Verdict::Ended(told) if told.because == Because::Wiped => {}
                told => prop_assert_eq!(told, Verdict::Ended(ended)),
            }
        }
    }

    /// A clock that goes back lengthens nothing: a verdict depends on its moment alone, a later
    /// moment never lets in what an earlier one refused, and 1 ms decides.
    #[test]
    fn every_end_is_exact_to_the_millisecond(known in known()) {
        let Some(ended) = known.end() else { return Ok(()) };
        let milli = Span::from_micros(1_000);
        prop_assert!(decide(&known.facts(), ended.at - milli).is_valid());
        for now in [ended.at, ended.at + milli, ended.at + HOUR, ended.at + Span::days(9_000)] {
            match decide(&known.facts(), now) {
                // A wipe is told even of what had ended before.
                Verdict::Ended(told) if told.because == Because::Wiped => {}
                told => prop_assert_eq!(told, Verdict::Ended(ended)),
            }
        }
    }
}

/// A wipe that was asked for is told, whatever ended the session before; but never before its time.
#[test]
fn a_wipe_is_told_even_if_the_session_had_ended_before() {
    let wipe =
        Limits { cut: Some(Cut { authenticated_by: at(9), wipes: true }), ..Limits::default() };
    let eras = [Era { from: at(9), until: None, limits: wipe }];
    for because in [Because::SignedOut, Because::ReAuthenticate, Because::TooOld] {
        let ended = Ended { at: at(5), because };
        let facts = Facts { ended: Some(ended), eras: &eras, ..Facts::made_at(at(0)) };
        assert_eq!(decide(&facts, at(8)), Verdict::Ended(ended));
        let wiped = Ended { at: at(5), because: Because::Wiped };
        assert_eq!(decide(&facts, at(9)), Verdict::Ended(wiped));
        let later = Facts { authenticated_at: at(10), ..facts };
        assert_eq!(decide(&later, at(11)), Verdict::Ended(ended), "it is about what was before");
    }
}

/// One condition in an otherwise clean world.
struct Row {
    name: &'static str,
    known: Known,
    because: Because,
}

/// Each condition that there is, alone: state, lock, each scope of cut-offs, each limit.
fn table() -> Vec<Row> {
    let clean = || Known {
        authenticated_at: at(0),
        active_at: at(0),
        expires_at: None,
        user_ended: None,
        cut_offs: vec![],
        methods: Methods::of(["pwd"]).expect("known"),
        phase: 0,
        newer: vec![],
        eras: vec![],
    };
    let row = |name, known, because| Row { name, known, because };
    let limited = |limits| {
        let eras = vec![Era { from: at(-1), until: None, limits }];
        Known { eras, ..clean() }
    };
    let ended = |because| Known { user_ended: Some(Ended { at: at(9), because }), ..clean() };
    let mut rows = vec![
        row("lock", ended(Because::UserLocked), Because::UserLocked),
        row("deletion", ended(Because::UserDeleted), Because::UserDeleted),
        row("own end", Known { expires_at: Some(at(9)), ..clean() }, Because::Expired),
    ];
    let none = Limits::default();
    let calendar = |weekday| {
        let time = at(9).utc().time();
        Some(Calendar { weekday, time, zone: Tz::UTC })
    };
    let cut = |wipes| Some(Cut { authenticated_by: at(9), wipes });
    let otp = Methods::of(["otp"]).expect("known");
    let from_nine = |limits| {
        let eras = vec![Era { from: at(9), until: None, limits }];
        Known { eras, ..clean() }
    };
    let other = Newer { authenticated_at: at(9), ended_at: None };
    let day = chrono::Datelike::weekday(&at(9).utc());
    rows.extend([
        row("age", limited(Limits { max_age: Some(Span::hours(9)), ..none }), Because::TooOld),
        row("idle", limited(Limits { max_idle: Some(Span::hours(9)), ..none }), Because::Idle),
        row("daily", limited(Limits { calendar: calendar(None), ..none }), Because::Calendar),
        row("weekly", limited(Limits { calendar: calendar(Some(day)), ..none }), Because::Calendar),
        row("date", limited(Limits { not_after: Some(at(9)), ..none }), Because::NotAfter),
        row("method", from_nine(Limits { require_methods: otp, ..none }), Because::MethodMissing),
        row("revocation", from_nine(Limits { cut: cut(false), ..none }), Because::ReAuthenticate),
        row("wipe", from_nine(Limits { cut: cut(true), ..none }), Because::Wiped),
        row(
            "count",
            Known { newer: vec![other], ..limited(Limits { max_sessions: Some(1), ..none }) },
            Because::TooMany,
        ),
    ]);
    for kind in [
        CutOffKind::Everyone,
        CutOffKind::App,
        CutOffKind::Group,
        CutOffKind::User,
        CutOffKind::Restore,
    ] {
        let known = Known { cut_offs: vec![(kind, at(9))], ..clean() };
        rows.push(row("cut-off", known, Because::CutOff(kind)));
    }
    rows
}

#[test]
fn each_condition_alone_refuses_whichever_way_the_clock_goes() {
    let milli = Span::from_micros(1_000);
    for Row { name, known, because } in table() {
        let facts = known.facts();
        let ended = Verdict::Ended(Ended { at: at(9), because });
        for late in [at(9), at(9) + milli, at(9) + Span::days(4_000)] {
            assert_eq!(decide(&facts, late), ended, "{name}: time goes on");
        }
        assert_eq!(
            decide(&facts, at(9) - milli),
            Verdict::Valid { ends_at: Some(at(9)) },
            "{name}: it is told in time"
        );
        // The end that was seen is written: a clock that goes back does not undo it.
        let written = Facts { ended: Some(Ended { at: at(9), because }), ..facts };
        for early in [at(9) - milli, at(0), Time::ZERO] {
            assert_eq!(decide(&written, early), ended, "{name}: the clock went back");
        }
    }
}

/// Who signs in after a date that was moved on is not refused by what held before.
#[test]
fn what_was_over_before_a_sign_in_never_held_for_it() {
    let date = Limits { not_after: Some(at(5)), ..Limits::default() };
    let eras = [Era { from: at(0), until: Some(at(10)), limits: date }];
    let before = Facts { eras: &eras, ..Facts::made_at(at(1)) };
    assert_eq!(end(&before), Some(Ended { at: at(5), because: Because::NotAfter }));
    let refused = Facts { eras: &eras, ..Facts::made_at(at(9)) };
    assert!(!decide(&refused, at(9)).is_valid(), "it still holds");
    let after = Facts { eras: &eras, ..Facts::made_at(at(10)) };
    assert_eq!(end(&after), None);
}

/// Activity, or a sign-out elsewhere, puts such an end off: nobody may rely on it.
#[test]
fn a_sure_end_is_none_that_others_can_put_off() {
    let limits = Limits { max_sessions: Some(1), max_idle: Some(HOUR), ..Limits::default() };
    let eras = [Era { from: at(3), until: None, limits }];
    let newer = [Newer { authenticated_at: at(1), ended_at: None }];
    let facts = Facts { eras: &eras, newer: &newer, ..Facts::made_at(at(0)) };
    assert!(end(&facts).is_some());
    assert_eq!(sure_end(&facts), None);
    let dated = Facts { expires_at: Some(at(9)), ..facts };
    assert_eq!(sure_end(&dated), Some(Ended { at: at(9), because: Because::Expired }));
}

/// Every written end refuses, whatever else holds.
#[test]
fn each_state_that_is_not_enrolled_refuses() {
    for Row { name, known, .. } in table() {
        for because in [Because::SignedOut, Because::Wiped, Because::Replaced] {
            let ended = Ended { at: at(1), because };
            let facts = Facts { ended: Some(ended), ..known.facts() };
            assert_eq!(decide(&facts, at(0)), Verdict::Ended(ended), "{name}");
        }
    }
}

/// 1 ms before, at and after the daily moment around both changes of the clocks.
#[test]
fn a_daily_moment_is_exact_over_the_changes_of_the_clocks() {
    let milli = Span::from_micros(1_000);
    for (zone, daily, signed_in, ends) in [
        // Spring: 02:30 does not exist; the first moment after the gap stands for it.
        (Tz::Europe__Vienna, "02:30", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        (Tz::Europe__Vienna, "02:30", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
        (Tz::Europe__Vienna, "05:00", "2026-03-28T04:00:00Z", "2026-03-29T03:00:00Z"),
        // Autumn: 02:30 comes twice; the first counts, the second is not one more.
        (Tz::Europe__Vienna, "02:30", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        (Tz::Europe__Vienna, "02:30", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        (Tz::Europe__Vienna, "05:00", "2026-10-24T03:00:00Z", "2026-10-25T04:00:00Z"),
        (Tz::America__New_York, "02:30", "2026-03-07T12:00:00Z", "2026-03-08T07:00:00Z"),
        (Tz::America__New_York, "01:30", "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z"),
        // A zone that changes by half an hour.
        (Tz::Australia__Lord_Howe, "02:15", "2026-10-03T00:00:00Z", "2026-10-03T15:30:00Z"),
    ] {
        let moment = |text| Time::parse(text).expect("a moment");
        let (signed_in, ends) = (moment(signed_in), moment(ends));
        let time = time(daily).expect("a time");
        let calendar = Some(Calendar { weekday: None, time, zone });
        let limits = Limits { calendar, ..Limits::default() };
        let eras = [Era { from: Time::ZERO, until: None, limits }];
        let facts = Facts { eras: &eras, ..Facts::made_at(signed_in) };
        assert_eq!(
            decide(&facts, ends - milli),
            Verdict::Valid { ends_at: Some(ends) },
            "{zone} {daily} after {signed_in}"
        );
        let ended = Verdict::Ended(Ended { at: ends, because: Because::Calendar });
        assert_eq!([decide(&facts, ends), decide(&facts, ends + milli)], [ended, ended]);
    }
}

proptest! {
    /// As one would count by hand.
    #[test]
    fn the_moment_of_one_too_many_is_found(
        newer in proptest::collection::vec(newer(), 0..12), max in 1..5_u32, from in moments(),
    ) {
        let there = |at: Time| {
            let is_there = |one: &&Newer| {
                one.authenticated_at <= at && one.ended_at.is_none_or(|ended_at| at < ended_at)
            };
            newer.iter().filter(is_there).count() as u64 >= u64::from(max)
        };
        let moments = newer.iter().map(|one| one.authenticated_at.max(from));
        prop_assert_eq!(full_at(&newer, max, from), moments.filter(|at| there(*at)).min());
    }
}
