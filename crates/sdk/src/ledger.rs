//! The ledger: what happened, to whom, by whom, why, when. Source: `/ledger`, `/admin/ledger`.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apps::InApp;
use crate::client::{Client, Request};
use crate::error::Result;
use crate::time::Moment;

/// Reading and hashing the most entries that one request may ask for, on a slow disk.
const VERIFY_TIMEOUT: Duration = Duration::from_mins(2);

/// Which entries are wanted. The default is all, from the first on.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only entries after this place.
    pub after: u64,
    /// How many at most: 1 to 1000; the server's default if none.
    pub limit: Option<u64>,
    /// Only of the app with this id; within one app it plays no part.
    pub app: Option<String>,
    /// Only about the user with this id.
    pub user: Option<String>,
    /// Only from this moment on.
    pub since: Option<Moment>,
}

/// Some entries, in order.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entries {
    /// These entries.
    pub entries: Vec<Entry>,
    /// Whether there are more after these.
    pub more: bool,
    /// The end of the ledger.
    pub head: Head,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Entry {
    /// Its place: 1, 2, 3… without a gap.
    pub seq: u64,
    /// When.
    pub at: Moment,
    /// The id of the app that it is about.
    pub app: Option<String>,
    /// The id of the user that it is about.
    pub user: Option<String>,
    /// What happened, such as `session.re_authenticate`.
    pub kind: String,
    /// Who did it.
    pub by: By,
    /// Why, in the words of who did it.
    pub why: Option<String>,
    /// What happened in detail; its shape depends on the kind.
    pub change: Value,
    /// The exact bytes that are hashed.
    pub body: String,
    /// SHA-256 of the hash before and the body, in hex.
    pub hash: String,
}

/// Who changed something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct By {
    /// `operator`, `token`, `task`, `user`, `policy` or `system`.
    pub kind: String,
    /// The id of the token, the run or the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name of the token, the task or the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The end of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Head {
    /// The last entry's place; 0 if there is none.
    pub seq: u64,
    /// The last entry's hash, in hex.
    pub hash: String,
}

/// What a stretch of the ledger was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Verified {
    /// Whether no fault was found.
    pub ok: bool,
    /// How many entries were read.
    pub checked: u64,
    /// The last entry that is proven.
    pub through: u64,
    /// Whether entries follow that were not read yet: go on with `after` = `through`.
    pub more: bool,
    /// The end of the ledger, as it is stored.
    pub head: Head,
    /// The first fault.
    pub problem: Option<Problem>,
}

/// A fault in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Problem {
    /// At which place.
    pub seq: u64,
    /// What is wrong.
    pub why: String,
}

impl Wanted {
    fn of(&self, request: Request) -> Request {
        request
            .query("after", Some(self.after))
            .query("limit", self.limit)
            .query("user", self.user.as_deref())
            .query("since", self.since)
    }
}

impl InApp {
    /// Some of the app's entries, in order. Scope `ledger:read`.
    pub async fn ledger(&self, wanted: &Wanted) -> Result<Entries> {
        wanted.of(self.request(Method::GET, &["ledger"])).json().await
    }
}

impl Client {
    /// Some entries of the whole ledger, in order. Operator.
    pub async fn ledger(&self, wanted: &Wanted) -> Result<Entries> {
        let request = wanted.of(self.request(Method::GET, &["admin", "ledger"]));
        request.query("app", wanted.app.as_deref()).json().await
    }

    /// Lets the server recompute the chain for at most `limit` entries (up to 50,000) after the
    /// place `after`, which counts as proven. A whole proof begins at 0. Operator.
    pub async fn verify_ledger(&self, after: u64, limit: u64) -> Result<Verified> {
        let request = self.request(Method::GET, &["admin", "ledger", "verify"]);
        let request = request.query("after", Some(after)).query("limit", Some(limit));
        request.timeout(VERIFY_TIMEOUT).json().await
    }
}
