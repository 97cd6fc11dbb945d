//! Builds the Live view from the tables, once at the start. These are the only statements that read
//! whole tables; they stream.

use std::sync::atomic::AtomicI64;

use super::view::{Token, View};
use crate::access::{Because, Ended, Era, Limits};
use crate::store::{Read, Row, args};
use crate::tokens::TokenKind;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, TokenId, UserId};
use crate::values::time::Time;

pub(super) async fn load(read: &mut Read) -> Result<View> {
    let users = read.count("select count(*) from users", args![]).await?;
    let sessions = read.count("select count(*) from sessions", args![]).await?;
    let size = |rows: i64| usize::try_from(rows).unwrap_or(0);
    let mut view = View::with_capacity(size(users), size(sessions));
    let head = read.first("select not_before from store_head where id = 1", args![]).await?;
    if let Some(head) = head {
        view.everyone_not_before = head.time(0)?;
    }
    load_apps(read, &mut view).await?;
    load_users(read, &mut view).await?;
    load_groups(read, &mut view).await?;
    load_sessions(read, &mut view).await?;
    load_tokens(read, &mut view).await?;
    Ok(view)
}

fn missing(what: &str) -> Error {
    Error::Internal(format!("the tables contradict each other: {what} is missing"))
}

async fn load_apps(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, not_before from apps order by created_at, id";
    read.each(sql, args![], |row| {
        view.add_app(row.parsed(0)?, row.time(1)?, Vec::new());
        Ok(())
    })
    .await?;
    let sql = "select app_id, from_at, max_age, max_idle from app_limits order by app_id, from_at";
    read.each(sql, args![], |row| {
        let app = view.app_mut(row.parsed(0)?).ok_or_else(|| missing("an app"))?;
        let limits = Limits { max_age: row.span_or_null(2)?, max_idle: row.span_or_null(3)? };
        app.eras.push(Era { from: row.time(1)?, limits });
        Ok(())
    })
    .await
}

async fn load_users(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, app_id, not_before, locked_at, deleted_at from users";
    read.each(sql, args![], |row| {
        let ended = user_ended(row.time_or_null(3)?, row.time_or_null(4)?);
        let added = view.add_user(row.parsed(0)?, row.parsed(1)?, ended, row.time(2)?);
        added.map(|_| ()).ok_or_else(|| missing("a user's app"))
    })
    .await
}

/// A deleted user stays ended; a locked one until the unlock.
fn user_ended(locked_at: Option<Time>, deleted_at: Option<Time>) -> Option<Ended> {
    let deleted = deleted_at.map(|at| Ended { at, because: Because::UserDeleted });
    deleted.or(locked_at.map(|at| Ended { at, because: Because::UserLocked }))
}

async fn load_groups(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select app_id, name, not_before from user_groups order by app_id, name";
    read.each(sql, args![], |row| {
        let at = view.group(row.parsed(0)?, &row.text(1)?).ok_or_else(|| missing("an app"))?;
        view.group_mut(at).ok_or_else(|| missing("a group"))?.not_before = row.time(2)?;
        Ok(())
    })
    .await?;
    let sql = "select app_id, name, user_id from group_members order by user_id, name";
    read.each(sql, args![], |row| {
        let at = view.group(row.parsed::<AppId>(0)?, &row.text(1)?);
        let at = at.ok_or_else(|| missing("an app"))?;
        let user = view.user_mut(row.parsed(2)?).ok_or_else(|| missing("a member"))?;
        user.groups = user.groups.iter().copied().chain([at]).collect();
        Ok(())
    })
    .await
}

async fn load_sessions(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, user_id, secret_hash, authenticated_at, connected_at, ended_at, ended_by
               from sessions";
    read.each(sql, args![], |row| {
        let user: UserId = row.parsed(1)?;
        let user = view.user(user).ok_or_else(|| missing("a session's user"))?;
        let times = (row.time(3)?, row.time(4)?);
        let id: SessionId = row.parsed(0)?;
        view.add_session(user, id, row.hash(2)?, times, written_end(&row, 5)?);
        Ok(())
    })
    .await
}

/// The written end in the columns `ended_at`, `ended_by` from `at` on. A reason that this binary
/// does not know still ends.
pub(crate) fn written_end(row: &Row, at: usize) -> Result<Option<Ended>> {
    let Some(ended_at) = row.time_or_null(at)? else { return Ok(None) };
    let because = row.text(at + 1)?.parse().unwrap_or(Because::Unknown);
    Ok(Some(Ended { at: ended_at, because }))
}

async fn load_tokens(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, app_id, name, scopes, hash, created_at, expires_at, used_at, revoked_at
               from tokens";
    read.each(sql, args![], |row| {
        let app = row.parsed_or_null(1)?;
        let used_at = row.time_or_null(7)?.map_or(0, Time::micros);
        let token = Token {
            id: row.parsed::<TokenId>(0)?.uuid(),
            kind: if app.is_some() { TokenKind::Api } else { TokenKind::Operator },
            app,
            name: row.text(2)?,
            scopes: row.parsed(3)?,
            created_at: row.time(5)?,
            expires_at: row.time_or_null(6)?,
            ended: row.time_or_null(8)?.map(|at| Ended { at, because: Because::Revoked }),
            used_at: AtomicI64::new(used_at),
            flushed_at: AtomicI64::new(used_at),
        };
        view.tokens.insert(row.hash(4)?, token);
        Ok(())
    })
    .await
}
