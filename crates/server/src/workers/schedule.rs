//! Queues the runs whose time has come, and those that an entry of the ledger starts. A run that
//! was missed while the server was down is queued when it returns, as its task wants it.

use std::time::Duration;

use reauth_domain::Result;
use reauth_domain::ledger::By;
use reauth_domain::tasks::{self, Looked};
use tokio::sync::watch;

use crate::app::App;

/// A schedule is at most this late; cron knows whole seconds.
const EVERY: Duration = Duration::from_millis(500);
/// Schedules that fire in a row; then the ledger has its turn.
const FIRES_MAX: usize = 100;
/// Looks at the ledger in a row; then schedules have their turn.
const LOOKS_MAX: usize = 20;

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    let mut looked = Looked::default();
    loop {
        match queue_due(&app).await {
            Ok(true) => app.schedule_wake.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "schedules could not be looked at"),
        }
        if let Err(error) = queue_events(&app, &mut looked).await {
            tracing::error!(%error, "the ledger could not be looked at for tasks");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = app.schedule_wake.notified() => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Both, for a server without workers.
pub(super) async fn queue_all(app: &App, looked: &mut Looked) -> Result<()> {
    while queue_due(app).await? {}
    queue_events(app, looked).await
}

/// Answers whether there may be more.
async fn queue_due(app: &App) -> Result<bool> {
    let next = tasks::next_due(&mut app.db.read().await?).await?;
    if next.is_none_or(|next| next > app.db.now()) {
        return Ok(false);
    }
    for _ in 0..FIRES_MAX {
        let mut tx = app.db.write(By::System).await?;
        let fired = tasks::fire_due(&mut tx).await?;
        tx.commit().await?;
        app.metrics.count_missed(fired.missed);
        app.run_wake.notify_one();
        if !fired.is_found {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn queue_events(app: &App, looked: &mut Looked) -> Result<()> {
    for _ in 0..LOOKS_MAX {
        if !tasks::fire_events(&app.db, looked).await? {
            return Ok(());
        }
        app.run_wake.notify_one();
    }
    Ok(())
}
