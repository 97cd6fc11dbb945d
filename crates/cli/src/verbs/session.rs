//! `reauth session`: device sessions of an app.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use reauth_sdk::{Explained, InApp, Moment, Session, SessionState, Span, User, UserObject};
use serde::Serialize;
use serde_json::json;

use crate::connect::Context;
use crate::failure::Result;
use crate::times::{at, lasting};
use crate::{output, paging};

const LIST_EXAMPLES: &str = "\
`signed in` is how long ago the user really proved who they are on this device: it is from that
moment that an app's longest session age is counted.

Example:
  reauth session list --older-than 30d";

const EXPLAIN_EXAMPLES: &str = "\
Every end that is known of it, the earliest first: that is the one that counts. Then what each
policy says by itself, and the ledger entries that led here.

Example:
  reauth session explain 01900000-0000-7000-8000-000000000001";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the sessions: who, on which device, since when, until when
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Only of the user with this id
        #[arg(long, value_name = "ID")]
        user: Option<String>,
        /// Only those whose sign-in was longer ago, such as 30d
        #[arg(long, value_name = "DURATION")]
        older_than: Option<Span>,
    },
    /// Say why a session ends when it does
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// The session's id
        session: String,
    },
    /// Force a device to sign in again
    ReAuthenticate(One),
    /// End a session and tell the device to wipe its data
    Wipe(One),
}

/// One session.
#[derive(Args)]
pub(crate) struct One {
    /// The user's id
    user: String,
    /// The session's id
    session: String,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A session with whose it is.
#[derive(Serialize)]
struct Owned {
    user: String,
    display: Option<String>,
    #[serde(flatten)]
    session: Session,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let app = context.app().await?;
    match verb {
        Verb::List { user, older_than } => {
            let (users, names) = match user {
                Some(id) => (vec![app.user(&id).await?], vec![app.user_object(&id).await?]),
                None => everyone(&app).await?,
            };
            let now = app.client().now().await?;
            let sessions = older(owned(users, names), older_than, now);
            let columns = ["user", "name", "session", "device", "state", "signed in", "ends in"];
            context.output.list(&sessions, "sessions", columns, |session| row(session, now))
        }
        Verb::Explain { session } => {
            let found = app.explain(&session).await?;
            context.output.either(&found, &explained(&found))
        }
        Verb::ReAuthenticate(one) => {
            let One { user, session, reason } = one;
            app.re_authenticate(&user, &session, reason.as_deref()).await?;
            let sentence = format!("session {session} must sign in again");
            context.output.done(&sentence, json!({ "user": user, "session": session }))
        }
        Verb::Wipe(One { user, session, reason }) => {
            app.wipe(&user, &session, reason.as_deref()).await?;
            let sentence = format!("session {session} has ended; its device wipes its data");
            context.output.done(&sentence, json!({ "user": user, "session": session }))
        }
    }
}

fn explained(found: &Explained) -> String {
    let rows = found.ends.iter().map(|end| {
        let policy = end.policy.clone().unwrap_or_default();
        vec![at(end.at), end.because.clone(), policy, end.detail.clone()]
    });
    let table = output::table(&["ends", "because", "policy", "that is"], rows.collect());
    let policies = found.policies.iter().map(|own| {
        let ends = own.end.as_ref().map(|end| at(end.at)).unwrap_or_default();
        vec![own.policy.clone(), own.verdict.replace('_', " "), ends]
    });
    let policies = output::table(&["policy", "by itself", "ends"], policies.collect());
    let history = found.history.iter().flatten().map(|entry| {
        let by = entry.by.name.clone().unwrap_or_else(|| entry.by.kind.clone());
        let why = entry.why.clone().unwrap_or_default();
        vec![entry.seq.to_string(), at(entry.at), entry.kind.clone(), by, why]
    });
    let history = output::table(&["entry", "at", "what", "by", "why"], history.collect());
    format!(
        "session    {} of user {}\nstate      {}\ndevice     {}, {}\nsigned in  {}, {}, from {}\n\
         active     {}\ngroups     {}\n\n{}\n\n{policies}\n\n{history}",
        found.session,
        found.user,
        state(&found.state),
        found.label.as_deref().unwrap_or(&found.device_id),
        found.platform.as_deref().unwrap_or("of an unknown platform"),
        at(found.last_authenticated_at),
        proved(found),
        found.address.as_deref().unwrap_or("an unknown address"),
        at(found.last_connected_at),
        if found.groups.is_empty() { "none".to_owned() } else { found.groups.join(", ") },
        if found.ends.is_empty() { "nothing ends it: it has no bound" } else { &table },
    )
}

/// How its user proved who they are.
fn proved(found: &Explained) -> String {
    let by = match &found.methods[..] {
        [] => "by unknown methods".to_owned(),
        methods => format!("by {}", methods.join(", ")),
    };
    found.assurance.as_ref().map_or(by.clone(), |assurance| format!("{by} ({assurance})"))
}

async fn everyone(app: &InApp) -> Result<(Vec<User>, Vec<UserObject>)> {
    let users = paging::all(app.users(), "users").await?;
    let names = paging::all(app.user_objects(), "names").await?;
    Ok((users, names))
}

fn owned(users: Vec<User>, names: Vec<UserObject>) -> Vec<Owned> {
    let names: HashMap<String, Option<String>> =
        names.into_iter().map(|object| (object.id, object.display)).collect();
    let of_user = |user: User| {
        let display = names.get(&user.id).cloned().flatten();
        user.sessions.into_iter().map(move |session| Owned {
            user: user.id.clone(),
            display: display.clone(),
            session,
        })
    };
    users.into_iter().flat_map(of_user).collect()
}

fn older(mut sessions: Vec<Owned>, than: Option<Span>, now: Moment) -> Vec<Owned> {
    if let Some(than) = than {
        sessions.retain(|owned| now.since(owned.session.last_authenticated_at) > than);
    }
    sessions
}

fn row(owned: &Owned, now: Moment) -> [String; 7] {
    let session = &owned.session;
    [
        owned.user.clone(),
        owned.display.clone().unwrap_or_default(),
        session.id.clone(),
        session.label.clone().unwrap_or_else(|| session.device.id.clone()),
        state(&session.state),
        format!("{} ago", lasting(now.since(session.last_authenticated_at))),
        ends_in(session, now),
    ]
}

fn state(state: &SessionState) -> String {
    match state {
        SessionState::Enrolled => "signed in".to_owned(),
        SessionState::Locked => "locked".to_owned(),
        SessionState::Reset => "wiped".to_owned(),
        SessionState::NeverEnrolled => "never enrolled".to_owned(),
        SessionState::Other(name) => name.clone(),
    }
}

/// How long a signed-in device has left; for another, why it ended.
fn ends_in(session: &Session, now: Moment) -> String {
    if session.state != SessionState::Enrolled {
        let because = session.ended_by.as_deref();
        return because.map_or("ended".to_owned(), |because| format!("ended: {because}"));
    }
    session.ends_at.map_or("never".to_owned(), |end| lasting(end.since(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        text.parse().expect("a moment")
    }

    fn ann(sessions: &[Session]) -> (Vec<User>, Vec<UserObject>) {
        let user = json!({ "id": "u", "last_connected_at": null, "enrolled": true,
            "locked": false, "sessions": sessions });
        let object = json!({ "id": "u", "type": "user", "updated_at": null, "display": "Ann" });
        let user = serde_json::from_value(user).expect("a user");
        (vec![user], vec![serde_json::from_value(object).expect("an object")])
    }

    fn session(state: &str, signed_in: &str, ended_by: Option<&str>) -> Session {
        serde_json::from_value(json!({
            "id": "s", "state": state, "last_authenticated_at": signed_in,
            "created_at": signed_in, "signed_out_at": null, "last_connected_at": null,
            "device": { "id": "phone" }, "label": null, "ends_at": "2026-05-31T08:00:00Z",
            "ended_by": ended_by,
        }))
        .expect("a session")
    }

    #[test]
    fn a_row_says_who_where_since_when_and_until_when() {
        let (users, names) = ann(&[
            session("ENROLLED", "2026-05-01T08:00:00Z", None),
            session("LOCKED", "2026-04-01T08:00:00Z", Some("max_session_age")),
        ]);
        let sessions = owned(users, names);
        let now = moment("2026-05-03T12:00:00Z");
        let wanted = ["u", "Ann", "s", "phone", "signed in", "2d 4h ago", "27d 20h"];
        assert_eq!(row(&sessions[0], now), wanted);
        let ended = row(&sessions[1], now);
        assert_eq!(ended[4..], ["locked", "32d 4h ago", "ended: max_session_age"]);
    }

    #[test]
    fn only_what_is_older_stays() {
        let (users, names) = ann(&[
            session("ENROLLED", "2026-05-01T08:00:00Z", None),
            session("ENROLLED", "2026-04-01T08:00:00Z", None),
        ]);
        let all = owned(users, names);
        let now = moment("2026-05-03T12:00:00Z");
        let than = "30d".parse().expect("a span");
        let old = older(all, Some(than), now);
        assert_eq!(old.len(), 1);
        let signed_in = old[0].session.last_authenticated_at;
        assert_eq!(signed_in, moment("2026-04-01T08:00:00Z"));
        // Exactly that old is not older.
        assert_eq!(older(old, Some(than), moment("2026-05-01T08:00:00Z")).len(), 0);
    }

    #[test]
    fn a_session_in_json_is_whole_and_says_whose_it_is() {
        let (users, names) = ann(&[session("ENROLLED", "2026-05-01T08:00:00Z", None)]);
        let whole = serde_json::to_value(&owned(users, names)[0]).expect("JSON");
        assert_eq!((&whole["user"], &whole["id"]), (&json!("u"), &json!("s")));
        assert_eq!(whole["state"], "ENROLLED");
        assert_eq!(whole["device"]["id"], "phone");
    }
}
