//! Which server, with which token, in which app: the options that every client verb shares.

use clap::Args;
use reauth_sdk::{App, Client, Error, InApp};

use crate::failure::{Failure, Result};
use crate::output::Output;

/// Where `reauth serve` listens unless it is told otherwise.
const LOCAL_URL: &str = "http://127.0.0.1:8080";
/// More apps than these are not named in an error: `reauth app list` shows them.
const NAMED_MAX: u64 = 5;

/// The options of every client verb.
#[derive(Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Options {
    /// The server's URL
    #[arg(long, global = true, env = "REAUTH_URL", default_value = LOCAL_URL, value_name = "URL")]
    url: String,

    /// An API token, or the operator's; better set in the environment, where no other user sees it
    #[arg(long, global = true, env = "REAUTH_TOKEN", hide_env_values = true)]
    #[arg(value_name = "TOKEN")]
    token: Option<String>,

    /// The app's id; not needed when the token sees just one app
    #[arg(long, global = true, env = "REAUTH_APP", value_name = "ID")]
    app: Option<String>,

    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

impl Options {
    /// The app that was named.
    pub(crate) fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// Whether the answer is for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }
}

/// What a verb needs to ask and to answer.
pub(crate) struct Context {
    options: Options,
    pub(crate) output: Output,
}

impl Context {
    pub(crate) fn new(options: Options) -> Self {
        let output = Output::new(options.json);
        Self { options, output }
    }

    /// The client for the server and token of the options.
    pub(crate) fn client(&self) -> Result<Client> {
        // A variable that is set to nothing is as good as none.
        let token = self.options.token.as_deref().map(str::trim).unwrap_or_default();
        if token.is_empty() {
            let help = "set REAUTH_TOKEN, or give --token; `reauth init` shows the operator's once";
            return Err(Failure::usage("no token is given").help(help));
        }
        let url = match self.options.url.as_str() {
            "" => LOCAL_URL,
            url => url,
        };
        Client::new(url, token).map_err(|error| match error {
            Error::Misuse { why } => Failure::usage(why),
            other => other.into(),
        })
    }

    /// The app that the options name, if they do.
    pub(crate) fn named_app(&self) -> Option<&str> {
        self.options.app.as_deref().filter(|id| !id.is_empty())
    }

    /// The app that the options name, or the only one that the token sees.
    pub(crate) async fn app(&self) -> Result<InApp> {
        let client = self.client()?;
        if let Some(id) = self.named_app() {
            return Ok(client.app(id));
        }
        match client.apps().limit(NAMED_MAX).next_page().await {
            Ok(page) => {
                let (apps, total) = page.map(|page| (page.objects, page.total)).unwrap_or_default();
                Ok(client.app(only(&apps, total)?))
            }
            Err(error) if error.is_denied() => Err(Failure::usage("which app?").help(
                "give --app ID or set REAUTH_APP: this token may not list the apps; whoever made \
                 it knows the id",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

/// The id of the only app; else what to do.
fn only(apps: &[App], total: u64) -> Result<&str> {
    match apps {
        [] => {
            let help = "create one with `reauth app create NAME`";
            Err(Failure::new("there is no app yet").help(help))
        }
        [app] if total <= 1 => Ok(&app.id),
        apps => {
            let lines = apps.iter().map(|app| format!("\n  {}  {}", app.id, app.name));
            let lines: String = lines.collect();
            let rest = match total.saturating_sub(apps.len() as u64) {
                0 => String::new(),
                rest => format!("\n  and {rest} more: see `reauth app list`"),
            };
            let help = format!("give --app ID or set REAUTH_APP:{lines}{rest}");
            Err(Failure::usage(format!("which of {total} apps?")).help(help))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(names: &[&str]) -> Vec<App> {
        let app = |name: &&str| {
            serde_json::from_value(serde_json::json!({
                "id": format!("id-of-{name}"), "name": name, "created_at": "2026-05-01T08:00:00Z",
                "settings": {"max_session_age": null, "max_idle": null,
                    "multiple_devices_per_user": false},
            }))
        };
        let apps: Result<Vec<App>, _> = names.iter().map(app).collect();
        apps.expect("apps")
    }

    fn context(url: &str, token: Option<&str>) -> Context {
        Context::new(Options {
            url: url.to_owned(),
            token: token.map(str::to_owned),
            app: Some(String::new()),
            json: false,
        })
    }

    #[test]
    fn the_only_app_is_the_one_that_is_meant() {
        assert_eq!(only(&apps(&["Field"]), 1), Ok("id-of-Field"));
    }

    #[test]
    fn no_app_and_many_apps_say_what_to_do() {
        let text = |names: &[&str], total| {
            format!("{:?}", only(&apps(names), total).expect_err("no choice can be made"))
        };
        assert!(text(&[], 0).contains("reauth app create"));
        let two = text(&["Field", "Shop"], 2);
        assert!(two.contains("id-of-Field  Field") && two.contains("REAUTH_APP"), "{two}");
        assert!(text(&["Field"], 7).contains("and 6 more"));
    }

    #[test]
    fn options_that_are_set_to_nothing_are_as_good_as_none() {
        for token in [None, Some(""), Some(" \n")] {
            assert!(context(LOCAL_URL, token).client().is_err(), "{token:?}");
        }
        let context = context("", Some("rea_token\n"));
        assert_eq!(context.client().expect("a client").url(), LOCAL_URL);
        assert_eq!(context.named_app(), None);
    }
}
