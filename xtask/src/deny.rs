//! Licences, sources and banned crates. `cargo deny` does it when it is installed. Building it
//! takes longer than all the rest: without it, the part that needs no database of advisories is
//! done here, from the same `deny.toml`, and the advisories are reported as skipped.

use std::process::Command;

use cargo_metadata::MetadataCommand;

use crate::{root, run};

/// Checks what we depend on; answers what was skipped.
pub(crate) fn deny() -> Result<Option<String>, String> {
    let has_tool = Command::new("cargo-deny").arg("--version").output().is_ok();
    if has_tool {
        return run("cargo", &["deny", "--locked", "check"]).map(|()| None);
    }
    let rules = std::fs::read_to_string(root().join("deny.toml")).map_err(|e| e.to_string())?;
    let (allowed, banned) = (list(&rules, "allow"), list(&rules, "deny"));
    if allowed.is_empty() || banned.is_empty() {
        return Err("deny.toml: the lists allow and deny cannot be read".to_owned());
    }
    let mut command = MetadataCommand::new();
    command.current_dir(root()).other_options(["--locked".to_owned()]);
    let metadata = command.exec().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let licence = package.license.as_deref().unwrap_or("none");
        if !is_allowed(licence, &allowed) {
            found.push(format!("{name}: the licence {licence:?} is not in deny.toml"));
        }
        if banned.iter().any(|banned| banned == name) {
            found.push(format!("{name}: is banned in deny.toml"));
        }
        let is_registry = |source: &cargo_metadata::Source| source.repr.starts_with("registry+");
        if package.source.as_ref().is_some_and(|source| !is_registry(source)) {
            found.push(format!("{name}: comes from elsewhere than the registry"));
        }
    }
    if !found.is_empty() {
        return Err(found.join("\n"));
    }
    println!(
        "{} packages: licences, sources and bans are as deny.toml wants",
        metadata.packages.len()
    );
    let what = "advisories: cargo-deny is not installed (cargo install cargo-deny --locked)";
    Ok(Some(what.to_owned()))
}

/// The quoted texts of `name = [ … ]`, in tables too.
fn list(rules: &str, name: &str) -> Vec<String> {
    let Some(at) = rules.find(&format!("\n{name} = [")) else { return Vec::new() };
    let inner = &rules[at..];
    let inner = &inner[..inner.find("\n]").unwrap_or(inner.len())];
    let lines = inner.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be satisfied by allowed licences alone.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ").any(|one| allowed.iter().any(|allowed| allowed == one.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_satisfied_by_one_choice_of_each_part() {
        let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
        for (expression, is) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("MIT/Apache-2.0", true),
            ("(MIT OR GPL-3.0) AND Apache-2.0", true),
            ("MIT AND GPL-3.0", false),
            ("none", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), is, "{expression}");
        }
    }

    #[test]
    fn lists_are_read_without_their_comments() {
        let rules = "[licenses]\nallow = [\n  # \"GPL\"\n  \"MIT\", # why\n  \"ISC\",\n]\n";
        assert_eq!(list(rules, "allow"), ["MIT", "ISC"]);
        assert!(list(rules, "deny").is_empty());
    }
}
