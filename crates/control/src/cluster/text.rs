//! Configurations in two parts: what a machine says of itself in its own file, and the services, which all machines share.

use model::Loaded;
#[cfg(feature = "daemon")]
pub(crate) use model::services_of;
use toml::Table;

/// The key of the shared part.
const SERVICES: &str = "service";

/// A machine's own text with other services, checked.
///
/// # Errors
/// What does not fit.
pub(crate) fn with_services(own: &str, services: &str) -> Result<Loaded, String> {
    let mut table: Table = own.parse().map_err(|error| format!("{error}"))?;
    let mut shared: Table = services.parse().map_err(|error| format!("{error}"))?;
    table.remove(SERVICES);
    if let Some(services) = shared.remove(SERVICES) {
        table.insert(SERVICES.to_owned(), services);
    }
    let text = toml::to_string(&table).map_err(|error| format!("{error}"))?;
    model::load("the cluster's services", &text).map_err(|report| report.to_plain())
}

#[cfg(test)]
mod tests {
    use super::{services_of, with_services};

    const OWN: &str = "[machine]\nname = \"lb1\"\naddress = \"10.0.2.11\"\nnext_hop_mac = \"02:00:00:00:00:01\"\n\
        cluster_key = \"7d0c3a9be1d24776a8b9c0d1e2f30415\"\n[[port]]\nname = \"data0\"\ndevice = \"net_null0\"\n";
    const SERVICE: &str = "[[service]]\nname = \"web\"\nvip = \"203.0.113.10\"\nport = 80\n[service.health]\nkind = \"http\"\n\
        via = \"eth0\"\nexpect_status = [200, \"300-399\"]\n[[service.backend]]\nname = \"b1\"\naddress = \"10.0.2.21\"\nweight = 3\n";

    #[test]
    fn services_travel_and_the_machine_stays() {
        let other = OWN.replace("lb1", "lb2").replace("10.0.2.11", "10.0.2.12");
        let whole = format!("{other}{SERVICE}");
        let services = services_of(&whole).expect("TOML");
        assert!(!services.contains("lb2") && !services.contains("7d0c3a9be1d2"), "{services}");
        let loaded =
            with_services(&format!("{OWN}{}", SERVICE.replace("web", "old")), &services).expect("fits");
        assert_eq!(loaded.config.machine.name, "lb1");
        let expected = model::load("x", &whole).expect("a configuration").config.services;
        assert_eq!(loaded.config.services, expected);
        assert!(with_services(OWN, "").expect("fits").config.services.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let v6 = SERVICE.replace("10.0.2.21", "fd00::1");
        let problem = with_services(OWN, &v6).expect_err("no IPv6 source");
        assert!(problem.contains("address6"), "{problem}");
        services_of("x = ").expect_err("no TOML");
    }
}
