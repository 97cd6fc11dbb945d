//! Copies of a store that are started in another place: none lets in whom the store has locked out.

use std::fs;
use std::time::{Duration, Instant};

use crate::backup::check;
use crate::{Kind, Serving, Shop, json, text};

/// Ann, signed in: her id and her device's token.
fn ann(serving: &Serving, operator: &str) -> (String, String) {
    let app = text(&serving.json(operator, &["app", "create", "Field"])["id"]);
    let ann = text(&serving.json(operator, &["user", "create", "--name", "Ann"])["id"]);
    let (_, secret) = crate::verbs::sign_in(serving, operator, &app, &ann, "phone");
    (ann, secret)
}

/// A server refuses to start on the shop's store, says why, and lets nobody in afterwards.
fn must_be_fenced(shop: &mut Shop, secret: &str, why: &str) {
    let said = shop.refused();
    assert!(said.contains("reauth init") && said.contains(why), "{said}");
    shop.init_again();
    let mut serving = shop.serve();
    let (status, because) = check(&serving.url, secret);
    assert_eq!(status, 401);
    assert!(because.contains("restore"), "{because}");
    let entries = serving.json(&shop.operator, &["ledger", "show", "--limit", "100"]).to_string();
    assert!(entries.contains("store.fenced") && entries.contains(why), "{entries}");
    let findings = serving.json(&shop.operator, &["doctor"])["findings"].clone();
    let is_told = |finding: &serde_json::Value| {
        finding["level"] == "warning" && finding["detail"].to_string().contains(why)
    };
    assert!(findings.as_array().expect("a list").iter().any(is_told), "{findings}");
    // Once is enough.
    serving.terminate();
    shop.serve().json(&shop.operator, &["user", "list"]);
}

#[test]
fn a_backup_that_is_started_without_a_restore_lets_nobody_in() {
    for is_served in [true, false] {
        let mut shop = Shop::new(Kind::Sqlite);
        let mut secret = "none".to_owned();
        if is_served {
            let serving = shop.serve();
            let (id, hers) = ann(&serving, &shop.operator);
            secret = hers;
            backup(&shop);
            serving.json(&shop.operator, &["user", "lock", &id]);
        } else {
            // No server has ever left an anchor here.
            backup(&shop);
        }
        fs::remove_dir_all(shop.data()).expect("the disk is lost");
        start_with(&shop, &[("backup.sqlite", "reauth.sqlite")]);
        if is_served {
            must_be_fenced(&mut shop, &secret, "nobody has restored");
        } else {
            assert!(shop.refused().contains("nobody has restored"));
        }
    }
}

fn backup(shop: &Shop) {
    let mut command = crate::reauth();
    let command = command.args(["backup", &shop.path("backup.sqlite"), "--data"]).arg(shop.data());
    json(&command.output().expect("it runs"));
}

/// A new data directory with copies of the shop's files, as `mkdir -m 700` and `cp` make it.
fn start_with(shop: &Shop, files: &[(&str, &str)]) {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(shop.data()).expect("a directory");
    for (from, to) in files {
        fs::copy(shop.path(from), shop.data().join(to)).expect("it is copied");
    }
}

#[test]
fn a_copy_that_is_started_without_its_anchor_lets_nobody_in() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let mut shop = Shop::new(kind);
        let anchor = |shop: &Shop, name: &str| {
            let setting = format!("anchor = {:?}\n", shop.path(name));
            crate::config_file(shop.dir.path(), &setting)
        };
        if kind == Kind::Postgres {
            shop.config = Some(anchor(&shop, "first.head"));
        }
        let mut serving = shop.serve();
        let (id, secret) = ann(&serving, &shop.operator);
        serving.terminate();
        let old = shop.database.as_deref().map(crate::postgres::copy_of);
        if old.is_none() {
            // The second is there unless all of it was written to the first.
            let parts = ["reauth.sqlite", "reauth.sqlite-wal"];
            let parts = parts.map(|part| (part, shop.data().join(part)));
            let copied: Vec<_> = parts.iter().filter(|(_, file)| file.exists()).collect();
            for (part, file) in &copied {
                fs::rename(file, shop.path(part)).expect("a copy");
            }
            fs::remove_dir_all(shop.data()).expect("the machine is lost");
            let copied: Vec<_> = copied.iter().map(|(part, _)| (*part, *part)).collect();
            start_with(&shop, &copied);
        } else {
            let serving = shop.serve();
            serving.json(&shop.operator, &["user", "lock", &id]);
            // While it lives it would write the file again.
            serving.kill();
            fs::remove_file(shop.path("first.head")).expect("the machine is lost");
            shop.config = Some(anchor(&shop, "second.head"));
            shop.database = old;
        }
        must_be_fenced(&mut shop, &secret, "the anchor that was left in");
    }
}

#[test]
fn an_upgrade_and_another_place_for_the_anchor_sign_nobody_out() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let mut shop = Shop::new(kind);
        let mut serving = shop.serve();
        let (_, secret) = ann(&serving, &shop.operator);
        serving.terminate();
        // As an upgrade from a version that remembered nothing leaves it.
        shop.tamper("update store_head set anchor = null");
        let _ = fs::remove_file(shop.data().join("ledger.head"));
        for place in [None, Some("one.head"), Some("two.head"), None, Some("three.head")] {
            shop.config = place.map(|name| {
                let setting = format!("anchor = {:?}\n", shop.path(name));
                crate::config_file(shop.dir.path(), &setting)
            });
            let mut serving = shop.serve();
            assert_eq!(check(&serving.url, &secret).0, 200, "{kind:?} {place:?}");
            serving.json(&shop.operator, &["app", "list"]);
            serving.terminate();
        }
        let is_known = |name| fs::exists(shop.path(name)).unwrap_or(false);
        assert_eq!(
            ["one.head", "two.head", "three.head"].map(is_known),
            [false, false, true],
            "there is one anchor"
        );
        // The last one is what counts now.
        fs::remove_file(shop.path("three.head")).expect("it is gone");
        shop.config = None;
        let fenced = shop.refused();
        assert!(fenced.contains("three.head"), "{fenced}");
    }
}

/// Until it is noted, nothing outside the database knows of a lock.
#[test]
fn a_lock_is_noted_outside_the_database_at_once() {
    const SOON: Duration = Duration::from_secs(1);
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let mut shop = Shop::new(kind);
        let file = shop.path("ledger.head");
        let anchor = format!("anchor = {file:?}\n");
        shop.config = Some(crate::config_file(shop.dir.path(), &anchor));
        let serving = shop.serve();
        let (ann, _) = ann(&serving, &shop.operator);
        for verb in ["lock", "unlock", "lock"] {
            serving.json(&shop.operator, &["user", verb, &ann]);
            let began = Instant::now(); // clock: measures
            let page = serving.json(&shop.operator, &["ledger", "verify"]);
            let (seq, hash) = (&page["head"]["seq"], text(&page["head"]["hash"]));
            let wanted = format!("{seq} {hash}\n");
            while fs::read_to_string(&file).expect("the anchor") != wanted {
                assert!(began.elapsed() < SOON, "{kind:?}: {verb} is not noted");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
