//! Web tasks: asked at their own address, by whom their `authenticate` lets in.

use std::time::Duration;

use reauth_server::domain::Span;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::runs::until;
use super::{put, task};
use crate::both;
use crate::lab::{Lab, good, refused, text};

both!(
    a_web_task_answers_whom_it_lets_in,
    an_answer_comes_as_it_is_made,
    what_a_script_may_answer_is_bounded,
    a_web_task_without_authenticate_is_broken_and_says_so_in_its_run,
    only_web_tasks_have_an_address,
    who_asks_too_often_is_refused_before_anything_is_written,
    a_client_may_wait_for_longer_than_it_may_be_silent,
);

const HELLO: &str = "
    export function authenticate({ request, access, params }) {
        if (request.headers.get('x-key') === process.env.KEY) {
            return access.authorized({ who: params.who ?? 'nobody' });
        }
        return params.rude ? access.unauthorized({ status: 418, body: { no: true } })
            : access.unauthorized();
    }
    export function get({ params, request, response, authContext }) {
        if (params.html) {
            response.headers.set('content-type', 'text/html');
            return '<p>hello';
        }
        return { hello: authContext.who, path: request.path, q: request.query.q ?? null };
    }
    export async function post({ params, response }) {
        response.status = 201;
        return { got: params };
    }";

pub(super) fn web(source: &str) -> Value {
    let mut wanted = task("t.js", source, &[]);
    wanted["web"] = json!(true);
    wanted["env"] = json!({ "KEY": "sesame" });
    wanted
}

fn ask(lab: &Lab, method: Method, rest: &str) -> reqwest::RequestBuilder {
    lab.bare(method, &format!("/tasks/{}/hello{rest}", lab.app))
}

async fn a_web_task_answers_whom_it_lets_in(lab: Lab) {
    let made = put(&lab, "hello", web(HELLO)).await;
    assert_eq!(made["web"], format!("{}/tasks/{}/hello", lab.url, lab.app));
    let stranger = ask(&lab, Method::GET, "").send().await.expect("an answer");
    assert_eq!(stranger.status(), 401);
    let rude = ask(&lab, Method::GET, "?rude=1").send().await.expect("an answer");
    assert_eq!(rude.status(), 418);
    assert_eq!(rude.json::<Value>().await.expect("JSON"), json!({ "no": true }));
    let request = ask(&lab, Method::GET, "/a/b?who=ann&q=1").header("x-key", "sesame");
    let friend = request.send().await.expect("an answer");
    assert_eq!(
        (friend.status().as_u16(), &friend.headers()["content-type"]),
        (200, &"application/json".parse().expect("a value"))
    );
    let run = friend.headers()["reauth-run"].to_str().expect("a text").to_owned();
    let body: Value = friend.json().await.expect("JSON");
    assert_eq!(body, json!({ "hello": "ann", "path": "/a/b", "q": "1" }));
    let request = ask(&lab, Method::POST, "").header("x-key", "sesame");
    let made = request.json(&json!({ "n": 1 })).send().await.expect("an answer");
    assert_eq!(made.status(), 201);
    assert_eq!(made.json::<Value>().await.expect("JSON"), json!({ "got": { "n": 1 } }));
    let request = ask(&lab, Method::DELETE, "").header("x-key", "sesame");
    assert_eq!(request.send().await.expect("an answer").status(), 405);
    let kept = lab.get(&format!("/runs/{run}")).await;
    assert_eq!((&kept["trigger"], &kept["state"]), (&json!("web"), &json!("succeeded")));
    assert_eq!(kept["params"], json!({ "method": "GET", "path": "/a/b" }), "not what was sent");
    assert_eq!(kept["result"], json!({ "status": 200 }));
}

async fn an_answer_comes_as_it_is_made(lab: Lab) {
    let source = "export const authenticate = ({ access }) => access.authorized();
        export async function* get({ params }) {
            yield 'one, ';
            while (await DB.user.all().count() < Number(params.users)) {
                await new Promise(done => setTimeout(done, 20));
            }
            if (params.fails) throw new Error('no more');
            yield 'two';
        }";
    let mut wanted = web(source);
    wanted["scopes"] = json!(["users:read"]);
    put(&lab, "hello", wanted).await;
    let begin = async |rest: &str| {
        let mut answer = ask(&lab, Method::GET, rest).send().await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.chunk().await.expect("a piece").as_deref(), Some(&b"one, "[..]));
        let run = text(&json!(answer.headers()["reauth-run"].to_str().expect("a text")));
        (answer, run)
    };
    // Nobody is there yet: what has come was not held back for what has not.
    let (whole, first) = begin("?users=1").await;
    lab.user("ann").await;
    assert_eq!(whole.text().await.expect("the rest"), "two");
    let (broken, second) = begin("?users=2&fails=1").await;
    // Nobody waits for more of it: it ends although the one that it waits for never comes.
    let (gone, third) = begin("?users=3").await;
    drop(gone);
    let left = until(&lab, &third, "cancelled").await;
    assert_eq!(left["error"]["kind"], "cancelled", "{left}");
    assert!(text(&left["error"]["message"]).contains("whoever asked left"), "{left}");
    lab.user("bob").await;
    assert!(broken.text().await.is_err(), "nobody takes it for whole");
    for (run, wanted) in [(first, "succeeded"), (second, "failed")] {
        until(&lab, &run, wanted).await;
    }
}

async fn what_a_script_may_answer_is_bounded(lab: Lab) {
    put(&lab, "hello", web(HELLO)).await;
    let request = ask(&lab, Method::GET, "?html=1").header("x-key", "sesame");
    let page = request.send().await.expect("an answer");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(
        page.headers()["content-security-policy"].to_str().expect("a text").contains("sandbox")
    );
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let odd = "export const authenticate = ({ access }) => access.authorized();
        export function get({ response, params }) {
            if (params.type) response.headers.set('content-type', params.type);
            response.headers.set('set-cookie', 'session=stolen');
            response.headers.set('x-mine', 'yes');
            response.headers.set('x-accel-redirect', '/etc/passwd');
            response.status = params.status ? Number(params.status) : 200;
            return 'text'; }";
    put(&lab, "hello", web(odd)).await;
    let plain = ask(&lab, Method::GET, "").send().await.expect("an answer");
    assert_eq!(plain.headers()["x-mine"], "yes");
    assert!(plain.headers().get("set-cookie").is_none(), "a script speaks for no origin");
    assert!(plain.headers().get("x-accel-redirect").is_none(), "nor to the proxy");
    let told = ask(&lab, Method::GET, "?type=Text/HTML%20;%20charset=%22utf-8%22").send().await;
    assert_eq!(told.expect("an answer").headers()["content-type"], "Text/HTML ; charset=\"utf-8\"");
    for rest in [
        "?status=99",
        "?status=1000",
        "?type=text/javascript",
        // A browser may go by the last of several.
        "?type=text/plain;,image/svg%2Bxml",
        "?type=text/plain;charset=x,image/svg%2Bxml",
        "?type=text/plain,text/javascript",
        "?type=text/plain;version=2",
    ] {
        refused(ask(&lab, Method::GET, rest), 500, "INTERNAL_SERVER_ERROR").await;
    }
    // Who is refused while it is still sending may hear of it, or of a connection that is gone.
    let sent = ask(&lab, Method::POST, "").body("x".repeat((5 << 20) + 1)).send().await;
    assert!(sent.is_err() || sent.is_ok_and(|answer| answer.status() == 413));
}

async fn a_web_task_without_authenticate_is_broken_and_says_so_in_its_run(lab: Lab) {
    for (source, wanted) in [
        (
            "export function run() {} export function get() { return 1 }",
            "does not export a function named authenticate",
        ),
        (
            "export const authenticate = () => true; export function get() { return 1 }",
            "access.authorized() or access.unauthorized()",
        ),
        (
            "export const authenticate = ({ access }) => ({ ...access.authorized() });
             export function get() { return 1 }",
            "access.authorized() or access.unauthorized()",
        ),
    ] {
        put(&lab, "hello", web(source)).await;
        let body = refused(ask(&lab, Method::GET, ""), 500, "INTERNAL_SERVER_ERROR").await;
        assert!(!text(&body["detail"]).contains("authenticate"), "a stranger is told less");
        let last = lab.get("/tasks/hello/runs?limit=1").await["objects"][0].clone();
        assert!(text(&last["error"]["message"]).contains(wanted), "{last}");
    }
}

async fn only_web_tasks_have_an_address(lab: Lab) {
    put(&lab, "hello", task("t.js", HELLO, &[])).await;
    refused(ask(&lab, Method::GET, ""), 404, "ROUTE_ERROR").await;
    let path = format!("/tasks/{}/missing", lab.app);
    refused(lab.bare(Method::GET, &path), 404, "ROUTE_ERROR").await;
    let path = "/tasks/000000000000000000000000/hello";
    refused(lab.bare(Method::GET, path), 404, "ROUTE_ERROR").await;
    assert_eq!(lab.get("/runs").await["total"], 0, "nobody's request is nobody's run");
}

async fn who_asks_too_often_is_refused_before_anything_is_written(mut lab: Lab) {
    lab.config.tasks.web_per_minute = 2;
    lab.restart().await;
    put(&lab, "hello", web(HELLO)).await;
    let other = lab.operator_post("/admin/apps", json!({ "name": "till" })).await;
    let other = text(&other["id"]);
    let path = format!("/api/v4/{other}/tasks/hello");
    let request = lab.bare(Method::PUT, &path).bearer_auth(&lab.operator);
    good(request.json(&web(HELLO))).await;
    // Whom `authenticate` refuses is counted too: to hear it is a run.
    for _ in 0..2 {
        refused_by_task(ask(&lab, Method::GET, "")).await;
    }
    let head = lab.head().await;
    for _ in 0..3 {
        asks_too_often(&lab, "30").await;
    }
    assert_eq!((lab.head().await, lab.get("/runs").await["total"].as_i64()), (head, Some(2)));
    refused_by_task(lab.bare(Method::GET, &format!("/tasks/{other}/hello"))).await;
    lab.pass(Span::seconds(29));
    asks_too_often(&lab, "1").await;
    lab.pass(Span::seconds(1));
    refused_by_task(ask(&lab, Method::GET, "")).await;
    asks_too_often(&lab, "30").await;
    // Who waits for longer has saved up no more than the bound.
    lab.pass(Span::hours(1));
    for _ in 0..2 {
        refused_by_task(ask(&lab, Method::GET, "")).await;
    }
    asks_too_often(&lab, "30").await;
    let metrics = lab.bare(Method::GET, "/metrics").send().await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    assert!(metrics.contains("reauth_web_requests_refused_total 6"), "{metrics}");
}

/// Refused before the task has run; for so many seconds.
async fn asks_too_often(lab: &Lab, seconds: &str) {
    let answer = ask(lab, Method::GET, "").send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().get("reauth-run")), (429, None));
    assert_eq!(answer.headers()["retry-after"], seconds);
    assert_eq!(answer.json::<Value>().await.expect("JSON")["type"], "TOO_MANY_REQUESTS");
}

/// The task has run, and its `authenticate` said no.
async fn refused_by_task(request: reqwest::RequestBuilder) {
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    assert!(answer.headers().contains_key("reauth-run"));
}

async fn a_client_may_wait_for_longer_than_it_may_be_silent(mut lab: Lab) {
    let slow = "export function authenticate({ access }) { return access.authorized() }
        export async function get() {
            await new Promise(done => setTimeout(done, 900));
            return 'at last';
        }";
    put(&lab, "hello", web(slow)).await;
    lab.config.requests.read_timeout_ms = 300;
    lab.restart().await;
    let connection = TcpStream::connect(lab.server().app().address).await.expect("a connection");
    let mut connection = BufReader::new(connection);
    let slow = format!("/tasks/{}/hello", lab.app);
    for (path, status) in [(slow.as_str(), "200"), ("/check", "401")] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("it is sent");
        let mut first = String::new();
        connection.read_line(&mut first).await.expect("an answer");
        assert!(first.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {first}");
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(connection.read_line(&mut head).await.expect("a line"), 0, "{head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok()).expect("a length");
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await.expect("a body");
    }
    // Now it is for the client to speak.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), connection.read_to_end(&mut rest));
    assert_eq!(ended.await.expect("it is closed").expect("the end"), 0);
}
