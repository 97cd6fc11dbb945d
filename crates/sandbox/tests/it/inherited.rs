//! What a child has from the process that started it: no file, and no longer life.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use reauth_sandbox::{Limits, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{limits, run_within};

const SPINNING: &str = "export function run() { for (;;) {} }";

/// Whether nobody has the other end open any more.
fn is_closed(end: &UnixStream) -> bool {
    let mut fds = [PollFd::new(end, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("a poll") > 0 && fds[0].revents().contains(PollFlags::HUP)
}

#[tokio::test]
async fn a_child_has_no_file_that_its_parent_has_open() {
    // As whoever starts a server may leave one open in it: without CLOEXEC.
    let (ours, open) = UnixStream::pair().expect("a pair");
    fcntl_setfd(&open, FdFlags::empty()).expect("it is left open");
    let spinning = Limits { wall: Duration::from_secs(2), ..limits() };
    let run = tokio::spawn(async move { run_within(SPINNING, &spinning).await.outcome });
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(open);
    assert!(is_closed(&ours), "the child has it open");
    assert_eq!(run.await.expect("a run"), Outcome::TimedOut);
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
    let mut parent = std::process::Command::new(program)
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a parent");
    let child = within(Duration::from_secs(10), || children_of(parent.id()).first().copied());
    let child = child.expect("a child begins");
    // It spins by then.
    std::thread::sleep(Duration::from_secs(1));
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

fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z")
}

fn children_of(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|process| stat(*process).is_some_and(|(_, of)| of == parent)).collect()
}
