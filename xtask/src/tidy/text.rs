//! What can be seen in a file's text: lengths, names, clocks, statements.

use super::Finding;

/// Where somebody changes the database behind the server's back: stories of sabotage and of other
/// versions, and the bench's sample of a million sessions.
const BEHIND_ITS_BACK: &[&str] = &[
    "crates/cli/tests/it/copies.rs",
    "crates/cli/tests/it/crash.rs",
    "crates/cli/tests/it/restore.rs",
    "crates/server/benches/authority.rs",
    "crates/server/tests/it/faults.rs",
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;
/// The one file that reads the machine's clock.
const CLOCK_FILE: &str = "crates/domain/src/values/time.rs";
/// Measuring is allowed where it is marked.
const MEASURES: &str = "// clock: measures";
const CLOCKS: [&str; 4] = ["SystemTime::now", "Instant::now", "Utc::now", "Local::now"];
const STATEMENTS: [&str; 4] = ["\"select ", "\"insert into ", "\"update ", "\"delete from "];
const FUNCTION_NAMES: [&str; 3] = ["get_", "handle_", "do_"];
const TYPE_NAMES: [&str; 4] = ["Manager", "Service", "Info", "Data"];

/// How much of the Rust code is tests.
#[derive(Default)]
pub(super) struct Share {
    lines: usize,
    tests: usize,
}

impl Share {
    pub(super) fn sentence(&self) -> String {
        let percent = self.tests * 100 / self.lines.max(1);
        format!("{} lines of Rust, {percent} % of them tests (45 to 55 are wanted)", self.lines)
    }
}

/// All findings in one file.
pub(super) fn look(path: &str, text: &str, share: &mut Share) -> Vec<Finding> {
    let has_ending = |ending: &str| path.ends_with(ending);
    let is_rust = has_ending(".rs");
    if !is_rust && ![".js", ".ts"].iter().any(|ending| has_ending(ending)) {
        return Vec::new();
    }
    let mut found = lengths(path, text);
    if is_rust {
        found.extend(functions(path, text));
        // This file spells out what it looks for.
        if !path.starts_with("xtask/") {
            found.extend(words(path, text));
        }
        count(path, text, share);
    }
    found
}

fn lengths(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines, {FILE_LINES_MAX} are allowed: split the file");
        found.push(Finding::new(path, FILE_LINES_MAX, what));
    }
    for (at, line) in text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters, {LINE_CHARS_MAX} are allowed");
            found.push(Finding::new(path, at + 1, what));
        }
    }
    found
}

/// Functions by their indentation, as rustfmt writes them: the head's line, then the line that
/// closes it at the same depth.
fn functions(path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let rest = lines[at..].iter().position(|line| *line == end);
        let length = rest.map_or(1, |rest| rest + 1);
        if length > FUNCTION_LINES_MAX {
            let what = format!("{name} has {length} lines, {FUNCTION_LINES_MAX} are allowed");
            found.push(Finding::new(path, at + 1, what));
        }
        if FUNCTION_NAMES.iter().any(|prefix| name.starts_with(prefix)) {
            found.push(Finding::new(path, at + 1, format!("{name}: name what it does")));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let words = line.trim_start();
    if words.starts_with("//") {
        return None;
    }
    let at = if words.starts_with("fn ") { 0 } else { words.find(" fn ")? + 1 };
    let head = &words[..at];
    let modifiers = ["pub", "async", "const", "unsafe", "extern"];
    let is_head = head
        .split_whitespace()
        .all(|word| modifiers.contains(&word) || word.starts_with("pub(") || word.ends_with(')'));
    let name = words[at + 3..].split(['(', '<']).next()?;
    is_head.then_some(name)
}

fn words(path: &str, text: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut add = |what: String| found.push(Finding::new(path, at + 1, what));
        let trimmed = line.trim_start();
        if trimmed.starts_with("//") {
            continue;
        }
        let reads = CLOCKS.iter().find(|clock| line.contains(*clock));
        if let Some(clock) = reads.filter(|_| path != CLOCK_FILE && !line.contains(MEASURES)) {
            add(format!("{clock}: ask the Clock; to measure, end the line with `{MEASURES}`"));
        }
        let may_sql = path.starts_with("crates/domain/") || BEHIND_ITS_BACK.contains(&path);
        let lower = line.to_lowercase();
        if !may_sql && STATEMENTS.iter().any(|statement| lower.contains(statement)) {
            add("SQL belongs into reauth-domain".to_owned());
        }
        if trimmed.starts_with("pub use ") && !path.ends_with("/lib.rs") && !is_module(path) {
            add("`pub use` belongs into lib.rs".to_owned());
        }
        if let Some(name) = type_name(trimmed)
            && TYPE_NAMES.iter().any(|ending| name.ends_with(ending))
        {
            add(format!("{name}: name the noun"));
        }
    }
    found
}

/// A folder's own file gathers its parts for the crate; only `lib.rs` does so for others.
fn is_module(path: &str) -> bool {
    path.ends_with("/mod.rs")
}

fn type_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("pub(crate) ").unwrap_or(rest);
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let rest = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

fn count(path: &str, text: &str, share: &mut Share) {
    let lines = text.lines().count();
    share.lines += lines;
    share.tests += if path.contains("/tests/") || path.contains("/benches/") {
        lines
    } else {
        let inner = text.find("#[cfg(test)]\nmod ");
        inner.map_or(0, |at| text[at..].lines().count())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut share = Share::default();
        look(path, text, &mut share).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn long_things_are_found() {
        assert_eq!(findings("a/x.rs", &"//\n".repeat(601)).len(), 1);
        assert_eq!(findings("a/x.rs", &"//\n".repeat(600)).len(), 0);
        assert_eq!(findings("a/x.js", &"x".repeat(101)).len(), 1);
        assert_eq!(findings("a/x.md", &"x".repeat(101)).len(), 0);
        let function =
            |lines| format!("    pub async fn long() {{\n{}    }}\n", "        x;\n".repeat(lines));
        assert_eq!(findings("a/x.rs", &function(69)).len(), 1);
        assert_eq!(findings("a/x.rs", &function(68)).len(), 0);
    }

    #[test]
    fn clocks_statements_and_names_are_found() {
        for (path, text) in [
            ("crates/server/src/x.rs", "let now = Instant::now();"),
            ("crates/server/src/x.rs", "tx.rows(\"SELECT 1\");"),
            ("crates/sdk/src/x.rs", "pub use a::B;"),
            ("crates/sdk/src/x.rs", "pub struct TokenInfo;"),
            ("crates/sdk/src/x.rs", "fn get_it() {\n}"),
            ("crates/sdk/src/x.rs", "pub(crate) const fn handle_it() {\n}"),
        ] {
            assert_eq!(findings(path, text).len(), 1, "{path} {text}");
        }
        for (path, text) in [
            ("crates/server/src/x.rs", "let began = Instant::now(); // clock: measures"),
            ("crates/domain/src/x.rs", "tx.rows(\"select 1\");"),
            ("crates/sdk/src/lib.rs", "pub use a::B;"),
            ("crates/sdk/src/x.rs", "// fn get_it() SystemTime::now"),
            ("crates/sdk/src/x.rs", "let f: fn(u8) = get_it;"),
        ] {
            assert_eq!(findings(path, text), Vec::<String>::new(), "{path} {text}");
        }
    }

    #[test]
    fn tests_are_counted() {
        let mut share = Share::default();
        look("a/src/x.rs", "fn a() {\n}\n#[cfg(test)]\nmod tests {\n}\n", &mut share);
        assert_eq!((share.lines, share.tests), (5, 3));
    }
}
