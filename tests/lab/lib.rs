//! The lab: real TCP clients and servers around a real `guidewayd`, in network namespaces of one machine.
//!
//! Rule of this library: whatever it changes on the machine it can find again by name and undo: namespaces are called
//! `gwl-<pid>-…`, files live in `/run/guideway-lab/<pid>/`, and the page count it changed is written down there first.
//! [`cleanup`] undoes it when a [`Lab`] is dropped, on SIGINT and SIGTERM, and for processes that died without.
//!
//! ```text
//!  client ── router ─┬─ lb1 … lbN     p0, owned by guidewayd; its exception interface gw0 has 10.0.2.11 …
//!  10.0.1.100        ├─ b1 … bN       nginx and our own server; VIPs on lo; 10.0.2.21 …
//!  … 10.0.1.200      └─ near          a client on the same link as the balancers, 10.0.2.200
//!
//!  store ─┬─ lb1 … lbN   m0: the management network, in labs of clusters and of agents; etcd on 10.0.3.1,
//!         └─ b1 … bN     balancers on 10.0.3.11 …, backends on 10.0.3.21 …
//! ```
//! Needs root, nginx, clang, iproute2, ethtool, nftables, tcpdump, tshark and, for clusters, etcd (`dpdk-setup` installs them).
#![forbid(unsafe_code)]

pub mod addresses;
pub mod agent;
pub mod api;
pub mod backend;
pub mod balancer;
pub mod binaries;
pub mod capture;
pub mod cleanup;
pub mod command;
pub mod config;
pub mod demo;
pub mod inject;
pub mod load;
pub mod load_run;
pub mod machines;
pub mod namespace;
pub mod sandbox;
pub mod scenario;
pub mod site;
pub mod store;
pub mod topology;
pub mod usage;

pub use agent::Agent;
pub use backend::Backend;
pub use balancer::Balancer;
pub use binaries::Binaries;
pub use capture::Capture;
pub use command::LabError;
pub use config::Config;
pub use load_run::LoadRun;
pub use machines::Machines;
pub use namespace::Namespace;
pub use sandbox::Sandbox;
pub use site::Site;
pub use store::Store;
pub use topology::{Lab, Shape};
pub use usage::Usage;
