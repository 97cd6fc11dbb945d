//! Revocations by a filter, looked at before they are done.

use reauth_server::domain::Span;
use reauth_server::domain::sessions::sweep;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    a_revocation_ends_the_unused_tokens_of_whom_it_is_about,
    whoever_is_not_meant_signs_in_by_their_token_as_ever,
    revocations_do_not_pile_up_behind_tokens_of_others,
    a_device_that_was_told_to_wipe_is_remembered_from_then_on,
    a_filter_ends_whoever_meets_it_at_once_and_nobody_else,
    an_address_is_where_the_device_signed_in_from,
    who_joins_after_a_revocation_is_not_meant_by_it,
    a_wipe_reaches_devices_that_are_locked_already,
    who_leaves_after_a_wipe_wipes_all_the_same,
    what_was_seen_is_what_is_done_or_nothing,
    a_large_revocation_can_need_a_look_first,
    a_revocation_that_is_not_written_down_yet_holds_over_a_restart,
);

async fn a_filter_ends_whoever_meets_it_at_once_and_nobody_else(lab: Lab) {
    for filter in [
        json!({ "platforms": ["iOS"], "device_id": "old" }),
        json!({ "created_before": "{then}", "users": ["{ann}"] }),
        json!({ "authenticated_before": "{then}" }),
        json!({ "labels": ["the o?d"] }),
        json!({ "attributes": { "name": "ann" }, "device_id": "old" }),
        json!({ "group": "g", "device_id": "old" }),
    ] {
        let old = lab.sign_in("ann", "old").await;
        super::join(&lab, "g", &old.user).await;
        let then = (lab.clock.now() + Span::seconds(1)).to_string();
        lab.pass(Span::hours(1));
        let new = lab.sign_in("ann", "new").await;
        let filter = filter.to_string().replace("{ann}", &old.user).replace("{then}", &then);
        revoke(&lab, &serde_json::from_str(&filter).expect("JSON"), "re-authenticate").await;
        old.must_sign_in_again("LOCKED", "re_authenticate").await;
        new.must_be_signed_in().await;
        let again = lab.sign_in("ann", "old").await;
        again.must_be_signed_in().await;
        lab.sweep().await;
        again.must_be_signed_in().await;
        // Both sessions begin anew for the next filter.
        for device in [again, new] {
            lab.act(&format!("{}/wipe", device.path())).await;
        }
        lab.pass(Span::days(2));
        let db = &lab.server().app().db;
        sweep::forget(db, Span::days(1)).await.expect("it forgets");
    }
}

/// Devices that Bob may come to use are none of those that are meant.
async fn whoever_is_not_meant_signs_in_by_their_token_as_ever(lab: Lab) {
    for filter in [
        json!({ "device_id": "stolen" }),
        json!({ "labels": ["the st*"] }),
        json!({ "ip": "203.0.113.0/24" }),
        json!({ "created_before": "{now}" }),
    ] {
        for (bystander, is_swept) in [("bob", false), ("eve", true)] {
            let token = lab.authentication_token("ann").await;
            let request = lab.enroll(&token, "stolen").header("x-forwarded-for", "203.0.113.7");
            let stolen = lab.device(&good(request).await);
            let [own, other] =
                [lab.authentication_token("ann").await, lab.authentication_token(bystander).await];
            let bob = lab.user(bystander).await;
            let then = (lab.clock.now() + Span::seconds(1)).to_string();
            lab.pass(Span::seconds(2));
            let filter = filter.to_string().replace("{now}", &then);
            revoke(&lab, &serde_json::from_str(&filter).expect("JSON"), "wipe").await;
            stolen.must_sign_in_again("RESET", "wipe").await;
            if is_swept {
                lab.sweep().await;
            }
            let items = lab.get(&format!("/users/{bob}/access-bound")).await["items"].clone();
            assert!(items.to_string().contains("authentication_token"), "{filter} {items}");
            let tablet = lab.device(&good(lab.enroll(&other, "tablet")).await);
            tablet.must_be_signed_in().await;
            // Who holds a device that is meant may hold the token as well.
            refused(lab.enroll(&own, "tablet"), 401, "AUTHENTICATION_FAILED").await;
            lab.sweep().await;
            lab.act(&format!("{}/wipe", tablet.path())).await;
        }
        lab.pass(Span::days(2));
        let db = &lab.server().app().db;
        sweep::forget(db, Span::days(1)).await.expect("it forgets");
    }
}

/// As after each change of a password, while others have invitations that they did not use.
async fn revocations_do_not_pile_up_behind_tokens_of_others(lab: Lab) {
    lab.authentication_token("bob").await;
    let ann = lab.user("ann").await;
    // A dry run counts them as well.
    let android = json!({ "filter": { "platforms": ["android"] }, "action": "wipe",
        "dry_run": true });
    let seen = lab.post("/revocations", android).await;
    assert_eq!((&seen["sessions"], &seen["authentication_tokens"]), (&json!(0), &json!(1)));
    for turn in 0..101 {
        let filter = json!({ "user": ann, "authenticated_before": lab.clock.now().to_string() });
        revoke(&lab, &filter, "re-authenticate").await;
        let platform = json!({ "user": ann, "platforms": ["ios"] });
        revoke(&lab, &platform, "re-authenticate").await;
        if turn % 25 == 0 {
            lab.sweep().await;
        }
    }
}

async fn a_device_that_was_told_to_wipe_is_remembered_from_then_on(lab: Lab) {
    let (laptop, phone) = (lab.sign_in("ann", "laptop").await, lab.sign_in("bob", "phone").await);
    for device in [&laptop, &phone] {
        lab.act(&format!("{}/re-authenticate", device.path())).await;
    }
    lab.pass(Span::hours(20));
    lab.act(&format!("{}/wipe", laptop.path())).await;
    revoke(&lab, &json!({ "user": phone.user }), "wipe").await;
    lab.sweep().await;
    lab.pass(Span::hours(10));
    let db = &lab.server().app().db;
    while sweep::forget(db, Span::days(1)).await.expect("it forgets") {}
    for device in [&laptop, &phone] {
        device.must_sign_in_again("RESET", "wipe").await;
    }
    lab.pass(Span::hours(15));
    while sweep::forget(db, Span::days(1)).await.expect("it forgets") {}
    refused(lab.api(Method::GET, &laptop.path()), 404, "OBJECT_NOT_FOUND").await;
}

async fn an_address_is_where_the_device_signed_in_from(lab: Lab) {
    let from = async |name: &str, address: &str| {
        let token = lab.authentication_token(name).await;
        let request = lab.enroll(&token, "phone").header("x-forwarded-for", address);
        lab.device(&good(request).await)
    };
    let cafe = from("ann", "203.0.113.7").await;
    let office = from("bob", "198.51.100.9, 203.0.113.200").await;
    let home = from("eve", "2001:db8::1").await;
    let wrong = json!({ "filter": { "ip": "the cafe" }, "action": "wipe" });
    let request = lab.api(Method::POST, "/revocations").json(&wrong);
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "filter.ip");
    revoke(&lab, &json!({ "ip": "203.0.113.7" }), "re-authenticate").await;
    cafe.must_sign_in_again("LOCKED", "re_authenticate").await;
    office.must_be_signed_in().await;
    let path = format!("/sessions/{}/explain", office.session);
    assert_eq!(lab.get(&path).await["address"], "203.0.113.200", "nobody believes the rest");
    revoke(&lab, &json!({ "ip": "::ffff:203.0.113.0/120" }), "re-authenticate").await;
    office.must_sign_in_again("LOCKED", "re_authenticate").await;
    home.must_be_signed_in().await;
    revoke(&lab, &json!({ "ip": "2001:db8::/32" }), "wipe").await;
    home.must_sign_in_again("RESET", "wipe").await;
    // Who signs in elsewhere is elsewhere.
    from("ann", "198.51.100.1").await.must_be_signed_in().await;
    lab.sweep().await;
}

async fn who_joins_after_a_revocation_is_not_meant_by_it(lab: Lab) {
    let (ann, bob) = (lab.sign_in("ann", "old").await, lab.sign_in("bob", "old").await);
    super::join(&lab, "g", &ann.user).await;
    revoke(&lab, &json!({ "group": "g", "platforms": ["ios"] }), "re-authenticate").await;
    super::join(&lab, "g", &bob.user).await;
    bob.must_be_signed_in().await;
    ann.must_sign_in_again("LOCKED", "re_authenticate").await;
    // Who leaves before it is written down stays out.
    let member = format!("/groups/g/members/{}", ann.user);
    good(lab.api(Method::DELETE, &member)).await;
    ann.must_sign_in_again("LOCKED", "re_authenticate").await;
    lab.sweep().await;
    bob.must_be_signed_in().await;
    ann.must_sign_in_again("LOCKED", "re_authenticate").await;
}

async fn revoke(lab: &Lab, filter: &Value, action: &str) -> Value {
    let body = json!({ "filter": filter, "action": action, "reason": "a leak" });
    lab.post("/revocations", body).await
}

async fn a_wipe_reaches_devices_that_are_locked_already(lab: Lab) {
    let locked = lab.sign_in("ann", "locked").await;
    lab.act(&format!("{}/re-authenticate", locked.path())).await;
    let live = lab.sign_in("ann", "live").await;
    let bob = lab.sign_in("bob", "phone").await;
    let done = revoke(&lab, &json!({ "user": locked.user }), "wipe").await;
    assert_eq!((&done["sessions"], &done["users"]), (&json!(2), &json!(1)));
    live.must_sign_in_again("RESET", "wipe").await;
    bob.must_be_signed_in().await;
    lab.sweep().await;
    locked.must_sign_in_again("RESET", "wipe").await;
    let again = lab.sign_in("ann", "locked").await;
    lab.sweep().await;
    again.must_be_signed_in().await;
}

async fn who_leaves_after_a_wipe_wipes_all_the_same(mut lab: Lab) {
    let (locked, live) = (lab.sign_in("ann", "locked").await, lab.sign_in("ann", "live").await);
    lab.act(&format!("{}/re-authenticate", locked.path())).await;
    super::join(&lab, "g", &locked.user).await;
    let done = revoke(&lab, &json!({ "groups": ["g"] }), "wipe").await;
    assert_eq!(done["sessions"], 2);
    good(lab.api(Method::DELETE, &format!("/groups/g/members/{}", locked.user))).await;
    locked.must_sign_in_again("RESET", "wipe").await;
    live.must_sign_in_again("RESET", "wipe").await;
    let path = locked.path();
    drop((locked, live));
    lab.sweep().await;
    lab.restart().await;
    assert_eq!(lab.get(&path).await["state"], "RESET");
}

async fn what_was_seen_is_what_is_done_or_nothing(lab: Lab) {
    let (a, b) = (lab.sign_in("ann", "a").await, lab.sign_in("bob", "a").await);
    let head = lab.head().await;
    let mut wanted = json!({ "filter": { "platforms": ["ios"] }, "action": "re-authenticate",
        "dry_run": true });
    let seen = lab.post("/revocations", wanted.clone()).await;
    assert_eq!((&seen["sessions"], &seen["users"]), (&json!(2), &json!(2)), "{seen}");
    assert_eq!(lab.head().await, head, "nothing is changed");
    a.must_be_signed_in().await;
    let id = text(&seen["preview_id"]);
    let page = lab.get(&format!("/revocations/previews/{id}?limit=1&skip=1")).await;
    assert_eq!(
        (&page["total"], page["objects"].as_array().map(Vec::len)),
        (&json!(2), Some(1)),
        "{page}"
    );

    let c = lab.sign_in("eve", "a").await;
    wanted["dry_run"] = false.into();
    wanted["expect"] = json!({ "preview_id": id, "tolerance_percent": 100 });
    for (field, other) in [("action", json!("wipe")), ("filter", json!({ "device_id": "a" }))] {
        let mut wanted = wanted.clone();
        wanted[field] = other;
        let request = lab.api(Method::POST, "/revocations").json(&wanted);
        let body = refused(request, 409, "CONFLICT").await;
        assert!(text(&body["detail"]).contains("another filter"), "{body}");
    }
    wanted["expect"] = json!({ "preview_id": id, "tolerance_percent": 101 });
    let request = lab.api(Method::POST, "/revocations").json(&wanted);
    let body = refused(request, 422, "INVALID_VALUE").await;
    assert_eq!(body["field"], "expect.tolerance_percent");
    wanted["expect"] = json!({ "preview_id": id });
    let request = lab.api(Method::POST, "/revocations").json(&wanted);
    let body = refused(request, 409, "CONFLICT").await;
    assert!(text(&body["detail"]).contains("1 sessions are new"), "{body}");
    c.must_be_signed_in().await;
    wanted["expect"]["tolerance_percent"] = 50.into();
    let done = lab.post("/revocations", wanted.clone()).await;
    assert_eq!(done["sessions"], 3);
    for device in [a, b, c] {
        device.must_sign_in_again("LOCKED", "re_authenticate").await;
    }
    lab.pass(Span::minutes(16));
    let request = lab.api(Method::POST, "/revocations").json(&wanted);
    refused(request, 404, "OBJECT_NOT_FOUND").await;
}

async fn a_large_revocation_can_need_a_look_first(lab: Lab) {
    lab.set(json!({ "unseen_sessions_max": 1, "unseen_percent_max": 60 })).await;
    let ann = lab.sign_in("ann", "a").await;
    lab.user("bob").await;
    let everyone = json!({ "filter": {}, "action": "re-authenticate" });
    lab.post("/revocations", everyone.clone()).await;
    ann.must_sign_in_again("LOCKED", "cut_off_app").await;
    let devices = [lab.sign_in("ann", "a").await, lab.sign_in("bob", "a").await];
    let body =
        refused(lab.api(Method::POST, "/revocations").json(&everyone), 409, "CONFLICT").await;
    assert!(text(&body["detail"]).contains("dry_run"), "{body}");
    devices[0].must_be_signed_in().await;
    let mut seen = everyone.clone();
    seen["dry_run"] = true.into();
    let id = lab.post("/revocations", seen).await["preview_id"].clone();
    let mut known = everyone;
    known["expect"] = json!({ "preview_id": id });
    lab.post("/revocations", known).await;
    for device in devices {
        device.must_sign_in_again("LOCKED", "cut_off_app").await;
    }
    // Two of three users are more than 66 %.
    lab.set(json!({ "unseen_sessions_max": null, "unseen_percent_max": 66 })).await;
    lab.sign_in("ann", "a").await;
    lab.sign_in("eve", "a").await;
    let some = json!({ "filter": { "device_id": "a" }, "action": "re-authenticate" });
    let body = refused(lab.api(Method::POST, "/revocations").json(&some), 409, "CONFLICT").await;
    assert!(text(&body["detail"]).contains("67 %"), "{body}");
    lab.set(json!({ "unseen_percent_max": 67 })).await;
    lab.post("/revocations", some).await;
    lab.set(json!({ "unseen_percent_max": null })).await;
    let too_much = lab.bare(Method::PATCH, &format!("/admin/apps/{}", lab.app));
    let too_much = too_much.json(&json!({ "settings": { "unseen_percent_max": 101 } }));
    let body = refused(too_much.bearer_auth(&lab.operator), 422, "INVALID_VALUE").await;
    assert_eq!(body["field"], "unseen_percent_max");
}

async fn a_revocation_that_is_not_written_down_yet_holds_over_a_restart(mut lab: Lab) {
    let (ann, bob) = (lab.sign_in("ann", "a").await, lab.sign_in("bob", "b").await);
    let paths = [ann.path(), bob.path()];
    let filter = json!({ "attributes": { "name": "ann" }, "labels": ["the *"] });
    revoke(&lab, &filter, "re-authenticate").await;
    // Whoever loses the attribute before it is written down is out all the same.
    let path = format!("/objects/user/{}", ann.user);
    good(lab.api(Method::PATCH, &path).json(&json!({ "user": { "name": "zoe" } }))).await;
    drop((ann, bob));
    lab.restart().await;
    assert_eq!(lab.get(&paths[0]).await["ended_by"], "re_authenticate");
    assert_eq!(lab.get(&paths[1]).await["state"], "ENROLLED");
    for wrong in [
        json!({ "groups": [] }),
        json!({ "everyone": true, "platforms": ["ios"] }),
        json!({ "created_before": "soon" }),
        json!({ "group": "g", "groups": ["g"] }),
        json!({ "place": "the cafe" }),
    ] {
        let body = json!({ "filter": wrong, "action": "wipe" });
        let request = lab.api(Method::POST, "/revocations").json(&body);
        let body = refused(request, 422, "INVALID_VALUE").await;
        assert!(text(&body["field"]).starts_with("filter"), "{body}");
    }
}

async fn a_revocation_ends_the_unused_tokens_of_whom_it_is_about(lab: Lab) {
    let (ann, bob) = (lab.user("ann").await, lab.user("bob").await);
    super::join(&lab, "contractors", &bob).await;
    for (filter, action, ended) in [
        (json!({ "users": [ann] }), "re-authenticate", [true, false]),
        (json!({ "groups": ["contractors"] }), "wipe", [false, true]),
        (json!({ "users": [ann, bob] }), "wipe", [true, true]),
        // On which platform they would be used is not known; by what they were proved is.
        (json!({ "users": [ann], "platforms": ["android"] }), "re-authenticate", [true, false]),
        (json!({ "methods": ["otp"] }), "re-authenticate", [false, false]),
        (json!({ "authenticated_before": "2026-05-03T06:11:00Z" }), "wipe", [false, false]),
        // Nobody has such a device.
        (json!({ "labels": ["till-*"], "users": [ann] }), "wipe", [false, false]),
    ] {
        // Written down before they are used, or not yet.
        for is_swept in [false, true] {
            let tokens =
                [lab.authentication_token("ann").await, lab.authentication_token("bob").await];
            let wanted = json!({ "filter": filter, "action": action });
            lab.post("/revocations", wanted).await;
            if is_swept {
                lab.sweep().await;
            }
            for (token, is_ended) in tokens.iter().zip(ended) {
                let enrolled = lab.enroll(token, "phone").send().await.expect("an answer");
                assert_eq!(enrolled.status().is_success(), !is_ended, "{filter} {is_swept}");
            }
        }
    }
    let issue = lab.api(Method::POST, &format!("/users/{ann}/authentication-token"));
    let issued = good(issue.json(&json!({ "methods": ["pwd"] }))).await;
    let plain = lab.authentication_token("ann").await;
    // The phone was signed in by nothing of that kind: what counts is what the token would begin.
    let filter = json!({ "methods": ["pwd"], "device_id": "phone" });
    revoke(&lab, &filter, "re-authenticate").await;
    lab.sweep().await;
    refused(lab.enroll(&text(&issued["token"]), "phone"), 401, "AUTHENTICATION_FAILED").await;
    good(lab.enroll(&plain, "phone")).await;
}
