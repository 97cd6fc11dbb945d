//! The pulse: proves that the database answers, persists the clock's floor, writes activity down.

use std::time::Duration;

use reauth_domain::devices;
use tokio::sync::watch;

use crate::app::App;

/// How long checks may go on after the database is gone.
const EVERY: Duration = Duration::from_secs(2);
/// Activity is written down at every fifth beat: a crash loses ten seconds of it at most, and a
/// device that is active all the time costs one row in ten seconds.
const FLUSH_BEATS: u32 = 5;
/// Batches in a row; then others have their turn.
const BATCHES_MAX: usize = 20;

pub(super) async fn work(app: App, mut stopped: watch::Receiver<bool>) {
    for beat in (1..=FLUSH_BEATS).cycle() {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopped.changed() => return,
        }
        note_jump(&app).await;
        match app.db.pulse().await {
            Ok(()) if beat == FLUSH_BEATS => flush(&app).await,
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "the database does not answer: checks say 503"),
        }
    }
}

/// A clock that was set shortens access or changes nothing; someone should know of it.
async fn note_jump(app: &App) {
    match app.db.note_jump().await {
        Ok(None) => {}
        Ok(Some(by)) => {
            app.metrics.count_clock_jump();
            let by_s = by.whole_seconds();
            tracing::warn!(by_s, "the machine's clock was set: access is not prolonged by that");
        }
        Err(error) => tracing::warn!(%error, "a jump of the clock was not written down"),
    }
}

/// Writes down activity that is in memory only. What cannot be written can only shorten access.
pub(super) async fn flush(app: &App) {
    for _ in 0..BATCHES_MAX {
        match devices::flush_activity(&app.db).await {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(%error, "activity was not written down");
                break;
            }
        }
    }
}
