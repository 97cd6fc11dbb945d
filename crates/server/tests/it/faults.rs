//! Bad input, limits, and what happens when something breaks: nothing half-done, never a pass.

use std::time::Duration;

use reauth_server::domain::ledger::By;
use reauth_server::domain::{Clock, Span};
use reauth_server::{Config, Server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::both;
use crate::lab::{Kind, Lab, beginning, child, good, json_of, refused};

both!(
    long_bodies_are_refused_and_slow_ones_cut_off,
    health_and_metrics_tell_the_truth,
    a_policy_that_cannot_be_read_lets_nobody_of_its_app_in,
    a_policy_that_is_no_longer_understood_is_told,
    a_revocation_that_cannot_be_read_is_everyones,
    tokens_end_by_expiry_and_by_revocation,
    a_second_server_on_the_same_tables_refuses_to_start,
    what_was_acknowledged_survives_a_restart,
    a_database_error_leaves_nothing_half_done,
    a_change_that_takes_long_is_no_sign_that_the_database_is_gone,
    a_jump_of_the_clock_that_cannot_be_written_is_told_later,
    a_reason_is_a_sentence_and_not_a_book,
);

async fn long_bodies_are_refused_and_slow_ones_cut_off(mut lab: Lab) {
    let long = "x".repeat((1 << 20) + 1);
    let request = lab.api(Method::POST, "/objects/user").body(long);
    refused(request, 413, "PAYLOAD_TOO_LARGE").await;
    lab.config.requests.read_timeout_ms = 200;
    lab.restart().await;
    let address = lab.server().app().address;
    let mut slow = tokio::net::TcpStream::connect(address).await.expect("a connection");
    slow.write_all(b"POST /admin/apps HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        .await
        .expect("it takes the head");
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 408");
    let mut silent = tokio::net::TcpStream::connect(address).await.expect("a connection");
    silent.write_all(b"GET /check HT").await.expect("it takes the start");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest));
    ended.await.expect("a client that says nothing is cut off").expect("the end");
}

async fn a_policy_that_cannot_be_read_lets_nobody_of_its_app_in(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let (token, path) = (phone.token.clone(), phone.path());
    drop(phone);
    let leaver = lab.sign_in("lea", "phone").await.user;
    let all = json!({ "name": "all", "applies_to": { "everyone": true },
        "limits": { "max_age": "9d" } });
    let set = json!({ "policies": [all] });
    good(lab.api(Method::PUT, "/policies").json(&set)).await;
    let other = lab.operator_post("/admin/apps", json!({ "name": "till" })).await;
    let other = other["id"].as_str().expect("an id").to_owned();
    lab.set(json!({ "max_session_age": "20d" })).await;
    let spoil = "update policies set body = '{\"name\":\"all\"}'";
    lab.behind_its_back([spoil, spoil]).await;
    lab.restart().await;
    let check = |lab: &Lab| lab.bare(Method::GET, "/check").bearer_auth(&token);
    assert_eq!(json_of(check(&lab)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    for path in [path.as_str(), "/policies", "/access-bound", "/users"] {
        let body = refused(lab.api(Method::GET, path), 503, "SERVICE_UNAVAILABLE").await;
        assert!(body["detail"].as_str().is_some_and(|why| why.contains("policy apply")), "{body}");
    }
    // Nobody is let in, but whoever leaves can be locked for good.
    let lock = lab.api(Method::POST, &format!("/users/{leaver}/lock"));
    assert!(lock.send().await.expect("an answer").status().is_success());
    let doctor = lab.operator_get("/admin/doctor").await;
    assert_eq!(doctor["ok"], false);
    assert!(doctor.to_string().contains("nobody is let in"), "{doctor}");
    // What the sweep cannot judge it does not forget, either; elsewhere it goes on.
    let limits = json!({ "settings": { "max_session_age": "40d" } });
    let change = lab.bare(Method::PATCH, &format!("/admin/apps/{other}"));
    good(change.bearer_auth(&lab.operator).json(&limits)).await;
    let before = lab.head().await;
    assert_eq!((lab.sweep().await, lab.sweep().await), (0, 0));
    assert_eq!(lab.head().await, before + 1);
    assert_eq!(forgotten(&lab).await, [json!(other)]);
    let revoke = json!({ "filter": { "device_id": "x" }, "action": "wipe" });
    let request = lab.bare(Method::POST, &format!("/api/v4/{other}/revocations"));
    good(request.bearer_auth(&lab.operator).json(&revoke)).await;
    lab.sweep().await;
    let page = lab.operator_get("/admin/ledger?limit=1000").await;
    assert!(page.to_string().contains("\"kind\":\"revocation.done\""), "{page}");
    let users = format!("/api/v4/{other}/users");
    good(lab.bare(Method::GET, &users).bearer_auth(&lab.operator)).await;
    // The same set, stated anew, mends it; whom it had ended nobody knows.
    good(lab.api(Method::PUT, "/policies").json(&set)).await;
    assert_eq!(json_of(check(&lab)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(lab.get(&path).await["ended_by"], "cut_off_app");
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
    let issue = lab.api(Method::POST, &format!("/users/{leaver}/authentication-token"));
    refused(issue.json(&json!({})), 409, "CONFLICT").await;
    assert_eq!(lab.operator_get("/admin/doctor").await["ok"], true);
    lab.sweep().await;
    assert_eq!(forgotten(&lab).await, [json!(other), json!(lab.app)]);
    let (db, now) = (lab.server().app().db.clone(), lab.clock.now());
    let rebuilt = db.rebuilt_picture(now).await.expect("the tables");
    assert_eq!(db.live().picture(now).expect("it is known").lines, rebuilt.lines);
    drop(db);
    lab.restart().await;
    assert_eq!(lab.get(&path).await["state"], "ENROLLED");
}

/// The apps whose old limits were forgotten.
async fn forgotten(lab: &Lab) -> Vec<Value> {
    let page = lab.operator_get("/admin/ledger?limit=1000").await;
    let entries = page["entries"].as_array().expect("a list").iter();
    let told = entries.filter(|entry| entry["kind"] == "limits.forgotten");
    told.map(|entry| entry["app"].clone()).collect()
}

/// Whom it was about nobody knows: everyone of the app signs in again, by a proof from after it.
async fn a_revocation_that_cannot_be_read_is_everyones(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await.path();
    let [used, kept] =
        [lab.authentication_token("bob").await, lab.authentication_token("bob").await];
    // A minute after the beginning.
    let spoiled = "insert into revocations (app_id, set_at, body)
                   select id, 1777788780000000, '{\"filter\":7}' from apps";
    lab.behind_its_back([spoiled, spoiled]).await;
    lab.pass(Span::minutes(2));
    for token in [used, kept] {
        lab.restart().await;
        let doctor = lab.operator_get("/admin/doctor").await.to_string();
        assert!(doctor.contains("the revocation of 2026-05-03T06:13:00Z"), "{doctor}");
        assert_eq!(lab.get(&phone).await["ended_by"], "re_authenticate");
        refused(lab.enroll(&token, "phone"), 401, "AUTHENTICATION_FAILED").await;
        lab.sweep().await;
    }
    lab.pass(Span::seconds(1));
    lab.sign_in("ann", "phone").await.must_be_signed_in().await;
}

async fn a_policy_that_is_no_longer_understood_is_told(mut lab: Lab) {
    let set = |zone: &str| {
        let limits = json!({ "daily_at": "05:00", "zone": zone });
        json!({ "policies": [{ "name": "all", "applies_to": { "everyone": true },
            "limits": limits }] })
    };
    good(lab.api(Method::PUT, "/policies").json(&set("UTC"))).await;
    good(lab.api(Method::PUT, "/policies").json(&set("Europe/Vienna"))).await;
    // A zone that an upgrade does not know any more; and a version that holds no longer.
    let zone = "update policies set body = replace(body, 'Europe/Vienna', 'Europe/Wien')";
    let old = "update policies set body = '{}' where until_at is not null";
    for (spoil, is_shown) in [(zone, false), (old, true)] {
        let phone = lab.sign_in("ann", "phone").await;
        let (user, session, token) =
            (phone.user.clone(), phone.session.clone(), phone.token.clone());
        drop(phone);
        lab.behind_its_back([spoil, spoil]).await;
        lab.restart().await;
        let enrolled = json!({ "user_id": user, "session_id": session, "session_token": token });
        let phone = lab.device(&enrolled);
        assert_eq!(phone.check().await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(phone.connect().await.0, StatusCode::SERVICE_UNAVAILABLE);
        let doctor = lab.operator_get("/admin/doctor").await;
        assert_eq!(doctor["ok"], false, "{doctor}");
        assert!(doctor.to_string().contains("nobody is let in"), "{doctor}");
        // A set that can be read is shown: stated again, it mends the app.
        let (status, body) = json_of(lab.api(Method::GET, "/policies")).await;
        assert_eq!(status.is_success(), is_shown, "{status}: {body}");
        good(lab.api(Method::PUT, "/policies").json(&set("Europe/Vienna"))).await;
        phone.must_sign_in_again("LOCKED", "cut_off_app").await;
        assert_eq!(lab.operator_get("/admin/doctor").await["ok"], true);
        good(lab.api(Method::PUT, "/policies").json(&set("UTC"))).await;
        good(lab.api(Method::PUT, "/policies").json(&set("Europe/Vienna"))).await;
    }
}

async fn health_and_metrics_tell_the_truth(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    phone.must_be_signed_in().await;
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(json_of(lab.bare(Method::GET, path)).await.0, StatusCode::OK);
    }
    let metrics = lab.bare(Method::GET, "/metrics").send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    for line in ["reauth_sessions 1", "reauth_users 1", "reauth_checks_valid_total 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let doctor = lab.bare(Method::GET, "/admin/doctor").bearer_auth(&lab.operator);
    let doctor = good(doctor).await;
    assert_eq!(doctor["ok"], true, "{doctor}");
    lab.set(json!({ "max_session_age": null })).await;
    let doctor = lab.bare(Method::GET, "/admin/doctor").bearer_auth(&lab.operator);
    let doctor = good(doctor).await;
    let findings = doctor["findings"].as_array().expect("findings");
    let app = findings.iter().find(|finding| finding["check"] == "access bound").expect("the app");
    assert_eq!(app["level"], "warning", "{app}");
}

async fn tokens_end_by_expiry_and_by_revocation(lab: Lab) {
    let path = format!("/admin/apps/{}/tokens", lab.app);
    let wanted = json!({ "name": "short", "scopes": ["users:read"], "expires_in": "1h" });
    let short = lab.operator_post(&path, wanted.clone()).await;
    let long = lab.operator_post(&path, json!({ "name": "long", "scopes": ["users:read"] })).await;
    let users = format!("/api/v4/{}/users", lab.app);
    let get = |token: &serde_json::Value| {
        lab.bare(Method::GET, &users).bearer_auth(token["token"].as_str().expect("a token"))
    };
    good(get(&short)).await;
    lab.pass(Span::hours(1));
    refused(get(&short), 401, "AUTHENTICATION_FAILED").await;
    good(get(&long)).await;
    let revoke = format!("{path}/{}", long["id"].as_str().expect("an id"));
    for _ in 0..2 {
        let request = lab.bare(Method::DELETE, &revoke).bearer_auth(&lab.operator);
        assert_eq!(json_of(request).await.0, StatusCode::NO_CONTENT);
    }
    refused(get(&long), 401, "AUTHENTICATION_FAILED").await;
    for wrong in [json!(["users:all"]), json!([]), json!(["operator"])] {
        let body = json!({ "name": "x", "scopes": wrong });
        let request = lab.bare(Method::POST, &path).bearer_auth(&lab.operator).json(&body);
        assert_eq!(refused(request, 422, "INVALID_VALUE").await["field"], "scopes");
    }
}

async fn a_second_server_on_the_same_tables_refuses_to_start(lab: Lab) {
    let clock = Clock::manual(beginning());
    let second = Server::start(lab.config.clone(), clock, child()).await;
    let Err(why) = second else { panic!("two servers must not write to the same tables") };
    assert!(why.contains("another server") && !why.contains('\n'), "{why}");
}

async fn what_was_acknowledged_survives_a_restart(mut lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    lab.act(&format!("{}/wipe", phone.path())).await;
    let path = phone.path();
    drop(phone);
    lab.restart().await;
    assert_eq!(lab.get(&path).await["state"], "RESET");
}

/// A table that breaks in the middle of a change, in the words of each database.
const BREAK: [&str; 2] = [
    "create trigger broken before insert on ledger
     begin select raise(abort, 'the disk is broken'); end",
    "create function broken() returns trigger language plpgsql as
     'begin raise exception $$the disk is broken$$; end';
     create trigger broken before insert on ledger execute function broken()",
];
const MEND: [&str; 2] = ["drop trigger broken", "drop trigger broken on ledger"];

async fn a_database_error_leaves_nothing_half_done(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let tablet = lab.sign_in("ann", "tablet").await;
    let head = lab.head().await;
    lab.behind_its_back(BREAK).await;
    for path in [
        format!("{}/re-authenticate", phone.path()),
        format!("{}/wipe", phone.path()),
        format!("/users/{}/lock", phone.user),
    ] {
        let (status, body) = json_of(lab.api(Method::POST, &path)).await;
        assert!(status.is_server_error(), "{status}: {body}");
        assert!(!body.to_string().contains("the disk"), "inner words stay inside: {body}");
    }
    lab.behind_its_back(MEND).await;
    assert_eq!(lab.head().await, head);
    phone.must_be_signed_in().await;
    assert_eq!(lab.get(&format!("/users/{}", phone.user)).await["locked"], false);
    lab.act(&format!("/users/{}/lock", phone.user)).await;
    phone.must_sign_in_again("LOCKED", "user_locked").await;
    tablet.must_sign_in_again("LOCKED", "user_locked").await;
}

async fn a_change_that_takes_long_is_no_sign_that_the_database_is_gone(lab: Lab) {
    let phone = lab.sign_in("ann", "phone").await;
    let db = lab.server().app().db.clone();
    let long = db.write(By::System).await.expect("it begins");
    db.pulse().await.expect("the database answers a reader");
    phone.must_be_signed_in().await;
    drop(long);
    db.pulse().await.expect("it is the writer's turn again");
}

async fn a_jump_of_the_clock_that_cannot_be_written_is_told_later(lab: Lab) {
    let jumps = async || {
        let page = lab.operator_get("/admin/ledger?limit=1000").await;
        let entries = page["entries"].as_array().expect("a list").iter();
        entries.filter(|entry| entry["kind"] == "clock.jumped").count()
    };
    let db = lab.server().app().db.clone();
    db.note_jump().await.expect("nothing stands in the way");
    let before = jumps().await;
    lab.behind_its_back(BREAK).await;
    lab.clock.set(lab.clock.now() + Span::hours(3));
    // The pulse tries it, too.
    let _ = db.note_jump().await;
    lab.behind_its_back(MEND).await;
    db.note_jump().await.expect("it is noted");
    assert_eq!(jumps().await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_said_and_mended() {
    let lab = Lab::new(Kind::Postgres).await;
    let phone = lab.sign_in("ann", "phone").await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    lab.behind_its_back(["", cut]).await;
    let path = format!("{}/re-authenticate", phone.path());
    let (status, body) = json_of(lab.api(Method::POST, &path)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    // Until it has looked at the tables again, it knows nothing.
    assert_eq!(phone.check().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    lab.server().app().db.pulse().await.expect("a new connection");
    phone.must_be_signed_in().await;
    lab.act(&path).await;
    phone.must_sign_in_again("LOCKED", "re_authenticate").await;
}

async fn a_reason_is_a_sentence_and_not_a_book(lab: Lab) {
    let user = lab.user("ann").await;
    let lock = lab.api(Method::POST, &format!("/users/{user}/lock"));
    let book = lock.json(&json!({ "reason": "x".repeat(1_001) }));
    assert_eq!(refused(book, 422, "INVALID_VALUE").await["field"], "reason");
    assert_eq!(lab.get(&format!("/users/{user}")).await["locked"], false);
}

#[tokio::test]
async fn a_store_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut lab = Lab::new(Kind::Sqlite).await;
    let mode =
        |path: &std::path::Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&lab.data()), 0o700);
    for file in std::fs::read_dir(lab.data()).expect("files").flatten() {
        assert_eq!(mode(&file.path()), 0o600, "{:?}", file.path());
    }
    lab.stop().await;
    for (path, loose, tight) in
        [(lab.data(), 0o755, 0o700), (lab.data().join("reauth.sqlite"), 0o644, 0o600)]
    {
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        set(loose).expect("chmod");
        let started = Server::start(lab.config.clone(), lab.clock.clone(), child()).await;
        let Err(why) = started else { panic!("{path:?} is readable by others") };
        assert!(why.contains("chmod"), "{why}");
        set(tight).expect("chmod");
    }
    lab.restart_after_stop().await;
}

#[tokio::test]
async fn a_store_without_an_operator_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data: dir.path().join("data"),
        ..Config::default()
    };
    let started = Server::start(config.clone(), Clock::system(), child()).await;
    let Err(why) = started else { panic!("nobody could sign in to it") };
    assert!(why.contains("reauth init"), "{why}");
    reauth_server::init(&config, Clock::system()).await.expect("init");
    let again = reauth_server::init(&config, Clock::system()).await;
    assert!(again.expect_err("the token is shown once").contains("already"));
}
