//! The limits of style and the absences of the architecture, held by a test.

mod absences;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::root;

/// What is wrong, where, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

const FOLDER_ENTRIES_MAX: usize = 14;
const ROOT_ENTRIES_MAX: usize = 20;
const BANNED_NAMES: [&str; 6] = ["common", "utils", "helpers", "core", "manager", "service"];
/// A page of a document.
const DOCUMENT_LINES: [(&str, usize); 2] = [("README.md", 110), ("ARCHITECTURE.md", 110)];
const DECISION_LINES_MAX: usize = 60;

/// Looks at every file that git knows or would take.
pub(crate) fn tidy() -> Result<(), String> {
    let files = files()?;
    let mut found = folders(&files);
    let mut share = text::Share::default();
    for path in &files {
        let Ok(text) = std::fs::read_to_string(root().join(path)) else { continue };
        found.extend(text::look(path, &text, &mut share));
        found.extend(documents(path, &text));
    }
    found.extend(absences::look()?);
    println!("{} files; {}", files.len(), share.sentence());
    if found.is_empty() {
        return Ok(());
    }
    for finding in &found {
        eprintln!("{}:{}: {}", finding.path, finding.line, finding.what);
    }
    Err(format!("{} findings", found.len()))
}

fn files() -> Result<Vec<String>, String> {
    let mut command = Command::new("git");
    command.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = command.current_dir(root()).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let files: Vec<String> =
        text.lines().filter(|path| root().join(path).is_file()).map(str::to_owned).collect();
    if files.is_empty() { Err("git lists no files".to_owned()) } else { Ok(files) }
}

fn folders(files: &[String]) -> Vec<Finding> {
    let mut entries = std::collections::BTreeMap::<PathBuf, std::collections::BTreeSet<_>>::new();
    let mut found = Vec::new();
    for file in files {
        let mut path = Path::new(file);
        while let Some(parent) = path.parent() {
            entries.entry(parent.to_owned()).or_default().insert(path.file_name());
            path = parent;
        }
        for part in Path::new(file).iter().filter_map(|part| part.to_str()) {
            let stem = part.split('.').next().unwrap_or(part);
            if BANNED_NAMES.contains(&stem) {
                found.push(Finding::new(file, 1, format!("{part:?} says nothing: name the noun")));
            }
        }
    }
    for (folder, names) in entries {
        let max = if folder.as_os_str().is_empty() { ROOT_ENTRIES_MAX } else { FOLDER_ENTRIES_MAX };
        if names.len() > max {
            let what = format!("{} entries, {max} are allowed: group them", names.len());
            found.push(Finding::new(&folder.display().to_string(), 1, what));
        }
    }
    found
}

fn documents(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let of_name = DOCUMENT_LINES.iter().find(|(name, _)| *name == path).map(|(_, max)| *max);
    let of_folder = path.starts_with("docs/decisions/").then_some(DECISION_LINES_MAX);
    let max = of_name.or(of_folder)?;
    (lines > max).then(|| Finding::new(path, max, format!("{lines} lines, {max} are allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        tidy().expect("the limits hold");
    }

    #[test]
    fn crowded_folders_and_empty_names_are_found() {
        let many: Vec<String> = (0..15).map(|n| format!("a/b/{n}.rs")).collect();
        assert_eq!(folders(&many).len(), 1);
        assert_eq!(folders(&many[1..]).len(), 0);
        assert_eq!(folders(&["a/utils/x.rs".to_owned(), "a/core.rs".to_owned()]).len(), 2);
    }

    #[test]
    fn long_documents_are_found() {
        assert!(documents("README.md", &"x\n".repeat(111)).is_some());
        assert!(documents("README.md", &"x\n".repeat(110)).is_none());
        assert!(documents("docs/decisions/001-x.md", &"x\n".repeat(61)).is_some());
        assert!(documents("docs/guide/x.md", &"x\n".repeat(611)).is_none());
    }
}
