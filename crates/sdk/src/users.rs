//! Users of an app: their objects with attributes, and their lock. Source: the app-users contract,
//! sections 2 and 3.

use std::fmt;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::apps::InApp;
use crate::error::Result;
use crate::pages::Pages;
use crate::sessions::Session;
use crate::time::{Moment, Span};

/// A user with their sessions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct User {
    /// The id: a lowercase UUID.
    pub id: String,
    /// When a device of the user last connected; none is never.
    pub last_connected_at: Option<Moment>,
    /// Whether some session is ENROLLED.
    pub enrolled: bool,
    /// Whether the user is locked: no sign-in succeeds.
    pub locked: bool,
    /// The sessions, newest first.
    pub sessions: Vec<Session>,
}

/// A user as an object with attributes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct UserObject {
    /// The id: the same as the user's.
    pub id: String,
    /// Always `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When an attribute last changed.
    pub updated_at: Option<Moment>,
    /// The user in a few words, for people.
    pub display: Option<String>,
    /// The attributes by name, as the app's user schema has them.
    #[serde(flatten)]
    pub attributes: Map<String, Value>,
}

/// What an authentication token is to say of the sign-in that it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenRequest {
    /// How long it can be used, at most a day; 10 minutes unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Span>,
    /// By which methods the user has proved who they are (RFC 8176), for policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// How surely: `aal1`, `aal2` or `aal3` (NIST SP 800-63B-4), for policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<String>,
}

/// A one-use token with which one device can enrol.
#[derive(Clone, Deserialize, Serialize)]
pub struct AuthenticationToken {
    /// The secret, shown this once.
    pub token: String,
    /// Where the device sends it.
    pub url: String,
    /// From when on it can no longer be used.
    pub expires_at: Moment,
}

impl fmt::Debug for AuthenticationToken {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AuthenticationToken");
        shown.field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl InApp {
    /// All users with their sessions, oldest first. Scope `users:read`.
    pub fn users(&self) -> Pages<User> {
        Pages::new(self.request(Method::GET, &["users"]))
    }

    /// The user with this id. Scope `users:read`.
    pub async fn user(&self, id: &str) -> Result<User> {
        self.request(Method::GET, &["users", id]).json().await
    }

    /// All users as objects with attributes. Scope `users:read`.
    pub fn user_objects(&self) -> Pages<UserObject> {
        Pages::new(self.request(Method::GET, &["objects", "user.json"]))
    }

    /// The user with this id as an object with attributes. Scope `users:read`.
    pub async fn user_object(&self, id: &str) -> Result<UserObject> {
        self.request(Method::GET, &["objects", "user", &format!("{id}.json")]).json().await
    }

    /// Creates a user with these attributes. An attribute that the app's user schema does not have,
    /// or a value of another type, is an `INVALID_VALUE` that names it. Scope `users:write`.
    pub async fn create_user(&self, attributes: &Map<String, Value>) -> Result<UserObject> {
        let body = json!({ "user": attributes });
        self.request(Method::POST, &["objects", "user.json"]).body(&body).json().await
    }

    /// Locks a user: every session ends, and no sign-in succeeds until the unlock. The reason goes
    /// into the ledger. Scopes `users:write` and `sessions:end`.
    pub async fn lock(&self, user: &str, reason: Option<&str>) -> Result<()> {
        self.request(Method::POST, &["users", user, "lock"]).reason(reason).nothing().await
    }

    /// Unlocks a user. No session comes back. Scope `users:write`.
    pub async fn unlock(&self, user: &str, reason: Option<&str>) -> Result<()> {
        self.request(Method::POST, &["users", user, "unlock"]).reason(reason).nothing().await
    }

    /// Issues a one-use token with which one device can enrol as this user. A locked user is a
    /// `CONFLICT`. Scope `users:write`.
    pub async fn authentication_token(
        &self,
        user: &str,
        wanted: &TokenRequest,
    ) -> Result<AuthenticationToken> {
        let request = self.request(Method::POST, &["users", user, "authentication-token"]);
        request.body(wanted).json().await
    }
}
