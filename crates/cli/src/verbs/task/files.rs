//! Tasks as files: `NAME.ts` with an exported config, or a folder `NAME` with an `index.ts` and a
//! `task.toml`; and the tests beside them. What they import comes along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reauth_sdk::{NewTask, TaskConfig};
use reauth_server::sandbox::{self, Compiled};
use serde_json::Value;

use super::bundle::{bundle, package_of};
use crate::failure::{Failure, Result};

const LANGUAGES: [&str; 4] = ["ts", "js", "mts", "mjs"];
/// The file of this name is the task of its folder.
const INDEX: &str = "index";
/// A folder of tasks has fewer files than this; else it is another folder.
const FILES_MAX: usize = 10_000;

/// Where tasks lie unless another place is said: the folder that `reauth task init` makes, or,
/// within it or a task's own, this one.
pub(crate) fn here() -> PathBuf {
    let usual = PathBuf::from("tasks");
    if usual.is_dir() { usual } else { ".".into() }
}

/// A task that lies in files.
#[derive(Clone, Debug)]
pub(crate) struct LocalTask {
    /// Its name: that of its file or folder.
    pub(crate) name: String,
    /// The folder that the names of its files begin at.
    pub(crate) root: PathBuf,
    /// The file whose exports are called, as it was written.
    pub(crate) entry: String,
    /// How many files were written for it.
    pub(crate) written: usize,
    /// Files that are imported and not there, each with the file that imports it.
    pub(crate) missing: Vec<(String, String)>,
    /// What is sent and compiled, or why there is nothing.
    pub(crate) ready: Result<Ready>,
    /// Its `task.toml`, if it has one.
    pub(crate) toml: Option<PathBuf>,
    /// What that says.
    pub(crate) said: TaskConfig,
}

/// Files that import no package any more.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// The file whose exports are called.
    pub(crate) entry: String,
    /// All files by name.
    pub(crate) files: BTreeMap<String, String>,
    /// Whether it is all in one file, with packages.
    pub(crate) is_bundle: bool,
}

impl Ready {
    /// All in one file.
    pub(crate) fn bundled(root: &Path, entry: &str, why: &str) -> Result<Self> {
        let (name, text) = bundle(root, entry, why)?;
        let files = BTreeMap::from([(name.clone(), text)]);
        Ok(Self { entry: name, files, is_bundle: true })
    }

    /// Compiled, or the first error with its line.
    pub(crate) fn compiled(&self, root: &Path) -> Result<Compiled> {
        sandbox::compile(&self.entry, &self.files).map_err(|error| {
            let path = root.join(&error.file);
            // A file that is in a bundle is not sent: its text is still here.
            let text = std::fs::read_to_string(&path).ok();
            let text = text.filter(|_| !self.files.contains_key(&error.file));
            let error = text.map_or(error.clone(), |text| error.shown_in(&text));
            let help = format!("correct {} and try again", path.display());
            Failure::new(error.to_string()).help(help)
        })
    }
}

impl LocalTask {
    /// As it is sent.
    pub(crate) fn new_task(&self) -> Result<NewTask> {
        let Ready { entry, mut files, .. } = self.ready.clone()?;
        let source = files.remove(&entry).unwrap_or_default();
        Ok(NewTask { file: entry, source, files, config: self.said.clone() })
    }

    /// The one file that holds all of it, if it had to be bundled.
    pub(crate) fn bundle(&self) -> Option<&str> {
        let ready = self.ready.as_ref().ok().filter(|ready| ready.is_bundle)?;
        ready.files.get(&ready.entry).map(String::as_str)
    }

    /// Compiled, or the frame of the first error.
    pub(crate) fn compiled(&self) -> Result<Compiled> {
        self.ready.as_ref().map_err(Clone::clone)?.compiled(&self.root)
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

/// The tasks at a path: one file, one folder of a task, a folder of tasks, or the one that a test
/// is about.
pub(crate) fn tasks_at(path: &Path) -> Result<Vec<LocalTask>> {
    let (root, one) = place_of(path)?;
    let tasks = match one {
        Some(name) if is_test(&name) => {
            let all = listed(&root)?;
            let subject = subject(&name, &all);
            all.into_iter().filter(|task| task.name == subject).collect()
        }
        Some(name) => vec![task_of(&root, &name)?],
        None => listed(&root)?,
    };
    if tasks.is_empty() {
        let what = format!("no task is in {}", path.display());
        let help =
            "a task is a file that exports run or authenticate; `reauth task init` makes one";
        return Err(Failure::new(what).help(help));
    }
    Ok(tasks)
}

/// The tasks at a path that are to be sent: no test stands for its task.
pub(crate) fn tasks_to_send(path: &Path) -> Result<Vec<LocalTask>> {
    if path.file_name().and_then(|name| name.to_str()).is_some_and(is_test) {
        let what = format!("{} is a test", path.display());
        return Err(Failure::usage(what).help("give the path of the task itself"));
    }
    tasks_at(path)
}

/// Tests, with the tasks beside them.
pub(crate) struct LocalTests {
    /// The folder that the names begin at.
    pub(crate) root: PathBuf,
    /// All tasks in it.
    pub(crate) tasks: Vec<LocalTask>,
    /// The tests' files, each with the name of the task that it is about.
    pub(crate) tests: Vec<(String, String)>,
}

/// The tests at a path, `*.test.ts` files: one, those about one task, or all in a folder.
pub(crate) fn tests_at(path: &Path) -> Result<LocalTests> {
    let (root, one) = place_of(path)?;
    let tasks = listed(&root)?;
    let mut names = match &one {
        Some(name) if is_test(name) => vec![name.clone()],
        _ => tests_in(&root)?,
    };
    names.sort_unstable();
    let mut tests: Vec<(String, String)> = names
        .into_iter()
        .map(|name| {
            let subject = subject(&name, &tasks);
            (name, subject)
        })
        .collect();
    if let Some(task) = one.filter(|name| !is_test(name)).map(|entry| name_of(&entry)) {
        tests.retain(|(_, subject)| *subject == task);
    }
    Ok(LocalTests { root, tasks, tests })
}

/// The tests in a folder of tasks and in the folders of its tasks.
fn tests_in(root: &Path) -> Result<Vec<String>> {
    let mut tests = Vec::new();
    for name in entries(root)? {
        let full = root.join(&name);
        if full.is_dir() && index_of(&full).is_some() {
            let inner = entries(&full)?.into_iter().filter(|name| is_test(name));
            tests.extend(inner.map(|inner| format!("{name}/{inner}")));
        } else if is_test(&name) {
            tests.push(name);
        }
    }
    Ok(tests)
}

/// The task that a test is about: the one whose folder it is in; else the one with the longest name
/// that its own begins with (`tidy` of `tidy.test.ts` and of `tidy.when-idle.test.ts`); else the
/// only one that is there.
fn subject(test: &str, tasks: &[LocalTask]) -> String {
    if let Some((folder, _)) = test.split_once('/') {
        return folder.to_owned();
    }
    let own = test.split(".test.").next().unwrap_or(test);
    let begins = |name: &&str| {
        own.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    };
    let names = || tasks.iter().map(|task| task.name.as_str());
    let named = names().filter(begins).max_by_key(|name| name.len());
    named.or(names().next().filter(|_| tasks.len() == 1)).unwrap_or(own).to_owned()
}

/// Where a path is: the folder that names begin at, and the name of what it means if that is one
/// file or one task. All in a task's folder is named from the folder around it.
fn place_of(path: &Path) -> Result<(PathBuf, Option<String>)> {
    if let Some(index) = index_of(path) {
        let (root, folder) = split(path)?;
        return Ok((root, Some(format!("{folder}/{index}"))));
    }
    if !path.is_file() {
        return Ok((path.to_owned(), None));
    }
    let (root, name) = split(path)?;
    let is_of_folder = is_test(&name) || stem(&name) == INDEX;
    if is_of_folder && index_of(&root).is_some() {
        let (parent, folder) = split(&root)?;
        return Ok((parent, Some(format!("{folder}/{name}"))));
    }
    Ok((root, Some(name)))
}

/// All tasks in a folder.
fn listed(root: &Path) -> Result<Vec<LocalTask>> {
    let mut tasks = Vec::new();
    for name in entries(root)? {
        let full = root.join(&name);
        if let Some(index) = index_of(&full) {
            tasks.push(task_of(root, &format!("{name}/{index}"))?);
        } else if is_script(&name) && full.is_file() {
            let task = task_of(root, &name)?;
            // A file that does not compile is a task too: else nobody would hear of its error.
            if task.compiled().map_or(true, |compiled| compiled.is_called()) {
                tasks.push(task);
            }
        }
    }
    Ok(tasks)
}

/// A file with all that it imports, bundled if that are packages.
pub(crate) fn ready(root: &Path, entry: &str) -> Result<Result<Ready>> {
    Ok(made_ready(root, entry, with_imports(root, entry)?))
}

fn made_ready(root: &Path, entry: &str, Found { files, .. }: Found) -> Result<Ready> {
    match package_of(&files) {
        None => Ok(Ready { entry: entry.to_owned(), files, is_bundle: false }),
        Some((file, package)) => {
            let why = format!("{} imports the npm package {package}", root.join(file).display());
            Ready::bundled(root, entry, &why)
        }
    }
}

/// A file and all that it imports.
pub(super) struct Found {
    /// By their names below the root.
    pub(super) files: BTreeMap<String, String>,
    /// What is not there: who imports what.
    missing: Vec<(String, String)>,
}

pub(super) fn with_imports(root: &Path, entry: &str) -> Result<Found> {
    let (mut files, mut missing) = (BTreeMap::new(), Vec::new());
    let mut open = vec![entry.to_owned()];
    while let Some(name) = open.pop() {
        if files.contains_key(&name) {
            continue;
        }
        let source = read(&root.join(&name))?;
        for wanted in sandbox::imports(&name, &source) {
            match sandbox::resolve(&name, &wanted, |other| root.join(other).is_file()) {
                Some(found) => open.push(found),
                None if wanted.starts_with('.') => missing.push((name.clone(), wanted)),
                None => {}
            }
        }
        files.insert(name, source);
    }
    Ok(Found { files, missing })
}

fn task_of(root: &Path, entry: &str) -> Result<LocalTask> {
    let mut found = with_imports(root, entry)?;
    let (written, missing) = (found.files.len(), std::mem::take(&mut found.missing));
    let ready = made_ready(root, entry, found);
    let name = name_of(entry);
    let toml = match entry.rsplit_once('/') {
        Some((folder, _)) => root.join(folder).join("task.toml"),
        None => root.join(format!("{name}.toml")),
    };
    let toml = Some(toml).filter(|path| path.is_file());
    let said = toml.as_deref().map(said).transpose()?.unwrap_or_default();
    let (root, entry) = (root.to_owned(), entry.to_owned());
    Ok(LocalTask { name, root, entry, written, missing, ready, toml, said })
}

/// The name of the task whose entry this is: that of its folder, or of the file.
fn name_of(entry: &str) -> String {
    entry.split_once('/').map_or_else(|| stem(entry), |(folder, _)| folder.to_owned())
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

/// The folder around a path, and the name in it.
fn split(path: &Path) -> Result<(PathBuf, String)> {
    let named = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    if let (Some(name), Some(parent)) = (named(path), path.parent()) {
        let is_here = parent.as_os_str().is_empty();
        return Ok((if is_here { Path::new(".") } else { parent }.to_owned(), name));
    }
    // `.` and `..` have a name only in the folder around them.
    let full = std::fs::canonicalize(path).ok();
    let name = full.as_deref().and_then(named);
    let what = format!("{} has no name that can be sent", path.display());
    let name = name.ok_or_else(|| Failure::usage(what).help("give the path of a file"))?;
    let is_here = path == Path::new(".");
    Ok((if is_here { "..".into() } else { path.join("..") }, name))
}

fn stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
    stem.unwrap_or(name).to_owned()
}

fn index_of(folder: &Path) -> Option<String> {
    let names = LANGUAGES.iter().map(|language| format!("{INDEX}.{language}"));
    names.into_iter().find(|name| folder.join(name).is_file())
}

fn is_test(name: &str) -> bool {
    LANGUAGES.iter().any(|language| name.ends_with(&format!(".test.{language}")))
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
        let ready = two.ready.as_ref().expect("it is ready");
        let files: Vec<&String> = ready.files.keys().collect();
        assert_eq!(files, ["lib/late.ts", "lib/n.ts", "two/index.ts"]);
        assert_eq!(two.said.schedule.as_ref().expect("a schedule").zone, "UTC");
        assert!(tasks[0].compiled().is_err());
    }

    /// The tests at a path, each with its task.
    fn tests(path: &Path) -> Vec<String> {
        let found = tests_at(path).expect("tests").tests.into_iter();
        found.map(|(test, task)| format!("{test} of {task}")).collect()
    }

    #[test]
    fn a_test_is_about_a_task() {
        let run = "export const run = () => 1";
        let folder = folder(&[
            ("one.ts", run),
            ("one.when-idle.test.ts", ""),
            ("one-more.ts", run),
            ("one-more.test.js", ""),
            ("one-more-than.test.js", ""),
            ("other.test.ts", ""),
            ("two/index.ts", run),
            ("two/any.test.ts", ""),
            ("two/helper.ts", "export const help = 1"),
            ("three/index.mjs", run),
            ("three/three.test.ts", ""),
            ("no-task/no.test.ts", ""),
            ("alone/scenarios.test.ts", ""),
            ("alone/task.ts", run),
        ]);
        let at = |name: &str| tests(&folder.path().join(name));
        let of_one = ["one.when-idle.test.ts of one"];
        let of_more = ["one-more-than.test.js of one-more", "one-more.test.js of one-more"];
        let others = ["other.test.ts of other", "three/three.test.ts of three"];
        let of_two = ["two/any.test.ts of two"];
        let all: Vec<&str> = [&of_more[..], &of_one, &others, &of_two].concat();
        assert_eq!(tests(folder.path()), all);
        assert_eq!(at("one.ts"), of_one);
        assert_eq!(at("one-more.ts"), of_more);
        for place in ["two", "two/", "two/.", "two/../two", "two/index.ts", "two/any.test.ts"] {
            assert_eq!(at(place), of_two, "{place}");
        }
        for place in ["alone", "alone/task.ts", "alone/scenarios.test.ts"] {
            assert_eq!(at(place), ["scenarios.test.ts of task"], "{place}");
        }
    }

    #[test]
    fn a_task_has_the_same_name_from_wherever_it_is_looked_at() {
        let run = "export const run = () => 1";
        let folder = folder(&[
            ("two/index.ts", "import '../lib/n'; export const run = () => 1"),
            ("two/task.toml", "retries = 3"),
            ("two/any.test.ts", ""),
            ("lib/n.ts", ""),
            ("flat/one.ts", run),
            ("flat/one.toml", "retries = 3"),
            ("flat/one.test.ts", ""),
            ("flat/two.ts", run),
        ]);
        for (place, name) in [
            ("two", "two"),
            ("two/index.ts", "two"),
            ("two/any.test.ts", "two"),
            ("flat/../two/.", "two"),
            ("lib/../two/../two", "two"),
            ("flat/one.ts", "one"),
            ("flat/one.test.ts", "one"),
        ] {
            let tasks = tasks_at(&folder.path().join(place)).expect(place);
            assert_eq!(tasks.len(), 1, "{place}");
            assert_eq!((tasks[0].name.as_str(), tasks[0].said.retries), (name, Some(3)), "{place}");
            assert!(tasks[0].compiled().is_ok(), "{place}");
        }
        let test = folder.path().join("flat/one.test.ts");
        assert!(tasks_to_send(&test).is_err(), "what is sent is said");
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
