//! Web tasks: scripts that answer HTTP requests at `/tasks/{app}/{task}`. Who may ask is decided by
//! the script's own `authenticate`, which is mandatory.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use futures_util::stream::{self, Stream};
use reauth_domain::ledger::By;
use reauth_domain::tasks::{self, Order, Task, Trigger};
use reauth_domain::{AppId, Error, Read, RunId};
use reauth_sandbox::{Part, WebRequest, WebResponse};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::api::answer::{Answer, Kind};
use crate::api::read::{PathOf, unreadable_query};
use crate::api::who;
use crate::app::App;
use crate::workers::reach::CALLER;
use crate::workers::run;

/// So long a request waits for others to be answered.
const WAIT: Duration = Duration::from_secs(5);
/// What a script may answer (contract, section 4).
const TYPES: [&str; 3] = ["application/json", "text/html", "text/plain"];
/// Pieces of an answer that are read before whoever asked has taken the ones before.
const PARTS_AHEAD: usize = 2;
/// Further headers that a script may set: none that speaks for the authority itself, as a cookie of
/// its origin would.
const HEADERS: [&str; 7] = [
    "content-type",
    "cache-control",
    "location",
    "retry-after",
    "allow",
    "www-authenticate",
    "etag",
];
/// A page of a script is a stranger on the authority's origin: it shares nothing with it.
const POLICY: &str = "sandbox allow-forms allow-scripts; frame-ancestors 'none'";

/// What the address says.
#[derive(Deserialize)]
pub(crate) struct Place {
    app: String,
    task: String,
    path: Option<String>,
}

/// The app of a request to web tasks. One is refused before any of its body is read: to no app of
/// ours, or one too many.
pub(crate) fn admit(state: &App, path: &str) -> Result<Option<AppId>, Answer> {
    let Some(rest) = path.strip_prefix("/tasks/") else { return Ok(None) };
    let app = rest.split('/').next().and_then(|id| id.parse().ok());
    let app = app.ok_or_else(nowhere)?;
    if !state.db.live().has_app(app)? {
        return Err(nowhere());
    }
    state.web_rate.take(app).map_err(|retry_after_s| {
        state.metrics.count_web_refused();
        let why = "the web tasks of this app are asked too often: try again later".to_owned();
        Answer::from(Error::Busy { why, retry_after_s })
    })?;
    Ok(Some(app))
}

fn nowhere() -> Answer {
    Answer::new(Kind::RouteError, "no web task is at this address")
}

/// Answers a request to a web task.
pub(crate) async fn answer(
    State(state): State<App>,
    PathOf(address): PathOf<Place>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, Answer> {
    let app: AppId = address.app.parse().map_err(|_| nowhere())?;
    find(&mut state.db.read().await?, app, &address.task).await?;
    let query: BTreeMap<String, String> =
        serde_urlencoded::from_str::<Vec<(String, String)>>(uri.query().unwrap_or_default())
            .map_err(|why| unreadable_query(&why))?
            .into_iter()
            .collect();
    let path = format!("/{}", address.path.clone().unwrap_or_default());
    let params: Map<String, Value> =
        query.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    // A proxy's form of the request line has an origin of its own, which is not ours.
    let at = uri.path_and_query().map_or("/", |at| at.as_str());
    let request = WebRequest {
        method: method.to_string(),
        url: format!("{}{at}", state.public_url()),
        path: path.clone(),
        headers: text_headers(&headers),
        query,
        body: body.into(),
    };
    let waited = tokio::time::timeout(WAIT, state.web_places.wait(app, 1)).await;
    let Ok(Some(place)) = waited else {
        let why = "many requests to web tasks are being answered already: try again".to_owned();
        return Err(Error::Busy { why, retry_after_s: 2 }.into());
    };
    let caller = headers.get(CALLER).and_then(|token| token.to_str().ok());
    let caller = caller.map(|token| who::calling_run(&state, token)).transpose()?.flatten();
    // The run keeps how it was asked, not what: a body may hold secrets.
    let asked = json!({ "method": method.as_str(), "path": path });
    let (sender, mut parts) = mpsc::channel(PARTS_AHEAD);
    let order = Order { params: Some(tasks::written(&asked)?), ..Order::by(Trigger::Web) };
    let name = address.task.clone();
    // Whoever asked may go away meanwhile: a run that has begun goes on to its end, even if that is
    // before its answer begins.
    let begun = tokio::spawn(async move {
        let ready = begin(&state, app, &address.task, (order, caller)).await?;
        let id = ready.id();
        let answered = tokio::spawn(async move {
            let asked = (Value::Object(params), request);
            let answer = run::answer_web(&state, ready, asked, sender).await;
            drop(place);
            answer
        });
        Ok::<_, Answer>((id, answered))
    });
    let begun = begun.await.map_err(|error| Error::Internal(format!("a web task: {error}")))?;
    let (id, answered) = begun?;
    if let Some(Part::Head(head)) = parts.recv().await {
        let response = response(head, &id.to_string())?;
        return Ok(response.map(|_| Body::from_stream(pieces(parts, answered))));
    }
    match answered.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(answer) => response(answer, &id.to_string()),
        Err(why) => {
            tracing::warn!(run = %id, task = name, why, "a web task gave no answer");
            let detail = format!("the task gave no answer: its owner finds why in run {id}");
            Err(Answer::new(Kind::Internal, detail))
        }
    }
}

/// The body that comes piece by piece. If the run fails in the middle, it breaks off: nobody takes
/// it for whole.
fn pieces(
    parts: mpsc::Receiver<Part>,
    answered: JoinHandle<Result<WebResponse, String>>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(Some((parts, answered)), async |state| {
        let (mut parts, answered) = state?;
        if let Some(part) = parts.recv().await {
            let piece = match part {
                Part::Piece(bytes) => Bytes::from(bytes),
                Part::Head(_) => Bytes::new(),
            };
            return Some((Ok(piece), Some((parts, answered))));
        }
        let ended = answered.await.unwrap_or_else(|error| Err(error.to_string()));
        ended.err().map(|why| (Err(std::io::Error::other(why)), None))
    })
}

/// Begins the run, as the task is now: it may have changed while a place was waited for.
async fn begin(
    state: &App,
    app: AppId,
    name: &str,
    (mut order, caller): (Order, Option<RunId>),
) -> Result<run::Ready, Answer> {
    let mut tx = state.db.write(By::System).await?;
    let task = find(&mut tx, app, name).await?;
    if let Some(caller) = caller {
        order.depth = tasks::depth_of(&mut tx, caller).await? + 1;
    }
    let claim = run::claim_of(state, state.config.tasks.web_wall);
    let claimed = tasks::begin(&mut tx, app, task, order, claim).await?;
    let ready = run::Ready::new(state, claimed);
    tx.commit().await?;
    Ok(ready)
}

/// The task, if it is one that answers requests.
async fn find(read: &mut Read, app: AppId, name: &str) -> Result<Task, Answer> {
    match tasks::find(read, app, name).await {
        Ok(task) if task.definition.options.web => Ok(task),
        Ok(_) | Err(Error::NotFound { .. }) => Err(nowhere()),
        Err(error) => Err(error.into()),
    }
}

/// What the script is shown: the token of the run that asks is not for it.
fn text_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let shown = headers.iter().filter(|(name, _)| *name != CALLER);
    shown.map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// What a reverse proxy in front of us would obey: it reaches files of its own.
fn is_for_proxies(name: &str) -> bool {
    ["x-accel-", "x-sendfile", "x-lighttpd-", "x-litespeed-"].iter().any(|it| name.starts_with(it))
}

/// The script's answer, as far as it is a script's to give.
fn response(answer: WebResponse, run: &str) -> Result<Response<Body>, Answer> {
    let broken = |what: &str| {
        tracing::warn!(run, what, "a web task's answer cannot be sent");
        Answer::new(Kind::Internal, format!("the task's answer has {what}: see run {run}"))
    };
    let status = StatusCode::from_u16(answer.status).ok().filter(|status| status.as_u16() >= 200);
    let status = status.ok_or_else(|| broken("a status that is none"))?;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in &answer.headers {
        let name = name.to_ascii_lowercase();
        let is_allowed = HEADERS.contains(&name.as_str())
            || (name.starts_with("x-") && !is_for_proxies(&name))
            || name.starts_with("access-control-");
        if !is_allowed {
            continue;
        }
        let name: HeaderName = name.parse().map_err(|_| broken("a header that is none"))?;
        let value: HeaderValue = value.parse().map_err(|_| broken("a header that is none"))?;
        headers.append(name, value);
    }
    let kinds: Vec<&HeaderValue> = headers.get_all(header::CONTENT_TYPE).iter().collect();
    if kinds.len() > 1 || !kinds.iter().all(|kind| is_answerable(kind)) {
        return Err(broken("a type that a script may not answer"));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(run) = run.parse() {
        headers.insert("reauth-run", run);
    }
    Ok(response)
}

/// Whether this is a type that a script may answer, with a charset at most: the whole of it, since
/// a browser may go by what comes after a comma.
fn is_answerable(kind: &HeaderValue) -> bool {
    let Ok(text) = kind.to_str() else { return false };
    let mut parts = text.trim_end_matches([';', ' ']).split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let is_known = TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind));
    is_known && parts.next().is_none_or(is_charset) && parts.next().is_none()
}

fn is_charset(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let value = quoted.unwrap_or(value);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    name.eq_ignore_ascii_case("charset") && !value.is_empty() && value.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_judged_as_a_whole() {
        for (kind, is_right) in [
            ("text/plain", true),
            ("Text/HTML; Charset=\"UTF-8\"", true),
            ("application/json ;charset=iso-8859-1", true),
            ("image/svg+xml", false),
            ("text/plain;, image/svg+xml", false),
            ("text/plain, image/svg+xml", false),
            ("text/plain;charset=utf-8, image/svg+xml", false),
            ("text/plain;charset=\"utf-8, image/svg+xml\"", false),
            ("text/plain;charset=utf-8;, image/svg+xml", false),
            ("text/plain;version=2", false),
            ("text/plain;charset=", false),
            // An empty parameter is none (RFC 9110, section 5.6.6).
            ("text/plain;", true),
            ("text/html;charset=utf-8;", true),
            ("", false),
        ] {
            let value: HeaderValue = kind.parse().expect("a value");
            assert_eq!(is_answerable(&value), is_right, "{kind}");
        }
        let odd = HeaderValue::from_bytes(b"text/plain\xff").expect("a value");
        assert!(!is_answerable(&odd));
    }
}
