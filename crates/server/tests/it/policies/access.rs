//! Who can still get in, until when, and why.

use reauth_server::domain::{Span, Time};
use reqwest::Method;
use serde_json::{Value, json};

use super::{for_group, join, state};
use crate::both;
use crate::lab::{Device, Lab, good, refused, text};

both!(
    one_can_see_why_and_until_when,
    what_held_when_a_token_was_issued_is_not_forgotten_before_it,
    each_policy_says_what_it_alone_would_do,
    since_when_a_device_was_idle_is_told_after_its_end_is_written_too,
    the_age_that_is_told_is_the_one_that_holds_now,
    what_held_at_the_sign_in_and_who_joined_by_attribute_is_told,
    the_policy_that_was_decisive_is_named_for_good,
    an_unused_token_lets_in_for_as_long_as_the_session_that_it_can_begin,
    a_session_is_as_old_as_the_proof_that_began_it,
    places_are_given_to_those_who_proved_themselves_last,
    the_worst_come_first_among_those_who_can_get_in,
    who_has_no_bound_is_counted_before_the_first_sweep,
);

async fn one_can_see_why_and_until_when(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    join(&lab, "g", &phone.user).await;
    let wide = json!({ "name": "night shift", "applies_to": { "groups": ["night"] },
        "limits": { "max_age": "8h" } });
    let strict = for_group("g", json!({ "max_age": "2d", "max_idle": "1d" }));
    state(&lab, json!([strict, wide])).await;
    let path = format!("/sessions/{}/explain", phone.session);
    let explained = lab.get(&path).await;
    let ends = explained["ends"].as_array().expect("a list");
    let reasons: Vec<_> = ends.iter().map(|end| (&end["because"], &end["policy"])).collect();
    let (age, idle, g) = (json!("max_session_age"), json!("max_idle"), json!("g"));
    assert_eq!(reasons, [(&idle, &g), (&age, &g), (&age, &Value::Null)], "{explained}");
    let facts = ["device_id", "label", "platform", "methods", "assurance", "groups"];
    let facts = facts.map(|name| explained[name].clone());
    let wanted =
        [json!("phone"), json!("the phone"), json!("ios"), json!([]), json!(null), json!(["g"])];
    assert_eq!(facts, wanted);
    let [own, other] = &explained["policies"].as_array().expect("a list")[..] else {
        panic!("{explained}")
    };
    assert_eq!((&own["policy"], &own["verdict"]), (&g, &json!("valid")));
    assert_eq!(own["end"]["at"], ends[0]["at"]);
    assert_eq!(other["verdict"], "not_about_it", "{other}");
    let kinds = |explained: &Value| -> Vec<String> {
        let history = explained["history"].as_array().expect("a list");
        history.iter().map(|entry| text(&entry["kind"])).collect()
    };
    let led_here = ["app.created", "session.enrolled", "group.member_added", "policies.set"];
    assert_eq!(kinds(&explained), led_here);
    let reader = lab.token(&["users:read"]).await;
    let address = format!("/api/v4/{}{path}", lab.app);
    let seen = good(lab.bare(Method::GET, &address).bearer_auth(reader)).await;
    assert_eq!((&seen["ends"], &seen["history"]), (&explained["ends"], &Value::Null));
    let bound = format!("/users/{}/access-bound", phone.user);
    let found = lab.get(&bound).await;
    assert_eq!(found["ends_by"], ends[1]["at"], "activity puts the idle end off");
    assert_eq!(found["items"][0]["id"], json!(phone.session));
    lab.authentication_token("ann").await;
    let usable_until = (lab.clock.now() + Span::minutes(10)).to_string();
    let items = lab.get(&bound).await["items"].clone();
    assert_eq!(items[1]["credential"], "authentication_token", "{items}");
    assert_eq!(items[1]["usable_until"], json!(usable_until), "{items}");
    assert_eq!(items[0]["usable_until"], Value::Null, "{items}");
    lab.act(&format!("{}/wipe", phone.path())).await;
    let explained = lab.get(&path).await;
    assert_eq!(explained["ends"][0]["because"], "wipe");
    assert_eq!(kinds(&explained).last().map(String::as_str), Some("session.wiped"));
    let nobody = "/sessions/00000000-0000-7000-8000-000000000000/explain";
    refused(lab.api(Method::GET, nobody), 404, "OBJECT_NOT_FOUND").await;
}

/// Whether a sweep came by before the token was used, or not.
async fn what_held_when_a_token_was_issued_is_not_forgotten_before_it(lab: Lab) {
    let mut told = Vec::new();
    for (name, is_swept) in [("ann", true), ("bob", false)] {
        let first = lab.sign_in(name, "first").await;
        let one = json!([{ "name": "one", "applies_to": { "everyone": true },
            "limits": { "max_sessions": 1 } }]);
        state(&lab, one).await;
        lab.pass(Span::minutes(1));
        let token = lab.authentication_token(name).await;
        lab.pass(Span::minutes(1));
        state(&lab, json!([])).await;
        lab.pass(Span::minutes(1));
        if is_swept {
            lab.sweep().await;
        }
        good(lab.enroll(&token, "second")).await;
        let state = lab.get(&first.path()).await["state"].clone();
        lab.sweep().await;
        assert_eq!(lab.get(&first.path()).await["state"], state);
        told.push(state);
    }
    assert_eq!(told[0], told[1]);
}

/// A policy that is no longer met by itself says so, beside one that is.
async fn each_policy_says_what_it_alone_would_do(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let everyone = |name, limits| {
        json!({ "name": name, "applies_to": { "everyone": true },
        "limits": limits })
    };
    let set = json!([
        everyone("day", json!({ "max_age": "1d" })),
        everyone("week", json!({ "max_age": "7d" }))
    ]);
    state(&lab, set).await;
    lab.pass(Span::days(2));
    let explained = lab.get(&format!("/sessions/{}/explain", phone.session)).await;
    let verdicts: Vec<_> = explained["policies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|own| (text(&own["policy"]), text(&own["verdict"])))
        .collect();
    let wanted = [("day", "ended"), ("week", "valid")];
    assert_eq!(verdicts, wanted.map(|(name, verdict)| (name.to_owned(), verdict.to_owned())));
    assert_eq!(explained["ends"][0]["policy"], "day");
}

async fn since_when_a_device_was_idle_is_told_after_its_end_is_written_too(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let applies_to = json!({ "everyone": true });
    let everyone =
        |name, limits| json!({ "name": name, "applies_to": applies_to, "limits": limits });
    let set = json!([
        everyone("desk", json!({ "max_idle": "30m" })),
        everyone("floor", json!({ "max_idle": "45m" }))
    ]);
    state(&lab, set).await;
    lab.pass(Span::hours(1));
    phone.must_be_idle_since(&lab, "2026-05-03T06:12:00Z").await;
    assert_eq!(lab.sweep().await, 1);
    phone.must_be_idle_since(&lab, "2026-05-03T06:12:00Z").await;
    // Nobody knows by heart when a device was used that was signed out.
    let tablet = lab.sign_in("ann", "tablet").await;
    lab.act(&format!("{}/re-authenticate", tablet.path())).await;
    let explained = lab.get(&format!("/sessions/{}/explain", tablet.session)).await;
    assert_eq!(explained["ends"][0]["because"], "re_authenticate", "{explained}");
    assert!(text(&explained["ends"][1]["detail"]).ends_with("30m since 2026-05-03T07:12:00Z"));
}

async fn the_age_that_is_told_is_the_one_that_holds_now(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let mut later = json!({ "name": "later", "applies_to": { "everyone": true },
        "limits": { "max_age": "1m" } });
    later["valid_from"] = "2026-09-01".into();
    let spread = json!({ "name": "now", "applies_to": { "everyone": true },
        "limits": { "max_age": "10h", "spread": "50%" } });
    state(&lab, json!([later, spread])).await;
    let view = phone.view().await;
    let [ends_at, since] = ["ends_at", "last_authenticated_at"]
        .map(|name| Time::parse(&text(&view[name])).expect("a moment"));
    lab.pass(Span::hours(10));
    let answer = phone.check().await;
    let challenge = answer.headers()["www-authenticate"].to_str().expect("a text").to_owned();
    let age = (ends_at - since).whole_seconds();
    assert!(challenge.contains(&format!("max_age=\"{age}\"")), "{age} {challenge}");
}

impl Device<'_> {
    /// Both who is refused and who asks why are told the same, by the policies desk and floor.
    async fn must_be_idle_since(&self, lab: &Lab, since: &str) {
        let answer = self.check().await;
        let challenge = answer.headers()["www-authenticate"].to_str().expect("a text").to_owned();
        let told = format!("policy desk, 30m since {since}");
        assert!(challenge.contains(&told), "{challenge}");
        let explained = lab.get(&format!("/sessions/{}/explain", self.session)).await;
        let ends = explained["ends"].as_array().expect("a list");
        let idle = ends.iter().filter(|end| end["because"] == "max_idle");
        let told: Vec<_> = idle.map(|end| (text(&end["policy"]), text(&end["at"]))).collect();
        let wanted = [("desk", "2026-05-03T06:42:00Z"), ("floor", "2026-05-03T06:57:00Z")];
        assert_eq!(told, wanted.map(|(policy, at)| (policy.to_owned(), at.to_owned())));
        assert!(text(&ends[0]["detail"]).ends_with(&format!("30m since {since}")), "{ends:?}");
        let verdicts = explained["policies"].as_array().expect("a list");
        assert!(verdicts.iter().all(|own| own["verdict"] == "ended"), "{explained}");
    }
}

async fn what_held_at_the_sign_in_and_who_joined_by_attribute_is_told(lab: Lab) {
    let policy = |age: &str| {
        json!({ "name": "temps", "applies_to": { "attributes": { "name": "temp" } },
            "limits": { "max_age": age } })
    };
    for age in ["5d", "4d"] {
        lab.set(json!({ "max_session_age": if age == "5d" { "20d" } else { "10d" } })).await;
        state(&lab, json!([policy(age)])).await;
    }
    let phone = lab.sign_in("ann", "phone").await;
    let path = format!("/objects/user/{}", phone.user);
    good(lab.api(Method::PATCH, &path).json(&json!({ "user": { "name": "temp" } }))).await;
    state(&lab, json!([policy("3d")])).await;
    let explained = lab.get(&format!("/sessions/{}/explain", phone.session)).await;
    let history = explained["history"].as_array().expect("a list");
    let kinds: Vec<String> = history.iter().map(|entry| text(&entry["kind"])).collect();
    let wanted = ["limits.set", "policies.set", "user.created", "session.enrolled"];
    assert_eq!(kinds[..4], wanted.map(str::to_owned), "{kinds:?}");
    assert_eq!(kinds[4..], ["user.changed", "policies.set"].map(str::to_owned), "{kinds:?}");
    assert!(text(&history[1]["body"]).contains("4d"), "the last set before: {}", history[1]);
    assert!(text(&history[0]["body"]).contains("10d"), "the last limits before: {}", history[0]);
}

async fn the_policy_that_was_decisive_is_named_for_good(mut lab: Lab) {
    let names = |device: &str| match device {
        "written" => "till \"5\" and 6",
        _ => "short",
    };
    for device in ["written", "left"] {
        let phone = lab.sign_in("ann", device).await;
        let group = format!("/groups/g/members/{}", phone.user);
        good(lab.api(Method::PUT, &group)).await;
        let name = names(device);
        let policy = json!({ "name": name, "applies_to": { "groups": ["g"] },
            "limits": { "max_age": "12h" } });
        state(&lab, json!([policy])).await;
        lab.pass(Span::hours(13));
        must_name(&lab, &phone, name, true).await;
        if device == "written" {
            assert_eq!(lab.sweep().await, 1);
            must_name(&lab, &phone, name, true).await;
        }
        // Gone, left, forgotten: it stays the reason.
        good(lab.api(Method::DELETE, &group)).await;
        must_name(&lab, &phone, name, false).await;
        state(&lab, json!([])).await;
        lab.sweep().await;
        must_name(&lab, &phone, name, false).await;
        let (user, session, token) =
            (phone.user.clone(), phone.session.clone(), phone.token.clone());
        drop(phone);
        lab.restart().await;
        let enrolled = json!({ "user_id": user, "session_id": session, "session_token": token });
        must_name(&lab, &lab.device(&enrolled), name, false).await;
        let again = lab.sign_in("ann", device).await;
        lab.act(&format!("{}/re-authenticate", again.path())).await;
        assert_eq!(again.connect().await.1.get("policy"), None, "nobody but us");
    }
}

/// Check, connect and explanation name the policy; as long as it holds also its limit.
async fn must_name(lab: &Lab, phone: &Device<'_>, policy: &str, is_held: bool) {
    let (_, body) = phone.connect().await;
    assert_eq!((&body["because"], &body["policy"]), (&json!("max_session_age"), &json!(policy)));
    let explained = lab.get(&format!("/sessions/{}/explain", phone.session)).await;
    let ends = explained["ends"].as_array().expect("a list");
    assert_eq!(ends[0]["policy"], json!(policy), "{explained}");
    assert_eq!(ends.iter().filter(|end| end["policy"] == policy).count(), 1, "{explained}");
    let answer = phone.check().await;
    let challenge = answer.headers()["www-authenticate"].to_str().expect("a text").to_owned();
    let name = format!("policy {}", policy.replace('"', "'"));
    assert!(challenge.contains(&name), "{challenge}");
    if is_held {
        let since = text(&explained["last_authenticated_at"]);
        let text = format!("12h since {since}");
        assert!(challenge.contains(&format!("{name}, {text}")), "{challenge}");
        assert_eq!(ends[0]["detail"], format!("the sign-in is older than is allowed: {text}"));
        assert!(body["detail"].as_str().is_some_and(|it| it.contains(&text)), "{body}");
    }
}

async fn an_unused_token_lets_in_for_as_long_as_the_session_that_it_can_begin(lab: Lab) {
    let ann = lab.user("ann").await;
    join(&lab, "g", &ann).await;
    let path = format!("/users/{ann}/authentication-token");
    let wanted = json!({ "expires_in": "1h", "methods": ["pwd"], "assurance": "aal1" });
    let issued = lab.post(&path, wanted).await;
    let (token, issued_at) =
        (text(&issued["token"]), moment(&issued["expires_at"]) - Span::hours(1));
    // Neither the platform nor the label of its device is known; how it was proved is.
    let weak = json!({ "name": "weak", "applies_to": { "assurance": ["aal1"] },
        "limits": { "max_age": "10d", "spread": "10%", "max_idle": "1d" } });
    let tills = json!({ "name": "tills", "limits": { "max_age": "1d" },
        "applies_to": { "labels": ["*"], "platforms": ["ios"] } });
    for (policies, longest, because) in [
        (json!([]), Some(Span::days(30)), json!("max_session_age")),
        (json!([tills, weak]), Some(Span::days(10)), json!("max_session_age")),
        (json!([for_group("g", json!({ "max_age": "2d" }))]), Some(Span::days(2)), Value::Null),
    ] {
        state(&lab, policies).await;
        let found = lab.get(&format!("/users/{ann}/access-bound")).await;
        let item = &found["items"][0];
        assert_eq!(item["credential"], "authentication_token", "{found}");
        let end = longest.map(|longest| (issued_at + longest).to_string());
        assert_eq!((&item["ends_at"], &found["ends_by"]), (&json!(end), &json!(end)), "{found}");
        assert!(because.is_null() || item["because"] == because, "{found}");
        assert_eq!(lab.get("/access-bound").await["objects"][0]["ends_by"], json!(end));
    }
    state(&lab, json!([])).await;
    lab.set(json!({ "max_session_age": null })).await;
    assert_eq!(lab.get(&format!("/users/{ann}/access-bound")).await["ends_by"], Value::Null);
    assert_eq!(lab.get("/access-bound").await["objects"][0]["ends_by"], Value::Null);
    // What then begins with it lasts as long: its time counts from the proof.
    lab.set(json!({ "max_session_age": "5d" })).await;
    let bound = moment(&lab.get(&format!("/users/{ann}/access-bound")).await["ends_by"]);
    lab.pass(Span::minutes(59));
    let phone = lab.device(&good(lab.enroll(&token, "phone")).await);
    let ends_at = moment(&phone.view().await["ends_at"]);
    assert_eq!(ends_at, bound);
    lab.clock.set(bound + Span::seconds(1));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn a_session_is_as_old_as_the_proof_that_began_it(mut lab: Lab) {
    let issue = async |lab: &Lab, life: &str| {
        let path = format!("/users/{}/authentication-token", lab.user("ann").await);
        text(&lab.post(&path, json!({ "expires_in": life })).await["token"])
    };
    let (early, late) = (issue(&lab, "1d").await, issue(&lab, "1d").await);
    let daily = json!({ "name": "daily", "applies_to": { "everyone": true },
        "limits": { "max_age": "10h", "max_idle": "1h", "daily_at": "22:00", "zone": "UTC" } });
    state(&lab, json!([daily])).await;
    lab.pass(Span::hours(9));
    let phone = lab.device(&good(lab.enroll(&early, "phone")).await);
    let path = phone.path();
    assert_eq!(phone.view().await["last_authenticated_at"], "2026-05-03T06:12:00Z");
    drop(phone);
    lab.restart().await;
    lab.pass(Span::minutes(59));
    assert_eq!(lab.get(&path).await["state"], "ENROLLED", "idle counts from the sign-in");
    lab.pass(Span::minutes(1));
    assert_eq!(lab.get(&path).await["ended_by"], "max_session_age");
    // What would be too old at once is not begun, and is no credential.
    let body = refused(lab.enroll(&late, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    assert!(text(&body["detail"]).contains("older than is allowed"), "{body}");
    let bound = lab.get(&format!("/users/{}/access-bound", lab.user("ann").await)).await;
    assert_eq!(bound["items"], json!([]));
    // Nor what the calendar ends: it was proved before that moment.
    let daily = json!({ "name": "daily", "applies_to": { "everyone": true },
        "limits": { "daily_at": "22:00", "zone": "UTC" } });
    state(&lab, json!([daily])).await;
    let token = issue(&lab, "1d").await;
    lab.clock.set(Time::parse("2026-05-03T22:00:00Z").expect("a moment"));
    let body = refused(lab.enroll(&token, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    assert!(text(&body["detail"]).contains("get a new one"), "{body}");
}

async fn places_are_given_to_those_who_proved_themselves_last(lab: Lab) {
    let one = json!({ "name": "one", "applies_to": { "everyone": true },
        "limits": { "max_sessions": 1 } });
    state(&lab, json!([one])).await;
    let old = lab.authentication_token("ann").await;
    lab.pass(Span::minutes(1));
    let phone = lab.sign_in("ann", "phone").await;
    lab.pass(Span::minutes(1));
    let body = refused(lab.enroll(&old, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    assert!(text(&body["detail"]).contains("as many other devices as allowed"), "{body}");
    phone.must_be_signed_in().await;
    let tablet = lab.sign_in("ann", "tablet").await;
    tablet.must_be_signed_in().await;
    phone.must_sign_in_again("LOCKED", "max_sessions").await;
}

fn moment(value: &Value) -> Time {
    Time::parse(&text(value)).expect("a moment")
}

async fn the_worst_come_first_among_those_who_can_get_in(lab: Lab) {
    let ann = lab.sign_in("ann", "phone").await;
    lab.pass(Span::hours(1));
    let bob = lab.sign_in("bob", "phone").await;
    let eve = lab.sign_in("eve", "phone").await;
    lab.act(&format!("{}/wipe", eve.path())).await;
    lab.authentication_token("dan").await;
    let dan = lab.user("dan").await;
    let order = |bounds: &Value| -> Vec<String> {
        let objects = bounds["objects"].as_array().expect("a list");
        objects.iter().map(|bound| text(&bound["user"])).collect()
    };
    let found = lab.get("/access-bound").await;
    // Dan can still sign in for thirty days.
    assert_eq!(order(&found), [&*dan, &*bob.user, &*ann.user], "{found}");
    assert_eq!(found["objects"][1]["ends_by"], bob.view().await["ends_at"]);
    assert_eq!((&found["total"], &found["objects"][0]["credentials"]), (&json!(3), &json!(1)));
    let page = lab.get("/access-bound?limit=1&skip=2").await;
    assert_eq!((order(&page), &page["more"]), (vec![ann.user.clone()], &json!(false)));
    // Nothing ends ann's any more; an idle limit alone bounds nothing.
    let path = format!("/admin/apps/{}", lab.app);
    let off = json!({ "settings": { "max_session_age": null } });
    let request = lab.bare(Method::PATCH, &path).bearer_auth(&lab.operator).json(&off);
    let body = refused(request, 422, "INVALID_VALUE").await;
    assert!(text(&body["detail"]).contains("allow_endless"), "{body}");
    let new = json!({ "name": "till", "settings": { "max_session_age": null } });
    let request = lab.bare(Method::POST, "/admin/apps").bearer_auth(&lab.operator).json(&new);
    let body = refused(request, 422, "INVALID_VALUE").await;
    assert!(text(&body["detail"]).contains("allow_endless"), "{body}");
    lab.set(json!({ "max_session_age": null })).await;
    let idle = for_group("g", json!({ "max_idle": "5h" }));
    let age = json!({ "name": "bob", "applies_to": { "users": [bob.user] },
        "limits": { "max_age": "1d" } });
    join(&lab, "g", &ann.user).await;
    let endless = json!({ "policies": [idle, age], "allow_endless": true });
    good(lab.api(Method::PUT, "/policies").json(&endless)).await;
    let found = lab.get("/access-bound").await;
    assert_eq!(
        (order(&found)[0].as_str(), &found["objects"][0]["ends_by"]),
        (&*ann.user, &Value::Null)
    );
    let path = format!("/users/{}/access-bound", ann.user);
    assert_eq!(lab.get(&path).await["ends_by"], Value::Null);
    let finding = bound_finding(&lab).await;
    assert_eq!(finding["level"], "warning");
    assert!(text(&finding["detail"]).contains("2 users"), "ann, and dan by a token: {finding}");
    assert_eq!(counted(&lab, "2").await, "reauth_users_without_bound 2");
    // Nor what begins with a token that nobody has used yet.
    lab.authentication_token("fay").await;
    let finding = bound_finding(&lab).await;
    assert!(text(&finding["detail"]).contains("3 users"), "ann, dan and fay: {finding}");
    lab.set(json!({ "max_session_age": "30d" })).await;
    assert_eq!(bound_finding(&lab).await["level"], "ok");
    assert_eq!(counted(&lab, "0").await, "reauth_users_without_bound 0");
}

async fn who_has_no_bound_is_counted_before_the_first_sweep(mut lab: Lab) {
    lab.config.sweep.every = Span::days(1);
    lab.set(json!({ "max_session_age": null })).await;
    lab.sign_in("ann", "phone").await;
    lab.restart().await;
    let mut line = metric(&lab).await;
    for _ in 0..200 {
        if line.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        line = metric(&lab).await;
    }
    let line = line.expect("it is counted without a sweep");
    assert_eq!(line, "reauth_users_without_bound 1", "never a false all-clear");
}

async fn metric(lab: &Lab) -> Option<String> {
    let metrics = lab.bare(Method::GET, "/metrics").send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    let found = metrics.lines().find(|line| line.starts_with("reauth_users_without_bound"));
    found.map(str::to_owned)
}

/// The metric, as soon as the sweep that was woken has counted; what it was last otherwise.
async fn counted(lab: &Lab, wanted: &str) -> String {
    let mut line = String::new();
    for _ in 0..200 {
        lab.server().app().sweep_wake.notify_one();
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        line = metric(lab).await.unwrap_or_default();
        if line.ends_with(wanted) {
            break;
        }
    }
    line
}

async fn bound_finding(lab: &Lab) -> Value {
    let doctor = lab.operator_get("/admin/doctor").await;
    let findings = doctor["findings"].as_array().expect("a list").clone();
    findings.into_iter().find(|one| one["check"] == "access bound").expect("it is looked at")
}
