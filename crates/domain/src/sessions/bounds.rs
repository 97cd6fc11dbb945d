//! Who can still get in, until when, and why: of one session, one user, all users.

use super::{OF_USER_MAX, Session, find, history};
use crate::access::Ended;
use crate::ledger::Stored;
use crate::live::{self, Bounded, Explained, OwnVerdict};
use crate::store::{Db, Read, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};

/// Why a session ends when it does.
#[derive(Debug)]
pub struct Explanation {
    /// The session.
    pub session: Session,
    /// Every end that is known of it.
    pub explained: Explained,
    /// What each policy says of it by itself.
    pub policies: Vec<OwnVerdict>,
    /// What led here, the oldest first.
    pub history: Vec<Stored>,
}

/// Why a session ends when it does, and the session itself.
pub async fn explain(read: &mut Read, app: AppId, id: SessionId) -> Result<Explanation> {
    let missing = || Error::not_found(format!("session {id}"));
    let sql = "select s.user_id from sessions s join users u on u.id = s.user_id
               where s.id = $1 and u.app_id = $2 and u.deleted_at is null";
    let row = read.first(sql, args![id, app]).await?.ok_or_else(missing)?;
    let user = row.parsed(0)?;
    let session = find(read, app, user, id).await?;
    let (of, active_at, now) = ((user, id), Some(session.connected_at), read.now());
    let explained = read.live().explain_session(of, active_at, now)?.ok_or_else(missing)?;
    let policies = read.live().own_verdicts(of, active_at, now)?;
    let history = history::of_session(read, app, (user, id), session.authenticated_at).await?;
    Ok(Explanation { session, explained, policies, history })
}

/// A credential with which someone can act for a user now, and its end if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The session; none for an authentication token that is not used yet.
    pub session: Option<SessionId>,
    /// When and why it surely ends: activity does not put it off. Of a token: the session that it
    /// can begin at its last moment.
    pub ends: Option<Ended>,
}

/// Every credential with which someone can act for a user now.
pub async fn access_of(read: &mut Read, user: UserId) -> Result<Vec<Access>> {
    let now = read.now();
    let sessions = read.live().bounds_of(user, now)?.into_iter();
    let mut list: Vec<Access> =
        sessions.map(|(id, ends)| Access { session: Some(id), ends }).collect();
    let sql = "select created_at, expires_at, ended_at, ended_by, traits from enrolments
               where user_id = $1 and ended_at is null and expires_at > $2
               order by expires_at desc limit $3";
    for row in read.rows(sql, args![user, now, OF_USER_MAX]).await? {
        let times = (row.time(0)?, row.time(1)?);
        let written = live::written_end(&row, 2)?;
        if read.live().judge_enrolment(user, times, written, now)?.is_valid() {
            let ends = read.live().bound_of_sign_in(user, &row.parsed(4)?, times.1)?;
            list.push(Access { session: None, ends });
        }
    }
    Ok(list)
}

/// Every user of an app for whom someone can act now: first those without a bound, then those
/// whose access lasts longest.
pub async fn of_app(db: &Db, app: AppId) -> Result<Vec<(UserId, Bounded)>> {
    let mut read = db.read().await?;
    let now = read.now();
    let looking = db.clone();
    let looked = tokio::task::spawn_blocking(move || looking.live().bounds(app, now)).await;
    let mut users = looked.map_err(|error| Error::Internal(format!("bounds: {error}")))??;
    let sql = "select e.user_id, e.created_at, e.expires_at, e.traits from enrolments e
               join users u on u.id = e.user_id
               where u.app_id = $1 and e.ended_at is null and e.expires_at > $2";
    let mut open = Vec::new();
    read.each(sql, args![app, now], |row| {
        open.push((row.parsed(0)?, (row.time(1)?, row.time(2)?), row.parsed(3)?));
        Ok(())
    })
    .await?;
    for (user, times, traits) in open {
        if db.live().judge_enrolment(user, times, None, now)?.is_valid() {
            let ends = db.live().bound_of_sign_in(user, &traits, times.1)?;
            let bounded = users.entry(user).or_insert_with(Bounded::nothing);
            bounded.add(ends.map(|ended| ended.at));
        }
    }
    let mut list: Vec<(UserId, Bounded)> = users.into_iter().collect();
    list.sort_unstable_by_key(|(user, bounded)| {
        (bounded.ends_by.is_some(), std::cmp::Reverse(bounded.ends_by), *user)
    });
    Ok(list)
}
