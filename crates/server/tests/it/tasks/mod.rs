//! Tasks from end to end: put over HTTP, run in a child, and back into our own API with the token
//! of the run.

mod callers;
mod egress;
mod guards;
mod hostile;
mod kept;
mod leases;
mod runs;
mod starts;
mod strangers;
mod tokens;
mod web;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::runs::{NAP, begin, noted};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    the_demo_task_signs_out_what_is_too_old_device_by_device,
    a_schedule_runs_in_its_zone_and_what_was_missed_runs_once,
    a_run_has_the_scopes_of_its_task_and_no_more,
    a_runs_token_dies_with_the_run,
    a_task_cannot_give_access_whatever_its_scopes,
    a_script_reaches_what_the_operator_allows_and_nothing_beside_it,
    a_child_that_cannot_begin_is_a_run_that_waits_and_nothing_else,
    the_demo_task_turns_every_page,
    a_broken_script_is_refused_and_the_old_one_goes_on,
    failures_are_kept_with_their_reason_and_log,
    a_single_instance_never_runs_twice_at_once,
    a_run_that_lost_its_server_runs_again,
    a_task_is_put_shown_listed_and_deleted,
);

#[test]
#[ignore = "the child in which scripts run: started by the sandbox, not by people"]
fn sandbox_child() {
    reauth_server::sandbox_child();
}

const DEMO: &str = include_str!("../../../../../examples/tasks/sign-in-again.js");

fn task(file: &str, source: &str, scopes: &[&str]) -> Value {
    json!({ "file": file, "source": source, "scopes": scopes })
}

async fn put(lab: &Lab, name: &str, task: Value) -> Value {
    good(lab.api(Method::PUT, &format!("/tasks/{name}")).json(&task)).await
}

/// Runs it by hand and waits for its end.
async fn run(lab: &Lab, name: &str, params: Value) -> Value {
    let path = format!("/tasks/{name}/run?wait=true");
    let (status, run) =
        json_of(lab.api(Method::POST, &path).json(&json!({ "params": params }))).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    run
}

/// What is true of the runs of a task, once `wanted` of them have ended.
async fn ended_runs(lab: &Lab, name: &str, wanted: usize) -> Vec<Value> {
    let began = Instant::now(); // clock: measures
    loop {
        let runs = lab.get(&format!("/tasks/{name}/runs")).await;
        let runs = runs["objects"].as_array().expect("a list").clone();
        let is_end = |run: &&Value| run["state"] != "queued" && run["state"] != "running";
        if runs.iter().filter(is_end).count() >= wanted {
            return runs;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "{runs:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each device's state by session id.
async fn states(lab: &Lab) -> BTreeMap<String, (String, Value)> {
    let mut all = BTreeMap::new();
    for user in lab.get("/users").await["objects"].as_array().expect("a list") {
        for session in user["sessions"].as_array().expect("a list") {
            let state = (text(&session["state"]), session["signed_out_at"].clone());
            all.insert(text(&session["id"]), state);
        }
    }
    all
}

async fn the_demo_task_signs_out_what_is_too_old_device_by_device(lab: Lab) {
    lab.set(json!({ "max_session_age": "90d" })).await;
    let mut old = Vec::new();
    for name in ["ann", "bob", "eve"] {
        old.push(lab.sign_in(name, "phone").await.session);
    }
    let again = lab.sign_in("ann", "laptop").await.session;
    let wiped = lab.sign_in("bob", "laptop").await;
    lab.act(&format!("{}/wipe", wiped.path())).await;
    lab.pass(Span::days(50));
    assert_eq!(lab.sign_in("ann", "laptop").await.session, again);
    let young = lab.sign_in("eve", "tablet").await.session;
    lab.pass(Span::days(10));
    put(&lab, "sign-in-again", task("sign-in-again.js", DEMO, &["users:read", "sessions:end"]))
        .await;
    let before = states(&lab).await;
    let run = run(&lab, "sign-in-again", json!({ "days": 30 })).await;
    let report = json!({ "users": 3, "sessions": 6, "too_old": 3, "signed_out": 3, "failed": 0 });
    assert_eq!((&run["state"], &run["result"]), (&json!("succeeded"), &report), "{run}");
    assert!(text(&run["log"][0]["text"]).contains("3 of 6 sessions"), "{run}");
    let after = states(&lab).await;
    for (session, state) in &after {
        if old.contains(session) {
            assert_eq!(before[session].0, "ENROLLED");
            assert_eq!(state.0, "LOCKED");
            assert_ne!(state.1, Value::Null);
        } else {
            assert_eq!(state, &before[session]);
        }
    }
    assert_eq!(after[&young].0, "ENROLLED");
    assert_eq!(after[&again].0, "ENROLLED");
    assert_eq!(after[&wiped.session].0, "RESET");
    let ledger = lab.get("/ledger?limit=1000").await;
    let entries = ledger["entries"].as_array().expect("a list");
    let ours: Vec<&Value> =
        entries.iter().filter(|entry| entry["kind"] == "session.re_authenticate").collect();
    assert_eq!(ours.len(), 3);
    let by = json!({ "kind": "task", "id": run["id"], "name": "sign-in-again" });
    assert!(ours.iter().all(|entry| entry["by"] == by), "{ours:?}");
    let idle = self::run(&lab, "sign-in-again", json!({ "days": 30 })).await;
    assert_eq!(idle["result"]["too_old"], 0, "safe to run twice");
}

async fn the_demo_task_turns_every_page(lab: Lab) {
    lab.set(json!({ "max_session_age": "90d" })).await;
    // A page has 100 users: the first and the last device are on different pages.
    let first = lab.sign_in("user 0", "phone").await;
    let others = (0..100).map(|at| {
        json!({ "method": "post", "object": { "type": "user",
        "name": format!("other {at}") } })
    });
    lab.post("/batch", json!({ "operations": others.collect::<Vec<_>>() })).await;
    let last = lab.sign_in("user 101", "phone").await;
    lab.pass(Span::days(40));
    put(&lab, "sign-in-again", task("sign-in-again.js", DEMO, &["users:read", "sessions:end"]))
        .await;
    let run = run(&lab, "sign-in-again", json!({ "days": 30 })).await;
    let report = json!({ "users": 102, "sessions": 2, "too_old": 2, "signed_out": 2, "failed": 0 });
    assert_eq!(run["result"], report, "{run}");
    for device in [first, last] {
        device.must_sign_in_again("LOCKED", "re_authenticate").await;
    }
}

async fn a_schedule_runs_in_its_zone_and_what_was_missed_runs_once(mut lab: Lab) {
    let mut nightly = task("t.js", "export function run(params) { return params }", &[]);
    nightly["schedule"] = json!({ "cron": "0 3 * * *", "zone": "Europe/Vienna" });
    nightly["params"] = json!({ "night": true });
    let made = put(&lab, "nightly", nightly.clone()).await;
    assert_eq!(made["next_at"], "2026-05-04T01:00:00Z");
    lab.pass(Span::hours(18));
    assert_eq!(lab.get("/tasks/nightly/runs").await["total"], 0);
    lab.pass(Span::hours(1));
    let runs = ended_runs(&lab, "nightly", 1).await;
    assert_eq!(
        (&runs[0]["trigger"], &runs[0]["result"]),
        (&json!("schedule"), &json!({ "night": true }))
    );
    assert_eq!(runs[0]["due_at"], "2026-05-04T01:00:00Z");
    lab.stop().await;
    lab.clock.pass(Span::days(5));
    lab.restart_after_stop().await;
    let runs = ended_runs(&lab, "nightly", 2).await;
    assert_eq!(runs.len(), 2, "five nights were missed, one run makes up for them");
    assert_eq!(lab.get("/tasks/nightly").await["next_at"], "2026-05-10T01:00:00Z");
    for (cron, zone, field) in [
        ("often", "UTC", "schedule.cron"),
        ("0 3 * * *", "Atlantis", "schedule.zone"),
        ("0 0 31 2 *", "UTC", "schedule.cron"),
    ] {
        nightly["schedule"] = json!({ "cron": cron, "zone": zone });
        let request = lab.api(Method::PUT, "/tasks/nightly").json(&nightly);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], field);
    }
}

const CALL: &str = "export async function run({ method, path }) {
    const answer = await fetch(this.backend.url + path, { method,
        headers: { Authorization: `Token ${this.backend.token}` } });
    return answer.status; }";

async fn a_run_has_the_scopes_of_its_task_and_no_more(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    put(&lab, "reader", task("t.js", CALL, &["users:read"])).await;
    let call = async |method: &str, path: String| {
        let run = run(&lab, "reader", json!({ "method": method, "path": path })).await;
        run["result"].clone()
    };
    assert_eq!(call("GET", "/users.json".into()).await, 200);
    for path in [
        format!("{}/re-authenticate.json", phone.path()),
        format!("/users/{}/lock", phone.user),
        format!("/users/{}/unlock", phone.user),
        format!("/users/{}/authentication-token", phone.user),
    ] {
        assert_eq!(call("POST", path).await, 403);
    }
    assert_eq!(call("GET", "/../../../admin/apps".into()).await, 403);
    phone.must_be_signed_in().await;
    let elsewhere = "export async function run() {
        try { await fetch('http://127.0.0.1:1/'); } catch (error) { return error.message; } }";
    put(&lab, "outside", task("t.js", elsewhere, &[])).await;
    let run = run(&lab, "outside", json!({})).await;
    assert!(text(&run["result"]).contains("not allowed"), "{run}");
    for scopes in [["app:admin"], ["operator"]] {
        let request = lab.api(Method::PUT, "/tasks/x").json(&task("t.js", CALL, &scopes));
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "scopes");
    }
    let writer = lab.token(&["tasks:write"]).await;
    let path = format!("/api/v4/{}/tasks/x", lab.app);
    let request = lab.bare(Method::PUT, &path).bearer_auth(&writer);
    refused(request.json(&task("t.js", CALL, &["users:read"])), 403, "PERMISSION_DENIED").await;
}

async fn a_task_cannot_give_access_whatever_its_scopes(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.act(&format!("/users/{}/lock", phone.user)).await;
    put(&lab, "helper", task("t.js", CALL, &["users:write", "sessions:end"])).await;
    for path in ["unlock", "authentication-token"] {
        let path = format!("/users/{}/{path}", phone.user);
        let answer = run(&lab, "helper", json!({ "method": "POST", "path": path })).await;
        assert_eq!(answer["result"], 403, "{answer}");
    }
    phone.must_sign_in_again("LOCKED", "user_locked").await;
    // It is told so before its script, which is none, is compiled.
    let puts = "export async function run() {
        const answer = await fetch(this.backend.url + '/tasks/mine', { method: 'PUT',
            headers: { Authorization: `Token ${this.backend.token}` },
            body: JSON.stringify({ file: 't.js', source: 'export const' }) });
        return answer.status; }";
    put(&lab, "puts", task("t.js", puts, &["tasks:write"])).await;
    assert_eq!(run(&lab, "puts", json!({})).await["result"], 403);
}

/// A peer of the operator's own on loopback: it greets whoever asks.
async fn peer() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn a_script_reaches_what_the_operator_allows_and_nothing_beside_it(mut lab: Lab) {
    let (allowed, other) = (peer().await, peer().await);
    lab.config.tasks.fetch_allowed = vec![allowed.clone()];
    lab.restart().await;
    let fetches = "export async function run({ url }) {
        try { return await (await fetch(url)).text() } catch (error) { return error.message } }";
    put(&lab, "t", task("t.js", fetches, &[])).await;
    for (url, wanted) in [
        (format!("{allowed}/"), "hello"),
        (format!("{other}/"), "not allowed"),
        // What only begins like it is another host: the user of a URL is no host.
        (format!("{allowed}@127.0.0.1:1/"), "no credentials"),
        (allowed.replace("127.0.0.1", "127.0.0.1.example.com"), "not allowed"),
        (allowed.replace("http:", "https:"), "not allowed"),
    ] {
        let run = run(&lab, "t", json!({ "url": url })).await;
        assert!(text(&run["result"]).contains(wanted), "{url}: {run}");
    }
}

/// A child that begins as it should and then dies: told in `sandbox` in all its kinds.
#[test]
#[ignore = "a child that cannot run a script: started by the story below"]
fn dying_child() {
    std::process::abort();
}

async fn a_child_that_cannot_begin_is_a_run_that_waits_and_nothing_else(mut lab: Lab) {
    let mut once = task("t.js", "export function run() {}", &[]);
    once["retries"] = json!(0);
    put(&lab, "t", once.clone()).await;
    "tasks::dying_child".clone_into(&mut lab.child.args[0]);
    lab.restart().await;
    let id = begin(&lab, "t").await;
    // Nor can a script be read: it is not known whether it is right.
    refused(lab.api(Method::PUT, "/tasks/t").json(&once), 503, "SERVICE_UNAVAILABLE").await;
    let doctor = good(lab.bare(Method::GET, "/admin/doctor").bearer_auth(&lab.operator)).await;
    assert_eq!(doctor["ok"], false, "{doctor}");
    assert_eq!(json_of(lab.bare(Method::GET, "/health/ready")).await.0, StatusCode::OK);
    assert_eq!(lab.get(&format!("/runs/{id}")).await["state"], "queued");
}

async fn a_runs_token_dies_with_the_run(lab: Lab) {
    let leak = "export function run() { return this.backend.token }";
    put(&lab, "leak", task("t.js", leak, &["users:read"])).await;
    let token = text(&run(&lab, "leak", json!({})).await["result"]);
    let path = format!("/api/v4/{}/users", lab.app);
    refused(lab.bare(Method::GET, &path).bearer_auth(token), 401, "AUTHENTICATION_FAILED").await;
}

async fn a_broken_script_is_refused_and_the_old_one_goes_on(lab: Lab) {
    put(&lab, "t", task("t.ts", "export const run = (): number => 1", &[])).await;
    let broken = task("t.ts", "export const run = (): number => {\n  return 1 +;\n}", &[]);
    let body = refused(lab.api(Method::PUT, "/tasks/t").json(&broken), 422, "INVALID_VALUE").await;
    assert_eq!(body["field"], "source");
    assert!(text(&body["detail"]).contains("t.ts:2:13"), "{body}");
    assert_eq!(run(&lab, "t", json!({})).await["result"], 1);
}

async fn failures_are_kept_with_their_reason_and_log(mut lab: Lab) {
    // Beside busy neighbours a second of processor time takes several.
    lab.config.tasks.wall = Span::seconds(8);
    lab.config.tasks.cpu = Span::seconds(1);
    lab.config.tasks.memory_bytes = 32 << 20;
    lab.restart().await;
    for (source, kind) in [
        ("console.log('soon'); throw new Error('no')", "threw"),
        ("console.log('soon'); for (;;) {}", "out_of_time"),
        (
            "console.log('soon'); const all = []; for (;;) all.push('x'.repeat(1e6) + all.length)",
            "out_of_memory",
        ),
        ("console.log('soon'); await new Promise((go) => setTimeout(go, 60000))", "timed_out"),
        ("console.log('soon'); return 'x'.repeat(6e6)", "too_large"),
    ] {
        let source = format!("export async function run() {{ {source} }}");
        // What the script itself said is an answer, also if it is too long.
        let is_answer = matches!(kind, "threw" | "too_large");
        let state = if is_answer { "failed" } else { "dead" };
        let mut wanted = task("t.js", &source, &[]);
        if !is_answer {
            wanted["retries"] = json!(0);
        }
        put(&lab, "t", wanted).await;
        let run = run(&lab, "t", json!({})).await;
        assert_eq!((&run["state"], &run["error"]["kind"]), (&json!(state), &json!(kind)), "{run}");
        assert_eq!(run["log"][0]["text"], "soon", "{run}");
        assert_eq!(run["attempt"], 1, "{run}");
        assert_eq!(lab.get(&format!("/runs/{}", text(&run["id"]))).await, run);
    }
    assert_eq!(json_of(lab.bare(Method::GET, "/health/ready")).await.0, StatusCode::OK);
}

async fn a_single_instance_never_runs_twice_at_once(lab: Lab) {
    let mut single = task("t.js", NAP, &["users:write"]);
    single["single_instance"] = json!(true);
    put(&lab, "single", single).await;
    for _ in 0..4 {
        good(lab.api(Method::POST, "/tasks/single/run")).await;
    }
    for run in ended_runs(&lab, "single", 4).await {
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    assert_eq!(noted(&lab).await, ["from", "to"].repeat(4));
}

async fn a_run_that_lost_its_server_runs_again(mut lab: Lab) {
    let nap = "export async function run() {
        await new Promise((go) => setTimeout(go, 600)); return 'done' }";
    put(&lab, "nap", task("t.js", nap, &[])).await;
    let queued = good(lab.api(Method::POST, "/tasks/nap/run")).await;
    let path = format!("/runs/{}", text(&queued["id"]));
    let began = Instant::now(); // clock: measures
    while lab.get(&path).await["state"] != "running" {
        assert!(began.elapsed() < Duration::from_secs(30), "it begins");
    }
    lab.restart().await;
    let runs = ended_runs(&lab, "nap", 1).await;
    assert_eq!((&runs[0]["state"], &runs[0]["attempt"]), (&json!("succeeded"), &json!(2)));
    assert_eq!(runs.len(), 1);
}

async fn a_task_is_put_shown_listed_and_deleted(lab: Lab) {
    let mut wanted =
        task("t.js", "export function run() { return process.env.KEY }", &["users:read"]);
    wanted["env"] = json!({ "KEY": "a secret" });
    put(&lab, "one", wanted.clone()).await;
    let shown = lab.get("/tasks/one").await;
    assert_eq!(shown["source"], wanted["source"]);
    assert_eq!(shown["env"], json!(["KEY"]), "values are not shown again");
    assert_eq!(run(&lab, "one", json!({})).await["result"], "a secret");
    let list = lab.get("/tasks.json").await;
    assert_eq!((&list["total"], &list["objects"][0]["name"]), (&json!(1), &json!("one")));
    for name in ["One", "a%20b"] {
        let request = lab.api(Method::PUT, &format!("/tasks/{name}")).json(&wanted);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "name");
    }
    let request = lab.api(Method::POST, "/tasks/one/run").json(&json!({ "params": [1] }));
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "params");
    assert_eq!(json_of(lab.api(Method::DELETE, "/tasks/one")).await.0, StatusCode::NO_CONTENT);
    refused(lab.api(Method::GET, "/tasks/one"), 404, "OBJECT_NOT_FOUND").await;
    refused(lab.api(Method::POST, "/tasks/one/run"), 404, "OBJECT_NOT_FOUND").await;
    assert_eq!(lab.get("/tasks/one/runs").await["total"], 1, "runs outlive their task");
    assert_eq!(lab.get("/tasks/one/runs?state=dead").await["total"], 0);
    for path in ["/tasks/two/runs", "/tasks/two/runs?state=dead", "/tasks/two/runs?begun=true"] {
        refused(lab.api(Method::GET, path), 404, "OBJECT_NOT_FOUND").await;
    }
}
