//! An HTTP peer on loopback whose owner answers each request: what a task's test lets `fetch` meet.
//! It is no part of a server.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};

/// What a request may carry.
const BODY_BYTES_MAX: usize = 8 << 20;

/// See the module.
pub struct Peer {
    url: String,
    asked: Mutex<mpsc::Receiver<PeerRequest>>,
}

/// What the peer was asked.
pub struct PeerRequest {
    /// `GET`, `POST`…
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
    /// Where the answer goes; without one, whoever asked gets 502.
    pub answer: oneshot::Sender<PeerResponse>,
}

/// What the owner answers.
pub struct PeerResponse {
    /// Such as 200.
    pub status: u16,
    /// Names and values; what is none is left out.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Peer {
    /// Begins to listen, until the program ends.
    pub async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, receiver) = mpsc::channel(16);
        let router = Router::new().fallback(hand_over).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, asked: Mutex::new(receiver) })
    }

    /// Its origin.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits for the next request.
    pub async fn next(&self) -> Option<PeerRequest> {
        self.asked.lock().await.recv().await
    }
}

async fn hand_over(
    State(owner): State<mpsc::Sender<PeerRequest>>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let (sender, receiver) = oneshot::channel();
    let asked = PeerRequest {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or("/", |it| it.as_str()).to_owned(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: String::from_utf8_lossy(&bytes).into_owned(),
        answer: sender,
    };
    let reply = match owner.send(asked).await {
        Ok(()) => receiver.await.ok(),
        Err(_) => None,
    };
    let none = || PeerResponse { status: 502, headers: Vec::new(), body: String::new() };
    let reply = reply.unwrap_or_else(none);
    let mut answer = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        if HeaderValue::from_str(value).is_ok() {
            answer = answer.header(name, value);
        }
    }
    answer.body(Body::from(reply.body)).unwrap_or_default()
}
