//! Children that are started before there is a job for them: each has dropped its rights and made
//! its globals, serves one job and dies. Without a pool every job starts a child of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::process::Running;
use crate::{Limits, Sandbox};

/// Between a child that was taken and the next that is made ready.
const PAUSE: Duration = Duration::from_millis(3);
/// When no child can be started, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Waiting children, all under the same limits.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    waiting: Mutex<Vec<Running>>,
    limits: Mutex<Option<Limits>>,
    taken: Notify,
}

impl Pool {
    /// A child that waits under these limits and still lives.
    pub(crate) fn take(&self, limits: &Limits) -> Option<Running> {
        let known = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.of_child() != limits.of_child()) {
            return None;
        }
        drop(known);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let found = loop {
            match waiting.pop() {
                Some(running) if running.is_gone() => {}
                other => break other,
            }
        };
        drop(waiting);
        self.taken.notify_one();
        found
    }

    fn count(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Sandbox {
    /// Keeps `count` children ready under these limits, until it is dropped.
    pub async fn keep_ready(&self, limits: &Limits, count: usize) {
        let pool: &Arc<Pool> = &self.pool;
        *pool.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits.clone());
        loop {
            while pool.count() < count {
                match self.start(limits).await {
                    Ok(running) => {
                        pool.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(running);
                    }
                    Err(why) => {
                        tracing::warn!(why, "no child for tasks can be made ready");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
            pool.taken.notified().await;
            // The run that has just begun comes first.
            tokio::time::sleep(PAUSE).await;
        }
    }
}
