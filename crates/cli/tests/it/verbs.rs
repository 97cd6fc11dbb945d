//! The client verbs against a real server, as an operator uses them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use crate::{Kind, Serving, Shop, error_of, reauth, text};

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
        assert_eq!(operator(&["group", "members", "contractors"])[0]["id"], ann);
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
            "enrolment.issued",
            "session.enrolled",
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

#[test]
fn an_operator_keeps_the_policies_in_a_file() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    let operator = |words: &[&str]| serving.json(&shop.operator, words);
    let plain = |words: &[&str]| {
        let output = serving.verb(&shop.operator, words);
        assert!(output.status.success(), "{words:?}: {}", error_of(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let app = text(&operator(&["app", "create", "Field", "--multiple-devices"])["id"]);
    let ann = text(&operator(&["user", "create", "--name", "Ann"])["id"]);
    operator(&["group", "add", "contractors", &ann]);
    end_sessions(&serving, &shop.operator, &app, &ann);
    let (phone, _) = sign_in(&serving, &shop.operator, &app, &ann, "phone");

    let file = shop.path("policies.toml");
    let rules = "[[policy]]\nname = \"contractors\"\napplies_to = { groups = [\"contractors\"] }\n\
                 limits = { max_age = \"12h\" }\n";
    std::fs::write(&file, rules).expect("a file");
    assert_eq!(
        plain(&["policy", "diff", &file]),
        "+ contractors: groups contractors: max_age 12h\n"
    );
    let chart = shop.path("forecast.png");
    let shown = plain(&["policy", "preview", &file, "--chart", &chart]);
    assert!(shown.contains("Signed out at once: 0 of 1 sessions (0 of 1 users)"), "{shown}");
    assert!(shown.contains("179 with these policies"), "every 12 hours until day 90: {shown}");
    assert!(std::fs::metadata(&chart).expect("a picture").len() > 1_000);
    let changed = operator(&["policy", "apply", &file, "--reason", "audit"]);
    assert_eq!(changed["added"][0]["name"], "contractors");
    assert_eq!(plain(&["policy", "apply", &file]), "nothing changes\n");
    assert_eq!(operator(&["policy", "list"])[0]["limits"]["max_age"], "12h");
    std::fs::write(&file, plain(&["policy", "export"])).expect("a file");
    assert_eq!(plain(&["policy", "diff", &file]), "nothing changes\n");

    let why = plain(&["session", "explain", &phone]);
    assert!(why.contains("max_session_age") && why.contains("groups     contractors\n"), "{why}");
    let bound = operator(&["user", "access-bound", &ann]);
    assert_eq!(bound["items"][0]["id"], phone);
    assert!(bound["ends_by"].is_string(), "{bound}");
    let worst = operator(&["user", "access-bound"]);
    assert_eq!(worst[0]["user"], ann);
    assert_eq!(worst[0]["ends_by"], bound["ends_by"]);

    revoke_what_was_seen(&serving, &shop.operator);
    assert!(plain(&["session", "explain", &phone]).contains("wiped"));

    operator(&["user", "not-after", &ann, "2026-12-01", "--reason", "contract"]);
    let dated = plain(&["user", "access-bound", &ann]);
    assert!(dated.starts_with("access was granted until 2026-12-01"), "{dated}");
    operator(&["user", "not-after", &ann, "none"]);

    std::fs::write(&file, rules.replace("[\"contractors\"]", "[\"contracters\"]")).expect("a file");
    let misspelt = serving.verb(&shop.operator, &["policy", "apply", &file]);
    let said = String::from_utf8_lossy(&misspelt.stderr).into_owned();
    assert!(said.contains("Nobody is in the group contracters"), "{said}");
    std::fs::write(&file, rules.replace("max_age", "max_ages")).expect("a file");
    let wrong = error_of(&serving.verb(&shop.operator, &["policy", "apply", &file]));
    assert!(wrong.contains("max_ages") && wrong.contains("policies.toml"), "{wrong}");
    let off = ["app", "set", &app, "--max-session-age", "none"];
    assert!(error_of(&serving.verb(&shop.operator, &off)).contains("allow_endless"));
    operator(&[off.as_slice(), &["--allow-endless"]].concat());
    std::fs::write(&file, "").expect("a file");
    let endless = error_of(&serving.verb(&shop.operator, &["policy", "apply", &file]));
    assert!(endless.contains("allow_endless"), "{endless}");
    operator(&["policy", "apply", &file, "--allow-endless"]);
    assert_eq!(operator(&["policy", "list"]), serde_json::json!([]));
}

/// By a filter: looked at first, then named.
fn revoke_what_was_seen(serving: &crate::Serving, token: &str) {
    let operator = |words: &[&str]| serving.json(token, words);
    let elsewhere = ["revoke", "--group", "contractors", "--ip", "203.0.113.0/24", "--dry-run"];
    assert_eq!(operator(&elsewhere)["sessions"], 0);
    assert_eq!(operator(&["revoke", "--ip", "127.0.0.1", "--dry-run"])["sessions"], 1);
    for (filter, wanted) in [
        (&["--attribute", "name=Ann"][..], 1),
        (&["--attribute", "name=Bob"], 0),
        (&["--group", "contractors", "--group", "others"], 1),
        (&["--method", "otp"], 0),
        (&["--assurance", "aal3", "--attribute", "name=Ann"], 0),
    ] {
        let seen = operator(&[&["revoke", "--dry-run"], filter].concat());
        assert_eq!(seen["sessions"], wanted, "{filter:?}");
    }
    let app = text(&operator(&["app", "list"])[0]["id"]);
    operator(&["app", "set", &app, "--unseen-sessions-max", "0"]);
    let unseen = error_of(&serving.verb(token, &["revoke", "--group", "contractors"]));
    assert!(unseen.contains("settings allow unseen"), "{unseen}");
    operator(&["app", "set", &app, "--unseen-sessions-max", "none"]);
    let dry = ["revoke", "--group", "contractors", "--device", "phone", "--dry-run"];
    let seen = operator(&dry);
    assert_eq!(seen["sessions"], 1);
    let shown = String::from_utf8_lossy(&serving.verb(token, &dry).stdout).into_owned();
    assert!(shown.contains("name it with --expect "), "{shown}");
    let other = ["revoke", "--platform", "ios", "--expect", &text(&seen["preview_id"])];
    let why = error_of(&serving.verb(token, &other));
    assert!(why.contains("another filter"), "{why}");
    let wipe = ["revoke", "--group", "contractors", "--device", "phone", "--wipe"];
    let id = text(&operator(&[&wipe[..], &["--dry-run"]].concat())["preview_id"]);
    let wipe = [&wipe[..], &["--expect", &id, "--tolerance", "0"]].concat();
    assert_eq!(operator(&wipe)["users"], 1);
}

/// The main job by hand: two devices sign in, one must sign in again, one is wiped.
fn end_sessions(serving: &crate::Serving, token: &str, app: &str, user: &str) {
    let verb = |words: &[&str]| serving.json(token, words);
    for device in ["phone", "tablet"] {
        sign_in(serving, token, app, user, device);
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
    sign_in(serving, token, app, user, "laptop");
    verb(&["revoke", "--everyone", "--yes", "--reason", "a leak"]);
    let all = verb(&["session", "list", "--user", user]);
    let ended = all.as_array().expect("a list").iter();
    let mut ended = ended.map(|session| text(&session["ended_by"]));
    assert!(ended.any(|because| because == "cut_off_everyone"), "{all}");
    assert!(!all.to_string().contains("ENROLLED"), "{all}");
}

/// A device signs in; answers the session's id and token.
pub(crate) fn sign_in(
    serving: &crate::Serving,
    token: &str,
    app: &str,
    user: &str,
    device: &str,
) -> (String, String) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = reauth_sdk::Client::new(&serving.url, token).expect("a client");
    let issued = serving.json(token, &["user", "token", user]);
    let enrolment = reauth_sdk::Enrolment {
        authentication_token: text(&issued["token"]),
        device: reauth_sdk::DeviceId { id: device.to_owned() },
        label: None,
        container: None,
        runtime: None,
    };
    let made = runtime.block_on(reauth_sdk::Device::enroll(&client, app, &enrolment));
    let (_, made) = made.expect("it is enrolled");
    (made.session_id, made.session_token)
}

#[test]
fn tasks_are_put_run_and_read_with_the_verbs() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    let operator = |words: &[&str]| serving.json(&shop.operator, words);
    operator(&["app", "create", "Field"]);
    let file = shop.path("hello.ts");
    let source = "export async function run(params: { who?: string }) {
        console.log('hello', params.who); return { greeted: params.who } }";
    std::fs::write(&file, source).expect("a file");
    let put =
        operator(&["task", "put", &file, "--schedule", "0 3 * * *", "--zone", "Europe/Vienna"]);
    assert_eq!(put["schedule"]["zone"], "Europe/Vienna");
    let run = operator(&["task", "run", "hello", "--params", "{\"who\":\"Ann\"}"]);
    assert_eq!(run["result"]["greeted"], "Ann", "{run}");
    let logs = serving.verb(&shop.operator, &["task", "logs", &text(&run["id"])]);
    assert!(String::from_utf8_lossy(&logs.stdout).contains("hello Ann"), "{logs:?}");
    assert_eq!(operator(&["task", "list"])[0]["name"], "hello");
    logs_say_why_the_run_that_began_last_failed(&shop, &serving);
    std::fs::write(&file, "export function run( {").expect("a file");
    let broken = serving.verb(&shop.operator, &["task", "put", &file]);
    assert!(error_of(&broken).contains("hello.ts:1:"), "{broken:?}");
    operator(&["task", "delete", "hello"]);
}

/// Not the one that waits for tomorrow, although it is due later.
fn logs_say_why_the_run_that_began_last_failed(shop: &Shop, serving: &Serving) {
    let operator = |words: &[&str]| serving.json(&shop.operator, words);
    let file = shop.path("late.ts");
    let source = "type Params = { fails: boolean };
export async function run({ fails }: Params) {
    console.log('late began');
    if (fails) throw new RangeError('no such day');
    for (let day = 1; day <= 60; day += 1) {
        await CloudCode.scheduleTask({ task: 'late', parameters: { fails }, after: `${day}d` });
    }
}";
    std::fs::write(&file, source).expect("a file");
    operator(&["task", "put", &file, "--scope", "tasks:run"]);
    operator(&["task", "run", "late", "--params", "{\"fails\":false}"]);
    let failed = ["task", "run", "late", "--params", "{\"fails\":true}"];
    let error = error_of(&serving.verb(&shop.operator, &failed));
    assert!(error.contains("no such day"), "{error}");
    let runs = operator(&["task", "runs", "late"]);
    let states = [0, 1, 2].map(|at| text(&runs[at]["state"]));
    assert_eq!(states, ["failed", "succeeded", "queued"], "what waits for later comes last");
    let run = text(&runs[0]["id"]);
    for words in [vec!["late"], vec!["-f", &run]] {
        let words = [vec!["task", "logs"], words].concat();
        let logs = serving.verb(&shop.operator, &words);
        let (log, why) = (String::from_utf8_lossy(&logs.stdout), error_of_log(&logs));
        assert!(log.contains("late began"), "{words:?}: {log}");
        assert!(why.contains("RangeError: no such day"), "{words:?}: {why}");
        assert!(why.contains("late.ts:4:"), "the place as it was written: {words:?}: {why}");
    }
    follows_what_begins(shop, serving);
    for verb in ["logs", "runs"] {
        let error = error_of(&serving.verb(&shop.operator, &["task", verb, "lat"]));
        assert!(error.contains("task lat not found"), "{error}");
    }
}

/// Whatever else waits for later.
fn follows_what_begins(shop: &Shop, serving: &Serving) {
    let mut following = reauth();
    following.env("REAUTH_URL", &serving.url).env("REAUTH_TOKEN", &shop.operator);
    let following = following.args(["task", "logs", "-f", "late"]);
    let following = following.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut following = following.expect("it follows");
    let mut heard = BufReader::new(following.stdout.take().expect("its output"));
    let (sender, line) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = heard.read_line(&mut line);
        let _ = sender.send(line);
    });
    // Nobody says when it has begun to look: what comes after that is heard.
    let line = (0..20).find_map(|_| {
        let fails = ["task", "run", "late", "--params", "{\"fails\":true}"];
        serving.verb(&shop.operator, &fails);
        line.recv_timeout(Duration::from_secs(1)).ok()
    });
    following.kill().expect("our own process");
    following.wait().expect("it ends");
    assert!(line.as_ref().is_some_and(|line| line.contains("late began")), "{line:?}");
}

fn error_of_log(logs: &std::process::Output) -> String {
    assert!(logs.status.success(), "{logs:?}");
    String::from_utf8_lossy(&logs.stderr).into_owned()
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
