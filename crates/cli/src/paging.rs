//! Long lists, with a bar while they come.

use indicatif::ProgressBar;
use reauth_sdk::{Error, Pages};
use serde::de::DeserializeOwned;

use crate::output;

/// A bar that is gone when it is dropped, however that comes about.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Counts towards a number that is told later.
    pub(crate) fn counting(what: &str) -> Self {
        Self(output::progress(0, what))
    }

    /// Waits.
    pub(crate) fn waiting(what: &str) -> Self {
        Self(output::waiting(what))
    }

    /// How far it is.
    pub(crate) fn reach(&self, done: u64, all: u64) {
        self.0.set_length(all.max(done));
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// All objects of a list.
pub(crate) async fn all<T: DeserializeOwned>(
    mut pages: Pages<T>,
    what: &str,
) -> Result<Vec<T>, Error> {
    let progress = Progress::counting(what);
    let mut objects = Vec::new();
    while let Some(page) = pages.next_page().await? {
        objects.extend(page.objects);
        progress.reach(objects.len() as u64, page.total);
    }
    Ok(objects)
}
