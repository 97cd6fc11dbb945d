//! Whose sessions a policy is about. What it says of users is held as groups, those of an attribute
//! being groups that keep themselves; what it says of sessions is fixed when they are
//! authenticated. What is new in a set of policies is looked up once, when it is stated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wildmatch::WildMatch;

use super::policies::Policy;
use super::{App, check_name};
use crate::access::{Assurance, Methods, platform};
use crate::groups;
use crate::ledger::{self, Head};
use crate::store::{Db, Fields, Read, Tx, args, packed};
use crate::users::Indexed;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};

/// More is a group.
const NAMED_MAX: usize = 1_000;
/// So often it is looked, at most, before a change begins.
const LOOKS_MAX: u32 = 3;
/// A pattern is compared with a label of at most 200 characters.
const PATTERN_CHARS_MAX: usize = 200;

/// Whose sessions: those who meet all that is given. At least one must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Users whose attributes have all these values: a text, a number, true or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, Value>>,
    /// Sessions on one of these platforms, whatever the case of their letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<String>>,
    /// Sessions proved by at least one of these methods (RFC 8176).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Methods>,
    /// Sessions of one of these assurance levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Vec<Assurance>>,
    /// Sessions whose label fits one of these patterns: `*` is any text, `?` any character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

impl Selector {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |field: &str, why: String| {
            let dot = if field.is_empty() { "" } else { "." };
            Err(Error::invalid(format!("applies_to{dot}{field}"), why))
        };
        let Self { everyone, groups, users, attributes, platforms, methods, assurance, labels } =
            self;
        let counts = [
            ("groups", groups.as_ref().map(Vec::len)),
            ("users", users.as_ref().map(Vec::len)),
            ("attributes", attributes.as_ref().map(BTreeMap::len)),
            ("platforms", platforms.as_ref().map(Vec::len)),
            ("methods", methods.map(|methods| methods.names().len())),
            ("assurance", assurance.as_ref().map(Vec::len)),
            ("labels", labels.as_ref().map(Vec::len)),
        ];
        if *everyone != counts.iter().all(|(_, count)| count.is_none()) {
            let names = counts.map(|(name, _)| name).join(", ");
            return wrong("", format!("give either everyone = true, or some of {names}"));
        }
        for (name, count) in counts {
            if count.is_some_and(|count| count == 0 || count > NAMED_MAX) {
                let why = format!("must name 1 to {NAMED_MAX}: an empty list would mean nobody");
                return wrong(name, why);
            }
        }
        for name in groups.iter().flatten() {
            groups::check_own_name(name).or_else(|error| wrong("groups", error.to_string()))?;
        }
        for (name, value) in attributes.iter().flatten() {
            if !(value.is_string() || value.is_number() || value.is_boolean()) {
                let why = "must be a text, a number, true or false".into();
                return wrong(&format!("attributes.{name}"), why);
            }
            check_name(&group_of(name, value))
                .or_else(|error| wrong(&format!("attributes.{name}"), error.to_string()))?;
        }
        if platforms.iter().flatten().any(|name| platform(name).is_none()) {
            return wrong("platforms", "must be names, as in \"ios\"".into());
        }
        for pattern in labels.iter().flatten() {
            if pattern.is_empty() || pattern.chars().count() > PATTERN_CHARS_MAX {
                return wrong("labels", format!("must have 1 to {PATTERN_CHARS_MAX} characters"));
            }
        }
        Ok(())
    }

    /// Whether it tells the sessions of one user apart.
    pub(crate) fn is_about_sessions(&self) -> bool {
        self.platforms.is_some()
            || self.methods.is_some()
            || self.assurance.is_some()
            || self.labels.is_some()
    }

    /// Refuses attributes that users of the app cannot have.
    pub(super) fn check_attributes(&self, app: &App) -> Result<()> {
        self.attributes.iter().flatten().try_for_each(|(name, value)| {
            let indexed = app.settings.user_schema.field(name).and_then(|it| it.index(name, value));
            indexed.map(|_| ()).map_err(|error| match error {
                Error::Invalid { why, .. } => {
                    Error::invalid(format!("applies_to.attributes.{name}"), why)
                }
                other => other,
            })
        })
    }

    /// The groups of its attributes, all of which a user must be in.
    pub(crate) fn attribute_groups(&self) -> impl Iterator<Item = String> {
        self.attributes.iter().flatten().map(|(name, value)| group_of(name, value))
    }
}

/// The group that users with this value of an attribute are in by themselves.
pub(crate) fn group_of(attribute: &str, value: &Value) -> String {
    let value = match value.as_f64() {
        Some(number) => number.to_string(),
        None => value.to_string(),
    };
    format!("{}{attribute}={value}", groups::KEPT)
}

/// Which of the patterns a label fits.
pub(crate) fn fitting<'a>(
    patterns: &'a [String],
    label: &'a str,
) -> impl Iterator<Item = &'a String> {
    patterns.iter().filter(move |pattern| WildMatch::new(pattern).matches(label))
}

/// What Live cannot know when a set of policies names something for the first time. It is in the
/// tables, not in the ledger: values of attributes and labels are personal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Groups that keep themselves, each with its members.
    pub groups: Vec<(String, Vec<UserId>)>,
    /// Sessions with patterns that their labels fit.
    pub labels: Vec<(UserId, SessionId, String)>,
}

/// What was found before a change, where the ledger ended then, and by which building of Live: one
/// built anew may know less of what was named.
#[derive(Clone, Debug)]
pub struct Looked {
    found: Found,
    head: Head,
    built: u64,
}

/// As `find`, before the change that states the set, so that nobody waits for it; again, if much
/// has changed meanwhile: what is left to look at within the change is short then.
pub async fn look(db: &Db, app: &App, policies: &[Policy]) -> Result<Looked> {
    let mut looks = 1;
    loop {
        let mut read = db.read().await?;
        let built = db.live().built();
        let head = ledger::head(&mut read).await?;
        let found = find(&mut read, app, policies).await?;
        let since = ledger::users_since(&mut read, app.id, &head).await?;
        if since.is_some() || looks == LOOKS_MAX {
            return Ok(Looked { found, head, built });
        }
        looks += 1;
    }
}

/// Within the change: looks again at those whom the ledger has named since, or at all if it names
/// too many or if Live was built anew.
pub async fn find_again(
    tx: &mut Tx,
    app: &App,
    policies: &[Policy],
    Looked { mut found, head, built }: Looked,
) -> Result<Found> {
    if built != tx.live().built() {
        return find(tx, app, policies).await;
    }
    let Some(users) = ledger::users_since(tx, app.id, &head).await? else {
        return find(tx, app, policies).await;
    };
    found.labels.retain(|(user, ..)| !users.contains(user));
    for (_, members) in &mut found.groups {
        members.retain(|user| !users.contains(user));
    }
    for user in users {
        let again = find_of(tx, app, policies, Some(user)).await?;
        found.labels.extend(again.labels);
        for (name, members) in again.groups {
            let group = found.groups.iter_mut().find(|(group, _)| *group == name);
            group
                .map(|(_, all)| all.extend(members))
                .ok_or_else(|| Error::Internal(format!("the group {name:?} was not looked at")))?;
        }
    }
    Ok(found)
}

/// Looks up who meets what is named for the first time. It changes nothing.
pub async fn find(read: &mut Read, app: &App, policies: &[Policy]) -> Result<Found> {
    find_of(read, app, policies, None).await
}

/// As `find`, of all users or of one.
async fn find_of(
    read: &mut Read,
    app: &App,
    policies: &[Policy],
    only: Option<UserId>,
) -> Result<Found> {
    let mut found = Found::default();
    for policy in policies {
        for (name, value) in policy.applies_to.attributes.iter().flatten() {
            let group = group_of(name, value);
            let is_known = read.live().has_group(app.id, &group)?
                || found.groups.iter().any(|(name, _)| *name == group);
            if !is_known {
                let members = having(read, app, (name, value), only).await?;
                found.groups.push((group, members));
            }
        }
    }
    let known = read.live().patterns(app.id)?;
    let named = policies.iter().filter_map(|policy| policy.applies_to.labels.as_ref());
    let new = named.filter(|all| all.iter().any(|pattern| !known.contains(pattern)));
    let mut patterns: Vec<String> = new.flatten().cloned().collect();
    patterns.sort_unstable();
    patterns.dedup();
    if !patterns.is_empty() {
        found.labels = labelled(read, app.id, &patterns, only).await?;
    }
    Ok(found)
}

/// The users who have this value of an attribute, of all or of one.
pub(crate) async fn having(
    read: &mut Read,
    app: &App,
    (name, value): (&String, &Value),
    only: Option<UserId>,
) -> Result<Vec<UserId>> {
    let (text, number) = match app.settings.user_schema.field(name)?.index(name, value)? {
        Indexed::Text(text) => (Some(text), None),
        Indexed::Number(number) => (None, Some(number)),
    };
    // The user's own rows are few: the statement is to begin there.
    macro_rules! having {
        ($rest:literal) => {
            concat!(
                "select u.id from user_attributes a join users u on u.id = a.user_id
                 where u.app_id = $1 and u.deleted_at is null and a.name = $2
                 and (a.text_value = $3 or a.number_value = $4) and ",
                $rest
            )
        };
    }
    let sql = match only {
        Some(_) => having!("a.user_id = $5"),
        None => having!("cast($5 as text) is null"),
    };
    let mut found = Vec::new();
    read.each(sql, args![app.id, name, text, number, only], |row| {
        found.push(row.parsed(0)?);
        Ok(())
    })
    .await?;
    Ok(found)
}

/// The live sessions, of all users or of one, with patterns that their labels fit: to have none is
/// to have an empty one.
pub(crate) async fn labelled(
    read: &mut Read,
    app: AppId,
    patterns: &[String],
    only: Option<UserId>,
) -> Result<Vec<Labelled>> {
    let Some(user) = only else {
        let whole = (patterns.to_vec(), Vec::new());
        return Ok(packed(read, (LABELS, args![app]), whole, add_label).await?.1);
    };
    let sql = "select s.id, coalesce(s.label, '') from sessions s join users u on u.id = s.user_id
               where u.app_id = $1 and s.ended_at is null and s.user_id = $2";
    let mut found = Vec::new();
    read.each(sql, args![app, user], |row| {
        let (session, label) = (row.parsed(0)?, row.text(1)?);
        found.extend(fitting(patterns, &label).map(|pattern| (user, session, pattern.clone())));
        Ok(())
    })
    .await?;
    Ok(found)
}

/// A session of a user with a pattern that its label fits.
type Labelled = (UserId, SessionId, String);

/// A page is one of all sessions, so that the next begins where it ended.
const LABELS: &str = "select max(page.id), coalesce(string_agg(
        case when u.app_id = $3 and page.ended_at is null then concat_ws(' ', page.user_id, page.id,
            replace(replace(coalesce(page.label, ''), '%', '%25'), ' ', '%20')) end, ' '), '')
    from (select id, user_id, label, ended_at from sessions where id > $1
          order by id limit $2) as page
    join users u on u.id = page.user_id";

fn add_label(
    (patterns, found): &mut (Vec<String>, Vec<Labelled>),
    fields: &mut Fields<'_>,
) -> Result<()> {
    let (user, session, label) = (fields.next()?, fields.next()?, fields.any_text()?);
    found.extend(fitting(patterns, &label).map(|pattern| (user, session, pattern.clone())));
    Ok(())
}
