//! Who can still get in, until when, and why: of one session, one user, all users.

use super::{OF_USER_MAX, Session, find, history};
use crate::access::{Ended, Traits};
use crate::groups;
use crate::ledger::Stored;
use crate::live::{Bounded, Explained, OwnVerdict};
use crate::store::{Db, Read, Row, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::Time;

/// Authentication tokens that can still be used, at `$1`.
macro_rules! unused_columns {
    ($rest:literal) => {
        concat!(
            "select u.app_id, e.user_id, e.created_at, e.expires_at, e.traits from enrolments e
             join users u on u.id = e.user_id where e.ended_at is null and e.expires_at > $1",
            $rest
        )
    };
}

/// Why a session ends when it does.
#[derive(Debug)]
pub struct Explanation {
    /// The session.
    pub session: Session,
    /// What policies can ask of it.
    pub traits: Traits,
    /// The groups that its user is in, by name.
    pub groups: Vec<String>,
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
    let sql = "select s.user_id, s.traits from sessions s join users u on u.id = s.user_id
               where s.id = $1 and u.app_id = $2 and u.deleted_at is null";
    let row = read.first(sql, args![id, app]).await?.ok_or_else(missing)?;
    let (user, traits) = (row.parsed(0)?, row.parsed(1)?);
    let session = find(read, app, user, id).await?;
    let (of, active_at, now) = ((user, id), Some(session.connected_at), read.now());
    let explained = read.live().explain_session(of, active_at, now)?.ok_or_else(missing)?;
    let policies = read.live().own_verdicts(of, active_at, now)?;
    let history = history::of_session(read, app, (user, id), session.authenticated_at).await?;
    let groups = groups::of_user(read, app, user).await?;
    Ok(Explanation { session, traits, groups, explained, policies, history })
}

/// A credential with which someone can act for a user now, and its end if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The session; none for an authentication token that is not used yet.
    pub session: Option<SessionId>,
    /// When and why it surely ends: activity does not put it off. Of a token: the session that it
    /// can begin.
    pub ends: Option<Ended>,
    /// Until when a token can be used; none for a session.
    pub usable_until: Option<Time>,
}

/// Every credential with which someone can act for a user now.
pub async fn access_of(read: &mut Read, user: UserId) -> Result<Vec<Access>> {
    let now = read.now();
    let sessions = read.live().bounds_of(user, now)?.into_iter();
    let of_session = |(id, ends)| Access { session: Some(id), ends, usable_until: None };
    let mut list: Vec<Access> = sessions.map(of_session).collect();
    let sql = unused_columns!(" and e.user_id = $2 order by e.expires_at desc limit $3");
    for row in read.rows(sql, args![now, user, OF_USER_MAX]).await? {
        let token = Unused::of(&row)?;
        let usable_until = Some(token.times.1);
        let ends = token.bound(read)?;
        list.extend(ends.map(|ends| Access { session: None, ends, usable_until }));
    }
    Ok(list)
}

/// An authentication token that is not used yet.
pub(super) struct Unused {
    pub(super) app: AppId,
    user: UserId,
    /// When it was issued, and until when it can be used.
    pub(super) times: (Time, Time),
    traits: Traits,
}

impl Unused {
    fn of(row: &Row) -> Result<Self> {
        let times = (row.time(2)?, row.time(3)?);
        Ok(Self { app: row.parsed(0)?, user: row.parsed(1)?, times, traits: row.parsed(4)? })
    }

    /// The surest end of the session that it can begin. None: it can begin none.
    fn bound(&self, read: &Read) -> Result<Option<Option<Ended>>> {
        let now = read.now();
        if !read.live().judge_enrolment(self.user, self.times, None, now)?.is_valid() {
            return Ok(None);
        }
        let ends = read.live().bound_of_sign_in(self.user, &self.traits, self.times.0)?;
        // One that begins nothing any more is no credential.
        Ok(ends.is_none_or(|ended| now < ended.at).then_some(ends))
    }
}

/// Those of an app, or of all.
pub(super) async fn unused(read: &mut Read, app: Option<AppId>) -> Result<Vec<Unused>> {
    let sql = unused_columns!(" and (cast($2 as text) is null or u.app_id = $2)");
    let (now, mut found) = (read.now(), Vec::new());
    read.each(sql, args![now, app], |row| {
        found.push(Unused::of(&row)?);
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Those users of unused authentication tokens with which a session begins that nothing ends for
/// sure; not those of apps whose policies cannot be read, which let nobody in.
pub(super) fn endless<'t>(
    read: &'t Read,
    tokens: &'t [Unused],
) -> impl Iterator<Item = (AppId, UserId)> + 't {
    let is_endless = |token: &&Unused| matches!(token.bound(read), Ok(Some(None)));
    tokens.iter().filter(is_endless).map(|token| (token.app, token.user))
}

/// Every user of an app for whom someone can act now: first those without a bound, then those
/// whose access lasts longest.
pub async fn of_app(db: &Db, app: AppId) -> Result<Vec<(UserId, Bounded)>> {
    let mut read = db.read().await?;
    let now = read.now();
    let looking = db.clone();
    let looked = tokio::task::spawn_blocking(move || looking.live().bounds(app, now)).await;
    let mut users = looked.map_err(|error| Error::Internal(format!("bounds: {error}")))??;
    for token in unused(&mut read, Some(app)).await? {
        if let Some(ends) = token.bound(&read)? {
            let bounded = users.entry(token.user).or_insert_with(Bounded::nothing);
            bounded.add(ends.map(|ended| ended.at));
        }
    }
    let mut list: Vec<(UserId, Bounded)> = users.into_iter().collect();
    list.sort_unstable_by_key(|(user, bounded)| {
        (bounded.ends_by.is_some(), std::cmp::Reverse(bounded.ends_by), *user)
    });
    Ok(list)
}
