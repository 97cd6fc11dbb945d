//! Groups of users within an app. A group comes to be with its first member or its first cut-off.

use crate::apps::check_name;
use crate::ledger::{Change, Subject};
use crate::sessions;
use crate::store::{Read, Tx, args};
use crate::users;
use crate::values::error::Result;
use crate::values::ids::{AppId, UserId};
use crate::values::time::Time;

/// More groups than this are not listed: they are for policies, not for data.
const GROUPS_MAX: i64 = 1_000;

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

/// All groups of an app by name.
pub async fn all(read: &mut Read, app: AppId) -> Result<Vec<Group>> {
    let rows = read
        .rows(
            "select g.name, g.not_before,
             (select count(*) from group_members m where m.app_id = g.app_id and m.name = g.name)
             from user_groups g where g.app_id = $1 order by g.name limit $2",
            args![app, GROUPS_MAX],
        )
        .await?;
    let group = |row: &crate::store::Row| {
        let not_before = Some(row.time(1)?).filter(|at| *at > Time::ZERO);
        Ok(Group { name: row.text(0)?, members: row.int(2)?, not_before })
    };
    rows.iter().map(group).collect()
}

/// Adds a user to a group. A member already: nothing changes.
pub async fn add_member(tx: &mut Tx, app: AppId, name: &str, user: UserId) -> Result<()> {
    users::find(tx, app, user).await?;
    create(tx, app, name).await?;
    let now = tx.now();
    let added = tx
        .change(
            "insert into group_members (app_id, name, user_id, joined_at) values ($1, $2, $3, $4)
             on conflict (app_id, name, user_id) do nothing",
            args![app, name, user, now],
        )
        .await?;
    if added > 0 {
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
    let removed = tx
        .change(
            "delete from group_members where app_id = $1 and name = $2 and user_id = $3",
            args![app, name, user],
        )
        .await?;
    if removed == 0 {
        return Ok(());
    }
    tx.change(
        "update users set not_before = g.not_before from user_groups g
         where users.id = $1 and g.app_id = $2 and g.name = $3
         and g.not_before > users.not_before",
        args![user, app, name],
    )
    .await?;
    let ended = sessions::write_down(tx, user).await?;
    let change = Change::GroupMemberRemoved { group: name.to_owned(), ended };
    tx.record(Subject::user(app, user), None, change);
    Ok(())
}

pub(crate) async fn create(tx: &mut Tx, app: AppId, name: &str) -> Result<()> {
    check_name(name)?;
    let now = tx.now();
    tx.change(
        "insert into user_groups (app_id, name, created_at, not_before) values ($1, $2, $3, 0)
         on conflict (app_id, name) do nothing",
        args![app, name, now],
    )
    .await?;
    Ok(())
}
