//! What a child cannot do to its parent by saying much: requests, answers that it does not read, a
//! log without end.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reauth_sandbox::{Host, Limits, Outcome, Request, Response};
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

    #[test]
    #[ignore = "a child that gives up what it never asked for: started by the test below"]
    fn gives_up_what_is_not_there() {
        lying(|socket: &mut UnixStream| {
            say(socket, &json!({ "GiveUp": { "id": 7 } }));
            say(socket, &fetch(1, &[], ""));
            (0..2).for_each(|_| say(socket, &json!({ "GiveUp": { "id": 1 } })));
            say(socket, &json!({ "End": { "Done": "calm" } }));
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

#[tokio::test]
async fn who_gives_up_what_is_not_there_disturbs_nothing() {
    let job = job("t.js", "export function run() {}", Value::Null);
    let child = sandbox("flood::child::gives_up_what_is_not_there");
    let report = child.run(&job, &limits(), &World::default()).await;
    assert_eq!(report.outcome, Outcome::Done(json!("calm").into()));
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
    // Beside busy neighbours it takes several times as long as alone.
    let (wall, cpu) = (Duration::from_mins(1), Duration::from_secs(20));
    let roomy = Limits { wall, cpu, memory_bytes: 1 << 30, ..limits() };
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
