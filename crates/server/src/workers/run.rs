//! Carries out runs: claims one, lets the sandbox run it, writes down how it ended. The script
//! reaches the world only through `Reach`, and by default the world is our own API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use reauth_domain::ledger::By;
use reauth_domain::tasks::{self, Claim, Claimed, Ending, Finished, LogRow, RunState};
use reauth_domain::{Error, Result, RunId, Span};
use reauth_sandbox::{
    Backend, Call, Job, Limits, LogLine, Module, Outcome, Part, Report, RunFacts, Script,
    WebRequest, WebResponse,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::egress::AllowedHost;
use super::going::{self, Entered};
use super::reach::Reach;
use crate::app::App;
use crate::simulation::Rehearsed;

/// A run is looked for this often even if nobody said that there is one.
const EVERY: Duration = Duration::from_secs(1);
/// The token outlives the run's time by this, so that its last requests are answered.
const GRACE: Span = Span::seconds(5);
/// A run whose server has given no sign of life for so long is taken up by another.
const LEASE: Span = Span::minutes(1);
/// So often it gives one: several may be lost.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// The longest text of an error that is kept: it is read by people.
const ERROR_BYTES_MAX: usize = 16 * 1024;
/// When an end cannot be written down it is tried again after these; then its lease passes.
const END_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];
/// A rehearsal shows this many changes; further ones are only counted.
const CHANGES_MAX: usize = 1_000;

/// A run that has been claimed or begun, and is among those that are going.
pub(crate) struct Ready {
    claimed: Claimed,
    entered: Entered,
    /// Whether what it would change is noted for it alone: else it is its caller's to tell.
    has_own_changes: bool,
}

impl Ready {
    /// To be made before the claim is committed, so that nobody meets a run that is going and
    /// cannot be ended.
    pub(crate) fn new(app: &App, claimed: Claimed) -> Self {
        let own = claimed.is_rehearsed.then(Rehearsed::default);
        let has_own_changes = own.is_some();
        Self::enter(app, claimed, own.or_else(|| app.rehearsal.clone()), has_own_changes)
    }

    /// As `new`, for a run that another one waits for. If that one is rehearsed, both note what
    /// they would change in one list, which is the caller's.
    pub(crate) fn called(app: &App, claimed: Claimed, caller: RunId) -> Self {
        let shared = app.going.run(caller).and_then(|going| going.rehearsal.clone());
        if shared.is_none() {
            return Self::new(app, claimed);
        }
        Self::enter(app, claimed, shared, false)
    }

    fn enter(
        app: &App,
        claimed: Claimed,
        rehearsal: Option<Rehearsed>,
        has_own_changes: bool,
    ) -> Self {
        let entered = app.going.enter((claimed.id, claimed.attempt), rehearsal);
        Self { claimed, entered, has_own_changes }
    }

    /// The run.
    pub(crate) fn id(&self) -> RunId {
        self.claimed.id
    }
}

/// Takes up the runs that were going when the server last died. A claim is a claim of this
/// process: when it starts, none can be going.
pub(crate) async fn recover(app: &App) -> Result<()> {
    take_up(app, true).await
}

async fn take_up(app: &App, all: bool) -> Result<()> {
    loop {
        if !all && tasks::state_counts(&mut app.db.read().await?).await?.1 == 0 {
            return Ok(());
        }
        let mut tx = app.db.write(By::System).await?;
        let is_found = tasks::recover(&mut tx, all, app.config.tasks.retry_after).await?;
        tx.commit().await?;
        if !is_found {
            return Ok(());
        }
        tracing::warn!("a run was going when its server stopped: it is taken up again");
    }
}

/// Keeps children ready, so that a run begins at once.
pub(super) async fn keep_ready(app: App, mut stopped: watch::Receiver<bool>) {
    let limits = usual_limits(&app);
    tokio::select! {
        () = app.sandbox.keep_ready(&limits, app.config.tasks.ready) => {}
        _ = stopped.changed() => {}
    }
}

/// Gives signs of life for the runs that are going, and takes up those whose server gives none.
pub(super) async fn keep_leases(app: App, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            () = app.lease_wake.notified() => {}
            _ = stopped.changed() => return,
        }
        let renewed = async {
            let going = app.going.tries();
            if !going.is_empty() {
                let mut tx = app.db.write(By::System).await?;
                tasks::renew(&mut tx, &going, LEASE).await?;
                tx.commit().await?;
            }
            take_up(&app, false).await
        };
        if let Err(error) = renewed.await {
            tracing::warn!(%error, "the leases of runs were not renewed");
        }
    }
}

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(app.config.tasks.concurrency));
    let limits = usual_limits(&app);
    let mut going = JoinSet::new();
    let mut carried = HashMap::new();
    loop {
        while let Some(done) = going.try_join_next_with_id() {
            carried.remove(&done.map_or_else(|error| error.id(), |(id, ())| id));
        }
        let mut place = Arc::clone(&places).try_acquire_owned().ok();
        if place.is_some() {
            // While none could begin all wait their turn, as their schedules and limits count them.
            tokio::select! {
                is_failing = app.sandbox.is_failing(&limits) => {
                    place = place.filter(|_| !is_failing);
                }
                _ = stopped.changed() => break,
            }
        }
        if let Some(place) = place {
            match claim(&app).await {
                Ok(Some(ready)) => {
                    let (app, run) = (app.clone(), (ready.id(), ready.claimed.attempt));
                    let it = going.spawn(async move {
                        carry_out(&app, ready).await;
                        drop(place);
                        app.run_wake.notify_one();
                    });
                    carried.insert(it.id(), run);
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
    // Runs that are going die with their children and are taken up at the next start. That it was
    // cut off is not the run's fault: it costs it no try.
    going.shutdown().await;
    let cut_off: Vec<(RunId, i64)> = carried.into_values().collect();
    if let Err(error) = put_back(&app, &cut_off).await {
        tracing::warn!(%error, "runs that were cut off are taken up with one try less");
    }
}

async fn put_back(app: &App, cut_off: &[(RunId, i64)]) -> Result<()> {
    if cut_off.is_empty() {
        return Ok(());
    }
    let mut tx = app.db.write(By::System).await?;
    for (id, attempt) in cut_off {
        tasks::put_back(&mut tx, *id, *attempt).await?;
    }
    tx.commit().await.map(drop)
}

/// Carries out all that waits, one after the other; answers which task's run ended how.
pub(crate) async fn carry_out_all(app: &App) -> Result<Vec<(String, RunState)>> {
    let mut ended = Vec::new();
    while let Some(ready) = claim(app).await? {
        let task = ready.claimed.task.definition.name.clone();
        ended.extend(carry_out(app, ready).await.map(|state| (task, state)));
    }
    Ok(ended)
}

async fn claim(app: &App) -> Result<Option<Ready>> {
    let claim = claim_of(app, app.config.tasks.wall);
    if !tasks::has_due(&mut app.db.read().await?, claim.per_app).await? {
        return Ok(None);
    }
    let mut tx = app.db.write(By::System).await?;
    let claimed = tasks::claim(&mut tx, claim).await?;
    let ready = claimed.map(|claimed| Ready::new(app, claimed));
    tx.commit().await?;
    Ok(ready)
}

/// How this server claims a run that may take so long.
pub(crate) fn claim_of(app: &App, wall: Span) -> Claim {
    let per_app = i64::try_from(app.config.tasks.concurrency_per_app).unwrap_or(i64::MAX);
    Claim { life: wall + GRACE, lease: LEASE, per_app }
}

/// None: its end could not be written down.
pub(crate) async fn carry_out(app: &App, ready: Ready) -> Option<RunState> {
    let call = Call::Run { params: ready.claimed.params.clone().into() };
    let done = execute(app, &ready, (call, app.config.tasks.wall), None).await;
    finish(app, ready, done).await
}

/// Carries out a web task's run. An error is what its log says; the caller is told less. What is
/// answered piece by piece goes to `parts`, and the answer then has no body.
pub(crate) async fn answer_web(
    app: &App,
    ready: Ready,
    (params, request): (Value, WebRequest),
    parts: mpsc::Sender<Part>,
) -> Result<WebResponse, String> {
    let call = Call::Web { params, request };
    let done = execute(app, &ready, (call, app.config.tasks.web_wall), Some(parts)).await;
    let answer = match &done.outcome {
        Ok(json) => serde_json::from_str::<WebResponse>(json)
            .map_err(|error| format!("the answer cannot be read: {error}")),
        Err((kind, text)) => Err(format!("{kind}: {text}")),
    };
    // What was answered is the caller's affair: the run keeps how it went.
    let outcome = match (&answer, done.outcome) {
        (Ok(answer), _) => Ok(json!({ "status": answer.status }).to_string()),
        (Err(why), Ok(_)) => Err(("threw".to_owned(), why.clone())),
        (Err(_), failed) => failed,
    };
    finish(app, ready, Finished { outcome, ..done }).await;
    answer
}

/// Lets the sandbox run it.
async fn execute(
    app: &App,
    ready: &Ready,
    (call, wall): (Call, Span),
    parts: Option<mpsc::Sender<Part>>,
) -> Finished {
    let Ready { claimed, entered, has_own_changes } = ready;
    let definition = &claimed.task.definition;
    let rehearsal = entered.run.rehearsal.clone();
    let job = Job {
        script: script(&definition.file, &definition.script),
        call,
        backend: Backend {
            url: format!("{}/api/v4/{}", app.local_url(), claimed.app),
            token: claimed.token.reveal().to_owned(),
        },
        run: RunFacts {
            id: claimed.id.to_string(),
            attempt: claimed.attempt,
            task: definition.name.clone(),
            trigger: claimed.trigger.clone(),
        },
        env: definition.env.clone(),
        now_ms: Some(app.db.now().micros() / 1_000),
    };
    let hosts = definition.options.allow_hosts.iter();
    let host = Reach {
        app: app.clone(),
        task: definition.name.clone(),
        own: (claimed.app, claimed.token.reveal().to_owned()),
        // What was read when the task was put is read again; what cannot be is not reached.
        allow_hosts: hosts.filter_map(|text| AllowedHost::parse(text).ok()).collect(),
        rehearsal: rehearsal.clone(),
        run: Arc::clone(&entered.run),
        parts,
        has_begun: Notify::new(),
    };
    let limits = limits(app, wall);
    let mut done = tokio::select! {
        // An answer that is there is whole, whoever has left meanwhile.
        biased;
        report = app.sandbox.run(&job, &limits, &host) => finished(report),
        () = entered.run.cancelled() => cancelled(&entered.run, "someone asked for its end"),
        () = host.left() => cancelled(&entered.run, "whoever asked left before its end"),
    };
    done.retry_after = app.config.tasks.retry_after;
    if *has_own_changes {
        done.changes = rehearsal.as_ref().map(changes);
    }
    done
}

/// What the compiler made of the task's files; a task of an older version is one plain file.
fn script(file: &str, stored: &str) -> Script {
    serde_json::from_str(stored).unwrap_or_else(|_| Script {
        entry: file.to_owned(),
        modules: vec![Module { name: file.to_owned(), javascript: stored.to_owned(), map: None }],
    })
}

async fn finish(app: &App, ready: Ready, mut finished: Finished) -> Option<RunState> {
    let (task, id) = (ready.claimed.task.definition.name.clone(), ready.id());
    let mut written = write_end(app, &ready, &mut finished).await;
    if let Err(Error::Internal(error)) = &written {
        // What the database refuses once it refuses always: that it ended is worth more.
        tracing::error!(task, run = %id, error, "a run's end is written down without its texts");
        finished = without_texts(finished);
        written = write_end(app, &ready, &mut finished).await;
    }
    for pause in END_PAUSES {
        let Err(error) = &written else { break };
        tracing::warn!(task, run = %id, %error, "a run's end is written down later");
        tokio::time::sleep(pause).await;
        written = write_end(app, &ready, &mut finished).await;
    }
    if written.is_err() {
        ready.entered.keep();
    }
    match &written {
        Ok(Some(state)) => {
            tracing::info!(task, run = %id, %state, "a run ended");
            app.metrics.count_run(state.name());
        }
        Ok(None) => tracing::warn!(task, run = %id, "a run was taken up by another server"),
        Err(error) => tracing::error!(task, run = %id, %error, "a run's end was not written down"),
    }
    app.run_ended.send_replace(());
    written.ok().flatten()
}

/// The same end, with nothing of what the script said.
fn without_texts(finished: Finished) -> Finished {
    let outcome = match finished.outcome {
        Ok(_) => Ok("null".to_owned()),
        Err((kind, _)) => Err((kind, "what it said could not be written down".to_owned())),
    };
    let text = "the result, the log and the error could not be written down".to_owned();
    let log = vec![LogRow { at_ms: 0, level: "error".into(), text }];
    Finished { outcome, log, changes: None, ..finished }
}

async fn write_end(app: &App, ready: &Ready, finished: &mut Finished) -> Result<Option<RunState>> {
    let mut tx = app.db.write(By::System).await?;
    // Who asks for its end does so as the writer too: from now on they find it ended, or waiting.
    if finished.outcome.is_err() && ready.entered.run.is_cancelled() {
        finished.ending = Ending::Cancelled;
    }
    let state = tasks::finish(&mut tx, &ready.claimed, finished).await?;
    tx.commit().await.map(|_| state)
}

/// As most runs have them: children that wait have these.
pub(crate) fn usual_limits(app: &App) -> Limits {
    limits(app, app.config.tasks.wall)
}

fn limits(app: &App, wall: Span) -> Limits {
    let tasks = &app.config.tasks;
    let duration =
        |span: Span| Duration::from_micros(u64::try_from(span.micros()).unwrap_or_default());
    Limits {
        wall: duration(wall),
        cpu: duration(tasks.cpu),
        memory_bytes: tasks.memory_bytes,
        ..Limits::default()
    }
}

fn finished(report: Report) -> Finished {
    let failed = |kind: &str, mut text: String| {
        let end = (0..=ERROR_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        Err((kind.to_owned(), text))
    };
    let ending = match report.outcome {
        Outcome::Done(_) | Outcome::Threw { .. } | Outcome::TooLarge { .. } => Ending::Answered,
        Outcome::TimedOut | Outcome::OutOfTime | Outcome::OutOfMemory | Outcome::Crashed { .. } => {
            Ending::NoAnswer
        }
        Outcome::Refused { .. } => Ending::NotBegun,
    };
    let outcome = match report.outcome {
        Outcome::Done(json) => Ok(json.into_text()),
        Outcome::Threw { message, stack } => {
            failed("threw", format!("{message}\n{stack}").trim_end().to_owned())
        }
        Outcome::TimedOut => failed("timed_out", "the run took longer than it may".into()),
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
    let mut log: Vec<LogRow> = report.log.into_iter().map(log_row).collect();
    if report.log_is_cut {
        let at_ms = log.last().map_or(0, |last| last.at_ms);
        let text = "the log is cut here: it has reached its limit".to_owned();
        log.push(LogRow { at_ms, level: "warn".into(), text });
    }
    Finished { outcome, ending, log, changes: None, retry_after: Span::seconds(0) }
}

fn cancelled(run: &going::Run, why: &str) -> Finished {
    let outcome = Err(("cancelled".to_owned(), why.to_owned()));
    let (ending, log) = (Ending::Cancelled, run.log());
    Finished { outcome, ending, log, changes: None, retry_after: Span::seconds(0) }
}

/// A line of the sandbox as the domain keeps it.
pub(super) fn log_row(line: LogLine) -> LogRow {
    LogRow { at_ms: line.at_ms, level: line.level.to_string(), text: line.text }
}

/// What a rehearsed run would have changed, in its order.
fn changes(rehearsal: &Rehearsed) -> Value {
    let entries = rehearsal.changes.take();
    let count = entries.len();
    let mut all: Vec<Value> = entries
        .into_iter()
        .take(CHANGES_MAX)
        .map(|entry| json!({ "user": entry.user, "change": entry.change }))
        .collect();
    if count > CHANGES_MAX {
        all.push(json!({ "more": count - CHANGES_MAX }));
    }
    all.extend(
        rehearsal.take_requests().into_iter().map(|(_, request)| json!({ "request": request })),
    );
    Value::Array(all)
}
