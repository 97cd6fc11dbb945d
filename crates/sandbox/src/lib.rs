//! Runs one script within limits, in a child process that has dropped its rights. It knows no
//! database, no HTTP client and no other crate of Reauth: what a script can reach is decided by the
//! [`Host`] that the caller brings.
//!
//! [`compile()`] makes a [`Script`] of JavaScript or TypeScript; [`Sandbox::run`] runs a [`Job`] in
//! a new child and answers a [`Report`]; [`child_main`] is the child.
#![warn(missing_docs)]

mod compile;
mod engine;
mod frames;
mod limits;
mod natives;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compile::{CompileError, compile};
pub use engine::child_main;
pub use limits::{Guards, drop_rights};
pub use process::Sandbox;

/// A script ready to run: JavaScript text, types already stripped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Script {
    /// The file's name, for stack traces.
    pub name: String,
    /// The text.
    pub javascript: String,
}

/// What is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The script: an ES module that exports `run`.
    pub script: Script,
    /// What `run` gets; null counts as `{}`.
    pub params: Value,
    /// The script's `this.backend`.
    pub backend: Backend,
    /// The script's `process.env` and `this.env`.
    pub env: BTreeMap<String, String>,
    /// What `Date` says when the script begins, in milliseconds since 1970; none is the machine's
    /// own time.
    pub now_ms: Option<i64>,
}

/// The API that the script is written against.
#[derive(Clone, Serialize, Deserialize)]
pub struct Backend {
    /// The base, without a slash at its end.
    pub url: String,
    /// A token that lives as long as the run.
    pub token: String,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a run may cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// The longest it may take.
    pub wall: Duration,
    /// The most processor time; counted in whole seconds by the kernel.
    pub cpu: Duration,
    /// The most memory for the script's values, in bytes.
    pub memory_bytes: u64,
    /// The longest `params`, as JSON.
    pub params_bytes: usize,
    /// The longest result, as JSON.
    pub result_bytes: usize,
    /// The longest log; what comes after is cut.
    pub log_bytes: usize,
    /// The longest body of a request, and of an answer that is given to the script.
    pub body_bytes: usize,
    /// The most requests in all.
    pub fetches_max: u32,
    /// The most requests at once; more wait.
    pub fetches_at_once: usize,
}

impl Default for Limits {
    /// The contract's limits where it has any (section 4).
    fn default() -> Self {
        Self {
            wall: Duration::from_mins(5),
            cpu: Duration::from_mins(1),
            memory_bytes: 128 << 20,
            params_bytes: 5 << 20,
            result_bytes: 5 << 20,
            log_bytes: 1 << 20,
            body_bytes: 8 << 20,
            fetches_max: 100_000,
            fetches_at_once: 16,
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// Whether the log was longer than allowed.
    pub log_is_cut: bool,
    /// How long it took, with the start of the child.
    pub took: Duration,
    /// What protected it.
    pub guards: Guards,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// `run` returned this.
    Done(Value),
    /// The script threw.
    Threw {
        /// The error's name and message.
        message: String,
        /// Where.
        stack: String,
    },
    /// It took longer than `Limits::wall`.
    TimedOut,
    /// It took more processor time than `Limits::cpu`.
    OutOfTime,
    /// It took more memory than `Limits::memory_bytes`.
    OutOfMemory,
    /// Something was too large.
    TooLarge {
        /// What.
        what: String,
    },
    /// The child died, or said what no honest child says.
    Crashed {
        /// What is known.
        why: String,
    },
    /// It could not be started.
    Refused {
        /// What is missing.
        why: String,
    },
}

/// One line of a run's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the script began.
    pub at_ms: u64,
    /// How important it is.
    pub level: Level,
    /// The text.
    pub text: String,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the methods of console")]
pub enum Level {
    Debug,
    Log,
    Info,
    Warn,
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debug => "debug",
            Self::Log => "log",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// An HTTP request of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// An absolute URL.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; empty is none.
    #[serde(with = "frames::base64_bytes")]
    pub body: Vec<u8>,
}

/// The answer that the script gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Such as 200.
    pub status: u16,
    /// Such as `OK`.
    pub status_text: String,
    /// Where it came from.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(with = "frames::base64_bytes")]
    pub body: Vec<u8>,
}

/// What a script can reach. It runs in the parent.
pub trait Host: Send + Sync {
    /// Carries out a request. An error is a `TypeError` with that text in the script.
    fn fetch(&self, request: Request) -> impl Future<Output = Result<Response, String>> + Send;
}
