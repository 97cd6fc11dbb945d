//! A run's token lives as long as the run: no shorter, whatever becomes of what the server has in
//! memory, and no longer.

use reauth_server::{Peer, PeerResponse};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::leases::claimed_elsewhere;
use super::runs::{begin, until};
use super::{put, task};
use crate::both;
use crate::lab::{Lab, good, json_of, refused, text};

both!(
    a_run_goes_on_although_live_was_built_anew_meanwhile,
    the_token_of_a_run_that_died_with_its_server_is_dead,
    the_token_of_a_run_that_a_stop_cut_off_is_dead,
);

/// A commit that fails at its very end, in the words of each database: nobody can know whether it
/// holds, so that the server builds Live anew.
const BREAK: [&str; 2] = [
    "create table debts (app text references apps (id) deferrable initially deferred);
     create trigger indebted after insert on ledger
     begin insert into debts values ('nobody'); end",
    "create table debts (app text references apps (id) deferrable initially deferred);
     create function indebted() returns trigger language plpgsql as
     'begin insert into debts values ($$nobody$$); return new; end';
     create trigger indebted after insert on ledger for each row execute function indebted()",
];
const MEND: [&str; 2] = [
    "drop trigger indebted; drop table debts",
    "drop trigger indebted on ledger; drop function indebted; drop table debts",
];

/// Asks the peer and waits for its word, then asks the authority.
const WAITS: &str = "export async function run({ peer, path }) {
    await fetch(peer);
    const ask = (method, path) => fetch(this.backend.url + path, { method,
        headers: { Authorization: `Token ${this.backend.token}` } });
    return { read: (await ask('GET', '/users')).status,
        tasks: (await ask('GET', '/tasks')).status,
        act: (await ask('POST', path)).status,
        token: this.backend.token };
}";

async fn a_run_goes_on_although_live_was_built_anew_meanwhile(mut lab: Lab) {
    let peer = Peer::open().await.expect("a peer");
    lab.config.tasks.fetch_allowed = vec![peer.url().to_owned()];
    lab.restart().await;
    let phone = lab.sign_in("ann", "phone").await;
    for dry_run in [true, false] {
        put(&lab, "t", task("t.js", WAITS, &["users:read", "sessions:end"])).await;
        let path = format!("{}/re-authenticate", phone.path());
        let params = json!({ "peer": peer.url(), "path": path });
        let wanted = json!({ "params": params, "dry_run": dry_run });
        let run = good(lab.api(Method::POST, "/tasks/t/run").json(&wanted)).await;
        let asked = peer.next().await.expect("the run asks");
        // What the task may do from now on is not what this run may.
        let wider = ["users:read", "sessions:end", "tasks:read"];
        put(&lab, "t", task("t.js", WAITS, &wider)).await;
        lab.behind_its_back(BREAK).await;
        let (status, body) = json_of(lab.api(Method::POST, "/objects/user").json(&ann())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        lab.behind_its_back(MEND).await;
        lab.server().app().db.pulse().await.expect("it looks at the tables again");
        let (headers, body) = (Vec::new(), String::new());
        let sent = asked.answer.send(PeerResponse { status: 200, headers, body });
        assert!(sent.is_ok(), "the run waits");
        let done = until(&lab, &text(&run["id"]), "succeeded").await;
        let result = &done["result"];
        assert_eq!(
            (&result["read"], &result["tasks"], &result["act"]),
            (&json!(200), &json!(403), &json!(204)),
            "{done}"
        );
        if dry_run {
            assert_eq!(done["changes"].as_array().expect("a list").len(), 1, "{done}");
            phone.must_be_signed_in().await;
        } else {
            phone.must_sign_in_again("LOCKED", "re_authenticate").await;
        }
        let path = format!("/api/v4/{}/users", lab.app);
        let late = lab.bare(Method::GET, &path).bearer_auth(text(&result["token"]));
        refused(late, 401, "AUTHENTICATION_FAILED").await;
    }
}

fn ann() -> Value {
    json!({ "user": { "name": "ann" } })
}

async fn the_token_of_a_run_that_died_with_its_server_is_dead(mut lab: Lab) {
    let mut once = task("t.js", "export function run() {}", &["users:read"]);
    once["retries"] = json!(0);
    put(&lab, "once", once).await;
    // A server claims it, and dies: it says nothing more of the run.
    let claimed = claimed_elsewhere(&lab, "once").await;
    let token = claimed.token.reveal();
    let path = format!("/api/v4/{}/users", lab.app);
    good(lab.bare(Method::GET, &path).bearer_auth(token)).await;
    // The run's row still says that it is going.
    lab.restart().await;
    assert_eq!(lab.get(&format!("/runs/{}", claimed.id)).await["state"], "dead");
    refused(lab.bare(Method::GET, &path).bearer_auth(token), 401, "AUTHENTICATION_FAILED").await;
}

/// The token of a run that is going, which it has said.
async fn said_token(lab: &Lab, id: &str) -> String {
    loop {
        let run = until(lab, id, "running").await;
        if let Some(line) = run["log"].get(0) {
            return text(&line["text"]);
        }
    }
}

async fn the_token_of_a_run_that_a_stop_cut_off_is_dead(mut lab: Lab) {
    let hang = "export async function run() {
        console.log(this.backend.token);
        await new Promise((go) => setTimeout(go, 60000)); }";
    put(&lab, "hang", task("t.js", hang, &["users:read"])).await;
    let id = begin(&lab, "hang").await;
    let token = said_token(&lab, &id).await;
    let path = format!("/api/v4/{}/users", lab.app);
    good(lab.bare(Method::GET, &path).bearer_auth(&token)).await;
    lab.restart().await;
    refused(lab.bare(Method::GET, &path).bearer_auth(&token), 401, "AUTHENTICATION_FAILED").await;
    assert_ne!(said_token(&lab, &id).await, token, "each try has its own");
}
