//! What a script cannot do: take more than its share, hurt the parent, reach anything but the host.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use reauth_sandbox::{Guards, Limits, Outcome, drop_rights};
use serde_json::Value;

use super::{World, job, limits, run, run_within, sandbox};

fn short() -> Limits {
    Limits { wall: Duration::from_secs(3), cpu: Duration::from_secs(1), ..limits() }
}

/// It must end within the wall limit and a little, for want of time.
async fn must_run_out_of_time(source: &str) {
    let began = Instant::now(); // clock: measures
    // A fast machine fills the usual memory with promises in less than the time there is.
    let roomy = Limits { memory_bytes: 1 << 30, ..short() };
    let outcome = run_within(source, &roomy).await.outcome;
    assert!(matches!(outcome, Outcome::OutOfTime | Outcome::TimedOut), "{outcome:?}: {source}");
    assert!(began.elapsed() < Duration::from_secs(10), "{source}");
}

#[tokio::test]
async fn endless_work_ends_in_time() {
    for source in [
        "export function run() { for (;;) {} }",
        "export async function run() { for (;;) await null }",
        "export function run() { const go = () => Promise.resolve().then(go); return go() }",
        "export function run() { /^(a+)+$/.test('a'.repeat(40) + 'b') }",
        "export function run() { const s = 'a'.repeat(1e6); for (;;) s.indexOf('b') }",
        "for (;;) {} export function run() {}",
        "export function run() { return { toJSON() { for (;;) {} } } }",
        "export async function run() { setInterval(() => {}, 1); await new Promise(() => {}) }",
    ] {
        must_run_out_of_time(source).await;
    }
}

#[tokio::test]
async fn memory_bombs_end_as_out_of_memory() {
    let small = Limits { memory_bytes: 32 << 20, ..short() };
    for source in [
        "export function run() { const all = []; for (;;) all.push(new Uint8Array(1e6)) }",
        "export function run() { let s = 'x'; for (;;) s += s }",
        "export function run() { return 'x'.repeat(2 ** 29) + 'y'.repeat(2 ** 29) }",
        "export function run() { const m = new Map(); for (let i = 0;; i++) m.set(i, { i }) }",
    ] {
        let outcome = run_within(source, &small).await.outcome;
        let is_bounded = match &outcome {
            Outcome::OutOfMemory | Outcome::OutOfTime => true,
            // A string beyond the engine's own limit is an error of the script.
            Outcome::Threw { message, .. } => {
                message.contains("string") || message.contains("Range")
            }
            _ => false,
        };
        assert!(is_bounded, "{outcome:?}: {source}");
    }
    assert!(matches!(run("export function run() { return 1 }").await, Outcome::Done(_)));
    // The engine has no words for these, or even swallows them.
    for source in [
        "const all = []; export function run() { for (let i = 0;; i++) all.push({ i }) }",
        "const all = []; export async function run() { for (;;) all.push(await { i: 1 }) }",
    ] {
        let outcome =
            run_within(source, &Limits { cpu: limits().cpu, ..small.clone() }).await.outcome;
        assert_eq!(outcome, Outcome::OutOfMemory, "{source}");
    }
}

#[tokio::test]
async fn deep_recursion_is_an_error_of_the_script() {
    for source in [
        "export function run() { const f = (n) => f(n + 1) + 1; return f(0) }",
        "export function run() { let a = []; for (let i = 0; i < 1e6; i++) a = [a]; return a }",
        "export function run() { return JSON.parse('['.repeat(1e6)) }",
    ] {
        let outcome = run(source).await;
        assert!(matches!(outcome, Outcome::Threw { .. } | Outcome::OutOfMemory), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_cut_or_refused() {
    let limits = Limits { result_bytes: 1_000, log_bytes: 1_000, params_bytes: 100, ..limits() };
    let outcome = run_within("export function run() { return 'x'.repeat(2000) }", &limits).await;
    assert_eq!(outcome.outcome, Outcome::TooLarge { what: "the result".into() });
    let chatty = "export function run() { for (let i = 0; i < 500; i++) console.log('line', i) }";
    let report = run_within(chatty, &limits).await;
    assert_eq!(report.outcome, Outcome::Done(Value::Null.into()));
    assert!(report.log_is_cut && report.log.len() < 100, "{}", report.log.len());
    let job = job("t.js", "export function run() {}", Value::from("x".repeat(200)));
    let report = sandbox("sandbox_child").run(&job, &limits, &World::default()).await;
    assert_eq!(report.outcome, Outcome::TooLarge { what: "params".into() });
    let eager = Limits { fetches_max: 3, ..limits };
    let source = "export async function run() {
        for (;;) await fetch('http://api.test/nothing') }";
    let outcome = run_within(source, &eager).await.outcome;
    assert!(
        matches!(&outcome, Outcome::TooLarge { what } if what.contains("over 3,")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn tricks_with_the_language_lead_nowhere() {
    for source in [
        "export function run() { return typeof Function('return this')().native }",
        "export function run() { return typeof globalThis.native + typeof globalThis.require }",
        "export function run() { Object.prototype.Ok = { status: 200 }; return 1 }",
        "export async function run() {
            Promise.prototype.then = () => { throw 1 }; Object.prototype.toJSON = () => 'x';
            return { a: 1 } }",
        "export function run() { globalThis.JSON = null; return 1 }",
    ] {
        let outcome = run(source).await;
        let is_contained = matches!(outcome, Outcome::Done(_) | Outcome::Threw { .. });
        assert!(is_contained, "{outcome:?}: {source}");
        if let Outcome::Done(json) = outcome
            && let Ok(text) = json.read::<String>()
        {
            assert!(text == "undefined" || text == "undefinedundefined" || text == "x", "{text}");
        }
    }
}

/// A hostile child: it drops its rights like any other, then tries what it must not be able to do.
/// What succeeds is told on the socket.
fn hostile(attack: impl FnOnce() -> bool) -> ! {
    let mut socket = UnixStream::from(rustix::io::dup(rustix::stdio::stdin()).expect("a socket"));
    hear(&mut socket);
    let guards = drop_rights(&Limits::default());
    say(&mut socket, &serde_json::json!({ "Ready": guards }));
    // Whoever ends before it has heard its job has no end that counts.
    hear(&mut socket);
    let text = if attack() { "it succeeded" } else { "it failed" };
    say(&mut socket, &serde_json::json!({ "End": { "Done": text } }));
    std::process::exit(0)
}

fn hear(socket: &mut UnixStream) {
    let mut head = [0; 4];
    socket.read_exact(&mut head).expect("a frame");
    let mut frame = vec![0; u32::from_le_bytes(head) as usize];
    socket.read_exact(&mut frame).expect("a frame");
}

pub(super) fn say(socket: &mut UnixStream, frame: &Value) {
    let bytes = frame.to_string().into_bytes();
    let length = u32::try_from(bytes.len()).expect("a short frame");
    socket.write_all(&[&length.to_le_bytes(), bytes.as_slice()].concat()).expect("it is heard");
}

macro_rules! attacks {
    ($($name:ident: $attack:expr;)+) => {
        mod child {
            use super::*;
            $(
                #[test]
                #[ignore = "a hostile child: started by the test of the same name"]
                fn $name() {
                    hostile(|| $attack);
                }
            )+
        }

        $(
            #[tokio::test]
            async fn $name() {
                let entry = concat!("escape::child::", stringify!($name));
                must_fail(entry).await;
            }
        )+
    };
}

async fn must_fail(entry: &str) {
    let job = job("t.js", "export function run() {}", Value::Null);
    let report = sandbox(entry).run(&job, &limits(), &World::default()).await;
    if !Guards::is_complete(&report.guards) {
        println!("this kernel lacks some guards: {}", report.guards);
    }
    let is_contained = match &report.outcome {
        Outcome::Crashed { why } => why.contains("forbidden system call"),
        Outcome::Done(json) => json.text() == "\"it failed\"",
        _ => false,
    };
    assert!(is_contained, "{entry}: {:?}", report.outcome);
}

attacks! {
    a_child_cannot_read_a_file: std::fs::read("/etc/passwd").is_ok();
    a_child_cannot_write_a_file: std::fs::write("/tmp/reauth-escape", "x").is_ok();
    a_child_cannot_listen: TcpListener::bind("127.0.0.1:0").is_ok();
    a_child_cannot_connect: std::net::TcpStream::connect("127.0.0.1:1").is_ok();
    a_child_cannot_start_a_program: std::process::Command::new("/bin/true").status().is_ok();
    a_child_cannot_start_a_thread: std::thread::Builder::new().spawn(|| ()).is_ok();
    a_child_cannot_signal_others: rustix::process::kill_process(
        rustix::process::getppid().expect("a parent"), rustix::process::Signal::INT).is_ok();
    a_child_cannot_let_a_file_signal: rustix::fs::fcntl_setfl(
        rustix::stdio::stdin(),
        rustix::fs::OFlags::from_bits_retain(libc::O_ASYNC.unsigned_abs())).is_ok();
    a_child_cannot_lock_a_file: rustix::fs::fcntl_lock(
        rustix::stdio::stdin(), rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    a_child_cannot_raise_its_limits: rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(64), maximum: Some(64) }).is_ok();
}

/// Children that lie: each says this after an honest beginning.
pub(super) fn lying(say_what: impl FnOnce(&mut UnixStream)) -> ! {
    let mut socket = UnixStream::from(rustix::io::dup(rustix::stdio::stdin()).expect("a socket"));
    say(&mut socket, &serde_json::json!({ "Ready": Guards::default() }));
    say_what(&mut socket);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    std::process::exit(0)
}

macro_rules! lies {
    ($($name:ident: $lie:expr;)+) => {
        mod liar {
            use super::*;
            $(
                #[test]
                #[ignore = "a lying child: started by the test of the same name"]
                fn $name() {
                    lying($lie);
                }
            )+
        }

        $(
            #[tokio::test]
            async fn $name() {
                let job = job("t.js", "export function run() {}", Value::Null);
                let liar = sandbox(concat!("escape::liar::", stringify!($name)));
                let report = liar.run(&job, &limits(), &World::default()).await;
                assert!(matches!(report.outcome, Outcome::Crashed { .. }), "{report:?}");
            }
        )+
    };
}

lies! {
    a_frame_that_is_too_long_is_no_frame: |socket| {
        socket.write_all(&u32::MAX.to_le_bytes()).expect("it is heard");
    };
    a_frame_that_is_no_json_is_no_frame: |socket| {
        socket.write_all(&[3, 0, 0, 0, b'{', 0xff, b'x']).expect("it is heard");
    };
    a_frame_of_an_unknown_kind_is_no_frame: |socket| {
        say(socket, &serde_json::json!({ "Mint": { "scopes": ["operator"] } }));
    };
    a_child_begins_once: |socket| {
        say(socket, &serde_json::json!({ "Ready": Guards::default() }));
    };
    what_is_no_web_task_answers_in_no_pieces: |socket| {
        let head = serde_json::json!({ "status": 200, "headers": [], "body": "" });
        say(socket, &serde_json::json!({ "Head": head }));
    };
    a_piece_has_a_head_before_it: |socket| {
        say(socket, &serde_json::json!({ "Piece": "aGVsbG8=" }));
    };
    a_child_that_aborts_is_a_crash: |_| std::process::abort();
    a_child_that_breaks_off_is_a_crash: |socket| {
        socket.write_all(&[200, 0, 0, 0, b'{']).expect("it is heard");
        std::process::exit(3);
    };
}

#[tokio::test]
async fn a_text_that_exhausts_the_compiler_ends_a_child_only() {
    let sandbox = sandbox("sandbox_child");
    for (open, rest) in [("[", ""), ("(", ""), ("!", "1"), ("{a:", ""), ("`${", ""), ("a?", "")] {
        for language in ["deep.js", "deep.ts"] {
            let source = format!("export const x = {}{rest}", open.repeat(100_000));
            let files = BTreeMap::from([(language.to_owned(), source)]);
            let compiled = sandbox.compile(language, &files, &limits()).await;
            assert!(compiled.is_err(), "{open} {language}");
        }
    }
    let files = BTreeMap::from([("a.ts".to_owned(), "export const run = (): number => 1".into())]);
    let compiled = sandbox.compile("a.ts", &files, &limits()).await;
    assert_eq!(compiled.expect("it compiles").exports, ["run"]);
}

#[tokio::test]
async fn a_flood_of_requests_waits_in_the_child() {
    // 36 requests of 1 MB at once: more than is held for a child, and all are answered.
    let source = "export async function run() {
        const body = 'x'.repeat(1e6);
        const all = Array.from({ length: 36 }, () => fetch('http://api.test/echo',
            { method: 'POST', body }).then((answer) => answer.text()));
        let bytes = 0;
        for (const text of await Promise.all(all)) bytes += text.length;
        return bytes > 3.6e7; }";
    // Beside busy neighbours it takes several times as long as alone.
    let (wall, cpu) = (Duration::from_mins(1), Duration::from_secs(20));
    let roomy = Limits { wall, cpu, memory_bytes: 1 << 30, ..limits() };
    let report = run_within(source, &roomy).await;
    assert_eq!(report.outcome, Outcome::Done(Value::Bool(true).into()));
}

#[tokio::test]
async fn a_long_script_and_a_full_heap_have_room_in_the_process() {
    // What the compiler takes, and what the process copies beside a heap that is nearly full.
    let line = "export const f = (a: number): number => a + 1; // what is said of it, at length\n";
    let lines = (0..12_000).map(|n| line.replace("const f", &format!("const f{n}")));
    let files = BTreeMap::from([("long.ts".to_owned(), lines.collect::<String>())]);
    let compiled = sandbox("sandbox_child").compile("long.ts", &files, &limits()).await;
    assert_eq!(compiled.expect("it compiles").exports.len(), 12_000);
    let source = "export async function run() {
        const full = new Uint8Array(80e6).fill(1);
        const body = 'x'.repeat(4e6);
        const answer = await fetch('http://api.test/echo', { method: 'POST', body });
        return (await answer.text()).length > 4e6 && full[1] === 1; }";
    assert_eq!(run(source).await, Outcome::Done(Value::Bool(true).into()));
}
