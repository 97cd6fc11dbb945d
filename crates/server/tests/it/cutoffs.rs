//! Cut-offs: everyone in a scope must sign in again, with one ledger entry.

use reauth_server::domain::Span;
use reqwest::Method;
use serde_json::json;

use crate::both;
use crate::lab::{Lab, refused};

both!(
    everyone_in_scope_must_sign_in_again_and_nobody_else,
    who_leaves_a_group_keeps_its_cut_off,
    a_cut_off_ends_unused_authentication_tokens_too,
    a_cut_off_holds_over_a_restart,
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
    refused(lab.api(Method::POST, "/revocations").json(&both), 422, "INVALID_VALUE").await;
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
    bob.must_sign_in_again("LOCKED", "cut_off_user").await;
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
