//! `reauth app`: apps and their settings.

use clap::{Args, Subcommand};
use reauth_sdk::{App, AppChange, Limit, Most, NewApp, SettingsChange};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::paging;
use crate::times::at;

const CREATE_EXAMPLES: &str = "\
Example:
  reauth app create Field --max-session-age 30d --max-idle 12h --multiple-devices";

const SET_EXAMPLES: &str = "\
A shorter limit acts at once; a longer one revives nothing that has ended.

Example:
  reauth app set 4d2f0a5b6c7d8e9f01234567 --max-session-age 7d --max-idle none";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create an app
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// Its name: 1 to 100 characters
        name: String,
        #[command(flatten)]
        settings: Settings,
        /// Agree that nothing may end every session of the app
        #[arg(long)]
        allow_endless: bool,
    },
    /// List the apps that the token sees
    List,
    /// Change an app's name or settings; what is not named stays
    #[command(after_help = SET_EXAMPLES)]
    Set {
        /// The app's id: 24 hex digits
        #[arg(value_name = "APP")]
        id: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Settings,
        /// Agree that nothing may end every session of the app
        #[arg(long)]
        allow_endless: bool,
    },
}

#[derive(Args)]
pub(crate) struct Settings {
    /// The longest time from a real sign-in to the next, such as 30d; none for no limit
    #[arg(long, value_name = "DURATION")]
    max_session_age: Option<Limit>,
    /// The longest time without activity, such as 1h; none for no limit
    #[arg(long, value_name = "DURATION")]
    max_idle: Option<Limit>,
    /// Whether a user may be signed in on several devices at once
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    multiple_devices: Option<bool>,
    /// How long before a session ends its app is told so, such as 3d; none for not at all
    #[arg(long, value_name = "DURATION")]
    warn_before: Option<Limit>,
    /// A revocation of more sessions than this needs a look before; none for no limit
    #[arg(long, value_name = "NUMBER")]
    unseen_sessions_max: Option<Most>,
    /// A revocation of more percent of the users than this needs a look before; none for no limit
    #[arg(long, value_name = "PERCENT")]
    unseen_percent_max: Option<Most>,
}

impl Settings {
    fn change(&self) -> SettingsChange {
        SettingsChange {
            max_session_age: self.max_session_age,
            max_idle: self.max_idle,
            multiple_devices_per_user: self.multiple_devices,
            warn_before: self.warn_before,
            unseen_sessions_max: self.unseen_sessions_max,
            unseen_percent_max: self.unseen_percent_max,
            user_schema: None,
        }
    }
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create { name, settings, allow_endless } => {
            let new = NewApp { name, settings: settings.change(), allow_endless };
            let app = context.client()?.create_app(&new).await?;
            context.output.one(&app, &fields(&app))
        }
        Verb::List => {
            let apps = paging::all(context.client()?.apps(), "apps").await?;
            let columns = ["id", "name", "session age", "idle", "devices", "created"];
            context.output.list(&apps, "apps", columns, row)
        }
        Verb::Set { id, name, settings, allow_endless } => {
            let change = AppChange { name, settings: settings.change(), allow_endless };
            if change.name.is_none() && change.settings.is_empty() {
                let help = "name a setting, such as --max-session-age 30d";
                return Err(Failure::usage("nothing is to be changed").help(help));
            }
            let app = context.client()?.app(id).change(&change).await?;
            context.output.one(&app, &fields(&app))
        }
    }
}

fn row(app: &App) -> [String; 6] {
    let settings = &app.settings;
    let limit = |limit: Option<reauth_sdk::Span>| limit.map_or("none".into(), |s| s.to_string());
    let devices = if settings.multiple_devices_per_user { "several" } else { "one" };
    [
        app.id.clone(),
        app.name.clone(),
        limit(settings.max_session_age),
        limit(settings.max_idle),
        devices.to_owned(),
        at(app.created_at),
    ]
}

fn fields(app: &App) -> [(&'static str, String); 8] {
    let [id, name, age, idle, devices, created] = row(app);
    let settings = &app.settings;
    let warned =
        settings.warn_before.map_or("not at all".to_owned(), |span| format!("{span} before"));
    let unseen = [(settings.unseen_sessions_max, " sessions"), (settings.unseen_percent_max, " %")];
    let unseen: Vec<String> =
        unseen.iter().filter_map(|(max, of)| max.map(|max| format!("{max}{of}"))).collect();
    let unseen = if unseen.is_empty() { "any number".to_owned() } else { unseen.join(", ") };
    [
        ("id", id),
        ("name", name),
        ("max session age", age),
        ("max idle", idle),
        ("devices per user", devices),
        ("end is told", warned),
        ("revoked unseen", unseen),
        ("created", created),
    ]
}
