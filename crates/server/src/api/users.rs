//! Users and their device sessions (contract, section 2).

use axum::Json;
use axum::http::StatusCode;
use reauth_domain::access::{Assurance, Methods};
use reauth_domain::devices::Proof;
use reauth_domain::sessions::{Session, State};
use reauth_domain::tokens::Scope;
use reauth_domain::users::User;
use reauth_domain::{Error, Span, Time, devices, sessions, users};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Answer, ErrorBody};
use super::read::{Body, List, MaybeBody, Page, PageQuery, Reason, SessionInPath, UserInPath};
use super::who::{Backend, SessionsEnd, UsersRead, UsersWrite};

/// A user with their sessions. The keys are exact and in this order.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserView {
    /// Lowercase UUID.
    id: String,
    /// The newest over all sessions; null when no device ever connected.
    last_connected_at: Option<String>,
    /// Whether some session is ENROLLED.
    enrolled: bool,
    /// Whether the user is locked.
    locked: bool,
    /// Newest first.
    sessions: Vec<SessionView>,
}

/// One device that is, or was, signed in. The keys are exact and in this order.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionView {
    id: String,
    /// `ENROLLED`, `LOCKED` or `RESET`.
    state: &'static str,
    last_authenticated_at: String,
    created_at: String,
    signed_out_at: Option<String>,
    last_connected_at: String,
    container: Value,
    runtime: Value,
    device: DeviceView,
    label: Option<String>,
    sync_status: SyncStatus,
    /// When it must sign in again by itself.
    ends_at: Option<String>,
    /// Why it ended.
    ended_by: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DeviceView {
    /// The device's own id.
    id: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SyncStatus {
    /// When the device last had all its data.
    last_full_sync: Option<String>,
}

impl UserView {
    fn new(user: &User, sessions: Vec<Session>) -> Self {
        let connected_at = sessions.iter().map(|session| session.connected_at).max();
        Self {
            id: user.id.to_string(),
            last_connected_at: connected_at.map(|at| at.to_string()),
            enrolled: sessions.iter().any(|session| session.state == State::Enrolled),
            locked: user.locked_at.is_some(),
            sessions: sessions.into_iter().map(SessionView::new).collect(),
        }
    }
}

impl SessionView {
    fn new(session: Session) -> Self {
        // What a device did not tell is null, key by key.
        let told = |value: Option<Value>, keys: &[&str]| -> Value {
            let value = value.unwrap_or_else(|| json!({}));
            keys.iter().map(|key| ((*key).to_owned(), value[*key].clone())).collect()
        };
        Self {
            id: session.id.to_string(),
            state: session.state.name(),
            last_authenticated_at: session.authenticated_at.to_string(),
            created_at: session.created_at.to_string(),
            signed_out_at: session.signed_out_at.map(|at| at.to_string()),
            last_connected_at: session.connected_at.to_string(),
            container: told(session.container, &["version", "bundle_id", "platform"]),
            runtime: told(session.runtime, &["version"]),
            device: DeviceView { id: session.device_id },
            label: session.label,
            sync_status: SyncStatus { last_full_sync: session.synced_at.map(|at| at.to_string()) },
            ends_at: session.ends_at.map(|at| at.to_string()),
            ended_by: session.ended_by.map(reauth_domain::access::Because::name),
        }
    }
}

/// A page of users with their sessions, oldest user first. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/users", tag = "users",
    params(("app" = String, Path), PageQuery),
    responses((status = 200, body = List<UserView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(
    who: Backend<UsersRead>,
    page: Page,
) -> Result<Json<List<UserView>>, Answer> {
    let mut read = who.state.db.read().await?;
    let (found, total) = users::page(&mut read, who.app, page.limit, page.skip).await?;
    let views = found.into_iter().map(|(user, sessions)| UserView::new(&user, sessions));
    Ok(Json(List::new(views.collect(), total, page)))
}

/// A user with their sessions. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/users/{user}", tag = "users",
    params(("app" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = UserView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(
    who: Backend<UsersRead>,
    UserInPath(user): UserInPath,
) -> Result<Json<UserView>, Answer> {
    let mut read = who.state.db.read().await?;
    let (user, sessions) = users::find_with_sessions(&mut read, who.app, user).await?;
    Ok(Json(UserView::new(&user, sessions)))
}

/// One session. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/users/{user}/sessions/{session}", tag = "users",
    params(("app" = String, Path), ("user" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = SessionView), (status = 404, body = ErrorBody)))]
pub(crate) async fn show_session(
    who: Backend<UsersRead>,
    SessionInPath(user, session): SessionInPath,
) -> Result<Json<SessionView>, Answer> {
    let mut read = who.state.db.read().await?;
    let session = sessions::find(&mut read, who.app, user, session).await?;
    Ok(Json(SessionView::new(session)))
}

/// Locks a user: all sessions end, and no sign-in succeeds until the unlock. Scopes: `users:write`
/// and `sessions:end`.
#[utoipa::path(post, path = "/api/v4/{app}/users/{user}/lock", tag = "users",
    params(("app" = String, Path), ("user" = String, Path)),
    request_body = Option<Reason>,
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn lock(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    MaybeBody(why): MaybeBody<Reason>,
) -> Result<StatusCode, Answer> {
    who.require(Scope::SessionsEnd)?;
    let mut tx = who.write().await?;
    users::lock(&mut tx, who.app, user, why.reason).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Unlocks a user. No session comes back. Scope: `users:write`.
#[utoipa::path(post, path = "/api/v4/{app}/users/{user}/unlock", tag = "users",
    params(("app" = String, Path), ("user" = String, Path)),
    request_body = Option<Reason>,
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn unlock(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    MaybeBody(why): MaybeBody<Reason>,
) -> Result<StatusCode, Answer> {
    let mut tx = who.write().await?;
    users::unlock(&mut tx, who.app, user, why.reason, who.scopes).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The date on which a user's access ends.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndDate {
    /// From this moment (RFC 3339) or date on the user is signed in nowhere; null: no such moment.
    #[schema(example = "2026-12-31T23:00:00Z")]
    not_after: Option<String>,
    /// A sentence for the ledger: at most 1000 characters.
    #[serde(default, deserialize_with = "super::read::why")]
    #[schema(value_type = Option<String>)]
    reason: Option<String>,
}

/// Sets the date on which a user's access ends, as when a contract does. A later one revives no
/// session. Scopes: `users:write` and `sessions:end`.
#[utoipa::path(put, path = "/api/v4/{app}/users/{user}/not-after", tag = "users",
    params(("app" = String, Path), ("user" = String, Path)), request_body = EndDate,
    responses((status = 204), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn set_not_after(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    Body(wanted): Body<EndDate>,
) -> Result<StatusCode, Answer> {
    who.require(Scope::SessionsEnd)?;
    let not_after = wanted.not_after.map(|text| {
        let why = "must be a moment, as in \"2026-12-31T23:00:00Z\", a date, or null";
        Time::parse(&text).ok_or_else(|| Error::invalid("not_after", why))
    });
    let mut tx = who.write().await?;
    users::set_not_after(&mut tx, who.app, user, not_after.transpose()?, wanted.reason).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forces a device to sign in again. Scope: `sessions:end`. The answer has no body and no
/// Content-Type.
#[utoipa::path(post, tag = "users",
    path = "/api/v4/{app}/users/{user}/sessions/{session}/re-authenticate",
    params(("app" = String, Path), ("user" = String, Path), ("session" = String, Path)),
    request_body = Option<Reason>,
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn re_authenticate(
    who: Backend<SessionsEnd>,
    SessionInPath(user, session): SessionInPath,
    MaybeBody(why): MaybeBody<Reason>,
) -> Result<StatusCode, Answer> {
    let mut tx = who.write().await?;
    sessions::re_authenticate(&mut tx, who.app, user, session, why.reason).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends a session and tells the device to wipe its data. Scope: `sessions:end`.
#[utoipa::path(post, path = "/api/v4/{app}/users/{user}/sessions/{session}/wipe", tag = "users",
    params(("app" = String, Path), ("user" = String, Path), ("session" = String, Path)),
    request_body = Option<Reason>,
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn wipe(
    who: Backend<SessionsEnd>,
    SessionInPath(user, session): SessionInPath,
    MaybeBody(why): MaybeBody<Reason>,
) -> Result<StatusCode, Answer> {
    let mut tx = who.write().await?;
    sessions::wipe(&mut tx, who.app, user, session, why.reason).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// How long the token can be used; 10 minutes unless set.
    #[schema(value_type = Option<String>, example = "10m")]
    expires_in: Option<Span>,
    /// By which methods the app has had the user prove who they are (RFC 8176), for policies.
    #[schema(value_type = Vec<String>, example = json!(["pwd", "otp"]))]
    methods: Methods,
    /// How surely: `aal1`, `aal2` or `aal3` (NIST SP 800-63B-4), for policies.
    #[schema(value_type = Option<String>, example = "aal2")]
    assurance: Option<Assurance>,
}

/// A one-use token with which a device can enrol.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenView {
    /// Shown this once.
    token: String,
    /// Where the device sends it.
    url: String,
    expires_at: String,
}

/// Issues a one-use authentication token. Scope: `users:write`.
#[utoipa::path(post, path = "/api/v4/{app}/users/{user}/authentication-token", tag = "users",
    params(("app" = String, Path), ("user" = String, Path)),
    request_body = Option<TokenRequest>,
    responses((status = 200, body = TokenView), (status = 409, body = ErrorBody)))]
pub(crate) async fn authentication_token(
    who: Backend<UsersWrite>,
    UserInPath(user): UserInPath,
    MaybeBody(wanted): MaybeBody<TokenRequest>,
) -> Result<Json<TokenView>, Answer> {
    let mut tx = who.write().await?;
    let TokenRequest { expires_in, methods, assurance } = wanted;
    let proof = Proof { methods, assurance };
    let issued = devices::issue(&mut tx, who.app, user, expires_in, proof).await?;
    tx.commit().await?;
    Ok(Json(TokenView {
        token: issued.0.reveal().to_owned(),
        url: format!("{}/device/{}/enroll", who.state.public_url(), who.app),
        expires_at: issued.1.to_string(),
    }))
}
