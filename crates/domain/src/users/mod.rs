//! Users of an app and their attributes. A user is the subject of every other noun; what may happen
//! to their sessions is in `sessions`.

pub mod expression;
mod query;
mod schema;

use serde_json::{Map, Value};

use crate::access::Because;
use crate::groups;
use crate::ledger::{Change, Subject};
use crate::sessions::{self, Session};
use crate::store::{Read, Row, Tx, args};
use crate::tokens::{Scope, Scopes};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::Time;

pub use query::{Condition, Direction, Filter, Operator, Order, Query, select};
pub(crate) use schema::Indexed;
pub use schema::{FieldType, UserSchema};

/// The most users on one page (contract, section 2).
pub const PAGE_ROWS_MAX: i64 = 1_000;

/// A user of an app.
#[derive(Clone, Debug)]
pub struct User {
    /// The id.
    pub id: UserId,
    /// When the user was created.
    pub created_at: Time,
    /// When an attribute last changed.
    pub updated_at: Time,
    /// Since when the user is locked.
    pub locked_at: Option<Time>,
    /// From when on the user is signed in nowhere.
    pub not_after: Option<Time>,
    /// The attributes; what is not set is absent.
    pub attributes: Map<String, Value>,
}

impl User {
    /// What people call this user: the name, else the e-mail address, else the id.
    pub fn display(&self) -> String {
        let text = |name: &str| self.attributes.get(name).and_then(Value::as_str);
        text("name").or(text("email")).map_or_else(|| self.id.to_string(), str::to_owned)
    }
}

const COLUMNS: &str = "u.id, u.created_at, u.updated_at, u.locked_at, u.not_after, u.attributes";

fn user(row: &Row) -> Result<User> {
    Ok(User {
        id: row.parsed(0)?,
        created_at: row.time(1)?,
        updated_at: row.time(2)?,
        locked_at: row.time_or_null(3)?,
        not_after: row.time_or_null(4)?,
        attributes: row.json(5)?,
    })
}

/// The user with this id, if it is one of this app and not deleted.
pub async fn find(read: &mut Read, app: AppId, id: UserId) -> Result<User> {
    let row = read
        .first(
            "select u.id, u.created_at, u.updated_at, u.locked_at, u.not_after, u.attributes
             from users u
             where u.id = $1 and u.app_id = $2 and u.deleted_at is null",
            args![id, app],
        )
        .await?;
    row.map(|row| user(&row)).transpose()?.ok_or_else(|| Error::not_found(format!("user {id}")))
}

/// A user with all their sessions, newest first.
pub async fn find_with_sessions(
    read: &mut Read,
    app: AppId,
    id: UserId,
) -> Result<(User, Vec<Session>)> {
    let user = find(read, app, id).await?;
    let sessions = sessions::of_user(read, id).await?;
    Ok((user, sessions))
}

/// One page of users with their sessions, oldest user first, and how many users there are in all.
pub async fn page(
    read: &mut Read,
    app: AppId,
    limit: i64,
    skip: i64,
) -> Result<(Vec<(User, Vec<Session>)>, i64)> {
    let total = count(read, app).await?;
    let limit = limit.clamp(0, PAGE_ROWS_MAX);
    let rows = read
        .rows(
            "select u.id, u.created_at, u.updated_at, u.locked_at, u.not_after, u.attributes
             from users u
             where u.app_id = $1 and u.deleted_at is null
             order by u.created_at, u.id limit $2 offset $3",
            args![app, limit, skip],
        )
        .await?;
    let mut sessions = sessions::of_page(read, app, limit, skip).await?;
    let with_sessions = |row: &Row| {
        let user = user(row)?;
        let sessions = sessions.remove(&user.id).unwrap_or_default();
        Ok((user, sessions))
    };
    let users: Result<Vec<_>> = rows.iter().map(with_sessions).collect();
    Ok((users?, total))
}

/// How many users the app has.
pub async fn count(read: &mut Read, app: AppId) -> Result<i64> {
    let sql = "select count(*) from users where app_id = $1 and deleted_at is null";
    read.count(sql, args![app]).await
}

/// The app of a user, deleted or not.
pub(crate) async fn app_of(read: &mut Read, id: UserId) -> Result<AppId> {
    let row = read.first("select app_id from users where id = $1", args![id]).await?;
    row.ok_or_else(|| Error::not_found(format!("user {id}")))?.parsed(0)
}

/// Creates a user. `id` is for callers that bring their own.
pub async fn create(
    tx: &mut Tx,
    app: AppId,
    schema: &UserSchema,
    id: Option<UserId>,
    attributes: Map<String, Value>,
) -> Result<User> {
    let attributes = set_only(attributes);
    schema.check_values(&attributes)?;
    let now = tx.now();
    let id = id.unwrap_or_else(UserId::mint);
    let user =
        User { id, created_at: now, updated_at: now, locked_at: None, not_after: None, attributes };
    tx.change(
        "insert into users (id, app_id, created_at, updated_at, not_before, attributes)
         values ($1, $2, $3, $4, 0, $5)",
        args![id, app, now, now, stored(&user.attributes)],
    )
    .await?;
    index(tx, schema, &user).await?;
    let (joined, ..) = groups::follow(tx, app, id, (&Map::new(), &user.attributes)).await?;
    let change = Change::UserCreated { attributes: names(&user.attributes), joined };
    tx.record(Subject::user(app, id), None, change);
    Ok(user)
}

/// Sets the given attributes and leaves the others; a null clears.
pub async fn patch(
    tx: &mut Tx,
    app: AppId,
    schema: &UserSchema,
    id: UserId,
    given: Map<String, Value>,
) -> Result<User> {
    schema.check_values(&given)?;
    let user = find(tx, app, id).await?;
    let mut attributes = user.attributes.clone();
    attributes.extend(given);
    change(tx, app, schema, user, attributes).await
}

/// Replaces all attributes; creates the user if there is none. A deleted user stays deleted.
pub async fn replace(
    tx: &mut Tx,
    app: AppId,
    schema: &UserSchema,
    id: UserId,
    attributes: Map<String, Value>,
) -> Result<User> {
    schema.check_values(&attributes)?;
    let sql = "select app_id, deleted_at from users where id = $1";
    let Some(row) = tx.first(sql, args![id]).await? else {
        return create(tx, app, schema, Some(id), attributes).await;
    };
    if row.parsed::<AppId>(0)? != app || row.time_or_null(1)?.is_some() {
        return Err(Error::invalid("id", "is taken, or was deleted for good: choose another"));
    }
    let user = find(tx, app, id).await?;
    change(tx, app, schema, user, attributes).await
}

async fn change(
    tx: &mut Tx,
    app: AppId,
    schema: &UserSchema,
    old: User,
    attributes: Map<String, Value>,
) -> Result<User> {
    let attributes = set_only(attributes);
    let is_changed = |name: &&String| old.attributes.get(*name) != attributes.get(*name);
    let mut changed: Vec<String> =
        old.attributes.keys().chain(attributes.keys()).filter(is_changed).cloned().collect();
    changed.sort_unstable();
    changed.dedup();
    if changed.is_empty() {
        return Ok(old);
    }
    let (joined, left, ended) =
        groups::follow(tx, app, old.id, (&old.attributes, &attributes)).await?;
    if !left.is_empty() {
        // A policy that selects by this attribute is about the user no longer.
        tx.refuse_task()?;
    }
    let user = User { updated_at: tx.now(), attributes, ..old };
    tx.change(
        "update users set attributes = $1, updated_at = $2 where id = $3",
        args![stored(&user.attributes), user.updated_at, user.id],
    )
    .await?;
    index(tx, schema, &user).await?;
    let change = Change::UserChanged { attributes: changed, ended, joined, left };
    tx.record(Subject::user(app, user.id), None, change);
    Ok(user)
}

/// Writes the attributes again, one a row, for filters.
async fn index(tx: &mut Tx, schema: &UserSchema, user: &User) -> Result<()> {
    tx.change("delete from user_attributes where user_id = $1", args![user.id]).await?;
    for (name, value) in &user.attributes {
        // An attribute that the schema has lost since is kept, but is not filtered by.
        let Ok(field) = schema.field(name) else { continue };
        // So is a value that does not fit a type that was changed since.
        let Ok(indexed) = field.index(name, value) else { continue };
        let (text, number) = match indexed {
            Indexed::Text(text) => (Some(text), None),
            Indexed::Number(number) => (None, Some(number)),
        };
        tx.change(
            "insert into user_attributes (user_id, name, text_value, number_value)
             values ($1, $2, $3, $4)",
            args![user.id, name, text, number],
        )
        .await?;
    }
    Ok(())
}

/// Attributes that the schema gains are filtered by from now on, also in users who kept them from
/// a schema before.
pub(crate) async fn index_again(
    tx: &mut Tx,
    app: AppId,
    schema: &UserSchema,
    gained: &str,
) -> Result<()> {
    // As it is stored, and what would be a pattern of its own is any character.
    let name = Value::from(gained).to_string().replace(['%', '_', '\\'], "_");
    let mut after = String::new();
    loop {
        let sql = format!(
            "select {COLUMNS} from users u where u.app_id = $1 and u.deleted_at is null
             and u.attributes like $2 and u.id > $3 order by u.id limit $4"
        );
        let args = args![app, format!("%{name}:%"), after, PAGE_ROWS_MAX];
        let rows = tx.rows_of(sql, args).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.text(0)?;
        for row in &rows {
            let user = user(row)?;
            if user.attributes.contains_key(gained) {
                index(tx, schema, &user).await?;
            }
        }
    }
}

/// Locks a user: every session, every unused authentication token ends, and no sign-in succeeds
/// until the unlock. Locked already: nothing changes.
pub async fn lock(tx: &mut Tx, app: AppId, id: UserId, why: Option<String>) -> Result<()> {
    if find(tx, app, id).await?.locked_at.is_some() {
        return Ok(());
    }
    let ended = sessions::end_all(tx, id, Because::UserLocked).await?;
    let now = tx.now();
    tx.change("update users set locked_at = $1 where id = $2", args![now, id]).await?;
    tx.record(Subject::user(app, id), why, Change::UserLocked { ended });
    Ok(())
}

/// Unlocks a user. No session comes back. A task may do it only if the operator gave it a scope for
/// just this: `held` are the caller's scopes.
pub async fn unlock(
    tx: &mut Tx,
    app: AppId,
    id: UserId,
    why: Option<String>,
    held: Scopes,
) -> Result<()> {
    if !held.allow(Scope::UsersUnlock) {
        tx.refuse_task()?;
    }
    if find(tx, app, id).await?.locked_at.is_none() {
        return Ok(());
    }
    tx.change("update users set locked_at = null where id = $1", args![id]).await?;
    tx.record(Subject::user(app, id), why, Change::UserUnlocked);
    Ok(())
}

/// Sets the moment from which on the user is signed in nowhere; none is no such moment. A later one
/// revives no session. The same again: nothing changes.
pub async fn set_not_after(
    tx: &mut Tx,
    app: AppId,
    id: UserId,
    not_after: Option<Time>,
    why: Option<String>,
) -> Result<()> {
    let old = find(tx, app, id).await?.not_after;
    if old == not_after {
        return Ok(());
    }
    if not_after.is_none_or(|new| old.is_some_and(|old| old < new)) {
        tx.refuse_task()?;
    }
    let ended = sessions::write_down(tx, id).await?;
    let now = tx.now();
    tx.change(
        "update users set not_after = $1, not_after_set_at = $2 where id = $3",
        args![not_after, now, id],
    )
    .await?;
    let change = Change::UserNotAfterSet { not_after, ended };
    tx.record(Subject::user(app, id), why, change);
    Ok(())
}

/// Deletes a user for good: attributes are gone, all sessions are RESET, the id stays taken.
pub async fn delete(tx: &mut Tx, app: AppId, id: UserId) -> Result<()> {
    find(tx, app, id).await?;
    let ended = sessions::end_all(tx, id, Because::UserDeleted).await?;
    let now = tx.now();
    tx.change("delete from user_attributes where user_id = $1", args![id]).await?;
    tx.change("update users set deleted_at = $1, attributes = '{}' where id = $2", args![now, id])
        .await?;
    tx.record(Subject::user(app, id), None, Change::UserDeleted { ended });
    Ok(())
}

/// Without the attributes that are cleared by a null.
fn set_only(attributes: Map<String, Value>) -> Map<String, Value> {
    attributes.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

fn names(attributes: &Map<String, Value>) -> Vec<String> {
    attributes.keys().cloned().collect()
}

fn stored(attributes: &Map<String, Value>) -> String {
    Value::Object(attributes.clone()).to_string()
}
