//! What Reauth costs, measured side by side in one run: `cargo xtask bench [--quick]`. It prints
//! ratios, because the machines that run it are noisy. The server has one core, the client another.
//!
//! The program calls itself: `serve DIR` opens a store and answers checks beside a bare axum
//! handler.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::routing::get;
use reauth_server::domain::access::{self, CutOffScope, Era, Facts, decide};
use reauth_server::domain::apps::policies::{self, Policy};
use reauth_server::domain::apps::selectors::{self, Found};
use reauth_server::domain::apps::{self, App, Settings};
use reauth_server::domain::ledger::By;
use reauth_server::domain::sessions::sweep;
use reauth_server::domain::{
    AppId, Clock, Db, Place, Result, Secret, SecretHash, SecretKind, Seen, SessionId, Span, Time,
    UserId, cutoffs, devices, sessions,
};
use reauth_server::{Child, Config, Server};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, QueryBuilder, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 64;
/// Odd, so that one is in the middle.
const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(400);
/// Sessions in one statement while the sample is made; SQLite takes 32 766 values.
const BATCH: usize = 4_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", dir] => serve(dir),
        ["--quick"] => bench(&[20_000]),
        [] => bench(&[100_000, 250_000, 1_000_000]),
        other => eprintln!("error: {other:?} is not known; wanted: --quick or nothing"),
    }
}

fn pin(thread: Option<Pid>, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // On a machine with one core both share it: the ratio still holds.
    let _ = sched_setaffinity(thread, &cores);
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

fn config(dir: &Path) -> Config {
    Config { listen: ([127, 0, 0, 1], 0).into(), data: dir.to_owned(), ..Config::default() }
}

fn bench(sizes: &[usize]) {
    println!("| what | measured | beside | ratio |\n|---|---|---|---|");
    for &size in sizes {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let sample = runtime.block_on(make_sample(&data, size)).expect("a sample");
        let what = format!("{size} sessions");
        runtime.block_on(async { alone(&opened(&data).await, &sample, &what) });
        checks(&data, &sample, (&what, 0.85), size);
        runtime.block_on(policies_at_work(&data, &sample, size)).expect("policies");
        let what = format!("{size} sessions, 50 policies, {} users in 20 groups", size * 2 / 5);
        runtime.block_on(async { alone(&opened(&data).await, &sample, &what) });
        checks(&data, &sample, (&what, 0.8), size);
        runtime.block_on(changes(&data, &sample, size)).expect("changes");
    }
    decisions();
}

/// The decision alone, over the limits of so many policies.
fn decisions() {
    let at = |hours| Time::ZERO + Span::hours(hours);
    let mut told = Vec::new();
    for count in [1, 10, 100] {
        let era = |number: i64| Era {
            from: at(0),
            until: None,
            limits: access::Limits {
                max_age: Some(Span::hours(700 + number)),
                max_idle: Some(Span::hours(300 + number)),
                ..access::Limits::default()
            },
        };
        let eras: Vec<Era> = (0..count).map(era).collect();
        let facts = Facts { eras: &eras, ..Facts::made_at(at(1)) };
        let began = Instant::now(); // clock: measures
        for hour in 0..1_000_000 {
            std::hint::black_box(decide(std::hint::black_box(&facts), at(hour % 200)));
        }
        told.push(format!("{:.0} ns with {count}", began.elapsed().as_secs_f64() * 1_000.0));
    }
    println!("| one decision, by the number of policies | {} | | |", told.join(", "));
}

/// 50 policies over 20 groups: how long it takes to look at them, and to state them.
async fn policies_at_work(data: &Path, sample: &Sample, size: usize) -> Result<()> {
    let file = data.join("reauth.sqlite");
    let options = SqliteConnectOptions::new().filename(file).foreign_keys(true);
    let mut conn = SqliteConnection::connect_with(&options).await.expect("the file");
    for sql in [
        "with recursive n(i) as (select 0 union all select i + 1 from n where i < 19)
         insert into user_groups select apps.id, 'group ' || n.i, 1, 0 from apps, n",
        "insert into group_members select app_id, 'group ' || (rowid % 20), id, 1 from users",
    ] {
        sqlx::query(sql).execute(&mut conn).await.expect("it runs");
    }
    drop(conn);
    let db = Db::open(Place::Directory(data.to_owned()), Clock::system()).await?;
    let policy = |number: usize| -> Policy {
        let applies_to = match number {
            0 => json!({ "everyone": true }),
            number => json!({ "groups": [format!("group {}", number % 20)] }),
        };
        let limits = json!({ "max_age": format!("{}h", 100 + number), "max_idle": "90h" });
        let policy = json!({ "name": format!("p{number}"), "applies_to": applies_to,
            "limits": limits });
        serde_json::from_value(policy).expect("a policy")
    };
    let all: Vec<Policy> = (0..50).map(policy).collect();
    let spread: Policy = serde_json::from_value(json!({ "name": "spread",
        "applies_to": { "everyone": true }, "limits": { "max_age": "12h", "spread": "50%" } }))
    .expect("a policy");
    let (none, now) = (Found::default(), db.now());
    for (what, set) in [("50 policies", &all[..]), ("12 hours with a spread of 50 %", &[spread])] {
        let began = Instant::now(); // clock: measures
        let seen = db.live().preview(sample.app, (set, &none), now, &Seen::default())?;
        assert_eq!(seen.sessions, size, "all of them are valid");
        println!(
            "| preview and forecast of {what}, {size} sessions | {} ms | \
             target 2000 ms for 1 000 000 | |",
            began.elapsed().as_millis()
        );
    }
    let app = apps::find(&mut db.read().await?, sample.app).await?;
    named_for_the_first_time(&db, &app, sample).await?;
    let mut times = Vec::new();
    for turn in 0..20 {
        let set = if turn % 2 == 0 { &all } else { &all[1..] };
        let began = Instant::now(); // clock: measures
        let mut tx = db.write(By::System).await?;
        policies::set(&mut tx, &app, (set.to_vec(), None), true, None).await?;
        tx.commit().await?;
        times.push(began.elapsed().as_micros());
    }
    times.sort_unstable();
    let mut tx = db.write(By::System).await?;
    policies::set(&mut tx, &app, (all, None), true, None).await?;
    tx.commit().await?;
    // As the sweep leaves it, once a minute: nothing has ended here, so there is nothing to write.
    sweep::look(&db).await?.close(&db).await?;
    println!(
        "| a change of the policies takes effect, {size} sessions | p50 {:.2} ms, \
         worst of 20 {:.2} ms | target 10 ms | |",
        times[10] as f64 / 1_000.0,
        times[19] as f64 / 1_000.0
    );
    Ok(())
}

/// A set that asks for a label and an attribute which no policy has named yet: the tables are read.
async fn named_for_the_first_time(db: &Db, app: &App, sample: &Sample) -> Result<()> {
    let size = sample.devices.len();
    let policy = |name: &str, applies_to: Value| -> Policy {
        let limits = json!({ "max_age": "100h" });
        let policy = json!({ "name": name, "applies_to": applies_to, "limits": limits });
        serde_json::from_value(policy).expect("a policy")
    };
    let set = [
        policy("tills", json!({ "labels": ["*"] })),
        policy("guests", json!({ "attributes": { "name": "guest" } })),
    ];
    let began = Instant::now(); // clock: measures
    let found = selectors::find(&mut db.read().await?, app, &set).await?;
    let read = began.elapsed().as_millis();
    db.live().preview(app.id, (&set, &found), db.now(), &Seen::default())?;
    let took = began.elapsed().as_millis();
    let looked = selectors::look(db, app, &set).await?;
    let is_stated = Arc::new(AtomicBool::new(false));
    let checks = longest_check(db.clone(), sample.tokens[0].clone(), Arc::clone(&is_stated));
    let began = Instant::now(); // clock: measures
    let mut tx = db.write(By::System).await?;
    policies::set(&mut tx, app, (set.to_vec(), Some(looked)), true, None).await?;
    tx.commit().await?;
    let stated = began.elapsed().as_millis();
    is_stated.store(true, Ordering::Relaxed);
    let longest = checks.join().expect("it does not panic");
    println!(
        "| the same of a label and an attribute that no policy has named yet, {size} sessions, of \
         which {} and {} users meet it | {took} ms, of which the tables take {read} ms | \
         target 2000 ms for 1 000 000 | |",
        found.labels.len(),
        found.groups.iter().map(|(_, members)| members.len()).sum::<usize>(),
    );
    println!(
        "| that set takes effect, {size} sessions | {stated} ms; the longest check meanwhile \
         {:.1} ms | | |",
        longest.as_secs_f64() * 1_000.0
    );
    Ok(())
}

/// Checks one session again and again until it is told to end; answers how long the longest took.
fn longest_check(db: Db, token: String, ended: Arc<AtomicBool>) -> JoinHandle<Duration> {
    std::thread::spawn(move || {
        let mut longest = Duration::ZERO;
        while !ended.load(Ordering::Relaxed) {
            let began = Instant::now(); // clock: measures
            std::hint::black_box(devices::check(&db, &token).is_ok());
            longest = longest.max(began.elapsed());
        }
        longest
    })
}

struct Sample {
    app: AppId,
    devices: Vec<(UserId, SessionId)>,
    tokens: Vec<String>,
}

/// The app comes by the front door; the rows of users and sessions are put straight into the
/// tables, because a million sign-ins, each with its ledger entry, would take half an hour.
async fn make_sample(data: &Path, size: usize) -> Result<Sample> {
    reauth_server::init(&config(data), Clock::system()).await.expect("init");
    let db = Db::open(Place::Directory(data.to_owned()), Clock::system()).await?;
    let mut tx = db.write(By::System).await?;
    let settings = Settings { multiple_devices_per_user: true, ..Settings::default() };
    let app = apps::create(&mut tx, ("bench", settings), false).await?;
    let now = tx.now().micros();
    tx.commit().await?;
    drop(db);
    let mut sample = Sample { app: app.id, devices: Vec::new(), tokens: Vec::new() };
    let file = data.join("reauth.sqlite");
    let options = SqliteConnectOptions::new().filename(file).foreign_keys(true);
    let mut conn = SqliteConnection::connect_with(&options).await.expect("the file");
    while sample.devices.len() < size {
        let mut users = QueryBuilder::new(
            "insert into users (id, app_id, created_at, updated_at, not_before, attributes) ",
        );
        let mut sessions = QueryBuilder::new(
            "insert into sessions (id, user_id, device_id, state, secret_hash, created_at, \
             authenticated_at, connected_at, traits, label) ",
        );
        let from = sample.devices.len();
        // As in the demo, two or three devices each.
        let batch: Vec<UserId> = (0..BATCH * 2 / 5).map(|_| UserId::mint()).collect();
        users.push_values(&batch, |mut row, user| {
            row.push_bind(user.to_string()).push_bind(app.id.to_string());
            row.push_bind(now).push_bind(now).push("0").push("'{}'");
        });
        let owners =
            batch.iter().enumerate().flat_map(|(at, user)| std::iter::repeat_n(*user, 2 + at % 2));
        for user in owners.take(size - from) {
            sample.devices.push((user, SessionId::mint()));
        }
        sessions.push_values(&sample.devices[from..], |mut row, (user, session)| {
            let secret = Secret::mint(SecretKind::Session);
            row.push_bind(session.to_string()).push_bind(user.to_string());
            row.push_bind(session.to_string()).push("'ENROLLED'");
            row.push_bind(secret.hash().to_string());
            row.push_bind(now).push_bind(now).push_bind(now).push("'ios/pwd/-'");
            // One of 256 is a till.
            let id = session.to_string();
            let kind = if id.ends_with("00") { "till" } else { "phone" };
            row.push_bind(format!("{kind}-{}", &id[30..]));
            sample.tokens.push(secret.reveal().to_owned());
        });
        let mut tx = conn.begin().await.expect("a transaction");
        users.build().execute(&mut *tx).await.expect("users");
        sessions.build().execute(&mut *tx).await.expect("sessions");
        tx.commit().await.expect("a commit");
        eprint!("\r{} of {size} sessions made", sample.devices.len());
    }
    eprintln!();
    // One of 256 users is a guest.
    let guests = "insert into user_attributes (user_id, name, text_value)
                  select id, 'name', 'guest' from users where id like '%00'";
    sqlx::query(guests).execute(&mut conn).await.expect("attributes");
    Ok(sample)
}

/// Opens the store alone in its process, says how long that took and how large it is, and answers.
fn serve(dir: &str) {
    runtime().block_on(async {
        let began = Instant::now(); // clock: measures
        // Nothing here runs a script.
        let child = Child { program: "/nowhere".into(), args: Vec::new() };
        let started = Server::start(config(Path::new(dir)), Clock::system(), child).await;
        let server = started.expect("the server starts");
        let loaded_ms = began.elapsed().as_millis();
        // It loads with all cores; then all its threads share one.
        for thread in std::fs::read_dir("/proc/self/task").expect("Linux").flatten() {
            let id = thread.file_name().to_str().and_then(|id| id.parse().ok());
            pin(id.and_then(Pid::from_raw), 0);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let bare = listener.local_addr().expect("an address");
        let router = axum::Router::new().route("/check", get(|| async {}));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let about = json!({ "loaded_ms": loaded_ms, "resident_bytes": resident_bytes(),
            "checks": server.app().address, "bare": bare });
        println!("{about}");
        std::future::pending::<()>().await;
    });
}

async fn opened(data: &Path) -> Db {
    let db = Db::open(Place::Directory(data.to_owned()), Clock::system()).await;
    db.expect("a store")
}

/// The check alone, without HTTP: one core, random tokens.
fn alone(db: &Db, sample: &Sample, what: &str) {
    let hashes: Vec<_> = sample.tokens.iter().map(|token| SecretHash::of(token)).collect();
    let (began, mut number) = (Instant::now(), 1_u64); // clock: measures
    for _ in 0..1_000_000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let hash = &hashes[(number >> 33) as usize % hashes.len()];
        let checked = db.live().check(hash, db.now()).expect("it is known");
        assert!(checked.is_some_and(|checked| checked.verdict.is_valid()), "it is valid");
    }
    let each = began.elapsed().as_secs_f64() * 1_000.0;
    println!("| a check without HTTP, {what}, random tokens | {each:.0} ns | | |");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

fn checks(data: &Path, sample: &Sample, (what, target): (&str, f64), size: usize) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let command = command.args(["serve", &data.display().to_string()]);
    let mut server = command.stdout(Stdio::piped()).spawn().expect("a server");
    let mut line = String::new();
    let stdout = server.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("it says what it is");
    let about: Value = serde_json::from_str(&line).expect("JSON");
    let address = |name: &str| -> SocketAddr {
        about[name].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    let (ours, bare) = (address("checks"), address("bare"));
    let bytes = about["resident_bytes"].as_u64().unwrap_or(0) / size as u64;
    println!("| start with {what} | {} ms | target 3000 ms for 1 000 000 | |", about["loaded_ms"]);
    println!("| resident memory, whole process, {what} | {bytes} bytes each | target 160 | |");
    // The client has a core of its own; it goes back to all cores when its thread ends.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(None, 1);
            compare(&runtime(), ours, bare, sample, (what, target));
        });
    });
    server.kill().expect("our own process");
    server.wait().expect("it ends");
}

fn compare(
    runtime: &tokio::runtime::Runtime,
    ours: SocketAddr,
    bare: SocketAddr,
    sample: &Sample,
    (what, target): (&str, f64),
) {
    let mut pairs = Vec::new();
    for round in 0..ROUNDS {
        // Each goes first in turn; what disturbs the machine disturbs few pairs.
        let measure = |is_ours| {
            let address = if is_ours { ours } else { bare };
            runtime.block_on(load(address, &sample.tokens))
        };
        pairs.push(if round % 2 == 0 {
            let first = measure(true);
            (first, measure(false))
        } else {
            let first = measure(false);
            (measure(true), first)
        });
    }
    let ratio = |(ours, bare): &(Measured, Measured)| ours.per_second / bare.per_second;
    pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let at = |part: usize| ratio(&pairs[pairs.len() * part / 100]);
    let (ours, bare) = &pairs[pairs.len() / 2];
    println!(
        "| GET /check, {what}, random tokens | {:.0} req/s, p50 {} µs, p99 {} µs | \
         bare axum handler {:.0} req/s, p50 {} µs, p99 {} µs | {:.2}; half of {ROUNDS} pairs \
         between {:.2} and {:.2} (target {target}) |",
        ours.per_second,
        ours.p50,
        ours.p99,
        bare.per_second,
        bare.p50,
        bare.p99,
        at(50),
        at(25),
        at(75),
    );
}

struct Measured {
    per_second: f64,
    p50: u64,
    p99: u64,
}

async fn load(address: SocketAddr, tokens: &[String]) -> Measured {
    // It never sleeps: to wake it would be the server's work, and the more of it the longer the
    // client had to wait, so that the slower of the two paid for it.
    let awake = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let began = Instant::now(); // clock: measures
    let clients = (0..CONNECTIONS).map(|at| client(address, tokens, at, began));
    let all = futures_util::future::join_all(clients).await;
    let mut times: Vec<u64> = all.into_iter().flatten().collect();
    let took = began.elapsed();
    awake.abort();
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(0);
    Measured { per_second: times.len() as f64 / took.as_secs_f64(), p50: at(50), p99: at(99) }
}

/// One connection that asks again as soon as it is answered; answers the times in microseconds.
async fn client(address: SocketAddr, tokens: &[String], at: usize, began: Instant) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let (mut times, mut buffer) = (Vec::new(), vec![0; 4096]);
    let mut number = at as u64 + 1;
    let mut request = Vec::new();
    while began.elapsed() < ROUND {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let token = &tokens[(number >> 33) as usize % tokens.len()];
        request.clear();
        write!(request, "GET /check HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")
            .expect("memory");
        let asked = Instant::now(); // clock: measures
        stream.write_all(&request).await.expect("it is sent");
        let mut filled = 0;
        while !buffer[..filled].ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer[filled..]).await.expect("it is answered");
            assert!(read > 0, "the server closed the connection");
            filled += read;
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..filled])
        );
        times.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    times
}

async fn changes(data: &Path, sample: &Sample, size: usize) -> Result<()> {
    let db = Db::open(Place::Directory(data.to_owned()), Clock::system()).await?;
    let raw = raw_syncs(data, 2_000);
    let began = Instant::now(); // clock: measures
    for &(user, session) in sample.devices.iter().take(2_000) {
        let mut tx = db.write(By::System).await?;
        sessions::re_authenticate(&mut tx, sample.app, user, session, None).await?;
        tx.commit().await?;
    }
    let ours = 2_000.0 / began.elapsed().as_secs_f64();
    println!(
        "| durable re-authenticate, one after the other, {size} sessions | {ours:.0}/s | \
         append and fdatasync {raw:.0}/s | {:.2} |",
        ours / raw
    );
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = Instant::now(); // clock: measures
        let mut tx = db.write(By::System).await?;
        cutoffs::set(&mut tx, CutOffScope::Everyone, None).await?;
        tx.commit().await?;
        times.push(began.elapsed().as_micros());
    }
    times.sort_unstable();
    println!(
        "| everyone must sign in again, {size} sessions | p50 {:.2} ms, worst of 50 {:.2} ms | \
         target 5 ms | |",
        times[25] as f64 / 1_000.0,
        times[49] as f64 / 1_000.0
    );
    Ok(())
}

/// How often a second a line can be appended and synced: the floor under every durable change.
fn raw_syncs(dir: &Path, count: usize) -> f64 {
    let mut file = std::fs::File::create(dir.join("raw")).expect("a file");
    let began = Instant::now(); // clock: measures
    for _ in 0..count {
        file.write_all(&[0; 512]).expect("it is written");
        file.sync_data().expect("it is synced");
    }
    let per_second = count as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(dir.join("raw")).expect("our own file");
    per_second
}
