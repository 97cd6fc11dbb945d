//! API tokens and the operator's: what a program may do. A token's secret is shown once; what is
//! stored is its hash. Whether a token is valid is decided by `access`, from Live.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::apps::check_name;
use crate::ledger::{Change, Subject};
use crate::store::{Read, Row, Tx, args};
use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, TokenId};
use crate::values::secret::{Secret, SecretKind};
use crate::values::time::{Span, Time};

/// The most tokens on one page.
pub const PAGE_ROWS_MAX: i64 = 1_000;
/// Ten years: a token that is to live longer had better be renewed.
const LIFE_MAX: Span = Span::days(3_660);

/// What kind of token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// The operator's: all apps.
    Operator,
    /// A program's: one app.
    Api,
    /// A task run's: one app, as long as the run.
    Run,
}

/// One thing that a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of NAMES say it; docs/guide/tokens.md explains each")]
pub enum Scope {
    UsersRead,
    UsersWrite,
    SessionsEnd,
    LedgerRead,
    TasksRead,
    TasksWrite,
    TasksRun,
    AppAdmin,
    Operator,
    /// For tasks alone, and given by the operator alone.
    UsersUnlock,
}

impl Scope {
    /// Every scope there is, with its name in the API.
    pub const NAMES: [(Self, &'static str); 10] = [
        (Self::UsersRead, "users:read"),
        (Self::UsersWrite, "users:write"),
        (Self::SessionsEnd, "sessions:end"),
        (Self::LedgerRead, "ledger:read"),
        (Self::TasksRead, "tasks:read"),
        (Self::TasksWrite, "tasks:write"),
        (Self::TasksRun, "tasks:run"),
        (Self::AppAdmin, "app:admin"),
        (Self::Operator, "operator"),
        (Self::UsersUnlock, "users:unlock"),
    ];

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The scope's name in the API.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// A set of scopes. In JSON an array of names, in rows the names with commas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Whether this set allows `scope`: by itself, or through `app:admin` or `operator`.
    pub fn allow(self, scope: Scope) -> bool {
        let is_apart = matches!(scope, Scope::Operator | Scope::UsersUnlock);
        let by_admin = !is_apart && self.has(Scope::AppAdmin);
        self.has(scope) || by_admin || self.has(Scope::Operator)
    }

    /// Whether everything in `other` is allowed by this set.
    pub fn cover(self, other: Self) -> bool {
        Scope::NAMES.iter().all(|(scope, _)| !other.has(*scope) || self.allow(*scope))
    }

    /// The set with one more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether nothing is allowed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in a fixed order.
    pub fn names(self) -> Vec<&'static str> {
        let has = Scope::NAMES.iter().filter(|(scope, _)| self.has(*scope));
        has.map(|(_, name)| *name).collect()
    }

    /// Reads names as a caller gives them.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self> {
        names.iter().try_fold(Self::default(), |scopes, name| {
            let found = Scope::NAMES.iter().find(|(_, known)| *known == name.as_ref());
            let (scope, _) = found.ok_or_else(|| {
                let known: Vec<&str> = Scope::NAMES.iter().map(|(_, name)| *name).collect();
                let why = format!("{:?} is no scope; known: {}", name.as_ref(), known.join(", "));
                Error::invalid("scopes", why)
            })?;
            Ok(scopes.with(*scope))
        })
    }

    const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl FromStr for Scopes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names: Vec<&str> = text.split(',').filter(|name| !name.is_empty()).collect();
        Self::from_names(&names)
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::from_names(&names).map_err(serde::de::Error::custom)
    }
}

/// A token as it can be shown again: without its secret.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Its name, for people and for the ledger.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was created.
    pub created_at: Time,
    /// Its own end.
    pub expires_at: Option<Time>,
    /// When it was last used, as far as it was written down.
    pub used_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

/// Creates a token and answers its secret, which is never shown again. Without an app it is the
/// operator's.
pub async fn create(
    tx: &mut Tx,
    app: Option<AppId>,
    name: &str,
    scopes: Scopes,
    life: Option<Span>,
) -> Result<(Token, Secret)> {
    check_name(name)?;
    if scopes.is_empty() || (scopes.has(Scope::Operator) != app.is_none()) {
        let why = "must name at least one scope of an app, such as \"users:read\"";
        return Err(Error::invalid("scopes", why));
    }
    if scopes.has(Scope::UsersUnlock) {
        let why = "users:unlock is for tasks, to which the operator grants it";
        return Err(Error::invalid("scopes", why));
    }
    if life.is_some_and(|life| life < Span::seconds(1) || life > LIFE_MAX) {
        return Err(Error::invalid("expires_in", "must be between \"1s\" and \"3660d\""));
    }
    let kind = if app.is_some() { SecretKind::Api } else { SecretKind::Operator };
    let secret = Secret::mint(kind);
    let token = Token {
        id: TokenId::mint(),
        name: name.to_owned(),
        scopes,
        created_at: tx.now(),
        expires_at: life.map(|life| tx.now() + life),
        used_at: None,
        revoked_at: None,
    };
    tx.change(
        "insert into tokens (id, app_id, name, scopes, hash, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        args![
            token.id,
            app,
            name,
            scopes.to_string(),
            secret.hash(),
            token.created_at,
            token.expires_at
        ],
    )
    .await?;
    let change = Change::TokenCreated {
        token: token.id,
        name: token.name.clone(),
        scopes,
        secret_sha256: secret.hash(),
        expires_at: token.expires_at,
    };
    tx.record(Subject { app, user: None }, None, change);
    Ok((token, secret))
}

/// Revokes a token of an app. Revoking it again changes nothing.
pub async fn revoke(tx: &mut Tx, app: AppId, id: TokenId) -> Result<()> {
    let sql = "select hash, revoked_at from tokens where id = $1 and app_id = $2";
    let row = tx.first(sql, args![id, app]).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("token {id}")))?;
    if row.time_or_null(1)?.is_some() {
        return Ok(());
    }
    let now = tx.now();
    tx.change("update tokens set revoked_at = $1 where id = $2", args![now, id]).await?;
    let change = Change::TokenRevoked { token: id, secret_sha256: row.hash(0)? };
    tx.record(Subject::app(app), None, change);
    Ok(())
}

/// One page of an app's tokens, oldest first, and how many there are in all.
pub async fn page(read: &mut Read, app: AppId, limit: i64, skip: i64) -> Result<(Vec<Token>, i64)> {
    let total = read.count("select count(*) from tokens where app_id = $1", args![app]).await?;
    let rows = read
        .rows(
            "select id, name, scopes, created_at, expires_at, used_at, revoked_at from tokens
             where app_id = $1 order by created_at, id limit $2 offset $3",
            args![app, limit.clamp(0, PAGE_ROWS_MAX), skip],
        )
        .await?;
    let tokens: Result<Vec<Token>> = rows.iter().map(token).collect();
    Ok((tokens?, total))
}

/// Whether an operator's token exists: whether the store was initialised.
pub fn has_operator(read: &Read) -> Result<bool> {
    Ok(read.live().valid_tokens(TokenKind::Operator, read.now())? > 0)
}

fn token(row: &Row) -> Result<Token> {
    Ok(Token {
        id: row.parsed(0)?,
        name: row.text(1)?,
        scopes: row.parsed(2)?,
        created_at: row.time(3)?,
        expires_at: row.time_or_null(4)?,
        used_at: row.time_or_null(5)?,
        revoked_at: row.time_or_null(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_written_by_name() {
        let scopes = Scopes::from_names(&["users:read", "sessions:end"]).expect("known");
        assert_eq!(scopes.to_string(), "users:read,sessions:end");
        assert_eq!(scopes.to_string().parse::<Scopes>().expect("known"), scopes);
        assert!(Scopes::from_names(&["users:all"]).is_err());
        for (at, (scope, name)) in Scope::NAMES.into_iter().enumerate() {
            assert_eq!((scope as usize, scope.name()), (at, name));
        }
    }

    #[test]
    fn an_admin_may_all_of_its_app_but_is_no_operator() {
        let admin = Scopes::default().with(Scope::AppAdmin);
        let reader = Scopes::default().with(Scope::UsersRead);
        let operator = Scopes::default().with(Scope::Operator);
        for (scope, _) in Scope::NAMES {
            let is_apart = matches!(scope, Scope::Operator | Scope::UsersUnlock);
            assert_eq!(admin.allow(scope), !is_apart);
            assert_eq!(reader.allow(scope), scope == Scope::UsersRead);
            assert!(operator.allow(scope));
        }
        assert!(admin.cover(reader) && !reader.cover(admin) && operator.cover(admin));
    }
}
