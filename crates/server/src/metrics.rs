//! What is counted, in the text form of Prometheus.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use reauth_domain::access::Verdict;
use reauth_domain::{Db, Result, ledger, tasks};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

/// The counters of one server.
pub struct Metrics {
    registry: Registry,
    answers: Family<ByStatus, Counter>,
    valid: Counter,
    ended: Counter,
    unknown: Counter,
    in_doubt: Counter,
    clock_jumps: Counter,
    sweeps: Counter,
    sweep_backlog: Gauge,
    /// Unknown until someone has looked: 0 would be a false all-clear.
    endless_users: Mutex<Option<usize>>,
    runs: Family<ByState, Counter>,
    missed: Counter,
    web_refused: Counter,
    db: Db,
}

impl Metrics {
    pub(crate) fn new(db: &Db) -> Self {
        let mut registry = Registry::with_prefix("reauth");
        let answers = Family::<ByStatus, Counter>::default();
        registry.register("answers", "Answers by HTTP status, without checks", answers.clone());
        let runs = Family::<ByState, Counter>::default();
        registry.register("task_runs", "Task runs that ended, by state", runs.clone());
        let missed = Counter::default();
        let about = "Scheduled moments of tasks that passed without a run of their own";
        registry.register("task_runs_missed", about, missed.clone());
        let web_refused = Counter::default();
        let about = "Requests to web tasks that were refused: more than tasks.web_per_minute";
        registry.register("web_requests_refused", about, web_refused.clone());
        let clock_jumps = Counter::default();
        registry.register("clock_jumps", "Times the clock was moved", clock_jumps.clone());
        let (sweeps, sweep_backlog) = (Counter::default(), Gauge::<i64>::default());
        registry.register("sweeps", "Sweeps that came to their end", sweeps.clone());
        let about = "Ends and warnings that the sweep has found and not yet written";
        registry.register("sweep_backlog", about, sweep_backlog.clone());
        let mut check = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(format!("checks_{name}"), help, counter.clone());
            counter
        };
        let valid = check("valid", "Checks that were answered: valid");
        let ended = check("ended", "Checks that were answered: sign in again");
        let unknown = check("unknown", "Checks of tokens that nobody knows");
        let in_doubt = check("in_doubt", "Checks that could not be answered");
        let db = db.clone();
        Self {
            registry,
            answers,
            valid,
            ended,
            unknown,
            in_doubt,
            clock_jumps,
            sweeps,
            sweep_backlog,
            endless_users: Mutex::default(),
            runs,
            missed,
            web_refused,
            db,
        }
    }

    pub(crate) fn count_answer(&self, status: StatusCode) {
        self.answers.get_or_create(&ByStatus { status: status.as_u16() }).inc();
    }

    pub(crate) fn count_check(&self, verdict: Result<Option<Verdict>, ()>) {
        let counter = match verdict {
            Ok(Some(Verdict::Valid { .. })) => &self.valid,
            Ok(Some(Verdict::Ended(_))) => &self.ended,
            Ok(None) => &self.unknown,
            Err(()) => &self.in_doubt,
        };
        counter.inc();
    }

    pub(crate) fn count_clock_jump(&self) {
        self.clock_jumps.inc();
    }

    pub(crate) fn count_sweep(&self) {
        self.sweeps.inc();
    }

    pub(crate) fn set_sweep_backlog(&self, rows: usize) {
        self.sweep_backlog.set(i64::try_from(rows).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_endless_users(&self, users: usize) {
        *self.endless_users.lock().unwrap_or_else(PoisonError::into_inner) = Some(users);
    }

    pub(crate) fn count_run(&self, state: &'static str) {
        self.runs.get_or_create(&ByState { state }).inc();
    }

    pub(crate) fn count_missed(&self, moments: u64) {
        self.missed.inc_by(moments);
    }

    pub(crate) fn count_web_refused(&self) {
        self.web_refused.inc();
    }

    /// All counters, and what is known of the store at this moment.
    pub(crate) async fn text(&self) -> Result<String> {
        let mut read = self.db.read().await?;
        let head = ledger::head(&mut read).await?;
        let (queued, running) = tasks::state_counts(&mut read).await?;
        let (sessions, users, apps) = self.db.live().counts()?;
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, value: i64| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP reauth_{name} {help}.\n# TYPE reauth_{name} gauge");
            let _ = writeln!(text, "reauth_{name} {value}");
        };
        let size = |rows: usize| i64::try_from(rows).unwrap_or(i64::MAX);
        gauge("ledger_head", "The last ledger entry's place", head.seq);
        gauge("sessions", "Device sessions in memory, live and ended", size(sessions));
        gauge("users", "Users in memory", size(users));
        gauge("apps", "Apps", size(apps));
        gauge("task_runs_queued", "Task runs that wait", queued);
        gauge("task_runs_running", "Task runs that are going", running);
        let endless = *self.endless_users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(users) = endless {
            let about = "Users with a session that nothing ends for sure, when last looked";
            gauge("users_without_bound", about, size(users));
        }
        let _ = encode(&mut text, &self.registry);
        Ok(text)
    }
}
