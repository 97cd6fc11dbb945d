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
/// What the operator told this program, such as a token, is not for programs of the project.
const OWN_VARIABLES: &[u8] = b"REAUTH_";
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
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(OWN_VARIABLES) {
            command.env_remove(name);
        }
    }
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

/// Whether a source map's name is that of a file of the developer's own: neither in a package, nor
/// a name that a package's map brought along, such as `webpack:///./a.js`.
fn is_own(name: &str) -> bool {
    let has_scheme = name.split('/').next().is_some_and(|first| first.contains(':'));
    let is_path = !name.is_empty() && !name.starts_with('/') && !has_scheme;
    is_path && name.split('/').all(|part| part != "node_modules")
}

/// The files that are in a bundle, as far as its map tells; names are from the folder that it was
/// made in.
pub(super) fn sources(text: &str) -> Vec<String> {
    let map = sandbox::inline_map(text).map(|(_, map)| map);
    let map = map.as_deref().and_then(|map| SourceMap::from_json_string(map).ok());
    map.iter().flat_map(SourceMap::get_sources).map(str::to_owned).collect()
}

/// The esbuild of the nearest package.json above a file that has one installed. Above the file's
/// repository, or the home folder, is what others may have put there.
fn esbuild_for(file: &Path, why: &str) -> Result<PathBuf> {
    let file = std::path::absolute(file)?;
    let folders = folders_above(&file, std::env::home_dir().as_deref());
    let projects = || folders.iter().filter(|it| it.join("package.json").is_file());
    let mut programs = projects().map(|project| project.join("node_modules/.bin/esbuild"));
    programs.find(|program| program.exists()).ok_or_else(|| {
        let first = projects().copied().next().or(file.parent()).unwrap_or(Path::new("."));
        let help = format!("in {}: npm install --save-dev esbuild", first.display());
        Failure::new(format!("{why}, and no esbuild is installed that could bundle it")).help(help)
    })
}

/// The folders around a file, as far as they are one project's: up to that of its repository, or
/// the home folder; outside both, up to the first that is a package.
fn folders_above<'f>(file: &'f Path, home: Option<&Path>) -> Vec<&'f Path> {
    let all: Vec<&Path> = file.ancestors().skip(1).collect();
    let is_bound = |folder: &&Path| folder.join(".git").exists() || home == Some(*folder);
    let is_package = |folder: &&Path| folder.join("package.json").exists();
    let last = all.iter().position(is_bound).or_else(|| all.iter().position(is_package));
    all.into_iter().take(last.map_or(0, |last| last + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_package_is_not_the_developers_own() {
        for name in ["a.ts", "../lib/a.ts", "a/b:c.ts", "my_node_modules/a.ts"] {
            assert!(is_own(name), "{name}");
        }
        for name in ["", "/a.ts", "../node_modules/a/b.js", "webpack:///./a.js", "node:fs"] {
            assert!(!is_own(name), "{name}");
        }
    }

    #[test]
    fn no_folder_above_the_repository_or_the_home_is_looked_into() {
        let root = tempfile::tempdir().expect("a folder");
        let (home, shop) = (root.path().join("home"), root.path().join("home/shop"));
        let file = shop.join("tasks/a.ts");
        std::fs::create_dir_all(shop.join("tasks")).expect("folders");
        let last = |home: &Path| folders_above(&file, Some(home)).last().copied();
        assert_eq!(last(&home), Some(home.as_path()));
        assert_eq!(last(Path::new("/nowhere")), None);
        std::fs::write(shop.join("package.json"), "{}").expect("a file");
        assert_eq!(last(Path::new("/nowhere")), Some(shop.as_path()));
        std::fs::write(shop.join(".git"), "gitdir: elsewhere").expect("a file");
        assert_eq!(last(&home), Some(shop.as_path()));
    }

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
