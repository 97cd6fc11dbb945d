//! The parent's side of a run: starts the child, gives it the script, carries out its requests,
//! and ends it in time, whatever it does.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::Abortable;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use crate::frames::{self, End, FIRST_BYTES_MAX, HEADERS_MAX, ToChild, ToParent};
use crate::held::Held;
use crate::places::Places;
use crate::pool::Pool;
use crate::{
    Call, CompileError, Compiled, Guards, Host, Job, Limits, LogLine, Outcome, Part, Report,
    Request, Response, Uncompiled,
};

/// What a child may say on standard error before it dies: enough for a panic's text.
const LAST_WORDS_MAX: u64 = 4_096;
/// How long a child that said its last frame may take to die.
const DEATH: Duration = Duration::from_secs(1);
/// JSON, base64 and names around a body.
const FRAME_OVERHEAD: usize = 64 * 1024;

/// The longest text of an error: people read it.
pub(crate) const ERROR_BYTES_MAX: usize = 64 * 1024;
/// So many lines of a log have their places told as they were written.
const WRITTEN_MAX: usize = 1_000;
/// Stands where a line was cut.
const CUT: &str = "…";
/// So much is read at once: most frames are shorter.
const READ_BYTES: usize = 16 * 1024;
/// A log that goes on so many times beyond its limit ends its run: reading what is not kept would
/// go on as long as the script writes.
const LOG_TIMES_MAX: usize = 16;
/// How long a child may take to drop its rights: it takes milliseconds.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long the compiler may take: it takes milliseconds.
const COMPILE_WALL: Duration = Duration::from_secs(10);
/// Below it are standard input, output and error, which every child gets anew.
const FIRST_FILE: i32 = 3;
/// No honest child says it.
const NOT_ASKED: &str = "the child said what was not asked";
const TOO_DEEP: &str = "the script is nested too deeply, or too large, to be read";

/// How the child is started, and the children that wait. Clones share these.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    args: Vec<String>,
    pub(crate) pool: Arc<Pool>,
    /// Whether the last child could not be started.
    is_failing: Arc<AtomicBool>,
}

/// A child that has dropped its rights and waits.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    to_child: OwnedWriteHalf,
    frames: Frames,
    guards: Guards,
}

/// What a run has said so far.
#[derive(Default)]
struct Said {
    log: Vec<LogLine>,
    log_bytes: usize,
    log_is_cut: bool,
    /// With all that was not kept.
    logged_bytes: usize,
    fetches: u32,
    frames: u32,
}

impl Sandbox {
    /// `program` with `args` must call [`crate::child_main`]; normally it is the caller's own.
    pub fn new(program: PathBuf, args: Vec<String>) -> Self {
        Self { program, args, pool: Arc::default(), is_failing: Arc::default() }
    }

    /// Runs a job in a child that serves no other. It always ends, at the latest soon after
    /// `limits.wall`; a caller that goes away ends the child.
    pub async fn run(&self, job: &Job, limits: &Limits, host: &impl Host) -> Report {
        let began = Instant::now(); // clock: measures
        let (mut said, mut guards) = (Said::default(), Guards::default());
        let run = self.run_within(job, limits, host, &mut said, &mut guards);
        let ended = tokio::time::timeout(limits.wall, run).await;
        let mut outcome = ended.unwrap_or(Outcome::TimedOut);
        if let Outcome::Threw { message, stack } = &mut outcome {
            for text in [&mut *message, &mut *stack] {
                cut(text, ERROR_BYTES_MAX);
            }
            *stack = Places::of(&job.script).written(stack);
        }
        Report {
            outcome,
            log: said.log,
            log_is_cut: said.log_is_cut,
            took: began.elapsed(),
            guards,
        }
    }

    /// What protects runs on this machine; an error when no child can be started.
    pub async fn probe(&self) -> Result<Guards, String> {
        self.start(&Limits::default()).await.map(|running| running.guards)
    }

    async fn run_within(
        &self,
        job: &Job,
        limits: &Limits,
        host: &impl Host,
        said: &mut Said,
        guards: &mut Guards,
    ) -> Outcome {
        if let Call::Run { params } = &job.call
            && params.text().len() > limits.params_bytes
        {
            return Outcome::TooLarge { what: "params".to_owned() };
        }
        let mut running = match self.child(limits).await {
            Ok(running) => running,
            Err(why) => return Outcome::Refused { why },
        };
        *guards = running.guards;
        let mut sent = job.clone();
        sent.script.modules.iter_mut().for_each(|module| module.map = None);
        // It is kept no longer than it takes to say it.
        let told = send(&mut running.to_child, &ToChild::Start(Box::new(sent))).await;
        let ended = match told {
            Ok(()) => converse(&mut running, limits, host, (said, job)).await,
            Err(why) => Err(why),
        };
        match ended {
            Ok(outcome) => {
                // It has said all: nobody waits for its death. If it does not die by itself, it is
                // killed when dropped.
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(DEATH, running.child.wait()).await;
                });
                outcome
            }
            Err(why) => died(running.child, why).await,
        }
    }

    /// As [`compile()`](crate::compile()), in a child: a text that is made to exhaust the compiler
    /// ends the child.
    pub async fn compile(
        &self,
        entry: &str,
        files: &BTreeMap<String, String>,
        limits: &Limits,
    ) -> Result<Compiled, Uncompiled> {
        let mut running = self.child(limits).await.map_err(Uncompiled::NoChild)?;
        let compile = async {
            let wanted = ToChild::Compile { entry: entry.to_owned(), files: files.clone() };
            let told = send(&mut running.to_child, &wanted).await;
            let heard = match told {
                Ok(()) => running.frames.next().await,
                Err(_) => None,
            };
            let Some(Ok(ToParent::Compiled(compiled))) = heard else {
                return Err(Uncompiled::Exhausted(TOO_DEEP.to_owned()));
            };
            let compiled: Result<Compiled, CompileError> = serde_json::from_str(compiled.get())
                .map_err(|_| Uncompiled::Exhausted(TOO_DEEP.to_owned()))?;
            compiled.map_err(Uncompiled::Wrong)
        };
        let compiled = tokio::time::timeout(COMPILE_WALL, compile).await;
        compiled.unwrap_or_else(|_| Err(Uncompiled::Exhausted(TOO_DEEP.to_owned())))
    }

    /// One that waits, or a new one.
    async fn child(&self, limits: &Limits) -> Result<Running, String> {
        match self.pool.take(limits) {
            Some(running) => Ok(running),
            None => self.start(limits).await,
        }
    }

    /// Whether no child can be started now under these limits; asked for anew if the last one could
    /// not.
    pub async fn is_failing(&self, limits: &Limits) -> bool {
        self.is_failing.load(Ordering::Relaxed) && self.start(limits).await.is_err()
    }

    /// Starts a child and waits until its rights are gone.
    pub(crate) async fn start(&self, limits: &Limits) -> Result<Running, String> {
        let started = tokio::time::timeout(BEGINNING, self.try_start(limits)).await;
        let too_long = |_| Err(format!("the child did not begin within {BEGINNING:?}"));
        let started = started.unwrap_or_else(too_long);
        self.is_failing.store(started.is_err(), Ordering::Relaxed);
        started
    }

    async fn try_start(&self, limits: &Limits) -> Result<Running, String> {
        let explain = |error: std::io::Error| format!("the child cannot be started: {error}");
        let (ours, theirs) = StdUnixStream::pair().map_err(explain)?;
        ours.set_nonblocking(true).map_err(explain)?;
        // Whoever started the server may have left files open in it: they are not for a script.
        close_fds::set_fds_cloexec(FIRST_FILE, &[]);
        let child = Command::new(&self.program)
            // As operators know it: the path may be that of whatever runs.
            .arg0("reauth")
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(explain)?;
        let (from_child, mut to_child) = UnixStream::from_std(ours).map_err(explain)?.into_split();
        let mut frames = Frames::of(from_child, limits);
        let told = send(&mut to_child, &ToChild::Limits(limits.clone())).await;
        told.map_err(|_| "the child does not listen".to_owned())?;
        match frames.next().await {
            Some(Ok(ToParent::Ready(guards))) => Ok(Running { child, to_child, frames, guards }),
            Some(Ok(_)) => Err("the child did not begin by dropping its rights".to_owned()),
            Some(Err(why)) => Err(why),
            None => Err("the child ended before it began".to_owned()),
        }
    }
}

fn frame_bytes_max(limits: &Limits) -> usize {
    // A body is carried as base64, a third longer.
    limits.result_bytes.max(limits.body_bytes / 3 * 4 + 4) + FRAME_OVERHEAD
}

/// What a child says, frame by frame.
#[derive(Debug)]
struct Frames {
    from_child: OwnedReadHalf,
    /// What was read and not yet told: no more than was really sent.
    bytes: BytesMut,
    /// How long the next one may be.
    allowed: usize,
    bytes_max: usize,
    /// How long the last one was.
    last_bytes: usize,
}

impl Frames {
    fn of(from_child: OwnedReadHalf, limits: &Limits) -> Self {
        let bytes_max = frame_bytes_max(limits);
        let (bytes, allowed) = (BytesMut::new(), FIRST_BYTES_MAX);
        Self { from_child, bytes, allowed, bytes_max, last_bytes: 0 }
    }

    /// The next one. None: the child is gone. An error: it said something that no honest child
    /// says. Whoever waits for it may give up, and nothing is lost.
    async fn next(&mut self) -> Option<Result<ToParent, String>> {
        // Of a thousand short ones that are read at once, others must not wait for all.
        tokio::task::consume_budget().await;
        loop {
            if let Some(frame) = self.whole() {
                return Some(frame);
            }
            self.bytes.reserve(READ_BYTES);
            let read = self.from_child.read_buf(&mut self.bytes).await;
            if read.is_err() || read.is_ok_and(|read| read == 0) {
                return None;
            }
        }
    }

    /// The next one, if all of it has been read.
    fn whole(&mut self) -> Option<Result<ToParent, String>> {
        let head = *self.bytes.first_chunk()?;
        let length = match frames::length(head, self.allowed) {
            Ok(length) => length,
            Err(why) => return Some(Err(why)),
        };
        if self.bytes.len() - head.len() < length {
            return None;
        }
        (self.allowed, self.last_bytes) = (self.bytes_max, length);
        let frame = self.bytes.split_to(head.len() + length);
        Some(frames::decode(&frame[head.len()..]))
    }

    /// Whether it has ended or said something since it was last listened to.
    fn is_gone(&self) -> bool {
        let silent = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        !self.bytes.is_empty() || !self.from_child.try_read(&mut [0]).is_err_and(silent)
    }
}

/// An error without words is a child that is gone: its status says why.
async fn send(to_child: &mut OwnedWriteHalf, frame: &ToChild) -> Result<(), String> {
    let bytes = frames::encode(frame)?;
    to_child.write_all(&bytes).await.map_err(|_| String::new())
}

/// Answers the child until its end. An error is a child that died or lied.
async fn converse(
    running: &mut Running,
    limits: &Limits,
    host: &impl Host,
    (said, job): (&mut Said, &Job),
) -> Result<Outcome, String> {
    // Made when first needed: most runs log no place.
    let mut places = None;
    let mut held = Held::new(limits.body_bytes);
    let mut open = FuturesUnordered::new();
    let Running { to_child, frames, .. } = running;
    // Whether an answer may come in pieces, and whether its first part has come.
    let (is_web, mut is_begun) = (matches!(job.call, Call::Web { .. }), false);
    loop {
        while let Some((begun, request, given_up)) = held.begin(limits.fetches_at_once) {
            open.push(async move { (begun, Abortable::new(host.fetch(request), given_up).await) });
        }
        tokio::select! {
            // Reading goes on meanwhile: a child that is writing does not read.
            sent = to_child.write(held.unread.next()), if !held.unread.is_empty() => {
                held.unread.advance(sent.map_err(|_| String::new())?);
            }
            Some((begun, answer)) = open.next(), if !open.is_empty() => {
                held.end(&begun);
                // Nobody waits for what was given up.
                let Ok(answer) = answer else { continue };
                let answer = short(answer, limits.body_bytes);
                held.unread.add(frames::encode(&ToChild::Answer { id: begun.id, answer })?);
            }
            frame = frames.next(), if held.may_hear() => match frame {
                Some(Ok(frame)) if said.count_frame(&frame) > limits.frames_max => {
                    return Ok(too_much(limits));
                }
                Some(Ok(ToParent::Log { at_ms, level, text })) => {
                    let Some(text) = said.shortened(limits, text) else {
                        return Ok(Outcome::TooLarge { what: "the log".to_owned() });
                    };
                    let has_places = text.contains("\n    at ") && said.log.len() < WRITTEN_MAX;
                    let text = if has_places {
                        places.get_or_insert_with(|| Places::of(&job.script)).written(&text)
                    } else {
                        text
                    };
                    if let Some(line) = said.note(limits, LogLine { at_ms, level, text }) {
                        host.hear(line);
                    }
                }
                Some(Ok(ToParent::Fetch { id, request })) => {
                    if let Some(what) = said.count_fetch(limits, &request) {
                        return Ok(Outcome::TooLarge { what });
                    }
                    let is_new = held.add(id, request, frames.last_bytes);
                    is_new.then_some(()).ok_or(NOT_ASKED)?;
                }
                Some(Ok(ToParent::GiveUp { id })) if held.give_up(id) => {}
                Some(Ok(ToParent::Head(head))) if is_web && !is_begun => {
                    is_begun = true;
                    host.answer(Part::Head(head)).await;
                }
                Some(Ok(ToParent::Piece(piece))) if is_begun && !piece.is_empty() => {
                    host.answer(Part::Piece(piece)).await;
                }
                Some(Ok(ToParent::End(end))) => return Ok(outcome(end, limits)),
                Some(Ok(_)) => return Err(NOT_ASKED.to_owned()),
                Some(Err(why)) => return Err(why),
                None => return Err(String::new()),
            }
        }
    }
}

fn too_much(limits: &Limits) -> Outcome {
    let what = format!("the number of messages, over {},", limits.frames_max);
    Outcome::TooLarge { what }
}

/// An answer that is as long as it may be.
fn short(answer: Result<Response, String>, bytes_max: usize) -> Result<Response, String> {
    match answer {
        Ok(answer) if answer.body.len() > bytes_max => {
            Err(format!("the answer is longer than {bytes_max} bytes"))
        }
        other => other,
    }
}

impl Running {
    /// Whether it has died or lied since it was started.
    pub(crate) fn is_gone(&self) -> bool {
        self.frames.is_gone()
    }
}

impl Said {
    /// A line as far as there is room for it: what is cut need not be looked at. None: far more
    /// was said than there is room for.
    fn shortened(&mut self, limits: &Limits, mut text: String) -> Option<String> {
        self.logged_bytes = self.logged_bytes.saturating_add(text.len() + 16);
        if self.logged_bytes / LOG_TIMES_MAX > limits.log_bytes {
            return None;
        }
        let room = limits.log_bytes.saturating_sub(self.log_bytes);
        if text.len() > room {
            // With the mark it is longer than fits, so that it counts as cut.
            cut(&mut text, room);
            text.push_str(CUT);
        }
        Some(text)
    }

    /// Keeps a line, unless there are too many; answers it if it is kept.
    fn note(&mut self, limits: &Limits, line: LogLine) -> Option<&LogLine> {
        self.log_bytes = self.log_bytes.saturating_add(line.text.len() + 16);
        if self.log_bytes > limits.log_bytes {
            self.log_is_cut = true;
            return None;
        }
        self.log.push(line);
        self.log.last()
    }

    /// How many it has said, with this one. The end is no more than one.
    fn count_frame(&mut self, frame: &ToParent) -> u32 {
        self.frames += u32::from(!matches!(frame, ToParent::End(_)));
        self.frames
    }

    /// What is too large about this request, if anything.
    fn count_fetch(&mut self, limits: &Limits, request: &Request) -> Option<String> {
        self.fetches += 1;
        if self.fetches > limits.fetches_max {
            return Some(format!("the number of requests, over {},", limits.fetches_max));
        }
        if request.headers.len() > HEADERS_MAX {
            return Some(format!("a request of over {HEADERS_MAX} headers"));
        }
        let is_long = request.body.len() > limits.body_bytes;
        is_long.then(|| format!("a request of over {} bytes", limits.body_bytes))
    }
}

/// Shortens a text to so many bytes, at the end of a character.
pub(crate) fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}

fn outcome(end: End, limits: &Limits) -> Outcome {
    match end {
        // The child has looked too, but it is not believed.
        End::Done(json) if json.text().len() > limits.result_bytes => {
            Outcome::TooLarge { what: "the result".to_owned() }
        }
        End::Done(json) => Outcome::Done(json),
        End::Threw { message, stack } => Outcome::Threw { message, stack },
        End::OutOfMemory => Outcome::OutOfMemory,
        End::TooLarge => Outcome::TooLarge { what: "the result".to_owned() },
    }
}

/// Why a child ended without an end: by which signal, with which last words.
async fn died(mut child: Child, why: String) -> Outcome {
    if !why.is_empty() {
        // It lives and lies.
        let _ = child.start_kill();
        let _ = child.wait().await;
        return Outcome::Crashed { why };
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read was not said.
        let (mut read, mut bytes) = (stderr.take(LAST_WORDS_MAX), Vec::new());
        let _ = tokio::time::timeout(DEATH, read.read_to_end(&mut bytes)).await;
        words = String::from_utf8_lossy(&bytes).into_owned();
    }
    let status = tokio::time::timeout(DEATH, child.wait()).await;
    let status = status.ok().and_then(Result::ok);
    if words.contains("memory allocation of") {
        return Outcome::OutOfMemory;
    }
    match status.as_ref().and_then(ExitStatus::signal) {
        Some(libc::SIGXCPU) => Outcome::OutOfTime,
        Some(libc::SIGSYS) => {
            Outcome::Crashed { why: "the child made a forbidden system call".to_owned() }
        }
        Some(signal) => {
            let why = format!("the child died of signal {signal}: {}", words.trim());
            Outcome::Crashed { why }
        }
        None => Outcome::Crashed { why: format!("the child ended early: {}", words.trim()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Vec<u8> {
        let frame = ToParent::End(End::Done(serde_json::Value::from(text).into()));
        frames::encode(&frame).expect("it has a form")
    }

    fn text(frame: Option<Result<ToParent, String>>) -> String {
        match frame {
            Some(Ok(ToParent::End(End::Done(json)))) => json.into_text(),
            Some(Ok(_)) => "something else".to_owned(),
            Some(Err(why)) => why,
            None => "gone".to_owned(),
        }
    }

    #[tokio::test]
    async fn frames_are_told_whole_however_they_come() {
        let (parent, mut child) = UnixStream::pair().expect("a pair");
        let (from_child, _keep) = parent.into_split();
        let mut frames = Frames::of(from_child, &Limits::default());
        assert!(!frames.is_gone());
        let long = "x".repeat(1_000_000);
        let all = [end("one"), end("two"), end(&long)].concat();
        let (first, rest) = all.split_at(end("one").len() - 1);
        for byte in first {
            child.write_all(std::slice::from_ref(byte)).await.expect("it is heard");
            // Whoever gives up in the middle of a frame loses nothing.
            let soon = tokio::time::timeout(Duration::from_millis(1), frames.next());
            assert!(soon.await.is_err(), "the first is not whole yet");
        }
        assert!(frames.is_gone(), "it has spoken");
        let rest = rest.to_vec();
        let writing = tokio::spawn(async move {
            child.write_all(&rest).await.expect("it is heard");
        });
        assert_eq!(text(frames.next().await), "\"one\"");
        assert_eq!(text(frames.next().await), "\"two\"");
        assert_eq!(text(frames.next().await).len(), long.len() + 2);
        writing.await.expect("it is written");
        assert_eq!(text(frames.next().await), "gone");
        assert!(frames.is_gone());
    }
}
