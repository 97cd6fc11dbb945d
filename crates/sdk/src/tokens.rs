//! API tokens of an app: what a program may do. Source: `/admin/apps/{app}/tokens`.

use std::fmt;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::apps::InApp;
use crate::error::Result;
use crate::pages::Pages;
use crate::time::{Moment, Span};

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Token {
    /// Its id: a lowercase UUID. It is no secret.
    pub id: String,
    /// Its name, for people and for the ledger.
    pub name: String,
    /// What it may do, such as `users:read`.
    pub scopes: Vec<String>,
    /// When it was created.
    pub created_at: Moment,
    /// When it ends by itself; none is never.
    pub expires_at: Option<Moment>,
    /// When it was last used, to the minute or so; none is never.
    pub last_used_at: Option<Moment>,
    /// When it was revoked; none if it was not.
    pub revoked_at: Option<Moment>,
}

/// A token that has just been created.
#[derive(Clone, Deserialize, Serialize)]
pub struct CreatedToken {
    /// What is known of it from now on.
    #[serde(flatten)]
    pub about: Token,
    /// Its secret, shown this once.
    pub token: String,
}

impl fmt::Debug for CreatedToken {
    /// Hides the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedToken").field("about", &self.about).finish_non_exhaustive()
    }
}

/// A token that is to be created.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// Its name: 1 to 100 characters.
    pub name: String,
    /// What it may do: `users:read`, `users:write`, `sessions:end`, `ledger:read`, `tasks:read`,
    /// `tasks:write`, `tasks:run`, or `app:admin` for all of them and the settings.
    pub scopes: Vec<String>,
    /// How long it lives; none is until it is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Span>,
}

impl InApp {
    /// All tokens of the app, revoked ones too. Scope `app:admin`.
    pub fn tokens(&self) -> Pages<Token> {
        Pages::new(self.administer(Method::GET, &["tokens"]))
    }

    /// Creates a token. Scope `app:admin`. An unknown scope is an `INVALID_VALUE` that lists the
    /// known ones.
    pub async fn create_token(&self, token: &NewToken) -> Result<CreatedToken> {
        self.administer(Method::POST, &["tokens"]).body(token).json().await
    }

    /// Revokes the token with this id. When this returns, no later request with it is accepted.
    /// Scope `app:admin`.
    pub async fn revoke_token(&self, id: &str) -> Result<()> {
        self.administer(Method::DELETE, &["tokens", id]).nothing().await
    }
}
