//! Builds the Live view from the tables, once at the start. The large ones come packed.

use std::sync::atomic::AtomicI64;

use super::view::{Token, View};
use crate::access::{Because, Ended, Limits};
use crate::apps::Settings;
use crate::apps::selectors::{self, Found};
use crate::cutoffs::revocations;
use crate::store::{Fields, Read, Row, args, missing, packed};
use crate::tokens::TokenKind;
use crate::values::error::Result;
use crate::values::ids::{AppId, RunId, SessionId, TokenId};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

pub(super) async fn load(read: &mut Read) -> Result<View> {
    let users = read.count("select count(*) from users", args![]).await?;
    let sessions = read.count("select count(*) from sessions", args![]).await?;
    let size = |rows: i64| usize::try_from(rows).unwrap_or(0);
    let mut view = View::with_capacity(size(users), size(sessions));
    let head =
        read.first("select not_before, fence_at from store_head where id = 1", args![]).await?;
    if let Some(head) = head {
        (view.everyone_not_before, view.fence_at) = (head.time(0)?, head.time(1)?);
    }
    load_apps(read, &mut view).await?;
    view = packed(read, (USERS, args![]), view, add_user).await?;
    load_groups(read, &mut view).await?;
    view = packed(read, (MEMBERS, args![]), view, add_member).await?;
    load_policies(read, &mut view).await?;
    view = packed(read, (SESSIONS, args![]), view, add_session).await?;
    load_labels(read, &mut view).await?;
    load_dates(read, &mut view).await?;
    for one in revocations::open(read).await? {
        let rule = view.cut(one.app, &one.stored.filter, &one.met, one.stored.wipes, one.set_at);
        view.app_mut(one.app).ok_or_else(|| missing("an app"))?.rules.push(rule);
    }
    load_tokens(read, &mut view).await?;
    load_run_tokens(read, &mut view).await?;
    Ok(view)
}

async fn load_apps(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, not_before, settings from apps order by created_at, id";
    read.each(sql, args![], |row| {
        let settings: Settings = row.json(2)?;
        view.add_app(row.parsed(0)?, row.time(1)?, settings.warn_before);
        Ok(())
    })
    .await?;
    let sql = "select app_id, from_at, max_age, max_idle from app_limits order by app_id, from_at";
    read.each(sql, args![], |row| {
        let app = view.app_mut(row.parsed(0)?).ok_or_else(|| missing("an app"))?;
        let (max_age, max_idle) = (row.span_or_null(2)?, row.span_or_null(3)?);
        app.add_era(row.time(1)?, Limits { max_age, max_idle, ..Limits::default() });
        Ok(())
    })
    .await
}

const USERS: &str = "select max(id), string_agg(concat_ws(' ', id, app_id, not_before,
    coalesce(cast(locked_at as text), '-'), coalesce(cast(deleted_at as text), '-')), ' ')
    from (select id, app_id, not_before, locked_at, deleted_at
          from users where id > $1 order by id limit $2) as page";

fn add_user(view: &mut View, fields: &mut Fields<'_>) -> Result<()> {
    let (id, app) = (fields.next()?, fields.next()?);
    let not_before = fields.time()?;
    let ended = user_ended(fields.time_or_null()?, fields.time_or_null()?);
    let added = view.add_user(id, app, ended, not_before);
    added.map(|_| ()).ok_or_else(|| missing("a user's app"))
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
    Ok(())
}

/// A group's name may have spaces: its place in the order of all groups, in which `load_groups`
/// made them known, stands for it.
const MEMBERS: &str = "select max(user_id),
    string_agg(concat_ws(' ', user_id, joined_at, place), ' ')
    from (select m.user_id, m.joined_at, g.place from
            (select distinct user_id from group_members where user_id > $1
             order by user_id limit $2) as page
          join group_members m on m.user_id = page.user_id
          join (select app_id, name, row_number() over (order by app_id, name) - 1 as place
                from user_groups) as g on g.app_id = m.app_id and g.name = m.name
          order by m.user_id, m.name) as members";

fn add_member(view: &mut View, fields: &mut Fields<'_>) -> Result<()> {
    let (user, joined_at, group) = (fields.next()?, fields.time()?, fields.next()?);
    view.join(user, group, joined_at).ok_or_else(|| missing("a member"))
}

/// A policy that cannot be read might be about anyone in its app: then nothing is known there, and
/// nobody is let in.
async fn load_policies(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select app_id, body, from_at, until_at, name from policies
               order by app_id, from_at, name";
    read.each(sql, args![], |row| {
        let app = row.parsed(0)?;
        let times = (row.time(2)?, row.time_or_null(3)?);
        let rule = row.json(1).and_then(|policy| {
            view.name(app, &policy)?;
            view.rule(app, policy, times, &Found::default())
        });
        let name = row.text(4)?;
        let app = view.app_mut(app).ok_or_else(|| missing("an app"))?;
        match rule {
            Ok(rule) => app.rules.push(rule),
            Err(error) => {
                let id = app.id;
                tracing::error!(app = %id, policy = name, %error, "a stored policy is unreadable");
                app.unreadable = Some(name);
            }
        }
        Ok(())
    })
    .await
}

/// Which sessions' labels fit the patterns that policies name. Nothing is read if none does.
async fn load_labels(read: &mut Read, view: &mut View) -> Result<()> {
    let apps: Vec<(AppId, Vec<String>)> =
        view.apps.iter().map(|app| (app.id, view.kinds.patterns(app.id))).collect();
    for (app, patterns) in apps.iter().filter(|(_, patterns)| !patterns.is_empty()) {
        let labels = selectors::labelled(read, *app, patterns, None).await?;
        view.label_all(*app, &labels).ok_or_else(|| missing("a session"))?;
    }
    Ok(())
}

async fn load_dates(read: &mut Read, view: &mut View) -> Result<()> {
    let sql = "select id, not_after_set_at, not_after from users where not_after is not null";
    read.each(sql, args![], |row| {
        let at = view.user(row.parsed(0)?).ok_or_else(|| missing("a user"))?;
        view.dates.insert(at, (row.time(1)?, row.time(2)?));
        Ok(())
    })
    .await
}

/// A policy's name may have spaces, but no tabs.
const SESSIONS: &str = "select max(id), string_agg(concat_ws(' ', id, user_id, secret_hash,
    traits, authenticated_at, connected_at, coalesce(cast(ended_at as text), '-'),
    coalesce(ended_by, '-'), coalesce(':' || replace(ended_policy, ' ', '\t'), '-'),
    coalesce(cast(warned_end as text), '-')), ' ')
    from (select id, user_id, secret_hash, traits, authenticated_at, connected_at, ended_at,
          ended_by, ended_policy, warned_end from sessions where id > $1
          order by id limit $2) as page";

fn add_session(view: &mut View, fields: &mut Fields<'_>) -> Result<()> {
    let id: SessionId = fields.next()?;
    let user = view.user(fields.next()?).ok_or_else(|| missing("a session's user"))?;
    let secret: SecretHash = fields.next()?;
    let kind = view.kinds.number_of_text(fields.text()?).ok_or_else(|| missing("traits"))?;
    let times = (fields.time()?, fields.time()?);
    let (ended_at, ended_by) = (fields.time_or_null()?, fields.text()?);
    let ended = ended_at.map(|at| Ended { at, because: because(ended_by) });
    let policy = fields.text()?.strip_prefix(':').map(|name| name.replace('\t', " "));
    let warned_end = fields.time_or_null()?;
    let at = view.add_session(user, id, (secret, kind), times, ended);
    if let Some(warned_end) = warned_end {
        view.warned.insert(at, warned_end);
    }
    view.ends.note(at, policy.as_deref());
    Ok(())
}

/// The written end in the columns `ended_at`, `ended_by` from `at` on.
pub(crate) fn written_end(row: &Row, at: usize) -> Result<Option<Ended>> {
    let Some(ended_at) = row.time_or_null(at)? else { return Ok(None) };
    Ok(Some(Ended { at: ended_at, because: because(&row.text(at + 1)?) }))
}

/// A reason that this binary does not know still ends.
fn because(name: &str) -> Because {
    name.parse().unwrap_or(Because::Unknown)
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

/// The tokens of the runs that are going, as their `run.started` made them. Those of runs that died
/// with their server are among them until `tasks::recover` ends them, before anybody is answered.
async fn load_run_tokens(read: &mut Read, view: &mut View) -> Result<()> {
    // A run from before the columns of its token was carried out by an older binary: it is lost.
    let sql = "select id, app_id, task, secret_scopes, secret_hash, started_at, secret_expires_at
               from runs where state = 'running' and secret_hash is not null
               and secret_expires_at is not null";
    read.each(sql, args![], |row| {
        let token = Token {
            id: row.parsed::<RunId>(0)?.uuid(),
            kind: TokenKind::Run,
            app: Some(row.parsed(1)?),
            name: row.text(2)?,
            scopes: row.parsed(3)?,
            created_at: row.time(5)?,
            expires_at: Some(row.time(6)?),
            ended: None,
            used_at: AtomicI64::new(0),
            flushed_at: AtomicI64::new(0),
        };
        view.tokens.insert(row.hash(4)?, token);
        Ok(())
    })
    .await
}
