//! The tables and their versions. An upgrade is one transaction; an old binary refuses newer ones.

use sqlx::Executor as _;

use super::connect::Conn;
use crate::values::error::{Error, Result};

/// Every version's text, oldest first. A text is never changed once it has been released.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/001_start.sql"),
    include_str!("../../migrations/002_ended_policy.sql"),
    include_str!("../../migrations/003_tasks.sql"),
    include_str!("../../migrations/004_run_tokens.sql"),
    include_str!("../../migrations/005_warned_end.sql"),
    include_str!("../../migrations/006_tasks_wait.sql"),
    include_str!("../../migrations/007_origin.sql"),
];

const CREATE_VERSION: &str = "create table if not exists schema_version (version bigint not null)";

/// Brings the tables to this binary's version.
pub(super) async fn migrate(conn: &mut Conn) -> Result<()> {
    run(conn, "begin").await?;
    match upgrade(conn).await {
        Ok(()) => run(conn, "commit").await,
        Err(error) => {
            run(conn, "rollback").await?;
            Err(error)
        }
    }
}

async fn upgrade(conn: &mut Conn) -> Result<()> {
    run(conn, CREATE_VERSION).await?;
    let found = version(conn).await?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(Error::Conflict(format!(
            "the database has version {found}, this binary knows {known}: use a newer reauth"
        )));
    }
    for text in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        run(conn, text).await?;
        run(conn, "insert into schema_version (version) select count(*) + 1 from schema_version")
            .await?;
    }
    Ok(())
}

async fn version(conn: &mut Conn) -> Result<i64> {
    let sql = "select coalesce(max(version), 0) from schema_version";
    Ok(match conn {
        Conn::Sqlite(conn) => sqlx::query_scalar(sql).fetch_one(conn).await?,
        Conn::Postgres(conn) => sqlx::query_scalar(sql).fetch_one(conn).await?,
    })
}

/// Runs a text of one or more statements without arguments.
pub(super) async fn run(conn: &mut Conn, sql: &'static str) -> Result<()> {
    match conn {
        Conn::Sqlite(conn) => conn.execute(sqlx::raw_sql(sql)).await.map(|_| ())?,
        Conn::Postgres(conn) => conn.execute(sqlx::raw_sql(sql)).await.map(|_| ())?,
    }
    Ok(())
}
