//! How parts of a request are read: bodies, paths, pages. What is wrong is named.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use ipnet::IpNet;
use reauth_domain::{SessionId, UserId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Answer, Kind};
use crate::app::App;

/// A small object takes a hundred times as much memory as its text: a body of nothing else would
/// take that of the whole server.
const CONTAINERS_MAX: usize = 20_000;

/// A JSON body that must be there.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body that may be absent: clients send `Content-Type: application/json` with nothing.
pub(crate) struct MaybeBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Answer;

    async fn from_request(request: Request, state: &App) -> Result<Self, Answer> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            return Err(Answer::new(Kind::BadRequest, "the body is missing: send JSON"));
        }
        json(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<App> for MaybeBody<T> {
    type Rejection = Answer;

    async fn from_request(request: Request, state: &App) -> Result<Self, Answer> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { json(&bytes).map(Self) }
    }
}

/// As [`MaybeBody`], of which the long parts are kept as they were written: they may hold any
/// number of values, since nothing is built of them.
pub(crate) struct KeptBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<App> for KeptBody<T> {
    type Rejection = Answer;

    async fn from_request(request: Request, state: &App) -> Result<Self, Answer> {
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { as_it_is(&bytes).map(Self) }
    }
}

async fn bytes(request: Request, state: &App) -> Result<axum::body::Bytes, Answer> {
    let broken = |_| Answer::new(Kind::BadRequest, "the body cannot be read: send it again");
    axum::body::Bytes::from_request(request, state).await.map_err(broken)
}

/// Reads JSON. Text that is no JSON is a bad request; JSON of the wrong shape names its field.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Answer> {
    if containers(bytes) > CONTAINERS_MAX {
        let why = format!("has more than {CONTAINERS_MAX} objects and lists: send less at once");
        return Err(reauth_domain::Error::invalid("body", why).into());
    }
    as_it_is(bytes)
}

/// How many objects and lists begin in a JSON text.
fn containers(text: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

fn as_it_is<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Answer> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => wrong_shape(&path, &inner.to_string()),
            _ => Answer::new(Kind::BadRequest, format!("the body is no JSON: {inner}")),
        }
    })
}

/// Reads a value that was JSON already; what has the wrong shape is named.
pub(crate) fn json_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Answer> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| wrong_shape(&error.path().to_string(), &error.inner().to_string()))
}

fn wrong_shape(path: &str, message: &str) -> Answer {
    let message = message.split(" at line ").next().unwrap_or(message);
    // A missing or unknown field is named by the message, not by the path that leads to its parent.
    let named = message.split('`').nth(1).filter(|_| message.contains("field `"));
    let field = match (path, named) {
        ("." | "", Some(named)) => named.to_owned(),
        (path, Some(named)) if message.starts_with("missing") => format!("{path}.{named}"),
        ("." | "", None) => "body".to_owned(),
        (path, _) => path.to_owned(),
    };
    if message.starts_with("missing field") {
        return Answer::new(Kind::BadRequest, format!("{field}: is missing: add it"));
    }
    reauth_domain::Error::invalid(field, message.to_owned()).into()
}

/// Whether the body is a form rather than JSON.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
}

/// Why a caller does something: kept in the ledger.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Reason {
    /// A sentence for the ledger: at most 1000 characters.
    #[serde(deserialize_with = "why")]
    #[schema(value_type = Option<String>)]
    pub(crate) reason: Option<String>,
}

/// A reason as it may stand in the ledger, for good.
pub(crate) fn why<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    /// A sentence or two.
    const CHARS_MAX: usize = 1_000;
    let text = Option::<String>::deserialize(value)?;
    if text.as_ref().is_some_and(|text| text.chars().count() > CHARS_MAX || text.contains('\0')) {
        let why = format!("must have at most {CHARS_MAX} characters");
        return Err(serde::de::Error::custom(why));
    }
    Ok(text)
}

/// What stands in the address after `?`.
pub(crate) struct QueryOf<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for QueryOf<T> {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|why| unreadable_query(&why))
    }
}

/// The names in a path, as text. What is no text is an address that nothing has.
pub(crate) struct PathOf<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for PathOf<T> {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        let nowhere = |_| Answer::new(Kind::RouteError, "the path cannot be read: check it");
        path.map(|Path(path)| Self(path)).map_err(nowhere)
    }
}

/// `limit` and `skip` of a list. Empty values count as absent (contract, section 2).
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many at most: 1000 unless fewer are wanted.
    #[param(value_type = Option<i64>)]
    limit: Option<String>,
    /// How many to leave out first.
    #[param(value_type = Option<i64>)]
    skip: Option<String>,
}

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) limit: i64,
    pub(crate) skip: i64,
}

impl Page {
    pub(crate) const MAX: i64 = 1_000;

    pub(crate) fn of(limit: Option<&str>, skip: Option<&str>) -> Result<Self, Answer> {
        let limit = number("limit", limit, Self::MAX)?;
        Ok(Self { limit: limit.min(Self::MAX), skip: number("skip", skip, 0)? })
    }

    /// As `of`, for numbers of a body.
    pub(crate) fn of_numbers(limit: Option<i64>, skip: Option<i64>) -> Result<Self, Answer> {
        let [limit, skip] = [limit, skip].map(|given| given.map(|number| number.to_string()));
        Self::of(limit.as_deref(), skip.as_deref())
    }
}

/// A whole number of a query; absent and empty are the default.
pub(crate) fn number(field: &str, text: Option<&str>, default: i64) -> Result<i64, Answer> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(default) };
    let read = text.parse::<i64>().ok().filter(|number| *number >= 0);
    read.ok_or_else(|| reauth_domain::Error::invalid(field, "must be a whole number from 0").into())
}

impl FromRequestParts<App> for Page {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let QueryOf(query) = QueryOf::<PageQuery>::from_request_parts(parts, state).await?;
        Self::of(query.limit.as_deref(), query.skip.as_deref())
    }
}

pub(crate) fn unreadable_query(why: &impl std::fmt::Display) -> Answer {
    let detail = format!("the part of the address after ? cannot be read: {why}");
    Answer::new(Kind::BadRequest, detail)
}

/// A list with its place in the whole.
#[derive(Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// How many there are in all.
    total: i64,
    /// How many are here.
    count: i64,
    /// Whether there are more after these.
    more: bool,
    /// These.
    objects: Vec<T>,
}

impl<T> List<T> {
    pub(crate) fn new(objects: Vec<T>, total: i64, page: Page) -> Self {
        let count = i64::try_from(objects.len()).unwrap_or(i64::MAX);
        Self { total, count, more: page.skip.saturating_add(count) < total && count > 0, objects }
    }
}

/// The address that a request comes from.
pub(crate) struct Address(pub(crate) IpAddr);

impl FromRequestParts<App> for Address {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.ok_or_else(|| Answer::new(Kind::Internal, "a request without a peer"))?;
        let told = parts.headers.get_all("x-forwarded-for").iter();
        let told = told.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        // What is no text is no address, and hides none of the others.
        let told: Vec<&str> =
            told.map(|part| std::str::from_utf8(part).unwrap_or_default().trim()).collect();
        Ok(Self(from(peer.0.ip(), &told, &state.config.requests.trusted_proxies)))
    }
}

/// The last address that was told by someone who is believed: each proxy appends the one that it
/// was asked from, and what stands before the first stranger anyone may have written.
fn from(peer: IpAddr, told: &[&str], trusted: &[IpNet]) -> IpAddr {
    let mut last = peer.to_canonical();
    for address in told.iter().rev() {
        let is_believed = trusted.iter().any(|net| net.contains(&last));
        // Some proxies tell the port as well.
        let with_port = || address.parse().map(|socket: SocketAddr| socket.ip());
        let address: Option<IpAddr> = address.parse().or_else(|_| with_port()).ok();
        let Some(address) = address.filter(|_| is_believed) else { break };
        last = address.to_canonical();
    }
    last
}

/// The user in the path.
pub(crate) struct UserInPath(pub(crate) UserId);

/// The user and the session in the path.
pub(crate) struct SessionInPath(pub(crate) UserId, pub(crate) SessionId);

#[derive(Deserialize)]
struct Ids {
    user: String,
    session: Option<String>,
}

impl FromRequestParts<App> for UserInPath {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        Ok(Self(ids(parts, state).await?.0))
    }
}

impl FromRequestParts<App> for SessionInPath {
    type Rejection = Answer;

    async fn from_request_parts(parts: &mut Parts, state: &App) -> Result<Self, Answer> {
        let (user, session) = ids(parts, state).await?;
        let session = session.ok_or_else(|| Answer::new(Kind::Internal, "no session in the path"));
        Ok(Self(user, session?))
    }
}

/// An id that is none is an id that nobody has.
async fn ids(parts: &mut Parts, state: &App) -> Result<(UserId, Option<SessionId>), Answer> {
    let unknown = |what: String| Answer::from(reauth_domain::Error::not_found(what));
    let path = Path::<Ids>::from_request_parts(parts, state).await;
    let Path(Ids { user, session }) = path.map_err(|_| unknown("object".into()))?;
    let id = user.parse().map_err(|_| unknown(format!("user {user}")))?;
    let session = session
        .map(|text| text.parse().map_err(|_| unknown(format!("session {text}"))))
        .transpose()?;
    Ok((id, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_lists_are_counted_outside_texts_only() {
        for (text, wanted) in [
            (r#"{"a":[{},{}],"b":"{[{["}"#, 4),
            (r#"["\"{[", "\\", {}]"#, 2),
            (r#""{" "#, 0),
            ("{{[", 3),
        ] {
            assert_eq!(containers(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn only_proxies_that_are_trusted_are_believed() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let trusted: Vec<IpNet> =
            ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a network")).into();
        for (peer, told, wanted) in [
            ("203.0.113.7", &[][..], "203.0.113.7"),
            ("::ffff:203.0.113.7", &[], "203.0.113.7"),
            ("203.0.113.7", &["198.51.100.1"], "203.0.113.7"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::1", &["198.51.100.1", "10.9.9.9"], "198.51.100.1"),
            // What the stranger wrote before it reached the first proxy.
            ("10.1.2.3", &["127.0.0.1", "198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["10.0.0.1", "10.0.0.2"], "10.0.0.1"),
            ("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.1.2.3", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.1.2.3", &["unknown"], "10.1.2.3"),
            ("10.1.2.3", &["unknown", "198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(from(ip(peer), told, &trusted), ip(wanted), "{peer} {told:?}");
        }
        assert_eq!(from(ip("10.1.2.3"), &["198.51.100.1"], &[]), ip("10.1.2.3"));
    }
}
