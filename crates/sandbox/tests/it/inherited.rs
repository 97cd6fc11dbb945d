//! What a child has from the process that started it: no file, and no longer life.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use reauth_sandbox::{Host, Limits, Outcome, Request, Response, drop_rights};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde_json::Value;
use tokio::sync::Notify;

use super::{job, limits, run_within, sandbox};

/// Processor time, in hundredths of a second, that no child takes before its script runs.
const SPINS: u64 = 50;
const SPINNING: &str = "export function run() { for (;;) {} }";

/// Whether nobody has the other end open any more.
fn is_closed(end: &UnixStream) -> bool {
    let mut fds = [PollFd::new(end, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("a poll") > 0 && fds[0].revents().contains(PollFlags::HUP)
}

/// Hears that the script runs.
struct Heard<'a>(&'a Notify);

impl Host for Heard<'_> {
    async fn fetch(&self, _: Request) -> Result<Response, String> {
        self.0.notify_one();
        Err("it is only heard".to_owned())
    }
}

#[tokio::test]
async fn a_child_has_no_file_that_its_parent_has_open() {
    // As whoever starts a server may leave one open in it: without CLOEXEC.
    let (ours, open) = UnixStream::pair().expect("a pair");
    fcntl_setfd(&open, FdFlags::empty()).expect("it is left open");
    let spinning = Limits { wall: Duration::from_secs(2), ..limits() };
    let source = "export async function run() {
        await fetch('http://api.test/').catch(() => {});
        for (;;) {} }";
    let (job, heard) = (job("t.js", source, Value::Null), Notify::new());
    let (child, host) = (sandbox("sandbox_child"), Heard(&heard));
    let looking = async {
        heard.notified().await;
        drop(open);
        assert!(is_closed(&ours), "the child has it open");
    };
    let (report, ()) = tokio::join!(child.run(&job, &spinning, &host), looking);
    assert_eq!(report.outcome, Outcome::TimedOut);
}

/// A parent that dies without a word: it begins what never ends and is killed.
#[test]
#[ignore = "a parent that is killed: started by the test below"]
fn parent_of_a_spinning_child() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let _ = run_within(SPINNING, &limits()).await;
    });
}

#[test]
fn a_child_does_not_outlive_a_parent_that_is_killed() {
    let args = ["inherited::parent_of_a_spinning_child", "--exact", "--ignored", "--nocapture"];
    let program = std::env::current_exe().expect("the test program");
    let mut parent = Command::new(program)
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a parent");
    let child = within(Duration::from_secs(10), || children_of(parent.id()).first().copied());
    let child = child.expect("a child begins");
    let spins = within(Duration::from_secs(10), || (ticks(child)? > SPINS).then_some(()));
    assert!(spins.is_some(), "it spins");
    parent.kill().expect("it is killed");
    parent.wait().expect("it has ended");
    let gone = within(Duration::from_secs(5), || (!is_alive(child)).then_some(()));
    assert!(gone.is_some(), "process {child} outlives its parent");
}

/// What `look` finds within this time.
fn within<T>(time: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let began = Instant::now(); // clock: measures
    while began.elapsed() < time {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn stat(process: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may have any character.
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    Some((rest.next()?.to_owned(), rest.next()?.parse().ok()?))
}

/// The processor time that it has taken, in hundredths of a second.
fn ticks(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(11)?.parse().ok()
}

fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z")
}

fn children_of(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|process| stat(*process).is_some_and(|(_, of)| of == parent)).collect()
}

/// What a service manager has limited more strictly than we would, and no right to take that back.
#[test]
#[ignore = "a child of a service with limits of its own: started by the test below"]
fn child_of_a_limited_service() {
    for (resource, hard) in [(Resource::Cpu, 20), (Resource::Nofile, 12)] {
        let limit = Rlimit { current: Some(hard), maximum: Some(hard) };
        setrlimit(resource, limit).expect("it becomes less");
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).expect("rights are given up");
    let mut limits = File::open("/proc/self/limits").expect("its limits");
    let guards = drop_rights(&Limits::default());
    let mut text = [0; 4_096];
    let length = limits.read(&mut text).expect("its limits");
    let text = String::from_utf8_lossy(&text[..length]);
    let has = |name: &str, soft: &str, hard: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        line.split_whitespace().take(2).eq([soft, hard])
    };
    let is_right = guards.rlimits
        && has("Max cpu time", "19", "20")
        && has("Max open files", "12", "12")
        && has("Max processes", "0", "0")
        && has("Max file size", "0", "0")
        && has("Max core file size", "0", "0")
        && !has("Max address space", "unlimited", "unlimited");
    if !is_right {
        eprintln!("{guards}\n{text}");
    }
    std::process::exit(i32::from(!is_right))
}

#[test]
fn stricter_limits_of_a_service_are_kept_and_ours_are_set_all_the_same() {
    let name = "inherited::child_of_a_limited_service";
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    let child = child.args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let ended = child.output().expect("it runs");
    assert!(ended.status.success(), "{ended:?}");
}
