//! The files that hold the tokens of agents.

use super::facts::AgentTokens;
use crate::refusal::Refusal;
use model::Config;
use std::io::Read as _;
use std::path::Path;

/// Bytes of a token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Reads the tokens of all services that agents may speak for.
///
/// # Errors
/// The first file that holds none, and what is wrong with it.
pub(crate) fn tokens(config: &Config) -> Result<AgentTokens, Refusal> {
    let mut tokens = AgentTokens::new();
    for service in &config.services {
        let Some(agents) = &service.agents else { continue };
        let of = || format!("service `{}`, agents.token_file", service.name);
        let refused = |problem| Refusal::NamedFile { of: of(), path: agents.token_file.clone(), problem };
        let token = token(&agents.token_file).map_err(refused)?;
        tokens.insert(service.name.clone(), token);
    }
    Ok(tokens)
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread that prepares a configuration, or before there is anything to hold up"
)]
fn token(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let token = line.strip_suffix(b"\r").unwrap_or(line);
    if TOKEN_BYTES.contains(&token.len()) {
        return Ok(token.to_vec());
    }
    let (min, max) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
    Err(format!("its first line, the agents' token, has {} bytes; {min} to {max} are allowed", token.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_first_lines() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("token");
        let good = "0123456789abcdef";
        for (text, expected) in [
            (format!("{good}\nmore"), Ok(good.len())),
            (format!("{good}\r\n"), Ok(16)),
            (good.to_owned(), Ok(16)),
            ("x".repeat(256), Ok(256)),
            ("x".repeat(257), Err("257")),
            ("short\n".to_owned(), Err("5 bytes")),
            (String::new(), Err("0 bytes")),
        ] {
            std::fs::write(&path, text).unwrap();
            match (token(&path), expected) {
                (Ok(token), Ok(length)) => assert_eq!(token.len(), length),
                (Err(problem), Err(words)) => assert!(problem.contains(words), "{problem}"),
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
        assert!(token(&place.path().join("none")).is_err());
    }
}
