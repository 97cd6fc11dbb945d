//! The Rust client of Reauth's HTTP API. It knows the shapes of requests and answers and nothing
//! of how the server decides: it depends on no other crate of Reauth.
//!
//! - [`Client`]: one server and one token; the operator's requests. [`InApp`]: requests within one
//!   app, from [`Client::app`]. [`Device`]: what a signed-in device asks.
//! - [`Pages`]: a list that comes page by page. [`Error`]: what went wrong and what to do.
//! - [`Moment`] and [`Span`]: points and lengths of time, in whole seconds.
//!
//! ```no_run
//! # async fn story() -> Result<(), reauth_sdk::Error> {
//! let app = reauth_sdk::Client::new("https://id.example.com", "rea_…")?
//!     .app("4d2f0a5b6c7d8e9f01234567");
//! for user in app.users().all().await? {
//!     app.lock(&user.id, Some("the contract ended")).await?;
//! }
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod apps;
mod client;
mod devices;
mod doctor;
mod error;
mod ledger;
mod pages;
mod policies;
mod sessions;
mod tasks;
mod time;
mod tokens;
mod users;

pub use apps::{App, AppChange, FieldType, InApp, Limit, Most, NewApp, Settings, SettingsChange};
pub use client::Client;
pub use devices::{Checked, Connected, Device, Enrolled, Enrolment};
pub use doctor::{Diagnosis, Finding};
pub use error::{Error, Result};
pub use ledger::{By, Entries, Entry, Head, Problem, Verified, Wanted};
pub use pages::{Page, Pages};
pub use policies::{
    AccessBound, AccessItem, End, Explained, Forecast, Group, Member, OwnVerdict, Policy,
    PolicyLimits, PolicyPreview, PolicySet, Selector, StatedPolicies, UserBound,
};
pub use sessions::{
    Container, CutOff, DeviceId, Filter, Revocation, Revoked, Runtime, Session, SessionState,
    SyncStatus,
};
pub use tasks::{
    LogLine, NewTask, Run, RunError, RunRequest, RunState, Schedule, Task, TaskConfig,
};
pub use time::{Moment, NotAMoment, NotASpan, Span};
pub use tokens::{CreatedToken, NewToken, Token};
pub use users::{AuthenticationToken, TokenRequest, User, UserObject};
