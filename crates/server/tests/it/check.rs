//! The check that apps' backends and reverse proxies ask (RFC 6750, RFC 9470).

use reauth_server::domain::{Span, Time};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::both;
use crate::lab::Lab;

both!(
    a_valid_check_says_who_and_until_when_with_an_empty_body,
    a_refused_check_says_why_as_the_standards_want,
    a_session_ends_at_its_very_moment_without_any_job,
    activity_moves_the_idle_end_and_never_the_age,
    a_shorter_limit_acts_at_once_and_a_longer_one_revives_nothing,
    what_is_no_session_token_is_unknown,
    the_clock_set_back_lengthens_nothing,
);

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

async fn a_valid_check_says_who_and_until_when_with_an_empty_body(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.pass(Span::hours(1));
    let answer = phone.check().await;
    assert_eq!(answer.status(), StatusCode::OK);
    for (name, wanted) in [
        ("reauth-app", lab.app.as_str()),
        ("reauth-user", &phone.user),
        ("reauth-session", &phone.session),
        ("reauth-authenticated-at", "2026-05-03T06:12:00Z"),
        ("reauth-ends-at", "2026-06-02T06:12:00Z"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(header(&answer, name), Some(wanted), "{name}");
    }
    assert_eq!(header(&answer, "content-type"), None);
    assert!(answer.bytes().await.expect("a body").is_empty());
    lab.set(json!({ "max_session_age": null })).await;
    assert_eq!(header(&phone.check().await, "reauth-ends-at"), None);
}

async fn a_refused_check_says_why_as_the_standards_want(lab: Lab) {
    let none = lab.bare(Method::GET, "/check").send().await.expect("an answer");
    assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(header(&none, "www-authenticate"), Some("Bearer realm=\"reauth\""));
    let phone = lab.sign_in("ann", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    lab.act(&format!("{}/re-authenticate", tablet.path())).await;
    let locked = tablet.check().await;
    let challenge = header(&locked, "www-authenticate").expect("a challenge");
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert!(challenge.contains("asked to sign in again"), "{challenge}");
    lab.pass(Span::days(30));
    let old = phone.check().await;
    let challenge = header(&old, "www-authenticate").expect("a challenge");
    assert!(challenge.contains("error=\"insufficient_user_authentication\""), "{challenge}");
    assert!(challenge.contains("max_age=\"2592000\""), "{challenge}");
    assert!(old.bytes().await.expect("a body").is_empty());
}

async fn a_session_ends_at_its_very_moment_without_any_job(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let page = lab.get(&format!("/ledger?user={}", phone.user)).await;
    let enrolled = page["entries"].as_array().and_then(|all| all.last()).expect("an entry");
    let entry: serde_json::Value =
        serde_json::from_str(&crate::lab::text(&enrolled["body"])).expect("an entry");
    let signed_in =
        Time::from_micros(entry["change"]["authenticated_at"].as_i64().expect("a moment"));
    lab.clock.set(signed_in + Span::days(30) + Span::from_micros(-1));
    phone.must_be_signed_in().await;
    lab.clock.set(signed_in + Span::days(30));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
    assert_eq!(phone.view().await["signed_out_at"], "2026-06-02T06:12:00Z");
    lab.pass(Span::days(400));
    assert_eq!(phone.view().await["signed_out_at"], "2026-06-02T06:12:00Z");
}

async fn activity_moves_the_idle_end_and_never_the_age(lab: Lab) {
    lab.set(json!({ "max_session_age": "3h", "max_idle": "1h" })).await;
    let phone = lab.sign_in("ann", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    for _ in 0..3 {
        lab.pass(Span::minutes(50));
        assert_eq!(phone.check().await.status(), StatusCode::OK);
    }
    tablet.must_sign_in_again("LOCKED", "max_idle").await;
    assert_eq!(tablet.view().await["signed_out_at"], "2026-05-03T07:12:00Z");
    lab.pass(Span::minutes(29));
    phone.must_be_signed_in().await;
    lab.pass(Span::minutes(1));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn a_shorter_limit_acts_at_once_and_a_longer_one_revives_nothing(lab: Lab) {
    let old = lab.sign_in("ann", "phone").await;
    lab.pass(Span::days(10));
    let young = lab.sign_in("ann", "tablet").await;
    lab.set(json!({ "max_session_age": "7d" })).await;
    old.must_sign_in_again("LOCKED", "max_session_age").await;
    assert_eq!(old.view().await["signed_out_at"], "2026-05-13T06:12:00Z");
    young.must_be_signed_in().await;
    lab.set(json!({ "max_session_age": "90d" })).await;
    old.must_sign_in_again("LOCKED", "max_session_age").await;
    lab.pass(Span::days(80));
    young.must_be_signed_in().await;
}

async fn what_is_no_session_token_is_unknown(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let enrolment = lab.authentication_token("ann").await;
    let cut = phone.token[..phone.token.len() - 1].to_owned();
    for token in [lab.admin.clone(), lab.operator.clone(), enrolment, cut, "é".into()] {
        let request =
            lab.bare(Method::GET, "/check").header("authorization", "Bearer ".to_owned() + &token);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    // And a session token is no API token.
    let path = format!("/api/v4/{}/users", lab.app);
    let request = lab.bare(Method::GET, &path).bearer_auth(&phone.token);
    crate::lab::refused(request, 401, "AUTHENTICATION_FAILED").await;
}

async fn the_clock_set_back_lengthens_nothing(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let token = (phone.token.clone(), phone.path());
    lab.pass(Span::days(31));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
    drop(phone);
    lab.server().app().db.pulse().await.expect("a pulse");
    lab.stop().await;
    // The machine's clock is set back while the server is down: a new process knows no better.
    lab.clock = reauth_server::domain::Clock::manual(crate::lab::beginning());
    lab.restart_after_stop().await;
    let request = lab.bare(Method::GET, "/check").bearer_auth(&token.0);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    assert_eq!(lab.get(&token.1).await["ended_by"], "max_session_age");
}
