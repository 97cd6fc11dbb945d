//! The runs that this server is carrying out now: what each has said so far, and how to end one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reauth_domain::RunId;
use reauth_domain::tasks::LogRow;
use tokio::sync::watch;

use crate::simulation::Rehearsed;

/// See the module.
#[derive(Default)]
pub(crate) struct Going {
    runs: Mutex<HashMap<RunId, Arc<Run>>>,
}

/// One of them.
pub(crate) struct Run {
    log: Mutex<Vec<LogRow>>,
    cancelled: watch::Sender<bool>,
    /// Where its changes are kept instead of being done.
    pub(crate) rehearsal: Option<Rehearsed>,
}

/// A run is among those that are going as long as this is there: from before its token is known
/// until after its token is dead. So what a rehearsed run asks is never done.
pub(crate) struct Entered {
    going: Arc<Going>,
    id: RunId,
    pub(crate) run: Arc<Run>,
}

impl Going {
    /// Begins to carry out a run.
    pub(crate) fn enter(self: &Arc<Self>, id: RunId, rehearsal: Option<Rehearsed>) -> Entered {
        let (log, cancelled) = (Mutex::default(), watch::Sender::new(false));
        let run = Arc::new(Run { log, cancelled, rehearsal });
        self.all().insert(id, Arc::clone(&run));
        Entered { going: Arc::clone(self), id, run }
    }

    /// The run with this id, if it is going here.
    pub(crate) fn run(&self, id: RunId) -> Option<Arc<Run>> {
        self.all().get(&id).cloned()
    }

    /// All of them.
    pub(crate) fn ids(&self) -> Vec<RunId> {
        self.all().keys().copied().collect()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// Asks for its end.
    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Waits until someone asks for its end.
    pub(crate) async fn cancelled(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.cancelled.subscribe().wait_for(|is| *is).await;
    }

    /// Hears a line as it is said.
    pub(crate) fn hear(&self, line: LogRow) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> Vec<LogRow> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Entered {
    /// The run's end could not be written down: its token may live on, and stays what it was.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.going.all().remove(&self.id);
    }
}
