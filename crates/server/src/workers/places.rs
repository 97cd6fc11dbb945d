//! What is there a bounded number of, for all apps together and for each, so that one app's
//! requests leave room for the others': runs that somebody waits for, mebibytes of long requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reauth_domain::AppId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    per_app: usize,
    of_app: Mutex<HashMap<AppId, Arc<Semaphore>>>,
}

/// A place, or some, as long as this is there.
pub(crate) struct Place {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(all: usize, per_app: usize) -> Self {
        let all = Arc::new(Semaphore::new(all.max(per_app)));
        Self { all, per_app, of_app: Mutex::default() }
    }

    /// A place that is free now.
    pub(crate) fn take(&self, app: AppId) -> Option<Place> {
        let own = self.of_app(app).try_acquire_owned().ok()?;
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _own: own, _all: all })
    }

    /// Waits for so many places, or for all of an app if that is less.
    pub(crate) async fn wait(&self, app: AppId, count: usize) -> Option<Place> {
        let count = u32::try_from(count.min(self.per_app)).ok()?;
        let own = self.of_app(app).acquire_many_owned(count).await.ok()?;
        let all = Arc::clone(&self.all).acquire_many_owned(count).await.ok()?;
        Some(Place { _own: own, _all: all })
    }

    fn of_app(&self, app: AppId) -> Arc<Semaphore> {
        let mut all = self.of_app.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Semaphore::new(self.per_app));
        Arc::clone(all.entry(app).or_insert_with(made))
    }
}
