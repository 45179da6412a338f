//! A store that has lost its data, until machines have put back what they know.

use wire::Tick;

/// Who has returned.
#[derive(Debug)]
pub(super) struct Wiped {
    pub(super) has_plan: bool,
    /// When each machine reaches the store again.
    pub(super) back: Vec<Tick>,
    pub(super) returned: Vec<bool>,
    /// Until when is waited for those who have not.
    pub(super) until: Tick,
    pub(super) is_over: bool,
}
