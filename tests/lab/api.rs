//! A small client for the balancer's API: HTTP/1.1 over a unix socket, one request a connection.

use crate::command::{LabError, Result, Tried};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The API of one balancer.
#[derive(Clone, Debug)]
pub struct Api {
    socket: PathBuf,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).map_err(|error| {
            LabError::Wrong(format!("the API's answer is not JSON ({error}): {}", self.body))
        })
    }
}

impl Api {
    /// A client for the API on a socket.
    pub fn new(socket: &Path) -> Api {
        Api { socket: socket.to_owned() }
    }

    /// Sends a request and takes any answer. The limit is 15 s.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.request_within(Duration::from_secs(15), method, path, body)
    }

    /// Sends a request and takes any answer, of which each part comes within this time.
    pub fn request_within(&self, limit: Duration, method: &str, path: &str, body: &str) -> Result<Answer> {
        let what = || format!("{method} {path} on {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).tried(what)?;
        stream.set_read_timeout(Some(limit)).tried(what)?;
        stream.set_write_timeout(Some(limit)).tried(what)?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: application/toml\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).tried(what)?;
        stream.write_all(body.as_bytes()).tried(what)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).tried(what)?;
        parse(&bytes).ok_or_else(|| {
            LabError::Wrong(format!("{}: not an HTTP answer: {}", what(), String::from_utf8_lossy(&bytes)))
        })
    }

    /// A request that must succeed with JSON.
    pub fn json(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let answer = self.request(method, path, body)?;
        if !(200..300).contains(&answer.status) {
            return Err(LabError::Wrong(format!(
                "{method} {path}: status {}: {}",
                answer.status, answer.body
            )));
        }
        answer.json()
    }

    /// `GET` that must succeed with JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.json("GET", path, "")
    }

    /// Applies a configuration and waits until every worker uses it.
    pub fn apply(&self, toml: &str) -> Result<Value> {
        self.json("POST", "/v1/apply?wait=true&timeout_ms=5000", toml)
    }

    /// The object of `GET path` whose `key` is `value`; arrays may be the answer or in its first member.
    pub fn find(&self, path: &str, pairs: &[(&str, &str)]) -> Result<Value> {
        let answer = self.get(path)?;
        let found = rows(&answer).iter().find(|row| {
            pairs.iter().all(|(key, value)| row.get(*key).and_then(Value::as_str) == Some(value))
        });
        found.cloned().ok_or_else(|| LabError::Wrong(format!("{path}: nothing with {pairs:?} in {answer}")))
    }

    /// State of a backend, one word.
    pub fn backend_state(&self, service: &str, backend: &str) -> Result<String> {
        let row = self.find("/v1/backends", &[("service", service), ("name", backend)])?;
        row.get("state")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| LabError::Wrong(format!("no state in {row}")))
    }

    /// Drop counters by reason.
    pub fn drops(&self) -> Result<std::collections::BTreeMap<String, u64>> {
        let answer = self.get("/v1/drops")?;
        Ok(rows(&answer)
            .iter()
            .filter_map(|row| Some((row.get("reason")?.as_str()?.to_owned(), row.get("count")?.as_u64()?)))
            .collect())
    }
}

/// The rows of an answer that is an array, or an object that holds one.
pub fn rows(answer: &Value) -> &[Value] {
    match answer {
        Value::Array(rows) => rows,
        Value::Object(map) => map.values().find_map(Value::as_array).map_or(&[], Vec::as_slice),
        _ => &[],
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..split]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[split + 4..];
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    Some(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let plain = parse(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
        assert_eq!(chunked.unwrap().body, "abcd");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_none());
    }
}
