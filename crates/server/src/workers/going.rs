//! The runs that this server is carrying out now: what each has said so far, and how to end one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
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
    attempt: i64,
    log: Mutex<Vec<LogRow>>,
    cancelled: watch::Sender<bool>,
    /// Its end could not be written down: nobody carries it out, and its token may still be known.
    is_over: AtomicBool,
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
    /// Begins to carry out a try of a run.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (id, attempt): (RunId, i64),
        rehearsal: Option<Rehearsed>,
    ) -> Entered {
        let (log, cancelled) = (Mutex::default(), watch::Sender::new(false));
        let is_over = AtomicBool::new(false);
        let run = Arc::new(Run { attempt, log, cancelled, is_over, rehearsal });
        self.all().insert(id, Arc::clone(&run));
        Entered { going: Arc::clone(self), id, run }
    }

    /// The run with this id, if it is going here.
    pub(crate) fn run(&self, id: RunId) -> Option<Arc<Run>> {
        self.all().get(&id).cloned()
    }

    /// All that are really carried out, each with which try it is.
    pub(crate) fn tries(&self) -> Vec<(RunId, i64)> {
        let is_over = |run: &Arc<Run>| run.is_over.load(Ordering::Relaxed);
        let all = self.all();
        all.iter().filter(|(_, run)| !is_over(run)).map(|(id, run)| (*id, run.attempt)).collect()
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

    /// Whether someone asked for its end.
    pub(crate) fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
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
    /// The run's end could not be written down: its lease passes, and it is taken up again. Until
    /// then its token may be known, and stays what it was.
    pub(crate) fn keep(self) {
        self.run.is_over.store(true, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut all = self.going.all();
        // The next try may have entered already.
        if all.get(&self.id).is_some_and(|run| Arc::ptr_eq(run, &self.run)) {
            all.remove(&self.id);
        }
    }
}
