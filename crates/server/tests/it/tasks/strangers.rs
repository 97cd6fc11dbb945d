//! Web tasks are asked by anybody: what slow, silent and greedy clients can do to a server.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::web::web;
use super::{put, run, task};
use crate::both;
use crate::lab::{Lab, good, text};

both!(
    who_reads_slowly_gets_it_all_and_who_reads_nothing_is_cut_off,
    long_bodies_that_do_not_come_hold_room_of_one_app_alone,
    a_short_body_of_unknown_length_leaves_its_room,
    a_run_is_carried_out_at_whichever_moment_whoever_asked_hangs_up,
);

/// 16 MiB: more than lies in the sockets between.
const PIECES: usize = 64;
const PIECE_BYTES: usize = 262_144;
const LONG: &str = "export const authenticate = ({ access }) => access.authorized();
    export async function* get() {
        const piece = 'x'.repeat(262144);
        for (let number = 0; number < 64; number += 1) yield piece;
    }
    export function post() { return 'heard' }";

async fn asked(lab: &Lab, head: &str) -> TcpStream {
    let address = lab.server().app().address;
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{} HTTP/1.1\r\nhost: x\r\n", head.replace("APP", &lab.app));
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    stream
}

async fn who_reads_slowly_gets_it_all_and_who_reads_nothing_is_cut_off(mut lab: Lab) {
    put(&lab, "long", web(LONG)).await;
    lab.config.requests.read_timeout_ms = 400;
    lab.restart().await;
    let mut silent = asked(&lab, "GET /tasks/APP/long").await;
    silent.write_all(b"\r\n").await.expect("it is sent");
    let mut slow = asked(&lab, "GET /tasks/APP/long").await;
    slow.write_all(b"\r\n").await.expect("it is sent");
    let (mut bytes, mut buffer) = (0, vec![0; PIECE_BYTES]);
    loop {
        // Slow as a far network is: all of it takes several times as long as silence may.
        tokio::time::sleep(Duration::from_millis(15)).await;
        let read = slow.read(&mut buffer).await.expect("it goes on");
        bytes += read;
        if buffer[..read].ends_with(b"0\r\n\r\n") {
            break;
        }
        assert!(read > 0, "it broke off after {bytes} bytes");
    }
    assert!(bytes > PIECES * PIECE_BYTES);
    // The run of whoever reads nothing ends when their connection is cut off.
    let ended = async {
        loop {
            let runs = lab.get("/runs").await;
            let states = runs["objects"].as_array().expect("runs").iter();
            let mut states: Vec<String> = states.map(|run| text(&run["state"])).collect();
            states.sort();
            if states == ["cancelled", "succeeded"] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("both runs end");
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut rest)).await;
    drop(read.expect("it is closed"));
    assert!(rest.len() < PIECES * PIECE_BYTES, "not all of it");
}

async fn long_bodies_that_do_not_come_hold_room_of_one_app_alone(lab: Lab) {
    put(&lab, "long", web(LONG)).await;
    let till = text(&lab.operator_post("/admin/apps", json!({ "name": "till" })).await["id"]);
    let path = format!("/api/v4/{till}/tasks/long");
    good(lab.bare(Method::PUT, &path).bearer_auth(&lab.operator).json(&web(LONG))).await;
    put(&lab, "size", task("t.js", "export const run = ({ text }) => text.length", &[])).await;
    let mut all = Vec::new();
    for _ in 0..13 {
        let mut stream = asked(&lab, "POST /tasks/APP/long").await;
        stream.write_all(b"content-length: 5000000\r\n\r\n{").await.expect("it is sent");
        all.push(stream);
    }
    // Without a token there is no room at all for long params.
    let mut stream = asked(&lab, "POST /api/v4/APP/tasks/size/run").await;
    stream.write_all(b"content-length: 5000000\r\n\r\n{").await.expect("it is sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    let long = json!({ "text": "x".repeat(2 << 20) });
    let meanwhile = async {
        assert_eq!(run(&lab, "size", long.clone()).await["result"], 2 << 20);
        let posted = lab.bare(Method::POST, &format!("/tasks/{till}/long")).json(&long).send();
        assert_eq!(posted.await.expect("an answer").status(), 200, "another app's");
    };
    let mut first_refused = futures_util::future::select_all(all.iter_mut().map(|stream| {
        Box::pin(async {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.map(|_| answer)
        })
    }));
    tokio::select! {
        _ = &mut first_refused => panic!("the others were served while room was scarce"),
        () = meanwhile => {}
    }
    let last = tokio::time::timeout(Duration::from_secs(12), first_refused).await;
    let last = last.expect("one is answered").0.expect("an answer");
    assert_eq!(&last, b"HTTP/1.1 429");
    // Others are answered as ever.
    let short = lab.bare(Method::GET, &format!("/tasks/{}/missing", lab.app)).send();
    assert_eq!(short.await.expect("an answer").status(), 404);
}

/// Before, while, and after the run is written down.
async fn a_run_is_carried_out_at_whichever_moment_whoever_asked_hangs_up(lab: Lab) {
    put(&lab, "long", web(LONG)).await;
    let states = async || -> Vec<String> {
        let runs = lab.get("/runs?limit=1000").await["objects"].clone();
        runs.as_array().expect("runs").iter().map(|run| text(&run["state"])).collect()
    };
    let hang_up = async {
        // How long it takes until a run is written down is the machine's: later and later.
        for turn in 0_u64.. {
            let mut stream = asked(&lab, "POST /tasks/APP/long").await;
            stream.write_all(b"content-length: 2\r\n\r\n{}").await.expect("it is sent");
            tokio::time::sleep(Duration::from_micros(turn * 120)).await;
            if turn % 30 == 29 && states().await.len() > 20 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), hang_up).await.expect("many have begun");
    // The last request that was written down is followed by one that is answered.
    let get = lab.bare(Method::POST, &format!("/tasks/{}/long", lab.app)).json(&json!({}));
    assert_eq!(get.send().await.expect("an answer").status(), 200);
    let ended = async {
        while states().await.iter().any(|state| state != "succeeded") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("all runs end");
}

/// A proxy that does not say how long a body is has as many answered at once as any other.
async fn a_short_body_of_unknown_length_leaves_its_room(lab: Lab) {
    let slow = "export const authenticate = ({ access }) => access.authorized();
        export const post = () => new Promise((go) => setTimeout(() => go('heard'), 3000))";
    put(&lab, "long", web(slow)).await;
    let mut all = Vec::new();
    for _ in 0..7 {
        let mut stream = asked(&lab, "POST /tasks/APP/long").await;
        let chunked = b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        stream.write_all(chunked).await.expect("it is sent");
        all.push(stream);
    }
    for stream in &mut all {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}
