//! Several bursts on their way through the look-up: each is begun, compared and finished in three calls, with others on their way meanwhile, so that neither the
//! memory nor the processor waits for the other.

use crate::burst::{Hits, Keys};
use crate::state::Word;

/// Three bursts: two begun, and one that is filled in or whose answers are read. For a caller with many bursts at hand: the answers
/// come two bursts later.
///
/// ```
/// # use flow::{Idle, LookupPipeline, Memory, State, Table};
/// # use wire::{BackendId, FlowKey, Tick};
/// # let idle = Idle { tcp_established_us: 9, tcp_closing_us: 9, syn_us: 9, udp_us: 9 };
/// # let mut table = Table::new(Memory::heap(9), Memory::heap(9), 0, idle, 50)?;
/// # table.insert(&FlowKey::Narrow(7), BackendId(3), State::Udp, Tick(0));
/// let mut pipeline = LookupPipeline::new();
/// pipeline.next_keys().push_narrow(7);
/// table.lookup_pipelined(&mut pipeline, Tick(0));
/// // The next two bursts would be filled in here; without any, the last is finished.
/// pipeline.next_keys();
/// table.lookup_pipelined(&mut pipeline, Tick(0));
/// pipeline.next_keys();
/// let (_, hits) = table.lookup_pipelined(&mut pipeline, Tick(0));
/// assert_eq!(hits.backends()[0], 3);
/// # Ok::<(), flow::TableError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LookupPipeline {
    bursts: [(Keys, Hits); 3],
    /// Which of them is filled in next.
    next: usize,
    /// What the burst in the middle was compared with.
    compared: Compared,
}

/// A table at a moment: while it is the same, so are a look-up's answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Compared {
    /// Where its lines are.
    pub(crate) table: usize,
    /// Stores to narrow buckets so far, and to wide ones.
    pub(crate) stores: (u64, u64),
    pub(crate) clock: ([u8; Word::KINDS], [u8; Word::KINDS]),
}

/// The bursts of a pipeline, by how far they are.
pub(crate) struct Places<'r> {
    /// Is to be finished.
    pub(crate) last: &'r mut (Keys, Hits),
    /// Was begun, and is to be compared.
    pub(crate) middle: &'r mut (Keys, Hits),
    /// Is to be begun.
    pub(crate) next: &'r mut (Keys, Hits),
}

impl LookupPipeline {
    /// No burst is begun.
    pub fn new() -> LookupPipeline {
        LookupPipeline::default()
    }

    /// For the keys of the next burst; empty at first. The answers of the burst finished last are gone then.
    #[inline]
    pub fn next_keys(&mut self) -> &mut Keys {
        let keys = &mut self.bursts[self.next % 3].0;
        keys.clear();
        keys
    }

    /// The bursts, which move on by one; and what the last was compared with.
    #[inline]
    pub(crate) fn advance(&mut self, compared: Compared) -> (Places<'_>, Compared) {
        let [a, b, c] = &mut self.bursts;
        let (last, middle, next) = match self.next {
            0 => (b, c, a),
            1 => (c, a, b),
            _ => (a, b, c),
        };
        self.next = if self.next < 2 { self.next + 1 } else { 0 };
        let before = core::mem::replace(&mut self.compared, compared);
        (Places { last, middle, next }, before)
    }
}
