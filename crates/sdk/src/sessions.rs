//! Device sessions and how they end: one by one, or many at once by a cut-off. Source: the
//! app-users contract, section 2, and `POST …/revocations`.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::apps::InApp;
use crate::client::Client;
use crate::error::Result;
use crate::time::Moment;

/// A device that is, or was, signed in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Session {
    /// The id: a lowercase UUID. It stays when the device signs in again.
    pub id: String,
    /// What the device may do.
    pub state: SessionState,
    /// When the user last really proved who they are on this device.
    pub last_authenticated_at: Moment,
    /// When the device first signed in.
    pub created_at: Moment,
    /// When it was last signed out; none is never.
    pub signed_out_at: Option<Moment>,
    /// When the device was last active.
    pub last_connected_at: Option<Moment>,
    /// The app container on the device.
    #[serde(default)]
    pub container: Container,
    /// The runtime on the device.
    #[serde(default)]
    pub runtime: Runtime,
    /// The device.
    pub device: DeviceId,
    /// What the user calls the device.
    pub label: Option<String>,
    /// How far the device's data are.
    #[serde(default)]
    pub sync_status: SyncStatus,
    /// When it must sign in again by itself; none is never, or that it has ended.
    #[serde(default)]
    pub ends_at: Option<Moment>,
    /// The name of the reason why it ended, such as `max_session_age`.
    #[serde(default)]
    pub ended_by: Option<String>,
}

/// What a device may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionState {
    /// Signed in.
    Enrolled,
    /// Must sign in at the next connect.
    Locked,
    /// As locked, and the device wipes its data at the next connect.
    Reset,
    /// A session of an earlier time that never began.
    NeverEnrolled,
    /// A state of a newer server. Treat it as not signed in.
    #[serde(untagged)]
    Other(String),
}

/// The app container on a device. What the device did not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Container {
    /// Its version.
    pub version: Option<String>,
    /// Its bundle id.
    pub bundle_id: Option<String>,
    /// Its platform, such as `android`.
    pub platform: Option<String>,
}

/// The runtime on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Runtime {
    /// Its version.
    pub version: Option<String>,
}

/// A device's own name for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct DeviceId {
    /// Its own id, the same at every enrolment.
    pub id: String,
}

/// How far a device's data are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SyncStatus {
    /// When the device last had all its data.
    pub last_full_sync: Option<Moment>,
}

/// Whose sessions a cut-off ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The members of the group with this name.
    Group(String),
    /// The user with this id.
    User(String),
    /// Every user of the app.
    #[serde(untagged)]
    Everyone {},
}

/// A cut-off that has been set: whoever signed in at or before it must sign in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CutOff {
    /// Its entry in the ledger.
    pub seq: u64,
    /// The moment: sessions authenticated at or before it have ended.
    pub not_before: Moment,
}

impl InApp {
    /// One session of a user. Scope `users:read`.
    pub async fn session(&self, user: &str, session: &str) -> Result<Session> {
        self.request(Method::GET, &["users", user, "sessions", session]).json().await
    }

    /// Forces a device to sign in again. A session that has ended already stays as it is. The
    /// reason goes into the ledger. Scope `sessions:end`.
    pub async fn re_authenticate(
        &self,
        user: &str,
        session: &str,
        reason: Option<&str>,
    ) -> Result<()> {
        let segments = ["users", user, "sessions", session, "re-authenticate"];
        self.request(Method::POST, &segments).reason(reason).nothing().await
    }

    /// Ends a session and tells the device to wipe its data at the next connect. The reason goes
    /// into the ledger. Scope `sessions:end`.
    pub async fn wipe(&self, user: &str, session: &str, reason: Option<&str>) -> Result<()> {
        let segments = ["users", user, "sessions", session, "wipe"];
        self.request(Method::POST, &segments).reason(reason).nothing().await
    }

    /// Makes everyone whom the filter covers sign in again; one commit, however many they are.
    /// `POST /revocations`, scope `sessions:end`.
    pub async fn revoke(&self, filter: &Filter, reason: Option<&str>) -> Result<CutOff> {
        let mut body = json!({ "filter": filter, "action": "re-authenticate" });
        if let Some(reason) = reason {
            body["reason"] = reason.into();
        }
        self.request(Method::POST, &["revocations"]).body(&body).json().await
    }
}

impl Client {
    /// Makes every user of every app sign in again. `POST /admin/revocations`, operator.
    pub async fn revoke_everyone(&self, reason: Option<&str>) -> Result<CutOff> {
        let request = self.request(Method::POST, &["admin", "revocations"]);
        request.body(&json!({ "reason": reason })).json().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_we_do_not_know_is_no_signed_in_state() {
        let state: SessionState = serde_json::from_str("\"ENROLLED\"").unwrap();
        assert_eq!(state, SessionState::Enrolled);
        let state: SessionState = serde_json::from_str("\"FROZEN\"").unwrap();
        assert_eq!(state, SessionState::Other("FROZEN".into()));
        assert_eq!(serde_json::to_string(&state).unwrap(), "\"FROZEN\"");
        let never = serde_json::to_string(&SessionState::NeverEnrolled).unwrap();
        assert_eq!(never, "\"NEVER_ENROLLED\"");
    }

    #[test]
    fn filters_are_written_as_the_api_wants_them() {
        let text = |filter: &Filter| serde_json::to_string(filter).unwrap();
        assert_eq!(text(&Filter::Everyone {}), "{}");
        assert_eq!(text(&Filter::Group("contractors".into())), r#"{"group":"contractors"}"#);
        assert_eq!(text(&Filter::User("ann".into())), r#"{"user":"ann"}"#);
    }

    #[test]
    fn the_contracts_session_is_read_and_written_back() {
        let text = serde_json::json!({
            "id": "0190", "state": "LOCKED", "last_authenticated_at": "2026-05-01T08:00:00Z",
            "created_at": "2026-05-01T08:00:00Z", "signed_out_at": "2026-05-31T08:00:00Z",
            "last_connected_at": "2026-05-30T08:00:00Z",
            "container": {"version": "1.2", "bundle_id": null, "platform": "android"},
            "runtime": {"version": null}, "device": {"id": "phone"}, "label": null,
            "sync_status": {"last_full_sync": null}, "ends_at": null,
            "ended_by": "max_session_age",
        });
        let session: Session = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(session.ended_by.as_deref(), Some("max_session_age"));
        assert_eq!(serde_json::to_value(session).unwrap(), text);
    }
}
