//! Stories about the binary as its users run it: real processes, real signals, both databases.

#[path = "../../../server/tests/it/postgres.rs"]
mod postgres;

mod backup;
mod copies;
mod crash;
mod demo;
mod packages;
mod restore;
mod serve;
mod tasks;
mod verbs;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// On which database a story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// A store, and the binary to use it with.
struct Shop {
    dir: tempfile::TempDir,
    database: Option<String>,
    config: Option<PathBuf>,
    operator: String,
}

/// A running `reauth serve`; killed when it is dropped.
struct Serving {
    process: Child,
    _stdout: BufReader<ChildStdout>,
    url: String,
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

/// The program's file.
const PROGRAM: &str = env!("CARGO_BIN_EXE_reauth");

fn reauth() -> Command {
    reauth_at(Path::new(PROGRAM))
}

fn reauth_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["REAUTH_URL", "REAUTH_TOKEN", "REAUTH_APP", "REAUTH_DATA", "REAUTH_DATABASE"] {
        command.env_remove(name);
    }
    command
}

impl Shop {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let database = (kind == Kind::Postgres).then(postgres::database);
        let mut shop = Self { dir, database, config: None, operator: String::new() };
        let made = shop.store(reauth().arg("init")).output().expect("init runs");
        shop.operator = text(&json(&made)["operator_token"]);
        shop
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Someone else's program at the database.
    fn tamper(&self, statements: &'static str) {
        use sqlx::{Connection as _, Executor as _};
        let done = runtime().block_on(async {
            if let Some(url) = &self.database {
                let mut conn = sqlx::PgConnection::connect(url).await?;
                return conn.execute(sqlx::raw_sql(statements)).await.map(|_| ());
            }
            let url = format!("sqlite://{}", self.data().join("reauth.sqlite").display());
            let mut conn = sqlx::SqliteConnection::connect(&url).await?;
            conn.execute(sqlx::raw_sql(statements)).await.map(|_| ())
        });
        done.expect("the statements run");
    }

    /// A file of the shop's own.
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The command with the place of the store.
    fn store<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.arg("--data").arg(self.data());
        if let Some(file) = &self.config {
            command.arg("--config").arg(file);
        }
        match &self.database {
            Some(url) => command.args(["--database", url]),
            None => command,
        }
    }

    /// What the server says that refuses to start.
    fn refused(&self) -> String {
        let log = self.dir.path().join("refused.log");
        let file = std::fs::File::create(&log).expect("a file");
        assert!(self.serve_with(Path::new(PROGRAM), file.into()).is_none(), "it starts");
        std::fs::read_to_string(log).expect("a text")
    }

    /// A new token for the operator, since all others are void.
    fn init_again(&mut self) {
        let mut init = reauth();
        let made = json(&self.store(init.arg("init")).output().expect("it runs"));
        self.operator = text(&made["operator_token"]);
    }

    fn serve(&self) -> Serving {
        self.try_serve().expect("the server begins")
    }

    /// None: it refuses to start.
    fn try_serve(&self) -> Option<Serving> {
        self.serve_by(Path::new(PROGRAM))
    }

    /// The same by a copy of the program.
    fn serve_by(&self, program: &Path) -> Option<Serving> {
        self.serve_with(program, Stdio::null())
    }

    fn serve_with(&self, program: &Path, log: Stdio) -> Option<Serving> {
        let mut command = reauth_at(program);
        self.store(command.arg("serve")).args(["--listen", "127.0.0.1:0"]);
        let command = command.stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().expect("serve runs");
        let mut stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        if line.is_empty() {
            assert!(!process.wait().expect("it ends").success());
            return None;
        }
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        assert_eq!(ready["ready"], true);
        Some(Serving { process, _stdout: stdout, url: text(&ready["url"]) })
    }
}

impl Serving {
    fn verb(&self, token: &str, words: &[&str]) -> Output {
        let mut command = reauth();
        command.env("REAUTH_URL", &self.url).env("REAUTH_TOKEN", token).args(words);
        command.output().expect("the verb runs")
    }

    /// A verb that must succeed, with `--json`.
    fn json(&self, token: &str, words: &[&str]) -> Value {
        let all: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        json(&self.verb(token, &all))
    }

    /// SIGTERM: open requests end, then it exits with 0.
    fn terminate(&mut self) {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("our own process");
        assert!(self.process.wait().expect("it ends").success(), "SIGTERM ends it with 0");
    }

    /// As a power cut would: no warning, no time.
    fn kill(mut self) {
        self.process.kill().expect("our own process");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text, not {value}")).to_owned()
}

/// What a refused command says: one line that begins with `error:`, then perhaps help.
fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.lines().any(|line| line.starts_with("error: ")), "{error}");
    error
}

fn config_file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("reauth.toml");
    std::fs::write(&path, text).expect("a file");
    path
}
