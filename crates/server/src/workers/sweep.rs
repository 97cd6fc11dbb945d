//! The sweep: writes down ends that the decision says already, warns of ends that come soon,
//! forgets what ended long ago. With it stopped every verdict is the same.

use std::time::Duration;

use reauth_domain::Result;
use reauth_domain::ledger::By;
use reauth_domain::sessions::sweep::{self, Sweep};
use reauth_domain::tasks;
use tokio::sync::watch;

use crate::app::App;

/// Between two batches others have the writer.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    // The first sweep may be far: until then nobody knew who has no bound.
    let looked = tokio::select! {
        looked = look(&app) => looked.map(drop),
        _ = stopped.changed() => return,
    };
    if let Err(error) = looked {
        tracing::warn!(%error, "the sweep has not looked yet");
    }
    loop {
        let every = Duration::from_secs(app.config.sweep.every.whole_seconds().unsigned_abs());
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = app.sweep_wake.notified() => {}
            _ = stopped.changed() => return,
        }
        let swept = tokio::select! {
            swept = once(&app) => swept,
            _ = stopped.changed() => return,
        };
        if let Err(error) = swept {
            tracing::warn!(%error, "the sweep goes on later");
        }
    }
}

async fn look(app: &App) -> Result<Sweep> {
    let found = sweep::look(&app.db).await?;
    app.metrics.set_endless_users(found.endless_users());
    Ok(found)
}

/// One sweep, to its end.
pub(super) async fn once(app: &App) -> Result<()> {
    let mut found = look(app).await?;
    if !found.is_empty() {
        tracing::info!(due = found.len(), "the sweep writes ends and warnings down");
    }
    while !found.is_empty() {
        app.metrics.set_sweep_backlog(found.len());
        found.write(&app.db).await?;
        tokio::time::sleep(PAUSE).await;
    }
    app.metrics.set_sweep_backlog(0);
    if !found.close(&app.db).await? {
        return Ok(());
    }
    // Only now: what was not written down could be revived by what is forgotten.
    while sweep::forget(&app.db, app.config.sweep.keep_ended).await? {
        tokio::time::sleep(PAUSE).await;
    }
    while forget_runs(app).await? {
        tokio::time::sleep(PAUSE).await;
    }
    app.metrics.count_sweep();
    Ok(())
}

/// Forgets a batch of what ended runs have left. Answers whether there was any.
async fn forget_runs(app: &App) -> Result<bool> {
    let config = &app.config.tasks;
    let mut tx = app.db.write(By::System).await?;
    let is_found = tasks::forget_runs(&mut tx, config.keep_runs, config.keep_logs).await?;
    tx.commit().await?;
    Ok(is_found)
}
