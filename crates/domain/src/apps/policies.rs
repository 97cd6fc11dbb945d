//! Policies: what an app asks of sign-ins beyond its own settings, for everyone or for some. The
//! whole set is stated at once; what it does not name any more no longer holds, but what a policy
//! had ended stays ended. A policy decides nothing: it is limits for `access::decide`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{App, check_name};
use crate::access::{Calendar, Limits, time, weekday_and_time};
use crate::ledger::{Change, Subject};
use crate::store::{Read, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, UserId};
use crate::values::time::{Span, Time};

/// Every check of the app's users looks at all of them.
const POLICIES_MAX: usize = 100;
/// Each version of a policy is kept: see `access::Era`.
const VERSIONS_MAX: i64 = 1_000;
/// More is a group.
const NAMED_MAX: usize = 1_000;

/// A rule about how long sign-ins last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, unique in the app.
    pub name: String,
    /// Whose sessions.
    pub applies_to: Selector,
    /// What it asks.
    pub limits: PolicyLimits,
}

/// Whose sessions a policy is about: those who meet all that is given. At least one must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// All users of the app; nothing else is given then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everyone: bool,
    /// Members of at least one of these groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// These users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserId>>,
}

/// What a policy asks, as it is written: at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Policy {
    /// Refuses what cannot be meant, by field; answers the limits.
    pub fn check(&self) -> Result<Limits> {
        let field = |name: &str| format!("policies.{}.{name}", self.name);
        check_name(&self.name).map_err(|_| {
            let why = "must have 1 to 100 characters, none of them a control";
            Error::invalid("policies.name", why)
        })?;
        let Selector { everyone, groups, users } = &self.applies_to;
        let (group_count, user_count) =
            (groups.as_ref().map(Vec::len), users.as_ref().map(Vec::len));
        if *everyone != (group_count.is_none() && user_count.is_none()) {
            let why = "give either everyone = true, or groups, or users, or groups and users";
            return Err(Error::invalid(field("applies_to"), why));
        }
        for (name, count) in [("groups", group_count), ("users", user_count)] {
            if count.is_some_and(|count| count == 0 || count > NAMED_MAX) {
                let why = format!("must name 1 to {NAMED_MAX}: an empty list would mean nobody");
                return Err(Error::invalid(field(&format!("applies_to.{name}")), why));
            }
        }
        for name in groups.iter().flatten() {
            let named = field("applies_to.groups");
            check_name(name).map_err(|error| Error::invalid(named, error.to_string()))?;
        }
        self.limits.read().map_err(|error| match error {
            Error::Invalid { field: inner, why } => {
                let inner = if inner == "max_session_age" { "max_age" } else { &inner };
                Error::invalid(field(&format!("limits.{inner}")), why)
            }
            other => other,
        })
    }
}

impl PolicyLimits {
    fn read(&self) -> Result<Limits> {
        let calendar = self.calendar()?;
        let not_after = self.not_after.as_deref().map(|text| {
            let why = "must be a moment, as in \"2026-12-31T23:00:00Z\", or a date";
            Time::parse(text).ok_or_else(|| Error::invalid("not_after", why))
        });
        let limits = Limits {
            max_age: self.max_age,
            max_idle: self.max_idle,
            calendar,
            not_after: not_after.transpose()?,
        };
        if limits == Limits::default() {
            let why = "give max_age, max_idle, daily_at, weekly_at or not_after";
            return Err(Error::invalid("limits", why));
        }
        limits.check()
    }

    fn calendar(&self) -> Result<Option<Calendar>> {
        let (field, when) = match (&self.daily_at, &self.weekly_at, &self.zone) {
            (None, None, None) => return Ok(None),
            (None, None, Some(_)) => {
                let why = "is for daily_at or weekly_at: give one of them, or leave it out";
                return Err(Error::invalid("zone", why));
            }
            (Some(_), Some(_), _) => {
                let why = "is given beside daily_at: make two policies of it";
                return Err(Error::invalid("weekly_at", why));
            }
            (Some(daily), None, _) => ("daily_at", time(daily).map(|time| (None, time))),
            (None, Some(weekly), _) => {
                ("weekly_at", weekday_and_time(weekly).map(|(day, time)| (Some(day), time)))
            }
        };
        let why =
            "must be a local time, as in \"05:00\", with its day for weekly_at: \"monday 05:00\"";
        let (weekday, time) = when.ok_or_else(|| Error::invalid(field, why))?;
        let zone = self.zone.as_deref().and_then(|zone| zone.parse().ok());
        let why = "must be a time zone by its name, as in \"Europe/Vienna\" or \"UTC\"";
        let zone = zone.ok_or_else(|| Error::invalid("zone", why))?;
        Ok(Some(Calendar { weekday, time, zone }))
    }
}

/// Refuses a set that cannot be meant.
pub fn check(app: &App, policies: &[Policy], may_be_endless: bool) -> Result<()> {
    if policies.len() > POLICIES_MAX {
        let why = format!("an app has at most {POLICIES_MAX} policies: put users into groups");
        return Err(Error::invalid("policies", why));
    }
    let mut names = BTreeSet::new();
    let mut is_bounded = app.settings.max_session_age.is_some();
    for policy in policies {
        let limits = policy.check()?;
        if !names.insert(&policy.name) {
            let why = format!("two have the name {:?}: rename one", policy.name);
            return Err(Error::invalid("policies", why));
        }
        is_bounded |= policy.applies_to.everyone
            && (limits.max_age.is_some()
                || limits.calendar.is_some()
                || limits.not_after.is_some());
    }
    if !is_bounded && !may_be_endless {
        let why = "nothing would end every session: keep a policy for everyone with max_age, or \
                   set max_session_age, or say \"allow_endless\": true";
        return Err(Error::invalid("policies", why));
    }
    Ok(())
}

/// States the whole set. Policies that are the same as before go on; the others end, or begin, now.
pub async fn set(
    tx: &mut Tx,
    app: &App,
    policies: Vec<Policy>,
    may_be_endless: bool,
    why: Option<String>,
) -> Result<()> {
    tx.refuse_task()?;
    check(app, &policies, may_be_endless)?;
    let old = all(tx, app.id).await?;
    let now = tx.now();
    let gone: Vec<&Policy> = old.iter().filter(|policy| !policies.contains(policy)).collect();
    let new: Vec<&Policy> = policies.iter().filter(|policy| !old.contains(policy)).collect();
    if gone.is_empty() && new.is_empty() {
        return Ok(());
    }
    let sql = "select count(*) from policies where app_id = $1";
    let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
    if tx.count(sql, args![app.id]).await?.saturating_add(count) > VERSIONS_MAX {
        let why = format!("the policies of an app can be changed {VERSIONS_MAX} times");
        return Err(Error::Conflict(why));
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
    tx.record(Subject::app(app.id), why, Change::PoliciesSet { policies });
    Ok(())
}

/// The policies that hold, by name.
pub async fn all(read: &mut Read, app: AppId) -> Result<Vec<Policy>> {
    let rows = read
        .rows(
            "select body from policies where app_id = $1 and until_at is null
             order by name limit $2",
            args![app, VERSIONS_MAX],
        )
        .await?;
    rows.iter().map(|row| row.json(0)).collect()
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
            (json!({}), "policies.p.limits.limits"),
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
        ] {
            let limits = json!({ "max_age": "1d" });
            let policy = json!({ "name": "p", "applies_to": applies_to, "limits": limits });
            assert_eq!(field_of(policy), wanted);
        }
    }
}
