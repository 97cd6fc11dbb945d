//! What can go wrong between a caller and the server, and what to do about it.

/// The answer of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Its text says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused, and said why.
    #[error("{}", self.with_advice())]
    Answer {
        /// The HTTP status.
        status: u16,
        /// The `type`, such as `OBJECT_NOT_FOUND`: what programs rely on, beside the status.
        kind: String,
        /// The kind in words.
        title: String,
        /// What is wrong here.
        detail: String,
        /// The field that is wrong (`INVALID_VALUE`).
        field: Option<String>,
    },
    /// The device's session has ended (status 401, type `SIGN_IN_AGAIN`).
    #[error("{}", self.with_advice())]
    SignInAgain {
        /// `LOCKED`; or `RESET`, and then the device must wipe its data first.
        state: String,
        /// The reason's name, such as `max_session_age`.
        because: String,
        /// The policy that asks for it, if one does.
        policy: Option<String>,
        /// The reason as a sentence.
        detail: String,
    },
    /// No answer came.
    #[error("{}", self.with_advice())]
    Unreachable {
        /// The server's URL.
        url: String,
        /// What happened on the way.
        why: String,
    },
    /// Something answered, but not as Reauth does.
    #[error("{}", self.with_advice())]
    NotJson {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is JSON of another shape than this client knows.
    #[error("{}", self.with_advice())]
    OtherShape {
        /// What does not fit.
        why: String,
    },
    /// The request cannot be made: a URL, token or id that is none.
    #[error("{}", self.with_advice())]
    Misuse {
        /// What is wrong and what is wanted.
        why: String,
    },
}

impl Error {
    /// What went wrong, without advice.
    pub fn what(&self) -> String {
        match self {
            Self::Answer { detail, title, status, .. } => {
                let said = if detail.is_empty() { title } else { detail };
                if said.is_empty() { format!("the server answered {status}") } else { said.clone() }
            }
            Self::SignInAgain { detail, .. } => detail.clone(),
            Self::Unreachable { url, why } => format!("no answer from {url}: {why}"),
            Self::NotJson { status } => {
                format!("the answer (status {status}) is not one of a Reauth server")
            }
            Self::OtherShape { why } => {
                format!("the server's answer has a shape that this client does not know: {why}")
            }
            Self::Misuse { why } => why.clone(),
        }
    }

    /// What to do about it, where the server did not say so itself.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Answer { kind, .. } => match kind.as_str() {
                "AUTHENTICATION_FAILED" => Some("use a token that is valid for this app"),
                "PERMISSION_DENIED" => Some("use a token that has this scope"),
                "ACCOUNT_NOT_FOUND" => Some("check the app's id"),
                "SERVICE_UNAVAILABLE" => Some("treat it as not known, and try again soon"),
                "INTERNAL_SERVER_ERROR" => Some("the server's log says what broke"),
                "ROUTE_ERROR" => Some("check that the server is not older than this client"),
                _ => None,
            },
            Self::SignInAgain { state, .. } if state == "RESET" => {
                Some("wipe the data on the device, then sign in")
            }
            Self::SignInAgain { .. } => Some("sign in on the device"),
            Self::Unreachable { .. } => Some("check that the server runs at this URL"),
            Self::NotJson { status: 300..400 } => {
                Some("use the URL that this one redirects to, such as https instead of http")
            }
            Self::NotJson { .. } => Some("check the URL, and any proxy before the server"),
            Self::OtherShape { .. } => Some("use a client of the server's version"),
            Self::Misuse { .. } => None,
        }
    }

    /// Whether the server says that the thing is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Answer { status: 404, .. })
    }

    /// Whether the token may not do this.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Answer { status: 403, .. })
    }

    fn with_advice(&self) -> String {
        match self.advice() {
            Some(advice) => format!("{} ({advice})", self.what()),
            None => self.what(),
        }
    }

    pub(crate) fn misuse(why: impl Into<String>) -> Self {
        Self::Misuse { why: why.into() }
    }
}
