//! What a set of policies may not say: what ends nobody, and what can never act.

use reauth_server::domain::Span;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::simulation::simulate;
use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    an_end_that_is_far_away_or_yet_to_come_is_no_bound,
    a_preset_is_made_stricter_by_age_alone,
    what_can_never_act_is_refused,
    what_was_stated_once_may_be_stated_again,
);

fn put(lab: &Lab, policies: &Value) -> RequestBuilder {
    lab.api(Method::PUT, "/policies").json(&json!({ "policies": policies }))
}

/// Refused both when it is previewed and when it is stated, for what is in this field.
async fn must_be_refused(lab: &Lab, policies: Value, field: &str) {
    let preview = lab.api(Method::POST, "/policies/preview");
    for request in [put(lab, &policies), preview.json(&json!({ "policies": policies }))] {
        let body = refused(request, 422, "INVALID_VALUE").await;
        assert_eq!(body["field"], field, "{body}");
    }
}

async fn an_end_that_is_far_away_or_yet_to_come_is_no_bound(lab: Lab) {
    let everyone = |limits: Value| {
        json!({ "name": "all", "applies_to": { "everyone": true },
        "limits": limits })
    };
    let without_age = || {
        let request = lab.bare(Method::PATCH, &format!("/admin/apps/{}", lab.app));
        let settings = json!({ "settings": { "max_session_age": null } });
        request.bearer_auth(&lab.operator).json(&settings)
    };
    let mut later = everyone(json!({ "max_age": "30d" }));
    later["valid_from"] = "2099-01-01".into();
    // Ten years and ten days from when the stories begin.
    let far = ["9999-12-31", "2036-05-14"].map(|day| everyone(json!({ "not_after": day })));
    let [none, far] = [vec![later], far.to_vec()];
    let none: Vec<Value> = none.into_iter().chain(far).collect();
    for policy in &none {
        good(put(&lab, &json!([policy]))).await;
        let body = refused(without_age(), 422, "INVALID_VALUE").await;
        assert!(text(&body["detail"]).contains("allow_endless"), "{body}");
    }
    let near = everyone(json!({ "not_after": "2036-05-01" }));
    good(put(&lab, &json!([near]))).await;
    good(without_age()).await;
    for policy in &none {
        must_be_refused(&lab, json!([policy]), "policies").await;
    }
    let wanted = json!({ "policies": [none[0]], "allow_endless": true });
    good(lab.api(Method::PUT, "/policies").json(&wanted)).await;
    let doctor = lab.operator_get("/admin/doctor").await;
    assert!(doctor.to_string().contains("sessions that begin from now on have no end"), "{doctor}");
}

async fn a_preset_is_made_stricter_by_age_alone(lab: Lab) {
    let policy = json!({ "name": "bank", "applies_to": { "everyone": true },
        "limits": { "preset": "nist-aal2", "max_age": "30m" } });
    good(put(&lab, &json!([policy]))).await;
    let phone = lab.sign_in("ann", "phone").await;
    lab.pass(Span::minutes(29));
    phone.must_be_signed_in().await;
    lab.pass(Span::minutes(1));
    phone.must_sign_in_again("LOCKED", "max_session_age").await;
}

async fn what_can_never_act_is_refused(mut lab: Lab) {
    let gone = lab.user("gone").await;
    good(lab.api(Method::DELETE, &format!("/objects/user/{gone}"))).await;
    let (shop, admin) = (lab.app.clone(), lab.admin.clone());
    lab.enter_app("till").await;
    let stranger = lab.user("eve").await;
    (lab.app, lab.admin) = (shop, admin);
    let ann = lab.user("ann").await;
    let nobody = "00000000-0000-7000-8000-000000000000".to_owned();
    for user in [gone, stranger, nobody] {
        let policy = json!({ "name": "p", "applies_to": { "users": [ann, user] },
            "limits": { "max_age": "1d" } });
        must_be_refused(&lab, json!([policy]), "policies.p.applies_to.users").await;
    }
    let dated = |until: &str, not_after: &str| {
        json!({ "name": "p", "applies_to": { "users": [ann] }, "valid_until": until,
            "limits": { "max_age": "1d", "not_after": not_after } })
    };
    for (until, not_after, field) in [
        ("2001-01-01", "2000-01-01", "valid_until"),
        ("2026-05-03T06:12:00Z", "2000-01-01", "valid_until"),
        ("2026-06-01", "2026-06-01", "limits.not_after"),
        ("2026-06-01", "2026-06-02", "limits.not_after"),
    ] {
        must_be_refused(&lab, json!([dated(until, not_after)]), &format!("policies.p.{field}"))
            .await;
    }
    good(put(&lab, &json!([dated("2026-06-01", "2026-05-31")]))).await;
}

async fn what_was_stated_once_may_be_stated_again(lab: Lab) {
    let leaver = lab.user("lea").await;
    let of_user = |age: &str| {
        json!({ "name": "lea", "applies_to": { "users": [leaver] },
        "limits": { "max_age": age } })
    };
    let audit = |age: &str| {
        json!({ "name": "audit", "applies_to": { "everyone": true }, "valid_until": "2026-05-04",
            "limits": { "max_age": age, "preset": "nist-aal2" } })
    };
    good(put(&lab, &json!([audit("8h"), of_user("1d")]))).await;
    good(lab.api(Method::DELETE, &format!("/objects/user/{leaver}"))).await;
    lab.pass(Span::days(2));
    let head = lab.head().await;
    good(put(&lab, &json!([audit("8h"), of_user("1d")]))).await;
    assert_eq!(lab.head().await, head, "the same set changes nothing");
    // Whoever edits another rule need not look for who has left since.
    good(put(&lab, &json!([audit("8h"), of_user("2d")]))).await;
    must_be_refused(&lab, json!([audit("9h")]), "policies.audit.valid_until").await;
    let lived = simulate(&lab, 1, None).await.expect("what is stored can be lived through");
    assert_eq!(lived.sessions, 0);
}
