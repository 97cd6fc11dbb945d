//! What is not lost: schedules beside one that cannot be read, what was due or had happened when a
//! task was put again, its variables, ends with odd texts, runs of a full queue.

use reauth_server::domain::Span;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ended_runs, put, run, task};
use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    a_schedule_that_cannot_be_read_stops_no_other_and_says_so,
    a_schedule_that_has_ended_says_so,
    what_had_happened_and_was_due_is_not_lost_when_a_task_is_put_again,
    an_end_with_odd_texts_is_written_down,
    an_end_that_the_database_refuses_is_written_down_without_its_texts,
);

const ECHO: &str = "export function run(params) { return params }";

fn scheduled(cron: &str) -> Value {
    let mut wanted = task("t.js", ECHO, &[]);
    wanted["schedule"] = json!({ "cron": cron });
    wanted
}

async fn a_schedule_that_cannot_be_read_stops_no_other_and_says_so(lab: Lab) {
    put(&lab, "broken", scheduled("30 6 * * *")).await;
    put(&lab, "good", scheduled("0 7 * * *")).await;
    let damage = "update tasks set zone = 'Mars/Olympus' where name = 'broken'";
    lab.behind_its_back([damage; 2]).await;
    lab.pass(Span::hours(1));
    assert_eq!(ended_runs(&lab, "good", 1).await.len(), 1);
    let doctor = good(lab.bare(Method::GET, "/admin/doctor").bearer_auth(&lab.operator)).await;
    assert!(doctor.to_string().contains("Mars/Olympus"), "{doctor}");
    let mended = put(&lab, "broken", scheduled("30 6 * * *")).await;
    assert_eq!(mended["next_at"], "2026-05-04T06:30:00Z");
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
