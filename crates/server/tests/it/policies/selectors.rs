//! Whose sessions a policy is about, and what it can ask of a sign-in.

use reauth_server::domain::{Span, Time};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{for_group, join, state};
use crate::both;
use crate::lab::{Device, Lab, good, refused, text};

both!(
    who_kept_an_attribute_from_before_is_found_by_it,
    a_policy_finds_users_by_attribute_as_it_changes,
    a_policy_is_about_platforms_labels_methods_or_assurance,
    a_device_without_a_label_fits_any_text,
    a_preview_counts_all_sessions_that_fit_a_new_pattern,
    a_weaker_sign_in_lowers_what_the_session_proves,
    of_too_many_sessions_those_signed_in_last_stay,
    a_wipe_of_what_had_ended_takes_nobody_elses_place,
    one_session_too_many_can_be_refused_instead,
    who_is_to_be_refused_does_not_put_another_device_out,
    what_was_one_too_many_stays_out_when_the_others_change_their_places,
    a_method_that_is_asked_for_is_asked_for_at_the_next_sign_in,
    a_users_access_ends_on_a_date,
    a_policy_holds_during_its_validity,
);

async fn rename(lab: &Lab, name: &str, to: &str) {
    let path = format!("/objects/user/{}", lab.user(name).await);
    good(lab.api(Method::PATCH, &path).json(&json!({ "user": { "name": to } }))).await;
}

async fn a_policy_finds_users_by_attribute_as_it_changes(mut lab: Lab) {
    let temp = json!({ "name": "temps", "applies_to": { "attributes": { "name": "temp" } },
        "limits": { "max_age": "8h" } });
    let (ann, bob) = (lab.sign_in("ann", "phone").await, lab.sign_in("bob", "phone").await);
    rename(&lab, "ann", "temp").await;
    lab.pass(Span::hours(9));
    let preview = lab.post("/policies/preview", json!({ "policies": [temp] })).await;
    assert_eq!((&preview["ended_sessions"], &preview["who"]), (&json!(1), &json!([ann.user])));
    state(&lab, json!([temp])).await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    bob.must_be_signed_in().await;
    assert_eq!(lab.get("/groups").await["objects"], json!([]), "it is no group of yours");

    // Who becomes one is out from then on; who is one no longer stays out.
    rename(&lab, "bob", "temp").await;
    bob.must_sign_in_again("LOCKED", "max_session_age").await;
    rename(&lab, "ann", "ann").await;
    rename(&lab, "bob", "bob").await;
    let new = lab.post("/objects/user", json!({ "user": { "name": "temp" } })).await;
    let (ann_path, bob_path) = (ann.path(), bob.path());
    drop((ann, bob));
    lab.restart().await;
    assert_eq!(lab.get(&ann_path).await["state"], "LOCKED");
    assert_eq!(lab.get(&bob_path).await["state"], "LOCKED");
    let eve = lab.sign_in("eve", "phone").await;
    let path = format!("/users/{}/authentication-token", text(&new["id"]));
    let token = text(&lab.post(&path, json!({})).await["token"]);
    let enrolled = good(lab.enroll(&token, "phone")).await;
    lab.pass(Span::hours(8) + Span::seconds(1));
    let path = format!("/users/{}/sessions/{}", text(&new["id"]), text(&enrolled["session_id"]));
    assert_eq!(lab.get(&path).await["ended_by"], "max_session_age", "created as one");
    eve.must_be_signed_in().await;
    let unknown = json!({ "policies": [{ "name": "x", "limits": { "max_age": "8h" },
        "applies_to": { "attributes": { "shoe": 42 } } }] });
    let body =
        refused(lab.api(Method::PUT, "/policies").json(&unknown), 422, "INVALID_VALUE").await;
    assert_eq!(body["field"], "policies.x.applies_to.attributes.shoe");
}

/// Signs in with a platform, a label, and what the backend tells of the proof.
async fn sign_in_as<'a>(lab: &'a Lab, name: &str, wanted: [&str; 3], proof: Value) -> Device<'a> {
    let [device, platform, label] = wanted;
    let path = format!("/users/{}/authentication-token", lab.user(name).await);
    let token = text(&lab.post(&path, proof).await["token"]);
    let body = json!({ "authentication_token": token, "device": { "id": device }, "label": label,
        "container": { "platform": platform } });
    let path = format!("/device/{}/enroll", lab.app);
    lab.device(&good(lab.bare(Method::POST, &path).json(&body)).await)
}

async fn a_policy_is_about_platforms_labels_methods_or_assurance(mut lab: Lab) {
    for (applies_to, is_about_second) in [
        (json!({ "platforms": ["Android"] }), true),
        (json!({ "platforms": ["windows"] }), false),
        (json!({ "labels": ["till-*"] }), true),
        (json!({ "labels": ["till-*"], "platforms": ["ios"] }), false),
        (json!({ "methods": ["otp", "hwk"] }), true),
        (json!({ "assurance": ["aal2"] }), true),
        (json!({ "assurance": ["aal1", "aal3"], "methods": ["otp"] }), false),
    ] {
        let first = sign_in_as(&lab, "ann", ["a", "ios", "Ann's"], json!({})).await;
        let proof = json!({ "methods": ["pwd", "otp"], "assurance": "aal2" });
        let second = sign_in_as(&lab, "ann", ["b", "android", "till-7"], proof).await;
        let policy =
            json!({ "name": "p", "applies_to": applies_to, "limits": { "max_age": "1h" } });
        lab.pass(Span::hours(2));
        let preview = lab.post("/policies/preview", json!({ "policies": [policy] })).await;
        assert_eq!(preview["ended_sessions"], json!(u8::from(is_about_second)), "{applies_to}");
        state(&lab, json!([policy])).await;
        first.must_be_signed_in().await;
        let late = sign_in_as(&lab, "ann", ["c", "android", "till-8"], json!({})).await;
        if is_about_second {
            second.must_sign_in_again("LOCKED", "max_session_age").await;
        } else {
            second.must_be_signed_in().await;
        }
        let path = late.path();
        drop((first, second, late));
        lab.restart().await;
        lab.pass(Span::hours(1));
        let is_by_device = applies_to == json!({ "platforms": ["Android"] })
            || applies_to == json!({ "labels": ["till-*"] });
        let wanted = if is_by_device { "LOCKED" } else { "ENROLLED" };
        assert_eq!(lab.get(&path).await["state"], wanted, "{applies_to}");
        lab.act(&format!("{path}/wipe")).await;
        state(&lab, json!([])).await;
    }
}

async fn a_device_without_a_label_fits_any_text(mut lab: Lab) {
    let policy = json!({ "name": "all", "applies_to": { "labels": ["*"] },
        "limits": { "max_age": "1h" } });
    let unlabelled = async |lab: &Lab, device: &str| {
        let token = lab.authentication_token("ann").await;
        let body = json!({ "authentication_token": token, "device": { "id": device } });
        let path = format!("/device/{}/enroll", lab.app);
        lab.device(&good(lab.bare(Method::POST, &path).json(&body)).await).path()
    };
    let before = unlabelled(&lab, "a").await;
    state(&lab, json!([policy])).await;
    let after = unlabelled(&lab, "b").await;
    lab.restart().await;
    lab.pass(Span::hours(1) + Span::seconds(1));
    for path in [before, after] {
        assert_eq!(lab.get(&path).await["ended_by"], "max_session_age");
    }
}

async fn a_preview_counts_all_sessions_that_fit_a_new_pattern(lab: Lab) {
    for (device, label) in [("a", "till-1"), ("b", "till-2"), ("c", "Ann's"), ("d", "desk-1")] {
        sign_in_as(&lab, "ann", [device, "ios", label], json!({})).await;
    }
    sign_in_as(&lab, "bob", ["e", "android", "till-3"], json!({})).await;
    sign_in_as(&lab, "bob", ["f", "android", "50 %20 off 日本"], json!({})).await;
    lab.pass(Span::hours(2));
    for (applies_to, count) in [
        (json!({ "labels": ["till-*"] }), 3),
        (json!({ "labels": ["desk-?", "till-*"] }), 4),
        (json!({ "labels": ["till-*"], "platforms": ["ios"] }), 2),
        (json!({ "labels": ["50 %20 off*本"] }), 1),
        (json!({ "labels": ["* off 日本"] }), 1),
    ] {
        let policy =
            json!({ "name": "p", "applies_to": applies_to, "limits": { "max_age": "1h" } });
        let preview = lab.post("/policies/preview", json!({ "policies": [policy] })).await;
        assert_eq!(preview["ended_sessions"], count, "{applies_to}");
    }
}

async fn a_weaker_sign_in_lowers_what_the_session_proves(lab: Lab) {
    let wide = json!({ "name": "weak", "applies_to": { "assurance": ["aal1"] },
        "limits": { "max_age": "1h" } });
    let asked = json!({ "name": "strong", "applies_to": { "assurance": ["aal2"] },
        "limits": { "max_age": "2d" } });
    state(&lab, json!([asked, wide])).await;
    let verdicts = async |session: &str| -> Vec<String> {
        let explained = lab.get(&format!("/sessions/{session}/explain")).await;
        let policies = explained["policies"].as_array().expect("a list").clone();
        policies.iter().map(|own| text(&own["verdict"])).collect()
    };
    let device = ["a", "ios", "Ann's"];
    let proof = json!({ "methods": ["pwd", "otp"], "assurance": "aal2" });
    let strong = sign_in_as(&lab, "ann", device, proof).await;
    assert_eq!(verdicts(&strong.session).await, ["valid", "not_about_it"]);
    let proof = json!({ "methods": ["pwd"], "assurance": "aal1" });
    let weak = sign_in_as(&lab, "ann", device, proof).await;
    assert_eq!(weak.session, strong.session, "the device keeps its session");
    assert_eq!(verdicts(&weak.session).await, ["not_about_it", "valid"]);
    lab.pass(Span::hours(1));
    weak.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn a_wipe_of_what_had_ended_takes_nobody_elses_place(mut lab: Lab) {
    let laptop = lab.sign_in("ann", "laptop").await;
    let phone = lab.sign_in("ann", "phone").await;
    assert_eq!(phone.sign_out().await, StatusCode::NO_CONTENT);
    join(&lab, "g", &laptop.user).await;
    lab.pass(Span::hours(1));
    state(&lab, json!([for_group("g", json!({ "max_sessions": 1 }))])).await;
    laptop.must_be_signed_in().await;
    lab.pass(Span::hours(1));
    lab.act(&format!("{}/wipe", phone.path())).await;
    phone.must_sign_in_again("RESET", "wipe").await;
    laptop.must_be_signed_in().await;
    let filter = json!({ "filter": { "device_id": "phone" }, "action": "wipe" });
    lab.post("/revocations", filter).await;
    lab.sweep().await;
    laptop.must_be_signed_in().await;
    let path = laptop.path();
    drop((laptop, phone));
    lab.restart().await;
    assert_eq!(lab.get(&path).await["state"], "ENROLLED");
}

async fn of_too_many_sessions_those_signed_in_last_stay(mut lab: Lab) {
    let old = lab.sign_in("ann", "a").await;
    let middle = lab.sign_in("ann", "b").await;
    let new = lab.sign_in("ann", "c").await;
    join(&lab, "g", &old.user).await;
    let bob = [lab.sign_in("bob", "a").await, lab.sign_in("bob", "b").await];
    state(&lab, json!([for_group("g", json!({ "max_sessions": 2 }))])).await;
    old.must_sign_in_again("LOCKED", "max_sessions").await;
    middle.must_be_signed_in().await;
    let newest = lab.sign_in("ann", "d").await;
    middle.must_sign_in_again("LOCKED", "max_sessions").await;
    new.must_be_signed_in().await;
    newest.must_be_signed_in().await;
    // A place that becomes free revives nobody; and signing in again on a device takes no other's.
    assert_eq!(newest.sign_out().await, 204);
    middle.must_sign_in_again("LOCKED", "max_sessions").await;
    old.must_sign_in_again("LOCKED", "max_sessions").await;
    lab.sign_in("ann", "a").await.must_be_signed_in().await;
    lab.sign_in("ann", "a").await.must_be_signed_in().await;
    new.must_be_signed_in().await;
    bob[0].must_be_signed_in().await;
    let paths = [old.path(), middle.path(), new.path()];
    drop((old, middle, new, newest, bob));
    lab.restart().await;
    let mut states = Vec::new();
    for path in paths {
        states.push(lab.get(&path).await["state"].clone());
    }
    assert_eq!(states, ["ENROLLED", "LOCKED", "ENROLLED"]);
}

async fn one_session_too_many_can_be_refused_instead(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    join(&lab, "g", &phone.user).await;
    let limits = json!({ "max_sessions": 1, "over_max": "refuse_new" });
    state(&lab, json!([for_group("g", limits)])).await;
    let token = lab.authentication_token("ann").await;
    let body = refused(lab.enroll(&token, "tablet"), 409, "CONFLICT").await;
    assert!(text(&body["detail"]).contains("policy g"), "{body}");
    phone.must_be_signed_in().await;
    assert_eq!(phone.sign_out().await, 204);
    good(lab.enroll(&token, "tablet")).await;
}

async fn who_is_to_be_refused_does_not_put_another_device_out(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    join(&lab, "g", &phone.user).await;
    lab.set(json!({ "multiple_devices_per_user": false })).await;
    let limits = json!({ "max_sessions": 1, "over_max": "refuse_new" });
    state(&lab, json!([for_group("g", limits)])).await;
    let token = lab.authentication_token("ann").await;
    let body = refused(lab.enroll(&token, "tablet"), 409, "CONFLICT").await;
    assert!(text(&body["detail"]).contains("policy g"), "{body}");
    phone.must_be_signed_in().await;
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
    // Without that policy, whoever signs in last is in.
    state(&lab, json!([])).await;
    lab.sign_in("ann", "tablet").await.must_be_signed_in().await;
    assert_eq!(phone.view().await["ended_by"], "replaced");
}

async fn what_was_one_too_many_stays_out_when_the_others_change_their_places(mut lab: Lab) {
    let first = lab.sign_in("ann", "first").await;
    let (a, _) = (lab.sign_in("ann", "a").await, lab.sign_in("ann", "b").await);
    join(&lab, "g", &first.user).await;
    state(&lab, json!([for_group("g", json!({ "max_sessions": 2 }))])).await;
    first.must_sign_in_again("LOCKED", "max_sessions").await;
    assert_eq!(a.sign_out().await, StatusCode::NO_CONTENT);
    lab.pass(Span::hours(1));
    let b = lab.sign_in("ann", "b").await;
    first.must_sign_in_again("LOCKED", "max_sessions").await;
    b.must_be_signed_in().await;
    assert_eq!(first.view().await["signed_out_at"], "2026-05-03T06:12:00Z", "when it was said");
    let path = first.path();
    drop((first, a, b));
    lab.restart().await;
    assert_eq!(lab.get(&path).await["ended_by"], "max_sessions");
}

async fn a_method_that_is_asked_for_is_asked_for_at_the_next_sign_in(lab: Lab) {
    let with_password = || json!({ "methods": ["pwd"] });
    let weak = sign_in_as(&lab, "ann", ["a", "ios", "x"], with_password()).await;
    let both = json!({ "methods": ["pwd", "otp"] });
    let strong = sign_in_as(&lab, "ann", ["b", "ios", "x"], both.clone()).await;
    let otp = json!({ "name": "otp", "applies_to": { "everyone": true },
        "limits": { "require_methods": ["otp"] } });
    state(&lab, json!([otp])).await;
    weak.must_sign_in_again("LOCKED", "require_methods").await;
    strong.must_be_signed_in().await;
    let path = format!("/users/{}/authentication-token", weak.user);
    let token = text(&lab.post(&path, with_password()).await["token"]);
    let body = refused(lab.enroll(&token, "a"), 401, "SIGN_IN_AGAIN").await;
    assert_eq!(body["because"], "require_methods");
    sign_in_as(&lab, "ann", ["a", "ios", "x"], both).await.must_be_signed_in().await;
    let unknown = lab.api(Method::POST, &path).json(&json!({ "methods": ["magic"] }));
    let body = refused(unknown, 422, "INVALID_VALUE").await;
    assert!(text(&body["detail"]).contains("RFC 8176"), "{body}");
}

async fn a_users_access_ends_on_a_date(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let bob = lab.sign_in("bob", "phone").await;
    let (path, user) = (phone.path(), phone.user.clone());
    let set = async |lab: &Lab, not_after: Value| {
        let request = lab.api(Method::PUT, &format!("/users/{user}/not-after"));
        good(request.json(&json!({ "not_after": not_after, "reason": "contract" }))).await;
    };
    set(&lab, "2026-05-10".into()).await;
    assert_eq!(phone.view().await["ends_at"], "2026-05-10T00:00:00Z");
    let bound = lab.get(&format!("/users/{user}/access-bound")).await;
    assert_eq!(
        (&bound["ends_by"], &bound["items"][0]["because"]),
        (&json!("2026-05-10T00:00:00Z"), &json!("not_after"))
    );
    assert_eq!(bound["not_after"], "2026-05-10T00:00:00Z");
    lab.clock.set(Time::parse("2026-05-09T23:59:59Z").expect("a moment"));
    phone.must_be_signed_in().await;
    lab.pass(Span::seconds(1));
    phone.must_sign_in_again("LOCKED", "not_after").await;
    bob.must_be_signed_in().await;
    let token = format!("/users/{user}/authentication-token");
    refused(lab.api(Method::POST, &token).json(&json!({})), 409, "CONFLICT").await;
    drop((phone, bob));
    lab.restart().await;
    assert_eq!(lab.get(&path).await["ended_by"], "not_after");
    // A later date revives nothing, and lets them sign in again.
    set(&lab, "2026-06-10".into()).await;
    assert_eq!(lab.get(&path).await["state"], "LOCKED");
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
    set(&lab, Value::Null).await;
    assert_eq!(lab.get(&path).await["state"], "ENROLLED");
    let wrong = lab.api(Method::PUT, &format!("/users/{user}/not-after"));
    refused(wrong.json(&json!({ "not_after": "soon" })), 422, "INVALID_VALUE").await;
}

async fn a_policy_holds_during_its_validity(lab: Lab) {
    let policy = json!({ "name": "audit", "applies_to": { "everyone": true },
        "limits": { "max_age": "1d" }, "valid_from": "2026-05-10", "valid_until": "2026-05-12" });
    let ann = lab.sign_in("ann", "phone").await;
    state(&lab, json!([policy])).await;
    assert_eq!(ann.view().await["ends_at"], "2026-05-10T00:00:00Z");
    lab.clock.set(Time::parse("2026-05-09T12:00:00Z").expect("a moment"));
    ann.must_be_signed_in().await;
    lab.clock.set(Time::parse("2026-05-11T12:00:00Z").expect("a moment"));
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    let bob = lab.sign_in("bob", "phone").await;
    // Its day would come after the policy has ended.
    lab.clock.set(Time::parse("2026-05-20T00:00:00Z").expect("a moment"));
    bob.must_be_signed_in().await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn who_kept_an_attribute_from_before_is_found_by_it(lab: Lab) {
    let (short, long) = (
        json!({ "user_schema": { "name": "text" } }),
        json!({ "user_schema": { "name": "text", "department": "text" } }),
    );
    lab.set(long.clone()).await;
    let ann = lab.sign_in("ann", "phone").await;
    let path = format!("/objects/user/{}", ann.user);
    let patch = async |user: Value| {
        good(lab.api(Method::PATCH, &path).json(&json!({ "user": user }))).await
    };
    patch(json!({ "department": "sales" })).await;
    // The schema loses it and gains it again; what users have they keep meanwhile.
    lab.set(short.clone()).await;
    patch(json!({ "name": "Ann A." })).await;
    lab.set(long).await;
    lab.pass(Span::days(2));
    let sales = json!({ "name": "sales", "applies_to": { "attributes": { "department": "sales" } },
        "limits": { "max_age": "1d" } });
    state(&lab, json!([sales])).await;
    ann.must_sign_in_again("LOCKED", "max_session_age").await;
    let change = lab.bare(Method::PATCH, &format!("/admin/apps/{}", lab.app));
    let lost = json!({ "settings": short });
    let body = refused(change.bearer_auth(&lab.operator).json(&lost), 422, "INVALID_VALUE").await;
    assert!(body.to_string().contains("sales"), "{body}");
}
