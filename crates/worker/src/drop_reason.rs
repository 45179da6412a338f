//! Every reason for which a frame can be dropped: closed, counted, documented, and a metric label.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics, CLI and replay output.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One line for people.
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Captured shorter than it was on the wire.
    Truncated = "truncated",
    /// The frame consists of several segments.
    MultiSegment = "multi_segment",
    /// Shorter than its Ethernet header and tags.
    BadEthernet = "bad_ethernet",
    /// IPv4 version, header length or total length is wrong.
    BadIpv4 = "bad_ipv4",
    /// IPv4 header checksum is wrong.
    BadIpv4Checksum = "bad_ipv4_checksum",
    /// IPv6 version or payload length is wrong.
    BadIpv6 = "bad_ipv6",
    /// IPv6 extension headers are truncated, too many, or carry a routing header with segments left.
    BadIpv6Extension = "bad_ipv6_extension",
    /// Fragment offsets are impossible, or the first fragment does not hold its ports.
    BadFragment = "bad_fragment",
    /// Source address no host may have (multicast, loopback, unspecified, or the VIP itself), to a VIP.
    BadSource = "bad_source",
    /// Sent to a link-layer broadcast or multicast address, or from one, to a VIP (RFC 1812 section 5.3.4).
    BadLinkAddress = "bad_link_address",
    /// TCP header to a VIP is broken.
    BadTcp = "bad_tcp",
    /// UDP header to a VIP is broken.
    BadUdp = "bad_udp",
    /// ICMP to a VIP is broken, or an error that quotes too little.
    BadIcmp = "bad_icmp",
    /// For a VIP, but no service has this port and protocol. Answered as `on_closed_port` says, as far as the token bucket allows.
    NoService = "no_service",
    /// The service has no usable backend.
    NoBackend = "no_backend",
    /// Every backend of the service is full, and it rejects new flows then (`overload = "reject"`).
    Overload = "overload",
    /// The backend's next hop has no link-layer address yet.
    NoNeighbour = "no_neighbour",
    /// Answered by the balancer itself (ICMP echo).
    Answered = "answered",
    /// Did not fit the path to the backend; answered with "packet too big" as far as the token bucket allows.
    TooBig = "too_big",
    /// An answer was due, but the token bucket was empty.
    RateLimited = "rate_limited",
    /// ICMP of a type that neither we nor a backend answers for a VIP.
    IcmpUnhandled = "icmp_unhandled",
    /// A later fragment whose first fragment did not come in time.
    FragmentTimeout = "fragment_timeout",
    /// The fragment store was full, and its source held most of it.
    FragmentStoreFull = "fragment_store_full",
    /// Too many pieces of one datagram were waiting for its first fragment.
    FragmentLimit = "fragment_limit",
    /// The buffer has no headroom for the outer header.
    NoHeadroom = "no_headroom",
    /// No buffer for a packet of our own.
    NoBuffer = "no_buffer",
    /// The transmit queue did not accept it.
    TxFull = "tx_full",
    /// The ring to another worker was full.
    RingFull = "ring_full",
    /// To be punted, but the kernel's queue did not accept it.
    PuntFull = "punt_full",
    /// ARP to be punted, beyond what a worker may give to the kernel of it.
    PuntLimitArp = "punt_limit_arp",
    /// Neighbour discovery to be punted, beyond what a worker may give to the kernel of it.
    PuntLimitDiscovery = "punt_limit_discovery",
    /// BGP or BFD of a configured routing peer, beyond what a worker may give to the kernel of them.
    PuntLimitRouting = "punt_limit_routing",
    /// Anything else to be punted, beyond what a worker may give to the kernel of it.
    PuntLimit = "punt_limit",
    /// To be punted, but the port has no exception interface.
    NoException = "no_exception",
    /// Not ready: no view yet, or the machine has not joined its cluster yet.
    NotReady = "not_ready",
    /// A message of another machine of the cluster, taken in.
    PeerMessage = "peer_message",
    /// A message of state synchronisation that is malformed, forged, or not from a member of the cluster.
    PeerRefused = "peer_refused",
    /// A message of state synchronisation that came before, or that is much older than its sender's newest: somebody repeats it, or
    /// the network.
    PeerReplayed = "peer_replayed",
    /// The flow's owner could not be asked: too many packets ask already, or the packet has passed too many machines.
    RelayLimit = "relay_limit",
    /// A SYN over a record of a masked backend: its new backend is being told to all machines first; the next SYN goes there.
    Correcting = "correcting",
    /// The flow's decision could not be recorded: too many records wait for their acknowledgements, or too many flows that nobody saw
    /// begin were recorded just now.
    RecordLimit = "record_limit",
}
