//! Searching the workers' flow tables: read without locks, a piece at a time, on the thread that answers the API.

use flow::{Reader, State};
use model::api::{FlowEntry, Flows};
use model::config::{Net, Protocol, Service};
use std::collections::HashMap;
use std::net::IpAddr;
use wire::{BackendId, FlowKey, ServiceId, Tick, Tuple};

/// Buckets looked at before others get their turn.
const PIECE: usize = 4096;

/// A search, detached from the controller.
pub(crate) struct FlowSearch {
    /// Core and table.
    pub(crate) tables: Vec<(u8, Reader)>,
    /// Services by id; only these are looked for.
    pub(crate) services: HashMap<ServiceId, Service>,
    /// Names and addresses of backends.
    pub(crate) backends: HashMap<BackendId, (String, IpAddr)>,
    /// Only these clients.
    pub(crate) client: Option<Net>,
    /// Now, by the workers' clock.
    pub(crate) now: Tick,
}

/// The first `limit` flows.
pub(crate) async fn search(search: FlowSearch, limit: usize) -> Flows {
    let mut found = Flows { flows: Vec::new(), truncated: false };
    for (core, table) in &search.tables {
        let mut from = 0;
        while from < table.buckets() {
            table.dump(from, PIECE, search.now, |key, hit| {
                if found.truncated {
                    return;
                }
                let Some(entry) = search.entry(*core, key, hit.backend, hit.state, hit.idle_us) else {
                    return;
                };
                if found.flows.len() == limit {
                    found.truncated = true;
                } else {
                    found.flows.push(entry);
                }
            });
            if found.truncated {
                return found;
            }
            from += PIECE;
            tokio::task::yield_now().await;
        }
    }
    found
}

impl FlowSearch {
    fn entry(
        &self,
        core: u8,
        key: FlowKey,
        backend: BackendId,
        state: State,
        idle_us: u64,
    ) -> Option<FlowEntry> {
        let service = self.services.get(&key.service())?;
        let (client, client_port, vip, port) = ends(key, service);
        if self.client.is_some_and(|wanted| !wanted.contains(client)) {
            return None;
        }
        let known = self.backends.get(&backend);
        Some(FlowEntry {
            core,
            service: service.name.clone(),
            protocol: match service.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            }
            .to_owned(),
            client,
            client_port,
            vip,
            port,
            backend: known.map_or_else(|| format!("#{}", backend.0), |(name, _)| name.clone()),
            backend_address: known.map(|(_, address)| *address),
            state: state_name(state).to_owned(),
            idle_ms: idle_us / 1000,
        })
    }
}

/// Client, its port, VIP and port that a key stands for.
fn ends(key: FlowKey, service: &Service) -> (IpAddr, u16, IpAddr, u16) {
    let flow = flow_of(key, service);
    (flow.src.into(), flow.sport, flow.dst.into(), flow.dport)
}

/// The flow that a key of the service stands for.
pub(crate) fn flow_of(key: FlowKey, service: &Service) -> Tuple {
    let vip = service.vip.addr.into();
    crate::slots::flow_of(&key, (vip, service.port, service.protocol.number()))
}

/// The name of a state in the API.
pub(crate) const fn state_name(state: State) -> &'static str {
    match state {
        State::TcpNew => "tcp_new",
        State::TcpEstablished => "tcp_established",
        State::TcpClosing => "tcp_closing",
        State::UdpNew => "udp_new",
        State::Udp => "udp",
        State::TcpHandshake => "tcp_handshake",
        State::TcpHalfClosed => "tcp_half_closed",
    }
}

/// The state of this name.
pub(crate) fn state_named(name: &str) -> Option<State> {
    State::ALL.into_iter().find(|&state| state_name(state) == name)
}
