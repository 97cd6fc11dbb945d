//! What a run's `fetch` reaches: our own API always, and of the world what `egress` allows. Each
//! URL on the way is judged anew, and each name leads only to addresses that were looked at.

use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use ipnet::IpNet;
use reauth_domain::AppId;
use reauth_sandbox::{Host, LogLine, Part, Redirect, Request, Response};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::app::App;
use crate::simulation::Rehearsed;
use crate::workers::egress::{self, AllowedHost, Rules, origin};
use crate::workers::{going, run};

/// The longest a `fetch` may take, with all redirects and the whole answer.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Our own API may be asked to answer when another run has ended: that takes longer.
pub(crate) const OWN_TIMEOUT: Duration = Duration::from_secs(80);
/// The longest answer that a script is given.
const RESPONSE_BYTES_MAX: usize = 8 << 20;
/// As our own API, and most others, take them.
const HEADERS_MAX: usize = 100;
/// Names that are looked up at a time: with a name server that does not answer, scripts would take
/// every thread that waits for the disk too.
const LOOK_UPS_MAX: usize = 32;
/// How often an answer may lead on.
const REDIRECTS_MAX: usize = 5;
/// Tells our own API which run asks, by its token: a web task must know how many tasks have started
/// each other before it.
pub(crate) const CALLER: &str = "reauth-caller";
/// Headers that speak for the connection, which is ours; as is every one that begins with `proxy-`.
const HEADERS_OF_THE_CONNECTION: [&str; 11] = [
    CALLER,
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What one run can reach.
pub(crate) struct Reach {
    pub(crate) app: App,
    /// The task's name.
    pub(crate) task: String,
    /// The app, and the run's token.
    pub(crate) own: (AppId, String),
    /// What the task names beside our own API.
    pub(crate) allow_hosts: Vec<AllowedHost>,
    /// Where requests that could change the world are noted, instead of being sent.
    pub(crate) rehearsal: Option<Rehearsed>,
    /// Who hears what it says.
    pub(crate) run: Arc<going::Run>,
    /// Where a web task's answer goes that comes in pieces.
    pub(crate) parts: Option<mpsc::Sender<Part>>,
    /// Told when the first of it has come.
    pub(crate) has_begun: Notify,
}

impl Host for Reach {
    async fn fetch(&self, request: Request) -> Result<Response, String> {
        let is_own =
            Url::parse(&request.url).is_ok_and(|url| matches!(self.peer(&url), Ok(Peer::Own(_))));
        let limit = if is_own { OWN_TIMEOUT } else { FETCH_TIMEOUT };
        let answer = tokio::time::timeout(limit, self.ask(request)).await;
        let too_long = || format!("there was no whole answer within {limit:?}");
        answer.unwrap_or_else(|_| Err(too_long()))
    }

    fn hear(&self, line: &LogLine) {
        self.run.hear(run::log_row(line.clone()));
    }

    async fn answer(&self, part: Part) {
        if let Some(parts) = &self.parts {
            if !parts.is_closed() {
                self.has_begun.notify_one();
            }
            // Whoever asked may have left: then `left` says so.
            let _ = parts.send(part).await;
        }
    }
}

/// Who is asked.
#[derive(Debug, PartialEq, Eq)]
enum Peer {
    /// Our own API, at this URL.
    Own(Url),
    /// Anyone else.
    World,
}

impl Reach {
    /// Waits until whoever asked has left in the middle of an answer. Who leaves before it has
    /// begun may have wanted no more than that the run goes.
    pub(crate) async fn left(&self) {
        let Some(parts) = &self.parts else { return std::future::pending().await };
        self.has_begun.notified().await;
        parts.closed().await;
    }

    async fn ask(&self, request: Request) -> Result<Response, String> {
        let redirect = request.redirect;
        let mut hop = Hop::first(request)?;
        let mut peer = self.peer(&hop.url)?;
        for _ in 0..=REDIRECTS_MAX {
            // In a rehearsal nothing is asked of the world that could change it (RFC 9110, 9.2.1).
            if let Some(rehearsal) = &self.rehearsal
                && !self.changes_nothing(&hop, &peer)
            {
                rehearsal.note_request(&self.task, format!("{} {}", hop.method, origin(&hop.url)));
                return Ok(not_sent(&hop.url));
            }
            let response = self.send(&hop, &peer).await?;
            if !leads_on(response.status()) || redirect == Redirect::Manual {
                return whole(response, &hop.url).await;
            }
            if redirect == Redirect::Error {
                return Err(format!("{} leads to another URL", origin(&hop.url)));
            }
            let Some(location) = response.headers().get(header::LOCATION) else {
                return whole(response, &hop.url).await;
            };
            let url = hop.location(location)?;
            let led = |why| format!("{} leads to {}: {why}", origin(&hop.url), origin(&url));
            let next = self.peer(&url).map_err(led)?;
            if matches!((&peer, &next), (Peer::World, Peer::Own(_))) {
                return Err(led("nobody else leads into this API".to_owned()));
            }
            hop = hop.next(response.status(), url)?;
            peer = next;
        }
        Err(format!("the answer leads on more than {REDIRECTS_MAX} times"))
    }

    /// Whether a request changes nothing where it arrives: because of its method, or because it is
    /// a rehearsal there too, at the API of the run's own app with the run's own token. A web task
    /// of ours may change something whatever the method.
    fn changes_nothing(&self, hop: &Hop, peer: &Peer) -> bool {
        let Peer::Own(url) = peer else { return hop.method.is_safe() };
        if hop.method.is_safe() {
            return !url.path().starts_with("/tasks/");
        }
        let (app, token) = &self.own;
        let header = hop.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let is_own_token = header.and_then(|it| it.split_once(' ')).is_some_and(|(_, rest)| {
            rest.trim().strip_prefix("O:").unwrap_or(rest.trim()) == token
        });
        is_own_token && url.path().starts_with(&format!("/api/v4/{app}/"))
    }

    /// Who is asked at this URL, if the task may ask there.
    fn peer(&self, url: &Url) -> Result<Peer, String> {
        let local = Url::parse(&self.app.local_url()).map_err(|error| error.to_string())?;
        let public = self.app.config.public_url.as_deref().and_then(|url| Url::parse(url).ok());
        if let Some(own) = own(url, &local, public.as_ref()) {
            return Ok(Peer::Own(own));
        }
        let tasks = &self.app.config.tasks;
        let rules = Rules {
            listed: &tasks.fetch_allowed,
            allow_hosts: &self.allow_hosts,
            networks_allowed: &tasks.networks_allowed,
        };
        rules.check(url).map(|()| Peer::World)
    }

    fn caller(&self) -> Result<HeaderValue, String> {
        let mut token = HeaderValue::from_str(&self.own.1).map_err(|error| error.to_string())?;
        token.set_sensitive(true);
        Ok(token)
    }

    async fn send(&self, hop: &Hop, peer: &Peer) -> Result<reqwest::Response, String> {
        let mut headers = hop.headers.clone();
        let (client, url) = match peer {
            Peer::Own(url) => {
                // It may be believed from this machine, and a script is no proxy.
                headers.remove("x-forwarded-for");
                headers.insert(CALLER, self.caller()?);
                (&self.app.client, url)
            }
            Peer::World => (&self.app.egress, &hop.url),
        };
        let request = client.request(hop.method.clone(), url.clone());
        let sent = request.headers(headers).body(hop.body.clone()).send().await;
        sent.map_err(|error| format!("{}: {}", origin(&hop.url), cause(&error)))
    }
}

/// The URL at which this machine reaches our own API, if it is that which is meant.
fn own(url: &Url, local: &Url, public: Option<&Url>) -> Option<Url> {
    if url.origin() == local.origin() {
        return Some(url.clone());
    }
    let public = public.filter(|public| public.origin() == url.origin())?;
    let path = url.path().strip_prefix(public.path().trim_end_matches('/'))?;
    if !path.starts_with('/') {
        return None;
    }
    let mut own = local.clone();
    own.set_path(path);
    own.set_query(url.query());
    Some(own)
}

/// One request on the way to the answer.
#[derive(Debug)]
struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Hop {
    fn first(request: Request) -> Result<Self, String> {
        let url = Url::parse(&request.url).map_err(|error| error.to_string())?;
        let method: Method = request.method.parse().map_err(|_| "no such method".to_owned())?;
        if ["CONNECT", "TRACE", "TRACK"].contains(&method.as_str()) {
            return Err(format!("{method} is not allowed"));
        }
        if request.headers.len() > HEADERS_MAX {
            return Err(format!("a request may have {HEADERS_MAX} headers"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| "a header has no name that there can be".to_owned())?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("the header {name} has no value that there can be"))?;
            let text = name.as_str();
            if !text.starts_with("proxy-") && !HEADERS_OF_THE_CONNECTION.contains(&text) {
                headers.append(name, value);
            }
        }
        Ok(Self { method, url: egress::in_form(url)?, headers, body: request.body.into() })
    }

    /// Where the answer leads.
    fn location(&self, location: &HeaderValue) -> Result<Url, String> {
        let led = |why: String| format!("{} leads to no URL: {why}", origin(&self.url));
        let text = std::str::from_utf8(location.as_bytes()).map_err(|e| led(e.to_string()))?;
        let url = self.url.join(text).map_err(|error| led(error.to_string()))?;
        egress::in_form(url).map_err(led)
    }

    /// The request that follows (Fetch standard, HTTP-redirect fetch).
    fn next(mut self, status: StatusCode, url: Url) -> Result<Self, String> {
        let (from, to) = (origin(&self.url), origin(&url));
        if self.url.scheme() == "https" && url.scheme() != "https" {
            return Err(format!("{from} leads to {to}: from https only https is followed"));
        }
        let becomes_get = match status {
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            StatusCode::SEE_OTHER => ![Method::GET, Method::HEAD].contains(&self.method),
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = Bytes::new();
            for name in [
                header::CONTENT_ENCODING,
                header::CONTENT_LANGUAGE,
                header::CONTENT_LOCATION,
                header::CONTENT_TYPE,
            ] {
                self.headers.remove(name);
            }
        }
        if from != to {
            for name in [header::AUTHORIZATION, header::COOKIE] {
                self.headers.remove(name);
            }
        }
        Ok(Self { url, ..self })
    }
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The answer with its body, as far as that is allowed.
async fn whole(mut response: reqwest::Response, url: &Url) -> Result<Response, String> {
    let broken = |error| format!("{}: {}", origin(url), cause(&error));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
            return Err(format!("the answer is longer than {RESPONSE_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter();
    Ok(Response {
        headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
        body,
        ..bare(response.status(), url)
    })
}

/// What a rehearsed task is told instead of the answer.
fn not_sent(url: &Url) -> Response {
    bare(StatusCode::ACCEPTED, url)
}

fn bare(status: StatusCode, url: &Url) -> Response {
    Response {
        status: status.as_u16(),
        status_text: status.canonical_reason().unwrap_or_default().to_owned(),
        url: url.to_string(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

/// The innermost reason: those around it say less, and tell the URL again.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Resolves names for scripts. The connection is made to the very addresses that it answers: there
/// is no second look-up that could answer others.
pub(crate) struct Resolver {
    networks_allowed: Arc<[IpNet]>,
    /// A look-up cannot be stopped: it holds its thread, and its place here, until it ends, even
    /// if nobody waits for it any more.
    places: Arc<Semaphore>,
}

impl Resolver {
    pub(crate) fn new(networks_allowed: &[IpNet]) -> Self {
        let places = Arc::new(Semaphore::new(LOOK_UPS_MAX));
        Self { networks_allowed: networks_allowed.into(), places }
    }
}

/// The addresses of a name, as the system knows them.
async fn look_up(places: Arc<Semaphore>, name: String) -> std::io::Result<Vec<SocketAddr>> {
    let found = held(places, move || (name, 0).to_socket_addrs().map(Iterator::collect)).await;
    found.map_err(std::io::Error::other)?
}

/// Works on a thread that waits, and holds a place until the work is done.
async fn held<T: Send + 'static>(
    places: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<dyn Error + Send + Sync>> {
    let place = places.acquire_owned().await?;
    let working = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    Ok(working.await?)
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let networks_allowed = Arc::clone(&self.networks_allowed);
        let places = Arc::clone(&self.places);
        Box::pin(async move {
            let name = name.as_str();
            let found = look_up(places, name.to_owned()).await?.into_iter();
            let (reachable, others): (Vec<_>, Vec<_>) =
                found.partition(|address| egress::is_reachable(address.ip(), &networks_allowed));
            if reachable.is_empty() {
                // The script is not told what the names of this network lead to.
                tracing::info!(name, ?others, "a task asked a name without a public address");
                let wanted = "a public one, or one in tasks.networks_allowed of the configuration";
                return Err(format!("{name} has no address that is allowed: {wanted}").into());
            }
            Ok::<Addrs, Box<dyn Error + Send + Sync>>(Box::new(reachable.into_iter()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    fn request(method: &str, text: &str, headers: &[(&str, &str)]) -> Request {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Request {
            method: method.to_owned(),
            url: text.to_owned(),
            headers: headers.iter().map(own).collect(),
            body: if method == "GET" { Vec::new() } else { b"body".to_vec() },
            redirect: Redirect::Follow,
        }
    }

    fn names(hop: &Hop) -> Vec<&str> {
        let mut names: Vec<&str> = hop.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_script_does_not_speak_for_the_connection() {
        let kept = [("accept", "*/*"), ("authorization", "Token x"), ("x-note", "ä")];
        let dropped = HEADERS_OF_THE_CONNECTION.map(|name| (name, "x"));
        let proxy = [("proxy-authorization", "x"), ("proxy-connection", "x"), ("HOST", "x")];
        let all = [&kept[..], &dropped, &proxy].concat();
        let hop = Hop::first(request("GET", "https://a.example/#part", &all)).expect("a request");
        assert_eq!(names(&hop), ["accept", "authorization", "x-note"]);
        assert_eq!(hop.url.as_str(), "https://a.example/");
        let many = [("x-note", "x"); HEADERS_MAX + 1];
        for wrong in [
            request("CONNECT", "https://a.example/", &[]),
            request("TRACE", "https://a.example/", &[]),
            request("GE T", "https://a.example/", &[]),
            request("GET", "https://a.example/", &[("a b", "x")]),
            request("GET", "https://a.example/", &[("a", "x\r\nhost: b")]),
            request("GET", "https://a.example/", &many),
            request("GET", "https://user@a.example/", &[]),
            request("GET", "/", &[]),
        ] {
            Hop::first(wrong.clone()).expect_err(&wrong.url);
        }
    }

    #[test]
    fn a_redirect_changes_the_method_as_the_standard_says() {
        for (method, status, wanted) in [
            ("POST", 301, "GET"),
            ("POST", 302, "GET"),
            ("PUT", 301, "PUT"),
            ("DELETE", 302, "DELETE"),
            ("POST", 303, "GET"),
            ("PUT", 303, "GET"),
            ("HEAD", 303, "HEAD"),
            ("GET", 303, "GET"),
            ("POST", 307, "POST"),
            ("PATCH", 308, "PATCH"),
        ] {
            let headers = [("content-type", "text/plain"), ("authorization", "Token x")];
            let hop = Hop::first(request(method, "https://a.example/x", &headers)).expect("a hop");
            let (status, body) = (StatusCode::from_u16(status).expect("a status"), hop.body.len());
            let next = hop.next(status, url("https://a.example/y")).expect("it follows");
            assert_eq!(next.method, wanted, "{method} {status}");
            let is_same = method == wanted;
            assert_eq!(next.body.len(), if is_same { body } else { 0 }, "{method} {status}");
            let kept: &[_] =
                if is_same { &["authorization", "content-type"] } else { &["authorization"] };
            assert_eq!(names(&next), kept, "{method} {status}");
        }
    }

    #[test]
    fn credentials_stay_where_they_were_sent_and_https_stays_https() {
        let headers = [("authorization", "Token x"), ("cookie", "a=b"), ("x-note", "x")];
        for (from, to, kept) in [
            ("https://a.example/", "https://a.example:443/y", 3),
            ("https://a.example/", "https://a.example:8443/", 1),
            ("https://a.example/", "https://b.example/", 1),
            ("https://a.example/", "https://b.a.example/", 1),
            ("http://a.example/", "https://a.example/", 1),
        ] {
            let hop = Hop::first(request("GET", from, &headers)).expect("a request");
            let next = hop.next(StatusCode::FOUND, url(to)).expect("it follows");
            assert_eq!(next.headers.len(), kept, "{from} {to}");
        }
        let hop = Hop::first(request("GET", "https://a.example/", &[])).expect("a request");
        let error = hop.next(StatusCode::FOUND, url("http://a.example/")).expect_err("no https");
        assert!(error.contains("http://a.example"), "{error}");
    }

    #[test]
    fn a_location_is_relative_or_whole_and_has_the_form_of_a_request() {
        let hop = Hop::first(request("GET", "https://a.example/x/y?z", &[])).expect("a request");
        for (location, wanted) in [
            ("w", "https://a.example/x/w"),
            ("/w#part", "https://a.example/w"),
            ("//b.example", "https://b.example/"),
            ("\\\\b.example", "https://b.example/"),
            ("https:w", "https://a.example/x/w"),
            ("http://2130706433/", "http://127.0.0.1/"),
        ] {
            let found = hop.location(&HeaderValue::from_static(location)).expect(location);
            assert_eq!(found.as_str(), wanted, "{location}");
        }
        let user = "https://a.example@b.example/";
        for location in [user, "file:///etc/passwd", "javascript:0", "http://[::1", "//a:0/"] {
            hop.location(&HeaderValue::from_static(location)).expect_err(location);
        }
        let bytes = HeaderValue::from_bytes(b"/\xff").expect("a value");
        hop.location(&bytes).expect_err("no text");
    }

    #[test]
    fn our_own_api_is_found_under_both_of_its_urls() {
        let (local, public) = (url("http://127.0.0.1:8080"), url("https://auth.example/base"));
        for (asked, wanted) in [
            ("http://127.0.0.1:8080/api?x", Some("http://127.0.0.1:8080/api?x")),
            ("https://auth.example/base/api?x", Some("http://127.0.0.1:8080/api?x")),
            ("https://auth.example/base//b.example/", Some("http://127.0.0.1:8080//b.example/")),
            ("https://auth.example/base/../other", None),
            ("https://auth.example/base/%2e%2e/other", None),
            ("https://auth.example/based", None),
            ("https://auth.example/base", None),
            ("http://auth.example/base/api", None),
            ("https://auth.example:8443/base/api", None),
            ("http://127.0.0.1:8081/", None),
            ("http://localhost:8080/", None),
        ] {
            let found = own(&url(asked), &local, Some(&public));
            assert_eq!(found.as_ref().map(Url::as_str), wanted, "{asked}");
        }
        let root = url("https://auth.example");
        let found = own(&url("https://auth.example/api"), &local, Some(&root));
        assert_eq!(found.as_ref().map(Url::as_str), Some("http://127.0.0.1:8080/api"));
        assert_eq!(own(&url("https://auth.example/api"), &local, None), None);
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_holds_its_place() {
        let places = Arc::new(Semaphore::new(1));
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let slow = tokio::spawn(held(Arc::clone(&places), move || gone.recv().ok()));
        while places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        slow.abort();
        assert!(slow.await.expect_err("nobody waits").is_cancelled());
        assert_eq!(places.available_permits(), 0, "its thread is still taken");
        drop(go);
        let next = look_up(places, "127.0.0.1".to_owned()).await.expect("an address");
        assert_eq!(next.len(), 1);
    }

    #[tokio::test]
    async fn a_name_leads_to_allowed_addresses_only() {
        let ask = async |networks: &[&str], name: &str| {
            let networks: Vec<IpNet> =
                networks.iter().map(|text| text.parse().expect("a network")).collect();
            let found = Resolver::new(&networks).resolve(name.parse().expect("a name")).await;
            found.map(Iterator::collect::<Vec<_>>).map_err(|error| error.to_string())
        };
        for name in ["localhost", "127.0.0.1", "::1"] {
            let error = ask(&["10.0.0.0/8"], name).await.expect_err(name);
            assert!(error.contains("tasks.networks_allowed"), "{error}");
        }
        let found = ask(&["127.0.0.0/8"], "localhost").await.expect("it is allowed");
        assert!(!found.is_empty() && found.iter().all(SocketAddr::is_ipv4), "{found:?}");
        assert_eq!(ask(&[], "8.8.8.8").await.expect("it is public").len(), 1);
    }
}
