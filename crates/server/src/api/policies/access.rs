//! Who can still get in, until when, and why.

use axum::Json;
use reauth_domain::access::Assurance;
use reauth_domain::sessions::bounds::{self, Access, Explanation};
use reauth_domain::tokens::Scope;
use reauth_domain::{Bounded, Error, KnownEnd, OwnVerdict, SessionId, UserId, users};
use serde::Serialize;
use utoipa::ToSchema;

use super::LOOKS;
use crate::api::answer::{Answer, ErrorBody};
use crate::api::ledger::EntryView;
use crate::api::read::{List, Page, PageQuery, PathOf, UserInPath};
use crate::api::who::{Backend, UsersRead};

/// Why a session ends when it does.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedView {
    session: String,
    user: String,
    /// `ENROLLED`, `LOCKED` or `RESET`.
    state: &'static str,
    last_authenticated_at: String,
    last_connected_at: String,
    /// From where it signed in last.
    address: Option<String>,
    /// The device's own id.
    device_id: String,
    /// What the user calls the device.
    label: Option<String>,
    /// The platform, as policies compare it.
    platform: Option<String>,
    /// By which methods the user proved who they are (RFC 8176).
    methods: Vec<&'static str>,
    /// How surely: `aal1`, `aal2` or `aal3` (NIST SP 800-63B-4).
    assurance: Option<&'static str>,
    /// The groups that the user is in.
    groups: Vec<String>,
    /// Every end that is known, the decisive one first.
    ends: Vec<EndView>,
    /// What each policy that holds says by itself, by name.
    policies: Vec<VerdictView>,
    /// The ledger entries that led here, the oldest first: a hundred about the session and its
    /// user, and a hundred about all, at most. None without the scope `ledger:read`.
    history: Option<Vec<EntryView>>,
}

/// One end of a session.
#[derive(Serialize, ToSchema)]
pub(crate) struct EndView {
    /// The first moment at which it is no longer valid.
    at: String,
    /// The reason's name.
    because: &'static str,
    /// The reason as a sentence; of an age or idle limit also how long it is, and since when.
    detail: String,
    /// The policy that asks for it; none for the app's own settings and for what someone did.
    policy: Option<String>,
}

impl EndView {
    fn new(end: KnownEnd) -> Self {
        let (at, detail) = (end.ended.at.to_string(), end.detail());
        Self { at, because: end.ended.because.name(), detail, policy: end.policy }
    }
}

/// What one policy says of a session by itself.
#[derive(Serialize, ToSchema)]
pub(crate) struct VerdictView {
    policy: String,
    /// `not_about_it`: the session does not meet its selector; `valid`, or `ended`.
    verdict: &'static str,
    /// The first end that it asks for.
    end: Option<EndView>,
}

impl VerdictView {
    fn new(own: OwnVerdict) -> Self {
        let OwnVerdict { policy, is_about_it, end, is_over } = own;
        let verdict = match (is_about_it, is_over) {
            (false, _) => "not_about_it",
            (true, false) => "valid",
            (true, true) => "ended",
        };
        let end = end.map(EndView::new);
        Self { policy, verdict, end }
    }
}

/// Why a session ends when it does: the facts, every end that is known, what each policy says, and
/// with the scope `ledger:read` the entries that led here. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/sessions/{session}/explain", tag = "policies",
    params(("app" = String, Path), ("session" = String, Path)),
    responses((status = 200, body = ExplainedView), (status = 404, body = ErrorBody)))]
pub(crate) async fn explain(
    who: Backend<UsersRead>,
    PathOf((_, id)): PathOf<(String, String)>,
) -> Result<Json<ExplainedView>, Answer> {
    let id: SessionId = id.parse().map_err(|_| Error::not_found(format!("session {id}")))?;
    let mut read = who.state.db.read().await?;
    let found = bounds::explain(&mut read, who.app, id).await?;
    let Explanation { session, traits, groups, explained, policies, history } = found;
    let views = || history.into_iter().map(EntryView::new).collect::<Result<Vec<_>, _>>();
    let history = who.scopes.allow(Scope::LedgerRead).then(views).transpose()?;
    Ok(Json(ExplainedView {
        session: session.id.to_string(),
        user: session.user.to_string(),
        state: session.state.name(),
        last_authenticated_at: session.authenticated_at.to_string(),
        last_connected_at: session.connected_at.to_string(),
        address: session.address.map(|address| address.to_string()),
        device_id: session.device_id,
        label: session.label,
        platform: traits.platform,
        methods: traits.methods.names(),
        assurance: traits.assurance.map(Assurance::name),
        groups,
        ends: explained.ends.into_iter().map(EndView::new).collect(),
        policies: policies.into_iter().map(VerdictView::new).collect(),
        history,
    }))
}

/// The moment by which all access of a user surely ends, unless they sign in again.
#[derive(Serialize, ToSchema)]
pub(crate) struct BoundView {
    /// The date on which the user's access ends, if one was said.
    not_after: Option<String>,
    /// None: at least one item has no end that activity could not put off.
    ends_by: Option<String>,
    items: Vec<ItemView>,
}

/// A credential that can act for the user.
#[derive(Serialize, ToSchema)]
pub(crate) struct ItemView {
    /// `session` or `authentication_token`.
    credential: &'static str,
    /// The session's id; an unused authentication token has none to show.
    id: Option<String>,
    /// When it surely ends; that it may end earlier for want of activity is not counted on. Of an
    /// authentication token: when the session ends that it can begin.
    ends_at: Option<String>,
    /// Until when an authentication token can begin one; none for a session.
    usable_until: Option<String>,
    /// The name of the reason for which it ends.
    because: Option<&'static str>,
}

impl ItemView {
    fn new(item: &Access) -> Self {
        Self {
            credential: if item.session.is_some() { "session" } else { "authentication_token" },
            id: item.session.map(|id| id.to_string()),
            ends_at: item.ends.map(|ended| ended.at.to_string()),
            usable_until: item.usable_until.map(|at| at.to_string()),
            because: item.ends.map(|ended| ended.because.name()),
        }
    }
}

/// By when all access of a user surely ends, item by item. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/users/{user}/access-bound", tag = "policies",
    params(("app" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = BoundView), (status = 404, body = ErrorBody)))]
pub(crate) async fn access_bound(
    who: Backend<UsersRead>,
    UserInPath(user): UserInPath,
) -> Result<Json<BoundView>, Answer> {
    let mut read = who.state.db.read().await?;
    let not_after = users::find(&mut read, who.app, user).await?.not_after;
    let items = bounds::access_of(&mut read, user).await?;
    let is_bounded = items.iter().all(|item| item.ends.is_some());
    let latest = items.iter().filter_map(|item| item.ends).map(|ended| ended.at).max();
    let now = read.now();
    Ok(Json(BoundView {
        not_after: not_after.map(|at| at.to_string()),
        ends_by: is_bounded.then(|| latest.unwrap_or(now).to_string()),
        items: items.iter().map(ItemView::new).collect(),
    }))
}

/// By when all access of one user surely ends.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserBoundView {
    user: String,
    /// None: there is no such moment.
    ends_by: Option<String>,
    /// How many sessions and unused authentication tokens can act for the user now.
    credentials: u32,
}

impl UserBoundView {
    fn new((user, bounded): &(UserId, Bounded)) -> Self {
        let ends_by = bounded.ends_by.map(|at| at.to_string());
        Self { user: user.to_string(), ends_by, credentials: bounded.credentials }
    }
}

/// Every user for whom someone can act now: first those whose access has no bound, then those whose
/// access lasts longest. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/access-bound", tag = "policies",
    params(("app" = String, Path), PageQuery),
    responses((status = 200, body = List<UserBoundView>), (status = 401, body = ErrorBody)))]
pub(crate) async fn access_bounds(
    who: Backend<UsersRead>,
    page: Page,
) -> Result<Json<List<UserBoundView>>, Answer> {
    let _turn = LOOKS.acquire().await.map_err(|error| Error::Internal(error.to_string()))?;
    let all = bounds::of_app(&who.state.db, who.app).await?;
    let size = |number: i64| usize::try_from(number).unwrap_or(0);
    let some = all.iter().skip(size(page.skip)).take(size(page.limit));
    let views = some.map(UserBoundView::new).collect();
    Ok(Json(List::new(views, i64::try_from(all.len()).unwrap_or(i64::MAX), page)))
}
