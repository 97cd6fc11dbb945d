//! What would happen: the next days lived through on a copy of the store, with a clock that is
//! moved from one event to the next. Every device stays in use and signs in again as soon as it
//! must, through the very rules that a server has; scheduled tasks run, and what they would change
//! is noted instead of being done. The store itself is only read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use reauth_domain::access::{Because, Methods};
use reauth_domain::apps::policies::{self, Policy};
use reauth_domain::apps::selectors;
use reauth_domain::apps::{self, App, Settings};
use reauth_domain::ledger::By;
use reauth_domain::sessions::sweep;
use reauth_domain::{
    Clock, Db, Error, Forecast, Rehearsal, Result, Seen, SessionId, Span, Time, UserId, copy,
    devices, tasks,
};
use serde::Serialize;

use crate::app::{Child, Server};
use crate::config::Config;
use crate::workers::run;

/// As far as the forecast looks.
const DAYS_MAX: u32 = 90;
/// Devices whose times run out so close together sign in together: a herd is one change.
const TOGETHER: Span = Span::from_micros(1_000);
const SECONDS_AN_HOUR: i64 = 3_600;

/// What tasks would have done.
#[derive(Clone, Default)]
pub(crate) struct Rehearsed {
    /// To the store.
    pub(crate) changes: Rehearsal,
    /// To the world: the task, the method and the origin.
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Rehearsed {
    pub(crate) fn note_request(&self, task: &str, request: String) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push((task.to_owned(), request));
    }

    pub(crate) fn take_requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is to be simulated.
#[derive(Debug)]
pub struct Wanted {
    /// The app's id; none if the store has just one.
    pub app: Option<String>,
    /// How many days: up to 90.
    pub days: u32,
    /// The set of policies, as JSON; none for the one that holds.
    pub policies: Option<serde_json::Value>,
    /// Agrees that nothing may end every session of the app.
    pub allow_endless: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Hours that are lived through.
    pub hours: u64,
    /// Sign-ins so far.
    pub sign_ins: u64,
}

/// What happened on the copy.
#[derive(Debug, Serialize)]
pub struct Simulation {
    /// The app's name.
    pub app: String,
    /// When it began.
    pub from: String,
    /// How many days it lasted.
    pub days: u32,
    /// Sessions that were valid when it began.
    pub sessions: usize,
    /// Forced sign-ins by the hour.
    pub hours: Vec<u64>,
    /// The most in one second.
    pub peak_per_second: u64,
    /// The first second that had as many.
    pub peak_at: Option<String>,
    /// What the forecast had said of the same hours.
    pub forecast_hours: Vec<u64>,
    /// Sessions that ended, by reason and policy.
    pub ends: Vec<EndCount>,
    /// Sessions that ended and could not sign in again.
    pub ended_for_good: u64,
    /// Warnings before an end: one a sign-in.
    pub warnings: u64,
    /// What scheduled tasks would have done.
    pub tasks: Vec<TaskCount>,
}

/// How often sessions ended for one reason.
#[derive(Debug, Serialize)]
pub struct EndCount {
    /// The reason's name.
    pub because: &'static str,
    /// The policy that asked for it.
    pub policy: Option<String>,
    /// How often.
    pub times: u64,
}

/// What one task would have done.
#[derive(Debug, Default, Serialize)]
pub struct TaskCount {
    /// Its name.
    pub task: String,
    /// How often it ran.
    pub runs: u64,
    /// How many of these runs failed.
    pub failed: u64,
    /// What it would have written to the ledger, by kind; and what it would have asked of the world
    /// that is no GET or HEAD, by method and origin.
    pub would: BTreeMap<String, u64>,
}

/// Lives through the next days on a copy, from the moment on at which `clock` stands.
pub async fn simulate(
    config: &Config,
    clock: Clock,
    child: Child,
    wanted: Wanted,
    tell: impl Fn(Progress),
) -> Result<Simulation, String> {
    if wanted.days == 0 || wanted.days > DAYS_MAX {
        return Err(format!("days: must be between 1 and {DAYS_MAX}"));
    }
    let folder = tempfile::Builder::new().prefix("reauth-simulation-").tempdir();
    let folder = folder.map_err(|error| format!("no folder for the copy: {error}"))?;
    let data = folder.path().join("data");
    copy(&config.place(), &data).await.map_err(|error| error.to_string())?;
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data,
        database: None,
        anchor: None,
        public_url: None,
        ..config.clone()
    };
    let rehearsal = Rehearsed::default();
    let server = Server::still(config, clock.clone(), child, Some(rehearsal.clone())).await?;
    let lived = async {
        let mut world = World::new(&server, &wanted, rehearsal).await?;
        world.live(&clock, tell).await?;
        Ok(world.told())
    };
    let told = lived.await.map_err(|error: Error| error.to_string());
    server.stop().await;
    told
}

/// A session whose time runs out at a moment.
type Ending = Reverse<(Time, UserId, SessionId)>;

struct World<'a> {
    server: &'a Server,
    rehearsal: Rehearsed,
    app: App,
    start: Time,
    days: u32,
    sessions: usize,
    /// Whoever signs in uses these as well.
    methods: Methods,
    endings: BinaryHeap<Ending>,
    forecast: Forecast,
    seconds: BTreeMap<i64, u64>,
    ends: BTreeMap<(Because, Option<String>), u64>,
    ended_for_good: u64,
    warnings: u64,
    tasks: BTreeMap<String, TaskCount>,
}

impl<'a> World<'a> {
    async fn new(server: &'a Server, wanted: &Wanted, rehearsal: Rehearsed) -> Result<Self> {
        let db = &server.app().db;
        let app = chosen(db, wanted.app.as_deref()).await?;
        without_others_tasks(db, &app).await?;
        let all = in_use(db, &app, wanted).await?;
        let found = selectors::find(&mut db.read().await?, &app, &all).await?;
        let start = db.now();
        let valid = db.live().valid_sessions(app.id, start)?;
        let preview = db.live().preview(app.id, (&all, &found), start, &Seen::default())?;
        // What cannot even be foreseen is not to be lived through either.
        let why = preview.unforeseen.unwrap_or_default();
        let forecast = preview.after.ok_or_else(|| Error::invalid("policies", why))?;
        let mut tx = db.write(By::System).await?;
        policies::set(&mut tx, &app, (all.clone(), None), true, None).await?;
        let settings = Settings { max_idle: None, ..app.settings.clone() };
        let app = apps::change(&mut tx, &app, (&app.name, settings), true).await?;
        tx.commit().await?;
        let asked = all.iter().filter_map(|policy| policy.limits.require_methods);
        let mut world = Self {
            server,
            rehearsal,
            app,
            start,
            days: wanted.days,
            sessions: valid.len(),
            methods: asked.fold(Methods::NONE, Methods::and),
            endings: BinaryHeap::new(),
            forecast,
            seconds: BTreeMap::new(),
            ends: BTreeMap::new(),
            ended_for_good: 0,
            warnings: 0,
            tasks: BTreeMap::new(),
        };
        for (user, session) in valid {
            world.expect(user, session)?;
        }
        Ok(world)
    }

    fn db(&self) -> &Db {
        &self.server.app().db
    }

    /// Notes when a session's time runs out. Who signs in again does so at the next whole second,
    /// as in the forecast: an end that is shorter than a moment behind one is at it.
    fn expect(&mut self, user: UserId, session: SessionId) -> Result<()> {
        let db = self.db();
        let explained = db.live().explain_session((user, session), None, db.now())?;
        if let Some(end) = explained.and_then(|explained| explained.ends.into_iter().next()) {
            let at = end.ended.at.max(self.start);
            let whole = self.start + Span::seconds(second(at - TOGETHER, self.start));
            let signs_in = end.ended.because.asks_to_sign_in();
            let at = if signs_in { whole.max(at) } else { at };
            self.endings.push(Reverse((at, user, session)));
        }
        Ok(())
    }

    /// Lives through all days.
    async fn live(&mut self, clock: &Clock, tell: impl Fn(Progress)) -> Result<()> {
        let mut sign_ins = 0;
        for hour in 1..=u64::from(self.days) * 24 {
            let until = self.start + Span::hours(i64::try_from(hour).unwrap_or(i64::MAX));
            while let Some(next) = self.next_event().await?.filter(|next| *next < until) {
                clock.set(next);
                self.run_tasks().await?;
                sign_ins += self.end_sessions(next).await?;
            }
            clock.set(until);
            if hour.is_multiple_of(24) {
                self.sweep().await?;
            }
            tell(Progress { hours: hour, sign_ins });
        }
        // Of those that end later, some are warned already.
        let (end, before) = (self.db().now(), self.app.settings.warn_before);
        let is_warned = |Reverse((at, ..)): &&Ending| before.is_some_and(|it| *at - it <= end);
        self.warnings += self.endings.iter().filter(is_warned).count() as u64;
        Ok(())
    }

    async fn next_event(&self) -> Result<Option<Time>> {
        let ending = self.endings.peek().map(|Reverse((at, ..))| *at);
        let due = tasks::next_due(&mut self.db().read().await?).await?;
        Ok([ending, due].into_iter().flatten().min())
    }

    /// Whoever's time has run out signs in again, if that is what is asked for.
    async fn end_sessions(&mut self, until: Time) -> Result<u64> {
        let (mut due, mut users, mut next) = (Vec::new(), HashSet::new(), Vec::new());
        while let Some(Reverse((at, ..))) = self.endings.peek()
            && *at < until + TOGETHER
            && let Some(ending) = self.endings.pop()
        {
            // Whether there is room for a user's next device is known after the change only.
            let is_first = users.insert(ending.0.1);
            if is_first { &mut due } else { &mut next }.push(ending);
        }
        self.endings.extend(next);
        if due.is_empty() {
            return Ok(0);
        }
        let (db, mut signed_in, mut later) = (self.db().clone(), Vec::new(), Vec::new());
        let mut tx = db.write(By::System).await?;
        for Reverse((at, user, session)) in due {
            let explained = db.live().explain_session((user, session), None, tx.now())?;
            let end = explained.and_then(|explained| explained.ends.into_iter().next());
            let Some(end) = end else { continue };
            if end.ended.at > until + TOGETHER {
                // Another device has made room meanwhile.
                later.push((user, session));
                continue;
            }
            *self.ends.entry((end.ended.because, end.policy)).or_default() += 1;
            let is_foreseen = at > self.start && self.app.settings.warn_before.is_some();
            self.warnings += u64::from(is_foreseen);
            let can_sign_in = end.ended.because.asks_to_sign_in()
                && devices::may_sign_in(&tx, user)?.is_valid()
                && again(&mut tx, &self.app, (user, session), self.methods).await?;
            if can_sign_in {
                *self.seconds.entry(second(at, self.start)).or_default() += 1;
                signed_in.push((user, session));
            } else {
                self.ended_for_good += 1;
            }
        }
        tx.commit().await?;
        for (user, session) in signed_in.iter().chain(&later) {
            self.expect(*user, *session)?;
        }
        Ok(signed_in.len() as u64)
    }

    async fn run_tasks(&mut self) -> Result<()> {
        let db = self.db().clone();
        if tasks::next_due(&mut db.read().await?).await?.is_none_or(|next| next > db.now()) {
            return Ok(());
        }
        loop {
            let mut tx = db.write(By::System).await?;
            let fired = tasks::fire_due(&mut tx).await?;
            tx.commit().await?;
            if !fired.is_found {
                break;
            }
        }
        for (task, state) in run::carry_out_all(self.server.app()).await? {
            let count = self.counted(task);
            count.runs += u64::from(state.is_end());
            count.failed += u64::from(state.is_end() && state != tasks::RunState::Succeeded);
        }
        for entry in self.rehearsal.changes.take() {
            let name = match &entry.by {
                By::Task { name, .. } => name.clone(),
                _ => "(by another token)".to_owned(),
            };
            let kind = entry.change.kind()?;
            *self.counted(name).would.entry(kind).or_default() += 1;
        }
        for (task, request) in self.rehearsal.take_requests() {
            *self.counted(task).would.entry(request).or_default() += 1;
        }
        Ok(())
    }

    fn counted(&mut self, task: String) -> &mut TaskCount {
        let new = || TaskCount { task: task.clone(), ..TaskCount::default() };
        self.tasks.entry(task.clone()).or_insert_with(new)
    }

    /// As the worker does it, though not as often: no verdict depends on it.
    async fn sweep(&mut self) -> Result<()> {
        let mut found = sweep::look(self.db()).await?;
        while !found.is_empty() {
            found.write(self.db()).await?;
        }
        found.close(self.db()).await?;
        Ok(())
    }

    fn told(self) -> Simulation {
        let hours_all = usize::try_from(self.days).unwrap_or(0) * 24;
        let mut hours = vec![0; hours_all];
        for (second, count) in &self.seconds {
            let hour = usize::try_from(second / SECONDS_AN_HOUR).unwrap_or(usize::MAX);
            if let Some(place) = hours.get_mut(hour) {
                *place += count;
            }
        }
        let peak = self.seconds.iter().max_by_key(|(second, count)| (**count, Reverse(**second)));
        let ends = self.ends.into_iter().map(|((because, policy), times)| EndCount {
            because: because.name(),
            policy,
            times,
        });
        Simulation {
            app: self.app.name,
            from: self.start.to_string(),
            days: self.days,
            sessions: self.sessions,
            hours,
            peak_per_second: peak.map_or(0, |(_, count)| *count),
            peak_at: peak.map(|(at, _)| (self.start + Span::seconds(*at)).to_string()),
            forecast_hours: self.forecast.hours.into_iter().take(hours_all).collect(),
            ends: ends.collect(),
            ended_for_good: self.ended_for_good,
            warnings: self.warnings,
            tasks: self.tasks.into_values().collect(),
        }
    }
}

/// In which second it is, counted as the forecast does: rounded up.
fn second(at: Time, start: Time) -> i64 {
    let micros = (at - start).micros();
    micros.div_euclid(1_000_000) + i64::from(micros.rem_euclid(1_000_000) > 0)
}

/// Answers whether the sign-in succeeded.
async fn again(
    tx: &mut reauth_domain::Tx,
    app: &App,
    who: (UserId, SessionId),
    methods: Methods,
) -> Result<bool> {
    match devices::sign_in_again(tx, app.id, who, methods).await {
        Ok(()) => Ok(true),
        Err(Error::SignInAgain(_) | Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The app with this id, or the only one.
async fn chosen(db: &Db, id: Option<&str>) -> Result<App> {
    let mut read = db.read().await?;
    if let Some(id) = id {
        let id = id.parse().map_err(|_| Error::not_found(format!("app {id}")))?;
        return apps::find(&mut read, id).await;
    }
    let (mut all, total) = apps::page(&mut read, 2, 0).await?;
    match (all.pop(), total) {
        (Some(app), 1) => Ok(app),
        (None, _) => Err(Error::Conflict("the store has no app".into())),
        _ => Err(Error::invalid("app", format!("the store has {total} apps: say which"))),
    }
}

/// Other apps' tasks are not asked about.
async fn without_others_tasks(db: &Db, app: &App) -> Result<()> {
    let (others, _) = apps::page(&mut db.read().await?, apps::PAGE_ROWS_MAX, 0).await?;
    for other in others.iter().filter(|other| other.id != app.id) {
        for task in tasks::all(&mut db.read().await?, other.id).await? {
            let mut tx = db.write(By::System).await?;
            tasks::delete(&mut tx, other.id, &task.definition.name).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

/// The policies for devices that stay in use.
async fn in_use(db: &Db, app: &App, wanted: &Wanted) -> Result<Vec<Policy>> {
    let all: Vec<Policy> = match &wanted.policies {
        None => policies::all(&mut db.read().await?, app.id).await?,
        Some(given) => serde_json::from_value(given.clone())
            .map_err(|error| Error::invalid("policies", error.to_string()))?,
    };
    let may_be_endless = wanted.allow_endless || wanted.policies.is_none();
    policies::check(&mut db.read().await?, app, &all, may_be_endless).await?;
    let now = db.now();
    Ok(all.into_iter().filter_map(|policy| policy.without_idle(now)).collect())
}
