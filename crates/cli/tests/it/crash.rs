//! What was acknowledged holds, whatever happens to the process or to the file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reauth_sdk::{
    Client, Device, DeviceId, Enrolment, InApp, Limit, NewApp, SessionState, SettingsChange,
    TokenRequest,
};
use serde_json::Map;

use crate::{Kind, Shop, error_of, runtime};

/// How often the server is killed on each database.
const KILLS: usize = 4;
const USERS: usize = 100;
const DEVICES: usize = 10;

/// Users with devices, all signed in.
async fn sample(client: &Client) -> reauth_sdk::Result<(InApp, Vec<(String, String)>)> {
    let settings = SettingsChange {
        multiple_devices_per_user: Some(true),
        max_idle: Some(Limit::Off),
        ..SettingsChange::default()
    };
    let app =
        client.create_app(&NewApp { name: "shop".into(), settings, allow_endless: false }).await?;
    let app = client.app(app.id);
    let mut devices = Vec::new();
    for _ in 0..USERS {
        let user = app.create_user(&Map::new()).await?.id;
        for number in 0..DEVICES {
            let token = app.authentication_token(&user, &TokenRequest::default()).await?.token;
            let enrolment = Enrolment {
                authentication_token: token,
                device: DeviceId { id: number.to_string() },
                ..Enrolment::default()
            };
            let (_, enrolled) = Device::enroll(client, app.id(), &enrolment).await?;
            devices.push((user.clone(), enrolled.session_id));
        }
    }
    Ok((app, devices))
}

/// Acknowledged re-authentications, until the server is gone.
async fn revoke_until_killed(
    app: &InApp,
    devices: Vec<(String, String)>,
    acknowledged: &Arc<Mutex<Vec<(String, String)>>>,
    count: &Arc<AtomicUsize>,
) {
    let queue = Arc::new(Mutex::new(devices));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (app, queue) = (app.clone(), Arc::clone(&queue));
        let (acknowledged, count) = (Arc::clone(acknowledged), Arc::clone(count));
        workers.spawn(async move {
            loop {
                let next = queue.lock().expect("the queue").pop();
                let Some((user, session)) = next else { return };
                if app.re_authenticate(&user, &session, None).await.is_err() {
                    return;
                }
                acknowledged.lock().expect("the list").push((user, session));
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

fn every_acknowledged_one_survives_kill_9(kind: Kind) {
    let shop = Shop::new(kind);
    let runtime = runtime();
    let mut serving = shop.serve();
    let client = Client::new(&serving.url, &shop.operator).expect("a client");
    let (app, mut devices) = runtime.block_on(sample(&client)).expect("a sample");
    let app_id = app.id().to_owned();
    let acknowledged = Arc::default();
    for kill in 0..KILLS {
        // Each kill comes in the middle of what is left, at another point.
        let left = devices.len() / (KILLS - kill);
        let part = devices.split_off(devices.len() - left);
        let (count, enough) = (Arc::new(AtomicUsize::new(0)), part.len() / 2 + kill);
        let client = Client::new(&serving.url, &shop.operator).expect("a client");
        let app = client.app(&app_id);
        runtime.block_on(async {
            let revoking = revoke_until_killed(&app, part, &acknowledged, &count);
            let killing = async {
                while count.load(Ordering::SeqCst) < enough {
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
                serving.kill();
            };
            tokio::join!(revoking, killing);
        });
        assert!(count.load(Ordering::SeqCst) >= enough);
        serving = shop.serve();
        let client = Client::new(&serving.url, &shop.operator).expect("a client");
        let app = client.app(&app_id);
        for (user, session) in acknowledged.lock().expect("the list").iter() {
            let found = runtime.block_on(app.session(user, session)).expect("the session");
            assert_eq!(found.state, SessionState::Locked, "{kind:?}: acknowledged, then lost");
        }
        let verified = runtime.block_on(client.verify_ledger(0, 50_000)).expect("an answer");
        assert!(verified.ok, "{:?}", verified.problem);
    }
}

#[test]
fn every_acknowledged_one_survives_kill_9_on_sqlite() {
    every_acknowledged_one_survives_kill_9(Kind::Sqlite);
}

#[test]
fn every_acknowledged_one_survives_kill_9_on_postgres() {
    every_acknowledged_one_survives_kill_9(Kind::Postgres);
}

/// What someone does to the tables behind the server's back, and the problem that must be found.
const TAMPERING: [(&str, &str); 6] = [
    ("update ledger set body = replace(body, 'shop', 'shed') where seq = 3", "edited"),
    ("update ledger set user_id = null where seq = 5", "edited"),
    ("delete from ledger where seq = 4", "missing"),
    ("delete from ledger where seq >= 5", "cut"),
    ("update store_head set hash = (select hash from ledger where seq = 2)", "end was edited"),
    (
        "delete from ledger where seq > 4;
         update store_head set seq = 4, hash = (select hash from ledger where seq = 4)",
        "anchor",
    ),
];

#[test]
fn edits_gaps_and_truncation_are_found() {
    for (statement, wanted) in TAMPERING {
        let mut shop = Shop::new(Kind::Sqlite);
        let mut serving = shop.serve();
        let app = serving.json(&shop.operator, &["app", "create", "shop"]);
        let app = crate::text(&app["id"]);
        for name in ["Ann", "Bob", "Eve"] {
            serving.json(&shop.operator, &["--app", &app, "user", "create", "--name", name]);
        }
        let good = serving.json(&shop.operator, &["ledger", "verify"]);
        assert_eq!(good["ok"], true, "{good}");
        serving.terminate();
        shop.tamper(statement);
        // What contradicts the anchor is found at the start already, and lets nobody in any more.
        let begun = shop.try_serve();
        let is_fenced = begun.is_none();
        let serving = begun.unwrap_or_else(|| {
            let mut init = crate::reauth();
            let made = crate::json(&shop.store(init.arg("init")).output().expect("it runs"));
            shop.operator = crate::text(&made["operator_token"]);
            shop.serve()
        });
        let verb = if is_fenced { "show" } else { "verify" };
        let found = serving.verb(&shop.operator, &["ledger", verb, "--json"]);
        assert_eq!(found.status.code(), Some(i32::from(!is_fenced)), "{statement}");
        let said = [found.stdout, found.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(wanted), "{statement}: {said}");
        assert!(!is_fenced || said.contains("store.fenced"), "{statement}: {said}");
    }
}

#[test]
fn policies_that_cannot_be_read_are_mended_by_stating_the_set_anew() {
    let shop = Shop::new(Kind::Sqlite);
    let file = shop.path("policies.toml");
    let rules = "[[policy]]\nname = \"all\"\napplies_to = { everyone = true }\n\
                 limits = { max_age = \"12h\" }\n";
    std::fs::write(&file, rules).expect("a file");
    {
        let serving = shop.serve();
        serving.json(&shop.operator, &["app", "create", "Field"]);
        serving.json(&shop.operator, &["policy", "apply", &file]);
    }
    shop.tamper("update policies set body = '{\"name\":\"all\"}'");
    let serving = shop.serve();
    let unread = error_of(&serving.verb(&shop.operator, &["policy", "list"]));
    assert!(unread.contains("reauth policy apply"), "{unread}");
    let applied = serving.verb(&shop.operator, &["policy", "apply", &file]);
    let said = String::from_utf8_lossy(&applied.stderr);
    assert!(applied.status.success(), "{said}");
    assert!(said.contains("which policies hold now cannot be known"), "{said}");
    let shown = String::from_utf8_lossy(&applied.stdout);
    assert_eq!(shown, "+ all: everyone: max_age 12h\n", "all of it as new");
    let listed = serving.json(&shop.operator, &["policy", "list"]);
    assert_eq!(listed[0]["limits"]["max_age"], "12h");
}
