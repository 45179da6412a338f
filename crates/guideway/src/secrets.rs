//! Files with secrets that a configuration names: who may read them.

use model::{Config, Diagnostic, Loaded, Severity};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Permission of others to read.
const OTHERS_READ: u32 = 0o004;

/// The files, each with the key that names it.
fn files(config: &Config) -> impl Iterator<Item = (String, &PathBuf)> {
    let agents_tls = config.agents.as_ref().and_then(|of| of.tls.as_ref());
    let cluster = config.cluster.as_ref();
    let identity = cluster.and_then(|of| of.tls.as_ref()?.identity.as_ref());
    let fixed = [
        ("api.token_file", config.api.token_file.as_ref()),
        ("api.tls.key", config.api.tls.as_ref().map(|tls| &tls.key)),
        ("agents.tls.key", agents_tls.map(|tls| &tls.key)),
        ("cluster.tls.key", identity.map(|(_, key)| key)),
        ("cluster.user.password_file", cluster.and_then(|of| Some(&of.user.as_ref()?.password_file))),
    ];
    let of_services = config.services.iter().filter_map(|service| {
        let key = format!("service \"{}\": agents.token_file", service.name);
        Some((key, &service.agents.as_ref()?.token_file))
    });
    fixed.into_iter().filter_map(|(key, path)| Some((key.to_owned(), path?))).chain(of_services)
}

/// Whether every user of the machine may read a file. One that is not there, or not here, is not.
pub(crate) fn is_public(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|of| of.mode() & OTHERS_READ != 0)
}

/// A warning for each file that everyone may read, at the first place in the text that names it.
pub(crate) fn warnings(loaded: &Loaded) -> Vec<Diagnostic> {
    let public = files(&loaded.config).filter(|(_, path)| is_public(path));
    public.map(|(key, path)| warning(&loaded.text, &key, &path.display().to_string())).collect()
}

fn warning(text: &str, key: &str, path: &str) -> Diagnostic {
    let offset = text.find(path);
    let before = offset.and_then(|at| text.get(..at)).unwrap_or("");
    Diagnostic {
        severity: Severity::Warning,
        message: format!("{key}: every user of this machine may read {path}"),
        help: format!("take that away: chmod o= {path}"),
        line: before.matches('\n').count() + 1,
        column: before.rsplit('\n').next().unwrap_or("").chars().count() + 1,
        offset: offset.unwrap_or(0),
        length: offset.map_or(0, |_| path.len()),
    }
}
