//! The tables in memory, packed for a million sessions. Rows refer to each other by position; the
//! two indexes hold positions only and find them by hashes that are random already.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use hashbrown::HashTable;
use slab::Slab;
use uuid::Uuid;

use crate::access::{Because, CutOffKind, Ended, Era, Facts, Limits, Verdict, decide};
use crate::ledger::By;
use crate::live::ends::Ends;
use crate::live::rules::Rules;
use crate::live::traits::Kinds;
use crate::live::{Activity, Admitted};
use crate::tokens::{Scopes, TokenKind};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId, SessionId, TokenId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::{Span, Time};

/// The end of a user's list of sessions.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct View {
    pub(super) everyone_not_before: Time,
    /// What was made at or before this moment was restored from a backup.
    pub(super) fence_at: Time,
    pub(super) apps: Vec<App>,
    app_at: HashMap<AppId, u32>,
    pub(super) groups: Vec<Group>,
    pub(super) users: Slab<User>,
    user_at: HashTable<u32>,
    pub(super) sessions: Slab<Session>,
    session_at: HashTable<u32>,
    pub(super) tokens: HashMap<SecretHash, Token>,
    pub(super) kinds: Kinds,
    /// Of users whose access ends on a date: since when that is said, and the date.
    pub(super) dates: HashMap<u32, (Time, Time)>,
    pub(super) ends: Ends,
    /// The ends of which apps were told that they are near, by the sessions' positions.
    pub(super) warned: HashMap<u32, Time>,
}

pub(super) struct App {
    pub(super) id: AppId,
    pub(super) not_before: Time,
    /// How long before an end it is told so.
    pub(super) warn_before: Option<Span>,
    /// The limits of its settings over time.
    pub(super) eras: Vec<Era>,
    /// The versions of its policies.
    pub(super) rules: Rules,
    /// A stored policy that cannot be read, and might be about anyone: then nothing is known.
    pub(super) unreadable: Option<String>,
    /// Its groups, by their names.
    pub(super) group_at: HashMap<String, u32>,
}

/// A user's place in a group.
pub(super) struct Membership {
    pub(super) group: u32,
    pub(super) since: Time,
}

pub(super) struct Group {
    pub(super) app: u32,
    pub(super) name: String,
    pub(super) not_before: Time,
}

/// In one cache line: at a million sessions, what a check costs is the lines that it fetches.
#[repr(align(64))]
pub(super) struct User {
    pub(super) id: Uuid,
    pub(super) app: u32,
    pub(super) first_session: u32,
    pub(super) ended: Option<Ended>,
    pub(super) not_before: Time,
    pub(super) groups: Box<[Membership]>,
}

/// As `User`, in one cache line.
#[repr(align(64))]
pub(super) struct Session {
    pub(super) secret: ShortHash,
    pub(super) id: Uuid,
    pub(super) user: u32,
    pub(super) next: u32,
    /// What policies can ask of it: its number in `Kinds`.
    pub(super) kind: u16,
    pub(super) authenticated_at: Time,
    /// When it was last active; of a session whose end is written: when it ended.
    last_at: AtomicI64,
    ended_because: Option<Because>,
    /// `DIRTY`.
    flags: AtomicU8,
}

/// It was active since its activity was last written down.
const DIRTY: u8 = 1;

/// The first 160 bits of a secret's SHA-256: as many as the secret itself has at least.
type ShortHash = [u8; 20];

pub(super) struct Token {
    pub(super) id: Uuid,
    pub(super) kind: TokenKind,
    pub(super) app: Option<AppId>,
    pub(super) name: String,
    pub(super) scopes: Scopes,
    pub(super) created_at: Time,
    pub(super) expires_at: Option<Time>,
    pub(super) ended: Option<Ended>,
    pub(super) used_at: AtomicI64,
    pub(super) flushed_at: AtomicI64,
}

fn short(secret: &SecretHash) -> ShortHash {
    let (first, _) = secret.bytes().split_first_chunk().expect("a hash has 32 bytes");
    *first
}

/// The index hash of a secret: SHA-256 is uniform, and nobody chooses their own secret.
fn hash_of_secret(secret: &ShortHash) -> u64 {
    let (first, _) = secret.split_first_chunk::<8>().expect("it has 20 bytes");
    u64::from_le_bytes(*first)
}

/// The index hash of a user id. Its last 62 bits are random, but a caller may choose them: the
/// multiplication spreads them, and a flood of chosen ids costs its sender a durable write each.
fn hash_of_id(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Session {
    pub(super) fn ended(&self) -> Option<Ended> {
        self.ended_because.map(|because| Ended { at: self.last_at(), because })
    }

    fn end(&mut self, ended: Ended) {
        *self.last_at.get_mut() = ended.at.micros();
        self.ended_because = Some(ended.because);
    }

    /// When it was last active; none when its end is written.
    pub(super) fn active_at(&self) -> Option<Time> {
        self.ended_because.is_none().then(|| self.last_at())
    }

    pub(super) fn last_at(&self) -> Time {
        Time::from_micros(self.last_at.load(Ordering::Relaxed))
    }
}

impl Token {
    pub(super) fn facts<'a>(&self, cut_offs: &'a [(CutOffKind, Time)]) -> Facts<'a> {
        let (ended, expires_at) = (self.ended, self.expires_at);
        Facts { ended, expires_at, cut_offs, ..Facts::made_at(self.created_at) }
    }

    pub(super) fn note_use(&self, now: Time) {
        self.used_at.fetch_max(now.micros(), Ordering::Relaxed);
    }

    pub(super) fn admitted(&self) -> Admitted {
        let by = match self.kind {
            TokenKind::Operator => By::Operator { id: TokenId::from_uuid(self.id) },
            TokenKind::Api => {
                By::Token { id: TokenId::from_uuid(self.id), name: self.name.clone() }
            }
            TokenKind::Run => By::Task { id: RunId::from_uuid(self.id), name: self.name.clone() },
        };
        Admitted { app: self.app, scopes: self.scopes, by }
    }
}

impl View {
    pub(super) fn with_capacity(users: usize, sessions: usize) -> Self {
        let mut view = Self {
            users: Slab::with_capacity(users),
            user_at: HashTable::with_capacity(users),
            sessions: Slab::with_capacity(sessions),
            session_at: HashTable::with_capacity(sessions),
            ..Self::default()
        };
        view.apps.reserve(1);
        view
    }

    pub(super) fn add_app(&mut self, id: AppId, not_before: Time, warn_before: Option<Span>) {
        let at = position(self.apps.len());
        let (eras, rules, group_at) = (Vec::new(), Rules::default(), HashMap::new());
        let unreadable = None;
        self.apps.push(App { id, not_before, warn_before, eras, rules, unreadable, group_at });
        self.app_at.insert(id, at);
    }

    pub(super) fn app_mut(&mut self, id: AppId) -> Option<&mut App> {
        let at = *self.app_at.get(&id)?;
        self.apps.get_mut(at as usize)
    }

    pub(super) fn has_app(&self, id: AppId) -> bool {
        self.app_at.contains_key(&id)
    }

    /// The group's position; it comes to be when it is first named.
    pub(super) fn group(&mut self, app: AppId, name: &str) -> Option<u32> {
        let found = self.find_group(app, name);
        let app = *self.app_at.get(&app)?;
        Some(found.unwrap_or_else(|| {
            let at = position(self.groups.len());
            self.groups.push(Group { app, name: name.to_owned(), not_before: Time::ZERO });
            self.apps[app as usize].group_at.insert(name.to_owned(), at);
            at
        }))
    }

    pub(super) fn find_group(&self, app: AppId, name: &str) -> Option<u32> {
        self.app(app)?.group_at.get(name).copied()
    }

    pub(super) fn app_position(&self, id: AppId) -> Option<u32> {
        self.app_at.get(&id).copied()
    }

    pub(super) fn app(&self, id: AppId) -> Option<&App> {
        self.apps.get(*self.app_at.get(&id)? as usize)
    }

    /// Refuses to tell anything of an app of which not all can be known.
    pub(super) fn readable(&self, app: u32) -> Result<()> {
        let App { id, unreadable, .. } = &self.apps[app as usize];
        let Some(policy) = unreadable else { return Ok(()) };
        let why = format!(
            "the stored policy {policy:?} of app {id} cannot be read, so nobody is let in: state \
             the whole set anew (`reauth policy apply`)"
        );
        Err(Error::Unreadable(why))
    }

    /// Whether this is a user of the app, and not deleted.
    pub(super) fn has_user(&self, app: AppId, user: UserId) -> bool {
        let Some(user) = self.user(user).map(|at| &self.users[at as usize]) else { return false };
        let is_deleted = user.ended.is_some_and(|ended| ended.because == Because::UserDeleted);
        !is_deleted && self.apps[user.app as usize].id == app
    }

    /// As `readable`, of a user's app.
    pub(super) fn readable_to(&self, user: UserId) -> Result<()> {
        self.user(user).map_or(Ok(()), |at| self.readable(self.users[at as usize].app))
    }

    /// The sessions of a user, the newest first.
    pub(super) fn sessions_of_user(&self, user: &User) -> impl Iterator<Item = &Session> {
        let row = |at: u32| (at != NONE).then(|| &self.sessions[at as usize]);
        std::iter::successors(row(user.first_session), move |session| row(session.next))
    }

    pub(super) fn join(&mut self, user: UserId, group: u32, since: Time) -> Option<()> {
        let user = self.user_mut(user)?;
        let mut groups = std::mem::take(&mut user.groups).into_vec();
        groups.push(Membership { group, since });
        user.groups = groups.into();
        Some(())
    }

    /// Who leaves a group keeps its cut-off: leaving revives nothing.
    pub(super) fn leave(&mut self, user: UserId, group: u32) -> Option<()> {
        let not_before = self.groups.get(group as usize)?.not_before;
        let user = self.user_mut(user)?;
        let mut groups = std::mem::take(&mut user.groups).into_vec();
        groups.retain(|membership| membership.group != group);
        user.groups = groups.into();
        user.not_before = user.not_before.max(not_before);
        Some(())
    }

    pub(super) fn group_mut(&mut self, at: u32) -> Option<&mut Group> {
        self.groups.get_mut(at as usize)
    }

    pub(super) fn add_user(
        &mut self,
        id: UserId,
        app: AppId,
        ended: Option<Ended>,
        not_before: Time,
    ) -> Option<u32> {
        let app = *self.app_at.get(&app)?;
        let user = User {
            id: id.uuid(),
            app,
            first_session: NONE,
            ended,
            not_before,
            groups: Box::default(),
        };
        let at = position(self.users.insert(user));
        let users = &self.users;
        self.user_at
            .insert_unique(hash_of_id(id.uuid()), at, |at| hash_of_id(users[*at as usize].id));
        Some(at)
    }

    pub(super) fn user(&self, id: UserId) -> Option<u32> {
        let is_it = |at: &u32| self.users[*at as usize].id == id.uuid();
        self.user_at.find(hash_of_id(id.uuid()), is_it).copied()
    }

    pub(super) fn user_mut(&mut self, id: UserId) -> Option<&mut User> {
        let at = self.user(id)?;
        self.users.get_mut(at as usize)
    }

    /// Adds a session to its user's list and to the index.
    pub(super) fn add_session(
        &mut self,
        user: u32,
        id: SessionId,
        (secret, kind): (SecretHash, u16),
        (authenticated_at, active_at): (Time, Time),
        ended: Option<Ended>,
    ) -> u32 {
        let owner = &mut self.users[user as usize];
        let session = Session {
            secret: short(&secret),
            id: id.uuid(),
            user,
            next: owner.first_session,
            kind,
            authenticated_at,
            last_at: AtomicI64::new(ended.map_or(active_at, |ended| ended.at).micros()),
            ended_because: ended.map(|ended| ended.because),
            flags: AtomicU8::new(0),
        };
        let at = position(self.sessions.insert(session));
        owner.first_session = at;
        self.index_session(at);
        at
    }

    fn index_session(&mut self, at: u32) {
        let sessions = &self.sessions;
        let hash = hash_of_secret(&sessions[at as usize].secret);
        self.session_at
            .insert_unique(hash, at, |at| hash_of_secret(&sessions[*at as usize].secret));
    }

    /// A new authentication of a known session: new secret, new times, no end. The old secret is
    /// unknown from here on.
    pub(super) fn renew_session(
        &mut self,
        at: u32,
        (secret, kind): (SecretHash, u16),
        (authenticated_at, now): (Time, Time),
    ) {
        let hash = hash_of_secret(&self.sessions[at as usize].secret);
        if let Ok(found) = self.session_at.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        let session = &mut self.sessions[at as usize];
        session.secret = short(&secret);
        session.kind = kind;
        session.authenticated_at = authenticated_at;
        *session.last_at.get_mut() = now.micros();
        session.ended_because = None;
        self.warned.remove(&at);
        self.ends.note(at, None);
        self.index_session(at);
    }

    /// Takes a session out for good. None: there is no such session.
    pub(super) fn forget_session(&mut self, user: UserId, session: SessionId) -> Option<()> {
        let at = self.session_of(user, session)?;
        let next = self.sessions[at as usize].next;
        let owner = self.user_mut(user)?;
        if owner.first_session == at {
            owner.first_session = next;
        } else {
            let mut before = owner.first_session;
            while self.sessions[before as usize].next != at {
                before = self.sessions[before as usize].next;
            }
            self.sessions[before as usize].next = next;
        }
        let hash = hash_of_secret(&self.sessions[at as usize].secret);
        if let Ok(found) = self.session_at.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.sessions.remove(at as usize);
        self.warned.remove(&at);
        self.ends.note(at, None);
        Some(())
    }

    pub(super) fn session_by_secret(&self, secret: &SecretHash) -> Option<u32> {
        let secret = short(secret);
        let is_it = |at: &u32| self.sessions[*at as usize].secret == secret;
        self.session_at.find(hash_of_secret(&secret), is_it).copied()
    }

    pub(super) fn session_of(&self, user: UserId, session: SessionId) -> Option<u32> {
        let mut at = self.users[self.user(user)? as usize].first_session;
        while at != NONE {
            let row = &self.sessions[at as usize];
            if row.id == session.uuid() {
                return Some(at);
            }
            at = row.next;
        }
        None
    }

    /// Notes an end that is written, and the policy that asked for it.
    pub(super) fn end_session(&mut self, at: u32, ended: Ended, policy: Option<&str>) {
        self.sessions[at as usize].end(ended);
        self.ends.note(at, policy);
    }

    pub(super) fn session_mut(&mut self, at: u32) -> &mut Session {
        &mut self.sessions[at as usize]
    }

    /// When it was last active; none when its end is written.
    pub(super) fn active_at(&self, at: u32) -> Option<Time> {
        self.sessions[at as usize].active_at()
    }

    /// Notes that the session was used; answers whether it must be queued for the next flush.
    pub(super) fn note_activity(&self, at: u32, now: Time) -> bool {
        let session = &self.sessions[at as usize];
        session.last_at.fetch_max(now.micros(), Ordering::Relaxed);
        session.flags.fetch_or(DIRTY, Ordering::Relaxed) & DIRTY == 0
    }

    pub(super) fn take_activity(&self, taken: &[u32]) -> Activity {
        let sessions = taken.iter().filter_map(|at| {
            let session = self.sessions.get(*at as usize)?;
            session.flags.fetch_and(!DIRTY, Ordering::Relaxed);
            Some((SessionId::from_uuid(session.id), self.active_at(*at)?))
        });
        let tokens = self.tokens.values().filter_map(|token| {
            let used_at = token.used_at.load(Ordering::Relaxed);
            let is_new = token.flushed_at.swap(used_at, Ordering::Relaxed) < used_at;
            let is_stored = token.kind != TokenKind::Run;
            (is_new && is_stored)
                .then(|| (TokenId::from_uuid(token.id), Time::from_micros(used_at)))
        });
        Activity { sessions: sessions.collect(), tokens: tokens.collect() }
    }

    pub(super) fn token(&self, secret: &SecretHash) -> Option<&Token> {
        self.tokens.get(secret)
    }

    /// The decision on a token.
    pub(super) fn judge_token(&self, token: &Token, now: Time) -> Verdict {
        decide(&token.facts(&[(CutOffKind::Restore, self.fence_at)]), now)
    }

    pub(super) fn valid_tokens(&self, kind: TokenKind, now: Time) -> usize {
        let is_valid =
            |token: &&Token| token.kind == kind && self.judge_token(token, now).is_valid();
        self.tokens.values().filter(is_valid).count()
    }

    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.users.len(), self.apps.len())
    }
}

impl App {
    /// Limits that held no longer at a moment, once all ends that they led to are written.
    pub(super) fn forget(&mut self, before: Time) {
        self.eras.retain(|era| era.until.is_none_or(|until| before < until));
        self.rules.retain(|rule| rule.replaced_at.is_none_or(|at| before < at));
    }

    /// From now on these limits hold instead of the ones before.
    pub(super) fn add_era(&mut self, from: Time, limits: Limits) {
        if let Some(last) = self.eras.last_mut() {
            last.until = Some(from);
        }
        self.eras.push(Era { from, until: None, limits });
    }
}

/// Positions fit 32 bits: four billion rows would not fit any memory.
pub(super) fn position(at: usize) -> u32 {
    u32::try_from(at).expect("fewer than 2^32 rows are in memory")
}
