//! What happens in random histories: users, devices, rules, tasks, and the passing of time.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use reauth_server::domain::access::{CutOffScope, Methods};
use reauth_server::domain::apps::policies::{self, Policy};
use reauth_server::domain::apps::selectors::{self, Selector};
use reauth_server::domain::apps::{self, App, Settings};
use reauth_server::domain::cutoffs::revocations::{self, Filter, Looked};
use reauth_server::domain::devices::{self, Device, Proof};
use reauth_server::domain::ledger::By;
use reauth_server::domain::tasks::{self, Claimed, Definition, Ending, Finished};
use reauth_server::domain::{
    AppId, Clock, Db, Result, Seen, SessionId, Span, Time, Tx, UserId, cutoffs, groups, sessions,
    tokens, users,
};
use serde_json::{Map, Value, json};

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub(super) enum Act {
    CreateUser,
    ChangeTeam(usize, Option<u8>),
    SetNotAfter(usize, Option<i64>),
    SignIn {
        user: usize,
        device: u8,
    },
    /// An authentication token that nobody uses yet, and whether it is proved by a second method.
    IssueToken(usize, bool),
    /// Which one is used then, and on which device.
    UseToken(usize, u8),
    ReAuthenticate(usize),
    Wipe(usize),
    SignOut(usize),
    Check(usize),
    Lock(usize),
    Unlock(usize),
    Delete(usize),
    Join(usize, u8),
    Leave(usize, u8),
    CutOff(u8, usize),
    /// By which filter, whether it wipes, and what happens between a look at it and its statement.
    Revoke(u8, bool, Option<Box<Act>>),
    Limits(Option<i64>, Option<i64>, bool),
    /// Which ones, and what happens between a look at whom they are about and their statement.
    Policies(Vec<(u8, i64)>, Option<Box<Act>>),
    /// One more, beside those that there are.
    AddPolicy(u8, i64),
    CreateToken,
    PutTask(bool),
    DeleteTask,
    BeginRun,
    /// Which one, and whether it has said all.
    EndRun(usize, bool),
    /// The server that carries out all runs is gone.
    LoseRuns,
    Pass(i64),
    Sweep,
}

fn meanwhile() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..9_usize, 0..3_u8).prop_map(|(user, device)| Act::SignIn { user, device }),
        2 => (0..9_usize, proptest::option::of(0..2_u8))
            .prop_map(|(user, team)| Act::ChangeTeam(user, team)),
        2 => (0..9_usize, 0..2_u8).prop_map(|(user, group)| Act::Join(user, group)),
        1 => (0..9_usize).prop_map(Act::SignOut),
        1 => (0..9_usize).prop_map(Act::Wipe),
        1 => (0..9_usize).prop_map(Act::Delete),
    ]
}

pub(super) fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::CreateUser),
        3 => (0..9_usize, proptest::option::of(0..2_u8))
            .prop_map(|(user, team)| Act::ChangeTeam(user, team)),
        4 => (0..9_usize, proptest::option::of(-5..60_i64))
            .prop_map(|(user, hours)| Act::SetNotAfter(user, hours)),
        14 => (0..9_usize, 0..3_u8).prop_map(|(user, device)| Act::SignIn { user, device }),
        2 => (0..9_usize, any::<bool>()).prop_map(|(user, otp)| Act::IssueToken(user, otp)),
        3 => (0..9_usize, 0..3_u8).prop_map(|(token, device)| Act::UseToken(token, device)),
        2 => (0..9_usize).prop_map(Act::ReAuthenticate),
        1 => (0..9_usize).prop_map(Act::Wipe),
        1 => (0..9_usize).prop_map(Act::SignOut),
        5 => (0..9_usize).prop_map(Act::Check),
        1 => (0..9_usize).prop_map(Act::Lock),
        1 => (0..9_usize).prop_map(Act::Unlock),
        1 => (0..9_usize).prop_map(Act::Delete),
        2 => (0..9_usize, 0..2_u8).prop_map(|(user, group)| Act::Join(user, group)),
        3 => (0..9_usize, 0..2_u8).prop_map(|(user, group)| Act::Leave(user, group)),
        2 => (0..4_u8, 0..9_usize).prop_map(|(scope, user)| Act::CutOff(scope, user)),
        3 => (0..9_u8, any::<bool>(), proptest::option::of(meanwhile()))
            .prop_map(|(filter, wipes, act)| Act::Revoke(filter, wipes, act.map(Box::new))),
        5 => (proptest::option::of(5..50_i64), proptest::option::of(1..6_i64), any::<bool>())
            .prop_map(|(age, idle, many)| Act::Limits(age, idle, many)),
        3 => (proptest::collection::vec((0..14_u8, 2..40_i64), 0..4),
              proptest::option::weighted(0.3, meanwhile()))
            .prop_map(|(chosen, act)| Act::Policies(chosen, act.map(Box::new))),
        2 => (0..14_u8, 2..40_i64).prop_map(|(kind, hours)| Act::AddPolicy(kind, hours)),
        1 => Just(Act::CreateToken),
        2 => any::<bool>().prop_map(Act::PutTask),
        1 => Just(Act::DeleteTask),
        6 => Just(Act::BeginRun),
        3 => (0..9_usize, any::<bool>()).prop_map(|(run, is_answered)| {
            Act::EndRun(run, is_answered)
        }),
        1 => Just(Act::LoseRuns),
        6 => (1..20_i64).prop_map(Act::Pass),
        3 => Just(Act::Sweep),
    ]
}

/// What the history has made so far.
pub(super) struct World {
    pub(super) db: Db,
    pub(super) clock: Clock,
    pub(super) app: App,
    pub(super) users: Vec<UserId>,
    pub(super) devices: Vec<(UserId, SessionId, String)>,
    tokens: Vec<(UserId, String)>,
    runs: Vec<Claimed>,
    /// The policies and the users' dates as they were stated last.
    policies: Vec<Policy>,
    dates: BTreeMap<UserId, Option<Time>>,
}

impl World {
    pub(super) async fn new(db: &Db, clock: &Clock) -> Result<Self> {
        let mut tx = db.write(By::System).await?;
        let settings = Settings { multiple_devices_per_user: true, ..Settings::default() };
        let app = apps::create(&mut tx, ("world", settings), false).await?;
        let admin = tokens::Scopes::from_names(&["app:admin"])?;
        tasks::put(&mut tx, app.id, task(true)?, admin).await?;
        let mut users = Vec::new();
        for _ in 0..3 {
            let schema = &app.settings.user_schema;
            users.push(users::create(&mut tx, app.id, schema, None, Map::new()).await?.id);
        }
        tx.commit().await?;
        Ok(Self {
            db: db.clone(),
            clock: clock.clone(),
            app,
            users,
            devices: Vec::new(),
            tokens: Vec::new(),
            runs: Vec::new(),
            policies: Vec::new(),
            dates: BTreeMap::new(),
        })
    }

    fn user(&self, at: usize) -> Option<UserId> {
        self.users.get(at % self.users.len().max(1)).copied()
    }

    fn device(&self, at: usize) -> Option<&(UserId, SessionId, String)> {
        self.devices.get(at % self.devices.len().max(1))
    }

    /// A policy of one of the kinds there are.
    fn policy(&self, at: usize, (kind, hours): (u8, i64)) -> Option<Policy> {
        let users = vec![self.user(at)?];
        let (span, text) = (Span::hours(hours).to_string(), |hours: i64| {
            (self.db.now() + Span::hours(hours)).to_string()
        });
        let age = json!({ "max_age": span });
        let group = json!([format!("group {}", kind % 2)]);
        let (applies_to, limits) = match kind {
            0 | 1 => (json!({ "groups": group }), age),
            2 => (json!({ "everyone": true }), json!({ "max_age": span, "spread": "20%" })),
            3 => (json!({ "groups": group, "users": users }), age),
            4 => (json!({ "everyone": true }), json!({ "max_idle": span })),
            5 => {
                let daily_at = format!("{:02}:30", hours % 24);
                (json!({ "groups": group }), json!({ "daily_at": daily_at, "zone": "UTC" }))
            }
            6 => (json!({ "attributes": { "name": "team 0" } }), age),
            7 => (json!({ "attributes": { "name": "team 1" }, "groups": group }), age),
            8 => (json!({ "platforms": ["iOS"] }), age),
            9 => (json!({ "labels": ["*0", "till-?"] }), age),
            10 => (json!({ "everyone": true }), json!({ "max_sessions": 1 + hours % 2 })),
            11 => (json!({ "methods": ["pwd"] }), json!({ "require_methods": ["otp"] })),
            12 => (json!({ "labels": ["*"] }), age),
            _ => (json!({ "everyone": true }), json!({ "not_after": text(hours) })),
        };
        let mut policy = json!({ "name": format!("policy {at}"), "applies_to": applies_to,
            "limits": limits });
        if hours % 5 == 0 {
            policy["valid_from"] = text(hours).into();
        }
        if hours % 7 == 0 {
            policy["valid_until"] = text(2 * hours).into();
        }
        Some(serde_json::from_value(policy).expect("a policy"))
    }

    fn policies(&self, chosen: &[(u8, i64)]) -> Vec<Policy> {
        chosen.iter().enumerate().filter_map(|(at, it)| self.policy(at, *it)).collect()
    }

    /// Whether something is a real authentication, or takes away what bounds someone's access now:
    /// all else moves no end of a session later.
    pub(super) fn may_lengthen(&self, act: &Act) -> bool {
        let is_longer = |new: Option<Span>, old: Option<Span>| {
            old.is_some_and(|old| new.is_none_or(|new| old < new))
        };
        let selects = |is_meant: &dyn Fn(&Selector) -> bool| {
            self.policies.iter().any(|policy| is_meant(&policy.applies_to))
        };
        match act {
            Act::SignIn { .. } | Act::UseToken(..) => true,
            Act::Revoke(.., Some(act)) => self.may_lengthen(act),
            Act::Policies(chosen, meanwhile) => {
                let new = self.policies(chosen);
                let is_kept = |old: &Policy| new.contains(old);
                !self.policies.iter().all(is_kept)
                    || meanwhile.as_ref().is_some_and(|act| self.may_lengthen(act))
            }
            Act::Limits(age, idle, _) => {
                let Settings { max_session_age, max_idle, .. } = self.app.settings;
                is_longer(age.map(Span::hours), max_session_age)
                    || is_longer(idle.map(Span::hours), max_idle)
            }
            Act::SetNotAfter(at, hours) => {
                let user = self.user(*at);
                let old = user.and_then(|user| self.dates.get(&user).copied().flatten());
                let new = hours.map(|hours| self.db.now() + Span::hours(hours));
                // A moment passes until it is stated.
                old.is_some_and(|old| new.is_none_or(|new| old < new + Span::seconds(1)))
            }
            Act::Leave(_, group) => {
                let name = format!("group {group}");
                selects(&|it| it.groups.as_ref().is_some_and(|all| all.contains(&name)))
            }
            Act::ChangeTeam(..) => selects(&|it| it.attributes.is_some()),
            _ => false,
        }
    }

    /// How many sessions are valid, and how many of them a preview says a set would end.
    pub(super) async fn foreseen(&self, chosen: &[(u8, i64)]) -> Result<(usize, usize)> {
        let all = self.policies(chosen);
        let found = selectors::find(&mut self.db.read().await?, &self.app, &all).await?;
        let (app, now) = (self.app.id, self.db.now());
        let seen = self.db.live().preview(app, (&all, &found), now, &Seen::default())?;
        Ok((seen.sessions, seen.ended_sessions))
    }

    pub(super) async fn carry_out(&mut self, act: &Act) -> Result<()> {
        match act {
            Act::Pass(hours) => self.clock.pass(Span::hours(*hours)),
            Act::Sweep => drop(super::swept(&self.db).await?),
            Act::Revoke(filter, wipes, meanwhile) => {
                let filter = filter_of(*filter, self.db.now());
                let seen = revocations::look(&self.db, &self.app, filter, *wipes).await?;
                if let Some(act) = meanwhile {
                    self.change(act).await?;
                }
                self.revoke(seen).await?;
            }
            Act::Policies(chosen, meanwhile) => {
                let all = self.policies(chosen);
                let seen = selectors::look(&self.db, &self.app, &all).await?;
                if let Some(act) = meanwhile {
                    self.change(act).await?;
                }
                self.state(all, seen).await?;
            }
            Act::AddPolicy(kind, hours) => {
                let mut all = self.policies.clone();
                all.extend(self.policy(all.len(), (*kind, *hours)));
                let seen = selectors::look(&self.db, &self.app, &all).await?;
                self.state(all, seen).await?;
            }
            Act::Check(at) => {
                if let Some((.., token)) = self.device(*at) {
                    devices::check(&self.db, token)?;
                }
            }
            act => self.change(act).await?,
        }
        Ok(())
    }

    /// What was seen, and seen again where it has changed, is what there is.
    async fn revoke(&self, seen: Looked) -> Result<()> {
        let mut tx = self.db.write(By::System).await?;
        let again = revocations::look_again(&mut tx, &self.app, seen).await?;
        let (filter, wipes) = (again.filter.clone(), again.wipes);
        let anew = revocations::look(&self.db, &self.app, filter, wipes).await?;
        assert_eq!(sorted(&again), sorted(&anew));
        revocations::set(&mut tx, self.app.id, again, None).await?;
        tx.commit().await.map(|_| ())
    }

    /// The same for a set of policies.
    async fn state(&mut self, all: Vec<Policy>, seen: selectors::Looked) -> Result<()> {
        let mut tx = self.db.write(By::System).await?;
        let again = selectors::find_again(&mut tx, &self.app, &all, seen.clone()).await?;
        let anew = selectors::find(&mut tx, &self.app, &all).await?;
        assert_eq!(in_order(again.labels), in_order(anew.labels));
        let groups = |all: Vec<(String, Vec<UserId>)>| -> Vec<_> {
            all.into_iter().map(|(name, members)| (name, in_order(members))).collect()
        };
        assert_eq!(groups(again.groups), groups(anew.groups));
        policies::set(&mut tx, &self.app, (all.clone(), Some(seen)), true, None).await?;
        tx.commit().await?;
        self.policies = all;
        Ok(())
    }

    async fn change(&mut self, act: &Act) -> Result<()> {
        let app = self.app.id;
        let mut tx = self.db.write(By::System).await?;
        match act {
            Act::CreateUser => {
                let schema = &self.app.settings.user_schema;
                let user = users::create(&mut tx, app, schema, None, Map::new()).await?;
                self.users.push(user.id);
            }
            Act::SignIn { user, device } => {
                let Some(user) = self.user(*user) else { return Ok(()) };
                let (token, _) = devices::issue(&mut tx, app, user, None, proof(*device)).await?;
                let device = told_by(*device);
                let made = devices::enroll(&mut tx, app, token.reveal(), device).await?;
                self.devices.push((user, made.session, made.secret.reveal().to_owned()));
            }
            Act::IssueToken(user, otp) => {
                let Some(user) = self.user(*user) else { return Ok(()) };
                let life = Some(Span::hours(20));
                let (token, _) =
                    devices::issue(&mut tx, app, user, life, proof(u8::from(*otp))).await?;
                self.tokens.push((user, token.reveal().to_owned()));
            }
            Act::UseToken(at, device) => {
                let at = at % self.tokens.len().max(1);
                let Some((user, token)) = self.tokens.get(at) else { return Ok(()) };
                let made = devices::enroll(&mut tx, app, token, told_by(*device)).await?;
                self.devices.push((*user, made.session, made.secret.reveal().to_owned()));
            }
            Act::ReAuthenticate(at) | Act::Wipe(at) | Act::SignOut(at) => {
                let Some(&(user, session, _)) = self.device(*at) else { return Ok(()) };
                match act {
                    Act::Wipe(_) => sessions::wipe(&mut tx, app, user, session, None).await?,
                    Act::SignOut(_) => sessions::sign_out(&mut tx, app, user, session).await?,
                    _ => sessions::re_authenticate(&mut tx, app, user, session, None).await?,
                }
            }
            Act::CutOff(scope, at) => {
                let Some(user) = self.user(*at) else { return Ok(()) };
                cutoffs::set(&mut tx, cut_off(*scope, app, user), None).await?;
            }
            Act::Limits(age, idle, many) => {
                let settings = Settings {
                    max_session_age: age.map(Span::hours),
                    max_idle: idle.map(Span::hours),
                    multiple_devices_per_user: *many,
                    ..self.app.settings.clone()
                };
                self.app = apps::change(&mut tx, &self.app, ("world", settings), true).await?;
            }
            Act::CreateToken => {
                let scopes = tokens::Scopes::from_names(&["users:read"])?;
                tokens::create(&mut tx, Some(app), "t", scopes, Some(Span::hours(9))).await?;
            }
            Act::PutTask(_) | Act::DeleteTask | Act::BeginRun | Act::EndRun(..) | Act::LoseRuns => {
                self.change_task(&mut tx, act).await?;
            }
            act => self.change_user(&mut tx, act).await?,
        }
        tx.commit().await.map(|_| ())
    }

    async fn change_task(&mut self, tx: &mut Tx, act: &Act) -> Result<()> {
        let app = self.app.id;
        match act {
            Act::PutTask(is_wide) => {
                let admin = tokens::Scopes::from_names(&["app:admin"])?;
                tasks::put(tx, app, task(*is_wide)?, admin).await?;
            }
            Act::DeleteTask => tasks::delete(tx, app, "t").await?,
            Act::BeginRun => {
                let found = tasks::find(tx, app, "t").await?;
                let order = tasks::Order::by(tasks::Trigger::Hand);
                tasks::queue(tx, app, &found, order).await?;
                let (life, lease) = (Span::hours(4), Span::minutes(1));
                let claim = tasks::Claim { life, lease, per_app: 9 };
                self.runs.extend(tasks::claim(tx, claim).await?);
            }
            Act::EndRun(at, is_answered) => {
                if self.runs.is_empty() {
                    return Ok(());
                }
                let claimed = self.runs.remove(at % self.runs.len());
                tasks::finish(tx, &claimed, &ended(*is_answered)).await?;
            }
            _ => while tasks::recover(tx, true, Span::minutes(1)).await? {},
        }
        Ok(())
    }

    async fn change_user(&mut self, tx: &mut Tx, act: &Act) -> Result<()> {
        let app = self.app.id;
        match act {
            Act::ChangeTeam(at, team) => {
                let Some(user) = self.user(*at) else { return Ok(()) };
                let name = team.map_or(Value::Null, |team| format!("team {team}").into());
                let given = [("name".to_owned(), name)].into_iter().collect();
                let schema = &self.app.settings.user_schema;
                users::patch(tx, app, schema, user, given).await?;
            }
            Act::SetNotAfter(at, hours) => {
                let Some(user) = self.user(*at) else { return Ok(()) };
                let moment = hours.map(|hours| tx.now() + Span::hours(hours));
                users::set_not_after(tx, app, user, moment, None).await?;
                self.dates.insert(user, moment);
            }
            Act::Lock(at) | Act::Unlock(at) | Act::Delete(at) => {
                let Some(user) = self.user(*at) else { return Ok(()) };
                match act {
                    Act::Lock(_) => users::lock(tx, app, user, None).await?,
                    Act::Unlock(_) => {
                        users::unlock(tx, app, user, None, tokens::Scopes::default()).await?;
                    }
                    _ => users::delete(tx, app, user).await?,
                }
            }
            Act::Join(at, group) | Act::Leave(at, group) => {
                let Some(user) = self.user(*at) else { return Ok(()) };
                let name = format!("group {group}");
                match act {
                    Act::Join(..) => groups::add_member(tx, app, &name, user).await?,
                    _ => groups::remove_member(tx, app, &name, user).await?,
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A task, whose runs may do more or less.
fn task(is_wide: bool) -> Result<Definition> {
    let scopes = if is_wide { ["users:read", "sessions:end"] } else { ["users:read"; 2] };
    Ok(Definition {
        name: "t".into(),
        file: "t.js".into(),
        source: "export function run() {}".into(),
        files: BTreeMap::new(),
        script: String::new(),
        scopes: tokens::Scopes::from_names(&scopes)?,
        schedule: None,
        params: json!({}),
        env: BTreeMap::new(),
        single_instance: false,
        options: tasks::Options::default(),
    })
}

/// A run has ended by itself, or is to be tried again.
fn ended(is_answered: bool) -> Finished {
    let failed = ("timed_out".to_owned(), "it took too long".to_owned());
    let (outcome, ending) = if is_answered {
        (Ok("null".to_owned()), Ending::Answered)
    } else {
        (Err(failed), Ending::NoAnswer)
    };
    let retry_after = Span::minutes(1);
    Finished { outcome, ending, log: Vec::new(), changes: None, retry_after }
}

fn cut_off(scope: u8, app: AppId, user: UserId) -> CutOffScope {
    match scope {
        0 => CutOffScope::Everyone,
        1 => CutOffScope::App { app },
        2 => CutOffScope::Group { app, name: "group 0".into() },
        _ => CutOffScope::User { user },
    }
}

/// A filter of one of the kinds there are.
fn filter_of(kind: u8, now: Time) -> Filter {
    let mut filter = Filter::default();
    let applies_to = &mut filter.applies_to;
    match kind {
        0 => applies_to.groups = Some(vec!["group 0".into()]),
        1 => applies_to.labels = Some(vec!["till-1".into()]),
        2 | 8 => applies_to.platforms = Some(vec!["ios".into()]),
        7 => applies_to.methods = Some(Methods::of(["otp"]).expect("known")),
        6 => {
            let team = [("name".to_owned(), Value::from("team 0"))];
            applies_to.attributes = Some(team.into_iter().collect());
        }
        _ => applies_to.everyone = true,
    }
    match kind {
        3 => filter.ip = Some("203.0.113.0/31".parse().expect("a network")),
        4 => filter.device_id = Some("device 2".into()),
        7 | 8 => filter.device_id = Some("device 1".into()),
        5 => filter.created_before = Some(now - Span::hours(5)),
        _ => {}
    }
    filter
}

type Sorted = (Option<Vec<UserId>>, Option<Vec<SessionId>>, Vec<(UserId, SessionId)>);

fn in_order<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list
}

fn sorted(Looked { met, found, .. }: &Looked) -> Sorted {
    let users = met.users.clone().map(in_order);
    let sessions = met.sessions.as_ref().map(|met| in_order(met.iter().copied().collect()));
    (users, sessions, in_order(found.clone()))
}

/// Every other device proves itself by one method more.
fn proof(device: u8) -> Proof {
    let methods = ["pwd", "otp"].into_iter().take(1 + usize::from(device % 2));
    Proof { methods: Methods::of(methods).expect("known"), assurance: None }
}

fn told_by(device: u8) -> Device {
    let platform = if device == 1 { "Android" } else { "ios" };
    Device {
        id: format!("device {device}"),
        // One tells none.
        label: (device != 2).then(|| format!("till-{device}")),
        container: Some(json!({ "platform": platform })),
        runtime: None,
        address: Some(IpAddr::from([203, 0, 113, device])),
    }
}
