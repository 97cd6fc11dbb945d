//! What a task reaches of the world: hosts that are allowed, at addresses that were looked at, and
//! nothing that these lead to beside them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::any;
use serde_json::{Value, json};

use super::{put, run, task};
use crate::both;
use crate::lab::{Lab, text};

both!(
    a_redirect_is_followed_only_to_what_is_allowed_itself,
    a_script_chooses_what_a_redirect_does,
    credentials_do_not_follow_a_redirect_to_another_origin,
    a_loop_and_a_flood_come_to_an_end,
    a_name_that_leads_inside_is_refused_unless_its_network_is_allowed,
    our_own_api_is_reached_under_its_public_url_too,
    a_task_names_its_hosts_and_the_operator_the_networks,
);

/// A peer on loopback that counts its requests: `/echo` tells what was asked, `/to?status=&url=`
/// leads on, `/loop` to itself, `/flood` never ends.
struct Peer {
    origin: String,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    async fn new() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let router = axum::Router::new()
            .route("/echo", any(echo))
            .route("/to", any(to))
            .route("/loop", any(round))
            .route("/flood", any(flood))
            .with_state(Arc::clone(&asked));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { origin: format!("http://{address}"), asked }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// A URL of this peer that leads to another.
    fn leading(&self, status: u16, to: &str) -> String {
        let mut url = reqwest::Url::parse(&self.url("/to")).expect("a URL");
        url.query_pairs_mut().append_pair("status", &status.to_string()).append_pair("url", to);
        url.to_string()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

type Asked = State<Arc<AtomicUsize>>;

async fn echo(
    State(asked): Asked,
    (method, uri): (Method, Uri),
    headers: HeaderMap,
    body: Bytes,
) -> axum::Json<Value> {
    asked.fetch_add(1, Ordering::SeqCst);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    axum::Json(json!({
        "method": method.as_str(), "path": uri.path(), "body": String::from_utf8_lossy(&body),
        "host": header("host"), "authorization": header("authorization"),
        "cookie": header("cookie"), "type": header("content-type"), "note": header("x-note"),
        "te": header("te"),
    }))
}

async fn to(
    State(asked): Asked,
    Query(wanted): Query<std::collections::HashMap<String, String>>,
) -> impl IntoResponse {
    asked.fetch_add(1, Ordering::SeqCst);
    let status: StatusCode = wanted["status"].parse().expect("a status");
    (status, [("location", wanted["url"].clone())], "it is elsewhere")
}

async fn round(State(asked): Asked) -> impl IntoResponse {
    asked.fetch_add(1, Ordering::SeqCst);
    (StatusCode::FOUND, [("location", "/loop")])
}

/// It counts its chunks.
async fn flood(State(asked): Asked) -> Body {
    let chunks = futures_util::stream::repeat_with(move || {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from(vec![b'x'; 1 << 16]))
    });
    Body::from_stream(chunks)
}

const FETCH: &str = "export async function run({ url, init, own }) {
    try {
        const target = own ? url + new URL(this.backend.url).pathname + '/users' : url;
        if (own) init = { headers: { Authorization: `Token ${this.backend.token}` } };
        const answer = await fetch(target, init);
        const text = await answer.text();
        let body = text; try { body = JSON.parse(text) } catch {}
        return { status: answer.status, url: answer.url, body,
                 location: answer.headers.get('location') };
    } catch (error) { return `${error.name}: ${error.message}` }
}";

/// Allows these origins to every task, and puts the task that fetches.
async fn allow(lab: &mut Lab, origins: &[&str]) {
    lab.config.tasks.fetch_allowed = origins.iter().map(|&origin| origin.to_owned()).collect();
    lab.restart().await;
    put(lab, "fetch", task("t.js", FETCH, &["users:read"])).await;
}

/// What a task's `fetch` answers; a text is why there is no answer.
async fn fetch(lab: &Lab, params: Value) -> Value {
    let run = run(lab, "fetch", params).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    run["result"].clone()
}

/// It must be refused, with these words.
async fn must_refuse(lab: &Lab, params: Value, words: &[&str]) {
    let answer = fetch(lab, params.clone()).await;
    let why = answer.as_str().unwrap_or_else(|| panic!("{params} is refused: {answer}"));
    assert!(words.iter().all(|word| why.contains(word)), "{params}: {why}");
}

async fn a_redirect_is_followed_only_to_what_is_allowed_itself(mut lab: Lab) {
    let (one, two, other) = (Peer::new().await, Peer::new().await, Peer::new().await);
    allow(&mut lab, &[&one.origin, &two.origin]).await;
    for to in [one.url("/echo"), two.url("/echo"), "/echo".to_owned()] {
        let answer = fetch(&lab, json!({ "url": one.leading(302, &to) })).await;
        let at = if to.starts_with('/') { one.url("/echo") } else { to };
        assert_eq!((&answer["status"], &answer["url"]), (&json!(200), &json!(at)), "{answer}");
    }
    let port = other.origin.rsplit(':').next().unwrap_or_default();
    let internal = [
        other.url("/echo"),
        format!("http://localhost:{port}/echo"),
        format!("http://2130706433:{port}/echo"),
        format!("http://[::ffff:7f00:1]:{port}/echo"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        one.url("/").replace("127.0.0.1", "127.0.0.1.example.test"),
    ];
    for to in &internal {
        let origin = reqwest::Url::parse(to).expect("a URL").origin().ascii_serialization();
        must_refuse(&lab, json!({ "url": one.leading(302, to) }), &[&origin, "not allowed"]).await;
        // Two steps away as well, and with the body of a POST.
        let url = one.leading(307, &two.leading(307, to));
        let init = json!({ "method": "POST", "body": "secret" });
        must_refuse(&lab, json!({ "url": url, "init": init }), &[&origin, "not allowed"]).await;
    }
    let api = format!("{}/health/live", lab.url);
    must_refuse(&lab, json!({ "url": one.leading(302, &api) }), &["into this API"]).await;
    let within = one.origin.replace("http://", "http://user:secret@");
    must_refuse(&lab, json!({ "url": one.leading(302, &within) }), &["not allowed"]).await;
    must_refuse(&lab, json!({ "url": one.leading(302, "file:///etc/passwd") }), &["file:"]).await;
    assert_eq!(other.asked(), 0);
}

async fn a_script_chooses_what_a_redirect_does(mut lab: Lab) {
    let peer = Peer::new().await;
    allow(&mut lab, &[&peer.origin]).await;
    let url = peer.leading(301, "http://169.254.169.254/");
    let answer = fetch(&lab, json!({ "url": url, "init": { "redirect": "manual" } })).await;
    let wanted = json!({ "status": 301, "url": url, "location": "http://169.254.169.254/",
        "body": "it is elsewhere" });
    assert_eq!(answer, wanted);
    let init = json!({ "redirect": "error" });
    must_refuse(&lab, json!({ "url": url, "init": init }), &["TypeError", "another URL"]).await;
    let answer = fetch(&lab, json!({ "url": peer.url("/echo"), "init": init })).await;
    assert_eq!(answer["status"], 200, "{answer}");
    let wrong = json!({ "url": peer.url("/echo"), "init": { "redirect": "maybe" } });
    must_refuse(&lab, wrong, &["TypeError", "manual"]).await;
    assert_eq!(peer.asked(), 3);
}

async fn credentials_do_not_follow_a_redirect_to_another_origin(mut lab: Lab) {
    let (one, two) = (Peer::new().await, Peer::new().await);
    allow(&mut lab, &[&one.origin, &two.origin]).await;
    let headers = json!({ "Authorization": "Token x", "Cookie": "a=b", "Content-Type": "text/x",
        "X-Note": "a note", "Host": "169.254.169.254", "TE": "trailers" });
    let init = json!({ "method": "POST", "body": "secret", "headers": headers });
    for (peer, status, method) in
        [(&one, 307, "POST"), (&two, 308, "POST"), (&one, 303, "GET"), (&two, 302, "GET")]
    {
        let url = one.leading(status, &peer.url("/echo"));
        let answer = fetch(&lab, json!({ "url": url, "init": init })).await;
        let (is_same, is_post) = (peer.origin == one.origin, method == "POST");
        let wanted = json!({
            "method": method, "path": "/echo", "note": "a note", "te": null,
            "host": peer.origin.trim_start_matches("http://"),
            "authorization": is_same.then_some("Token x"),
            "cookie": is_same.then_some("a=b"),
            "body": if is_post { "secret" } else { "" },
            "type": is_post.then_some("text/x"),
        });
        assert_eq!(answer["body"], wanted, "{status}");
    }
}

async fn a_loop_and_a_flood_come_to_an_end(mut lab: Lab) {
    let peer = Peer::new().await;
    allow(&mut lab, &[&peer.origin]).await;
    must_refuse(&lab, json!({ "url": peer.url("/loop") }), &["more than 5 times"]).await;
    assert_eq!(peer.asked(), 6, "the first request and five that it leads to");
    let mut url = peer.url("/echo");
    for _ in 0..5 {
        url = peer.leading(302, &url);
    }
    assert_eq!(fetch(&lab, json!({ "url": url })).await["status"], 200);
    let before = peer.asked();
    must_refuse(&lab, json!({ "url": peer.url("/flood") }), &["longer than 8388608 bytes"]).await;
    // Beside the 8 MiB only what lies in the buffers of the connection was made.
    let chunks = peer.asked() - before;
    assert!((128..2_000).contains(&chunks), "{chunks} chunks of 64 KiB");
}

async fn a_name_that_leads_inside_is_refused_unless_its_network_is_allowed(mut lab: Lab) {
    let peer = Peer::new().await;
    let named = peer.origin.replace("127.0.0.1", "localhost");
    let url = format!("{named}/echo");
    allow(&mut lab, &[&named]).await;
    must_refuse(&lab, json!({ "url": url }), &[&named, "tasks.networks_allowed"]).await;
    must_refuse(&lab, json!({ "url": peer.url("/echo") }), &["not allowed"]).await;
    assert_eq!(peer.asked(), 0);
    lab.config.tasks.networks_allowed = vec!["127.0.0.0/8".parse().expect("a network")];
    allow(&mut lab, &[&named]).await;
    let answer = fetch(&lab, json!({ "url": url })).await;
    assert_eq!(answer["body"]["host"], json!(named.trim_start_matches("http://")), "{answer}");
    // A network is no host: only the name was allowed.
    must_refuse(&lab, json!({ "url": peer.url("/echo") }), &["not allowed"]).await;
    assert_eq!(peer.asked(), 1);
}

async fn our_own_api_is_reached_under_its_public_url_too(mut lab: Lab) {
    lab.sign_in("ann", "phone").await;
    let public = "https://auth.example.test/base";
    lab.config.public_url = Some(public.to_owned());
    allow(&mut lab, &[]).await;
    for url in [public, lab.url.as_str()] {
        let answer = fetch(&lab, json!({ "url": url, "own": true })).await;
        assert_eq!(
            (&answer["status"], &answer["body"]["total"]),
            (&json!(200), &json!(1)),
            "{url}"
        );
        assert!(text(&answer["url"]).starts_with(url), "{answer}");
    }
    let elsewhere = "https://auth.example.test/other";
    must_refuse(&lab, json!({ "url": elsewhere }), &["not allowed"]).await;
}

async fn a_task_names_its_hosts_and_the_operator_the_networks(mut lab: Lab) {
    let peer = Peer::new().await;
    let source = "export async function run({ url }) {
        try { return (await fetch(url)).status } catch (error) { return error.message } }";
    let mut wanted = task("t.js", source, &[]);
    wanted["allow_hosts"] = json!([peer.origin]);
    put(&lab, "t", wanted).await;
    let ask = async |lab: &Lab| {
        run(lab, "t", json!({ "url": peer.url("/echo") })).await["result"].clone()
    };
    let refused = text(&ask(&lab).await);
    assert!(refused.contains("networks_allowed"), "{refused}");
    assert_eq!(peer.asked.load(Ordering::SeqCst), 0, "nothing was sent");
    lab.config.tasks.networks_allowed = vec!["127.0.0.0/8".parse().expect("a network")];
    lab.restart().await;
    assert_eq!(ask(&lab).await, 200);
    put(&lab, "t", task("t.js", source, &[])).await;
    let refused = text(&ask(&lab).await);
    assert!(refused.contains("not allowed"), "a network alone is no host: {refused}");
}
