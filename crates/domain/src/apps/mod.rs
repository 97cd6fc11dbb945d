//! Apps: whose users, with which settings. An app's limits are kept over time, see `access::Era`.

pub mod policies;
pub mod selectors;

use serde::{Deserialize, Serialize};

use crate::access::Limits;
use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::users::{self, UserSchema};
use crate::values::error::{Error, Result};
use crate::values::ids::AppId;
use crate::values::time::{Span, Time};

/// The most apps on one page.
pub const PAGE_ROWS_MAX: i64 = 1_000;
/// A name is shown in tables and pages.
const NAME_CHARS_MAX: usize = 100;
/// Each change of the limits adds an era that every decision of the app looks at.
const ERAS_MAX: i64 = 1_000;

/// What an operator may set on an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The longest time from a real sign-in to the next. None: sessions have no end by themselves.
    pub max_session_age: Option<Span>,
    /// The longest time without activity. None: no such limit.
    pub max_idle: Option<Span>,
    /// Whether a user may be signed in on several devices at once. Without it a new enrolment ends
    /// the earlier session.
    pub multiple_devices_per_user: bool,
    /// How long before a session ends by its age, a calendar or a date its app is told so. None: it
    /// is not told.
    #[serde(default)]
    pub warn_before: Option<Span>,
    /// A revocation of more sessions needs a preview. None: however many.
    #[serde(default)]
    pub unseen_sessions_max: Option<u64>,
    /// A revocation of more percent of the users needs a preview. None: however many.
    #[serde(default)]
    pub unseen_percent_max: Option<u64>,
    /// The attributes of a user object and their types.
    pub user_schema: UserSchema,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_session_age: Some(Span::days(30)),
            max_idle: None,
            multiple_devices_per_user: false,
            warn_before: None,
            unseen_sessions_max: None,
            unseen_percent_max: None,
            user_schema: UserSchema::default(),
        }
    }
}

impl Settings {
    /// The limits among the settings.
    pub fn limits(&self) -> Limits {
        Limits { max_age: self.max_session_age, max_idle: self.max_idle, ..Limits::default() }
    }

    fn check(&self) -> Result<()> {
        self.limits().check()?;
        let most = Span::days(3_660);
        if self.warn_before.is_some_and(|span| span < Span::seconds(1) || span > most) {
            return Err(Error::invalid("warn_before", "must be between \"1s\" and \"3660d\""));
        }
        if self.unseen_percent_max.is_some_and(|percent| percent > 100) {
            let why = "must be at most 100: no revocation is of more percent of the users";
            return Err(Error::invalid("unseen_percent_max", why));
        }
        self.user_schema.check()
    }
}

/// An app.
#[derive(Clone, Debug)]
pub struct App {
    /// Its id: 24 hex digits.
    pub id: AppId,
    /// Its name, for people.
    pub name: String,
    /// When it was created.
    pub created_at: Time,
    /// Its settings.
    pub settings: Settings,
}

/// Creates an app.
pub async fn create(
    tx: &mut Tx,
    (name, settings): (&str, Settings),
    may_be_endless: bool,
) -> Result<App> {
    check_name(name)?;
    settings.check()?;
    if settings.max_session_age.is_none() && !may_be_endless {
        let why = "nothing would end every session: give one, or say \"allow_endless\": true";
        return Err(Error::invalid("max_session_age", why));
    }
    let app = App { id: AppId::mint(), name: name.to_owned(), created_at: tx.now(), settings };
    tx.change(
        "insert into apps (id, name, created_at, settings, not_before) values ($1, $2, $3, $4, 0)",
        args![app.id, &app.name, app.created_at, stored(&app.settings)?],
    )
    .await?;
    add_era(tx, app.id, app.settings.limits()).await?;
    let change = Change::AppCreated { name: app.name.clone(), settings: app.settings.clone() };
    tx.record(Subject::app(app.id), None, change);
    Ok(app)
}

/// Changes an app's name and settings. A change of the limits begins a new era.
pub async fn change(
    tx: &mut Tx,
    app: &App,
    (name, settings): (&str, Settings),
    may_be_endless: bool,
) -> Result<App> {
    check_name(name)?;
    settings.check()?;
    if app.name == name && app.settings == settings {
        return Ok(app.clone());
    }
    let now = tx.now();
    if app.settings.max_session_age.is_some()
        && !may_be_endless
        && !policies::is_bounded(settings.max_session_age, &policies::all(tx, app.id).await?, now)
    {
        let why = "nothing would end every session: keep one, or say \"allow_endless\": true";
        return Err(Error::invalid("max_session_age", why));
    }
    if app.settings.user_schema != settings.user_schema {
        change_schema(tx, app, &settings.user_schema).await?;
    }
    tx.change(
        "update apps set name = $1, settings = $2 where id = $3",
        args![name, stored(&settings)?, app.id],
    )
    .await?;
    let limits = settings.limits();
    let name = name.to_owned();
    let change = if limits == app.settings.limits() {
        Change::AppChanged { name: name.clone(), settings: settings.clone() }
    } else {
        add_era(tx, app.id, limits).await?;
        Change::LimitsSet { limits, name: name.clone(), settings: settings.clone() }
    };
    tx.record(Subject::app(app.id), None, change);
    Ok(App { name, settings, ..app.clone() })
}

/// Refuses to lose what a policy selects by: nobody could be found by it any more.
async fn change_schema(tx: &mut Tx, app: &App, schema: &UserSchema) -> Result<()> {
    let old = &app.settings.user_schema;
    for policy in policies::all(tx, app.id).await? {
        let mut named = policy.applies_to.attributes.iter().flatten().map(|(name, _)| name);
        if let Some(name) = named.find(|name| old.0.get(*name) != schema.0.get(*name)) {
            let why = format!("the policy {:?} selects by {name}: leave it as it is", policy.name);
            return Err(Error::invalid("user_schema", why));
        }
    }
    for (name, _) in schema.0.iter().filter(|(name, kind)| old.0.get(*name) != Some(kind)) {
        users::index_again(tx, app.id, schema, name).await?;
    }
    Ok(())
}

/// Refuses one version more of what a sweep forgets: see `sessions::sweep`.
fn too_many_versions(max: i64, what: &str) -> Error {
    let why = format!(
        "{max} versions of {what} are kept: old ones go with the next sweep, but not before \
         authentication tokens from their time are used or have expired"
    );
    Error::Busy { why, retry_after_s: 60 }
}

async fn add_era(tx: &mut Tx, app: AppId, limits: Limits) -> Result<()> {
    let sql = "select count(*) from app_limits where app_id = $1";
    if tx.count(sql, args![app]).await? >= ERAS_MAX {
        return Err(too_many_versions(ERAS_MAX, "limits"));
    }
    let now = tx.now();
    tx.change(
        "insert into app_limits (app_id, from_at, max_age, max_idle) values ($1, $2, $3, $4)",
        args![app, now, limits.max_age, limits.max_idle],
    )
    .await?;
    Ok(())
}

/// The app with this id.
pub async fn find(read: &mut Read, id: AppId) -> Result<App> {
    let sql = "select id, name, created_at, settings from apps where id = $1";
    let row = read.first(sql, args![id]).await?;
    row.map(|row| app(&row)).transpose()?.ok_or_else(|| Error::not_found(format!("app {id}")))
}

/// One page of apps, oldest first, and how many there are in all.
pub async fn page(read: &mut Read, limit: i64, skip: i64) -> Result<(Vec<App>, i64)> {
    let total = read.count("select count(*) from apps", args![]).await?;
    let rows = read
        .rows(
            "select id, name, created_at, settings from apps order by created_at, id
             limit $1 offset $2",
            args![limit.clamp(0, PAGE_ROWS_MAX), skip],
        )
        .await?;
    let apps: Result<Vec<App>> = rows.iter().map(app).collect();
    Ok((apps?, total))
}

fn app(row: &Row) -> Result<App> {
    Ok(App {
        id: row.parsed(0)?,
        name: row.text(1)?,
        created_at: row.time(2)?,
        settings: row.json(3)?,
    })
}

fn stored(settings: &Settings) -> Result<String> {
    serde_json::to_string(settings).map_err(|e| Error::Internal(format!("settings: {e}")))
}

/// A name that people can read: not empty, not long, no control characters.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_long = name.chars().count() > NAME_CHARS_MAX;
    if name.trim().is_empty() || is_long || name.chars().any(char::is_control) {
        let why = format!("must have 1 to {NAME_CHARS_MAX} characters, none of them a control");
        return Err(Error::invalid("name", why));
    }
    Ok(())
}
