//! npm packages: what a file imports of them is bundled into it, by the esbuild that its developer
//! has installed. Nothing is fetched here, and what a task can do at run time is not decided here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

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
/// How the last line of a bundle begins.
const MAP: &str = "//# sourceMappingURL=";
const UNRESOLVED: &str = "install what is missing where package.json is: npm install NAME; \
     modules of Node.js, such as fs, are not there for tasks";

/// The first import of an npm package: the file, and the package.
pub(super) fn package_of(files: &BTreeMap<String, String>) -> Option<(String, String)> {
    files.iter().find_map(|(name, source)| {
        let mut all = sandbox::imports(name, source).into_iter();
        all.find(|wanted| sandbox::is_package(wanted)).map(|wanted| (name.clone(), wanted))
    })
}

/// A file below a folder with all that it imports as one text, and the name of that.
pub(super) fn bundle(root: &Path, entry: &str, why: &str) -> Result<(String, String)> {
    let esbuild = esbuild_for(&root.join(entry), why)?;
    let mut command = Command::new(&esbuild);
    // From the folder, so that the map names files as the task does.
    command.current_dir(root).arg(format!("./{entry}")).args(OPTIONS);
    let done = command.output().map_err(|error| {
        let what = format!("{} does not run: {error}", esbuild.display());
        Failure::new(what).help("it needs Node.js in the PATH; then npm install --save-dev esbuild")
    })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let failure = Failure::new(format!("esbuild refused {entry}:\n{}", said.trim()));
        let is_missing = said.contains("Could not resolve");
        return Err(if is_missing { failure.help(UNRESOLVED) } else { failure });
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let name = Path::new(entry).with_extension("js").display().to_string();
    Ok((name, fitting(text)))
}

/// Without the map if there is no room for it: then places are told as they are in the bundle.
fn fitting(mut text: String) -> String {
    if text.len() > SOURCE_BYTES_MAX
        && let Some(at) = text.rfind(MAP)
    {
        text.truncate(at);
    }
    text
}

/// Whether a bundle knows where its lines were written.
pub(super) fn has_map(text: &str) -> bool {
    text.lines().next_back().is_some_and(|line| line.starts_with(MAP))
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
    fn a_map_that_does_not_fit_is_left_out() {
        let with_map = |bytes: usize| format!("{}\n{MAP}data:x\n", "x".repeat(bytes));
        assert!(has_map(&fitting(with_map(100))));
        let fitted = fitting(with_map(SOURCE_BYTES_MAX - 5));
        assert!(!has_map(&fitted) && fitted.len() < SOURCE_BYTES_MAX);
        assert!(!has_map(""));
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
