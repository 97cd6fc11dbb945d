//! The verbs, one file a noun. Each reads its arguments, asks the server, and answers.

pub(crate) mod app;
pub(crate) mod copies;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod group;
pub(crate) mod ledger;
pub(crate) mod policy;
pub(crate) mod revoke;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod user;
