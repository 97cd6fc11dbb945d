//! Groups of users within an app. A group comes to be with its first member or its first cut-off.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::apps::{check_name, selectors};
use crate::ledger::{Change, EndedSession, Subject};
use crate::sessions;
use crate::store::{Read, Tx, args};
use crate::users;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::Time;

/// The most groups on one page.
const GROUPS_MAX: i64 = 1_000;

/// The most members on one page.
const MEMBERS_MAX: i64 = 1_000;
/// The time to bind arguments grows with their square: a few statements are cheaper than one.
const ROWS_A_STATEMENT: usize = 50;

/// How names of groups begin whose members are those with a value of an attribute: they keep
/// themselves, and nobody else adds or removes a member.
pub(crate) const KEPT: char = '@';

/// A group of users.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name within the app.
    pub name: String,
    /// How many members it has.
    pub members: i64,
    /// Its cut-off, if it was ever told to sign in again.
    pub not_before: Option<Time>,
}

/// One page of an app's groups, by name; and how many there are in all.
pub async fn page(read: &mut Read, app: AppId, limit: i64, skip: i64) -> Result<(Vec<Group>, i64)> {
    let sql = "select count(*) from user_groups where app_id = $1 and name not like '@%'";
    let total = read.count(sql, args![app]).await?;
    let rows = read
        .rows(
            "select g.name, g.not_before,
             (select count(*) from group_members m where m.app_id = g.app_id and m.name = g.name)
             from user_groups g where g.app_id = $1 and g.name not like '@%'
             order by g.name limit $2 offset $3",
            args![app, limit.clamp(0, GROUPS_MAX), skip],
        )
        .await?;
    let group = |row: &crate::store::Row| {
        let not_before = Some(row.time(1)?).filter(|at| *at > Time::ZERO);
        Ok(Group { name: row.text(0)?, members: row.int(2)?, not_before })
    };
    let groups: Result<_> = rows.iter().map(group).collect();
    Ok((groups?, total))
}

/// The groups that a user is in, by name; without those that keep themselves.
pub async fn of_user(read: &mut Read, app: AppId, user: UserId) -> Result<Vec<String>> {
    let sql = "select name from group_members where app_id = $1 and user_id = $2
               and name not like '@%' order by name";
    let rows = read.rows(sql, args![app, user]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Which of these groups have no members: a policy for one is for nobody yet, or is misspelt.
pub async fn without_members(
    read: &mut Read,
    app: AppId,
    names: impl IntoIterator<Item = &String>,
) -> Result<Vec<String>> {
    let (names, mut found) = (names.into_iter().collect::<BTreeSet<_>>(), Vec::new());
    let sql = "select user_id from group_members where app_id = $1 and name = $2 limit 1";
    for name in names {
        if read.first(sql, args![app, name]).await?.is_none() {
            found.push(name.clone());
        }
    }
    Ok(found)
}

/// One page of a group's members, those who joined first before others, with when they joined; and
/// how many there are in all.
pub async fn members(
    read: &mut Read,
    app: AppId,
    name: &str,
    limit: i64,
    skip: i64,
) -> Result<(Vec<(UserId, Time)>, i64)> {
    let sql = "select count(*) from group_members where app_id = $1 and name = $2";
    let total = read.count(sql, args![app, name]).await?;
    let rows = read
        .rows(
            "select user_id, joined_at from group_members where app_id = $1 and name = $2
             order by joined_at, user_id limit $3 offset $4",
            args![app, name, limit.clamp(0, MEMBERS_MAX), skip],
        )
        .await?;
    let members: Result<_> = rows.iter().map(|row| Ok((row.parsed(0)?, row.time(1)?))).collect();
    Ok((members?, total))
}

/// Adds a user to a group. A member already: nothing changes.
pub async fn add_member(tx: &mut Tx, app: AppId, name: &str, user: UserId) -> Result<()> {
    users::find(tx, app, user).await?;
    create(tx, app, name).await?;
    if insert(tx, app, name, user).await? > 0 {
        let change = Change::GroupMemberAdded { group: name.to_owned() };
        tx.record(Subject::user(app, user), None, change);
    }
    Ok(())
}

/// Takes a user out of a group. The group's cut-off stays with the user, and what the group's
/// policies have ended by now is written down, so that leaving a group never revives a session. No
/// member: nothing changes.
pub async fn remove_member(tx: &mut Tx, app: AppId, name: &str, user: UserId) -> Result<()> {
    users::find(tx, app, user).await?;
    check_own_name(name)?;
    let ended = leave(tx, app, &[name.to_owned()], user).await?;
    if let Some(ended) = ended {
        // The limits and cut-offs of the group are about the user no longer.
        tx.refuse_task()?;
        let change = Change::GroupMemberRemoved { group: name.to_owned(), ended };
        tx.record(Subject::user(app, user), None, change);
    }
    Ok(())
}

/// Begins a group that keeps itself.
pub(crate) async fn keep(tx: &mut Tx, app: AppId, name: &str, members: &[UserId]) -> Result<()> {
    insert_group(tx, app, name).await?;
    let now = tx.now();
    // In the order of the index: in any other, most rows would fetch a page of their own.
    let mut members = members.to_vec();
    members.sort_unstable();
    for some in members.chunks(ROWS_A_STATEMENT) {
        let rows = (4..some.len() + 4).map(|user| format!("($1, $2, ${user}, $3)"));
        let sql = format!(
            "insert into group_members (app_id, name, user_id, joined_at) values {}
             on conflict (app_id, name, user_id) do nothing",
            rows.collect::<Vec<_>>().join(", ")
        );
        let mut args = args![app, name, now];
        args.extend(some.iter().flat_map(|user| args![*user]));
        tx.change_of(sql, args).await?;
    }
    Ok(())
}

/// As the attributes of a user change, so do their groups that keep themselves. Answers which were
/// joined, which were left, and which sessions had ended by what was left.
pub(crate) async fn follow(
    tx: &mut Tx,
    app: AppId,
    user: UserId,
    (before, after): (&Map<String, Value>, &Map<String, Value>),
) -> Result<(Vec<String>, Vec<String>, Vec<EndedSession>)> {
    let kept = tx.live().kept_groups(app)?;
    let of = |attributes: &Map<String, Value>| -> Vec<String> {
        let groups = attributes.iter().map(|(name, value)| selectors::group_of(name, value));
        groups.filter(|group| kept.contains(group)).collect()
    };
    let (before, after) = (of(before), of(after));
    let left: Vec<String> = before.iter().filter(|it| !after.contains(it)).cloned().collect();
    let joined: Vec<String> = after.into_iter().filter(|it| !before.contains(it)).collect();
    for group in &joined {
        insert(tx, app, group, user).await?;
    }
    let ended = leave(tx, app, &left, user).await?;
    Ok((joined, left, ended.unwrap_or_default()))
}

async fn insert(tx: &mut Tx, app: AppId, name: &str, user: UserId) -> Result<u64> {
    let now = tx.now();
    tx.change(
        "insert into group_members (app_id, name, user_id, joined_at) values ($1, $2, $3, $4)
         on conflict (app_id, name, user_id) do nothing",
        args![app, name, user, now],
    )
    .await
}

/// None: the user was in none of them.
async fn leave(
    tx: &mut Tx,
    app: AppId,
    names: &[String],
    user: UserId,
) -> Result<Option<Vec<EndedSession>>> {
    let mut removed = 0;
    for name in names {
        let was_in = tx
            .change(
                "delete from group_members where app_id = $1 and name = $2 and user_id = $3",
                args![app, name, user],
            )
            .await?;
        if was_in == 0 {
            continue;
        }
        removed += was_in;
        tx.change(
            "update users set not_before = g.not_before from user_groups g
             where users.id = $1 and g.app_id = $2 and g.name = $3
             and g.not_before > users.not_before",
            args![user, app, name],
        )
        .await?;
    }
    if removed == 0 {
        return Ok(None);
    }
    sessions::write_down(tx, user).await.map(Some)
}

/// Refuses what is no name, and names of groups that keep themselves.
pub(crate) fn check_own_name(name: &str) -> Result<()> {
    if name.starts_with(KEPT) {
        return Err(Error::invalid("name", "must not begin with @: that is for attributes"));
    }
    check_name(name)
}

pub(crate) async fn create(tx: &mut Tx, app: AppId, name: &str) -> Result<()> {
    check_own_name(name)?;
    insert_group(tx, app, name).await
}

async fn insert_group(tx: &mut Tx, app: AppId, name: &str) -> Result<()> {
    let now = tx.now();
    tx.change(
        "insert into user_groups (app_id, name, created_at, not_before) values ($1, $2, $3, 0)
         on conflict (app_id, name) do nothing",
        args![app, name, now],
    )
    .await?;
    Ok(())
}
