//! Queues the runs whose time has come. A run that was missed while the server was down is queued
//! once when it returns.

use std::time::Duration;

use reauth_domain::Result;
use reauth_domain::ledger::By;
use reauth_domain::tasks;
use tokio::sync::watch;

use crate::app::App;

/// A schedule is at most this late; cron knows whole seconds.
const EVERY: Duration = Duration::from_millis(500);

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    loop {
        if let Err(error) = queue_due(&app).await {
            tracing::error!(%error, "schedules could not be looked at");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = app.schedule_wake.notified() => {}
            _ = stopped.changed() => return,
        }
    }
}

async fn queue_due(app: &App) -> Result<()> {
    let next = tasks::next_due(&mut app.db.read().await?).await?;
    if next.is_none_or(|next| next > app.db.now()) {
        return Ok(());
    }
    loop {
        let mut tx = app.db.write(By::System).await?;
        let is_found = tasks::fire_due(&mut tx).await?;
        tx.commit().await?;
        app.run_wake.notify_one();
        if !is_found {
            return Ok(());
        }
    }
}
