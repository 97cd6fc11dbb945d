//! `reauth token`: API tokens of an app.

use clap::Subcommand;
use reauth_sdk::{NewToken, Span, Token};
use serde_json::json;

use crate::connect::Context;
use crate::failure::Result;
use crate::paging;
use crate::times::{at, at_or};

const CREATE_EXAMPLES: &str = "\
The secret is written to stdout, alone and this once; everything else to stderr.

Scopes: users:read users:write sessions:end ledger:read tasks:read tasks:write tasks:run, and
app:admin for all of them and the app's settings.

Example:
  TOKEN=$(reauth token create backend --scope users:read --scope sessions:end --expires-in 90d)";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create a token and show its secret, this once
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// Its name, for people and for the ledger
        name: String,
        /// What it may do; several times, or with commas between
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// How long it lives, such as 90d; until it is revoked if not given
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// List the app's tokens, without their secrets
    List,
    /// Revoke a token: no later request with it is accepted
    Revoke {
        /// The token's id, not its secret
        id: String,
    },
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let app = context.app().await?;
    match verb {
        Verb::Create { name, scopes, expires_in } => {
            let created = app.create_token(&NewToken { name, scopes, expires_in }).await?;
            let Token { name, id, expires_at, .. } = &created.about;
            let about = format!(
                "token {name} ({id}), ends: {}; its secret is shown this once:",
                at_or(*expires_at, "never")
            );
            context.output.secret(&created, &created.token, &about)
        }
        Verb::List => {
            let tokens = paging::all(app.tokens(), "tokens").await?;
            let columns = ["id", "name", "scopes", "created", "ends", "last used"];
            context.output.list(&tokens, "tokens", columns, row)
        }
        Verb::Revoke { id } => {
            app.revoke_token(&id).await?;
            let fields = json!({ "token": id, "revoked": true });
            context.output.done(&format!("token {id} is revoked"), fields)
        }
    }
}

fn row(token: &Token) -> [String; 6] {
    let ends = match token.revoked_at {
        Some(revoked_at) => format!("revoked {}", at(revoked_at)),
        None => at_or(token.expires_at, "never"),
    };
    [
        token.id.clone(),
        token.name.clone(),
        token.scopes.join(" "),
        at(token.created_at),
        ends,
        at_or(token.last_used_at, "never"),
    ]
}
