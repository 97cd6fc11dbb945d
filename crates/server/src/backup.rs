//! Backups and what they may let in: a restored store has the restore fence, so that all sessions
//! and tokens from before are void.

use std::path::{Path, PathBuf};

use reauth_domain::ledger::{self, By, Head};
use reauth_domain::tokens::{self, Scope, Scopes};
use reauth_domain::{Clock, Db, Error, Origin, Result, backup as files, restore as copies};

use crate::config::Config;
use crate::workers::anchor;

/// Entries that are verified at once.
const VERIFY_ROWS: i64 = 10_000;

/// What a backup holds.
#[derive(Debug)]
pub struct Backup {
    /// The place of its last ledger entry.
    pub seq: i64,
    /// That entry's hash, as hex.
    pub hash: String,
}

/// What a restore made.
#[derive(Debug)]
pub struct Restored {
    /// The end of the ledger as it was in the backup.
    pub backup: Backup,
    /// The new operator's token, shown this once; none if access was kept.
    pub operator_token: Option<String>,
    /// Where what was there before is kept.
    pub kept: Option<PathBuf>,
}

impl Backup {
    fn new(head: &Head) -> Self {
        Self { seq: head.seq, hash: head.hash_hex() }
    }
}

/// Writes a consistent copy of the embedded database to a new file, while the server runs.
pub async fn backup(config: &Config, to: &Path) -> Result<Backup, String> {
    let make = async {
        let draft = files::draft(&config.place(), to).await?;
        let db = Db::open(draft.place(), Clock::system()).await?;
        let head = proved(&db).await;
        db.close().await?;
        let head = head?;
        draft.keep().await?;
        Ok(Backup::new(&head))
    };
    make.await.map_err(|error: Error| error.to_string())
}

/// What cannot be opened and proved is no backup; one that is says so itself.
async fn proved(db: &Db) -> Result<Head> {
    let head = verified(db).await?;
    Origin { is_backup: true, anchor: None }.keep(db).await?;
    Ok(head)
}

/// Puts a backup in the place of the embedded database, behind the fence unless access is kept.
pub async fn restore(
    config: &Config,
    from: &Path,
    replaces: bool,
    keeps_access: bool,
) -> Result<Restored, String> {
    if config.database.is_some() {
        return Err("PostgreSQL has its own tools: use pg_restore, then `reauth fence`".into());
    }
    let make = async {
        let staged = copies::stage(from, &config.data, replaces).await?;
        let db = Db::open(staged.place(), Clock::system()).await?;
        let made = ready(&db, keeps_access).await;
        db.close().await?;
        let (backup, operator_token, head) = made?;
        let kept = staged.put_in_place().await?;
        // An anchor elsewhere knows the database that this one has taken the place of.
        anchor::note(config, &head).await?;
        Ok(Restored { backup, operator_token, kept })
    };
    make.await.map_err(|error: Error| error.to_string())
}

/// Makes a backup a store again; answers what it held, the new operator's token and its end now.
async fn ready(db: &Db, keeps_access: bool) -> Result<(Backup, Option<String>, Head)> {
    let backup = Backup::new(&verified(db).await?);
    let operator_token = if keeps_access {
        Origin::default().keep(db).await?;
        None
    } else {
        Some(raise(db, "a backup was restored").await?)
    };
    let head = ledger::head(&mut db.read().await?).await?;
    Ok((backup, operator_token, head))
}

/// Raises the fence on a store that no server uses; answers the new operator's token.
pub async fn fence(config: &Config, why: &str) -> Result<String, String> {
    let make = async {
        let db = Db::open(config.place(), Clock::system()).await?;
        let operator_token = raise(&db, why).await?;
        // An older database than the anchor knows is fenced now: once is enough.
        anchor::leave(config, &db).await?;
        Ok(operator_token)
    };
    make.await.map_err(|error: Error| error.to_string())
}

/// All sessions and tokens are void; there is one new token, the operator's.
async fn raise(db: &Db, why: &str) -> Result<String> {
    anchor::raise(db, why).await?;
    let mut tx = db.write(By::System).await?;
    let scopes = Scopes::default().with(Scope::Operator);
    let (_, secret) = tokens::create(&mut tx, None, "operator", scopes, None).await?;
    tx.commit().await?;
    Ok(secret.reveal().to_owned())
}

/// The end of a ledger whose chain holds.
async fn verified(db: &Db) -> Result<Head> {
    let mut read = db.read().await?;
    let mut after = 0;
    loop {
        let found = ledger::verify(&mut read, after, VERIFY_ROWS).await?;
        if let Some((seq, why)) = found.problem {
            return Err(Error::Conflict(format!("its ledger does not hold at {seq}: {why}")));
        }
        if !found.more {
            return Ok(found.head);
        }
        after = found.through;
    }
}
