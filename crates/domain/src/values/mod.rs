//! The small values that every noun is made of: ids, moments, secrets, errors. No rules live here.

pub(crate) mod error;
pub(crate) mod ids;
pub(crate) mod secret;
pub(crate) mod time;
