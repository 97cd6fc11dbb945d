//! Large tables come packed, a page of rows in one text: to hand over each row by itself took three
//! times as long.

use std::iter::Peekable;
use std::str::{FromStr, Split};

use tokio::sync::mpsc;

use super::{Arg, Read, args};
use crate::values::error::{Error, Result};
use crate::values::time::Time;

/// How many rows are packed into one text: some 200 KiB.
const PAGE_ROWS: i64 = 1_000;
/// How far reading may be ahead of adding.
const PAGES_AHEAD: usize = 4;

/// What the tables should have.
pub(crate) fn missing(what: &str) -> Error {
    Error::Internal(format!("the tables contradict each other: {what} is missing"))
}

/// Reads a table page by page, each as its last id and the fields of its rows with a space between
/// any two, and adds them to the whole on another core meanwhile. `$1` is the id after which a page
/// begins, `$2` its size, then follow `more`. A page may have rows and no fields.
pub(crate) async fn packed<T: Send + 'static>(
    read: &mut Read,
    (sql, more): (&'static str, Vec<Arg>),
    mut whole: T,
    add: fn(&mut T, &mut Fields<'_>) -> Result<()>,
) -> Result<T> {
    let (sender, mut pages) = mpsc::channel::<String>(PAGES_AHEAD);
    let adding = tokio::task::spawn_blocking(move || {
        while let Some(text) = pages.blocking_recv() {
            let mut fields = Fields(text.split(' ').peekable());
            while fields.0.peek().is_some() {
                add(&mut whole, &mut fields)?;
            }
        }
        Ok(whole)
    });
    let mut after = String::new();
    loop {
        let mut args = args![after, PAGE_ROWS];
        args.extend(more.iter().cloned());
        let page = read.first(sql, args).await?.ok_or_else(|| missing("a page"))?;
        let Some(last) = page.text_or_null(0)? else { break };
        let text = page.text(1)?;
        if !text.is_empty() && sender.send(text).await.is_err() {
            break; // It has failed, and says why below.
        }
        after = last;
    }
    drop(sender);
    adding.await.map_err(|error| Error::Internal(format!("loading: {error}")))?
}

/// The fields of packed rows, one after the other.
pub(crate) struct Fields<'a>(Peekable<Split<'a, char>>);

impl<'a> Fields<'a> {
    pub(crate) fn text(&mut self) -> Result<&'a str> {
        self.0.next().ok_or_else(|| missing("a field"))
    }

    /// A text in which `%` and space are written as `%25` and `%20`.
    pub(crate) fn any_text(&mut self) -> Result<String> {
        let text = self.text()?;
        let is_plain = !text.contains('%');
        Ok(if is_plain { text.to_owned() } else { text.replace("%20", " ").replace("%25", "%") })
    }

    pub(crate) fn next<T: FromStr>(&mut self) -> Result<T> {
        self.text()?.parse().map_err(|_| missing(std::any::type_name::<T>()))
    }

    pub(crate) fn time(&mut self) -> Result<Time> {
        self.next().map(Time::from_micros)
    }

    pub(crate) fn time_or_null(&mut self) -> Result<Option<Time>> {
        if self.0.next_if_eq(&"-").is_some() { Ok(None) } else { self.time().map(Some) }
    }
}
