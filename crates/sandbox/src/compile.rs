//! Checks the syntax of a script's files, strips their types, and looks whether their imports lead
//! somewhere. Scripts are compiled when they are put, so that a mistake is shown to its author with
//! its place, and a run begins at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use oxc::allocator::Allocator;
use oxc::codegen::{Codegen, CodegenOptions};
use oxc::diagnostics::OxcDiagnostic;
use oxc::parser::{ParseOptions, Parser};
use oxc::semantic::SemanticBuilder;
use oxc::span::SourceType;
use oxc::syntax::module_record::ModuleRecord;
use oxc::transformer::{TransformOptions, Transformer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checked::Checked;
use crate::places::{Places, inline_map, resolve};
use crate::{CALLED, Module, Script, config};

/// Why a script does not compile, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileError {
    /// What is wrong.
    pub message: String,
    /// In which file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The message, the place and the line itself, with a mark below it.
    pub frame: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.frame)
    }
}

impl std::error::Error for CompileError {}

impl CompileError {
    /// The same error with its line, for one who has the text of the file that it names.
    #[must_use]
    pub fn shown_in(self, source: &str) -> Self {
        error_on((&self.file, source), &self.message, (self.line, self.column))
    }
}

/// What came of a script's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compiled {
    /// Ready to run.
    pub script: Script,
    /// What the entry says of itself: its `export const config = {…}`, as JSON.
    pub config: Option<Value>,
    /// The names that the entry exports, sorted.
    pub exports: Vec<String>,
}

impl Compiled {
    /// Whether there is something to call; what has nothing is a file for others.
    pub fn is_called(&self) -> bool {
        self.exports.iter().any(|name| CALLED.contains(&name.as_str()))
    }
}

/// Makes a script of texts by file name. A name says the language: `.ts` and `.mts` are TypeScript,
/// all else is JavaScript. The entry is the file whose exports are called.
pub fn compile(entry: &str, files: &BTreeMap<String, String>) -> Result<Compiled, CompileError> {
    if !files.contains_key(entry) {
        return Err(error_at((entry, ""), "the entry is not among the files", 0));
    }
    let (mut modules, mut config) = (Vec::new(), None);
    for (name, source) in files {
        let said = (name == entry).then_some(&mut config);
        let module = compile_file(name, source, files, said);
        modules.push(module.map_err(|error| as_written(error, source))?);
    }
    let script = Script { entry: entry.to_owned(), modules };
    let checked = Checked::new(&script, files)?;
    let exports = checked.exports(entry);
    if config.is_none() && exports.contains(config::NAME) {
        return Err(checked.wrong_export(entry, config::NAME, config::ELSEWHERE));
    }
    let exports = exports.into_iter().collect();
    Ok(Compiled { script, config, exports })
}

/// The imports of a file that are there at run time, sorted, for those who look for the files of a
/// script; with those of `import("./a.ts")`, where the name is written out. A text that cannot be
/// read has none: `compile` says what is wrong with it.
pub fn imports(name: &str, source: &str) -> Vec<String> {
    let allocator = Allocator::default();
    let parsed = Parser::new(&allocator, source, kind(name)).parse();
    let all = parsed.module_record.requested_modules.iter();
    let used = all.filter(|(_, places)| places.iter().any(|place| !place.is_type));
    let later = parsed.module_record.dynamic_imports.iter();
    let later = later.filter_map(|import| literal(import.module_request.source_text(source)));
    let wanted = used.map(|(wanted, _)| wanted.as_str()).chain(later);
    let mut names: Vec<String> = wanted.map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// What stands between quotes, as it is.
fn literal(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|first| "'\"`".contains(*first))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner).filter(|inner| !inner.contains(['\\', '$', quote]))
}

/// Whether an import means an npm package: neither a file, nor a module of somebody's own such as
/// `reauth:test` or `node:fs`.
pub fn is_package(wanted: &str) -> bool {
    !wanted.starts_with(['.', '/']) && !wanted.contains(':')
}

fn kind(name: &str) -> SourceType {
    let kind = if is_typescript(name) { SourceType::ts() } else { SourceType::mjs() };
    kind.with_module(true)
}

fn is_typescript(name: &str) -> bool {
    [".ts", ".mts"].iter().any(|ending| name.ends_with(ending))
}

fn compile_file(
    name: &str,
    source: &str,
    files: &BTreeMap<String, String>,
    said: Option<&mut Option<Value>>,
) -> Result<Module, CompileError> {
    let allocator = Allocator::default();
    let options = ParseOptions { parse_regular_expression: true, ..ParseOptions::default() };
    let parsed = Parser::new(&allocator, source, kind(name)).with_options(options).parse();
    let file = (name, source);
    first(file, &parsed.diagnostics)?;
    imports_lead_somewhere(file, &parsed.module_record, files)?;
    let mut program = parsed.program;
    if let Some(config) = said {
        *config = config::exported(&program).map_err(|(at, why)| error_at(file, &why, at))?;
    }
    let checked =
        SemanticBuilder::new().with_check_syntax_error(true).with_enum_eval(true).build(&program);
    first(file, &checked.diagnostics)?;
    if !is_typescript(name) {
        let (javascript, map) = match inline_map(source) {
            Some((javascript, map)) => (javascript, Some(map)),
            None => (source, None),
        };
        return Ok(Module { name: name.into(), javascript: javascript.to_owned(), map });
    }
    let scoping = checked.semantic.into_scoping();
    let options = TransformOptions::default();
    let stripped = Transformer::new(&allocator, Path::new(name), &options)
        .build_with_scoping(scoping, &mut program);
    first(file, &stripped.diagnostics)?;
    let options =
        CodegenOptions { source_map_path: Some(PathBuf::from(name)), ..Default::default() };
    let made = Codegen::new().with_options(options).build(&program);
    let map = made.map.map(|map| {
        let mut map = map.into_owned();
        // The text itself is kept beside it.
        map.set_source_contents(vec![None]);
        map.to_json_string()
    });
    Ok(Module { name: name.into(), javascript: made.code, map })
}

/// Every import that is there at run time leads to a file.
fn imports_lead_somewhere(
    file: (&str, &str),
    record: &ModuleRecord<'_>,
    files: &BTreeMap<String, String>,
) -> Result<(), CompileError> {
    for (wanted, places) in &record.requested_modules {
        let Some(place) = places.iter().find(|place| !place.is_type) else { continue };
        if resolve(file.0, wanted, |name| files.contains_key(name)).is_none() {
            let why = if is_package(wanted) {
                format!(
                    "{wanted} is no file of this task: bundle packages into it with \
                     `reauth task build`"
                )
            } else if wanted.contains(':') {
                format!("{wanted} is not there: a task has no modules but its own files")
            } else {
                format!("no file of this task is {wanted}: send it along, or correct the path")
            };
            return Err(error_at(file, &why, place.span.start as usize));
        }
    }
    Ok(())
}

fn first<'a>(
    file: (&str, &str),
    errors: impl IntoIterator<Item = &'a OxcDiagnostic>,
) -> Result<(), CompileError> {
    let Some(error) = errors.into_iter().next() else { return Ok(()) };
    let offset = error.labels.first().map_or(0, |label| label.offset() as usize);
    Err(error_at(file, &error.message, offset))
}

fn error_at((file, source): (&str, &str), message: &str, offset: usize) -> CompileError {
    error_on((file, source), message, line_and_column(source, offset))
}

/// An error in a bundle that knows where its lines were written is told there, without the line:
/// only its author has the text.
fn as_written(error: CompileError, source: &str) -> CompileError {
    let (Some((_, map)), Ok(line), Ok(column)) =
        (inline_map(source), error.line.try_into(), error.column.try_into())
    else {
        return error;
    };
    let name = error.file.clone();
    let bundle = Module { name, javascript: String::new(), map: Some(map) };
    let script = Script { entry: String::new(), modules: vec![bundle] };
    match Places::of(&script).origin(&error.file, line, column) {
        Some((file, line, column)) => {
            error_on((file, ""), &error.message, (line as usize, column as usize))
        }
        None => error,
    }
}

/// Where an offset is, both from 1.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or_default();
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (before.matches('\n').count() + 1, column)
}

/// Something is wrong at this line and column, from 1. No line is shown of a text that is not here.
pub(crate) fn error_on(
    (file, source): (&str, &str),
    message: &str,
    (line, column): (usize, usize),
) -> CompileError {
    let text = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let number = line.to_string();
    let (gap, mark) = (" ".repeat(number.len()), " ".repeat(column.saturating_sub(1)));
    let mut frame = format!("{message}\n{gap}--> {file}:{line}:{column}");
    if !source.is_empty() {
        frame.push_str(&format!("\n{number} | {text}\n{gap} | {mark}^"));
    }
    CompileError { message: message.to_owned(), file: file.to_owned(), line, column, frame }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(name: &str, source: &str) -> Result<Compiled, CompileError> {
        compile(name, &BTreeMap::from([(name.to_owned(), source.to_owned())]))
    }

    #[test]
    fn types_are_stripped_and_javascript_is_left_alone() {
        let source = "interface A { a: number }\nenum E { X = 7 }\n\
             export async function run(p: A): Promise<number> { return p.a + E.X as number }";
        let script = of("t.ts", source).expect("it compiles").script;
        let text = &script.modules[0].javascript;
        assert!(!text.contains("interface") && !text.contains(": A"));
        assert!(text.contains("export async function run(p)"), "{script:?}");
        let plain = "export  function run() { return 1 } // as it is";
        let script = of("t.js", plain).expect("it compiles").script;
        assert_eq!(script.modules[0].javascript, plain);
    }

    #[test]
    fn an_error_shows_its_place() {
        let source = "export function run() {\n  const a = ;\n}";
        for name in ["t.js", "t.ts"] {
            let error = of(name, source).expect_err("it is wrong");
            assert_eq!((error.line, error.column), (2, 13), "{error}");
            assert!(error.frame.contains("2 |   const a = ;\n  |             ^"), "{error}");
        }
        assert!(of("t.js", "let a: number = 1").is_err(), "types need TypeScript");
        assert!(of("t.js", "let a = 1; let a = 2").is_err(), "declared twice");
    }

    #[test]
    fn imports_lead_to_files_of_the_task() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let main = "import { one } from './lib/one.js';\nexport const run = () => one";
        let files = BTreeMap::from([
            file("main.ts", main),
            file("lib/one.ts", "import two from '../two'; export const one: number = two"),
            file("two.js", "export default 2"),
        ]);
        let script = compile("main.ts", &files).expect("it compiles").script;
        assert_eq!((script.entry.as_str(), script.modules.len()), ("main.ts", 3));
        let error = of("main.ts", main).expect_err("it leads nowhere");
        assert_eq!((error.line, error.column), (1, 21), "{error}");
        assert!(error.message.contains("./lib/one.js"), "{error}");
        let error = of("main.ts", "import x from 'left-pad'; export const run = x");
        assert!(error.expect_err("no package").message.contains("task build"));
        let types = "import type { A } from 'somewhere'; export const run = (a: A) => a";
        assert!(of("main.ts", types).is_ok(), "a type is gone at run time");
    }

    #[test]
    fn imports_that_are_awaited_are_found() {
        let source = "import type { T } from './types';
            import './first';
            export async function run({ name }: T) {
                await Promise.all([import('./a.ts'), import(`../b`), import('cheese')]);
                await import('./' + name); await import(`./${name}`); await import(name);
            }";
        assert_eq!(imports("t.ts", source), ["../b", "./a.ts", "./first", "cheese"]);
    }

    #[test]
    fn what_the_engine_cannot_read_is_told_with_its_place() {
        let run = "export function run() {}\n";
        for (name, source, wanted, place) in [
            ("t.ts", "interface A {}\nclass B { @run f() {} }", "engine cannot read", (3, 11)),
            ("t.js", "class B { @run f() {} }", "engine cannot read", (2, 11)),
            ("t.js", "  class B { accessor x = 1 }", "engine cannot read", (2, 22)),
            ("t.js", "const a = /(/;", "Unterminated", (2, 12)),
            ("t.ts", "const a = /(?<n>a)\\k<m>/;", "reference", (2, 19)),
        ] {
            let error = of(name, &format!("{run}{source}")).expect_err(source);
            assert!(error.message.contains(wanted), "{error}");
            assert_eq!((error.line, error.column), place, "{error}");
        }
        let files =
            [("main.ts", "import './b.js'; export const run = 1"), ("b.js", "@x class A {}")];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let error = compile("main.ts", &BTreeMap::from(files)).expect_err("a decorator");
        assert_eq!((error.file.as_str(), error.line), ("b.js", 1), "{error}");
    }

    #[test]
    fn what_is_imported_is_exported_there() {
        let compiled = |main: &str| {
            let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
            let files = BTreeMap::from([
                file("main.ts", main),
                file("a.ts", "export interface T {}\nexport const one = 1; export * from './b'"),
                file("b.js", "export * from './a'; export default 2; export { x as y }; let x;"),
            ]);
            compile("main.ts", &files)
        };
        for (main, column) in [
            ("import { one, nothing } from './a';\nexport const run = () => nothing + one;", 15),
            ("import two from './a'; export const run = () => two", 8),
            ("export { x as run } from './b'", 10),
            ("export { T } from './a'; export const run = 1", 10),
        ] {
            let error = compiled(main).expect_err(main);
            assert!(error.message.contains(" exports no "), "{error}");
            assert_eq!((error.line, error.column), (1, column), "{error}");
        }
        for (main, exports) in [
            ("import { type T, one, y } from './a'; export const run = (t: T) => one + y", "run"),
            ("import { T } from './a'; export function run(t: T) {}", "run"),
            ("import two from './b'; export { two }; export type run = 1", "two"),
            ("import * as a from './a'; export { a as run }", "run"),
            ("export * from './a'; export default 3", "default one y"),
        ] {
            assert_eq!(compiled(main).expect(main).exports.join(" "), exports);
        }
    }

    #[test]
    fn a_script_says_what_it_needs() {
        let source = "export const config = {\n  scopes: ['users:read'], 'single_instance': true,\n\
            schedule: { cron: `0 3 * * *`, zone: \"UTC\" }, retries: 2, at: -1.5, none: null,\n\
            } satisfies TaskConfig;\nexport function run() {}";
        let wanted = json!({ "scopes": ["users:read"], "single_instance": true, "retries": 2,
            "schedule": { "cron": "0 3 * * *", "zone": "UTC" }, "at": -1.5, "none": null });
        assert_eq!(of("t.ts", source).expect("it compiles").config, Some(wanted));
        assert_eq!(of("t.ts", "export function run() {}").expect("it compiles").config, None);
        let bundled =
            "var cfg = { retries: 2 };\nfunction run() {}\nexport { cfg as config, run };";
        let config = of("t.js", bundled).expect("it compiles").config;
        assert_eq!(config, Some(json!({ "retries": 2 })));
        let source = "const n = 3;\nexport const config = { retries: n };";
        let error = of("t.ts", source).expect_err("it is computed");
        assert_eq!((error.line, error.column), (2, 34), "{error}");
        assert!(error.message.contains("literal"), "{error}");
    }

    #[test]
    fn an_error_in_a_bundle_is_told_where_it_was_written() {
        // The first line is the third of t.ts, the second its fourth.
        let map = "eyJ2ZXJzaW9uIjozLCJzb3VyY2VzIjpbInQudHMiXSwibmFtZXMiOltdLCJtYXBwaW5ncyI6IkFBRUE7\
            QUFDQSJ9";
        let end = format!("//# sourceMappingURL=data:application/json;base64,{map}\n");
        let run = "export function run() {}\n";
        for (source, line) in [
            (format!("{run}export const config = {{ retries: n }};\n"), 4),
            (format!("@x class A {{}}\n{run}"), 3),
            (format!("export default 1; let config; export {{ config }};\n{run}"), 3),
        ] {
            let error = of("t.js", &(source.clone() + &end)).expect_err(&source);
            assert_eq!((error.file.as_str(), error.line), ("t.ts", line), "{error}");
            assert!(error.frame.ends_with(&format!("--> t.ts:{line}:1")), "{error}");
            let shown = error.shown_in("one\ntwo\nthree\nfour\n");
            assert!(shown.frame.ends_with(["three\n  | ^", "four\n  | ^"][line - 3]), "{shown}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_by_its_kind() {
        for (wanted, why) in [
            ("left-pad", "bundle packages"),
            ("@left/pad/x.js", "bundle packages"),
            ("node:fs", "no modules but its own files"),
            ("./x", "send it along"),
        ] {
            let error = of("t.ts", &format!("import '{wanted}'; export const run = 1"));
            let error = error.expect_err(wanted);
            assert!(error.message.contains(wanted) && error.message.contains(why), "{error}");
        }
    }

    #[test]
    fn a_config_that_cannot_be_read_is_told() {
        let compiled = |main: &str| {
            let lib = "export const config = { retries: 1 + 1 }; export const more = {};";
            let files = [("t.ts", main), ("lib.ts", lib)];
            compile("t.ts", &BTreeMap::from(files.map(|(n, text)| (n.to_owned(), text.to_owned()))))
        };
        for (main, column) in [
            ("export { config } from './lib';", 10),
            ("import { config } from './lib'; export { config };", 42),
            ("import * as all from './lib'; export { all as config };", 47),
            ("export * from './lib';", 1),
            ("export const { config } = { config: {} };", 16),
            ("export let config;", 12),
            ("let cfg; cfg = {}; export { cfg as config };", 36),
            ("export function config() {}", 17),
        ] {
            let error = compiled(&format!("{main} export function run() {{}}")).expect_err(main);
            assert!(error.message.contains("export const config = {"), "{error}");
            assert_eq!((error.line, error.column), (1, column), "{error}");
        }
        for main in ["export type config = 1;", "import { more } from './lib'; more;"] {
            assert_eq!(compiled(main).expect(main).config, None);
        }
    }
}
