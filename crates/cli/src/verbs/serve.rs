//! `serve` and `init`: the verbs that open a store themselves instead of asking a server.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use reauth_server::domain::Clock;
use reauth_server::{Child, Config, Server};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// After the help of `serve`.
pub const EXAMPLES: &str = "\
Examples:
  reauth init --data ./reauth-data && reauth serve --data ./reauth-data
  reauth serve --database postgres://reauth@localhost/reauth --listen 127.0.0.1:0

The ready line is {\"ready\":true,\"url\":…}. SIGTERM lets open requests end, then exits with 0.
REAUTH_LOG says how much is logged: info, or reauth_server=debug.";

/// Where the store is; what is given here outweighs the configuration file.
#[derive(Args, Debug)]
pub struct Store {
    /// The configuration file; config/default.toml is its manual
    #[arg(long, value_name = "FILE", env = "REAUTH_CONFIG")]
    config: Option<PathBuf>,
    /// The directory of the embedded database [default: reauth-data]
    #[arg(long, value_name = "DIR", env = "REAUTH_DATA")]
    data: Option<PathBuf>,
    /// A PostgreSQL database instead: postgres://user:password@host:5432/database
    #[arg(long, value_name = "URL", env = "REAUTH_DATABASE", hide_env_values = true)]
    database: Option<String>,
}

/// `reauth serve`
#[derive(Args, Debug)]
pub struct Serve {
    #[command(flatten)]
    store: Store,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// How the log on standard error looks [default: human on a terminal, else json]
    #[arg(long, value_name = "FORM")]
    log: Option<LogForm>,
}

/// `reauth init`
#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    store: Store,
}

/// How the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Lines for people
    Human,
    /// One JSON object a line
    Json,
}

impl Store {
    pub(crate) fn config(&self) -> Result<Config, String> {
        let mut config = match &self.config {
            Some(file) => Config::from_file(file)?,
            None => Config::default(),
        };
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if let Some(database) = &self.database {
            config.database = Some(database.clone());
        }
        Ok(config)
    }
}

/// This very program, told to be the child in which a script runs: the one that runs, even if
/// another has been put in its place since, which may speak otherwise. A list of processes shows it
/// as `reauth sandbox-child`.
pub fn child() -> Result<Child, String> {
    let itself = Path::new("/proc/self/exe");
    let program = if itself.exists() {
        itself.to_owned()
    } else {
        let found = std::env::current_exe();
        found.map_err(|error| format!("cannot find this program's own file: {error}"))?
    };
    Ok(Child { program, args: vec!["sandbox-child".to_owned()] })
}

/// Begins to log to standard error. `REAUTH_LOG` says how much, as `info` or `reauth_server=debug`.
pub fn begin_log(form: Option<LogForm>, default: &str) -> Result<(), String> {
    let is_human = match form {
        Some(form) => form == LogForm::Human,
        None => std::io::stderr().is_terminal(),
    };
    let wanted = std::env::var("REAUTH_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { default } else { wanted.as_str() };
    let filter = EnvFilter::try_new(wanted).map_err(|error| {
        format!("REAUTH_LOG: {error}; wanted is a level, as info, or reauth_server=debug")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a log was begun before: that one goes on.
    let _ = if is_human { log.try_init() } else { log.json().flatten_event(true).try_init() };
    Ok(())
}

/// Serves until SIGTERM or SIGINT; then lets open requests end.
pub async fn serve(args: &Serve) -> Result<(), String> {
    begin_log(args.log, "info")?;
    let mut config = args.store.config()?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let server = Server::start(config, Clock::system(), child()?).await?;
    println!("{}", json!({ "ready": true, "url": server.url() }));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: open requests may end");
    server.stop().await;
    Ok(())
}

/// Creates the store and prints the operator's token, this once.
pub async fn init(args: &Init) -> Result<(), String> {
    let config = args.store.config()?;
    let made = reauth_server::init(&config, Clock::system()).await?;
    let place = match &config.database {
        Some(_) => json!({ "operator_token": made.operator_token }),
        None => json!({ "operator_token": made.operator_token, "data": config.data }),
    };
    println!("{place}");
    Ok(())
}
