//! The check: an app's backend or reverse proxy asks whether a device's token is valid right now.
//! It reads memory only, and answers without a body, which some proxies insist on.

use std::fmt::{Display, Write as _};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::BytesMut;
use reauth_domain::access::{Because, Verdict};
use reauth_domain::{Checked, Explained, Time, devices};

use crate::app::App;

const APP: HeaderName = HeaderName::from_static("reauth-app");
const USER: HeaderName = HeaderName::from_static("reauth-user");
const SESSION: HeaderName = HeaderName::from_static("reauth-session");
const AUTHENTICATED_AT: HeaderName = HeaderName::from_static("reauth-authenticated-at");
const ENDS_AT: HeaderName = HeaderName::from_static("reauth-ends-at");
const WARN_AT: HeaderName = HeaderName::from_static("reauth-warn-at");
/// What the six values need: two ids of 36 characters, one of 24, three moments of 20.
const VALUES_BYTES: usize = 160;

/// For the OpenAPI document: the route is not in the router's table.
pub(crate) fn path_item() -> utoipa::openapi::PathItem {
    use utoipa::Path as _;
    let operation = utoipa::openapi::path::OperationBuilder::from(__path_documented::operation());
    utoipa::openapi::PathItem::new(utoipa::openapi::HttpMethod::Get, operation)
}

/// Whether a device's session token is valid right now: 200, 401 with `WWW-Authenticate`
/// (RFC 6750, RFC 9470), or 503 when it cannot be known. The body is always empty. On 200 the
/// headers Reauth-App, -User, -Session, -Authenticated-At and -Ends-At say who it is, and -Warn-At
/// from when on the user should be told that the end is near (setting `warn_before`).
#[utoipa::path(get, path = "/check", tag = "devices",
    responses((status = 200), (status = 401), (status = 503)))]
#[expect(dead_code, reason = "the macro makes the document from it")]
fn documented() {}

/// `GET /check` with `Authorization: Bearer <session token>` → 200, 401 or 503, always empty.
/// HEAD and any other method that a proxy forwards are answered alike.
pub(crate) fn answer(app: &App, headers: &HeaderMap) -> Response<Body> {
    let Some(token) = bearer(headers) else {
        // RFC 6750, section 3: without a credential, a challenge without an error code.
        return challenge("Bearer realm=\"reauth\"".into());
    };
    let checked = devices::check(&app.db, token);
    let verdict = checked.as_ref().map(|found| found.map(|checked| checked.verdict));
    app.metrics.count_check(verdict.map_err(|_| ()));
    match checked {
        Ok(Some(checked)) => match checked.verdict {
            Verdict::Valid { ends_at } => valid(&checked, ends_at),
            // Why, takes a second look: nobody waits for it on the way in.
            Verdict::Ended(ended) => {
                ended_because(ended.because, devices::explain(&app.db, token).ok().flatten())
            }
        },
        Ok(None) => refused("invalid_token", Because::Unknown.sentence()),
        Err(_) => status(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn ended_because(because: Because, explained: Option<Explained>) -> Response<Body> {
    let end = explained.as_ref().and_then(|explained| explained.ends.first());
    let max_age = explained.as_ref().and_then(|explained| explained.max_age);
    let description = match end.filter(|end| end.ended.because == because) {
        // A quoted string has no quotes and no backslashes of its own (RFC 9110, section 5.6.4).
        Some(end) => end.to_string().replace(['"', '\\'], "'"),
        None => because.to_string(),
    };
    match (because, max_age) {
        // RFC 9470, section 3: the authentication was real but is too old for this resource.
        (Because::TooOld, Some(max_age)) => challenge(format!(
            "Bearer realm=\"reauth\", error=\"insufficient_user_authentication\", \
             error_description=\"{description}\", max_age=\"{}\"",
            max_age.whole_seconds()
        )),
        _ => refused("invalid_token", &description),
    }
}

fn valid(checked: &Checked, ends_at: Option<Time>) -> Response<Body> {
    let mut response = status(StatusCode::OK);
    let headers = response.headers_mut();
    headers.reserve(5);
    let mut values = Values(BytesMut::with_capacity(VALUES_BYTES));
    headers.insert(APP, values.next(checked.app));
    headers.insert(USER, values.next(checked.user));
    headers.insert(SESSION, values.next(checked.session));
    headers.insert(AUTHENTICATED_AT, values.next(checked.authenticated_at));
    if let Some(ends_at) = ends_at {
        headers.insert(ENDS_AT, values.next(ends_at));
    }
    if let Some(warn_at) = checked.warn_at {
        headers.insert(WARN_AT, values.next(warn_at));
    }
    response
}

/// Ids and moments in one piece of memory, cut into header values: this is asked for before every
/// request of every app.
struct Values(BytesMut);

impl Values {
    fn next(&mut self, value: impl Display) -> HeaderValue {
        // Ids and moments are plain ASCII, and memory takes any text: neither can fail.
        let _ = write!(self.0, "{value}");
        let text = self.0.split().freeze();
        HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
    }
}

fn refused(error: &str, description: &str) -> Response<Body> {
    challenge(format!(
        "Bearer realm=\"reauth\", error=\"{error}\", error_description=\"{description}\""
    ))
}

fn challenge(text: String) -> Response<Body> {
    let mut response = status(StatusCode::UNAUTHORIZED);
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
