//! Runs: tried again, in a queue, ended, rehearsed, forgotten.

use std::time::{Duration, Instant};

use reauth_server::domain::ledger::By;
use reauth_server::domain::{Span, tasks};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::web::web;
use super::{CALL, ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    a_run_without_an_answer_is_tried_again_later_and_later_and_is_dead_in_the_end,
    what_took_too_much_time_or_memory_is_tried_again,
    runs_that_cannot_begin_lose_no_try_and_do_not_pile_up,
    a_dead_run_is_tried_again_when_someone_says_so,
    an_error_is_an_answer_unless_the_task_wants_to_try_again,
    a_run_knows_its_id_and_its_try,
    runs_with_the_same_queue_exclude_each_other,
    one_app_does_not_take_all_places,
    who_waits_for_a_run_takes_no_place_of_the_app,
    a_run_is_ended_while_it_goes_and_while_it_waits,
    a_run_whose_end_was_asked_for_is_not_tried_again,
    a_rehearsed_run_says_what_it_would_change_and_changes_nothing,
    what_a_run_has_said_can_be_read_while_it_goes,
    what_waits_for_later_is_listed_after_all_else,
    what_must_wait_for_another_run_is_not_due,
    runs_and_their_logs_are_forgotten_in_time,
    params_that_are_too_long_are_a_failed_run,
);

/// Waits until a run is in this state.
pub(super) async fn until(lab: &Lab, id: &str, state: &str) -> Value {
    let began = Instant::now(); // clock: measures
    loop {
        let run = lab.get(&format!("/runs/{id}")).await;
        if run["state"] == state {
            return run;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "{run}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn begin(lab: &Lab, name: &str) -> String {
    text(&good(lab.api(Method::POST, &format!("/tasks/{name}/run"))).await["id"])
}

const HANG: &str = "export async function run() {
    console.log(`try ${this.run.attempt}`);
    await new Promise((go) => setTimeout(go, 60000)); }";

async fn a_run_without_an_answer_is_tried_again_later_and_later_and_is_dead_in_the_end(
    mut lab: Lab,
) {
    lab.config.tasks.wall = Span::seconds(1);
    lab.config.tasks.retry_after = Span::seconds(10);
    lab.restart().await;
    put(&lab, "hang", task("t.js", HANG, &[])).await;
    let id = begin(&lab, "hang").await;
    let mut pauses = Vec::new();
    for attempt in 1..=2 {
        let waiting = until_waiting(&lab, &id, attempt).await;
        assert_eq!(waiting["error"]["kind"], "timed_out", "{waiting}");
        let due = moment(&waiting["due_at"]) - lab.clock.now().seconds();
        pauses.push(due);
        lab.pass(Span::seconds(due + 1));
        lab.server().app().run_wake.notify_one();
    }
    assert!((10..=16).contains(&pauses[0]) && (20..=31).contains(&pauses[1]), "{pauses:?}");
    let dead = until(&lab, &id, "dead").await;
    assert_eq!((&dead["attempt"], &dead["log"][0]["text"]), (&json!(3), &json!("try 3")), "{dead}");
    let list = lab.get("/runs?state=dead").await;
    assert_eq!(list["objects"][0]["id"], id.as_str());
    assert_eq!(lab.get("/tasks/hang/runs?state=failed").await["total"], 0);
    refused(lab.api(Method::GET, "/runs?state=gone"), 422, "INVALID_VALUE").await;
}

fn moment(value: &Value) -> i64 {
    reauth_server::domain::Time::parse(&text(value)).expect("a moment").seconds()
}

/// Waits until a run has been tried so often and waits for the next try.
pub(super) async fn until_waiting(lab: &Lab, id: &str, attempt: i64) -> Value {
    let began = Instant::now(); // clock: measures
    loop {
        let run = lab.get(&format!("/runs/{id}")).await;
        if run["state"] == "queued" && run["attempt"] == attempt {
            return run;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "{run}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn what_took_too_much_time_or_memory_is_tried_again(mut lab: Lab) {
    lab.config.tasks.cpu = Span::seconds(1);
    lab.config.tasks.memory_bytes = 32 << 20;
    lab.restart().await;
    for (greed, kind) in [
        ("for (;;) {}", "out_of_time"),
        ("const all = []; for (;;) all.push('x'.repeat(1e6) + all.length)", "out_of_memory"),
    ] {
        let source = format!(
            "export function run() {{ if (this.run.attempt < 2) {{ {greed} }} return 'calm' }}"
        );
        put(&lab, "greedy", task("t.js", &source, &[])).await;
        let id = begin(&lab, "greedy").await;
        let waiting = until_waiting(&lab, &id, 1).await;
        assert_eq!(waiting["error"]["kind"], kind, "{waiting}");
        lab.pass(Span::minutes(1));
        lab.server().app().run_wake.notify_one();
        let done = until(&lab, &id, "succeeded").await;
        assert_eq!((&done["result"], &done["attempt"]), (&json!("calm"), &json!(2)), "{done}");
    }
}

/// As if the machine could start no process for a while, or the program's file were gone.
async fn runs_that_cannot_begin_lose_no_try_and_do_not_pile_up(mut lab: Lab) {
    let mut often = task("t.js", "export function run() { return this.run.attempt }", &[]);
    often["retries"] = json!(0);
    often["schedule"] = json!({ "cron": "* * * * *" });
    put(&lab, "often", often).await;
    let able = std::mem::replace(&mut lab.child.program, "/nowhere".into());
    lab.restart().await;
    let id = begin(&lab, "often").await;
    let next_at = || async { lab.get("/tasks/often").await["next_at"].clone() };
    for _ in 0..90 {
        let before = next_at().await;
        lab.pass(Span::minutes(1));
        let began = Instant::now(); // clock: measures
        while next_at().await == before {
            assert!(began.elapsed() < Duration::from_secs(30), "its schedule goes on");
            tokio::task::yield_now().await;
        }
    }
    // The one by hand, and one for all moments.
    assert_eq!(lab.get("/tasks/often/runs").await["total"], 2);
    lab.child.program = able;
    lab.restart().await;
    lab.server().app().run_wake.notify_one();
    // At most one try was made before it was known that none can begin.
    assert!(until(&lab, &id, "succeeded").await["result"].as_i64() <= Some(2));
    ended_runs(&lab, "often", 2).await;
}

async fn a_dead_run_is_tried_again_when_someone_says_so(mut lab: Lab) {
    lab.config.tasks.wall = Span::seconds(1);
    lab.restart().await;
    let mut hang = task("t.js", HANG, &[]);
    hang["retries"] = json!(0);
    put(&lab, "t", hang).await;
    let id = begin(&lab, "t").await;
    until(&lab, &id, "dead").await;
    put(&lab, "t", task("t.js", "export function run() { return this.run }", &[])).await;
    let (status, again) = json_of(lab.api(Method::POST, &format!("/runs/{id}/retry"))).await;
    assert_eq!(
        (status, &again["id"]),
        (StatusCode::ACCEPTED, &json!(id)),
        "the same piece of work"
    );
    let done = until(&lab, &id, "succeeded").await;
    assert_eq!((&done["result"]["id"], &done["result"]["attempt"]), (&json!(id), &json!(2)));
    refused(lab.api(Method::POST, &format!("/runs/{id}/retry")), 409, "CONFLICT").await;
    let unknown = "/runs/01900000-0000-7000-8000-00000000000a/retry";
    refused(lab.api(Method::POST, unknown), 404, "OBJECT_NOT_FOUND").await;
}

async fn an_error_is_an_answer_unless_the_task_wants_to_try_again(lab: Lab) {
    let third = "export function run() {
        if (this.run.attempt < 3) throw new Error(`not yet ${this.run.attempt}`);
        return this.run.attempt; }";
    put(&lab, "plain", task("t.js", third, &[])).await;
    let failed = run(&lab, "plain", json!({})).await;
    assert_eq!((&failed["state"], &failed["attempt"]), (&json!("failed"), &json!(1)), "{failed}");
    let mut stubborn = task("t.js", third, &[]);
    stubborn["retries"] = json!(2);
    put(&lab, "stubborn", stubborn.clone()).await;
    let id = begin(&lab, "stubborn").await;
    for attempt in 1..=2 {
        until_waiting(&lab, &id, attempt).await;
        lab.pass(Span::minutes(1));
        lab.server().app().run_wake.notify_one();
    }
    assert_eq!(until(&lab, &id, "succeeded").await["result"], 3);
    stubborn["retries"] = json!(1_000);
    let request = lab.api(Method::PUT, "/tasks/stubborn").json(&stubborn);
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "retries");
}

async fn a_run_knows_its_id_and_its_try(lab: Lab) {
    put(&lab, "me", task("t.js", "export function run() { return this.run }", &[])).await;
    let done = run(&lab, "me", json!({})).await;
    let wanted = json!({ "id": done["id"], "attempt": 1, "task": "me", "trigger": "hand" });
    assert_eq!(done["result"], wanted);
}

/// Says when it begins and when it ends, by creating users: the server orders them.
pub(super) const NAP: &str = "async function note(name) {
        const sent = await fetch(`${this.backend.url}/objects/user`, {
            method: 'POST', headers: { Authorization: `Token ${this.backend.token}` },
            body: JSON.stringify({ user: { name } }) });
        if (!sent.ok) throw new Error(await sent.text());
    }
    export async function run() {
        await note.call(this, 'from'); await new Promise((go) => setTimeout(go, 60));
        await note.call(this, 'to'); }";

pub(super) async fn noted(lab: &Lab) -> Vec<String> {
    let users = lab.get("/objects/user").await;
    users["objects"].as_array().expect("a list").iter().map(|it| text(&it["name"])).collect()
}

async fn runs_with_the_same_queue_exclude_each_other(lab: Lab) {
    for name in ["one", "two"] {
        let mut nap = task("t.js", NAP, &["users:write"]);
        nap["queue"] = json!("mail");
        put(&lab, name, nap).await;
    }
    put(&lab, "three", task("t.js", NAP, &["users:write"])).await;
    for name in ["one", "two", "one"] {
        begin(&lab, name).await;
    }
    let request = lab.api(Method::POST, "/tasks/three/run").json(&json!({ "queue": "mail" }));
    assert_eq!(good(request).await["queue"], "mail");
    for (name, count) in [("one", 2), ("two", 1), ("three", 1)] {
        for run in ended_runs(&lab, name, count).await {
            assert_eq!(run["state"], "succeeded", "{run}");
        }
    }
    assert_eq!(noted(&lab).await, ["from", "to"].repeat(4));
}

async fn one_app_does_not_take_all_places(mut lab: Lab) {
    lab.config.tasks.concurrency = 4;
    lab.config.tasks.concurrency_per_app = 1;
    lab.restart().await;
    put(&lab, "nap", task("t.js", NAP, &["users:write"])).await;
    for _ in 0..3 {
        begin(&lab, "nap").await;
    }
    ended_runs(&lab, "nap", 3).await;
    assert_eq!(noted(&lab).await, ["from", "to"].repeat(3));
}

/// A web task asks another task, which waits for a user: meanwhile the app's schedules go on.
async fn who_waits_for_a_run_takes_no_place_of_the_app(mut lab: Lab) {
    lab.config.tasks.concurrency_per_app = 1;
    lab.restart().await;
    let asks = "export const authenticate = ({ access }) => access.authorized();
        export const get = () => CloudCode.callTask('waits')";
    let mut asks = web(asks);
    asks["scopes"] = json!(["tasks:run"]);
    put(&lab, "asks", asks).await;
    let waits = "export async function run() {
        while (!await DB.user.first()) await new Promise((go) => setTimeout(go, 50));
        return 'she has come'; }";
    put(&lab, "waits", task("t.js", waits, &["users:read"])).await;
    put(&lab, "good", task("t.js", "export const run = () => 'done'", &[])).await;
    let request = lab.bare(Method::GET, &format!("/tasks/{}/asks", lab.app)).send();
    let asked = tokio::spawn(request);
    let began = Instant::now(); // clock: measures
    let waiting = loop {
        let runs = lab.get("/tasks/waits/runs").await;
        if let id @ Value::String(_) = &runs["objects"][0]["id"] {
            break text(id);
        }
        assert!(began.elapsed() < Duration::from_mins(1), "nobody is called");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    until(&lab, &waiting, "running").await;
    assert_eq!(run(&lab, "good", json!({})).await["result"], "done");
    assert_eq!(lab.get(&format!("/runs/{waiting}")).await["state"], "running");
    lab.user("ann").await;
    let answer = asked.await.expect("it goes on").expect("an answer");
    assert_eq!(answer.text().await.expect("all of it"), "she has come");
}

/// Its script throws while whoever asks for its end is being answered: first in the line for the
/// writer, behind a long change.
async fn a_run_whose_end_was_asked_for_is_not_tried_again(lab: Lab) {
    let throws = "export async function run() {
        await new Promise((go) => setTimeout(go, 500));
        throw new Error('not yet'); }";
    let mut throws = task("t.js", throws, &[]);
    throws["retries"] = json!(3);
    put(&lab, "throws", throws).await;
    let id = begin(&lab, "throws").await;
    until(&lab, &id, "running").await;
    let long = lab.server().app().db.write(By::System).await.expect("a change");
    let cancel = lab.api(Method::POST, &format!("/runs/{id}/cancel"));
    let cancelling = tokio::spawn(good(cancel));
    // Whoever comes first, the run has one end: a shorter wait would only tell less.
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(long);
    let ended = cancelling.await.expect("an answer");
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("cancelled"), &json!(1)), "{ended}");
}

async fn a_run_is_ended_while_it_goes_and_while_it_waits(mut lab: Lab) {
    lab.config.tasks.concurrency = 1;
    lab.restart().await;
    let token = "export async function run() {
        console.log(this.backend.token);
        await new Promise((go) => setTimeout(go, 60000)); }";
    put(&lab, "hang", task("t.js", token, &["users:read"])).await;
    let (going, waiting) = (begin(&lab, "hang").await, begin(&lab, "hang").await);
    let token = loop {
        let run = until(&lab, &going, "running").await;
        if let Some(line) = run["log"].get(0) {
            break text(&line["text"]);
        }
    };
    let path = format!("/api/v4/{}/users", lab.app);
    good(lab.bare(Method::GET, &path).bearer_auth(&token)).await;
    let ended = good(lab.api(Method::POST, &format!("/runs/{waiting}/cancel"))).await;
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("cancelled"), &json!(0)), "{ended}");
    let ended = good(lab.api(Method::POST, &format!("/runs/{going}/cancel"))).await;
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("cancelled"), &json!(1)), "{ended}");
    assert_eq!(ended["error"]["kind"], "cancelled");
    refused(lab.bare(Method::GET, &path).bearer_auth(token), 401, "AUTHENTICATION_FAILED").await;
    let again = good(lab.api(Method::POST, &format!("/runs/{going}/cancel"))).await;
    assert_eq!(again, ended, "what has ended stays as it is");
}

async fn a_rehearsed_run_says_what_it_would_change_and_changes_nothing(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    put(&lab, "call", task("t.js", CALL, &["users:read", "sessions:end"])).await;
    let path = format!("{}/re-authenticate", phone.path());
    let wanted = json!({ "params": { "method": "POST", "path": path }, "dry_run": true });
    let done = good(lab.api(Method::POST, "/tasks/call/run?wait=true").json(&wanted)).await;
    assert_eq!((&done["result"], &done["dry_run"]), (&json!(204), &json!(true)), "{done}");
    let changes = done["changes"].as_array().expect("a list");
    assert_eq!(changes.len(), 1, "{done}");
    assert_eq!(changes[0]["user"], phone.user.as_str());
    assert_eq!(changes[0]["change"]["kind"], "session.re_authenticate");
    assert_eq!(changes[0]["change"]["session"], phone.session.as_str());
    phone.must_be_signed_in().await;
    let ledger = lab.get("/ledger?limit=1000").await;
    let entries = ledger["entries"].as_array().expect("a list");
    assert!(entries.iter().all(|entry| entry["kind"] != "session.re_authenticate"));
    let wanted = json!({ "params": { "method": "POST", "path": path } });
    let done = good(lab.api(Method::POST, "/tasks/call/run?wait=true").json(&wanted)).await;
    assert_eq!((&done["dry_run"], done.get("changes")), (&json!(false), None));
    phone.must_sign_in_again("LOCKED", "re_authenticate").await;
}

async fn what_a_run_has_said_can_be_read_while_it_goes(lab: Lab) {
    let source = "export async function run() {
        console.warn('half way');
        await new Promise((go) => setTimeout(go, 60000)); }";
    put(&lab, "t", task("t.js", source, &[])).await;
    let id = begin(&lab, "t").await;
    let line = loop {
        let run = until(&lab, &id, "running").await;
        if let Some(line) = run["log"].get(0) {
            break line.clone();
        }
    };
    assert_eq!((&line["level"], &line["text"]), (&json!("warn"), &json!("half way")));
    good(lab.api(Method::POST, &format!("/runs/{id}/cancel"))).await;
}

async fn runs_and_their_logs_are_forgotten_in_time(lab: Lab) {
    put(&lab, "t", task("t.js", "export function run() { console.log('hello'); }", &[])).await;
    let id = text(&run(&lab, "t", json!({})).await["id"]);
    let (runs, logs) = (Span::days(90), Span::days(30));
    let forget = async || {
        let db = &lab.server().app().db;
        let mut tx = db.write(By::System).await.expect("a change");
        let is_found = tasks::forget_runs(&mut tx, runs, logs).await.expect("it forgets");
        tx.commit().await.expect("a commit");
        is_found
    };
    assert!(!forget().await);
    lab.clock.pass(Span::days(31));
    assert!(forget().await);
    let kept = lab.get(&format!("/runs/{id}")).await;
    assert_eq!((&kept["state"], &kept["log"]), (&json!("succeeded"), &json!([])));
    lab.clock.pass(Span::days(60));
    assert!(forget().await && !forget().await);
    refused(lab.api(Method::GET, &format!("/runs/{id}")), 404, "OBJECT_NOT_FOUND").await;
    let last = lab.operator_get("/admin/ledger/verify").await;
    assert_eq!(last["ok"], true, "{last}");
}

async fn params_that_are_too_long_are_a_failed_run(lab: Lab) {
    put(&lab, "t", task("t.js", "export function run() {}", &[])).await;
    let long = json!({ "params": { "text": "x".repeat(5 << 20) } });
    let (_, run) = json_of(lab.api(Method::POST, "/tasks/t/run").json(&long)).await;
    assert_eq!((&run["state"], &run["error"]["kind"]), (&json!("failed"), &json!("too_large")));
    let longer = json!({ "params": { "text": "x".repeat(7 << 20) } });
    // Who is refused while it is still sending may hear of it, or of a connection that is gone.
    let sent = lab.api(Method::POST, "/tasks/t/run").json(&longer).send().await;
    assert!(sent.is_err() || sent.is_ok_and(|answer| answer.status() == 413));
    assert_eq!(lab.get("/runs").await["total"], 1);
}

async fn what_waits_for_later_is_listed_after_all_else(lab: Lab) {
    put(&lab, "t", task("t.js", "export const run = () => 1", &[])).await;
    let first = text(&run(&lab, "t", json!({})).await["id"]);
    for after in 1..=4 {
        let wanted = json!({ "after": format!("{after}h") });
        good(lab.api(Method::POST, "/tasks/t/run").json(&wanted)).await;
    }
    lab.pass(Span::minutes(1));
    let last = text(&run(&lab, "t", json!({})).await["id"]);
    for path in ["/runs?limit=3", "/tasks/t/runs?limit=3"] {
        let runs = lab.get(path).await;
        let ids: Vec<String> = [0, 1].map(|at| text(&runs["objects"][at]["id"])).into();
        assert_eq!((&ids, &runs["total"]), (&vec![last.clone(), first.clone()], &json!(6)));
        assert_eq!(runs["objects"][2]["state"], "queued", "{runs}");
    }
    // Who looks for what has begun is shown nothing else.
    let begun = lab.get("/tasks/t/runs?begun=true&limit=1").await;
    assert_eq!((&begun["total"], &begun["objects"][0]["id"]), (&json!(2), &json!(last)));
    assert_eq!(lab.get("/runs?begun=true&state=queued").await["total"], 0);
}

async fn what_must_wait_for_another_run_is_not_due(lab: Lab) {
    let hang = task("t.js", HANG, &[]);
    let [mut single, mut queued, free] = [hang.clone(), hang.clone(), hang];
    single["single_instance"] = json!(true);
    queued["queue"] = json!("q");
    for (name, wanted) in [("single", single), ("queued", queued), ("free", free)] {
        put(&lab, name, wanted).await;
    }
    let is_due = async |per_app: i64| {
        let mut read = lab.server().app().db.read().await.expect("a look");
        tasks::has_due(&mut read, per_app).await.expect("an answer")
    };
    // What waits for them begins no transaction again and again.
    for name in ["single", "queued"] {
        until(&lab, &begin(&lab, name).await, "running").await;
        begin(&lab, name).await;
        assert!(!is_due(100).await, "{name}");
    }
    // The app has two places, which are taken.
    begin(&lab, "free").await;
    assert_eq!((is_due(2).await, is_due(3).await), (false, true));
}
