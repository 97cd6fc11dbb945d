//! The ledger for those who may read it, and cut-offs: the widest changes that it knows.

use axum::Json;
use reauth_domain::ledger::{self, Head, Stored, Wanted};
use reauth_domain::{AppId, Error, Time, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::answer::{Answer, ErrorBody, Kind};
use super::read::{QueryOf, number};
use super::who::{Backend, LedgerRead, Operator};

/// One entry. `hash` is SHA-256(the hash before ‖ `body`), in bytes; the first hash before is 32
/// zero bytes.
#[derive(Serialize, ToSchema)]
pub(crate) struct EntryView {
    seq: i64,
    at: String,
    app: Option<String>,
    user: Option<String>,
    /// Such as `session.wiped`.
    kind: String,
    /// Who: `kind`, and `id` and `name` where there are any.
    by: Value,
    /// Why, in the words of who did it.
    why: Option<String>,
    /// What happened.
    change: Value,
    /// The exact bytes that were hashed.
    body: String,
    /// Lowercase hex.
    hash: String,
}

impl EntryView {
    pub(super) fn new(stored: Stored) -> Result<Self, Answer> {
        let hash = stored.hash_hex();
        let Stored { entry, kind, body, .. } = stored;
        let plain = |value: serde_json::Result<Value>| {
            value.map_err(|e| Answer::new(Kind::Internal, format!("an unreadable entry: {e}")))
        };
        Ok(Self {
            seq: entry.seq,
            at: entry.at.to_string(),
            app: entry.app.map(|id| id.to_string()),
            user: entry.user.map(|id| id.to_string()),
            kind,
            by: plain(serde_json::to_value(&entry.by))?,
            why: entry.why,
            change: plain(serde_json::to_value(&entry.change))?,
            body,
            hash,
        })
    }
}

/// The end of the ledger.
#[derive(Serialize, ToSchema)]
pub(crate) struct HeadView {
    seq: i64,
    hash: String,
}

impl HeadView {
    fn new(head: &Head) -> Self {
        Self { seq: head.seq, hash: head.hash_hex() }
    }
}

/// A page of entries in order.
#[derive(Serialize, ToSchema)]
pub(crate) struct LedgerView {
    entries: Vec<EntryView>,
    more: bool,
    head: HeadView,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LedgerQuery {
    /// Only entries after this place.
    after: Option<String>,
    /// How many at most: up to 1000.
    limit: Option<String>,
    /// Only entries of this app (for the operator).
    app: Option<String>,
    /// Only entries about this user.
    user: Option<String>,
    /// Only entries from this moment on.
    since: Option<String>,
}

impl LedgerQuery {
    fn wanted(&self) -> Result<Wanted, Answer> {
        let invalid = |field: &str, why: &str| Answer::from(Error::invalid(field, why));
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let user: Option<UserId> = filled(&self.user)
            .map(|text| text.parse().map_err(|_| invalid("user", "must be a user id")))
            .transpose()?;
        let app: Option<AppId> = filled(&self.app)
            .map(|text| text.parse().map_err(|_| invalid("app", "must be 24 hex digits")))
            .transpose()?;
        let wanted = "must be a moment like 2026-05-03T08:12:00Z or a date";
        let since = filled(&self.since)
            .map(|text| Time::parse(&text).ok_or_else(|| invalid("since", wanted)))
            .transpose()?;
        Ok(Wanted {
            after: number("after", self.after.as_deref(), 0)?,
            limit: number("limit", self.limit.as_deref(), ledger::PAGE_ROWS_MAX)?,
            app,
            user,
            since,
        })
    }
}

async fn page(db: &reauth_domain::Db, wanted: Wanted) -> Result<Json<LedgerView>, Answer> {
    let mut read = db.read().await?;
    let head = ledger::head(&mut read).await?;
    let (found, more) = ledger::page(&mut read, wanted).await?;
    let entries: Result<Vec<EntryView>, Answer> = found.into_iter().map(EntryView::new).collect();
    Ok(Json(LedgerView { entries: entries?, more, head: HeadView::new(&head) }))
}

/// The app's own entries in order. Scope: `ledger:read`.
#[utoipa::path(get, path = "/api/v4/{app}/ledger", tag = "ledger",
    params(("app" = String, Path), LedgerQuery),
    responses((status = 200, body = LedgerView), (status = 403, body = ErrorBody)))]
pub(crate) async fn list(
    who: Backend<LedgerRead>,
    QueryOf(query): QueryOf<LedgerQuery>,
) -> Result<Json<LedgerView>, Answer> {
    let wanted = Wanted { app: Some(who.app), ..query.wanted()? };
    page(&who.state.db, wanted).await
}

/// All entries in order. For the operator.
#[utoipa::path(get, path = "/admin/ledger", tag = "ledger", params(LedgerQuery),
    responses((status = 200, body = LedgerView), (status = 401, body = ErrorBody)))]
pub(crate) async fn list_all(
    who: Operator,
    QueryOf(query): QueryOf<LedgerQuery>,
) -> Result<Json<LedgerView>, Answer> {
    page(&who.state.db, query.wanted()?).await
}

/// What a stretch of the ledger was found to be.
#[derive(Serialize, ToSchema)]
pub(crate) struct VerifyView {
    /// No fault so far.
    ok: bool,
    /// How many entries were recomputed.
    checked: i64,
    /// The last entry that is proven: go on after it while there is `more`.
    through: i64,
    more: bool,
    head: HeadView,
    /// The first fault.
    problem: Option<ProblemView>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ProblemView {
    seq: i64,
    why: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyQuery {
    /// The last entry that is proven already.
    after: Option<String>,
    /// How many entries to recompute: up to 50 000.
    limit: Option<String>,
}

/// Recomputes the chain: edits, gaps and truncation are found. For the operator.
#[utoipa::path(get, path = "/admin/ledger/verify", tag = "ledger", params(VerifyQuery),
    responses((status = 200, body = VerifyView), (status = 401, body = ErrorBody)))]
pub(crate) async fn verify(
    who: Operator,
    QueryOf(query): QueryOf<VerifyQuery>,
) -> Result<Json<VerifyView>, Answer> {
    /// About a second of hashing.
    const ENTRIES_MAX: i64 = 50_000;
    let after = number("after", query.after.as_deref(), 0)?;
    let limit = number("limit", query.limit.as_deref(), ENTRIES_MAX)?.clamp(1, ENTRIES_MAX);
    let mut read = who.state.db.read().await?;
    let mut found = ledger::verify(&mut read, after, limit).await?;
    if found.problem.is_none() && !found.more {
        found.problem = crate::workers::anchor::contradicts(&who.state.config, &mut read).await?;
    }
    Ok(Json(VerifyView {
        ok: found.problem.is_none(),
        checked: found.checked,
        through: found.through,
        more: found.more,
        head: HeadView::new(&found.head),
        problem: found.problem.map(|(seq, why)| ProblemView { seq, why }),
    }))
}
