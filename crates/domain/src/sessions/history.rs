//! What led a session to where it is, as the ledger tells it.

use crate::groups;
use crate::ledger::{Change, Stored, stored};
use crate::store::{Read, Row, args};
use crate::values::error::Result;
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::time::Time;

/// More is no explanation any more: the ledger itself has it.
const ENTRIES_MAX: i64 = 100;

/// What led a session to where it is, the oldest first: what was done to it and to its user, and
/// what was asked of all when it was authenticated and since. The latest of each if there is more.
pub(super) async fn of_session(
    read: &mut Read,
    app: AppId,
    (user, session): (UserId, SessionId),
    authenticated_at: Time,
) -> Result<Vec<Stored>> {
    let its_own = read
        .rows(
            "select seq, at, app_id, user_id, kind, body, hash from ledger
             where user_id = $1 and (body like $2 or kind in ('user.locked', 'user.unlocked',
             'user.not_after_set', 'group.member_added', 'group.member_removed', 'cut_off.set'))
             order by seq desc limit $3",
            args![user, format!("%{session}%"), ENTRIES_MAX],
        )
        .await?;
    let of_all = read
        .rows(
            "select seq, at, app_id, user_id, kind, body, hash from ledger
             where user_id is null and (app_id = $1 or app_id is null) and at >= $2
             and kind in ('policies.set', 'limits.set', 'cut_off.set', 'revocation.set',
             'store.fenced') order by seq desc limit $3",
            args![app, authenticated_at, ENTRIES_MAX],
        )
        .await?;
    let held = in_force(read, app, authenticated_at).await?;
    let entries: Result<Vec<Stored>> =
        its_own.iter().chain(&of_all).chain(&held).map(stored).collect();
    let mut entries = entries?;
    entries.extend(joins(read, app, user).await?);
    entries.sort_unstable_by_key(|stored| stored.entry.seq);
    Ok(entries)
}

/// What was asked of all when a session was authenticated: the last set of policies before, and the
/// last limits.
async fn in_force(read: &mut Read, app: AppId, authenticated_at: Time) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    for kinds in ["kind = 'policies.set'", "kind in ('limits.set', 'app.created')"] {
        let sql = format!(
            "select seq, at, app_id, user_id, kind, body, hash from ledger
             where user_id is null and app_id = $1 and at < $2 and {kinds}
             order by seq desc limit 1"
        );
        found.extend(read.rows_of(sql, args![app, authenticated_at]).await?);
    }
    Ok(found)
}

/// When a user came by attributes that policies of the app ask for, or lost them.
async fn joins(read: &mut Read, app: AppId, user: UserId) -> Result<Vec<Stored>> {
    let kept = read.live().kept_groups(app)?;
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "select seq, at, app_id, user_id, kind, body, hash from ledger where user_id = $1
               and kind in ('user.created', 'user.changed') order by seq desc limit $2";
    let rows = read.rows(sql, args![user, ENTRIES_MAX]).await?;
    let all: Result<Vec<Stored>> = rows.iter().map(stored).collect();
    let is_asked = |attribute: &String| {
        let begins = format!("{}{attribute}=", groups::KEPT);
        kept.iter().any(|group| group.starts_with(&begins))
    };
    let is_join = |stored: &Stored| match &stored.entry.change {
        Change::UserCreated { attributes, .. } | Change::UserChanged { attributes, .. } => {
            attributes.iter().any(is_asked)
        }
        _ => false,
    };
    let mut joins = all?;
    joins.retain(is_join);
    Ok(joins)
}
