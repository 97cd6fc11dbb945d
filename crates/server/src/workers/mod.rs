//! What happens by itself. Each worker is a reconciler: bounded, safe to run twice, woken by a
//! signal and by a timer. With all of them stopped every verdict is still exact.

pub(crate) mod anchor;
pub(crate) mod egress;
pub(crate) mod going;
pub(crate) mod places;
mod pulse;
pub(crate) mod reach;
pub(crate) mod run;
mod schedule;
mod sweep;

use reauth_domain::tasks::Looked;
use reauth_domain::{Result, tokens};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::App;

/// Begins all workers. Refuses a store that was never initialised: nobody could sign in to it.
pub(crate) async fn start(
    app: &App,
    stopped: &watch::Receiver<bool>,
    done: &mut JoinSet<()>,
) -> std::result::Result<(), String> {
    anchor::fence_if_older(&app.config, &app.db).await.map_err(|error| error.to_string())?;
    let read = app.db.read().await.map_err(|error| error.to_string())?;
    if !tokens::has_operator(&read).map_err(|error| error.to_string())? {
        return Err("there is no operator's token that is valid: run `reauth init` first".into());
    }
    drop(read);
    run::recover(app).await.map_err(|error| error.to_string())?;
    match app.sandbox.probe().await {
        Ok(guards) if guards.is_complete() => {}
        Ok(guards) => tracing::warn!("{guards}"),
        Err(why) => tracing::error!("tasks cannot run: {why}"),
    }
    done.spawn(pulse::work(app.clone(), stopped.clone()));
    done.spawn(anchor::work(app.clone(), stopped.clone()));
    done.spawn(schedule::work(app.clone(), stopped.clone()));
    done.spawn(run::work(app.clone(), stopped.clone()));
    done.spawn(run::keep_leases(app.clone(), stopped.clone()));
    done.spawn(run::keep_ready(app.clone(), stopped.clone()));
    done.spawn(sweep::work(app.clone(), stopped.clone()));
    Ok(())
}

/// Writes down what is in memory only, and where the ledger ends then.
pub(crate) async fn flush(app: &App) {
    pulse::flush(app).await;
    anchor::note_end(app).await;
}

/// All that is due by now, until nothing is left to do. For servers without workers.
pub(crate) async fn settle(app: &App) -> Result<()> {
    let mut looked = Looked::default();
    loop {
        sweep::once(app).await?;
        schedule::queue_all(app, &mut looked).await?;
        if run::carry_out_all(app).await?.is_empty() {
            return Ok(());
        }
    }
}
