//! How devices sign in, connect and sign out.

use reauth_server::domain::Span;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    an_authentication_token_works_once_and_for_ten_minutes,
    a_known_device_keeps_its_session_and_loses_its_old_secret,
    a_device_signs_out_and_stays_out,
    activity_is_written_down_and_survives_a_restart,
    a_token_of_one_app_is_nothing_in_another,
    what_a_device_says_is_checked,
    two_devices_racing_for_one_token_get_one_session,
);

async fn an_authentication_token_works_once_and_for_ten_minutes(lab: Lab) {
    let token = lab.authentication_token("ann").await;
    good(lab.enroll(&token, "phone")).await;
    let again = refused(lab.enroll(&token, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    assert!(text(&again["detail"]).contains("used already"), "{again}");
    let late = lab.authentication_token("ann").await;
    let last = lab.authentication_token("ann").await;
    lab.pass(Span::minutes(10) + Span::from_micros(-1_000_000));
    good(lab.enroll(&last, "tablet")).await;
    lab.pass(Span::seconds(1));
    refused(lab.enroll(&late, "phone"), 401, "AUTHENTICATION_FAILED").await;
    let path = format!("/users/{}/authentication-token", lab.user("ann").await);
    let short = lab.post(&path, json!({ "expires_in": "5s" })).await;
    assert!(text(&short["url"]).ends_with(&format!("/device/{}/enroll", lab.app)));
    lab.pass(Span::seconds(5));
    refused(lab.enroll(&text(&short["token"]), "phone"), 401, "AUTHENTICATION_FAILED").await;
    let absurd = lab.api(Method::POST, &path).json(&json!({ "expires_in": "9d" }));
    assert_eq!(refused(absurd, 422, "INVALID_VALUE").await["field"], "expires_in");
}

async fn a_known_device_keeps_its_session_and_loses_its_old_secret(lab: Lab) {
    let first = lab.sign_in("ann", "phone").await;
    lab.pass(Span::days(29));
    let second = lab.sign_in("ann", "phone").await;
    assert_eq!(first.session, second.session);
    assert_ne!(first.token, second.token);
    assert_eq!(first.check().await.status(), StatusCode::UNAUTHORIZED);
    second.must_be_signed_in().await;
    let (_, body) = second.connect().await;
    assert_eq!(body["state"], "ENROLLED");
    assert_eq!(body["ends_at"], "2026-07-01T06:12:00Z");
    assert_eq!(body["server_time"], "2026-06-01T06:12:00Z");
}

async fn a_device_signs_out_and_stays_out(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    assert_eq!(phone.sign_out().await, StatusCode::NO_CONTENT);
    phone.must_sign_in_again("LOCKED", "sign_out").await;
    assert_eq!(phone.sign_out().await, StatusCode::UNAUTHORIZED);
}

async fn activity_is_written_down_and_survives_a_restart(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.pass(Span::hours(5));
    assert_eq!(phone.connect().await.0, StatusCode::OK);
    let path = phone.path();
    assert_eq!(phone.view().await["last_connected_at"], "2026-05-03T11:12:00Z");
    drop(phone);
    lab.restart().await;
    assert_eq!(lab.get(&path).await["last_connected_at"], "2026-05-03T11:12:00Z");
    let users = lab.get("/users").await;
    assert_eq!(users["objects"][0]["last_connected_at"], "2026-05-03T11:12:00Z");
    let tokens = format!("/admin/apps/{}/tokens", lab.app);
    let tokens = good(lab.bare(Method::GET, &tokens).bearer_auth(&lab.operator)).await;
    assert_eq!(tokens["objects"][0]["last_used_at"], "2026-05-03T11:12:00Z");
    assert_eq!(tokens["objects"][0]["token"], Value::Null);
}

async fn a_token_of_one_app_is_nothing_in_another(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let other = lab.operator_post("/admin/apps", json!({ "name": "till" })).await;
    let other = text(&other["id"]);
    let connect = format!("/device/{other}/connect");
    let request = lab.bare(Method::POST, &connect).bearer_auth(&phone.token);
    assert_eq!(refused(request, 401, "SIGN_IN_AGAIN").await["because"], "unknown");
    let token = lab.authentication_token("ann").await;
    let body = json!({ "authentication_token": token, "device": { "id": "x" } });
    let request = lab.bare(Method::POST, &format!("/device/{other}/enroll")).json(&body);
    refused(request, 401, "AUTHENTICATION_FAILED").await;
    let users = format!("/api/v4/{other}/users/{}", phone.user);
    let as_operator = lab.bare(Method::GET, &users).bearer_auth(&lab.operator);
    refused(as_operator, 404, "OBJECT_NOT_FOUND").await;
}

async fn what_a_device_says_is_checked(lab: Lab) {
    let token = lab.authentication_token("ann").await;
    let path = format!("/device/{}/enroll", lab.app);
    let enroll = |body: Value| lab.bare(Method::POST, &path).json(&body);
    let missing = enroll(json!({ "authentication_token": token }));
    let body = refused(missing, 400, "INVALID_API_REQUEST").await;
    assert!(text(&body["detail"]).contains("device"), "{body}");
    for (device, field) in [(json!({ "id": "" }), "device.id"), (json!({ "id": 7 }), "device.id")] {
        let body = json!({ "authentication_token": token, "device": device });
        assert_eq!(refused(enroll(body), 422, "INVALID_VALUE").await["field"], field);
    }
    let container =
        json!({ "authentication_token": token, "device": { "id": "x" }, "container": 1 });
    assert_eq!(refused(enroll(container), 422, "INVALID_VALUE").await["field"], "container");
    refused(
        enroll(json!({ "authentication_token": "x", "device": { "id": "x" } })),
        401,
        "AUTHENTICATION_FAILED",
    )
    .await;
    good(lab.enroll(&token, "phone")).await;
}

async fn two_devices_racing_for_one_token_get_one_session(lab: Lab) {
    for _ in 0..10 {
        let token = lab.authentication_token("ann").await;
        let (one, two) = tokio::join!(
            crate::lab::json_of(lab.enroll(&token, "phone")),
            crate::lab::json_of(lab.enroll(&token, "tablet")),
        );
        let mut statuses = [one.0.as_u16(), two.0.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
    }
}
