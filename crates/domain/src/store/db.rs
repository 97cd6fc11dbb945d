//! The open store: readers, the one writer, the clock and the Live view.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use tokio::sync::{Mutex, watch};

use super::connect::{Conn, Place, Readers};
use super::migrate;
use super::tx::{Link, Read, Tx};
use crate::ledger::{By, Change, Head, Subject};
use crate::live::{Live, Picture};
use crate::store::args;
use crate::values::error::{Error, Result};
use crate::values::time::{Clock, Span, Time};

/// How long a reader waits for a database that may be gone.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long a change waits for its turn before it is refused as busy.
const WRITER_WAIT: Duration = Duration::from_secs(10);

/// The store of one server. Clones are the same store.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    readers: Readers,
    writer: Arc<Mutex<Writer>>,
    clock: Clock,
    live: Live,
    moves: watch::Sender<i64>,
    _claim: Option<File>,
}

/// The one connection that writes, and the end of the ledger as it left it.
pub(super) struct Writer {
    pub(super) conn: Option<Conn>,
    pub(super) head: Head,
    /// A transaction has begun on the connection and has not ended.
    pub(super) is_open: bool,
}

impl Db {
    /// Opens the store, creates or upgrades its tables, and builds the Live view. Refuses when
    /// another server has it, when its tables are newer than this binary, or when others could
    /// read its files.
    pub async fn open(place: Place, clock: Clock) -> Result<Self> {
        let claim = place.claim().await?;
        let mut conn = place.writer().await?;
        migrate::migrate(&mut conn).await?;
        let writer = Writer { conn: Some(conn), head: Head::empty(), is_open: false };
        let inner = Inner {
            readers: place.readers()?,
            place,
            writer: Arc::new(Mutex::new(writer)),
            clock,
            live: Live::empty(),
            moves: watch::Sender::new(0),
            _claim: claim,
        };
        let db = Self { inner: Arc::new(inner) };
        if db.refresh().await?.seq == 0 {
            let mut tx = db.write(By::System).await?;
            tx.record(Subject::none(), None, Change::StoreCreated);
            tx.commit().await?;
        }
        Ok(db)
    }

    /// Ends all connections, so that the files are whole. Nobody uses another clone.
    pub async fn close(self) -> Result<()> {
        match &self.inner.readers {
            Readers::Sqlite(pool) => pool.close().await,
            Readers::Postgres(pool) => pool.close().await,
        }
        match self.inner.writer.lock().await.conn.take() {
            Some(Conn::Sqlite(conn)) => conn.close().await?,
            Some(Conn::Postgres(conn)) => conn.close().await?,
            None => {}
        }
        Ok(())
    }

    /// The in-memory view that checks read.
    pub fn live(&self) -> &Live {
        &self.inner.live
    }

    /// Tells of each commit that has entries, by the place of the last one.
    pub fn moves(&self) -> watch::Receiver<i64> {
        self.inner.moves.subscribe()
    }

    pub(super) fn tell_move(&self, seq: i64) {
        self.inner.moves.send_replace(seq);
    }

    /// The clock of this store.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        self.inner.clock.now()
    }

    /// Where the tables are.
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    /// What Live would know if it were built from the tables now: for proofs that it is right.
    pub async fn rebuilt_picture(&self, now: Time) -> Result<Picture> {
        let fresh = Live::empty();
        fresh.load(&mut self.read().await?).await?;
        fresh.set_doubt(false);
        fresh.picture(now)
    }

    /// A view for reading.
    pub async fn read(&self) -> Result<Read> {
        let link = match &self.inner.readers {
            Readers::Sqlite(pool) => Link::Sqlite(pool.acquire().await?),
            Readers::Postgres(pool) => Link::Postgres(pool.acquire().await?),
        };
        Ok(Read::new(link, self.now(), self.clone()))
    }

    /// Begins a change. Its `now` is later than that of every change and of every check before it:
    /// what they have seen end has ended before it.
    pub async fn write(&self, by: By) -> Result<Tx> {
        let mut read = self.writer().await?;
        let Link::Writer(writer) = read.link_mut() else {
            return Err(Error::Internal("a change without the writer".into()));
        };
        // Said first: the caller may go away while it begins.
        writer.is_open = true;
        let begun = match &mut writer.conn {
            Some(conn) => migrate::run(conn, begin(conn)).await,
            None => Err(Error::Unavailable("the database connection is gone".into())),
        };
        if let Err(error) = begun {
            // The connection is broken: the next change takes a new one.
            writer.conn = None;
            self.inner.live.set_doubt(true);
            return Err(error);
        }
        let now = self.now().max(writer.head.at).next();
        self.inner.clock.raise_floor(now);
        Ok(Tx::new(read.at(now), by))
    }

    /// Proves that the database still answers and persists the clock's floor. While this fails,
    /// checks answer "cannot know". Behind a change that takes long, a reader proves it.
    pub async fn pulse(&self) -> Result<()> {
        let beat = async {
            let mut tx = self.write(By::System).await?;
            let now = tx.now();
            tx.change("update store_head set floor_at = $1 where id = 1", args![now]).await?;
            tx.commit().await.map(|_| ())
        };
        let done = match beat.await {
            Err(Error::Busy { .. }) => self.answers().await,
            done => done,
        };
        if done.is_err() {
            self.inner.live.set_doubt(true);
        }
        done
    }

    async fn answers(&self) -> Result<()> {
        let asked = async {
            let mut read = self.read().await?;
            read.count("select count(*) from store_head", args![]).await.map(|_| ())
        };
        let gone = |_| Error::Unavailable("the database does not answer".into());
        tokio::time::timeout(ANSWER_WAIT, asked).await.map_err(gone)?
    }

    /// Writes down that the machine's clock was moved, if it was; answers by how much.
    pub async fn note_jump(&self) -> Result<Option<Span>> {
        let Some(by) = self.inner.clock.jumped() else { return Ok(None) };
        let noted = async {
            let mut tx = self.write(By::System).await?;
            let change = Change::ClockJumped { by_s: by.whole_seconds() };
            tx.record(Subject::none(), None, change);
            tx.commit().await
        };
        let noted = noted.await;
        if noted.is_err() {
            self.inner.clock.tell_again(by);
        }
        noted.map(|_| Some(by))
    }

    /// The writer's turn, on a connection that works and with a Live view that is up to date.
    async fn writer(&self) -> Result<Read> {
        let turn = tokio::time::timeout(WRITER_WAIT, Arc::clone(&self.inner.writer).lock_owned());
        let mut writer = turn.await.map_err(|_| Error::Busy {
            why: "too many changes are waiting for their turn".into(),
            retry_after_s: 5,
        })?;
        if writer.is_open {
            // The change before was given up: its rows must not be seen in this one.
            writer.is_open = false;
            let undone = match &mut writer.conn {
                Some(conn) => migrate::run(conn, "rollback").await,
                None => Ok(()),
            };
            if undone.is_err() {
                writer.conn = None;
            }
        }
        let is_new = writer.conn.is_none();
        if is_new {
            self.inner.live.set_doubt(true);
            writer.conn = Some(self.inner.place.writer().await?);
        }
        let mut read = Read::new(Link::Writer(writer), self.now(), self.clone());
        if is_new && let Err(error) = self.catch_up(&mut read).await {
            if let Link::Writer(writer) = read.link_mut() {
                writer.conn = None;
            }
            return Err(error);
        }
        Ok(read)
    }

    /// As if the database had been away: Live is built anew.
    pub(crate) async fn refresh(&self) -> Result<Head> {
        let mut read = self.writer().await?;
        self.catch_up(&mut read).await
    }

    /// Reads the end of the ledger and rebuilds Live from the tables.
    async fn catch_up(&self, read: &mut Read) -> Result<Head> {
        let (head, floor) = Head::load(read).await?;
        self.inner.clock.raise_floor(floor);
        self.inner.live.load(read).await?;
        self.inner.live.set_doubt(false);
        if let Link::Writer(writer) = read.link_mut() {
            writer.head = head.clone();
        }
        Ok(head)
    }
}

fn begin(conn: &Conn) -> &'static str {
    match conn {
        Conn::Sqlite(_) => "begin immediate",
        Conn::Postgres(_) => "begin",
    }
}
