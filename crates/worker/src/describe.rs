//! First stage: the bytes of a burst to what each frame is, as far as the frames and the view can tell.
//!
//! Frames of the plain shape are read by column ([`columns`]), their services found for all packets of one together, and their keys for the
//! look-up completed; every other shape is for [`general`]. Whose slot alone decides is found here, too, because such a
//! packet is not looked up.

pub(crate) mod columns;
pub mod general;

use crate::BURST;
use crate::burst::{Burst, bits, everything};
use crate::decide::slots;
use crate::io::{Frame, Frames};
use crate::view::{PortView, ServiceView, View};
use columns::{FlowEvent, HeaderColumns, MacFilter, PacketSummary, ServiceKey};
use flow::{Keys, Lanes, Vectors};
use general::{is_possible_source_v6, key_of};
use steer::Match;
use wire::parse::{TCP, TcpFlags, UDP};
use wire::plain::PlainV6;
use wire::{Addr, PortId, Tuple};

/// To the port's own MAC address, or, where all are served, not to a group.
fn mac_filter(view: &View, port: PortId) -> MacFilter {
    let first_eight = |[a, b, c, d, e, f]: [u8; 6]| u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    match view.ports.get(port.index()).and_then(PortView::own_mac) {
        Some(mac) => MacFilter { mask: first_eight([0xff; 6]), value: first_eight(mac) },
        None => MacFilter { mask: first_eight([1, 0, 0, 0, 0, 0]), value: 0 },
    }
}

/// Describes the packets of the plain shape that have a service, and writes their keys. Returns the bytes of the frames, and the positions
/// that are left for [`general`].
#[inline(never)]
pub(crate) fn burst<F: Frame>(
    view: &View,
    port: PortId,
    frames: &Frames<F>,
    burst: &mut Burst,
    keys: &mut Keys,
    vectors: Vectors,
) -> (usize, u32) {
    let mac_filter = mac_filter(view, port);
    burst.others.clear();
    burst.groups.clear();
    (burst.plain, burst.may_begin, burst.slotted) = (0, 0, 0);
    (burst.by_slot, burst.by_empty_slot) = (0, 0);
    let bytes = vectors.run(
        #[inline(always)]
        |lanes| {
            let (bytes, is_any_plain) = burst.columns.read(mac_filter, frames);
            if !is_any_plain {
                return bytes;
            }
            let of_slots = match_services(view, frames.len(), burst, keys, lanes);
            if of_slots != 0 {
                burst.by_slot = slots::alone(view, burst, of_slots, keys, lanes);
            }
            // Those of flows that nobody knows yet, most likely: their slots' lines have until the look-up is done.
            let (_, _, syn) = burst.columns.events(lanes);
            burst.slotted = syn & burst.may_begin;
            if burst.slotted != 0 {
                slots::find(view, burst, burst.slotted, lanes);
            }
            bytes
        },
    );
    let mut left = everything(frames.len()) & !burst.plain;
    if left != 0 {
        // Once, and not each time that one of them is set.
        keys.narrow_mut(frames.len());
        left &= !plain_v6(view, mac_filter, frames, left, burst, keys);
    }
    (bytes, left)
}

/// Finds the services of the packets of the plain shape, and completes their keys. Returns the positions of TCP whose slot may decide alone.
#[inline(always)]
fn match_services(view: &View, count: usize, burst: &mut Burst, keys: &mut Keys, lanes: Lanes) -> u32 {
    let (mut left, mut of_slots) = (everything(count), 0);
    while left != 0 {
        let first = left.trailing_zeros() as usize % BURST;
        let service_key = ServiceKey(burst.columns.service_key[first]);
        let Some((index, service)) = service_of(view, service_key) else {
            left &= left - 1;
            continue;
        };
        let id = u64::from(service.id.0);
        let place = id << PacketSummary::SERVICE | u64::from(index) << PacketSummary::INDEX;
        let of_it = if burst.groups.is_full() {
            keys.narrow_mut(count)[first] = burst.columns.key[first] | id;
            burst.columns.summary[first] |= place;
            1 << first
        } else {
            let of_it = lanes.equal(&burst.columns.service_key, service_key.0) & left;
            let _ = burst.groups.try_push((of_it, service.id));
            claim(count, &mut burst.columns, service_key, id, place, keys);
            of_it
        };
        left &= !of_it;
        burst.plain |= of_it;
        if service.memory.is_none() {
            burst.may_begin |= of_it;
        } else if service_key.protocol() == TCP {
            of_slots |= of_it;
        }
    }
    of_slots
}

/// Completes what is known of all packets of a service in a burst of `count`.
#[inline(always)]
fn claim(
    count: usize,
    columns: &mut HeaderColumns,
    service_key: ServiceKey,
    id: u64,
    place: u64,
    keys: &mut Keys,
) {
    let HeaderColumns { service_key: service_keys, key, summary, .. } = columns;
    let keys = keys.narrow_mut(count);
    let blocks = count.div_ceil(columns::LANES).min(BURST / columns::LANES);
    for position in 0..blocks * columns::LANES {
        let position = position % BURST;
        let is_its = u64::from(service_keys[position] == service_key.0).wrapping_neg();
        keys[position] |= (key[position] | id) & is_its;
        summary[position] |= place & is_its;
    }
}

/// Describes packets of IPv6, one by one. Returns the positions described.
#[inline(always)]
fn plain_v6<F: Frame>(
    view: &View,
    mac_filter: MacFilter,
    frames: &Frames<F>,
    positions: u32,
    burst: &mut Burst,
    keys: &mut Keys,
) -> u32 {
    let mut done = 0;
    for position in bits(positions) {
        if let Some(frame) = frames.get(position)
            && let Some(summary) = describe_v6(view, mac_filter, position, frame, keys)
        {
            burst.columns.summary[position % BURST] = summary.0;
            done |= 1 << (position % BURST);
        }
    }
    burst.plain |= done;
    done
}

/// `None`: [`general`] has to look.
#[inline(always)]
fn describe_v6<F: Frame>(
    view: &View,
    mac_filter: MacFilter,
    position: usize,
    frame: &F,
    keys: &mut Keys,
) -> Option<PacketSummary> {
    let (bytes, meta) = (frame.bytes(), frame.meta());
    let plain = PlainV6::read(bytes)?;
    let Match::Service(index) = view.services.find_v6(plain.dst, plain.dport, plain.protocol) else {
        return None;
    };
    let service = view.service.get(usize::from(index))?;
    let is_refused = meta.truncated || meta.multi_segment || !mac_filter.admits(bytes);
    // What remembers slots looks them up first, in the general stages.
    if is_refused
        || index > PacketSummary::INDEX_MAX
        || service.memory.is_some()
        || !is_possible_source_v6(plain.src)
        || plain.src == plain.dst
    {
        return None;
    }
    let tuple = Tuple {
        src: Addr::V6(plain.src),
        dst: Addr::V6(plain.dst),
        sport: plain.sport,
        dport: plain.dport,
        protocol: plain.protocol,
    };
    keys.set(position, Some(&key_of(service, &tuple)));
    const CHANGES: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;
    let event = match plain.protocol {
        UDP => FlowEvent::Udp,
        _ if plain.flags.0 & CHANGES == 0 => FlowEvent::Tcp,
        _ if plain.flags.is_syn() => FlowEvent::Syn,
        _ => FlowEvent::Turning,
    };
    Some(PacketSummary::new(plain.len, plain.tos, event, service.id.0, index))
}

/// The service, with its index, of a packet of the plain shape; `None` for a packet of another, and where the general stages have to
/// look.
#[inline(always)]
fn service_of(view: &View, service_key: ServiceKey) -> Option<(u16, &ServiceView)> {
    if service_key.0 == 0 {
        return None;
    }
    let index = view.services.exact_v4(service_key.dst(), service_key.dport(), service_key.protocol())?;
    let service = view.service.get(usize::from(index)).filter(|service| !service.wide)?;
    (index <= PacketSummary::INDEX_MAX).then_some((index, service))
}
