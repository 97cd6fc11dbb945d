//! Device sessions: how they read, and how they end. How one begins is in `devices`.

pub mod bounds;
mod history;
pub mod sweep;

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::access::{Because, Ended, Verdict};
use crate::apps::policies::OverMax;
use crate::ledger::{Change, EndedSession, Subject};
use crate::live::{self, Room};
use crate::store::{Read, Row, Tx, args};
use crate::users;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::Time;

/// A user with more devices than this has a defect, not devices: the oldest are not shown.
const OF_USER_MAX: i64 = 1_000;
/// The most sessions that one page of users can bring along.
const OF_PAGE_MAX: i64 = 100_000;

/// What a device may do (contract, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Signed in.
    Enrolled,
    /// Must sign in at the next connect.
    Locked,
    /// As locked, and the device wipes its data at the next connect.
    Reset,
}

impl State {
    /// The state's name in the API and in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "ENROLLED",
            Self::Locked => "LOCKED",
            Self::Reset => "RESET",
        }
    }

    /// The state that an end leaves a device in.
    pub const fn after(because: Because) -> Self {
        match because {
            Because::Wiped | Because::UserDeleted => Self::Reset,
            _ => Self::Locked,
        }
    }
}

/// A session as it is at one moment: what the decision says, not just what is written down.
#[derive(Clone, Debug)]
pub struct Session {
    /// The id; it stays when the device signs in again.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The state, by the decision.
    pub state: State,
    /// When the user last really proved who they are.
    pub authenticated_at: Time,
    /// When the device first signed in.
    pub created_at: Time,
    /// When it was last signed out; the moment its time ran out if it did.
    pub signed_out_at: Option<Time>,
    /// When the device was last active.
    pub connected_at: Time,
    /// The app container: `version`, `bundle_id`, `platform`.
    pub container: Option<Value>,
    /// The runtime: `version`.
    pub runtime: Option<Value>,
    /// The device's own id.
    pub device_id: String,
    /// What the user calls the device.
    pub label: Option<String>,
    /// From where it signed in last.
    pub address: Option<IpAddr>,
    /// When the device last had all its data.
    pub synced_at: Option<Time>,
    /// When it will have to sign in again by itself.
    pub ends_at: Option<Time>,
    /// Why it ended.
    pub ended_by: Option<Because>,
}

/// All sessions of a user, newest first.
pub async fn of_user(read: &mut Read, user: UserId) -> Result<Vec<Session>> {
    let rows = read
        .rows(
            "select id, user_id, device_id, authenticated_at, created_at, signed_out_at,
             connected_at, container, runtime, label, synced_at, ended_at, ended_by, address
             from sessions where user_id = $1 order by created_at desc, id desc limit $2",
            args![user, OF_USER_MAX],
        )
        .await?;
    rows.iter().filter_map(|row| session(read, row).transpose()).collect()
}

/// The sessions of one page of users (see `users::page`), each user's newest first.
pub(crate) async fn of_page(
    read: &mut Read,
    app: AppId,
    limit: i64,
    skip: i64,
) -> Result<HashMap<UserId, Vec<Session>>> {
    let rows = read
        .rows(
            "select id, user_id, device_id, authenticated_at, created_at, signed_out_at,
             connected_at, container, runtime, label, synced_at, ended_at, ended_by, address
             from sessions where user_id in
               (select id from users where app_id = $1 and deleted_at is null
                order by created_at, id limit $2 offset $3)
             order by created_at desc, id desc limit $4",
            args![app, limit, skip, OF_PAGE_MAX],
        )
        .await?;
    if rows.len() as i64 == OF_PAGE_MAX {
        return Err(Error::invalid("limit", "these users have too many sessions: ask for fewer"));
    }
    let mut by_user: HashMap<UserId, Vec<Session>> = HashMap::new();
    for row in &rows {
        if let Some(session) = session(read, row)? {
            by_user.entry(session.user).or_default().push(session);
        }
    }
    Ok(by_user)
}

/// The session with this id, if it is one of this user of this app.
pub async fn find(read: &mut Read, app: AppId, user: UserId, id: SessionId) -> Result<Session> {
    users::find(read, app, user).await?;
    let row = read
        .first(
            "select id, user_id, device_id, authenticated_at, created_at, signed_out_at,
             connected_at, container, runtime, label, synced_at, ended_at, ended_by, address
             from sessions where id = $1 and user_id = $2",
            args![id, user],
        )
        .await?;
    let found = row.map(|row| session(read, &row)).transpose()?.flatten();
    found.ok_or_else(|| Error::not_found(format!("session {id} of user {user}")))
}

/// Puts the row and the decision together. None: the session is so new that Live does not have it
/// yet; it has not been acknowledged either.
fn session(read: &Read, row: &Row) -> Result<Option<Session>> {
    let (id, user) = (row.parsed(0)?, row.parsed(1)?);
    let Some((verdict, active_at)) = read.live().judge(user, id, read.now())? else {
        return Ok(None);
    };
    let written = live::written_end(row, 11)?;
    let verdict = match (verdict, written) {
        (Verdict::Ended(told), Some(_)) if told.because == Because::Wiped => verdict,
        (_, Some(written)) => Verdict::Ended(written),
        (_, None) => verdict,
    };
    let signed_out_at = row.time_or_null(5)?;
    let (state, signed_out_at, ends_at, ended_by) = match verdict {
        Verdict::Valid { ends_at } => (State::Enrolled, signed_out_at, ends_at, None),
        Verdict::Ended(Ended { at, because }) => {
            let at = if written.is_some() { signed_out_at } else { Some(at) };
            (State::after(because), at, None, Some(because))
        }
    };
    Ok(Some(Session {
        id,
        user,
        state,
        authenticated_at: row.time(3)?,
        created_at: row.time(4)?,
        signed_out_at,
        connected_at: row.time(6)?.max(active_at.unwrap_or(Time::ZERO)),
        container: row.json_or_null(7)?,
        runtime: row.json_or_null(8)?,
        device_id: row.text(2)?,
        label: row.text_or_null(9)?,
        synced_at: row.time_or_null(10)?,
        address: row.parsed_or_null(13)?,
        ends_at,
        ended_by,
    }))
}

/// ENROLLED → LOCKED. A session that is locked or reset stays as it is.
pub async fn re_authenticate(
    tx: &mut Tx,
    app: AppId,
    user: UserId,
    id: SessionId,
    why: Option<String>,
) -> Result<()> {
    if find(tx, app, user, id).await?.state == State::Enrolled {
        let ended = Ended { at: tx.now(), because: Because::ReAuthenticate };
        write_end(tx, (user, id), (ended, None), tx.now()).await?;
        tx.record(Subject::user(app, user), why, Change::SessionReAuthenticate { session: id });
    }
    Ok(())
}

/// Any → RESET: the device wipes its data at its next connect.
pub async fn wipe(
    tx: &mut Tx,
    app: AppId,
    user: UserId,
    id: SessionId,
    why: Option<String>,
) -> Result<()> {
    if find(tx, app, user, id).await?.state != State::Reset {
        // What had ended before ended when it did.
        let before = tx.live().ended(user, id, tx.now())?;
        let at = before.map_or(tx.now(), |(ended, _)| ended.at);
        let ended = Ended { at, because: Because::Wiped };
        write_end(tx, (user, id), (ended, None), tx.now()).await?;
        tx.record(Subject::user(app, user), why, Change::SessionWiped { session: id });
    }
    Ok(())
}

/// The user signs out on this device. What has ended already stays as it is.
pub async fn sign_out(tx: &mut Tx, app: AppId, user: UserId, id: SessionId) -> Result<()> {
    if find(tx, app, user, id).await?.state == State::Enrolled {
        let ended = Ended { at: tx.now(), because: Because::SignedOut };
        write_end(tx, (user, id), (ended, None), tx.now()).await?;
        tx.record(Subject::user(app, user), None, Change::SessionSignedOut { session: id });
    }
    Ok(())
}

/// Ends all sessions and unused authentication tokens of a user, and answers which sessions. A
/// session whose time had run out before ends then and for that reason, not now for this one;
/// unless all are to be RESET.
pub(crate) async fn end_all(
    tx: &mut Tx,
    user: UserId,
    because: Because,
) -> Result<Vec<EndedSession>> {
    end_enrolments(tx, user, because).await?;
    end_others(tx, user, None, because).await
}

/// As `end_all`, without the authentication tokens and without the session to `keep`.
pub(crate) async fn end_others(
    tx: &mut Tx,
    user: UserId,
    keep: Option<SessionId>,
    because: Because,
) -> Result<Vec<EndedSession>> {
    let sql = "select id, ended_by from sessions where user_id = $1 order by id";
    let rows = tx.rows(sql, args![user]).await?;
    let mut list = Vec::new();
    for row in rows {
        let id: SessionId = row.parsed(0)?;
        let written = row.parsed_or_null::<Because>(1)?;
        let is_over =
            written.is_some_and(|old| State::after(because) == State::Locked || old == because);
        if is_over || Some(id) == keep {
            continue;
        }
        let now = tx.now();
        let (ended, policy) = match if_readable(tx.live().ended(user, id, now))? {
            Some(known) if State::after(because) == State::Locked => known,
            Some((ended, _)) => (Ended { at: ended.at, because }, None),
            None => (Ended { at: now, because }, None),
        };
        write_end(tx, (user, id), (ended, policy.as_deref()), ended.at).await?;
        list.push(EndedSession::new(id, ended, policy));
    }
    Ok(list)
}

/// Ends the sessions of a user for which there is no room beside a new one, those first that were
/// authenticated longest ago; or refuses the new one.
pub(crate) async fn end_surplus(
    tx: &mut Tx,
    user: UserId,
    new: SessionId,
    room: Room,
) -> Result<Vec<EndedSession>> {
    let (surplus, now) = (surplus(tx, user, new, &room).await?, tx.now());
    let mut list = Vec::new();
    for id in surplus {
        let (ended, policy) = (Ended { at: now, because: Because::TooMany }, room.policy.clone());
        write_end(tx, (user, id), (ended, Some(&policy)), now).await?;
        list.push(EndedSession::new(id, ended, Some(policy)));
    }
    Ok(list)
}

/// The sessions of a user for which there is no room beside a new one; or refuses the new one.
pub(crate) async fn surplus(
    tx: &mut Tx,
    user: UserId,
    new: SessionId,
    room: &Room,
) -> Result<Vec<SessionId>> {
    let sql = "select id from sessions where user_id = $1 and ended_at is null and id <> $2
               order by authenticated_at desc, id desc";
    let (rows, now) = (tx.rows(sql, args![user, new]).await?, tx.now());
    let mut others: Vec<SessionId> = Vec::new();
    for row in rows {
        let id = row.parsed(0)?;
        if let Some((Verdict::Valid { .. }, _)) = tx.live().judge(user, id, now)? {
            others.push(id);
        }
    }
    let room_left = usize::try_from(room.max.saturating_sub(1)).unwrap_or(usize::MAX);
    if others.len() > room_left && room.over == OverMax::RefuseNew {
        let (count, policy) = (others.len(), &room.policy);
        let why = format!(
            "the user is signed in on {count} devices, as many as policy {policy} allows: sign \
             out on one of them first"
        );
        return Err(Error::Conflict(why));
    }
    Ok(others.split_off(room_left.min(others.len())))
}

/// Writes down the ends that the decision sees by now, before something changes by which it might
/// see them no more: also that one which had ended before is to wipe its data. What began in this
/// change it does not see yet.
pub(crate) async fn write_down(tx: &mut Tx, user: UserId) -> Result<Vec<EndedSession>> {
    let sql = "select id, ended_by from sessions where user_id = $1 and state <> 'RESET'
               and authenticated_at < $2 order by id";
    let now = tx.now();
    let rows = tx.rows(sql, args![user, now]).await?;
    let mut list = Vec::new();
    for row in rows {
        let id: SessionId = row.parsed(0)?;
        let is_written = row.parsed_or_null::<Because>(1)?.is_some();
        let is_news = |ended: &Ended| !is_written || ended.because == Because::Wiped;
        let ended = tx.live().ended(user, id, now)?;
        if let Some((ended, policy)) = ended.filter(|(ended, _)| is_news(ended)) {
            write_end(tx, (user, id), (ended, policy.as_deref()), ended.at).await?;
            list.push(EndedSession::new(id, ended, policy));
        }
    }
    Ok(list)
}

/// While a policy of the app cannot be read Live tells nothing of its users, and yet their access
/// can be ended.
fn if_readable<T>(told: Result<Option<T>>) -> Result<Option<T>> {
    match told {
        Err(Error::Unreadable(_)) => Ok(None),
        told => told,
    }
}

/// Ends the unused authentication tokens of a user.
pub(crate) async fn end_enrolments(tx: &mut Tx, user: UserId, because: Because) -> Result<()> {
    let now = tx.now();
    tx.change(
        "update enrolments set ended_at = $1, ended_by = $2
         where user_id = $3 and ended_at is null",
        args![now, because.name(), user],
    )
    .await?;
    Ok(())
}

/// With the policy that asks for it, and the activity that Live noted last: an ended session has
/// none in Live any more. Of what had ended before only a wipe is news, of this moment.
async fn write_end(
    tx: &mut Tx,
    (user, id): (UserId, SessionId),
    (ended, policy): (Ended, Option<&str>),
    signed_out_at: Time,
) -> Result<()> {
    let now = tx.now();
    let judged = if_readable(tx.live().judge(user, id, now))?;
    let active_at = judged.and_then(|(_, active_at)| active_at).unwrap_or(Time::ZERO);
    tx.change(
        "update sessions set state = $1, ended_at = $2, ended_by = $3,
         signed_out_at = case when ended_at is null then $4 else $8 end, ended_policy = $5,
         connected_at = case when connected_at < $6 then $6 else connected_at end where id = $7",
        args![
            State::after(ended.because).name(),
            ended.at,
            ended.because.name(),
            signed_out_at,
            policy.map(str::to_owned),
            active_at,
            id,
            now
        ],
    )
    .await?;
    Ok(())
}
