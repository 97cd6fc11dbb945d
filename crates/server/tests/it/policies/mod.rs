//! Policies and cut-offs: rules for some, and "everyone in this scope must sign in again".

mod access;
mod foreseen;
mod guards;
mod revocations;
mod selectors;
mod simulation;
mod sweep;

use reauth_server::domain::access::Verdict;
use reauth_server::domain::{Span, Time, devices};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    everyone_in_scope_must_sign_in_again_and_nobody_else,
    who_leaves_a_group_keeps_its_cut_off,
    a_cut_off_ends_unused_authentication_tokens_too,
    a_cut_off_holds_over_a_restart,
    a_policy_acts_at_once_and_the_strictest_decides,
    what_a_policy_has_ended_stays_ended,
    what_a_check_has_seen_end_is_not_revived_in_the_same_moment,
    every_limit_acts_at_its_very_moment,
    an_idle_limit_ends_what_is_not_used_and_a_sign_in_begins_it_anew,
    a_preset_ends_sessions_at_its_limits,
    a_preview_is_what_then_happens,
    a_set_that_cannot_be_meant_is_refused,
    nobody_waits_for_a_forecast_that_takes_long,
);

async fn everyone_in_scope_must_sign_in_again_and_nobody_else(lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    let bob = lab.sign_in("bob", "phone").await;
    let eve = lab.sign_in("eve", "phone").await;
    let group = format!("/groups/contractors/members/{}", bob.user);
    crate::lab::good(lab.api(Method::PUT, &group)).await;
    let groups = lab.get("/groups").await;
    assert_eq!(groups["objects"][0]["members"], 1);

    let revoke =
        |filter| json!({ "filter": filter, "action": "re-authenticate", "reason": "leak" });
    let before = lab.head().await;
    lab.post("/revocations", revoke(json!({ "user": ann.user }))).await;
    ann.must_sign_in_again("LOCKED", "cut_off_user").await;
    bob.must_be_signed_in().await;
    lab.post("/revocations", revoke(json!({ "group": "contractors" }))).await;
    bob.must_sign_in_again("LOCKED", "cut_off_group").await;
    eve.must_be_signed_in().await;
    lab.post("/revocations", revoke(json!({}))).await;
    eve.must_sign_in_again("LOCKED", "cut_off_app").await;
    assert_eq!(lab.head().await, before + 3, "one entry each, whatever the number of sessions");

    let again = lab.sign_in("eve", "phone").await;
    again.must_be_signed_in().await;
    lab.operator_post("/admin/revocations", json!({})).await;
    again.must_sign_in_again("LOCKED", "cut_off_everyone").await;
    for name in ["ann", "bob", "eve"] {
        lab.sign_in(name, "phone").await.must_be_signed_in().await;
    }
    let both = revoke(json!({ "group": "a", "user": ann.user }));
    assert_eq!(lab.post("/revocations", both).await["sessions"], 0, "nobody is both");
    let nobody = revoke(json!({ "user": "00000000-0000-7000-8000-000000000000" }));
    refused(lab.api(Method::POST, "/revocations").json(&nobody), 404, "OBJECT_NOT_FOUND").await;
}

async fn who_leaves_a_group_keeps_its_cut_off(mut lab: Lab) {
    let bob = lab.sign_in("bob", "phone").await;
    let member = format!("/groups/contractors/members/{}", bob.user);
    let path = bob.path();
    crate::lab::good(lab.api(Method::PUT, &member)).await;
    let filter = json!({ "filter": { "group": "contractors" }, "action": "re-authenticate" });
    lab.post("/revocations", filter).await;
    crate::lab::good(lab.api(Method::DELETE, &member)).await;
    bob.must_sign_in_again("LOCKED", "cut_off_group").await;
    drop(bob);
    lab.restart().await;
    assert_eq!(lab.get(&path).await["state"], "LOCKED");
}

async fn a_cut_off_ends_unused_authentication_tokens_too(lab: Lab) {
    let token = lab.authentication_token("ann").await;
    lab.operator_post("/admin/revocations", json!({})).await;
    refused(lab.enroll(&token, "phone"), 401, "AUTHENTICATION_FAILED").await;
}

async fn a_cut_off_holds_over_a_restart(mut lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    let path = ann.path();
    drop(ann);
    lab.operator_post("/admin/revocations", json!({ "reason": "a laptop was stolen" })).await;
    lab.restart().await;
    assert_eq!(lab.get(&path).await["ended_by"], "cut_off_everyone");
    lab.pass(Span::days(1));
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
}

async fn state(lab: &Lab, policies: Value) -> Value {
    good(lab.api(Method::PUT, "/policies").json(&json!({ "policies": policies }))).await
}

async fn join(lab: &Lab, group: &str, user: &str) {
    good(lab.api(Method::PUT, &format!("/groups/{group}/members/{user}"))).await;
}

fn for_group(name: &str, limits: Value) -> Value {
    json!({ "name": name, "applies_to": { "groups": [name] }, "limits": limits })
}

async fn a_policy_acts_at_once_and_the_strictest_decides(mut lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    let bob = lab.sign_in("bob", "phone").await;
    join(&lab, "contractors", &ann.user).await;
    lab.pass(Span::hours(13));
    let before = lab.head().await;
    let strict = for_group("contractors", json!({ "max_age": "12h", "max_idle": "30m" }));
    let wide = json!({ "name": "all", "applies_to": { "everyone": true },
        "limits": { "max_age": "20h" } });
    state(&lab, json!([strict, wide])).await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    let answer = ann.check().await;
    let challenge = answer.headers()["www-authenticate"].to_str().expect("a text").to_owned();
    assert!(challenge.contains("policy contractors"), "{challenge}");
    assert!(challenge.contains("max_age=\"43200\""), "{challenge}");
    bob.must_be_signed_in().await;
    state(&lab, json!([wide, strict])).await;
    assert_eq!(lab.head().await, before + 1, "the same set, in another order, changes nothing");
    assert_eq!(lab.get("/policies").await["policies"], json!([wide, strict]));
    let end = Time::parse(&text(&bob.view().await["ends_at"])).expect("a moment");
    lab.clock.set(end - Span::seconds(1));
    assert_eq!(bob.check().await.status(), StatusCode::OK);
    lab.clock.set(end + Span::seconds(1));
    bob.must_sign_in_again("LOCKED", "max_session_age").await;
    let (ann_path, bob_path) = (ann.path(), bob.path());
    drop((ann, bob));
    lab.restart().await;
    for path in [ann_path, bob_path] {
        assert_eq!(lab.get(&path).await["state"], "LOCKED");
    }
}

async fn what_a_policy_has_ended_stays_ended(lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    let eve = lab.sign_in("eve", "phone").await;
    join(&lab, "night", &ann.user).await;
    state(&lab, json!([for_group("night", json!({ "max_age": "8h" }))])).await;
    lab.pass(Span::hours(9));
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    eve.must_be_signed_in().await;
    // Who joins late is out from then on, not before.
    join(&lab, "night", &eve.user).await;
    eve.must_sign_in_again("LOCKED", "max_session_age").await;
    assert_eq!(eve.view().await["signed_out_at"], "2026-05-03T15:12:00Z");
    let member = format!("/groups/night/members/{}", ann.user);
    good(lab.api(Method::DELETE, &member)).await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    state(&lab, json!([])).await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    eve.must_sign_in_again("LOCKED", "max_session_age").await;
    lab.sign_in("eve", "phone").await.must_be_signed_in().await;
}

async fn what_a_check_has_seen_end_is_not_revived_in_the_same_moment(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    join(&lab, "g", &phone.user).await;
    state(&lab, json!([for_group("g", json!({ "max_age": "1h" }))])).await;
    let checked = devices::check(&lab.server().app().db, &phone.token).expect("it is known");
    let Verdict::Valid { ends_at: Some(end) } = checked.expect("a session").verdict else {
        panic!("it is signed in, and ends")
    };
    lab.clock.set(end);
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
    state(&lab, json!([])).await;
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn every_limit_acts_at_its_very_moment(lab: Lab) {
    // The stories begin on a Sunday; the clocks of Vienna are two hours ahead of UTC.
    for (limits, moment, because) in [
        (json!({ "max_age": "7h" }), "2026-05-03T13:12:00Z", "max_session_age"),
        (
            json!({ "weekly_at": "monday 05:00", "zone": "Europe/Vienna" }),
            "2026-05-04T03:00:00Z",
            "calendar",
        ),
        (json!({ "daily_at": "05:00", "zone": "UTC" }), "2026-05-04T05:00:00Z", "calendar"),
        (json!({ "not_after": "2026-05-06" }), "2026-05-06T00:00:00Z", "not_after"),
    ] {
        let phone = lab.sign_in("ann", "phone").await;
        join(&lab, "g", &phone.user).await;
        // An age is counted from the sign-in, which took a moment of its own.
        let moment = Time::parse(moment).expect("a moment");
        state(&lab, json!([for_group("g", limits)])).await;
        let ends_at = text(&phone.view().await["ends_at"]);
        let end = Time::parse(&ends_at).expect("a moment");
        assert_eq!(end.seconds(), moment.seconds(), "{because}: {ends_at}");
        lab.clock.set(moment - Span::seconds(1));
        assert_eq!(phone.check().await.status(), StatusCode::OK, "{because}");
        lab.clock.set(moment + Span::seconds(1));
        phone.must_sign_in_again("LOCKED", because).await;
        state(&lab, json!([])).await;
    }
    let late = for_group("g", json!({ "not_after": "2026-05-06" }));
    state(&lab, json!([late])).await;
    let token = lab.authentication_token("bob").await;
    join(&lab, "g", &lab.user("bob").await).await;
    refused(lab.enroll(&token, "phone"), 401, "SIGN_IN_AGAIN").await;
}

async fn an_idle_limit_ends_what_is_not_used_and_a_sign_in_begins_it_anew(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    join(&lab, "g", &phone.user).await;
    state(&lab, json!([for_group("g", json!({ "max_idle": "2h" }))])).await;
    lab.pass(Span::minutes(119));
    phone.must_be_signed_in().await;
    lab.pass(Span::minutes(119));
    phone.must_be_signed_in().await;
    lab.pass(Span::hours(2));
    phone.must_sign_in_again("LOCKED", "max_idle").await;
    let again = lab.sign_in("ann", "phone").await;
    let ends_at = Time::parse(&text(&again.view().await["ends_at"])).expect("a moment");
    assert_eq!((ends_at - lab.clock.now()).whole_seconds() / 60, 119, "two hours from now");
    lab.pass(Span::minutes(119));
    again.must_be_signed_in().await;
}

async fn a_preset_ends_sessions_at_its_limits(lab: Lab) {
    for (preset, age, idle) in [
        ("nist-aal1", Span::days(30), None),
        ("nist-aal2", Span::hours(24), Some(Span::hours(1))),
        ("nist-aal3", Span::hours(12), Some(Span::minutes(15))),
    ] {
        state(&lab, json!([])).await;
        let policy = json!({ "name": preset, "applies_to": { "everyone": true },
            "limits": { "preset": preset } });
        state(&lab, json!([policy])).await;
        // One in use all the time, one left aside.
        let (used, unused) = (lab.sign_in("ann", "used").await, lab.sign_in("bob", "idle").await);
        let step = idle.unwrap_or(Span::days(1));
        let steps = age.whole_seconds() / step.whole_seconds();
        for _ in 0..steps {
            used.must_be_signed_in().await;
            lab.pass(Span::seconds(step.whole_seconds() - 1));
        }
        if idle.is_some() {
            unused.must_sign_in_again("LOCKED", "max_idle").await;
        } else {
            unused.must_be_signed_in().await;
        }
        used.must_be_signed_in().await;
        lab.pass(Span::seconds(steps));
        used.must_sign_in_again("LOCKED", "max_session_age").await;
    }
}

async fn a_preview_is_what_then_happens(lab: Lab) {
    let old = [lab.sign_in("ann", "phone").await, lab.sign_in("ann", "tablet").await];
    lab.pass(Span::days(5));
    let young = lab.sign_in("bob", "phone").await;
    let week = json!({ "name": "week", "applies_to": { "everyone": true },
        "limits": { "max_age": "3d" } });
    let head = lab.head().await;
    let wanted = json!({ "policies": [week] });
    let preview = lab.post("/policies/preview", wanted.clone()).await;
    assert_eq!(lab.head().await, head, "nothing is changed");
    let request = lab.api(Method::POST, "/policies/preview").json(&wanted);
    let lines = request.header("accept", "application/x-ndjson").send().await.expect("an answer");
    assert_eq!(lines.headers()["content-type"], "application/x-ndjson");
    let lines = lines.text().await.expect("a text");
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["who"], preview["who"]);
    assert_eq!(last["after"]["hours"], preview["after"]["hours"]);
    let found = ["sessions", "users", "ended_sessions", "ended_users"]
        .map(|name| preview[name].as_u64().expect("a number"));
    assert_eq!(found, [3, 2, 2, 1], "{preview}");
    assert_eq!(preview["who"], json!([old[0].user]));
    let days = |forecast: &Value| -> Vec<u64> {
        let hours = forecast["hours"].as_array().expect("a list");
        let sum = |day: &[Value]| day.iter().map(|n| n.as_u64().expect("a number")).sum();
        hours.chunks(24).map(sum).collect()
    };
    let (before, after) = (days(&preview["before"]), days(&preview["after"]));
    assert_eq!((before.iter().sum::<u64>(), before[25], before[30], before[55]), (8, 2, 1, 2));
    assert_eq!((before.len(), after[0], after[1], after[3], after[6]), (90, 2, 0, 3, 3));
    assert_eq!(preview["before"]["peak_per_second"], 2);
    assert_eq!(preview["after"]["peak_per_second"], 3, "those of now and bob's meet in three days");
    good(lab.api(Method::PUT, "/policies").json(&wanted)).await;
    for device in &old {
        device.must_sign_in_again("LOCKED", "max_session_age").await;
    }
    young.must_be_signed_in().await;
    lab.pass(Span::days(3));
    young.must_sign_in_again("LOCKED", "max_session_age").await;
    let empty = lab.post("/policies/preview", wanted).await;
    assert_eq!((&empty["sessions"], &empty["ended_sessions"]), (&json!(0), &json!(0)));
}

async fn a_set_that_cannot_be_meant_is_refused(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let everyone = json!({ "everyone": true });
    let age = json!({ "max_age": "1d" });
    let one = json!({ "name": "a", "applies_to": everyone, "limits": age });
    for (policies, field) in [
        (json!([one, one]), "policies"),
        (json!([{ "name": "a", "applies_to": {}, "limits": age }]), "policies.a.applies_to"),
        (
            json!([{ "name": "a", "applies_to": { "groups": [] }, "limits": age }]),
            "policies.a.applies_to.groups",
        ),
        (
            json!([{ "name": "a", "applies_to": everyone, "limits": { "max_age": "0s" } }]),
            "policies.a.limits.max_age",
        ),
        (
            json!([{ "name": "a", "applies_to": everyone, "limits": { "maximum": 1 } }]),
            "policies[0].limits.maximum",
        ),
    ] {
        let request = lab.api(Method::PUT, "/policies").json(&json!({ "policies": policies }));
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], field);
    }
    lab.set(json!({ "max_session_age": null })).await;
    let request = lab.api(Method::PUT, "/policies").json(&json!({ "policies": [] }));
    let body = refused(request, 422, "INVALID_VALUE").await;
    assert!(text(&body["detail"]).contains("allow_endless"), "{body}");
    phone.must_be_signed_in().await;
}

async fn nobody_waits_for_a_forecast_that_takes_long(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let applies_to = json!({ "users": [phone.user] });
    let policy = |limits: Value| json!({ "name": "p", "applies_to": applies_to, "limits": limits });
    // The shortest age there is: told at once.
    let quick = policy(json!({ "max_age": "1s", "spread": "50%" }));
    let preview = lab.post("/policies/preview", json!({ "policies": [quick] })).await;
    assert_eq!(preview["after"]["hours"][7], 3_600, "{}", preview["ended_sessions"]);
    assert_eq!(preview["unforeseen"], Value::Null);
    // One that is looked at step by step.
    let mut slow = policy(json!({ "max_age": "4s" }));
    slow["valid_until"] = "2027-05-03".into();
    let wanted = json!({ "policies": [slow] });
    let looking = tokio::spawn(lab.api(Method::POST, "/policies/preview").json(&wanted).send());
    let mut sign_ins = 0;
    while !looking.is_finished() {
        lab.sign_in("bob", "phone").await.must_be_signed_in().await;
        sign_ins += 1;
    }
    let answer = looking.await.expect("it is asked").expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(sign_ins >= 4, "{sign_ins} signed in meanwhile");
}
