//! Apps, their settings and their tokens; what concerns the whole server. For the operator; an
//! app's own part also for its `app:admin` tokens.

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::access::CutOffScope;
use reauth_domain::apps::{self, App, Settings};
use reauth_domain::tokens::{self, Scopes, Token};
use reauth_domain::{Error, Secret, Span, TokenId, cutoffs};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody};
use super::read::{Body, List, MaybeBody, Page, PageQuery, PathOf, Reason, json};
use super::who::{AppAdmin, Backend, Operator};

/// An app with its settings.
#[derive(Serialize, ToSchema)]
pub(crate) struct AppView {
    /// 24 hex digits.
    id: String,
    name: String,
    created_at: String,
    /// Durations are texts such as `30d`; null is "no such limit".
    #[schema(value_type = Object)]
    settings: Settings,
}

impl AppView {
    fn new(app: App) -> Self {
        let created_at = app.created_at.to_string();
        Self { id: app.id.to_string(), name: app.name, created_at, settings: app.settings }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApp {
    name: String,
    /// Those that are absent are the server's defaults.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    settings: SettingsPatch,
    /// Agrees that nothing may end every session of the app.
    #[serde(default)]
    allow_endless: bool,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AppPatch {
    name: Option<String>,
    /// Only those that change.
    #[schema(value_type = Option<Object>)]
    settings: SettingsPatch,
    /// Agrees that nothing may end every session of the app.
    allow_endless: bool,
}

/// Settings of which only some are given; null takes a limit away.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SettingsPatch {
    #[serde(deserialize_with = "given")]
    max_session_age: Option<Option<Span>>,
    #[serde(deserialize_with = "given")]
    max_idle: Option<Option<Span>>,
    multiple_devices_per_user: Option<bool>,
    #[serde(deserialize_with = "given")]
    warn_before: Option<Option<Span>>,
    #[serde(deserialize_with = "given")]
    unseen_sessions_max: Option<Option<u64>>,
    #[serde(deserialize_with = "given")]
    unseen_percent_max: Option<Option<u64>>,
    user_schema: Option<Value>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(value).map(Some)
}

impl SettingsPatch {
    fn on(self, mut settings: Settings) -> Result<Settings, Answer> {
        if let Some(max_age) = self.max_session_age {
            settings.max_session_age = max_age;
        }
        if let Some(max_idle) = self.max_idle {
            settings.max_idle = max_idle;
        }
        if let Some(multiple) = self.multiple_devices_per_user {
            settings.multiple_devices_per_user = multiple;
        }
        if let Some(warn_before) = self.warn_before {
            settings.warn_before = warn_before;
        }
        if let Some(max) = self.unseen_sessions_max {
            settings.unseen_sessions_max = max;
        }
        if let Some(max) = self.unseen_percent_max {
            settings.unseen_percent_max = max;
        }
        if let Some(schema) = self.user_schema {
            settings.user_schema = json(schema.to_string().as_bytes())?;
        }
        Ok(settings)
    }
}

/// A page of all apps, oldest first. For the operator.
#[utoipa::path(get, path = "/admin/apps", tag = "admin", params(PageQuery),
    responses((status = 200, body = List<AppView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(who: Operator, page: Page) -> Result<Json<List<AppView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (found, total) = apps::page(&mut read, page.limit, page.skip).await?;
    Ok(Json(List::new(found.into_iter().map(AppView::new).collect(), total, page)))
}

/// Creates an app. For the operator.
#[utoipa::path(post, path = "/admin/apps", tag = "admin", request_body = NewApp,
    responses((status = 201, body = AppView), (status = 422, body = ErrorBody)))]
pub(crate) async fn create(
    who: Operator,
    Body(new): Body<NewApp>,
) -> Result<(StatusCode, Json<AppView>), Answer> {
    let settings = new.settings.on(who.state.config.app_settings())?;
    let mut tx = who.write().await?;
    let app = apps::create(&mut tx, (&new.name, settings), new.allow_endless).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(AppView::new(app))))
}

/// One app. For the operator and the app's `app:admin` tokens.
#[utoipa::path(get, path = "/admin/apps/{app}", tag = "admin", params(("app" = String, Path)),
    responses((status = 200, body = AppView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(who: Backend<AppAdmin>) -> Result<Json<AppView>, Answer> {
    let mut read = who.state.db.read().await?;
    Ok(Json(AppView::new(apps::find(&mut read, who.app).await?)))
}

/// Changes an app's name or settings. A shorter limit acts on live sessions at once; a longer one
/// revives none.
#[utoipa::path(patch, path = "/admin/apps/{app}", tag = "admin",
    params(("app" = String, Path)), request_body = AppPatch,
    responses((status = 200, body = AppView), (status = 422, body = ErrorBody)))]
pub(crate) async fn change(
    who: Backend<AppAdmin>,
    Body(patch): Body<AppPatch>,
) -> Result<Json<AppView>, Answer> {
    let mut tx = who.write().await?;
    let old = apps::find(&mut tx, who.app).await?;
    let name = patch.name.unwrap_or_else(|| old.name.clone());
    let settings = patch.settings.on(old.settings.clone())?;
    let app = apps::change(&mut tx, &old, (&name, settings), patch.allow_endless).await?;
    tx.commit().await?;
    Ok(Json(AppView::new(app)))
}

/// An API token without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenView {
    id: String,
    name: String,
    scopes: Vec<&'static str>,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    revoked_at: Option<String>,
    /// The secret; in the answer that creates it and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenView {
    fn new(token: Token, secret: Option<&Secret>) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name,
            scopes: token.scopes.names(),
            created_at: token.created_at.to_string(),
            expires_at: token.expires_at.map(|at| at.to_string()),
            last_used_at: token.used_at.map(|at| at.to_string()),
            revoked_at: token.revoked_at.map(|at| at.to_string()),
            token: secret.map(|secret| secret.reveal().to_owned()),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    name: String,
    /// Such as `users:read`.
    scopes: Vec<String>,
    /// Such as `90d`; without it the token has no end by itself.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    expires_in: Option<Span>,
}

/// A page of an app's tokens, oldest first.
#[utoipa::path(get, path = "/admin/apps/{app}/tokens", tag = "admin",
    params(("app" = String, Path), PageQuery),
    responses((status = 200, body = List<TokenView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list_tokens(
    who: Backend<AppAdmin>,
    page: Page,
) -> Result<Json<List<TokenView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (found, total) = tokens::page(&mut read, who.app, page.limit, page.skip).await?;
    let views = found.into_iter().map(|token| TokenView::new(token, None)).collect();
    Ok(Json(List::new(views, total, page)))
}

/// Creates a token. Its secret is in this answer and never shown again.
#[utoipa::path(post, path = "/admin/apps/{app}/tokens", tag = "admin",
    params(("app" = String, Path)), request_body = NewToken,
    responses((status = 201, body = TokenView), (status = 422, body = ErrorBody)))]
pub(crate) async fn create_token(
    who: Backend<AppAdmin>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<TokenView>), Answer> {
    let scopes = Scopes::from_names(&new.scopes)?;
    let mut tx = who.write().await?;
    let (token, secret) =
        tokens::create(&mut tx, Some(who.app), &new.name, scopes, new.expires_in).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(TokenView::new(token, Some(&secret)))))
}

/// Revokes a token: no request that starts after the answer is accepted with it.
#[utoipa::path(delete, path = "/admin/apps/{app}/tokens/{token}", tag = "admin",
    params(("app" = String, Path), ("token" = String, Path)),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn revoke_token(
    who: Backend<AppAdmin>,
    PathOf((_, token)): PathOf<(String, String)>,
) -> Result<StatusCode, Answer> {
    let id: TokenId = token.parse().map_err(|_| Error::not_found(format!("token {token}")))?;
    let mut tx = who.write().await?;
    tokens::revoke(&mut tx, who.app, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The moment at or before which no authentication counts any more.
#[derive(Serialize, ToSchema)]
pub(crate) struct CutOffView {
    /// The place of its ledger entry.
    seq: i64,
    not_before: String,
}

/// Everyone, in every app, must sign in again: one entry whatever the number of sessions. For the
/// operator.
#[utoipa::path(post, path = "/admin/revocations", tag = "admin",
    request_body = Option<Reason>,
    responses((status = 200, body = CutOffView), (status = 401, body = ErrorBody)))]
pub(crate) async fn revoke_everyone(
    who: Operator,
    MaybeBody(why): MaybeBody<Reason>,
) -> Result<Json<CutOffView>, Answer> {
    let mut tx = who.write().await?;
    let not_before = cutoffs::set(&mut tx, CutOffScope::Everyone, why.reason).await?;
    let seq = tx.commit().await?;
    Ok(Json(CutOffView { seq, not_before: not_before.to_string() }))
}
