//! Carries out runs: claims one, lets the sandbox run it, writes down how it ended. The script
//! reaches the world only through `Reach`, and by default the world is our own API.

use std::sync::Arc;
use std::time::Duration;

use reauth_domain::ledger::By;
use reauth_domain::tasks::{self, Claimed, Finished, LogRow, RunState};
use reauth_domain::{Result, Span};
use reauth_sandbox::{Backend, Job, Limits, Outcome, Report, Script};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::App;
use crate::workers::reach::Reach;

/// A run is looked for this often even if nobody said that there is one.
const EVERY: Duration = Duration::from_secs(1);
/// The token outlives the run's time by this, so that its last requests are answered.
const GRACE: Span = Span::seconds(5);

/// Takes up the runs that were going when the server last died. A claim is a claim of this
/// process: when it starts, none can be going.
pub(crate) async fn recover(app: &App) -> Result<()> {
    loop {
        let mut tx = app.db.write(By::System).await?;
        let is_found = tasks::recover(&mut tx).await?;
        tx.commit().await?;
        if !is_found {
            return Ok(());
        }
        tracing::warn!("a run was going when the server stopped: it is taken up again");
    }
}

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(app.config.tasks.concurrency));
    let mut going = JoinSet::new();
    loop {
        while going.try_join_next().is_some() {}
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            match claim(&app).await {
                Ok(Some(claimed)) => {
                    let app = app.clone();
                    going.spawn(async move {
                        carry_out(&app, claimed).await;
                        drop(place);
                        app.run_wake.notify_one();
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "no run could be claimed"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = app.run_wake.notified() => {}
            _ = stopped.changed() => break,
        }
    }
    // Runs that are going die with their children and are taken up at the next start.
    going.shutdown().await;
}

/// Carries out all that waits, one after the other; answers which task's run ended how.
pub(crate) async fn carry_out_all(app: &App) -> Result<Vec<(String, RunState)>> {
    let mut ended = Vec::new();
    while let Some(claimed) = claim(app).await? {
        let task = claimed.task.definition.name.clone();
        ended.extend(carry_out(app, claimed).await.map(|state| (task, state)));
    }
    Ok(ended)
}

async fn claim(app: &App) -> Result<Option<Claimed>> {
    if tasks::state_counts(&mut app.db.read().await?).await?.0 == 0 {
        return Ok(None);
    }
    let mut tx = app.db.write(By::System).await?;
    let claimed = tasks::claim(&mut tx, app.config.tasks.wall + GRACE).await?;
    tx.commit().await?;
    Ok(claimed)
}

/// None: its end could not be written down.
async fn carry_out(app: &App, claimed: Claimed) -> Option<RunState> {
    let definition = &claimed.task.definition;
    let job = Job {
        script: Script { name: definition.file.clone(), javascript: definition.javascript.clone() },
        params: claimed.params.clone(),
        backend: Backend {
            url: format!("{}/api/v4/{}", app.local_url(), claimed.app),
            token: claimed.token.reveal().to_owned(),
        },
        env: definition.env.clone(),
        now_ms: Some(app.db.now().micros() / 1_000),
    };
    let host = Reach {
        app: app.clone(),
        task: definition.name.clone(),
        allow_hosts: Vec::new(),
        rehearsal: app.rehearsal.clone(),
    };
    let report = app.sandbox.run(&job, &limits(app), &host).await;
    let (task, id) = (definition.name.clone(), claimed.id);
    let finished = finished(report);
    let written = async {
        let mut tx = app.db.write(By::System).await?;
        let state = tasks::finish(&mut tx, &claimed, finished).await?;
        tx.commit().await.map(|_| state)
    };
    let written = written.await;
    match &written {
        Ok(state) => {
            tracing::info!(task, run = %id, %state, "a run ended");
            app.metrics.count_run(state.name());
        }
        Err(error) => tracing::error!(task, run = %id, %error, "a run's end was not written down"),
    }
    app.run_ended.send_replace(());
    written.ok()
}

fn limits(app: &App) -> Limits {
    let tasks = &app.config.tasks;
    let duration =
        |span: Span| Duration::from_micros(u64::try_from(span.micros()).unwrap_or_default());
    Limits {
        wall: duration(tasks.wall),
        cpu: duration(tasks.cpu),
        memory_bytes: tasks.memory_bytes,
        ..Limits::default()
    }
}

fn finished(report: Report) -> Finished {
    let failed = |kind: &str, text: String| Err((kind.to_owned(), text));
    let is_worth_a_retry = matches!(report.outcome, Outcome::TimedOut | Outcome::Crashed { .. });
    let outcome = match report.outcome {
        Outcome::Done(value) => Ok(value),
        Outcome::Threw { message, stack } => {
            failed("threw", format!("{message}\n{stack}").trim_end().to_owned())
        }
        Outcome::TimedOut => failed("timed_out", "the run took longer than tasks.wall".into()),
        Outcome::OutOfTime => {
            failed("out_of_time", "the run took more processor time than tasks.cpu".into())
        }
        Outcome::OutOfMemory => {
            failed("out_of_memory", "the run took more memory than tasks.memory_bytes".into())
        }
        Outcome::TooLarge { what } => failed("too_large", format!("{what} is too large")),
        Outcome::Crashed { why } => failed("crashed", why),
        Outcome::Refused { why } => failed("refused", why),
    };
    let line = |line: reauth_sandbox::LogLine| LogRow {
        at_ms: line.at_ms,
        level: line.level.to_string(),
        text: line.text,
    };
    let mut log: Vec<LogRow> = report.log.into_iter().map(line).collect();
    if report.log_is_cut {
        let at_ms = log.last().map_or(0, |last| last.at_ms);
        let text = "the log is cut here: it has reached its limit".to_owned();
        log.push(LogRow { at_ms, level: "warn".into(), text });
    }
    Finished { outcome, is_worth_a_retry, log }
}
