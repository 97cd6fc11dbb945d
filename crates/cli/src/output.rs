//! What is written to stdout: tables for people, or JSON for programs. Remarks go to stderr. What
//! came from elsewhere is made plain first: a device's label must not speak to a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// How often a spinner turns: as often as the eye needs to see that it lives.
const TICK: Duration = Duration::from_millis(120);

/// In which form a verb answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read it.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Many objects: a table, or an array of the whole objects. `what` names them when there are
    /// none.
    pub(crate) fn list<T: Serialize, const N: usize>(
        self,
        objects: &[T],
        what: &str,
        columns: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        if self.json {
            return print_json(&objects);
        }
        if objects.is_empty() {
            remark(&format!("no {what}"));
            return Ok(());
        }
        print(&table(&columns, objects.iter().map(|object| row(object).to_vec()).collect()))
    }

    /// One object: as its fields, or whole.
    pub(crate) fn one<T: Serialize>(self, object: &T, fields: &[(&str, String)]) -> Result<()> {
        if self.json {
            return print_json(object);
        }
        let rows = fields.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]);
        print(&aligned(rows))
    }

    /// One object of which people want just one text, such as a secret; the rest is a remark.
    pub(crate) fn secret<T: Serialize>(self, object: &T, secret: &str, about: &str) -> Result<()> {
        if self.json {
            return print_json(object);
        }
        remark(about);
        print(&plain(secret))
    }

    /// Something was done: a sentence, or `{"ok":true,…}` with these fields.
    pub(crate) fn done(self, sentence: &str, fields: Value) -> Result<()> {
        if self.json {
            return print_json(&with_ok(fields));
        }
        print(&plain(sentence))
    }

    /// For people only, and no part of the answer.
    pub(crate) fn remark(self, text: &str) {
        if !self.json {
            remark(text);
        }
    }

    /// A part of the answer that people read as it comes; programs get all of it at the end.
    pub(crate) fn tell(self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { print(&plain_lines(text)) }
    }

    /// An object whole as JSON, or a text for people.
    pub(crate) fn either<T: Serialize>(self, object: &T, text: &str) -> Result<()> {
        if self.json { print_json(object) } else { print(&plain_lines(text)) }
    }
}

fn with_ok(fields: Value) -> Value {
    let mut done = json!({ "ok": true });
    if let (Value::Object(done), Value::Object(fields)) = (&mut done, fields) {
        done.extend(fields);
    }
    done
}

fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(format!("this has no JSON form: {error}")))?;
    print(&text)
}

/// Writes a text and an end of line to stdout.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    if !text.is_empty() {
        writeln!(out, "{text}")?;
    }
    Ok(out.flush()?)
}

/// Writes a line to stderr. Nobody there to read it is no reason to stop.
fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", plain(text));
}

/// Columns without lines between them, so that it can be read, cut and searched.
pub(crate) fn table(columns: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = bare();
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    let cell = |cell: String| {
        if cell.is_empty() { "-".to_owned() } else { plain(&cell) }
    };
    for row in rows {
        table.add_row(row.into_iter().map(cell));
    }
    trimmed(&table)
}

/// A bar on stderr that counts to `all`, if a person looks at it.
pub(crate) fn progress(all: u64, what: &str) -> ProgressBar {
    bar(all, what, "{msg} {wide_bar} {pos}/{len}")
}

/// A spinner on stderr for what takes nobody knows how long, if a person looks at it.
pub(crate) fn waiting(what: &str) -> ProgressBar {
    let bar = bar(0, what, "{spinner} {msg} {elapsed}");
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

fn bar(all: u64, what: &str, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(all).with_message(plain(what));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn aligned<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = bare();
    for row in rows {
        table.add_row(row.map(|cell| plain(&cell)));
    }
    trimmed(&table)
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Without the padding before the first column and after the last.
fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect();
    lines.join("\n")
}

/// One line without control characters, and without those that turn the direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let is_space = |c: char| matches!(c, '\n' | '\t' | '\r');
    text.chars().map(|c| if is_space(c) { ' ' } else { harmless(c) }).collect()
}

/// As [`plain`], but line breaks and tabs stay.
pub(crate) fn plain_lines(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { harmless(c) }).collect()
}

fn harmless(c: char) -> char {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_its_empty_cells_show() {
        let rows = [["ann", "2"], ["roberta", ""]].map(|row| row.map(str::to_owned).to_vec());
        let text = table(&["name", "sessions"], rows.to_vec());
        assert_eq!(text, "NAME     SESSIONS\nann      2\nroberta  -");
    }

    #[test]
    fn fields_stand_below_each_other() {
        let rows = [["id", "1"], ["created", "today"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(rows.into_iter()), "id       1\ncreated  today");
    }

    #[test]
    fn what_speaks_to_a_terminal_is_made_plain() {
        assert_eq!(plain("a\u{1b}[31mb\u{7}\u{9b}c"), "a\u{fffd}[31mb\u{fffd}\u{fffd}c");
        assert_eq!(plain("one\ntwo\tthree\r"), "one two three ");
        assert_eq!(plain("Ann\u{202e}nnA"), "Ann\u{fffd}nnA");
        assert_eq!(plain("Zoë 字 ✓"), "Zoë 字 ✓");
        assert_eq!(plain_lines("one\ntwo\tthree\r"), "one\ntwo\tthree\u{fffd}");
        let label = vec![vec!["a\nb\u{1b}[2J".to_owned()]];
        assert_eq!(table(&["label"], label), "LABEL\na b\u{fffd}[2J");
    }

    #[test]
    fn what_was_done_is_ok_with_its_fields() {
        let done = with_ok(json!({ "user": "u" }));
        assert_eq!(done, json!({ "ok": true, "user": "u" }));
    }
}
