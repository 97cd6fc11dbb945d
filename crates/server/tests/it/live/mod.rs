//! The Live view equals one that is rebuilt from the tables, and both lead to the same decisions,
//! whatever happened before.

mod world;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reauth_server::domain::access::{Because, Ended, Verdict};
use reauth_server::domain::devices::{self};
use reauth_server::domain::sessions::{bounds, sweep};
use reauth_server::domain::{
    Checked, Clock, Db, Error, Place, Result, SessionId, Span, Time, ledger,
};
use serde_json::Value;

use crate::lab::{Kind, beginning, text};
use crate::postgres;

use world::{Act, World, acts};

/// Random histories that are told on each database.
const HISTORIES: u32 = 40;

/// A sweep to its end; answers whether it had seen every session.
async fn swept(db: &Db) -> Result<bool> {
    let mut found = sweep::look(db).await?;
    while !found.is_empty() {
        found.write(db).await?;
    }
    found.close(db).await
}

/// The ends that are in the rows of sessions.
async fn written(world: &World) -> Result<BTreeMap<SessionId, Ended>> {
    Ok(world.db.rebuilt_picture(world.db.now()).await?.written)
}

/// The ends that the ledger tells of the app's sessions from a place on, by session.
async fn told_since(world: &World, after: i64) -> Result<Vec<(SessionId, Time, String)>> {
    let mut read = world.db.read().await?;
    let (app, limit) = (Some(world.app.id), ledger::PAGE_ROWS_MAX);
    let wanted = ledger::Wanted { after, app, limit, ..ledger::Wanted::default() };
    let (entries, is_more) = ledger::page(&mut read, wanted).await?;
    assert!(!is_more, "a history has few sessions");
    let ends = entries.iter().filter(|entry| entry.kind == "session.ended");
    let mut told: Vec<_> = ends
        .map(|entry| {
            let body: Value = serde_json::from_str(&entry.body).expect("JSON");
            let field = |name: &str| body["change"][name].clone();
            let session = text(&field("session")).parse().expect("an id");
            let at = Time::from_micros(field("at").as_i64().expect("a moment"));
            (session, at, text(&field("because")))
        })
        .collect();
    told.sort_unstable();
    Ok(told)
}

/// No more and no less, at the very same moments and for the same reasons: in the rows, and in the
/// ledger if it was not written before.
async fn the_sweep_ends_what_the_decision_refuses(world: &World) -> Result<(), TestCaseError> {
    let fail = |error: Error| TestCaseError::fail(error.to_string());
    // To look is activity: only ends are compared.
    let ended = |it: Checked| match it.verdict {
        Verdict::Ended(ended) => (it.session, Some(ended)),
        Verdict::Valid { .. } => (it.session, None),
    };
    let verdicts = |world: &World| -> Result<Vec<_>, TestCaseError> {
        let sessions = world.devices.iter().map(|(.., token)| devices::check(&world.db, token));
        let all: Result<Vec<_>> = sessions.collect();
        Ok(all.map_err(fail)?.into_iter().flatten().map(ended).collect())
    };
    let (before, old) = (verdicts(world)?, written(world).await.map_err(fail)?);
    let head = ledger::head(&mut world.db.read().await.map_err(fail)?).await.map_err(fail)?.seq;
    prop_assert!(swept(&world.db).await.map_err(fail)?);
    prop_assert_eq!(&before, &verdicts(world)?);
    let new = written(world).await.map_err(fail)?;
    let mut due = Vec::new();
    for (session, ended) in &before {
        prop_assert_eq!(new.get(session), ended.as_ref(), "{}", session);
        let is_new = |ended: &&Ended| old.get(session) != Some(*ended);
        due.extend(ended.iter().filter(is_new).map(|ended| {
            let because = ended.because.name().to_owned();
            (*session, ended.at, because)
        }));
    }
    due.sort_unstable();
    prop_assert_eq!(told_since(world, head).await.map_err(fail)?, due);
    let mut read = world.db.read().await.map_err(fail)?;
    for (session, ended) in before {
        let found = match bounds::explain(&mut read, world.app.id, session).await {
            Ok(found) => found.session,
            // Nobody is shown what a deleted user had.
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(fail(error)),
        };
        prop_assert_eq!(ended.map(|ended| ended.because), found.ended_by);
    }
    Ok(())
}

/// The sessions that let someone in: until when at most, and until when without activity.
async fn ends(world: &World) -> Result<HashMap<SessionId, [Option<Time>; 2]>> {
    let mut read = world.db.read().await?;
    let mut ends = HashMap::new();
    for user in &world.users {
        for access in bounds::access_of(&mut read, *user).await? {
            let Some(session) = access.session else { continue };
            let now = world.db.now();
            let explained = world.db.live().explain_session((*user, session), None, now)?;
            let mut known = explained.expect("it is known").ends.into_iter();
            let idle = known.find(|end| end.ended.because == Because::Idle);
            let at = |ended: Ended| ended.at;
            ends.insert(session, [access.ends.map(at), idle.map(|end| end.ended.at)]);
        }
    }
    Ok(ends)
}

/// Whether an end has come to be later, or has gone.
fn is_later(before: Option<Time>, now: Option<Time>) -> bool {
    before.is_some_and(|before| now.is_none_or(|now| before < now))
}

async fn tell(world: &mut World, acts: &[Act]) -> Result<(), TestCaseError> {
    let fail = |error: Error| TestCaseError::fail(error.to_string());
    for act in acts {
        if matches!(act, Act::Policies(..)) {
            // Nothing else ends in the very moment that the change takes: others end after hours.
            world.clock.pass(Span::from_micros(1_000));
        }
        let (before, devices) = (ends(world).await.map_err(fail)?, world.devices.len());
        let foreseen = match act {
            Act::Policies(chosen, None) => Some(world.foreseen(chosen).await.map_err(fail)?),
            _ => None,
        };
        let may_lengthen = world.may_lengthen(act);
        let is_done = match world.carry_out(act).await {
            Ok(()) => true,
            // What may not happen is refused, and then nothing has happened.
            Err(Error::NotFound { .. } | Error::Conflict(_) | Error::SignInAgain(_)) => false,
            // A policy names a user who was deleted.
            Err(Error::Invalid { field, .. }) if field.ends_with("applies_to.users") => false,
            Err(error) => return Err(fail(error)),
        };
        let after = ends(world).await.map_err(fail)?;
        let signed_in = world.devices.get(devices);
        for session in after.keys().filter(|session| !before.contains_key(session)) {
            let is_new = signed_in.is_some_and(|(_, new, _)| new == session);
            prop_assert!(is_new, "{act:?} revived {session}");
        }
        if let Some(foreseen) = foreseen.filter(|_| is_done) {
            let ended = before.keys().filter(|session| !after.contains_key(session)).count();
            prop_assert_eq!((before.len(), ended), foreseen, "{:?}", act);
        }
        if !may_lengthen {
            for (session, [sure, idle]) in before {
                // A session that has ended is not among those that let someone in.
                let Some([sure_now, idle_now]) = after.get(&session) else { continue };
                let (sure, idle) = ((sure, *sure_now), (idle, *idle_now));
                prop_assert!(!is_later(sure.0, sure.1), "{act:?} moved {session}: {sure:?}");
                let is_later = is_later(idle.0, idle.1) && !matches!(act, Act::Check(_));
                prop_assert!(!is_later, "{act:?} put {session} off: {idle:?}");
            }
        }
    }
    the_sweep_ends_what_the_decision_refuses(world).await?;
    while devices::flush_activity(&world.db).await.map_err(fail)? {}
    let now = world.db.now();
    for now in [now, now + Span::hours(3), now + Span::hours(30), now + Span::days(90)] {
        let live = world.db.live().picture(now).map_err(fail)?;
        let rebuilt = world.db.rebuilt_picture(now).await.map_err(fail)?;
        let differ =
            live.lines.iter().filter(|(what, line)| rebuilt.lines.get(*what) != Some(line));
        let differ: Vec<_> =
            differ.map(|(what, line)| (what, line, rebuilt.lines.get(what))).collect();
        prop_assert!(differ.is_empty() && live.lines.len() == rebuilt.lines.len(), "{differ:#?}");
    }
    Ok(())
}

fn live_equals_the_tables(kind: Kind) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let place = match kind {
        Kind::Sqlite => Place::Directory(dir.path().join("data")),
        Kind::Postgres => Place::Postgres(postgres::database()),
    };
    let clock = Clock::manual(beginning());
    let db = runtime.block_on(Db::open(place, clock.clone())).expect("a store");
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let histories = proptest::collection::vec(acts(), 1..60);
    // A failure prints the shortest history that fails.
    let told = TestRunner::new(config).run(&histories, |acts| {
        let world = World::new(&db, &clock);
        let fail = |error: Error| TestCaseError::fail(error.to_string());
        runtime.block_on(async { tell(&mut world.await.map_err(fail)?, &acts).await })
    });
    told.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn live_equals_the_tables_on_sqlite() {
    live_equals_the_tables(Kind::Sqlite);
}

#[test]
fn live_equals_the_tables_on_postgres() {
    live_equals_the_tables(Kind::Postgres);
}

/// As `acts`, without a spread, which goes by ids: these differ between two worlds.
fn acts_without_spread() -> impl Strategy<Value = Act> {
    let plain = |kind: u8| if kind == 2 { 0 } else { kind };
    acts().prop_map(move |act| match act {
        Act::Policies(chosen, meanwhile) => {
            let chosen = chosen.into_iter().map(|(kind, hours)| (plain(kind), hours));
            Act::Policies(chosen.collect(), meanwhile)
        }
        Act::AddPolicy(kind, hours) => Act::AddPolicy(plain(kind), hours),
        act => act,
    })
}

/// Which sessions let someone in, by their places in the history.
async fn open_places(world: &World) -> Result<Vec<bool>> {
    let open = ends(world).await?;
    // Of a device that signed in again the last secret is the session's.
    Ok(world.devices.iter().map(|(_, session, _)| open.contains_key(session)).collect())
}

/// The same history where the sweep runs after each act, and where it never runs.
async fn tell_twice(worlds: &mut [World; 2], acts: &[Act]) -> Result<(), TestCaseError> {
    let fail = |error: Error| TestCaseError::fail(error.to_string());
    for act in acts.iter().filter(|act| !matches!(act, Act::Sweep)) {
        let mut done = Vec::new();
        for world in &mut *worlds {
            // Whole hours pass: with this nothing ends at the very moment of a change.
            world.clock.pass(Span::from_micros(7_000));
            done.push(match world.carry_out(act).await {
                Ok(()) => true,
                Err(Error::NotFound { .. } | Error::Conflict(_) | Error::SignInAgain(_)) => false,
                Err(Error::Invalid { field, .. }) if field.ends_with("applies_to.users") => false,
                Err(error) => return Err(fail(error)),
            });
        }
        swept(&worlds[0].db).await.map_err(fail)?;
        let [often, never] = &*worlds;
        let (often, never) = (open_places(often).await, open_places(never).await);
        prop_assert_eq!(done[0], done[1], "{:?}", act);
        prop_assert_eq!(often.map_err(fail)?, never.map_err(fail)?, "{:?}", act);
    }
    Ok(())
}

#[test]
fn a_sweep_changes_no_verdict() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let made = ["often", "never"].map(|name| {
        let (place, clock) = (Place::Directory(dir.path().join(name)), Clock::manual(beginning()));
        let db = runtime.block_on(Db::open(place, clock.clone())).expect("a store");
        (db, clock)
    });
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let histories = proptest::collection::vec(acts_without_spread(), 1..60);
    let told = TestRunner::new(config).run(&histories, |acts| {
        let fail = |error: Error| TestCaseError::fail(error.to_string());
        runtime.block_on(async {
            let [often, never] = &made;
            let often = World::new(&often.0, &often.1).await.map_err(fail)?;
            let never = World::new(&never.0, &never.1).await.map_err(fail)?;
            tell_twice(&mut [often, never], &acts).await
        })
    });
    told.unwrap_or_else(|failure| panic!("{failure}"));
}
