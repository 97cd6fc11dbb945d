//! `reauth group`: groups of users within an app.

use clap::{Args, Subcommand};
use reauth_sdk::{self as sdk, Group};
use serde_json::json;

use crate::connect::Context;
use crate::failure::Result;
use crate::paging;
use crate::times::{at, at_or};

const ADD_EXAMPLES: &str = "\
A group comes to be with its first member.

Example:
  reauth group add contractors 01900000-0000-7000-8000-000000000001";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List the groups
    List,
    /// List a group's members
    Members {
        /// The group's name
        group: String,
    },
    /// Add a user to a group; a member stays one
    #[command(after_help = ADD_EXAMPLES)]
    Add(Member),
    /// Take a user out of a group; no session comes back by that
    Remove(Member),
}

/// A user in a group.
#[derive(Args)]
pub(crate) struct Member {
    /// The group's name
    group: String,
    /// The user's id
    user: String,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let app = context.app().await?;
    match verb {
        Verb::List => {
            let groups = paging::all(app.groups(), "groups").await?;
            let columns = ["name", "members", "must have signed in after"];
            context.output.list(&groups, "groups", columns, row)
        }
        Verb::Members { group } => {
            let members = paging::all(app.members(&group), "members").await?;
            let row = |member: &sdk::Member| [member.id.clone(), at(member.joined_at)];
            context.output.list(&members, "members", ["user", "joined"], row)
        }
        Verb::Add(Member { group, user }) => {
            app.add_member(&group, &user).await?;
            let sentence = format!("user {user} is in the group {group}");
            let fields = json!({ "group": group, "user": user, "member": true });
            context.output.done(&sentence, fields)
        }
        Verb::Remove(Member { group, user }) => {
            app.remove_member(&group, &user).await?;
            let sentence = format!("user {user} is not in the group {group}");
            let fields = json!({ "group": group, "user": user, "member": false });
            context.output.done(&sentence, fields)
        }
    }
}

fn row(group: &Group) -> [String; 3] {
    [group.name.clone(), group.members.to_string(), at_or(group.not_before, "any time")]
}
