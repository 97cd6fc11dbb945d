//! The sweep, warnings before an end, and the clock.

use reauth_server::domain::devices::{self, Proof};
use reauth_server::domain::ledger::By;
use reauth_server::domain::sessions::sweep;
use reauth_server::domain::{Span, Time};
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, text};

both!(
    the_sweep_writes_ends_down_in_their_order_and_changes_no_verdict,
    an_app_is_told_once_that_a_session_ends_soon,
    an_end_that_moves_is_told_again,
    an_idle_limit_hides_no_end_that_comes_soon,
    a_warning_that_comes_too_late_is_none,
    what_ended_long_ago_is_forgotten_and_its_entries_stay,
    a_clock_that_is_set_prolongs_nothing_and_is_told,
);

async fn entries(lab: &Lab, kind: &str) -> Vec<Value> {
    let path = "/admin/ledger?limit=1000";
    let page = good(lab.bare(Method::GET, path).bearer_auth(&lab.operator)).await;
    let bodies = page["entries"].as_array().expect("a list").clone();
    bodies.into_iter().filter(|entry| entry["kind"] == kind).collect()
}

fn change(entry: &Value) -> Value {
    serde_json::from_str::<Value>(&text(&entry["body"])).expect("JSON")["change"].clone()
}

async fn the_sweep_writes_ends_down_in_their_order_and_changes_no_verdict(lab: Lab) {
    let late = lab.sign_in("ann", "late").await;
    lab.set(json!({ "max_session_age": "2d" })).await;
    lab.pass(Span::hours(5));
    let policy = json!({ "name": "short", "applies_to": { "users": [late.user] },
        "limits": { "max_age": "1d" } });
    let early = lab.sign_in("bob", "early").await;
    lab.pass(Span::hours(17));
    super::state(&lab, json!([policy])).await;
    let fresh = lab.sign_in("eve", "fresh").await;
    lab.pass(Span::hours(32));
    let before = [late.view().await, early.view().await, fresh.view().await];
    assert_eq!(lab.sweep().await, 2);
    assert_eq!([late.view().await, early.view().await, fresh.view().await], before);
    late.must_sign_in_again("LOCKED", "max_session_age").await;
    fresh.must_be_signed_in().await;
    let told = entries(&lab, "session.ended").await;
    let told: Vec<Value> = told.iter().map(change).collect();
    assert_eq!(
        told.iter().map(|it| &it["session"]).collect::<Vec<_>>(),
        [&json!(late.session), &json!(early.session)],
        "{told:?}"
    );
    assert_eq!((&told[0]["policy"], &told[1]["policy"]), (&json!("short"), &Value::Null));
    let ended_at = Time::from_micros(told[0]["at"].as_i64().expect("a moment"));
    assert_eq!(json!(ended_at.to_string()), before[0]["signed_out_at"]);
    assert_eq!(lab.sweep().await, 0, "nothing is written twice");
    lab.sign_in("ann", "late").await.must_be_signed_in().await;
}

async fn an_app_is_told_once_that_a_session_ends_soon(mut lab: Lab) {
    lab.set(json!({ "warn_before": "3d", "max_idle": "20d" })).await;
    let phone = lab.sign_in("ann", "phone").await;
    assert_eq!(lab.sweep().await, 0);
    lab.pass(Span::days(15));
    phone.must_be_signed_in().await;
    lab.pass(Span::days(13));
    let answer = phone.check().await;
    let header = |name: &str| answer.headers()[name].to_str().expect("a text").to_owned();
    assert_eq!(header("reauth-ends-at"), "2026-06-02T06:12:00Z");
    assert_eq!(header("reauth-warn-at"), "2026-05-30T06:12:00Z");
    assert_eq!(phone.connect().await.1["warn_at"], "2026-05-30T06:12:00Z");
    assert_eq!((lab.sweep().await, lab.sweep().await), (1, 0));
    let told = change(&entries(&lab, "session.ending_soon").await[0]);
    assert_eq!(
        (&told["session"], &told["because"]),
        (&json!(phone.session), &json!("max_session_age"))
    );
    drop(phone);
    lab.restart().await;
    assert_eq!(lab.sweep().await, 0, "it is remembered");
    let again = lab.sign_in("ann", "phone").await;
    lab.pass(Span::days(28));
    again.must_sign_in_again("LOCKED", "max_idle").await;
    assert_eq!(lab.sweep().await, 1, "an end by idleness is no end to warn of");
    assert_eq!(entries(&lab, "session.ending_soon").await.len(), 1);
}

async fn an_end_that_moves_is_told_again(mut lab: Lab) {
    lab.set(json!({ "warn_before": "3d" })).await;
    let phone = lab.sign_in("ann", "phone").await;
    let date = format!("/users/{}/not-after", phone.user);
    let ends_on = async |lab: &Lab, day: &str| {
        good(lab.api(Method::PUT, &date).json(&json!({ "not_after": day }))).await;
        lab.sweep().await
    };
    assert_eq!(ends_on(&lab, "2026-05-05").await, 1);
    // The contract is prolonged: the old end was told in vain.
    assert_eq!(ends_on(&lab, "2026-05-20").await, 0);
    lab.pass(Span::days(14));
    assert_eq!(lab.sweep().await, 1);
    let short = super::for_group("sales", json!({ "max_age": "15d" }));
    super::join(&lab, "sales", &phone.user).await;
    super::state(&lab, json!([short])).await;
    assert_eq!(lab.sweep().await, 1, "it comes sooner than was told");
    drop(phone);
    lab.restart().await;
    assert_eq!(lab.sweep().await, 0);
    let told = entries(&lab, "session.ending_soon").await;
    let days = told.iter().map(|entry| change(entry)["ends_at"].as_i64().expect("a moment"));
    let days: Vec<String> =
        days.map(|at| Time::from_micros(at).to_string()[..10].to_owned()).collect();
    assert_eq!(days, ["2026-05-05", "2026-05-20", "2026-05-18"]);
}

async fn an_idle_limit_hides_no_end_that_comes_soon(lab: Lab) {
    lab.set(json!({ "warn_before": "1h", "max_idle": "10m", "max_session_age": "5h" })).await;
    let phone = lab.sign_in("ann", "phone").await;
    let age_ends_at = lab.clock.now() + Span::hours(5);
    let warn_at = async || {
        let answer = phone.check().await;
        let header = &answer.headers()["reauth-warn-at"];
        Time::parse(header.to_str().expect("a text")).expect("a moment")
    };
    for _ in 0..27 {
        let apart = age_ends_at - Span::hours(1) - warn_at().await;
        assert!(apart.whole_seconds().abs() <= 1, "by {apart}");
        assert_eq!(lab.sweep().await, 0);
        lab.pass(Span::minutes(9));
    }
    phone.must_be_signed_in().await;
    assert_eq!((lab.sweep().await, lab.sweep().await), (1, 0), "57 minutes before the end");
    let told = change(&entries(&lab, "session.ending_soon").await[0]);
    assert_eq!(told["because"], "max_session_age");
    lab.set(json!({ "max_session_age": null })).await;
    let answer = phone.check().await;
    assert!(!answer.headers().contains_key("reauth-warn-at"), "of idleness nobody is warned");
}

async fn a_warning_that_comes_too_late_is_none(lab: Lab) {
    lab.set(json!({ "warn_before": "1h", "max_session_age": "5h" })).await;
    lab.sign_in("ann", "phone").await;
    lab.pass(Span::minutes(299));
    let db = &lab.server().app().db;
    let mut found = sweep::look(db).await.expect("it looks");
    assert_eq!(found.len(), 1);
    lab.pass(Span::minutes(2));
    found.write(db).await.expect("it writes");
    assert_eq!(entries(&lab, "session.ending_soon").await.len(), 0, "it has ended meanwhile");
    assert_eq!(lab.sweep().await, 1);
    assert_eq!(entries(&lab, "session.ended").await.len(), 1);
}

async fn what_ended_long_ago_is_forgotten_and_its_entries_stay(mut lab: Lab) {
    let devices = [
        lab.sign_in("ann", "a").await,
        lab.sign_in("ann", "b").await,
        lab.sign_in("ann", "c").await,
    ];
    let paths: Vec<String> = devices.iter().map(crate::lab::Device::path).collect();
    lab.act(&format!("{}/wipe", paths[1])).await;
    drop(devices);
    lab.pass(Span::days(2));
    let db = lab.server().app().db.clone();
    assert!(!sweep::forget(&db, Span::days(1)).await.expect("it forgets"));
    let user = paths[0].split('/').nth(2).expect("an id").to_owned();
    let left = lab.get(&format!("/users/{user}")).await;
    let ids: Vec<String> = left["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| text(&session["device"]["id"]))
        .collect();
    assert_eq!(ids, ["c", "a"]);
    assert_eq!(entries(&lab, "session.wiped").await.len(), 1);
    let tokens = change(&entries(&lab, "sessions.forgotten").await[0])["tokens"].clone();
    assert_eq!(tokens, 3, "the authentication tokens are long used");
    // However many there are, a batch is a batch.
    let (app, id) = (lab.app.parse().expect("an id"), user.parse().expect("an id"));
    let mut tx = db.write(By::System).await.expect("a change");
    for _ in 0..150 {
        devices::issue(&mut tx, app, id, None, Proof::default()).await.expect("a token");
    }
    tx.commit().await.expect("it holds");
    lab.pass(Span::days(2));
    let forget = || sweep::forget(&db, Span::days(1));
    assert!(forget().await.expect("it forgets") && !forget().await.expect("it forgets"));
    let told = entries(&lab, "sessions.forgotten").await;
    let tokens: Vec<_> = told[1..].iter().map(|entry| change(entry)["tokens"].clone()).collect();
    assert_eq!(tokens, [100, 50]);
    // The device is unknown now; it begins anew.
    lab.sign_in("ann", "b").await.must_be_signed_in().await;
    drop(db);
    lab.restart().await;
    assert_eq!(lab.get(&format!("/users/{user}")).await["sessions"][0]["device"]["id"], "b");
}

async fn a_clock_that_is_set_prolongs_nothing_and_is_told(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let db = lab.server().app().db.clone();
    db.note_jump().await.expect("it is noted");
    let told = entries(&lab, "clock.jumped").await.len();
    let now = lab.clock.now();
    lab.clock.set(now - Span::days(20));
    lab.pass(Span::days(29));
    phone.must_be_signed_in().await;
    lab.pass(Span::days(1));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
    // The pulse may have been quicker than we.
    db.note_jump().await.expect("it is noted");
    let jumps = entries(&lab, "clock.jumped").await;
    assert_eq!(jumps.len(), told + 1);
    let by_s = change(jumps.last().expect("one"))["by_s"].as_i64().expect("seconds");
    assert!((by_s + 20 * 86_400).abs() < 2, "{by_s}");
}
