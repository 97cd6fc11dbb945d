//! Who talks to Reauth and what happens by itself: the HTTP API, its connections and its workers.
//! No SQL: what may happen is said in `reauth-domain`. Scripts run in `reauth-sandbox`.

mod api;
mod app;
mod backup;
mod config;
mod metrics;
mod peer;
mod rate;
mod silence;
mod simulation;
mod workers;

use reauth_domain::ledger::By;
use reauth_domain::tokens::{self, Scope, Scopes};
use reauth_domain::{Clock, Db};

pub use api::openapi;
pub use api::tasks::check_task;
pub use app::{App, Child, Parts, Server};
pub use backup::{Backup, Restored, backup, fence, restore};
pub use config::{AppDefaults, Config, Requests, Sweep, Tasks};
pub use metrics::Metrics;
pub use peer::{Peer, PeerRequest, PeerResponse};
pub use reauth_domain as domain;
pub use reauth_sandbox as sandbox;
pub use reauth_sandbox::child_main as sandbox_child;
pub use simulation::{EndCount, Progress, Simulation, TaskCount, Wanted, simulate};

/// What `init` made.
#[derive(Debug)]
pub struct Initialised {
    /// The operator's token, shown this once.
    pub operator_token: String,
}

/// Creates the store and the operator's token. Refuses a store that has an operator: the token is
/// shown once.
pub async fn init(config: &Config, clock: Clock) -> Result<Initialised, String> {
    config.check()?;
    let make = async {
        let db = Db::open(config.place(), clock).await?;
        if tokens::has_operator(&db.read().await?)? {
            return Ok(None);
        }
        let mut tx = db.write(By::System).await?;
        let scopes = Scopes::default().with(Scope::Operator);
        let (_, secret) = tokens::create(&mut tx, None, "operator", scopes, None).await?;
        tx.commit().await?;
        Ok::<_, reauth_domain::Error>(Some(secret.reveal().to_owned()))
    };
    match make.await.map_err(|error| error.to_string())? {
        Some(operator_token) => Ok(Initialised { operator_token }),
        None => {
            Err("there is an operator already, whose token was shown when it was made: use it, \
                     or another store"
                .into())
        }
    }
}
