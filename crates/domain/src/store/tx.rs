//! A reading and a writing view of the store. Both have one `now`; only a writing one can record
//! ledger entries, and it cannot commit rows without them.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt as _;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, SqlSafeStr, Sqlite};
use tokio::sync::OwnedMutexGuard;

use super::args::{Arg, Row, bind_postgres, bind_sqlite};
use super::connect::Conn;
use super::db::{Db, Writer};
use super::migrate;
use crate::ledger::{self, By, Change, Entry, Subject};
use crate::live::Live;
use crate::values::error::{Error, Result};
use crate::values::time::Time;

/// Reads the tables at one moment.
pub struct Read {
    link: Link,
    now: Time,
    db: Db,
}

pub(super) enum Link {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
    Writer(OwnedMutexGuard<Writer>),
}

enum ConnMut<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Link {
    fn conn(&mut self) -> Result<ConnMut<'_>> {
        match self {
            Self::Sqlite(conn) => Ok(ConnMut::Sqlite(conn)),
            Self::Postgres(conn) => Ok(ConnMut::Postgres(conn)),
            Self::Writer(writer) => match &mut writer.conn {
                Some(Conn::Sqlite(conn)) => Ok(ConnMut::Sqlite(conn)),
                Some(Conn::Postgres(conn)) => Ok(ConnMut::Postgres(conn)),
                None => Err(Error::Unavailable("the database connection is gone".into())),
            },
        }
    }
}

impl Read {
    pub(super) fn new(link: Link, now: Time, db: Db) -> Self {
        Self { link, now, db }
    }

    pub(super) fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    pub(super) fn at(self, now: Time) -> Self {
        Self { now, ..self }
    }

    /// The one moment of this view.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The store.
    pub(crate) fn db(&self) -> &Db {
        &self.db
    }

    /// The Live view that stands beside these tables.
    pub(crate) fn live(&self) -> &Live {
        self.db.live()
    }

    /// All rows of a statement, which must bound their number itself.
    pub(crate) async fn rows(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<Row>> {
        self.fetch(sql, args).await
    }

    /// As `rows`, for a text that is put together from our own literals. Never from a caller's.
    pub(crate) async fn rows_of(&mut self, sql: String, args: Vec<Arg>) -> Result<Vec<Row>> {
        self.fetch(AssertSqlSafe(sql), args).await
    }

    async fn fetch(&mut self, sql: impl SqlSafeStr, args: Vec<Arg>) -> Result<Vec<Row>> {
        match self.link.conn()? {
            ConnMut::Sqlite(conn) => {
                let rows = bind_sqlite(sqlx::query(sql), args).fetch_all(conn).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            ConnMut::Postgres(conn) => {
                let rows = bind_postgres(sqlx::query(sql), args).fetch_all(conn).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Hands every row on as it arrives, so that a long answer is never held whole.
    pub(crate) async fn each(
        &mut self,
        sql: &'static str,
        args: Vec<Arg>,
        mut take: impl FnMut(Row) -> Result<()>,
    ) -> Result<()> {
        match self.link.conn()? {
            ConnMut::Sqlite(conn) => {
                let mut rows = bind_sqlite(sqlx::query(sql), args).fetch(conn);
                while let Some(row) = rows.try_next().await? {
                    take(Row::Sqlite(row))?;
                }
            }
            ConnMut::Postgres(conn) => {
                let mut rows = bind_postgres(sqlx::query(sql), args).fetch(conn);
                while let Some(row) = rows.try_next().await? {
                    take(Row::Postgres(row))?;
                }
            }
        }
        Ok(())
    }

    /// The first row, when there is one.
    pub(crate) async fn first(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<Option<Row>> {
        Ok(self.rows(sql, args).await?.into_iter().next())
    }

    /// The one number that a `select count(*)` answers.
    pub(crate) async fn count(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<i64> {
        let row = self.first(sql, args).await?;
        row.ok_or_else(|| Error::Internal(format!("no row: {sql}")))?.int(0)
    }
}

/// Changes the tables: rows and the ledger entries that explain them, in one transaction.
pub struct Tx {
    read: Read,
    by: By,
    entries: Vec<Entry>,
    rehearsal: Option<Rehearsal>,
}

/// More changes than these are no rehearsal that anybody reads.
const ENTRIES_MAX: usize = 100_000;

/// What rehearsed changes would have written to the ledger, in their order.
#[derive(Clone, Default)]
pub struct Rehearsal {
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Rehearsal {
    /// Takes what has come together.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, entries: Vec<Entry>) {
        let mut all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let room = ENTRIES_MAX.saturating_sub(all.len());
        all.extend(entries.into_iter().take(room));
    }
}

impl std::ops::Deref for Tx {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.read
    }
}

impl std::ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Read {
        &mut self.read
    }
}

impl Tx {
    pub(super) fn new(read: Read, by: By) -> Self {
        Self { read, by, entries: Vec::new(), rehearsal: None }
    }

    /// From here on the change is a rehearsal: its commit answers as if it were done, and nothing
    /// is.
    #[must_use]
    pub fn rehearsed(self, rehearsal: &Rehearsal) -> Self {
        Self { rehearsal: Some(rehearsal.clone()), ..self }
    }

    /// Who acts.
    pub fn by(&self) -> &By {
        &self.by
    }

    /// See [`By::refuse_task`].
    pub(crate) fn refuse_task(&self) -> Result<()> {
        self.by.refuse_task()
    }

    /// Runs a statement that changes rows; answers how many.
    pub(crate) async fn change(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<u64> {
        self.execute(sql, args).await
    }

    /// As `change`, for a text that is put together from our own literals. Never from a caller's.
    pub(crate) async fn change_of(&mut self, sql: String, args: Vec<Arg>) -> Result<u64> {
        self.execute(AssertSqlSafe(sql), args).await
    }

    async fn execute(&mut self, sql: impl SqlSafeStr, args: Vec<Arg>) -> Result<u64> {
        Ok(match self.read.link.conn()? {
            ConnMut::Sqlite(conn) => {
                bind_sqlite(sqlx::query(sql), args).execute(conn).await?.rows_affected()
            }
            ConnMut::Postgres(conn) => {
                bind_postgres(sqlx::query(sql), args).execute(conn).await?.rows_affected()
            }
        })
    }

    /// Adds the ledger entry of this change. `why` is the caller's own reason, if it gave one.
    pub(crate) fn record(&mut self, subject: Subject, why: Option<String>, change: Change) {
        let (at, by) = (self.now(), self.by.clone());
        self.entries.push(Entry::new(at, subject, by, why, change));
    }

    /// Ends the transaction: appends the entries, commits, and applies them to Live, in this order
    /// and before it answers with the place of the ledger's last entry. A caller that goes away
    /// meanwhile does not interrupt it.
    pub async fn commit(self) -> Result<i64> {
        let db = self.read.db.clone();
        let done = tokio::spawn(self.finish()).await;
        done.unwrap_or_else(|error| {
            db.live().set_doubt(true);
            Err(Error::InDoubt(format!("commit: {error}")))
        })
    }

    async fn finish(mut self) -> Result<i64> {
        let Link::Writer(writer) = &self.read.link else {
            return Err(Error::Internal("a commit without the writer".into()));
        };
        let old = writer.head.clone();
        if let Some(rehearsal) = self.rehearsal.take() {
            let entries = std::mem::take(&mut self.entries);
            let seq = old.seq + i64::try_from(entries.len()).unwrap_or(0);
            rehearsal.add(entries);
            // The writer sees that it was given up, and rolls it back before the next change.
            return Ok(seq);
        }
        let mut new = old.clone();
        let mut entries = std::mem::take(&mut self.entries);
        for entry in &mut entries {
            new = ledger::append(&mut self, &new, entry).await?;
        }
        ledger::move_head(&mut self, &old, &new).await?;
        let live = self.read.db.live();
        let Link::Writer(writer) = &mut self.read.link else {
            return Err(Error::Internal("a commit without the writer".into()));
        };
        // Until Live has the entries the writer has no connection. So after a commit of which
        // nobody knows whether it holds, the next change first reads the tables again.
        let Some(mut conn) = writer.conn.take() else {
            return Err(Error::Unavailable("the database connection is gone".into()));
        };
        let committed = migrate::run(&mut conn, "commit").await;
        let done = committed.and_then(|()| live.apply(&entries));
        live.set_doubt(done.is_err());
        done.map_err(|error| Error::InDoubt(error.to_string()))?;
        let seq = new.seq;
        **writer = Writer { conn: Some(conn), head: new, is_open: false };
        if seq > old.seq {
            self.read.db.tell_move(seq);
        }
        Ok(seq)
    }
}
