//! Whether the server is well, by its own account. Source: `/admin/doctor`, `/health/ready`.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::Result;

/// What the server found when it looked at itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Diagnosis {
    /// Whether no finding is an error.
    pub ok: bool,
    /// Everything that was looked at.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Finding {
    /// `ok`, `warning` or `error`.
    pub level: String,
    /// What was looked at.
    pub check: String,
    /// What was found, and what to do.
    pub detail: String,
}

impl Client {
    /// Lets the server look at itself: database, clock, sandbox, configuration. Operator.
    pub async fn diagnose(&self) -> Result<Diagnosis> {
        self.request(Method::GET, &["admin", "doctor"]).json().await
    }

    /// Succeeds if the server can answer requests now. No token is needed.
    pub async fn ready(&self) -> Result<()> {
        self.request(Method::GET, &["health", "ready"]).nothing().await
    }
}
