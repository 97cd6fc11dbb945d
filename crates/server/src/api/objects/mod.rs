//! User objects: users as data with attributes (contract, section 3). How they are found is in
//! `query`, what attributes they have in `models`.

pub(crate) mod models;
pub(crate) mod query;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use reauth_domain::tokens::Scope;
use reauth_domain::users::{self, FieldType, User};
use reauth_domain::{Error, Tx, UserId, apps};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::answer::{Answer, ErrorBody, Kind};
use crate::api::read::{self, Body, UserInPath};
use crate::api::who::{Backend, UsersRead, UsersWrite};

/// More operations than this in one batch are refused whole.
const BATCH_MAX: usize = 1_000;

/// The schema that an object's attributes must fit.
type Schema = users::UserSchema;

/// An object: id, type, updated_at, display, then every attribute of the schema; null when not set.
fn view(user: &User, schema: &Schema) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), user.id.to_string().into());
    object.insert("type".into(), "user".into());
    object.insert("updated_at".into(), user.updated_at.to_string().into());
    object.insert("display".into(), user.display().into());
    for name in schema.0.keys() {
        let value = user.attributes.get(name).cloned().unwrap_or(Value::Null);
        object.insert(name.clone(), value);
    }
    Value::Object(object)
}

/// One user object. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/objects/user/{user}", tag = "objects",
    params(("app" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    who: Backend<UsersRead>,
    UserInPath(user): UserInPath,
) -> Result<Json<Value>, Answer> {
    let mut read = who.state.db.read().await?;
    let schema = apps::find(&mut read, who.app).await?.settings.user_schema;
    let user = users::find(&mut read, who.app, user).await?;
    Ok(Json(view(&user, &schema)))
}

/// Creates a user object from `{"user":{…}}` or the form `user[name]=…`. Scope: `users:write`.
#[utoipa::path(post, path = "/api/v4/{app}/objects/user", tag = "objects",
    params(("app" = String, Path)), request_body = Value,
    responses((status = 201, body = Value), (status = 422, body = ErrorBody)))]
pub(crate) async fn create(
    who: Backend<UsersWrite>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Answer> {
    let (mut tx, schema) = begin(&who).await?;
    let attributes = attributes(&headers, &body, &schema)?;
    let user = users::create(&mut tx, who.app, &schema, None, attributes).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view(&user, &schema))))
}

/// Sets some attributes; null clears one. Scope: `users:write`.
#[utoipa::path(patch, path = "/api/v4/{app}/objects/user/{user}", tag = "objects",
    params(("app" = String, Path), ("user" = String, Path)), request_body = Value,
    responses((status = 200, body = Value), (status = 404, body = ErrorBody)))]
pub(crate) async fn patch(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Answer> {
    let (mut tx, schema) = begin(&who).await?;
    let attributes = attributes(&headers, &body, &schema)?;
    let user = users::patch(&mut tx, who.app, &schema, user, attributes).await?;
    tx.commit().await?;
    Ok(Json(view(&user, &schema)))
}

/// Replaces all attributes; creates the object if it is absent. Scope: `users:write`.
#[utoipa::path(put, path = "/api/v4/{app}/objects/user/{user}", tag = "objects",
    params(("app" = String, Path), ("user" = String, Path)), request_body = Value,
    responses((status = 200, body = Value), (status = 422, body = ErrorBody)))]
pub(crate) async fn put(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Answer> {
    let (mut tx, schema) = begin(&who).await?;
    let attributes = attributes(&headers, &body, &schema)?;
    let user = users::replace(&mut tx, who.app, &schema, user, attributes).await?;
    tx.commit().await?;
    Ok(Json(view(&user, &schema)))
}

/// Deletes a user for good and RESETs all their sessions. 200 with an empty body (contract).
/// Scopes: `users:write` and `sessions:end`.
#[utoipa::path(delete, path = "/api/v4/{app}/objects/user/{user}", tag = "objects",
    params(("app" = String, Path), ("user" = String, Path)),
    responses((status = 200), (status = 404, body = ErrorBody)))]
pub(crate) async fn delete(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
) -> Result<StatusCode, Answer> {
    who.require(Scope::SessionsEnd)?;
    let mut tx = who.write().await?;
    users::delete(&mut tx, who.app, user).await?;
    tx.commit().await?;
    Ok(StatusCode::OK)
}

/// Any other type of object: this server has users only.
pub(crate) async fn no_such_type(
    _: Backend<UsersRead>,
    Path(path): Path<std::collections::HashMap<String, String>>,
) -> Answer {
    let kind = path.get("type").map_or("", String::as_str);
    Answer::new(Kind::ObjectNotFound, format!("there is no type {kind:?}: the only one is user"))
}

async fn begin(who: &Backend<UsersWrite>) -> Result<(Tx, Schema), Answer> {
    let mut tx = who.write().await?;
    let schema = apps::find(&mut tx, who.app).await?.settings.user_schema;
    Ok((tx, schema))
}

/// The attributes of `{"user":{…}}`, of the flat `{…}`, or of a form.
fn attributes(
    headers: &HeaderMap,
    body: &[u8],
    schema: &Schema,
) -> Result<Map<String, Value>, Answer> {
    if read::is_form(headers) {
        return form(body, schema);
    }
    if body.is_empty() {
        return Err(Answer::new(Kind::BadRequest, "the body is missing: send {\"user\":{…}}"));
    }
    let mut object: Map<String, Value> = read::json(body)?;
    if object.len() == 1 && !schema.0.contains_key("user") {
        match object.remove("user") {
            Some(Value::Object(user)) => object = user,
            Some(_) => return Err(Error::invalid("user", "must be an object").into()),
            None => {}
        }
    }
    Ok(own(object))
}

/// Without the keys that an object shows but that are not attributes: sending an object back as it
/// was read is no error.
fn own(mut object: Map<String, Value>) -> Map<String, Value> {
    for name in ["id", "type", "updated_at", "display"] {
        object.remove(name);
    }
    object
}

fn form(body: &[u8], schema: &Schema) -> Result<Map<String, Value>, Answer> {
    let unreadable = |_| {
        Answer::new(
            Kind::BadRequest,
            "the form cannot be read: send user[attribute]=value pairs, percent-encoded",
        )
    };
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(body).map_err(unreadable)?;
    let mut attributes = Map::new();
    for (name, value) in pairs {
        let field = name.strip_prefix("user[").and_then(|rest| rest.strip_suffix(']'));
        let field = field.ok_or_else(|| {
            Error::invalid(name.as_str(), "form fields are named user[attribute]")
        })?;
        let kind = schema.field(field)?;
        let value = match (value.as_str(), kind) {
            ("", FieldType::Text) => Value::String(String::new()),
            ("", _) => Value::Null,
            (text, kind) => kind.value_of_text(text),
        };
        attributes.insert(field.to_owned(), value);
    }
    Ok(attributes)
}

/// Operations in order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchRequest {
    /// At most 1000.
    operations: Vec<BatchOperation>,
    /// Whether the first failure ends the batch; those after it are then not tried.
    #[serde(default)]
    stop_on_error: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchOperation {
    /// `post`, `put`, `patch` or `delete`.
    method: BatchMethod,
    /// `type`, `id` (not for `post`) and attributes.
    #[schema(value_type = Object)]
    object: Map<String, Value>,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchMethod {
    Post,
    Put,
    Patch,
    Delete,
}

/// What became of each operation, in order.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchView {
    operations: Vec<BatchResult>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct BatchResult {
    method: BatchMethod,
    /// `type` and `id`.
    object: Value,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// Carries out up to 1000 operations in order, each a change of its own. An ill-formed or larger
/// batch is refused whole. Scope: `users:write`; deletes need `sessions:end` too.
#[utoipa::path(post, path = "/api/v4/{app}/batch", tag = "objects",
    params(("app" = String, Path)), request_body = BatchRequest,
    responses((status = 200, body = BatchView), (status = 400, body = ErrorBody)))]
pub(crate) async fn batch(
    who: Backend<UsersWrite>,
    Body(batch): Body<BatchRequest>,
) -> Result<Json<BatchView>, Answer> {
    if batch.operations.len() > BATCH_MAX {
        let why = format!("a batch has at most {BATCH_MAX} operations: send several");
        return Err(Answer::new(Kind::BadRequest, why));
    }
    let is_user = |operation: &BatchOperation| operation.object.get("type") == Some(&json!("user"));
    if !batch.operations.iter().all(is_user) {
        return Err(Error::invalid("operations.object.type", "must be \"user\"").into());
    }
    let is_delete = |operation: &BatchOperation| matches!(operation.method, BatchMethod::Delete);
    if batch.operations.iter().any(is_delete) {
        who.require(Scope::SessionsEnd)?;
    }
    let mut operations = Vec::with_capacity(batch.operations.len());
    for operation in batch.operations {
        let method = operation.method;
        let id = operation.object.get("id").cloned().unwrap_or(Value::Null);
        let done = one(&who, operation).await;
        let (id, error) = match done {
            Ok(id) => (id.to_string().into(), None),
            Err(answer) => {
                let (status, kind, detail) = answer.parts();
                (id, Some(json!({ "status": status, "type": kind, "detail": detail })))
            }
        };
        let success = error.is_none();
        let object = json!({ "type": "user", "id": id });
        operations.push(BatchResult { method, object, success, error });
        if !success && batch.stop_on_error {
            break;
        }
    }
    Ok(Json(BatchView { operations }))
}

async fn one(who: &Backend<UsersWrite>, operation: BatchOperation) -> Result<UserId, Answer> {
    let id = match operation.object.get("id").and_then(Value::as_str) {
        Some(text) => Some(text.parse().map_err(|_| Error::not_found(format!("user {text}")))?),
        None => None,
    };
    let wanted =
        || id.ok_or_else(|| Answer::new(Kind::BadRequest, "object.id: is missing: name the user"));
    let attributes = own(operation.object);
    let (mut tx, schema) = begin(who).await?;
    let app = who.app;
    let id = match operation.method {
        BatchMethod::Post => users::create(&mut tx, app, &schema, None, attributes).await?.id,
        BatchMethod::Put => users::replace(&mut tx, app, &schema, wanted()?, attributes).await?.id,
        BatchMethod::Patch => users::patch(&mut tx, app, &schema, wanted()?, attributes).await?.id,
        BatchMethod::Delete => {
            users::delete(&mut tx, app, wanted()?).await?;
            wanted()?
        }
    };
    tx.commit().await?;
    Ok(id)
}
