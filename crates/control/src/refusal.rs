//! Why a change was refused, and what to do about it.

use crate::claims::ClaimError;
use crate::compile::CompileError;
use crate::revision::RevisionRefusal;
use crate::revision::overrides::OverrideRefusal;
use model::Report;
use std::path::PathBuf;

/// Why a change was refused. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Config(Report),
    #[error("{0}")]
    Compile(CompileError),
    #[error("keys that need a restart differ: {}", .0.join(", "))]
    Restart(Vec<String>),
    #[error("no service `{0}`")]
    UnknownService(String),
    #[error("service `{service}` has no backend `{backend}`")]
    UnknownBackend { service: String, backend: String },
    #[error("cannot read {}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("{of}: cannot read {}: {problem}", path.display())]
    NamedFile { of: String, path: PathBuf, problem: String },
    #[error("stopping")]
    Stopping,
    #[error("{0}")]
    Claimed(ClaimError),
    #[error("the cluster's store does not take it: {0}")]
    Store(String),
    #[error("the cluster cannot do it: {0}")]
    Unfit(String),
    #[error("this machine is in no cluster")]
    Alone,
    #[error("{0}")]
    TooMuch(String),
    #[error("another change was asked for at the same time")]
    Overtaken,
    #[error("{0}")]
    Revision(RevisionRefusal),
    #[error("{0}")]
    Override(OverrideRefusal),
    #[error("the state directory does not take it: {0}")]
    Unsaved(String),
    #[error("backend `{0}` is registered by an agent")]
    Registered(String),
    #[error("this machine is in a cluster, whose store keeps what is wanted of all machines")]
    Clustered,
}

impl Refusal {
    /// The remedy.
    pub(crate) fn help(&self) -> String {
        if let Refusal::Restart(keys) = self {
            let keys = if keys.len() == 1 { "the key" } else { "these keys" };
            return format!(
                "restart guidewayd with the new file, or leave {keys} as in the configuration in force; \
                 nothing was changed"
            );
        }
        let help = match self {
            Refusal::Config(_) => "correct the places named in `diagnostics`; nothing was changed",
            Refusal::Compile(_) => "nothing was changed; see docs/operations.md for limits",
            Refusal::UnknownService(_) => "`guideway show services` lists them",
            Refusal::UnknownBackend { .. } => "`guideway show backends` lists them",
            Refusal::File { .. } => "make the file readable, or name another: guideway apply FILE",
            Refusal::NamedFile { .. } => {
                "make the file what it should be, readable for guidewayd, or name another there; nothing \
                 was changed"
            }
            // The error names it.
            Refusal::Restart(_) | Refusal::Claimed(_) => "nothing was changed",
            Refusal::Stopping => "ask again after the restart",
            Refusal::Store(_) => {
                "nothing was changed and packets are forwarded as before; `guideway show cluster` says \
                 whether the store is reached again"
            }
            Refusal::Unfit(_) => "the services in force stay; ask for others",
            Refusal::Alone => "a machine is in a cluster when its file has [cluster] store",
            Refusal::TooMuch(_) => "ask for one service: guideway show owners SERVICE, or ?service=SERVICE",
            Refusal::Overtaken => "look at what is in force now, and ask again",
            Refusal::Revision(refusal) => match refusal {
                RevisionRefusal::Overtaken { .. } | RevisionRefusal::Unreadable { .. } => {
                    "look at what is in force now, and ask again"
                }
                RevisionRefusal::OnTrial(_) => {
                    "confirm it: guideway confirm; or end the trial: guideway rollback REVISION"
                }
                RevisionRefusal::NoTrial | RevisionRefusal::OtherTrial { .. } => {
                    "`guideway history` says what is in force, and whether it waits"
                }
                RevisionRefusal::Unknown { .. } => "`guideway history` lists them",
            },
            Refusal::Unsaved(_) => {
                "nothing was changed; without the disk nothing would go back after a restart"
            }
            Refusal::Override(OverrideRefusal::TooMany) => {
                "release services (guideway service release NAME), or write them into the file"
            }
            Refusal::Override(_) => {
                "send what stands in a configuration file from [[service]] on; nothing was changed"
            }
            Refusal::Registered(_) => {
                "its weight is its agent's to say; `guideway drain` takes it out of use"
            }
            Refusal::Clustered => "apply the whole file: guideway apply FILE; nothing was changed",
        };
        help.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_for_those_who_type_commands_too() {
        let name = || "web".to_owned();
        for refusal in [
            Refusal::Restart(vec![name()]),
            Refusal::UnknownService(name()),
            Refusal::UnknownBackend { service: name(), backend: name() },
            Refusal::File { path: PathBuf::from("lb1.toml"), problem: name() },
            Refusal::NamedFile { of: name(), path: PathBuf::from("web.token"), problem: name() },
            Refusal::Stopping,
            Refusal::Store(name()),
            Refusal::Unfit(name()),
            Refusal::Alone,
            Refusal::TooMuch(name()),
            Refusal::Overtaken,
        ] {
            let help = refusal.help();
            assert!(!help.is_empty() && !help.contains("/v1/"), "{refusal:?}: {help}");
        }
    }
}
