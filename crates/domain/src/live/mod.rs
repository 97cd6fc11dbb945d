//! Live: what a check needs, in memory. It is fed by ledger entries after their commit, can be
//! thrown away and rebuilt from the tables at any time, and decides nothing: it gathers facts for
//! `access::decide`. A check reads it and touches no disk.

mod apply;
mod bounds;
mod ends;
mod forecast;
mod judge;
mod load;
mod picture;
mod policies;
mod preview;
mod rules;
mod scan;
mod traits;
mod view;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::access::{Because, Ended, Traits, Verdict};
use crate::apps::policies::OverMax;
use crate::ledger::{By, Change, Entry};
use crate::store::Read;
use crate::tokens::{Scopes, TokenKind};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, TokenId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::{Span, Time};

pub use forecast::Forecast;
pub(crate) use load::written_end;
pub use picture::Picture;
use view::View;

/// The in-memory view. It answers with an error while it may be out of date: never with a guess.
pub struct Live {
    view: RwLock<View>,
    /// Sessions that were active since they were last taken for a flush.
    active: Mutex<Vec<u32>>,
    /// Those that are taken and not yet written, the next one last.
    taken: Mutex<Vec<u32>>,
    is_in_doubt: AtomicBool,
    built: AtomicU64,
}

/// What a check found out about a session token.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The app.
    pub app: AppId,
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// When the user really proved who they are.
    pub authenticated_at: Time,
    /// The decision.
    pub verdict: Verdict,
    /// From when on the app wants its user to be told that the session ends soon.
    pub warn_at: Option<Time>,
}

/// An end that is known of a session.
#[derive(Clone, Debug)]
pub struct KnownEnd {
    /// When and why.
    pub ended: Ended,
    /// The policy that asks for it, if one does.
    pub policy: Option<String>,
    /// Of an age or idle limit: how long it is, and since when that is counted.
    pub counted: Option<(Span, Time)>,
}

impl KnownEnd {
    /// Why, as a sentence, without the policy.
    pub fn detail(&self) -> String {
        let counted = self.counted.map(|(limit, since)| format!(": {limit} since {since}"));
        format!("{}{}", self.ended.because, counted.unwrap_or_default())
    }
}

impl fmt::Display for KnownEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(policy) = &self.policy else { return f.write_str(&self.detail()) };
        write!(f, "{}: policy {policy}", self.ended.because)?;
        self.counted.map_or(Ok(()), |(limit, since)| write!(f, ", {limit} since {since}"))
    }
}

/// Why a session ends when it does.
#[derive(Clone, Debug)]
pub struct Explained {
    /// All ends that are known; the first is the decisive one.
    pub ends: Vec<KnownEnd>,
    /// The longest age that anything asks of it now.
    pub max_age: Option<Span>,
}

/// What one policy alone says of a session.
#[derive(Clone, Debug)]
pub struct OwnVerdict {
    /// The policy's name.
    pub policy: String,
    /// Whether the session meets its selector.
    pub is_about_it: bool,
    /// The first end that it asks for.
    pub end: Option<KnownEnd>,
    /// Whether that has come.
    pub is_over: bool,
}

/// Until when someone can act for a user, unless they sign in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// By then all has surely ended; none: there is no such moment.
    pub ends_by: Option<Time>,
    /// Over how many credentials.
    pub credentials: u32,
}

/// Who stands behind an API token.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The app; none for the operator.
    pub app: Option<AppId>,
    /// What the token may do.
    pub scopes: Scopes,
    /// Who acts, for the ledger.
    pub by: By,
}

/// A session whose end the sweep must write, or warn of.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    pub(crate) ended: Ended,
    /// The policy that asks for it; known once it is written.
    pub(crate) policy: Option<String>,
}

/// What a sweep sees when it looks at every session.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Ends to write.
    pub(crate) ended: Vec<Due>,
    /// Ends to warn of.
    pub(crate) ending_soon: Vec<Due>,
    /// Users with a session that nothing ends for sure, by their apps.
    pub(crate) endless: HashSet<(AppId, UserId)>,
    /// The open revocations: each by its app and moment.
    pub(crate) revocations: Vec<(AppId, Time)>,
    /// The apps whose sessions it could not judge: one of their policies cannot be read.
    pub(crate) skipped: HashSet<AppId>,
}

/// A session that would begin.
pub(crate) struct SignIn<'a> {
    /// Whose.
    pub(crate) user: UserId,
    /// The session that the device has already.
    pub(crate) known: Option<SessionId>,
    /// What policies can ask of it.
    pub(crate) traits: &'a Traits,
    /// The patterns that its label fits.
    pub(crate) labels: &'a [String],
    /// When the user proved who they are.
    pub(crate) authenticated_at: Time,
}

/// How many sessions a user may have, by the strictest policy.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// So many.
    pub(crate) max: u32,
    /// What happens to one more.
    pub(crate) over: OverMax,
    /// The policy's name.
    pub(crate) policy: String,
}

/// Activity that is not yet in the tables.
#[derive(Debug, Default)]
pub struct Activity {
    /// Sessions and when each was last active.
    pub sessions: Vec<(SessionId, Time)>,
    /// Tokens and when each was last used.
    pub tokens: Vec<(TokenId, Time)>,
}

/// How far someone is who looks at all sessions.
#[derive(Debug, Default)]
pub struct Seen {
    /// So many are looked at.
    pub sessions: AtomicUsize,
    /// Of so many, of all apps; 0 as long as they are not counted.
    pub all: AtomicUsize,
}

/// What a set of policies would do if it were stated now.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// How many sessions are valid now, and of how many users.
    pub sessions: usize,
    /// Of how many users.
    pub users: usize,
    /// How many of them would end at once.
    pub ended_sessions: usize,
    /// Of how many users.
    pub ended_users: usize,
    /// Some of those users.
    pub who: Vec<UserId>,
    /// The sign-ins that will be forced as it is; none if that takes too long to foresee.
    pub before: Option<Forecast>,
    /// The same with the new set, and with those that it forces at once; none likewise.
    pub after: Option<Forecast>,
    /// Why there is no `after`.
    pub unforeseen: Option<String>,
}

impl Live {
    pub(crate) fn empty() -> Self {
        Self {
            view: RwLock::new(View::default()),
            active: Mutex::new(Vec::new()),
            taken: Mutex::new(Vec::new()),
            is_in_doubt: AtomicBool::new(true),
            built: AtomicU64::new(0),
        }
    }

    /// Judges a session token. None: nobody knows it. A valid use counts as activity.
    pub fn check(&self, secret: &SecretHash, now: Time) -> Result<Option<Checked>> {
        let view = self.known()?;
        let Some(at) = view.session_by_secret(secret) else { return Ok(None) };
        view.readable(view.users[view.sessions[at as usize].user as usize].app)?;
        let checked = view.judge(at, now);
        if checked.verdict.is_valid() && view.note_activity(at, now) {
            let mut active = self.active.lock().map_err(|_| poisoned())?;
            active.push(at);
        }
        Ok(Some(checked))
    }

    /// Judges a session by its id, without counting as activity; and when it was last active, if
    /// its end is not written.
    pub(crate) fn judge(
        &self,
        user: UserId,
        session: SessionId,
        now: Time,
    ) -> Result<Option<(Verdict, Option<Time>)>> {
        let view = self.known_of(user)?;
        let found = view.session_of(user, session);
        Ok(found.map(|at| (view.judge(at, now).verdict, view.active_at(at))))
    }

    /// How a session has ended by now, and by which policy; none if it has not.
    pub(crate) fn ended(
        &self,
        user: UserId,
        session: SessionId,
        now: Time,
    ) -> Result<Option<(Ended, Option<String>)>> {
        let view = self.known_of(user)?;
        let Some(at) = view.session_of(user, session) else { return Ok(None) };
        let Verdict::Ended(ended) = view.judge(at, now).verdict else { return Ok(None) };
        Ok(Some((ended, view.policy_of(at, ended, now))))
    }

    /// Why a session token's session ends when it does. None: nobody knows it.
    pub fn explain(&self, secret: &SecretHash, now: Time) -> Result<Option<Explained>> {
        let view = self.known()?;
        Ok(view.session_by_secret(secret).map(|at| view.explain(at, None, now)))
    }

    /// Begins a sweep: which revocations it will have seen, and of which building of the view.
    pub(crate) fn begin_sweep(&self, looked: &mut Looked) -> Result<u64> {
        looked.revocations = self.known()?.open_revocations();
        Ok(self.built())
    }

    /// How often it has been built anew: positions are of one building.
    pub(crate) fn built(&self) -> u64 {
        self.built.load(Ordering::SeqCst)
    }

    /// Whether the group is known.
    pub(crate) fn has_group(&self, app: AppId, name: &str) -> Result<bool> {
        Ok(self.known()?.find_group(app, name).is_some())
    }

    /// The app's groups that keep themselves.
    pub(crate) fn kept_groups(&self, app: AppId) -> Result<Vec<String>> {
        Ok(self.known()?.kept_groups(app))
    }

    /// The label patterns that the app's policies ever named.
    pub(crate) fn patterns(&self, app: AppId) -> Result<Vec<String>> {
        Ok(self.known()?.kinds.patterns(app))
    }

    /// Looks at up to `rows_max` sessions for what is due: ends to write, ends to warn of. Answers
    /// where to go on.
    pub(crate) fn due(
        &self,
        from: usize,
        rows_max: usize,
        now: Time,
        looked: &mut Looked,
    ) -> Result<Option<usize>> {
        Ok(self.known()?.due(from, rows_max, now, looked))
    }

    /// What is due of a session still, with the policy that asks for it.
    pub(crate) fn due_still(&self, due: &Due, is_end: bool, now: Time) -> Result<Option<Due>> {
        Ok(self.known()?.due_still(due, is_end, now))
    }

    /// The strictest limit on how many sessions the user has, if there is one.
    pub(crate) fn room(&self, user: UserId, now: Time) -> Result<Option<Room>> {
        Ok(self.known_of(user)?.room(user, now))
    }

    /// The decision on a session that would begin now.
    pub(crate) fn judge_sign_in(&self, begun: &SignIn<'_>, now: Time) -> Result<Verdict> {
        let missing = || Error::not_found(format!("user {}", begun.user));
        let view = self.known_of(begun.user)?;
        view.judge_sign_in(begun, now).ok_or_else(missing)
    }

    /// Why a session ends when it does, by when it was last active: if its end is written, only the
    /// tables know that.
    pub fn explain_session(
        &self,
        (user, session): (UserId, SessionId),
        active_at: Option<Time>,
        now: Time,
    ) -> Result<Option<Explained>> {
        let view = self.known_of(user)?;
        Ok(view.session_of(user, session).map(|at| view.explain(at, active_at, now)))
    }

    /// What each policy that holds says of a session by itself.
    pub(crate) fn own_verdicts(
        &self,
        (user, session): (UserId, SessionId),
        active_at: Option<Time>,
        now: Time,
    ) -> Result<Vec<OwnVerdict>> {
        let view = self.known_of(user)?;
        let found = view.session_of(user, session);
        Ok(found.map(|at| view.own_verdicts(at, active_at, now)).unwrap_or_default())
    }

    /// The sessions of a user that are valid now, each with the end that nobody can put off.
    pub(crate) fn bounds_of(
        &self,
        user: UserId,
        now: Time,
    ) -> Result<Vec<(SessionId, Option<Ended>)>> {
        Ok(self.known_of(user)?.bounds_of(user, now))
    }

    /// Judges an API token, a run's token or the operator's.
    pub fn admit(&self, secret: &SecretHash, now: Time) -> Result<Result<Admitted, Because>> {
        let view = self.known()?;
        let Some(token) = view.token(secret) else { return Ok(Err(Because::Unknown)) };
        match view.judge_token(token, now) {
            Verdict::Ended(ended) => Ok(Err(ended.because)),
            Verdict::Valid { .. } => {
                token.note_use(now);
                Ok(Ok(token.admitted()))
            }
        }
    }

    /// Refuses, with the reason, if nothing can be known of an app: then nobody is let in there.
    pub fn readable(&self, app: AppId) -> Result<()> {
        self.known_in(app).map(drop)
    }

    /// The first of these who is no user of the app: deleted, of another app, or nobody.
    pub(crate) fn find_stranger(&self, app: AppId, users: &[UserId]) -> Result<Option<UserId>> {
        let view = self.known()?;
        Ok(users.iter().find(|user| !view.has_user(app, **user)).copied())
    }

    /// Whether the app exists.
    pub fn has_app(&self, app: AppId) -> Result<bool> {
        Ok(self.known()?.has_app(app))
    }

    /// What stands in the way of a sign-in of this user, judged as a credential made this moment.
    pub(crate) fn may_sign_in(&self, user: UserId, now: Time) -> Result<Verdict> {
        let view = self.known_of(user)?;
        view.may_sign_in(user, now).ok_or_else(|| Error::not_found(format!("user {user}")))
    }

    /// Judges an authentication token: by its own times and end, and by its user's state and
    /// cut-offs. The limits of sessions do not apply to it.
    pub(crate) fn judge_enrolment(
        &self,
        user: UserId,
        (created_at, expires_at): (Time, Time),
        ended: Option<Ended>,
        now: Time,
    ) -> Result<Verdict> {
        let view = self.known_of(user)?;
        let verdict = view.judge_enrolment(user, (created_at, expires_at), ended, now);
        verdict.ok_or_else(|| Error::not_found(format!("user {user}")))
    }

    /// The end that nobody can put off of a session of a user who proved who they are at a moment;
    /// none: there is no such end.
    pub(crate) fn bound_of_sign_in(
        &self,
        user: UserId,
        traits: &Traits,
        at: Time,
    ) -> Result<Option<Ended>> {
        let bound = self.known_of(user)?.bound_of_sign_in(user, traits, at);
        bound.ok_or_else(|| Error::not_found(format!("user {user}")))
    }

    /// How many sessions, users and apps it holds.
    pub fn counts(&self) -> Result<(usize, usize, usize)> {
        Ok(self.known()?.counts())
    }

    /// Live tokens of this kind that are valid now.
    pub fn valid_tokens(&self, kind: TokenKind, now: Time) -> Result<usize> {
        Ok(self.known()?.valid_tokens(kind, now))
    }

    /// All it knows, in an order that does not depend on how it came to know it.
    pub fn picture(&self, now: Time) -> Result<Picture> {
        Ok(self.known()?.picture(now))
    }

    /// Whether it may be out of date, so that every answer is refused.
    pub fn is_in_doubt(&self) -> bool {
        self.is_in_doubt.load(Ordering::SeqCst)
    }

    pub(crate) fn set_doubt(&self, is_in_doubt: bool) {
        self.is_in_doubt.store(is_in_doubt, Ordering::SeqCst);
    }

    /// Applies entries whose commit holds.
    pub(crate) fn apply(&self, entries: &[Entry]) -> Result<()> {
        entries.iter().try_for_each(|entry| self.meet(entry))?;
        let mut view = self.change()?;
        entries.iter().try_for_each(|entry| apply::apply(&mut view, entry))
    }

    /// Who meets what policies name for the first time is noted before they hold, slice by slice:
    /// no check waits for all of it, and until a policy names it, it is nothing to anyone. The
    /// users are there already: no change makes some and states policies.
    fn meet(&self, entry: &Entry) -> Result<()> {
        let (Some(app), Change::PoliciesSet { policies, found }) = (entry.app, &entry.change)
        else {
            return Ok(());
        };
        policies.iter().try_for_each(|policy| self.change()?.name(app, policy))?;
        let missing = || Error::Internal("a policy is about somebody who is not there".into());
        for (name, members) in &found.groups {
            for some in members.chunks(scan::SLICE_ROWS) {
                let met = self.change()?.join_all(app, name, some, entry.at);
                met.ok_or_else(missing)?;
            }
        }
        for some in found.labels.chunks(scan::SLICE_ROWS) {
            self.change()?.label_all(app, some).ok_or_else(missing)?;
        }
        Ok(())
    }

    /// Rebuilds everything from the tables. Activity that was not flushed stays lost, as if the
    /// devices had not been used in those seconds.
    pub(crate) async fn load(&self, read: &mut Read) -> Result<()> {
        let fresh = load::load(read).await?;
        // The positions in both lists are those of the old view: all three change together.
        let mut view = self.change()?;
        self.active.lock().map_err(|_| poisoned())?.clear();
        self.taken.lock().map_err(|_| poisoned())?.clear();
        *view = fresh;
        self.built.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Takes up to `max` sessions' activity, to be written to the tables, and all tokens' uses.
    /// Sessions come in the order of their rows, so that a batch touches few pages of the table;
    /// all that were active at one moment come before any that were active later.
    pub(crate) fn take_activity(&self, max: usize) -> Result<Activity> {
        let view = self.known()?;
        let mut taken = self.taken.lock().map_err(|_| poisoned())?;
        if taken.len() < max {
            let mut more = std::mem::take(&mut *self.active.lock().map_err(|_| poisoned())?);
            more.sort_unstable_by(|a, b| b.cmp(a));
            more.append(&mut taken);
            *taken = more;
        }
        let keep = taken.len().saturating_sub(max);
        Ok(view.take_activity(&taken.split_off(keep)))
    }

    /// As `known`, for what is asked of one user.
    fn known_of(&self, user: UserId) -> Result<RwLockReadGuard<'_, View>> {
        let view = self.known()?;
        view.readable_to(user)?;
        Ok(view)
    }

    /// As `known`, for what is asked of a whole app.
    fn known_in(&self, app: AppId) -> Result<RwLockReadGuard<'_, View>> {
        let view = self.known()?;
        if let Some(at) = view.app_position(app) {
            view.readable(at)?;
        }
        Ok(view)
    }

    fn known(&self) -> Result<RwLockReadGuard<'_, View>> {
        if self.is_in_doubt() {
            let why = "the database does not answer: nothing can be known for sure now";
            return Err(Error::Unavailable(why.into()));
        }
        self.view.read().map_err(|_| poisoned())
    }

    fn change(&self) -> Result<RwLockWriteGuard<'_, View>> {
        self.view.write().map_err(|_| poisoned())
    }
}

/// A thread panicked while it changed the view: it is not to be trusted any more.
fn poisoned() -> Error {
    Error::Unavailable("the Live view is damaged: restart the server".into())
}
