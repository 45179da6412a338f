//! Rules about the code that no other tool knows: a type's name means one thing, a line and a function have a
//! length, a comment is a sentence, and files do not use each other in a circle. They are looked for in syntax
//! trees, without the tests.

mod circle;
mod comment;
mod exception;
mod finding;
mod function;
mod glossary;
mod import;
mod line;
mod manifest;
mod module;
mod package;
mod purity;
mod source;
mod type_name;

use crate::project;
use circle::Component;
use import::Import;
use manifest::Dependencies;
use module::Modules;
use source::Source;

/// How many files of a package may use each other in a circle: a module and one of its parts.
const CIRCLE_MAX: usize = 2;

/// Files that are pure, with all that they use of their packages.
const PURE: &[(&str, &str)] = &[("control", "src/step.rs")];

/// All that is to be said.
#[derive(Default)]
struct Report {
    /// What breaks a rule.
    problems: Vec<String>,
    /// What else is of interest.
    notes: Vec<String>,
}

/// Prints what breaks a rule, and the circles; true if nothing does.
///
/// # Errors
/// A file cannot be read or understood.
pub(crate) fn run() -> Result<bool, String> {
    let report = examine()?;
    for line in report.notes.iter().chain(&report.problems) {
        println!("{line}");
    }
    println!("problems: {}", report.problems.len());
    Ok(report.problems.is_empty())
}

/// Checks the rules.
///
/// # Errors
/// What breaks them.
pub(crate) fn check() -> Result<(), String> {
    let problems = examine()?.problems;
    if problems.is_empty() { Ok(()) } else { Err(format!("\n    {}", problems.join("\n    "))) }
}

fn examine() -> Result<Report, String> {
    let mut manifests = Vec::new();
    let mut sources = Vec::new();
    let mut report = Report::default();
    for package in package::all() {
        let path = project::root().join(&package.manifest);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        manifests.push((package.name, text));
        let files = source::read(&package)?;
        circles(package.name, &files, CIRCLE_MAX, &mut report)?;
        sources.extend(files);
    }
    for (name, root) in PURE {
        let files = source::read(&package::in_crates(name))?;
        let modules = Modules::of(&files).map_err(|e| format!("{name}: {e}"))?;
        report.problems.extend(purity::check(root, &files, &import::imports(&modules)));
    }
    let mut findings = type_name::check(&sources, &Dependencies::of(&manifests));
    findings.extend(sources.iter().flat_map(line::check));
    findings.extend(sources.iter().flat_map(comment::check));
    findings.extend(sources.iter().flat_map(function::check));
    report.problems.extend(exception::apply(&findings, &exception::all()));
    report.problems.extend(glossary::check()?);
    let lines: usize = sources.iter().map(|source| source.text.lines().count()).sum();
    report.notes.push(format!("{} files, {lines} lines", sources.len()));
    Ok(report)
}

/// Looks for files that use each other, and tells of all of them.
fn circles(package: &str, sources: &[Source], limit: usize, report: &mut Report) -> Result<(), String> {
    let modules = Modules::of(sources).map_err(|e| format!("{package}: {e}"))?;
    let imports = import::imports(&modules);
    let edges: Vec<(usize, usize)> = imports.iter().map(|import| (import.from, import.to)).collect();
    for component in circle::components(sources.len(), &edges) {
        let told = told(&component, sources, &imports);
        let size = component.members.len();
        if size > limit {
            report.problems.push(format!(
                "{package}: {size} files use each other in a circle, {limit} are the most: {told}"
            ));
        }
        report.notes.push(format!("{package}: {size} files use each other: {told}"));
        let within = |import: &&Import| {
            component.members.contains(&import.from) && component.members.contains(&import.to)
        };
        report.notes.extend(imports.iter().filter(within).map(|import| {
            let names = import.names.join(", ");
            format!(
                "    {}:{} -> {} ({names})",
                short(import.from, sources),
                import.line,
                short(import.to, sources)
            )
        }));
    }
    Ok(())
}

/// The files, and one way round with the lines in which each uses the next.
fn told(component: &Component, sources: &[Source], imports: &[Import]) -> String {
    let members: Vec<&str> = component.members.iter().map(|file| short(*file, sources)).collect();
    let mut text = format!("{}; for example ", members.join(", "));
    let nexts = component.circle.iter().skip(1).chain(component.circle.first());
    for (from, to) in component.circle.iter().zip(nexts) {
        let import = imports.iter().find(|import| (import.from, import.to) == (*from, *to));
        let line = import.map_or(0, |import| import.line);
        text += &format!("{}:{line} -> ", short(*from, sources));
    }
    text + component.circle.first().map_or("", |first| short(*first, sources))
}

/// A file's path within its crate.
fn short(file: usize, sources: &[Source]) -> &str {
    let path = sources.get(file).map_or("", |source| source.path.as_str());
    path.split_once("/src/").map_or(path, |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(files: &[(&str, &str)], limit: usize) -> Report {
        let texts: Vec<(String, String)> =
            files.iter().map(|&(file, text)| (format!("crates/x/src/{file}"), text.to_owned())).collect();
        let mut report = Report::default();
        circles("x", &source::sources("x", &texts).unwrap(), limit, &mut report).unwrap();
        report
    }

    #[test]
    fn a_circle_of_three_files_is_told_with_its_lines() {
        let files = [
            ("lib.rs", "mod turn; mod send; mod view; pub use turn::Worker;"),
            ("turn.rs", "\nuse crate::send::send;\npub struct Worker;"),
            ("send.rs", "use crate::view::View;\npub fn send() {}"),
            ("view.rs", "\n\npub struct View;\nimpl View { fn of(_: crate::Worker) {} }"),
        ];
        let report = examined(&files, 2);
        let told = "turn.rs, send.rs, view.rs; for example ";
        assert_eq!(report.problems.len(), 1);
        let problem = &report.problems[0];
        assert!(
            problem.starts_with(&format!("x: 3 files use each other in a circle, 2 are the most: {told}")),
            "{problem}"
        );
        for step in ["turn.rs:2 -> send.rs", "send.rs:1 -> view.rs", "view.rs:4 -> turn.rs"] {
            assert!(problem.contains(step), "{step} in {problem}");
        }
        let report = examined(&files, 3);
        assert!(report.problems.is_empty());
        assert_eq!(report.notes.len(), 1 + 3, "{:?}", report.notes);
        assert!(report.notes[1].ends_with("turn.rs:2 -> send.rs (send)"), "{}", report.notes[1]);
    }

    #[test]
    fn a_module_and_its_part_may_use_each_other() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "mod part; pub struct A(part::P);"),
            ("a/part.rs", "use super::A; pub struct P; use crate::b::B;"),
            ("b.rs", "pub struct B;"),
        ];
        let report = examined(&files, 2);
        assert!(report.problems.is_empty());
        assert!(
            report.notes[0].starts_with("x: 2 files use each other: a.rs, a/part.rs"),
            "{:?}",
            report.notes
        );
        assert_eq!(examined(&files, 1).problems.len(), 1);
    }
}
