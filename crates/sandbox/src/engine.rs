//! The child's side of a run: drops its rights, then runs QuickJS and a plain loop on one socket.
//! Nothing here limits a script by itself: the kernel and the parent do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::promise::PromiseState;
use rquickjs::runtime::RejectionTracker;
use rquickjs::{
    Context, Ctx, Error, Exception, Function, Module, Object, Persistent, Promise, Runtime, Value,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::compile::compile;
use crate::frames::{self, End, FIRST_BYTES_MAX, ToChild, ToParent};
use crate::limits::{Peak, die_with_parent, drop_rights};
use crate::natives::natives;
use crate::places::resolve;
use crate::process::{ERROR_BYTES_MAX, cut};
use crate::{Backend, Call, Guards, Job, Json, Limits, RunFacts, Script};

/// The globals, written in JavaScript upon the few native functions below.
const PRELUDE: &str = concat!(
    "(native) => {\n",
    include_str!("prelude/time.js"),
    include_str!("prelude/text.js"),
    include_str!("prelude/console.js"),
    include_str!("prelude/url.js"),
    include_str!("prelude/events.js"),
    include_str!("prelude/crypto.js"),
    include_str!("prelude/fetch.js"),
    include_str!("prelude/api.js"),
    include_str!("prelude/db.js"),
    include_str!("prelude/cloudcode.js"),
    include_str!("prelude/web.js"),
    include_str!("prelude/start.js"),
    "\n}"
);
/// A part of the prelude that few scripts need.
macro_rules! later {
    ($($file:literal),*) => {
        concat!(
            "({ AbortController, Body, DOMException, EventTarget, Headers, MADE_HERE, MachineDate,
                RANDOM_BYTES_MAX, URL, URLSearchParams, UTF_8, binaryOf, bytesOf, isLater,
                kindOfView, later, native, now, parsedQuery, shown, withoutMark }) => {\n",
            $(include_str!(concat!("prelude/later/", $file)),)*
            "\n}"
        )
    };
}
/// These parts are read when a script first wants them, so that the others do not pay for them.
pub(crate) const LATER: [(&str, &str); 4] = [
    ("bodies", later!("streams.js", "forms.js")),
    ("clone", later!("clone.js")),
    ("encodings", later!("encodings.js")),
    ("subtle", later!("subtle.js")),
];
/// The name that the engine gives it in stacks, which tell a script's author nothing of it.
pub(crate) const PRELUDE_NAME: &str = "eval_script";
/// Deep recursion ends as an error of the script well before the thread's own stack does.
pub(crate) const STACK_BYTES: usize = 512 * 1024;
/// What the engine throws while it has memory left for an error.
const OUT_OF_MEMORY: &str = "InternalError: out of memory";
/// What a timer is awaited for at the most before the loop looks again.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Frames from the parent are trusted, but not endless.
const FROM_PARENT_MAX: usize = 64 << 20;

/// The child's main. Standard input is the socket to the parent. It does not return to its caller:
/// the process ends here, since nothing of it may be used any more.
pub fn child_main() -> ExitCode {
    let code = match serve_parent() {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("sandbox: {why}");
            1
        }
    };
    std::process::exit(code)
}

fn serve_parent() -> Result<(), String> {
    let explain = |error: std::io::Error| format!("standard input is no socket: {error}");
    let stdin = rustix::io::dup(rustix::stdio::stdin()).map_err(|e| explain(e.into()))?;
    let socket = Rc::new(Socket { stream: RefCell::new(UnixStream::from(stdin)) });
    if !die_with_parent() {
        return Err("it would outlive its parent".to_owned());
    }
    let ToChild::Limits(limits) = socket.receive(FIRST_BYTES_MAX)? else {
        return Err("the limits must come first".to_owned());
    };
    let _ = std::env::set_current_dir("/");
    // Where only a process's short name is shown; without one it is that of `/proc/self/exe`.
    let _ = rustix::thread::set_name(c"reauth-sandbox");
    // The first use of randomness and of the time zone opens files: before the doors close.
    let peak = Peak::open();
    let guards = drop_rights(&limits);
    let child = Child { socket, limits, peak, rejections: Rejections::default() };
    work(&child, guards)
}

/// What serves a script all the time that it runs.
struct Child {
    socket: Rc<Socket>,
    limits: Limits,
    peak: Option<Peak>,
    rejections: Rejections,
}

/// The one connection to the world.
struct Socket {
    stream: RefCell<UnixStream>,
}

impl Socket {
    fn send(&self, frame: &ToParent) -> Result<(), String> {
        let bytes = frames::encode(frame)?;
        let sent = self.stream.borrow_mut().write_all(&bytes);
        sent.map_err(|error| format!("the parent is gone: {error}"))
    }

    fn receive(&self, bytes_max: usize) -> Result<ToChild, String> {
        let gone = |error: std::io::Error| format!("the parent is gone: {error}");
        let mut head = [0; 4];
        let mut stream = self.stream.borrow_mut();
        stream.read_exact(&mut head).map_err(gone)?;
        let mut bytes = vec![0; frames::length(head, bytes_max)?];
        stream.read_exact(&mut bytes).map_err(gone)?;
        frames::decode(&bytes)
    }

    /// Waits until something arrives, but not longer than `pause`; answers whether it did.
    fn wait(&self, pause: Duration) -> Result<bool, String> {
        let stream = self.stream.borrow();
        let mut fds = [PollFd::new(&*stream, PollFlags::IN)];
        let pause = Timespec::try_from(pause.min(PAUSE_MAX)).map_err(|e| e.to_string())?;
        match poll(&mut fds, Some(&pause)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What the prelude gives back to the loop.
struct Hooks<'js> {
    /// Takes what the globals need to know of the run, before the script is read.
    open: Function<'js>,
    /// Begins what is called, given the script's exports; answers a promise of its result as JSON.
    start: Function<'js>,
    /// Calls timers whose time has come; answers milliseconds until the next, -1 without one.
    fire_due: Function<'js>,
    /// Hands an answer to the request that waits for it.
    settle: Function<'js>,
    /// How many requests wait.
    waiting: Function<'js>,
    /// The message and stack of whatever was thrown.
    describe: Function<'js>,
    /// Says in the log what a run that has succeeded leaves behind.
    leave: Function<'js>,
}

/// Does the one thing that this child is for, and tells the parent what came of it. All that can be
/// done before it is known is done before the child says that it is ready.
fn work(child: &Child, guards: Guards) -> Result<(), String> {
    let Child { socket, limits, .. } = child;
    let names = Modules::default();
    let made = Runtime::new().and_then(|runtime| {
        let context = Context::full(&runtime)?;
        Ok((runtime, context))
    });
    let made = made.map_err(|error| format!("no engine: {error}"))?;
    // It is not taken apart: the process ends, and its parent waits for that after a crash.
    let (runtime, context) = &*ManuallyDrop::new(made);
    runtime.set_memory_limit(usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX));
    runtime.set_max_stack_size(STACK_BYTES);
    runtime.set_loader(names.clone(), names.clone());
    runtime.set_host_promise_rejection_tracker(Some(child.rejections.tracker()));
    context.with(|ctx| {
        let hooks = begin(&ctx, socket).map_err(|error| match caught(&ctx, None, &error) {
            Failure::Threw { message, stack } => format!("the prelude: {message}\n{stack}"),
            other => format!("the prelude: {other:?}"),
        })?;
        // What is used for the first time is slow: that is over before anybody waits for it.
        let warm = ctx.json_parse("{}").and_then(|_| warm_up(&ctx));
        warm.map_err(|error| format!("the engine: {error}"))?;
        socket.send(&ToParent::Ready(guards))?;
        let last = match socket.receive(FROM_PARENT_MAX)? {
            ToChild::Start(job) => {
                names.take(&job.script);
                let ended = evaluate(&ctx, child, &job, &hooks);
                ToParent::End(ended.unwrap_or_else(|failure| failure.end(child)))
            }
            ToChild::Compile { entry, files } => {
                let compiled = serde_json::value::to_raw_value(&compile(&entry, &files));
                ToParent::Compiled(compiled.map_err(|error| error.to_string())?)
            }
            _ => return Err("the script must come second".to_owned()),
        };
        socket.send(&last)
    })
}

/// What the globals learn of the run.
#[derive(Serialize)]
struct RunContext<'a> {
    now_ms: &'a Option<i64>,
    backend: &'a Backend,
    run: &'a RunFacts,
    env: &'a BTreeMap<String, String>,
    call: &'a Call,
}

/// Why a script went no further.
#[derive(Debug)]
enum Failure {
    /// The script's own doing.
    Threw { message: String, stack: String },
    /// Null was thrown. The engine does so when it has no memory left even for an error.
    Null,
    /// It waits for nothing. A job for which there was no memory ends without a word, too.
    Stuck,
    /// There was no memory to speak with it.
    OutOfMemory,
    /// Ours: the parent is gone.
    Broken(String),
}

impl Failure {
    fn end(self, child: &Child) -> End {
        let threw = |message: &str| End::Threw { message: message.into(), stack: String::new() };
        match self {
            Self::Threw { message, .. } if message == OUT_OF_MEMORY => End::OutOfMemory,
            Self::Threw { mut message, mut stack } => {
                // A frame has no room for more than this, and nobody reads as much.
                cut(&mut message, ERROR_BYTES_MAX);
                cut(&mut stack, ERROR_BYTES_MAX);
                End::Threw { message, stack }
            }
            Self::Null | Self::Stuck if child.was_full() => End::OutOfMemory,
            Self::Null => threw("thrown: null"),
            Self::Stuck => threw("the run can never end: it waits for nothing"),
            Self::OutOfMemory => End::OutOfMemory,
            Self::Broken(message) => threw(&message),
        }
    }
}

impl Child {
    /// Whether so much memory was in use at some time that the script's may have been all of it:
    /// pages that were never touched do not count. Where the kernel does not tell, it was.
    fn was_full(&self) -> bool {
        let grown = self.peak.as_ref().and_then(Peak::grown_bytes);
        grown.is_none_or(|grown| grown >= self.limits.memory_bytes / 4)
    }
}

fn evaluate<'js>(
    ctx: &Ctx<'js>,
    child: &Child,
    job: &Job,
    hooks: &Hooks<'js>,
) -> Result<End, Failure> {
    let fail = |error: Error| caught(ctx, Some(hooks), &error);
    let Job { now_ms, backend, run, env, call, .. } = job;
    let context = serde_json::to_string(&RunContext { now_ms, backend, run, env, call });
    let context = context.map_err(|error| Failure::Broken(error.to_string()))?;
    let context = ctx.json_parse(context).map_err(fail)?;
    let () = hooks.open.call((context,)).map_err(fail)?;
    let entry = job.script.modules.iter().find(|module| module.name == job.script.entry);
    let Some(entry) = entry else { return Err(Failure::Broken("there is no entry".into())) };
    let module = Module::declare(ctx.clone(), entry.name.clone(), entry.javascript.clone());
    let (module, loaded) = module.and_then(Module::eval).map_err(fail)?;
    drive(ctx, child, hooks, &loaded)?;
    let exports = module.namespace().map_err(fail)?;
    let promise: Promise<'_> = hooks.start.call((exports,)).map_err(fail)?;
    drive(ctx, child, hooks, &promise)?;
    let json: String = promise.finish().map_err(fail)?;
    let () = hooks.leave.call(()).map_err(fail)?;
    if json.len() > child.limits.result_bytes {
        return Ok(End::TooLarge);
    }
    let json = Json::of(json).map(End::Done);
    json.map_err(|error| Failure::Broken(format!("no JSON: {error}")))
}

/// A script that does what most do, and leaves nothing behind.
fn warm_up(ctx: &Ctx<'_>) -> Result<(), Error> {
    let source = "export const run = async () => JSON.stringify({ a: [1, 'b'] });
        await run().then((text) => JSON.parse(text));";
    let (_, done) = Module::declare(ctx.clone(), "reauth:warm-up", source)?.eval()?;
    while ctx.execute_pending_job() {}
    done.finish()
}

/// Makes the globals.
fn begin<'js>(ctx: &Ctx<'js>, socket: &Rc<Socket>) -> Result<Hooks<'js>, Error> {
    let parent = Rc::clone(socket);
    let native = natives(ctx, Rc::new(move |frame: &ToParent| parent.send(frame)))?;
    let prelude: Function<'js> = ctx.eval(PRELUDE)?;
    let hooks: Object<'js> = prelude.call((native,))?;
    Ok(Hooks {
        open: hooks.get("open")?,
        start: hooks.get("start")?,
        fire_due: hooks.get("fireDue")?,
        settle: hooks.get("settle")?,
        waiting: hooks.get("waiting")?,
        describe: hooks.get("describe")?,
        leave: hooks.get("leave")?,
    })
}

/// Runs until the promise is settled, or another is rejected and nobody has handled that when all
/// jobs are done: jobs, then timers, then answers from the parent.
fn drive<'js>(
    ctx: &Ctx<'js>,
    child: &Child,
    hooks: &Hooks<'js>,
    promise: &Promise<'js>,
) -> Result<(), Failure> {
    let fail = |error: Error| caught(ctx, Some(hooks), &error);
    loop {
        while ctx.execute_pending_job() {}
        if promise.state() == PromiseState::Rejected {
            let error = promise.result::<Value<'js>>().and_then(Result::err);
            return Err(fail(error.unwrap_or(Error::Unknown)));
        }
        if let Some(reason) = child.rejections.first(ctx) {
            return Err(described(Some(hooks), &reason));
        }
        if promise.state() == PromiseState::Resolved {
            return Ok(());
        }
        let next: f64 = hooks.fire_due.call(()).map_err(fail)?;
        let waiting: u32 = hooks.waiting.call(()).map_err(fail)?;
        if next < 0.0 && waiting == 0 {
            return Err(Failure::Stuck);
        }
        if next == 0.0 && waiting == 0 {
            continue;
        }
        // Answers that are there are heard between two timers, too.
        let pause =
            if next < 0.0 { PAUSE_MAX } else { Duration::from_secs_f64(next.min(60_000.0) / 1e3) };
        if child.socket.wait(pause).map_err(Failure::Broken)? {
            let frame = child.socket.receive(FROM_PARENT_MAX).map_err(Failure::Broken)?;
            let ToChild::Answer { id, answer } = frame else {
                return Err(Failure::Broken("the parent said something else".to_owned()));
            };
            let json = serde_json::to_string(&answer).unwrap_or_default();
            let () = hooks.settle.call((id, json)).map_err(fail)?;
        }
    }
}

/// What an error of the engine means.
fn caught<'js>(ctx: &Ctx<'js>, hooks: Option<&Hooks<'js>>, error: &Error) -> Failure {
    match error {
        Error::Exception => described(hooks, &ctx.catch()),
        Error::Allocation => Failure::OutOfMemory,
        other => Failure::Broken(other.to_string()),
    }
}

/// What was thrown, in words.
fn described<'js>(hooks: Option<&Hooks<'js>>, thrown: &Value<'js>) -> Failure {
    if thrown.is_null() {
        return Failure::Null;
    }
    let plain = |thrown: &Value<'_>| {
        let exception = thrown.clone().into_object().and_then(Exception::from_object);
        let message = exception.as_ref().and_then(Exception::message).unwrap_or_default();
        let stack = exception.as_ref().and_then(Exception::stack).unwrap_or_default();
        Failure::Threw { message, stack }
    };
    let described = hooks.and_then(|hooks| {
        let pair: Result<Vec<String>, Error> = hooks.describe.call((thrown.clone(),));
        let mut pair = pair.ok()?.into_iter();
        Some(Failure::Threw { message: pair.next()?, stack: pair.next()? })
    });
    described.unwrap_or_else(|| plain(thrown))
}

/// Promises that were rejected while nobody handled them, each with its number and its reason.
#[derive(Clone, Default)]
struct Rejections {
    all: Rc<RefCell<HashMap<Kept, (usize, Kept)>>>,
}

type Kept = Persistent<Value<'static>>;

impl Rejections {
    /// Hears of each promise that is rejected without a handler, and of each that gets one later.
    fn tracker(&self) -> RejectionTracker {
        let (all, count) = (Rc::clone(&self.all), Cell::new(0));
        Box::new(move |ctx, promise, reason, is_handled| {
            let promise = Persistent::save(&ctx, promise);
            if is_handled {
                all.borrow_mut().remove(&promise);
            } else {
                let reason = Persistent::save(&ctx, reason);
                all.borrow_mut().insert(promise, (count.replace(count.get() + 1), reason));
            }
        })
    }

    /// Why the first of them was rejected.
    fn first<'js>(&self, ctx: &Ctx<'js>) -> Option<Value<'js>> {
        let all = self.all.borrow();
        let (_, reason) = all.values().min_by_key(|(number, _)| *number)?;
        reason.clone().restore(ctx).ok()
    }
}

/// The script's own modules: nothing else can be imported.
#[derive(Clone, Default)]
struct Modules {
    all: Rc<RefCell<HashMap<String, String>>>,
}

impl Modules {
    fn take(&self, script: &Script) {
        let all = script.modules.iter().map(|one| (one.name.clone(), one.javascript.clone()));
        self.all.borrow_mut().extend(all);
    }
}

impl Resolver for Modules {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<String, Error> {
        let all = self.all.borrow();
        resolve(base, name, |name| all.contains_key(name)).ok_or_else(|| {
            let why = format!("{name} is no file of this task: bundle it into the task");
            Exception::throw_type(ctx, &why)
        })
    }
}

impl Loader for Modules {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>, Error> {
        let text = self.all.borrow().get(name).cloned();
        let text = text.ok_or_else(|| Exception::throw_type(ctx, "there is no such module"))?;
        Module::declare(ctx.clone(), name, text)
    }
}
