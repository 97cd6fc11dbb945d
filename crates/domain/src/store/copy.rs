//! A copy of a store to rehearse on: always an embedded one, since both databases have the same
//! tables. The original is read as it was at one moment, whether a server has it open or not.

use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection};

use super::args::{Arg, bind_sqlite};
use super::backup;
use super::connect::{Conn, Place, private_directory};
use super::migrate;
use crate::values::error::{Error, Result};

/// Copies a store into a new directory.
pub async fn copy(from: &Place, dir: &Path) -> Result<()> {
    private_directory(dir)?;
    match from {
        Place::Directory(from) => backup::copy(from, dir).await,
        Place::Postgres(url) => copy_postgres(url, dir).await,
    }
}

async fn copy_postgres(url: &str, dir: &Path) -> Result<()> {
    let mut source = PgConnection::connect(url).await?;
    let mut target = Place::Directory(dir.to_owned()).writer().await?;
    migrate::migrate(&mut target).await?;
    let Conn::Sqlite(target) = &mut target else {
        return Err(Error::Internal("a directory holds an embedded database".into()));
    };
    sqlx::query("begin isolation level repeatable read read only").execute(&mut source).await?;
    sqlx::query("begin immediate").execute(&mut *target).await?;
    // In the order in which they were made: what is referred to comes first.
    let tables = "select name from sqlite_schema where type = 'table' and name <> 'schema_version'
                  order by rowid";
    for table in sqlx::query_scalar::<_, String>(tables).fetch_all(&mut *target).await? {
        copy_table(&mut source, target, &table).await?;
    }
    sqlx::query("commit").execute(&mut *target).await?;
    source.close().await?;
    Ok(())
}

async fn copy_table(
    source: &mut PgConnection,
    target: &mut SqliteConnection,
    table: &str,
) -> Result<()> {
    let sql = "select name, lower(type) from pragma_table_info($1) order by cid";
    let columns: Vec<(String, String)> =
        sqlx::query_as(sql).bind(table).fetch_all(&mut *target).await?;
    let names = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let places = (1..=columns.len()).map(|at| format!("${at}")).collect::<Vec<_>>().join(", ");
    // Names of our own tables only.
    let insert = format!("insert into {table} ({names}) values ({places})");
    let mut rows = sqlx::query(AssertSqlSafe(format!("select {names} from {table}"))).fetch(source);
    while let Some(row) = rows.try_next().await? {
        let kinds = columns.iter().enumerate();
        let args: Result<Vec<Arg>> = kinds.map(|(at, (_, kind))| value(&row, at, kind)).collect();
        bind_sqlite(sqlx::query(AssertSqlSafe(insert.clone())), args?)
            .execute(&mut *target)
            .await?;
    }
    Ok(())
}

fn value(row: &PgRow, at: usize, kind: &str) -> Result<Arg> {
    Ok(match kind {
        "bigint" => Arg::Int(row.try_get(at)?),
        "double precision" => Arg::Number(row.try_get(at)?),
        "bytea" => Arg::Bytes(row.try_get(at)?),
        "text" => Arg::Text(row.try_get(at)?),
        other => return Err(Error::Internal(format!("a column of the type {other}"))),
    })
}
