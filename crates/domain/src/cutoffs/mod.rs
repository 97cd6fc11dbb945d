//! Cut-offs: "everyone in this scope must sign in again", one durable moment whatever the number of
//! sessions. Sessions themselves are not touched: the decision compares.

pub mod revocations;

use crate::access::CutOffScope;
use crate::groups;
use crate::ledger::{Change, Subject};
use crate::store::{Tx, args};
use crate::users;
use crate::values::error::Result;
use crate::values::ids::AppId;
use crate::values::time::Time;

/// Sets the cut-off of a scope to now; answers the moment. Every session that was authenticated at
/// or before it must sign in again.
pub async fn set(tx: &mut Tx, scope: CutOffScope, why: Option<String>) -> Result<Time> {
    let now = tx.now();
    let subject = subject(tx, &scope).await?;
    match &scope {
        CutOffScope::Everyone => {
            tx.change("update store_head set not_before = $1 where id = 1", args![now]).await?
        }
        CutOffScope::App { app } => {
            tx.change("update apps set not_before = $1 where id = $2", args![now, *app]).await?
        }
        CutOffScope::Group { app, name } => {
            groups::create(tx, *app, name).await?;
            tx.change(
                "update user_groups set not_before = $1 where app_id = $2 and name = $3",
                args![now, *app, name],
            )
            .await?
        }
        CutOffScope::User { user } => {
            tx.change("update users set not_before = $1 where id = $2", args![now, *user]).await?
        }
    };
    tx.record(subject, why, Change::CutOffSet { scope });
    Ok(now)
}

/// Raises the restore fence: every session, every unused authentication token and every API token,
/// the operator's too, that was made at or before this moment is void.
pub async fn fence(tx: &mut Tx, why: Option<String>) -> Result<()> {
    let now = tx.now();
    tx.change("update store_head set fence_at = $1 where id = 1", args![now]).await?;
    tx.record(Subject::none(), why, Change::StoreFenced);
    Ok(())
}

async fn subject(tx: &mut Tx, scope: &CutOffScope) -> Result<Subject> {
    Ok(match scope {
        CutOffScope::Everyone => Subject::none(),
        CutOffScope::App { app } | CutOffScope::Group { app, .. } => Subject::app(*app),
        CutOffScope::User { user } => Subject::user(users::app_of(tx, *user).await?, *user),
    })
}

/// The scope of one user, who must be the app's.
pub async fn of_user(
    tx: &mut Tx,
    app: AppId,
    user: crate::values::ids::UserId,
) -> Result<CutOffScope> {
    users::find(tx, app, user).await?;
    Ok(CutOffScope::User { user })
}
