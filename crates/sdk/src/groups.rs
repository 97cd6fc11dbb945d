//! Groups of users within an app: for whom a cut-off or a policy is. Source: `/groups`.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::apps::InApp;
use crate::error::Result;
use crate::time::Moment;

/// A group of users. It comes to be with its first member or its first cut-off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// Its name within the app.
    pub name: String,
    /// How many members it has.
    pub members: u64,
    /// Its latest cut-off; none if its members were never told to sign in again.
    pub not_before: Option<Moment>,
}

impl InApp {
    /// All groups of the app by name. Scope `users:read`.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        #[derive(Deserialize)]
        struct Groups {
            objects: Vec<Group>,
        }
        let groups: Groups = self.request(Method::GET, &["groups"]).json().await?;
        Ok(groups.objects)
    }

    /// Adds a user to a group; a member stays one. Scope `users:write`.
    pub async fn add_member(&self, group: &str, user: &str) -> Result<()> {
        self.request(Method::PUT, &["groups", group, "members", user]).nothing().await
    }

    /// Takes a user out of a group. The group's cut-off stays with the user: leaving never revives
    /// a session. Scope `users:write`.
    pub async fn remove_member(&self, group: &str, user: &str) -> Result<()> {
        self.request(Method::DELETE, &["groups", group, "members", user]).nothing().await
    }
}
