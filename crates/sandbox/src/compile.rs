//! Checks a script's syntax and strips its types. Scripts are compiled when they are put, so that
//! a mistake is shown to its author with its place, and a run begins at once.

use std::fmt;
use std::path::Path;

use oxc::allocator::Allocator;
use oxc::codegen::Codegen;
use oxc::diagnostics::OxcDiagnostic;
use oxc::parser::Parser;
use oxc::semantic::SemanticBuilder;
use oxc::span::SourceType;
use oxc::transformer::{TransformOptions, Transformer};

use crate::Script;

/// Why a script does not compile, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong.
    pub message: String,
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

/// Makes a script of a text. The file's name says the language: `.ts` and `.mts` are TypeScript,
/// all else is JavaScript.
pub fn compile(file_name: &str, source: &str) -> Result<Script, CompileError> {
    let allocator = Allocator::default();
    let is_typescript = [".ts", ".mts"].iter().any(|ending| file_name.ends_with(ending));
    let kind = if is_typescript { SourceType::ts() } else { SourceType::mjs() };
    let parsed = Parser::new(&allocator, source, kind.with_module(true)).parse();
    first(file_name, source, &parsed.diagnostics)?;
    let mut program = parsed.program;
    let checked =
        SemanticBuilder::new().with_check_syntax_error(true).with_enum_eval(true).build(&program);
    first(file_name, source, &checked.diagnostics)?;
    let script = |javascript: String| Script { name: file_name.to_owned(), javascript };
    if !is_typescript {
        return Ok(script(source.to_owned()));
    }
    let scoping = checked.semantic.into_scoping();
    let options = TransformOptions::default();
    let stripped = Transformer::new(&allocator, Path::new(file_name), &options)
        .build_with_scoping(scoping, &mut program);
    first(file_name, source, &stripped.diagnostics)?;
    Ok(script(Codegen::new().build(&program).code))
}

fn first<'a>(
    file_name: &str,
    source: &str,
    errors: impl IntoIterator<Item = &'a OxcDiagnostic>,
) -> Result<(), CompileError> {
    let Some(error) = errors.into_iter().next() else { return Ok(()) };
    let label = error.labels.first();
    let offset = label.map_or(0, |label| label.offset() as usize).min(source.len());
    let before = source.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let text = source.lines().nth(line - 1).unwrap_or_default();
    let number = line.to_string();
    let (gap, mark) = (" ".repeat(number.len()), " ".repeat(column - 1));
    let message = error.message.to_string();
    let frame = format!(
        "{message}\n{gap}--> {file_name}:{line}:{column}\n{number} | {text}\n{gap} | {mark}^"
    );
    Err(CompileError { message, line, column, frame })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_stripped_and_javascript_is_left_alone() {
        let source = "interface A { a: number }\nenum E { X = 7 }\n\
             export async function run(p: A): Promise<number> { return p.a + E.X as number }";
        let script = compile("t.ts", source).expect("it compiles");
        assert!(!script.javascript.contains("interface") && !script.javascript.contains(": A"));
        assert!(script.javascript.contains("export async function run(p)"), "{script:?}");
        let plain = "export  function run() { return 1 } // as it is";
        assert_eq!(compile("t.js", plain).expect("it compiles").javascript, plain);
    }

    #[test]
    fn an_error_shows_its_place() {
        let source = "export function run() {\n  const a = ;\n}";
        for name in ["t.js", "t.ts"] {
            let error = compile(name, source).expect_err("it is wrong");
            assert_eq!((error.line, error.column), (2, 13), "{error}");
            assert!(error.frame.contains("2 |   const a = ;\n  |             ^"), "{error}");
        }
        assert!(compile("t.js", "let a: number = 1").is_err(), "types need TypeScript");
        assert!(compile("t.js", "let a = 1; let a = 2").is_err(), "declared twice");
    }
}
