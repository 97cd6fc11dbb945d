//! Revocations: who must sign in again now, seen before it is done where that matters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;

use axum::Json;
use ipnet::{IpNet, Ipv4Net};
use reauth_domain::access::{Assurance, CutOffScope, Methods};
use reauth_domain::apps::selectors::Selector;
use reauth_domain::apps::{self, App};
use reauth_domain::cutoffs::revocations::{Filter, Looked};
use reauth_domain::cutoffs::{self, revocations};
use reauth_domain::{AppId, Error, Result, SessionId, Span, Time, UserId, users};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::REVOCATION_LOOKS;
use crate::api::answer::{Answer, ErrorBody};
use crate::api::read::{Body, List, Page, PageQuery, PathOf, why};
use crate::api::who::{Backend, SessionsEnd, UsersRead};
use crate::app::App as State;

/// So many previews are remembered, of all apps, and in them so many sessions (32 bytes each); the
/// newest is always kept.
const PREVIEWS_MAX: usize = 16;
const SESSIONS_MAX: usize = 2_000_000;
/// A set that was looked at longer ago has to be looked at again.
const PREVIEW_LIFE: Span = Span::minutes(15);
/// A busy app is looked at so often before the writer is taken all the same.
const LOOKS_MAX: usize = 3;
/// Users that are named at once; the others come page by page.
const NAMED_MAX: usize = 100;

/// Who must sign in again, or wipe their data.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    filter: FilterView,
    action: Action,
    /// A sentence for the ledger: at most 1000 characters.
    #[serde(default, deserialize_with = "why")]
    #[schema(value_type = Option<String>)]
    reason: Option<String>,
    /// Only says whom it would end, and remembers the set for 15 minutes.
    #[serde(default)]
    dry_run: bool,
    /// What was seen before.
    #[serde(default)]
    expect: Option<Expect>,
}

/// Whose sessions: those that meet all that is given; `{}` is everyone in the app. A group, a user
/// or everyone alone is one moment whatever the number of sessions.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FilterView {
    everyone: bool,
    /// The members of this group.
    group: Option<String>,
    /// The members of at least one of these groups.
    groups: Option<Vec<String>>,
    /// This user.
    user: Option<String>,
    /// These users.
    #[schema(value_type = Option<Vec<String>>)]
    users: Option<Vec<UserId>>,
    /// Users whose attributes have all these values.
    #[schema(value_type = Option<Object>)]
    attributes: Option<BTreeMap<String, Value>>,
    /// Sessions on one of these platforms.
    platforms: Option<Vec<String>>,
    /// Sessions proved by at least one of these methods (RFC 8176).
    #[schema(value_type = Option<Vec<String>>)]
    methods: Option<Methods>,
    /// Sessions of one of these assurance levels.
    #[schema(value_type = Option<Vec<String>>)]
    assurance: Option<Vec<Assurance>>,
    /// Sessions whose label fits one of these: `*` is any text, `?` any character.
    labels: Option<Vec<String>>,
    /// Authenticated at this moment (RFC 3339) or date or before it.
    authenticated_before: Option<String>,
    /// First signed in at this moment or date or before it.
    created_before: Option<String>,
    /// On the device with this id of its own.
    device_id: Option<String>,
    /// Signed in last from this address, or from this network: `203.0.113.0/24`.
    ip: Option<String>,
}

/// `re-authenticate`, or `wipe`: as that, and the devices wipe their data at the next connect.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    ReAuthenticate,
    Wipe,
}

/// The set that was seen in a dry run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// From the dry run's answer.
    preview_id: String,
    /// By how many percent of its sessions the set may have changed since; 0 unless set.
    #[serde(default)]
    tolerance_percent: u32,
}

/// What was done, or what would be.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct RevocationView {
    /// The place of its ledger entry; none in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    /// The moment from which on none of the sessions is accepted; none in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    /// How many sessions; not counted for a group, a user or everyone, unless a setting asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<usize>,
    /// Of how many users.
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<usize>,
    /// Of a dry run: how many unused authentication tokens it would end as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication_tokens: Option<usize>,
    /// A hundred of them at most; all come page by page from `revocations/previews/{preview}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<Vec<String>>,
    /// Of a dry run: names the set in `expect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview_id: Option<String>,
    /// Until when it can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl FilterView {
    /// Everyone, a group or a user alone: then a moment is enough.
    fn scope(&self, app: AppId, action: Action) -> Option<Scope> {
        let Self { everyone, group, groups, user, users, attributes, platforms, methods, .. } =
            self;
        let Self { assurance, labels, authenticated_before, created_before, .. } = self;
        let is_more = *everyone && (group.is_some() || user.is_some())
            || groups.is_some()
            || users.is_some()
            || attributes.is_some()
            || platforms.is_some()
            || methods.is_some()
            || assurance.is_some()
            || labels.is_some()
            || authenticated_before.is_some()
            || created_before.is_some()
            || self.device_id.is_some()
            || self.ip.is_some();
        if is_more || action == Action::Wipe {
            return None;
        }
        match (group, user) {
            (None, None) => Some(Scope::Known(CutOffScope::App { app })),
            (Some(name), None) => {
                Some(Scope::Known(CutOffScope::Group { app, name: name.clone() }))
            }
            (None, Some(user)) => Some(Scope::User(user.clone())),
            (Some(_), Some(_)) => None,
        }
    }

    fn filter(self) -> Result<revocations::Filter> {
        let twice = |field: &str| Err(Error::invalid(field, "give either the one or the list"));
        let groups = match (self.group, self.groups) {
            (Some(_), Some(_)) => return twice("filter.groups"),
            (one, list) => list.or(one.map(|one| vec![one])),
        };
        let users = match (self.user, self.users) {
            (Some(_), Some(_)) => return twice("filter.users"),
            (Some(user), None) => {
                let unknown = |_| Error::not_found(format!("user {user}"));
                Some(vec![user.parse().map_err(unknown)?])
            }
            (None, list) => list,
        };
        let mut applies_to = Selector {
            everyone: false,
            groups,
            users,
            attributes: self.attributes,
            platforms: self.platforms,
            methods: self.methods,
            assurance: self.assurance,
            labels: self.labels,
        };
        applies_to.everyone = self.everyone || applies_to == Selector::default();
        let moment = |field: &str, text: Option<String>| {
            let why = "must be a moment, as in \"2026-12-31T23:00:00Z\", or a date";
            text.map(|text| Time::parse(&text).ok_or_else(|| Error::invalid(field, why)))
                .transpose()
        };
        Ok(revocations::Filter {
            applies_to,
            authenticated_before: moment("filter.authenticated_before", self.authenticated_before)?,
            created_before: moment("filter.created_before", self.created_before)?,
            device_id: self.device_id,
            ip: self.ip.map(|text| network(&text)).transpose()?,
        })
    }
}

/// One address is a network of one; IPv4 within IPv6 is IPv4.
fn network(text: &str) -> Result<IpNet> {
    let one = text.parse().map(|address: IpAddr| IpNet::from(address.to_canonical()));
    let plain = |net: IpNet| match (net, net.addr().to_canonical()) {
        (IpNet::V6(_), IpAddr::V4(address)) if net.prefix_len() >= 96 => {
            Ipv4Net::new(address, net.prefix_len() - 96).map_or(net, IpNet::from)
        }
        _ => net,
    };
    one.or_else(|_| text.parse().map(plain)).map_err(|_| {
        let why = "must be an address or a network, as in \"203.0.113.7\" or \"203.0.113.0/24\"";
        Error::invalid("filter.ip", why)
    })
}

/// Whom a moment is for.
enum Scope {
    Known(CutOffScope),
    /// By an id that may be nobody's.
    User(String),
}

/// Looks whom it would end; again, if much has changed meanwhile: what is left to look at under the
/// writer is short then.
async fn look(state: &State, app: &App, (filter, wipes): (&Filter, bool)) -> Result<Looked> {
    let turn = REVOCATION_LOOKS.acquire().await;
    let _turn = turn.map_err(|error| Error::Internal(error.to_string()))?;
    let mut looked = revocations::look(&state.db, app, filter.clone(), wipes).await?;
    for _ in 1..LOOKS_MAX {
        let mut read = state.db.read().await?;
        if !revocations::is_far_behind(&mut read, app.id, &looked).await? {
            break;
        }
        drop(read);
        looked = revocations::look(&state.db, app, filter.clone(), wipes).await?;
    }
    Ok(looked)
}

/// Makes whoever meets the filter sign in again, or wipe their data: from the answer on no check
/// accepts one of their sessions. Scope: `sessions:end`.
#[utoipa::path(post, path = "/api/v4/{app}/revocations", tag = "policies",
    params(("app" = String, Path)), request_body = Revocation,
    responses((status = 200, body = RevocationView), (status = 409, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub(crate) async fn revoke(
    who: Backend<SessionsEnd>,
    Body(wanted): Body<Revocation>,
) -> Result<Json<RevocationView>, Answer> {
    let Revocation { filter, action, reason, dry_run, expect } = wanted;
    if expect.as_ref().is_some_and(|expect| expect.tolerance_percent > 100) {
        let why = "must be 0 to 100: what may be new or gone, of the sessions that were seen";
        return Err(Error::invalid("expect.tolerance_percent", why).into());
    }
    let scope = filter.scope(who.app, action);
    let (filter, wipes) = (filter.filter()?, action == Action::Wipe);
    let mut read = who.state.db.read().await?;
    let app = apps::find(&mut read, who.app).await?;
    for user in filter.applies_to.users.iter().flatten() {
        users::find(&mut read, who.app, *user).await?;
    }
    drop(read);
    filter.check()?;
    let is_looked_at = dry_run || scope.is_none() || expect.is_some() || is_guarded(&app);
    // Before the writer: nobody else is to wait for it.
    let looked =
        if is_looked_at { Some(look(&who.state, &app, (&filter, wipes)).await?) } else { None };
    let mut looked = match looked {
        Some(looked) if dry_run => {
            let mut read = who.state.db.read().await?;
            let tokens = revocations::tokens(&mut read, who.app, &looked).await?;
            let view = who.state.previews.remember(who.app, looked, read.now())?;
            return Ok(Json(RevocationView { authentication_tokens: Some(tokens), ..view }));
        }
        looked => looked,
    };
    let mut tx = who.write().await?;
    let mut view = RevocationView::default();
    if let Some(seen) = looked.take() {
        let (app, now) = (apps::find(&mut tx, who.app).await?, tx.now());
        let seen = revocations::look_again(&mut tx, &app, seen).await?;
        match &expect {
            Some(expect) => who.state.previews.compare(who.app, expect, &seen, now)?,
            None => guard(&app, &seen.found, users::count(&mut tx, who.app).await?)?,
        }
        let users: BTreeSet<UserId> = seen.found.iter().map(|(user, _)| *user).collect();
        (view.sessions, view.users) = (Some(seen.found.len()), Some(users.len()));
        looked = Some(seen);
    }
    let (not_before, is_filtered) = (tx.now(), scope.is_none());
    match scope {
        Some(Scope::Known(scope)) => drop(cutoffs::set(&mut tx, scope, reason).await?),
        Some(Scope::User(user)) => {
            let user = user.parse().map_err(|_| Error::not_found(format!("user {user}")))?;
            let scope = cutoffs::of_user(&mut tx, who.app, user).await?;
            cutoffs::set(&mut tx, scope, reason).await?;
        }
        None => {
            let why = || Error::Internal("a revocation by a filter was not looked at".into());
            revocations::set(&mut tx, who.app, looked.ok_or_else(why)?, reason).await?;
        }
    }
    view.seq = Some(tx.commit().await?);
    if is_filtered {
        // Until its ends are written every check looks at it.
        who.state.sweep_wake.notify_one();
    }
    view.not_before = Some(not_before.to_string());
    Ok(Json(view))
}

fn is_guarded(app: &App) -> bool {
    let settings = &app.settings;
    settings.unseen_sessions_max.is_some() || settings.unseen_percent_max.is_some()
}

/// The app's settings may want that more is looked at before it is done.
fn guard(app: &App, found: &[(UserId, SessionId)], users_all: i64) -> Result<()> {
    let users: BTreeSet<&UserId> = found.iter().map(|(user, _)| user).collect();
    let settings = &app.settings;
    let sessions = u64::try_from(found.len()).unwrap_or(u64::MAX);
    let (hundredfold, all) =
        (100 * users.len() as u64, u64::try_from(users_all).unwrap_or(0).max(1));
    // 60.9 % are more than 60 %.
    let percent = hundredfold.div_ceil(all);
    let is_many = settings.unseen_sessions_max.is_some_and(|max| sessions > max)
        || settings.unseen_percent_max.is_some_and(|max| hundredfold > max.saturating_mul(all));
    if !is_many {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "this would end {sessions} sessions of {} users ({percent} % of all), more than the app's \
         settings allow unseen: ask with \"dry_run\": true first, then name its preview_id in \
         \"expect\"",
        users.len()
    )))
}

/// The sets that were looked at.
#[derive(Default)]
pub(crate) struct Previews {
    kept: Mutex<VecDeque<Preview>>,
}

struct Preview {
    id: String,
    app: AppId,
    made_at: Time,
    filter: revocations::Filter,
    wipes: bool,
    /// Sorted.
    found: Vec<(UserId, SessionId)>,
}

impl Previews {
    fn remember(&self, app: AppId, looked: Looked, now: Time) -> Result<RevocationView> {
        let Looked { filter, wipes, mut found, .. } = looked;
        found.sort_unstable();
        let mut users: Vec<UserId> = found.iter().map(|(user, _)| *user).collect();
        users.dedup();
        let id = SessionId::mint().to_string();
        let view = RevocationView {
            sessions: Some(found.len()),
            users: Some(users.len()),
            who: Some(users.iter().take(NAMED_MAX).map(ToString::to_string).collect()),
            preview_id: Some(id.clone()),
            expires_at: Some((now + PREVIEW_LIFE).to_string()),
            ..RevocationView::default()
        };
        let mut kept = self.kept.lock().map_err(poisoned)?;
        kept.truncate(PREVIEWS_MAX - 1);
        kept.push_front(Preview { id, app, made_at: now, filter, wipes, found });
        while kept.len() > 1 && kept.iter().map(|one| one.found.len()).sum::<usize>() > SESSIONS_MAX
        {
            kept.pop_back();
        }
        Ok(view)
    }

    fn with<T>(
        &self,
        (app, id): (AppId, &str),
        now: Time,
        tell: impl FnOnce(&Preview) -> T,
    ) -> Result<T> {
        let kept = self.kept.lock().map_err(poisoned)?;
        let is_it =
            |one: &&Preview| one.app == app && one.id == id && now < one.made_at + PREVIEW_LIFE;
        let found = kept.iter().find(is_it).map(tell);
        let why = || format!("preview {id}: it may be older than {PREVIEW_LIFE}; make a new one");
        found.ok_or_else(|| Error::not_found(why()))
    }

    /// Refuses when something else is asked for, or the set has moved by more than is tolerated.
    fn compare(
        &self,
        app: AppId,
        Expect { preview_id, tolerance_percent }: &Expect,
        Looked { filter, wipes, found, .. }: &Looked,
        now: Time,
    ) -> Result<()> {
        let now_met: BTreeSet<&(UserId, SessionId)> = found.iter().collect();
        let (is_it, seen, same) = self.with((app, preview_id), now, |preview| {
            let same = preview.found.iter().filter(|one| now_met.contains(one)).count();
            let is_it = preview.filter == *filter && preview.wipes == *wipes;
            (is_it, preview.found.len(), same)
        })?;
        if !is_it {
            let why = format!(
                "preview {preview_id} is of another filter or another action: look at this one"
            );
            return Err(Error::Conflict(why));
        }
        let (gone, new) = (seen - same, found.len() - same);
        if (gone + new) * 100 <= seen * usize::try_from(*tolerance_percent).unwrap_or(usize::MAX) {
            return Ok(());
        }
        Err(Error::Conflict(format!(
            "the set has changed since it was looked at: {new} sessions are new and {gone} are \
             gone of {seen}; look again, or allow for it by tolerance_percent"
        )))
    }
}

fn poisoned<T>(_: T) -> Error {
    Error::Internal("the previews are damaged: restart the server".into())
}

/// A session of a set that was looked at.
#[derive(Serialize, ToSchema)]
pub(crate) struct MetView {
    user: String,
    session: String,
}

/// The sessions of a dry run, page by page. Scope: `users:read`.
#[utoipa::path(get, path = "/api/v4/{app}/revocations/previews/{preview}", tag = "policies",
    params(("app" = String, Path), ("preview" = String, Path), PageQuery),
    responses((status = 200, body = List<MetView>), (status = 404, body = ErrorBody)))]
pub(crate) async fn preview(
    who: Backend<UsersRead>,
    PathOf((_, id)): PathOf<(String, String)>,
    page: Page,
) -> Result<Json<List<MetView>>, Answer> {
    let now = who.state.db.now();
    let (views, total) = who.state.previews.with((who.app, &id), now, |preview| {
        let size = |number: i64| usize::try_from(number).unwrap_or(0);
        let some = preview.found.iter().skip(size(page.skip)).take(size(page.limit));
        let view = |(user, session): &(UserId, SessionId)| MetView {
            user: user.to_string(),
            session: session.to_string(),
        };
        (some.map(view).collect(), preview.found.len())
    })?;
    Ok(Json(List::new(views, i64::try_from(total).unwrap_or(i64::MAX), page)))
}
