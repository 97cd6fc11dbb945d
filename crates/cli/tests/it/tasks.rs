//! Tasks as their developers meet them: a folder, its tests, a server, and its sudden death.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use reauth_sdk::{Client, NewTask, RunRequest, RunState, TaskConfig};
use serde_json::json;

use crate::{Kind, Shop, error_of, reauth, runtime, text};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tasks")
}

pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

pub(crate) fn task(words: &[&str], path: &Path) -> Output {
    reauth().arg("task").args(words).arg(path).output().expect("the verb runs")
}

#[test]
fn the_tests_of_all_examples_pass() {
    let tested = task(&["test"], &examples());
    let text = said(&tested);
    assert!(tested.status.success(), "{text}");
    for entry in std::fs::read_dir(examples()).expect("the folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a text");
        if entry.path().is_dir() {
            assert!(text.contains(&format!("{name}.test.ts")), "{name} was not run: {text}");
        }
    }
    assert!(text.contains(" 0 failed"), "{text}");
    assert!(task(&["check"], &examples()).status.success());
}

#[test]
fn a_first_task_is_made_tested_checked_and_deployed() {
    let shop = Shop::new(Kind::Sqlite);
    let folder = PathBuf::from(shop.path("tasks"));
    let made = task(&["init"], &folder);
    assert!(made.status.success(), "{}", said(&made));
    let again = said(&task(&["init"], &folder));
    assert!(again.contains("is there already"), "{again}");
    let tested = said(&task(&["test"], &folder));
    assert!(tested.contains("3 passed, 0 failed"), "{tested}");
    let checked = said(&task(&["check"], &folder));
    assert!(checked.contains("Europe/Vienna, next:"), "{checked}");
    assert_eq!(checked.matches(" 03:00:00 CE").count(), 5, "{checked}");
    let serving = shop.serve();
    serving.json(&shop.operator, &["app", "create", "shop"]);
    let folder = folder.display().to_string();
    let put = serving.json(&shop.operator, &["task", "deploy", &folder]);
    assert_eq!(
        (put[0]["name"].as_str(), put[0]["single_instance"].as_bool()),
        (Some("force-re-authentication"), Some(true)),
        "{put}"
    );
    let run =
        serving.json(&shop.operator, &["task", "run", "force-re-authentication", "--dry-run"]);
    assert_eq!((&run["state"], &run["changes"]), (&json!("succeeded"), &json!([])), "{run}");
    let runs = serving.json(&shop.operator, &["task", "runs", "--state", "succeeded"]);
    assert_eq!(runs[0]["id"], run["id"]);
    let id = text(&run["id"]);
    let refused = serving.verb(&shop.operator, &["task", "retry", &id]);
    assert!(error_of(&refused).contains("only one that ended without success"));
}

#[test]
fn what_is_wrong_is_shown_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("frame.ts", "export function run() {\n  const a: number = ;\n}\n");
    write(
        "scope.ts",
        "export const config = { scopes: ['users:all'] };\nexport function run() {}\n",
    );
    write(
        "cron.ts",
        "export const config = { schedule: { cron: '0 0 31 2 *' } };\nexport function run() {}\n",
    );
    write("right.ts", "export function run() { return 1 }\n");
    write(
        "right.test.ts",
        "import { assert, lab, test } from 'reauth:test';
        interface Unused { a: number }
        test('it is two', async () => {
            assert.equal((await lab.run()).result, { n: 2 });
        });
        test('it is one', async () => assert.equal((await lab.run()).result, 1));",
    );
    let checked = task(&["check"], folder.path());
    let text = said(&checked);
    assert!(!checked.status.success());
    for wanted in [
        "frame.ts:2:21",
        "2 |   const a: number = ;",
        "users:all",
        "never fires",
        "3 tasks are wrong",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let tested = task(&["test"], &folder.path().join("right.ts"));
    let text = said(&tested);
    assert!(!tested.status.success());
    for wanted in [
        "FAILED  it is two",
        "-   \"n\": 2",
        "+ 1",
        "right.test.ts:4:",
        "ok      it is one",
        "1 passed, 1 failed",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_file_that_cannot_be_tested_hides_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let test = "import { assert, lab, test } from 'reauth:test';
        test('it is one', async () => assert.equal((await lab.run()).result, 1));";
    for (name, text) in [
        ("a-wrong.ts", "export function run() { return ; ; ] }"),
        ("a-wrong.test.ts", test),
        ("b.test.ts", "import { test } from 'reauth:test';\ntest('x', () => { ] );"),
        ("c.test.ts", "throw new Error('at once');"),
        ("d.test.ts", &format!("{test}\ntest('never', () => new Promise(() => {{}}));")),
        ("right.ts", "export const run = () => 1"),
        ("right.test.ts", test),
        ("d.ts", "export const run = () => 1"),
    ] {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let tested = task(&["test"], folder.path());
    let text = said(&tested);
    assert!(!tested.status.success());
    for wanted in [
        "a-wrong.ts:1:",
        "b.test.ts:2:",
        "Error: at once",
        "waits for nothing",
        "ok      it is one",
        "2 passed, 4 failed",
        "4 tests failed",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_file_that_is_imported_later_and_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    let lazy = "export const run = async () => [await import('./there'), \
                await import('./lib/missing.ts'), await import('reauth:other')];";
    write("lazy.ts", lazy);
    write("there.ts", "export const other = () => import('./nowhere');");
    let checked = task(&["check"], folder.path());
    let text = said(&checked);
    assert!(checked.status.success(), "it may never come to that: {text}");
    assert!(text.contains("lazy.ts imports ./lib/missing.ts, which is not there"), "{text}");
    assert!(text.contains("there.ts imports ./nowhere, which is not there"), "{text}");
    assert_eq!(text.matches("which is not there").count(), 2, "{text}");
}

#[test]
fn what_is_unlike_is_not_equal_and_a_task_has_its_own_params_in_its_tests() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write(
        "own.ts",
        "export const config = { params: { days: 30 } };
        export const run = (params: unknown) => params;\n",
    );
    write(
        "own.test.ts",
        "import { assert, lab, test } from 'reauth:test';
        const unlike: [unknown, unknown][] = [
            [new Set([1]), new Set([2, 3])], [new Map([[1, 2]]), new Map()], [NaN, null],
            [new Error('a'), new TypeError('b')], [new Date(0), new Date(1)], [1n, 1],
            [new Uint8Array([1]).buffer, new Uint8Array([2]).buffer], [{ a: undefined }, {}],
        ];
        test('unlike', async () => {
            for (const [one, other] of unlike) {
                await assert.rejects(async () => assert.equal(one, other), /differ/);
                assert.equal(one, one);
            }
            assert.equal(new Set([1, 2]), new Set([2, 1]));
            assert.equal((await lab.run()).result, { days: 30 });
            assert.equal((await lab.run({ days: 1 })).result, { days: 1 });
        });\n",
    );
    let tested = task(&["test"], &folder.path().join("own.ts"));
    assert!(tested.status.success(), "{}", said(&tested));
}

#[test]
fn a_change_is_checked_and_tested_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("one.ts", "export const run = (): number => 1;\n");
    let test = "import { assert, lab, test } from 'reauth:test';
        test('it is two', async () => assert.equal((await lab.run()).result, 2));\n";
    write("one.test.ts", test);
    let dev = Dev::begin(folder.path(), &["."]);
    dev.hear("FAILED  it is two");
    dev.hear("0 passed, 1 failed");
    write("one.ts", "export const run = (): number => 2; // mended\n");
    dev.hear("ok      it is two");
}

/// `reauth task dev`, which watches until it is dropped.
struct Dev {
    process: Child,
    said: Receiver<String>,
}

impl Dev {
    /// In a folder.
    fn begin(folder: &Path, words: &[&str]) -> Self {
        let mut command = reauth();
        command.current_dir(folder).args(["task", "dev"]).args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("it runs");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let (sender, said) = channel();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process, said }
    }

    /// Waits for a line with this text.
    fn hear(&self, wanted: &str) {
        let mut before = Vec::new();
        while let Ok(line) = self.said.recv_timeout(Duration::from_mins(1)) {
            if line.contains(wanted) {
                return;
            }
            before.push(line);
        }
        panic!("{wanted:?} is not said, but: {before:#?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The task that a developer works on.
const WORKED_ON: &str = "export const config = { scopes: ['users:read', 'sessions:end'] };
    export async function run(params) {
        console.log(`older than ${params.days} days`);
        const before = Date.now() - params.days * 86_400_000;
        let ended = 0;
        for (const user of await DB.user.all().limit(100).toArray()) {
            const path = `${this.backend.url}/users/${user.id}`;
            const headers = { Authorization: `Token ${this.backend.token}` };
            const { sessions } = await (await fetch(path, { headers })).json();
            for (const { id, last_authenticated_at } of sessions) {
                if (Date.parse(last_authenticated_at) > before) continue;
                await fetch(`${path}/sessions/${id}/re-authenticate`, { method: 'POST', headers });
                ended += 1;
            }
        }
        return { ended };
    }";

const MAILS: &str = "export const config = { allow_hosts: ['mail.example'] };
    export async function run() {
        return (await fetch('https://mail.example', { method: 'POST' })).status;
    }";

#[test]
fn a_named_task_is_run_at_each_change_in_a_world_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tasks")).expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join("tasks").join(name), text).expect("a file");
    };
    write("tidy.ts", WORKED_ON);
    for (words, wanted) in [
        (&["missing"][..], "these are there: tidy"),
        (&["tasks", "--params", "{}"], "--params is for a task that is run"),
    ] {
        let mut command = reauth();
        command.current_dir(folder.path()).args(["task", "dev"]).args(words);
        let refused = command.output().expect("it ends by itself");
        assert!(error_of(&refused).contains(wanted), "{refused:?}");
    }
    let dev = Dev::begin(folder.path(), &["tidy", "--params", "{\"days\": 31}"]);
    // 20 users on two devices each, evenly over 60 days: each time as if for the first time.
    for change in ["// better", "// best"] {
        dev.hear("log    older than 31 days");
        dev.hear("run of tidy succeeded");
        dev.hear("it changed:");
        dev.hear("session.re_authenticate of user ");
        dev.hear("\"ended\": 20");
        write("tidy.ts", &format!("{change}\n{WORKED_ON}"));
    }
    dev.hear("\"ended\": 20");
    // What the world would be asked for is not asked for because somebody saves a file.
    write("tidy.ts", MAILS);
    dev.hear("it would have changed:");
    dev.hear("request POST https://mail.example");
    dev.hear("202");
    write("tidy.ts", "export const run = () => { throw new Error('not yet') };");
    dev.hear("run of tidy failed");
}

#[test]
fn a_task_that_may_call_one_that_reaches_the_world_is_only_rehearsed() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    write("mails.ts", MAILS);
    write("plain.ts", "export const run = () => 1;");
    let calls = "export const config = { scopes: ['tasks:run'] };
        export const run = () => CloudCode.callTask('mails', {});";
    write("calls.ts", calls);
    Dev::begin(folder.path(), &[".", "plain"]).hear("it changed nothing");
    let dev = Dev::begin(folder.path(), &[".", "calls"]);
    dev.hear("it would have changed:");
    dev.hear("request POST https://mail.example");
}

#[test]
fn a_task_is_checked_and_tested_from_wherever_its_developer_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join("tasks").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write("lib/n.ts", "export const n: number = 7;\n");
    write("seven/index.ts", "import { n } from '../lib/n';\nexport const run = () => n;\n");
    write("seven/task.toml", "[schedule]\ncron = \"0 3 * * *\"\n");
    let test = "import { assert, lab, test } from 'reauth:test';
        test('NAME', async () => assert.equal((await lab.run()).result, 7));";
    write("seven/when-asked.test.ts", &test.replace("NAME", "in its folder"));
    write("flat.ts", "export const run = () => 7;\n");
    write("flat.when-asked.test.ts", &test.replace("NAME", "beside it"));
    write("unlike.test.ts", &test.replace("NAME", "of no task"));
    let within = |place: &str, words: &[&str]| {
        let mut command = reauth();
        command.current_dir(folder.path().join(place)).arg("task").args(words);
        said(&command.output().expect("it runs"))
    };
    for (place, words) in [
        ("tasks/seven", &[][..]),
        ("tasks/seven", &["."]),
        ("tasks/seven", &["index.ts"]),
        ("tasks/seven", &["when-asked.test.ts"]),
        ("tasks/lib", &["../seven"]),
        ("tasks", &["seven/index.ts"]),
        (".", &["tasks/seven/"]),
    ] {
        let checked = within(place, &[&["check"], words].concat());
        assert!(checked.contains("seven: a task of 2 files, right"), "{place} {words:?} {checked}");
        assert!(checked.contains("0 3 * * * in UTC"), "{place} {words:?} {checked}");
        let tested = within(place, &[&["test"], words].concat());
        assert!(tested.contains("ok      in its folder"), "{place} {words:?} {tested}");
        assert!(tested.contains("1 passed, 0 failed"), "{place} {words:?} {tested}");
    }
    for (place, words) in [("tasks", &["flat.ts"][..]), (".", &["tasks/flat.when-asked.test.ts"])] {
        let tested = within(place, &[&["test"], words].concat());
        assert!(tested.contains("ok      beside it"), "{place} {words:?} {tested}");
        assert!(tested.contains("1 passed, 0 failed"), "{place} {words:?} {tested}");
    }
    for place in [".", "tasks"] {
        let tested = within(place, &["test"]);
        assert!(tested.contains("2 passed, 1 failed"), "{place} {tested}");
        assert!(tested.contains("begin the test's name with that of its task"), "{tested}");
    }
    let put = within("tasks", &["put", "flat.when-asked.test.ts"]);
    assert!(put.contains("is a test"), "{put}");
}

/// As an upgrade in place does it, before the server is restarted.
#[test]
fn runs_go_on_when_another_program_is_put_in_the_servers_place() {
    let shop = Shop::new(Kind::Sqlite);
    let program = PathBuf::from(shop.path("reauth"));
    std::fs::copy(crate::PROGRAM, &program).expect("a copy");
    let serving = shop.serve_by(&program).expect("the server begins");
    serving.json(&shop.operator, &["app", "create", "shop"]);
    let folder = PathBuf::from(shop.path("tasks"));
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("hello.ts"), "export const run = () => 'hello'").expect("a file");
    serving.json(&shop.operator, &["task", "deploy", &folder.display().to_string()]);
    std::fs::remove_file(&program).expect("it is there");
    std::fs::write(&program, "#!/bin/false\n").expect("another");
    // More than there are children ready.
    for _ in 0..6 {
        let run = serving.json(&shop.operator, &["task", "run", "hello"]);
        assert_eq!(run["result"], "hello", "{run}");
    }
}

/// Runs that are wanted before the server dies.
const RUNS: usize = 200;

/// A server that is killed in the middle of 200 runs: each has an end, none is lost, and those of a
/// task with a single instance never overlapped.
fn every_run_ends_although_the_server_is_killed(kind: Kind) {
    let shop = Shop::new(kind);
    let runtime = runtime();
    let serving = shop.serve();
    let client = Client::new(&serving.url, &shop.operator).expect("a client");
    let (app, ids) = runtime.block_on(runs_that_a_third_has_ended_of(&client));
    serving.kill();
    let serving = shop.serve();
    let client = Client::new(&serving.url, &shop.operator).expect("a client");
    let app = client.app(&app);
    runtime.block_on(async {
        let began = Instant::now(); // clock: measures
        while app.runs(None, Some("queued"), 1).await.expect("runs").total
            + app.runs(None, Some("running"), 1).await.expect("runs").total
            > 0
        {
            assert!(began.elapsed() < Duration::from_mins(3), "all end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut again = 0;
        for id in &ids {
            let run = app.task_run(id).await.expect("none is lost");
            assert_eq!(run.state, RunState::Succeeded, "{run:?}");
            again += usize::from(run.attempt > 1);
        }
        assert!(again <= 4, "only what was going runs again: {again}");
        single_instance_held(&app).await;
        let verified = client.verify_ledger(0, 50_000).await.expect("an answer");
        assert!(verified.ok, "{:?}", verified.problem);
    });
}

/// The task, in which each run notes when it begins and when it ends.
fn noting(single_instance: bool) -> NewTask {
    let source = "async function note(text) {
            const sent = await fetch(`${this.backend.url}/objects/user`, { method: 'POST',
                headers: { Authorization: `Token ${this.backend.token}` },
                body: JSON.stringify({ user: { name: text } }) });
            if (!sent.ok) throw new Error(await sent.text());
        }
        export async function run() {
            await note.call(this, `from ${this.run.id} ${this.run.attempt}`);
            await note.call(this, `to ${this.run.id} ${this.run.attempt}`);
            return this.run.id;
        }";
    NewTask {
        file: "t.js".into(),
        source: source.into(),
        config: TaskConfig {
            scopes: Some(vec!["users:write".into()]),
            single_instance: Some(single_instance),
            ..TaskConfig::default()
        },
        ..NewTask::default()
    }
}

/// The app, and the ids of runs of which a third has ended.
async fn runs_that_a_third_has_ended_of(client: &Client) -> (String, Vec<String>) {
    let new = reauth_sdk::NewApp {
        name: "shop".into(),
        settings: reauth_sdk::SettingsChange::default(),
        allow_endless: false,
    };
    let app = client.app(client.create_app(&new).await.expect("an app").id);
    app.put_task("many", &noting(false)).await.expect("a task");
    app.put_task("single", &noting(true)).await.expect("a task");
    let mut ids = Vec::new();
    for at in 0..RUNS {
        let name = if at % 4 == 0 { "single" } else { "many" };
        ids.push(app.run_task(name, &RunRequest::default()).await.expect("a run").id);
    }
    let enough = u64::try_from(RUNS / 3).expect("a number");
    while app.runs(None, Some("succeeded"), 1).await.expect("runs").total < enough {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(app.runs(None, Some("queued"), 1).await.expect("runs").total > 0, "it is too late");
    (app.id().to_owned(), ids)
}

/// What the runs of the single instance noted is in pairs, but for one that the death cut short.
async fn single_instance_held(app: &reauth_sdk::InApp) {
    let single: Vec<String> = app
        .runs(Some("single"), None, 1_000)
        .await
        .expect("runs")
        .objects
        .into_iter()
        .map(|run| run.id)
        .collect();
    let users = app.user_objects().all().await.expect("users");
    let users = users.iter().map(|user| serde_json::to_value(user).expect("JSON"));
    let names: Vec<String> = users.map(|user| text(&user["name"])).collect();
    let names = names.iter().filter(|name| single.iter().any(|id| name.contains(id)));
    let mut open: Option<String> = None;
    let mut cut = 0;
    for name in names {
        if let Some(of) = name.strip_prefix("from ") {
            cut += usize::from(open.is_some());
            open = Some(of.to_owned());
        } else {
            assert_eq!(open.as_deref(), name.strip_prefix("to "), "two at once");
            open = None;
        }
    }
    assert!(cut <= 1, "{cut} were cut short");
}

#[test]
fn every_run_ends_although_the_server_is_killed_on_sqlite() {
    every_run_ends_although_the_server_is_killed(Kind::Sqlite);
}

#[test]
fn every_run_ends_although_the_server_is_killed_on_postgres() {
    every_run_ends_although_the_server_is_killed(Kind::Postgres);
}
