//! Bursts in a row: each is begun before the one ahead of it is finished, so that the memory is never idle.

use crate::burst::{Hits, Keys};

/// Two bursts, one begun and one that is filled in or whose answers are read. For a caller with more bursts than it can hold back,
/// such as one that receives faster than it forwards: the answers come one burst later.
///
/// ```
/// # use flow::{Idle, Memory, Row, State, Table};
/// # use wire::{BackendId, FlowKey, Tick};
/// # let idle = Idle { tcp_established_us: 9, tcp_closing_us: 9, syn_us: 9, udp_us: 9 };
/// # let mut table = Table::new(Memory::heap(9), Memory::heap(9), 0, idle, 50)?;
/// # table.insert(&FlowKey::Narrow(7), BackendId(3), State::Udp, Tick(0));
/// let mut row = Row::new();
/// row.next_keys().push_narrow(7);
/// table.lookup_row(&mut row, Tick(0));
/// // The next burst would be filled in here; without one, the last is finished.
/// row.next_keys();
/// let (_, hits) = table.lookup_row(&mut row, Tick(0));
/// assert_eq!(hits.backends()[0], 3);
/// # Ok::<(), flow::TableError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Row {
    bursts: [(Keys, Hits); 2],
    /// Which of them is begun.
    begun: bool,
}

impl Row {
    /// No burst is begun.
    pub fn new() -> Row {
        Row::default()
    }

    /// For the keys of the next burst; empty at first. The answers of the burst finished last are gone then.
    #[inline]
    pub fn next_keys(&mut self) -> &mut Keys {
        let keys = &mut self.bursts[usize::from(!self.begun)].0;
        keys.clear();
        keys
    }

    /// The burst begun, and the next one; they change places.
    #[inline]
    pub(crate) fn advance(&mut self) -> (&mut (Keys, Hits), &mut (Keys, Hits)) {
        let [first, second] = &mut self.bursts;
        self.begun = !self.begun;
        if self.begun { (first, second) } else { (second, first) }
    }
}
