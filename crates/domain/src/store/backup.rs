//! Backups of an embedded database, made while a server runs. What a backup lets in is not decided
//! here: it is marked as one, and whoever puts it in place raises the fence, see `cutoffs::fence`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection as _, SqliteConnection};

use super::connect::{FILE, Place, private_directory, private_file};
use crate::values::error::{Error, Result};

/// How long others may be about to let go of a file.
const LET_GO_WAIT: Duration = Duration::from_secs(5);

/// A backup in the making, in a folder beside its file. Unless it is kept, all of it is deleted
/// with this value.
pub struct Draft {
    folder: PathBuf,
    to: PathBuf,
    is_kept: bool,
}

/// Makes a consistent copy of the database, whether a server has it open or not. Its name is taken
/// at once, and is the copy's when it is kept.
pub async fn draft(place: &Place, to: &Path) -> Result<Draft> {
    let Place::Directory(dir) = place else {
        let why = "PostgreSQL has its own tools: use pg_dump, and after pg_restore `reauth fence`";
        return Err(Error::Conflict(why.into()));
    };
    if !dir.join(FILE).exists() {
        return Err(Error::Conflict(format!("there is no database in {}", dir.display())));
    }
    take_name(to)?;
    let mut folder = to.as_os_str().to_owned();
    folder.push(".making");
    let draft = Draft { folder: folder.into(), to: to.to_owned(), is_kept: false };
    clear(&draft.folder)?;
    private_directory(&draft.folder)?;
    copy(dir, &draft.folder).await?;
    Ok(draft)
}

fn take_name(to: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let taken = options.write(true).create_new(true).mode(0o600).open(to);
    taken.map(|_| ()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::Conflict(format!("{} exists already: name a new file", to.display()))
        }
        _ => failed(to)(error),
    })
}

impl Draft {
    /// Where the copy is, to be looked at.
    pub fn place(&self) -> Place {
        Place::Directory(self.folder.clone())
    }

    /// Gives the copy its name, for good. Nobody has it open any more.
    pub async fn keep(mut self) -> Result<()> {
        let file = self.folder.join(FILE);
        make_whole(&file).await?;
        fs::rename(&file, &self.to).map_err(failed(&self.to))?;
        self.is_kept = true;
        sync_folder_of(&self.to)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Half a backup is none; that it cannot be deleted is no news.
        let _ = fs::remove_dir_all(&self.folder);
        if !self.is_kept {
            let _ = fs::remove_file(&self.to);
        }
    }
}

/// Copies the database of one directory, as it is at one moment, into another that has none.
pub(super) async fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join(FILE), to.join(FILE));
    private_file(&to)?;
    let to = to.to_str().ok_or_else(|| Error::Conflict("name the file in UTF-8".into()))?;
    let options = SqliteConnectOptions::new().filename(from).create_if_missing(false);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    sqlx::query("vacuum into $1").bind(to).execute(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

/// Makes one file of a database and its log; it is on the disk when this returns.
pub(super) async fn make_whole(file: &Path) -> Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(false)
        .busy_timeout(LET_GO_WAIT)
        .journal_mode(SqliteJournalMode::Delete);
    let mut conn = SqliteConnection::connect_with(&options).await?;
    let journal: String = sqlx::query_scalar("pragma journal_mode").fetch_one(&mut conn).await?;
    conn.close().await?;
    if journal != "delete" {
        return Err(Error::Conflict(format!("{} is in use", file.display())));
    }
    File::open(file).and_then(|file| file.sync_all()).map_err(failed(file))
}

pub(super) fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Conflict(format!("{}: {error}", path.display()))
}

/// Deletes what was left of an attempt that was broken off.
pub(super) fn clear(folder: &Path) -> Result<()> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(failed(folder)) } else { Ok(()) }
}

/// A new name is durable when its folder is.
fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_folder(folder.unwrap_or(Path::new(".")))
}

pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}
