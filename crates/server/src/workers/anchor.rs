//! The anchor: the ledger's end, noted in a file outside the database. Whoever cuts the ledger and
//! mends its stored end contradicts the anchor, and so does an older database that was put back.
//! The store remembers where its anchor is: a copy that is started without it is noticed, too.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reauth_domain::ledger::{By, Head};
use reauth_domain::{ANCHOR, Db, Error, Origin, Read, Result, cutoffs, ledger};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use crate::app::App;
use crate::config::Config;

/// The longest time from one look at the ledger's end to the next, should nobody tell of changes.
const EVERY: Duration = Duration::from_secs(2);
/// A note costs two writes to the disk: in a row of many changes there is one in so long a time.
const REST: Duration = Duration::from_millis(100);

/// Keeps the note of the ledger's end close behind it. It is made after the answer to a change, so
/// that nobody waits for it.
pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    let mut moves = app.db.moves();
    loop {
        tokio::select! {
            _ = moves.changed() => {}
            () = tokio::time::sleep(EVERY) => {}
            _ = stopped.changed() => return,
        }
        note_end(&app).await;
        tokio::time::sleep(REST).await;
    }
}

/// As `drop_anchor`; that it failed is told and nothing else: it is tried again soon.
pub(super) async fn note_end(app: &App) {
    if let Err(error) = drop_anchor(&app.config, &app.db).await {
        tracing::warn!(%error, "the ledger's anchor was not written");
    }
}

/// Notes the ledger's end.
async fn drop_anchor(config: &Config, db: &Db) -> Result<()> {
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

/// Notes the ledger's end, and in the store where that is: without its anchor it is a copy.
pub(crate) async fn leave(config: &Config, db: &Db) -> Result<()> {
    drop_anchor(config, db).await?;
    let origin = Origin { anchor: remembered_as(config)?, is_backup: false };
    let old = Origin::load(&mut db.read().await?).await?;
    if old == origin {
        return Ok(());
    }
    origin.keep(db).await?;
    if let Some(name) = old.anchor {
        take_away(config, &config.data.join(name)).await;
    }
    Ok(())
}

/// An anchor that is kept no longer vouches for databases that are older than they should be.
async fn take_away(config: &Config, old: &Path) {
    let is_kept = match config.anchor() {
        Some(new) => std::fs::canonicalize(old).ok() == std::fs::canonicalize(new).ok(),
        None => false,
    };
    if !is_kept && let Err(error) = tokio::fs::remove_file(old).await {
        let path = old.display();
        tracing::warn!(%error, %path, "delete the old anchor: another one is kept now");
    }
}

/// The anchor beside the database goes where the directory goes; another one stays where it is.
fn remembered_as(config: &Config) -> Result<Option<String>> {
    let Some(path) = &config.anchor else {
        return Ok(config.anchor().map(|_| ANCHOR.to_owned()));
    };
    let whole = std::path::absolute(path);
    let whole = whole.map_err(|error| Error::Unavailable(format!("the anchor's path: {error}")))?;
    Ok(Some(whole.display().to_string()))
}

/// Raises the restore fence. What the store remembers of where it belonged counts no more.
pub(crate) async fn raise(db: &Db, why: &str) -> Result<()> {
    let mut tx = db.write(By::System).await?;
    cutoffs::fence(&mut tx, Some(why.to_owned())).await?;
    Origin::default().store(&mut tx).await?;
    tx.commit().await.map(|_| ())
}

/// A database that is not the one beside which the anchor was left is a copy, or an older one: the
/// restore fence is raised, so that nothing it knows lets anyone in.
pub(super) async fn fence_if_older(config: &Config, db: &Db) -> Result<()> {
    let found = doubt(config, &mut db.read().await?).await?;
    if let Some(why) = found {
        raise(db, &why).await?;
        tracing::error!(
            why,
            "all sessions and tokens are void: `reauth init` makes a new operator's token"
        );
    }
    // Who cannot note an end now, would not notice an older one later.
    leave(config, db).await
}

/// Why this may not be the store that was served last, if so.
async fn doubt(config: &Config, read: &mut Read) -> Result<Option<String>> {
    let origin = Origin::load(read).await?;
    if origin.is_backup {
        return Ok(Some("a backup was started that nobody has restored".into()));
    }
    let left = origin.anchor.map(|name| config.data.join(name));
    let mut is_known = left.is_none();
    // Where it is to be from now on, and where it was: the setting may have changed.
    for path in config.anchor().iter().chain(&left) {
        match compare(path, read).await? {
            Known::Contradicts(_, why) => return Ok(Some(why)),
            Known::Agrees => is_known = true,
            Known::Missing => {}
        }
    }
    let missing = |path: PathBuf| {
        let path = path.display();
        format!("a copy was started: the anchor that was left in {path} is missing")
    };
    Ok(left.filter(|_| !is_known).map(missing))
}

/// What the anchor says against the ledger, if anything.
pub(crate) async fn contradicts(config: &Config, read: &mut Read) -> Result<Option<(i64, String)>> {
    let Some(path) = config.anchor() else { return Ok(None) };
    Ok(match compare(&path, read).await? {
        Known::Contradicts(seq, why) => Some((seq, why)),
        Known::Agrees | Known::Missing => None,
    })
}

/// What an anchor says of a ledger.
enum Known {
    Missing,
    Agrees,
    Contradicts(i64, String),
}

async fn compare(path: &Path, read: &mut Read) -> Result<Known> {
    let unreadable = |why: &str| {
        let path = path.display();
        Error::Unavailable(format!(
            "what is known of the ledger's end cannot be read from {path}: {why}; if it is lost, \
             remove the file and raise the fence (`reauth fence`)"
        ))
    };
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Known::Missing),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let mut words = text.split_whitespace();
    let seq = words.next().and_then(|word| word.parse::<i64>().ok());
    let (Some(seq), Some(hash)) = (seq, words.next()) else {
        return Err(unreadable("it is something else"));
    };
    let wanted = ledger::Wanted { after: seq - 1, limit: 1, ..ledger::Wanted::default() };
    let (found, _) = ledger::page(read, wanted).await?;
    let why = match found.first() {
        Some(entry) if entry.hash_hex() == hash => return Ok(Known::Agrees),
        Some(_) => "the ledger was rewritten: the anchor has another hash".into(),
        None => format!("the ledger was cut: the anchor knows entry {seq}"),
    };
    Ok(Known::Contradicts(seq, why))
}
