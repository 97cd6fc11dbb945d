//! Everything that must hold before a change lands. It installs what it can and fails with one line
//! on what it cannot; what is skipped is printed as skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{deny, run, tidy};

/// One step: its name, and what it does; the text is what was skipped, if anything.
type Step = (&'static str, fn() -> Result<Option<String>, String>);

const STEPS: &[Step] = &[
    ("postgres", || postgres().map(|()| None)),
    ("format", || run("cargo", &["fmt", "--all", "--check"]).map(|()| None)),
    ("tidy", || tidy::tidy().map(|()| None)),
    ("clippy", || clippy().map(|()| None)),
    // Before the stories: some of them bundle tasks by what this installs.
    ("types", types),
    // Plain `cargo test`: one process a test program lets all its stories share one PostgreSQL.
    ("test", || run("cargo", &["test", "--locked", "--workspace"]).map(|()| None)),
    ("doc", || doc().map(|()| None)),
    ("deny", deny::deny),
];

/// Runs all steps; the first failure ends it.
pub(crate) fn ci() -> Result<(), String> {
    let began = Instant::now(); // clock: measures
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let mut failure = None;
    for (name, step) in STEPS {
        println!("\n== {name}");
        let step_began = Instant::now(); // clock: measures
        let done = step();
        let took = step_began.elapsed();
        match done {
            Ok(None) => rows.push((*name, "ok", took)),
            Ok(Some(what)) => {
                rows.push((*name, "ok, in part", took));
                skipped.push(what);
            }
            Err(why) => {
                rows.push((*name, "FAILED", took));
                failure = Some(format!("{name}: {why}"));
                break;
            }
        }
    }
    println!("\n== summary");
    for (name, outcome, took) in rows {
        println!("{name:<10} {outcome:<12} {:>6.1} s", seconds(took));
    }
    println!("{:<10} {:<12} {:>6.1} s", "all", "", seconds(began.elapsed()));
    for what in skipped {
        println!("skipped: {what}");
    }
    failure.map_or(Ok(()), Err)
}

fn seconds(took: Duration) -> f64 {
    took.as_secs_f64()
}

fn clippy() -> Result<(), String> {
    let args = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run("cargo", &args)
}

fn doc() -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["doc", "--locked", "--workspace", "--no-deps", "--quiet"]);
    command.env("RUSTDOCFLAGS", "-D warnings").current_dir(crate::root());
    let status = command.status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err("the documentation has errors".to_owned()) }
}

/// The stories need PostgreSQL's server programs; where they are missing, the system's package
/// manager brings them.
fn postgres() -> Result<(), String> {
    if let Some(bin) = server_programs() {
        println!("found in {}", bin.display());
        return Ok(());
    }
    let wanted = "PostgreSQL's server is missing: run `apt-get install postgresql` as root, or \
                  put initdb and postgres into PATH";
    install(&["postgresql"]).map_err(|_| wanted.to_owned())?;
    server_programs().map(|_| ()).ok_or_else(|| wanted.to_owned())
}

/// Lets the system's package manager bring what is missing, where it may.
fn install(packages: &[&str]) -> Result<(), String> {
    let is_root = std::fs::metadata("/proc/self")
        .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !is_root || !Path::new("/usr/bin/apt-get").exists() {
        return Err("only root can install it".to_owned());
    }
    println!("installing {}", packages.join(" "));
    run("apt-get", &["update", "-qq"])?;
    let quiet = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"];
    run("env", &[&quiet[..], &["--no-install-recommends"], packages].concat())
}

/// What npm brings: the compiler that reads the examples' types, and what `reauth task` bundles
/// packages with. `xtask/npm` says which versions, and what their files must hash to; their own
/// scripts are not run. False if there is no npm.
pub(crate) fn npm() -> Result<bool, String> {
    let has = |program: &str| {
        Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success())
    };
    if (!has("node") || !has("npm")) && install(&["nodejs", "npm"]).is_err() {
        return Ok(false);
    }
    let (wanted, folder) = (crate::root().join("xtask/npm"), npm_folder());
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    for name in ["package.json", "package-lock.json"] {
        std::fs::copy(wanted.join(name), folder.join(name)).map_err(|error| error.to_string())?;
    }
    let place = folder.display().to_string();
    let quiet = ["--loglevel=error", "--no-audit", "--no-fund", "--prefer-offline"];
    let safe = ["--ignore-scripts", "--prefix", &place];
    run("npm", &[&["ci"], &quiet[..], &safe].concat())?;
    Ok(true)
}

fn npm_folder() -> PathBuf {
    crate::root().join("target").join("npm")
}

/// The types for authors of tasks fit all examples.
fn types() -> Result<Option<String>, String> {
    if !npm()? {
        let what = "types of the examples, and stories of npm packages: node and npm are missing";
        return Ok(Some(what.to_owned()));
    }
    let compiler = npm_folder().join("node_modules/.bin/tsc").display().to_string();
    run(&compiler, &["--noEmit", "-p", "examples/tasks"])?;
    Ok(None)
}

fn server_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    all.extend(std::env::split_paths(&path));
    all.into_iter().find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
}
