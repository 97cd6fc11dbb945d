//! Revocations by a filter: whoever meets it must sign in again, or wipes their data. Like a policy
//! it is one row that every check looks at, so that all of it holds at once however many sessions
//! there are; the sweep then writes the ends down, and when all are written the row is done.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::access::Because;
use crate::apps::App;
use crate::apps::selectors::{self, Selector};
use crate::ledger::{self, By, Change, Head, Subject};
use crate::store::{Db, Read, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

/// Each is looked at by every check until the sweep has written its ends.
const OPEN_MAX: i64 = 100;
/// Tokens that one statement ends.
const TOKENS_A_STATEMENT: usize = 50;

/// Whose sessions: those that meet all that is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// As in a policy.
    pub applies_to: Selector,
    /// Authenticated at this moment or before it.
    pub authenticated_before: Option<Time>,
    /// First signed in at this moment or before it.
    pub created_before: Option<Time>,
    /// On the device with this id of its own.
    pub device_id: Option<String>,
    /// Signed in from an address of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpNet>,
}

impl Filter {
    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<()> {
        self.applies_to.check().map_err(|error| match error {
            Error::Invalid { field, why } => {
                let field = field.replacen("applies_to", "filter", 1);
                Error::Invalid { field, why }
            }
            other => other,
        })
    }

    /// Whether only the tables know which sessions meet it.
    fn asks_tables(&self) -> bool {
        self.applies_to.labels.is_some()
            || self.created_before.is_some()
            || self.device_id.is_some()
            || self.ip.is_some()
    }
}

/// Who meets a filter, as far as Live cannot know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Met {
    /// The users who have its attributes; none if it names no attribute.
    pub users: Option<Vec<UserId>>,
    /// The sessions with its label, device or beginning; none if it names none of them.
    pub sessions: Option<Arc<HashSet<SessionId>>>,
}

/// What is stored of a revocation. Attributes may change before the sweep has come by: who has them
/// is stored. What else the tables know of a session does not change before it signs in again.
#[derive(Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) filter: Filter,
    pub(crate) wipes: bool,
    users: Option<Vec<UserId>>,
}

impl Stored {
    /// What cannot be read may be about anyone in its app: everyone there signs in again.
    fn of_everyone(app: AppId, error: &Error) -> Self {
        tracing::error!(%app, %error, "a stored revocation is unreadable: it is for everyone");
        let applies_to = Selector { everyone: true, ..Selector::default() };
        let filter = Filter { applies_to, ..Filter::default() };
        Self { filter, wipes: false, users: None }
    }
}

/// A revocation that was looked at: whom it would end.
#[derive(Debug)]
pub struct Looked {
    /// Whose sessions.
    pub filter: Filter,
    /// Whether their devices are to wipe their data.
    pub wipes: bool,
    /// Who meets the filter.
    pub met: Met,
    /// The sessions that it would end, each with its user.
    pub found: Vec<(UserId, SessionId)>,
    /// The end of the ledger before that.
    head: Head,
    /// By which building of Live it was found.
    built: u64,
}

/// Looks whom a revocation would end. It looks at every session, but holds nobody up.
pub async fn look(db: &Db, app: &App, filter: Filter, wipes: bool) -> Result<Looked> {
    let mut read = db.read().await?;
    let built = db.live().built();
    let (head, now) = (ledger::head(&mut read).await?, read.now());
    let met = find(&mut read, app, &filter).await?;
    drop(read);
    let looked = Looked { filter, wipes, met, found: Vec::new(), head, built };
    found_by(db, app.id, looked, now).await
}

/// Whether so much has changed since that a second look is as long as the first.
pub async fn is_far_behind(read: &mut Read, app: AppId, looked: &Looked) -> Result<bool> {
    let is_anew = looked.built != read.live().built();
    Ok(is_anew || ledger::users_since(read, app, &looked.head).await?.is_none())
}

/// Looks again at what has changed since, within the change: whoever the ledger names, or all if
/// it names too many or if Live was built anew.
pub async fn look_again(tx: &mut Tx, app: &App, mut looked: Looked) -> Result<Looked> {
    let (now, head) = (tx.now(), looked.head.clone());
    let is_anew = looked.built != tx.live().built();
    let users = ledger::users_since(tx, app.id, &head).await?.filter(|_| !is_anew);
    let Some(users) = users else {
        looked.met = find(tx, app, &looked.filter).await?;
        let db = tx.db().clone();
        return found_by(&db, app.id, looked, now).await;
    };
    let Looked { filter, wipes, met, found, .. } = &mut looked;
    found.retain(|(user, _)| !users.contains(user));
    for user in users {
        if let Some(met) = &mut met.users {
            met.retain(|met| *met != user);
            met.extend(having(tx, app, filter, Some(user)).await?.into_iter().flatten());
        }
        if let Some(met) = met.sessions.as_mut().map(Arc::make_mut) {
            for row in tx.rows("select id from sessions where user_id = $1", args![user]).await? {
                met.remove(&row.parsed(0)?);
            }
            let again = sessions(tx, app.id, filter, Some(user)).await?;
            met.extend(again.iter().flat_map(|again| again.iter()));
        }
        found.extend(tx.live().met_of(app.id, &[user], (filter, met), *wipes, now)?);
    }
    Ok(looked)
}

async fn found_by(db: &Db, app: AppId, mut looked: Looked, now: Time) -> Result<Looked> {
    let db = db.clone();
    let looking = tokio::task::spawn_blocking(move || {
        let (meant, wipes) = ((&looked.filter, &looked.met), looked.wipes);
        looked.found = match &looked.filter.applies_to.users {
            Some(users) => db.live().met_of(app, users, meant, wipes, now)?,
            None => db.live().met_by(app, meant, wipes, now)?,
        };
        Ok(looked)
    });
    looking.await.map_err(|error| Error::Internal(format!("a revocation: {error}")))?
}

/// Looks up who meets a filter.
pub async fn find(read: &mut Read, app: &App, filter: &Filter) -> Result<Met> {
    filter.check()?;
    let users = having(read, app, filter, None).await?;
    Ok(Met { users, sessions: sessions(read, app.id, filter, None).await? })
}

/// The users with all attributes that it names, of all or of one; none if it names no attribute.
async fn having(
    read: &mut Read,
    app: &App,
    filter: &Filter,
    only: Option<UserId>,
) -> Result<Option<Vec<UserId>>> {
    let mut users: Option<HashSet<UserId>> = None;
    for attribute in filter.applies_to.attributes.iter().flatten() {
        let having = selectors::having(read, app, attribute, only).await?;
        let having: HashSet<UserId> = having.into_iter().collect();
        users = Some(match users {
            Some(users) => users.intersection(&having).copied().collect(),
            None => having,
        });
    }
    Ok(users.map(|users| users.into_iter().collect()))
}

/// The sessions with what only the tables know, of all users or of one.
async fn sessions(
    read: &mut Read,
    app: AppId,
    filter: &Filter,
    only: Option<UserId>,
) -> Result<Option<Arc<HashSet<SessionId>>>> {
    if !filter.asks_tables() {
        return Ok(None);
    }
    // The user's own rows are few: the statement is to begin there.
    macro_rules! of_table {
        ($rest:literal) => {
            concat!(
                "select s.id, s.label, s.address from sessions s join users u on u.id = s.user_id
                 where u.app_id = $1 and (cast($2 as text) is null or s.device_id = $2)
                 and (cast($3 as bigint) is null or s.created_at <= $3) and ",
                $rest
            )
        };
    }
    let sql = match only {
        Some(_) => of_table!("s.user_id = $4"),
        None => of_table!("cast($4 as text) is null"),
    };
    let patterns = filter.applies_to.labels.as_deref();
    let mut found = HashSet::new();
    let args = args![app, filter.device_id.clone(), filter.created_before, only];
    read.each(sql, args, |row| {
        let label = row.text_or_null(1)?.unwrap_or_default();
        let address: Option<IpAddr> = row.parsed_or_null(2)?;
        let is_from = |net: &IpNet| address.is_some_and(|address| net.contains(&address));
        if patterns.is_none_or(|any| selectors::fitting(any, &label).next().is_some())
            && filter.ip.as_ref().is_none_or(is_from)
        {
            found.insert(row.parsed(0)?);
        }
        Ok(())
    })
    .await?;
    Ok(Some(Arc::new(found)))
}

/// Ends the sessions that meet a filter: from this commit on no check accepts one.
pub async fn set(tx: &mut Tx, app: AppId, looked: Looked, why: Option<String>) -> Result<()> {
    let sql = "select count(*) from revocations where app_id = $1";
    if tx.count(sql, args![app]).await? >= OPEN_MAX {
        return Err(Error::Busy {
            why: "too many revocations are being written down".into(),
            retry_after_s: 60,
        });
    }
    let Looked { filter, wipes, met, .. } = looked;
    end_enrolments(tx, app, (&filter, &met), wipes).await?;
    let now = tx.now();
    let stored = Stored { filter: filter.clone(), wipes, users: met.users.clone() };
    let body = serde_json::to_string(&stored)
        .map_err(|error| Error::Internal(format!("a revocation: {error}")))?;
    tx.change(
        "insert into revocations (app_id, set_at, body) values ($1, $2, $3)",
        args![app, now, body],
    )
    .await?;
    let change = Change::RevocationSet { filter, wipes, met };
    tx.record(Subject::app(app), why, change);
    Ok(())
}

/// How many unused authentication tokens a revocation would end beside the sessions.
pub async fn tokens(read: &mut Read, app: AppId, looked: &Looked) -> Result<usize> {
    let meant = (&looked.filter, &looked.met);
    meant_tokens(read, app, meant, looked.wipes).await.map(|found| found.len())
}

/// The unused authentication tokens from before it with which a session could begin that it would
/// have ended: once its ends are written, nothing else would keep that out.
async fn meant_tokens(
    read: &mut Read,
    app: AppId,
    meant: (&Filter, &Met),
    wipes: bool,
) -> Result<Vec<SecretHash>> {
    let sql = "select e.user_id, e.traits, e.hash from enrolments e
               join users u on u.id = e.user_id
               where u.app_id = $1 and e.ended_at is null and e.expires_at > $2
               and e.created_at <= $3";
    let now = read.now();
    let issued_by = meant.0.authenticated_before.map_or(now, |before| before.min(now));
    let mut tokens = Vec::new();
    read.each(sql, args![app, now, issued_by], |row| {
        tokens.push((row.parsed(0)?, row.parsed(1)?, row.hash(2)?));
        Ok(())
    })
    .await?;
    read.live().meant_tokens(app, meant, wipes, now, tokens)
}

async fn end_enrolments(
    tx: &mut Tx,
    app: AppId,
    meant: (&Filter, &Met),
    wipes: bool,
) -> Result<()> {
    let now = tx.now();
    let because = if wipes { Because::Wiped } else { Because::ReAuthenticate };
    for some in meant_tokens(tx, app, meant, wipes).await?.chunks(TOKENS_A_STATEMENT) {
        let places = (3..some.len() + 3).map(|token| format!("${token}"));
        let sql = format!(
            "update enrolments set ended_at = $1, ended_by = $2 where hash in ({})",
            places.collect::<Vec<_>>().join(", ")
        );
        let mut args = args![now, because.name()];
        args.extend(some.iter().flat_map(|hash| args![*hash]));
        tx.change_of(sql, args).await?;
    }
    Ok(())
}

/// A revocation whose ends are being written down.
pub(crate) struct Open {
    pub(crate) app: AppId,
    pub(crate) set_at: Time,
    pub(crate) stored: Stored,
    pub(crate) met: Met,
}

/// All that are not done.
pub(crate) async fn open(read: &mut Read) -> Result<Vec<Open>> {
    let sql = "select app_id, set_at, body from revocations order by app_id, set_at";
    let mut list = Vec::new();
    for row in read.rows(sql, args![]).await? {
        let (app, set_at) = (row.parsed(0)?, row.time(1)?);
        let stored = row.json(2).unwrap_or_else(|error| Stored::of_everyone(app, &error));
        // Those that had begun by then: who signs in later is not meant.
        let began_by = stored.filter.created_before.map_or(set_at, |before| before.min(set_at));
        let filter = Filter { created_before: Some(began_by), ..stored.filter.clone() };
        let asks_tables = stored.filter.asks_tables();
        let found = if asks_tables { sessions(read, app, &filter, None).await? } else { None };
        let met = Met { users: stored.users.clone(), sessions: found };
        list.push(Open { app, set_at, stored, met });
    }
    Ok(list)
}

/// The apps with a revocation that cannot be read, and when it was stated.
pub async fn unreadable(read: &mut Read) -> Result<Vec<(AppId, Time)>> {
    let sql = "select app_id, set_at, body from revocations order by app_id, set_at";
    let rows = read.rows(sql, args![]).await?;
    let broken = rows.iter().filter(|row| row.json::<Stored>(2).is_err());
    broken.map(|row| Ok((row.parsed(0)?, row.time(1)?))).collect()
}

/// Forgets a revocation all of whose ends are written. One that cannot be read stays: whom it was
/// to end, and whether they were to wipe their data, only a person can tell.
pub async fn finish(db: &Db, (app, set_at): (AppId, Time)) -> Result<()> {
    let sql = "select body from revocations where app_id = $1 and set_at = $2";
    let row = db.read().await?.first(sql, args![app, set_at]).await?;
    if row.is_none_or(|row| row.json::<Stored>(0).is_err()) {
        return Ok(());
    }
    let mut tx = db.write(By::System).await?;
    let sql = "delete from revocations where app_id = $1 and set_at = $2";
    if tx.change(sql, args![app, set_at]).await? > 0 {
        tx.record(Subject::app(app), None, Change::RevocationDone { set_at });
    }
    tx.commit().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::{self, Settings};
    use crate::devices::{self, Device, Proof};
    use crate::store::Place;
    use crate::users;
    use crate::values::time::Clock;

    /// A user signed in on one device; the session.
    async fn sign_in(db: &Db, app: &App, device: &str) -> (UserId, SessionId) {
        let mut tx = db.write(By::System).await.expect("a change");
        let schema = &app.settings.user_schema;
        let user = users::create(&mut tx, app.id, schema, None, serde_json::Map::new()).await;
        let user = user.expect("a user").id;
        tx.commit().await.expect("it holds");
        let mut tx = db.write(By::System).await.expect("a change");
        let (token, _) =
            devices::issue(&mut tx, app.id, user, None, Proof::default()).await.expect("a token");
        let device = Device { id: device.into(), ..Device::default() };
        let made = devices::enroll(&mut tx, app.id, token.reveal(), device).await;
        tx.commit().await.expect("it holds");
        (user, made.expect("a session").session)
    }

    /// The database was away between a look and its statement, and was changed meanwhile.
    #[tokio::test]
    async fn what_was_seen_before_live_was_built_anew_is_looked_at_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::manual(Time::parse("2026-05-03T06:12:00Z").expect("a moment"));
        let db = Db::open(Place::Directory(dir.path().join("data")), clock).await;
        let db = db.expect("a store");
        let mut tx = db.write(By::System).await.expect("a change");
        let app = apps::create(&mut tx, ("shop", Settings::default()), false).await;
        let app = app.expect("an app");
        tx.commit().await.expect("it holds");
        let first = sign_in(&db, &app, "phone").await;
        let second = sign_in(&db, &app, "tablet").await;
        let filter = Filter { device_id: Some("phone".into()), ..Filter::default() };
        let applies_to = Selector { everyone: true, ..Selector::default() };
        let filter = Filter { applies_to, ..filter };
        let seen = look(&db, &app, filter, false).await.expect("it looks");
        assert_eq!(seen.found, [first]);
        let mut tx = db.write(By::System).await.expect("a change");
        // As someone else would: the ledger does not name it.
        tx.change("update sessions set device_id = 'phone'", args![]).await.expect("a change");
        tx.commit().await.expect("it holds");
        db.refresh().await.expect("it is back");
        let mut tx = db.write(By::System).await.expect("a change");
        assert!(is_far_behind(&mut tx, app.id, &seen).await.expect("it knows"));
        let mut again = look_again(&mut tx, &app, seen).await.expect("it looks");
        again.found.sort_unstable();
        assert_eq!(again.found, [first, second]);
        set(&mut tx, app.id, again, None).await.expect("it is stated");
        tx.commit().await.expect("it holds");
        for (user, _) in [first, second] {
            let ends = db.live().bounds_of(user, db.now()).expect("it knows");
            assert!(ends.is_empty(), "{ends:?}");
        }
    }
}
