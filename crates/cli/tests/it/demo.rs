//! The demo does what the README says.

use crate::{error_of, reauth};

#[test]
fn the_demo_signs_out_what_is_too_old_and_shows_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("demo");
    let mut command = reauth();
    command.args(["demo", "--once", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let done = command.output().expect("the demo runs");
    let (said, error) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}{error}");
    let row = |name: &str| -> Vec<usize> {
        let line = said.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {said}"));
        line[name.len()..].split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let (fresh, old, all) = (row("8 to 30 days"), row("more than 30 days"), row("all"));
    assert!(old[0] > 50 && old[1] == 0, "{old:?}");
    assert_eq!(fresh[0], fresh[1]);
    assert_eq!(all[0] - all[1], old[0]);
    assert!((450..=550).contains(&all[0]), "about 500 sessions: {all:?}");
    assert!(said.contains("200 users") && said.contains("started by its schedule"), "{said}");
    assert!(said.contains("session.re_authenticate") && said.contains("the chain holds"), "{said}");
}

#[test]
fn a_program_gets_the_demo_as_json() {
    let mut command = reauth();
    let done = command.args(["demo", "--once", "--json", "--listen", "127.0.0.1:0"]).output();
    let answer = crate::json(&done.expect("the demo runs"));
    assert_eq!((&answer["users"], &answer["run"]["state"]), (&200.into(), &"succeeded".into()));
    let (before, after) = (&answer["signed_in_before"], &answer["signed_in_after"]);
    assert!(before.as_u64() > after.as_u64() && after.as_u64() > Some(0), "{answer}");
    assert_eq!(answer["ledger"]["is_whole"], true);
}

#[test]
fn a_taken_address_is_said_with_a_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = reauth();
    let done = command.args(["demo", "--once", "--listen", &address]).output().expect("it runs");
    let error = error_of(&done);
    assert!(error.contains(&address) && error.contains("--listen 127.0.0.1:0"), "{error}");
}
