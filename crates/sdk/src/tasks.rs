//! Tasks and their runs: scripts of an app that run by hand or by schedule. Source: `/tasks`,
//! `/runs`.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// The file's name; its ending says the language.
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
    /// When it was created.
    pub created_at: Moment,
    /// When it was last put.
    pub updated_at: Moment,
    /// When it will next run by itself.
    pub next_at: Option<Moment>,
    /// The script; only when one task is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// When a task runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Schedule {
    /// Five fields, such as `0 3 * * *`.
    pub cron: String,
    /// The time zone in which they are meant, such as `Europe/Vienna`.
    pub zone: String,
}

/// A task that is to be created or replaced: what is not said here, the task does not have.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewTask {
    /// The file's name; `.ts` and `.mts` are TypeScript, all else is JavaScript.
    pub file: String,
    /// The script, an ES module that exports `run`: at most 512 KiB.
    pub source: String,
    /// What a run's token may do; the caller's own token must be allowed all of it.
    pub scopes: Vec<String>,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
    /// What `run` gets when the trigger brings nothing: an object.
    pub params: Option<Value>,
    /// The task's variables: `process.env` in the script.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether at most one run may be going at any time.
    pub single_instance: bool,
}

/// A run of a task.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Run {
    /// Its id: a lowercase UUID.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// What brought it about.
    pub trigger: Trigger,
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
    /// Its log; only when one run is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Vec<LogLine>>,
}

/// What brought a run about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person or a program asked for it.
    Hand,
    /// The task's schedule.
    Schedule,
    /// Something that only a newer server knows.
    #[serde(untagged)]
    Other(String),
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
    /// It threw, broke a limit or died.
    Failed,
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

    /// Queues a run; `params`, an object, replaces the task's own. Scope `tasks:run`.
    pub async fn run_task(&self, name: &str, params: Option<&Value>) -> Result<Run> {
        self.run(name, params, false).await
    }

    /// Queues a run and waits until it has ended, or for 60 seconds: look at its state. Scope
    /// `tasks:run`.
    pub async fn run_task_and_wait(&self, name: &str, params: Option<&Value>) -> Result<Run> {
        self.run(name, params, true).await
    }

    async fn run(&self, name: &str, params: Option<&Value>, wait: bool) -> Result<Run> {
        let request = self.request(Method::POST, &["tasks", name, "run"]);
        let request = match params {
            Some(params) => request.body(&json!({ "params": params })),
            None => request,
        };
        if wait {
            return request.query("wait", Some(true)).timeout(WAIT_TIMEOUT).json().await;
        }
        request.json().await
    }

    /// The newest runs of a task, without their logs: at most `limit`. Scope `tasks:read`.
    pub async fn task_runs(&self, name: &str, limit: u64) -> Result<Page<Run>> {
        let request = self.request(Method::GET, &["tasks", name, "runs"]);
        request.query("limit", Some(limit)).json().await
    }

    /// The run with this id, with its log. Scope `tasks:read`.
    pub async fn task_run(&self, id: &str) -> Result<Run> {
        self.request(Method::GET, &["runs", id]).json().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails says where")]
mod tests {
    use super::*;

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
        let state: RunState = serde_json::from_str("\"cancelled\"").unwrap();
        assert!(state.is_end());
        assert_eq!(state, RunState::Other("cancelled".into()));
    }
}
