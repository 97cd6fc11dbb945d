//! Tasks and their runs: scripts of an app, and what became of them. Source: `/tasks`, `/runs`.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apps::InApp;
use crate::error::Result;
use crate::pages::{Page, Pages};
use crate::time::Moment;

/// The server waits for a run at most 60 s; the rest is the way.
const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// A task.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Task {
    /// Its name within the app.
    pub name: String,
    /// The name of the file whose exports are called; its ending says the language.
    pub file: String,
    /// What a run's token may do, such as `sessions:end`.
    pub scopes: Vec<String>,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
    /// What `run` gets when the trigger brings nothing: an object.
    #[serde(default)]
    pub params: Value,
    /// The names of the task's variables; their values are not shown again.
    #[serde(default)]
    pub env: Vec<String>,
    /// Whether at most one run may be going at any time.
    pub single_instance: bool,
    /// Runs with the same queue exclude each other.
    #[serde(default)]
    pub queue: Option<String>,
    /// Its own address, if it answers HTTP requests.
    #[serde(default)]
    pub web: Option<String>,
    /// Where `fetch` may go beside this API.
    #[serde(default)]
    pub allow_hosts: Vec<String>,
    /// The kinds of ledger entries that start a run.
    #[serde(default)]
    pub on: Vec<String>,
    /// When it was created.
    pub created_at: Moment,
    /// When it was last put.
    pub updated_at: Moment,
    /// When it will next run by itself.
    pub next_at: Option<Moment>,
    /// Why it does not run by itself although it should.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The script; only when one task is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its other files by name; only when one task is read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// When a task runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields, such as `0 3 * * *`.
    pub cron: String,
    /// The time zone in which they are meant, such as `Europe/Vienna`.
    #[serde(default = "utc")]
    pub zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A task that is to be created or replaced: what is neither said here nor in the script's own
/// `export const config = {…}`, the task does not have.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewTask {
    /// The name of the file whose exports are called; `.ts` and `.mts` are TypeScript, all else is
    /// JavaScript.
    pub file: String,
    /// That file, an ES module: at most 512 KiB with all others.
    pub source: String,
    /// Other files that it imports, by their paths.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// What is said of it; it outweighs the script's own config.
    #[serde(flatten)]
    pub config: TaskConfig,
}

/// What can be said of a task: none of it is none, not an empty one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// What a run's token may do; the caller's own token must be allowed all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// When it runs by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// What `run` gets when the trigger brings nothing: an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// The task's variables: `process.env` in the script.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether at most one run may be going at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_instance: Option<bool>,
    /// Runs with the same queue exclude each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// How often a run that failed is tried again, also if its script threw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
    /// What becomes of scheduled moments that were missed: `skip`, `once` or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misfire: Option<String>,
    /// Whether it answers HTTP requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web: Option<bool>,
    /// Where `fetch` may go beside this API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_hosts: Option<Vec<String>>,
    /// The kinds of ledger entries that start a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
    /// What these entries must hold.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub filter: Option<BTreeMap<String, Value>>,
    /// The id of a user for whom it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// How a run is wanted: now, with the task's own params, unless it says otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunRequest {
    /// What `run` gets: an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// Only note what it would change.
    pub dry_run: bool,
}

/// A run of a task.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Run {
    /// Its id: a lowercase UUID.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// What brought it about: `hand`, `schedule`, `web`, `event` or `task`.
    pub trigger: String,
    /// Where it stands.
    pub state: RunState,
    /// Which try this is, from 1; 0 before the first.
    pub attempt: u32,
    /// When it was to begin.
    pub due_at: Moment,
    /// When it began.
    pub started_at: Option<Moment>,
    /// When it ended.
    pub finished_at: Option<Moment>,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// What `run` got.
    #[serde(default)]
    pub params: Value,
    /// What `run` returned.
    #[serde(default)]
    pub result: Value,
    /// Why it failed.
    pub error: Option<RunError>,
    /// What it would have changed, if it was a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Value>>,
    /// Its log; only when one run is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Vec<LogLine>>,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits.
    Queued,
    /// It is going.
    Running,
    /// It returned.
    Succeeded,
    /// It threw, or broke a limit.
    Failed,
    /// It gave no answer, as often as it was tried.
    Dead,
    /// Someone asked for its end.
    Cancelled,
    /// A state that only a newer server knows. Treat it as an end without success.
    #[serde(untagged)]
    Other(String),
}

impl RunState {
    /// Whether it will not change any more.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RunError {
    /// For programs.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// One line of a run's log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogLine {
    /// Milliseconds since the run began.
    pub at_ms: u64,
    /// `debug`, `log`, `info`, `warn` or `error`.
    pub level: String,
    /// The text.
    pub text: String,
}

impl InApp {
    /// All tasks of the app, without their scripts. Scope `tasks:read`.
    pub fn tasks(&self) -> Pages<Task> {
        Pages::new(self.request(Method::GET, &["tasks"]))
    }

    /// The task with this name, with its script. Scope `tasks:read`.
    pub async fn task(&self, name: &str) -> Result<Task> {
        self.request(Method::GET, &["tasks", name]).json().await
    }

    /// Creates or replaces a task. A script that cannot be read is an `INVALID_VALUE` whose detail
    /// shows the place. Scope `tasks:write`.
    pub async fn put_task(&self, name: &str, task: &NewTask) -> Result<Task> {
        self.request(Method::PUT, &["tasks", name]).body(task).json().await
    }

    /// Deletes a task. Scope `tasks:write`.
    pub async fn delete_task(&self, name: &str) -> Result<()> {
        self.request(Method::DELETE, &["tasks", name]).nothing().await
    }

    /// Queues a run. Scope `tasks:run`.
    pub async fn run_task(&self, name: &str, wanted: &RunRequest) -> Result<Run> {
        self.request(Method::POST, &["tasks", name, "run"]).body(wanted).json().await
    }

    /// Queues a run and waits until it has ended, or for 60 seconds: look at its state. Scope
    /// `tasks:run`.
    pub async fn run_task_and_wait(&self, name: &str, wanted: &RunRequest) -> Result<Run> {
        let request = self.request(Method::POST, &["tasks", name, "run"]).body(wanted);
        request.query("wait", Some(true)).timeout(WAIT_TIMEOUT).json().await
    }

    /// The newest runs of a task, without their logs: at most `limit`. Scope `tasks:read`.
    pub async fn task_runs(&self, name: &str, limit: u64) -> Result<Page<Run>> {
        let request = self.request(Method::GET, &["tasks", name, "runs"]);
        request.query("limit", Some(limit)).json().await
    }

    /// The runs of a task that have begun, without their logs, the one that began last first: at
    /// most `limit`. Scope `tasks:read`.
    pub async fn begun_runs(&self, name: &str, limit: u64) -> Result<Page<Run>> {
        let request = self.request(Method::GET, &["tasks", name, "runs"]);
        request.query("begun", Some(true)).query("limit", Some(limit)).json().await
    }

    /// The newest runs of one task or of all, in one state or in any, without their logs: at most
    /// `limit`. Scope `tasks:read`.
    pub async fn runs(
        &self,
        task: Option<&str>,
        state: Option<&str>,
        limit: u64,
    ) -> Result<Page<Run>> {
        let request = match task {
            Some(task) => self.request(Method::GET, &["tasks", task, "runs"]),
            None => self.request(Method::GET, &["runs"]),
        };
        request.query("state", state).query("limit", Some(limit)).json().await
    }

    /// The run with this id, with its log. Scope `tasks:read`.
    pub async fn task_run(&self, id: &str) -> Result<Run> {
        self.request(Method::GET, &["runs", id]).json().await
    }

    /// Ends a run that waits or is going. Scope `tasks:run`.
    pub async fn cancel_run(&self, id: &str) -> Result<Run> {
        let request = self.request(Method::POST, &["runs", id, "cancel"]);
        request.timeout(WAIT_TIMEOUT).json().await
    }

    /// Queues a run again that has ended without success. Scope `tasks:run`.
    pub async fn retry_run(&self, id: &str) -> Result<Run> {
        self.request(Method::POST, &["runs", id, "retry"]).json().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_is_read_at_every_stage() {
        let text = json!({
            "id": "0190", "task": "sign-in-again", "trigger": "schedule", "state": "queued",
            "attempt": 0, "due_at": "2026-05-01T03:00:00Z", "started_at": null,
            "finished_at": null, "took_ms": null, "params": {}, "result": null, "error": null,
        });
        let run: Run = serde_json::from_value(text.clone()).unwrap();
        assert!(!run.state.is_end());
        assert_eq!(serde_json::to_value(run).unwrap(), text);
        let mut failed = text;
        failed["state"] = json!("failed");
        failed["error"] = json!({"kind": "threw", "message": "no"});
        failed["log"] = json!([{"at_ms": 3, "level": "info", "text": "hello"}]);
        let run: Run = serde_json::from_value(failed).unwrap();
        assert!(run.state.is_end());
        assert_eq!(run.log.unwrap()[0].text, "hello");
    }

    #[test]
    fn a_state_of_a_newer_server_is_an_end() {
        let state: RunState = serde_json::from_str("\"vanished\"").unwrap();
        assert!(state.is_end());
        assert_eq!(state, RunState::Other("vanished".into()));
    }
}
