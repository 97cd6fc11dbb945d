//! `reauth revoke`: many users must sign in again, by one cut-off.

use clap::{ArgGroup, Args};
use reauth_sdk::Filter;
use serde_json::json;

use crate::confirm;
use crate::connect::Context;
use crate::failure::Result;

const EXAMPLES: &str = "\
It is one commit, however many users there are. When this returns, no session from before is
accepted. On a terminal, the wide ones (--everyone, --app-wide, --group) ask you to type what you
are about to revoke; --yes leaves that out. A script is not asked.

Example:
  reauth revoke --group contractors --reason \"the contract ended\"";

/// Whom, and why.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
#[command(group(ArgGroup::new("whom").required(true).multiple(false)))]
pub(crate) struct Arguments {
    /// Every user of every app; needs the operator's token
    #[arg(long, group = "whom")]
    everyone: bool,
    /// Every user of the app
    #[arg(long, group = "whom")]
    app_wide: bool,
    /// The members of the group with this name
    #[arg(long, value_name = "NAME", group = "whom")]
    group: Option<String>,
    /// The user with this id
    #[arg(long, value_name = "ID", group = "whom")]
    user: Option<String>,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<()> {
    let Arguments { everyone, group, user, reason, yes, .. } = arguments;
    let reason = reason.as_deref();
    let (whom, cut_off) = if everyone {
        let client = context.client()?;
        ask(yes, "every user of every app", "everyone")?;
        ("everyone".to_owned(), client.revoke_everyone(reason).await?)
    } else {
        let app = context.app().await?;
        let (whom, filter) = match (group, user) {
            (Some(group), _) => {
                let whom = format!("everyone in the group {group}");
                ask(yes, &whom, &group)?;
                (whom, Filter::Group(group))
            }
            (None, Some(user)) => (format!("user {user}"), Filter::User(user)),
            (None, None) => {
                let whom = format!("every user of the app {}", app.id());
                ask(yes, &whom, app.id())?;
                (whom, Filter::Everyone {})
            }
        };
        (whom, app.revoke(&filter, reason).await?)
    };
    let sentence = format!("{whom} must sign in again (entry {} in the ledger)", cut_off.seq);
    context.output.done(&sentence, json!({ "seq": cut_off.seq, "not_before": cut_off.not_before }))
}

fn ask(yes: bool, whom: &str, word: &str) -> Result<()> {
    confirm::by_word(yes, &format!("This makes {whom} sign in again"), word)
}
