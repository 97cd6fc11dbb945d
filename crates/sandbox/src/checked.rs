//! Whether what the compiler has made can run: the engine reads every file without running it, and
//! what one file imports the other exports. It looks at the JavaScript that will run, where types
//! are gone, and tells places as they were written.

use std::collections::{BTreeMap, BTreeSet};

use oxc::allocator::Allocator;
use oxc::parser::Parser;
use oxc::span::SourceType;
use oxc::syntax::module_record::{
    ExportExportName, ExportImportName, ImportImportName, ModuleRecord,
};
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Context, Ctx, Error, Exception, Module, Runtime};

use crate::Script;
use crate::compile::{CompileError, error_on, line_and_column};
use crate::engine::STACK_BYTES;
use crate::places::{Places, place_in, resolve};

/// A script whose files are to be looked at, with the texts that were written.
pub(crate) struct Checked<'a> {
    script: &'a Script,
    written: &'a BTreeMap<String, String>,
    places: Places<'a>,
    names: BTreeMap<&'a str, Names>,
}

/// What a file exports and wants of others, each with its offset in the JavaScript.
#[derive(Default)]
struct Names {
    exports: BTreeMap<String, u32>,
    /// Files all of whose names it exports, too.
    stars: Vec<(String, u32)>,
    wanted: Vec<Wanted>,
}

/// A name that a file imports, or exports again.
struct Wanted {
    of: String,
    name: String,
    at: u32,
}

impl<'a> Checked<'a> {
    /// Looks at all files; an error is the first that is wrong.
    pub(crate) fn new(
        script: &'a Script,
        written: &'a BTreeMap<String, String>,
    ) -> Result<Self, CompileError> {
        let names = script.modules.iter().map(|module| {
            let is_there = |name: &str| written.contains_key(name);
            (module.name.as_str(), Names::of(&module.name, &module.javascript, is_there))
        });
        let checked = Self { script, written, places: Places::of(script), names: names.collect() };
        checked.can_be_read()?;
        checked.imports_are_there()?;
        Ok(checked)
    }

    /// All names that a file exports, sorted.
    pub(crate) fn exports(&self, file: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        self.look(file, &mut BTreeSet::new(), &mut |names| {
            all.extend(names.exports.keys().cloned());
        });
        all
    }

    /// An error at the place where a file exports this name.
    pub(crate) fn wrong_export(&self, file: &str, name: &str, why: &str) -> CompileError {
        let names = self.names.get(file);
        let own = names.and_then(|names| names.exports.get(name).copied());
        let star = || {
            let mut stars = names?.stars.iter();
            stars.find(|(other, _)| self.has(other, name)).map(|(_, at)| *at)
        };
        self.wrong(file, own.or_else(star).unwrap_or_default(), why)
    }

    fn imports_are_there(&self) -> Result<(), CompileError> {
        for (file, names) in &self.names {
            let missing = |wanted: &&Wanted| !self.has(&wanted.of, &wanted.name);
            if let Some(Wanted { of, name, at }) = names.wanted.iter().find(missing) {
                let mut why = format!("{of} exports no {name}");
                if file.ends_with("ts") {
                    why.push_str(": if it is a type, write `import type` or `export type`");
                }
                return Err(self.wrong(file, *at, &why));
            }
        }
        Ok(())
    }

    fn has(&self, file: &str, name: &str) -> bool {
        let mut is_found = self.names.get(file).is_some_and(|it| it.exports.contains_key(name));
        // What is the default of another file is not handed on with all else.
        if !is_found && name != "default" {
            self.look(file, &mut BTreeSet::new(), &mut |names| {
                is_found |= names.exports.contains_key(name);
            });
        }
        is_found
    }

    /// Shows a file's names and those that it hands on, each file once.
    fn look<'s>(
        &'s self,
        file: &'s str,
        seen: &mut BTreeSet<&'s str>,
        show: &mut impl FnMut(&Names),
    ) {
        if !seen.insert(file) {
            return;
        }
        let Some(names) = self.names.get(file) else { return };
        show(names);
        for (other, _) in &names.stars {
            self.look(other, seen, show);
        }
    }

    fn wrong(&self, file: &str, at: u32, why: &str) -> CompileError {
        let module = self.script.modules.iter().find(|module| module.name == file);
        let text = module.map_or("", |module| module.javascript.as_str());
        let (line, column) = line_and_column(text, at as usize);
        let place = line.try_into().ok().zip(column.try_into().ok());
        self.wrong_at(file, place, why)
    }

    /// An error at a place in the JavaScript, told where it was written.
    fn wrong_at(&self, file: &str, place: Option<(u32, u32)>, why: &str) -> CompileError {
        let (line, column) = place.unwrap_or((1, 1));
        let origin = self.places.origin(file, line, column);
        let (file, line, column) = origin.unwrap_or((file, line, column));
        let source = self.written.get(file).map_or("", String::as_str);
        error_on((file, source), why, (line as usize, column as usize))
    }

    /// The engine takes each file: it knows less than the compiler does.
    fn can_be_read(&self) -> Result<(), CompileError> {
        let no_engine = |error: Error| {
            let why = format!("the engine cannot begin: {error}");
            self.wrong_at(&self.script.entry, None, &why)
        };
        let runtime = Runtime::new().map_err(no_engine)?;
        runtime.set_max_stack_size(STACK_BYTES);
        runtime.set_loader(Alone, Alone);
        let context = Context::full(&runtime).map_err(no_engine)?;
        context.with(|ctx| {
            for module in &self.script.modules {
                let (name, text) = (module.name.as_str(), module.javascript.as_str());
                if let Err(error) = Module::declare(ctx.clone(), name, text) {
                    return Err(self.unreadable(&ctx, name, &error));
                }
            }
            Ok(())
        })
    }

    fn unreadable(&self, ctx: &Ctx<'_>, file: &str, error: &Error) -> CompileError {
        let thrown = ctx.catch().into_object().and_then(Exception::from_object);
        let message = thrown.as_ref().and_then(Exception::message);
        let message = message.unwrap_or_else(|| error.to_string());
        let stack = thrown.as_ref().and_then(Exception::stack).unwrap_or_default();
        let place = place_in(&stack, file);
        self.wrong_at(file, place, &format!("the engine cannot read this: {message}"))
    }
}

impl Names {
    fn of(file: &str, javascript: &str, is_there: impl Fn(&str) -> bool) -> Self {
        let allocator = Allocator::default();
        let kind = SourceType::mjs().with_module(true);
        let parsed = Parser::new(&allocator, javascript, kind).parse();
        let record = &parsed.module_record;
        // What leads to no file has been told before.
        let meant = |request: &str| resolve(file, request, &is_there).unwrap_or_default();
        let mut names = Self { wanted: wanted(record, meant), ..Self::default() };
        for entry in record.local_export_entries.iter().chain(&record.indirect_export_entries) {
            let (name, span) = match &entry.export_name {
                ExportExportName::Name(name) => (name.name.to_string(), name.span),
                ExportExportName::Default(span) => ("default".to_owned(), *span),
                ExportExportName::Null => continue,
            };
            names.exports.insert(name, span.start);
        }
        for entry in &record.star_export_entries {
            let request = entry.module_request.as_ref().map_or("", |it| it.name.as_str());
            names.stars.push((meant(request), entry.statement_span.start));
        }
        names
    }
}

fn wanted(record: &ModuleRecord<'_>, meant: impl Fn(&str) -> String) -> Vec<Wanted> {
    let imported = record.import_entries.iter().filter_map(|entry| {
        let (name, span) = match &entry.import_name {
            ImportImportName::Name(name) => (name.name.to_string(), name.span),
            ImportImportName::Default(span) => ("default".to_owned(), *span),
            ImportImportName::NamespaceObject => return None,
        };
        Some(Wanted { of: meant(&entry.module_request.name), name, at: span.start })
    });
    let again = record.indirect_export_entries.iter().filter_map(|entry| {
        let ExportImportName::Name(name) = &entry.import_name else { return None };
        // An import that is exported by another statement is among the imports.
        let mut imports = record.import_entries.iter();
        if imports.any(|import| import.statement_span == entry.statement_span) {
            return None;
        }
        let of = meant(&entry.module_request.as_ref()?.name);
        Some(Wanted { of, name: name.name.to_string(), at: name.span.start })
    });
    imported.chain(again).collect()
}

/// Each file is read for itself: in place of those that it imports there is an empty one.
struct Alone;

impl Resolver for Alone {
    fn resolve<'js>(
        &mut self,
        _ctx: &Ctx<'js>,
        _base: &str,
        _name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<String, Error> {
        Ok("reauth:nothing".to_owned())
    }
}

impl Loader for Alone {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>, Error> {
        Module::declare(ctx.clone(), name, "")
    }
}
