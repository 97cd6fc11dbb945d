//! Finding user objects (contract, section 3): by filters in the address, or by an expression.

use axum::Json;
use axum::extract::RawQuery;
use reauth_domain::users::{
    self, Condition, Direction, Filter, Operator, Order, Query, expression,
};
use reauth_domain::{AppId, Error, Read, apps};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Schema, view};
use crate::api::answer::{Answer, ErrorBody};
use crate::api::read::{self, List, MaybeBody, Page};
use crate::api::who::{Backend, UsersRead};

/// A page of user objects. `sort[field]=asc|desc|1|-1`; filters `query[field]=v` or `q[field]=v`,
/// joined by AND, with the suffixes `.ne .lt .lte .gt .gte .contains .null`. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/objects/user", tag = "objects",
    params(("app" = String, Path), read::PageQuery),
    responses((status = 200, body = List<Value>), (status = 422, body = ErrorBody)))]
pub(crate) async fn list(
    who: Backend<UsersRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<Value>>, Answer> {
    let mut read = who.state.db.read().await?;
    let schema = apps::find(&mut read, who.app).await?.settings.user_schema;
    let (query, page) = parse_query(query.as_deref().unwrap_or_default(), &schema)?;
    found(&mut read, (who.app, &schema), &query, page).await
}

/// Which user objects are wanted.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueryRequest {
    /// Conditions `attribute operator ?`, joined by `and`, which binds stronger, and `or`, with
    /// parentheses. Operators: `=`, `!=`, `>`, `<`, `>=`, `<=`, `contains`, `starts with`, `in` and
    /// `not in`. None: everyone.
    #[schema(example = "email = ? and (name != ? or age > ?)")]
    expression: Option<String>,
    /// A value for each `?`, in order: of the attribute's type; a list of such for `in` and
    /// `not in`; null for "not set", with `=`, `!=` or in a list.
    #[schema(value_type = Option<Vec<Value>>)]
    arguments: Option<Vec<Value>>,
    /// How many at most: 1000 unless fewer are wanted.
    limit: Option<i64>,
    /// How many to leave out first.
    skip: Option<i64>,
    /// Names of attributes; `-` before one sorts downwards.
    #[schema(example = json!(["-name"]))]
    sort: Option<Vec<String>>,
}

/// A page of the user objects for which an expression holds. Scope: `users:read`.
#[utoipa::path(post, path = "/api/v4/{app}/objects/user/query", tag = "objects",
    params(("app" = String, Path)), request_body = QueryRequest,
    responses((status = 200, body = List<Value>), (status = 422, body = ErrorBody)))]
pub(crate) async fn query(
    who: Backend<UsersRead>,
    MaybeBody(wanted): MaybeBody<QueryRequest>,
) -> Result<Json<List<Value>>, Answer> {
    let page = Page::of_numbers(wanted.limit, wanted.skip)?;
    let mut read = who.state.db.read().await?;
    let schema = apps::find(&mut read, who.app).await?.settings.user_schema;
    let text = wanted.expression.unwrap_or_default();
    let filter = expression::filter(&schema, &text, &wanted.arguments.unwrap_or_default())?;
    let sort = expression::sort(&schema, &wanted.sort.unwrap_or_default())?;
    let query = Query { filter, sort, limit: page.limit, skip: page.skip };
    found(&mut read, (who.app, &schema), &query, page).await
}

async fn found(
    read: &mut Read,
    (app, schema): (AppId, &Schema),
    query: &Query,
    page: Page,
) -> Result<Json<List<Value>>, Answer> {
    let (found, total) = users::select(read, app, query).await?;
    let views = found.iter().map(|user| view(user, schema)).collect();
    Ok(Json(List::new(views, total, page)))
}

fn parse_query(text: &str, schema: &Schema) -> Result<(Query, Page), Answer> {
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(text).map_err(|why| read::unreadable_query(&why))?;
    let plain = |wanted: &str| {
        pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    let page = Page::of(plain("limit"), plain("skip"))?;
    let (mut conditions, mut sort) = (Vec::new(), Vec::new());
    for (name, value) in &pairs {
        let inner = |key: &str| {
            let rest = name.strip_prefix(key)?.strip_prefix('[')?;
            rest.strip_suffix(']')
        };
        if let Some(field) = inner("sort") {
            sort.push(Order::new(schema, field, direction(field, value)?)?);
        } else if let Some(field) = inner("query").or_else(|| inner("q")) {
            conditions.push(Filter::One(condition(schema, field, value)?));
        } else if name != "limit" && name != "skip" {
            let why = "is no parameter of a list; known: limit, skip, sort[…], query[…], q[…]";
            return Err(Error::invalid(name, why).into());
        }
    }
    let filter = Filter::All(conditions);
    Ok((Query { filter, sort, limit: page.limit, skip: page.skip }, page))
}

fn direction(field: &str, value: &str) -> Result<Direction, Answer> {
    match value {
        "asc" | "1" => Ok(Direction::Up),
        "desc" | "-1" => Ok(Direction::Down),
        _ => Err(Error::invalid(format!("sort[{field}]"), "must be asc, desc, 1 or -1").into()),
    }
}

fn condition(schema: &Schema, field: &str, value: &str) -> Result<Condition, Answer> {
    let (field, suffix) = field.split_once('.').unwrap_or((field, ""));
    let operator = Operator::from_suffix(suffix).ok_or_else(|| {
        let why = format!("{suffix:?} is no suffix; known: ne lt lte gt gte contains null");
        Error::invalid(format!("query[{field}]"), why)
    })?;
    Ok(Condition::of_text(schema, field, operator, value)?)
}
