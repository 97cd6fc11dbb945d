//! `reauth revoke`: many users must sign in again, or wipe their data.

use clap::{ArgGroup, Args};
use reauth_sdk::{Filter, InApp, Moment, Revocation, Revoked, Selector};
use serde_json::json;

use crate::confirm;
use crate::connect::Context;
use crate::failure::Result;
use crate::verbs::user::Attribute;

const EXAMPLES: &str = "\
When this returns, no session that was meant is accepted. On a terminal you see first how many
sessions end, and type what you are about to revoke; --yes leaves that out. A script is not asked:
it can look first with --dry-run, and then name what it saw with --expect, as an app's settings
unseen_sessions_max and unseen_percent_max may want.

Examples:
  reauth revoke --group contractors --reason \"the contract ended\"
  reauth revoke --attribute department=sales --method sms
  reauth revoke --platform android --authenticated-before 2026-05-01 --dry-run
  reauth revoke --platform android --authenticated-before 2026-05-01 --expect 0197…";

/// By how many percent the set may change while a person reads.
const TOLERANCE_PERCENT: u32 = 5;

/// Whom, and why.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
#[command(group(ArgGroup::new("whom").required(true).multiple(true)))]
pub(crate) struct Arguments {
    /// Every user of every app; needs the operator's token
    #[arg(long, group = "whom", conflicts_with_all = ["app_wide", "group", "user", "platform",
        "label", "device", "ip", "attribute", "method", "assurance", "authenticated_before",
        "created_before", "wipe", "dry_run"])]
    everyone: bool,
    /// Every user of the app
    #[arg(long, group = "whom", conflicts_with_all = ["group", "user"])]
    app_wide: bool,
    /// The members of the group with this name; several times: of one of them
    #[arg(long, value_name = "NAME", group = "whom")]
    group: Vec<String>,
    /// The user with this id; several times: these
    #[arg(long, value_name = "ID", group = "whom", conflicts_with = "group")]
    user: Vec<String>,
    /// Only users with this attribute: NAME=TEXT, or NAME:=JSON; several times: with all
    #[arg(long, value_name = "NAME=VALUE", group = "whom")]
    attribute: Vec<Attribute>,
    /// Only on this platform; several times: on one of them
    #[arg(long, value_name = "NAME", group = "whom")]
    platform: Vec<String>,
    /// Only if proved by this method, such as pwd (RFC 8176); several times: by one of them
    #[arg(long, value_name = "NAME", group = "whom")]
    method: Vec<String>,
    /// Only of this assurance level, such as aal1; several times: of one of them
    #[arg(long, value_name = "LEVEL", group = "whom")]
    assurance: Vec<String>,
    /// Only with a label that fits this, such as 'till-*'; several times: one of them
    #[arg(long, value_name = "PATTERN", group = "whom")]
    label: Vec<String>,
    /// Only on the device with this id of its own
    #[arg(long, value_name = "ID", group = "whom")]
    device: Option<String>,
    /// Only if signed in last from this address or network, such as 203.0.113.0/24
    #[arg(long, value_name = "ADDRESS", group = "whom")]
    ip: Option<String>,
    /// Only if signed in at this moment or before it
    #[arg(long, value_name = "WHEN", group = "whom")]
    authenticated_before: Option<Moment>,
    /// Only if first signed in on the device at this moment or before it
    #[arg(long, value_name = "WHEN", group = "whom")]
    created_before: Option<Moment>,
    /// The devices wipe their data at the next connect
    #[arg(long)]
    wipe: bool,
    /// Only say whom it would end, and under which id that can be named
    #[arg(long)]
    dry_run: bool,
    /// Refuse if other sessions are met than the dry run with this id has shown
    #[arg(long, value_name = "ID", conflicts_with_all = ["dry_run", "everyone"])]
    expect: Option<String>,
    /// By how many percent the set may have changed since [default: 5]
    #[arg(long, value_name = "PERCENT", requires = "expect")]
    tolerance: Option<u32>,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Arguments {
    fn filter(&self) -> Filter {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let attributes = self.attribute.iter().map(|it| (it.name.clone(), it.value.clone()));
        let applies_to = Selector {
            everyone: false,
            groups: some(&self.group).filter(|all| all.len() > 1),
            users: some(&self.user).filter(|all| all.len() > 1),
            attributes: (!self.attribute.is_empty()).then(|| attributes.collect()),
            platforms: some(&self.platform),
            methods: some(&self.method),
            assurance: some(&self.assurance),
            labels: some(&self.label),
        };
        Filter {
            // One alone is a moment, whatever the number of sessions.
            group: alone(&self.group),
            user: alone(&self.user),
            applies_to,
            authenticated_before: self.authenticated_before,
            created_before: self.created_before,
            device_id: self.device.clone(),
            ip: self.ip.clone(),
        }
    }

    /// Whose sessions, in words, and the word that confirms it.
    fn whom(&self, app: &InApp) -> (String, String) {
        let (whose, word) = match (&self.group[..], &self.user[..]) {
            ([group], _) => (format!("everyone in the group {group}"), group.clone()),
            ([], [user]) => (format!("user {user}"), user.clone()),
            ([], []) => (format!("every user of the app {}", app.id()), app.id().to_owned()),
            ([], users) => (format!("{} users", users.len()), users.len().to_string()),
            (groups, _) => {
                let names = groups.join(", ");
                (format!("everyone in one of the groups {names}"), names)
            }
        };
        let filter = self.filter();
        let applies_to = Selector { groups: None, users: None, ..filter.applies_to };
        let filter = Filter { group: None, user: None, applies_to, ..filter };
        let is_narrower = filter != Filter::default();
        (if is_narrower { format!("{whose}, where it fits,") } else { whose }, word)
    }
}

fn alone(names: &[String]) -> Option<String> {
    if let [name] = names { Some(name.clone()) } else { None }
}

pub(crate) async fn run(context: &Context, arguments: Arguments) -> Result<()> {
    if arguments.everyone {
        let client = context.client()?;
        let what = "This makes every user of every app sign in again";
        confirm::by_word(arguments.yes, what, "everyone")?;
        let cut_off = client.revoke_everyone(arguments.reason.as_deref()).await?;
        let seq = cut_off.seq;
        let sentence = format!("everyone must sign in again (entry {seq} in the ledger)");
        let fields = json!({ "seq": seq, "not_before": cut_off.not_before });
        return context.output.done(&sentence, fields);
    }
    let app = context.app().await?;
    let (whom, word) = arguments.whom(&app);
    let Arguments { wipe, dry_run, yes, .. } = arguments;
    let filter = arguments.filter();
    let tolerance = arguments.tolerance.unwrap_or(TOLERANCE_PERCENT);
    let expect = arguments.expect.map(|id| (id, tolerance));
    let mut wanted = Revocation { filter, wipe, reason: arguments.reason, expect };
    let is_asked = !yes && confirm::is_person() && wanted.expect.is_none();
    if dry_run || is_asked {
        let seen = app.preview_revocation(&wanted).await?;
        let what = format!("This ends {}", counted(&seen));
        if dry_run {
            let id = seen.preview_id.as_deref().map(|id| format!("; name it with --expect {id}"));
            return context.output.either(&seen, &format!("{what}{}", id.unwrap_or_default()));
        }
        confirm::by_word(yes, &format!("{what}: {whom}"), &word)?;
        wanted.expect = seen.preview_id.map(|id| (id, TOLERANCE_PERCENT));
    }
    let done = app.revoke(&wanted).await?;
    let must = if wipe { "must sign in again and wipe" } else { "must sign in again" };
    let seq = done.seq.unwrap_or_default();
    let sentence = format!("{whom} {must} (entry {seq} in the ledger)");
    let fields = json!({ "seq": done.seq, "not_before": done.not_before,
        "sessions": done.sessions, "users": done.users });
    context.output.done(&sentence, fields)
}

fn counted(seen: &Revoked) -> String {
    let number = |count: Option<u64>| count.unwrap_or_default();
    let sessions = format!("{} sessions of {} users", number(seen.sessions), number(seen.users));
    match number(seen.authentication_tokens) {
        0 => sessions,
        tokens => format!("{sessions}, and {tokens} unused authentication tokens"),
    }
}
