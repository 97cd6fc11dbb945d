//! Leases: a run is its server's as long as that gives signs of life for it, and no longer.

use reauth_server::domain::ledger::By;
use reauth_server::domain::{Span, tasks};
use reauth_server::{Peer, PeerResponse};
use reqwest::Method;
use serde_json::{Value, json};

use super::runs::{begin, until};
use super::{put, task};
use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    a_run_goes_on_past_its_lease_while_its_server_gives_signs_of_life,
    a_run_of_a_server_that_gives_no_sign_of_life_is_taken_up,
    who_has_lost_a_run_neither_ends_the_next_try_nor_keeps_it_going,
);

const TRY: &str = "export function run() { return this.run.attempt }";

fn claim() -> tasks::Claim {
    tasks::Claim { life: Span::minutes(5), lease: Span::minutes(1), per_app: 10 }
}

/// A run of this task that another server has claimed.
pub(super) async fn claimed_elsewhere(lab: &Lab, name: &str) -> tasks::Claimed {
    let app = lab.app.parse().expect("an app");
    let mut tx = lab.server().app().db.write(By::System).await.expect("a change");
    let found = tasks::find(&mut tx, app, name).await.expect("the task");
    let order = tasks::Order::by(tasks::Trigger::Hand);
    let id = tasks::queue(&mut tx, app, &found, order).await.expect("a run");
    let claimed = tasks::claim(&mut tx, claim()).await.expect("a claim").expect("a run");
    tx.commit().await.expect("a commit");
    assert_eq!(claimed.id, id);
    claimed
}

/// Takes up one run whose lease has passed; answers whether there was one.
async fn recover(lab: &Lab) -> bool {
    let mut tx = lab.server().app().db.write(By::System).await.expect("a change");
    let is_found = tasks::recover(&mut tx, false, Span::minutes(1)).await.expect("it looks");
    tx.commit().await.expect("a commit");
    is_found
}

/// The word of a server about a run, whether it counts or not.
async fn finish(lab: &Lab, claimed: &tasks::Claimed) -> Option<tasks::RunState> {
    let late = tasks::Finished {
        outcome: Ok("\"late\"".to_owned()),
        ending: tasks::Ending::Answered,
        log: Vec::new(),
        changes: None,
        retry_after: Span::seconds(1),
    };
    let mut tx = lab.server().app().db.write(By::System).await.expect("a change");
    let state = tasks::finish(&mut tx, claimed, &late).await.expect("no error");
    tx.commit().await.expect("a commit");
    state
}

async fn a_run_goes_on_past_its_lease_while_its_server_gives_signs_of_life(mut lab: Lab) {
    let peer = Peer::open().await.expect("a peer");
    lab.config.tasks.fetch_allowed = vec![peer.url().to_owned()];
    lab.restart().await;
    let waits = "export async function run() {
        await fetch(process.env.PEER); return this.run.attempt }";
    let mut waits = task("t.js", waits, &[]);
    waits["env"] = json!({ "PEER": peer.url() });
    put(&lab, "waits", waits).await;
    put(&lab, "t", task("t.js", TRY, &[])).await;
    let long = begin(&lab, "waits").await;
    let asked = peer.next().await.expect("it asks");
    for _ in 0..3 {
        // Nobody speaks for this one: when it has run again, the server has looked at all leases.
        let lost = claimed_elsewhere(&lab, "t").await.id.to_string();
        lab.clock.pass(Span::seconds(61));
        lab.server().app().lease_wake.notify_one();
        assert_eq!(until(&lab, &lost, "succeeded").await["result"], 2);
        let going = lab.get(&format!("/runs/{long}")).await;
        assert_eq!((&going["state"], &going["attempt"]), (&json!("running"), &json!(1)), "{going}");
    }
    let (headers, body) = (Vec::new(), String::new());
    let sent = asked.answer.send(PeerResponse { status: 200, headers, body });
    assert!(sent.is_ok(), "the run waits");
    assert_eq!(until(&lab, &long, "succeeded").await["result"], 1);
}

async fn a_run_of_a_server_that_gives_no_sign_of_life_is_taken_up(lab: Lab) {
    put(&lab, "t", task("t.js", TRY, &[])).await;
    let claimed = claimed_elsewhere(&lab, "t").await;
    assert!(!recover(&lab).await, "its lease holds");
    let path = format!("/api/v4/{}/tasks", lab.app);
    let token = claimed.token.reveal().to_owned();
    refused(lab.bare(Method::GET, &path).bearer_auth(&token), 403, "PERMISSION_DENIED").await;
    lab.clock.pass(Span::minutes(2));
    assert!(recover(&lab).await);
    refused(lab.bare(Method::GET, &path).bearer_auth(&token), 401, "AUTHENTICATION_FAILED").await;
    lab.server().app().run_wake.notify_one();
    assert_eq!(until(&lab, &claimed.id.to_string(), "succeeded").await["result"], 2);
    // The one that was away comes back: its word counts no more.
    assert_eq!(finish(&lab, &claimed).await, None);
    assert_eq!(lab.get(&format!("/runs/{}", claimed.id)).await["result"], 2);
}

async fn who_has_lost_a_run_neither_ends_the_next_try_nor_keeps_it_going(lab: Lab) {
    put(&lab, "t", task("t.js", TRY, &["tasks:read"])).await;
    let first = claimed_elsewhere(&lab, "t").await;
    lab.clock.pass(Span::minutes(2));
    let db = &lab.server().app().db;
    // A third server takes it up at once.
    let mut tx = db.write(By::System).await.expect("a change");
    assert!(tasks::recover(&mut tx, false, Span::minutes(1)).await.expect("it looks"));
    let second = tasks::claim(&mut tx, claim()).await.expect("a claim").expect("a run");
    tx.commit().await.expect("a commit");
    assert_eq!((second.id, second.attempt), (first.id, 2));
    let head = lab.head().await;
    assert_eq!(finish(&lab, &first).await, None);
    assert_eq!(lab.head().await, head, "nothing has happened");
    let run = lab.get(&format!("/runs/{}", first.id)).await;
    assert_eq!((&run["state"], &run["result"]), (&json!("running"), &Value::Null), "{run}");
    let path = format!("/api/v4/{}/tasks", lab.app);
    good(lab.bare(Method::GET, &path).bearer_auth(second.token.reveal())).await;
    let renew = async |claimed: &tasks::Claimed| {
        let mut tx = db.write(By::System).await.expect("a change");
        let tries = [(claimed.id, claimed.attempt)];
        tasks::renew(&mut tx, &tries, Span::minutes(1)).await.expect("no error");
        tx.commit().await.expect("a commit");
    };
    for _ in 0..2 {
        lab.clock.pass(Span::seconds(40));
        renew(&second).await;
        assert!(!recover(&lab).await, "its own server speaks for it");
    }
    lab.clock.pass(Span::seconds(40));
    renew(&first).await;
    lab.clock.pass(Span::seconds(40));
    assert!(recover(&lab).await, "nobody else can");
    // Lost for the second time, it may be to blame: it waits, as after a crash.
    let waits = lab.get(&format!("/runs/{}", first.id)).await;
    assert_eq!((&waits["state"], &waits["attempt"]), (&json!("queued"), &json!(2)), "{waits}");
    assert!(text(&waits["due_at"]) >= (lab.clock.now() + Span::minutes(1)).to_string(), "{waits}");
    lab.pass(Span::minutes(3));
    lab.server().app().run_wake.notify_one();
    assert_eq!(until(&lab, &first.id.to_string(), "succeeded").await["result"], 3);
}
