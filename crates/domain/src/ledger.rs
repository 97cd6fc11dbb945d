//! The ledger: every change, in order, without a gap, chained by SHA-256. It is the audit log, the
//! change feed and the explanation at once. It is no place for personal data: attributes are named
//! here, their values are not.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::access::{CutOffScope, Ended, Limits, Traits};
use crate::apps::Settings;
use crate::apps::policies::Policy;
use crate::apps::selectors::Found;
use crate::cutoffs::revocations::{Filter, Met};
use crate::store::{Read, Row, Tx, args};
use crate::tasks::RunState;
use crate::tokens::Scopes;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId, SessionId, TokenId, UserId, hex};
use crate::values::secret::SecretHash;
use crate::values::time::Time;

/// The version of the entries' JSON form.
const FORM: u32 = 1;
/// One page of entries is read and hashed in a few milliseconds.
pub const PAGE_ROWS_MAX: i64 = 1_000;
/// If more users have changed since something was looked at, all is looked at anew.
const AGAIN_MAX: i64 = 100;

/// Who changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum By {
    /// The operator, through the token with this id.
    Operator {
        /// The operator's token.
        id: TokenId,
    },
    /// A program, through an API token.
    Token {
        /// The API token.
        id: TokenId,
        /// Its name.
        name: String,
    },
    /// A run of a task.
    Task {
        /// The run.
        id: RunId,
        /// The task's name.
        name: String,
    },
    /// A rule of the app.
    Policy {
        /// The rule's name.
        name: String,
    },
    /// A user, on one of their devices.
    User {
        /// The user.
        id: UserId,
    },
    /// Reauth itself.
    System,
}

impl By {
    /// A task can end access, never give it: refuses what would, when a task acts.
    pub fn refuse_task(&self) -> Result<()> {
        if matches!(self, Self::Task { .. }) {
            let why = "a task can end access, never give it: let a person or a backend do this";
            return Err(Error::Denied(why.into()));
        }
        Ok(())
    }
}

/// Whom an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The app; none for what concerns the whole server.
    pub app: Option<AppId>,
    /// The user, when it concerns one.
    pub user: Option<UserId>,
}

impl Subject {
    /// The whole server.
    pub const fn none() -> Self {
        Self { app: None, user: None }
    }

    /// An app.
    pub const fn app(app: AppId) -> Self {
        Self { app: Some(app), user: None }
    }

    /// A user of an app.
    pub const fn user(app: AppId, user: UserId) -> Self {
        Self { app: Some(app), user: Some(user) }
    }
}

/// What happened. The `kind` in JSON is the name given here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[expect(missing_docs, reason = "the names say it; docs/guide/ledger.md explains each")]
pub enum Change {
    #[serde(rename = "store.created")]
    StoreCreated,
    #[serde(rename = "store.fenced")]
    StoreFenced,
    #[serde(rename = "app.created")]
    AppCreated { name: String, settings: Settings },
    #[serde(rename = "app.changed")]
    AppChanged { name: String, settings: Settings },
    #[serde(rename = "token.created")]
    TokenCreated {
        token: TokenId,
        name: String,
        scopes: Scopes,
        secret_sha256: SecretHash,
        expires_at: Option<Time>,
    },
    #[serde(rename = "token.revoked")]
    TokenRevoked { token: TokenId, secret_sha256: SecretHash },
    #[serde(rename = "user.created")]
    UserCreated {
        attributes: Vec<String>,
        #[serde(skip)]
        joined: Vec<String>,
    },
    #[serde(rename = "user.changed")]
    UserChanged {
        attributes: Vec<String>,
        ended: Vec<EndedSession>,
        #[serde(skip)]
        joined: Vec<String>,
        #[serde(skip)]
        left: Vec<String>,
    },
    #[serde(rename = "user.not_after_set")]
    UserNotAfterSet { not_after: Option<Time>, ended: Vec<EndedSession> },
    #[serde(rename = "user.deleted")]
    UserDeleted { ended: Vec<EndedSession> },
    #[serde(rename = "user.locked")]
    UserLocked { ended: Vec<EndedSession> },
    #[serde(rename = "user.unlocked")]
    UserUnlocked,
    #[serde(rename = "enrolment.issued")]
    EnrolmentIssued { secret_sha256: SecretHash, expires_at: Time },
    #[serde(rename = "session.enrolled")]
    SessionEnrolled {
        session: SessionId,
        device: String,
        secret_sha256: SecretHash,
        traits: Traits,
        /// When its user proved who they are. None in old entries: at that moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authenticated_at: Option<Time>,
        replaced: Vec<EndedSession>,
        #[serde(skip)]
        labels: Vec<String>,
    },
    #[serde(rename = "session.re_authenticate")]
    SessionReAuthenticate { session: SessionId },
    #[serde(rename = "session.wiped")]
    SessionWiped { session: SessionId },
    #[serde(rename = "session.signed_out")]
    SessionSignedOut { session: SessionId },
    #[serde(rename = "session.ended")]
    SessionEnded { session: SessionId, at: Time, because: String, policy: Option<String> },
    #[serde(rename = "session.ending_soon")]
    SessionEndingSoon {
        session: SessionId,
        #[serde(flatten)]
        warning: Warning,
    },
    #[serde(rename = "sessions.forgotten")]
    SessionsForgotten { sessions: Vec<(UserId, SessionId)>, tokens: u64 },
    #[serde(rename = "revocation.set")]
    RevocationSet {
        filter: Filter,
        wipes: bool,
        #[serde(skip)]
        met: Met,
    },
    #[serde(rename = "revocation.done")]
    RevocationDone { set_at: Time },
    #[serde(rename = "clock.jumped")]
    ClockJumped { by_s: i64 },
    #[serde(rename = "cut_off.set")]
    CutOffSet { scope: CutOffScope },
    #[serde(rename = "limits.set")]
    LimitsSet { limits: Limits, name: String, settings: Settings },
    #[serde(rename = "limits.forgotten")]
    LimitsForgotten { before: Time },
    #[serde(rename = "group.member_added")]
    GroupMemberAdded { group: String },
    #[serde(rename = "policies.set")]
    PoliciesSet {
        policies: Vec<Policy>,
        #[serde(skip)]
        found: Found,
    },
    #[serde(rename = "group.member_removed")]
    GroupMemberRemoved { group: String, ended: Vec<EndedSession> },
    #[serde(rename = "activity.noted")]
    ActivityNoted { sessions: u64, tokens: u64 },
    #[serde(rename = "task.put")]
    TaskPut { task: String, scopes: Scopes, source_sha256: SecretHash },
    #[serde(rename = "task.deleted")]
    TaskDeleted { task: String },
    #[serde(rename = "run.queued")]
    RunQueued { task: String, run: RunId, trigger: String },
    #[serde(rename = "run.started")]
    RunStarted {
        task: String,
        run: RunId,
        attempt: i64,
        scopes: Scopes,
        secret_sha256: SecretHash,
        expires_at: Time,
    },
    #[serde(rename = "run.ended")]
    RunEnded { task: String, run: RunId, state: RunState, secret_sha256: Option<SecretHash> },
    #[serde(rename = "runs.forgotten")]
    RunsForgotten { runs: u64, logs: u64 },
}

/// The end of which a session's app is warned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// When it ends by itself.
    pub ends_at: Time,
    /// The name of the reason.
    pub because: String,
    /// The policy that asks for it; none for the app's settings.
    pub policy: Option<String>,
}

/// A session that ended together with others in one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSession {
    /// The session.
    pub session: SessionId,
    /// When: the moment of the change, or before it if its time had already run out.
    pub at: Time,
    /// The name of the reason.
    pub because: String,
    /// The policy that asked for it; none for the app's settings and for what someone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

impl EndedSession {
    pub(crate) fn new(session: SessionId, ended: Ended, policy: Option<String>) -> Self {
        Self { session, at: ended.at, because: ended.because.name().to_owned(), policy }
    }
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of this form.
    pub v: u32,
    /// The place in the order: 1, 2, 3… without a gap.
    pub seq: i64,
    /// When, in microseconds since 1970: the moment of its transaction, strictly later than that of
    /// the one before. Entries of one transaction share it.
    pub at: Time,
    /// The app it is about.
    pub app: Option<AppId>,
    /// The user it is about.
    pub user: Option<UserId>,
    /// Who did it.
    pub by: By,
    /// Why, in the words of who did it.
    pub why: Option<String>,
    /// What happened.
    pub change: Change,
}

impl Entry {
    pub(crate) fn new(
        at: Time,
        subject: Subject,
        by: By,
        why: Option<String>,
        change: Change,
    ) -> Self {
        Self { v: FORM, seq: 0, at, app: subject.app, user: subject.user, by, why, change }
    }

    fn kind(&self) -> Result<String> {
        self.change.kind()
    }
}

impl Change {
    /// Its name in the ledger, such as `session.wiped`.
    pub fn kind(&self) -> Result<String> {
        let value = serde_json::to_value(self)
            .map_err(|e| Error::Internal(format!("an entry without a JSON form: {e}")))?;
        Ok(value.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned())
    }
}

/// The end of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last entry's place.
    pub seq: i64,
    /// The last entry's hash.
    pub hash: [u8; 32],
    /// The last entry's moment.
    pub at: Time,
}

impl Head {
    /// The end of a ledger without entries.
    pub const fn empty() -> Self {
        Self { seq: 0, hash: [0; 32], at: Time::ZERO }
    }

    /// The hash as hex.
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }

    /// The stored end, and the clock's floor.
    pub(crate) async fn load(read: &mut Read) -> Result<(Self, Time)> {
        let sql = "select seq, hash, at, floor_at from store_head where id = 1";
        let Some(row) = read.first(sql, args![]).await? else {
            return Ok((Self::empty(), Time::ZERO));
        };
        let head = Self { seq: row.int(0)?, hash: row.bytes32(1)?, at: row.time(2)? };
        Ok((head, row.time(3)?))
    }
}

/// The end of the ledger now.
pub async fn head(read: &mut Read) -> Result<Head> {
    Ok(Head::load(read).await?.0)
}

/// When the restore fence was raised last, and why; none if it never was.
pub async fn last_fence(read: &mut Read) -> Result<Option<(Time, String)>> {
    let sql = "select seq, at, app_id, user_id, kind, body, hash from ledger
               where kind = 'store.fenced' and app_id is null and user_id is null
               order by seq desc limit 1";
    let Some(row) = read.first(sql, args![]).await? else { return Ok(None) };
    let entry = stored(&row)?.entry;
    Ok(Some((entry.at, entry.why.unwrap_or_default())))
}

/// Gives the entry its place after `head` and writes it; answers the new end.
pub(crate) async fn append(tx: &mut Tx, head: &Head, entry: &mut Entry) -> Result<Head> {
    entry.seq = head.seq + 1;
    let body = serde_json::to_string(entry)
        .map_err(|e| Error::Internal(format!("an entry without a JSON form: {e}")))?;
    let hash = chained(&head.hash, &body);
    tx.change(
        "insert into ledger (seq, at, app_id, user_id, kind, body, hash)
         values ($1, $2, $3, $4, $5, $6, $7)",
        args![entry.seq, entry.at, entry.app, entry.user, entry.kind()?, body, hash],
    )
    .await?;
    Ok(Head { seq: entry.seq, hash, at: entry.at })
}

/// Moves the stored end, if it is still where this server left it.
pub(crate) async fn move_head(tx: &mut Tx, old: &Head, new: &Head) -> Result<()> {
    if old.seq == 0 {
        tx.change(
            "insert into store_head (id, seq, hash, at, floor_at, not_before, fence_at)
             values (1, 0, $1, 0, 0, 0, 0)",
            args![old.hash],
        )
        .await?;
    }
    let now = tx.now();
    let moved = tx
        .change(
            "update store_head set seq = $1, hash = $2, at = $3, floor_at = $4
             where id = 1 and seq = $5 and hash = $6",
            args![new.seq, new.hash, new.at, now, old.seq, old.hash],
        )
        .await?;
    if moved == 1 {
        return Ok(());
    }
    Err(Error::Unavailable("the ledger was changed by someone else".into()))
}

fn chained(previous: &[u8; 32], body: &str) -> [u8; 32] {
    Sha256::new().chain_update(previous).chain_update(body.as_bytes()).finalize().into()
}

/// Which entries are wanted. Absent means all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only entries after this place.
    pub after: i64,
    /// Only of this app.
    pub app: Option<AppId>,
    /// Only about this user.
    pub user: Option<UserId>,
    /// Only from this moment on.
    pub since: Option<Time>,
    /// How many at most; bounded by `PAGE_ROWS_MAX`.
    pub limit: i64,
}

/// An entry as it is stored: `body` holds the exact bytes that were hashed.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The entry.
    pub entry: Entry,
    /// Its kind, such as `session.wiped`.
    pub kind: String,
    /// The canonical bytes: SHA-256(previous hash ‖ body) is `hash`.
    pub body: String,
    /// The hash of the chain up to here.
    pub hash: [u8; 32],
}

impl Stored {
    /// The hash as hex.
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }
}

/// One page of entries in order, and whether there are more.
pub async fn page(read: &mut Read, wanted: Wanted) -> Result<(Vec<Stored>, bool)> {
    let limit = wanted.limit.clamp(1, PAGE_ROWS_MAX);
    let mut rows = read
        .rows(
            "select seq, at, app_id, user_id, kind, body, hash from ledger
             where seq > $1 and ($2 is null or app_id = $2) and ($3 is null or user_id = $3)
             and at >= $4 order by seq limit $5",
            args![
                wanted.after,
                wanted.app,
                wanted.user,
                wanted.since.unwrap_or(Time::ZERO),
                limit + 1
            ],
        )
        .await?;
    let more = rows.len() as i64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(0));
    let entries: Result<Vec<Stored>> = rows.iter().map(stored).collect();
    Ok((entries?, more))
}

/// The users whom entries name that may not have been seen by who looked when this was the ledger's
/// end. None: they are too many, or something has been asked of all.
pub(crate) async fn users_since(
    read: &mut Read,
    app: AppId,
    head: &Head,
) -> Result<Option<Vec<UserId>>> {
    // Live may have come up to the change before the last only: the last is one transaction.
    let sql = "select coalesce(min(seq), 0) from ledger where seq > $1 and at >= $2";
    let first = read.count(sql, args![head.seq - PAGE_ROWS_MAX, head.at]).await?;
    let of_all = "select count(*) from ledger where seq >= $1 and user_id is null
                  and (app_id = $2 or app_id is null) and kind in ('policies.set', 'limits.set',
                  'app.changed', 'cut_off.set', 'revocation.set', 'store.fenced')";
    if read.count(of_all, args![first, app]).await? > 0 {
        return Ok(None);
    }
    let sql = "select distinct user_id from ledger
               where seq >= $1 and app_id = $2 and user_id is not null limit $3";
    let rows = read.rows(sql, args![first, app, AGAIN_MAX + 1]).await?;
    let users: Result<Vec<UserId>> = rows.iter().map(|row| row.parsed(0)).collect();
    let users = users?;
    Ok((users.len() as i64 <= AGAIN_MAX).then_some(users))
}

pub(crate) fn stored(row: &Row) -> Result<Stored> {
    let body = row.text(5)?;
    let entry = serde_json::from_str(&body)
        .map_err(|e| Error::Internal(format!("unreadable ledger entry: {e}")))?;
    Ok(Stored { entry, kind: row.text(4)?, body, hash: row.bytes32(6)? })
}

/// What a stretch of the ledger was found to be.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How many entries were read.
    pub checked: i64,
    /// The last entry that is proven.
    pub through: i64,
    /// Whether entries follow that were not read yet.
    pub more: bool,
    /// The stored end of the ledger.
    pub head: Head,
    /// The first fault: where, and what is wrong.
    pub problem: Option<(i64, String)>,
}

/// Recomputes the chain for up to `limit` entries after `after`: edits, gaps and truncation show.
/// `after` is trusted to be proven already; a whole proof begins at 0.
pub async fn verify(read: &mut Read, after: i64, limit: i64) -> Result<Verified> {
    let head = Head::load(read).await?.0;
    let mut previous = match after {
        0 => Head::empty(),
        _ => at(read, after).await?.unwrap_or_else(Head::empty),
    };
    let mut state = Verified { checked: 0, through: after, more: false, head, problem: None };
    if previous.seq != after {
        state.problem = Some((after, "the entry is missing".into()));
    }
    while state.problem.is_none() && state.checked < limit {
        let rows = read
            .rows(
                "select seq, at, app_id, user_id, kind, body, hash from ledger
                 where seq > $1 order by seq limit $2",
                args![state.through, PAGE_ROWS_MAX.min(limit - state.checked)],
            )
            .await?;
        if rows.is_empty() {
            state.problem = ends_wrong(&previous, &state.head);
            return Ok(state);
        }
        for row in &rows {
            match follows(&previous, row) {
                Ok(next) => previous = next,
                Err(why) => {
                    state.problem = Some((previous.seq + 1, why));
                    return Ok(state);
                }
            }
            state.checked += 1;
            state.through = previous.seq;
        }
    }
    state.more = state.problem.is_none();
    Ok(state)
}

async fn at(read: &mut Read, seq: i64) -> Result<Option<Head>> {
    let sql = "select seq, hash, at from ledger where seq = $1";
    let Some(row) = read.first(sql, args![seq]).await? else { return Ok(None) };
    Ok(Some(Head { seq: row.int(0)?, hash: row.bytes32(1)?, at: row.time(2)? }))
}

/// The entry in `row`, if it is the honest successor of `previous`; else what is wrong with it.
fn follows(previous: &Head, row: &Row) -> Result<Head, String> {
    let unreadable = |e: Error| e.to_string();
    let seq = row.int(0).map_err(unreadable)?;
    if seq != previous.seq + 1 {
        return Err("the entry is missing".into());
    }
    let stored = stored(row).map_err(unreadable)?;
    if chained(&previous.hash, &stored.body) != stored.hash {
        return Err("the entry was edited: its hash does not follow from the one before".into());
    }
    let entry = &stored.entry;
    let at = row.time(1).map_err(unreadable)?;
    let agrees = entry.seq == seq
        && entry.at == at
        && entry.app == row.parsed_or_null(2).map_err(unreadable)?
        && entry.user == row.parsed_or_null(3).map_err(unreadable)?
        && entry.kind().map_err(unreadable)? == stored.kind;
    if !agrees {
        return Err("the entry's columns were edited: they contradict its body".into());
    }
    if at < previous.at {
        return Err("the entry is earlier than the one before".into());
    }
    Ok(Head { seq, hash: stored.hash, at })
}

/// Entries that were written while we read are no fault; entries that are missing are.
fn ends_wrong(last: &Head, head: &Head) -> Option<(i64, String)> {
    if last.seq < head.seq {
        let why = format!("the ledger was cut: its last entry must be {}", head.seq);
        return Some((last.seq + 1, why));
    }
    (last.seq == head.seq && last.hash != head.hash)
        .then(|| (last.seq, "the ledger's end was edited: its hash differs".into()))
}
