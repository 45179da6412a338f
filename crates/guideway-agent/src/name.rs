//! Names of agents, services, backends and commands.

pub(crate) use model::name::is_name;

/// What a name may be, in words.
pub(crate) const RULE: &str = "a name is 1 to 63 of a-z A-Z 0-9 . _ -, and not . or ..";
