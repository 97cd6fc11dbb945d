//! The conformance table names tests: each must exist and run, and no row may be missing.

use std::fs;
use std::path::{Path, PathBuf};

const ASVS: [&str; 19] = [
    "7.1.1", "7.1.2", "7.1.3", "7.2.1", "7.2.2", "7.2.3", "7.2.4", "7.3.1", "7.3.2", "7.4.1",
    "7.4.2", "7.4.3", "7.4.4", "7.4.5", "7.5.1", "7.5.2", "7.5.3", "7.6.1", "7.6.2",
];
const NIST: [&str; 29] = [
    "N2.1.3-a", "N2.1.3-b", "N2.2.3-a", "N2.2.3-b", "N2.3.3", "N5.1-a", "N5.1-b", "N5.1-c",
    "N5.1-d", "N5.1-1", "N5.1-2", "N5.1-3", "N5.1-4", "N5.1-5", "N5.1-6", "N5.1-e", "N5.1-f",
    "N5.1-g", "N5.1.1-1", "N5.1.1-2", "N5.1.1-3", "N5.1.1-4", "N5.1.1-5", "N5.1.1-6", "N5.1.1-7",
    "N5.2-a", "N5.2-b", "N5.2-c", "N5.2-d",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of each row of the tables: id, level, what is asked, the answer, the proof.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect());
    cells.filter(|cells: &Vec<&str>| cells.first() != Some(&"Id"))
}

/// Whether a test of this name is in the file, and is run: a function with `#[test]` above it that
/// is not ignored, or a story in a list of `both!`.
fn is_run(text: &str, name: &str) -> bool {
    let declared = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let is_head =
        |line: &&str| line.strip_prefix("async ").unwrap_or(line).starts_with(declared.as_str());
    let Some(at) = lines.iter().position(is_head) else { return false };
    let is_above = |line: &&&str| line.starts_with("#[") || line.starts_with("///");
    let above: Vec<&str> = lines[..at].iter().rev().take_while(is_above).copied().collect();
    let has = |start: &str| above.iter().any(|line| line.starts_with(start));
    let is_test = (has("#[test]") || has("#[tokio::test")) && !has("#[ignore");
    let lists = text.split("both!(").skip(1).filter_map(|list| list.split_once(");"));
    let mut stories = lists.flat_map(|(list, _)| list.split(',').map(str::trim));
    is_test || stories.any(|story| story == name)
}

/// The documents that a proof names, after `documented: `.
fn documents(proof: &str) -> impl Iterator<Item = &str> {
    let lists = proof.split("documented: ").skip(1);
    lists.flat_map(|list| list.split(';').next().unwrap_or_default().split(',').map(str::trim))
}

/// What is wrong with a table's proofs.
fn problems(table: &str, root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for cells in rows(table) {
        let (id, proof) = (cells[0], cells.last().copied().unwrap_or_default());
        let named = proof.split('`').filter(|part| part.contains("::"));
        let mut tests = 0;
        for test in named {
            tests += 1;
            let (file, name) = test.split_once("::").unwrap_or_default();
            let text = fs::read_to_string(root.join(file)).unwrap_or_default();
            if !is_run(&text, name) {
                found.push(format!("{id}: {test} is no test that runs"));
            }
        }
        for document in documents(proof) {
            if !root.join(document).is_file() {
                found.push(format!("{id}: {document} is no document"));
            }
        }
        let is_said = proof.contains("not due: ") || proof.contains("documented: ");
        if cells.len() != 5 || (tests == 0 && !is_said) {
            found.push(format!("{id}: the row has no proof and does not say why"));
        }
    }
    found
}

#[test]
fn every_row_is_there_once_and_every_test_that_it_names_runs() {
    let table = fs::read_to_string(root().join("docs/conformance.md")).expect("the table");
    let ids: Vec<&str> = rows(&table).map(|cells| cells[0]).collect();
    assert_eq!(ids, [ASVS.as_slice(), NIST.as_slice()].concat());
    assert_eq!(problems(&table, &root()), Vec::<String>::new());
}

#[test]
fn a_table_that_names_no_test_is_found_out() {
    let file = "crates/server/tests/it/documents/conformance.rs";
    let row = |proof: &str| format!("| Id | x |\n| 7.1.1 | 2 | asked | answered | {proof} |\n");
    let good = row(&format!("`{file}::a_table_that_names_no_test_is_found_out`"));
    assert_eq!(problems(&good, &root()), Vec::<String>::new());
    for wrong in [
        row(&format!("`{file}::a_test_that_is_not_there`")),
        row(&format!("`{file}::problems`")),
        row("`crates/nowhere.rs::a_test`"),
        row("documented: docs/nowhere.md"),
        row("documented"),
        row("surely"),
        row(""),
    ] {
        assert_eq!(problems(&wrong, &root()).len(), 1, "{wrong}");
    }
}
