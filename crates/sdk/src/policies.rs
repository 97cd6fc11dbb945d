//! Policies: what an app asks of sign-ins, of whom; what a set of them would do; and why and until
//! when one can still get in. And groups, for whom a policy or a cut-off is. Source: `/policies`,
//! `/groups`.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::apps::InApp;
use crate::error::{Error, Result};
use crate::ledger::Entry;
use crate::pages::Pages;
use crate::sessions::SessionState;
use crate::time::{Moment, Span};

/// A rule about how long sign-ins last. All that apply to a session hold: the strictest decides. A
/// field that this client does not know is an error: a limit must not be lost on the way.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, unique in the app.
    pub name: String,
    /// Whose sessions it is about.
    pub applies_to: Selector,
    /// What it asks.
    pub limits: PolicyLimits,
    /// It holds from this moment (RFC 3339) or date on; from when it is stated, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// It holds until this moment or date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
}

/// Whose sessions a policy is about: those who meet all that is given; `everyone` stands alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// All users of the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everyone: bool,
    /// Members of at least one of these groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// These users, by their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
    /// Users whose attributes have all these values: each a text, a number, true or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, Value>>,
    /// Sessions on one of these platforms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<String>>,
    /// Sessions proved by at least one of these methods (RFC 8176).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Sessions of one of these assurance levels: `aal1`, `aal2`, `aal3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Vec<String>>,
    /// Sessions whose label fits one of these: `*` is any text, `?` any character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// What a policy asks: at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLimits {
    /// The longest time from the real authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// The longest time without activity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_idle: Option<Span>,
    /// Everyone signs in again every day at this local time: `05:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_at: Option<String>,
    /// Everyone signs in again every week at this day and local time: `monday 05:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly_at: Option<String>,
    /// The IANA time zone of `daily_at` or `weekly_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Nobody is signed in from this moment (RFC 3339) or date on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// By up to this share of `max_age` a session ends earlier, by its id: `10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// On how many devices each user is signed in at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// What happens to a sign-in beyond that: `end_oldest` (unless set) or `refuse_new`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_max: Option<String>,
    /// Who did not prove themselves by all of these methods (RFC 8176) signs in again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_methods: Option<Vec<String>>,
    /// Limits of NIST SP 800-63B-4: `nist-aal1`, `nist-aal2`, `nist-aal3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
}

/// A whole set of policies, as it is stated: what is not in it holds no longer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicySet {
    /// The policies.
    pub policies: Vec<Policy>,
    /// Agrees that nothing may end every session of the app.
    pub allow_endless: bool,
    /// Why, for the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What there is to say of a set of policies that was stated.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct StatedPolicies {
    /// The policies that hold, by name.
    pub policies: Vec<Policy>,
    /// Groups that they name and that have no members: misspelt, perhaps.
    #[serde(default)]
    pub groups_without_members: Vec<String>,
}

/// What a set of policies would do if it were stated now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PolicyPreview {
    /// Sessions that are valid now.
    pub sessions: u64,
    /// Users who have one.
    pub users: u64,
    /// How many of these sessions would end at once.
    pub ended_sessions: u64,
    /// How many users would lose at least one.
    pub ended_users: u64,
    /// A hundred of those users at most, by their ids.
    pub who: Vec<String>,
    /// Groups that the new set names and that have no members: misspelt, perhaps.
    #[serde(default)]
    pub groups_without_members: Vec<String>,
    /// The sign-ins that will be forced as it is; none if that takes too long to foresee.
    pub before: Option<Forecast>,
    /// The same with the new set, and with those that it forces at once; none likewise.
    pub after: Option<Forecast>,
    /// Why there is no `after`, and what to ask for instead.
    #[serde(default)]
    pub unforeseen: Option<String>,
}

/// Sign-ins that will be forced in the next 90 days, if every device stays in use and signs in
/// again as soon as it must.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Forecast {
    /// How many in each of the next 2160 hours, the first of which begins now.
    pub hours: Vec<u64>,
    /// The most in one second.
    pub peak_per_second: u64,
    /// The first second that has as many; none if no sign-in is forced.
    pub peak_at: Option<Moment>,
}

/// Why a session ends when it does.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Explained {
    /// The session's id.
    pub session: String,
    /// Whose it is.
    pub user: String,
    /// What the device may do.
    pub state: SessionState,
    /// When the user last really proved who they are.
    pub last_authenticated_at: Moment,
    /// When the device was last active.
    pub last_connected_at: Moment,
    /// From where it signed in last.
    #[serde(default)]
    pub address: Option<String>,
    /// The device's own id.
    #[serde(default)]
    pub device_id: String,
    /// What the user calls the device.
    #[serde(default)]
    pub label: Option<String>,
    /// The platform, as policies compare it.
    #[serde(default)]
    pub platform: Option<String>,
    /// By which methods the user proved who they are (RFC 8176).
    #[serde(default)]
    pub methods: Vec<String>,
    /// How surely: `aal1`, `aal2` or `aal3`.
    #[serde(default)]
    pub assurance: Option<String>,
    /// The groups that the user is in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every end that is known, the decisive one first.
    pub ends: Vec<End>,
    /// What each policy that holds says by itself, by name.
    #[serde(default)]
    pub policies: Vec<OwnVerdict>,
    /// The ledger entries that led here, the oldest first; none without the scope `ledger:read`.
    #[serde(default)]
    pub history: Option<Vec<Entry>>,
}

/// What one policy says of a session by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct OwnVerdict {
    /// The policy's name.
    pub policy: String,
    /// `not_about_it`: the session does not meet its selector; `valid`, or `ended`.
    pub verdict: String,
    /// The first end that it asks for.
    pub end: Option<End>,
}

/// One end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct End {
    /// The first moment at which the session is no longer valid.
    pub at: Moment,
    /// The reason's name, such as `max_session_age`.
    pub because: String,
    /// The reason as a sentence.
    pub detail: String,
    /// The policy that asks for it; none for the app's settings and for what someone did.
    pub policy: Option<String>,
}

/// By when all access of a user surely ends, unless they sign in again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AccessBound {
    /// The date on which the user's access ends, if one was said.
    #[serde(default)]
    pub not_after: Option<Moment>,
    /// None: at least one item has no end.
    pub ends_by: Option<Moment>,
    /// Every credential that can act for the user.
    pub items: Vec<AccessItem>,
}

/// A credential that can act for a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct AccessItem {
    /// `session` or `authentication_token`.
    pub credential: String,
    /// The session's id; an unused authentication token has none to show.
    pub id: Option<String>,
    /// When it ends by itself; none is never.
    pub ends_at: Option<Moment>,
    /// Until when an authentication token can be used; none for a session.
    #[serde(default)]
    pub usable_until: Option<Moment>,
    /// The name of the reason for which it ends.
    pub because: Option<String>,
}

/// By when all access of one user surely ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct UserBound {
    /// The user's id.
    pub user: String,
    /// None: there is no such moment.
    pub ends_by: Option<Moment>,
    /// How many sessions and unused authentication tokens can act for the user now.
    pub credentials: u64,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Member {
    /// The user's id.
    pub id: String,
    /// Since when.
    pub joined_at: Moment,
}

/// A group of users. It comes to be with its first member or its first cut-off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// Its name within the app.
    pub name: String,
    /// How many members it has.
    pub members: u64,
    /// Its latest cut-off; none if its members were never told to sign in again.
    pub not_before: Option<Moment>,
}

impl InApp {
    /// The policies that hold, by name. Scope `users:read`.
    pub async fn policies(&self) -> Result<Vec<Policy>> {
        #[derive(Deserialize)]
        struct Policies {
            policies: Vec<Policy>,
        }
        let found: Policies = self.request(Method::GET, &["policies"]).json().await?;
        Ok(found.policies)
    }

    /// States the whole set of policies; the same set again changes nothing. It acts at once, on
    /// every session there is; a longer limit revives none. Scope `app:admin`.
    pub async fn set_policies(&self, set: &PolicySet) -> Result<StatedPolicies> {
        self.request(Method::PUT, &["policies"]).body(set).json().await
    }

    /// What a set would do if it were stated now. Nothing is changed. Scope `users:read`.
    pub async fn preview_policies(&self, set: &PolicySet) -> Result<PolicyPreview> {
        self.preview_policies_telling(set, |_, _| {}).await
    }

    /// As `preview_policies`; tells meanwhile how many sessions it has seen, of how many.
    pub async fn preview_policies_telling(
        &self,
        set: &PolicySet,
        mut tell: impl FnMut(u64, u64),
    ) -> Result<PolicyPreview> {
        let request = self.request(Method::POST, &["policies", "preview"]).body(set);
        let told = |line: &Value| {
            if let (Some(seen), Some(all)) = (line["seen"].as_u64(), line["all"].as_u64()) {
                tell(seen, all);
            }
        };
        let last = request.lines(told).await?;
        if let Some(why) = last["error"].as_str() {
            // It broke off after the status was sent.
            let kind = "INTERNAL_SERVER_ERROR".to_owned();
            let (title, detail) = (String::new(), why.to_owned());
            return Err(Error::Answer { status: 500, kind, title, detail, field: None });
        }
        serde_json::from_value(last).map_err(|error| Error::OtherShape { why: error.to_string() })
    }

    /// Why a session ends when it does. Scope `users:read`.
    pub async fn explain(&self, session: &str) -> Result<Explained> {
        self.request(Method::GET, &["sessions", session, "explain"]).json().await
    }

    /// Sets from when on a user is signed in nowhere: a moment (RFC 3339) or a date; none is no
    /// such moment. A later one revives no session. Scopes `users:write` and `sessions:end`.
    pub async fn set_not_after(
        &self,
        user: &str,
        not_after: Option<&str>,
        reason: Option<&str>,
    ) -> Result<()> {
        let body = json!({ "not_after": not_after, "reason": reason });
        self.request(Method::PUT, &["users", user, "not-after"]).body(&body).nothing().await
    }

    /// By when all access of a user surely ends. Scope `users:read`.
    pub async fn access_bound(&self, user: &str) -> Result<AccessBound> {
        self.request(Method::GET, &["users", user, "access-bound"]).json().await
    }

    /// Every user for whom someone can act now: first those whose access has no bound, then those
    /// whose access lasts longest. Scope `users:read`.
    pub fn access_bounds(&self) -> Pages<UserBound> {
        Pages::new(self.request(Method::GET, &["access-bound"]))
    }

    /// All groups of the app by name. Scope `users:read`.
    pub fn groups(&self) -> Pages<Group> {
        Pages::new(self.request(Method::GET, &["groups"]))
    }

    /// A group's members, those who joined first before others; none if there is no such group.
    /// Scope `users:read`.
    pub fn members(&self, group: &str) -> Pages<Member> {
        Pages::new(self.request(Method::GET, &["groups", group, "members"]))
    }

    /// Adds a user to a group; a member stays one. Scope `users:write`.
    pub async fn add_member(&self, group: &str, user: &str) -> Result<()> {
        self.request(Method::PUT, &["groups", group, "members", user]).nothing().await
    }

    /// Takes a user out of a group. The group's cut-off stays with the user: leaving never revives
    /// a session. Scope `users:write`.
    pub async fn remove_member(&self, group: &str, user: &str) -> Result<()> {
        self.request(Method::DELETE, &["groups", group, "members", user]).nothing().await
    }
}
