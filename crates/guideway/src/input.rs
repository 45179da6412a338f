//! Captures as they are given on the command line: a file, or standard input; compressed or not.

use crate::capture::{Capture, CaptureError, FILE_SIZE_MAX};
use crate::failure::Failure;
use crate::output;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// How gzip data begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// What stands for standard input.
const STDIN: &str = "-";

/// Whether a path means standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// Reads the capture `path`. Tells on standard error where it is cut.
pub(crate) fn capture(path: &Path) -> Result<Capture, Failure> {
    let name = if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() };
    let bad = |error: CaptureError| Failure::failed(format!("bad input {name}: {error}"));
    let bytes = read(path).map_err(|e| Failure::failed(format!("cannot read {name}: {e}")))?;
    let (bytes, stream_ends_early) = unpacked(bytes)
        .map_err(|e| Failure::failed(format!("bad input {name}: damaged compressed data: {e}")))?;
    let capture = Capture::parse(bytes).map_err(bad)?;
    let frames = capture.len();
    let cut = match (capture.cut(), stream_ends_early) {
        (Some(cut), _) => Some(cut.to_string()),
        (None, true) => Some("truncated: the compressed data ends early".to_owned()),
        (None, false) => None,
    };
    if let Some(cut) = cut {
        output::warning(&format!("{name}: {cut}; the {frames} frames before that are read"));
    }
    Ok(capture)
}

/// The whole of a file or of standard input; one byte more than is allowed tells "too large" from "just fits".
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_stdin(path) {
        io::stdin().lock().take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    } else {
        File::open(path)?.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What is packed in gzip data, and whether that ends early; other data as it is.
fn unpacked(bytes: Vec<u8>) -> io::Result<(Vec<u8>, bool)> {
    if !bytes.starts_with(&GZIP) {
        return Ok((bytes, false));
    }
    let mut out = Vec::new();
    match MultiGzDecoder::new(&bytes[..]).take(FILE_SIZE_MAX + 1).read_to_end(&mut out) {
        Ok(_) => Ok((out, false)),
        // What was unpacked before is good.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok((out, true)),
        Err(error) => Err(error),
    }
}
