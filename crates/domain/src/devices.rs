//! Devices: how a session begins, what a device is told, how its activity is noted.

use std::net::IpAddr;

use serde_json::Value;

use crate::access::{Assurance, Because, Methods, Traits, Verdict, platform};
use crate::apps::{self, Settings, selectors};
use crate::ledger::{Change, Subject};
use crate::live::{Checked, Explained, SignIn};
use crate::sessions;
use crate::store::{Db, Row, Tx, args};
use crate::users;
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, SessionId, UserId};
use crate::values::secret::{Secret, SecretHash, SecretKind, kind_of_secret};
use crate::values::time::{Span, Time};

/// How long an authentication token can be used, unless the caller says otherwise (contract, 2).
pub const ENROLMENT_LIFE: Span = Span::minutes(10);
/// A token that waits longer than a day was not meant for one sign-in.
const ENROLMENT_LIFE_MAX: Span = Span::days(1);
const DEVICE_ID_CHARS_MAX: usize = 200;
const LABEL_CHARS_MAX: usize = 200;
/// SQLite has one writer: a batch of this size holds it for a few milliseconds.
const FLUSH_ROWS_MAX: usize = 500;
/// The time to bind arguments grows with their square: a few statements are cheaper than one.
const FLUSH_ROWS_A_STATEMENT: usize = 50;

/// What a device tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Its own id, the same at every enrolment.
    pub id: String,
    /// What the user calls it.
    pub label: Option<String>,
    /// The app container: `version`, `bundle_id`, `platform`.
    pub container: Option<Value>,
    /// The runtime: `version`.
    pub runtime: Option<Value>,
    /// The address that it signs in from.
    pub address: Option<IpAddr>,
}

/// A session that has just begun.
#[derive(Debug)]
pub struct Enrolled {
    /// Whose it is.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// Its secret, shown this once.
    pub secret: Secret,
}

/// How the app's backend had the user prove who they are, before it asks for a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof {
    /// By which methods.
    pub methods: Methods,
    /// How surely.
    pub assurance: Option<Assurance>,
}

/// Issues a one-use authentication token with which one device can enrol for this user.
pub async fn issue(
    tx: &mut Tx,
    app: AppId,
    user: UserId,
    life: Option<Span>,
    proof: Proof,
) -> Result<(Secret, Time)> {
    tx.refuse_task()?;
    let life = life.unwrap_or(ENROLMENT_LIFE);
    if life < Span::seconds(1) || life > ENROLMENT_LIFE_MAX {
        return Err(Error::invalid("expires_in", "must be between \"1s\" and \"1d\""));
    }
    users::find(tx, app, user).await?;
    let (secret, now) = (Secret::mint(SecretKind::Enrolment), tx.now());
    let Proof { methods, assurance } = proof;
    let traits = Traits { platform: None, methods, assurance };
    let expires_at = now + life;
    if let Verdict::Ended(ended) = tx.live().may_sign_in(user, now)? {
        let what = match ended.because {
            Because::UserLocked => "unlock the user first",
            _ => "no sign-in can succeed",
        };
        return Err(Error::Conflict(format!("{}: {what}", ended.because)));
    }
    tx.change(
        "insert into enrolments (hash, user_id, created_at, expires_at, traits)
         values ($1, $2, $3, $4, $5)",
        args![secret.hash(), user, now, expires_at, traits.to_string()],
    )
    .await?;
    let change = Change::EnrolmentIssued { secret_sha256: secret.hash(), expires_at };
    tx.record(Subject::user(app, user), None, change);
    Ok((secret, expires_at))
}

/// Uses an authentication token up and begins a session on the device. A device that is known
/// keeps its session id; its old secret is dead. The user proved who they are when the token was
/// issued: from then on the session's time counts. What would be refused at the first check is not
/// begun, and the token stays.
pub async fn enroll(tx: &mut Tx, app: AppId, token: &str, device: Device) -> Result<Enrolled> {
    check_device(&device)?;
    let settings = apps::find(tx, app).await?.settings;
    let (user, authenticated_at, proof) = use_up(tx, app, token).await?;
    let known = known(tx, user, &device.id).await?;
    let device = device.with(known.as_ref());
    let traits = Traits { platform: device.platform(), ..proof };
    let patterns = tx.live().patterns(app)?;
    let label = device.label.as_deref().unwrap_or_default();
    let labels: Vec<String> = selectors::fitting(&patterns, label).cloned().collect();
    let now = tx.now();
    let known_session = known.as_ref().map(|known| known.session);
    let begun =
        SignIn { user, known: known_session, traits: &traits, labels: &labels, authenticated_at };
    tx.live().judge_sign_in(&begun, now)?.require()?;
    let secret = Secret::mint(SecretKind::Session);
    let mut replaced = Vec::new();
    let session = match known {
        Some(Known { session, .. }) => {
            // It takes another place among the user's: what was too many stays so.
            replaced = sessions::write_down(tx, user).await?;
            replaced.retain(|ended| ended.session != session);
            renew(tx, session, (&secret, &traits, authenticated_at), &device).await?
        }
        None => begin(tx, user, (&secret, &traits, authenticated_at), &device).await?,
    };
    replaced.extend(make_room(tx, user, session, &settings).await?);
    let change = Change::SessionEnrolled {
        session,
        device: device.id,
        secret_sha256: secret.hash(),
        traits,
        authenticated_at: Some(authenticated_at),
        replaced,
        labels,
    };
    tx.record(Subject::user(app, user), None, change);
    Ok(Enrolled { user, session, secret })
}

/// Signs a known device in again, as if its user had proved themselves by these methods beside
/// those of the last time. For rehearsals on a copy of the store.
pub async fn sign_in_again(
    tx: &mut Tx,
    app: AppId,
    (user, session): (UserId, SessionId),
    methods: Methods,
) -> Result<()> {
    let sql = "select device_id, traits from sessions where id = $1 and user_id = $2";
    let row = tx.first(sql, args![session, user]).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("session {session}")))?;
    let last: Traits = row.parsed(1)?;
    let proof = Proof { methods: last.methods.and(methods), assurance: last.assurance };
    let (token, _) = issue(tx, app, user, None, proof).await?;
    let device = Device { id: row.text(0)?, ..Device::default() };
    enroll(tx, app, token.reveal(), device).await.map(|_| ())
}

/// What stands in the way of a sign-in of this user.
pub fn may_sign_in(tx: &Tx, user: UserId) -> Result<Verdict> {
    tx.live().may_sign_in(user, tx.now())
}

/// A device that signed in before.
struct Known {
    session: SessionId,
    label: Option<String>,
    container: Option<Value>,
    runtime: Option<Value>,
}

async fn known(tx: &mut Tx, user: UserId, device: &str) -> Result<Option<Known>> {
    let sql = "select id, label, container, runtime from sessions
               where user_id = $1 and device_id = $2";
    let row = tx.first(sql, args![user, device]).await?;
    let known = |row: Row| {
        Ok(Known {
            session: row.parsed(0)?,
            label: row.text_or_null(1)?,
            container: row.json_or_null(2)?,
            runtime: row.json_or_null(3)?,
        })
    };
    row.map(known).transpose()
}

impl Device {
    /// What it does not tell is what it told last.
    fn with(self, known: Option<&Known>) -> Self {
        Self {
            id: self.id,
            label: self.label.or_else(|| known.and_then(|known| known.label.clone())),
            container: self.container.or_else(|| known.and_then(|known| known.container.clone())),
            runtime: self.runtime.or_else(|| known.and_then(|known| known.runtime.clone())),
            address: self.address,
        }
    }

    fn platform(&self) -> Option<String> {
        platform(self.container.as_ref()?.get("platform")?.as_str()?)
    }
}

/// Ends the sessions for which there is no room beside the new one, or refuses it.
async fn make_room(
    tx: &mut Tx,
    user: UserId,
    new: SessionId,
    settings: &Settings,
) -> Result<Vec<crate::ledger::EndedSession>> {
    let now = tx.now();
    let room = tx.live().room(user, now)?;
    if !settings.multiple_devices_per_user {
        // Who is to be refused is not let in by putting the others out.
        if let Some(room) = &room {
            sessions::surplus(tx, user, new, room).await?;
        }
        return sessions::end_others(tx, user, Some(new), Because::Replaced).await;
    }
    let Some(room) = room else { return Ok(Vec::new()) };
    sessions::end_surplus(tx, user, new, room).await
}

/// For whom and when the token was issued, and what was proved, if the decision lets it be used.
async fn use_up(tx: &mut Tx, app: AppId, token: &str) -> Result<(UserId, Time, Traits)> {
    if kind_of_secret(token) != Some(SecretKind::Enrolment) {
        return Err(Error::SignInAgain(Because::Unknown));
    }
    let hash = SecretHash::of(token);
    let row = tx
        .first(
            "select e.user_id, e.created_at, e.expires_at, e.ended_at, e.ended_by, e.traits
             from enrolments e join users u on u.id = e.user_id
             where e.hash = $1 and u.app_id = $2",
            args![hash, app],
        )
        .await?;
    let row = row.ok_or(Error::SignInAgain(Because::Unknown))?;
    let (user, issued_at, now) = (row.parsed(0)?, row.time(1)?, tx.now());
    let verdict = tx.live().judge_enrolment(
        user,
        (issued_at, row.time(2)?),
        crate::live::written_end(&row, 3)?,
        now,
    )?;
    verdict.require()?;
    tx.change(
        "update enrolments set ended_at = $1, ended_by = $2 where hash = $3",
        args![now, Because::Used.name(), hash],
    )
    .await?;
    Ok((user, issued_at, row.parsed(5)?))
}

async fn begin(
    tx: &mut Tx,
    user: UserId,
    (secret, traits, authenticated_at): (&Secret, &Traits, Time),
    device: &Device,
) -> Result<SessionId> {
    let (id, now) = (SessionId::mint(), tx.now());
    tx.change(
        "insert into sessions (id, user_id, device_id, state, secret_hash, created_at,
         authenticated_at, connected_at, label, container, runtime, traits, address)
         values ($1, $2, $3, 'ENROLLED', $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        args![
            id,
            user,
            &device.id,
            secret.hash().to_string(),
            now,
            authenticated_at,
            now,
            device.label.clone(),
            json(device.container.as_ref()),
            json(device.runtime.as_ref()),
            traits.to_string(),
            device.address.map(|address| address.to_string())
        ],
    )
    .await?;
    Ok(id)
}

async fn renew(
    tx: &mut Tx,
    id: SessionId,
    (secret, traits, authenticated_at): (&Secret, &Traits, Time),
    device: &Device,
) -> Result<SessionId> {
    let now = tx.now();
    tx.change(
        "update sessions set state = 'ENROLLED', secret_hash = $1, authenticated_at = $2,
         connected_at = $3, ended_at = null, ended_by = null, ended_policy = null, label = $4,
         container = $5, runtime = $6, traits = $7, address = $8, warned_at = null,
         warned_end = null where id = $9",
        args![
            secret.hash().to_string(),
            authenticated_at,
            now,
            device.label.clone(),
            json(device.container.as_ref()),
            json(device.runtime.as_ref()),
            traits.to_string(),
            device.address.map(|address| address.to_string()),
            id
        ],
    )
    .await?;
    Ok(id)
}

fn json(value: Option<&Value>) -> Option<String> {
    value.map(Value::to_string)
}

fn check_device(device: &Device) -> Result<()> {
    let chars = device.id.chars().count();
    if chars == 0 || chars > DEVICE_ID_CHARS_MAX || device.id.chars().any(char::is_control) {
        let why = format!("must have 1 to {DEVICE_ID_CHARS_MAX} characters, none a control");
        return Err(Error::invalid("device.id", why));
    }
    let label = device.label.as_deref().unwrap_or_default();
    if label.chars().count() > LABEL_CHARS_MAX || label.contains('\0') {
        return Err(Error::invalid("label", format!("at most {LABEL_CHARS_MAX} characters")));
    }
    Ok(())
}

/// Judges a device's session token: the whole path of a check. It touches no disk.
pub fn check(db: &Db, token: &str) -> Result<Option<Checked>> {
    if kind_of_secret(token) != Some(SecretKind::Session) {
        return Ok(None);
    }
    db.live().check(&SecretHash::of(token), db.now())
}

/// Why the session of a device's token ends when it does: for those who were refused.
pub fn explain(db: &Db, token: &str) -> Result<Option<Explained>> {
    db.live().explain(&SecretHash::of(token), db.now())
}

/// Writes down one batch of what Live noted: sessions' activity and tokens' last use. Answers
/// whether there may be more. What is lost on the way can only shorten access.
pub async fn flush_activity(db: &Db) -> Result<bool> {
    let activity = db.live().take_activity(FLUSH_ROWS_MAX)?;
    let (sessions, tokens) = (activity.sessions.len(), activity.tokens.len());
    if sessions + tokens == 0 {
        return Ok(false);
    }
    let mut tx = db.write(crate::ledger::By::System).await?;
    for some in activity.sessions.chunks(FLUSH_ROWS_A_STATEMENT) {
        // `values` names its columns alike on both databases.
        let rows = (1..=some.len()).map(|row| format!("(${}, ${})", 2 * row - 1, 2 * row));
        let sql = format!(
            "update sessions set connected_at = noted.column2 from (values {}) as noted
             where sessions.id = noted.column1 and sessions.connected_at < noted.column2",
            rows.collect::<Vec<_>>().join(", ")
        );
        let args = some.iter().flat_map(|(id, at)| args![*id, *at]).collect();
        tx.change_of(sql, args).await?;
    }
    for (id, at) in activity.tokens {
        tx.change("update tokens set used_at = $1 where id = $2", args![at, id]).await?;
    }
    let change = Change::ActivityNoted { sessions: sessions as u64, tokens: tokens as u64 };
    tx.record(Subject::none(), None, change);
    tx.commit().await?;
    Ok(sessions == FLUSH_ROWS_MAX)
}
