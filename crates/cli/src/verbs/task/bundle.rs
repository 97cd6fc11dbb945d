//! npm packages: what a file imports of them is bundled into it, by the esbuild that its developer
//! has installed. Nothing is fetched here, and what a task can do at run time is not decided here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use oxc_sourcemap::{SourceMap, SourceMapParts, Token};
use reauth_server::domain::tasks::SOURCE_BYTES_MAX;
use reauth_server::sandbox;

use crate::failure::{Failure, Result};

/// One ES module for any engine; its map names the files, and their texts stay where they are.
const OPTIONS: [&str; 12] = [
    "--bundle",
    "--format=esm",
    "--platform=neutral",
    "--target=es2023",
    "--main-fields=module,main",
    "--conditions=import",
    "--external:reauth:*",
    "--charset=utf8",
    "--sourcemap=inline",
    "--sources-content=false",
    "--log-level=error",
    "--color=false",
];
/// What makes a text smaller if there is no room for it. Values stay as they were written: `config`
/// is read without being run.
const SMALLER: [&str; 2] = ["--minify-whitespace", "--minify-identifiers"];
/// How a program ends whose interpreter is not there.
const NOT_FOUND: i32 = 127;
const UNRESOLVED: &str = "install what is missing where package.json is: npm install NAME; \
     modules of Node.js, such as fs, are not there for tasks";

/// The first import of an npm package: the file, and the package.
pub(super) fn package_of(files: &BTreeMap<String, String>) -> Option<(String, String)> {
    files.iter().find_map(|(name, source)| {
        let mut all = sandbox::imports(name, source).into_iter();
        all.find(|wanted| sandbox::is_package(wanted)).map(|wanted| (name.clone(), wanted))
    })
}

/// A file below a folder with all that it imports as one text, and the name of that. It is as easy
/// to read, and tells as much of where its lines were written, as there is room for.
pub(super) fn bundle(root: &Path, entry: &str, why: &str) -> Result<(String, String)> {
    let esbuild = esbuild_for(&root.join(entry), why)?;
    let name = Path::new(entry).with_extension("js").display().to_string();
    let mut bytes = 0;
    for more in [&[][..], &SMALLER] {
        let text = run(&esbuild, root, entry, more)?;
        for text in [Some(text.clone()), of_own_files(&text)].into_iter().flatten() {
            bytes = text.len();
            if bytes <= SOURCE_BYTES_MAX {
                return Ok((name, text));
            }
        }
    }
    let most = SOURCE_BYTES_MAX / 1024;
    let what = format!(
        "{entry} with its packages is {} KiB: a task has {most} KiB at most",
        bytes.div_ceil(1024)
    );
    let help = "import only parts of large packages (`name/part`), or smaller ones; \
                `npx esbuild FILE --bundle --analyze --outfile=/dev/null` says what takes the room";
    Err(Failure::new(what).help(help))
}

fn run(esbuild: &Path, root: &Path, entry: &str, more: &[&str]) -> Result<String> {
    let mut command = Command::new(esbuild);
    // From the folder, so that the map names files as the task does.
    command.current_dir(root).arg(format!("./{entry}")).args(OPTIONS).args(more);
    let broken = |why: &str| {
        let what = format!("{} does not run: {why}", esbuild.display());
        Failure::new(what).help("it needs Node.js in the PATH; then npm install --save-dev esbuild")
    };
    let done = command.output().map_err(|error| broken(&error.to_string()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let refused = || Failure::new(format!("esbuild refused {entry}:\n{}", said.trim()));
    match done.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        Some(NOT_FOUND) => Err(broken(said.trim())),
        _ if said.contains("Could not resolve") => Err(refused().help(UNRESOLVED)),
        _ => Err(refused()),
    }
}

/// The same text with a smaller map: one of the developer's own files. A place in a package is told
/// as it is in the bundle.
fn of_own_files(text: &str) -> Option<String> {
    let (javascript, map) = sandbox::inline_map(text)?;
    let map = SourceMap::from_json_string(&map).ok()?;
    let is_own = |name: &str| name.split('/').all(|part| part != "node_modules");
    let (mut tokens, mut last) = (Vec::new(), (true, 0));
    for token in map.get_tokens() {
        let (line, column) = (token.get_dst_line(), token.get_dst_col());
        let (source, src) = (token.get_source_id(), (token.get_src_line(), token.get_src_col()));
        let source = source.filter(|id| map.get_source(*id).is_some_and(is_own));
        // Where a package begins, and at each line of it, the map says that it does not know.
        if source.is_some() || last != (false, line) {
            let (src_line, src_column) = if source.is_some() { src } else { (0, 0) };
            tokens.push(Token::new(line, column, src_line, src_column, source, None));
        }
        last = (source.is_some(), line);
    }
    let names = map.get_sources().map(|name| if is_own(name) { name } else { "" });
    let own = SourceMap::from_parts(SourceMapParts {
        sources: names.map(Into::into).collect(),
        tokens: tokens.into(),
        ..SourceMapParts::default()
    });
    Some(format!("{javascript}//# sourceMappingURL={}\n", own.to_data_url()))
}

/// The esbuild of the nearest package.json above a file that has one installed.
fn esbuild_for(file: &Path, why: &str) -> Result<PathBuf> {
    let file = std::path::absolute(file)?;
    let projects = || file.ancestors().skip(1).filter(|it| it.join("package.json").is_file());
    let mut programs = projects().map(|project| project.join("node_modules/.bin/esbuild"));
    programs.find(|program| program.exists()).ok_or_else(|| {
        let first = projects().next().or(file.parent()).unwrap_or(Path::new("."));
        let help = format!("in {}: npm install --save-dev esbuild", first.display());
        Failure::new(format!("{why}, and no esbuild is installed that could bundle it")).help(help)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_neither_a_file_nor_a_module_of_ours() {
        let found = |source: &str| package_of(&BTreeMap::from([("a.ts".into(), source.into())]));
        for source in ["import './b'", "import 'reauth:test'", "import type { A } from 'a'"] {
            assert_eq!(found(source), None, "{source}");
        }
        let wanted = Some(("a.ts".to_owned(), "@a/b/c".to_owned()));
        assert_eq!(found("import './b'; export * from '@a/b/c'"), wanted);
    }
}
