//! What goes into a statement and what comes out of it. Values travel only as arguments.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite};

use crate::values::error::{Error, Result};
use crate::values::ids::{AppId, RunId, SessionId, TokenId, UserId};
use crate::values::secret::SecretHash;
use crate::values::time::{Span, Time};

/// One argument of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Int(Option<i64>),
    Number(Option<f64>),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

/// The arguments of a statement, in the order of `$1`, `$2`…
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::Arg::from($value)),*] };
}
pub(crate) use args;

macro_rules! arg_from {
    ($($from:ty => |$value:ident| $arg:expr),+ $(,)?) => {$(
        impl From<$from> for Arg {
            fn from($value: $from) -> Self { $arg }
        }
    )+};
}

arg_from! {
    i64 => |value| Self::Int(Some(value)),
    Option<i64> => |value| Self::Int(value),
    bool => |value| Self::Int(Some(i64::from(value))),
    Time => |value| Self::Int(Some(value.micros())),
    Option<Time> => |value| Self::Int(value.map(Time::micros)),
    Option<Span> => |value| Self::Int(value.map(Span::micros)),
    Option<f64> => |value| Self::Number(value),
    &str => |value| Self::Text(Some(value.to_owned())),
    String => |value| Self::Text(Some(value)),
    &String => |value| Self::Text(Some(value.clone())),
    Option<String> => |value| Self::Text(value),
    Option<&str> => |value| Self::Text(value.map(str::to_owned)),
    AppId => |value| Self::Text(Some(value.to_string())),
    Option<AppId> => |value| Self::Text(value.map(|id| id.to_string())),
    UserId => |value| Self::Text(Some(value.to_string())),
    Option<UserId> => |value| Self::Text(value.map(|id| id.to_string())),
    SessionId => |value| Self::Text(Some(value.to_string())),
    TokenId => |value| Self::Text(Some(value.to_string())),
    RunId => |value| Self::Text(Some(value.to_string())),
    SecretHash => |value| Self::Bytes(value.bytes().to_vec()),
    [u8; 32] => |value| Self::Bytes(value.to_vec()),
}

/// One row of an answer, read by position.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $at:expr, $type:ty) => {
        match $row {
            Row::Sqlite(row) => row.try_get::<$type, usize>($at),
            Row::Postgres(row) => row.try_get::<$type, usize>($at),
        }
        .map_err(Error::from)
    };
}

impl Row {
    pub(crate) fn int(&self, at: usize) -> Result<i64> {
        column!(self, at, i64)
    }

    pub(crate) fn int_or_null(&self, at: usize) -> Result<Option<i64>> {
        column!(self, at, Option<i64>)
    }

    pub(crate) fn text(&self, at: usize) -> Result<String> {
        column!(self, at, String)
    }

    pub(crate) fn text_or_null(&self, at: usize) -> Result<Option<String>> {
        column!(self, at, Option<String>)
    }

    pub(crate) fn bytes32(&self, at: usize) -> Result<[u8; 32]> {
        let bytes = match self {
            Self::Sqlite(row) => row.try_get::<&[u8], usize>(at)?,
            Self::Postgres(row) => row.try_get::<&[u8], usize>(at)?,
        };
        bytes.try_into().map_err(|_| unreadable("a hash of 32 bytes"))
    }

    pub(crate) fn hash(&self, at: usize) -> Result<SecretHash> {
        let bytes = self.bytes32(at)?;
        SecretHash::from_bytes(&bytes).ok_or_else(|| unreadable("a hash"))
    }

    pub(crate) fn hash_or_null(&self, at: usize) -> Result<Option<SecretHash>> {
        let bytes = match self {
            Self::Sqlite(row) => row.try_get::<Option<&[u8]>, usize>(at)?,
            Self::Postgres(row) => row.try_get::<Option<&[u8]>, usize>(at)?,
        };
        let hash = |bytes: &[u8]| SecretHash::from_bytes(bytes).ok_or_else(|| unreadable("a hash"));
        bytes.map(hash).transpose()
    }

    pub(crate) fn time(&self, at: usize) -> Result<Time> {
        self.int(at).map(Time::from_micros)
    }

    pub(crate) fn time_or_null(&self, at: usize) -> Result<Option<Time>> {
        Ok(self.int_or_null(at)?.map(Time::from_micros))
    }

    pub(crate) fn span_or_null(&self, at: usize) -> Result<Option<Span>> {
        Ok(self.int_or_null(at)?.map(Span::from_micros))
    }

    /// Reads an id, or any other value with a text form, without a copy of the text.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, at: usize) -> Result<T> {
        let text = match self {
            Self::Sqlite(row) => row.try_get::<&str, usize>(at)?,
            Self::Postgres(row) => row.try_get::<&str, usize>(at)?,
        };
        text.parse().map_err(|_| unreadable(std::any::type_name::<T>()))
    }

    pub(crate) fn parsed_or_null<T: std::str::FromStr>(&self, at: usize) -> Result<Option<T>> {
        match self.text_or_null(at)? {
            None => Ok(None),
            Some(_) => self.parsed(at).map(Some),
        }
    }

    /// Reads a JSON column.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, at: usize) -> Result<T> {
        serde_json::from_str(&self.text(at)?).map_err(|e| unreadable(&format!("JSON: {e}")))
    }

    pub(crate) fn json_or_null<T: serde::de::DeserializeOwned>(
        &self,
        at: usize,
    ) -> Result<Option<T>> {
        let text = self.text_or_null(at)?;
        text.map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|e| unreadable(&format!("JSON: {e}")))
    }
}

/// A row that cannot be read is a defect or a damage: nothing is decided on it.
fn unreadable(wanted: &str) -> Error {
    Error::Internal(format!("unreadable row: {wanted} is wanted"))
}

type Query<'a, DB> = sqlx::query::Query<'a, DB, <DB as sqlx::Database>::Arguments>;

pub(super) fn bind_sqlite(mut query: Query<'_, Sqlite>, args: Vec<Arg>) -> Query<'_, Sqlite> {
    for arg in args {
        query = match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Number(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        };
    }
    query
}

pub(super) fn bind_postgres(
    mut query: Query<'_, sqlx::Postgres>,
    args: Vec<Arg>,
) -> Query<'_, sqlx::Postgres> {
    for arg in args {
        query = match arg {
            Arg::Int(value) => query.bind(value),
            Arg::Number(value) => query.bind(value),
            Arg::Text(value) => query.bind(value),
            Arg::Bytes(value) => query.bind(value),
        };
    }
    query
}
