//! Where things are: which file an import means, and which line of the written text a line of the
//! running one came from. A bundle says at its end, in a source map, where its lines were written.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oxc_sourcemap::{SourceMap, SourceMapParts, Token};

use crate::Script;
use crate::engine::PRELUDE_NAME;

/// What a path may lack, as TypeScript and bundlers allow it.
const ENDINGS: [&str; 7] = ["", ".ts", ".js", ".mts", ".mjs", "/index.ts", "/index.js"];

/// How bundlers begin the last line of a text that brings its source map along; some name the
/// charset before the map itself.
const INLINE_MAP: &str = "//# sourceMappingURL=data:application/json;";
const BASE64: &str = "base64,";
/// A file with a longer name is not believed: each place in it would take so much.
const NAME_BYTES_MAX: usize = 256;
/// A text gets longer than this by other names of files only if someone wants it to.
const GROWTH_BYTES_MAX: usize = 64 * 1024;

/// The name of the file that `wanted` means when the file `base` imports it, if one of those that
/// it can mean is there: as TypeScript and bundlers read it.
pub fn resolve(base: &str, wanted: &str, is_there: impl Fn(&str) -> bool) -> Option<String> {
    if !wanted.starts_with("./") && !wanted.starts_with("../") {
        // A module of the sandbox's own, such as `reauth:test`.
        return Some(wanted).filter(|it| it.contains(':') && is_there(it)).map(str::to_owned);
    }
    let mut parts: Vec<&str> = base.split('/').collect();
    parts.pop();
    for part in wanted.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let find = |path: &str| {
        let mut all = ENDINGS.iter().map(|ending| format!("{path}{ending}"));
        all.find(|full| is_there(full))
    };
    // TypeScript writes `./a.js` and means `a.ts`.
    find(&path).or_else(|| find(path.strip_suffix(".js")?))
}

/// A text in JavaScript without the source map at its end, and that map (JSON, version 3), if it
/// has one that can be read. A file in it that is not believed has no name. The map is its
/// author's: the places in it are told and not otherwise used.
pub fn inline_map(source: &str) -> Option<(&str, String)> {
    let (javascript, map) = source.rsplit_once(INLINE_MAP)?;
    let (_, map) = map.split_once(BASE64).filter(|(charset, _)| charset.len() < 32)?;
    if !javascript.is_empty() && !javascript.ends_with('\n') {
        return None;
    }
    let map = String::from_utf8(STANDARD.decode(map.trim_end()).ok()?).ok()?;
    let mut map = read(&map)?;
    // The texts themselves are with their author.
    let count = map.get_sources().len();
    map.set_source_contents(vec![None; count]);
    Some((javascript, map.to_json_string()))
}

/// A map in which each file that is not believed has lost its name. Packages bring their own maps
/// into a bundle's: one odd name costs no other file its places.
fn read(map: &str) -> Option<SourceMap<'_>> {
    let mut parts = SourceMap::from_json_string(map).ok()?.into_parts();
    for name in &mut parts.sources {
        if name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
            *name = "".into();
        }
    }
    Some(SourceMap::from_parts(parts))
}

/// A place in a text as it was written: file, line and column, both from 1.
pub(crate) type Written<'a> = (&'a str, u32, u32);

/// Where the lines of a script's files were written.
pub(crate) struct Places<'a> {
    /// The longest name first: another may be its end.
    files: Vec<(&'a str, Option<SourceMapParts<'a>>)>,
}

impl<'a> Places<'a> {
    pub(crate) fn of(script: &'a Script) -> Self {
        let modules = script.modules.iter();
        let map =
            |map: &'a Option<String>| map.as_deref().and_then(read).map(SourceMap::into_parts);
        let mut files: Vec<_> =
            modules.map(|module| (module.name.as_str(), map(&module.map))).collect();
        files.sort_unstable_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self { files }
    }

    /// Where a place in a running file was written; none if it is where it was written.
    pub(crate) fn origin(&self, file: &str, line: u32, column: u32) -> Option<Written<'_>> {
        let map = self.files.iter().find(|(name, _)| *name == file)?.1.as_ref()?;
        looked_up(map, (line, column))
    }

    /// A text of the child with every place `name:line:column` as it was written. It is read as
    /// hostile, and what fits nothing stays as it is.
    pub(crate) fn written(&self, text: &str) -> String {
        let text = without_globals(text);
        let mut made = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(':') {
            let (before, after) = rest.split_at(at);
            made.push_str(before);
            let may_grow = made.len() + after.len() < text.len() + GROWTH_BYTES_MAX;
            let place = place(after).filter(|_| may_grow);
            let file = place.and_then(|_| self.files.iter().position(|it| ends_with(&made, it.0)));
            let origin = file.and_then(|file| {
                let (map, (line, column, length)) = (self.files[file].1.as_ref()?, place?);
                Some((self.files[file].0, looked_up(map, (line, column))?, length))
            });
            let length = if let Some((file, (name, line, column), length)) = origin {
                made.truncate(made.len() - file.len());
                made.push_str(&format!("{name}:{line}:{column}"));
                length
            } else {
                made.push(':');
                1
            };
            rest = &after[length..];
        }
        made.push_str(rest);
        made
    }
}

/// Where a source map says that a line and column, both from 1, were written; none if the file has
/// no name. The tokens are in the order of the running text: they are searched as they are, since a
/// table of its lines would be as long as a hostile map likes.
fn looked_up<'m>(map: &'m SourceMapParts<'_>, (line, column): (u32, u32)) -> Option<Written<'m>> {
    let wanted = (line.saturating_sub(1), column.saturating_sub(1));
    let at = |token: &Token| (token.get_dst_line(), token.get_dst_col());
    let (before, after) = map.tokens.split_at(map.tokens.partition_point(|it| at(it) < wanted));
    let there = after.first().filter(|token| at(token) == wanted);
    // Else the last one before it in its line, or the first of the line.
    let mut near = before.last().into_iter().chain(after.first());
    let token = there.or_else(|| near.find(|token| token.get_dst_line() == wanted.0))?;
    let name = map.sources.get(usize::try_from(token.get_source_id()?).ok()?)?;
    let (line, column) = (token.get_src_line(), token.get_src_col());
    (!name.is_empty()).then(|| (name.as_ref(), line.saturating_add(1), column.saturating_add(1)))
}

/// Whether a text ends with this name, which is not the end of a longer one.
fn ends_with(text: &str, name: &str) -> bool {
    let before = text.strip_suffix(name).map(|before| before.chars().next_back());
    before.is_some_and(|last| !last.is_some_and(is_in_paths))
}

fn is_in_paths(c: char) -> bool {
    c.is_alphanumeric() || "/._-@$~+%#".contains(c)
}

/// Without the frames of a stack that are in our own globals.
fn without_globals(text: &str) -> String {
    let is_theirs = |line: &&str| !(line.contains("    at ") && line.contains(PRELUDE_NAME));
    let lines: Vec<&str> = text.split('\n').filter(is_theirs).collect();
    lines.join("\n")
}

/// The line and column of the first place in a text that is in this file.
pub(crate) fn place_in(text: &str, name: &str) -> Option<(u32, u32)> {
    let mut all = text.match_indices(':').filter(|(at, _)| ends_with(&text[..*at], name));
    all.find_map(|(at, _)| place(&text[at..])).map(|(line, column, _)| (line, column))
}

/// Reads `:line:column` at the beginning; answers its length too.
fn place(text: &str) -> Option<(u32, u32, usize)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let rest = text.strip_prefix(':')?;
    let line = digits(rest);
    let column_text = rest.get(line..)?.strip_prefix(':')?;
    let column = digits(column_text);
    Some((rest[..line].parse().ok()?, column_text[..column].parse().ok()?, line + column + 2))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Module;

    #[test]
    fn an_import_means_a_file() {
        let names = ["main.ts", "lib/a.ts", "lib/index.js", "b.mjs", "reauth:test"];
        for (base, wanted, found) in [
            ("main.ts", "./lib/a.ts", Some("lib/a.ts")),
            ("main.ts", "./lib/a", Some("lib/a.ts")),
            ("main.ts", "./lib/a.js", Some("lib/a.ts")),
            ("main.ts", "./lib", Some("lib/index.js")),
            ("lib/a.ts", "../b", Some("b.mjs")),
            ("lib/a.ts", "./../main", Some("main.ts")),
            ("main.ts", "reauth:test", Some("reauth:test")),
            ("main.ts", "../main.ts", None),
            ("main.ts", "lib/a.ts", None),
            ("main.ts", "/lib/a.ts", None),
            ("main.ts", "./missing", None),
        ] {
            let named = resolve(base, wanted, |name| names.contains(&name));
            assert_eq!(named.as_deref(), found, "{base} {wanted}");
        }
    }

    #[test]
    fn a_stack_tells_the_lines_that_were_written() {
        let source = "interface Wide {\n  a: number;\n  b: string;\n}\n\n\
            export function run(given: Wide) {\n  throw new Error(given.b);\n}\n";
        let files = BTreeMap::from([("t.ts".to_owned(), source.to_owned())]);
        let script = crate::compile("t.ts", &files).expect("it compiles").script;
        let line = script.modules[0].javascript.lines().position(|it| it.contains("throw"));
        let line = line.expect("it is there") + 1;
        assert!(line < 7, "the interface is gone");
        let places = Places::of(&script);
        let stack = format!("    at run (t.ts:{line}:12)\n at t.ts of t.ts:x");
        let written = places.written(&stack);
        assert!(written.starts_with("    at run (t.ts:7:"), "{written}");
        assert!(written.ends_with(" at t.ts of t.ts:x"), "{written}");
        assert_eq!(places.written("t.ts:99999:1 t.ts:1"), "t.ts:99999:1 t.ts:1");
        assert_eq!(
            places.written(&format!("(lib/t.ts:{line}:12)")),
            format!("(lib/t.ts:{line}:12)")
        );
        let ours = format!("Error: no\n    at fetch ({PRELUDE_NAME}:1:2)\n    at run (t.js:1:2)");
        assert_eq!(places.written(&ours), "Error: no\n    at run (t.js:1:2)");
    }

    /// A bundle whose second line is the seventh of this file.
    fn bundle(name: &str) -> String {
        let name = serde_json::Value::from(name);
        let map = format!(
            "{{\"version\":3,\"sources\":[{name}],\"sourcesContent\":[\"secret\"],\
             \"names\":[],\"mappings\":\";EAMA\"}}"
        );
        let text = "var a;\n  throw new Error('no');\nexport function run() {}\n";
        format!("{text}{INLINE_MAP}{BASE64}{}\n", STANDARD.encode(map))
    }

    #[test]
    fn a_place_in_a_bundle_is_told_as_that_of_the_file_that_was_written() {
        let files = BTreeMap::from([("t/index.js".to_owned(), bundle("t/index.ts"))]);
        let script = crate::compile("t/index.js", &files).expect("it compiles").script;
        assert!(script.modules[0].javascript.ends_with("run() {}\n"), "the map is apart");
        assert!(!script.modules[0].map.as_ref().expect("a map").contains("secret"));
        let stack = "at run (t/index.js:2:9)\nat run (t/index.js:1:1) x/t/index.js:2:9";
        let wanted = "at run (t/index.ts:7:1)\nat run (t/index.js:1:1) x/t/index.js:2:9";
        assert_eq!(script.written(stack), wanted);
    }

    #[test]
    fn a_source_map_that_means_harm_does_none() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in [long.as_str(), "a\nerror: all is lost", "\u{0}"] {
            let files = BTreeMap::from([("t.js".to_owned(), bundle(name))]);
            let script = crate::compile("t.js", &files).expect("it compiles").script;
            let map = script.modules[0].map.as_ref().expect("a map");
            assert!(map.contains("\"sources\":[\"\"]"), "{map}");
            assert_eq!(script.written("t.js:2:9"), "t.js:2:9", "{name:?}");
        }
        for end in ["", "base64,AAAA", "base64,e30=", "base64,bm8=", "base64,%", "AAAA"] {
            assert_eq!(inline_map(&format!("{INLINE_MAP}{end}")), None, "{end}");
        }
        let with_charset = bundle("t.ts").replace(BASE64, "charset=utf-8;base64,");
        assert_eq!(inline_map(&with_charset), inline_map(&bundle("t.ts")));
        assert_eq!(inline_map(&format!("'{}'", bundle("t.ts"))), None, "it is within a text");
        let name = "x".repeat(NAME_BYTES_MAX);
        let files = BTreeMap::from([("t.js".to_owned(), bundle(&name))]);
        let script = crate::compile("t.js", &files).expect("it compiles").script;
        let text = "t.js:2:1 ".repeat(10_000);
        let length = script.written(&text).len();
        assert!(length < text.len() + GROWTH_BYTES_MAX + 2 * NAME_BYTES_MAX, "{length}");
    }

    #[test]
    fn a_file_that_is_not_believed_costs_no_other_its_places() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let map = format!(
            "{{\"version\":3,\"sources\":[{long:?},\"a\\nb.ts\",\"t.ts\"],\"names\":[],\
             \"mappings\":\"AAAA;ACAA;ACMA\"}}"
        );
        let text = "var a;\nvar b;\nexport function run() {}\n";
        let text = format!("{text}{INLINE_MAP}{BASE64}{}\n", STANDARD.encode(map));
        let files = BTreeMap::from([("t.js".to_owned(), text)]);
        let script = crate::compile("t.js", &files).expect("it compiles").script;
        let told = script.written("t.js:1:1 t.js:2:1 t.js:3:1");
        assert_eq!(told, "t.js:1:1 t.js:2:1 t.ts:7:1");
    }

    #[test]
    fn the_nearest_token_of_a_line_says_where_it_was_written() {
        // At the columns 5, 9 and 9 of line 2, and at the first of line 4.
        let map = "{\"version\":3,\"sources\":[\"t.ts\"],\"names\":[],\
                   \"mappings\":\";IAKA,IACA,AACA;;AAEA\"}";
        let map = read(map).expect("a map").into_parts();
        for (place, line) in [
            ((1, 1), None),
            ((2, 1), Some(6)),
            ((2, 5), Some(6)),
            ((2, 8), Some(6)),
            ((2, 9), Some(7)),
            ((2, 90), Some(8)),
            ((3, 1), None),
            ((4, 7), Some(10)),
            ((5, 1), None),
        ] {
            let found = looked_up(&map, place).map(|(_, line, _)| line);
            assert_eq!(found, line, "{place:?}");
        }
    }

    #[test]
    fn a_map_of_many_lines_costs_no_time_at_each_place() {
        let map = format!(
            "{{\"version\":3,\"sources\":[\"t.ts\"],\"names\":[],\"mappings\":\"{}AAAA\"}}",
            ";".repeat(380_000)
        );
        let module = Module { name: "t.js".into(), javascript: String::new(), map: Some(map) };
        let script = Script { entry: "t.js".into(), modules: vec![module] };
        let places = Places::of(&script);
        let began = Instant::now(); // clock: measures
        for _ in 0..20_000 {
            assert_eq!(places.written("at t.js:380001:1"), "at t.ts:1:1");
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[test]
    fn a_place_is_that_of_its_own_file() {
        let text =
            |gap: &str| format!("{gap}export function run() {{\n  throw new Error('no');\n}}\n");
        let files = [("a.ts", 0), ("lib/a.ts", 8), ("of a.ts", 18)];
        let files = files.map(|(name, gap)| {
            (name.to_owned(), text(&format!("type A =\n{}1;\n", "\n".repeat(gap))))
        });
        let script = crate::compile("a.ts", &BTreeMap::from(files)).expect("it compiles").script;
        let stack = "at run (lib/a.ts:2:3) at run (a.ts:2:3)\na.ts:2:3 of a.ts:2:3 x/a.ts:2:3";
        let wanted = "at run (lib/a.ts:12:3) at run (a.ts:4:3)\na.ts:4:3 of a.ts:22:3 x/a.ts:2:3";
        assert_eq!(script.written(stack), wanted);
        assert_eq!(place_in(wanted, "a.ts"), Some((4, 3)));
    }
}
