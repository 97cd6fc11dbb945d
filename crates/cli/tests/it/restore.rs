//! How a restore changes the data directory: within itself, and never to parts of two databases.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Output;

use crate::backup::check;
use crate::{Kind, Shop, error_of, json, text};

fn backup(shop: &Shop, file: &str) -> Output {
    let mut command = crate::reauth();
    command.args(["backup", file, "--data"]).arg(shop.data()).output().expect("it runs")
}

fn restore(file: &str, dir: &Path) -> Output {
    let mut command = crate::reauth();
    command.args(["restore", file, "--replace", "--data"]).arg(dir).output().expect("it runs")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().expect("a directory").flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A mount point cannot be renamed, and what is beside it is on another file system.
#[test]
fn a_restore_touches_nothing_but_what_is_in_the_data_directory() {
    let mut shop = Shop::new(Kind::Sqlite);
    let mut serving = shop.serve();
    serving.json(&shop.operator, &["app", "create", "Field"]);
    let file = shop.path("backup.sqlite");
    json(&backup(&shop, &file));
    serving.json(&shop.operator, &["app", "create", "Later"]);
    serving.terminate();
    fs::write(shop.data().join("lost+found"), "of the volume").expect("a file");
    let before = (shop.data().metadata().expect("it is there").ino(), names(shop.dir.path()));
    for time in 1..=2 {
        let made = json(&restore(&file, &shop.data()));
        let kept = shop.data().join(format!("reauth.before-restore-{time}"));
        assert_eq!(Path::new(&text(&made["kept"])), kept);
        let old = names(&kept);
        assert!(old.contains(&"reauth.sqlite".to_owned()), "{old:?}");
        shop.operator = text(&made["operator_token"]);
        let mut serving = shop.serve();
        let apps = serving.json(&shop.operator, &["app", "list"]);
        assert_eq!(apps.as_array().map(Vec::len), Some(1), "{apps}");
        serving.terminate();
    }
    let after = (shop.data().metadata().expect("it is there").ino(), names(shop.dir.path()));
    assert_eq!(after, before);
    assert!(!names(&shop.data()).iter().any(|name| name.starts_with("reauth.restor")));
}

/// The steps in which the old database gives way, and after each of them the power is cut.
#[test]
fn a_restore_that_was_broken_off_is_finished_by_whoever_opens_the_store() {
    const PARTS: [&str; 4] =
        ["ledger.head", "reauth.sqlite-shm", "reauth.sqlite-wal", "reauth.sqlite"];
    for steps in 0..=PARTS.len() + 2 {
        let mut shop = Shop::new(Kind::Sqlite);
        let serving = shop.serve();
        let app = text(&serving.json(&shop.operator, &["app", "create", "Field"])["id"]);
        let ann = text(&serving.json(&shop.operator, &["user", "create", "--name", "Ann"])["id"]);
        let (_, secret) = crate::verbs::sign_in(&serving, &shop.operator, &app, &ann, "phone");
        let file = shop.path("backup.sqlite");
        json(&backup(&shop, &file));
        serving.json(&shop.operator, &["user", "create", "--name", "Later"]);
        // Its log is left beside the old one.
        serving.kill();
        let other = shop.dir.path().join("other");
        let operator = text(&json(&restore(&file, &other))["operator_token"]);
        let (data, ready) = (shop.data(), shop.data().join("reauth.restored"));
        let old = ready.join("old");
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&old).expect("a folder");
        fs::rename(other.join("reauth.sqlite"), ready.join("reauth.sqlite")).expect("the copy");
        for part in PARTS.iter().take(steps) {
            fs::rename(data.join(part), old.join(part)).expect("a part gives way");
        }
        if steps > PARTS.len() {
            let copy = ready.join("reauth.sqlite");
            fs::rename(copy, data.join("reauth.sqlite")).expect("the copy is in place");
        }
        let kept = data.join("reauth.before-restore-1");
        if steps > PARTS.len() + 1 {
            fs::rename(&old, &kept).expect("it is kept");
        }
        shop.operator = operator;
        let begun = shop.try_serve();
        let mut serving = begun.unwrap_or_else(|| panic!("{steps} steps: {}", shop.refused()));
        assert_eq!(check(&serving.url, &secret).0, 401, "after {steps} steps");
        let users = serving.json(&shop.operator, &["user", "list"]);
        assert_eq!(users.as_array().map(Vec::len), Some(1), "after {steps} steps: {users}");
        assert_eq!(serving.json(&shop.operator, &["ledger", "verify"])["ok"], true);
        assert!(!ready.exists());
        let mut parts = PARTS.to_vec();
        parts.sort_unstable();
        let mut old = names(&kept);
        // It may have been killed in the middle of a note.
        old.retain(|name| name != "ledger.next");
        assert_eq!(old, parts, "after {steps} steps");
        serving.terminate();
    }
}

/// Before that, a copy that was being looked at is nothing.
#[test]
fn a_restore_that_had_not_begun_to_change_anything_leaves_the_store_as_it_is() {
    let shop = Shop::new(Kind::Sqlite);
    let file = shop.path("backup.sqlite");
    json(&backup(&shop, &file));
    let folder = shop.data().join("reauth.restoring");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("reauth.sqlite"), "half of it").expect("a file");
    let mut serving = shop.serve();
    serving.json(&shop.operator, &["app", "list"]);
    serving.terminate();
    json(&restore(&file, &shop.data()));
    assert!(!folder.exists());
}

#[test]
fn a_backup_or_a_restore_that_fails_leaves_nothing_behind() {
    for (statement, wanted) in [
        ("update ledger set body = replace(body, 'operator', 'somebody')", "does not hold"),
        ("insert into schema_version (version) values (9999)", "use a newer reauth"),
    ] {
        let shop = Shop::new(Kind::Sqlite);
        let mut serving = shop.serve();
        serving.json(&shop.operator, &["app", "list"]);
        serving.terminate();
        let good = shop.path("good.sqlite");
        json(&backup(&shop, &good));
        shop.tamper(statement);
        let bad = shop.path("bad.sqlite");
        let before = names(shop.dir.path());
        assert!(error_of(&backup(&shop, &bad)).contains(wanted));
        assert_eq!(names(shop.dir.path()), before, "{wanted}");
        // The same as a backup: as if it had been edited since.
        fs::copy(shop.data().join("reauth.sqlite"), &bad).expect("a copy");
        let other = shop.dir.path().join("other");
        json(&restore(&good, &other));
        let (before, inside) = (names(shop.dir.path()), names(&other));
        for dir in [&other, &shop.dir.path().join("new")] {
            assert!(error_of(&restore(&bad, dir)).contains(wanted));
        }
        fs::write(&bad, "").expect("it is empty");
        assert!(error_of(&restore(&bad, &other)).contains("is no backup"));
        assert_eq!((names(shop.dir.path()), names(&other)), (before, inside), "{wanted}");
    }
}

/// As whoever regrets a restore finds it: what is only in the log would be lost without a word.
#[test]
fn a_database_with_a_log_beside_it_is_no_backup() {
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    serving.json(&shop.operator, &["app", "create", "Field"]);
    serving.kill();
    let (database, other) = (shop.data().join("reauth.sqlite"), shop.dir.path().join("other"));
    let refused = error_of(&restore(&database.display().to_string(), &other));
    assert!(refused.contains("has a write-ahead log beside it"), "{refused}");
    assert!(!other.exists());
    let file = shop.path("backup.sqlite");
    json(&backup(&shop, &file));
    json(&restore(&file, &other));
}
