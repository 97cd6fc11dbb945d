//! A backup is put in the place of an embedded database. All of it happens within the data
//! directory: that may be a volume, which cannot be renamed and beside which nothing can be put.
//!
//! The copy waits in a folder. When it is whole the folder gets another name: from then on whoever
//! opens the store first finishes the change, so that a power cut leaves the old database or the
//! new one, and never parts of both.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::backup::{clear, failed, make_whole, sync_folder};
use super::connect::{ANCHOR, FILE, LOCK, Place, private_directory, private_file};
use crate::values::error::{Error, Result};

/// The folder of a copy that is being looked at.
const STAGING: &str = "reauth.restoring";
/// The folder of a copy whose time has come.
const READY: &str = "reauth.restored";
/// In it, what was in its place.
const OLD: &str = "old";
/// What belongs to a database: none of it may stand beside another one.
const PARTS: [&str; 6] = [
    FILE,
    "reauth.sqlite-wal",
    "reauth.sqlite-shm",
    "reauth.sqlite-journal",
    ANCHOR,
    "ledger.next",
];
/// How each SQLite file begins.
const MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// A copy that waits in the directory that it is for. Unless it is put in place, it is deleted with
/// this value.
pub struct Staged {
    dir: PathBuf,
    is_new: bool,
    /// No server has the directory while this is held.
    _claim: Option<File>,
}

/// Puts a copy into the directory that it is for, beside what is there. Refuses if that holds a
/// database, unless it is to be replaced.
pub async fn stage(from: &Path, dir: &Path, replaces: bool) -> Result<Staged> {
    let mut backup = opened(from)?;
    refuse_taken(dir, replaces)?;
    let is_new = !dir.exists();
    let claim = Place::Directory(dir.to_owned()).claim().await?;
    let staged = Staged { dir: dir.to_owned(), is_new, _claim: claim };
    // One that was broken off may have been finished just now.
    refuse_taken(dir, replaces)?;
    let folder = staged.folder();
    clear(&folder)?;
    private_directory(&folder)?;
    let mut file = private_file(&folder.join(FILE))?;
    std::io::copy(&mut backup, &mut file).map_err(failed(from))?;
    Ok(staged)
}

/// The file, if it holds a database at all: of an empty one SQLite would make a new store.
fn opened(from: &Path) -> Result<impl std::io::Read> {
    let mut log = from.as_os_str().to_owned();
    log.push("-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Err(Error::Conflict(format!(
            "{} has a write-ahead log beside it, with changes that would be lost: make a backup of \
             that folder first, with `reauth backup --data`, and restore that",
            from.display()
        )));
    }
    let mut file = File::open(from).map_err(failed(from))?;
    let mut start = [0; MAGIC.len()];
    if file.read_exact(&mut start).is_err() || start != MAGIC {
        return Err(Error::Conflict(format!("{} is no backup", from.display())));
    }
    Ok(std::io::Cursor::new(start).chain(file))
}

fn refuse_taken(dir: &Path, replaces: bool) -> Result<()> {
    if dir.join(FILE).exists() && !replaces {
        let why = format!("{} holds a database already: --replace keeps it aside", dir.display());
        return Err(Error::Conflict(why));
    }
    Ok(())
}

impl Staged {
    fn folder(&self) -> PathBuf {
        self.dir.join(STAGING)
    }

    /// Where the copy is, to be looked at and fenced.
    pub fn place(&self) -> Place {
        Place::Directory(self.folder())
    }

    /// Puts the copy in its place; answers where what was there before is kept. Nobody has the copy
    /// open any more.
    pub async fn put_in_place(self) -> Result<Option<PathBuf>> {
        let folder = self.folder();
        make_whole(&folder.join(FILE)).await?;
        sync_folder(&folder)?;
        fs::rename(&folder, self.dir.join(READY)).map_err(failed(&folder))?;
        sync_folder(&self.dir)?;
        finish(&self.dir)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nobody needs it any more; that it cannot be deleted is no news.
        let _ = fs::remove_dir_all(self.folder());
        if self.is_new && !self.dir.join(FILE).exists() && !self.dir.join(READY).exists() {
            let _ = fs::remove_file(self.dir.join(LOCK));
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Finishes a change that has begun, from wherever it was broken off; answers where what was there
/// before is kept. The directory is claimed.
pub(super) fn finish(dir: &Path) -> Result<Option<PathBuf>> {
    let ready = dir.join(READY);
    if !ready.exists() {
        return Ok(None);
    }
    let (copy, old) = (ready.join(FILE), ready.join(OLD));
    // As long as the copy is there, what is in the directory is the old one.
    if copy.exists() {
        private_directory(&old)?;
        for part in PARTS.iter().filter(|part| dir.join(part).exists()) {
            fs::rename(dir.join(part), old.join(part)).map_err(failed(dir))?;
        }
        sync_folder(&old)?;
        // First of all: an old log that came back would be taken for the copy's.
        sync_folder(dir)?;
        fs::rename(&copy, dir.join(FILE)).map_err(failed(dir))?;
        sync_folder(dir)?;
    }
    let is_empty = !old.exists() || old.read_dir().map_err(failed(&old))?.next().is_none();
    let kept = if is_empty { None } else { Some(keep(dir, &old)?) };
    fs::remove_dir_all(&ready).map_err(failed(&ready))?;
    sync_folder(dir)?;
    Ok(kept)
}

/// Gives what was there before the next free name.
fn keep(dir: &Path, old: &Path) -> Result<PathBuf> {
    let names = (1..).map(|number| dir.join(format!("reauth.before-restore-{number}")));
    let free = names.into_iter().find(|path| !path.exists());
    let free = free.ok_or_else(|| Error::Internal("no number is free".into()))?;
    fs::rename(old, &free).map_err(failed(old))?;
    sync_folder(dir)?;
    Ok(free)
}
