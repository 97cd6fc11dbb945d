//! `demo`: the main job before your eyes. A server on an embedded database, a sample app whose
//! users signed in over the last weeks, and a scheduled task that makes old sessions sign in again
//! through the HTTP API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reauth_sdk::{
    Client, Device, DeviceId, Enrolment, InApp, Limit, NewApp, NewTask, NewToken, Run, RunState,
    Schedule, SessionState, SettingsChange, TaskConfig, TokenRequest, User, Wanted,
};
use reauth_server::domain::{Clock, Span, Time};
use reauth_server::{Config, Server};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::serve::{begin_log, child};
use crate::output;

const USERS: u64 = 200;
/// The oldest sign-in of the sample; the app allows 90 days, the task 30.
const DAYS: u64 = 75;
const TASK: &str = include_str!("../../../../examples/tasks/sign-in-again.js");
const TASK_NAME: &str = "sign-in-again";
/// How long the first scheduled run may let us wait.
const RUN_MAX: Duration = Duration::from_mins(1);
const FIRST_NAMES: [&str; 20] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jon", "Kim", "Leo", "Mia",
    "Nils", "Olga", "Paul", "Rosa", "Sam", "Tess", "Uwe",
];
const LAST_NAMES: [&str; 10] =
    ["Berg", "Costa", "Diaz", "Eder", "Fuchs", "Gross", "Huber", "Ito", "Jansen", "Klein"];
const DEVICES: [(&str, &str); 4] =
    [("phone", "ios"), ("tablet", "android"), ("laptop", "web"), ("till", "windows")];

/// `reauth demo`
#[derive(Args, Debug)]
pub struct Demo {
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Keep the data in this new directory instead of a temporary one
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stop after the task has run instead of serving on
    #[arg(long)]
    once: bool,
}

/// One sign-in of the sample.
struct SignIn {
    days_ago: u64,
    user: usize,
    device: usize,
}

/// The same numbers at every start, so that the demo can be compared with its transcript.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Where the story is told: on standard output, or beside it when that is for JSON.
#[derive(Clone, Copy)]
struct Story {
    is_json: bool,
}

impl Story {
    fn tell(self, text: impl std::fmt::Display) {
        if self.is_json { eprintln!("{text}") } else { println!("{text}") }
    }
}

/// Shows the main job, then serves on.
pub async fn demo(args: &Demo, is_json: bool) -> Result<(), String> {
    begin_log(None, "error")?;
    let dir = match &args.data {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("reauth-demo-{}", std::process::id())),
    };
    let started = run(args, Story { is_json }, dir.clone()).await;
    if args.data.is_none() {
        // What is left behind is a temporary directory.
        let _ = std::fs::remove_dir_all(&dir);
    }
    started
}

async fn run(args: &Demo, story: Story, dir: PathBuf) -> Result<(), String> {
    let clock = Clock::manual(Clock::machine_time() - days(DAYS + 1));
    let config = Config { listen: args.listen, data: dir, ..Config::default() };
    let made = reauth_server::init(&config, clock.clone()).await?;
    let data = config.data.display().to_string();
    let server = Server::start(config, clock.clone(), child()?)
        .await
        .map_err(|why| format!("{why}, as in --listen 127.0.0.1:0"))?;
    let url = server.url();
    story.tell("Reauth demo: who signed in too long ago must sign in again.\n");
    story.tell(format!("  serving     {url} on an embedded database in {data}"));
    let operator = client(&url, &made.operator_token)?;
    let (app, token) = sample_app(&operator, story).await.map_err(text)?;
    let device = sign_everyone_in(&clock, &operator, &app).await.map_err(text)?;
    clock.follow_machine();
    let before = app.users().all().await.map_err(text)?;
    show_sample(story, &before);
    let run = run_task(story, &app).await?;
    show_run(story, &run);
    let after = app.users().all().await.map_err(text)?;
    show_difference(story, &before, &after);
    let proof = show_ledger(story, &operator, &app).await.map_err(text)?;
    show_next(story, &url, &app, &made.operator_token, &token, &device);
    if story.is_json {
        let live = |users: &[User]| sessions(users).filter(|session| is_live(session)).count();
        println!(
            "{}",
            json!({ "url": url, "app": app.id(), "operator_token": made.operator_token,
                "api_token": token, "session_token": device, "users": before.len(),
                "signed_in_before": live(&before), "signed_in_after": live(&after),
                "run": run, "ledger": proof })
        );
    }
    if !args.once {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        story.tell("\nServing on. Ctrl-C ends the demo and removes its data.");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    server.stop().await;
    Ok(())
}

fn days(days: u64) -> Span {
    Span::days(i64::try_from(days).unwrap_or(i64::MAX))
}

fn text(error: reauth_sdk::Error) -> String {
    error.to_string()
}

fn client(url: &str, token: &str) -> Result<Client, String> {
    Client::new(url, token).map_err(text)
}

async fn sample_app(operator: &Client, story: Story) -> reauth_sdk::Result<(InApp, String)> {
    let settings = SettingsChange {
        max_session_age: "90d".parse().ok().map(Limit::At),
        multiple_devices_per_user: Some(true),
        ..SettingsChange::default()
    };
    let app = NewApp { name: "Corner shop".to_owned(), settings, allow_endless: false };
    let app = operator.create_app(&app).await?;
    let app = operator.app(app.id);
    let token = NewToken {
        name: "demo".to_owned(),
        scopes: vec!["app:admin".to_owned()],
        expires_in: None,
    };
    let token = app.create_token(&token).await?.token;
    story.tell(format!("  app         Corner shop ({}): sessions end after 90 days", app.id()));
    Ok((app, token))
}

/// 200 users, about 500 devices: most are fresh, some are old. Oldest first, as time passes.
fn sign_ins() -> Vec<SignIn> {
    let mut numbers = Numbers(30);
    let mut all = Vec::new();
    for user in 0..USERS {
        let devices = 1 + numbers.below(DEVICES.len() as u64);
        for device in 0..devices {
            let (one, two) = (numbers.below(DAYS), numbers.below(DAYS));
            all.push(SignIn {
                days_ago: one.min(two),
                user: usize::try_from(user).unwrap_or_default(),
                device: usize::try_from(device).unwrap_or_default(),
            });
        }
    }
    all.sort_by_key(|sign_in| std::cmp::Reverse(sign_in.days_ago));
    all
}

/// Everyone signs in through the API, at the time of the sample; answers the last device's token.
async fn sign_everyone_in(
    clock: &Clock,
    client: &Client,
    app: &InApp,
) -> reauth_sdk::Result<String> {
    let now = Clock::machine_time();
    let all = sign_ins();
    let progress = output::progress(all.len() as u64 + USERS, "users sign in");
    let mut users = Vec::new();
    for at in 0..usize::try_from(USERS).unwrap_or_default() {
        let (first, last) = (FIRST_NAMES[at % 20], LAST_NAMES[at / 20]);
        let email = format!("{}.{}@example.com", first.to_lowercase(), last.to_lowercase());
        let mut attributes = Map::new();
        attributes.insert("name".to_owned(), json!(format!("{first} {last}")));
        attributes.insert("email".to_owned(), json!(email));
        users.push(app.create_user(&attributes).await?.id);
        progress.inc(1);
    }
    let mut last_token = String::new();
    for sign_in in &all {
        let moment = now - days(sign_in.days_ago) - Span::minutes(30);
        clock.set(moment.max(clock.now()));
        let token =
            app.authentication_token(&users[sign_in.user], &TokenRequest::default()).await?;
        let (name, platform) = DEVICES[sign_in.device];
        let enrolment = Enrolment {
            authentication_token: token.token,
            device: DeviceId { id: format!("{name}-{}", sign_in.user) },
            label: Some(format!("the {name}")),
            container: Some(json!({ "version": "4.2", "bundle_id": "com.example.shop",
                "platform": platform })),
            runtime: Some(json!({ "version": "9.1" })),
        };
        last_token = Device::enroll(client, app.id(), &enrolment).await?.1.session_token;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(last_token)
}

fn sessions(users: &[User]) -> impl Iterator<Item = &reauth_sdk::Session> {
    users.iter().flat_map(|user| &user.sessions)
}

fn is_live(session: &reauth_sdk::Session) -> bool {
    session.state == SessionState::Enrolled
}

/// How old each sign-in is, in whole days.
fn age(session: &reauth_sdk::Session, now: Time) -> i64 {
    let then = Time::parse(&session.last_authenticated_at.to_string()).unwrap_or(now);
    (now - then).whole_seconds() / 86_400
}

fn show_sample(story: Story, users: &[User]) {
    let (count, devices) = (users.len(), sessions(users).count());
    story.tell(format!(
        "  sample      {count} users signed in on {devices} devices, up to {DAYS} days ago"
    ));
}

/// Deploys the task on a schedule and waits for its first run.
async fn run_task(story: Story, app: &InApp) -> Result<Run, String> {
    let task = NewTask {
        file: format!("{TASK_NAME}.js"),
        source: TASK.to_owned(),
        config: TaskConfig {
            scopes: Some(vec!["users:read".to_owned(), "sessions:end".to_owned()]),
            schedule: Some(Schedule { cron: "*/5 * * * * *".to_owned(), zone: "UTC".to_owned() }),
            params: Some(json!({ "days": 30 })),
            single_instance: Some(true),
            ..TaskConfig::default()
        },
        ..NewTask::default()
    };
    app.put_task(TASK_NAME, &task).await.map_err(text)?;
    story.tell(format!(
        "  task        {TASK_NAME}.js, for sign-ins older than 30 days, every 5 seconds"
    ));
    let progress = output::waiting("waiting for the schedule");
    let first = async {
        loop {
            let runs = app.task_runs(TASK_NAME, 1000).await?.objects;
            if let Some(run) = runs.into_iter().rev().find(|run| run.state.is_end()) {
                return app.task_run(&run.id).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let run = tokio::time::timeout(RUN_MAX, first).await;
    progress.finish_and_clear();
    let run = run.map_err(|_| "the scheduled task did not run within a minute".to_owned())?;
    let run = run.map_err(text)?;
    if run.state == RunState::Succeeded { Ok(run) } else { Err(failed(&run)) }
}

fn failed(run: &Run) -> String {
    let error = run.error.as_ref().map_or("without a reason", |error| &error.message);
    format!("the task failed: {error}")
}

fn show_run(story: Story, run: &Run) {
    let took_ms = run.took_ms.unwrap_or(0);
    story.tell(format!("  run         {} in {took_ms} ms, started by its schedule", run.id));
    for line in run.log.iter().flatten() {
        story.tell(format!("              {:>5} ms  {}", line.at_ms, line.text));
    }
    story.tell(format!("  answered    {}\n", run.result));
}

/// Who was signed in before and after, by the age of the sign-in.
fn show_difference(story: Story, before: &[User], after: &[User]) {
    let now = Clock::machine_time();
    let live = |users: &[User], from: i64, to: i64| {
        let is_of_age = |session: &&reauth_sdk::Session| {
            is_live(session) && (from..to).contains(&age(session, now))
        };
        sessions(users).filter(is_of_age).count().to_string()
    };
    let mut rows = Vec::new();
    for (name, from, to) in [
        ("up to 7 days", 0, 7),
        ("8 to 30 days", 7, 30),
        ("more than 30 days", 30, i64::MAX),
        ("all", 0, i64::MAX),
    ] {
        rows.push(vec![name.to_owned(), live(before, from, to), live(after, from, to)]);
    }
    let table = output::table(&["signed in since", "devices before", "devices after"], rows);
    story.tell(format!("{table}\n"));
}

/// Proves the ledger; answers the proof for programs.
async fn show_ledger(story: Story, operator: &Client, app: &InApp) -> reauth_sdk::Result<Value> {
    let verified = operator.verify_ledger(0, 50_000).await?;
    let head = verified.head.seq;
    let wanted = Wanted { after: head.saturating_sub(40), ..Wanted::default() };
    let entries = app.ledger(&wanted).await?.entries;
    let last = entries.iter().rev().find(|entry| entry.kind == "session.re_authenticate");
    let proof = if verified.ok { "the chain holds" } else { "the chain is broken" };
    story.tell(format!("The ledger has {head} entries and {proof}. One of them:"));
    if let Some(entry) = last {
        let by = entry.by.name.clone().unwrap_or_default();
        let session = entry.change.get("session").and_then(Value::as_str).unwrap_or_default();
        story.tell(format!(
            "  {} {} {} session {session} by {} {by}",
            entry.seq, entry.at, entry.kind, entry.by.kind
        ));
    }
    // From here on once a day, as a real one would.
    let mut task = app.task(TASK_NAME).await?;
    task.schedule = Some(Schedule { cron: "0 3 * * *".to_owned(), zone: "UTC".to_owned() });
    let task = NewTask {
        file: task.file,
        source: TASK.to_owned(),
        config: TaskConfig {
            scopes: Some(task.scopes),
            schedule: task.schedule,
            params: Some(task.params),
            single_instance: Some(true),
            ..TaskConfig::default()
        },
        ..NewTask::default()
    };
    app.put_task(TASK_NAME, &task).await?;
    Ok(json!({ "entries": head, "is_whole": verified.ok }))
}

fn show_next(story: Story, url: &str, app: &InApp, operator: &str, token: &str, device: &str) {
    let program = std::env::current_exe().map_or("reauth".into(), |it| it.display().to_string());
    let id = app.id();
    story.tell(format!(
        "\nTry it:
  curl -i {url}/check -H 'Authorization: Bearer {device}'
  curl -s '{url}/api/v4/{id}/users?limit=1' -H 'Authorization: Token {token}'
  export REAUTH_URL={url} REAUTH_TOKEN={operator}
  alias reauth={program}
  reauth session list --older-than 7d
  reauth ledger verify
  reauth doctor"
    ));
}
