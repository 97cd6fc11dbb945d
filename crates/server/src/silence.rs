//! How long a connection may wait for its client: for a whole request, between two of them or in
//! the middle of a head, or for room to write an answer. hyper can bound heads too, but it then
//! goes through its loop twice for each request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is known of a connection.
pub(crate) struct Silence {
    connected: Instant,
    /// When something was last written to it, in milliseconds since it connected.
    wrote_ms: AtomicU64,
    /// A request is being answered: it is not for the client to speak.
    is_answering: AtomicBool,
    /// What is to be written finds no room: the client does not read.
    is_full: AtomicBool,
}

/// A request that is being answered, until this is dropped.
pub(crate) struct Answering(Arc<Silence>);

/// The connection, which notes what is written.
pub(crate) struct Heard {
    stream: TcpStream,
    silence: Arc<Silence>,
}

impl Silence {
    pub(crate) fn begin() -> Self {
        Self {
            connected: Instant::now(), // clock: measures
            wrote_ms: AtomicU64::new(0),
            is_answering: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
        }
    }

    fn passed_ms(&self) -> u64 {
        u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A request has come whose answer takes its time.
    pub(crate) fn asked(self: &Arc<Self>) -> Answering {
        self.is_answering.store(true, Ordering::Relaxed);
        Answering(self.clone())
    }

    /// Ends when the client has been waited for that long.
    pub(crate) async fn lasts(&self, most: Duration) {
        loop {
            let is_ours = self.is_answering.load(Ordering::Relaxed);
            let left = if is_ours && !self.is_full.load(Ordering::Relaxed) {
                most
            } else {
                let silent_ms =
                    self.passed_ms().saturating_sub(self.wrote_ms.load(Ordering::Relaxed));
                most.saturating_sub(Duration::from_millis(silent_ms))
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// What came of a write.
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.is_full.store(true, Ordering::Relaxed),
            Poll::Ready(_) => {
                self.wrote_ms.store(self.passed_ms(), Ordering::Relaxed);
                self.is_full.store(false, Ordering::Relaxed);
            }
        }
    }
}

impl Answering {
    /// The answer, which takes until the last of its body is handed on, or nobody wants it. What
    /// is not yet written then is waited for as long as it goes on being read.
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
        let Self(silence) = self;
        // Unless it is being written still, the client's time begins now.
        if !silence.is_full.load(Ordering::Relaxed) {
            silence.wrote_ms.store(silence.passed_ms(), Ordering::Relaxed);
        }
        silence.is_answering.store(false, Ordering::Relaxed);
    }
}

impl Heard {
    pub(crate) fn new(stream: TcpStream, silence: &Arc<Silence>) -> Self {
        Self { stream, silence: Arc::clone(silence) }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.silence.wrote(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
