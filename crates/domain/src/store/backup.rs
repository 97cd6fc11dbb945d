//! Copies of an embedded database: made while a server runs, and put in its place again. What a
//! copy lets in is not decided here: whoever restores raises the fence, see `cutoffs::fence`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::connect::{FILE, Place, private_directory, private_file};
use crate::values::error::{Error, Result};

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Conflict(format!("{}: {error}", path.display()))
}

/// Writes a consistent copy of the database to a new file (0600), whether a server has it open or
/// not.
pub async fn backup(place: &Place, to: &Path) -> Result<()> {
    let Place::Directory(dir) = place else {
        let why = "PostgreSQL has its own tools: use pg_dump, and after pg_restore `reauth fence`";
        return Err(Error::Conflict(why.into()));
    };
    let from = dir.join(FILE);
    if !from.exists() {
        return Err(Error::Conflict(format!("there is no database in {}", dir.display())));
    }
    if to.exists() {
        let why = format!("{} exists already: name a new file", to.display());
        return Err(Error::Conflict(why));
    }
    let file = private_file(to)?;
    let copied = copy(&from, to).await;
    if copied.is_err() {
        // Half a backup is none; that it cannot be deleted is no news.
        let _ = fs::remove_file(to);
    }
    copied?;
    file.sync_all().map_err(failed(to))?;
    sync_folder_of(to)
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let to = to.to_str().ok_or_else(|| Error::Conflict("name the file in UTF-8".into()))?;
    let options = SqliteConnectOptions::new().filename(from).create_if_missing(false);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    sqlx::query("vacuum into $1").bind(to).execute(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

/// A copy that waits beside the directory that it is for.
pub struct Staged {
    dir: PathBuf,
    staging: PathBuf,
    /// No server has the directory while this is held.
    _claim: Option<File>,
}

/// Puts a copy beside the directory that it is for. Refuses one that holds a database, unless that
/// is to be replaced.
pub async fn stage(from: &Path, dir: &Path, replaces: bool) -> Result<Staged> {
    if dir.join(FILE).exists() && !replaces {
        let why = format!("{} holds a database already: --replace keeps it aside", dir.display());
        return Err(Error::Conflict(why));
    }
    let place = Place::Directory(dir.to_owned());
    let claim = if dir.exists() { place.claim().await? } else { None };
    let staging = beside(dir, ".restoring");
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(failed(&staging))?;
    }
    private_directory(&staging)?;
    let mut file = private_file(&staging.join(FILE))?;
    let mut backup = File::open(from).map_err(failed(from))?;
    std::io::copy(&mut backup, &mut file).map_err(failed(from))?;
    file.sync_all().map_err(failed(&staging))?;
    Ok(Staged { dir: dir.to_owned(), staging, _claim: claim })
}

impl Staged {
    /// Where the copy is, to be looked at and fenced.
    pub fn place(&self) -> Place {
        Place::Directory(self.staging.clone())
    }

    /// Deletes the copy.
    pub fn discard(self) -> Result<()> {
        fs::remove_dir_all(&self.staging).map_err(failed(&self.staging))
    }

    /// Puts the copy in its place; answers where what was there before is kept.
    pub fn put_in_place(self) -> Result<Option<PathBuf>> {
        let Self { dir, staging, .. } = self;
        let mut kept = None;
        if dir.exists() {
            let aside = (1..).map(|number| beside(&dir, &format!(".before-restore-{number}")));
            let aside = aside.into_iter().find(|path| !path.exists());
            let aside = aside.expect("some number is free");
            fs::rename(&dir, &aside).map_err(failed(&dir))?;
            kept = Some(aside);
        }
        fs::rename(&staging, &dir).map_err(failed(&dir))?;
        sync_folder_of(&dir)?;
        Ok(kept)
    }
}

fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = dir.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    dir.with_file_name(name)
}

/// A new name is durable when its folder is.
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}
