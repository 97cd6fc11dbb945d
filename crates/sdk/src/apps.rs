//! Apps: their settings, and the handle for requests within one. Source: `/admin/apps`.

use std::collections::BTreeMap;
use std::num::ParseIntError;
use std::str::FromStr;

use reqwest::Method;
use serde::{Deserialize, Serialize, Serializer};

use crate::client::{Client, Request};
use crate::error::Result;
use crate::pages::Pages;
use crate::time::{Moment, NotASpan, Span};

/// An app: whose users Reauth knows, with which settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct App {
    /// Its id: 24 hex digits.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// When it was created.
    pub created_at: Moment,
    /// Its settings.
    pub settings: Settings,
}

/// The settings of an app.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Settings {
    /// The longest time from a real sign-in to the next; none is no limit.
    pub max_session_age: Option<Span>,
    /// The longest time without activity; none is no limit.
    pub max_idle: Option<Span>,
    /// Whether a user may be signed in on several devices at once.
    pub multiple_devices_per_user: bool,
    /// How long before a session ends its app is told so; none: it is not told.
    #[serde(default)]
    pub warn_before: Option<Span>,
    /// A revocation of more sessions needs a preview; none: however many.
    #[serde(default)]
    pub unseen_sessions_max: Option<u64>,
    /// A revocation of more percent of the users needs a preview; none: however many.
    #[serde(default)]
    pub unseen_percent_max: Option<u64>,
    /// The attributes of a user object and their types.
    #[serde(default)]
    pub user_schema: BTreeMap<String, FieldType>,
}

/// The type of a user's attribute.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    Datetime,
    /// One of these texts.
    Choice(Vec<String>),
}

/// A limit that is to be set or taken away. As text `30d` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No limit. In JSON null.
    Off,
    /// This long. In JSON a duration.
    At(Span),
}

impl FromStr for Limit {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        if text == "none" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_none(),
            Self::At(span) => span.serialize(serializer),
        }
    }
}

/// A number that is to be set or taken away. As text `100` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Most(pub Option<u64>);

impl FromStr for Most {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|number| Self(Some(number))) }
    }
}

/// What is to be set of an app's settings. None leaves a setting as it is; in a new app it leaves
/// the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingsChange {
    /// The longest time from a real sign-in to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_session_age: Option<Limit>,
    /// The longest time without activity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_idle: Option<Limit>,
    /// Whether a user may be signed in on several devices at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiple_devices_per_user: Option<bool>,
    /// How long before a session ends its app is told so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_before: Option<Limit>,
    /// A revocation of more sessions needs a preview.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unseen_sessions_max: Option<Most>,
    /// A revocation of more percent of the users needs a preview.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unseen_percent_max: Option<Most>,
    /// All attributes of a user object: it replaces the ones before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_schema: Option<BTreeMap<String, FieldType>>,
}

impl SettingsChange {
    /// Whether it sets nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An app that is to be created.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewApp {
    /// Its name: 1 to 100 characters.
    pub name: String,
    /// Its settings, where they differ from the server's defaults.
    #[serde(skip_serializing_if = "SettingsChange::is_empty")]
    pub settings: SettingsChange,
    /// Agrees that nothing may end every session of the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_endless: bool,
}

/// What is to change of an app.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AppChange {
    /// Its new name, if it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its new settings, where they change.
    #[serde(skip_serializing_if = "SettingsChange::is_empty")]
    pub settings: SettingsChange,
    /// Agrees that nothing may end every session of the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_endless: bool,
}

impl Client {
    /// All apps that the token sees, oldest first. `GET /admin/apps`, operator.
    pub fn apps(&self) -> Pages<App> {
        Pages::new(self.request(Method::GET, &["admin", "apps"]))
    }

    /// Creates an app. `POST /admin/apps`, operator. A name or setting that cannot be meant is an
    /// `INVALID_VALUE` that names its field.
    pub async fn create_app(&self, app: &NewApp) -> Result<App> {
        self.request(Method::POST, &["admin", "apps"]).body(app).json().await
    }

    /// The handle for requests within the app with this id. Nothing is asked yet.
    pub fn app(&self, id: impl Into<String>) -> InApp {
        InApp { client: self.clone(), id: id.into() }
    }
}

/// Requests within one app. Clones share the connection.
#[derive(Clone, Debug)]
pub struct InApp {
    client: Client,
    id: String,
}

impl InApp {
    /// The client that the requests go through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The app's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The app itself. `GET /admin/apps/{app}`, scope `app:admin`.
    pub async fn read(&self) -> Result<App> {
        self.administer(Method::GET, &[]).json().await
    }

    /// Changes the app's name and settings; what is none stays. A shorter limit acts at once, a
    /// longer one revives nothing. `PATCH /admin/apps/{app}`, scope `app:admin`.
    pub async fn change(&self, change: &AppChange) -> Result<App> {
        self.administer(Method::PATCH, &[]).body(change).json().await
    }

    /// A request under `/api/v4/{app}`.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Request {
        self.under(&["api", "v4"], method, segments)
    }

    /// A request under `/admin/apps/{app}`.
    pub(crate) fn administer(&self, method: Method, segments: &[&str]) -> Request {
        self.under(&["admin", "apps"], method, segments)
    }

    fn under(&self, base: &[&str], method: Method, segments: &[&str]) -> Request {
        let all = [base, &[self.id.as_str()], segments].concat();
        self.client.request(method, &all)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_names_only_what_changes_and_null_takes_a_limit_away() {
        let settings = SettingsChange {
            max_session_age: Some("30d".parse().unwrap()),
            max_idle: Some("none".parse().unwrap()),
            ..SettingsChange::default()
        };
        let change = AppChange { settings, ..AppChange::default() };
        let wanted = json!({"settings": {"max_session_age": "30d", "max_idle": null}});
        assert_eq!(serde_json::to_value(&change).unwrap(), wanted);
        assert_eq!(serde_json::to_value(AppChange::default()).unwrap(), json!({}));
    }

    #[test]
    fn an_app_is_read_whatever_else_it_may_bring() {
        let text = json!({
            "id": "4d2f0a5b6c7d8e9f01234567", "name": "Field", "later": true,
            "created_at": "2026-05-01T08:00:00Z",
            "settings": {
                "max_session_age": "30d", "max_idle": null, "multiple_devices_per_user": true,
                "user_schema": {"name": "text", "level": {"choice": ["low", "high"]}},
            },
        });
        let app: App = serde_json::from_value(text).unwrap();
        assert_eq!(app.settings.max_session_age, Some("30d".parse().unwrap()));
        assert_eq!(app.settings.max_idle, None);
        let choice = FieldType::Choice(vec!["low".into(), "high".into()]);
        assert_eq!(app.settings.user_schema["level"], choice);
    }
}
