//! A server that gives the answers it was told, in order, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use reauth_sdk::{Client, InApp};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const APP: &str = "4d2f0a5b6c7d8e9f01234567";

/// What was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Method and address: `GET /admin/apps?limit=1000`.
    pub(crate) line: String,
    /// The value of `Authorization`.
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

pub(crate) struct Peer {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// An answer with JSON.
pub(crate) fn json(status: u16, body: &str) -> String {
    full(status, "Content-Type: application/json\r\n", body)
}

/// An answer with these header lines, each with its line end.
pub(crate) fn full(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    // A connection for each answer keeps the peer simple.
    format!(
        "HTTP/1.1 {status} Reason\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Date: Sun, 03 May 2026 06:12:00 GMT\r\n{headers}\r\n{body}"
    )
}

impl Peer {
    /// Answers one request with each of these, then refuses connections.
    pub(crate) async fn new(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                // Remembered before it is answered: whoever has the answer finds the question.
                let asked = read(&mut stream).await;
                seen.lock().unwrap().push(asked);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { url, asked }
    }

    pub(crate) async fn answering(answer: String) -> Self {
        Self::new(vec![answer]).await
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url, "rea_token").unwrap()
    }

    pub(crate) fn app(&self) -> InApp {
        self.client().app(APP)
    }

    /// Everything that was asked until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Asked {
    let mut asked = Asked::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let line = line.trim_end();
        match line.split_once(": ") {
            None if line.is_empty() => break,
            None => line.trim_end_matches(" HTTP/1.1").clone_into(&mut asked.line),
            Some((name, value)) => match name.to_ascii_lowercase().as_str() {
                "authorization" => asked.authorization = Some(value.to_owned()),
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            },
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    asked.body = String::from_utf8(body).unwrap();
    asked
}
