//! `backup`, `restore` and `fence`: copies of the store, and what they may let in.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::confirm;
use crate::failure::{Failure, Result};
use crate::verbs::serve::Store;

pub(crate) const BACKUP_EXAMPLES: &str = "\
The server may run meanwhile. The copy is opened and its ledger proved before it gets its name. A
server that is started on it lets nobody in; so does `reauth restore`. For PostgreSQL use pg_dump.

Example:
  reauth backup /backups/reauth-2026-05-03.sqlite --data ./reauth-data";

pub(crate) const RESTORE_EXAMPLES: &str = "\
Every session and every token from before is void, the operator's too: a new one is printed, this
once. What the directory held is kept in a folder in it. For PostgreSQL use pg_restore, then
`reauth fence`.

Example:
  reauth restore /backups/reauth-2026-05-03.sqlite --data ./reauth-data --replace";

pub(crate) const FENCE_EXAMPLES: &str = "\
Run it while no server has the store: after pg_restore, or after putting a copy in its place by
hand.

Example:
  reauth fence --database postgres://reauth@localhost/reauth --reason \"restored from Sunday\"";

/// What has to be typed so that a backup lets in whom it knows.
const KEEP: &str = "let them in";

/// `reauth backup`
#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The new file
    file: PathBuf,
    #[command(flatten)]
    store: Store,
}

/// `reauth restore`
#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup
    file: PathBuf,
    #[command(flatten)]
    store: Store,
    /// Put it in the place of the database that is there, which is kept aside
    #[arg(long)]
    replace: bool,
    /// Raise no fence: whoever was signed in then is signed in again, also who was locked out since
    #[arg(long)]
    keep_access: bool,
}

/// `reauth fence`
#[derive(Args, Debug)]
pub(crate) struct Fence {
    #[command(flatten)]
    store: Store,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT", default_value = "the operator raised it")]
    reason: String,
}

pub(crate) async fn backup(args: &Backup) -> Result<()> {
    let config = args.store.config().map_err(Failure::usage)?;
    let made = reauth_server::backup(&config, &args.file).await.map_err(Failure::new)?;
    let shown = json!({ "file": args.file, "seq": made.seq, "hash": made.hash });
    crate::output::print(&shown.to_string())
}

pub(crate) async fn restore(args: &Restore) -> Result<()> {
    let config = args.store.config().map_err(Failure::usage)?;
    if args.keep_access {
        let what = "This lets in everyone whom the backup knows, also who was locked out since";
        if confirm::is_person() {
            confirm::by_word(false, what, KEEP)?;
        } else {
            // Whoever is no person writes it down the pipe: it must be said.
            let mut line = String::new();
            if !io::stdin().is_terminal() {
                io::stdin().read_line(&mut line)?;
            }
            if line.trim() != KEEP {
                let help = format!("write {KEEP:?} to standard input to confirm");
                return Err(Failure::usage(format!("not confirmed: {what}")).help(help));
            }
        }
    }
    let done = reauth_server::restore(&config, &args.file, args.replace, args.keep_access).await;
    let done = done.map_err(Failure::new)?;
    let shown = json!({ "data": config.data, "seq": done.backup.seq, "hash": done.backup.hash,
        "kept": done.kept, "operator_token": done.operator_token });
    crate::output::print(&shown.to_string())
}

pub(crate) async fn fence(args: &Fence) -> Result<()> {
    let config = args.store.config().map_err(Failure::usage)?;
    let token = reauth_server::fence(&config, &args.reason).await.map_err(Failure::new)?;
    crate::output::print(&json!({ "operator_token": token }).to_string())
}
