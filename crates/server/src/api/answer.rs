//! The one place where a failure becomes an answer, and where it is logged, once.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reauth_domain::access::Because;
use reauth_domain::sessions::State;
use reauth_domain::{Error, KnownEnd};
use serde::Serialize;
use utoipa::ToSchema;

/// The kinds of errors: what clients rely on (contract, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AuthenticationFailed,
    SignInAgain,
    PermissionDenied,
    AccountNotFound,
    RouteError,
    ObjectNotFound,
    Conflict,
    BadRequest,
    InvalidValue,
    TooLarge,
    TooSlow,
    TooMany,
    Internal,
    Unavailable,
}

type Row = (Kind, u16, &'static str, &'static str, &'static str);

/// Kind, status, `type`, `title`, and what to do about it.
pub(crate) const KINDS: [Row; 14] = [
    (
        Kind::AuthenticationFailed,
        401,
        "AUTHENTICATION_FAILED",
        "The credential is missing, unknown or no longer valid",
        "Send an Authorization header with a token of this app, or ask the operator for a new one.",
    ),
    (
        Kind::SignInAgain,
        401,
        "SIGN_IN_AGAIN",
        "The device must sign in again",
        "Ask the user to sign in; if the state is RESET, wipe the app's data first.",
    ),
    (
        Kind::PermissionDenied,
        403,
        "PERMISSION_DENIED",
        "The token may not do this",
        "Use a token that has the scope named in the detail.",
    ),
    (
        Kind::AccountNotFound,
        404,
        "ACCOUNT_NOT_FOUND",
        "There is no app with this id",
        "Check the 24 hex digits after /api/v4/.",
    ),
    (
        Kind::RouteError,
        404,
        "ROUTE_ERROR",
        "There is nothing at this address",
        "Check the method and the path; /openapi.json lists all of them.",
    ),
    (
        Kind::ObjectNotFound,
        404,
        "OBJECT_NOT_FOUND",
        "There is no object with this id",
        "Check the id; it may have been deleted, or belong to another app.",
    ),
    (
        Kind::Conflict,
        409,
        "CONFLICT",
        "This contradicts what is there",
        "Read the detail, look at the object again, and decide anew.",
    ),
    (
        Kind::BadRequest,
        400,
        "INVALID_API_REQUEST",
        "The request cannot be read",
        "Send well-formed JSON with the parameters that the detail names.",
    ),
    (
        Kind::InvalidValue,
        422,
        "INVALID_VALUE",
        "A value is wrong",
        "Correct the named field; the detail says what is wanted.",
    ),
    (
        Kind::TooLarge,
        413,
        "PAYLOAD_TOO_LARGE",
        "The body is too long",
        "Send less at once: several smaller batches.",
    ),
    (
        Kind::TooSlow,
        408,
        "REQUEST_TIMEOUT",
        "The request came too slowly",
        "Send the request again on a better connection.",
    ),
    (
        Kind::TooMany,
        429,
        "TOO_MANY_REQUESTS",
        "Too much at once",
        "Wait as many seconds as Retry-After says, then try again.",
    ),
    (
        Kind::Internal,
        500,
        "INTERNAL_SERVER_ERROR",
        "Something is broken here",
        "Look whether it was done before you ask again; tell the operator the X-Request-Id.",
    ),
    (
        Kind::Unavailable,
        503,
        "SERVICE_UNAVAILABLE",
        "An answer cannot be proven true right now",
        "Treat it as \"not known\", never as valid; try again soon.",
    ),
];

impl Kind {
    fn row(self) -> Row {
        KINDS[self as usize]
    }
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What clients rely on, beside the status.
    #[schema(example = "INVALID_VALUE")]
    r#type: &'static str,
    /// The kind in words.
    title: &'static str,
    /// What is wrong here and what to do.
    detail: String,
    /// Where this server explains the kind.
    see: String,
    /// The field that is wrong (`INVALID_VALUE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// `LOCKED` or `RESET` (`SIGN_IN_AGAIN`).
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The reason's name (`SIGN_IN_AGAIN`).
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
    /// The policy that asks for it, if one does (`SIGN_IN_AGAIN`).
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
}

/// An error on its way to the caller.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: Kind,
    detail: String,
    field: Option<String>,
    because: Option<Because>,
    policy: Option<String>,
    retry_after_s: Option<u32>,
}

impl Answer {
    /// An error of this kind.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, detail, field: None, because: None, policy: None, retry_after_s: None }
    }

    /// A device's credential has ended.
    pub(crate) fn sign_in_again(because: Because) -> Self {
        let detail = format!("{because}: ask the user to sign in again");
        Self { because: Some(because), ..Self::new(Kind::SignInAgain, detail) }
    }

    /// A session has ended; with the end that is known of it.
    pub(crate) fn session_ended(because: Because, end: Option<KnownEnd>) -> Self {
        let Some(end) = end.filter(|end| end.ended.because == because) else {
            return Self::sign_in_again(because);
        };
        let detail = format!("{end}: ask the user to sign in again");
        Self { detail, policy: end.policy, ..Self::sign_in_again(because) }
    }

    /// The status and the body's `type` and `detail`, for answers within a batch.
    pub(crate) fn parts(self) -> (u16, &'static str, String) {
        let (_, status, name, ..) = self.kind.row();
        (status, name, self.detail)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (_, status, name, title, _) = self.kind.row();
        let body = ErrorBody {
            r#type: name,
            title,
            detail: self.detail,
            see: format!("/errors#{name}"),
            field: self.field,
            state: self.because.map(|because| State::after(because).name()),
            because: self.because.map(Because::name),
            policy: self.policy,
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"reauth\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => {
                Self::new(Kind::ObjectNotFound, format!("{error}: check the id"))
            }
            Error::Conflict(why) => Self::new(Kind::Conflict, why),
            Error::Invalid { field, why } => Self {
                field: Some(field.clone()),
                ..Self::new(Kind::InvalidValue, format!("{field}: {why}"))
            },
            Error::SignInAgain(because) => Self::sign_in_again(because),
            Error::Denied(why) => Self::new(Kind::PermissionDenied, why),
            Error::Busy { why, retry_after_s } => {
                Self { retry_after_s: Some(retry_after_s), ..Self::new(Kind::TooMany, why) }
            }
            Error::Unavailable(why) => {
                tracing::error!(why, "unavailable");
                let detail = "the database does not answer: nothing was changed; try again";
                Self { retry_after_s: Some(1), ..Self::new(Kind::Unavailable, detail) }
            }
            Error::Unreadable(why) => Self::new(Kind::Unavailable, why),
            Error::InDoubt(why) => {
                tracing::error!(why, "a change in doubt");
                let detail = "whether this was done is not known: look before you ask again";
                Self { retry_after_s: Some(1), ..Self::new(Kind::Unavailable, detail) }
            }
            Error::Internal(why) => {
                tracing::error!(why, "internal error");
                let detail = "this is a defect: tell the operator the X-Request-Id of this answer";
                Self::new(Kind::Internal, detail)
            }
        }
    }
}
