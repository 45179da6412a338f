//! The rules of the protocol by name, so that a test can break one and see that the simulator notices.
//!
//! Only a build with the feature `negative-controls` can break one, by `break_rule` of a worker or leader. In any other every rule holds,
//! and the compiler knows it.

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Rule { $($(#[doc = $doc])+ $variant,)+ }

        impl Rule {
            /// All rules.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant,)+];

            /// The name of the broken rule's counterexample, or of the mutation.
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name,)+ }
            }

            /// Why the simulator need not notice that it is broken; `None`: it must.
            pub const fn excuse(self) -> Option<&'static str> {
                match self {
                    // Both are cheap, but to break one has shown nothing in any simulation so far.
                    Rule::MissAsksOn | Rule::AnswerFills => Some("kept for an argument alone"),
                    // It takes a copy that is later than what replaced it, of a flow that is used again after.
                    // Or one that an owner gets who is not the decider, while those before him took him to be it.
                    Rule::Sequence | Rule::HopLimit => {
                        Some("shown by a test of two machines, worker/tests/cluster.rs")
                    }
                    // It takes a packet of a new flow between two machines' commits, and the same flow at the other one before its.
                    Rule::RemovedStays => Some("shown by a test of the leader, statesync/src/plan/tests.rs"),
                    _ => None,
                }
            }

            /// One line for people: what holds.
            pub const fn help(self) -> &'static str {
                match self { $(Rule::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

rules! {
    /// Entries and records that are used refresh the owners' records.
    Refresh = "E1",
    /// Nobody guesses because an answer is missing: only while both owners are suspect as well.
    GuessOnlyWhenSuspect = "E2",
    /// A mask steers after its slots are tainted and exported everywhere.
    MaskAnnounced = "E3",
    /// A restart is another member.
    Incarnation = "E4",
    /// An empty bucket drops what it cannot ask, rather than decide it.
    BucketDrops = "E5",
    /// A SYN of a tainted slot is decided by its owner, rather than by who receives it with a note that may be lost.
    SynAsks = "E6",
    /// A backend's id is not used again.
    BackendIds = "E7",
    /// An owner that replaces a record corrects everybody's entries.
    Push = "E8",
    /// A taint ends after every machine has looked for entries that differ.
    CheckEntries = "E9a",
    /// A taint ends in two steps.
    RetireFirst = "E9b",
    /// Base stays while the slot stays tainted.
    BaseStays = "E10",
    /// A change waits for every member.
    CommitWaits = "E11",
    /// What states a record is sent until it is acknowledged.
    Acknowledged = "E12",
    /// Members change in two steps, and records move in between.
    TwoPhaseEpoch = "E13",
    /// Of two records the one that saw the flow begin stands, then the one used more recently.
    Conflict = "E14",
    /// A SYN keeps the record's backend, closing or idle.
    RecordStands = "E15",
    /// The next primary is the one that has the records.
    Ranking = "E16",
    /// A machine drops until its join has committed.
    Ready = "E17",
    /// A new backend is defined before all have committed, and a removed one stays until then.
    RemovedStays = "E18",
    /// A step begins when all live members have done the one before.
    OneAtATime = "E19",
    /// A record leaves before the frame that depends on it.
    RecordFirst = "E20",
    /// Entries of slots that change are told to their owners.
    Export = "M1 export",
    /// Both owners are told.
    BothTold = "M2 both owners",
    /// A statement is kept by the flow's core, whichever core received it.
    OwnerCore = "M3 owner core",
    /// A correction reaches every core.
    PushToCores = "M4 push to cores",
    /// An owner that is not the decider asks on.
    MissAsksOn = "M5 miss asks on",
    /// A relayed frame passes two machines at most.
    HopLimit = "M6 hop limit",
    /// A late answer is ignored, and an answer replaces no entry that is in use.
    AnswerFills = "M7 answer fills",
    /// A frame that is relayed is counted as that.
    RelayCounts = "M8 relays count",
    /// A frame for another core is put into the ring to that core.
    RingTo = "M9 ring to",
    /// A datagram without the right tag is not taken.
    Tag = "M10 tag",
    /// Pieces of one frame only are put together.
    PieceOf = "M11 piece of",
    /// What a sender said before is old, however late it arrives.
    Sequence = "M12 sequence",
    /// An answer finds the core that asked.
    AnswerCore = "M13 answer core",
    /// A datagram is taken once, and not long after newer ones of its machine.
    Window = "M14 window",
}

#[cfg(all(feature = "negative-controls", not(debug_assertions)))]
compile_error!(
    "the feature negative-controls breaks the rules of state synchronisation and is for tests; build \
     without it what is to be released: cargo build --release, without --workspace"
);

/// The rules in force: all of them by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    #[cfg(feature = "negative-controls")]
    broken: u64,
}

impl Rules {
    /// Whether the rule is in force.
    #[inline]
    #[cfg(feature = "negative-controls")]
    pub const fn hold(self, rule: Rule) -> bool {
        self.broken >> rule as u8 & 1 == 0
    }

    /// Whether the rule is in force.
    #[inline]
    #[cfg(not(feature = "negative-controls"))]
    pub const fn hold(self, _: Rule) -> bool {
        true
    }

    /// All but this one.
    #[must_use]
    #[cfg(feature = "negative-controls")]
    pub const fn without(self, rule: Rule) -> Rules {
        Rules { broken: self.broken | 1 << rule as u8 }
    }
}

#[cfg(all(test, feature = "negative-controls"))]
mod tests {
    use super::{Rule, Rules};

    #[test]
    fn one_is_broken_and_the_others_hold() {
        assert!(Rule::ALL.len() <= 64);
        for &broken in Rule::ALL {
            let rules = Rules::default().without(broken);
            for &rule in Rule::ALL {
                assert_eq!(rules.hold(rule), rule != broken, "{}: {}", rule.name(), rule.help());
            }
        }
    }
}
