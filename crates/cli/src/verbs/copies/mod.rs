//! Verbs that copy a store: to keep it, to put it back, to live through the next days on it.

pub(crate) mod backup;
pub(crate) mod simulate;
