//! The anchor: the ledger's end, noted in a file outside the database. Whoever cuts the ledger and
//! mends its stored end contradicts the anchor, and so does an older database that was put back. It
//! proves nothing by its absence.

use std::io::ErrorKind;
use std::path::Path;

use reauth_domain::ledger::{By, Head};
use reauth_domain::{Db, Error, Read, Result, cutoffs, ledger};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

use crate::config::Config;

/// Notes the ledger's end.
pub(crate) async fn drop_anchor(config: &Config, db: &Db) -> Result<()> {
    if config.anchor().is_none() {
        return Ok(());
    }
    note(config, &ledger::head(&mut db.read().await?).await?).await
}

/// As `drop_anchor`, of an end that is known. After a power cut there is the old one or this one.
pub(crate) async fn note(config: &Config, head: &Head) -> Result<()> {
    let Some(path) = config.anchor() else { return Ok(()) };
    let text = format!("{} {}\n", head.seq, head.hash_hex());
    if tokio::fs::read_to_string(&path).await.is_ok_and(|old| old == text) {
        return Ok(());
    }
    let write = async {
        let next = path.with_extension("next");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&next);
        let mut file = file.await?;
        file.write_all(text.as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&next, &path).await?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).await?.sync_all().await
    };
    write.await.map_err(|error| {
        let path = path.display();
        Error::Unavailable(format!("the ledger's end cannot be noted in {path}: {error}"))
    })
}

/// A database that is not the one beside which the anchor was left is a copy, or an older one: the
/// restore fence is raised, so that nothing it knows lets anyone in.
pub(super) async fn fence_if_older(config: &Config, db: &Db) -> Result<()> {
    let found = contradicts(config, &mut db.read().await?).await?;
    let Some((_, why)) = found else {
        // Who cannot note an end now, would not notice an older one later.
        return drop_anchor(config, db).await;
    };
    let mut tx = db.write(By::System).await?;
    cutoffs::fence(&mut tx, Some(why.clone())).await?;
    tx.commit().await?;
    drop_anchor(config, db).await?;
    tracing::error!(
        why,
        "all sessions and tokens are void: `reauth init` makes a new operator's token"
    );
    Ok(())
}

/// What the anchor says against the ledger, if anything.
pub(crate) async fn contradicts(config: &Config, read: &mut Read) -> Result<Option<(i64, String)>> {
    let Some(path) = config.anchor() else { return Ok(None) };
    let unreadable = |why: &str| {
        let path = path.display();
        Error::Unavailable(format!(
            "what is known of the ledger's end cannot be read from {path}: {why}; if it is lost, \
             remove the file and raise the fence (`reauth fence`)"
        ))
    };
    let text = match tokio::fs::read_to_string(&path).await {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let mut words = text.split_whitespace();
    let seq = words.next().and_then(|word| word.parse::<i64>().ok());
    let (Some(seq), Some(hash)) = (seq, words.next()) else {
        return Err(unreadable("it is something else"));
    };
    let wanted = ledger::Wanted { after: seq - 1, limit: 1, ..ledger::Wanted::default() };
    let (found, _) = ledger::page(read, wanted).await?;
    Ok(match found.first() {
        Some(entry) if entry.hash_hex() == hash => None,
        Some(_) => Some((seq, "the ledger was rewritten: the anchor has another hash".into())),
        None => Some((seq, format!("the ledger was cut: the anchor knows entry {seq}"))),
    })
}
