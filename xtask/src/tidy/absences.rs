//! What must be absent from a crate's Cargo.toml: the laws that a crate stands for.

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use super::Finding;
use crate::root;

/// A crate, what it must not depend on directly, and which crates of ours it may.
type Law = (&'static str, &'static [&'static str], &'static [&'static str]);

const HTTP: [&str; 4] = ["axum", "hyper", "reqwest", "tower"];

const LAWS: &[Law] = &[
    ("reauth-domain", &["axum", "hyper", "reqwest", "tower", "rquickjs", "oxc"], &[]),
    ("reauth-sandbox", &["axum", "hyper", "reqwest", "tower", "sqlx"], &[]),
    ("reauth-server", &["sqlx", "rquickjs", "oxc"], &["reauth-domain", "reauth-sandbox"]),
    ("reauth-sdk", &["sqlx", "axum", "rquickjs"], &[]),
    ("reauth-cli", &["sqlx", "axum", "rquickjs"], &["reauth-sdk", "reauth-server"]),
    ("xtask", &HTTP, &[]),
];

/// Every direct dependency that contradicts a law, and every crate without one.
pub(super) fn look() -> Result<Vec<Finding>, String> {
    let mut command = MetadataCommand::new();
    command.current_dir(root()).no_deps().other_options(["--locked".to_owned()]);
    let metadata = command.exec().map_err(|error| error.to_string())?;
    Ok(metadata.packages.iter().flat_map(broken).collect())
}

fn broken(package: &Package) -> Vec<Finding> {
    let path = package.manifest_path.as_str();
    let Some((_, banned, ours)) = LAWS.iter().find(|(name, ..)| *name == package.name.as_str())
    else {
        return vec![Finding::new(path, 1, "this crate has no law in xtask/src/tidy/absences.rs")];
    };
    let direct = package.dependencies.iter().filter(|one| one.kind == DependencyKind::Normal);
    let wrong = direct.filter(|one| {
        let name = one.name.as_str();
        banned.contains(&name) || (name.starts_with("reauth-") && !ours.contains(&name))
    });
    let finding = |one: &cargo_metadata::Dependency| {
        Finding::new(path, 1, format!("{} must not depend on {}", package.name, one.name))
    };
    let mut found: Vec<Finding> = wrong.map(finding).collect();
    let text = std::fs::read_to_string(&package.manifest_path).unwrap_or_default();
    if !text.contains("[lints]\nworkspace = true") {
        found.push(Finding::new(path, 1, "add [lints] workspace = true"));
    }
    let lib =
        root().join(format!("crates/{}/src/lib.rs", package.name.trim_start_matches("reauth-")));
    let must_document = ["reauth-domain", "reauth-sdk"].contains(&package.name.as_str());
    let documented = std::fs::read_to_string(lib).unwrap_or_default();
    if must_document && !documented.contains("#![warn(missing_docs)]") {
        found.push(Finding::new(path, 1, "add #![warn(missing_docs)] to lib.rs"));
    }
    found
}
