//! `reauth task test`: tests beside tasks, each with a throw-away server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use reauth_server::sandbox::{
    self, Backend, Call, Job, Limits, LogLine, Outcome, Report, RunFacts, Sandbox, Script,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use tokio::sync::mpsc;

use super::Tests;
use super::files::{LocalTask, LocalTests, ready, tests_at};
use super::lab::Lab;
use crate::connect::Context;
use crate::failure::{Failure, Result};
use crate::verbs::serve::child;

const TESTING: &str = include_str!("testing.js");
/// Imports the test, so that it registers, and runs what was registered.
const MAIN: &str = "reauth:main";
/// All tests of one file take this long at most.
const WALL: Duration = Duration::from_mins(5);

/// What became of a test.
#[derive(Debug, Deserialize, Serialize)]
struct Tested {
    name: String,
    ok: bool,
    #[serde(default)]
    took_ms: u64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    stack: String,
    actual: Option<String>,
    expected: Option<String>,
}

/// How many tests passed, and how many failed. A file whose tests did not end is one that failed.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, tested: &Tested) {
        if tested.ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

pub(super) async fn test(context: &Context, wanted: &Tests) -> Result<()> {
    let Count { passed, failed } = all(context, wanted).await?;
    let text = format!("{passed} passed, {failed} failed");
    context.output.done(&text, json!({ "ok": failed == 0, "passed": passed, "failed": failed }))?;
    match failed {
        0 => Ok(()),
        1 => Err(Failure::new("1 test failed")),
        count => Err(Failure::new(format!("{count} tests failed"))),
    }
}

async fn all(context: &Context, wanted: &Tests) -> Result<Count> {
    let LocalTests { root, tasks, tests } = tests_at(&wanted.path)?;
    if tests.is_empty() {
        let what = format!("no test is at {}", wanted.path.display());
        return Err(Failure::new(what).help("a test of tidy.ts is called tidy.test.ts"));
    }
    let mut count = Count::default();
    for (name, subject) in tests {
        context.output.tell(&root.join(&name).display().to_string())?;
        let of = (root.as_path(), name.as_str(), wanted.filter.as_deref());
        // What is wrong with one file hides no other.
        if let Err(failure) = file(context, of, (&tasks, subject), &mut count).await {
            let _ = failure.report();
            count.failed += 1;
        }
    }
    Ok(count)
}

/// Runs the tests of one file in a child, as a task runs. A failure is what ended them all.
async fn file(
    context: &Context,
    (root, name, filter): (&Path, &str, Option<&str>),
    (tasks, subject): (&[LocalTask], String),
    count: &mut Count,
) -> Result<()> {
    let tasks = right_tasks(tasks.to_vec(), &subject)?;
    let script = script(root, name)?;
    let (sender, mut told) = mpsc::unbounded_channel();
    let lab = Lab::new(tasks, subject, sender);
    let params = json!({ "filter": filter.unwrap_or_default() });
    let mut hear = |result: Value| {
        let tested: serde_json::Result<Tested> = serde_json::from_value(result);
        if let Ok(tested) = tested {
            count.add(&tested);
            // Nobody reads any more: the results are counted all the same.
            let _ = context.output.tell(&line(&tested, &script));
        }
    };
    let tell = async {
        while let Some(result) = told.recv().await {
            hear(result);
        }
    };
    let report = tokio::select! {
        report = in_child(&script, params, &lab) => report?,
        () = tell => return Err(Failure::new("the tests ended early")),
    };
    lab.end().await;
    while let Ok(result) = told.try_recv() {
        hear(result);
    }
    log(context, &report.log);
    match report.outcome {
        Outcome::Done(_) => Ok(()),
        Outcome::Threw { message, stack } => Err(Failure::new(format!("{message}\n{stack}"))),
        other => Err(Failure::new(format!("the tests of {name} did not end: {other:?}"))),
    }
}

/// The tasks that a world can have. That another one is wrong is another's affair.
pub(super) fn right_tasks(all: Vec<LocalTask>, subject: &str) -> Result<Vec<LocalTask>> {
    let mut tasks = Vec::new();
    for task in all {
        match super::write::checked(&task) {
            Ok(_) => tasks.push(task),
            Err(failure) if task.name == subject => return Err(failure),
            Err(_) => {}
        }
    }
    Ok(tasks)
}

/// Runs what asks for a lab, as a task runs.
pub(super) async fn in_child(script: &Script, params: Value, lab: &Lab) -> Result<Report> {
    let child = child().map_err(Failure::new)?;
    let sandbox = Sandbox::new(child.program, child.args);
    let job = Job {
        script: script.clone(),
        call: Call::Run { params: params.into() },
        backend: Backend { url: String::new(), token: String::new() },
        run: RunFacts::default(),
        env: BTreeMap::new(),
        now_ms: None,
    };
    let limits = Limits { wall: WALL, cpu: WALL, ..Limits::default() };
    Ok(sandbox.run(&job, &limits, lab).await)
}

/// The test with all that it imports, and what runs it.
fn script(root: &Path, name: &str) -> Result<Script> {
    let ready = ready(root, name)??;
    let main = format!("import \"./{}\"; export {{ run }} from \"reauth:test\";", ready.entry);
    with_lab(main, ready.files)
}

/// A script with its other files, which can ask for a lab.
pub(super) fn with_lab(main: String, mut files: BTreeMap<String, String>) -> Result<Script> {
    files.insert("reauth:test".to_owned(), TESTING.to_owned());
    files.insert(MAIN.to_owned(), main);
    let compiled = sandbox::compile(MAIN, &files);
    compiled.map(|compiled| compiled.script).map_err(|error| Failure::new(error.to_string()))
}

fn log(context: &Context, log: &[LogLine]) {
    for line in log {
        context.output.remark(&format!("        {}", line.text));
    }
}

/// How a test went: one line, or a few that show why not.
fn line(tested: &Tested, script: &Script) -> String {
    let Tested { name, took_ms, .. } = tested;
    if tested.ok {
        return format!("  ok      {name} ({took_ms} ms)");
    }
    let mut text = format!("  FAILED  {name} ({took_ms} ms)\n          {}", tested.message);
    if let (Some(actual), Some(expected)) = (&tested.actual, &tested.expected) {
        text.push_str("\n          - expected, + actual");
        for change in TextDiff::from_lines(expected, actual).iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            text.push_str(&format!("\n          {sign} {}", change.value().trim_end()));
        }
    }
    let stack = script.written(&tested.stack);
    for place in stack.lines().filter(|line| line.contains(".test.")) {
        text.push_str(&format!("\n          {}", place.trim()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_difference_and_the_place() {
        let tested = Tested {
            name: "it counts".into(),
            ok: false,
            took_ms: 7,
            message: "AssertionError: the values differ".into(),
            stack: "    at equal (reauth:test:1:2)\n    at <anonymous> (a.test.js:9:3)".into(),
            actual: Some("{\n  \"a\": 1\n}".into()),
            expected: Some("{\n  \"a\": 2\n}".into()),
        };
        let script = Script { entry: MAIN.into(), modules: Vec::new() };
        let text = line(&tested, &script);
        assert!(text.contains("-   \"a\": 2\n          +   \"a\": 1"), "{text}");
        assert!(text.ends_with("at <anonymous> (a.test.js:9:3)"), "{text}");
    }
}
