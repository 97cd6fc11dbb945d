//! The binary `reauth`. Each client verb is a file in `verbs` and asks the server through
//! `reauth-sdk`; none of them knows the database. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod chart;
mod confirm;
mod connect;
mod failure;
mod output;
mod paging;
mod times;
mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::connect::{Context, Options};
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  reauth app create Field --max-session-age 30d
  reauth token create backend --scope users:read --scope sessions:end
  reauth session list --older-than 30d
  reauth revoke --group contractors --reason \"the contract ended\"

Times are shown in UTC. Durations are a number and a unit: 45s, 90m, 12h, 30d.";

/// Session authority: knows who is signed in on which device, and ends every session on time
#[derive(Parser)]
#[command(name = "reauth", version, after_help = EXAMPLES)]
#[command(propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a server; one JSON line on standard output says when it is ready
    #[command(after_help = verbs::serve::EXAMPLES)]
    Serve(verbs::serve::Serve),
    /// Create a store and print the operator's token, this once, as JSON
    Init(verbs::serve::Init),
    /// Copy the embedded database to a file, while the server runs
    #[command(after_help = verbs::copies::backup::BACKUP_EXAMPLES)]
    Backup(verbs::copies::backup::Backup),
    /// Put a backup in place; all sessions and tokens from before are void
    #[command(after_help = verbs::copies::backup::RESTORE_EXAMPLES)]
    Restore(verbs::copies::backup::Restore),
    /// Make all sessions and tokens of a store void, as after a restore by hand
    #[command(after_help = verbs::copies::backup::FENCE_EXAMPLES)]
    Fence(verbs::copies::backup::Fence),
    /// Live through the next days on a copy: who must sign in again, what tasks would do
    #[command(after_help = verbs::copies::simulate::EXAMPLES)]
    Simulate(verbs::copies::simulate::Simulate),
    /// Show the main job on a sample: old sessions must sign in again
    Demo(verbs::demo::Demo),
    /// Print the API as OpenAPI 3.1
    #[command(hide = true)]
    Openapi,
    /// The child in which a script runs; started by the server
    #[command(hide = true)]
    SandboxChild,
    /// Apps: whose users, and how long their sessions last
    #[command(subcommand)]
    App(verbs::app::Verb),
    /// API tokens: what a program may do
    #[command(subcommand)]
    Token(verbs::token::Verb),
    /// Users: list, create, lock and unlock them
    #[command(subcommand)]
    User(verbs::user::Verb),
    /// Device sessions: list them, or end one
    #[command(subcommand)]
    Session(verbs::session::Verb),
    /// Groups of users, for policies and cut-offs
    #[command(subcommand)]
    Group(verbs::group::Verb),
    /// Policies: how long sign-ins last, and for whom
    #[command(subcommand)]
    Policy(verbs::policy::Verb),
    /// Make many users sign in again at once
    Revoke(verbs::revoke::Arguments),
    /// Tasks: scripts that run by hand or by schedule
    #[command(subcommand)]
    Task(verbs::task::Verb),
    /// The ledger: what happened, to whom, by whom, why, when
    #[command(subcommand)]
    Ledger(verbs::ledger::Verb),
    /// Let the server look at itself and say what is wrong
    #[command(after_help = verbs::doctor::EXAMPLES)]
    Doctor,
}

fn main() -> ExitCode {
    // The child of every run comes this way: the words of all other verbs cost it milliseconds.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "sandbox-child") {
        return reauth_server::sandbox_child();
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Verbs that are the server return from here before a client verb's runtime is built: they have a
/// runtime of their own, or, as the sandbox's child, must have none.
fn run(cli: Cli) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot start: {error}"));
    match cli.verb {
        Verb::SandboxChild => {
            reauth_server::sandbox_child();
            Ok(())
        }
        Verb::Openapi => output::print(reauth_server::openapi().trim_end()),
        Verb::Serve(args) => {
            let served = serving().map_err(failed)?.block_on(verbs::serve::serve(&args));
            served.map_err(Failure::new)
        }
        Verb::Init(args) => {
            let made = serving().map_err(failed)?.block_on(verbs::serve::init(&args));
            made.map_err(Failure::new)
        }
        Verb::Backup(args) => {
            serving().map_err(failed)?.block_on(verbs::copies::backup::backup(&args))
        }
        Verb::Restore(args) => {
            serving().map_err(failed)?.block_on(verbs::copies::backup::restore(&args))
        }
        Verb::Fence(args) => {
            serving().map_err(failed)?.block_on(verbs::copies::backup::fence(&args))
        }
        Verb::Simulate(args) => {
            let lived = verbs::copies::simulate::simulate(&args, &cli.options);
            serving().map_err(failed)?.block_on(lived)
        }
        Verb::Demo(args) => {
            let shown = serving()
                .map_err(failed)?
                .block_on(verbs::demo::demo(&args, cli.options.is_json()));
            shown.map_err(Failure::new)
        }
        // Tests have servers of their own.
        Verb::Task(verbs::task::Verb::Test(_) | verbs::task::Verb::Dev(_)) => {
            serving().map_err(failed)?.block_on(ask(cli))
        }
        _ => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().map_err(failed)?.block_on(ask(cli))
        }
    }
}

/// The runtime of a server.
fn serving() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn ask(cli: Cli) -> Result<(), Failure> {
    let context = Context::new(cli.options);
    match cli.verb {
        Verb::App(verb) => verbs::app::run(&context, verb).await,
        Verb::Token(verb) => verbs::token::run(&context, verb).await,
        Verb::User(verb) => verbs::user::run(&context, verb).await,
        Verb::Session(verb) => verbs::session::run(&context, verb).await,
        Verb::Group(verb) => verbs::group::run(&context, verb).await,
        Verb::Policy(verb) => verbs::policy::run(&context, verb).await,
        Verb::Revoke(arguments) => verbs::revoke::run(&context, arguments).await,
        Verb::Task(verb) => verbs::task::run(&context, verb).await,
        Verb::Ledger(verb) => verbs::ledger::run(&context, verb).await,
        Verb::Doctor => verbs::doctor::run(&context).await,
        // See `run`: these never come here.
        Verb::Serve(_)
        | Verb::Init(_)
        | Verb::Backup(_)
        | Verb::Restore(_)
        | Verb::Fence(_)
        | Verb::Simulate(_)
        | Verb::Demo(_)
        | Verb::Openapi
        | Verb::SandboxChild => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    fn refused(line: &str) -> ErrorKind {
        let parsed = Cli::try_parse_from(line.split(' '));
        parsed.err().unwrap_or_else(|| panic!("{line:?} must be refused")).kind()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_option_has_a_help_text() {
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} says nothing about itself");
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{path}: {name} has no help text");
            }
            command.get_subcommands().for_each(|inner| look(inner, &path));
        }
        look(&Cli::command(), "");
    }

    #[test]
    fn lines_of_the_guide_are_understood() {
        for line in [
            "reauth app create Field --max-session-age 30d --max-idle 1h --multiple-devices",
            "reauth app set 4d2f0a5b6c7d8e9f01234567 --max-idle none --multiple-devices=false",
            "reauth app set 4d2f0a5b6c7d8e9f01234567 --warn-before 3d",
            "reauth token create backend --scope users:read --scope sessions:end --expires-in 90d",
            "reauth token create backend --scope users:read,sessions:end",
            "reauth user create --name Ann --attribute email=ann@example.com --attribute age:=42",
            "reauth user token 0190 --expires-in 5m --method pwd --method otp --assurance aal2",
            "reauth session list --user 0190 --older-than 30d --json",
            "reauth --json session wipe 0190 0191 --reason stolen",
            "reauth task run tidy --params {\"days\":3} --no-wait",
            "reauth group add contractors 0190",
            "reauth revoke --everyone --yes --reason leak",
            "reauth revoke --group contractors",
            "reauth revoke --group a --group b --attribute kind=temp --method pwd --assurance aal1",
            "reauth app set 4d2f0a5b --unseen-sessions-max 100 --unseen-percent-max none",
            "reauth group members contractors",
            "reauth revoke --group g --platform ios --label till-* --wipe --dry-run",
            "reauth revoke --authenticated-before 2026-05-01 --device phone-7",
            "reauth policy preview policies.toml --chart forecast.svg",
            "reauth policy apply policies.toml --allow-endless --yes --reason audit",
            "reauth session explain 0191",
            "reauth user access-bound 0190",
            "reauth user access-bound",
            "reauth simulate --days 30 --policies policies.toml --data ./reauth-data --app 4d2f",
            "reauth revoke --ip 203.0.113.0/24 --dry-run",
            "reauth user not-after 0190 2026-12-31 --reason contract",
            "reauth ledger show --since 7d --limit 10",
            "reauth ledger show --since 2026-05-01 --user 0190",
            "reauth ledger verify",
            "reauth doctor --url https://id.example.com --token reo_x",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_before_anything_is_sent() {
        let wanted = ErrorKind::MissingRequiredArgument;
        assert_eq!(refused("reauth revoke"), wanted);
        assert_eq!(refused("reauth revoke --yes --reason leak"), wanted);
        assert_eq!(refused("reauth token create backend"), wanted);
        assert_eq!(refused("reauth app set"), wanted);
        assert_eq!(refused("reauth task put tidy.ts --zone Europe/Vienna"), wanted);
        let wanted = ErrorKind::ArgumentConflict;
        assert_eq!(refused("reauth revoke --everyone --group contractors"), wanted);
        assert_eq!(refused("reauth revoke --app-wide --user 0190"), wanted);
        let wanted = ErrorKind::ValueValidation;
        assert_eq!(refused("reauth app create Field --max-idle 1w"), wanted);
        assert_eq!(refused("reauth task run tidy --params [1]"), wanted);
        assert_eq!(refused("reauth user create --attribute email"), wanted);
        assert_eq!(refused("reauth ledger show --since yesterday"), wanted);
        assert_eq!(refused("reauth ledger show --limit 0"), wanted);
    }

    #[test]
    fn a_token_from_the_environment_is_never_shown_in_a_help_text() {
        let command = Cli::command();
        let token = command.get_arguments().find(|argument| argument.get_id() == "token");
        assert!(token.is_some_and(clap::Arg::is_hide_env_values_set));
    }
}
