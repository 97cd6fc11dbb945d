//! The next days lived through on a copy: what happens there is what the forecast says, and what
//! then happens; the store itself is only read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reauth_server::domain::{Clock, Span};
use reauth_server::{Simulation, Wanted};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, child, good};

both!(
    a_simulation_lives_through_what_the_forecast_says,
    scheduled_tasks_say_what_they_would_do_and_do_nothing,
    a_rehearsed_task_asks_nothing_of_the_world_that_could_change_it,
    what_cannot_be_simulated_is_refused,
);

const DEMO: &str = include_str!("../../../../../examples/tasks/sign-in-again.js");

fn everyone(name: &str, limits: Value) -> Value {
    json!({ "name": name, "applies_to": { "everyone": true }, "limits": limits })
}

pub(super) async fn simulate(
    lab: &Lab,
    days: u32,
    policies: Option<Value>,
) -> Result<Simulation, String> {
    let wanted = Wanted { app: Some(lab.app.clone()), days, policies, allow_endless: true };
    let clock = Clock::manual(lab.clock.now());
    reauth_server::simulate(&lab.config, clock, child(), wanted, |_| {}).await
}

async fn a_simulation_lives_through_what_the_forecast_says(lab: Lab) {
    for (name, device) in [("ann", "phone"), ("ann", "tablet"), ("bob", "phone")] {
        lab.sign_in(name, device).await;
        lab.pass(Span::hours(31));
    }
    let eve = lab.sign_in("eve", "phone").await;
    super::join(&lab, "contractors", &eve.user).await;
    let path = format!("/users/{}/not-after", eve.user);
    good(lab.api(Method::PUT, &path).json(&json!({ "not_after": "2026-06-02" }))).await;
    let policies = json!([
        everyone("twice a week", json!({ "max_age": "3d", "max_idle": "1h" })),
        everyone("monday", json!({ "weekly_at": "monday 05:00", "zone": "Europe/Vienna" })),
        json!({ "name": "contractors", "applies_to": { "groups": ["contractors"] },
            "limits": { "max_age": "11h" } }),
    ]);
    lab.set(json!({ "warn_before": "1h" })).await;
    let head = lab.head().await;
    let lived = simulate(&lab, 90, Some(policies)).await.expect("it can be simulated");
    assert_eq!(lab.head().await, head, "the store is only read");
    assert_eq!(lived.sessions, 4);
    assert_eq!(lived.hours.len(), 90 * 24);
    assert_eq!(lived.hours, lived.forecast_hours);
    let times = |because: &str, policy: Option<&str>| {
        let mut ends = lived.ends.iter();
        let found = ends.find(|end| end.because == because && end.policy.as_deref() == policy);
        found.map_or(0, |end| end.times)
    };
    assert_eq!(times("not_after", None), 1, "{:?}", lived.ends);
    assert_eq!(lived.ended_for_good, 1);
    // Three devices, each Monday, for thirteen weeks.
    assert!(times("calendar", Some("monday")) >= 3 * 12, "{:?}", lived.ends);
    assert!(times("max_session_age", Some("contractors")) >= 2 * 27, "{:?}", lived.ends);
    assert_eq!(times("max_idle", Some("twice a week")), 0, "devices stay in use");
    assert_eq!(
        lived.ends.iter().map(|end| end.times).sum::<u64>(),
        lived.hours.iter().sum::<u64>() + 1
    );
    let ended: u64 = lived.ends.iter().map(|end| end.times).sum();
    // One was too old at once, which nobody could be warned of; three are warned of an end that
    // comes later.
    assert!((ended - 1..=ended + 2).contains(&lived.warnings), "{} of {ended}", lived.warnings);
    eve.must_be_signed_in().await;
}

async fn scheduled_tasks_say_what_they_would_do_and_do_nothing(lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    let task = json!({ "file": "old.js", "source": DEMO, "params": { "days": 2 },
        "scopes": ["users:read", "sessions:end"],
        "schedule": { "cron": "0 6 * * *", "zone": "UTC" } });
    good(lab.api(Method::PUT, "/tasks/old").json(&task)).await;
    let broken = json!({ "file": "broken.js",
        "source": "export async function run() { throw new Error('no') }",
        "schedule": { "cron": "0 7 * * 1", "zone": "UTC" } });
    good(lab.api(Method::PUT, "/tasks/broken").json(&broken)).await;
    let lived = simulate(&lab, 7, None).await.expect("it can be simulated");
    let [broken, old] = &lived.tasks[..] else { panic!("{:?}", lived.tasks) };
    assert_eq!((broken.runs, broken.failed, broken.would.len()), (1, 1, 0), "{broken:?}");
    // The first run finds a sign-in of yesterday; from the third morning on it is too old, and as
    // nothing is done it is found again each day.
    assert_eq!((old.runs, old.failed), (7, 0), "{old:?}");
    assert_eq!(old.would.get("session.re_authenticate"), Some(&5), "{old:?}");
    assert_eq!(lived.hours.iter().sum::<u64>(), 0);
    ann.must_be_signed_in().await;
    let runs = lab.get("/tasks/old/runs").await;
    assert_eq!(runs["total"], 0, "nothing ran on the store itself");
}

/// A mail service on this machine: answers with the method that it was asked with, and counts.
async fn mail_service() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = move |method: Method| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            method.to_string()
        }
    };
    let router = axum::Router::new().route("/mail", axum::routing::any(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), asked)
}

async fn a_rehearsed_task_asks_nothing_of_the_world_that_could_change_it(mut lab: Lab) {
    let (origin, asked) = mail_service().await;
    lab.config.tasks.fetch_allowed = vec![origin.clone()];
    let source = format!(
        "export async function run() {{
            const read = await fetch('{origin}/mail');
            const sent = await fetch('{origin}/mail', {{ method: 'POST', body: 'hello' }});
            if (await read.text() !== 'GET' || sent.status !== 202) throw new Error('unexpected');
        }}"
    );
    let task = json!({ "file": "mail.js", "source": source,
        "schedule": { "cron": "0 6 * * *", "zone": "UTC" } });
    good(lab.api(Method::PUT, "/tasks/mail").json(&task)).await;
    let lived = simulate(&lab, 3, None).await.expect("it can be simulated");
    let [mail] = &lived.tasks[..] else { panic!("{:?}", lived.tasks) };
    assert_eq!((mail.runs, mail.failed), (3, 0), "{mail:?}");
    assert_eq!(mail.would.get(&format!("POST {origin}")), Some(&3), "{mail:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3, "each run has read, and sent nothing");
}

async fn what_cannot_be_simulated_is_refused(lab: Lab) {
    for (days, policies, wanted) in [
        (0, None, "between 1 and 90"),
        (91, None, "between 1 and 90"),
        (1, Some(json!([everyone("a", json!({ "max_age": "0s" }))])), "policies.a.limits.max_age"),
        (1, Some(json!([{ "name": "a" }])), "policies"),
    ] {
        let error = simulate(&lab, days, policies).await.expect_err("it must be refused");
        assert!(error.contains(wanted), "{error}");
    }
}
