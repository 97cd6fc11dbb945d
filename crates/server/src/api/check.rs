//! The check: an app's backend or reverse proxy asks whether a device's token is valid right now.
//! It reads memory only, and answers without a body, which some proxies insist on.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use reauth_domain::access::{Because, Verdict};
use reauth_domain::{Checked, devices};

use crate::app::App;

/// For the OpenAPI document: the route is not in the router's table.
pub(crate) fn path_item() -> utoipa::openapi::PathItem {
    use utoipa::Path as _;
    let operation = utoipa::openapi::path::OperationBuilder::from(__path_documented::operation());
    utoipa::openapi::PathItem::new(utoipa::openapi::HttpMethod::Get, operation)
}

/// Whether a device's session token is valid right now: 200, 401 with `WWW-Authenticate`
/// (RFC 6750, RFC 9470), or 503 when it cannot be known. The body is always empty. On 200 the
/// headers Reauth-App, -User, -Session, -Authenticated-At and -Ends-At say who it is.
#[utoipa::path(get, path = "/check", tag = "devices",
    responses((status = 200), (status = 401), (status = 503)))]
#[expect(dead_code, reason = "the macro makes the document from it")]
fn documented() {}

/// `GET /check` with `Authorization: Bearer <session token>` → 200, 401 or 503, always empty.
/// HEAD and any other method that a proxy forwards are answered alike.
pub(crate) fn answer(app: &App, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let _ = method;
    let Some(token) = bearer(headers) else {
        // RFC 6750, section 3: without a credential, a challenge without an error code.
        return challenge("Bearer realm=\"reauth\"".into());
    };
    let checked = devices::check(&app.db, token);
    let verdict = checked.as_ref().map(|found| found.map(|checked| checked.verdict));
    app.metrics.count_check(verdict.map_err(|_| ()));
    match checked {
        Ok(Some(checked)) => known(&checked),
        Ok(None) => refused("invalid_token", Because::Unknown),
        Err(_) => status(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn known(checked: &Checked) -> Response<Body> {
    match checked.verdict {
        Verdict::Valid { ends_at } => {
            let mut response = status(StatusCode::OK);
            let headers = response.headers_mut();
            headers.reserve(6);
            headers.insert("reauth-app", text(checked.app));
            headers.insert("reauth-user", text(checked.user));
            headers.insert("reauth-session", text(checked.session));
            headers.insert("reauth-authenticated-at", text(checked.authenticated_at));
            if let Some(ends_at) = ends_at {
                headers.insert("reauth-ends-at", text(ends_at));
            }
            response
        }
        Verdict::Ended(ended) => match (ended.because, checked.limits.max_age) {
            // RFC 9470, section 3: the authentication was real but is too old for this resource.
            (Because::TooOld, Some(max_age)) => challenge(format!(
                "Bearer realm=\"reauth\", error=\"insufficient_user_authentication\", \
                 error_description=\"{}\", max_age=\"{}\"",
                ended.because,
                max_age.whole_seconds()
            )),
            (because, _) => refused("invalid_token", because),
        },
    }
}

fn refused(error: &str, because: Because) -> Response<Body> {
    challenge(format!(
        "Bearer realm=\"reauth\", error=\"{error}\", error_description=\"{because}\""
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

/// Ids and moments are plain ASCII: they always fit a header.
fn text(value: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).unwrap_or(HeaderValue::from_static(""))
}
