//! The client verbs against a real server, as an operator uses them.

use crate::{Kind, Shop, error_of, text};

#[test]
fn an_operator_does_a_days_work_with_the_verbs() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let shop = Shop::new(kind);
        let serving = shop.serve();
        let operator = |words: &[&str]| serving.json(&shop.operator, words);
        let made = ["app", "create", "Field", "--max-session-age", "12h", "--multiple-devices"];
        let app = text(&operator(&made)["id"]);
        operator(&["app", "set", &app, "--max-idle", "1h"]);
        let apps = operator(&["app", "list"]);
        assert_eq!(apps[0]["settings"]["max_idle"], "1h");
        let ann = text(&operator(&["user", "create", "--name", "Ann"])["id"]);
        let token = operator(&["token", "create", "backend", "--scope", "users:read"]);
        let secret = text(&token["token"]);
        let with_token = |words: &[&str]| {
            let all: Vec<&str> = ["--app", &app].iter().chain(words).copied().collect();
            serving.verb(&secret, &all)
        };
        assert!(with_token(&["user", "list"]).status.success());
        assert!(error_of(&with_token(&["user", "lock", &ann])).contains("users:write"));
        operator(&["token", "revoke", &text(&token["id"])]);
        assert!(error_of(&with_token(&["user", "list"])).contains("revoked"));
        operator(&["user", "lock", &ann, "--reason", "left"]);
        let users = operator(&["user", "list"]);
        assert_eq!(users[0]["locked"], true);
        operator(&["user", "unlock", &ann]);
        end_sessions(&serving, &shop.operator, &app, &ann);
        operator(&["group", "add", "contractors", &ann]);
        assert_eq!(operator(&["group", "list"])[0]["name"], "contractors");
        operator(&["revoke", "--group", "contractors", "--yes"]);
        let shown = operator(&["ledger", "show", "--user", &ann]);
        let kinds: Vec<String> =
            shown.as_array().expect("a list").iter().map(|entry| text(&entry["kind"])).collect();
        let wanted = [
            "user.created",
            "user.locked",
            "user.unlocked",
            "enrolment.issued",
            "session.enrolled",
            "enrolment.issued",
            "session.enrolled",
            "session.re_authenticate",
            "session.wiped",
            "group.member_added",
        ];
        assert_eq!(kinds, wanted);
        assert_eq!(operator(&["ledger", "show", "--since", "2026-01-01"])[0]["seq"], 1);
        operator(&["group", "remove", "contractors", &ann]);
        let tokens = operator(&["token", "list"]);
        assert_eq!(tokens[0]["name"], "backend");
        assert!(!tokens[0]["revoked_at"].is_null(), "{tokens}");
        assert_eq!(operator(&["ledger", "verify"])["ok"], true);
        assert_eq!(operator(&["doctor"])["ok"], true);
        let table = serving.verb(&shop.operator, &["app", "list"]);
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        assert!(table.contains("Field") && table.contains("12h"), "{table}");
    }
}

/// The main job by hand: two devices sign in, one must sign in again, one is wiped.
fn end_sessions(serving: &crate::Serving, token: &str, app: &str, user: &str) {
    let verb = |words: &[&str]| serving.json(token, words);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = reauth_sdk::Client::new(&serving.url, token).expect("a client");
    for device in ["phone", "tablet"] {
        let enrolment = reauth_sdk::Enrolment {
            authentication_token: text(&verb(&["user", "token", user])["token"]),
            device: reauth_sdk::DeviceId { id: device.to_owned() },
            label: None,
            container: None,
            runtime: None,
        };
        let made = runtime.block_on(reauth_sdk::Device::enroll(&client, app, &enrolment));
        made.expect("it is enrolled");
    }
    let sessions = || verb(&["session", "list", "--user", user]);
    let id = |at: usize| text(&sessions()[at]["id"]);
    let (tablet, phone) = (id(0), id(1));
    assert_eq!(verb(&["session", "list", "--older-than", "1d"]), serde_json::json!([]));
    verb(&["session", "re-authenticate", user, &phone, "--reason", "lent to a friend"]);
    verb(&["session", "wipe", user, &tablet, "--reason", "stolen"]);
    let all = verb(&["session", "list", "--user", user]);
    let states: Vec<String> =
        all.as_array().expect("a list").iter().map(|session| text(&session["state"])).collect();
    assert_eq!(states, ["RESET", "LOCKED"], "{all}");
}

#[test]
fn tasks_are_put_run_and_read_with_the_verbs() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    let operator = |words: &[&str]| serving.json(&shop.operator, words);
    operator(&["app", "create", "Field"]);
    let file = shop.dir.path().join("hello.ts");
    let source = "export async function run(params: { who?: string }) {
        console.log('hello', params.who); return { greeted: params.who } }";
    std::fs::write(&file, source).expect("a file");
    let file = file.display().to_string();
    let put =
        operator(&["task", "put", &file, "--schedule", "0 3 * * *", "--zone", "Europe/Vienna"]);
    assert_eq!(put["schedule"]["zone"], "Europe/Vienna");
    let run = operator(&["task", "run", "hello", "--params", "{\"who\":\"Ann\"}"]);
    assert_eq!(run["result"]["greeted"], "Ann", "{run}");
    let logs = serving.verb(&shop.operator, &["task", "logs", &text(&run["id"])]);
    assert!(String::from_utf8_lossy(&logs.stdout).contains("hello Ann"), "{logs:?}");
    assert_eq!(operator(&["task", "list"])[0]["name"], "hello");
    std::fs::write(&file, "export function run( {").expect("a file");
    let broken = serving.verb(&shop.operator, &["task", "put", &file]);
    assert!(error_of(&broken).contains("hello.ts:1:"), "{broken:?}");
    operator(&["task", "delete", "hello"]);
}

#[test]
fn what_goes_wrong_is_said_with_what_to_do() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    let error = error_of(&serving.verb(&shop.operator, &["user", "list"]));
    assert!(error.contains("app"), "no app to choose: {error}");
    let error = error_of(&serving.verb("reo_wrong", &["app", "list"]));
    assert!(error.contains("help: "), "{error}");
    drop(serving);
    let mut alone = crate::reauth();
    let alone = alone.args(["app", "list", "--url", "http://127.0.0.1:1", "--token", "x"]);
    let error = error_of(&alone.output().expect("it runs"));
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let usage = crate::reauth().args(["app", "crate"]).output().expect("it runs");
    assert_eq!(usage.status.code(), Some(2));
}
