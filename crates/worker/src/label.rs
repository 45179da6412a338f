//! For whom a frame is counted when it ends.

use crate::action::Action;
use crate::describe::general::Packet;
use crate::io::{Outcome, Verdict};
use crate::view::View;
use wire::{BackendId, ServiceId};

/// What is counted once a frame has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    /// Whom it is for.
    pub(crate) tag: Tag,
    /// Made here: nobody waits to hear how it ended.
    pub(crate) originated: bool,
}

/// Whom a frame is for: eight bytes that are kept for every frame waiting.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Tag {
    /// [`NOBODY`] for none.
    pub(crate) backend: BackendId,
    /// 0 for none.
    service: ServiceId,
    /// Bytes from the inner IP header on.
    pub(crate) inner_bytes: u16,
}

/// No backend: above [`BackendId::MAX`].
const NOBODY: BackendId = BackendId(u32::MAX);

impl Label {
    /// A frame of our own.
    pub(crate) const ORIGINATED: Label = Label { originated: true, ..Label::KERNEL };
    /// A frame of the kernel on its way out, or one for it.
    pub(crate) const KERNEL: Label =
        Label { tag: Tag { backend: NOBODY, service: ServiceId(0), inner_bytes: 0 }, originated: false };

    /// A received frame of the fast path on its way to a backend.
    #[inline(always)]
    pub(crate) fn plain(service: ServiceId, backend: BackendId, inner_bytes: u16) -> Label {
        Label { tag: Tag { backend, service, inner_bytes }, originated: false }
    }

    /// A received frame on its way to a backend.
    pub(crate) fn received(view: &View, packet: &Packet, backend: Option<BackendId>) -> Label {
        let tag = Tag {
            backend: backend.unwrap_or(NOBODY),
            service: service_id(view, packet).unwrap_or_default(),
            inner_bytes: packet.len(),
        };
        Label { tag, originated: packet.made_here }
    }
}

impl Tag {
    #[inline(always)]
    pub(crate) fn backend(self) -> Option<BackendId> {
        (self.backend != NOBODY).then_some(self.backend)
    }

    pub(crate) fn service(self) -> Option<ServiceId> {
        (self.service != ServiceId(0)).then_some(self.service)
    }

    pub(crate) fn outcome(self, verdict: Verdict, action: Action) -> Outcome {
        Outcome { verdict, action, service: self.service(), backend: self.backend() }
    }
}

pub(crate) fn service_id(view: &View, packet: &Packet) -> Option<ServiceId> {
    packet.service_in(view).map(|service| service.id)
}
