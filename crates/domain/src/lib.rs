//! What is true and what may happen: the rules of Reauth with their SQL. It knows no HTTP and runs
//! no script. Begin with [`access`]: the one decision.
//!
//! - [`apps`]: whose users, with which settings. [`users`]: who they are. [`groups`]: sets of them.
//! - [`sessions`]: devices that are signed in. [`devices`]: how a session begins and stays alive.
//! - [`tokens`]: what programs may do. [`cutoffs`]: "everyone must sign in again".
//! - [`tasks`]: scripts, schedules and runs.
//! - [`ledger`]: every change, in order. [`Live`]: what a check reads. [`Db`]: where it all is.
#![warn(missing_docs)]

pub mod access;
pub mod apps;
pub mod cutoffs;
pub mod devices;
pub mod groups;
pub mod ledger;
mod live;
pub mod sessions;
mod store;
pub mod tasks;
pub mod tokens;
pub mod users;
mod values;

pub use live::{
    Activity, Admitted, Bounded, Checked, Explained, Forecast, KnownEnd, Live, OwnVerdict, Picture,
    Preview, Seen,
};
pub use store::{ANCHOR, Db, Origin, Place, Read, Rehearsal, Tx, backup, copy, restore};
pub use values::error::{Error, Result};
pub use values::ids::{AppId, NotAnId, RunId, SessionId, TokenId, UserId, hash_of, hex, unhex};
pub use values::secret::{Secret, SecretHash, SecretKind, kind_of_secret};
pub use values::time::{Clock, NotASpan, Span, Time};
