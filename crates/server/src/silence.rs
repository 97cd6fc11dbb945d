//! How long a client may keep a connection without a whole request: between two of them, or in the
//! middle of a head. hyper can bound that too, but it then goes through its loop twice for each
//! request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Response;
use http_body_util::BodyExt as _;

/// A request is being answered: it is not for the client to speak.
const ANSWERING: u64 = u64::MAX;

/// Since when it is for the client of a connection to speak.
pub(crate) struct Silence {
    connected: Instant,
    /// In milliseconds since it connected.
    since_ms: AtomicU64,
}

/// A request that is being answered, until this is dropped.
pub(crate) struct Answering(Arc<Silence>);

impl Silence {
    pub(crate) fn begin() -> Self {
        let connected = Instant::now(); // clock: measures
        Self { connected, since_ms: AtomicU64::new(0) }
    }

    fn passed_ms(&self) -> u64 {
        u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(ANSWERING)
    }

    /// A request was answered at once and whole.
    pub(crate) fn answered(&self) {
        self.since_ms.store(self.passed_ms(), Ordering::Relaxed);
    }

    /// A request has come whose answer takes its time.
    pub(crate) fn asked(self: &std::sync::Arc<Self>) -> Answering {
        self.since_ms.store(ANSWERING, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// Ends when the client has been silent for so long.
    pub(crate) async fn lasts(&self, most: Duration) {
        loop {
            let left = match self.since_ms.load(Ordering::Relaxed) {
                ANSWERING => most,
                since_ms => {
                    let silent_ms = self.passed_ms().saturating_sub(since_ms);
                    most.saturating_sub(Duration::from_millis(silent_ms))
                }
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

impl Answering {
    /// The answer, which takes until the last of its body is handed on, or nobody wants it.
    pub(crate) fn until_sent(self, response: Response<Body>) -> Response<Body> {
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &self;
                frame
            }))
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}
