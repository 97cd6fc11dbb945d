//! What a task cannot do whatever it tries: act while it is rehearsed, go beside what excludes it,
//! outlive its end, put itself above other tasks, take the server with it.

use std::time::{Duration, Instant};

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::runs::{begin, until};
use super::{CALL, ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    a_rehearsed_run_does_nothing_by_any_token_or_address,
    who_waits_for_a_run_does_not_get_past_what_excludes_it,
    a_web_run_ends_although_whoever_asked_is_gone,
    a_run_of_a_deleted_task_is_not_tried_again,
    a_task_is_put_by_no_task_and_unlocks_by_no_word_of_its_own,
    a_script_that_exhausts_the_compiler_is_refused_and_nothing_else,
    a_list_of_runs_is_short_whatever_they_hold,
    a_task_ends_no_run_and_tries_none_again,
    a_task_puts_off_no_end_date_and_changes_no_policy_and_no_attribute_that_one_selects_by,
    a_task_with_every_scope_makes_no_token_raises_no_limit_and_takes_nobody_out_of_a_policy,
);

async fn a_rehearsed_run_does_nothing_by_any_token_or_address(lab: Lab) {
    let ann = lab.user("ann").await;
    let mut web = task(
        "t.js",
        "export const authenticate = ({ access }) => access.authorized();
         export const post = () => 'done'; export const get = post;",
        &[],
    );
    web["web"] = json!(true);
    put(&lab, "web", web).await;
    let source = "export async function run({ lock, web }) {
        const post = async (url, token) => (await fetch(url, { method: 'POST',
            headers: { Authorization: `Bearer ${token}` } })).status;
        return [await post(this.backend.url + lock, process.env.ADMIN), await post(web, 'x'),
                (await fetch(web)).status,
                await post(this.backend.url + lock, this.backend.token)]; }";
    let mut sly = task("t.js", source, &["users:write", "sessions:end"]);
    sly["env"] = json!({ "ADMIN": lab.admin });
    put(&lab, "sly", sly).await;
    let params = json!({ "lock": format!("/users/{ann}/lock"),
        "web": format!("{}/tasks/{}/web", lab.url, lab.app) });
    let wanted = json!({ "params": params, "dry_run": true });
    let done = good(lab.api(Method::POST, "/tasks/sly/run?wait=true").json(&wanted)).await;
    // Not sent, three times; rehearsed.
    assert_eq!(done["result"], json!([202, 202, 202, 204]), "{done}");
    assert_eq!(done["changes"].as_array().expect("a list").len(), 4, "{done}");
    assert_eq!(lab.get(&format!("/users/{ann}")).await["locked"], false);
    assert_eq!(lab.get("/tasks/web/runs").await["total"], 0);
}

async fn who_waits_for_a_run_does_not_get_past_what_excludes_it(lab: Lab) {
    let slow = "export const authenticate = ({ access }) => access.authorized();
        export const get = () => new Promise((go) => setTimeout(() => go('done'), 700));
        export const run = () => 'done';";
    let mut single = task("t.js", slow, &[]);
    single["web"] = json!(true);
    single["single_instance"] = json!(true);
    put(&lab, "single", single).await;
    let path = format!("/tasks/{}/single", lab.app);
    let ask = || json_of(lab.bare(Method::GET, &path));
    let (one, other) = tokio::join!(ask(), ask());
    let mut both = [one.0.as_u16(), other.0.as_u16()];
    both.sort_unstable();
    assert_eq!(both, [200, 429], "{one:?} {other:?}");
    let call = "export const config = { queue: 'q' };
        export const run = () => CloudCode.callTask('called');";
    put(&lab, "called", json!({ "file": "t.js", "source": call, "scopes": ["tasks:run"] })).await;
    let refused = run(&lab, "called", json!({})).await;
    assert!(text(&refused["error"]["message"]).contains("excludes called"), "{refused}");
}

async fn a_web_run_ends_although_whoever_asked_is_gone(lab: Lab) {
    let slow = "export const authenticate = ({ access }) => access.authorized();
        export async function get() {
            console.log('began');
            await new Promise((go) => setTimeout(go, 500));
            return 'done'; }";
    let mut web = task("t.js", slow, &[]);
    web["web"] = json!(true);
    put(&lab, "slow", web).await;
    let path = format!("/tasks/{}/slow", lab.app);
    let impatient = lab.bare(Method::GET, &path).timeout(Duration::from_millis(200)).send().await;
    assert!(impatient.is_err(), "it hangs up");
    let runs = ended_runs(&lab, "slow", 1).await;
    assert_eq!((runs.len(), &runs[0]["state"]), (1, &json!("succeeded")), "{runs:?}");
}

async fn a_run_of_a_deleted_task_is_not_tried_again(mut lab: Lab) {
    lab.config.tasks.wall = Span::seconds(1);
    lab.restart().await;
    let hang = "export const run = () => new Promise((go) => setTimeout(go, 60000))";
    put(&lab, "hang", task("t.js", hang, &[])).await;
    let id = text(&good(lab.api(Method::POST, "/tasks/hang/run")).await["id"]);
    let began = Instant::now(); // clock: measures
    while lab.get(&format!("/runs/{id}")).await["state"] != "running" {
        assert!(began.elapsed() < Duration::from_secs(30), "it begins");
    }
    assert_eq!(json_of(lab.api(Method::DELETE, "/tasks/hang")).await.0, StatusCode::NO_CONTENT);
    let ended = lab.get(&format!("/runs/{id}?wait=true")).await;
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("dead"), &json!(1)), "{ended}");
    refused(lab.api(Method::POST, &format!("/runs/{id}/retry")), 404, "OBJECT_NOT_FOUND").await;
}

async fn a_task_is_put_by_no_task_and_unlocks_by_no_word_of_its_own(lab: Lab) {
    let writer = "export async function run() {
        const headers = { Authorization: `Token ${this.backend.token}` };
        const url = `${this.backend.url}/tasks/guard`;
        const body = JSON.stringify({ file: 't.js', source: 'export function run() {}' });
        return [(await fetch(url, { method: 'PUT', headers, body })).status,
                (await fetch(url, { method: 'DELETE', headers })).status]; }";
    put(&lab, "guard", task("t.js", "export const run = () => 1", &[])).await;
    put(&lab, "writer", task("t.js", writer, &["tasks:write"])).await;
    assert_eq!(run(&lab, "writer", json!({})).await["result"], json!([403, 403]));
    assert_eq!(run(&lab, "guard", json!({})).await["result"], 1);
    let source = "export const config = { scopes: ['users:write', 'users:unlock'] };
        export function run() {}";
    let path = format!("/api/v4/{}/tasks/u", lab.app);
    let request = lab.bare(Method::PUT, &path).bearer_auth(&lab.operator);
    let request = request.json(&json!({ "file": "t.js", "source": source }));
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "scopes");
}

async fn a_script_that_exhausts_the_compiler_is_refused_and_nothing_else(lab: Lab) {
    for open in ["[", "!", "(", "a?"] {
        let deep = format!("export const run = {}", open.repeat(100_000));
        let wanted = task("t.ts", &deep, &[]);
        let request = lab.api(Method::PUT, "/tasks/deep").json(&wanted);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "source", "{open}");
    }
    assert_eq!(json_of(lab.bare(Method::GET, "/health/ready")).await.0, StatusCode::OK);
}

async fn a_list_of_runs_is_short_whatever_they_hold(lab: Lab) {
    put(&lab, "long", task("t.js", "export const run = () => 'x'.repeat(1e6)", &[])).await;
    let done = run(&lab, "long", json!({ "text": "y".repeat(100_000) })).await;
    assert_eq!(text(&done["result"]).len(), 1_000_000);
    let list = lab.get("/runs").await;
    assert!(list.to_string().len() < 2_000, "{}", list.to_string().len());
    assert_eq!(list["objects"][0]["state"], "succeeded");
}

async fn a_task_ends_no_run_and_tries_none_again(lab: Lab) {
    let slow = "export const run = () => new Promise((go) => setTimeout(() => go('done'), 700))";
    put(&lab, "lock-leavers", task("t.js", slow, &[])).await;
    put(&lab, "fails", task("t.js", "export function run() { throw new Error('no') }", &[])).await;
    put(&lab, "sly", task("t.js", CALL, &["tasks:run"])).await;
    let post = async |path: String| {
        run(&lab, "sly", json!({ "method": "POST", "path": path })).await["result"].clone()
    };
    let failed = text(&run(&lab, "fails", json!({})).await["id"]);
    assert_eq!(post(format!("/runs/{failed}/retry")).await, 403);
    let later = json!({ "after": "1h" });
    let waits = good(lab.api(Method::POST, "/tasks/lock-leavers/run").json(&later)).await;
    let waits = text(&waits["id"]);
    assert_eq!(post(format!("/runs/{waits}/cancel")).await, 403);
    assert_eq!(lab.get(&format!("/runs/{waits}")).await["state"], "queued");
    let going = begin(&lab, "lock-leavers").await;
    until(&lab, &going, "running").await;
    assert_eq!(post(format!("/runs/{going}/cancel")).await, 403);
    assert_eq!(until(&lab, &going, "succeeded").await["result"], "done");
}

/// Says what it was answered.
const ASK: &str = "export async function run({ method, path, body }) {
    const headers = { Authorization: `Token ${this.backend.token}` };
    const sent = { method, headers, body: body && JSON.stringify(body) };
    return (await fetch(this.backend.url + path, sent)).status; }";

async fn a_task_puts_off_no_end_date_and_changes_no_policy_and_no_attribute_that_one_selects_by(
    lab: Lab,
) {
    let ann = lab.user("ann").await;
    let temps = json!({ "name": "temps", "applies_to": { "attributes": { "name": "ann" } },
        "limits": { "max_age": "8h" } });
    let policies = json!({ "policies": [temps] });
    good(lab.api(Method::PUT, "/policies").json(&policies)).await;
    let (user, end) = (format!("/objects/user/{ann}"), format!("/users/{ann}/not-after"));
    let dated = |day: &str| json!({ "not_after": day });
    good(lab.api(Method::PUT, &end).json(&dated("2026-08-01"))).await;
    let scopes = ["users:read", "users:write", "sessions:end", "tasks:write", "tasks:run"];
    put(&lab, "sly", task("t.js", ASK, &scopes)).await;
    let sly = async |method: &str, path: &str, body: Value| {
        let wanted = json!({ "method": method, "path": path, "body": body });
        run(&lab, "sly", wanted).await["result"].clone()
    };
    assert_eq!(sly("PUT", &end, dated("2026-09-01")).await, 403);
    assert_eq!(sly("PUT", &end, json!({ "not_after": null })).await, 403);
    assert_eq!(sly("PATCH", &user, json!({ "user": { "name": "eve" } })).await, 403);
    assert_eq!(sly("PUT", "/policies", json!({ "policies": [] })).await, 403);
    assert_eq!(lab.get(&user).await["name"], "ann");
    let bound = lab.get(&format!("/users/{ann}/access-bound")).await;
    assert_eq!(bound["not_after"], "2026-08-01T00:00:00Z", "{bound}");
    // An earlier end it may set.
    assert!(sly("PUT", &end, dated("2026-07-01")).await.as_i64().is_some_and(|it| it < 300));
    let held = lab.get("/policies").await["policies"].clone();
    assert_eq!(held[0]["name"], "temps", "{held}");
}

async fn a_task_with_every_scope_makes_no_token_raises_no_limit_and_takes_nobody_out_of_a_policy(
    lab: Lab,
) {
    let ann = lab.user("ann").await;
    let temps = |hours: &str| {
        json!({ "policies": [{ "name": "temps", "limits": { "max_age": hours },
            "applies_to": { "attributes": { "name": "ann" } } }] })
    };
    good(lab.api(Method::PUT, "/policies").json(&temps("8h"))).await;
    let scopes = [
        "users:read",
        "users:write",
        "users:unlock",
        "sessions:end",
        "ledger:read",
        "tasks:read",
        "tasks:write",
        "tasks:run",
    ];
    let path = format!("/api/v4/{}/tasks/sly", lab.app);
    let request = lab.bare(Method::PUT, &path).bearer_auth(&lab.operator);
    good(request.json(&task("t.js", ASK, &scopes))).await;
    let sly = async |(method, path, body): (&str, &str, Value)| {
        let wanted = json!({ "method": method, "path": path, "body": body });
        run(&lab, "sly", wanted).await["result"].clone()
    };
    let (user, admin) = (format!("/objects/user/{ann}"), format!("/admin/apps/{}", lab.app));
    let tokens = format!("{admin}/tokens");
    let all = lab.operator_get(&tokens).await;
    let (app, held) = (lab.operator_get(&admin).await, lab.get("/policies").await);
    let up = |path: &str| format!("/../../..{path}");
    let eve = json!({ "type": "user", "id": ann, "name": "eve" });
    let none = Value::Null;
    for (asked, answer) in [
        (("PUT", user.as_str(), json!({ "user": { "name": "eve" } })), 403),
        (("PATCH", &user, json!({ "user": { "name": null } })), 403),
        (("PUT", "/policies", temps("720h")), 403),
        (("POST", &format!("/users/{ann}/authentication-token"), json!({})), 403),
        (("GET", &up(&tokens), none.clone()), 403),
        (("POST", &up(&tokens), json!({ "name": "x", "scopes": ["users:read"] })), 403),
        (
            ("DELETE", &up(&format!("{tokens}/{}", text(&all["objects"][0]["id"]))), none.clone()),
            403,
        ),
        (("PATCH", &up(&admin), json!({ "settings": { "max_session_age": "365d" } })), 403),
        (("POST", &up("/admin/apps"), json!({ "name": "another" })), 403),
    ] {
        assert_eq!(sly(asked.clone()).await, answer, "{asked:?}");
    }
    let batch = json!({ "operations": [{ "method": "patch", "object": eve }] });
    sly(("POST", "/batch", batch.clone())).await;
    assert_eq!(lab.get(&user).await["name"], "ann");
    assert_eq!(lab.get("/policies").await, held);
    assert_eq!(lab.operator_get(&admin).await, app);
    assert_eq!(lab.operator_get(&tokens).await, all);
    assert_eq!(lab.operator_get("/admin/apps").await["total"], 1);
    lab.post("/batch", batch).await;
    assert_eq!(lab.get(&user).await["name"], "eve", "from an admin it is heard");
}
