//! Addresses of the host's interfaces.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Index of the loopback in every network namespace.
const LOOPBACK: u32 = 1;
/// Time that the kernel may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// All global addresses, ascending. Not those of the loopback: service addresses are put there.
///
/// # Errors
/// The kernel does not tell.
pub(crate) async fn of_interfaces() -> Result<Vec<IpAddr>, String> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let all = async {
        let mut found = BTreeSet::new();
        let mut messages = handle.address().get().execute();
        while let Some(message) = messages.try_next().await.map_err(|e| e.to_string())? {
            found.extend(global(&message));
        }
        Ok(found.into_iter().collect())
    };
    let all = tokio::time::timeout(LIMIT, all).await.unwrap_or(Err("no answer in time".to_owned()));
    connection.abort();
    all
}

fn global(message: &AddressMessage) -> Option<IpAddr> {
    if message.header.index == LOOPBACK || message.header.scope != AddressScope::Universe {
        return None;
    }
    // On a point-to-point link `Address` is the other end.
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    own.or(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn message(index: u32, scope: AddressScope, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.scope = scope;
        message.attributes = attributes;
        message
    }

    #[test]
    fn only_own_global_addresses_and_none_of_the_loopback() {
        let ip = |last: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let both = vec![AddressAttribute::Address(ip(2)), AddressAttribute::Local(ip(1))];
        assert_eq!(global(&message(2, AddressScope::Universe, both.clone())), Some(ip(1)));
        assert_eq!(
            global(&message(2, AddressScope::Universe, vec![AddressAttribute::Address(ip(3))])),
            Some(ip(3))
        );
        assert_eq!(global(&message(1, AddressScope::Universe, both.clone())), None);
        assert_eq!(global(&message(2, AddressScope::Link, both)), None);
    }

    #[tokio::test]
    async fn the_kernel_tells() {
        let all = of_interfaces().await.unwrap();
        assert!(all.iter().all(|address| !address.is_loopback()), "{all:?}");
    }
}
