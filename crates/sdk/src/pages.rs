//! Lists that come page by page.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::Request;
use crate::error::Result;

/// The most objects that the server puts on one page (contract, section 2).
const PAGE_OBJECTS_MAX: u64 = 1_000;

/// A part of a list.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Page<T> {
    /// How many objects there are in all.
    pub total: u64,
    /// How many are on this page.
    pub count: u64,
    /// Whether there are more after these.
    pub more: bool,
    /// These objects.
    pub objects: Vec<T>,
}

/// A list of which nothing has been asked yet: take it whole with [`Pages::all`], or page by page
/// with [`Pages::next_page`]. Objects that are created or deleted on the way may be missed or come
/// twice: a page is counted from the list's start.
#[derive(Debug)]
pub struct Pages<T> {
    request: Request,
    limit: u64,
    skip: u64,
    is_done: bool,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Pages<T> {
    pub(crate) fn new(request: Request) -> Self {
        Self { request, limit: PAGE_OBJECTS_MAX, skip: 0, is_done: false, of: PhantomData }
    }

    /// Asks for at most so many objects at once: from 1 to 1000, and 1000 unless set.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit.clamp(1, PAGE_OBJECTS_MAX);
        self
    }

    /// The next page, or nothing after the last one. After an error the same page can be asked for
    /// again.
    pub async fn next_page(&mut self) -> Result<Option<Page<T>>> {
        if self.is_done {
            return Ok(None);
        }
        let request = self.request.clone();
        let request = request.query("limit", Some(self.limit)).query("skip", Some(self.skip));
        let page: Page<T> = request.json().await?;
        self.skip += page.objects.len() as u64;
        // A page that is empty although there are more would come again for ever.
        self.is_done = !page.more || page.objects.is_empty();
        Ok(Some(page))
    }

    /// All objects of the list, in as many requests as it takes.
    pub async fn all(mut self) -> Result<Vec<T>> {
        let mut objects = Vec::new();
        while let Some(page) = self.next_page().await? {
            objects.extend(page.objects);
        }
        Ok(objects)
    }
}
