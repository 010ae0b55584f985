//! Pods' networks: a routed wire for each, addresses, masquerade, published ports, names. `docs/network.md` tells the story.
//!
//! It must never know of images, VMs, containers or the API: it gives out slots (a TAP's descriptor and what goes with it), publishes ports
//! and takes both back; what is done with them, and what is remembered, is its caller's business.
//!
//! `unsafe` is in [`tap`], for one ioctl.

pub mod address;
mod error;
pub mod firewall;
pub mod helper;
pub mod links;
pub mod names;
mod network;
pub mod nft;
pub mod nowhere;
pub mod ports;
pub mod rules;
mod sysctl;
pub mod tap;

pub use error::NetworkError;
pub use network::{Config, Lease, Network, Slot};
pub use ports::{Held, Port, Protocol};
