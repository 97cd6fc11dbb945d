//! Runs one script within limits, in a child process that has dropped its rights. It knows no
//! database, no HTTP client and no other crate of Reauth: what a script can reach is decided by the
//! [`Host`] that the caller brings.
//!
//! [`compile()`] makes a [`Script`] of JavaScript or TypeScript; [`Sandbox::run`] runs a [`Job`] in
//! a child that serves no other and answers a [`Report`]; [`child_main`] is the child.
#![warn(missing_docs)]

mod checked;
mod compile;
mod config;
mod engine;
mod frames;
mod held;
mod json;
mod limits;
mod natives;
mod places;
mod pool;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compile::{CompileError, Compiled, compile, imports, is_package};
pub use engine::child_main;
pub use json::Json;
pub use limits::{Guards, drop_rights};
pub use places::{inline_map, resolve};
pub use process::Sandbox;

/// A script is called by one of these exports at least; what has none is a file for others.
pub const CALLED: [&str; 3] = ["run", "authenticate", "extractIdentity"];

/// A script ready to run: one or more modules, types already stripped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The name of the module whose exports are called.
    pub entry: String,
    /// All modules; they import each other by relative paths.
    pub modules: Vec<Module>,
}

impl Script {
    /// A text that a run of this script has brought, such as a stack, with the places as they were
    /// written.
    pub fn written(&self, text: &str) -> String {
        places::Places::of(self).written(text)
    }
}

/// One file of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The file's path, for imports and stack traces.
    pub name: String,
    /// Its JavaScript.
    pub javascript: String,
    /// The source map (JSON, version 3) back to the text that was written; none if they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
}

/// What is to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The script.
    pub script: Script,
    /// Which of its exports is called, and with what.
    pub call: Call,
    /// The script's `this.backend`.
    pub backend: Backend,
    /// The script's `this.run`.
    pub run: RunFacts,
    /// The script's `process.env` and `this.env`.
    pub env: BTreeMap<String, String>,
    /// What `Date` says when the script begins, in milliseconds since 1970; none is the machine's
    /// own time.
    pub now_ms: Option<i64>,
}

/// Which export of the script is called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Call {
    /// `run(params)`; its result is the job's.
    Run {
        /// What `run` gets; null counts as `{}`.
        params: Json,
    },
    /// `authenticate`, then the function named like the request's method.
    Web {
        /// What the query says.
        params: Value,
        /// The request.
        request: WebRequest,
    },
    /// `extractIdentity`: whom an upstream's claims are about.
    Identity {
        /// The claims.
        claims: Value,
    },
}

/// A request to a web task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebRequest {
    /// `GET`, `POST`…
    pub method: String,
    /// The whole URL.
    pub url: String,
    /// What comes after the task's own address, with its slash; or `/`.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The query's fields.
    pub query: BTreeMap<String, String>,
    /// The body.
    #[serde(with = "frames::base64_bytes")]
    pub body: Vec<u8>,
}

/// What a web task answers: the result of a [`Call::Web`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebResponse {
    /// Such as 200.
    pub status: u16,
    /// Names in lower case; 100 at the most.
    #[serde(deserialize_with = "frames::few_headers")]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(with = "frames::base64_bytes")]
    pub body: Vec<u8>,
}

/// A part of what a web task answers piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// First of all: all but the body.
    Head(WebResponse),
    /// What of the body comes next.
    Piece(Vec<u8>),
}

/// What a script may know of its run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The same for every attempt: a key for "do this once".
    pub id: String,
    /// From 1.
    pub attempt: i64,
    /// The task's name.
    pub task: String,
    /// What brought the run about.
    pub trigger: String,
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
    /// The longest log; what comes after is cut, and 16 times as much ends the run.
    pub log_bytes: usize,
    /// The longest body of a request, and of an answer that is given to the script.
    pub body_bytes: usize,
    /// The most requests in all.
    pub fetches_max: u32,
    /// The most messages in all: lines of the log, requests, pieces of an answer.
    pub frames_max: u32,
    /// The most requests at once; more wait, also when there is no room for their answers.
    pub fetches_at_once: usize,
}

impl Limits {
    /// What the child is told when it is started; the rest is the parent's to watch.
    pub(crate) fn of_child(&self) -> (Duration, u64, usize, usize) {
        (self.cpu, self.memory_bytes, self.result_bytes, self.body_bytes)
    }
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
            // Hearing so many takes the parent a few seconds.
            frames_max: 2_000_000,
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
    Done(Json),
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

/// Why nothing came of compiling a script in a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uncompiled {
    /// Something in it is wrong.
    Wrong(CompileError),
    /// It exhausts the compiler: what is known.
    Exhausted(String),
    /// No child could be started: why.
    NoChild(String),
}

/// An HTTP request of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `GET`, `POST`…
    pub method: String,
    /// An absolute URL.
    pub url: String,
    /// Names in lower case. Of what a child says one more than it may have is read at the most.
    #[serde(deserialize_with = "frames::headers")]
    pub headers: Vec<(String, String)>,
    /// The body; empty is none.
    #[serde(with = "frames::base64_bytes")]
    pub body: Vec<u8>,
    /// What to do when the answer leads to another URL.
    #[serde(default)]
    pub redirect: Redirect,
}

/// What to do when an answer leads to another URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// Ask there.
    #[default]
    Follow,
    /// Give the script the answer as it is.
    Manual,
    /// Refuse.
    Error,
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

    /// Hears a line of the log as soon as it is said.
    fn hear(&self, _line: &LogLine) {}

    /// Hands on what a web task answers piece by piece. The script waits meanwhile.
    fn answer(&self, _part: Part) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}
