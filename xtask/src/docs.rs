//! Documents that are made of the code. Tests make them, compare them with the files, and write the files if
//! they are told to: so `cargo xtask ci` finds what is not current, and no program has to link what it
//! documents.

use crate::project;

/// Tests that write: the package, what selects them, and what tells them to.
const WRITERS: &[(&str, &[&str], &str)] = &[
    ("model", &["--lib", "schema::tests::file_is_current"], "UPDATE_SCHEMA"),
    ("model", &["--lib", "tests::document::page_is_current"], "UPDATE_DOCS"),
    ("worker", &["--test", "docs", "generated_tables_are_current"], "UPDATE_DOCS"),
];

/// Writes all of them; true if that worked.
///
/// # Errors
/// Cargo cannot be started.
pub(crate) fn run() -> Result<bool, String> {
    let mut good = true;
    for (package, arguments, variable) in WRITERS {
        let mut command = project::cargo();
        command.args(["test", "--package", package]).args(*arguments).env(variable, "1");
        good &= command.status().map_err(|e| format!("cargo: {e}"))?.success();
    }
    Ok(good)
}
