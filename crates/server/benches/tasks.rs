//! What runs of tasks cost, beside the same script under Node.js with one process a run: a part of
//! `cargo xtask bench`. Where Node.js is missing, its columns are.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reauth_sandbox::{
    Backend, Call, Host, Job, Limits, Outcome, Request, Response, RunFacts, Sandbox, compile,
};
use reauth_server::domain::Clock;
use reauth_server::{Child, Config, Server};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const DEMO: &str = include_str!("../../../examples/tasks/sign-in-again.js");
const USERS: usize = 100;
/// Runs at once: the machine has two cores.
const AT_ONCE: usize = 2;
/// Calls `run` as Reauth does, and writes its result.
const NODE_MAIN: &str = "import { run } from './task.mjs';
const backend = { url: process.env.BACKEND, token: process.env.TOKEN };
console.log(JSON.stringify(await run.call({ backend, env: {} }, { days: 30 })));
if (process.env.STAY) await new Promise(() => setTimeout(() => {}, 1e6));";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (runs, rounds) = match words.as_slice() {
        ["sandbox-child"] => {
            reauth_server::sandbox_child();
            return;
        }
        ["--quick"] => (20, 3),
        [] => (60, 5),
        other => return eprintln!("error: {other:?} is not known; wanted: --quick or nothing"),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("| what | measured | beside | ratio |\n|---|---|---|---|");
    runtime.block_on(async {
        alone().await;
        beside_node(runs, rounds).await;
    });
}

fn child() -> Child {
    let program = std::env::current_exe().expect("this program");
    Child { program, args: vec!["sandbox-child".into()] }
}

struct NoHost;

impl Host for NoHost {
    async fn fetch(&self, _: Request) -> Result<Response, String> {
        Err("nothing is to be fetched here".to_owned())
    }
}

fn job(source: &str) -> Job {
    let files = BTreeMap::from([("bench.ts".to_owned(), source.to_owned())]);
    Job {
        script: compile("bench.ts", &files).expect("it compiles").script,
        call: Call::Run { params: json!({}).into() },
        backend: Backend { url: "http://localhost".into(), token: "x".into() },
        run: RunFacts::default(),
        env: BTreeMap::new(),
        now_ms: None,
    }
}

/// A task that does nothing, in a child that is started for it and in one that waits.
async fn alone() {
    let (child, limits) = (child(), Limits::default());
    let job = job("export function run() {}");
    let cold = Sandbox::new(child.program.clone(), child.args.clone());
    let cold = times(&cold, &job, Duration::ZERO).await;
    println!(
        "| a run of an empty task in the sandbox, its child is started for it | p50 {:.2} ms, \
         p99 {:.2} ms | | |",
        cold[50], cold[99]
    );
    let warm = Sandbox::new(child.program, child.args);
    let keeper = tokio::spawn({
        let (warm, limits) = (warm.clone(), limits.clone());
        async move { warm.keep_ready(&limits, 2).await }
    });
    // The first children are on their way; between two runs the next one is made.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let warm = times(&warm, &job, Duration::from_millis(40)).await;
    keeper.abort();
    println!(
        "| a run of an empty task in the sandbox, its child waits | p50 {:.2} ms, p99 {:.2} ms | \
         target 1 ms | |",
        warm[50], warm[99]
    );
}

/// How long 101 runs took, in milliseconds, sorted.
async fn times(sandbox: &Sandbox, job: &Job, pause: Duration) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..101 {
        tokio::time::sleep(pause).await;
        let began = Instant::now(); // clock: measures
        let report = sandbox.run(job, &Limits::default(), &NoHost).await;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    }
    times.sort_by(f64::total_cmp);
    times
}

/// A server with users, and a client.
struct World {
    server: Server,
    operator: String,
    app: String,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: dir.path().join("data"),
            ..Config::default()
        };
        let made = reauth_server::init(&config, Clock::system()).await.expect("init");
        let server = Server::start(config, Clock::system(), child()).await.expect("start");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut world =
            Self { server, operator: made.operator_token, app: String::new(), http, _dir: dir };
        let app = world.ask("POST", "/admin/apps", json!({ "name": "bench" })).await;
        world.app = app["id"].as_str().expect("an id").to_owned();
        for at in 0..USERS {
            world.sign_in(at).await;
        }
        let task = json!({ "file": "task.js", "source": DEMO,
            "scopes": ["users:read", "sessions:end"] });
        world.ask("PUT", &world.api("/tasks/demo"), task).await;
        world
    }

    fn api(&self, path: &str) -> String {
        format!("/api/v4/{}{path}", self.app)
    }

    async fn sign_in(&self, at: usize) {
        let user = json!({ "user": { "name": format!("user {at}") } });
        let user = self.ask("POST", &self.api("/objects/user"), user).await;
        let path = format!("/users/{}/authentication-token", user["id"].as_str().expect("an id"));
        let token = self.ask("POST", &self.api(&path), json!({})).await["token"].clone();
        let wanted = json!({ "authentication_token": token, "device": { "id": "phone" } });
        self.ask("POST", &format!("/device/{}/enroll", self.app), wanted).await;
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.server.url());
        let request = self.http.request(method.parse().expect("a method"), url);
        let answer = request.bearer_auth(&self.operator).json(&body).send().await;
        let answer = answer.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }
}

/// A run of an empty task as whoever asks for it sees it: over HTTP, through the queue, with its
/// token and its entries in the ledger, one after the other.
async fn whole(world: &World) {
    let task = json!({ "file": "empty.js", "source": "export function run() {}" });
    world.ask("PUT", &world.api("/tasks/empty"), task).await;
    let (mut times, path) = (Vec::new(), format!("{}?wait=true", world.api("/tasks/empty/run")));
    for _ in 0..101 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let began = Instant::now(); // clock: measures
        let run = world.ask("POST", &path, json!({})).await;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    times.sort_by(f64::total_cmp);
    println!(
        "| the same, asked for over HTTP, with three durable entries in the ledger | p50 {:.2} ms, \
         p99 {:.2} ms | | |",
        times[50], times[99]
    );
}

/// The demo's task on 100 users: as runs of Reauth's, through its queue with their ledger entries,
/// and as processes of Node.js that ask the same server.
async fn beside_node(runs: usize, rounds: usize) {
    let world = Arc::new(World::new().await);
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::write(folder.path().join("task.mjs"), DEMO).expect("a file");
    std::fs::write(folder.path().join("main.mjs"), NODE_MAIN).expect("a file");
    let has_node = node(&world, folder.path()).await.is_some();
    whole(&world).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(
            per_second(runs, || {
                let world = Arc::clone(&world);
                async move {
                    let path = format!("{}?wait=true", world.api("/tasks/demo/run"));
                    let run = world.ask("POST", &path, json!({ "params": { "days": 30 } })).await;
                    assert_eq!(run["state"], "succeeded", "{run}");
                }
            })
            .await,
        );
        if has_node {
            theirs.push(
                per_second(runs.min(20), || {
                    let (world, folder) = (Arc::clone(&world), folder.path().to_owned());
                    async move {
                        node(&world, &folder).await.expect("it runs");
                    }
                })
                .await,
            );
        }
    }
    let middle = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let (ours, theirs) = (middle(&mut ours), middle(&mut theirs));
    println!(
        "| runs of the demo's task on {USERS} users, {AT_ONCE} at once | {ours:.1}/s | a Node.js \
         process each {theirs:.1}/s | {:.1} (target 10) |",
        ours / theirs
    );
    let (ours, theirs) = (our_memory().await, node_memory(&world, folder.path()).await);
    println!(
        "| memory of a run that is going (proportional set size) | {ours:.1} MiB | a Node.js \
         process {theirs:.1} MiB | {:.2} (target 0.2) |",
        ours / theirs
    );
}

async fn per_second<F: Future<Output = ()> + Send + 'static>(
    count: usize,
    make: impl Fn() -> F,
) -> f64 {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let began = Instant::now(); // clock: measures
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.expect("a place");
        let run = make();
        all.spawn(async move {
            run.await;
            drop(place);
        });
    }
    while let Some(done) = all.join_next().await {
        done.expect("it ends");
    }
    count as f64 / began.elapsed().as_secs_f64()
}

fn node_command(world: &World, folder: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("node");
    command
        .arg(folder.join("main.mjs"))
        .env("BACKEND", format!("{}{}", world.server.url(), world.api("")))
        .env("TOKEN", &world.operator)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// One run under Node.js; none if it is not there.
async fn node(world: &World, folder: &Path) -> Option<()> {
    let done = node_command(world, folder).output().await.ok()?;
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("\"users\":100"), "{text}");
    Some(())
}

/// Of a child that has done the demo's task and is still there.
async fn our_memory() -> f64 {
    let child = child();
    let sandbox = Sandbox::new(child.program, child.args);
    let users: Vec<Value> = (0..USERS)
        .map(|at| {
            json!({ "id": at, "sessions": [{ "id": at, "state": "ENROLLED",
            "last_authenticated_at": "2026-05-03T08:12:00Z", "device": { "id": "phone" },
            "container": { "version": null, "bundle_id": null, "platform": null } }] })
        })
        .collect();
    let page = json!({ "objects": users }).to_string();
    let source = format!(
        "export async function run() {{ const page = JSON.parse({}); let n = 0;
         for (const user of page.objects) n += user.sessions.length;
         await new Promise((go) => setTimeout(go, 3000)); return n; }}",
        serde_json::to_string(&page).expect("JSON")
    );
    let (job, limits) = (job(&source), Limits::default());
    let run = sandbox.run(&job, &limits, &NoHost);
    let look = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        children().iter().map(|pid| pss(*pid)).fold(0.0, f64::max)
    };
    let (report, memory) = tokio::join!(run, look);
    assert!(matches!(report.outcome, Outcome::Done(_)), "{:?}", report.outcome);
    memory
}

async fn node_memory(world: &World, folder: &Path) -> f64 {
    let Ok(child) = node_command(world, folder).env("STAY", "1").spawn() else { return f64::NAN };
    tokio::time::sleep(Duration::from_secs(2)).await;
    pss(child.id().unwrap_or_default())
}

/// The processes that this one has started.
fn children() -> Vec<u32> {
    let own = std::process::id();
    let tasks = std::fs::read_dir(format!("/proc/{own}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let words: Vec<String> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

/// What a process takes, its share of what it shares with others included, in MiB.
fn pss(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
