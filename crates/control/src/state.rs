//! What survives a restart: one JSON file, `state.json` in `machine.state_dir`.
//!
//! Rule of this module: the file is always whole. A new one is written beside it, synced, and renamed over it; one
//! that cannot be read is set aside, never deleted.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

use crate::revision::Ledger;
use crate::revision::saved::SavedRevisions;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[cfg(any(test, feature = "rehearsal"))]
pub(crate) mod rehearsal;
#[cfg(feature = "daemon")]
pub(crate) mod saver;

mod saved;

pub(crate) use saved::{Saved, SavedAddress, SavedBackend, SavedDrain, SavedRegistration};

/// Name in the state directory.
const FILE: &str = "state.json";
/// Name of what was in force, which is written when that changes only.
const REVISIONS: &str = "revisions.json";
/// Larger files are not ours: a configuration as long as can be, and 65,536 backends with all that is known of them, take less.
const FILE_MAX: u64 = 128 << 20;
/// Layout of the file.
const VERSION: u32 = 1;

/// Reads the file. Absent is empty; unreadable is empty, set aside, and told in words.
pub(crate) fn load(directory: &Path) -> (Saved, Option<String>) {
    load_file(directory, FILE, parse, "drains set by hand are lost")
}

/// What flow tables were keyed with before a restart, by index of the worker; for tables that are made before
/// [`run()`](crate::run()), which reads the file itself and says what is wrong with it: then, and without one, none is known.
#[cfg(feature = "daemon")]
pub fn flow_secrets(directory: &Path) -> Vec<u64> {
    let saved = read(&directory.join(FILE)).and_then(|bytes| bytes.as_deref().map(parse).transpose());
    saved.ok().flatten().unwrap_or_default().flow_secrets
}

/// Reads what was in force, in the same way.
pub(crate) fn load_revisions(directory: &Path) -> (Ledger, Option<String>) {
    let lost = "revisions, and what the API said of single services, are lost";
    load_file(directory, REVISIONS, Ledger::parse, lost)
}

#[expect(clippy::disallowed_methods, reason = "at the start, before anybody is served")]
fn load_file<T: Default>(
    directory: &Path,
    name: &str,
    parse: fn(&[u8]) -> Result<T, String>,
    lost: &str,
) -> (T, Option<String>) {
    let path = directory.join(name);
    let problem = match read(&path).and_then(|bytes| bytes.as_deref().map(parse).transpose()) {
        Ok(content) => return (content.unwrap_or_default(), None),
        Err(problem) => problem,
    };
    let aside = directory.join(format!("{name}.unreadable"));
    let moved = match fs::rename(&path, &aside) {
        Ok(()) => format!("kept as {}", aside.display()),
        Err(e) => format!("and cannot be set aside: {e}"),
    };
    let message = format!("{} cannot be used ({problem}), {moved}; {lost}", path.display());
    (T::default(), Some(message))
}

#[expect(clippy::disallowed_methods, reason = "at the start, before anybody is served")]
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("larger than {FILE_MAX} bytes"));
    }
    Ok(Some(bytes))
}

/// The content of a file.
///
/// # Errors
/// What is wrong with it.
fn parse(bytes: &[u8]) -> Result<Saved, String> {
    let saved: Saved = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if saved.version != VERSION {
        return Err(format!("version {} instead of {VERSION}", saved.version));
    }
    let is_prefix = |of: &&SavedAddress| of.length <= if of.address.is_ipv4() { 32 } else { 128 };
    if let Some(of) = saved.announced.iter().find(|of| !is_prefix(of)) {
        return Err(format!("{}/{} is no prefix", of.address, of.length));
    }
    Ok(saved)
}

/// As [`parse`] reads it.
fn text(saved: &Saved) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(&Saved { version: VERSION, ..saved.clone() })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes the file.
///
/// # Errors
/// What the file system says; the old file is whole then.
pub(crate) fn save(directory: &Path, saved: &Saved) -> io::Result<()> {
    write(directory, FILE, &text(saved)?)
}

/// Writes what was in force.
///
/// # Errors
/// As [`save`].
pub(crate) fn save_revisions(directory: &Path, revisions: &SavedRevisions) -> io::Result<()> {
    write(directory, REVISIONS, &revisions.bytes()?)
}

#[expect(clippy::disallowed_methods, reason = "on the thread that writes the state")]
fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = directory.join(format!(".{name}.new"));
    let written = write_new(&new, bytes).and_then(|()| fs::rename(&new, directory.join(name)));
    if written.is_err() {
        // Half a file takes the room that other files need.
        let _ = fs::remove_file(&new);
    }
    written?;
    fs::File::open(directory)?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "on the thread that writes the state")]
fn write_new(new: &Path, bytes: &[u8]) -> io::Result<()> {
    // The configuration holds the cluster key, and who knows a flow table's secret can fill its buckets.
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(new)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::registered::Registered;
    use std::net::IpAddr;
    use std::sync::Arc;

    pub(super) fn sample() -> Saved {
        Saved {
            version: VERSION,
            saved_unix_ms: 5,
            config: Some("x = \"ü\"\n".to_owned()),
            drains: vec![SavedDrain { service: "web".to_owned(), backend: "b1".to_owned() }],
            backends: vec![SavedBackend {
                service: "web".to_owned(),
                backend: "b1".to_owned(),
                address: IpAddr::from([10, 0, 0, 1]),
                up: true,
                since_unix_ms: 4,
            }],
            registrations: vec![SavedRegistration {
                registered: Registered {
                    service: "web".to_owned(),
                    backend: "b2".to_owned(),
                    address: IpAddr::from([10, 0, 0, 2]),
                    incarnation: u64::MAX,
                    agent: "host2".to_owned(),
                    weight: 1,
                    port: Some(80),
                    capacity: None,
                },
                up: false,
            }],
            announced: vec![SavedAddress { address: IpAddr::from([203, 0, 113, 10]), length: 32 }],
            ids: rehearsal::ids().into(),
            flow_secrets: vec![u64::MAX, 7],
            revisions: None,
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("a/b");
        assert_eq!(load(&inner), (Saved::default(), None));
        save(&inner, &sample()).unwrap();
        assert_eq!(load(&inner), (sample(), None));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(inner.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(flow_secrets(&inner), [u64::MAX, 7]);
    }

    #[test]
    fn a_file_of_the_version_before_has_no_ids_and_ours_is_one_to_it() {
        let mut file: serde_json::Value = serde_json::from_slice(&text(&sample()).unwrap()).unwrap();
        assert_eq!(file["version"], 1, "what is added does not change what was there");
        for added in ["ids", "flow_secrets"] {
            assert!(file.as_object_mut().unwrap().remove(added).is_some(), "{added}");
        }
        file["of_a_later_version"] = 1.into();
        let read = parse(file.to_string().as_bytes()).unwrap();
        assert_eq!(read, Saved { ids: Arc::default(), flow_secrets: Vec::new(), ..sample() });
    }

    #[test]
    fn a_broken_file_is_set_aside_and_told() {
        for broken in [
            "{",
            "",
            "{\"version\":99,\"saved_unix_ms\":1,\"config\":null}",
            "[]",
            "{\"version\":1,\"saved_unix_ms\":1,\"config\":null,\"announced\":[{\"address\":\"10.0.0.1\",\"length\":33}]}",
        ] {
            let place = tempfile::tempdir().unwrap();
            fs::write(place.path().join(FILE), broken).unwrap();
            let (saved, problem) = load(place.path());
            assert_eq!(saved, Saved::default());
            assert!(flow_secrets(place.path()).is_empty());
            assert!(problem.unwrap().contains("cannot be used"));
            assert_eq!(fs::read_to_string(place.path().join("state.json.unreadable")).unwrap(), broken);
            assert_eq!(load(place.path()), (Saved::default(), None));
        }
    }
}
