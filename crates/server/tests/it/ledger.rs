//! The ledger: one entry for every change, none for what changes nothing, and no fault unseen.

use reauth_server::domain::Span;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, json_of, text};

both!(
    every_mutation_has_exactly_one_entry,
    what_changes_nothing_has_no_entry,
    an_app_sees_its_own_entries_and_who_did_it_and_why,
    the_chain_can_be_recomputed_by_anyone,
);

/// The request, the kind of its one entry.
type Mutation = (RequestBuilder, &'static str);

/// Every operation of the API that changes something.
async fn mutations(lab: &Lab) -> Vec<Mutation> {
    let api = |method: Method, path: &str| lab.api(method, path);
    let admin = |method: Method, path: &str| lab.bare(method, path).bearer_auth(&lab.operator);
    let (app, post, put, delete) =
        (format!("/admin/apps/{}", lab.app), Method::POST, Method::PUT, Method::DELETE);
    let phone = lab.sign_in("ann", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    let laptop = lab.sign_in("bob", "laptop").await;
    let bob = lab.user("bob").await;
    let enrolment = lab.authentication_token("bob").await;
    let task = json!({ "file": "t.js", "source": "export function run() { return 1 }" });
    let token = json!({ "name": "n", "scopes": ["users:read"] });
    let made = good(admin(post.clone(), &format!("{app}/tokens")).json(&token)).await;
    let revoke = json!({ "filter": {}, "action": "re-authenticate" });
    let member = format!("/groups/g/members/{bob}");
    let object = format!("/objects/user/{bob}");
    let fresh = "/objects/user/0190a000-0000-7000-8000-000000000003";
    let sign_out = lab.bare(post.clone(), &format!("/device/{}/sign-out", lab.app));
    vec![
        (admin(post.clone(), "/admin/apps").json(&json!({ "name": "till" })), "app.created"),
        (admin(Method::PATCH, &app).json(&json!({ "name": "shop 2" })), "app.changed"),
        (
            admin(Method::PATCH, &app).json(&json!({ "settings": { "max_idle": "9d" } })),
            "limits.set",
        ),
        (admin(post.clone(), &format!("{app}/tokens")).json(&token), "token.created"),
        (admin(delete.clone(), &format!("{app}/tokens/{}", text(&made["id"]))), "token.revoked"),
        (api(post.clone(), "/objects/user").json(&json!({ "name": "eve" })), "user.created"),
        (api(put.clone(), fresh).json(&json!({ "name": "zoe" })), "user.created"),
        (api(Method::PATCH, &object).json(&json!({ "email": "b@c" })), "user.changed"),
        (api(post.clone(), &format!("/users/{bob}/authentication-token")), "enrolment.issued"),
        (lab.enroll(&enrolment, "desk"), "session.enrolled"),
        (sign_out.bearer_auth(&laptop.token), "session.signed_out"),
        (
            api(post.clone(), &format!("{}/re-authenticate", phone.path())),
            "session.re_authenticate",
        ),
        (api(post.clone(), &format!("{}/wipe", tablet.path())), "session.wiped"),
        (api(put.clone(), &member), "group.member_added"),
        (api(delete.clone(), &member), "group.member_removed"),
        (api(post.clone(), "/revocations").json(&revoke), "cut_off.set"),
        (admin(post.clone(), "/admin/revocations"), "cut_off.set"),
        (api(put, "/tasks/t").json(&task), "task.put"),
        (api(delete.clone(), "/tasks/t"), "task.deleted"),
        (api(post.clone(), &format!("/users/{bob}/lock")), "user.locked"),
        (api(post, &format!("/users/{bob}/unlock")), "user.unlocked"),
        (api(delete, &object), "user.deleted"),
    ]
}

async fn entries_after(lab: &Lab, after: i64) -> Vec<Value> {
    let path = format!("/admin/ledger?after={after}");
    let page = good(lab.bare(Method::GET, &path).bearer_auth(&lab.operator)).await;
    let entries = page["entries"].as_array().expect("a list").clone();
    // The pulse notes activity by itself, in entries of its own.
    entries.into_iter().filter(|entry| entry["kind"] != "activity.noted").collect()
}

async fn every_mutation_has_exactly_one_entry(lab: Lab) {
    for (request, kind) in mutations(&lab).await {
        let before = lab.head().await;
        let (status, body) = json_of(request).await;
        assert!(status.is_success(), "{kind}: {status} {body}");
        let entries = entries_after(&lab, before).await;
        let kinds: Vec<&str> = entries.iter().filter_map(|entry| entry["kind"].as_str()).collect();
        assert_eq!(kinds, [kind]);
    }
    verify(&lab).await;
}

async fn what_changes_nothing_has_no_entry(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let old = lab.sign_in("bob", "phone").await;
    lab.pass(Span::days(31));
    let young = lab.sign_in("ann", "tablet").await;
    lab.act(&format!("{}/wipe", phone.path())).await;
    lab.act(&format!("{}/re-authenticate", young.path())).await;
    lab.act(&format!("/users/{}/lock", young.user)).await;
    let before = lab.head().await;
    for path in [
        format!("{}/wipe", phone.path()),
        format!("{}/re-authenticate", phone.path()),
        format!("{}/re-authenticate", young.path()),
        format!("{}/re-authenticate", old.path()),
        format!("/users/{}/lock", young.user),
        format!("/users/{}/unlock", old.user),
    ] {
        lab.act(&path).await;
    }
    lab.set(json!({ "max_session_age": "30d" })).await;
    let path = format!("/objects/user/{}", old.user);
    good(lab.api(Method::PATCH, &path).json(&json!({ "name": "bob" }))).await;
    let refused = lab.api(Method::PATCH, &path).json(&json!({ "nick": "bob" }));
    assert_eq!(json_of(refused).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(entries_after(&lab, before).await, Vec::<Value>::new());
}

async fn an_app_sees_its_own_entries_and_who_did_it_and_why(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.operator_post("/admin/apps", json!({ "name": "till" })).await;
    lab.pass(Span::hours(1));
    let lock = lab.api(Method::POST, &format!("/users/{}/lock", phone.user));
    good(lock.json(&json!({ "reason": "left the company" }))).await;
    let page = lab.get(&format!("/ledger?user={}&limit=10", phone.user)).await;
    let kinds: Vec<String> =
        page["entries"].as_array().expect("a list").iter().map(|it| text(&it["kind"])).collect();
    assert_eq!(kinds, ["user.created", "enrolment.issued", "session.enrolled", "user.locked"]);
    let last = &page["entries"][3];
    assert_eq!(last["why"], "left the company");
    assert_eq!((&last["by"]["kind"], &last["by"]["name"]), (&json!("token"), &json!("a program")));
    assert_eq!(last["change"]["ended"][0]["session"], json!(phone.session));
    let since = lab.get("/ledger?since=2026-05-03T07:00:00Z").await;
    assert_eq!(since["entries"].as_array().map(Vec::len), Some(1));
    let all = lab.get("/ledger").await;
    let apps: Vec<&Value> =
        all["entries"].as_array().expect("a list").iter().map(|entry| &entry["app"]).collect();
    assert!(apps.iter().all(|app| **app == json!(lab.app)));
    let first = lab.get("/ledger?limit=2").await;
    assert_eq!(
        (&first["more"], first["entries"].as_array().map(Vec::len)),
        (&json!(true), Some(2))
    );
}

async fn verify(lab: &Lab) -> Value {
    let path = "/admin/ledger/verify?limit=7";
    let mut found = good(lab.bare(Method::GET, path).bearer_auth(&lab.operator)).await;
    while found["more"] == true {
        let path = format!("{path}&after={}", found["through"]);
        found = good(lab.bare(Method::GET, &path).bearer_auth(&lab.operator)).await;
    }
    assert_eq!(found["ok"], true, "{found}");
    assert_eq!(found["through"], found["head"]["seq"]);
    found
}

async fn the_chain_can_be_recomputed_by_anyone(lab: Lab) {
    use reauth_server::domain::{hex, unhex};
    lab.sign_in("ann", "phone").await;
    let page = good(lab.bare(Method::GET, "/admin/ledger").bearer_auth(&lab.operator)).await;
    let mut previous = [0_u8; 32];
    for (at, entry) in page["entries"].as_array().expect("a list").iter().enumerate() {
        assert_eq!(entry["seq"], json!(at + 1), "without a gap");
        let bytes = [previous.as_slice(), text(&entry["body"]).as_bytes()].concat();
        let hash = system_sha256(&bytes);
        assert_eq!(entry["hash"], json!(hex(&hash)));
        previous = unhex(&text(&entry["hash"])).expect("a hash");
    }
    assert_eq!(verify(&lab).await["head"]["hash"], json!(hex(&previous)));
}

/// The system's own SHA-256, so that the proof does not stand on our code.
fn system_sha256(bytes: &[u8]) -> [u8; 32] {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut command = Command::new("sha256sum");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("sha256sum runs");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("it reads");
    let done = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&done.stdout);
    reauth_server::domain::unhex(&text[..64]).expect("a hash")
}
