//! What a device asks: to enrol, to connect, to sign out. And what an app's backend asks about a
//! device: whether its session token is valid right now. Source: `/device/{app}/…`, `/check`.

use std::fmt;

use reqwest::{Method, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::{Answered, Client};
use crate::error::{Error, Result};
use crate::sessions::{DeviceId, SessionState};
use crate::time::{Moment, Span};

/// A device with its session token.
#[derive(Clone, Debug)]
pub struct Device {
    client: Client,
    app: String,
}

/// With what a device begins a session.
#[derive(Clone, Default, Serialize)]
pub struct Enrolment {
    /// The one-use token, from [`crate::InApp::authentication_token`].
    pub authentication_token: String,
    /// The device's own id, the same at every enrolment: 1 to 200 characters.
    pub device: DeviceId,
    /// What the user calls the device: at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// About the app container: an object with `version`, `bundle_id`, `platform`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Value>,
    /// About the runtime: an object with `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Value>,
}

impl fmt::Debug for Enrolment {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment").field("device", &self.device).finish_non_exhaustive()
    }
}

/// A session that has just begun.
#[derive(Clone, Deserialize, Serialize)]
pub struct Enrolled {
    /// The user's id.
    pub user_id: String,
    /// The session's id; a device that is known keeps it.
    pub session_id: String,
    /// The device's secret, shown this once: keep it where other apps cannot read it.
    pub session_token: String,
    /// ENROLLED.
    pub state: SessionState,
    /// When the device must sign in again by itself; none is never.
    pub ends_at: Option<Moment>,
}

impl fmt::Debug for Enrolled {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Enrolled");
        shown.field("user_id", &self.user_id).field("session_id", &self.session_id);
        shown.field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// A device that is signed in was told so.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Connected {
    /// ENROLLED.
    pub state: SessionState,
    /// When it must sign in again by itself; none is never.
    pub ends_at: Option<Moment>,
    /// From when on its user should be told that the end is near; none if the app does not ask.
    #[serde(default)]
    pub warn_at: Option<Moment>,
    /// What time it is on the server.
    pub server_time: Option<Moment>,
}

impl Device {
    /// A device that has a session token already. Nothing is sent yet.
    pub fn new(url: &str, app: impl Into<String>, session_token: &str) -> Result<Self> {
        Ok(Self { client: Client::new(url, session_token)?, app: app.into() })
    }

    /// Begins a session on this device. A token that does not work is an `AUTHENTICATION_FAILED`.
    /// The client's own token is not sent: the authentication token is the proof.
    pub async fn enroll(
        client: &Client,
        app: impl Into<String>,
        enrolment: &Enrolment,
    ) -> Result<(Self, Enrolled)> {
        let app = app.into();
        let request = client.with_token("")?.request(Method::POST, &["device", &app, "enroll"]);
        let enrolled: Enrolled = request.body(enrolment).json().await?;
        let client = client.with_token(&enrolled.session_token)?;
        Ok((Self { client, app }, enrolled))
    }

    /// Says that the device is there, and learns whether it is still signed in:
    /// [`Error::SignInAgain`] if it is not. Any other error leaves that open.
    pub async fn connect(&self) -> Result<Connected> {
        let connected: Connected = self.request("connect").json().await?;
        if connected.state == SessionState::Enrolled {
            return Ok(connected);
        }
        let why = format!("connected, but in the state {:?}", connected.state);
        Err(Error::OtherShape { why })
    }

    /// Signs out on this device. A session that has ended already is an [`Error::SignInAgain`].
    pub async fn sign_out(&self) -> Result<()> {
        self.request("sign-out").nothing().await
    }

    fn request(&self, verb: &str) -> crate::client::Request {
        self.client.request(Method::POST, &["device", &self.app, verb])
    }
}

/// Whether a session token is valid right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is.
    Valid {
        /// The app's id.
        app: String,
        /// The user's id.
        user: String,
        /// The session's id.
        session: String,
        /// When the user really proved who they are.
        authenticated_at: Moment,
        /// From when on it is no longer valid; none is "until someone ends it".
        ends_at: Option<Moment>,
    },
    /// It is not: the user must sign in again.
    Refused {
        /// Why, as a sentence.
        because: String,
        /// The age that was exceeded, when that is the reason (RFC 9470, section 3).
        max_age: Option<Span>,
    },
}

impl Client {
    /// Asks whether a device's session token is valid right now; the client's own token plays no
    /// part. An error means "not known": let nobody in by it. It is not tried again, because
    /// someone waits. `GET /check`.
    pub async fn check(&self, session_token: &str) -> Result<Checked> {
        let request = self.request(Method::GET, &["check"]).token(session_token)?;
        let answered = request.once().send().await?;
        match answered.status.as_u16() {
            200 => valid(&answered),
            401 => refused(&answered),
            503 => Err(Error::Answer {
                status: 503,
                kind: "SERVICE_UNAVAILABLE".into(),
                title: "An answer cannot be proven true right now".into(),
                detail: String::new(),
                field: None,
            }),
            _ => Err(answered.error()),
        }
    }
}

/// A proxy's friendly page has status 200 too: only an answer with all our headers is "valid".
fn valid(answered: &Answered) -> Result<Checked> {
    let why = |name: &str| Error::OtherShape { why: format!("{name} is missing or wrong") };
    let text = |name: &str| answered.header(name).map(str::to_owned).ok_or_else(|| why(name));
    let moment = |name: &str| text(name)?.parse::<Moment>().map_err(|_| why(name));
    let has_end = answered.headers.contains_key("reauth-ends-at");
    Ok(Checked::Valid {
        app: text("reauth-app")?,
        user: text("reauth-user")?,
        session: text("reauth-session")?,
        authenticated_at: moment("reauth-authenticated-at")?,
        ends_at: has_end.then(|| moment("reauth-ends-at")).transpose()?,
    })
}

/// A challenge of ours has a reason; another's 401 says nothing about the session.
fn refused(answered: &Answered) -> Result<Checked> {
    let challenge = answered.header(header::WWW_AUTHENTICATE).unwrap_or_default();
    let because = quoted(challenge, "error_description");
    let because = because.ok_or(Error::NotJson { status: 401 })?.to_owned();
    let max_age = quoted(challenge, "max_age").and_then(|seconds| seconds.parse().ok());
    Ok(Checked::Refused { because, max_age: max_age.map(Span::from_seconds) })
}

/// The value of `name="…"` in a challenge; our values hold no quotation marks.
fn quoted<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    let after = challenge.split_once(&format!("{name}=\""))?.1;
    Some(after.split_once('"')?.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_challenge_are_found() {
        let text = "Bearer realm=\"reauth\", error=\"insufficient_user_authentication\", \
                    error_description=\"too old\", max_age=\"2592000\"";
        assert_eq!(quoted(text, "error_description"), Some("too old"));
        assert_eq!(quoted(text, "max_age"), Some("2592000"));
        assert_eq!(quoted(text, "scope"), None);
        assert_eq!(quoted("max_age=\"1", "max_age"), None);
    }
}
