//! Who may do what: a row for every operation, and every operation has a row.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    every_operation_is_for_those_with_its_scope_only,
    a_batch_deletes_only_for_those_who_may_end_sessions,
    a_device_operation_needs_the_devices_own_secret,
);

/// Method, path, the scopes that are needed together. `operator` is no scope of an app.
const ROWS: &[(&str, &str, &[&str])] = &[
    ("get", "/api/v4/{app}/users", &["users:read"]),
    ("get", "/api/v4/{app}/users/{user}", &["users:read"]),
    ("get", "/api/v4/{app}/users/{user}/sessions/{session}", &["users:read"]),
    ("post", "/api/v4/{app}/users/{user}/lock", &["users:write", "sessions:end"]),
    ("post", "/api/v4/{app}/users/{user}/unlock", &["users:write"]),
    ("put", "/api/v4/{app}/users/{user}/not-after", &["users:write", "sessions:end"]),
    ("post", "/api/v4/{app}/users/{user}/sessions/{session}/wipe", &["sessions:end"]),
    ("post", "/api/v4/{app}/users/{user}/sessions/{session}/re-authenticate", &["sessions:end"]),
    ("post", "/api/v4/{app}/users/{user}/authentication-token", &["users:write"]),
    ("get", "/api/v4/{app}/objects/user", &["users:read"]),
    ("post", "/api/v4/{app}/objects/user", &["users:write"]),
    ("post", "/api/v4/{app}/objects/user/query", &["users:read"]),
    ("get", "/api/v4/{app}/objects/user/{user}", &["users:read"]),
    ("patch", "/api/v4/{app}/objects/user/{user}", &["users:write"]),
    ("put", "/api/v4/{app}/objects/user/{user}", &["users:write"]),
    ("delete", "/api/v4/{app}/objects/user/{user}", &["users:write", "sessions:end"]),
    ("post", "/api/v4/{app}/batch", &["users:write"]),
    ("get", "/api/v4/{app}/datamodel", &["users:read"]),
    ("get", "/api/v4/{app}/info", &["users:read"]),
    ("get", "/api/v4/{app}/groups", &["users:read"]),
    ("get", "/api/v4/{app}/groups/{group}/members", &["users:read"]),
    ("put", "/api/v4/{app}/groups/{group}/members/{user}", &["users:write"]),
    ("delete", "/api/v4/{app}/groups/{group}/members/{user}", &["users:write"]),
    ("post", "/api/v4/{app}/revocations", &["sessions:end"]),
    ("get", "/api/v4/{app}/revocations/previews/{preview}", &["users:read"]),
    ("get", "/api/v4/{app}/policies", &["users:read"]),
    ("put", "/api/v4/{app}/policies", &["app:admin"]),
    ("post", "/api/v4/{app}/policies/preview", &["users:read"]),
    ("get", "/api/v4/{app}/sessions/{session}/explain", &["users:read"]),
    ("get", "/api/v4/{app}/users/{user}/access-bound", &["users:read"]),
    ("get", "/api/v4/{app}/access-bound", &["users:read"]),
    ("get", "/api/v4/{app}/ledger", &["ledger:read"]),
    ("get", "/api/v4/{app}/tasks", &["tasks:read"]),
    ("get", "/api/v4/{app}/tasks/{task}", &["tasks:read"]),
    ("put", "/api/v4/{app}/tasks/{task}", &["tasks:write"]),
    ("delete", "/api/v4/{app}/tasks/{task}", &["tasks:write"]),
    ("post", "/api/v4/{app}/tasks/{task}/run", &["tasks:run"]),
    ("get", "/api/v4/{app}/tasks/{task}/runs", &["tasks:read"]),
    ("get", "/api/v4/{app}/runs", &["tasks:read"]),
    ("get", "/api/v4/{app}/runs/{run}", &["tasks:read"]),
    ("post", "/api/v4/{app}/runs/{run}/cancel", &["tasks:run"]),
    ("post", "/api/v4/{app}/runs/{run}/retry", &["tasks:run"]),
    ("get", "/admin/apps", &["operator"]),
    ("post", "/admin/apps", &["operator"]),
    ("get", "/admin/apps/{app}", &["app:admin"]),
    ("patch", "/admin/apps/{app}", &["app:admin"]),
    ("get", "/admin/apps/{app}/tokens", &["app:admin"]),
    ("post", "/admin/apps/{app}/tokens", &["app:admin"]),
    ("delete", "/admin/apps/{app}/tokens/{token}", &["app:admin"]),
    ("post", "/admin/revocations", &["operator"]),
    ("get", "/admin/ledger", &["operator"]),
    ("get", "/admin/ledger/verify", &["operator"]),
    ("get", "/admin/doctor", &["operator"]),
];

/// Open to everyone, or proven by the device's own secret: see `devices` and `check`.
const WITHOUT_API_TOKEN: &[(&str, &str)] = &[
    ("get", "/check"),
    ("post", "/device/{app}/enroll"),
    ("post", "/device/{app}/connect"),
    ("post", "/device/{app}/sign-out"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/metrics"),
];

const SCOPES: [&str; 7] = [
    "users:read",
    "users:write",
    "sessions:end",
    "ledger:read",
    "tasks:read",
    "tasks:write",
    "tasks:run",
];

#[test]
fn every_operation_has_a_row() {
    let document: Value = serde_json::from_str(&reauth_server::openapi()).expect("JSON");
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            documented.insert((method.clone(), path.clone()));
        }
    }
    let rows = ROWS.iter().map(|(method, path, _)| (*method, *path));
    let rows = rows.chain(WITHOUT_API_TOKEN.iter().copied());
    let rows: BTreeSet<_> = rows.map(|(m, p)| (m.to_owned(), p.to_owned())).collect();
    assert_eq!(rows, documented);
}

/// Targets that exist, so that only the permission decides.
struct Targets {
    user: String,
    session: String,
    token: String,
}

async fn targets(lab: &Lab) -> Targets {
    let phone = lab.sign_in(&format!("user {}", lab.head().await), "phone").await;
    let path = format!("/admin/apps/{}/tokens", lab.app);
    let token = lab.operator_post(&path, json!({ "name": "x", "scopes": ["users:read"] })).await;
    let task = json!({ "file": "t.js", "source": "export function run() {}" });
    good(lab.api(Method::PUT, "/tasks/t").json(&task)).await;
    Targets { user: phone.user.clone(), session: phone.session.clone(), token: text(&token["id"]) }
}

fn request(lab: &Lab, row: (&str, &str), to: &Targets, app: &str) -> RequestBuilder {
    let (method, path) = row;
    let path = path
        .replace("{app}", app)
        .replace("{user}", &to.user)
        .replace("{session}", &to.session)
        .replace("{token}", &to.token)
        .replace("{group}", "g")
        .replace("{task}", "t")
        .replace("{preview}", "00000000-0000-7000-8000-000000000000")
        .replace("{run}", "00000000-0000-7000-8000-000000000000");
    let body = match (method, path.rsplit('/').next().unwrap_or_default()) {
        ("post", "batch") => json!({ "operations": [] }),
        ("post", "revocations") if path.starts_with("/api") => {
            json!({ "filter": { "group": "nobody" }, "action": "re-authenticate" })
        }
        ("put", "policies") | ("post", "preview") => json!({ "policies": [] }),
        ("put", "not-after") => json!({ "not_after": null }),
        ("post", "apps") => json!({ "name": "another" }),
        ("post", "tokens") => json!({ "name": "another", "scopes": ["users:read"] }),
        ("put", "t") => json!({ "file": "t.js", "source": "export function run() {}" }),
        ("patch" | "put" | "post", _) => json!({}),
        _ => return lab.bare(method.to_uppercase().parse().expect("a method"), &path),
    };
    lab.bare(method.to_uppercase().parse().expect("a method"), &path).json(&body)
}

async fn every_operation_is_for_those_with_its_scope_only(lab: Lab) {
    let other = text(&lab.operator_post("/admin/apps", json!({ "name": "other" })).await["id"]);
    let path = format!("/admin/apps/{other}/tokens");
    let wanted = json!({ "name": "a stranger", "scopes": ["app:admin"] });
    let stranger = text(&lab.operator_post(&path, wanted).await["token"]);
    for &(method, path, scopes) in ROWS {
        let to = targets(&lab).await;
        let make = || request(&lab, (method, path), &to, &lab.app);
        let row = format!("{method} {path}");
        refused(make(), 401, "AUTHENTICATION_FAILED").await;
        let foreign = if path.contains("{app}") {
            (401, "AUTHENTICATION_FAILED")
        } else {
            (403, "PERMISSION_DENIED")
        };
        refused(make().bearer_auth(&stranger), foreign.0, foreign.1).await;
        // All scopes but one of those that are needed.
        for missing in scopes {
            // Who runs tasks may read what became of a run.
            let other = if path.ends_with("/runs/{run}") { "tasks:run" } else { "" };
            let is_other = |scope: &&str| scope != missing && *scope != other;
            let rest: Vec<&str> = SCOPES.into_iter().filter(is_other).collect();
            let token = lab.token(&rest).await;
            let body = refused(make().bearer_auth(&token), 403, "PERMISSION_DENIED").await;
            assert!(text(&body["detail"]).contains(missing), "{row}: {body}");
        }
        let right = match scopes {
            ["operator"] => {
                refused(make().bearer_auth(&lab.admin), 403, "PERMISSION_DENIED").await;
                lab.operator.clone()
            }
            scopes => lab.token(scopes).await,
        };
        let (status, body) = json_of(make().bearer_auth(&right)).await;
        let is_nobodys = path.contains("{run}") || path.contains("{preview}");
        let is_through = status.is_success() || (status == StatusCode::NOT_FOUND && is_nobodys);
        assert!(is_through, "{row}: {status} {body}");
    }
}

async fn a_batch_deletes_only_for_those_who_may_end_sessions(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let object = json!({ "type": "user", "id": phone.user });
    let batch = json!({ "operations": [{ "method": "delete", "object": object }] });
    let writer = lab.token(&["users:write"]).await;
    let path = format!("/api/v4/{}/batch", lab.app);
    let request = lab.bare(Method::POST, &path).json(&batch);
    let (_, body) = json_of(request.bearer_auth(&writer)).await;
    assert!(!body.to_string().contains("\"success\":true"), "{body}");
    phone.must_be_signed_in().await;
}

async fn a_device_operation_needs_the_devices_own_secret(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    for verb in ["connect", "sign-out"] {
        let path = format!("/device/{}/{verb}", lab.app);
        let request = || lab.bare(Method::POST, &path);
        refused(request(), 401, "AUTHENTICATION_FAILED").await;
        for wrong in [&lab.admin, &lab.operator, "res_0"] {
            refused(request().bearer_auth(wrong), 401, "SIGN_IN_AGAIN").await;
        }
    }
    for wrong in [lab.admin.as_str(), &phone.token, ""] {
        refused(lab.enroll(wrong, "tablet"), 401, "AUTHENTICATION_FAILED").await;
    }
    phone.must_be_signed_in().await;
}
