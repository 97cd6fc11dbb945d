//! What starts a task: schedules and what they missed, entries of the ledger, other tasks.

use std::time::Duration;

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    missed_moments_are_skipped_run_once_or_run_each,
    what_waits_to_be_tried_again_takes_no_moment_from_its_schedule,
    a_task_that_wants_itself_again_later_goes_on,
    an_entry_of_the_ledger_starts_a_task,
    the_last_of_many_tasks_hears_as_the_first,
    a_task_does_not_start_itself_and_circles_end,
    a_task_whose_owner_may_not_sign_in_rests_and_says_so,
    a_task_starts_another_and_waits_for_it,
    a_run_can_be_wanted_later,
    a_task_says_what_it_needs_and_a_caller_outweighs_it,
    files_import_each_other_and_errors_tell_the_written_line,
    a_task_unlocks_only_if_the_operator_gave_it_the_scope,
    a_task_moves_nobody_out_of_a_policy,
);

const ECHO: &str = "export function run(params) { return params }";

async fn missed_moments_are_skipped_run_once_or_run_each(mut lab: Lab) {
    for misfire in ["skip", "once", "all"] {
        let mut hourly = task("t.js", ECHO, &[]);
        hourly["schedule"] = json!({ "cron": "0 * * * *" });
        hourly["misfire"] = json!(misfire);
        put(&lab, misfire, hourly).await;
    }
    lab.stop().await;
    lab.clock.pass(Span::hours(4));
    lab.restart_after_stop().await;
    assert_eq!(ended_runs(&lab, "all", 4).await.len(), 4);
    assert_eq!(ended_runs(&lab, "once", 1).await.len(), 1);
    assert_eq!(lab.get("/tasks/skip/runs").await["total"], 0);
    let metrics = lab.bare(Method::GET, "/metrics").bearer_auth(&lab.operator).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a text");
    assert!(metrics.contains("reauth_task_runs_missed_total 7"), "{metrics}");
    let due: Vec<String> =
        ended_runs(&lab, "all", 4).await.iter().map(|run| text(&run["due_at"])).collect();
    let hours = ["10", "09", "08", "07"].map(|hour| format!("2026-05-03T{hour}:00:00Z"));
    assert_eq!(due, hours);
    // Who is there in time misses nothing: it is 10:12 now.
    lab.pass(Span::minutes(48));
    assert_eq!(ended_runs(&lab, "skip", 1).await[0]["due_at"], "2026-05-03T11:00:00Z");
}

async fn what_waits_to_be_tried_again_takes_no_moment_from_its_schedule(mut lab: Lab) {
    lab.config.tasks.retry_after = Span::hours(1);
    lab.restart().await;
    let fails = "export function run() { throw new Error('not now') }";
    let mut often = task("t.js", fails, &[]);
    often["schedule"] = json!({ "cron": "*/5 * * * *" });
    often["retries"] = json!(1);
    put(&lab, "often", often).await;
    // It is 06:12. The first has failed, and waits for ten minutes, when the next moment comes.
    for (minutes, count) in [(3, 1), (5, 2)] {
        lab.pass(Span::minutes(minutes));
        let wait = async {
            loop {
                let runs = lab.get("/tasks/often/runs").await["objects"].clone();
                let waits = |run: &&Value| run["attempt"] == 1 && run["state"] == "queued";
                if runs.as_array().expect("runs").iter().filter(waits).count() == count {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it has run, and waits");
    }
}

async fn a_task_that_wants_itself_again_later_goes_on(lab: Lab) {
    let source = "export const run = ({ after }) =>
        CloudCode.scheduleTask({ task: 'again', after, parameters: { after } });";
    put(&lab, "again", task("t.js", source, &["tasks:run"])).await;
    good(lab.api(Method::POST, "/tasks/again/run").json(&json!({ "params": { "after": "1h" } })))
        .await;
    for done in 1..=10 {
        let runs = ended_runs(&lab, "again", done).await;
        assert!(runs.iter().all(|run| run["error"].is_null()), "{runs:?}");
        lab.pass(Span::hours(1));
        lab.server().app().run_wake.notify_one();
    }
    // At once it would be a circle.
    put(&lab, "circle", task("t.js", &source.replace("again", "circle"), &["tasks:run"])).await;
    let wanted = json!({ "params": { "after": "1s" } });
    good(lab.api(Method::POST, "/tasks/circle/run").json(&wanted)).await;
    for done in 1..=6 {
        let runs = ended_runs(&lab, "circle", done).await;
        assert_eq!(runs.iter().any(|run| !run["error"].is_null()), done == 6, "{runs:?}");
        lab.pass(Span::seconds(2));
        lab.server().app().run_wake.notify_one();
    }
}

/// More tasks than one look is after.
async fn the_last_of_many_tasks_hears_as_the_first(lab: Lab) {
    let mut watcher = task("t.js", ECHO, &["ledger:read"]);
    for at in 0..=100 {
        let is_first_or_last = at % 100 == 0;
        let on = if is_first_or_last { "user.locked" } else { "group.member_added" };
        watcher["on"] = json!([on]);
        put(&lab, &format!("t{at:03}"), watcher.clone()).await;
    }
    let ann = lab.user("ann").await;
    lab.act(&format!("/users/{ann}/lock")).await;
    for name in ["t000", "t100"] {
        assert_eq!(ended_runs(&lab, name, 1).await.len(), 1);
    }
    assert_eq!(lab.get("/runs").await["total"], 2);
}

async fn an_entry_of_the_ledger_starts_a_task(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let mut watcher = task("t.js", ECHO, &["ledger:read"]);
    watcher["on"] = json!(["session.re_authenticate", "user.locked"]);
    put(&lab, "watcher", watcher.clone()).await;
    lab.act(&format!("{}/re-authenticate", phone.path())).await;
    let runs = ended_runs(&lab, "watcher", 1).await;
    let event = &runs[0]["result"]["event"];
    assert_eq!(
        (&runs[0]["trigger"], &event["kind"]),
        (&json!("event"), &json!("session.re_authenticate"))
    );
    assert_eq!((&event["user"], &event["by"]["kind"]), (&json!(phone.user), &json!("token")));
    assert_eq!(event["change"]["session"], phone.session.as_str());
    lab.act(&format!("/users/{}/lock", phone.user)).await;
    assert_eq!(ended_runs(&lab, "watcher", 2).await.len(), 2);
    watcher["where"] = json!({ "by.kind": "operator" });
    put(&lab, "watcher", watcher.clone()).await;
    lab.act(&format!("/users/{}/unlock", phone.user)).await;
    lab.act(&format!("/users/{}/lock", phone.user)).await;
    lab.act(&format!("/users/{}/unlock", phone.user)).await;
    let path = format!("/api/v4/{}/users/{}/lock", lab.app, phone.user);
    good(lab.bare(Method::POST, &path).bearer_auth(&lab.operator)).await;
    let runs = ended_runs(&lab, "watcher", 3).await;
    assert_eq!(runs.len(), 3, "what an app's token did does not meet the condition");
    assert_eq!(runs[0]["params"]["event"]["by"]["kind"], "operator");
    for (on, scopes, field) in [
        (json!(["run.ended"]), json!(["ledger:read"]), "on"),
        (json!(["user.locked"]), json!(["users:read"]), "on"),
    ] {
        watcher["on"] = on;
        watcher["scopes"] = scopes;
        let request = lab.api(Method::PUT, "/tasks/watcher").json(&watcher);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], field);
    }
}

async fn a_task_does_not_start_itself_and_circles_end(lab: Lab) {
    let create = "export async function run() {
        await fetch(`${this.backend.url}/objects/user`, { method: 'POST',
            headers: { Authorization: `Token ${this.backend.token}` },
            body: JSON.stringify({ user: { name: 'again' } }) }); }";
    for name in ["ping", "pong"] {
        let mut wanted = task("t.js", create, &["ledger:read", "users:write"]);
        wanted["on"] = json!(["user.created"]);
        put(&lab, name, wanted).await;
    }
    lab.user("ann").await;
    // Each starts the other, five deep: 2 · (1 + 1 + 1 + 1 + 1 + 1) runs in all.
    ended_runs(&lab, "ping", 6).await;
    ended_runs(&lab, "pong", 6).await;
    lab.server().app().schedule_wake.notify_one();
    let total = async || lab.get("/runs").await["total"].clone();
    let before = total().await;
    lab.server().settle().await.expect("it settles");
    assert_eq!((before, total().await), (json!(12), json!(12)));
}

async fn a_task_whose_owner_may_not_sign_in_rests_and_says_so(lab: Lab) {
    let ann = lab.user("ann").await;
    let mut hourly = task("t.js", ECHO, &[]);
    hourly["schedule"] = json!({ "cron": "0 * * * *" });
    hourly["owner"] = json!(ann);
    put(&lab, "hers", hourly.clone()).await;
    lab.pass(Span::hours(1));
    ended_runs(&lab, "hers", 1).await;
    lab.act(&format!("/users/{ann}/lock")).await;
    assert!(text(&lab.get("/tasks/hers").await["stopped"]).contains(&ann), "at once");
    lab.pass(Span::hours(1));
    lab.server().settle().await.expect("it settles");
    let rests = lab.get("/tasks/hers").await;
    assert!(text(&rests["stopped"]).contains(&ann), "{rests}");
    let doctor = lab.operator_get("/admin/doctor").await.to_string();
    assert!(doctor.contains(&format!("task hers of app shop ({}) rests", lab.app)), "{doctor}");
    assert_eq!(lab.get("/tasks/hers/runs").await["total"], 1);
    lab.act(&format!("/users/{ann}/unlock")).await;
    assert_eq!(lab.get("/tasks/hers").await["stopped"], Value::Null);
    lab.pass(Span::hours(1));
    ended_runs(&lab, "hers", 2).await;
    hourly["owner"] = json!("01900000-0000-7000-8000-00000000000a");
    let request = lab.api(Method::PUT, "/tasks/hers").json(&hourly);
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "owner");
}

async fn a_task_starts_another_and_waits_for_it(lab: Lab) {
    put(&lab, "double", task("t.js", "export const run = ({ n }) => n * 2", &[])).await;
    put(&lab, "broken", task("t.js", "export const run = () => { throw new Error('no') }", &[]))
        .await;
    let caller = "export async function run() {
        const twice = await CloudCode.callTask('double', { n: 21 });
        let why; try { await CloudCode.callTask('broken'); } catch (error) { why = error.message; }
        const later = await CloudCode.scheduleTask(
            { task: 'double', parameters: { n: 1 }, after: 60000, queue: 'q' });
        return { twice, why, later }; }";
    put(&lab, "caller", task("t.js", caller, &["tasks:run"])).await;
    let done = run(&lab, "caller", json!({})).await;
    assert_eq!(done["result"]["twice"], 42, "{done}");
    assert!(text(&done["result"]["why"]).contains("no"), "{done}");
    let later = lab.get(&format!("/runs/{}", text(&done["result"]["later"]))).await;
    assert_eq!((&later["state"], &later["queue"]), (&json!("queued"), &json!("q")));
    assert_eq!(
        (&later["trigger"], &later["due_at"]),
        (&json!("task"), &json!("2026-05-03T06:13:00Z"))
    );
    put(&lab, "powerless", task("t.js", caller, &["users:read"])).await;
    let refused = run(&lab, "powerless", json!({})).await;
    assert_eq!(refused["state"], "failed", "{refused}");
    let circle = "export const run = () => CloudCode.callTask('circle')";
    put(&lab, "circle", task("t.js", circle, &["tasks:run"])).await;
    let ended = run(&lab, "circle", json!({})).await;
    assert_eq!(ended["state"], "failed", "{ended}");
}

async fn a_run_can_be_wanted_later(lab: Lab) {
    put(&lab, "t", task("t.js", ECHO, &[])).await;
    let wanted = json!({ "at": "2026-05-03T07:00:00Z", "params": { "n": 1 } });
    let (status, waits) = json_of(lab.api(Method::POST, "/tasks/t/run").json(&wanted)).await;
    assert_eq!((status, &waits["due_at"]), (StatusCode::ACCEPTED, &json!("2026-05-03T07:00:00Z")));
    lab.server().settle().await.expect("it settles");
    assert_eq!(lab.get(&format!("/runs/{}", text(&waits["id"]))).await["state"], "queued");
    lab.clock.pass(Span::hours(1));
    lab.server().app().run_wake.notify_one();
    assert_eq!(ended_runs(&lab, "t", 1).await[0]["result"]["n"], 1);
    for wanted in [
        json!({ "at": "soon" }),
        json!({ "after": "soon" }),
        json!({ "at": "2026-05-03T07:00:00Z", "after": "1h" }),
        json!({ "after": "400d" }),
        json!({ "queue": "" }),
    ] {
        refused(lab.api(Method::POST, "/tasks/t/run").json(&wanted), 422, "INVALID_VALUE").await;
    }
}

async fn a_task_says_what_it_needs_and_a_caller_outweighs_it(lab: Lab) {
    let source = "export const config = { scopes: ['users:read'], retries: 1,
        schedule: { cron: '0 3 * * *', zone: 'Europe/Vienna' }, params: { days: 3 } };
        export function run(params) { return params }";
    let said = json!({ "file": "t.js", "source": source });
    let made = put(&lab, "t", said.clone()).await;
    assert_eq!((&made["scopes"], &made["retries"]), (&json!(["users:read"]), &json!(1)), "{made}");
    assert_eq!(made["schedule"]["zone"], "Europe/Vienna");
    assert_eq!(run(&lab, "t", json!({ "days": 4 })).await["result"]["days"], 4);
    let mut outweighed = said.clone();
    outweighed["retries"] = json!(5);
    outweighed["scopes"] = json!([]);
    let made = put(&lab, "t", outweighed).await;
    assert_eq!((&made["scopes"], &made["retries"]), (&json!([]), &json!(5)), "{made}");
    for (source, field) in [
        ("export const config = { scope: ['users:read'] }; export function run() {}", "scope"),
        ("export const config = { scopes: ['users:all'] }; export function run() {}", "scopes"),
        (
            "export const config = { allow_hosts: ['http://'] }; export function run() {}",
            "allow_hosts",
        ),
        ("export const config = { scopes: [1 + 1] }; export function run() {}", "source"),
        ("class A { @no way() {} }; export function run() {}", "source"),
        ("export const help = () => 1; export function get() {}", "source"),
    ] {
        let wanted = json!({ "file": "t.js", "source": source });
        let request = lab.api(Method::PUT, "/tasks/t").json(&wanted);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], field, "{source}");
    }
    // A script cannot give itself more than the one who puts it may.
    let writer = lab.token(&["tasks:write"]).await;
    let path = format!("/api/v4/{}/tasks/x", lab.app);
    let request = lab.bare(Method::PUT, &path).bearer_auth(&writer).json(&said);
    refused(request, 403, "PERMISSION_DENIED").await;
}

async fn files_import_each_other_and_errors_tell_the_written_line(lab: Lab) {
    let main = "import { fail, type Wide } from './lib/fail.js';\n\
        interface Unused { a: number; b: string; c: boolean }\n\n\
        export async function run(params: Wide) {\n  return fail(params);\n}\n";
    let lib = "export interface Wide {\n  n: number;\n}\n\n\
        export function fail(given: Wide): never {\n  throw new Error(`bad ${given.n}`);\n}\n";
    let wanted = json!({ "file": "main.ts", "source": main, "files": { "lib/fail.ts": lib } });
    let made = put(&lab, "t", wanted.clone()).await;
    assert_eq!(made["files"]["lib/fail.ts"], lib);
    let failed = run(&lab, "t", json!({ "n": 7 })).await;
    let why = text(&failed["error"]["message"]);
    assert!(why.starts_with("Error: bad 7"), "{why}");
    assert!(why.contains("lib/fail.ts:6:") && why.contains("main.ts:5:"), "{why}");
    let mut alone = wanted;
    alone["files"] = json!({});
    let refusal =
        refused(lab.api(Method::PUT, "/tasks/t").json(&alone), 422, "INVALID_VALUE").await;
    assert!(text(&refusal["detail"]).contains("main.ts:1:"), "{refusal}");
    for name in ["../up.ts", "/etc/passwd", "a//b.ts", "reauth:test"] {
        let mut odd = json!({ "file": "main.ts", "source": "export function run() {}" });
        odd["files"] = json!({ name: "export {}" });
        let request = lab.api(Method::PUT, "/tasks/t").json(&odd);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "file", "{name}");
    }
}

async fn a_task_unlocks_only_if_the_operator_gave_it_the_scope(lab: Lab) {
    let ann = lab.user("ann").await;
    lab.act(&format!("/users/{ann}/lock")).await;
    let unlock = task("t.js", super::CALL, &["users:write", "users:unlock"]);
    refused(lab.api(Method::PUT, "/tasks/u").json(&unlock), 403, "PERMISSION_DENIED").await;
    // Nor through a token that the admin makes: no token of an app has the scope.
    let tokens = format!("/admin/apps/{}/tokens", lab.app);
    let wanted = json!({ "name": "sly", "scopes": ["tasks:write", "users:unlock"] });
    for who in [&lab.admin, &lab.operator] {
        let request = lab.bare(Method::POST, &tokens).bearer_auth(who).json(&wanted);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "scopes");
    }
    let path = format!("/api/v4/{}/tasks/u", lab.app);
    good(lab.bare(Method::PUT, &path).bearer_auth(&lab.operator).json(&unlock)).await;
    let wanted = json!({ "method": "POST", "path": format!("/users/{ann}/unlock") });
    assert_eq!(run(&lab, "u", wanted).await["result"], 204);
    assert_eq!(lab.get(&format!("/users/{ann}")).await["locked"], false);
}

async fn a_task_moves_nobody_out_of_a_policy(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let member = format!("/groups/contractors/members/{}", phone.user);
    let done = json_of(lab.api(Method::PUT, &member)).await.0;
    assert!(done.is_success());
    put(&lab, "t", task("t.js", super::CALL, &["users:write"])).await;
    let call = async |method: &str, path: &str| {
        let wanted = json!({ "method": method, "path": path });
        run(&lab, "t", wanted).await["result"].clone()
    };
    assert_eq!(call("DELETE", &member).await, 403);
    assert_eq!(call("PUT", &format!("/groups/others/members/{}", phone.user)).await, 204);
    assert_eq!(lab.get("/groups").await["objects"].as_array().expect("a list").len(), 2);
}
