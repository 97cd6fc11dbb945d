//! What a task says of itself beside its script, its scopes and its schedule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::events::KINDS;
use crate::tokens::{Scope, Scopes};
use crate::values::error::{Error, Result};
use crate::values::ids::UserId;

const QUEUE_CHARS_MAX: usize = 64;
/// Whoever needs more tries has a task that does not work.
const RETRIES_MAX: i64 = 20;
const HOSTS_MAX: usize = 50;
const FILTERS_MAX: usize = 20;

/// What becomes of scheduled moments that passed while nobody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// They run once, together.
    #[default]
    Once,
    /// Each runs.
    All,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Runs with the same queue name, of any task of the app, exclude each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// How often a run that failed is tried again, also if its script threw. None: what gave no
    /// answer is tried again twice, what threw is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
    /// What becomes of scheduled moments that were missed.
    pub misfire: Misfire,
    /// Whether it answers HTTP requests at its own address.
    pub web: bool,
    /// Where `fetch` may go beside our own API; read by the server.
    pub allow_hosts: Vec<String>,
    /// The kinds of ledger entries that start a run.
    pub on: Vec<String>,
    /// What these entries must hold: paths such as `change.because`, and their values.
    #[serde(rename = "where")]
    pub filter: BTreeMap<String, Value>,
    /// A user of the app for whom it runs: while they may not sign in, it does not run by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
}

impl Options {
    /// How many tries a run has in all.
    pub(super) fn tries(&self) -> i64 {
        self.retries.unwrap_or(2) + 1
    }

    pub(super) fn check(&self, scopes: Scopes) -> Result<()> {
        if self.queue.as_deref().is_some_and(|queue| !is_queue(queue)) {
            let why =
                format!("must have 1 to {QUEUE_CHARS_MAX} characters, none of them a control");
            return Err(Error::invalid("queue", why));
        }
        if self.retries.is_some_and(|retries| !(0..=RETRIES_MAX).contains(&retries)) {
            return Err(Error::invalid("retries", format!("must be from 0 to {RETRIES_MAX}")));
        }
        if self.allow_hosts.len() > HOSTS_MAX {
            return Err(Error::invalid("allow_hosts", format!("at most {HOSTS_MAX} hosts")));
        }
        if let Some(kind) = self.on.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let why = format!("{kind:?} starts no task; known: {}", KINDS.join(", "));
            return Err(Error::invalid("on", why));
        }
        if !self.on.is_empty() && !scopes.allow(Scope::LedgerRead) {
            let why = "a task that ledger entries start reads them: give it the scope ledger:read";
            return Err(Error::invalid("on", why));
        }
        if self.filter.len() > FILTERS_MAX || (self.on.is_empty() && !self.filter.is_empty()) {
            let why = format!("goes with \"on\", and has at most {FILTERS_MAX} conditions");
            return Err(Error::invalid("where", why));
        }
        Ok(())
    }
}

/// Whether runs can be told to exclude each other by this name.
pub(super) fn is_queue(queue: &str) -> bool {
    !queue.is_empty() && queue.len() <= QUEUE_CHARS_MAX && !queue.chars().any(char::is_control)
}
