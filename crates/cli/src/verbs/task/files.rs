//! Tasks as files: `NAME.ts` with an exported config, or a folder `NAME` with an `index.ts` and a
//! `task.toml`. What they import comes along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reauth_sdk::{NewTask, TaskConfig};
use reauth_server::sandbox::{self, Compiled};
use serde_json::Value;

use crate::failure::{Failure, Result};

const LANGUAGES: [&str; 4] = ["ts", "js", "mts", "mjs"];
/// A folder of tasks has fewer files than this; else it is another folder.
const FILES_MAX: usize = 10_000;

/// A task that lies in files.
#[derive(Debug)]
pub(crate) struct LocalTask {
    /// Its name: that of its file or folder.
    pub(crate) name: String,
    /// The folder that the names of its files begin at.
    pub(crate) root: PathBuf,
    /// The file whose exports are called.
    pub(crate) entry: String,
    /// All files by name.
    pub(crate) files: BTreeMap<String, String>,
    /// What its `task.toml` says.
    pub(crate) said: TaskConfig,
}

impl LocalTask {
    /// As it is sent.
    pub(crate) fn new_task(&self) -> NewTask {
        let mut files = self.files.clone();
        let source = files.remove(&self.entry).unwrap_or_default();
        NewTask { file: self.entry.clone(), source, files, config: self.said.clone() }
    }

    /// Compiled, or the frame of the first error.
    pub(crate) fn compiled(&self) -> Result<Compiled> {
        sandbox::compile(&self.entry, &self.files).map_err(|error| {
            let help = format!("correct {} and try again", self.root.join(&error.file).display());
            Failure::new(error.to_string()).help(help)
        })
    }

    /// What script and `task.toml` say together: the latter outweighs.
    pub(crate) fn config(&self, compiled: &Compiled) -> Result<TaskConfig> {
        let mut all = match compiled.config.clone() {
            None => serde_json::Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(self.wrong("its config must be an object")),
        };
        if let Ok(Value::Object(said)) = serde_json::to_value(&self.said) {
            all.extend(said);
        }
        serde_json::from_value(Value::Object(all)).map_err(|error| self.wrong(&error.to_string()))
    }

    /// Something is wrong with this task.
    pub(crate) fn wrong(&self, why: &str) -> Failure {
        let place = self.root.join(&self.entry);
        Failure::new(format!("task {}: {why}", self.name))
            .help(format!("correct {}", place.display()))
    }
}

/// The tasks at a path: one file, one folder of a task, or a folder of tasks.
pub(crate) fn tasks_at(path: &Path) -> Result<Vec<LocalTask>> {
    if path.is_file() {
        let (root, name) = split(path)?;
        return Ok(vec![task_of(&root, &name, &stem(&name))?]);
    }
    if let Some(index) = index_of(path) {
        let (parent, folder) = split(path)?;
        return Ok(vec![task_of(&parent, &format!("{folder}/{index}"), &folder)?]);
    }
    let mut tasks = Vec::new();
    for name in entries(path)? {
        let full = path.join(&name);
        if let Some(index) = index_of(&full) {
            tasks.push(task_of(path, &format!("{name}/{index}"), &name)?);
        } else if is_script(&name) && full.is_file() {
            let task = task_of(path, &name, &stem(&name))?;
            // A file that does not compile is a task too: else nobody would hear of its error.
            if task.compiled().map_or(true, |compiled| compiled.is_called()) {
                tasks.push(task);
            }
        }
    }
    if tasks.is_empty() {
        let what = format!("no task is in {}", path.display());
        let help =
            "a task is a file that exports run or authenticate; `reauth task init` makes one";
        return Err(Failure::new(what).help(help));
    }
    Ok(tasks)
}

/// The tests at a path: `*.test.ts` files, as their folder and their name.
pub(crate) fn tests_at(path: &Path) -> Result<Vec<(PathBuf, String)>> {
    let is_test = |name: &str| {
        let ending = |language| name.ends_with(&format!(".test.{language}"));
        LANGUAGES.iter().any(ending)
    };
    if path.is_file() {
        let (root, name) = split(path)?;
        if is_test(&name) {
            return Ok(vec![(root, name)]);
        }
        let wanted = stem(&name);
        let all = entries(&root)?.into_iter().filter(|other| is_test(other));
        let its = all.filter(|other| other.starts_with(&format!("{wanted}.test.")));
        return Ok(its.map(|name| (root.clone(), name)).collect());
    }
    let mut tests = Vec::new();
    for name in entries(path)? {
        let full = path.join(&name);
        if full.is_dir() && index_of(&full).is_some() {
            let inner = entries(&full)?.into_iter().filter(|name| is_test(name));
            tests.extend(inner.map(|inner| (path.to_owned(), format!("{name}/{inner}"))));
        } else if is_test(&name) {
            tests.push((path.to_owned(), name));
        }
    }
    Ok(tests)
}

/// A file and all that it imports, by their names below the root.
pub(crate) fn with_imports(root: &Path, entry: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut open = vec![entry.to_owned()];
    while let Some(name) = open.pop() {
        if files.contains_key(&name) {
            continue;
        }
        let source = read(&root.join(&name))?;
        for wanted in sandbox::imports(&name, &source) {
            // What is not there is told by the compiler, with its place.
            open.extend(sandbox::resolve(&name, &wanted, |other| root.join(other).is_file()));
        }
        files.insert(name, source);
    }
    Ok(files)
}

fn task_of(root: &Path, entry: &str, name: &str) -> Result<LocalTask> {
    let files = with_imports(root, entry)?;
    let toml = match entry.rsplit_once('/') {
        Some((folder, _)) => root.join(folder).join("task.toml"),
        None => root.join(format!("{name}.toml")),
    };
    let said = if toml.is_file() { said(&toml)? } else { TaskConfig::default() };
    Ok(LocalTask {
        name: name.to_owned(),
        root: root.to_owned(),
        entry: entry.to_owned(),
        files,
        said,
    })
}

fn said(path: &Path) -> Result<TaskConfig> {
    toml::from_str(&read(path)?).map_err(|error| {
        let what = format!("{}: {}", path.display(), error.to_string().trim_end());
        Failure::new(what).help("docs/guide/tasks.md lists what a task.toml may say")
    })
}

/// A text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(what).help("a script is a text file in UTF-8")
    })
}

fn split(path: &Path) -> Result<(PathBuf, String)> {
    let full = std::path::absolute(path)?;
    let name = full.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let what = format!("{} has no file name that can be sent", path.display());
    let none = || Failure::usage(what).help("give the path of a file");
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name.ok_or_else(none)?))
}

fn stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
    stem.unwrap_or(name).to_owned()
}

fn index_of(folder: &Path) -> Option<String> {
    let names = LANGUAGES.iter().map(|language| format!("index.{language}"));
    names.into_iter().find(|name| folder.join(name).is_file())
}

fn is_script(name: &str) -> bool {
    let is_language = LANGUAGES.iter().any(|language| name.ends_with(&format!(".{language}")));
    is_language && !name.contains(".test.") && !name.ends_with(".d.ts")
}

/// The names in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let unreadable = |error: std::io::Error| {
        let what = format!("cannot read {}: {error}", folder.display());
        Failure::new(what).help("give the path of a task's file, or of a folder of tasks")
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)?.take(FILES_MAX) {
        let name = entry.map_err(unreadable)?.file_name();
        names.extend(name.to_str().filter(|name| *name != "node_modules").map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        folder
    }

    #[test]
    fn a_folder_has_files_and_folders_that_are_tasks() {
        let folder = folder(&[
            ("one.ts", "import { n } from './lib/n'; export const run = () => n"),
            ("one.test.ts", "import { test } from 'reauth:test'; test('x', () => {})"),
            ("helper.ts", "export const help = 1"),
            ("types.d.ts", "declare const x: number"),
            ("broken.ts", "export const run = ;"),
            ("lib/n.ts", "export const n: number = 1"),
            ("lib/late.ts", "import './n'"),
            (
                "two/index.ts",
                "import { n } from '../lib/n.js';\n\
                 export const run = () => n + import('../lib/late.ts') + import('./missing')",
            ),
            ("two/task.toml", "scopes = [\"users:read\"]\n[schedule]\ncron = \"0 3 * * *\""),
            ("two/two.test.ts", ""),
        ]);
        let tasks = tasks_at(folder.path()).expect("tasks");
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["broken", "one", "two"]);
        let two = &tasks[2];
        assert_eq!(two.entry, "two/index.ts");
        assert_eq!(
            two.files.keys().collect::<Vec<_>>(),
            ["lib/late.ts", "lib/n.ts", "two/index.ts"]
        );
        assert_eq!(two.said.schedule.as_ref().expect("a schedule").zone, "UTC");
        assert!(tasks[0].compiled().is_err());
        let tests = tests_at(folder.path()).expect("tests");
        let names: Vec<&str> = tests.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["one.test.ts", "two/two.test.ts"]);
        let one = tests_at(&folder.path().join("one.ts")).expect("tests");
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn what_a_task_says_outweighs_what_its_script_says() {
        let script = "export const config = { scopes: ['users:read'], retries: 1 };\n\
                      export function run() {}";
        let folder = folder(&[("a.ts", script), ("a.toml", "retries = 3")]);
        let task = tasks_at(&folder.path().join("a.ts")).expect("a task").remove(0);
        let config = task.config(&task.compiled().expect("it compiles")).expect("a config");
        assert_eq!((config.retries, config.scopes.expect("scopes").len()), (Some(3), 1));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let failure = tasks_at(Path::new("no/such/tidy.ts")).expect_err("no file");
        assert!(format!("{failure:?}").contains("no/such/tidy.ts"));
        let folder =
            folder(&[("a/index.ts", "export function run() {}"), ("a/task.toml", "x = 1")]);
        let failure = tasks_at(folder.path()).expect_err("an unknown key");
        assert!(format!("{failure:?}").contains("task.toml"));
        assert!(tasks_at(tempfile::tempdir().expect("a folder").path()).is_err());
    }
}
