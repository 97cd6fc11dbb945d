//! The store: one SQL text on two databases, one writer, one clock. What is said in SQL is in the
//! nouns; how a database is reached, and where the two differ, is here and nowhere else.

mod args;
pub mod backup;
mod connect;
mod copy;
mod db;
mod migrate;
mod origin;
mod packed;
pub mod restore;
mod tx;

pub(crate) use args::{Arg, Row, args};
pub use connect::{ANCHOR, Place};
pub use copy::copy;
pub use db::Db;
pub use origin::Origin;
pub(crate) use packed::{Fields, missing, packed};
pub use tx::{Read, Rehearsal, Tx};
