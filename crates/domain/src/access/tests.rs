//! Proofs about the decision.

use super::*;
use proptest::prelude::*;

const AUTHENTICATED: Time = Time::from_micros(1_000_000_000);
const MICRO: Span = Span::from_micros(1);

fn fresh() -> Facts<'static> {
    Facts::made_at(AUTHENTICATED)
}

fn era(from: Time, max_age: Option<Span>, max_idle: Option<Span>) -> Era {
    Era { from, until: None, limits: Limits { max_age, max_idle, ..Limits::default() } }
}

/// Each holds until the next begins.
fn in_turn(mut eras: Vec<Era>) -> Vec<Era> {
    for at in 1..eras.len() {
        eras[at - 1].until = Some(eras[at].from);
    }
    eras
}

/// Valid one microsecond before `end`, ended at `end` and after it, for this reason.
fn must_end_exactly(facts: &Facts<'_>, end: Time, because: Because) {
    assert_eq!(decide(facts, end - MICRO), Verdict::Valid { ends_at: Some(end) });
    for now in [end, end + MICRO, end + Span::days(400)] {
        assert_eq!(decide(facts, now), Verdict::Ended(Ended { at: end, because }));
    }
}

#[test]
fn nothing_against_it_is_valid_without_an_end() {
    assert_eq!(decide(&fresh(), AUTHENTICATED), Verdict::Valid { ends_at: None });
}

#[test]
fn each_condition_alone_refuses_from_its_very_moment() {
    let at = AUTHENTICATED + Span::hours(5);
    must_end_exactly(&Facts { expires_at: Some(at), ..fresh() }, at, Because::Expired);
    let locked = Ended { at, because: Because::UserLocked };
    must_end_exactly(&Facts { user_ended: Some(locked), ..fresh() }, at, Because::UserLocked);
    let age = [era(Time::ZERO, Some(Span::hours(5)), None)];
    must_end_exactly(&Facts { eras: &age, ..fresh() }, at, Because::TooOld);
    let idle = [era(Time::ZERO, None, Some(Span::hours(4)))];
    let active_at = AUTHENTICATED + Span::hours(1);
    let facts = Facts { eras: &idle, active_at, ..fresh() };
    must_end_exactly(&facts, at, Because::Idle);
}

#[test]
fn a_written_end_holds_whatever_else_is_true() {
    for (because, ..) in Because::ALL {
        let ended = Ended { at: AUTHENTICATED, because };
        let facts = Facts { ended: Some(ended), ..fresh() };
        assert_eq!(decide(&facts, AUTHENTICATED), Verdict::Ended(ended));
        assert_eq!(decide(&facts, Time::ZERO), Verdict::Ended(ended));
    }
}

#[test]
fn a_cut_off_ends_what_was_authenticated_at_or_before_it_and_nothing_later() {
    for kind in [CutOffKind::Everyone, CutOffKind::App, CutOffKind::Group, CutOffKind::User] {
        for (moved, is_valid) in [(0, false), (1, false), (-1, true)] {
            let not_before = Time::from_micros(AUTHENTICATED.micros() + moved);
            let facts = Facts { cut_offs: &[(kind, not_before)], ..fresh() };
            let verdict = decide(&facts, AUTHENTICATED + Span::hours(1));
            assert_eq!(verdict.is_valid(), is_valid, "{kind:?} {moved}");
        }
    }
}

#[test]
fn the_earliest_end_is_the_decisive_one() {
    let eras = [era(Time::ZERO, Some(Span::days(30)), Some(Span::hours(1)))];
    let cut_offs = [(CutOffKind::App, AUTHENTICATED + Span::minutes(30))];
    let facts = Facts { eras: &eras, cut_offs: &cut_offs, ..fresh() };
    let end = AUTHENTICATED + Span::minutes(30);
    must_end_exactly(&facts, end, Because::CutOff(CutOffKind::App));
}

#[test]
fn a_shorter_limit_acts_at_once_and_a_longer_one_revives_nothing() {
    let shortened = AUTHENTICATED + Span::days(10);
    let lengthened = AUTHENTICATED + Span::days(20);
    let mut eras = in_turn(vec![
        era(Time::ZERO, Some(Span::days(30)), None),
        era(shortened, Some(Span::days(5)), None),
    ]);
    let facts = Facts { eras: &eras, ..fresh() };
    must_end_exactly(&facts, shortened, Because::TooOld);
    eras.push(era(lengthened, Some(Span::days(90)), None));
    let eras = in_turn(eras);
    let old = Facts { eras: &eras, ..fresh() };
    must_end_exactly(&old, shortened, Because::TooOld);
    let young_at = lengthened - Span::days(1);
    let young = Facts { authenticated_at: young_at, active_at: young_at, ..old };
    must_end_exactly(&young, young_at + Span::days(90), Because::TooOld);
}

#[test]
fn limits_that_cannot_be_meant_are_refused_by_name() {
    let limits = |max_age, max_idle| Limits { max_age, max_idle, ..Limits::default() }.check();
    assert!(limits(Some(Span::days(30)), None).is_ok());
    assert!(limits(None, None).is_ok());
    for (age, idle, name) in [
        (Some(Span::seconds(0)), None, "max_session_age"),
        (Some(Span::days(36_600)), None, "max_session_age"),
        (None, Some(Span::seconds(-1)), "max_idle"),
        (Some(Span::hours(1)), Some(Span::hours(2)), "max_idle"),
    ] {
        let Err(Error::Invalid { field, .. }) = limits(age, idle) else {
            panic!("{age:?} {idle:?} must be refused")
        };
        assert_eq!(field, name);
    }
}

#[test]
fn reasons_have_names_that_lead_back_to_them() {
    for (because, name, _) in Because::ALL {
        assert_eq!(name.parse(), Ok(because));
        assert_eq!(because.name(), name);
        assert!(!because.sentence().is_empty());
    }
}

fn moments() -> impl Strategy<Value = Time> {
    (0..200_i64).prop_map(|hours| AUTHENTICATED + Span::hours(hours - 50))
}

fn spans() -> impl Strategy<Value = Option<Span>> {
    proptest::option::of((1..100_i64).prop_map(Span::hours))
}

fn histories() -> impl Strategy<Value = Vec<Era>> {
    proptest::collection::vec((moments(), spans(), spans()), 0..5).prop_map(|mut eras| {
        eras.sort_by_key(|era| era.0);
        eras.dedup_by_key(|era| era.0);
        in_turn(eras.into_iter().map(|(from, age, idle)| era(from, age, idle)).collect())
    })
}

proptest! {
    /// What has ended stays ended: for every history, at every later moment, and whatever
    /// limits or cut-offs come later.
    #[test]
    fn an_end_is_for_good(
        eras in histories(),
        (cut_off, now, later) in (moments(), moments(), moments()),
        (age, idle) in (spans(), spans()),
    ) {
        let facts = Facts { eras: &eras, ..fresh() };
        let cut_offs = [(CutOffKind::User, cut_off)];
        let more = Facts { cut_offs: &cut_offs, ..facts };
        let ended = decide(&facts, now);
        prop_assert!(!decide(&more, now).is_valid() || ended.is_valid());
        if !ended.is_valid() && now <= later {
            prop_assert_eq!(decide(&facts, later), ended);
            if eras.last().is_none_or(|last| last.from < later) {
                let mut changed = eras.clone();
                changed.push(era(later.next(), age, idle));
                let changed = in_turn(changed);
                let changed = Facts { eras: &changed, ..facts };
                prop_assert_eq!(decide(&changed, later.next()), ended);
            }
        }
    }

    /// `ends_at` is what then happens: valid right up to it, ended from it on.
    #[test]
    fn ends_at_is_exact(eras in histories(), now in moments()) {
        let facts = Facts { eras: &eras, ..fresh() };
        if let Verdict::Valid { ends_at: Some(end) } = decide(&facts, now) {
            must_end_exactly_after(&facts, now, end)?;
        }
    }
}

/// The decision told a second time, without arithmetic on ends: time passes hour by hour, and
/// at each hour one looks at what holds then.
fn first_end(facts: &Facts<'_>, now: Time) -> Option<Time> {
    if let Some(ended) = facts.ended {
        return Some(ended.at);
    }
    let mut hour = Time::ZERO;
    while hour <= now {
        let is_locked = facts.user_ended.is_some_and(|ended| ended.at <= hour);
        let has_expired = facts.expires_at.is_some_and(|at| at <= hour);
        let is_cut_off =
            facts.cut_offs.iter().any(|(_, at)| *at <= hour && facts.authenticated_at <= *at);
        let holds = |era: &&Era| era.from <= hour && era.until.is_none_or(|until| hour < until);
        let is_over = facts.eras.iter().filter(holds).any(|era| {
            let limits = era.limits;
            limits.max_age.is_some_and(|age| hour - facts.authenticated_at >= age)
                || limits.max_idle.is_some_and(|idle| hour - facts.active_at >= idle)
        });
        if is_locked || has_expired || is_cut_off || is_over {
            return Some(hour);
        }
        hour = hour + Span::hours(1);
    }
    None
}

#[test]
fn a_calendar_and_a_date_end_at_their_very_moment() {
    let from_zero = |limits| [Era { from: Time::ZERO, until: None, limits }];
    let calendar =
        Calendar { weekday: None, time: time("05:00").expect("a time"), zone: chrono_tz::UTC };
    let daily = from_zero(Limits { calendar: Some(calendar), ..Limits::default() });
    let five = Time::ZERO + Span::hours(5);
    must_end_exactly(&Facts { eras: &daily, ..fresh() }, five, Because::Calendar);
    let later = Facts { authenticated_at: five, active_at: five, eras: &daily, ..fresh() };
    must_end_exactly(&later, five + Span::days(1), Because::Calendar);
    // Stated on Tuesday: who signed in before the last such moment is out at once.
    let stated = five + Span::hours(30);
    let late = [Era { from: stated, ..daily[0] }];
    must_end_exactly(&Facts { eras: &late, ..fresh() }, stated, Because::Calendar);
    let date = from_zero(Limits { not_after: Some(five), ..Limits::default() });
    must_end_exactly(&Facts { eras: &date, ..fresh() }, five, Because::NotAfter);
}

#[test]
fn a_method_that_is_asked_for_and_was_not_used_refuses_at_once() {
    let methods = |names: &[&str]| Methods::of(names).expect("known");
    let require_methods = methods(&["otp"]);
    let limits = Limits { require_methods, ..Limits::default() };
    let eras = [Era { from: Time::ZERO, until: None, limits }];
    let password = Facts { eras: &eras, methods: methods(&["pwd"]), ..fresh() };
    must_end_exactly(&password, AUTHENTICATED, Because::MethodMissing);
    let both = Facts { methods: methods(&["pwd", "otp"]), ..password };
    assert_eq!(decide(&both, AUTHENTICATED), Verdict::Valid { ends_at: None });
    let stated = AUTHENTICATED + Span::hours(1);
    let later = [Era { from: stated, ..eras[0] }];
    must_end_exactly(&Facts { eras: &later, ..password }, stated, Because::MethodMissing);
}

#[test]
fn with_as_many_newer_sessions_as_allowed_the_older_ones_end_for_good() {
    let at = |hour| AUTHENTICATED + Span::hours(hour);
    let one =
        |from, until: Option<i64>| Newer { authenticated_at: at(from), ended_at: until.map(at) };
    let max = |max| Limits { max_sessions: Some(max), ..Limits::default() };
    let from_zero = |limits| [Era { from: Time::ZERO, until: None, limits }];
    let (one_only, two) = (from_zero(max(1)), from_zero(max(2)));
    let newer = [one(2, Some(5)), one(4, None)];
    let facts = Facts { newer: &newer, ..fresh() };
    must_end_exactly(&Facts { eras: &one_only, ..facts }, at(2), Because::TooMany);
    must_end_exactly(&Facts { eras: &two, ..facts }, at(4), Because::TooMany);
    // They were never there at the same time.
    let apart = [one(2, Some(4)), one(4, None)];
    let alone = Facts { newer: &apart, eras: &two, ..fresh() };
    assert_eq!(decide(&alone, at(9)), Verdict::Valid { ends_at: None });
    // Stated when two were there already: the moment is that of the statement.
    let late = [Era { from: at(3), until: None, limits: max(1) }];
    must_end_exactly(&Facts { eras: &late, ..facts }, at(3), Because::TooMany);
    let later = [Era { from: at(6), until: None, limits: max(2) }];
    assert_eq!(decide(&Facts { eras: &later, ..facts }, at(9)), Verdict::Valid { ends_at: None });
}

#[test]
fn a_spread_moves_the_end_earlier_only_and_by_its_share_at_most() {
    let limits = Limits { max_age: Some(Span::days(30)), spread_percent: 10, ..Limits::default() };
    let eras = [Era { from: Time::ZERO, until: None, limits }];
    let end = |phase| match decide(&Facts { phase, eras: &eras, ..fresh() }, AUTHENTICATED) {
        Verdict::Valid { ends_at: Some(end) } => end,
        other => panic!("{other:?}"),
    };
    assert_eq!(end(0), AUTHENTICATED + Span::days(30));
    assert!(end(1) < end(0) && end(u16::MAX) < end(u16::MAX - 1));
    assert!(end(u16::MAX) >= AUTHENTICATED + Span::days(27));
    assert!(end(u16::MAX) < AUTHENTICATED + Span::days(27) + Span::hours(1));
    let half = end(1 << 15) - AUTHENTICATED;
    assert!((half.micros() - (Span::days(28) + Span::hours(12)).micros()).abs() < 60_000_000);
}

/// Every combination of facts in a small world of six hours.
#[test]
fn every_combination_of_facts_is_decided_as_time_itself_would() {
    let at = |hour: i64| Time::ZERO + Span::hours(hour);
    let spans = [None, Some(Span::hours(1)), Some(Span::hours(3))];
    let locked = |hour| Ended { at: at(hour), because: Because::UserLocked };
    let mut cut_offs: Vec<Vec<(CutOffKind, Time)>> = vec![vec![]];
    for kind in [CutOffKind::Everyone, CutOffKind::App, CutOffKind::Group, CutOffKind::User] {
        cut_offs.extend([0, 1, 3].map(|hour| vec![(kind, at(hour))]));
    }
    cut_offs.push(vec![(CutOffKind::Everyone, at(4)), (CutOffKind::User, at(2))]);
    let mut histories = vec![vec![]];
    for (age, idle) in spans.iter().flat_map(|age| spans.iter().map(move |idle| (age, idle))) {
        histories.push(vec![era(at(0), *age, *idle)]);
        for (from, age2, idle2) in [(2, None, None), (3, spans[1], None), (3, None, spans[2])] {
            // One after the other, and both at once, as an app's limits and its policies are.
            let two = vec![era(at(0), *age, *idle), era(at(from), age2, idle2)];
            histories.push(in_turn(two.clone()));
            histories.push(two);
        }
    }
    let mut decided = 0;
    for (eras, cut_offs) in
        histories.iter().flat_map(|eras| cut_offs.iter().map(move |c| (eras, c)))
    {
        for ended in [None, Some(locked(2))] {
            for expires_at in [None, Some(at(2)), Some(at(4))] {
                for user_ended in [None, Some(locked(0)), Some(locked(3))] {
                    for active_at in [at(1), at(2)] {
                        let facts = Facts {
                            authenticated_at: at(1),
                            active_at,
                            ended,
                            expires_at,
                            user_ended,
                            cut_offs,
                            eras,
                            ..fresh()
                        };
                        for now in (0..6).map(at) {
                            agree(&facts, now);
                            decided += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(decided, 64 * 14 * 2 * 3 * 3 * 2 * 6);
}

fn agree(facts: &Facts<'_>, now: Time) {
    let found = match decide(facts, now) {
        Verdict::Ended(ended) => Some(ended.at),
        Verdict::Valid { .. } => None,
    };
    assert_eq!(found, first_end(facts, now), "{facts:?} at {now:?}");
}

fn must_end_exactly_after(facts: &Facts<'_>, now: Time, end: Time) -> Result<(), TestCaseError> {
    prop_assert!(end > now);
    prop_assert!(decide(facts, end - MICRO).is_valid());
    prop_assert!(!decide(facts, end).is_valid());
    Ok(())
}
