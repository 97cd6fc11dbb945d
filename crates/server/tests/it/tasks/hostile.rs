//! Hostile tasks: the others go on beside them, and the server's memory stays flat.

use reauth_server::domain::Span;
use reqwest::Method;
use serde_json::json;

use super::runs::begin;
use super::{ended_runs, put, run, task};
use crate::both;
use crate::lab::{Kind, Lab, text};

both!(hostile_tasks_do_not_stop_the_others);

/// Each tries to take what is not its own.
const HOSTILE: [&str; 10] = [
    "return Function('return this')().constructor.constructor('for (;;) {}')()",
    "Array.prototype.toJSON = Object.prototype.toJSON = () => { for (;;) {} }; return [1]",
    "return import('data:text/javascript,export default 1')",
    "/^(a+)+$/.test('a'.repeat(40) + 'b')",
    "const all = []; for (;;) all.push(Promise.resolve().then(() => all.push(1)))",
    "let deep = {}; for (let i = 0; i < 1e6; i++) deep = { deep }; return deep",
    "return { get a() { return this.a } }",
    "return 'x'.repeat(2 ** 30).repeat(2)",
    "for (;;) console.log('x'.repeat(1e5))",
    "throw new Error('x'.repeat(2e7))",
];
/// As long as a result may be, of values that take a hundred times as much as their text.
const LONG: &str = "export const run = () => Array(6e5).fill({ '': 0 })";
/// Hands as much on to another task, in each way that there is.
const HANDS_ON: &str = "export async function run() {
    const parameters = { all: Array(6e5).fill({ '': 0 }) };
    await CloudCode.scheduleTask({ task: 'takes', parameters });
    try { await CloudCode.callTask('takes', parameters) } catch (error) { return error.kind } }";
/// Sends the API as many small objects as fit, seven bodies at a time.
const FLOODS: &str = "export async function run() {
    const headers = { Authorization: `Token ${this.backend.token}` };
    const body = `{\"name\":[${'{\"\":0},'.repeat(140000)}0]}`;
    const ask = () => fetch(`${this.backend.url}/objects/user`, { method: 'POST', headers, body });
    const answers = await Promise.all(Array.from({ length: 28 }, ask));
    return Promise.all(answers.map((answer) => answer.json())); }";
/// Three runs at once, one of which waits for another, with what the guide says of each: a few
/// copies of what it says, asks and is answered.
const GROWN_MIB_MAX: u64 = 3 * 64;

async fn hostile_tasks_do_not_stop_the_others(mut lab: Lab) {
    lab.config.tasks.concurrency = 2;
    lab.config.tasks.wall = Span::seconds(3);
    lab.config.tasks.cpu = Span::seconds(1);
    lab.config.tasks.memory_bytes = 64 << 20;
    lab.restart().await;
    put(&lab, "good", task("t.js", "export const run = ({ n }) => n + 1", &[])).await;
    for (at, body) in HOSTILE.iter().enumerate() {
        let name = format!("bad{at}");
        let mut bad = task("t.js", &format!("export async function run() {{ {body} }}"), &[]);
        bad["retries"] = json!(0);
        put(&lab, &name, bad).await;
        begin(&lab, &name).await;
    }
    for n in 0..5 {
        assert_eq!(run(&lab, "good", json!({ "n": n })).await["result"], n + 1);
    }
    for (at, body) in HOSTILE.iter().enumerate() {
        let ended = ended_runs(&lab, &format!("bad{at}"), 1).await;
        assert_ne!(ended[0]["state"], "succeeded", "{body}: {}", ended[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a server whose memory is looked at: started by the story below"]
async fn alone() {
    let lab = Lab::new(Kind::Sqlite).await;
    put(&lab, "long", task("t.js", LONG, &[])).await;
    put(&lab, "takes", task("t.js", "export const run = ({ all }) => all.length", &[])).await;
    put(&lab, "hands", task("t.js", HANDS_ON, &["tasks:run"])).await;
    put(&lab, "good", task("t.js", "export const run = ({ n }) => n + 1", &[])).await;
    run(&lab, "good", json!({ "n": 1 })).await;
    let before = peak_mib();
    let id = begin(&lab, "long").await;
    let done = &ended_runs(&lab, "long", 1).await[0];
    assert_eq!((&done["state"], text(&done["id"])), (&json!("succeeded"), id.clone()), "{done}");
    assert!(length(&lab, &id).await > 4_000_000);
    let done = run(&lab, "hands", json!({})).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    let taken = ended_runs(&lab, "takes", 2).await;
    for run in &taken {
        assert_eq!(
            (&run["state"], &run["result"]),
            (&json!("succeeded"), &json!(600_000)),
            "{run}"
        );
        assert!(length(&lab, &text(&run["id"])).await > 4_000_000);
    }
    put(&lab, "floods", task("t.js", FLOODS, &["users:write"])).await;
    for answer in run(&lab, "floods", json!({})).await["result"].as_array().expect("answers") {
        assert!(text(&answer["detail"]).contains("20000 objects"), "{answer}");
    }
    hostile_tasks_do_not_stop_the_others(lab).await;
    let grown = peak_mib() - before;
    println!("the server has grown by {grown} MiB");
    assert!(grown <= GROWN_MIB_MAX, "the server has grown by {grown} MiB");
}

/// How long the view of a run is: built of values, it would take the memory that is looked at.
async fn length(lab: &Lab, id: &str) -> usize {
    let shown = lab.api(Method::GET, &format!("/runs/{id}")).send().await.expect("an answer");
    shown.bytes().await.expect("all of it").len()
}

#[test]
fn hostile_tasks_do_not_grow_the_server() {
    let program = std::env::current_exe().expect("the test program");
    let alone = ["tasks::hostile::alone", "--exact", "--ignored", "--nocapture"];
    let done = std::process::Command::new(program).args(alone).output().expect("it starts");
    let told = String::from_utf8_lossy(&done.stdout);
    let is_through = done.status.success() && told.contains("1 passed");
    assert!(is_through, "{told}{}", String::from_utf8_lossy(&done.stderr));
}

/// The most that this process, with its server, has had in memory.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let kib = line.trim().split(' ').next().and_then(|it| it.parse::<u64>().ok());
    kib.expect("a number") / 1024
}
