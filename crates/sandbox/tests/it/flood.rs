//! What a child cannot do to its parent by saying much: requests, answers that it does not read, a
//! log without end.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reauth_sandbox::{Host, Job, Limits, Outcome, Request, Response};
use serde_json::{Value, json};

use super::escape::{lying, say};
use super::{World, job, limits, run_within, sandbox};

fn fetch(id: u32, headers: &[(&str, &str)], body: &str) -> Value {
    let url = "http://api.test/echo";
    let request = json!({ "method": "POST", "url": url, "headers": headers, "body": body });
    json!({ "Fetch": { "id": id, "request": request } })
}

/// Never reads again.
fn turn_away() {
    std::thread::sleep(Duration::from_mins(1));
}

mod child {
    use super::*;

    #[test]
    #[ignore = "a child that asks much and reads nothing: started by the test below"]
    fn asks_and_never_reads() {
        lying(|socket| {
            (0..16).for_each(|id| say(socket, &fetch(id, &[], "")));
            turn_away();
        });
    }

    #[test]
    #[ignore = "a child with many headers: started by the test below"]
    fn has_a_million_headers() {
        lying(|socket| say(socket, &fetch(1, &vec![("", ""); 1_000_000], "")));
    }

    fn give_up(id: u32) -> Value {
        json!({ "GiveUp": { "id": id } })
    }

    #[test]
    #[ignore = "a child that gives up what it never asked for: started by the test below"]
    fn gives_up_what_is_not_there() {
        lying(|socket| say(socket, &give_up(7)));
    }

    #[test]
    #[ignore = "a child that gives up more than it asked for: started by the test below"]
    fn gives_up_twice() {
        lying(|socket| {
            say(socket, &fetch(1, &[], ""));
            (0..2).for_each(|_| say(socket, &give_up(1)));
        });
    }

    #[test]
    #[ignore = "a child whose requests are all called the same: started by the test below"]
    fn asks_by_one_number() {
        lying(|socket| (0..2).for_each(|_| say(socket, &fetch(1, &[], ""))));
    }

    #[test]
    #[ignore = "a child whose requests have been answered, or will be: started by the test below"]
    fn gives_up_each_once() {
        lying(|socket| {
            (1..=3).for_each(|id| say(socket, &fetch(id, &[], "")));
            // Whether the answer is on its way or not, nobody knows here.
            std::thread::sleep(Duration::from_millis(100));
            (1..=3).for_each(|id| say(socket, &give_up(id)));
            say(socket, &json!({ "End": { "Done": "calm" } }));
        });
    }

    fn begin(socket: &mut UnixStream) {
        say(socket, &json!({ "Head": { "status": 200, "headers": [], "body": "" } }));
    }

    #[test]
    #[ignore = "a child that answers nothing, again and again: started by the test below"]
    fn sends_empty_pieces() {
        lying(|socket| {
            begin(socket);
            say(socket, &json!({ "Piece": "" }));
        });
    }

    #[test]
    #[ignore = "a child that answers without end: started by the test below"]
    fn sends_piece_after_piece() {
        lying(|socket| {
            begin(socket);
            (0..1_000).for_each(|_| say(socket, &json!({ "Piece": "eA==" })));
        });
    }
}

/// Answers everything at length, and counts.
#[derive(Default)]
struct Generous(AtomicUsize);

impl Host for Generous {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let (url, body) = (request.url, vec![b'x'; 8 << 20]);
        Ok(Response { status: 200, status_text: "OK".into(), url, headers: Vec::new(), body })
    }
}

#[tokio::test]
async fn nothing_is_fetched_for_a_child_that_does_not_read() {
    let job = job("t.js", "export function run() {}", Value::Null);
    let limits = Limits { wall: Duration::from_secs(3), ..limits() };
    let world = Generous::default();
    let child = sandbox("flood::child::asks_and_never_reads");
    assert_eq!(child.run(&job, &limits, &world).await.outcome, Outcome::TimedOut);
    let fetched = world.0.into_inner();
    assert!((1..=8).contains(&fetched), "{fetched} answers of 8 MiB are held");
}

#[tokio::test]
async fn a_request_has_a_hundred_headers_at_most() {
    let too_many = Outcome::TooLarge { what: "a request of over 100 headers".into() };
    let job = job("t.js", "export function run() {}", Value::Null);
    let child = sandbox("flood::child::has_a_million_headers");
    let report = child.run(&job, &limits(), &World::default()).await;
    assert_eq!(report.outcome, too_many);
}

async fn told(entry: &str, limits: &Limits) -> Outcome {
    let web = json!({ "web": { "params": {}, "request": { "method": "GET", "url": "http://x/",
        "path": "/", "headers": [], "query": {}, "body": "" } } });
    let job = job("t.js", "export function run() {}", Value::Null);
    let job = Job { call: serde_json::from_value(web).expect("a call"), ..job };
    let child = sandbox(&format!("flood::child::{entry}"));
    child.run(&job, limits, &World::default()).await.outcome
}

#[tokio::test]
async fn who_says_what_no_honest_child_says_is_heard_no_more() {
    let lie = Outcome::Crashed { why: "the child said what was not asked".into() };
    let limits = Limits { wall: Duration::from_secs(5), ..limits() };
    for liar in
        ["gives_up_what_is_not_there", "gives_up_twice", "asks_by_one_number", "sends_empty_pieces"]
    {
        assert_eq!(told(liar, &limits).await, lie, "{liar}");
    }
    assert_eq!(told("gives_up_each_once", &limits).await, Outcome::Done(json!("calm").into()));
}

#[tokio::test]
async fn a_run_says_so_much_and_no_more() {
    let limits = Limits { wall: Duration::from_secs(5), frames_max: 900, ..limits() };
    let wanted = Outcome::TooLarge { what: "the number of messages, over 900,".into() };
    assert_eq!(told("sends_piece_after_piece", &limits).await, wanted);
    // An honest script, too: it is told what to do less of.
    let source = "export function run() { for (;;) console.log('again') }";
    assert_eq!(run_within(source, &limits).await.outcome, wanted);
}

#[tokio::test]
async fn long_requests_with_long_answers_all_get_through() {
    // More in both directions than is held: nobody waits for the other.
    let source = "export async function run() {
        const body = 'x'.repeat(5e6);
        const ask = () => fetch('http://api.test/echo', { method: 'POST', body })
            .then(async (answer) => (await answer.text()).length);
        const all = await Promise.all(Array.from({ length: 12 }, ask));
        return all.every((length) => length > 5e6); }";
    // Beside busy neighbours, on a slow machine, it takes ten times as long as alone.
    let wall = Duration::from_mins(3);
    let roomy = Limits { wall, cpu: wall, memory_bytes: 1 << 30, ..limits() };
    let report = run_within(source, &roomy).await;
    assert_eq!(report.outcome, Outcome::Done(Value::Bool(true).into()));
}

#[tokio::test]
async fn a_log_far_beyond_its_limit_ends_the_run() {
    let source = "export function run() { for (;;) console.log('again and again') }";
    let report = run_within(source, &Limits { log_bytes: 10_000, ..limits() }).await;
    assert_eq!(report.outcome, Outcome::TooLarge { what: "the log".into() });
    assert!(report.log_is_cut && report.log.len() > 100, "{}", report.log.len());
}

#[tokio::test]
async fn requests_that_were_given_up_leave_their_places() {
    let source = "export async function run() {
        const signal = AbortSignal.timeout(20);
        const never = Array.from({ length: 16 }, () =>
            fetch('http://api.test/never', { signal }).catch((error) => error.name));
        const names = await Promise.all(never);
        const echo = await fetch('http://api.test/echo', { method: 'POST', body: 'still here' });
        return [new Set(names).size, names[0], (await echo.json()).body]; }";
    let report = run_within(source, &limits()).await;
    let wanted = json!([1, "TimeoutError", "still here"]);
    assert_eq!(report.outcome, Outcome::Done(wanted.into()));
}
