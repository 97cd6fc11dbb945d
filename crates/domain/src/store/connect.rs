//! How each database is reached, and that nobody else writes to it. The dialect exceptions of the
//! store are here: pragmas and the version check (SQLite), the advisory lock (PostgreSQL).

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, PgConnection, PgPool, SqliteConnection, SqlitePool};

use super::restore;
use crate::values::error::{Error, Result};

/// 3.51.3 is the first version without the WAL-reset corruption bug.
const SQLITE_OLDEST: [u32; 3] = [3, 51, 3];
/// Readers beside the writer; each holds a page cache of its own.
const READERS_MAX: u32 = 8;
/// How long a request waits for a free reader before it is told to come back.
const READER_WAIT: Duration = Duration::from_secs(5);
/// How many rows SQLite may read ahead of us: a whole table at the start, in long strides.
const ROWS_AHEAD: usize = 2_000;
/// "reauth" in ASCII: the key of the lock that says "one server writes to this database".
const ADVISORY_LOCK: i64 = 0x7265_6175_7468;
/// A server that was killed frees its lock when PostgreSQL sees the closed socket: soon.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The embedded database in its directory.
pub(super) const FILE: &str = "reauth.sqlite";
/// Whoever has it locked has the directory.
pub(super) const LOCK: &str = "reauth.lock";
/// Where the ledger's end is noted unless another file is named: in the directory, too.
pub const ANCHOR: &str = "ledger.head";

/// Where the tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// SQLite in a directory of its own.
    Directory(PathBuf),
    /// PostgreSQL 15 or newer, by its URL.
    Postgres(String),
}

/// One connection for writing.
pub(super) enum Conn {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Connections for reading.
pub(super) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Place {
    /// Takes the directory for this process alone, and creates it when it is missing (0700). The
    /// lock ends with the process, however it ends. A server that is just ending is waited for, and
    /// a restore that was broken off is finished.
    pub(super) async fn claim(&self) -> Result<Option<File>> {
        let Self::Directory(dir) = self else { return Ok(None) };
        private_directory(dir)?;
        let file = private_file(&dir.join(LOCK))?;
        let take = async {
            while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LOCK_WAIT, take).await.map_err(|_| {
            let why = format!("another server uses {}: stop it first", dir.display());
            Error::Conflict(why)
        })?;
        restore::finish(dir)?;
        Ok(Some(file))
    }

    /// The connection that writes. On PostgreSQL it holds the lock that keeps other servers out.
    pub(super) async fn writer(&self) -> Result<Conn> {
        match self {
            Self::Directory(dir) => {
                let options = sqlite_options(dir)?;
                let mut conn = SqliteConnection::connect_with(&options).await?;
                check_sqlite(&mut conn).await?;
                Ok(Conn::Sqlite(conn))
            }
            Self::Postgres(url) => {
                let mut conn = PgConnection::connect_with(&postgres_options(url)?).await?;
                check_postgres(&mut conn).await?;
                lock_postgres(&mut conn).await?;
                Ok(Conn::Postgres(conn))
            }
        }
    }

    /// The connections that read.
    pub(super) fn readers(&self) -> Result<Readers> {
        match self {
            Self::Directory(dir) => {
                let pool = SqlitePoolOptions::new()
                    .max_connections(READERS_MAX)
                    .acquire_timeout(READER_WAIT)
                    .test_before_acquire(false);
                Ok(Readers::Sqlite(pool.connect_lazy_with(sqlite_options(dir)?)))
            }
            Self::Postgres(url) => {
                let pool =
                    PgPoolOptions::new().max_connections(READERS_MAX).acquire_timeout(READER_WAIT);
                Ok(Readers::Postgres(pool.connect_lazy_with(postgres_options(url)?)))
            }
        }
    }
}

fn sqlite_options(dir: &Path) -> Result<SqliteConnectOptions> {
    let file = dir.join(FILE);
    private_file(&file)?;
    Ok(SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .row_buffer_size(ROWS_AHEAD)
        .busy_timeout(Duration::from_secs(5)))
}

async fn check_sqlite(conn: &mut SqliteConnection) -> Result<()> {
    let version: String =
        sqlx::query_scalar("select sqlite_version()").fetch_one(&mut *conn).await?;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts.as_slice() < SQLITE_OLDEST.as_slice() {
        let why = format!("SQLite {version} can lose data: 3.51.3 or newer is needed");
        return Err(Error::Conflict(why));
    }
    // 2 is FULL: an acknowledged commit survives a power cut.
    let synchronous: i64 = sqlx::query_scalar("pragma synchronous").fetch_one(&mut *conn).await?;
    let journal: String = sqlx::query_scalar("pragma journal_mode").fetch_one(&mut *conn).await?;
    if synchronous < 2 || journal != "wal" {
        let why =
            format!("SQLite refuses WAL with FULL ({journal}, {synchronous}): use a local disk");
        return Err(Error::Conflict(why));
    }
    Ok(())
}

fn postgres_options(url: &str) -> Result<PgConnectOptions> {
    let refuse = |what: &str| {
        let wanted = "postgres://user:password@host:5432/database";
        Error::invalid("database", format!("not a PostgreSQL URL ({what}); wanted: {wanted}"))
    };
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(refuse("another scheme"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| refuse(&error.to_string()))?;
    // A statement that takes longer is a database that cannot be relied on now.
    Ok(options.application_name("reauth").options([("statement_timeout", "30s")]))
}

async fn check_postgres(conn: &mut PgConnection) -> Result<()> {
    let number: String = sqlx::query_scalar("show server_version_num").fetch_one(conn).await?;
    if number.parse::<u32>().unwrap_or_default() < 150_000 {
        return Err(Error::Conflict(format!("PostgreSQL {number} is too old: 15 is needed")));
    }
    Ok(())
}

async fn lock_postgres(conn: &mut PgConnection) -> Result<()> {
    let take = async {
        loop {
            let query = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(ADVISORY_LOCK);
            if query.fetch_one(&mut *conn).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = Error::Conflict("another server writes to this database: stop it first".into());
    tokio::time::timeout(LOCK_WAIT, take).await.unwrap_or(Err(refused))
}

pub(super) fn private_directory(dir: &Path) -> Result<()> {
    let explain = |error: std::io::Error| {
        Error::Conflict(format!("cannot use the data directory {}: {error}", dir.display()))
    };
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(explain)?;
    }
    let is_empty = dir.read_dir().map_err(explain)?.next().is_none();
    let mode = dir.metadata().map_err(explain)?.permissions().mode();
    let is_private = mode & 0o077 == 0;
    if is_private {
        return Ok(());
    }
    if is_empty {
        let private = std::fs::Permissions::from_mode(0o700);
        return std::fs::set_permissions(dir, private).map_err(explain);
    }
    let dir = dir.display();
    Err(Error::Conflict(format!("others can read the data directory {dir}: run chmod 700 {dir}")))
}

/// Opens, or creates for the owner alone, a file of the data directory.
pub(super) fn private_file(path: &Path) -> Result<File> {
    let explain =
        |error: std::io::Error| Error::Conflict(format!("cannot open {}: {error}", path.display()));
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(0o600).open(path);
    let file = file.map_err(explain)?;
    if file.metadata().map_err(explain)?.permissions().mode() & 0o077 != 0 {
        let path = path.display();
        return Err(Error::Conflict(format!("others can read {path}: run chmod 600 {path}")));
    }
    Ok(file)
}
