//! `reauth user`: users of an app.

use std::collections::HashMap;
use std::str::FromStr;

use clap::Subcommand;
use reauth_sdk::{
    AccessBound, InApp, SessionState, Span, TokenRequest, User, UserBound, UserObject,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::paging;
use crate::times::{at, at_or};

const CREATE_EXAMPLES: &str = "\
An attribute is a text with NAME=VALUE, and any JSON value with NAME:=VALUE. The app's user schema
says which attributes there are.

Example:
  reauth user create --name Ann --attribute email=ann@example.com --attribute age:=42";

const TOKEN_EXAMPLES: &str = "\
The token is written to stdout, alone and this once; everything else to stderr. It can be used
once, for 10 minutes unless --expires-in says otherwise.

Example:
  reauth user token 01900000-0000-7000-8000-000000000001 --expires-in 5m";

const NOT_AFTER_EXAMPLES: &str = "\
A later moment revives no session that has ended.

Example:
  reauth user not-after 01900000-0000-7000-8000-000000000001 2026-12-31 --reason \"contract\"";

const BOUND_EXAMPLES: &str = "\
Activity puts no bound off; a new sign-in begins a new one. The exit code is 0 whatever is found:
`reauth doctor` warns of users without a bound.

Example:
  reauth user access-bound";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the users and whether they are signed in
    List,
    /// Create a user
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// The attribute `name`
        #[arg(long)]
        name: Option<String>,
        /// An attribute of the app's user schema; several times
        #[arg(long = "attribute", value_name = "NAME=VALUE")]
        attributes: Vec<Attribute>,
    },
    /// Lock a user: every session ends, and no sign-in succeeds
    Lock {
        /// The user's id
        id: String,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Unlock a user: they can sign in again; no session comes back
    Unlock {
        /// The user's id
        id: String,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Issue a one-use authentication token with which a device can enrol as this user
    #[command(after_help = TOKEN_EXAMPLES)]
    Token {
        /// The user's id
        id: String,
        /// How long it can be used, at most 1d
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
        /// By which method the user has proved who they are, such as pwd (RFC 8176); several times:
        /// by all of them
        #[arg(long, value_name = "NAME")]
        method: Vec<String>,
        /// How surely: aal1, aal2 or aal3
        #[arg(long, value_name = "LEVEL")]
        assurance: Option<String>,
    },
    /// Say from when on a user is signed in nowhere, as when a contract ends
    #[command(after_help = NOT_AFTER_EXAMPLES)]
    NotAfter {
        /// The user's id
        id: String,
        /// The moment or date; none for no such moment
        #[arg(value_name = "WHEN")]
        when: String,
        /// Why, for the ledger
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Say by when all access surely ends: of one user item by item, or of all, the worst first
    #[command(after_help = BOUND_EXAMPLES)]
    AccessBound {
        /// The user's id; everyone who can get in now unless given
        id: Option<String>,
    },
}

/// `NAME=TEXT` or `NAME:=JSON`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl FromStr for Attribute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
        let (name, value) = match name.strip_suffix(':') {
            Some(name) => {
                let read = serde_json::from_str(value);
                (name, read.map_err(|error| format!("the value is no JSON: {error}"))?)
            }
            None => (name, Value::from(value)),
        };
        if name.is_empty() {
            return Err("the name is missing".into());
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let app = context.app().await?;
    let output = context.output;
    match verb {
        Verb::List => list(context, &app).await,
        Verb::Create { name, attributes } => {
            let user = app.create_user(&gathered(name, attributes)?).await?;
            let display = user.display.clone().unwrap_or_default();
            output.one(&user, &[("id", user.id.clone()), ("name", display)])
        }
        Verb::Lock { id, reason } => {
            app.lock(&id, reason.as_deref()).await?;
            let sentence = format!("user {id} is locked: every session has ended");
            output.done(&sentence, json!({ "user": id, "locked": true }))
        }
        Verb::Unlock { id, reason } => {
            app.unlock(&id, reason.as_deref()).await?;
            let sentence = format!("user {id} is unlocked and can sign in again");
            output.done(&sentence, json!({ "user": id, "locked": false }))
        }
        Verb::NotAfter { id, when, reason } => {
            let not_after = Some(when.as_str()).filter(|when| *when != "none");
            app.set_not_after(&id, not_after, reason.as_deref()).await?;
            let sentence = match not_after {
                Some(when) => format!("user {id} is signed in nowhere from {when} on"),
                None => format!("the access of user {id} ends on no date"),
            };
            output.done(&sentence, json!({ "user": id, "not_after": not_after }))
        }
        Verb::AccessBound { id: None } => bounds(context, &app).await,
        Verb::AccessBound { id: Some(id) } => {
            let found = app.access_bound(&id).await?;
            output.either(&found, &bound(&found))
        }
        Verb::Token { id, expires_in, method, assurance } => {
            let wanted = TokenRequest { expires_in, methods: method, assurance };
            let token = app.authentication_token(&id, &wanted).await?;
            let until = at(token.expires_at);
            let about = format!("for one sign-in at {} until {until}, shown this once:", token.url);
            output.secret(&token, &token.token, &about)
        }
    }
}

async fn bounds(context: &Context, app: &InApp) -> Result<()> {
    let found = paging::all(app.access_bounds(), "bounds").await?;
    let names = paging::all(app.user_objects(), "names").await?;
    let names: HashMap<String, Option<String>> =
        names.into_iter().map(|object| (object.id, object.display)).collect();
    let row = |bound: &UserBound| {
        let name = names.get(&bound.user).cloned().flatten().unwrap_or_default();
        let ends_by = at_or(bound.ends_by, "never: no bound");
        [bound.user.clone(), name, bound.credentials.to_string(), ends_by]
    };
    context.output.list(
        &found,
        "users who can get in",
        ["user", "name", "credentials", "ends by"],
        row,
    )
}

fn bound(found: &AccessBound) -> String {
    let date = found.not_after.map(|date| format!("access was granted until {}\n", at(date)));
    let date = date.unwrap_or_default();
    if found.items.is_empty() {
        return format!("{date}nobody can act for this user now");
    }
    let rows = found.items.iter().map(|item| {
        let usable = item.usable_until.map(|until| format!("can be used until {}", at(until)));
        let id = item.id.clone().or(usable).unwrap_or_default();
        let because = item.because.clone().unwrap_or_default();
        vec![item.credential.replace('_', " "), id, at_or(item.ends_at, "never"), because]
    });
    let table = crate::output::table(&["credential", "id", "ends", "because"], rows.collect());
    let ends_by = at_or(found.ends_by, "no moment: it has no bound");
    format!("{date}all access ends by {ends_by}\n\n{table}")
}

fn gathered(name: Option<String>, attributes: Vec<Attribute>) -> Result<Map<String, Value>> {
    let name = name.map(|name| Attribute { name: "name".into(), value: name.into() });
    let mut gathered = Map::new();
    for Attribute { name, value } in name.into_iter().chain(attributes) {
        if gathered.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!("the attribute {name:?} is given twice")));
        }
    }
    if gathered.is_empty() {
        let help = "give --name NAME or --attribute NAME=VALUE";
        return Err(Failure::usage("the new user has no attribute").help(help));
    }
    Ok(gathered)
}

/// A user with the attributes by which people know them.
#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    user: User,
    display: Option<String>,
    attributes: Map<String, Value>,
}

async fn list(context: &Context, app: &InApp) -> Result<()> {
    let users = paging::all(app.users(), "users").await?;
    let objects = paging::all(app.user_objects(), "names").await?;
    let mut objects: HashMap<String, UserObject> =
        objects.into_iter().map(|object| (object.id.clone(), object)).collect();
    let known = users.into_iter().map(|user| {
        let object = objects.remove(&user.id);
        let (display, attributes) =
            object.map(|object| (object.display, object.attributes)).unwrap_or_default();
        Known { user, display, attributes }
    });
    let known: Vec<Known> = known.collect();
    let columns = ["id", "name", "state", "devices", "last connected"];
    context.output.list(&known, "users", columns, row)
}

fn row(known: &Known) -> [String; 5] {
    let user = &known.user;
    let live = user.sessions.iter().filter(|session| session.state == SessionState::Enrolled);
    let state = match (user.locked, user.enrolled) {
        (true, _) => "locked",
        (false, true) => "signed in",
        (false, false) => "signed out",
    };
    [
        user.id.clone(),
        known.display.clone().unwrap_or_default(),
        state.to_owned(),
        format!("{} of {}", live.count(), user.sessions.len()),
        at_or(user.last_connected_at, "never"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_a_text_or_json() {
        let read = |text: &str| text.parse::<Attribute>().map(|it| (it.name, it.value));
        assert_eq!(read("email=a=b@c"), Ok(("email".into(), json!("a=b@c"))));
        assert_eq!(read("zip=01234"), Ok(("zip".into(), json!("01234"))));
        assert_eq!(read("age:=42"), Ok(("age".into(), json!(42))));
        assert_eq!(read("vip:=true"), Ok(("vip".into(), json!(true))));
        for text in ["email", "=x", ":=1", "age:=forty"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_are_gathered_and_none_twice() {
        let attribute = |text: &str| text.parse::<Attribute>().expect("an attribute");
        let some = gathered(Some("Ann".into()), vec![attribute("age:=42")]).expect("a user");
        assert_eq!(Value::Object(some), json!({ "name": "Ann", "age": 42 }));
        assert!(gathered(Some("Ann".into()), vec![attribute("name=Bob")]).is_err());
        assert!(gathered(None, Vec::new()).is_err());
    }

    #[test]
    fn a_users_state_is_the_strictest_that_is_true() {
        let user = |locked: bool, enrolled: bool| Known {
            user: User {
                id: "u".into(),
                last_connected_at: None,
                enrolled,
                locked,
                sessions: Vec::new(),
            },
            display: Some("Ann".into()),
            attributes: Map::new(),
        };
        assert_eq!(row(&user(true, true))[2], "locked");
        assert_eq!(row(&user(false, true))[2], "signed in");
        assert_eq!(row(&user(false, false)), ["u", "Ann", "signed out", "0 of 0", "never"]);
    }
}
