//! What operators want becomes what the cluster is asked for.

use super::desire::Desire;
use super::keys::{self, DesiredValue};
use super::membership::Membership;
use crate::controller::Controller;
use crate::refusal::Refusal;
use model::Loaded;
use model::config::Service;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What an operator wants becomes the wish of the cluster.
pub(crate) fn desire_services(
    controller: &Controller,
    loaded: &Loaded,
    services: String,
) -> Result<Desire, Refusal> {
    if let Some(part) = &controller.cluster {
        let members = part.participant.snapshot().members().map(|(_, of)| (of.name.as_str(), of.address));
        no_machine_is_a_vip(&loaded.config.services, members).map_err(Refusal::Unfit)?;
    }
    let registered = controller.cluster.as_ref().and_then(Membership::document).map(|of| &of.registered[..]);
    let (config, _) = loaded.config.with_registered(registered.unwrap_or_default());
    let has = |(service, backend): &(String, String)| {
        let service = config.services.iter().find(|of| of.name == *service);
        service.is_some_and(|of| of.backends.iter().any(|of| of.name == *backend))
    };
    desired(controller, services, |wish| wish.drains.iter().filter(|drain| has(drain)).cloned().collect())
}

/// A backend is drained, or no more, everywhere.
pub(crate) fn desire_drain(
    controller: &Controller,
    service: &str,
    backend: &str,
    drained: bool,
) -> Result<Desire, Refusal> {
    let part = controller.cluster.as_ref().ok_or(Refusal::Stopping)?;
    let (wish, _) = part.participant.snapshot().wish().ok_or_else(no_wish)?;
    desired(controller, wish.text.clone(), |wish| {
        let mut drains = wish.drains.clone();
        let key = (service.to_owned(), backend.to_owned());
        if drained {
            drains.insert(key)
        } else {
            drains.remove(&key)
        };
        drains
    })
}

pub(crate) fn desired(
    controller: &Controller,
    text: String,
    drains: impl FnOnce(&DesiredValue) -> BTreeSet<(String, String)>,
) -> Result<Desire, Refusal> {
    let part = controller.cluster.as_ref().ok_or(Refusal::Stopping)?;
    if let Some(reason) = &part.lost {
        return Err(Refusal::Store(reason.clone()));
    }
    let (wish, _) = part.participant.snapshot().wish().ok_or_else(no_wish)?;
    let drains = drains(wish);
    let by = controller.config.machine.name.clone();
    part.desire(keys::bytes(&DesiredValue { text, drains, by, unix_ms: controller.now.unix_ms }))
}

/// A machine refuses services whose VIP holds its own address; the others know that before they are asked for.
fn no_machine_is_a_vip<'a>(
    services: &[Service],
    mut machines: impl Iterator<Item = (&'a str, IpAddr)>,
) -> Result<(), String> {
    let taken = machines.find_map(|(name, address)| {
        let service = services.iter().find(|service| service.vip.contains(address))?;
        Some(format!(
            "the vip {} of service {:?} holds the address {address} of machine {name}",
            service.vip, service.name
        ))
    });
    taken.map_or(Ok(()), Err)
}

fn no_wish() -> Refusal {
    Refusal::Store("the cluster has no services yet".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_vip_holds_no_machine_of_the_cluster() {
        let services = |vip: &str| {
            let text = format!(
                "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n[[port]]\nname = \"p\"\n\
                 device = \"net_null0\"\n[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\n\
                 [[service.backend]]\nname = \"b1\"\naddress = \"10.9.0.1\"\n"
            );
            model::load("x", &text).map_err(|report| report.to_plain()).unwrap().config.services
        };
        let check = |vip: &str| {
            let machines = [("lb1", [10, 0, 2, 11].into()), ("lb2", [10, 0, 2, 12].into())];
            super::no_machine_is_a_vip(&services(vip), machines.into_iter())
        };
        assert_eq!(check("203.0.113.10"), Ok(()));
        for vip in ["10.0.2.12", "10.0.2.12/30"] {
            assert!(check(vip).unwrap_err().contains("10.0.2.12 of machine lb2"));
        }
    }
}
