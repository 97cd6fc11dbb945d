//! Tasks that start each other over the web: how deep that goes is known there, too, and a stranger
//! has no say in it.

use std::time::Duration;

use reauth_server::domain::tasks;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::web::web;
use super::{ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, text};

both!(
    a_circle_over_the_web_ends,
    a_web_task_that_asks_itself_is_refused_in_the_end,
    a_stranger_cannot_say_who_calls,
);

const OPEN: &str = "export const authenticate = ({ access }) => access.authorized();";

async fn a_circle_over_the_web_ends(lab: Lab) {
    let call = "export async function run() {
        const [origin, app] = this.backend.url.split('/api/v4/');
        const method = 'POST', headers = { 'Reauth-Caller': 'nobody' };
        await fetch(`${origin}/tasks/${app}/make`, { method, headers }); }";
    let mut watcher = task("t.js", call, &["ledger:read"]);
    watcher["on"] = json!(["user.created"]);
    put(&lab, "watcher", watcher).await;
    let make = format!(
        "{OPEN} export async function post() {{
            const user = await DB.user.create({{}}); user.name = 'again'; await user.save(); }}"
    );
    let mut make = web(&make);
    make["scopes"] = json!(["users:write"]);
    put(&lab, "make", make).await;
    lab.user("ann").await;
    // Each starts the other, five deep: 1 + 1 + 1 + 1 + 1 + 1 runs in all.
    ended_runs(&lab, "watcher", 3).await;
    ended_runs(&lab, "make", 3).await;
    let settled = tokio::time::timeout(Duration::from_secs(20), lab.server().settle()).await;
    settled.expect("it ends").expect("it settles");
    assert_eq!(lab.get("/runs").await["total"], 6);
}

async fn a_web_task_that_asks_itself_is_refused_in_the_end(lab: Lab) {
    let again = format!(
        "{OPEN} export async function get({{ request }}) {{
            const answer = await fetch(request.url, {{ headers: {{ 'reauth-caller': 'me' }} }});
            return answer.ok ? await answer.json() : {{ status: answer.status,
                why: await answer.text() }}; }}"
    );
    put(&lab, "again", web(&again)).await;
    let path = format!("/tasks/{}/again", lab.app);
    let answer = lab.bare(Method::GET, &path).send().await.expect("an answer");
    let said: Value = answer.json().await.expect("JSON");
    assert_eq!(said["status"], 409, "{said}");
    assert!(text(&said["why"]).contains("5 deep"), "{said}");
    assert_eq!(lab.get("/tasks/again/runs").await["total"], 6);
}

/// How deep the run of this answer is, and which headers its script has seen.
async fn asked(lab: &Lab, caller: &str) -> (i64, Value) {
    let path = format!("/tasks/{}/show", lab.app);
    let request = lab.bare(Method::GET, &path).header("reauth-caller", caller);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let run = answer.headers()["reauth-run"].to_str().expect("a text").to_owned();
    (depth_of(lab, &run).await, answer.json().await.expect("JSON"))
}

async fn depth_of(lab: &Lab, run: &str) -> i64 {
    let mut read = lab.server().app().db.read().await.expect("a look");
    tasks::depth_of(&mut read, run.parse().expect("an id")).await.expect("a run")
}

async fn a_stranger_cannot_say_who_calls(lab: Lab) {
    let show = format!("{OPEN} export const get = ({{ request }}) => [...request.headers.keys()];");
    put(&lab, "show", web(&show)).await;
    let call = "export async function run() {
        const [origin, app] = this.backend.url.split('/api/v4/');
        const answer = await fetch(`${origin}/tasks/${app}/show`);
        const { token } = this.backend;
        return { token, run: answer.headers.get('reauth-run'), seen: await answer.json() }; }";
    put(&lab, "call", task("t.js", call, &[])).await;
    let called = run(&lab, "call", json!({})).await["result"].clone();
    assert_eq!(depth_of(&lab, &text(&called["run"])).await, 1);
    let over = text(&called["token"]);
    for caller in ["", "nobody", &lab.operator, &lab.admin, &over] {
        let (depth, seen) = asked(&lab, caller).await;
        assert_eq!(depth, 0, "{caller}");
        assert!(!seen.to_string().contains("reauth-caller"), "{seen}");
    }
    assert!(!called["seen"].to_string().contains("reauth-caller"), "{called}");
}
