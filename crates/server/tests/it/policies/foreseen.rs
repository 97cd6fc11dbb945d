//! What is foreseen of random sets of policies, held against what then happens: the forecast of a
//! preview, the simulation on a copy, and the store itself while time passes.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reauth_server::domain::access::Verdict;
use reauth_server::domain::{Span, Time, devices};
use reqwest::Method;
use serde_json::{Value, json};

use super::simulation::simulate;
use crate::lab::{Kind, Lab, good, json_of, text};

const CASES: u32 = 16;
/// How many days are lived through.
const DAYS: u32 = 6;
/// Whoever stays in use asks so often; idle limits are longer.
const USE: Span = Span::minutes(50);
const SECONDS_AN_HOUR: usize = 3_600;

/// A device: how many hours before the others it signed in, by how many methods, in which group.
#[derive(Clone, Debug)]
struct Signed {
    hours: i64,
    by_both: bool,
    group: Option<u8>,
}

/// One policy, as numbers.
#[derive(Clone, Debug)]
struct Asked {
    kind: u8,
    hours: i64,
    whom: u8,
    from: Option<i64>,
    until: Option<i64>,
}

fn signed() -> impl Strategy<Value = Signed> {
    (1..60_i64, any::<bool>(), proptest::option::of(0..2_u8))
        .prop_map(|(hours, by_both, group)| Signed { hours, by_both, group })
}

fn asked() -> impl Strategy<Value = Asked> {
    let sometimes = || proptest::option::weighted(0.2, 1..100_i64);
    (0..8_u8, 3..80_i64, 0..9_u8, sometimes(), sometimes())
        .prop_map(|(kind, hours, whom, from, until)| Asked { kind, hours, whom, from, until })
}

impl Asked {
    /// Whether it names a time of day.
    fn is_calendar(&self) -> bool {
        matches!(self.kind, 2 | 3)
    }

    fn policy(&self, at: usize, number: usize, now: Time) -> Value {
        let Self { kind, hours, whom, from, until } = self;
        let zones = ["UTC", "Europe/Vienna", "America/New_York"];
        let zone = zones[usize::try_from(*hours).expect("it is small") % 3];
        let applies_to = match whom {
            0 | 1 => json!({ "groups": [format!("group {whom}")] }),
            2 => json!({ "labels": ["* device 0", "*2", "*3"] }),
            3 => json!({ "labels": ["the device ?"], "groups": ["group 0"] }),
            4 => json!({ "attributes": { "name": format!("user 0 of {number}") } }),
            5 => json!({ "platforms": [if hours % 2 == 0 { "iOS" } else { "android" }] }),
            _ => json!({ "everyone": true }),
        };
        let span = Span::hours(*hours).to_string();
        let until = until.map(|until| from.unwrap_or(0) + until);
        // A date that comes when the policy holds no longer is refused.
        let date = now + Span::hours(until.map_or(*hours, |until| until.min(*hours)));
        let limits = match kind {
            0 | 1 => json!({ "max_age": span }),
            2 => json!({ "daily_at": format!("{:02}:30", hours % 24), "zone": zone }),
            3 => json!({ "weekly_at": format!("tuesday {:02}:00", hours % 24), "zone": zone }),
            4 => json!({ "not_after": date.to_string() }),
            5 => json!({ "max_age": span, "max_idle": "1h" }),
            6 => json!({ "max_age": span, "spread": "30%" }),
            _ => json!({ "require_methods": ["otp"] }),
        };
        let mut policy = json!({ "name": format!("p{at}"), "applies_to": applies_to,
            "limits": limits });
        let moment = |hours: &i64| (now + Span::hours(*hours) + Span::minutes(47)).to_string();
        policy["valid_from"] = from.as_ref().map(moment).into();
        policy["valid_until"] = until.as_ref().map(moment).into();
        policy
    }
}

/// A device that stays in use and signs in again as soon as it must.
struct Used {
    name: String,
    device: String,
    token: String,
}

async fn sign_in(lab: &Lab, used: &mut Used, methods: &[&str]) -> bool {
    let path = format!("/users/{}/authentication-token", lab.user(&used.name).await);
    let proof = json!({ "methods": methods });
    let (status, issued) = json_of(lab.api(Method::POST, &path).json(&proof)).await;
    if !status.is_success() {
        return false;
    }
    let (status, enrolled) = json_of(lab.enroll(&text(&issued["token"]), &used.device)).await;
    if status.is_success() {
        used.token = text(&enrolled["session_token"]);
    }
    status.is_success()
}

/// Whoever must sign in again does; answers when something is to be looked at next.
async fn use_all(lab: &Lab, all: &mut Vec<Used>, mut told: impl FnMut(Time)) -> Time {
    let db = &lab.server().app().db;
    let now = lab.clock.now();
    let mut next = now + USE;
    let mut left = Vec::new();
    for mut used in all.drain(..) {
        let look = |used: &Used| {
            let checked = devices::check(db, &used.token).expect("it is known");
            checked.expect("nobody forgets it").verdict
        };
        let mut verdict = look(&used);
        if let Verdict::Ended(ended) = verdict {
            if !ended.because.asks_to_sign_in() || !sign_in(lab, &mut used, &["pwd", "otp"]).await {
                continue;
            }
            told(ended.at.max(now));
            verdict = look(&used);
        }
        if let Verdict::Valid { ends_at: Some(ends_at) } = verdict {
            next = next.min(ends_at);
        }
        left.push(used);
    }
    *all = left;
    next
}

/// The sign-ins of the next days, by the hour, with as many seconds as the forecast counts.
async fn lived(lab: &Lab, mut all: Vec<Used>, start: Time) -> Vec<u64> {
    let mut hours = vec![0; DAYS as usize * 24];
    let end = start + Span::days(i64::from(DAYS));
    while lab.clock.now() < end {
        let next = use_all(lab, &mut all, |at| {
            let micros = u64::try_from((at - start).micros()).expect("it is later");
            let second = usize::try_from(micros.div_ceil(1_000_000)).expect("it is soon");
            if let Some(hour) = hours.get_mut(second / SECONDS_AN_HOUR) {
                *hour += 1;
            }
        })
        .await;
        lab.clock.set(next.max(lab.clock.now()));
    }
    hours
}

/// With a spread, a forecast takes ages as whole seconds, so a sign-in may be told an hour late.
fn agree(one: &[u64], other: &[u64], is_spread: bool) -> bool {
    let by = |hours: &[u64], hour: usize| hours.iter().take(hour).sum::<u64>();
    let is_near = |one: &[u64], other: &[u64]| {
        (0..one.len()).all(|hour| by(one, hour) <= by(other, hour + 1))
    };
    if is_spread { is_near(one, other) && is_near(other, one) } else { one == other }
}

async fn is_as_foreseen(
    lab: &mut Lab,
    number: usize,
    devices: &[Signed],
    asked: &[Asked],
) -> Result<(), TestCaseError> {
    lab.enter_app(&format!("app {number}")).await;
    let mut all = Vec::new();
    for (at, signed) in devices.iter().enumerate() {
        let name = format!("user {} of {number}", at / 2);
        let mut used = Used { name, device: format!("device {at}"), token: String::new() };
        let methods = if signed.by_both { &["pwd", "otp"][..] } else { &["pwd"] };
        assert!(sign_in(lab, &mut used, methods).await, "it may sign in");
        if let Some(group) = signed.group {
            super::join(lab, &format!("group {group}"), &lab.user(&used.name).await).await;
        }
        lab.pass(Span::hours(signed.hours));
        all.push(used);
    }
    use_all(lab, &mut all, |_| panic!("nothing has ended yet")).await;
    let now = lab.clock.now();
    // By less than a second a sign-in might come before a time of day, or after it.
    let is_spread = asked.iter().any(|asked| asked.kind == 6);
    let asked = asked.iter().filter(|asked| !(is_spread && asked.is_calendar()));
    let set: Vec<Value> =
        asked.enumerate().map(|(at, asked)| asked.policy(at, number, now)).collect();
    let body = json!({ "policies": set, "allow_endless": true });
    let preview = good(lab.api(Method::POST, "/policies/preview").json(&body)).await;
    let hours = |value: &Value| -> Vec<u64> {
        let all = value.as_array().expect("hours").iter().take(DAYS as usize * 24);
        all.map(|hour| hour.as_u64().expect("a number")).collect()
    };
    let foreseen = hours(&preview["after"]["hours"]);
    let simulated = simulate(lab, DAYS, Some(json!(set))).await.map_err(TestCaseError::fail)?;
    let simulated = simulated.hours;
    prop_assert!(agree(&simulated, &foreseen, is_spread), "{simulated:?} beside {foreseen:?}");
    good(lab.api(Method::PUT, "/policies").json(&body)).await;
    let mut ended = 0;
    for used in &all {
        let checked = devices::check(&lab.server().app().db, &used.token).expect("it is known");
        ended += u64::from(!checked.expect("nobody forgets it").verdict.is_valid());
    }
    prop_assert_eq!(preview["ended_sessions"].as_u64(), Some(ended), "those that end at once");
    let lived = lived(lab, all, now).await;
    prop_assert!(agree(&lived, &foreseen, is_spread), "{lived:?} beside {foreseen:?}");
    Ok(())
}

fn what_is_foreseen_happens(kind: Kind) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lab = std::cell::RefCell::new(runtime.block_on(Lab::new(kind)));
    let number = std::cell::Cell::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let devices = proptest::collection::vec(signed(), 1..5);
    let sets = proptest::collection::vec(asked(), 1..4);
    // A failure prints the smallest case that fails.
    let told = TestRunner::new(config).run(&(devices, sets), |(devices, asked)| {
        number.set(number.get() + 1);
        let mut lab = lab.borrow_mut();
        runtime.block_on(is_as_foreseen(&mut lab, number.get(), &devices, &asked))
    });
    told.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn what_is_foreseen_happens_on_sqlite() {
    what_is_foreseen_happens(Kind::Sqlite);
}

#[test]
fn what_is_foreseen_happens_on_postgres() {
    what_is_foreseen_happens(Kind::Postgres);
}
