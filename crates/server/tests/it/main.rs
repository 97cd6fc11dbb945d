//! Stories about the server, told on both databases with a clock that they move.

mod lab;
mod postgres;

mod check;
mod contract;
mod devices;
mod documents;
mod faults;
mod ledger;
mod live;
mod objects;
mod policies;
mod tasks;
mod who_may;
