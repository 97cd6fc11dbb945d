//! What a program must know of an app before it reads its objects: the data model, which is the
//! user schema in the words of that API, and what app it is (contract, section 3).

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reauth_domain::users::FieldType;
use reauth_domain::{Error, apps, hash_of};
use serde::Serialize;
use utoipa::ToSchema;

use super::Schema;
use crate::api::answer::{Answer, ErrorBody};
use crate::api::who::{Backend, UsersRead};

/// The types of objects by their names.
type Models = BTreeMap<&'static str, ModelView>;

/// A data model.
#[derive(Serialize, ToSchema)]
pub(crate) struct DataModelView {
    /// The types of objects by name: here always `user` alone.
    #[schema(value_type = BTreeMap<String, ModelView>)]
    models: Models,
    /// The type whose objects are the users that sign in.
    #[schema(example = "user")]
    app_user: &'static str,
    /// Another model has another one: the SHA-256 of `models`, in hex.
    datamodel_hash: String,
}

/// A type of objects.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelView {
    name: &'static str,
    label: &'static str,
    /// What people see of an object, with attributes in braces.
    #[schema(example = "{name}")]
    display: &'static str,
    /// The attributes by name.
    fields: BTreeMap<String, FieldView>,
    /// Always empty: users belong to no other type.
    belongs_to: BTreeMap<String, String>,
    /// Always empty.
    has_many: BTreeMap<String, String>,
}

/// An attribute.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldView {
    name: String,
    /// The name for people.
    #[schema(example = "Contract end")]
    label: String,
    /// `text`, `integer`, `number`, `boolean`, `date`, `datetime` or `single-choice`.
    r#type: &'static str,
    /// The values that a choice has.
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Vec<OptionView>>,
}

/// A value of a choice.
#[derive(Serialize, ToSchema)]
pub(crate) struct OptionView {
    /// The value.
    key: String,
    /// The value for people.
    display: String,
}

impl DataModelView {
    fn of(schema: &Schema) -> Result<Self, Answer> {
        let fields = schema.0.iter().map(|(name, kind)| (name.clone(), field(name, kind)));
        let model = ModelView {
            name: "user",
            label: "User",
            display: display(schema),
            fields: fields.collect(),
            belongs_to: BTreeMap::new(),
            has_many: BTreeMap::new(),
        };
        let models = Models::from([("user", model)]);
        // Everything in it is in order of its names: the same model is always the same text.
        let text = serde_json::to_string(&models)
            .map_err(|error| Error::Internal(format!("the data model: {error}")))?;
        Ok(Self { models, app_user: "user", datamodel_hash: hash_of(&text) })
    }
}

/// As a user is called, if nothing is missing.
fn display(schema: &Schema) -> &'static str {
    let known = [("name", "{name}"), ("email", "{email}")];
    let found = known.into_iter().find(|(name, _)| schema.0.contains_key(*name));
    found.map_or("{id}", |(_, pattern)| pattern)
}

fn field(name: &str, kind: &FieldType) -> FieldView {
    let r#type = match kind {
        FieldType::Text => "text",
        FieldType::Integer => "integer",
        FieldType::Number => "number",
        FieldType::Boolean => "boolean",
        FieldType::Date => "date",
        FieldType::Datetime => "datetime",
        FieldType::Choice(_) => "single-choice",
    };
    let option = |value: &String| OptionView { key: value.clone(), display: value.clone() };
    let options = match kind {
        FieldType::Choice(values) => Some(values.iter().map(option).collect()),
        _ => None,
    };
    FieldView { name: name.to_owned(), label: label(name), r#type, options }
}

/// `contract_end` for people: `Contract end`.
fn label(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The types of objects and their attributes. Its `ETag` is the hash; sent back as `If-None-Match`
/// it asks for the model only if it is another one by now. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/datamodel", tag = "objects",
    params(("app" = String, Path), ("if-none-match" = Option<String>, Header)),
    responses((status = 200, body = DataModelView), (status = 304),
        (status = 403, body = ErrorBody)))]
pub(crate) async fn datamodel(
    who: Backend<UsersRead>,
    headers: HeaderMap,
) -> Result<Response, Answer> {
    let mut read = who.state.db.read().await?;
    let schema = apps::find(&mut read, who.app).await?.settings.user_schema;
    let model = DataModelView::of(&schema)?;
    let tag = [(header::ETAG, format!("\"{}\"", model.datamodel_hash))];
    if is_known(&headers, &model.datamodel_hash) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    Ok((tag, Json(model)).into_response())
}

/// Whether the caller has what has this hash (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, hash: &str) -> bool {
    let told = headers.get_all(header::IF_NONE_MATCH).iter();
    let told = told.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    // A weak one is as good here; and some send the hash as it stands in the answer, unquoted.
    let tag = |text: &str| text.strip_prefix("W/").unwrap_or(text).trim_matches('"').to_owned();
    told.map(|text| tag(text.trim())).any(|tag| tag == "*" || tag == hash)
}

/// An app as programs with its tokens may know it.
#[derive(Serialize, ToSchema)]
pub(crate) struct InfoView {
    /// The app's id.
    id: String,
    /// Its name.
    name: String,
    /// The version of this API.
    #[schema(example = "v4")]
    api: &'static str,
    server: ServerView,
    /// The hash of the data model.
    datamodel_hash: String,
    /// The id again, as existing programs read it.
    app_id: String,
    /// The name again, as existing programs read it.
    label: String,
}

/// The program that answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ServerView {
    #[schema(example = "Reauth")]
    name: &'static str,
    version: &'static str,
}

/// Which app this is, on which server. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/info", tag = "objects",
    params(("app" = String, Path)),
    responses((status = 200, body = InfoView), (status = 403, body = ErrorBody)))]
pub(crate) async fn info(who: Backend<UsersRead>) -> Result<Json<InfoView>, Answer> {
    let mut read = who.state.db.read().await?;
    let app = apps::find(&mut read, who.app).await?;
    let model = DataModelView::of(&app.settings.user_schema)?;
    Ok(Json(InfoView {
        id: app.id.to_string(),
        name: app.name.clone(),
        api: "v4",
        server: ServerView { name: "Reauth", version: env!("CARGO_PKG_VERSION") },
        datamodel_hash: model.datamodel_hash,
        app_id: app.id.to_string(),
        label: app.name,
    }))
}
