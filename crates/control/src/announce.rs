//! Announcement: a ready service's VIP is put on the loopback, so that the kernel answers ARP for it and a routing
//! daemon (`protocol direct` in BIRD, `redistribute connected` in FRR) exports it; see docs/adr/0011.
//!
//! The kernel answers neighbour solicitations only for addresses of the interface they come in by, so an IPv6 VIP in
//! the subnet of an exception interface is put on that interface as well.

use crate::truth::Note;
use futures_util::TryStreamExt;
use model::config::Net;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{Handle, new_connection};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often it is made sure that the addresses are still there.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
const LOOPBACK: &str = "lo";

/// What the kernel is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    /// VIPs of ready services.
    pub(crate) vips: BTreeSet<Vip>,
    /// Exception interfaces with their subnets.
    pub(crate) subnets: Vec<(String, Net)>,
    /// Exception interfaces that must accept packets from our own VIPs: answers to probes through the tunnel.
    pub(crate) accept_local: BTreeSet<String>,
}

/// A VIP, ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Vip {
    /// Address.
    pub(crate) address: IpAddr,
    /// Prefix length.
    pub(crate) length: u8,
}

impl From<Net> for Vip {
    fn from(net: Net) -> Vip {
        Vip { address: net.addr, length: net.len }
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Placed {
    interface: String,
    vip: Vip,
}

impl Wanted {
    fn places(&self) -> BTreeSet<Placed> {
        let mut places = BTreeSet::new();
        for vip in &self.vips {
            places.insert(Placed { interface: LOOPBACK.to_owned(), vip: *vip });
            if vip.address.is_ipv6() && vip.length == 128 {
                for (interface, subnet) in &self.subnets {
                    if subnet.contains(vip.address) {
                        places.insert(Placed { interface: interface.clone(), vip: *vip });
                    }
                }
            }
        }
        places
    }
}

/// Keeps the kernel as wanted until the owner is gone. `left_over` are VIPs that an earlier process may have left
/// on the loopback. `announced` tells what is on the loopback now.
pub(crate) async fn keep(
    mut wanted: watch::Receiver<Wanted>,
    left_over: BTreeSet<Vip>,
    announced: watch::Sender<BTreeSet<Vip>>,
    notes: mpsc::Sender<Note>,
) {
    let mut have: BTreeSet<Placed> =
        left_over.into_iter().map(|vip| Placed { interface: LOOPBACK.to_owned(), vip }).collect();
    let mut complained = false;
    loop {
        let wish = wanted.borrow_and_update().clone();
        let mut failure = None;
        let places = wish.places();
        if !places.is_empty() || !have.is_empty() {
            match new_connection() {
                Ok((connection, handle, _)) => {
                    let connection = tokio::spawn(connection);
                    failure = adjust(&handle, &places, &mut have).await.err();
                    connection.abort();
                }
                Err(error) => failure = Some(format!("netlink socket: {error}")),
            }
        }
        for interface in &wish.accept_local {
            if let Err(error) = accept_local(interface) {
                failure.get_or_insert(error);
            }
        }
        let now: BTreeSet<Vip> =
            have.iter().filter(|placed| placed.interface == LOOPBACK).map(|placed| placed.vip).collect();
        let mut changes = Vec::new();
        announced.send_if_modified(|before| {
            changes.extend(now.difference(before).map(|vip| (*vip, true)));
            changes.extend(before.difference(&now).map(|vip| (*vip, false)));
            let differs = *before != now;
            before.clone_from(&now);
            differs
        });
        for (vip, there) in changes {
            if notes.send(Note::Announced { vip, there }).await.is_err() {
                return;
            }
        }
        let pause = if let Some(failure) = failure {
            if !complained {
                let text = format!("announcement failed ({failure}); needs CAP_NET_ADMIN; tried again");
                if notes.send(Note::Warning(text)).await.is_err() {
                    return;
                }
            }
            complained = true;
            RETRY
        } else {
            complained = false;
            REFRESH
        };
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes away what is not wanted, then adds what is. Goes on after a failure and tells the first.
async fn adjust(
    handle: &Handle,
    wanted: &BTreeSet<Placed>,
    have: &mut BTreeSet<Placed>,
) -> Result<(), String> {
    let mut failure = Ok(());
    for placed in have.difference(wanted).cloned().collect::<Vec<_>>() {
        match take_away(handle, &placed).await {
            Ok(()) => {
                have.remove(&placed);
            }
            Err(error) => failure = failure.and(Err(format!("{placed:?}: {error}"))),
        }
    }
    for placed in wanted {
        match put(handle, placed).await {
            Ok(()) => {
                have.insert(placed.clone());
            }
            Err(error) => {
                have.remove(placed);
                failure = failure.and(Err(format!("{} on {}: {error}", placed.vip, placed.interface)));
            }
        }
    }
    failure
}

async fn interface_index(handle: &Handle, name: &str) -> Result<Option<u32>, String> {
    let mut links = Box::pin(handle.link().get().match_name(name.to_owned()).execute());
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn put(handle: &Handle, placed: &Placed) -> Result<(), String> {
    let Some(index) = interface_index(handle, &placed.interface).await? else {
        return Err("no such interface".to_owned());
    };
    let Vip { address, length } = placed.vip;
    let mut request = handle.address().add(index, address, length);
    if address.is_ipv6() {
        // Usable at once: every machine of the tier has it, which duplicate address detection must not see.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    unless_there(request.execute().await)
}

async fn take_away(handle: &Handle, placed: &Placed) -> Result<(), String> {
    // Addresses go with their interface.
    let Some(index) = interface_index(handle, &placed.interface).await? else { return Ok(()) };
    let Vip { address, length } = placed.vip;
    let mut found = Box::pin(
        handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_prefix_length_filter(length)
            .set_address_filter(address)
            .execute(),
    );
    while let Some(message) = found.try_next().await.map_err(|e| e.to_string())? {
        unless_gone(handle.address().del(message).execute().await)?;
    }
    Ok(())
}

fn unless_there(result: Result<(), rtnetlink::Error>) -> Result<(), String> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error))
            if error.to_io().kind() == std::io::ErrorKind::AlreadyExists =>
        {
            Ok(())
        }
        other => other.map_err(|e| e.to_string()),
    }
}

fn unless_gone(result: Result<(), rtnetlink::Error>) -> Result<(), String> {
    match result {
        // ESRCH, ENOENT, EADDRNOTAVAIL
        Err(rtnetlink::Error::NetlinkError(error)) if matches!(error.raw_code().abs(), 2 | 3 | 99) => Ok(()),
        other => other.map_err(|e| e.to_string()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the file is the kernel's memory")]
fn accept_local(interface: &str) -> Result<(), String> {
    if interface.contains('/') || interface.starts_with('.') {
        return Err(format!("interface name `{interface}`"));
    }
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/accept_local");
    if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    std::fs::write(&path, "1").map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests;
