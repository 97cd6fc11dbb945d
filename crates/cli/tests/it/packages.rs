//! Tasks that import npm packages, as their developers meet them. Nothing is fetched: the packages
//! are made here, and esbuild is the one that `cargo xtask npm` has installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use oxc_sourcemap::SourceMap;
use serde_json::json;

use crate::tasks::{said, task};
use crate::{Kind, Shop, error_of, reauth, text};

/// A developer's project: its package.json, what it has installed, and its tasks.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// With esbuild, where npm is: without it the story cannot be told.
    fn new() -> Option<Self> {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/npm");
        let esbuild = installed.join("node_modules/.bin/esbuild");
        if !esbuild.exists() {
            let has_npm = Command::new("npm").arg("--version").output().is_ok();
            assert!(!has_npm, "esbuild is missing: `cargo xtask npm` installs it");
            println!("skipped: there is no npm");
            return None;
        }
        let project = Self::bare();
        project.write("package.json", "{}");
        project.write("node_modules/.bin/nothing", "");
        let link = project.path("node_modules/.bin/esbuild");
        std::os::unix::fs::symlink(esbuild, link).expect("a link");
        project.write("node_modules/left-side/package.json", "{ \"module\": \"left.js\" }");
        project.write("node_modules/left-side/left.js", LEFT);
        // A package of the old kind.
        project.write("node_modules/old-side/index.js", "exports.old = () => 'old';\n");
        project
            .write("tasks/lib/n.ts", "interface N { n: number }\nexport const n: N = { n: 7 };\n");
        project.write("tasks/where/index.ts", WHERE);
        project.write("tasks/where/task.toml", "[schedule]\ncron = \"0 3 * * *\"\n");
        project.write("tasks/plain.ts", "export const run = (): string => 'plain';\n");
        Some(project)
    }

    fn bare() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program in place of esbuild.
    fn esbuild(&self, script: &str) {
        let name = "node_modules/.bin/esbuild";
        self.write(name, script);
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.path(name), may_run).expect("a mode");
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
}

const LEFT: &str = "export const side = 'left';

export function turn(back) {
  if (back) throw new Error('no way back');
  return side;
}
";

const WHERE: &str = "import { turn } from 'left-side';
import { old } from 'old-side';
import { n } from '../lib/n';

interface Params {
  back?: boolean;
  lost?: boolean;
}

export const config = { scopes: ['users:read'], schedule: { cron: '0 4 * * *' } };

export function run(params: Params) {
  console.error(new Error('a look around'));
  if (params.lost) throw new Error('lost');
  return [turn(params.back), old(), n.n];
}
";

#[test]
fn a_folder_in_which_a_task_imports_packages_is_deployed_by_one_command() {
    let Some(project) = Project::new() else { return };
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    serving.json(&shop.operator, &["app", "create", "shop"]);
    let tasks = project.path("tasks").display().to_string();
    let put = serving.json(&shop.operator, &["task", "deploy", &tasks]);
    assert_eq!((&put[0]["name"], &put[1]["name"]), (&json!("plain"), &json!("where")), "{put}");
    assert_eq!(put[1]["schedule"]["cron"], "0 3 * * *", "task.toml came along: {put}");
    assert_eq!(put[1]["scopes"], json!(["users:read"]), "and so did the script's config");
    let run = serving.json(&shop.operator, &["task", "run", "where"]);
    assert_eq!(run["result"], json!(["left", "old", 7]), "{run}");
    let logs = said(&serving.verb(&shop.operator, &["task", "logs", &text(&run["id"])]));
    assert!(logs.contains("run (where/index.ts:13:"), "{logs}");
    for (params, places) in [
        ("{\"lost\": true}", &["run (where/index.ts:14:"][..]),
        (
            "{\"back\": true}",
            &["turn (../node_modules/left-side/left.js:4:", "run (where/index.ts:15:"],
        ),
    ] {
        let failed = serving.verb(&shop.operator, &["task", "run", "where", "--params", params]);
        let failed = error_of(&failed);
        for place in places {
            assert!(failed.contains(place), "{place}: {failed}");
        }
    }
}

#[test]
fn what_is_imported_when_it_is_needed_comes_along() {
    let Some(project) = Project::new() else { return };
    let shop = Shop::new(Kind::Sqlite);
    let serving = shop.serve();
    serving.json(&shop.operator, &["app", "create", "shop"]);
    let file = "const { n } = await import('../lib/n.ts');";
    let package = "const { turn } = await import('left-side');";
    let run = |lines: &str| format!("export async function run() {{ {lines} }}\n");
    project.write("tasks/a/index.ts", &run(&format!("{file} return n.n;")));
    project.write("tasks/b/index.ts", &run(&format!("{file} {package} return [turn(), n.n];")));
    for (task, wanted) in [("a", json!(7)), ("b", json!(["left", 7]))] {
        let path = project.path("tasks").join(task).display().to_string();
        serving.json(&shop.operator, &["task", "deploy", &path]);
        let run = serving.json(&shop.operator, &["task", "run", task]);
        assert_eq!(run["result"], wanted, "{run}");
    }
}

#[test]
fn a_bundle_has_the_name_and_the_settings_of_its_task() {
    let Some(project) = Project::new() else { return };
    let built = task(&["build"], &project.path("tasks"));
    assert!(built.status.success(), "{}", said(&built));
    for bundle in ["tasks/where/dist/where.js", "tasks/dist/plain.js"] {
        assert!(said(&built).contains(bundle), "{}", said(&built));
        assert!(project.path(bundle).is_file(), "{bundle}");
    }
    let dist = project.path("tasks/where/dist");
    let checked = said(&task(&["check"], &dist));
    assert!(checked.contains("where: a task of 1 file, right\n  0 3 * * * in UTC"), "{checked}");
    // What has been built is no task of the folder that it was built from.
    let checked = said(&task(&["check"], &project.path("tasks")));
    assert_eq!(checked.matches(", right").count(), 2, "{checked}");
    assert!(checked.contains("where: a task of 2 files and packages, "), "{checked}");

    let out = project.path("build/there.js").display().to_string();
    assert!(
        task(&["build", "--out", &out], &project.path("tasks/where/index.ts")).status.success()
    );
    assert!(project.path("build/there.toml").is_file());
    let stale = task(&["build", "--out", &out], &project.path("tasks/plain.ts"));
    assert!(error_of(&stale).contains("there.toml is there, but"), "{stale:?}");
    let own = project.path("tasks/plain.ts").display().to_string();
    let replaced = task(&["build", "--out", &own], &project.path("tasks/plain.ts"));
    assert!(error_of(&replaced).contains("would replace"), "{replaced:?}");
    let several = task(&["build", "--out", &out], &project.path("tasks"));
    assert!(error_of(&several).contains("build one of them"), "{several:?}");
}

#[test]
fn a_bundle_replaces_nothing_that_was_written() {
    let Some(project) = Project::new() else { return };
    project.write("tasks/where/kept.json", "{}");
    project.write("tasks/where/index.ts", &format!("import './kept.json';\n{WHERE}"));
    project.write("tasks/far/away.js", "export const run = () => 'far away';\n");
    project.write("build/other.toml", "retries = 3\n");
    let build = |out: &str| {
        let out = project.path(out).display().to_string();
        task(&["build", "--out", &out], &project.path("tasks/where"))
    };
    for (out, why) in [
        ("tasks/where/index.ts", "would replace"),
        ("tasks/lib/n.ts", "would replace"),
        ("tasks/where/kept.json", "would replace"),
        ("tasks/far/away.js", "which is no bundle"),
        ("node_modules/left-side/left.js", "would replace"),
        ("build/new.toml", "is a name for settings"),
        ("build/new.TOML", "is a name for settings"),
        ("build/other.js", "other.toml is there, with other settings"),
    ] {
        let read = || std::fs::read_to_string(project.path(out)).ok();
        let before = read();
        let refused = error_of(&build(out));
        assert!(refused.contains(why), "{out}: {refused}");
        assert_eq!(read(), before, "{out}");
    }
    let settings = std::fs::read_to_string(project.path("build/other.toml")).expect("it is there");
    assert_eq!(settings, "retries = 3\n");
    // What is in a bundle may be a bundle itself.
    assert!(build("tasks/lib/side.js").status.success());
    project.write("tasks/plain.ts", "export { run } from './lib/side.js';\n");
    let side = project.path("tasks/lib/side.js").display().to_string();
    std::fs::remove_file(project.path("tasks/lib/side.toml")).expect("it is there");
    let refused = error_of(&task(&["build", "--out", &side], &project.path("tasks/plain.ts")));
    assert!(refused.contains("side.js, which is in it"), "{refused}");
    project.write("build/again.js", "");
    // A bundle is made anew, with what its settings are by now.
    for cron in ["0 3", "0 5"] {
        project.write("tasks/where/task.toml", &format!("[schedule]\ncron = \"{cron} * * *\"\n"));
        let again = build("build/again.js");
        assert!(again.status.success(), "{}", said(&again));
    }
    let settings = std::fs::read_to_string(project.path("build/again.toml")).expect("it is there");
    assert!(settings.contains("0 5"), "{settings}");
}

#[test]
fn no_program_of_a_project_hears_what_the_operator_told() {
    let project = Project::bare();
    project.write("package.json", "{}");
    project.write("tasks/where.ts", "import { a } from 'a';\nexport const run = () => a;\n");
    project.esbuild("#!/bin/sh\nenv > told.txt\necho 'export const run = () => 1;'\n");
    let mut command = reauth();
    command.env("REAUTH_TOKEN", "secret").env("REAUTH_URL", "http://x.test").env("OTHER", "1");
    let command = command.args(["task", "check"]).arg(project.path("tasks/where.ts"));
    let checked = command.output().expect("it runs");
    assert!(checked.status.success(), "{}", said(&checked));
    let told = std::fs::read_to_string(project.path("tasks/told.txt")).expect("it has run");
    let names: Vec<&str> = told.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.contains(&"PATH") && names.contains(&"OTHER"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("REAUTH_")), "{names:?}");
}

/// A package of so many functions, all of which are used, and one that throws.
fn wide(functions: usize) -> String {
    let mut text = "export function stop() {\n  throw new Error('it is wide');\n}\n".to_owned();
    for at in 0..functions {
        text.push_str(&format!(
            "export function wide_{at}(given_value) {{\n    return given_value + {at};\n}}\n"
        ));
    }
    text
}

#[test]
fn a_large_package_costs_no_line_of_the_task_as_long_as_it_fits() {
    let Some(project) = Project::new() else { return };
    let source = "import * as wide from 'wide';

interface Unused { a: number }
export function run() {
  const all: string[] = Object.keys(wide);
  if (all.length > 1) wide.stop();
}
";
    let test = "import { lab, test } from 'reauth:test';
        test('it is told', async () => {
            const { message } = (await lab.run()).error;
            const wanted = /at THROWN:\\d+:\\d+\\)\\n +at \\w+ \\(wide\\.ts:6:/;
            if (!wanted.test(message)) throw new Error(message);
        });";
    project.write("tasks/wide.ts", source);
    // With the map of all files; with that of its own; with other names than those written.
    for (functions, thrown) in [
        (100, "stop \\(..\\/node_modules\\/wide\\/index.js"),
        (4_000, "stop \\(wide.js"),
        (6_000, "(?!stop)\\w+ \\(wide.js"),
    ] {
        project.write("node_modules/wide/index.js", &wide(functions));
        project.write("tasks/wide.test.ts", &test.replace("THROWN", thrown));
        let tested = task(&["test"], &project.path("tasks/wide.ts"));
        assert!(tested.status.success(), "{functions}: {}", said(&tested));
    }
    project.write("node_modules/wide/index.js", &wide(20_000));
    let refused = error_of(&task(&["check"], &project.path("tasks/wide.ts")));
    assert!(refused.contains("a task has 512 KiB at most"), "{refused}");
    assert!(refused.contains("import only parts"), "{refused}");
}

/// A package's text with a map, as other bundlers leave one behind.
fn with_odd_map(text: &str) -> String {
    let names = [
        "webpack:///./src/a.js",
        "webpack:///./a-loader??ref--4!./src/a\nb.js",
        &format!("{}a.js", "deep/".repeat(80)),
    ];
    // A third of the lines of each file.
    let part = "AAAA".to_owned() + &";AACA".repeat(text.lines().count() / 3);
    let mappings = [&part, ";ACAA", &part[4..], ";ACAA", &part[4..]].concat();
    let map = json!({ "version": 3, "sources": names, "names": [], "mappings": mappings });
    let map = map.to_string();
    let map = SourceMap::from_json_string(&map).expect("a map").to_data_url();
    format!("{text}//# sourceMappingURL={map}\n")
}

#[test]
fn a_package_with_an_odd_map_costs_no_line_of_the_task() {
    let Some(project) = Project::new() else { return };
    let source = "import * as odd from 'odd';

interface Unused { a: number }
export function run() {
  if (Object.keys(odd).length > 1) throw new Error('odd');
}
";
    let test = "import { lab, test } from 'reauth:test';
        test('it is told', async () => {
            const { message } = (await lab.run()).error;
            if (!/at \\w+ \\(odd\\.ts:5:/.test(message)) throw new Error(message);
        });";
    project.write("tasks/odd.ts", source);
    project.write("tasks/odd.test.ts", test);
    // With all of the map; with that of the task's own file.
    for functions in [100, 4_000] {
        project.write("node_modules/odd/index.js", &with_odd_map(&wide(functions)));
        let tested = task(&["test"], &project.path("tasks/odd.ts"));
        assert!(tested.status.success(), "{functions}: {}", said(&tested));
        let built = task(&["build"], &project.path("tasks/odd.ts"));
        assert!(built.status.success(), "{functions}: {}", said(&built));
        let bundle = std::fs::read_to_string(project.path("tasks/dist/odd.js")).expect("a bundle");
        assert!(bundle.contains("function wide_7(given_value)"), "{functions}: it is as written");
    }
}

#[test]
fn tests_import_packages_too_and_tell_their_own_lines() {
    let Some(project) = Project::new() else { return };
    let test = "import { assert, lab, test } from 'reauth:test';
import { turn } from 'left-side';

interface Unused { a: number }

test('it is there', async () => {
  assert.equal((await lab.run()).result, [turn(), 'old', 7]);
});
test('it is elsewhere', async () => {
  assert.equal((await lab.run()).result, []);
});
";
    project.write("tasks/where/any.test.ts", test);
    for place in ["tasks", "tasks/where", "tasks/where/index.ts", "tasks/where/any.test.ts"] {
        let tested = task(&["test"], &project.path(place));
        let text = said(&tested);
        assert!(!tested.status.success(), "{text}");
        for wanted in ["ok      it is there", "FAILED  it is elsewhere", "where/any.test.ts:10:"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }
}

#[test]
fn what_is_wrong_in_a_bundled_task_is_shown_in_the_file_that_was_written() {
    let Some(project) = Project::new() else { return };
    let computed = WHERE.replace("['users:read']", "[turn(true)]");
    for (source, wanted) in [
        (computed, &["literal", "where/index.ts:10:34", "10 | export const config = {"][..]),
        (WHERE.replace("back?:", "back?"), &["esbuild refused", "where/index.ts:6:"]),
        (WHERE.replace("old-side", "no-side"), &["\"no-side\"", "npm install NAME"]),
        (WHERE.replace("old-side", "node:fs"), &["\"node:fs\"", "not there for tasks"]),
    ] {
        project.write("tasks/where/index.ts", &source);
        let refused = task(&["check"], &project.path("tasks"));
        let refused = error_of(&refused);
        assert!(refused.contains("1 task is wrong"), "the other is right: {refused}");
        for wanted in wanted {
            assert!(refused.contains(wanted), "{wanted}: {refused}");
        }
    }
}

#[test]
fn who_has_no_esbuild_is_told_where_to_install_it() {
    let project = Project::bare();
    project
        .write("tasks/where.ts", "import { a } from '@left/side';\nexport const run = () => a;\n");
    project.write("tasks/plain.ts", "export const run = () => 1;\n");
    let help = |folder: &Path| format!("in {}: npm install --save-dev esbuild", folder.display());
    let wrong = error_of(&task(&["check"], &project.path("tasks")));
    assert!(wrong.contains("where.ts imports the npm package @left/side"), "{wrong}");
    assert!(wrong.contains(&help(&project.path("tasks"))), "{wrong}");
    assert!(wrong.contains("1 task is wrong"), "the other is right: {wrong}");
    project.write("package.json", "{}");
    for verb in ["check", "deploy", "build", "put"] {
        let wrong = error_of(&task(&[verb], &project.path("tasks/where.ts")));
        assert!(wrong.contains(&help(project.folder.path())), "{verb}: {wrong}");
    }
    // One that was installed, on a machine without Node.js.
    project.esbuild("#!/usr/bin/env no-such-node\n");
    let wrong = error_of(&task(&["check"], &project.path("tasks/where.ts")));
    assert!(wrong.contains("it needs Node.js in the PATH"), "{wrong}");
}
