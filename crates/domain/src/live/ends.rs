//! By which policies sessions ended whose end is written. It is kept beside the sessions: in their
//! cache line is no room, and few ask.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The policies by the positions of the sessions that they ended; each name is kept once.
#[derive(Default)]
pub(super) struct Ends {
    policies: HashMap<u32, Arc<str>>,
    names: HashSet<Arc<str>>,
}

impl Ends {
    /// Notes the policy; none: no policy has ended it, or it has not ended.
    pub(super) fn note(&mut self, session: u32, policy: Option<&str>) {
        let Some(policy) = policy else {
            self.policies.remove(&session);
            return;
        };
        let name = self.names.get(policy).cloned().unwrap_or_else(|| policy.into());
        self.names.insert(Arc::clone(&name));
        self.policies.insert(session, name);
    }

    pub(super) fn policy(&self, session: u32) -> Option<&str> {
        self.policies.get(&session).map(AsRef::as_ref)
    }
}
