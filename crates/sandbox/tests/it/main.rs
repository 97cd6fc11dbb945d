//! Stories about scripts: each in a real child process that has dropped its rights.

mod bodies;
mod database;
mod escape;
mod examples;
mod flood;
mod globals;
mod inherited;
mod language;
mod memory;
mod web;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use reauth_sandbox::{
    Backend, Call, Host, Job, Limits, Outcome, Part, Report, Request, Response, RunFacts, Sandbox,
    compile,
};
use serde_json::{Value, json};

#[test]
#[ignore = "the child in which scripts run: started by the sandbox, not by people"]
fn sandbox_child() {
    reauth_sandbox::child_main();
}

/// This test program, told to run one of its ignored tests as the child.
fn sandbox(entry: &str) -> Sandbox {
    let args = [entry, "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let program = std::env::current_exe().expect("the test program");
    Sandbox::new(program, args.map(str::to_owned).to_vec())
}

/// A small world: it remembers what was asked.
#[derive(Default)]
struct World {
    asked: Mutex<Vec<Request>>,
    parts: Mutex<Vec<Part>>,
}

impl Host for World {
    async fn answer(&self, part: Part) {
        self.parts.lock().expect("the list").push(part);
    }

    async fn fetch(&self, request: Request) -> Result<Response, String> {
        self.asked.lock().expect("the list").push(request.clone());
        let answer = |status: u16, text: &str, body: &str| Response {
            status,
            status_text: text.to_owned(),
            url: request.url.clone(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.as_bytes().to_vec(),
        };
        match request.url.rsplit('/').next().unwrap_or_default() {
            "echo" => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                Ok(answer(200, "OK", &json!({ "body": body }).to_string()))
            }
            "nothing" => Ok(answer(204, "No Content", "")),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(answer(200, "OK", "\"slow\""))
            }
            "never" => std::future::pending().await,
            "broken" => Ok(answer(500, "Internal Server Error", "{}")),
            _ => Err("this world has no such place".to_owned()),
        }
    }
}

fn job(file: &str, source: &str, params: Value) -> Job {
    let files = BTreeMap::from([(file.to_owned(), source.to_owned())]);
    Job {
        script: compile(file, &files).expect("it compiles").script,
        call: Call::Run { params: params.into() },
        run: RunFacts { id: "r1".into(), attempt: 2, task: "t".into(), trigger: "hand".into() },
        backend: Backend { url: "http://api.test/api/v4/x".into(), token: "rer_secret".into() },
        env: BTreeMap::from([("REGION".to_owned(), "eu".to_owned())]),
        now_ms: None,
    }
}

fn limits() -> Limits {
    Limits { wall: Duration::from_secs(20), ..Limits::default() }
}

async fn run_within(source: &str, limits: &Limits) -> Report {
    let job = job("task.js", source, Value::Null);
    sandbox("sandbox_child").run(&job, limits, &World::default()).await
}

async fn run(source: &str) -> Outcome {
    run_within(source, &limits()).await.outcome
}

/// What `body` returns as the body of `run`.
async fn value(body: &str) -> Value {
    match run(&format!("export async function run(params) {{ {body} }}")).await {
        Outcome::Done(json) => json.read().expect("a value"),
        other => panic!("{other:?}: {body}"),
    }
}

#[tokio::test]
async fn all_guards_that_this_kernel_has_are_up() {
    let guards = sandbox("sandbox_child").probe().await.expect("a child starts");
    assert!(guards.rlimits && guards.no_new_privs && guards.seccomp, "{guards}");
    let landlock = std::path::Path::new("/sys/kernel/security/landlock").exists();
    assert!(guards.landlock || !landlock, "{guards}");
}

#[tokio::test]
async fn a_program_that_is_no_child_is_refused() {
    let none = Sandbox::new("/nowhere/reauth".into(), Vec::new());
    let job = job("t.js", "export function run() {}", Value::Null);
    let report = none.run(&job, &limits(), &World::default()).await;
    assert!(matches!(report.outcome, Outcome::Refused { .. }), "{report:?}");
    let other = Sandbox::new("/bin/true".into(), Vec::new());
    let report = other.run(&job, &limits(), &World::default()).await;
    assert!(matches!(report.outcome, Outcome::Refused { .. }), "{report:?}");
}
