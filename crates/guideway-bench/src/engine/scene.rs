//! The service under test: one VIP, TCP port 80, N backends, one mode; compiled by the real control plane.

use crate::failure::{Failure, wrong};
use crate::flows::{self, VIP6};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
pub use wire::encap::Mode;
use wire::{Addr, BackendId, FlowKey, PortId, ServiceId, Tuple};
use worker::View;
use worker::view::{PortRole, PortView};

/// The VIP.
pub(crate) const VIP: [u8; 4] = [203, 0, 113, 10];
/// Its port.
pub(crate) const PORT: u16 = 80;
/// MAC of the port that receives.
pub(crate) const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// MAC of the router that sends us clients' packets.
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Backend `n` has address 172.16.0.1 + n …
const BACKEND_BASE: u32 = 0xac10_0001;
/// … or, to an IPv6 VIP, 2001:db8:b:: + n …
const BACKEND_BASE6: u128 = 0x2001_0db8_000b_0000_0000_0000_0000_0000;
/// … and, where the mode makes use of it, this MAC + n.
const BACKEND_MAC: u64 = 0x0201_0000_0000;
/// Slots of the service's table; no hit uses them.
const MAGLEV_SIZES: [u32; 2] = [65_537, 655_373];

/// Takes a mode on the command line.
pub fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    let one = |mode: Mode| PossibleValue::new(mode.as_str()).help(mode.title());
    PossibleValuesParser::new(Mode::ALL.map(one)).try_map(|word| {
        Mode::ALL.into_iter().find(|mode| mode.as_str() == word).ok_or("there is no such mode")
    })
}

/// Family of the VIP and, with it, of the backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Bytes of an IP header.
    #[inline]
    pub fn header_len(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// In front of it on Ethernet.
    pub fn ethertype(self) -> u16 {
        match self {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        }
    }
}

/// What a service remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowsIn {
    /// Every flow.
    All,
    /// Only flows that are not where the slot table says: none here, so no packet looks into the flow table.
    Exceptions,
}

/// What the workers are given.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The picture.
    pub view: Arc<View>,
    /// Id of the only service.
    pub service: ServiceId,
    /// Backends by number.
    pub backends: Vec<BackendId>,
    /// How packets reach them.
    pub mode: Mode,
    /// IPv4 or IPv6.
    pub family: Family,
    /// What the service remembers.
    pub state: FlowsIn,
}

impl Scene {
    /// Compiles a generated configuration.
    ///
    /// # Errors
    /// It is refused, which is a defect, or there are too many backends.
    pub fn build(mode: Mode, family: Family, backends: u32, state: FlowsIn) -> Result<Scene, Failure> {
        let text = configuration(mode, family, backends, state)?;
        let loaded = model::load("bench", &text)
            .map_err(|report| Failure::Configuration(report.to_plain().to_string()))?;
        let (mut view, ids) =
            control::compile::offline(&loaded.config).map_err(|e| Failure::Configuration(e.to_string()))?;
        for port in &mut view.ports {
            // As in production: frames for other stations are dropped, which costs a comparison.
            port.role = PortRole::Data { exception: None, punt_to_nowhere: false };
        }
        if state == FlowsIn::Exceptions {
            for service in &mut view.service {
                // No slot has changed its answer yet.
                service.memory.get_or_insert_default();
            }
        }
        let Some(service) = loaded.config.services.first() else {
            return Err(wrong("the configuration has no service"));
        };
        let id = ids.service(&service.name).ok_or_else(|| wrong("the service has no id"))?;
        let of = |backend: &model::config::Backend| ids.of(id, &backend.name, backend.address);
        let backends = service.backends.iter().map(of).collect::<Option<Vec<_>>>();
        let backends = backends.ok_or_else(|| wrong("a backend has no id"))?;
        if !backends.is_sorted() {
            return Err(wrong("backend ids do not follow the configuration's order"));
        }
        Ok(Scene { view: Arc::new(view), service: id, backends, mode, family, state })
    }
}

impl Scene {
    /// This scene with an exception interface, the second port: what is for the kernel is punted, within its budgets.
    ///
    /// # Errors
    /// Somebody uses the view already, which is a defect.
    pub fn with_kernel(mut self) -> Result<Scene, Failure> {
        let view = Arc::get_mut(&mut self.view).ok_or_else(|| wrong("the view is in use"))?;
        let Some(data) = view.ports.first_mut() else { return Err(wrong("the view has no port")) };
        data.role = PortRole::Data { exception: Some(PortId(1)), punt_to_nowhere: false };
        let exception = PortView { role: PortRole::Exception { data: PortId(0) }, ..*data };
        view.ports.push(exception);
        Ok(self)
    }

    /// The number of the backend that flow `number` belongs to.
    pub fn backend_of(&self, number: u64) -> Option<u32> {
        if self.state == FlowsIn::All {
            return Some(flows::value(number, self.backends.len() as u32));
        }
        let client = flows::client(number);
        let (src, dst) = match self.family {
            Family::V4 => (Addr::V4(client.address), Addr::V4(u32::from_be_bytes(VIP))),
            Family::V6 => (Addr::V6(client.address6()), Addr::V6(VIP6)),
        };
        let flow = Tuple { src, dst, sport: client.port, dport: PORT, protocol: 6 };
        let service = self.view.service.first()?;
        let backend = worker::decide::slots::place(&self.view, service, &flow, false)?;
        u32::try_from(self.backends.binary_search(&backend).ok()?).ok()
    }

    /// The exact key of flow `number`.
    #[inline]
    pub fn key(&self, number: u64) -> FlowKey {
        match self.family {
            Family::V4 => flows::key(number, self.service),
            Family::V6 => flows::wide_key(number, PORT, self.service),
        }
    }
}

/// Address of backend `number`.
pub(crate) fn backend_address(family: Family, number: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(BACKEND_BASE + number).into(),
        Family::V6 => Ipv6Addr::from_bits(BACKEND_BASE6 + 1 + u128::from(number)).into(),
    }
}

/// MAC of backend `number`.
pub(crate) fn backend_mac(number: u32) -> [u8; 6] {
    let [_, _, mac @ ..] = (BACKEND_MAC + u64::from(number)).to_be_bytes();
    mac
}

fn configuration(mode: Mode, family: Family, backends: u32, state: FlowsIn) -> Result<String, Failure> {
    let vip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from(VIP).into(),
        Family::V6 => Ipv6Addr::from_bits(VIP6).into(),
    };
    let size = MAGLEV_SIZES.into_iter().find(|&size| size / 100 >= backends).unwrap_or(MAGLEV_SIZES[1]);
    let mac = |m: [u8; 6]| m.map(|byte| format!("{byte:02x}")).join(":");
    let mut text = format!(
        "[machine]\nname = \"bench\"\naddress = \"192.0.2.1\"\naddress6 = \"2001:db8:2::1\"\nnext_hop_mac = \
         \"{}\"\n\
         cluster_key = \"000102030405060708090a0b0c0d0e0f\"\n[workers]\ncpus = [1]\n\
         [[port]]\nname = \"data0\"\ndevice = \"net_null0\"\nmac = \"{}\"\nmtu = 1500\n\
         [[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = {PORT}\nprotocol = \"tcp\"\nmode = \
         \"{}\"\nmaglev_size = {size}\n",
        mac(ROUTER_MAC),
        mac(PORT_MAC),
        mode.as_str(),
    );
    if state == FlowsIn::Exceptions {
        text.push_str("state = \"exceptions\"\n");
    }
    for number in 0..backends {
        let address = backend_address(family, number);
        let written = write!(text, "[[service.backend]]\nname = \"b{number:05}\"\naddress = \"{address}\"\n")
            .and_then(|()| {
                if mode == Mode::L2 || mode.carries_ethernet() {
                    return writeln!(text, "mac = \"{}\"", mac(backend_mac(number)));
                }
                Ok(())
            });
        written.map_err(|e| Failure::Configuration(e.to_string()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_compiles() {
        for mode in Mode::ALL {
            for family in [Family::V4, Family::V6] {
                let scene = Scene::build(mode, family, 3, FlowsIn::All).expect("a scene");
                assert_eq!(scene.backends.len(), 3);
                for id in &scene.backends {
                    let backend = scene.view.backends[id.index()].as_ref().expect("a backend");
                    assert!(backend.next_hop.is_some(), "{mode:?}");
                }
            }
        }
        assert_eq!(backend_address(Family::V4, 300), Ipv4Addr::new(172, 16, 1, 45));
        assert_eq!(backend_address(Family::V6, 1), "2001:db8:b::2".parse::<IpAddr>().expect("an address"));
        assert_eq!(backend_mac(258), [2, 1, 0, 0, 1, 2]);
    }
}
