//! What a run takes of its parent's memory, at the most: scripts and children that want all of it,
//! each in turn, in a parent that does nothing else.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use reauth_sandbox::{Host, Limits, Outcome, Part, Request, Response};
use serde_json::{Value, json};

use super::escape::{lying, say};
use super::{job, limits, run_within, sandbox};

/// As long as a frame may be at the most: it is there as it came, as it was read and as its part
/// that is kept, and as the allocator has not given it back.
const FRAME_MIB: u64 = 11;
const SPOKEN_MIB_MAX: u64 = 4 * FRAME_MIB;
/// Requests and answers that are held for a run (`held.rs`). An answer is written down as a frame,
/// which it is beside for a moment, and some of what has gone is not given back at once.
const HELD_MIB: u64 = 64;
const HELD_MIB_MAX: u64 = 2 * HELD_MIB + SPOKEN_MIB_MAX;

/// What wants memory in the parent by what it says, many times as much as there is.
const SPEAK: [&str; 9] = [
    "for (;;) console.log('x'.repeat(1e5))",
    "console.log('x'.repeat(2e7))",
    "return 'x'.repeat(2 ** 30).repeat(2)",
    "return 'x'.repeat(5e6)",
    "throw new Error('x'.repeat(2e7))",
    "return Array(2.4e6).fill(0)",
    "return Array(6e5).fill({ '': 0 })",
    "let deep = []; for (let i = 0; i < 1e6; i++) deep = [deep]; return deep",
    "const all = []; for (;;) all.push(Promise.resolve().then(() => all.push(1)))",
];

/// What wants it by what it asks.
const ASK: [&str; 2] = [
    "const body = 'x'.repeat(1e6); for (;;) fetch('http://api.test/', { method: 'POST', body })",
    "const body = 'x'.repeat(1e6); await Promise.all(Array.from({ length: 100 }, () =>
        fetch('http://api.test/', { method: 'POST', body })))",
];

/// Answers everything at length.
struct Generous;

impl Host for Generous {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let (url, body) = (request.url, vec![b'x'; 8 << 20]);
        Ok(Response { status: 200, status_text: "OK".into(), url, headers: Vec::new(), body })
    }

    async fn answer(&self, _: Part) {}
}

/// A frame of much that is short, of which each takes memory of its own.
fn say_many(socket: &mut UnixStream, around: [&str; 2], one: &str) {
    let [before, after] = around;
    let all = vec![one; LONG / (one.len() + 1)].join(",");
    let frame = format!("{before}[{all}]{after}");
    let length = u32::try_from(frame.len()).expect("a short frame");
    socket.write_all(&[&length.to_le_bytes(), frame.as_bytes()].concat()).expect("it is heard");
}

fn fetch(id: u32, body: &str) -> Value {
    let request = json!({ "method": "POST", "url": "http://api.test/", "headers": [], "body": body,
        "redirect": "follow" });
    json!({ "Fetch": { "id": id, "request": request } })
}

/// Nearly as long as a frame may be.
const LONG: usize = 10 << 20;

mod liar {
    use super::*;

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn asks_at_length_and_never_reads() {
        let body = "eHh4".repeat(LONG / 4);
        lying(|socket| (0..u32::MAX).for_each(|id| say(socket, &fetch(id, &body))));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn asks_briefly_and_never_reads() {
        lying(|socket| (0..u32::MAX).for_each(|id| say(socket, &fetch(id, ""))));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn speaks_without_end() {
        let line = json!({ "Log": { "at_ms": 0, "level": "log", "text": "x".repeat(LONG) } });
        lying(|socket| (0..u32::MAX).for_each(|_| say(socket, &line)));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn has_many_headers() {
        let before = r#"{"Fetch":{"id":1,"request":{"method":"GET","url":"x","headers":"#;
        let after = r#","body":"","redirect":"follow"}}}"#;
        lying(|socket| say_many(socket, [before, after], r#"["",""]"#));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn ends_with_many_numbers() {
        lying(|socket| say_many(socket, [r#"{"End":{"Done":"#, "}}"], "0"));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn ends_with_many_objects() {
        lying(|socket| say_many(socket, [r#"{"End":{"Done":"#, "}}"], r#"{"":0}"#));
    }

    #[test]
    #[ignore = "a child that wants its parent's memory: started by the parent below"]
    fn has_compiled_much() {
        let before = r#"{"Compiled":{"Ok":{"script":{"entry":"","modules":[]},"exports":"#;
        lying(|socket| say_many(socket, [before, r#","config":{}}}}"#], r#""""#));
    }
}

const SPEAKING_LIARS: [&str; 5] = [
    "speaks_without_end",
    "has_many_headers",
    "ends_with_many_numbers",
    "ends_with_many_objects",
    "has_compiled_much",
];
const ASKING_LIARS: [&str; 2] = ["asks_at_length_and_never_reads", "asks_briefly_and_never_reads"];

/// Goes through it all, and looks at the memory after each.
#[tokio::test]
#[ignore = "a parent whose memory is looked at: started by the test below"]
async fn parent() {
    let done = run_within("export function run() {}", &limits()).await.outcome;
    assert_eq!(done, Outcome::Done(Value::Null.into()));
    let before = peak_mib();
    let is_flat = |what: &str, outcome: Outcome, grown_mib_max: u64| {
        let grown = peak_mib() - before;
        let told: String = format!("{outcome:?}").chars().take(100).collect();
        println!("{grown} MiB more after {what}: {told}");
        assert!(grown <= grown_mib_max, "{grown} MiB more after {what}: {told}");
    };
    // Who speaks comes to an end; who asks goes on.
    for (bodies, liars, wall_s, grown_mib_max) in [
        (&SPEAK[..], &SPEAKING_LIARS[..], 10, SPOKEN_MIB_MAX),
        (&ASK[..], &ASKING_LIARS[..], 2, HELD_MIB_MAX),
    ] {
        for body in bodies {
            let source = format!("export async function run() {{ {body} }}");
            is_flat(body, outcome("sandbox_child", &source, wall_s).await, grown_mib_max);
        }
        for liar in liars {
            let entry = format!("memory::liar::{liar}");
            is_flat(liar, outcome(&entry, "export function run() {}", wall_s).await, grown_mib_max);
        }
    }
}

async fn outcome(entry: &str, source: &str, wall_s: u64) -> Outcome {
    let (wall, cpu) = (Duration::from_secs(wall_s), Duration::from_secs(1));
    let limits = Limits { wall, cpu, ..limits() };
    let job = job("t.js", source, Value::Null);
    sandbox(entry).run(&job, &limits, &Generous).await.outcome
}

/// The most that this process has had in memory.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    let kib = line.trim().split(' ').next().and_then(|it| it.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

#[test]
fn the_memory_of_a_parent_stays_flat_whatever_a_run_wants_of_it() {
    let program = std::env::current_exe().expect("the test program");
    let parent = ["memory::parent", "--exact", "--ignored", "--nocapture"];
    let done = std::process::Command::new(program).args(parent).output().expect("it starts");
    let told = String::from_utf8_lossy(&done.stdout);
    let is_through = done.status.success() && told.contains("1 passed");
    assert!(is_through, "{told}{}", String::from_utf8_lossy(&done.stderr));
}
