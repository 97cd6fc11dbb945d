//! The client against a peer that answers as the contract says, and against peers that do not.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod peer;

mod answers;
mod devices;
mod nouns;
