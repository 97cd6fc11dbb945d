//! The tables in memory, packed for a million sessions. Rows refer to each other by position; the
//! two indexes hold positions only and find them by hashes that are random already.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use hashbrown::HashTable;
use slab::Slab;
use uuid::Uuid;

use crate::access::{Because, CutOffKind, Ended, Era, Facts, Limits, Verdict, decide, each_end};
use crate::apps::policies::Policy;
use crate::ledger::By;
use crate::live::{Activity, Admitted, Checked, Explained, KnownEnd};
use crate::tokens::{Scopes, TokenKind};
use crate::values::ids::{AppId, RunId, SessionId, TokenId, UserId, hex};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

/// The end of a user's list of sessions.
const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct View {
    pub(super) everyone_not_before: Time,
    apps: Vec<App>,
    app_at: HashMap<AppId, u32>,
    groups: Vec<Group>,
    users: Slab<User>,
    user_at: HashTable<u32>,
    sessions: Slab<Session>,
    session_at: HashTable<u32>,
    pub(super) tokens: HashMap<SecretHash, Token>,
}

pub(super) struct App {
    pub(super) id: AppId,
    pub(super) not_before: Time,
    /// The limits of its settings over time.
    eras: Vec<Era>,
    /// The versions of its policies.
    pub(super) rules: Vec<Rule>,
}

/// One version of a policy, with what its selector names found.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) policy: Policy,
    pub(super) groups: Option<Box<[u32]>>,
    pub(super) users: Option<HashSet<UserId>>,
    pub(super) era: Era,
}

/// A user's place in a group.
pub(super) struct Membership {
    group: u32,
    since: Time,
}

pub(super) struct Group {
    app: u32,
    name: String,
    pub(super) not_before: Time,
}

/// In one cache line: at a million sessions, what a check costs is the lines that it fetches.
#[repr(align(64))]
pub(super) struct User {
    pub(super) id: Uuid,
    app: u32,
    first_session: u32,
    pub(super) ended: Option<Ended>,
    pub(super) not_before: Time,
    groups: Box<[Membership]>,
}

/// As `User`, in one cache line.
#[repr(align(64))]
pub(super) struct Session {
    secret: ShortHash,
    id: Uuid,
    user: u32,
    next: u32,
    pub(super) authenticated_at: Time,
    /// When it was last active; of a session whose end is written: when it ended.
    last_at: AtomicI64,
    ended_because: Option<Because>,
    is_dirty: AtomicBool,
}

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

/// A comparable picture of the view: see `Live::picture`.
#[derive(Debug, PartialEq, Eq)]
pub struct Picture {
    /// One line a fact, by what it is about.
    pub lines: BTreeMap<String, String>,
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

    pub(super) fn end(&mut self, ended: Ended) {
        *self.last_at.get_mut() = ended.at.micros();
        self.ended_because = Some(ended.because);
    }

    pub(super) fn last_at(&self) -> Time {
        Time::from_micros(self.last_at.load(Ordering::Relaxed))
    }
}

impl Token {
    pub(super) fn facts(&self) -> Facts<'static> {
        Facts {
            authenticated_at: self.created_at,
            active_at: self.created_at,
            ended: self.ended,
            expires_at: self.expires_at,
            user_ended: None,
            cut_offs: &[],
            eras: &[],
        }
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

    pub(super) fn add_app(&mut self, id: AppId, not_before: Time) {
        let at = position(self.apps.len());
        self.apps.push(App { id, not_before, eras: Vec::new(), rules: Vec::new() });
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
            self.groups.push(Group { app, name: name.to_owned(), not_before: Time::ZERO });
            position(self.groups.len() - 1)
        }))
    }

    pub(super) fn find_group(&self, app: AppId, name: &str) -> Option<u32> {
        let app = *self.app_at.get(&app)?;
        let found = self.groups.iter().position(|group| group.app == app && group.name == name);
        found.map(position)
    }

    pub(super) fn app(&self, id: AppId) -> Option<&App> {
        self.apps.get(*self.app_at.get(&id)? as usize)
    }

    /// The live sessions of an app, each with its user.
    pub(super) fn sessions_of(&self, app: AppId) -> impl Iterator<Item = (&Session, &User)> {
        let app = self.app_at.get(&app).copied();
        let with_user = |(_, session): (usize, _)| {
            let session: &Session = session;
            (session, &self.users[session.user as usize])
        };
        let is_open = |(session, _): &(&Session, &User)| session.ended_because.is_none();
        let all = self.sessions.iter().map(with_user).filter(is_open);
        all.filter(move |(_, user)| Some(user.app) == app)
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
        secret: SecretHash,
        (authenticated_at, active_at): (Time, Time),
        ended: Option<Ended>,
    ) {
        let owner = &mut self.users[user as usize];
        let session = Session {
            secret: short(&secret),
            id: id.uuid(),
            user,
            next: owner.first_session,
            authenticated_at,
            last_at: AtomicI64::new(ended.map_or(active_at, |ended| ended.at).micros()),
            ended_because: ended.map(|ended| ended.because),
            is_dirty: AtomicBool::new(false),
        };
        let at = position(self.sessions.insert(session));
        owner.first_session = at;
        self.index_session(at);
    }

    fn index_session(&mut self, at: u32) {
        let sessions = &self.sessions;
        let hash = hash_of_secret(&sessions[at as usize].secret);
        self.session_at
            .insert_unique(hash, at, |at| hash_of_secret(&sessions[*at as usize].secret));
    }

    /// A new authentication of a known session: new secret, new times, no end. The old secret is
    /// unknown from here on.
    pub(super) fn renew_session(&mut self, at: u32, secret: SecretHash, now: Time) {
        let hash = hash_of_secret(&self.sessions[at as usize].secret);
        if let Ok(found) = self.session_at.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        let session = &mut self.sessions[at as usize];
        session.secret = short(&secret);
        session.authenticated_at = now;
        *session.last_at.get_mut() = now.micros();
        session.ended_because = None;
        self.index_session(at);
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

    pub(super) fn session_mut(&mut self, at: u32) -> &mut Session {
        &mut self.sessions[at as usize]
    }

    /// When it was last active; none when its end is written.
    pub(super) fn active_at(&self, at: u32) -> Option<Time> {
        let session = &self.sessions[at as usize];
        session.ended_because.is_none().then(|| session.last_at())
    }

    /// The decision on one session.
    pub(super) fn judge(&self, at: u32, now: Time) -> Checked {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let app = &self.apps[user.app as usize];
        let facts = (session.authenticated_at, session.last_at(), session.ended());
        Checked {
            app: app.id,
            user: UserId::from_uuid(user.id),
            session: SessionId::from_uuid(session.id),
            authenticated_at: session.authenticated_at,
            verdict: self.verdict(user, facts, now),
        }
    }

    /// Every end that is known of a session, the earliest first, each with the policy that asks for
    /// it; and the app's longest age that holds now.
    pub(super) fn explain(&self, at: u32) -> Explained {
        let session = &self.sessions[at as usize];
        let user = &self.users[session.user as usize];
        let rules = &self.apps[user.app as usize].rules;
        let (names, eras): (Vec<_>, Vec<_>) = self.rules_of(user, rules).unzip();
        let facts = Facts {
            authenticated_at: session.authenticated_at,
            active_at: session.last_at(),
            ended: session.ended(),
            expires_at: None,
            user_ended: user.ended,
            cut_offs: &self.cut_offs(user),
            eras: &eras,
        };
        let mut ends: Vec<KnownEnd> = Vec::new();
        let written = facts.ended.map(|ended| KnownEnd { ended, policy: None });
        ends.extend(written);
        each_end(&facts, |ended, place| {
            let policy = place.and_then(|place| names[place]).map(|policy| policy.name.clone());
            ends.push(KnownEnd { ended, policy });
        });
        let first = usize::from(facts.ended.is_some());
        ends[first..].sort_by_key(|end| end.ended.at);
        let open = eras.iter().filter(|era| era.until.is_none());
        let max_age = open.filter_map(|era| era.limits.max_age).min();
        Explained { ends, max_age, active_at: session.last_at() }
    }

    /// The limits of the app's settings, then those of its policies that are about the user. A
    /// policy for a group is about its members from the moment on at which they joined.
    pub(super) fn rules_of<'a>(
        &'a self,
        user: &'a User,
        rules: &'a [Rule],
    ) -> impl Iterator<Item = (Option<&'a Policy>, Era)> {
        let app = &self.apps[user.app as usize];
        let id = UserId::from_uuid(user.id);
        let of_policies = rules.iter().filter_map(move |rule| {
            if rule.users.as_ref().is_some_and(|users| !users.contains(&id)) {
                return None;
            }
            let mut era = rule.era;
            if let Some(groups) = &rule.groups {
                let mine = user.groups.iter().filter(|place| groups.contains(&place.group));
                era.from = era.from.max(mine.map(|place| place.since).min()?);
            }
            Some((Some(&rule.policy), era))
        });
        app.eras.iter().map(|era| (None, *era)).chain(of_policies)
    }

    /// As `rules_of`, without a copy where there are no policies.
    fn eras_of(&self, user: &User) -> Cow<'_, [Era]> {
        let app = &self.apps[user.app as usize];
        if app.rules.is_empty() {
            return Cow::Borrowed(&app.eras);
        }
        Cow::Owned(self.rules_of(user, &app.rules).map(|(_, era)| era).collect())
    }

    /// The decision on a session of this user that would be made now.
    pub(super) fn judge_user(&self, user: UserId, now: Time) -> Option<Verdict> {
        let user = &self.users[self.user(user)? as usize];
        Some(self.verdict(user, (now, now, None), now))
    }

    /// The decision on an authentication token of this user.
    pub(super) fn judge_enrolment(
        &self,
        user: UserId,
        (created_at, expires_at): (Time, Time),
        ended: Option<Ended>,
        now: Time,
    ) -> Option<Verdict> {
        let user = &self.users[self.user(user)? as usize];
        let facts = Facts {
            authenticated_at: created_at,
            active_at: created_at,
            ended,
            expires_at: Some(expires_at),
            user_ended: user.ended,
            cut_offs: &self.cut_offs(user),
            eras: &[],
        };
        Some(decide(&facts, now))
    }

    fn verdict(
        &self,
        user: &User,
        (authenticated_at, active_at, ended): (Time, Time, Option<Ended>),
        now: Time,
    ) -> Verdict {
        let facts = Facts {
            authenticated_at,
            active_at,
            ended,
            expires_at: None,
            user_ended: user.ended,
            cut_offs: &self.cut_offs(user),
            eras: &self.eras_of(user),
        };
        decide(&facts, now)
    }

    pub(super) fn cut_offs(&self, user: &User) -> [(CutOffKind, Time); 4] {
        let app = &self.apps[user.app as usize];
        let groups = user.groups.iter();
        let group = groups.map(|place| self.groups[place.group as usize].not_before).max();
        [
            (CutOffKind::Everyone, self.everyone_not_before),
            (CutOffKind::App, app.not_before),
            (CutOffKind::Group, group.unwrap_or(Time::ZERO)),
            (CutOffKind::User, user.not_before),
        ]
    }

    /// Notes that the session was used; answers whether it must be queued for the next flush.
    pub(super) fn note_activity(&self, at: u32, now: Time) -> bool {
        let session = &self.sessions[at as usize];
        session.last_at.fetch_max(now.micros(), Ordering::Relaxed);
        !session.is_dirty.swap(true, Ordering::Relaxed)
    }

    pub(super) fn take_activity(&self, taken: &[u32]) -> Activity {
        let sessions = taken.iter().filter_map(|at| {
            let session = self.sessions.get(*at as usize)?;
            session.is_dirty.store(false, Ordering::Relaxed);
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

    pub(super) fn valid_tokens(&self, kind: TokenKind, now: Time) -> usize {
        let is_valid =
            |token: &&Token| token.kind == kind && decide(&token.facts(), now).is_valid();
        self.tokens.values().filter(is_valid).count()
    }

    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.users.len(), self.apps.len())
    }

    pub(super) fn picture(&self, now: Time) -> Picture {
        let mut lines = BTreeMap::new();
        lines.insert("everyone".into(), format!("{:?}", self.everyone_not_before));
        for app in &self.apps {
            let line = format!("{:?} {:?}", app.not_before, app.eras);
            lines.insert(format!("app {}", app.id), line);
            for rule in &app.rules {
                let key = format!("policy {} {} {:?}", app.id, rule.policy.name, rule.era.from);
                lines.insert(key, format!("{:?} {:?}", rule.policy, rule.era));
            }
        }
        for group in &self.groups {
            let app = self.apps[group.app as usize].id;
            let line = format!("{:?}", group.not_before);
            lines.insert(format!("group {app} {}", group.name), line);
        }
        for (_, user) in &self.users {
            let mut groups: Vec<(&str, Time)> = user
                .groups
                .iter()
                .map(|place| (self.groups[place.group as usize].name.as_str(), place.since))
                .collect();
            groups.sort_unstable();
            let line = format!("{:?} {:?} {groups:?}", user.ended, user.not_before);
            lines.insert(format!("user {}", user.id), line);
        }
        for (at, session) in &self.sessions {
            let (checked, active) = (self.judge(position(at), now), self.active_at(position(at)));
            let secret = hex(&session.secret);
            let line = format!("{checked:?} {active:?} {:?} {secret}", session.ended());
            lines.insert(format!("session {}", session.id), line);
        }
        for (secret, token) in &self.tokens {
            let line = format!("{} {:?} {:?}", token.name, token.scopes, token.facts());
            lines.insert(format!("token {secret:?}"), line);
        }
        Picture { lines }
    }
}

impl App {
    /// From now on these limits hold instead of the ones before.
    pub(super) fn add_era(&mut self, from: Time, limits: Limits) {
        if let Some(last) = self.eras.last_mut() {
            last.until = Some(from);
        }
        self.eras.push(Era { from, until: None, limits });
    }
}

/// Positions fit 32 bits: four billion rows would not fit any memory.
fn position(at: usize) -> u32 {
    u32::try_from(at).expect("fewer than 2^32 rows are in memory")
}
