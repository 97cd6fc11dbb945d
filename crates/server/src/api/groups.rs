//! Groups of users.

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::{Error, UserId, groups};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody};
use super::read::{List, Page, PageQuery, PathOf};
use super::who::{Backend, UsersRead, UsersWrite};

/// A group.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupView {
    name: String,
    /// How many members it has.
    members: i64,
    /// When its members last had to sign in again, all at once.
    not_before: Option<String>,
}

/// A page of the app's groups, by name. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/groups", tag = "groups",
    params(("app" = String, Path), PageQuery),
    responses((status = 200, body = List<GroupView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(
    who: Backend<UsersRead>,
    page: Page,
) -> Result<Json<List<GroupView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (found, total) = groups::page(&mut read, who.app, page.limit, page.skip).await?;
    let view = |group: groups::Group| GroupView {
        name: group.name,
        members: group.members,
        not_before: group.not_before.map(|at| at.to_string()),
    };
    Ok(Json(List::new(found.into_iter().map(view).collect(), total, page)))
}

/// A member of a group.
#[derive(Serialize, ToSchema)]
pub(crate) struct MemberView {
    /// The user.
    id: String,
    joined_at: String,
}

/// A page of a group's members; of none, if there is no such group. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/groups/{group}/members", tag = "groups",
    params(("app" = String, Path), ("group" = String, Path), PageQuery),
    responses((status = 200, body = List<MemberView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn members(
    who: Backend<UsersRead>,
    PathOf((_, group)): PathOf<(String, String)>,
    page: Page,
) -> Result<Json<List<MemberView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (found, total) = groups::members(&mut read, who.app, &group, page.limit, page.skip).await?;
    let view = |(user, at): (UserId, reauth_domain::Time)| MemberView {
        id: user.to_string(),
        joined_at: at.to_string(),
    };
    Ok(Json(List::new(found.into_iter().map(view).collect(), total, page)))
}

/// Adds a user to a group, which comes to be with its first member. Scope: `users:write`.
#[utoipa::path(put, path = "/api/v4/{app}/groups/{group}/members/{user}", tag = "groups",
    params(("app" = String, Path), ("group" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn add(
    who: Backend<UsersWrite>,
    PathOf((_, group, user)): PathOf<(String, String, String)>,
) -> Result<StatusCode, Answer> {
    let user = parse(&user)?;
    let mut tx = who.write().await?;
    groups::add_member(&mut tx, who.app, &group, user).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a user out of a group. The group's cut-off stays with the user. Scope: `users:write`.
#[utoipa::path(delete, path = "/api/v4/{app}/groups/{group}/members/{user}", tag = "groups",
    params(("app" = String, Path), ("group" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove(
    who: Backend<UsersWrite>,
    PathOf((_, group, user)): PathOf<(String, String, String)>,
) -> Result<StatusCode, Answer> {
    let user = parse(&user)?;
    let mut tx = who.write().await?;
    groups::remove_member(&mut tx, who.app, &group, user).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(user: &str) -> Result<UserId, Answer> {
    user.parse().map_err(|_| Error::not_found(format!("user {user}")).into())
}
