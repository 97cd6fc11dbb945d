//! One error enum of kinds. The server turns it into an answer in one place and logs it once there.

use crate::access::Because;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The named thing is not there.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for, with its id.
        what: String,
    },
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// A value is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// The field's name as the caller wrote it.
        field: String,
        /// What is wrong and what is wanted.
        why: String,
    },
    /// The credential may not be used now: the user must sign in again.
    #[error("sign in again: {0}")]
    SignInAgain(Because),
    /// The credential is good, but not for this.
    #[error("{0}")]
    Denied(String),
    /// We cannot prove that an answer would be true; try again later.
    #[error("{0}")]
    Unavailable(String),
    /// What is stored cannot be read, so nothing can be known that depends on it.
    #[error("{0}")]
    Unreadable(String),
    /// A change of which nobody knows whether it holds. The text is for the log.
    #[error("{0}")]
    InDoubt(String),
    /// Too much at once; try again after the given seconds.
    #[error("{why}")]
    Busy {
        /// What is full.
        why: String,
        /// When trying again makes sense.
        retry_after_s: u32,
    },
    /// A defect, or a database that failed. The text is for the log, not for the caller.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The named thing is not there.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// A field is wrong.
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), why: why.into() }
    }
}

impl From<sqlx::Error> for Error {
    /// A database that cannot be reached, or is full, is unavailable: the same request may succeed
    /// later. All else is a defect.
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(_) if !is_passing(&error) => {
                Self::Internal(format!("database: {error}"))
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Internal(format!("unreadable row: {error}"))
            }
            _ => Self::Unavailable(format!("database: {error}")),
        }
    }
}

/// Disk full, read-only, busy, I/O error (SQLite) or shutting down (PostgreSQL class 57, 53, 08).
fn is_passing(error: &sqlx::Error) -> bool {
    let code =
        error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite: the low byte is the primary result code.
        Ok(number) if code.len() <= 4 => matches!(number & 0xff, 5 | 6 | 8 | 10 | 13 | 14),
        _ => ["57", "53", "08"].iter().any(|class| code.starts_with(class)),
    }
}

/// The answer of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
