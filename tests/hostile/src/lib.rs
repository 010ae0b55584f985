//! What hostile bytes must not do, one function per parser: [`TARGETS`] is the list.
//!
//! Each function takes any bytes, gives them to a parser in the shape that it gets them in, and panics when a promise is
//! broken: the parser panics, or what it accepted is out of its bounds. The fuzz targets (`tests/fuzz`) search for such
//! bytes, and `tests/replay.rs` here gives every function the inputs that were kept, on every run of the tests.
//!
//! It must never know more of a parser than its public interface. `docs/fuzzing.md` tells how to add one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "this crate is a test: what fails here has failed")]

pub mod agent;
pub mod bench;
pub mod control;
pub mod copies;
pub mod devices;
pub mod frames;
pub mod images;
pub mod kernel_log;
pub mod machine;
pub mod memory;
pub mod objects;
pub mod pci;
pub mod peripherals;
pub mod plug;
pub mod registry;
pub mod streams;
mod tarball;
pub mod vhost_user;

/// A parser's function.
pub type Target = fn(&[u8]);

/// Every function by name; `tests/fuzz/<name>/` holds its inputs and `tests/fuzz/targets/<name>.rs` calls it.
pub const TARGETS: &[(&str, Target)] = &[
    ("tar", images::tar),
    ("pax", images::pax),
    ("layer", images::layer),
    ("erofs", images::erofs),
    ("archive", images::archive),
    ("manifests", images::manifests),
    ("copies", copies::copies),
    ("reference", images::reference),
    ("challenge", registry::challenge),
    ("registry_manifest", registry::manifest),
    ("agent_frames", frames::agent),
    ("api_frames", frames::api),
    ("agent_client", agent::client),
    ("agent_stream", agent::stream),
    ("kernel_log", kernel_log::line),
    ("chain", devices::chain),
    ("block", devices::block),
    ("block_ring", memory::ring),
    ("console", devices::console),
    ("vsock", devices::vsock),
    ("net", peripherals::net),
    ("entropy", peripherals::entropy),
    ("serial", peripherals::serial),
    ("balloon", peripherals::balloon),
    ("memory", memory::hotplug),
    ("pmem", memory::persistent),
    ("pci", pci::bus),
    ("plug", plug::plug),
    ("kernel", machine::kernel),
    ("vm_config", machine::config),
    ("vm_api", machine::api),
    ("control", control::control),
    ("vhost_user", vhost_user::vhost_user),
    ("mmds", machine::metadata),
    ("bench_document", bench::document),
    ("objects", objects::body),
    ("object_patches", objects::patches),
    ("spdy", streams::spdy),
];
