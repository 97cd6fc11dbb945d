//! `reauth simulate`: the next days, lived through on a copy of the store.

use std::path::PathBuf;

use clap::Args;
use reauth_sdk::{Moment, Span};
use reauth_server::domain::Clock;
use reauth_server::{Progress, Simulation, TaskCount, Wanted};
use tokio::signal::unix::{SignalKind, signal};

use crate::chart;
use crate::connect::Options;
use crate::failure::{Failure, Result};
use crate::output::{self, Output};
use crate::times::at;
use crate::verbs::policy;
use crate::verbs::serve::{self, Store};

pub(crate) const EXAMPLES: &str = "\
The store is copied and only read; a server may have it open. On the copy, time moves from one event
to the next: every device stays in use (idle limits end nothing) and signs in again as soon as it
must; scheduled tasks run, and what they would change is counted instead of being done. Of the
world, as far as tasks.fetch_allowed of the configuration names it, they reach GET and HEAD only.

Example:
  reauth simulate --days 90 --policies policies.toml --data ./reauth-data";

/// `reauth simulate`
#[derive(Args, Debug)]
pub(crate) struct Simulate {
    #[command(flatten)]
    store: Store,
    /// How many days: up to 90
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    days: u32,
    /// The file with the whole set of policies; the set that holds unless given
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Agree that nothing may end every session of the app
    #[arg(long)]
    allow_endless: bool,
}

pub(crate) async fn simulate(args: &Simulate, options: &Options) -> Result<()> {
    // Each of the tasks' runs would be told; what matters is in the report.
    serve::begin_log(None, "error").map_err(Failure::usage)?;
    let config = args.store.config().map_err(Failure::usage)?;
    let child = serve::child().map_err(Failure::new)?;
    let policies = args.policies.as_deref().map(policy::read).transpose()?;
    let policies = policies.map(serde_json::to_value).transpose();
    let policies = policies.map_err(|error| Failure::new(error.to_string()))?;
    let wanted = Wanted {
        app: options.app().map(str::to_owned),
        days: args.days,
        policies,
        allow_endless: args.allow_endless,
    };
    let bar = output::progress(u64::from(args.days) * 24, "hours");
    let tell = |Progress { hours, sign_ins }: Progress| {
        bar.set_position(hours);
        bar.set_message(format!("hours lived through, {sign_ins} sign-ins"));
    };
    let clock = Clock::manual(Clock::machine_time());
    let signal = |kind| signal(kind).map_err(|error| Failure::new(error.to_string()));
    let (mut terminate, mut hang_up) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let stopped = || Err("stopped: the copy is deleted".to_owned());
    let lived = tokio::select! {
        lived = reauth_server::simulate(&config, clock, child, wanted, tell) => lived,
        // The copy goes with the simulation.
        _ = tokio::signal::ctrl_c() => stopped(),
        _ = terminate.recv() => stopped(),
        _ = hang_up.recv() => stopped(),
    };
    bar.finish_and_clear();
    let lived = lived.map_err(Failure::new)?;
    Output::new(options.is_json()).either(&lived, &text(&lived)?)
}

fn text(lived: &Simulation) -> Result<String> {
    let from: Moment = lived.from.parse().map_err(|_| Failure::new("an unreadable moment"))?;
    let days =
        |hours: &[u64]| -> Vec<u64> { hours.chunks(24).map(|hours| hours.iter().sum()).collect() };
    let (signed_in, forecast) = (days(&lived.hours), days(&lived.forecast_hours));
    let most = signed_in.iter().copied().max().unwrap_or(0);
    let rows = signed_in.iter().zip(&forecast).enumerate();
    let rows = rows.filter(|(_, (count, forecast))| **count + **forecast > 0);
    let rows = rows.map(|(day, (count, forecast))| {
        let start = from.after(Span::from_seconds(day as i64 * 86_400));
        vec![at(start), format!("{} {count}", chart::bar(*count, most)), forecast.to_string()]
    });
    let by_day = output::table(&["24 h from", "sign-ins", "forecast"], rows.collect());
    let ends = lived.ends.iter().map(|end| {
        let policy = end.policy.clone().unwrap_or_default();
        vec![end.because.to_owned(), policy, end.times.to_string()]
    });
    let ends = output::table(&["ended because", "policy", "times"], ends.collect());
    let tasks = lived.tasks.iter().map(|task| {
        vec![task.task.clone(), task.runs.to_string(), task.failed.to_string(), would(task)]
    });
    let tasks = output::table(&["task", "runs", "failed", "would do"], tasks.collect());
    let peak_at = lived.peak_at.as_deref().unwrap_or("never");
    Ok(format!(
        "{} days from {} on a copy: {} sessions\n\
         Sign-ins forced: {} (forecast: {}), most in one second: {} ({peak_at})\n\
         Ended and not signed in again: {}\n\
         Warnings before an end: {}\n\n{by_day}\n\n{ends}\n\n{tasks}",
        lived.days,
        at(from),
        lived.sessions,
        signed_in.iter().sum::<u64>(),
        forecast.iter().sum::<u64>(),
        lived.peak_per_second,
        lived.ended_for_good,
        lived.warnings,
    ))
}

fn would(task: &TaskCount) -> String {
    let done = task.would.iter().map(|(kind, times)| format!("{kind} {times}×"));
    let done = done.collect::<Vec<_>>().join(", ");
    if done.is_empty() { "nothing".to_owned() } else { done }
}
