//! Documents that are kept true by tests: the API, and the conformance table.

mod conformance;
mod openapi;
