//! `reauth policy`: rules about how long sign-ins last, kept in a file and stated as a whole.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reauth_sdk::{Error, Forecast, InApp, Moment, Policy, PolicyPreview, PolicySet, Span};
use serde::{Deserialize, Serialize};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::times::{at, at_or};
use crate::{chart, confirm, output};

const EXAMPLES: &str = "\
A file holds the whole set; what is not in it holds no longer:

  [[policy]]
  name = \"everyone\"
  applies_to = { everyone = true }
  limits = { max_age = \"30d\" }

  [[policy]]
  name = \"contractors\"
  applies_to = { groups = [\"contractors\"] }
  limits = { max_age = \"12h\", max_idle = \"30m\" }

docs/guide/policies.md has every selector and limit.";

/// So far a forecast looks.
const DAYS: usize = 90;

const APPLY_EXAMPLES: &str = "\
It acts at once, on every session there is, and a longer limit revives none. The same file again
changes nothing. On a terminal you are asked first if it signs someone out; --yes leaves that out. A
script is not asked.

Example:
  reauth policy apply policies.toml --reason \"audit of May\"";

const PREVIEW_EXAMPLES: &str = "\
Who would be signed out now, and how many sign-ins each of the next 90 days would bring, if every
device stays in use and signs in again as soon as it must. Nothing is changed.

Example:
  reauth policy preview policies.toml --chart forecast.svg";

#[derive(Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Verb {
    /// List the policies that hold
    List,
    /// Print the policies that hold as a file for `apply`
    Export,
    /// Show what applying a file would change
    Diff {
        /// The file with the whole set
        file: PathBuf,
    },
    /// Show whom a file would sign out, now and in the next 90 days
    #[command(after_help = PREVIEW_EXAMPLES)]
    Preview {
        #[command(flatten)]
        set: Set,
        /// Write the forecast as a picture too: FILE.svg or FILE.png
        #[arg(long, value_name = "FILE")]
        chart: Option<PathBuf>,
    },
    /// State the whole set of policies, from a file
    #[command(after_help = APPLY_EXAMPLES)]
    Apply {
        #[command(flatten)]
        set: Set,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// A whole set of policies in a file.
#[derive(Args)]
pub(crate) struct Set {
    /// The file with the whole set
    file: PathBuf,
    /// Agree that nothing may end every session of the app
    #[arg(long)]
    allow_endless: bool,
}

impl Set {
    fn read(&self, reason: Option<String>) -> Result<PolicySet> {
        let policies = read(&self.file)?;
        Ok(PolicySet { policies, allow_endless: self.allow_endless, reason })
    }
}

/// What a file holds.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    policy: Vec<Policy>,
}

pub(crate) fn read(path: &Path) -> Result<Vec<Policy>> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{shown} cannot be read: {error}")))?;
    let file = parsed(&text).map_err(|error| {
        Failure::usage(format!("{shown}: {error}")).help("`reauth policy --help` shows a file")
    })?;
    Ok(file.policy)
}

/// A date or moment may be written as TOML has them, without quotes.
fn parsed(text: &str) -> Result<PolicyFile, toml::de::Error> {
    let plain = toml::from_str(text);
    let (Err(error), Ok(mut value)) = (&plain, toml::from_str(text)) else { return plain };
    quote_moments(&mut value);
    PolicyFile::deserialize(value).map_err(|_| error.clone())
}

fn quote_moments(value: &mut toml::Value) {
    match value {
        toml::Value::Datetime(moment) => *value = toml::Value::String(moment.to_string()),
        toml::Value::Array(list) => list.iter_mut().for_each(quote_moments),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, it)| quote_moments(it)),
        _ => {}
    }
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let app = context.app().await?;
    match verb {
        Verb::List => {
            let policies = app.policies().await?;
            let columns = ["name", "applies to", "limits"];
            context.output.list(&policies, "policies", columns, row)
        }
        Verb::Export => {
            let file = PolicyFile { policy: app.policies().await? };
            let text = toml::to_string(&file);
            let text = text.map_err(|error| Failure::new(format!("this is no TOML: {error}")))?;
            context.output.either(&file.policy, text.trim_end())
        }
        Verb::Diff { file } => {
            let difference = Difference::new(&app.policies().await?, &read(&file)?);
            context.output.either(&difference, &difference.lines())
        }
        Verb::Preview { set, chart } => preview(context, &app, &set.read(None)?, chart).await,
        Verb::Apply { set, reason, yes } => apply(context, &app, &set.read(reason)?, yes).await,
    }
}

async fn apply(context: &Context, app: &InApp, set: &PolicySet, yes: bool) -> Result<()> {
    let old = known(app.policies().await)?;
    if old.is_none() {
        context
            .output
            .remark("which policies hold now cannot be known: all of the new set is shown as new");
    }
    let difference = Difference::new(&old.unwrap_or_default(), &set.policies);
    if !yes && confirm::is_person() && !difference.is_empty() {
        let found = known(app.preview_policies(set).await)?;
        context.output.remark(&difference.lines());
        let what = match found {
            Some(found) if found.ended_sessions == 0 => None,
            Some(found) => Some(format!("This signs out {}", ended(&found))),
            None => Some("Whom this signs out cannot be known".to_owned()),
        };
        what.map_or(Ok(()), |what| confirm::by_word(false, &what, "apply"))?;
    }
    let stated = app.set_policies(set).await?;
    for note in nobody(&stated.groups_without_members) {
        context.output.remark(&note);
    }
    context.output.either(&difference, &difference.lines())
}

/// None: the server does not know it. A stored policy that cannot be read is mended by stating the
/// whole set anew, so not to know the old one must not keep anyone from that.
fn known<T>(answer: Result<T, Error>) -> Result<Option<T>> {
    match answer {
        Ok(known) => Ok(Some(known)),
        Err(Error::Answer { status: 503, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn preview(
    context: &Context,
    app: &InApp,
    set: &PolicySet,
    picture: Option<PathBuf>,
) -> Result<()> {
    let bar = output::progress(0, "sessions looked at");
    let tell = |seen, all| {
        bar.set_length(all);
        bar.set_position(seen);
    };
    let found = app.preview_policies_telling(set, tell).await;
    bar.finish_and_clear();
    let found = found?;
    let now = app.client().now().await?;
    if let Some(path) = picture {
        let (before, after) = (days(found.before.as_ref()), days(found.after.as_ref()));
        let curves = [("as it is", before), ("with these policies", after)];
        chart::write(&path, "Forced sign-ins a day", now, &curves)?;
        context.output.remark(&format!("the forecast is in {}", path.display()));
    }
    context.output.either(&found, &forecast(&found, now))
}

fn ended(found: &PolicyPreview) -> String {
    let PolicyPreview { sessions, users, ended_sessions, ended_users, .. } = found;
    format!("{ended_sessions} of {sessions} sessions ({ended_users} of {users} users)")
}

/// The answer of a preview for people.
fn forecast(found: &PolicyPreview, now: Moment) -> String {
    let (before, after) = (days(found.before.as_ref()), days(found.after.as_ref()));
    let most = before.iter().chain(&after).copied().max().unwrap_or(0);
    let cell = |count: u64| match count {
        0 => String::new(),
        count => format!("{} {count}", chart::bar(count, most)),
    };
    let rows = before.iter().zip(&after).enumerate();
    let rows = rows.filter(|(_, (before, after))| **before + **after > 0);
    let rows = rows.map(|(day, (before, after))| {
        let start = now.after(Span::from_seconds(day as i64 * 86_400));
        vec![at(start), cell(*before), cell(*after)]
    });
    let or_many = |told: Option<String>| told.unwrap_or_else(|| "too many to foresee".to_owned());
    let peak = |forecast: &Option<Forecast>| {
        or_many(forecast.as_ref().map(|Forecast { peak_per_second, peak_at, .. }| {
            format!("{peak_per_second} ({})", at_or(*peak_at, "none"))
        }))
    };
    let sum = |forecast: &Option<Forecast>| {
        or_many(forecast.as_ref().map(|it| it.hours.iter().sum::<u64>().to_string()))
    };
    let notes = found.unforeseen.iter().cloned().chain(nobody(&found.groups_without_members));
    let notes: String = notes.map(|note| note + "\n").collect();
    let table = output::table(&["24 h from", "as it is", "with these policies"], rows.collect());
    format!(
        "Signed out at once: {}\n\
         Sign-ins forced in 90 days: {} as it is, {} with these policies\n\
         Most in one second: {} as it is, {} with these policies\n{notes}\n{table}",
        ended(found),
        sum(&found.before),
        sum(&found.after),
        peak(&found.before),
        peak(&found.after),
    )
}

/// What there is to say of groups that a set names.
fn nobody(groups: &[String]) -> Vec<String> {
    let say = |name: &String| format!("Nobody is in the group {name}: is it written so?");
    groups.iter().map(say).collect()
}

/// How many a day; none, if that cannot be foreseen.
fn days(forecast: Option<&Forecast>) -> Vec<u64> {
    let day = |hours: &[u64]| hours.iter().sum();
    let days = |it: &Forecast| it.hours.chunks(24).map(day).collect();
    forecast.map_or_else(|| vec![0; DAYS], days)
}

/// What one set has that another has not, by name.
#[derive(Serialize)]
struct Difference {
    added: Vec<Policy>,
    removed: Vec<Policy>,
    changed: Vec<Changed>,
}

#[derive(Serialize)]
struct Changed {
    before: Policy,
    after: Policy,
}

impl Difference {
    fn new(old: &[Policy], new: &[Policy]) -> Self {
        let find = |all: &[Policy], name: &str| all.iter().find(|it| it.name == name).cloned();
        let missing_in = |other: &[Policy], policy: &&Policy| find(other, &policy.name).is_none();
        let added = new.iter().filter(|policy| missing_in(old, policy)).cloned().collect();
        let removed = old.iter().filter(|policy| missing_in(new, policy)).cloned().collect();
        let changed = new.iter().filter_map(|after| {
            let before = find(old, &after.name).filter(|before| before != after)?;
            Some(Changed { before, after: after.clone() })
        });
        Self { added, removed, changed: changed.collect() }
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    fn lines(&self) -> String {
        if self.is_empty() {
            return "nothing changes".to_owned();
        }
        let line = |sign: char, policy: &Policy| {
            let [name, whom, limits] = row(policy);
            format!("{sign} {name}: {whom}: {limits}")
        };
        let removed = self.removed.iter().map(|policy| line('-', policy));
        let changed =
            self.changed.iter().flat_map(|it| [line('-', &it.before), line('+', &it.after)]);
        let added = self.added.iter().map(|policy| line('+', policy));
        removed.chain(changed).chain(added).collect::<Vec<_>>().join("\n")
    }
}

fn row(policy: &Policy) -> [String; 3] {
    let mut limits = words(&policy.limits);
    for (name, moment) in [("from", &policy.valid_from), ("until", &policy.valid_until)] {
        if let Some(moment) = moment {
            limits.push_str(&format!(", {name} {moment}"));
        }
    }
    [policy.name.clone(), words(&policy.applies_to), limits]
}

/// The fields of a selector or of limits as `name value, name value`.
fn words(of: &impl Serialize) -> String {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(of) else {
        return String::new();
    };
    let word = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::Bool(true) => name,
        serde_json::Value::String(text) => format!("{name} {text}"),
        serde_json::Value::Array(list) => {
            let texts = list.iter().map(|one| one.as_str().map_or(one.to_string(), str::to_owned));
            format!("{name} {}", texts.collect::<Vec<_>>().join(" or "))
        }
        serde_json::Value::Object(fields) => {
            let pairs = fields.iter().map(|(name, value)| format!("{name} = {value}"));
            format!("{name} {}", pairs.collect::<Vec<_>>().join(" and "))
        }
        other => format!("{name} {other}"),
    };
    fields.into_iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reauth_sdk::{PolicyLimits, Selector};

    fn policy(name: &str, groups: &[&str], max_age: &str) -> Policy {
        let groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Policy {
            name: name.to_owned(),
            valid_from: None,
            valid_until: None,
            applies_to: Selector { groups, ..Selector::default() },
            limits: PolicyLimits {
                max_age: Some(max_age.parse().expect("a span")),
                ..PolicyLimits::default()
            },
        }
    }

    #[test]
    fn the_file_of_the_help_text_is_read_and_written_back() {
        let text = EXAMPLES.split("\n\n").filter(|part| part.contains("[[policy]]"));
        let text: Vec<&str> = text.collect();
        let file: PolicyFile = toml::from_str(&text.join("\n")).expect("a file");
        let names: Vec<&str> = file.policy.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!(names, ["everyone", "contractors"]);
        let written = toml::to_string(&file).expect("TOML");
        let again: PolicyFile = toml::from_str(&written).expect("a file");
        assert_eq!(again.policy, file.policy);
        assert!(toml::from_str::<PolicyFile>("[[policies]]\nname = \"a\"").is_err());
    }

    #[test]
    fn a_difference_names_what_comes_goes_and_changes() {
        let old = [policy("a", &["x"], "1d"), policy("b", &["y"], "2d")];
        let new = [policy("b", &["y", "z"], "12h"), policy("c", &["x"], "1h")];
        let lines = Difference::new(&old, &new).lines();
        let wanted = "- a: groups x: max_age 1d\n- b: groups y: max_age 2d\n\
                      + b: groups y or z: max_age 12h\n+ c: groups x: max_age 1h";
        assert_eq!(lines, wanted);
        assert_eq!(Difference::new(&old, &old).lines(), "nothing changes");
    }

    #[test]
    fn a_date_may_be_written_as_toml_has_it() {
        let text = |date: &str| {
            format!(
                "[[policy]]\nname = \"a\"\napplies_to = {{ everyone = true }}\n\
                 valid_until = 2026-12-31T08:00:00Z\nlimits = {{ not_after = {date} }}\n"
            )
        };
        let file = parsed(&text("2026-12-31")).expect("a file");
        assert_eq!(file.policy[0].limits.not_after.as_deref(), Some("2026-12-31"));
        assert_eq!(file.policy[0].valid_until.as_deref(), Some("2026-12-31T08:00:00Z"));
        assert!(parsed(&text("12")).is_err());
    }

    #[test]
    fn a_forecast_shows_the_days_that_bring_sign_ins() {
        let forecast_of = |hour: usize, count: u64| {
            let mut hours = vec![0; 2160];
            hours[hour] = count;
            Forecast { hours, peak_per_second: count, peak_at: None }
        };
        let found = PolicyPreview {
            sessions: 10,
            users: 5,
            ended_sessions: 4,
            ended_users: 2,
            who: Vec::new(),
            groups_without_members: vec!["nigth".to_owned()],
            before: Some(forecast_of(30, 2)),
            after: Some(forecast_of(0, 4)),
            unforeseen: None,
        };
        let text = forecast(&found, "2026-05-03T08:12:00Z".parse().expect("a moment"));
        assert!(text.starts_with("Signed out at once: 4 of 10 sessions (2 of 5 users)"), "{text}");
        let days: Vec<&str> = text.lines().filter(|line| line.starts_with("2026")).collect();
        assert_eq!(days.len(), 2, "{text}");
        assert!(days[0].starts_with("2026-05-03") && days[0].ends_with("████████████████████ 4"));
        assert!(days[1].starts_with("2026-05-04") && days[1].contains("██████████ 2"), "{text}");
        let unforeseen = Some("far too often".to_owned());
        let text = forecast(
            &PolicyPreview { after: None, unforeseen, ..found },
            "2026-05-03T08:12:00Z".parse().expect("a moment"),
        );
        assert!(text.starts_with("Signed out at once: 4 of 10 sessions (2 of 5 users)"), "{text}");
        assert!(text.contains("2 as it is, too many to foresee with these"), "{text}");
        let notes = "\nfar too often\nNobody is in the group nigth: is it written so?\n";
        assert!(text.contains(notes), "{text}");
    }
}
