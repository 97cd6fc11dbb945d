//! One server and one token: how requests are sent, tried again and answered. What is asked is in
//! the files of the nouns.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::time::Moment;

/// A server that is there accepts a connection in milliseconds; one across the world in a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that an ordinary request takes, with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a request that changes nothing is tried again when the server asks for patience.
const RETRIES_MAX: u32 = 3;
/// Who is to wait longer than this had better decide that for themselves.
const RETRY_WAIT_MAX_S: u64 = 30;
/// How long we wait when the server does not say.
const RETRY_WAIT_S: u64 = 1;
/// Marks that no answer has told the time yet.
const NO_TIME: i64 = i64::MIN;

/// One server and one token. Clones are cheap and share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    base: String,
    authorization: Option<HeaderValue>,
    server_seconds: AtomicI64,
}

impl fmt::Debug for Client {
    /// Shows the URL and hides the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.shared.base).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `url` (`https://id.example.com`, with or without a slash or a path
    /// at its end), with an API token, the operator's token or a device's session token. An empty
    /// token is none: enough for `ready` and `check`. Nothing is sent yet.
    pub fn new(url: &str, token: &str) -> Result<Self> {
        // The provider is the process's: when one is installed already, it stays.
        rustls::crypto::ring::default_provider().install_default().ok();
        let base = base(url)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // A redirect would turn a POST into a GET, and bring the token to who knows where.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("reauth-sdk/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::misuse(format!("no HTTP client: {}", cause(&error))))?;
        Self::made_of(http, base, token)
    }

    /// The same server and connections with another token; an empty one is none.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        Self::made_of(self.shared.http.clone(), self.shared.base.clone(), token)
    }

    fn made_of(http: reqwest::Client, base: String, token: &str) -> Result<Self> {
        let authorization = if token.is_empty() { None } else { Some(bearer(token)?) };
        let server_seconds = AtomicI64::new(NO_TIME);
        let shared = Shared { http, base, authorization, server_seconds };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The server's URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.shared.base
    }

    /// What time it is, by the `Date` of the server's latest answer; it asks if there was none. It
    /// is the server's clock that decides, so ages are counted by it.
    pub async fn now(&self) -> Result<Moment> {
        if let Some(now) = self.server_time() {
            return Ok(now);
        }
        // Whatever it answers, it says its time.
        self.request(Method::GET, &["health", "live"]).once().send().await?;
        let why = "it does not say its time in a Date header (does a proxy remove it?)";
        self.server_time().ok_or_else(|| Error::OtherShape { why: why.into() })
    }

    fn server_time(&self) -> Option<Moment> {
        let seconds = self.shared.server_seconds.load(Ordering::Relaxed);
        (seconds != NO_TIME).then_some(Moment::from_seconds(seconds))
    }

    /// A request for the path of these segments; each is encoded.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Request {
        let path: String = segments.iter().flat_map(|part| ["/".into(), encoded(part)]).collect();
        // An empty segment, or one that means "here" or "above", would ask for something else.
        let wrong = segments.iter().find(|part| matches!(**part, "" | "." | ".."));
        Request {
            client: self.clone(),
            method,
            url: format!("{}{path}", self.shared.base),
            body: None,
            authorization: self.shared.authorization.clone(),
            timeout: REQUEST_TIMEOUT,
            retries_max: RETRIES_MAX,
            misuse: wrong.map(|part| format!("{part:?} is no id and no name")),
        }
    }
}

/// The URL without a slash at its end, if requests can be sent there.
fn base(url: &str) -> Result<String> {
    let wrong = |why: &str| Error::misuse(format!("{url:?} is no URL of a server: {why}"));
    let read = reqwest::Url::parse(url)
        .map_err(|_| wrong("write it as https://id.example.com or http://127.0.0.1:8080"))?;
    if !matches!(read.scheme(), "http" | "https") || !read.has_host() {
        return Err(wrong("it must begin with https:// or http://"));
    }
    if !read.username().is_empty() || read.password().is_some() {
        // Not shown: it may hold a password.
        return Err(Error::misuse("the URL must hold no user and no password: use the token"));
    }
    if read.query().is_some() || read.fragment().is_some() {
        return Err(wrong("leave out what follows ? or #"));
    }
    Ok(read.as_str().trim_end_matches('/').to_owned())
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| {
        Error::misuse("the token has characters that no token has: was a line break copied along?")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Everything but the unreserved characters of RFC 3986, section 2.3, as `%XX`.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        encoded
    })
}

fn hex_digit(value: u8) -> char {
    char::from(b"0123456789ABCDEF"[usize::from(value)])
}

/// One request that has not been sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    client: Client,
    method: Method,
    url: String,
    body: Option<Vec<u8>>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    retries_max: u32,
    misuse: Option<String>,
}

/// The body of an error (contract, section 1).
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    field: Option<String>,
    state: Option<String>,
    because: Option<String>,
    policy: Option<String>,
}

/// A whole answer.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    /// Adds a parameter to the query, if there is one.
    pub(crate) fn query(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            let mark = if self.url.contains('?') { '&' } else { '?' };
            self.url = format!("{}{mark}{name}={}", self.url, encoded(&value.to_string()));
        }
        self
    }

    /// Sends this as JSON.
    pub(crate) fn body(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => self.body = Some(bytes),
            Err(error) => self.misuse = Some(format!("this cannot be sent as JSON: {error}")),
        }
        self
    }

    /// Sends a reason for the ledger, if there is one.
    pub(crate) fn reason(self, reason: Option<&str>) -> Self {
        match reason {
            Some(reason) => self.body(&json!({ "reason": reason })),
            None => self,
        }
    }

    /// Waits longer for the answer than usual.
    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Does not try again, whatever the answer.
    pub(crate) fn once(self) -> Self {
        Self { retries_max: 0, ..self }
    }

    /// Sends this token instead of the client's.
    pub(crate) fn token(mut self, token: &str) -> Result<Self> {
        self.authorization = Some(bearer(token)?);
        Ok(self)
    }

    /// The answer's JSON.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let answered = self.success().await?;
        serde_json::from_slice(&answered.body).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Error::OtherShape { why: error.to_string() },
            _ => Error::NotJson { status: answered.status.as_u16() },
        })
    }

    /// The last line of an answer that comes line by line; each is told as it comes.
    pub(crate) async fn lines(self, mut tell: impl FnMut(&Value)) -> Result<Value> {
        if let Some(why) = self.misuse {
            return Err(Error::Misuse { why });
        }
        let lost = |error: reqwest::Error| self.lost(&error.without_url());
        let mut response = self.prepared("application/x-ndjson").send().await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let (mut body, mut last) = (Vec::new(), None);
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            body.extend_from_slice(&chunk);
            if !status.is_success() {
                continue;
            }
            while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = body.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                let value = value.map_err(|_| Error::NotJson { status: status.as_u16() })?;
                tell(&value);
                last = Some(value);
            }
        }
        if !status.is_success() {
            return Err(Answered { status, headers, body }.error());
        }
        last.ok_or(Error::NotJson { status: status.as_u16() })
    }

    /// That it succeeded; whatever body comes along is left aside.
    pub(crate) async fn nothing(self) -> Result<()> {
        self.success().await.map(|_| ())
    }

    async fn success(self) -> Result<Answered> {
        let answered = self.send().await?;
        if answered.status.is_success() { Ok(answered) } else { Err(answered.error()) }
    }

    /// The answer, whatever it says. A GET that is answered "later" (429, 503) is sent again.
    pub(crate) async fn send(self) -> Result<Answered> {
        if let Some(why) = self.misuse {
            return Err(Error::Misuse { why });
        }
        let mut retries = 0;
        loop {
            let answered = self.send_once().await?;
            let is_later = matches!(answered.status.as_u16(), 429 | 503);
            let wait_s = answered.retry_after_s();
            let may_retry = self.method == Method::GET && retries < self.retries_max;
            if !is_later || !may_retry || wait_s > RETRY_WAIT_MAX_S {
                return Ok(answered);
            }
            retries += 1;
            tokio::time::sleep(Duration::from_secs(wait_s)).await;
        }
    }

    async fn send_once(&self) -> Result<Answered> {
        let shared = &self.client.shared;
        let lost = |error: reqwest::Error| self.lost(&error.without_url());
        let response = self.prepared("application/json").send().await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(lost)?.to_vec();
        let answered = Answered { status, headers, body };
        if let Some(now) = answered.date() {
            shared.server_seconds.store(now.seconds(), Ordering::Relaxed);
        }
        Ok(answered)
    }

    fn prepared(&self, accepted: &'static str) -> reqwest::RequestBuilder {
        let http = &self.client.shared.http;
        let mut request = http.request(self.method.clone(), &self.url);
        request = request.timeout(self.timeout).header(header::ACCEPT, accepted);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(body) = &self.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        request
    }

    /// A request that was sent may have been carried out although no answer came.
    fn lost(&self, error: &reqwest::Error) -> Error {
        let mut why = cause(error);
        if error.is_timeout() {
            why = format!("nothing came within {} s", self.timeout.as_secs());
        }
        if self.method != Method::GET && !error.is_connect() {
            why.push_str("; it may have been carried out all the same: look before you repeat it");
        }
        Error::Unreachable { url: self.client.shared.base.clone(), why }
    }
}

/// The innermost cause says what happened: "connection refused", "invalid peer certificate".
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

impl Answered {
    /// The value of a header, if it is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A refusal as an error.
    pub(crate) fn error(&self) -> Error {
        let status = self.status.as_u16();
        let Ok(body) = serde_json::from_slice::<ErrorBody>(&self.body) else {
            return Error::NotJson { status };
        };
        let ErrorBody { kind, title, detail, field, state, because, policy } = body;
        if status == 401 && kind == "SIGN_IN_AGAIN" {
            // A device that is not told its state must not wipe its data.
            let state = state.unwrap_or_else(|| "LOCKED".to_owned());
            let because = because.unwrap_or_default();
            return Error::SignInAgain { state, because, policy, detail };
        }
        Error::Answer { status, kind, title, detail, field }
    }

    fn date(&self) -> Option<Moment> {
        Moment::from_http(self.header(header::DATE)?)
    }

    /// How long the server asks us to wait: seconds, or a moment (RFC 9110, section 10.2.3).
    fn retry_after_s(&self) -> u64 {
        let asked = self.header(header::RETRY_AFTER).and_then(|text| {
            let until = || Some(Moment::from_http(text)?.since(self.date()?).seconds());
            text.parse().ok().or_else(|| until()?.try_into().ok())
        });
        asked.unwrap_or(RETRY_WAIT_S)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_meant_are_refused_and_passwords_not_shown() {
        assert_eq!(base("https://id.example.com/").unwrap(), "https://id.example.com");
        assert_eq!(base("http://127.0.0.1:8080/a/b/").unwrap(), "http://127.0.0.1:8080/a/b");
        let urls =
            ["", "id.example.com", "localhost:8080", "ftp://a", "https://a/?b", "http://a#b"];
        for url in urls {
            assert!(matches!(base(url), Err(Error::Misuse { .. })), "{url}");
        }
        let error = base("https://ann:hunter2@id.example.com").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn ids_cannot_leave_their_place_in_the_path() {
        let client = Client::new("http://127.0.0.1:1", "").unwrap();
        let request = client.request(Method::GET, &["users", "../a b?c=ü"]);
        assert_eq!(request.url, "http://127.0.0.1:1/users/..%2Fa%20b%3Fc%3D%C3%BC");
        for part in ["", ".", ".."] {
            assert!(client.request(Method::GET, &["users", part]).misuse.is_some(), "{part:?}");
        }
        let request = request.query("limit", Some(5)).query("user", None::<&str>);
        assert!(request.query("since", Some("a&b")).url.ends_with("?limit=5&since=a%26b"));
    }

    #[test]
    fn the_token_is_never_shown() {
        let client = Client::new("http://127.0.0.1:1", "reo_secret").unwrap();
        let request = client.request(Method::GET, &["users"]);
        assert!(!format!("{client:?} {request:?}").contains("reo_secret"));
        let error = Client::new("http://127.0.0.1:1", "reo_secret\n").unwrap_err();
        assert!(!error.to_string().contains("reo_secret"), "{error}");
    }
}
