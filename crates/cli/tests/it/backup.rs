//! Backups: what was restored lets nobody in.

use std::fs;
use std::process::Command;

use crate::{Kind, Shop, error_of, json, text};

/// What a check with a device's token answers: the status and the challenge.
pub(crate) fn check(url: &str, token: &str) -> (u16, String) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = reauth_sdk::Client::new(url, "none").expect("a client");
    match runtime.block_on(client.check(token)).expect("an answer") {
        reauth_sdk::Checked::Valid { .. } => (200, String::new()),
        reauth_sdk::Checked::Refused { because, .. } => (401, because),
    }
}

#[test]
fn a_restored_backup_lets_nobody_in_and_loses_nothing_else() {
    let mut shop = Shop::new(Kind::Sqlite);
    let anchor = format!("anchor = {:?}\n", shop.path("ledger.head"));
    shop.config = Some(crate::config_file(shop.dir.path(), &anchor));
    let mut serving = shop.serve();
    let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
    let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
    let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
    let token = ["token", "create", "backend", "--scope", "users:read"];
    let token = text(&serving.json(&shop.operator, &token)["token"]);
    let file = shop.path("backup.sqlite");
    let backup = |shop: &Shop| {
        let mut command = crate::reauth();
        command.args(["backup", &file, "--data"]).arg(shop.data()).output().expect("it runs")
    };
    let made = json(&backup(&shop));
    assert!(made["seq"].as_u64().is_some_and(|seq| seq > 4), "{made}");
    assert!(error_of(&backup(&shop)).contains("exists already"));
    // Ann is locked after the backup was made.
    serving.json(&shop.operator, &["user", "lock", &ann]);
    let restore = |shop: &Shop, more: &[&str]| {
        let mut command = crate::reauth();
        shop.store(command.args(["restore", &file])).args(more);
        command.stdin(std::process::Stdio::null()).output().expect("it runs")
    };
    assert!(error_of(&restore(&shop, &[])).contains("--replace"));
    assert!(error_of(&restore(&shop, &["--replace"])).contains("another server"));
    serving.terminate();
    assert!(error_of(&restore(&shop, &["--replace", "--keep-access"])).contains("let them in"));
    let restored = json(&restore(&shop, &["--replace"]));
    assert_eq!(restored["seq"], made["seq"]);
    assert!(fs::metadata(text(&restored["kept"])).expect("it is kept").is_dir());

    let old = std::mem::replace(&mut shop.operator, text(&restored["operator_token"]));
    let serving = shop.serve();
    let (status, why) = check(&serving.url, &secret);
    assert_eq!(status, 401);
    assert!(why.contains("restore"), "{why}");
    for void in [&old, &token] {
        assert!(!serving.verb(void, &["user", "list"]).status.success());
    }
    let users = serving.json(&shop.operator, &["user", "list"]);
    assert_eq!((&users[0]["display"], &users[0]["enrolled"]), (&"Ann".into(), &false.into()));
    let (_, again) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
    assert_eq!(check(&serving.url, &again).0, 200);
    assert_eq!(serving.json(&shop.operator, &["ledger", "verify"])["ok"], true);
}

#[test]
fn a_database_that_was_put_back_by_hand_is_noticed_and_fenced() {
    let mut shop = Shop::new(Kind::Sqlite);
    let mut serving = shop.serve();
    let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
    let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
    let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
    serving.terminate();
    let files = ["reauth.sqlite", "reauth.sqlite-wal"].map(|name| shop.data().join(name));
    let old = files.clone().map(|file| fs::read(file).unwrap_or_default());
    let mut serving = shop.serve();
    serving.json(&shop.operator, &["user", "lock", &ann]);
    serving.terminate();
    for (file, bytes) in files.iter().zip(old) {
        fs::write(file, bytes).expect("it is put back");
    }
    let _ = fs::remove_file(shop.data().join("reauth.sqlite-shm"));
    let mut refused = crate::reauth();
    let refused = shop.store(refused.arg("serve")).args(["--listen", "127.0.0.1:0"]).output();
    assert!(error_of(&refused.expect("it runs")).contains("reauth init"));
    let mut init = crate::reauth();
    let made = json(&shop.store(init.arg("init")).output().expect("it runs"));
    shop.operator = text(&made["operator_token"]);
    let serving = shop.serve();
    assert_eq!(check(&serving.url, &secret).0, 401);
    assert_eq!(serving.json(&shop.operator, &["user", "list"])[0]["display"], "Ann");
}

/// The whole directory, or a PostgreSQL database: the anchor is somewhere else.
#[test]
fn a_store_that_was_put_back_as_a_whole_is_noticed_by_its_anchor() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let mut shop = Shop::new(kind);
        let anchor = format!("anchor = {:?}\n", shop.path("ledger.head"));
        shop.config = Some(crate::config_file(shop.dir.path(), &anchor));
        let mut serving = shop.serve();
        let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
        let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
        let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
        serving.terminate();
        let mut serving = shop.serve();
        assert_eq!(check(&serving.url, &secret).0, 200, "it is as the anchor knows it");
        serving.terminate();
        let copy = shop.path("copy");
        let old = shop.database.as_deref().map(crate::postgres::copy_of);
        if old.is_none() {
            let copied = Command::new("cp").arg("-a").arg(shop.data()).arg(&copy).status();
            assert!(copied.expect("cp runs").success());
        }
        let mut serving = shop.serve();
        serving.json(&shop.operator, &["user", "lock", &ann]);
        serving.terminate();
        if old.is_none() {
            fs::remove_dir_all(shop.data()).expect("it is gone");
            fs::rename(&copy, shop.data()).expect("it is put back");
        }
        shop.database = old;
        let mut refused = crate::reauth();
        let refused = shop.store(refused.arg("serve")).args(["--listen", "127.0.0.1:0"]).output();
        assert!(error_of(&refused.expect("it runs")).contains("reauth init"));
        let mut init = crate::reauth();
        let made = json(&shop.store(init.arg("init")).output().expect("it runs"));
        shop.operator = text(&made["operator_token"]);
        let mut serving = shop.serve();
        assert_eq!(check(&serving.url, &secret).0, 401);
        serving.json(&shop.operator, &["user", "list"]);
        serving.terminate();
        // Raised by hand, it is not raised again at the start.
        let mut fence = crate::reauth();
        let made = json(&shop.store(fence.arg("fence")).output().expect("it runs"));
        shop.serve().json(&text(&made["operator_token"]), &["user", "list"]);
    }
}

#[test]
fn an_anchor_that_cannot_be_used_keeps_the_server_from_starting() {
    let mut shop = Shop::new(Kind::Sqlite);
    let refused = |shop: &Shop| {
        let mut serve = crate::reauth();
        let serve = shop.store(serve.arg("serve")).args(["--listen", "127.0.0.1:0"]);
        error_of(&serve.output().expect("it runs"))
    };
    for (path, wanted) in [
        (shop.path("no/such/folder"), "cannot be noted in"),
        (shop.data().join("reauth.sqlite").display().to_string(), "cannot be read from"),
        (shop.data().display().to_string(), "cannot be read from"),
    ] {
        shop.config = Some(crate::config_file(shop.dir.path(), &format!("anchor = {path:?}\n")));
        let why = refused(&shop);
        assert!(why.contains(wanted), "{path}: {why}");
    }
    shop.config = None;
    let serving = shop.serve();
    serving.json(&shop.operator, &["app", "list"]);
}

#[test]
fn the_fence_is_raised_by_hand_on_either_database() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let shop = Shop::new(kind);
        let mut serving = shop.serve();
        let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
        let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
        let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
        serving.terminate();
        let mut fence = crate::reauth();
        let made = json(&shop.store(fence.arg("fence")).output().expect("it runs"));
        let serving = shop.serve();
        assert!(!serving.verb(&shop.operator, &["app", "list"]).status.success());
        let operator = text(&made["operator_token"]);
        assert_eq!(check(&serving.url, &secret).0, 401);
        let shown = serving.json(&operator, &["ledger", "show", "--limit", "100"]);
        assert!(shown.to_string().contains("store.fenced"), "{shown}");
    }
}

#[test]
fn a_backup_lets_in_whom_it_knew_only_if_that_is_said_in_words() {
    let shop = Shop::new(Kind::Sqlite);
    let mut serving = shop.serve();
    let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
    let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
    let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
    let file = shop.path("backup.sqlite");
    let mut backup = crate::reauth();
    json(&backup.args(["backup", &file, "--data"]).arg(shop.data()).output().expect("it runs"));
    serving.json(&shop.operator, &["user", "lock", &ann]);
    assert_eq!(check(&serving.url, &secret).0, 401);
    serving.terminate();
    let restore = |said: &str| {
        let words = shop.path("said");
        fs::write(&words, said).expect("it is written");
        let mut command = crate::reauth();
        command.args(["restore", &file, "--replace", "--keep-access", "--data"]).arg(shop.data());
        command.stdin(fs::File::open(words).expect("it opens")).output().expect("it runs")
    };
    assert!(error_of(&restore("yes\n")).contains("let them in"));
    let restored = json(&restore("let them in\n"));
    assert_eq!(restored["operator_token"], serde_json::Value::Null);
    let serving = shop.serve();
    assert_eq!(check(&serving.url, &secret).0, 200, "also who was locked since");
    let entries = serving.json(&shop.operator, &["ledger", "show", "--limit", "100"]);
    assert!(!entries.to_string().contains("store.fenced"), "{entries}");
}

#[test]
fn a_simulation_looks_at_a_copy_while_the_server_runs() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let shop = Shop::new(kind);
        let serving = shop.serve();
        let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
        let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
        let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
        let file = shop.path("policies.toml");
        let policies = "[[policy]]\nname = \"all\"\napplies_to = { everyone = true }\n\
                        limits = { max_age = \"2d\" }";
        fs::write(&file, policies).expect("it is written");
        let simulate = |more: &[&str]| {
            let mut command = crate::reauth();
            command.args(["simulate", "--days", "7", "--policies", &file]).args(more);
            shop.store(&mut command).output().expect("it runs")
        };
        let lived = json(&simulate(&["--json"]));
        assert_eq!((&lived["sessions"], &lived["ends"][0]["times"]), (&1.into(), &3.into()));
        assert_eq!(lived["hours"], lived["forecast_hours"]);
        let shown = String::from_utf8(simulate(&[]).stdout).expect("a text");
        assert!(shown.contains("Sign-ins forced: 3 (forecast: 3)"), "{shown}");
        fs::write(&file, policies.replace("2d", "0s")).expect("it is written");
        assert!(error_of(&simulate(&[])).contains("policies.all.limits.max_age"));
        assert_eq!(check(&serving.url, &secret).0, 200);
    }
}
