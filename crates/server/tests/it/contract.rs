//! Users and sessions as existing programs see them (contract, sections 1 and 2).

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, json_of, refused};

both!(
    a_user_has_exactly_these_keys_in_this_order,
    re_authenticate_locks_one_device_and_nothing_else,
    wipe_resets_and_is_final_until_the_next_sign_in,
    a_lock_ends_everything_and_an_unlock_brings_nothing_back,
    one_device_only_unless_the_app_allows_more,
    pages_show_everyone_once,
    every_form_of_the_credential_serves,
    errors_are_of_the_right_type,
    a_deleted_user_is_gone_for_good,
);

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

async fn a_user_has_exactly_these_keys_in_this_order(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let text = lab.api(Method::GET, &format!("/users/{}.json", phone.user));
    let text = text.send().await.expect("an answer").text().await.expect("a text");
    let order = |keys: &[&str]| {
        let places: Vec<usize> = keys
            .iter()
            .map(|key| text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key}: {text}")))
            .collect();
        assert!(places.is_sorted(), "{keys:?} {text}");
    };
    order(&["id", "last_connected_at", "enrolled", "locked", "sessions"]);
    let order_of_session = [
        "state",
        "last_authenticated_at",
        "created_at",
        "signed_out_at",
        "container",
        "runtime",
        "device",
        "label",
        "sync_status",
        "ends_at",
        "ended_by",
    ];
    order(&order_of_session);
    let user = lab.get(&format!("/users/{}", phone.user)).await;
    assert_eq!(keys(&user).len(), 5);
    assert_eq!(user["enrolled"], true);
    let session = &user["sessions"][0];
    assert_eq!(keys(session).len(), 13);
    assert_eq!(session["last_authenticated_at"], "2026-05-03T06:12:00Z");
    assert_eq!(session["ends_at"], "2026-06-02T06:12:00Z");
    assert_eq!(session["signed_out_at"], Value::Null);
    assert_eq!(session["device"], json!({ "id": "phone" }));
    assert_eq!(session["container"]["platform"], "ios");
    assert_eq!(session["sync_status"], json!({ "last_full_sync": null }));
}

async fn re_authenticate_locks_one_device_and_nothing_else(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    lab.pass(Span::hours(1));
    lab.act(&format!("{}/re-authenticate.json", phone.path())).await;
    phone.must_sign_in_again("LOCKED", "re_authenticate").await;
    assert_eq!(phone.view().await["signed_out_at"], "2026-05-03T07:12:00Z");
    tablet.must_be_signed_in().await;
    let user = lab.get(&format!("/users/{}", phone.user)).await;
    assert_eq!((&user["locked"], &user["enrolled"]), (&json!(false), &json!(true)));
    lab.pass(Span::hours(1));
    lab.act(&format!("{}/re-authenticate", phone.path())).await;
    assert_eq!(phone.view().await["signed_out_at"], "2026-05-03T07:12:00Z");
    let again = lab.sign_in("ann", "phone").await;
    assert_eq!(again.session, phone.session);
    again.must_be_signed_in().await;
    let view = again.view().await;
    assert_eq!(view["created_at"], "2026-05-03T06:12:00Z");
    assert_eq!(view["last_authenticated_at"], "2026-05-03T08:12:00Z");
    assert_eq!(view["signed_out_at"], "2026-05-03T07:12:00Z");
    assert_eq!(phone.check().await.status(), StatusCode::UNAUTHORIZED);
}

async fn wipe_resets_and_is_final_until_the_next_sign_in(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.act(&format!("{}/wipe", phone.path())).await;
    phone.must_sign_in_again("RESET", "wipe").await;
    lab.act(&format!("{}/re-authenticate", phone.path())).await;
    phone.must_sign_in_again("RESET", "wipe").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    lab.act(&format!("{}/re-authenticate", tablet.path())).await;
    lab.pass(Span::minutes(5));
    lab.act(&format!("{}/wipe", tablet.path())).await;
    tablet.must_sign_in_again("RESET", "wipe").await;
    assert_eq!(tablet.view().await["signed_out_at"], "2026-05-03T06:17:00Z");
    lab.sign_in("ann", "tablet").await.must_be_signed_in().await;
}

async fn a_lock_ends_everything_and_an_unlock_brings_nothing_back(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let unused = lab.authentication_token("ann").await;
    lab.act(&format!("/users/{}/lock", phone.user)).await;
    phone.must_sign_in_again("LOCKED", "user_locked").await;
    assert_eq!(lab.get(&format!("/users/{}", phone.user)).await["locked"], true);
    refused(lab.enroll(&unused, "phone"), 401, "AUTHENTICATION_FAILED").await;
    let path = format!("/users/{}/authentication-token", phone.user);
    refused(lab.api(Method::POST, &path), 409, "CONFLICT").await;
    lab.act(&format!("/users/{}/unlock", phone.user)).await;
    assert_eq!(lab.get(&format!("/users/{}", phone.user)).await["locked"], false);
    phone.must_sign_in_again("LOCKED", "user_locked").await;
    refused(lab.enroll(&unused, "phone"), 401, "AUTHENTICATION_FAILED").await;
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
}

async fn one_device_only_unless_the_app_allows_more(lab: Lab) {
    lab.set(json!({ "multiple_devices_per_user": false })).await;
    let phone = lab.sign_in("ann", "phone").await;
    let other = lab.sign_in("bob", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    phone.must_sign_in_again("LOCKED", "replaced").await;
    tablet.must_be_signed_in().await;
    other.must_be_signed_in().await;
}

async fn pages_show_everyone_once(lab: Lab) {
    for name in ["ann", "bob", "eve"] {
        lab.sign_in(name, "phone").await;
    }
    let all = lab.get("/users?limit=&skip=").await;
    assert_eq!((&all["total"], &all["count"], &all["more"]), (&json!(3), &json!(3), &json!(false)));
    let mut ids = Vec::new();
    for skip in 0..3 {
        let page = lab.get(&format!("/users.json?limit=1&skip={skip}")).await;
        assert_eq!(page["more"], skip < 2);
        assert_eq!(page["objects"][0]["sessions"].as_array().map(Vec::len), Some(1));
        ids.push(page["objects"][0]["id"].clone());
    }
    let listed: Vec<Value> =
        all["objects"].as_array().expect("a list").iter().map(|user| user["id"].clone()).collect();
    assert_eq!(ids, listed);
    let body = refused(lab.api(Method::GET, "/users?limit=many"), 422, "INVALID_VALUE").await;
    assert_eq!(body["field"], "limit");
}

async fn every_form_of_the_credential_serves(lab: Lab) {
    let path = format!("/api/v4/{}/users", lab.app);
    let with = |value: String| lab.bare(Method::GET, &path).header("authorization", value);
    for scheme in ["Token ", "Bearer ", "Bearer O:", "token "] {
        good(with(format!("{scheme}{}", lab.admin))).await;
    }
    good(lab.bare(Method::GET, &path).basic_auth(&lab.app, Some(&lab.admin))).await;
    let wrong = lab.bare(Method::GET, &path).basic_auth("someone", Some(&lab.admin));
    refused(wrong, 401, "AUTHENTICATION_FAILED").await;
    refused(with("Digest x".into()), 401, "AUTHENTICATION_FAILED").await;
    refused(with(format!("Token {}x", lab.admin)), 401, "AUTHENTICATION_FAILED").await;
}

async fn errors_are_of_the_right_type(lab: Lab) {
    let get = |path: &str| lab.bare(Method::GET, path).bearer_auth(&lab.admin);
    let nobody = "00000000-0000-7000-8000-000000000000";
    refused(get("/api/v4/000000000000000000000000/users"), 404, "ACCOUNT_NOT_FOUND").await;
    refused(get("/api/v4/shop/users"), 404, "ACCOUNT_NOT_FOUND").await;
    refused(get("/api/v5/users"), 404, "ROUTE_ERROR").await;
    refused(lab.api(Method::DELETE, "/users"), 404, "ROUTE_ERROR").await;
    for path in [format!("/users/{nobody}"), "/users/ann".into(), format!("/objects/user/{nobody}")]
    {
        refused(lab.api(Method::GET, &path), 404, "OBJECT_NOT_FOUND").await;
    }
    let ann = lab.user("ann").await;
    let bob = lab.sign_in("bob", "phone").await;
    let foreign = format!("/users/{ann}/sessions/{}", bob.session);
    refused(lab.api(Method::GET, &foreign), 404, "OBJECT_NOT_FOUND").await;
    let path = format!("{foreign}/re-authenticate");
    refused(lab.api(Method::POST, &path), 404, "OBJECT_NOT_FOUND").await;
    bob.must_be_signed_in().await;
    let broken = lab.api(Method::POST, "/batch").body("{\"operations\":");
    refused(broken, 400, "INVALID_API_REQUEST").await;
    let wrong = json!({ "name": 7, "scopes": [] });
    let tokens = format!("/admin/apps/{}/tokens", lab.app);
    let request = lab.bare(Method::POST, &tokens).bearer_auth(&lab.admin).json(&wrong);
    assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "name");
    for path in ["/ledger?foo=1", "/ledger?after=x", "/users?limit=-1"] {
        let (status, body) = json_of(lab.api(Method::GET, path)).await;
        assert!(status.is_client_error() && body["type"].is_string(), "{path}: {status} {body}");
    }
    let waits = lab.api(Method::POST, "/tasks/t/run?wait=perhaps");
    refused(waits, 400, "INVALID_API_REQUEST").await;
    let unknown = refused(get("/api/v5/users"), 404, "ROUTE_ERROR").await;
    let (page, anchor) = unknown["see"].as_str().and_then(|it| it.split_once('#')).expect("see");
    let errors = lab.bare(Method::GET, page).send().await.expect("an answer");
    assert_eq!(errors.status(), StatusCode::OK);
    assert!(errors.text().await.expect("a page").contains(&format!("id={anchor}>")));
}

async fn a_deleted_user_is_gone_for_good(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let unused = lab.authentication_token("ann").await;
    let path = format!("/objects/user/{}.json", phone.user);
    let (status, body) = json_of(lab.api(Method::DELETE, &path)).await;
    assert_eq!((status, body), (StatusCode::OK, Value::Null));
    refused(lab.enroll(&unused, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    refused(lab.api(Method::GET, &path), 404, "OBJECT_NOT_FOUND").await;
    refused(lab.api(Method::DELETE, &path), 404, "OBJECT_NOT_FOUND").await;
    refused(
        lab.api(Method::POST, &format!("/users/{}/unlock", phone.user)),
        404,
        "OBJECT_NOT_FOUND",
    )
    .await;
    let again = lab.api(Method::PUT, &path).json(&json!({ "user": { "name": "ann" } }));
    refused(again, 422, "INVALID_VALUE").await;
    let (status, body) = phone.connect().await;
    assert_eq!((status.as_u16(), &body["state"]), (401, &json!("RESET")));
    assert_eq!(lab.get("/users").await["total"], 0);
}
