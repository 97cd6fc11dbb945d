//! What is not lost: that a schedule has ended, what was due or had happened when a
//! task was put again, its variables, ends with odd texts, runs of a full queue.

use reauth_server::domain::ledger::By;
use reauth_server::domain::{RunId, Span, tasks};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::runs::{begin, until};
use super::{ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    a_schedule_that_has_ended_says_so,
    what_had_happened_and_was_due_is_not_lost_when_a_task_is_put_again,
    an_end_with_odd_texts_is_written_down,
    an_end_that_the_database_refuses_is_written_down_without_its_texts,
    what_is_to_begin_later_keeps_out_nothing_that_is_due,
    a_schedule_that_finds_the_queue_full_runs_when_there_is_room,
    a_moment_long_past_goes_before_nobody,
    what_waits_for_an_owner_who_was_locked_does_not_begin,
    variables_stay_until_they_are_said_anew,
    a_rehearsal_tells_what_the_tasks_that_it_calls_would_change,
    a_run_that_a_stop_cuts_off_loses_no_try,
    runs_that_wait_for_a_deleted_task_end_with_an_entry_each,
);

const ECHO: &str = "export function run(params) { return params }";

fn scheduled(cron: &str) -> Value {
    let mut wanted = task("t.js", ECHO, &[]);
    wanted["schedule"] = json!({ "cron": cron });
    wanted
}

async fn a_schedule_that_has_ended_says_so(lab: Lab) {
    put(&lab, "last", scheduled("0 0 7 3 5 * 2026")).await;
    lab.pass(Span::hours(1));
    ended_runs(&lab, "last", 1).await;
    let shown = lab.get("/tasks/last").await;
    assert_eq!(shown["next_at"], Value::Null);
    assert!(text(&shown["stopped"]).contains("has ended"), "{shown}");
}

async fn what_had_happened_and_was_due_is_not_lost_when_a_task_is_put_again(lab: Lab) {
    let ann = lab.user("ann").await;
    let mut watcher = task("t.js", ECHO, &["ledger:read"]);
    watcher["on"] = json!(["user.locked"]);
    put(&lab, "watcher", watcher.clone()).await;
    for _ in 0..20 {
        lab.act(&format!("/users/{ann}/lock")).await;
        put(&lab, "watcher", watcher.clone()).await;
        lab.act(&format!("/users/{ann}/unlock")).await;
    }
    assert_eq!(ended_runs(&lab, "watcher", 20).await.len(), 20);
    for at in 1..=5 {
        put(&lab, "hourly", scheduled("0 * * * *")).await;
        lab.clock.pass(Span::hours(1));
        put(&lab, "hourly", scheduled("0 * * * *")).await;
        assert_eq!(ended_runs(&lab, "hourly", at).await.len(), at);
    }
}

async fn an_end_with_odd_texts_is_written_down(lab: Lab) {
    let throws = "export function run() { console.log('c\\0d'); throw new Error('a\\0b') }";
    put(&lab, "throws", task("t.js", throws, &[])).await;
    let failed = run(&lab, "throws", json!({})).await;
    assert_eq!((&failed["state"], &failed["attempt"]), (&json!("failed"), &json!(1)), "{failed}");
    assert!(text(&failed["error"]["message"]).contains("a\u{fffd}b"), "{failed}");
    assert_eq!(failed["log"][0]["text"], "c\0d");
    put(&lab, "echo", task("t.js", ECHO, &[])).await;
    let done = run(&lab, "echo", json!({ "a\0": "b\0" })).await;
    assert_eq!(done["result"], json!({ "a\0": "b\0" }));
    for wanted in [
        json!({ "file": "t.js", "source": "export const run = () => '\0'" }),
        json!({ "file": "t.js", "source": ECHO, "files": { "a.js": "// \0" } }),
    ] {
        let request = lab.api(Method::PUT, "/tasks/odd").json(&wanted);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "source");
    }
    let odd = task("t.js", ECHO, &[]);
    refused(lab.api(Method::PUT, "/tasks/a%00b").json(&odd), 422, "INVALID_VALUE").await;
    for (method, path) in [
        (Method::GET, "/tasks/a%00b"),
        (Method::DELETE, "/tasks/a%00b"),
        (Method::GET, "/tasks/a%00b/runs"),
        (Method::POST, "/tasks/a%00b/run"),
    ] {
        refused(lab.api(method, path), 404, "OBJECT_NOT_FOUND").await;
    }
}

async fn an_end_that_the_database_refuses_is_written_down_without_its_texts(lab: Lab) {
    lab.behind_its_back([
        "create trigger refuses before update on runs when new.log like '%poison%'
         begin select raise(abort, 'no'); end",
        "create function refuse() returns trigger language plpgsql as
         $$ begin if new.log like '%poison%' then raise exception 'no'; end if; return new; end $$;
         create trigger refuses before update on runs for each row execute function refuse()",
    ])
    .await;
    let source = "export function run() { console.log('poison'); throw new Error('no') }";
    put(&lab, "t", task("t.js", source, &[])).await;
    let failed = run(&lab, "t", json!({})).await;
    assert_eq!((&failed["state"], &failed["error"]["kind"]), (&json!("failed"), &json!("threw")));
    assert!(text(&failed["log"][0]["text"]).contains("could not be written"), "{failed}");
}

/// As many runs of a task as can wait, from `after` on: a thousand requests take their time.
async fn fill(lab: &Lab, after: Span) -> Vec<RunId> {
    let app = lab.app.parse().expect("an app");
    let mut tx = lab.server().app().db.write(By::System).await.expect("a change");
    let filler = tasks::find(&mut tx, app, "filler").await.expect("the task");
    let order = tasks::Order {
        due_at: Some(lab.clock.now() + after),
        queue: Some("held".into()),
        ..tasks::Order::by(tasks::Trigger::Task)
    };
    let mut filled = Vec::new();
    for _ in 0..tasks::QUEUED_MAX {
        filled.push(tasks::queue(&mut tx, app, &filler, order.clone()).await.expect("a run"));
    }
    tx.commit().await.expect("a commit");
    filled
}

async fn empty(lab: &Lab, filled: Vec<RunId>) {
    let app = lab.app.parse().expect("an app");
    let mut tx = lab.server().app().db.write(By::System).await.expect("a change");
    for run in filled {
        assert!(tasks::cancel_queued(&mut tx, app, run).await.expect("it waits"));
    }
    tx.commit().await.expect("a commit");
}

async fn what_is_to_begin_later_keeps_out_nothing_that_is_due(lab: Lab) {
    put(&lab, "filler", task("t.js", ECHO, &[])).await;
    put(&lab, "hourly", scheduled("0 * * * *")).await;
    fill(&lab, Span::days(365)).await;
    let later = lab.api(Method::POST, "/tasks/filler/run").json(&json!({ "after": "1h" }));
    assert_eq!(json_of(later).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(run(&lab, "filler", json!({ "n": 1 })).await["result"]["n"], 1);
    lab.pass(Span::hours(1));
    ended_runs(&lab, "hourly", 1).await;
}

async fn a_schedule_that_finds_the_queue_full_runs_when_there_is_room(mut lab: Lab) {
    put(&lab, "filler", task("t.js", ECHO, &[])).await;
    put(&lab, "nightly", scheduled("0 7 * * *")).await;
    let mut each = scheduled("0,30 7 * * *");
    each["misfire"] = json!("all");
    put(&lab, "each", each).await;
    // What runs holds the queue of all that wait.
    let hang = "export const run = () => new Promise((go) => setTimeout(go, 60000))";
    let mut holder = task("t.js", hang, &[]);
    holder["queue"] = json!("held");
    put(&lab, "holder", holder).await;
    let held = begin(&lab, "holder").await;
    until(&lab, &held, "running").await;
    let filled = fill(&lab, Span::seconds(0)).await;
    refused(lab.api(Method::POST, "/tasks/filler/run"), 429, "TOO_MANY_REQUESTS").await;
    lab.clock.pass(Span::minutes(80));
    lab.server().app().schedule_wake.notify_one();
    let db = &lab.server().app().db;
    let next_due = async || tasks::next_due(&mut db.read().await.expect("a view")).await;
    while next_due().await.expect("a moment").is_some_and(|due| due <= lab.clock.now()) {
        tokio::task::yield_now().await;
    }
    for name in ["nightly", "each"] {
        assert_eq!(lab.get(&format!("/tasks/{name}/runs")).await["total"], 0);
    }
    empty(&lab, filled).await;
    lab.pass(Span::seconds(11));
    ended_runs(&lab, "nightly", 1).await;
    let runs = ended_runs(&lab, "each", 2).await;
    let due: Vec<String> = runs.iter().map(|run| text(&run["due_at"])).collect();
    assert_eq!(due, ["2026-05-03T07:30:00Z", "2026-05-03T07:00:00Z"]);
    assert_eq!(lab.get("/tasks/nightly").await["next_at"], "2026-05-04T07:00:00Z");
    assert_eq!(lab.get("/tasks/each").await["next_at"], "2026-05-04T07:00:00Z");
    lab.stop().await;
}

async fn a_moment_long_past_goes_before_nobody(lab: Lab) {
    put(&lab, "t", task("t.js", ECHO, &[])).await;
    let past = json!({ "at": "1970-01-01T00:00:00Z" });
    let waits = good(lab.api(Method::POST, "/tasks/t/run").json(&past)).await;
    assert_eq!(waits["due_at"], "2026-05-03T06:12:00Z", "{waits}");
    ended_runs(&lab, "t", 1).await;
}

async fn what_waits_for_an_owner_who_was_locked_does_not_begin(lab: Lab) {
    let ann = lab.user("ann").await;
    let mut hers = task("t.js", ECHO, &[]);
    hers["owner"] = json!(ann);
    put(&lab, "hers", hers).await;
    let source = "export async function run() {
        await CloudCode.scheduleTask({ task: 'hers', after: 60000 });
        try { await CloudCode.callTask('hers'); } catch (error) { return error.message; } }";
    put(&lab, "caller", task("t.js", source, &["tasks:run"])).await;
    assert_eq!(run(&lab, "caller", json!({})).await["result"], Value::Null);
    lab.act(&format!("/users/{ann}/lock")).await;
    let refusal = text(&run(&lab, "caller", json!({})).await["result"]);
    assert!(refusal.contains("may not sign in"), "{refusal}");
    lab.clock.pass(Span::minutes(2));
    lab.server().app().run_wake.notify_one();
    let runs = ended_runs(&lab, "hers", 3).await;
    let cancelled: Vec<&Value> = runs.iter().filter(|it| it["state"] == "cancelled").collect();
    assert_eq!(cancelled.len(), 2, "{runs:?}");
    assert!(text(&cancelled[0]["error"]["message"]).contains(&ann), "{runs:?}");
    // A person who asks for it is not acted for by itself.
    assert_eq!(run(&lab, "hers", json!({ "n": 1 })).await["state"], "succeeded");
}

async fn variables_stay_until_they_are_said_anew(lab: Lab) {
    let mut wanted = task("t.js", "export function run() { return process.env }", &[]);
    wanted["env"] = json!({ "MAIL_KEY": "a secret" });
    put(&lab, "t", wanted.clone()).await;
    let plain = task("t.js", "export const run = () => process.env", &[]);
    for (env, seen) in [
        (None, json!({ "MAIL_KEY": "a secret" })),
        (Some(json!({ "OTHER": "1" })), json!({ "OTHER": "1" })),
        (None, json!({ "OTHER": "1" })),
        (Some(json!({})), json!({})),
        (Some(json!({ "OTHER": "2" })), json!({ "OTHER": "2" })),
        (Some(Value::Null), json!({})),
    ] {
        let mut again = plain.clone();
        if let Some(env) = &env {
            again["env"] = env.clone();
        }
        put(&lab, "t", again).await;
        assert_eq!(run(&lab, "t", json!({})).await["result"], seen, "{env:?}");
    }
    // What the script says itself is said.
    let own = "export const config = { env: { OWN: '1' } }; export const run = () => process.env";
    wanted["source"] = json!(own);
    put(&lab, "t", wanted.clone()).await;
    put(&lab, "t", task("t.js", own, &[])).await;
    assert_eq!(run(&lab, "t", json!({})).await["result"], json!({ "OWN": "1" }));
}

async fn a_rehearsal_tells_what_the_tasks_that_it_calls_would_change(lab: Lab) {
    let ann = lab.user("ann").await;
    put(&lab, "lock", task("t.js", super::CALL, &["users:write", "sessions:end"])).await;
    let source = "export const run = (params) => CloudCode.callTask('lock', params)";
    put(&lab, "caller", task("t.js", source, &["tasks:run"])).await;
    let params = json!({ "method": "POST", "path": format!("/users/{ann}/lock") });
    let wanted = json!({ "params": params, "dry_run": true });
    let done = good(lab.api(Method::POST, "/tasks/caller/run?wait=true").json(&wanted)).await;
    assert_eq!(done["result"], 204, "{done}");
    assert_eq!(done["changes"].as_array().expect("a list").len(), 1, "{done}");
    assert_eq!(done["changes"][0]["change"]["kind"], "user.locked", "{done}");
    assert_eq!(lab.get(&format!("/users/{ann}")).await["locked"], false);
    let called = ended_runs(&lab, "lock", 1).await;
    assert_eq!((&called[0]["state"], &called[0]["dry_run"]), (&json!("succeeded"), &json!(true)));
}

async fn a_run_that_a_stop_cuts_off_loses_no_try(mut lab: Lab) {
    let source = "export async function run() {
        if (this.run.attempt < 3) await new Promise((go) => setTimeout(go, 60000));
        return this.run.attempt; }";
    let mut wanted = task("t.js", source, &[]);
    wanted["retries"] = json!(0);
    put(&lab, "t", wanted).await;
    let id = begin(&lab, "t").await;
    for _ in 0..2 {
        until(&lab, &id, "running").await;
        lab.restart().await;
    }
    assert_eq!(until(&lab, &id, "succeeded").await["result"], 3);
}

async fn runs_that_wait_for_a_deleted_task_end_with_an_entry_each(lab: Lab) {
    put(&lab, "t", task("t.js", ECHO, &[])).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let later = lab.api(Method::POST, "/tasks/t/run").json(&json!({ "after": "1h" }));
        waiting.push(text(&good(later).await["id"]));
    }
    let first = format!("/runs/{}?wait=true", waiting[0]);
    let delete = async {
        assert_eq!(json_of(lab.api(Method::DELETE, "/tasks/t")).await.0, 204);
    };
    let (ended, ()) = tokio::join!(lab.get(&first), delete);
    assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("failed"), &json!("deleted")));
    let ledger = lab.get("/ledger?limit=1000").await;
    let entries = ledger["entries"].as_array().expect("a list");
    let ends = entries.iter().filter(|entry| entry["kind"] == "run.ended");
    let mut ends: Vec<(String, Value, Value)> = ends
        .map(|it| (text(&it["change"]["run"]), it["change"]["state"].clone(), it["by"].clone()))
        .collect();
    ends.sort_by(|one, other| one.0.cmp(&other.0));
    waiting.sort();
    let deleted = entries.iter().find(|entry| entry["kind"] == "task.deleted").expect("an entry");
    let by = &deleted["by"];
    let wanted = waiting.into_iter().map(|run| (run, json!("failed"), by.clone()));
    assert_eq!(ends, wanted.collect::<Vec<_>>());
}
