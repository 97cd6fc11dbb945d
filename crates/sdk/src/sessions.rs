//! Device sessions and how they end: one by one, or many at once by a cut-off. Source: the
//! app-users contract, section 2, and `POST …/revocations`.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::apps::InApp;
use crate::client::Client;
use crate::error::Result;
use crate::policies::Selector;
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

/// Whose sessions a revocation ends: those that meet all that is given. Nothing given is every user
/// of the app. A group, a user or everyone alone is one moment whatever the number of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// The members of the group with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The user with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// As in a policy.
    #[serde(flatten)]
    pub applies_to: Selector,
    /// Authenticated at this moment or before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_before: Option<Moment>,
    /// First signed in at this moment or before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<Moment>,
    /// On the device with this id of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Signed in last from this address, or from this network: `203.0.113.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// A revocation that is to be looked at or done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocation {
    /// Whose sessions.
    pub filter: Filter,
    /// Whether the devices wipe their data at the next connect.
    pub wipe: bool,
    /// Why, for the ledger.
    pub reason: Option<String>,
    /// The set that was seen in a dry run, and by how many percent it may have changed since.
    pub expect: Option<(String, u32)>,
}

/// What a revocation did, or in a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Revoked {
    /// Its entry in the ledger; none in a dry run.
    pub seq: Option<u64>,
    /// The moment from which on none of the sessions is accepted; none in a dry run.
    pub not_before: Option<Moment>,
    /// How many sessions, where they were counted.
    pub sessions: Option<u64>,
    /// Of how many users.
    pub users: Option<u64>,
    /// Of a dry run: a hundred of the users at most, by their ids.
    pub who: Option<Vec<String>>,
    /// Of a dry run: names the set in [`Revocation::expect`].
    pub preview_id: Option<String>,
    /// Of a dry run: how many unused authentication tokens it would end as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_tokens: Option<u64>,
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

    /// Ends the sessions that meet a filter: from the answer on none is accepted.
    /// `POST /revocations`, scope `sessions:end`.
    pub async fn revoke(&self, revocation: &Revocation) -> Result<Revoked> {
        self.send_revocation(revocation, false).await
    }

    /// Says whom a revocation would end. Nothing is changed. Scope `sessions:end`.
    pub async fn preview_revocation(&self, revocation: &Revocation) -> Result<Revoked> {
        self.send_revocation(revocation, true).await
    }

    async fn send_revocation(&self, wanted: &Revocation, dry_run: bool) -> Result<Revoked> {
        let Revocation { filter, wipe, reason, expect } = wanted;
        let action = if *wipe { "wipe" } else { "re-authenticate" };
        let mut body = json!({ "filter": filter, "action": action, "dry_run": dry_run });
        if let Some(reason) = reason {
            body["reason"] = reason.as_str().into();
        }
        if let Some((preview_id, percent)) = expect {
            body["expect"] = json!({ "preview_id": preview_id, "tolerance_percent": percent });
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
        assert_eq!(text(&Filter::default()), "{}");
        let group = Some("contractors".to_owned());
        let applies_to = Selector { platforms: Some(vec!["ios".into()]), ..Selector::default() };
        let filter = Filter { group, applies_to, ..Filter::default() };
        assert_eq!(text(&filter), r#"{"group":"contractors","platforms":["ios"]}"#);
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
