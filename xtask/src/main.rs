//! The one entry for all automation: `cargo xtask help`. It depends on no crate of the workspace,
//! so that it builds in seconds.

mod ci;
mod deny;
mod tidy;

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask ci               everything that must hold before a change lands
cargo xtask tidy             the limits of style and architecture
cargo xtask openapi          write docs/openapi.json from the code
cargo xtask npm              install what the stories of npm packages need, into target/npm
cargo xtask bench [--quick]  measure, and print the table of docs/performance.md
cargo xtask help             this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["ci"] => ci::ci(),
        ["tidy"] => tidy::tidy(),
        ["npm"] => npm(),
        ["openapi"] => openapi(),
        ["bench", rest @ ..] => bench(rest),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("{other:?} is not known\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command in the workspace's folder and shows what it says.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    let status = command.args(args).current_dir(root()).status();
    let status = status.map_err(|error| format!("{program} does not run: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {}: {status}", args.join(" "))) }
}

/// The workspace's folder.
fn root() -> std::path::PathBuf {
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn npm() -> Result<(), String> {
    if ci::npm()? { Ok(()) } else { Err("node and npm are missing: install them".to_owned()) }
}

fn openapi() -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["run", "--locked", "--quiet", "--package", "reauth-cli", "--", "openapi"]);
    let made = command.current_dir(root()).output().map_err(|error| error.to_string())?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned());
    }
    let path = root().join("docs/openapi.json");
    std::fs::write(&path, made.stdout).map_err(|error| error.to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

fn bench(args: &[&str]) -> Result<(), String> {
    for name in ["authority", "tasks"] {
        let mut all =
            vec!["bench", "--locked", "--package", "reauth-server", "--bench", name, "--"];
        all.extend(args);
        run("cargo", &all)?;
    }
    Ok(())
}
