//! The ledger: one entry for every change, none for what changes nothing, and no fault unseen.

use std::collections::BTreeSet;

use reauth_server::domain::{Span, devices};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, json_of, text};

both!(
    every_mutation_has_exactly_one_entry,
    activity_is_noted_in_one_entry_a_batch,
    what_changes_nothing_has_no_entry,
    an_app_sees_its_own_entries_and_who_did_it_and_why,
    the_chain_can_be_recomputed_by_anyone,
);

/// Method, path, body, and the kinds of the entries: one for each change that the operation is.
type Mutation = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// Every operation of the API that changes something, in an order in which each succeeds.
const MUTATIONS: &[Mutation] = &[
    ("post", "/admin/apps", r#"{"name":"till"}"#, &["app.created"]),
    ("patch", "/admin/apps/{app}", r#"{"name":"shop 2"}"#, &["app.changed"]),
    ("patch", "/admin/apps/{app}", r#"{"settings":{"max_idle":"9d"}}"#, &["limits.set"]),
    ("post", "/admin/apps/{app}/tokens", TOKEN, &["token.created"]),
    ("delete", "/admin/apps/{app}/tokens/{token}", "", &["token.revoked"]),
    ("post", "/admin/revocations", "{}", &["cut_off.set"]),
    ("post", "/api/v4/{app}/revocations", REVOCATION, &["cut_off.set"]),
    ("post", "/api/v4/{app}/revocations", FILTERED, &["revocation.set"]),
    ("post", "/api/v4/{app}/objects/user", r#"{"name":"eve"}"#, &["user.created"]),
    ("put", "/api/v4/{app}/objects/user/{user}", r#"{"name":"zoe"}"#, &["user.changed"]),
    ("put", NEW_USER, r#"{"name":"zoe"}"#, &["user.created"]),
    ("patch", "/api/v4/{app}/objects/user/{user}", r#"{"email":"b@c"}"#, &["user.changed"]),
    ("post", "/api/v4/{app}/batch", BATCH, &["user.created", "user.created"]),
    ("post", "/api/v4/{app}/users/{user}/authentication-token", "", &["enrolment.issued"]),
    ("post", "/device/{app}/enroll", ENROLMENT, &["session.enrolled"]),
    ("post", "/device/{app}/sign-out", "", &["session.signed_out"]),
    ("post", RE_AUTHENTICATE, "", &["session.re_authenticate"]),
    ("post", "/api/v4/{app}/users/{user}/sessions/{session}/wipe", "", &["session.wiped"]),
    ("put", MEMBER, "", &["group.member_added"]),
    ("delete", MEMBER, "", &["group.member_removed"]),
    ("put", "/api/v4/{app}/policies", POLICIES, &["policies.set"]),
    ("put", "/api/v4/{app}/tasks/{task}", TASK, &["task.put"]),
    ("post", "/api/v4/{app}/tasks/{task}/run", "", &["run.queued", "run.started", "run.ended"]),
    ("post", "/api/v4/{app}/runs/{run}/cancel", "", &["run.ended"]),
    ("post", "/api/v4/{app}/runs/{run}/retry", "", &["run.queued", "run.started", "run.ended"]),
    ("delete", "/api/v4/{app}/tasks/{task}", "", &["task.deleted"]),
    ("post", "/api/v4/{app}/users/{user}/lock", "", &["user.locked"]),
    ("post", "/api/v4/{app}/users/{user}/unlock", "", &["user.unlocked"]),
    ("put", NOT_AFTER, r#"{"not_after":"2027-01-01"}"#, &["user.not_after_set"]),
    ("delete", "/api/v4/{app}/objects/user/{user}", "", &["user.deleted"]),
];

/// A known device signs in again: the replaced session's end is part of the same entry.
const ENROLMENT: &str = r#"{"authentication_token":"{enrolment}","device":{"id":"phone"}}"#;
const OBJECT: &str = "/api/v4/{app}/objects/user/{user}";
const NEW_USER: &str = "/api/v4/{app}/objects/user/0190a000-0000-7000-8000-000000000003";
const RE_AUTHENTICATE: &str = "/api/v4/{app}/users/{user}/sessions/{session}/re-authenticate";
const NOT_AFTER: &str = "/api/v4/{app}/users/{user}/not-after";
const MEMBER: &str = "/api/v4/{app}/groups/{group}/members/{user}";
const POLICIES: &str = r#"{"policies":[
    {"name":"all","applies_to":{"everyone":true},"limits":{"max_age":"9d"}}]}"#;
const TOKEN: &str = r#"{"name":"n","scopes":["users:read"]}"#;
const REVOCATION: &str = r#"{"filter":{},"action":"re-authenticate"}"#;
const FILTERED: &str = r#"{"filter":{"platforms":["android"]},"action":"wipe"}"#;
const TASK: &str = r#"{"file":"t.js","source":"export function run() { return 1 }"}"#;
const BATCH: &str = r#"{"operations":[
    {"method":"post","object":{"type":"user","name":"one"}},
    {"method":"post","object":{"type":"user","name":"two"}}]}"#;

/// What has no entry of its own: activity is noted in batches, and a preview changes nothing.
const WITHOUT_ENTRY: [&str; 3] = [
    "post /device/{app}/connect",
    "post /api/v4/{app}/policies/preview",
    "post /api/v4/{app}/objects/user/query",
];

/// Kinds that no operation makes: the beginning, and what the server notes by itself.
const BY_ITSELF: [&str; 10] = [
    "runs.forgotten",
    "store.fenced",
    "revocation.done",
    "store.created",
    "activity.noted",
    "session.ended",
    "session.ending_soon",
    "sessions.forgotten",
    "limits.forgotten",
    "clock.jumped",
];

/// The request of a row, about a user with a device, as the operator or as the device.
async fn request(lab: &Lab, (method, path, body, _): Mutation) -> RequestBuilder {
    let name = format!("{method} {path} {body}");
    let phone = lab.sign_in(&name, "phone").await;
    let member = format!("/groups/g/members/{}", phone.user);
    match (method, path) {
        ("delete", MEMBER) => assert_eq!(json_of(lab.api(Method::PUT, &member)).await.0, 204),
        ("post", path) if path.ends_with("/unlock") => {
            lab.act(&format!("/users/{}/lock", phone.user)).await;
        }
        _ => {}
    }
    let tokens = format!("/admin/apps/{}/tokens", lab.app);
    let token = lab.operator_post(&tokens, serde_json::from_str(TOKEN).expect("JSON")).await;
    let run = match path.rsplit('/').next() {
        Some("cancel") => later(lab).await,
        Some("retry") => {
            let run = later(lab).await;
            good(lab.api(Method::POST, &format!("/runs/{run}/cancel"))).await;
            run
        }
        _ => String::new(),
    };
    let enrolment = match body {
        ENROLMENT => lab.authentication_token(&name).await,
        _ => String::new(),
    };
    let fill = |text: &str| {
        let text = text.replace("{app}", &lab.app).replace("{user}", &phone.user);
        let text = text.replace("{session}", &phone.session).replace("{group}", "g");
        let text = text.replace("{token}", self::text(&token["id"]).as_str());
        text.replace("{task}", "t").replace("{run}", &run).replace("{enrolment}", &enrolment)
    };
    let wait = if path.ends_with("/run") { "?wait=true" } else { "" };
    let method = method.to_uppercase().parse().expect("a method");
    let request = lab.bare(method, &format!("{}{wait}", fill(path)));
    let request = request.bearer_auth(match path {
        path if path.ends_with("/sign-out") => &phone.token,
        _ => &lab.operator,
    });
    request.header("content-type", "application/json").body(fill(body))
}

/// A run that waits for an hour.
async fn later(lab: &Lab) -> String {
    let wanted = serde_json::json!({ "after": "1h" });
    text(&lab.post("/tasks/t/run", wanted).await["id"])
}

#[test]
fn every_operation_that_changes_something_is_told() {
    let document: Value = serde_json::from_str(&reauth_server::openapi()).expect("JSON");
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let methods = operations.as_object().expect("operations").keys();
        documented.extend(methods.filter(|it| *it != "get").map(|it| format!("{it} {path}")));
    }
    let told = MUTATIONS.iter().map(|(method, path, ..)| {
        format!("{method} {}", if *path == NEW_USER { OBJECT } else { path })
    });
    let told: BTreeSet<String> = told.chain(WITHOUT_ENTRY.map(str::to_owned)).collect();
    assert_eq!(told, documented);
    let kinds = MUTATIONS.iter().flat_map(|(.., kinds)| kinds.iter().copied());
    let kinds: BTreeSet<&str> = kinds.chain(BY_ITSELF).collect();
    let guide = include_str!("../../../../docs/guide/ledger.md");
    let explained = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let explained: BTreeSet<&str> =
        explained.flat_map(|names| names.split('`').filter(|name| name.contains('.'))).collect();
    assert_eq!(kinds, explained, "the guide explains every kind");
}

async fn entries_after(lab: &Lab, after: i64) -> Vec<Value> {
    let path = format!("/admin/ledger?after={after}");
    let page = good(lab.bare(Method::GET, &path).bearer_auth(&lab.operator)).await;
    let entries = page["entries"].as_array().expect("a list").clone();
    // The pulse notes activity by itself, in entries of its own.
    entries
        .into_iter()
        .filter(|entry| !BY_ITSELF.iter().any(|kind| entry["kind"] == *kind))
        .collect()
}

async fn every_mutation_has_exactly_one_entry(lab: Lab) {
    for mutation in MUTATIONS {
        let request = request(&lab, *mutation).await;
        let before = lab.head().await;
        let (status, body) = json_of(request).await;
        let (method, path, _, wanted) = mutation;
        assert!(status.is_success(), "{method} {path}: {status} {body}");
        if path.ends_with("/retry") {
            lab.get(&format!("/runs/{}?wait=true", text(&body["id"]))).await;
        }
        let entries = entries_after(&lab, before).await;
        let kinds: Vec<&str> = entries.iter().filter_map(|entry| entry["kind"].as_str()).collect();
        assert_eq!(kinds, *wanted, "{method} {path}");
    }
    verify(&lab).await;
}

async fn activity_is_noted_in_one_entry_a_batch(lab: Lab) {
    let (phone, tablet) = (lab.sign_in("ann", "phone").await, lab.sign_in("ann", "tablet").await);
    let db = &lab.server().app().db;
    while devices::flush_activity(db).await.expect("it is written down") {}
    lab.pass(Span::minutes(5));
    phone.must_be_signed_in().await;
    assert_eq!(tablet.connect().await.0, StatusCode::OK);
    let before = lab.head().await;
    devices::flush_activity(db).await.expect("it is written down");
    let path = format!("/admin/ledger?after={before}");
    let page = good(lab.bare(Method::GET, &path).bearer_auth(&lab.operator)).await;
    let noted = page["entries"].as_array().expect("a list");
    assert_eq!(noted.len(), 1, "{page}");
    assert_eq!(noted[0]["kind"], "activity.noted");
    assert_eq!(noted[0]["change"]["sessions"], 2, "{page}");
    assert_eq!(tablet.view().await["last_connected_at"], "2026-05-03T06:17:00Z");
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
