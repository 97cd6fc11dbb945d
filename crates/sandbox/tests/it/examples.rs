//! The example tasks where something goes wrong for one user: the others do not wait for that, and
//! the run says so. What they do when all goes well is told by the tests beside them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reauth_sandbox::{Host, Job, Outcome, Request, Response};
use serde_json::{Value, json};

use super::{job, limits, sandbox};

const SYNC: &str = include_str!("../../../../examples/tasks/sync-leavers/index.ts");
const FORCE: &str = include_str!("../../../../examples/tasks/force-re-authentication/index.ts");
const LOCK: &str = include_str!("../../../../examples/tasks/lock-ended-contracts/index.ts");
const IDLE: &str = include_str!("../../../../examples/tasks/sign-out-idle-devices/index.ts");
const AGAIN: &str = include_str!("../../../../examples/tasks/sign-in-again.js");

/// An API with two users. The first is deleted after it was read, and before it is written to.
#[derive(Default)]
struct Company {
    changed: Mutex<Vec<String>>,
}

const USERS: [&str; 2] = ["gone", "ann"];

fn user(id: &str) -> Value {
    let long_ago = "2020-01-01T00:00:00Z";
    let session = json!({ "id": format!("of-{id}"), "state": "ENROLLED",
        "last_authenticated_at": long_ago, "last_connected_at": long_ago });
    json!({ "id": id, "type": "user", "display": id, "updated_at": long_ago, "locked": false,
        "contract_end": "2020-01-01", "sessions": [session] })
}

impl Company {
    fn answer(&self, request: &Request) -> (u16, String) {
        let path = request.url.split_once("/api/v4/x").map_or("", |(_, path)| path);
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let page = |ids: &[&str]| {
            let objects: Vec<Value> = ids.iter().map(|id| user(id)).collect();
            let page = json!({ "total": ids.len(), "count": ids.len(), "more": false,
                "objects": objects });
            (200, page.to_string())
        };
        match (request.method.as_str(), path) {
            ("GET", "") => {
                (200, "employee_number,last_day\ngone,2020-01-01\nann,2020-01-01".into())
            }
            ("POST", "/objects/user/query.json") => match body["arguments"][0].as_str() {
                Some("gone") => page(&["gone"]),
                Some("ann") => page(&["ann"]),
                _ => page(&USERS),
            },
            ("GET", _) if path.starts_with("/groups/") => page(&[]),
            ("GET", _) if path.starts_with("/users.json?") => page(&USERS),
            ("GET", _) if path.starts_with("/users?") => page(&USERS),
            ("GET", _) => (200, user(path.trim_start_matches("/users/")).to_string()),
            (_, _) if path.contains("/gone/") => (404, "{}".into()),
            (method, _) => {
                self.changed.lock().expect("the list").push(format!("{method} {path}"));
                (204, String::new())
            }
        }
    }
}

impl Host for Company {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let (status, body) = self.answer(&request);
        let (url, status_text, headers) = (request.url, String::new(), Vec::new());
        Ok(Response { status, status_text, url, headers, body: body.into_bytes() })
    }
}

#[tokio::test]
async fn one_user_that_goes_wrong_holds_up_no_other() {
    let again = "POST /users/ann/sessions/of-ann/re-authenticate";
    let examples = [
        ("sync.ts", SYNC, "PUT /users/ann/not-after"),
        ("force.ts", FORCE, again),
        ("lock.ts", LOCK, "POST /users/ann/lock"),
        ("idle.ts", IDLE, again),
        ("again.js", AGAIN, "POST /users/ann/sessions/of-ann/re-authenticate.json"),
    ];
    for (file, source, wanted) in examples {
        let env = BTreeMap::from([("LEAVERS_URL".into(), "http://people.test/leavers.csv".into())]);
        let params = json!({ "days": 14, "except": "always-on" });
        let (job, company) = (job(file, source, params), Company::default());
        let report = sandbox("sandbox_child").run(&Job { env, ..job }, &limits(), &company).await;
        assert_eq!(*company.changed.lock().expect("the list"), [wanted], "{file}");
        assert!(matches!(report.outcome, Outcome::Threw { .. }), "{file}: {report:?}");
        // Deleted meanwhile: the next try sees that.
        let retries = source.contains("  retries: ") || file == "again.js";
        assert!(retries, "{file} is not tried again");
    }
}
