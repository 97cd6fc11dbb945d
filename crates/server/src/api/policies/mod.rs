//! Policies, and what they would do.

pub(crate) mod access;
pub(crate) mod revocations;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, stream};
use reauth_domain::access::{Assurance, Methods};
use reauth_domain::apps::policies::{self, OverMax, Policy, PolicyLimits, Preset};
use reauth_domain::apps::selectors::{self, Selector};
use reauth_domain::{AppId, Error, Forecast, Preview, Read, Seen, Span, UserId, apps, groups};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use utoipa::ToSchema;

use crate::api::answer::{Answer, ErrorBody};
use crate::api::read::Body;
use crate::api::who::{AppAdmin, Backend, UsersRead};

/// What looks at every session does so one at a time, while others go on.
pub(super) static LOOKS: Semaphore = Semaphore::const_new(1);
/// Revocations do not wait for forecasts.
pub(super) static REVOCATION_LOOKS: Semaphore = Semaphore::const_new(1);

/// A rule about how long sign-ins last. All that apply to a session hold: the strictest decides.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyView {
    /// Unique in the app.
    #[schema(example = "contractors")]
    name: String,
    applies_to: SelectorView,
    limits: LimitsView,
    /// It holds from this moment (RFC 3339) or date on; from when it is stated, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_from: Option<String>,
    /// It holds until this moment or date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
}

/// Either `everyone`, or some of the others: then whoever meets all that is given.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SelectorView {
    /// All users of the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    everyone: bool,
    /// Members of at least one of these groups, each from the moment on at which they joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<String>>,
    /// These users.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    users: Option<Vec<UserId>>,
    /// Users whose attributes have all these values: each a text, a number, true or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({ "department": "sales" }))]
    attributes: Option<BTreeMap<String, Value>>,
    /// Sessions on one of these platforms (`container.platform`).
    #[serde(skip_serializing_if = "Option::is_none")]
    platforms: Option<Vec<String>>,
    /// Sessions proved by at least one of these methods (RFC 8176).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    methods: Option<Methods>,
    /// Sessions of one of these assurance levels: `aal1`, `aal2`, `aal3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    assurance: Option<Vec<Assurance>>,
    /// Sessions whose label fits one of these: `*` is any text, `?` any character.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
}

/// At least one of these.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsView {
    /// The longest time from the real authentication, as `12h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "12h")]
    max_age: Option<Span>,
    /// The longest time without activity, as `30m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30m")]
    max_idle: Option<Span>,
    /// Everyone signs in again every day at this local time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "05:00")]
    daily_at: Option<String>,
    /// Everyone signs in again every week at this day and local time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "monday 05:00")]
    weekly_at: Option<String>,
    /// The IANA time zone of `daily_at` or `weekly_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Vienna")]
    zone: Option<String>,
    /// Nobody is signed in from this moment (RFC 3339) or date on.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    /// By up to this share of `max_age` a session ends earlier, by its id: no herd at one second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "10%")]
    spread: Option<String>,
    /// On how many devices each user is signed in at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_sessions: Option<u32>,
    /// What happens to a sign-in beyond that: `end_oldest` (unless set) or `refuse_new`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    over_max: Option<OverMax>,
    /// Who did not prove themselves by all of these methods (RFC 8176) signs in again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    require_methods: Option<Methods>,
    /// Limits of NIST SP 800-63B-4: `nist-aal1`, `nist-aal2`, `nist-aal3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    preset: Option<Preset>,
}

impl PolicyView {
    fn new(policy: Policy) -> Self {
        let Policy { name, applies_to, limits, valid_from, valid_until } = policy;
        let (applies_to, limits) = (SelectorView::new(applies_to), LimitsView::new(limits));
        Self { name, applies_to, limits, valid_from, valid_until }
    }

    fn policy(self) -> Policy {
        let Self { name, applies_to, limits, valid_from, valid_until } = self;
        let (applies_to, limits) = (applies_to.selector(), limits.limits());
        Policy { name, applies_to, limits, valid_from, valid_until }
    }
}

impl SelectorView {
    fn new(selector: Selector) -> Self {
        let Selector { everyone, groups, users, attributes, .. } = selector;
        let Selector { platforms, methods, assurance, labels, .. } = selector;
        Self { everyone, groups, users, attributes, platforms, methods, assurance, labels }
    }

    pub(super) fn selector(self) -> Selector {
        let Self { everyone, groups, users, attributes, platforms, methods, assurance, labels } =
            self;
        Selector { everyone, groups, users, attributes, platforms, methods, assurance, labels }
    }
}

impl LimitsView {
    fn new(limits: PolicyLimits) -> Self {
        let PolicyLimits {
            max_age,
            max_idle,
            daily_at,
            weekly_at,
            zone,
            not_after,
            spread,
            max_sessions,
            over_max,
            require_methods,
            preset,
        } = limits;
        Self {
            max_age,
            max_idle,
            daily_at,
            weekly_at,
            zone,
            not_after,
            spread,
            max_sessions,
            over_max,
            require_methods,
            preset,
        }
    }

    fn limits(self) -> PolicyLimits {
        let Self {
            max_age,
            max_idle,
            daily_at,
            weekly_at,
            zone,
            not_after,
            spread,
            max_sessions,
            over_max,
            require_methods,
            preset,
        } = self;
        PolicyLimits {
            max_age,
            max_idle,
            daily_at,
            weekly_at,
            zone,
            not_after,
            spread,
            max_sessions,
            over_max,
            require_methods,
            preset,
        }
    }
}

/// The policies of an app that hold, by name.
#[derive(Serialize, ToSchema)]
pub(crate) struct PoliciesView {
    policies: Vec<PolicyView>,
    /// Groups that they name and that have no members: misspelt, perhaps.
    groups_without_members: Vec<String>,
}

impl PoliciesView {
    async fn new(read: &mut Read, app: AppId, all: Vec<Policy>) -> reauth_domain::Result<Self> {
        let groups_without_members = groups::without_members(read, app, named_groups(&all)).await?;
        let policies = all.into_iter().map(PolicyView::new).collect();
        Ok(Self { policies, groups_without_members })
    }
}

fn named_groups(all: &[Policy]) -> impl Iterator<Item = &String> {
    all.iter().filter_map(|policy| policy.applies_to.groups.as_ref()).flatten()
}

/// The whole set: what is not in it holds no longer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoliciesWanted {
    policies: Vec<PolicyView>,
    /// Agrees that nothing may end every session of the app.
    #[serde(default)]
    allow_endless: bool,
    /// A sentence for the ledger: at most 1000 characters.
    #[serde(default, deserialize_with = "crate::api::read::why")]
    #[schema(value_type = Option<String>)]
    reason: Option<String>,
}

/// The policies that hold. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/policies", tag = "policies",
    params(("app" = String, Path)),
    responses((status = 200, body = PoliciesView), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(who: Backend<UsersRead>) -> Result<Json<PoliciesView>, Answer> {
    let mut read = who.state.db.read().await?;
    let all = policies::all(&mut read, who.app).await?;
    Ok(Json(PoliciesView::new(&mut read, who.app, all).await?))
}

/// States the whole set of policies. It acts at once, on every session there is; a longer limit
/// revives none. The same set again changes nothing. Scope: `app:admin`.
#[utoipa::path(put, path = "/api/v4/{app}/policies", tag = "policies",
    params(("app" = String, Path)), request_body = PoliciesWanted,
    responses((status = 200, body = PoliciesView), (status = 422, body = ErrorBody)))]
pub(crate) async fn put(
    who: Backend<AppAdmin>,
    Body(wanted): Body<PoliciesWanted>,
) -> Result<Json<PoliciesView>, Answer> {
    let mut read = who.state.db.read().await?;
    let app = apps::find(&mut read, who.app).await?;
    let all: Vec<Policy> = wanted.policies.into_iter().map(PolicyView::policy).collect();
    policies::check(&mut read, &app, &all, wanted.allow_endless).await?;
    drop(read);
    let looked = selectors::look(&who.state.db, &app, &all).await?;
    let mut tx = who.write().await?;
    let app = apps::find(&mut tx, who.app).await?;
    let set = (all, Some(looked));
    policies::set(&mut tx, &app, set, wanted.allow_endless, wanted.reason).await?;
    let now = policies::all(&mut tx, who.app).await?;
    let view = PoliciesView::new(&mut tx, who.app, now).await?;
    tx.commit().await?;
    Ok(Json(view))
}

/// What a set of policies would do if it were stated now.
#[derive(Serialize, ToSchema)]
pub(crate) struct PreviewView {
    /// Sessions that are valid now.
    sessions: usize,
    /// Users who have one.
    users: usize,
    /// How many of these sessions would end at once.
    ended_sessions: usize,
    /// How many users would lose at least one.
    ended_users: usize,
    /// A hundred of those users at most.
    who: Vec<String>,
    /// Groups that the new set names and that have no members: misspelt, perhaps.
    groups_without_members: Vec<String>,
    /// The sign-ins that will be forced as it is; null if that takes too long to foresee.
    before: Option<ForecastView>,
    /// The same with the new set, and with those that it forces at once; null likewise.
    after: Option<ForecastView>,
    /// Why `after` is null, and what to ask for instead.
    unforeseen: Option<String>,
}

/// Sign-ins that will be forced in the next 90 days, if every device stays in use and signs in
/// again as soon as it must.
#[derive(Serialize, ToSchema)]
pub(crate) struct ForecastView {
    /// How many in each of the next 2160 hours, the first of which begins now.
    hours: Vec<u64>,
    /// The most in one second.
    peak_per_second: u64,
    /// The first second that has as many; none if no sign-in is forced.
    peak_at: Option<String>,
}

impl ForecastView {
    fn new(forecast: Forecast) -> Self {
        let Forecast { hours, peak_per_second, peak_at } = forecast;
        Self { hours, peak_per_second, peak_at: peak_at.map(|at| at.to_string()) }
    }
}

impl PreviewView {
    fn new(found: Preview, groups_without_members: Vec<String>) -> Self {
        Self {
            groups_without_members,
            sessions: found.sessions,
            users: found.users,
            ended_sessions: found.ended_sessions,
            ended_users: found.ended_users,
            who: found.who.iter().map(ToString::to_string).collect(),
            before: found.before.map(ForecastView::new),
            after: found.after.map(ForecastView::new),
            unforeseen: found.unforeseen,
        }
    }
}

/// What a set of policies would do if it were stated now: nothing is changed. With `Accept:
/// application/x-ndjson` the answer is a JSON value a line: `{"seen":…,"all":…}` while it looks at
/// the sessions, then the answer itself, or `{"error":…}`. Scope: `users:read`.
#[utoipa::path(post, path = "/api/v4/{app}/policies/preview", tag = "policies",
    params(("app" = String, Path)), request_body = PoliciesWanted,
    responses((status = 200, body = PreviewView), (status = 422, body = ErrorBody)))]
pub(crate) async fn preview(
    who: Backend<UsersRead>,
    headers: HeaderMap,
    Body(wanted): Body<PoliciesWanted>,
) -> Result<Response, Answer> {
    let mut read = who.state.db.read().await?;
    let app = apps::find(&mut read, who.app).await?;
    let all: Vec<Policy> = wanted.policies.into_iter().map(PolicyView::policy).collect();
    policies::check(&mut read, &app, &all, wanted.allow_endless).await?;
    let found = selectors::find(&mut read, &app, &all).await?;
    let nobody = groups::without_members(&mut read, app.id, named_groups(&all)).await?;
    drop(read);
    let (db, id, seen) = (who.state.db.clone(), who.app, Arc::new(Seen::default()));
    let turn = LOOKS.acquire().await.map_err(|error| Error::Internal(error.to_string()))?;
    let told = Arc::clone(&seen);
    let looking = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        db.live()
            .preview(id, (&all, &found), db.now(), &told)
            .map(|found| PreviewView::new(found, nobody))
    });
    if headers.get(header::ACCEPT).is_none_or(|kind| kind != LINES) {
        let found =
            looking.await.map_err(|error| Error::Internal(format!("preview: {error}")))??;
        return Ok(Json(found).into_response());
    }
    let kind = [(header::CONTENT_TYPE, LINES)];
    Ok((kind, axum::body::Body::from_stream(lines(looking, seen))).into_response())
}

/// One JSON value a line.
const LINES: &str = "application/x-ndjson";
/// How often it says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How far it is, until it is done.
fn lines(
    looking: JoinHandle<reauth_domain::Result<PreviewView>>,
    seen: Arc<Seen>,
) -> impl Stream<Item = Result<String, serde_json::Error>> {
    stream::unfold(Some(looking), move |looking| {
        let seen = Arc::clone(&seen);
        async move {
            let mut looking = looking?;
            let line = |value: serde_json::Result<String>| value.map(|text| text + "\n");
            let Ok(done) = tokio::time::timeout(TELL_EVERY, &mut looking).await else {
                let [sessions, all] =
                    [&seen.sessions, &seen.all].map(|count| count.load(Ordering::Relaxed));
                let told = serde_json::to_string(&json!({ "seen": sessions, "all": all }));
                return Some((line(told), Some(looking)));
            };
            let last = match done {
                Ok(Ok(found)) => serde_json::to_string(&found),
                Ok(Err(error)) => serde_json::to_string(&json!({ "error": error.to_string() })),
                Err(error) => {
                    tracing::error!(%error, "a preview failed");
                    serde_json::to_string(&json!({ "error": "this is a defect" }))
                }
            };
            Some((line(last), None))
        }
    })
}
