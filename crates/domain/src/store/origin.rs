//! What a store knows of where it belongs: by this a copy that is started elsewhere is noticed. It
//! explains no change of access, so no ledger entry stands for it.

use super::args::args;
use super::db::Db;
use super::tx::{Read, Tx};
use crate::ledger::By;
use crate::values::error::Result;

/// Where a store belongs. The default is one of which nothing is known: a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file in which the ledger's end was noted last, relative to the data directory or not.
    pub anchor: Option<String>,
    /// `reauth backup` made it, and nobody has restored it.
    pub is_backup: bool,
}

impl Origin {
    /// What is known.
    pub async fn load(read: &mut Read) -> Result<Self> {
        let sql = "select anchor, is_backup from store_head where id = 1";
        let Some(row) = read.first(sql, args![]).await? else { return Ok(Self::default()) };
        Ok(Self { anchor: row.text_or_null(0)?, is_backup: row.int(1)? != 0 })
    }

    /// As `store`, in a change of its own.
    pub async fn keep(&self, db: &Db) -> Result<()> {
        let mut tx = db.write(By::System).await?;
        self.store(&mut tx).await?;
        tx.commit().await.map(|_| ())
    }

    /// From now on this is known.
    pub async fn store(&self, tx: &mut Tx) -> Result<()> {
        let sql = "update store_head set anchor = $1, is_backup = $2 where id = 1";
        tx.change(sql, args![self.anchor.as_deref(), self.is_backup]).await.map(|_| ())
    }
}
