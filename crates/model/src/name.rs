//! Names of agents, machines, ports, services and backends.

/// Longest name of an agent, a service or a backend: 1 to 63 of `a-z A-Z 0-9 . _ -`.
pub const NAME_MAX: usize = 63;

/// Whether a text can be the name of an agent, a service or a backend: 1 to 63 of `a-z A-Z 0-9 . _ -`, the
/// first no `-`, which would be an option on a command line.
pub fn is_name(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=NAME_MAX).contains(&text.len())
        && text.bytes().all(known)
        && !text.starts_with('-')
        && text != "."
        && text != ".."
}
