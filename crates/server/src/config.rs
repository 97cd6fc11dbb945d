//! The configuration: `config/default.toml` is its manual. What is unknown, unset or absurd is
//! refused at the start, in one line that says what to change.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use reauth_domain::apps::Settings;
use reauth_domain::{ANCHOR, Place, Span};
use serde::Deserialize;

/// What an operator can set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The directory of the embedded database.
    pub data: PathBuf,
    /// The URL of a PostgreSQL database; the embedded one is used without it.
    pub database: Option<String>,
    /// The file that knows the ledger's end; `ledger.head` in `data` without it, if the embedded
    /// database is used.
    pub anchor: Option<PathBuf>,
    /// The URL under which others reach this server, without a slash at its end.
    pub public_url: Option<String>,
    /// The settings of new apps.
    pub apps: AppDefaults,
    /// What a request may cost.
    pub requests: Requests,
    /// How tasks run.
    pub tasks: Tasks,
    /// How ends are written down and forgotten.
    pub sweep: Sweep,
}

/// The settings of new apps.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppDefaults {
    /// The longest time from a real sign-in to the next.
    pub max_session_age: Span,
    /// The longest time without activity.
    pub max_idle: Option<Span>,
    /// Whether a user may be signed in on several devices at once.
    pub multiple_devices_per_user: bool,
}

/// What a request may cost.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// The longest body, in bytes.
    pub body_bytes_max: usize,
    /// How long a client may take to send a request's head, and then its body.
    pub read_timeout_ms: u64,
    /// The most open connections; more wait to be accepted.
    pub connections_max: usize,
    /// How long the open requests have to end when the server is told to stop.
    pub drain_timeout_ms: u64,
    /// The networks of reverse proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// How tasks run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tasks {
    /// How many runs go at once.
    pub concurrency: usize,
    /// How many of them may be of one app.
    pub concurrency_per_app: usize,
    /// How many children are kept ready for runs to come.
    pub ready: usize,
    /// The longest a run may take.
    pub wall: Span,
    /// The longest a web task may take to answer.
    pub web_wall: Span,
    /// The most requests to the web tasks of one app that are answered a minute.
    pub web_per_minute: u32,
    /// The most processor time a run may take.
    pub cpu: Span,
    /// The most memory a run may take, in bytes.
    pub memory_bytes: u64,
    /// How long a run that gave no answer waits to be tried again; each time twice as long.
    pub retry_after: Span,
    /// How long runs that ended are kept.
    pub keep_runs: Span,
    /// How long their logs are kept.
    pub keep_logs: Span,
    /// Origins (`https://api.example.com`) that scripts may fetch from, beside this API.
    pub fetch_allowed: Vec<String>,
    /// Networks that are not public and that a name which scripts ask may lead to.
    pub networks_allowed: Vec<IpNet>,
}

/// How ends are written down and forgotten.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sweep {
    /// How often the sweep looks.
    pub every: Span,
    /// How long a session is kept that has ended. Its ledger entries stay.
    pub keep_ended: Span,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { every: Span::minutes(1), keep_ended: Span::days(400) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("reauth-data"),
            database: None,
            anchor: None,
            public_url: None,
            apps: AppDefaults::default(),
            requests: Requests::default(),
            tasks: Tasks::default(),
            sweep: Sweep::default(),
        }
    }
}

impl Default for AppDefaults {
    fn default() -> Self {
        Self { max_session_age: Span::days(30), max_idle: None, multiple_devices_per_user: false }
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            read_timeout_ms: 15_000,
            connections_max: 10_000,
            drain_timeout_ms: 10_000,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            concurrency: 4,
            concurrency_per_app: 2,
            ready: 2,
            wall: Span::minutes(5),
            web_wall: Span::minutes(1),
            web_per_minute: 600,
            cpu: Span::minutes(1),
            memory_bytes: 128 << 20,
            retry_after: Span::seconds(5),
            keep_runs: Span::days(90),
            keep_logs: Span::days(30),
            fetch_allowed: Vec::new(),
            networks_allowed: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a file. The error is one line that says what to change.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("cannot read the configuration {}: {error}", path.display())
        })?;
        Self::from_toml(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads a TOML text.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            let message = error.message().replace('\n', " ");
            if line > 0 { format!("line {line}: {message}") } else { message }
        })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), String> {
        self.app_settings().limits().check().map_err(|error| format!("apps.{error}"))?;
        let least_one = [
            ("requests.body_bytes_max", self.requests.body_bytes_max),
            ("requests.connections_max", self.requests.connections_max),
            ("tasks.concurrency", self.tasks.concurrency),
            ("tasks.concurrency_per_app", self.tasks.concurrency_per_app),
        ];
        if let Some((name, _)) = least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name}: must be at least 1"));
        }
        if self.sweep.every < Span::seconds(1) || self.sweep.every > Span::days(1) {
            return Err("sweep.every: must be between \"1s\" and \"1d\"".into());
        }
        if self.sweep.keep_ended < Span::days(1) {
            return Err("sweep.keep_ended: must be at least \"1d\"".into());
        }
        self.tasks.check()?;
        if self.requests.read_timeout_ms < 100 {
            return Err("requests.read_timeout_ms: must be at least 100".into());
        }
        let is_url = |url: &String| {
            (url.starts_with("http://") || url.starts_with("https://")) && !url.ends_with('/')
        };
        if self.public_url.as_ref().is_some_and(|url| !is_url(url)) {
            let wanted = "must begin with http:// or https:// and not end with a slash";
            return Err(format!("public_url: {wanted}"));
        }
        Ok(())
    }

    /// Where the tables are.
    pub fn place(&self) -> Place {
        match &self.database {
            Some(url) => Place::Postgres(url.clone()),
            None => Place::Directory(self.data.clone()),
        }
    }

    /// The file that knows the ledger's end, if there is one.
    pub fn anchor(&self) -> Option<PathBuf> {
        let beside = || self.database.is_none().then(|| self.data.join(ANCHOR));
        self.anchor.clone().or_else(beside)
    }

    /// The settings of a new app.
    pub fn app_settings(&self) -> Settings {
        Settings {
            max_session_age: Some(self.apps.max_session_age),
            max_idle: self.apps.max_idle,
            multiple_devices_per_user: self.apps.multiple_devices_per_user,
            ..Settings::default()
        }
    }
}

impl Tasks {
    /// More children than this wait for nothing.
    const READY_MAX: usize = 64;
    /// More than these no ledger takes: it would be no bound.
    const WEB_PER_MINUTE_MAX: u32 = 600_000;

    fn check(&self) -> Result<(), String> {
        let day = [
            ("tasks.wall", self.wall),
            ("tasks.web_wall", self.web_wall),
            ("tasks.cpu", self.cpu),
            ("tasks.retry_after", self.retry_after),
        ];
        for (name, span) in day {
            if span < Span::seconds(1) || span > Span::days(1) {
                return Err(format!("{name}: must be between \"1s\" and \"1d\""));
            }
        }
        if self.web_wall > Span::minutes(1) {
            return Err("tasks.web_wall: must be at most \"1m\": somebody waits".into());
        }
        if !(1..=Self::WEB_PER_MINUTE_MAX).contains(&self.web_per_minute) {
            let max = Self::WEB_PER_MINUTE_MAX;
            return Err(format!("tasks.web_per_minute: must be between 1 and {max}"));
        }
        for (name, span) in
            [("tasks.keep_runs", self.keep_runs), ("tasks.keep_logs", self.keep_logs)]
        {
            if span < Span::hours(1) {
                return Err(format!("{name}: must be at least \"1h\""));
            }
        }
        if self.ready > Self::READY_MAX {
            return Err(format!("tasks.ready: must be at most {}", Self::READY_MAX));
        }
        if self.memory_bytes < 16 << 20 {
            return Err("tasks.memory_bytes: must be at least 16777216 (16 MiB)".into());
        }
        let is_origin = |text: &&String| {
            reqwest::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == **text)
        };
        if let Some(text) = self.fetch_allowed.iter().find(|text| !is_origin(text)) {
            let wanted = "must be an origin, as in \"https://api.example.com\"";
            return Err(format!("tasks.fetch_allowed: {text:?} {wanted}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_is_a_configuration_and_says_the_defaults() {
        let manual = include_str!("../../../config/default.toml");
        let read = Config::from_toml(manual).expect("the manual is valid");
        assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn networks_are_read() {
        let text = "[tasks]\nnetworks_allowed = [\"10.1.0.0/16\", \"fd00::/8\"]";
        let config = Config::from_toml(text).expect("a configuration");
        let read: Vec<_> = config.tasks.networks_allowed.iter().map(IpNet::to_string).collect();
        assert_eq!(read, ["10.1.0.0/16", "fd00::/8"]);
    }

    #[test]
    fn what_is_unknown_or_absurd_is_refused_in_one_line() {
        for (text, wanted) in [
            ("lisen = \"127.0.0.1:1\"", "lisen"),
            ("[apps]\nmax_session_age = 0", "apps.max_session_age"),
            ("[apps]\nmax_session_age = \"soon\"", "30d"),
            ("[apps]\nmax_idle = \"60d\"", "apps.max_idle"),
            ("[tasks]\nconcurrency = 0", "tasks.concurrency"),
            ("[tasks]\nconcurrency_per_app = 0", "tasks.concurrency_per_app"),
            ("[tasks]\nwall = \"0s\"", "tasks.wall"),
            ("[tasks]\nweb_wall = \"5m\"", "tasks.web_wall"),
            ("[tasks]\nweb_per_minute = 0", "tasks.web_per_minute"),
            ("[tasks]\nweb_per_minute = 1000000", "tasks.web_per_minute"),
            ("[tasks]\nretry_after = \"0s\"", "tasks.retry_after"),
            ("[tasks]\nkeep_logs = \"1m\"", "tasks.keep_logs"),
            ("[tasks]\nready = 1000", "tasks.ready"),
            ("[tasks]\nfetch_allowed = [\"https://a.example/x\"]", "tasks.fetch_allowed"),
            ("[tasks]\nfetch_allowed = [\"a.example\"]", "tasks.fetch_allowed"),
            ("[tasks]\nnetworks_allowed = [\"mail.internal\"]", "line 2"),
            ("[tasks]\nnetworks_allowed = [\"10.0.0.0/33\"]", "line 2"),
            ("[tasks]\nnetworks_allowed = [\"10.0.0.5\"]", "line 2"),
            ("[requests]\nread_timeout_ms = 0", "requests.read_timeout_ms"),
            ("public_url = \"example.com\"", "public_url"),
            ("listen = \"everywhere\"", "line 1"),
            ("[requests]\ntrusted_proxies = [\"proxy\"]", "line 2"),
        ] {
            let error = Config::from_toml(text).expect_err(text);
            assert!(error.contains(wanted) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
