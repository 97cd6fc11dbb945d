//! What the parent holds for one run, counted in bytes: requests that wait or are under way, and
//! answers that the child has not read yet. It carries out nothing and speaks with nobody.

use std::collections::{HashMap, HashSet, VecDeque};

use futures_util::future::{AbortHandle, AbortRegistration};

use crate::Request;

/// A run holds about so much in all: a request is begun only if there is room for the longest
/// answer, too. Seven are under way at once, as many as a browser has for one host.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Requests hold so much before no more is read from the child. An honest one counts, too, and
/// keeps below (`prelude/fetch.js`): it must never wait in the middle of a frame, since it reads no
/// answer meanwhile.
const REQUESTS_BYTES_MAX: usize = 8 << 20;
/// A request beside its texts.
const REQUEST_BYTES: usize = 256;
/// A header beside its texts: two empty ones take memory, too.
const HEADER_BYTES: usize = 64;

/// All that is held for a run.
pub(crate) struct Held {
    /// All that were asked for and not given up; there are `fetches_max` at the most.
    asked: HashSet<u32>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    under_way: HashMap<u32, AbortHandle>,
    under_way_count: usize,
    under_way_bytes: usize,
    /// The longest answer.
    answer_bytes: usize,
    /// Frames for the child.
    pub(crate) unread: Unread,
}

struct Waiting {
    id: u32,
    request: Request,
    bytes: usize,
}

/// A request that is under way, to be handed back when it has ended.
pub(crate) struct Begun {
    pub(crate) id: u32,
    bytes: usize,
}

impl Held {
    pub(crate) fn new(answer_bytes: usize) -> Self {
        Self {
            asked: HashSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            under_way: HashMap::new(),
            under_way_count: 0,
            under_way_bytes: 0,
            answer_bytes,
            unread: Unread::default(),
        }
    }

    /// A request that came in a frame of so many bytes: no text in it is longer than that. False:
    /// another one has this number.
    pub(crate) fn add(&mut self, id: u32, request: Request, frame_bytes: usize) -> bool {
        if !self.asked.insert(id) {
            return false;
        }
        let bytes = frame_bytes + request.headers.len() * HEADER_BYTES + REQUEST_BYTES;
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { id, request, bytes });
        true
    }

    /// Whether more may be read from the child. One that has sent a single request is always
    /// heard, however long it is: it may want to give up.
    pub(crate) fn may_hear(&self) -> bool {
        let requests = self.waiting_bytes
            + self.under_way_bytes.saturating_sub(self.under_way_count * self.answer_bytes);
        self.waiting.len() < 2 || requests < REQUESTS_BYTES_MAX
    }

    /// The next request, if there is room for it and its answer. One is begun in any case when
    /// nothing else is held.
    pub(crate) fn begin(
        &mut self,
        at_once_max: usize,
    ) -> Option<(Begun, Request, AbortRegistration)> {
        let held = self.waiting_bytes + self.under_way_bytes + self.unread.bytes;
        let is_alone = self.under_way_count == 0 && self.unread.is_empty();
        let has_room = held + self.answer_bytes <= HELD_BYTES_MAX;
        if self.under_way_count >= at_once_max || !(is_alone || has_room) {
            return None;
        }
        let Waiting { id, request, bytes } = self.waiting.pop_front()?;
        self.waiting_bytes -= bytes;
        let begun = Begun { id, bytes: bytes + self.answer_bytes };
        self.under_way_bytes += begun.bytes;
        self.under_way_count += 1;
        let (handle, registration) = AbortHandle::new_pair();
        self.under_way.insert(id, handle);
        Some((begun, request, registration))
    }

    /// It has been answered, or given up.
    pub(crate) fn end(&mut self, begun: &Begun) {
        self.under_way.remove(&begun.id);
        self.under_way_bytes -= begun.bytes;
        self.under_way_count -= 1;
    }

    /// Nobody wants this answer any more. One that has been answered meanwhile is nothing to give
    /// up. False: it was never asked for, or has been given up before.
    pub(crate) fn give_up(&mut self, id: u32) -> bool {
        if !self.asked.remove(&id) {
            return false;
        }
        if let Some(handle) = self.under_way.get(&id) {
            handle.abort();
        } else if let Some(place) = self.waiting.iter().position(|one| one.id == id) {
            self.waiting_bytes -= self.waiting.remove(place).map_or(0, |one| one.bytes);
        }
        true
    }
}

/// Frames that the child has not read yet.
#[derive(Default)]
pub(crate) struct Unread {
    all: VecDeque<Vec<u8>>,
    /// How much of the first was read.
    read: usize,
    bytes: usize,
}

impl Unread {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn next(&self) -> &[u8] {
        self.all.front().map_or(&[], |first| &first[self.read..])
    }

    pub(crate) fn add(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.all.push_back(frame);
    }

    pub(crate) fn advance(&mut self, read: usize) {
        self.read += read;
        if self.all.front().is_some_and(|first| self.read >= first.len()) {
            self.bytes -= self.all.pop_front().map_or(0, |first| first.len());
            self.read = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Redirect;

    const MIB: usize = 1 << 20;

    fn request(headers: usize) -> Request {
        Request {
            method: "GET".into(),
            url: "http://api.test/".into(),
            headers: vec![(String::new(), String::new()); headers],
            body: Vec::new(),
            redirect: Redirect::Follow,
        }
    }

    fn begin_all(held: &mut Held) -> Vec<Begun> {
        std::iter::from_fn(|| held.begin(16)).map(|(begun, ..)| begun).collect()
    }

    #[test]
    fn only_what_fits_with_its_answer_is_begun() {
        let mut held = Held::new(8 * MIB);
        assert!((0..16).all(|id| held.add(id, request(0), 100)));
        let begun = begin_all(&mut held);
        assert_eq!(begun.len(), 7, "an eighth answer of 8 MiB would not fit");
        // Two were short: there is room for others, until what is unread takes it.
        begun[..2].iter().for_each(|one| held.end(one));
        held.unread.add(vec![0; 9 * MIB]);
        assert_eq!(begin_all(&mut held).len(), 1);
        held.unread.advance(9 * MIB);
        assert_eq!(begin_all(&mut held).len(), 1);
    }

    #[test]
    fn one_that_is_alone_goes_on_whatever_it_may_take() {
        let mut held = Held::new(100 * MIB);
        assert!((0..2).all(|id| held.add(id, request(0), 50 * MIB)));
        let begun = begin_all(&mut held);
        assert_eq!(begun.len(), 1);
        held.end(&begun[0]);
        held.unread.add(vec![0; 10]);
        assert_eq!(begin_all(&mut held).len(), 0, "the child reads first");
        held.unread.advance(10);
        assert_eq!(begin_all(&mut held).len(), 1);
    }

    #[test]
    fn empty_headers_count() {
        let mut held = Held::new(8 * MIB);
        assert!((0..3).all(|id| held.add(id, request(100_000), 600_000)));
        assert!(!held.may_hear(), "{}", held.waiting_bytes);
    }

    #[test]
    fn a_child_with_one_long_request_is_heard() {
        let mut held = Held::new(8 * MIB);
        assert!(held.add(1, request(0), 11 * MIB));
        assert!(held.may_hear());
        begin_all(&mut held);
        assert!(held.may_hear());
        assert!((2..4).all(|id| held.add(id, request(0), MIB)));
        assert!(!held.may_hear());
    }

    #[test]
    fn what_is_given_up_leaves_its_place() {
        let mut held = Held::new(8 * MIB);
        assert!((0..5).all(|id| held.add(id, request(0), 100)));
        assert!(!held.add(4, request(0), 100), "the number is taken");
        let (begun, _, registration) = held.begin(1).expect("it begins");
        assert!(held.give_up(begun.id));
        assert!(registration.handle().is_aborted());
        held.end(&begun);
        assert!(held.give_up(3));
        for id in [3, 77, begun.id] {
            assert!(!held.give_up(id), "{id} is nothing to give up");
        }
        let begun_all = begin_all(&mut held);
        let ids: Vec<u32> = begun_all.iter().map(|one| one.id).collect();
        assert_eq!(ids, [1, 2, 4]);
        for one in &begun_all {
            held.end(one);
        }
        assert!(held.give_up(4), "its answer may be on its way");
    }
}
