//! The kernel's side of exception ports: addresses and routes on the TAP interfaces. They vanish with the process, so
//! they are set at every start.

use futures_util::TryStreamExt as _;
use model::config::Port;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metric of our default route where another one has the usual metric already.
const METRIC_BEHIND: u32 = 4096;

/// Why an exception interface could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExceptionError {
    /// No netlink socket or runtime.
    #[error("cannot talk to the kernel by netlink: {0}")]
    Netlink(#[source] std::io::Error),
    /// A step failed.
    #[error("port {port:?}: cannot {step} on exception interface {interface}: {source}; {help}")]
    Step {
        /// Port.
        port: String,
        /// Interface.
        interface: String,
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: Box<rtnetlink::Error>,
        /// What to do.
        help: &'static str,
    },
}

/// Sets up the exception interfaces of all ports.
pub(crate) fn configure(ports: &[Port]) -> Result<(), ExceptionError> {
    if ports.iter().all(|port| port.exception.is_none()) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExceptionError::Netlink)?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(ExceptionError::Netlink)?;
        tokio::spawn(connection);
        for port in ports {
            if let Some(interface) = &port.exception {
                Interface { handle: &handle, port, interface }.configure().await?;
            }
        }
        Ok(())
    })
}

struct Interface<'a> {
    handle: &'a Handle,
    port: &'a Port,
    interface: &'a str,
}

impl Interface<'_> {
    async fn configure(&self) -> Result<(), ExceptionError> {
        let mut links = Box::pin(self.handle.link().get().match_name(self.interface.to_owned()).execute());
        let link = links.try_next().await;
        let index = match link {
            Ok(Some(link)) => link.header.index,
            Ok(None) => {
                return Err(self.failed(
                    "find it",
                    rtnetlink::Error::RequestFailed,
                    "is it renamed by udev?",
                ));
            }
            Err(error) => return Err(self.failed("find it", error, "is it renamed by udev?")),
        };
        // DPDK has set MAC and MTU when it made the interface.
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(|error| self.failed("set it up", error, "it needs CAP_NET_ADMIN"))?;
        for net in &self.port.exception_addresses {
            let mut request = self.handle.address().add(index, net.addr, net.len).replace();
            if net.addr.is_ipv6() {
                // The address is the machine's own in the configuration; duplicate detection would keep it unusable
                // for a second at every start.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            let step = || format!("add address {}/{}", net.addr, net.len);
            request.execute().await.map_err(|error| {
                self.failed(step(), error, "check exception_addresses; is IPv6 switched off?")
            })?;
        }
        let gateways =
            [self.port.exception_gateway.map(IpAddr::V4), self.port.exception_gateway6.map(IpAddr::V6)];
        for gateway in gateways.into_iter().flatten() {
            self.default_route(index, gateway).await?;
        }
        Ok(())
    }

    /// A default route of the host's own is left alone: ours then comes behind it, for traffic bound to the interface.
    async fn default_route(&self, index: u32, gateway: IpAddr) -> Result<(), ExceptionError> {
        let step = || format!("add the default route by {gateway}");
        let help = "is the gateway inside one of exception_addresses' networks?";
        match self.add_route(index, gateway, None).await {
            Err(error) if exists(&error) => {
                tracing::warn!(
                    interface = self.interface,
                    "the host has a default route already; the one by {gateway} is added with metric {METRIC_BEHIND}"
                );
                match self.add_route(index, gateway, Some(METRIC_BEHIND)).await {
                    Err(error) if !exists(&error) => Err(self.failed(step(), error, help)),
                    _ => Ok(()),
                }
            }
            result => result.map_err(|error| self.failed(step(), error, help)),
        }
    }

    async fn add_route(
        &self,
        index: u32,
        gateway: IpAddr,
        metric: Option<u32>,
    ) -> Result<(), rtnetlink::Error> {
        let message = match gateway {
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index);
                metric.into_iter().fold(route, RouteMessageBuilder::priority).build()
            }
            IpAddr::V6(gateway) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(index);
                metric.into_iter().fold(route, RouteMessageBuilder::priority).build()
            }
        };
        self.handle.route().add(message).execute().await
    }

    fn failed(
        &self,
        step: impl Into<String>,
        source: rtnetlink::Error,
        help: &'static str,
    ) -> ExceptionError {
        ExceptionError::Step {
            port: self.port.name.clone(),
            interface: self.interface.to_owned(),
            step: step.into(),
            source: Box::new(source),
            help,
        }
    }
}

fn exists(error: &rtnetlink::Error) -> bool {
    const EEXIST: i32 = 17;
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code().abs() == EEXIST)
}
