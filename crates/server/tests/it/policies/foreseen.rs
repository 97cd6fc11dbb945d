//! What is foreseen of random sets of policies, held against what then happens: the forecast of a
//! preview, the simulation on a copy, and the store itself while time passes.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reauth_server::domain::access::{Because, Verdict};
use reauth_server::domain::{Span, Time, devices};
use reqwest::Method;
use serde_json::{Value, json};

use super::simulation::simulate;
use crate::both;
use crate::lab::{Kind, Lab, good, json_of, text};

both!(
    who_proves_themselves_by_more_methods_is_foreseen_under_the_policies_about_these,
    a_number_of_sessions_that_is_asked_for_later_is_foreseen,
    who_is_idle_by_now_is_foreseen_to_sign_in_at_once,
);

const CASES: u32 = 16;
/// How many days are lived through.
const DAYS: u32 = 6;
/// Whoever stays in use asks so often; idle limits are longer.
const USE: Span = Span::minutes(50);
const SECONDS_AN_HOUR: usize = 3_600;

/// A device: how many hours before the others it signed in, by how many methods and how surely, in
/// which group, and whether it was not used since.
#[derive(Clone, Debug)]
struct Signed {
    hours: i64,
    by_both: bool,
    assurance: Option<&'static str>,
    group: Option<u8>,
    is_unused: bool,
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
    let assurance = proptest::option::of(prop_oneof![Just("aal1"), Just("aal2")]);
    let unused = proptest::bool::weighted(0.3);
    (1..60_i64, any::<bool>(), assurance, proptest::option::of(0..2_u8), unused).prop_map(
        |(hours, by_both, assurance, group, is_unused)| Signed {
            hours,
            by_both,
            assurance,
            group,
            is_unused,
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let sometimes = || proptest::option::weighted(0.2, 1..100_i64);
    (0..10_u8, 3..80_i64, 0..11_u8, sometimes(), sometimes())
        .prop_map(|(kind, hours, whom, from, until)| Asked { kind, hours, whom, from, until })
}

impl Asked {
    fn policy(&self, at: usize, number: usize, now: Time) -> Value {
        let Self { kind, hours, whom, from, until } = self;
        let zones = ["UTC", "Europe/Vienna", "America/New_York"];
        let zone = zones[usize::try_from(*hours).expect("it is small") % 3];
        // A number of sessions is of all that a user has.
        let whom = if *kind > 7 && matches!(whom, 2 | 3 | 5..=7) { 8 } else { *whom };
        let applies_to = match whom {
            0 | 1 => json!({ "groups": [format!("group {whom}")] }),
            2 => json!({ "labels": ["* device 0", "*2", "*3"] }),
            3 => json!({ "labels": ["the device ?"], "groups": ["group 0"] }),
            4 => json!({ "attributes": { "name": format!("user 0 of {number}") } }),
            5 => json!({ "platforms": [if hours % 2 == 0 { "iOS" } else { "android" }] }),
            6 => json!({ "methods": [if hours % 2 == 0 { "otp" } else { "pwd" }] }),
            7 => json!({ "assurance": ["aal2"] }),
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
            7 => json!({ "require_methods": ["otp"] }),
            _ => json!({ "max_sessions": 1 + hours % 2,
                "over_max": if hours % 3 == 0 { "refuse_new" } else { "end_oldest" } }),
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
    methods: Vec<&'static str>,
    assurance: Option<&'static str>,
}

impl Used {
    fn new(
        name: &str,
        device: &str,
        methods: &[&'static str],
        assurance: Option<&'static str>,
    ) -> Self {
        let (name, device) = (name.to_owned(), device.to_owned());
        Self { name, device, token: String::new(), methods: methods.to_vec(), assurance }
    }
}

/// By what it was proved last, and by more.
async fn sign_in(lab: &Lab, used: &mut Used, more: &[&'static str]) -> bool {
    let path = format!("/users/{}/authentication-token", lab.user(&used.name).await);
    used.methods
        .extend(more.iter().filter(|more| !used.methods.contains(more)).collect::<Vec<_>>());
    let proof = json!({ "methods": used.methods, "assurance": used.assurance });
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
async fn use_all(
    lab: &Lab,
    all: &mut Vec<Used>,
    (more, start): (&[&'static str], Time),
    mut told: impl FnMut(Time),
) -> Time {
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
            let asks = ended.because.asks_to_sign_in() || ended.because == Because::Idle;
            if !asks || !sign_in(lab, &mut used, more).await {
                continue;
            }
            told(now);
            verdict = look(&used);
        }
        if let Verdict::Valid { ends_at: Some(ends_at) } = verdict {
            next = next.min(whole(ends_at, start).max(ends_at));
        }
        left.push(used);
    }
    *all = left;
    next
}

/// Devices sign in at whole seconds. What a sign-in takes of one is not counted.
fn whole(at: Time, start: Time) -> Time {
    let micros = (at - start).micros() - 10_000;
    start + Span::seconds(micros.max(0).unsigned_abs().div_ceil(1_000_000).cast_signed())
}

/// The sign-ins of the next days, by the hour.
async fn lived(lab: &Lab, mut all: Vec<Used>, more: &[&'static str], start: Time) -> Vec<u64> {
    let mut hours = vec![0; DAYS as usize * 24];
    let end = start + Span::days(i64::from(DAYS));
    while lab.clock.now() < end {
        let next = use_all(lab, &mut all, (more, start), |at| {
            let second = usize::try_from((at - start).whole_seconds()).expect("it is later");
            if let Some(hour) = hours.get_mut(second / SECONDS_AN_HOUR) {
                *hour += 1;
            }
        })
        .await;
        lab.clock.set(next.max(lab.clock.now()));
    }
    hours
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
        let methods = if signed.by_both { &["pwd", "otp"][..] } else { &["pwd"] };
        let (name, device) = (format!("user {} of {number}", at / 3), format!("device {at}"));
        let mut used = Used::new(&name, &device, methods, signed.assurance);
        assert!(sign_in(lab, &mut used, &[]).await, "it may sign in");
        if let Some(group) = signed.group {
            super::join(lab, &format!("group {group}"), &lab.user(&used.name).await).await;
        }
        lab.pass(Span::hours(signed.hours));
        all.push(used);
    }
    for (used, _) in all.iter().zip(devices).filter(|(_, signed)| !signed.is_unused) {
        let checked = devices::check(&lab.server().app().db, &used.token).expect("it is known");
        assert!(checked.expect("a session").verdict.is_valid(), "nothing has ended yet");
    }
    let now = lab.clock.now();
    let set: Vec<Value> =
        asked.iter().enumerate().map(|(at, asked)| asked.policy(at, number, now)).collect();
    let more: &[&'static str] = if asked.iter().any(|it| it.kind == 7) { &["otp"] } else { &[] };
    let body = json!({ "policies": set, "allow_endless": true });
    let preview = good(lab.api(Method::POST, "/policies/preview").json(&body)).await;
    prop_assert_eq!(&preview["unforeseen"], &Value::Null, "all of this can be foreseen");
    let hours = |value: &Value| -> Vec<u64> {
        let all = value.as_array().expect("hours").iter().take(DAYS as usize * 24);
        all.map(|hour| hour.as_u64().expect("a number")).collect()
    };
    let foreseen = hours(&preview["after"]["hours"]);
    let simulated = simulate(lab, DAYS, Some(json!(set))).await.map_err(TestCaseError::fail)?;
    prop_assert_eq!(&simulated.hours, &simulated.forecast_hours, "the simulation");
    let idles = asked.iter().any(|asked| asked.kind == 5);
    // In a simulation, nobody is idle from the beginning on.
    prop_assert!(idles || simulated.hours == foreseen, "{simulated:?} beside {foreseen:?}");
    good(lab.api(Method::PUT, "/policies").json(&body)).await;
    let mut ended = 0;
    for used in &all {
        let checked = devices::check(&lab.server().app().db, &used.token).expect("it is known");
        ended += u64::from(!checked.expect("nobody forgets it").verdict.is_valid());
    }
    prop_assert_eq!(preview["ended_sessions"].as_u64(), Some(ended), "those that end at once");
    prop_assert_eq!(lived(lab, all, more, now).await, foreseen, "what then happens");
    Ok(())
}

fn what_is_foreseen_happens(kind: Kind) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let lab = std::cell::RefCell::new(runtime.block_on(Lab::new(kind)));
    let number = std::cell::Cell::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let devices = proptest::collection::vec(signed(), 1..6);
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

fn policy(name: &str, applies_to: Value, limits: Value) -> Value {
    json!({ "name": name, "applies_to": applies_to, "limits": limits })
}

/// The sign-ins of that many days: foreseen, and lived through on a copy.
async fn both_told(lab: &Lab, days: u32, set: Value) -> (u64, u64) {
    let told = simulate(lab, days, Some(set)).await.expect("it can be simulated");
    assert_eq!(told.hours, told.forecast_hours);
    (told.hours.iter().sum(), told.forecast_hours.iter().sum())
}

async fn who_proves_themselves_by_more_methods_is_foreseen_under_the_policies_about_these(
    lab: Lab,
) {
    let mut used = Used::new("ann", "phone", &["pwd"], None);
    assert!(sign_in(&lab, &mut used, &[]).await, "it may sign in");
    let user = lab.user("ann").await;
    let set = json!([
        policy("all", json!({ "everyone": true }), json!({ "max_age": "30d" })),
        policy("vip", json!({ "users": [user] }), json!({ "require_methods": ["otp"] })),
        policy("strong", json!({ "methods": ["otp"] }), json!({ "max_age": "1d" })),
    ]);
    assert_eq!(both_told(&lab, 20, set).await, (20, 20));
}

async fn a_number_of_sessions_that_is_asked_for_later_is_foreseen(lab: Lab) {
    for (name, device) in [("ann", "phone"), ("ann", "tablet"), ("bob", "phone")] {
        lab.sign_in(name, device).await;
        lab.pass(Span::hours(1));
    }
    let mut one =
        policy("one", json!({ "users": [lab.user("ann").await] }), json!({ "max_sessions": 1 }));
    one["valid_from"] = (lab.clock.now() + Span::days(3)).to_string().into();
    let all = policy("all", json!({ "everyone": true }), json!({ "max_age": "1d" }));
    assert_eq!(both_told(&lab, 19, json!([all, one])).await, (41, 41));
    one["limits"]["over_max"] = "refuse_new".into();
    assert_eq!(both_told(&lab, 19, json!([all, one])).await, (41, 41));
}

async fn who_is_idle_by_now_is_foreseen_to_sign_in_at_once(lab: Lab) {
    for name in ["a", "b", "c", "d", "e"] {
        lab.sign_in(name, "phone").await;
    }
    lab.pass(Span::seconds(3));
    let limits = json!({ "max_age": "30d", "max_idle": "2s" });
    let set = json!([policy("all", json!({ "everyone": true }), limits)]);
    let preview = lab.post("/policies/preview", json!({ "policies": set })).await;
    assert_eq!((&preview["ended_sessions"], &preview["after"]["hours"][0]), (&json!(5), &json!(5)));
    assert_eq!(preview["after"]["hours"][30 * 24], 5, "and again when they are too old");
}
