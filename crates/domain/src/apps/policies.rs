//! Policies: what an app asks of sign-ins beyond its own settings, for everyone or for some. The
//! whole set is stated at once; what it does not name any more no longer holds, but what a policy
//! had ended stays ended. A policy decides nothing: it is limits for `access::decide`.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use super::selectors::{self, Looked, Selector};
use super::{App, check_name};
use crate::access::{Calendar, CutOffScope, Limits, Methods, SPAN_MAX, time, weekday_and_time};
use crate::cutoffs;
use crate::groups;
use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::{Span, Time};

/// Every check of the app's users looks at all of them.
const POLICIES_MAX: usize = 100;
/// With each of these every device's label is compared.
const LABELS_MAX: usize = 1_000;
/// Each version of a policy is kept until a sweep has come by, and no token from its time can be
/// used: see `sessions::sweep`.
const VERSIONS_MAX: i64 = 1_000;

/// A rule about how long sign-ins last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, unique in the app.
    pub name: String,
    /// Whose sessions.
    pub applies_to: Selector,
    /// What it asks.
    pub limits: PolicyLimits,
    /// It holds from this moment (RFC 3339) or date on, if that is later than when it is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// It holds until this moment or date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
}

/// What a policy asks, as it is written: at least one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyLimits {
    /// The longest time from the real authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// The longest time without activity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_idle: Option<Span>,
    /// Everyone signs in again every day at this local time: `05:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily_at: Option<String>,
    /// Everyone signs in again every week at this day and local time: `monday 05:00`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly_at: Option<String>,
    /// The IANA zone of `daily_at` or `weekly_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Nobody is signed in from this moment on: `2026-12-31T23:00:00Z` (RFC 3339), or a date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// By up to this share of `max_age` a session ends earlier, by its id: `10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// On how many devices each user is signed in at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// What happens to the sign-in that is one too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_max: Option<OverMax>,
    /// Who did not prove themselves by all of these (RFC 8176) signs in again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_methods: Option<Methods>,
    /// Limits of a standard; those that are given beside it make it stricter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
}

/// What happens to the sign-in that is one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverMax {
    /// The session that was authenticated longest ago ends.
    #[default]
    EndOldest,
    /// It is refused: the user signs out somewhere first.
    RefuseNew,
}

/// Limits of NIST SP 800-63B-4, by assurance level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Section 2.1.3: 30 days.
    NistAal1,
    /// Section 2.2.3: 24 hours, one hour without activity.
    NistAal2,
    /// Section 2.3.3: 12 hours, 15 minutes without activity.
    NistAal3,
}

impl Preset {
    const fn limits(self) -> (Span, Option<Span>) {
        match self {
            Self::NistAal1 => (Span::days(30), None),
            Self::NistAal2 => (Span::hours(24), Some(Span::hours(1))),
            Self::NistAal3 => (Span::hours(12), Some(Span::minutes(15))),
        }
    }
}

impl Policy {
    /// Refuses what cannot be meant, by field; answers the limits.
    pub fn check(&self) -> Result<Limits> {
        let inside = |error: Error| self.named(error);
        check_name(&self.name).map_err(|_| {
            let why = "must have 1 to 100 characters, none of them a control";
            Error::invalid("policies.name", why)
        })?;
        self.applies_to.check().map_err(inside)?;
        let (from, until) = self.validity().map_err(inside)?;
        if until.is_some_and(|until| until <= from) {
            let why = "must be later than valid_from";
            return Err(inside(Error::invalid("valid_until", why)));
        }
        let limits = self.limits.read().map_err(inside)?;
        if limits.max_sessions.is_some() && self.applies_to.is_about_sessions() {
            let why = "counts all sessions of a user: select by groups, users or attributes";
            return Err(inside(Error::invalid("limits.max_sessions", why)));
        }
        Ok(limits)
    }

    /// An error of its own with the place in the whole set.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Invalid { field, why } => {
                Error::Invalid { field: format!("policies.{}.{field}", self.name), why }
            }
            other => other,
        }
    }

    /// What is left of it for devices that stay in use: they are never idle. None: nothing is.
    pub fn without_idle(mut self, now: Time) -> Option<Self> {
        if self.has_passed(now) {
            return None;
        }
        if self.has_late_not_after() {
            self.limits.not_after = None;
        }
        let limits = &mut self.limits;
        if let Some((age, _)) = limits.preset.take().map(Preset::limits) {
            limits.max_age = limits.max_age.into_iter().chain([age]).min();
        }
        limits.max_idle = None;
        (*limits != PolicyLimits::default()).then_some(self)
    }

    /// From when on and until when it holds, if it is stated in time.
    pub fn validity(&self) -> Result<(Time, Option<Time>)> {
        let from = moment("valid_from", self.valid_from.as_deref())?;
        Ok((from.unwrap_or(Time::ZERO), moment("valid_until", self.valid_until.as_deref())?))
    }

    /// Refuses what can never act. What is stated again as it was may have acted once.
    fn check_new(&self, now: Time) -> Result<()> {
        if self.has_passed(now) {
            return Err(Error::invalid("valid_until", "is past: it would never hold"));
        }
        if self.has_late_not_after() {
            let why = "must be earlier than valid_until: it would end nothing";
            return Err(Error::invalid("limits.not_after", why));
        }
        Ok(())
    }

    fn has_passed(&self, now: Time) -> bool {
        self.validity().is_ok_and(|(_, until)| until.is_some_and(|until| until <= now))
    }

    fn has_late_not_after(&self) -> bool {
        let read = |text: &Option<String>| text.as_deref().and_then(Time::parse);
        let (not_after, until) = (read(&self.limits.not_after), read(&self.valid_until));
        not_after.zip(until).is_some_and(|(not_after, until)| not_after >= until)
    }

    /// Whether it holds now, and from now on ends every session of the app for sure, none later
    /// than the longest age that there may be.
    fn bounds_everyone(&self, limits: Limits, now: Time) -> bool {
        let holds = self.validity().is_ok_and(|(from, until)| from <= now && until.is_none());
        let is_near = |date: Time| date <= now + SPAN_MAX;
        let bounds = limits.max_age.is_some()
            || limits.calendar.is_some()
            || limits.not_after.is_some_and(is_near);
        holds && bounds && self.applies_to.everyone
    }
}

fn moment(field: &str, text: Option<&str>) -> Result<Option<Time>> {
    let why = "must be a moment, as in \"2026-12-31T23:00:00Z\", or a date";
    text.map(|text| Time::parse(text).ok_or_else(|| Error::invalid(field, why))).transpose()
}

impl PolicyLimits {
    fn read(&self) -> Result<Limits> {
        let (mut max_age, mut max_idle) = (self.max_age, self.max_idle);
        if let Some((age, idle)) = self.preset.map(Preset::limits) {
            let strictest = |one: Option<Span>, other| one.into_iter().chain(other).min();
            max_age = strictest(max_age, Some(age));
            // Whoever makes it stricter by age alone says nothing of idleness.
            let own_idle = idle.and_then(|idle| strictest(max_age, Some(idle)));
            max_idle = strictest(max_idle, own_idle);
        }
        let limits = Limits {
            max_age,
            max_idle,
            calendar: self.calendar()?,
            not_after: moment("limits.not_after", self.not_after.as_deref())?,
            max_sessions: self.max_sessions,
            require_methods: self.require_methods.unwrap_or_default(),
            cut: None,
            spread_percent: self.spread_percent()?,
        };
        if self.require_methods.is_some_and(Methods::is_empty) {
            return Err(Error::invalid("limits.require_methods", "must name one at least"));
        }
        if limits == Limits::default() {
            let why = "give max_age, max_idle, daily_at, weekly_at, not_after, max_sessions, \
                       require_methods or preset";
            return Err(Error::invalid("limits", why));
        }
        if self.max_sessions == Some(0) {
            return Err(Error::invalid("limits.max_sessions", "must be 1 at least"));
        }
        if self.over_max.is_some() && self.max_sessions.is_none() {
            return Err(Error::invalid("limits.over_max", "is for max_sessions: give both"));
        }
        limits.check().map_err(|error| match error {
            Error::Invalid { field, why } if field == "max_session_age" => {
                Error::invalid("limits.max_age", why)
            }
            Error::Invalid { field, why } => Error::invalid(format!("limits.{field}"), why),
            other => other,
        })
    }

    fn spread_percent(&self) -> Result<u8> {
        let Some(spread) = &self.spread else { return Ok(0) };
        let percent = spread.strip_suffix('%').and_then(|number| number.parse().ok());
        let why = "must be a share of max_age, from \"1%\" to \"50%\", beside max_age or preset";
        let is_of_an_age = self.max_age.is_some() || self.preset.is_some();
        percent
            .filter(|percent| (1..=50).contains(percent) && is_of_an_age)
            .ok_or_else(|| Error::invalid("limits.spread", why))
    }

    fn calendar(&self) -> Result<Option<Calendar>> {
        let (field, when) = match (&self.daily_at, &self.weekly_at, &self.zone) {
            (None, None, None) => return Ok(None),
            (None, None, Some(_)) => {
                let why = "is for daily_at or weekly_at: give one of them, or leave it out";
                return Err(Error::invalid("limits.zone", why));
            }
            (Some(_), Some(_), _) => {
                let why = "is given beside daily_at: make two policies of it";
                return Err(Error::invalid("limits.weekly_at", why));
            }
            (Some(daily), None, _) => ("limits.daily_at", time(daily).map(|time| (None, time))),
            (None, Some(weekly), _) => {
                ("limits.weekly_at", weekday_and_time(weekly).map(|(day, time)| (Some(day), time)))
            }
        };
        let why =
            "must be a local time, as in \"05:00\", with its day for weekly_at: \"monday 05:00\"";
        let (weekday, time) = when.ok_or_else(|| Error::invalid(field, why))?;
        let zone = self.zone.as_deref().and_then(|zone| zone.parse().ok());
        let why = "must be a time zone by its name, as in \"Europe/Vienna\" or \"UTC\"";
        let zone = zone.ok_or_else(|| Error::invalid("limits.zone", why))?;
        Ok(Some(Calendar { weekday, time, zone }))
    }
}

/// Refuses a set that cannot be meant, or that newly states what can never act.
pub async fn check(
    read: &mut Read,
    app: &App,
    policies: &[Policy],
    may_be_endless: bool,
) -> Result<()> {
    if policies.len() > POLICIES_MAX {
        let why = format!("an app has at most {POLICIES_MAX} policies: put users into groups");
        return Err(Error::invalid("policies", why));
    }
    let labels = policies.iter().filter_map(|policy| policy.applies_to.labels.as_ref());
    if labels.map(Vec::len).sum::<usize>() > LABELS_MAX {
        let why = format!("name at most {LABELS_MAX} label patterns in all");
        return Err(Error::invalid("policies", why));
    }
    let mut names = BTreeSet::new();
    for policy in policies {
        policy.check()?;
        policy.applies_to.check_attributes(app).map_err(|error| policy.named(error))?;
        if !names.insert(&policy.name) {
            let why = format!("two have the name {:?}: rename one", policy.name);
            return Err(Error::invalid("policies", why));
        }
    }
    if !may_be_endless && !is_bounded(app.settings.max_session_age, policies, read.now()) {
        let why = "nothing would end every session: keep a policy for everyone with max_age that \
                   holds from now on, or set max_session_age, or say \"allow_endless\": true";
        return Err(Error::invalid("policies", why));
    }
    check_new(read, app.id, policies).await
}

/// What was stated before, however it reads by now, may be stated again: users are deleted and
/// moments pass.
async fn check_new(read: &mut Read, app: AppId, policies: &[Policy]) -> Result<()> {
    let sql = "select body from policies where app_id = $1 and until_at is null limit $2";
    let rows = read.rows(sql, args![app, VERSIONS_MAX]).await?;
    let old: Vec<Policy> = rows.iter().filter_map(|row| row.json(0).ok()).collect();
    let users_of = |policy: &Policy| policy.applies_to.users.clone().unwrap_or_default();
    let known: HashSet<UserId> = old.iter().flat_map(users_of).collect();
    for policy in policies.iter().filter(|policy| !old.contains(policy)) {
        policy.check_new(read.now()).map_err(|error| policy.named(error))?;
        let mut users = users_of(policy);
        users.retain(|user| !known.contains(user));
        if let Some(user) = read.live().find_stranger(app, &users)? {
            let why = format!("{user} is no user of this app: leave it out");
            return Err(policy.named(Error::invalid("applies_to.users", why)));
        }
    }
    Ok(())
}

/// Whether every session of the app surely ends, also those that begin later: nothing that is yet
/// to hold, nor a date further away than the longest age that there may be, counts as an end.
pub fn is_bounded(max_session_age: Option<Span>, policies: &[Policy], now: Time) -> bool {
    let bounds = |policy: &Policy| policy.check().is_ok_and(|it| policy.bounds_everyone(it, now));
    max_session_age.is_some() || policies.iter().any(bounds)
}

/// States the whole set. Policies that are the same as before go on; the others end, or begin, now.
/// Whom they are about may have been looked up before: see `selectors::look`.
pub async fn set(
    tx: &mut Tx,
    app: &App,
    (policies, looked): (Vec<Policy>, Option<Looked>),
    may_be_endless: bool,
    why: Option<String>,
) -> Result<()> {
    tx.refuse_task()?;
    check(tx, app, &policies, may_be_endless).await?;
    let is_mended = forget_unreadable(tx, app.id).await?;
    let old = all(tx, app.id).await?;
    let now = tx.now();
    let gone: Vec<&Policy> = old.iter().filter(|policy| !policies.contains(policy)).collect();
    let new: Vec<&Policy> = policies.iter().filter(|policy| !old.contains(policy)).collect();
    if gone.is_empty() && new.is_empty() && !is_mended {
        return Ok(());
    }
    let sql = "select count(*) from policies where app_id = $1";
    let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
    if tx.count(sql, args![app.id]).await?.saturating_add(count) > VERSIONS_MAX {
        return Err(super::too_many_versions(VERSIONS_MAX, "policies"));
    }
    for policy in gone {
        tx.change(
            "update policies set until_at = $1
             where app_id = $2 and name = $3 and until_at is null",
            args![now, app.id, &policy.name],
        )
        .await?;
    }
    for policy in new {
        tx.change(
            "insert into policies (app_id, name, from_at, body) values ($1, $2, $3, $4)",
            args![app.id, &policy.name, now, stored(policy)?],
        )
        .await?;
    }
    let found = match looked {
        Some(looked) => selectors::find_again(tx, app, &policies, looked).await?,
        None => selectors::find(tx, app, &policies).await?,
    };
    for (group, members) in &found.groups {
        groups::keep(tx, app.id, group, members).await?;
    }
    tx.record(Subject::app(app.id), why, Change::PoliciesSet { policies, found });
    Ok(())
}

/// Whom a policy that cannot be read had ended nobody knows: when another set takes its place,
/// everyone of the app signs in again.
async fn forget_unreadable(tx: &mut Tx, app: AppId) -> Result<bool> {
    let sql = "select body, name, from_at from policies where app_id = $1 limit $2";
    let mut is_found = false;
    for row in tx.rows(sql, args![app, VERSIONS_MAX]).await? {
        let policy: Result<Policy> = row.json(0);
        if policy.and_then(|policy| policy.check()).is_ok() {
            continue;
        }
        let (name, from_at) = (row.text(1)?, row.time(2)?);
        let sql = "delete from policies where app_id = $1 and name = $2 and from_at = $3";
        tx.change(sql, args![app, name, from_at]).await?;
        is_found = true;
    }
    if is_found {
        let why = Some("a stored policy could not be read".to_owned());
        cutoffs::set(tx, CutOffScope::App { app }, why).await?;
    }
    Ok(is_found)
}

/// The policies that hold, by name. Refused if one cannot be read, by this version of the program.
pub async fn all(read: &mut Read, app: AppId) -> Result<Vec<Policy>> {
    let rows = read
        .rows(
            "select body from policies where app_id = $1 and until_at is null
             order by name limit $2",
            args![app, VERSIONS_MAX],
        )
        .await?;
    let read = |row: &Row| -> Result<Policy> {
        let policy: Policy = row.json(0)?;
        policy.check().map(|_| policy)
    };
    let policies: Result<Vec<Policy>> = rows.iter().map(read).collect();
    policies.map_err(|error| {
        let mend = "state the whole set anew (`reauth policy apply`)";
        Error::Unreadable(format!("a stored policy cannot be read ({error}): {mend}"))
    })
}

fn stored(policy: &Policy) -> Result<String> {
    serde_json::to_string(policy).map_err(|e| Error::Internal(format!("a policy: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn field_of(policy: Value) -> String {
        let policy: Policy = serde_json::from_value(policy).expect("a policy");
        match policy.check() {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{policy:?} must be refused: {other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_field() {
        let everyone = json!({ "everyone": true });
        for (limits, wanted) in [
            (json!({}), "policies.p.limits"),
            (json!({ "max_age": 0 }), "policies.p.limits.max_age"),
            (json!({ "max_age": "1h", "max_idle": "2h" }), "policies.p.limits.max_idle"),
            (json!({ "daily_at": "25:00", "zone": "UTC" }), "policies.p.limits.daily_at"),
            (json!({ "daily_at": "05:00" }), "policies.p.limits.zone"),
            (json!({ "daily_at": "05:00", "zone": "Atlantis" }), "policies.p.limits.zone"),
            (json!({ "weekly_at": "05:00", "zone": "UTC" }), "policies.p.limits.weekly_at"),
            (
                json!({ "daily_at": "05:00", "weekly_at": "monday 05:00", "zone": "UTC" }),
                "policies.p.limits.weekly_at",
            ),
            (json!({ "max_age": "1h", "zone": "UTC" }), "policies.p.limits.zone"),
            (json!({ "not_after": "soon" }), "policies.p.limits.not_after"),
            (json!({ "max_sessions": 0 }), "policies.p.limits.max_sessions"),
            (json!({ "max_age": "1h", "over_max": "refuse_new" }), "policies.p.limits.over_max"),
            (json!({ "require_methods": [] }), "policies.p.limits.require_methods"),
            (json!({ "max_age": "1h", "spread": "0%" }), "policies.p.limits.spread"),
            (json!({ "max_age": "1h", "spread": "0.1" }), "policies.p.limits.spread"),
            (json!({ "max_idle": "1h", "spread": "5%" }), "policies.p.limits.spread"),
        ] {
            let policy = json!({ "name": "p", "applies_to": everyone, "limits": limits });
            assert_eq!(field_of(policy), wanted);
        }
        for (applies_to, wanted) in [
            (json!({}), "policies.p.applies_to"),
            (json!({ "everyone": true, "groups": ["g"] }), "policies.p.applies_to"),
            (json!({ "groups": [] }), "policies.p.applies_to.groups"),
            (json!({ "users": [] }), "policies.p.applies_to.users"),
            (json!({ "groups": [""] }), "policies.p.applies_to.groups"),
            (json!({ "groups": ["@team=1"] }), "policies.p.applies_to.groups"),
            (json!({ "attributes": {} }), "policies.p.applies_to.attributes"),
            (json!({ "attributes": { "team": [1] } }), "policies.p.applies_to.attributes.team"),
            (json!({ "platforms": [" "] }), "policies.p.applies_to.platforms"),
            (json!({ "methods": [] }), "policies.p.applies_to.methods"),
            (json!({ "labels": [""] }), "policies.p.applies_to.labels"),
            (json!({ "platforms": ["ios"] }), "policies.p.limits.max_sessions"),
        ] {
            let limits = json!({ "max_age": "1d", "max_sessions": 1 });
            let policy = json!({ "name": "p", "applies_to": applies_to, "limits": limits });
            assert_eq!(field_of(policy), wanted);
        }
        let policy = json!({ "name": "p", "applies_to": everyone, "limits": { "max_age": "1d" },
            "valid_from": "2026-05-03", "valid_until": "2026-05-03" });
        assert_eq!(field_of(policy), "policies.p.valid_until");
    }

    #[test]
    fn a_preset_is_what_the_standard_says_and_can_only_be_made_stricter() {
        let read = |limits: Value| {
            let limits: PolicyLimits = serde_json::from_value(limits).expect("limits");
            let limits = limits.read().expect("they can be meant");
            (limits.max_age, limits.max_idle)
        };
        for (name, age, idle) in [
            ("nist-aal1", Span::days(30), None),
            ("nist-aal2", Span::hours(24), Some(Span::hours(1))),
            ("nist-aal3", Span::hours(12), Some(Span::minutes(15))),
        ] {
            assert_eq!(read(json!({ "preset": name })), (Some(age), idle));
        }
        let stricter = json!({ "preset": "nist-aal2", "max_age": "8h", "max_idle": "2h" });
        assert_eq!(read(stricter), (Some(Span::hours(8)), Some(Span::hours(1))));
        let by_age_alone = json!({ "preset": "nist-aal2", "max_age": "30m" });
        assert_eq!(read(by_age_alone), (Some(Span::minutes(30)), Some(Span::minutes(30))));
        let policy = json!({ "name": "p", "applies_to": { "everyone": true },
            "limits": { "preset": "nist-aal1", "max_idle": "40d" } });
        assert_eq!(field_of(policy), "policies.p.limits.max_idle");
    }
}
