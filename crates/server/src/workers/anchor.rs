//! The anchor: the ledger's end, noted in a file outside the database. Whoever cuts the ledger and
//! mends its stored end contradicts the anchor, and so does an older database that was put back. It
//! proves nothing by its absence.

use reauth_domain::ledger::By;
use reauth_domain::{Db, Error, Read, Result, cutoffs, ledger};

use crate::config::Config;

/// Notes the ledger's end.
pub(crate) async fn drop_anchor(config: &Config, db: &Db) -> Result<()> {
    let Some(path) = config.anchor() else { return Ok(()) };
    let head = ledger::head(&mut db.read().await?).await?;
    let text = format!("{} {}\n", head.seq, head.hash_hex());
    if tokio::fs::read_to_string(&path).await.is_ok_and(|old| old == text) {
        return Ok(());
    }
    let next = path.with_extension("next");
    let failed = |error: std::io::Error| Error::Unavailable(format!("{}: {error}", path.display()));
    tokio::fs::write(&next, text).await.map_err(failed)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    tokio::fs::set_permissions(&next, private).await.map_err(failed)?;
    tokio::fs::rename(&next, &path).await.map_err(failed)
}

/// A database that is not the one beside which the anchor was left is a copy, or an older one: the
/// restore fence is raised, so that nothing it knows lets anyone in.
pub(super) async fn fence_if_older(config: &Config, db: &Db) -> Result<()> {
    let found = contradicts(config, &mut db.read().await?).await?;
    let Some((_, why)) = found else { return Ok(()) };
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
    let Ok(text) = tokio::fs::read_to_string(&path).await else { return Ok(None) };
    let mut words = text.split_whitespace();
    let seq = words.next().and_then(|word| word.parse::<i64>().ok());
    let (Some(seq), Some(hash)) = (seq, words.next()) else {
        return Ok(Some((0, format!("{} cannot be read", path.display()))));
    };
    let wanted = ledger::Wanted { after: seq - 1, limit: 1, ..ledger::Wanted::default() };
    let (found, _) = ledger::page(read, wanted).await?;
    Ok(match found.first() {
        Some(entry) if entry.hash_hex() == hash => None,
        Some(_) => Some((seq, "the ledger was rewritten: the anchor has another hash".into())),
        None => Some((seq, format!("the ledger was cut: the anchor knows entry {seq}"))),
    })
}
