//! What of a capture file is refused.

/// Largest capture file read, bytes: it is held in memory together with what is made from it.
pub const FILE_SIZE_MAX: u64 = 1 << 30;
/// Longest captured frame, bytes; libpcap's own limit, so a longer one means a damaged file.
pub const FRAME_SIZE_MAX: u32 = 262_144;

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Larger than [`FILE_SIZE_MAX`].
    #[error("more than {FILE_SIZE_MAX} bytes; split the capture (editcap -c)")]
    TooLarge,
    /// No known magic number.
    #[error("not a pcap or pcapng file")]
    NotACapture,
    /// A variant that exists but is not read.
    #[error("{0}; convert it with: editcap -F pcap")]
    Unsupported(String),
    /// Compressed.
    #[error("compressed with {with}; unpack it: {unpack} CAPTURE | guideway replay --in - ...")]
    Compressed {
        /// With what.
        with: &'static str,
        /// The command that unpacks it.
        unpack: &'static str,
    },
    /// Neither Ethernet nor what becomes Ethernet.
    #[error(
        "frames of link type {0}, which is not Ethernet (1), raw IP (101, 228, 229) or Linux cooked (113, \
         276); capture on the \
         interface itself: tcpdump -i INTERFACE -y EN10MB"
    )]
    LinkType(u32),
    /// Ends in the middle of something.
    #[error("truncated: the file ends inside {what} that starts at byte {offset}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A field that cannot be.
    #[error("damaged: {problem} at byte {offset}")]
    Damaged {
        /// What is wrong.
        problem: String,
        /// Where it is, bytes from the file's begin.
        offset: usize,
    },
}
