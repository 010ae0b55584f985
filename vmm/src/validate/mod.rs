//! Checks a configuration document: a pure function, so that nothing is opened or made for one that can't work.

mod back_ends;
mod command_line;
mod mac;
mod mmds;
mod network;
mod plugged;
mod sources;
#[cfg(test)]
mod tests;

pub use command_line::command_line;
pub use mac::mac;
pub use mmds::mmds;
pub use network::each_its_own;
pub use plugged::{pluggable, plugged};
pub use sources::sources;

use crate::api::config::{
    CpuTemplate, Drive, HugePages, IoEngine, KernelLoad, MachineConfig, MemoryBacking, MemoryHotplug, Pmem,
    RateLimiter, Transport, VmConfig,
};
use crate::api::document;
use crate::arch::places::Places;
use crate::pci::SLOTS;
use crate::virtio::vhost_user::MAX_TAG;
use back_ends::{check_file_systems, has_files_business};
use network::check_interface;
use sources::check_sources;
use std::collections::HashSet;

/// Bytes of a document that are read at most.
pub const MAX_DOCUMENT: u64 = 1 << 20;
/// vCPUs of a VM at most.
pub const MAX_VCPUS: u8 = 32;
/// Memory of a VM at least: below it our kernel does not come up.
pub const MIN_MEMORY_MIB: u64 = 32;
/// Memory of a VM at most: a TiB.
pub const MAX_MEMORY_MIB: u64 = 1 << 20;
/// Queues of a drive at most, as many as there may be vCPUs.
const MAX_QUEUES: u8 = MAX_VCPUS;
/// Pairs of queues of an interface at most.
const MAX_PAIRS: u8 = 16;
/// The least that IPv4 can live with (RFC 791).
const MIN_MTU: u16 = 68;
/// Milliseconds in which a rate limiter's bucket gets full at most: seven weeks.
pub const MAX_REFILL_MS: u64 = u32::MAX as u64;
/// Names of drives and interfaces at most, in bytes.
const MAX_NAME: usize = 64;

/// A document that can't be used. Each message names the field and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of this shape.
    #[error("the configuration is not a VM document")]
    Json(#[source] serde_json::Error),
    /// Too long.
    #[error("the configuration is longer than {MAX_DOCUMENT} bytes")]
    TooLong,
    /// Number of vCPUs.
    #[error("machine-config.vcpu_count is {0}; give 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// Memory.
    #[error("machine-config.mem_size_mib is {0}; give {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Memory(u64),
    /// Firecracker has it, this machine does not.
    #[error(
        "machine-config.cpu_template is not supported; leave it away, and put what it masks into cpu-config"
    )]
    CpuTemplate,
    /// Threads.
    #[error("machine-config.vcpu_count is {0} and smt is on; give an even number, or 1")]
    Threads(u8),
    /// Memory of huge pages.
    #[error("machine-config.mem_size_mib is {0}; with huge_pages \"2M\" give an even number")]
    OddMemory(u64),
    /// Two ways to make memory that don't go together.
    #[error("{0}; take one of them away")]
    MemoryKinds(&'static str),
    /// A balloon bigger than its guest.
    #[error("balloon.amount_mib is {0}; give at most machine-config.mem_size_mib")]
    Balloon(u32),
    /// Hot-pluggable memory in impossible pieces.
    #[error("memory-hotplug.{field} is {value}; give {range}")]
    Hotplug {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it may say.
        range: String,
    },
    /// A name is empty, too long or unprintable.
    #[error(
        "{field} {name:?} is not a name; give 1 to {MAX_NAME} printable ASCII characters without a space"
    )]
    Name {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// A name or number is there twice.
    #[error("{field} {name:?} is used twice; give each its own")]
    Duplicate {
        /// Which field.
        field: &'static str,
        /// What it says.
        name: String,
    },
    /// A drive without file, or with two kinds.
    #[error("drive {0:?} needs exactly one of path_on_host, concat and socket")]
    DriveFiles(String),
    /// Several files for a drive that the guest may write to.
    #[error("drive {0:?} may be written to: give path_on_host; concat is for drives that are only read")]
    ConcatWritten(String),
    /// A removable drive with what it can't have.
    #[error(
        "drive {0:?} is removable: it starts without a medium, so take away path_on_host, concat and is_root_device"
    )]
    Removable(String),
    /// A back end's drive with what is the back end's business.
    #[error(
        "drive {0:?} is its back end's (socket): take away concat, is_removable, is_read_only, rate_limiter, io_engine, io_threads, direct and serial; the back end decides on what is like them"
    )]
    BackEndDrive(String),
    /// A file system's tag.
    #[error("file system tag {0:?}: give 1 to {MAX_TAG} printable ASCII characters")]
    Tag(String),
    /// Queues of a file system.
    #[error("file system {0:?}: num_queues is {1}; give 1 to {MAX_QUEUES}")]
    FsQueues(String, u8),
    /// Queues or threads of a drive.
    #[error("drive {id:?}: {field} is {value}; give {range}")]
    DriveNumber {
        /// Which drive.
        id: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u8,
        /// What it may say.
        range: &'static str,
    },
    /// Pairs of queues.
    #[error("interface {0:?}: queue_pairs is {1}; give 1 to {MAX_PAIRS}")]
    Pairs(String, u8),
    /// Queues of a TAP.
    #[error(
        "interface {0:?}: more_queues must name {1} descriptors: with host_dev_name one for each of queue_pairs, none beside a name"
    )]
    MoreQueues(String, usize),
    /// What vhost-net can't do.
    #[error(
        "interface {0:?}: vhost_net goes with one pair of queues and without rate limiters; leave one or the other out"
    )]
    Vhost(String),
    /// An MTU.
    #[error("interface {0:?}: mtu is {1}; give {MIN_MTU} to 65535")]
    Mtu(String, u16),
    /// A serial.
    #[error("drive {0:?}: a serial has 1 to 20 printable ASCII characters")]
    Serial(String),
    /// An engine for a drive that it can't be for.
    #[error("drive {0:?}: io_engine Async needs exactly one file, from the start; leave it out or say Sync")]
    Engine(String),
    /// A rate limiter.
    #[error("{0}.refill_time is {1} ms; give up to 4294967295, or 0 for no limit")]
    RefillTime(String, u64),
    /// What only devices that are there from the start can have.
    #[error(
        "a device that is plugged in later can't have {0}; leave it away, or start the VM with the device"
    )]
    Late(&'static str),
    /// Two root devices.
    #[error("more than one drive or pmem is the root device; the kernel mounts one")]
    Roots,
    /// A MAC address.
    #[error("guest_mac {0:?} is not a unicast MAC address like 02:00:00:12:34:56")]
    Mac(String),
    /// Two interfaces have one; in Firecracker's words.
    #[error("The MAC address is already in use: {0}; give each interface its own")]
    MacTaken(String),
    /// A context id.
    #[error("vsock.guest_cid is {0}; give 3 to 4294967294 (0 to 2 and 4294967295 are reserved)")]
    Cid(u32),
    /// Devices.
    #[error("{count} devices are too many; this machine has room for {most} on its bus")]
    Devices {
        /// How many there would be.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A path in the pod profile.
    #[error("{0} is a path, but the pod profile takes descriptors only: give {{\"fd\": N}}")]
    PathInPod(String),
    /// A socket without a name, which Linux would give an abstract one that every user reaches.
    #[error("{0} is empty; give the socket a path")]
    NoPath(&'static str),
    /// A descriptor number.
    #[error("{field} names descriptor {fd}; give the number of an inherited one, 3 or above")]
    Descriptor {
        /// Which field.
        field: String,
        /// The number.
        fd: i32,
    },
    /// A descriptor's number from a client, to whom this process's descriptors are nothing.
    #[error("{0} is a descriptor, which can't be named through the API; give a path")]
    DescriptorInApi(String),
    /// The metadata service.
    #[error("{0}")]
    Mmds(&'static str),
    /// The command line.
    #[error("boot_args can't be used: {0}")]
    CommandLine(String),
}

/// Parses a document. The root drive comes first, wherever it stands there: guests boot from `/dev/vda`, as with Firecracker, however they are
/// described.
pub fn parse(document: &[u8]) -> Result<VmConfig, ConfigError> {
    if document.len() as u64 > MAX_DOCUMENT {
        return Err(ConfigError::TooLong);
    }
    let mut config: VmConfig = document::parse(document).map_err(ConfigError::Json)?;
    config.drives.sort_by_key(|drive| !drive.is_root_device);
    Ok(config)
}

/// Checks what a document says.
pub fn check(config: &VmConfig) -> Result<(), ConfigError> {
    let machine = &config.machine_config;
    if !(1..=MAX_VCPUS).contains(&machine.vcpu_count) {
        return Err(ConfigError::Vcpus(machine.vcpu_count));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&machine.mem_size_mib) {
        return Err(ConfigError::Memory(machine.mem_size_mib));
    }
    check_machine(machine)?;
    check_memory(config)?;
    if let Some(balloon) = &config.balloon
        && u64::from(balloon.amount_mib) > machine.mem_size_mib
    {
        return Err(ConfigError::Balloon(balloon.amount_mib));
    }
    check_names("pmem id", config.pmem.iter().map(|pmem| &pmem.id))?;
    config.pmem.iter().try_for_each(check_pmem)?;
    rate_limiter(
        "entropy.rate_limiter",
        config.entropy.as_ref().and_then(|entropy| entropy.rate_limiter.as_ref()),
    )?;
    let serial = config.serial.as_ref().and_then(|serial| serial.rate_limiter);
    rate_limiter(
        "serial.rate_limiter",
        serial.map(|bytes| RateLimiter { bandwidth: Some(bytes), ops: None }).as_ref(),
    )?;
    config.memory_hotplug.as_ref().map_or(Ok(()), check_hotplug)?;
    check_names("drive_id", config.drives.iter().map(|drive| &drive.drive_id))?;
    if let Some(id) = config.drives.iter().filter_map(|drive| drive.partuuid.as_ref()).find(|id| !is_name(id))
    {
        return Err(ConfigError::Name { field: "partuuid", name: id.clone() });
    }
    check_names("iface_id", config.network_interfaces.iter().map(|net| &net.iface_id))?;
    config.drives.iter().try_for_each(check_drive)?;
    if config.drives.iter().filter(|drive| drive.is_root_device).count()
        + config.pmem.iter().filter(|pmem| pmem.root_device).count()
        > 1
    {
        return Err(ConfigError::Roots);
    }
    config.network_interfaces.iter().try_for_each(check_interface)?;
    each_its_own(&config.network_interfaces)?;
    check_file_systems(&config.file_systems)?;
    if let Some(vsock) = &config.vsock {
        if !(3..u32::MAX).contains(&vsock.guest_cid) {
            return Err(ConfigError::Cid(vsock.guest_cid));
        }
        let mut ports = HashSet::new();
        if let Some(twice) = vsock.host_ports.iter().find(|host| !ports.insert(host.port)) {
            return Err(ConfigError::Duplicate { field: "vsock.host_ports", name: twice.port.to_string() });
        }
    }
    if let Some(document) = &config.mmds_config {
        mmds(document, config)?;
    }
    let most = match config.vial.transport {
        Transport::Mmio => Places::MAX as usize,
        // The first slot has the bridge.
        Transport::Pci => usize::from(SLOTS) - 1,
    };
    let count = device_count(config);
    if count > most {
        return Err(ConfigError::Devices { count, most });
    }
    check_sources(config)?;
    command_line(config).map(drop)
}

fn check_pmem(pmem: &Pmem) -> Result<(), ConfigError> {
    rate_limiter(&format!("pmem {:?}: rate_limiter", pmem.id), pmem.rate_limiter.as_ref())
}

fn check_drive(drive: &Drive) -> Result<(), ConfigError> {
    let id = || drive.drive_id.clone();
    if drive.is_removable {
        if drive.path_on_host.is_some() || !drive.concat.is_empty() || drive.is_root_device {
            return Err(ConfigError::Removable(id()));
        }
    } else if usize::from(drive.path_on_host.is_some())
        + usize::from(!drive.concat.is_empty())
        + usize::from(drive.socket.is_some())
        != 1
    {
        return Err(ConfigError::DriveFiles(id()));
    }
    if drive.socket.is_some() && has_files_business(drive) {
        return Err(ConfigError::BackEndDrive(id()));
    }
    rate_limiter(&format!("drive {:?}: rate_limiter", drive.drive_id), drive.rate_limiter.as_ref())?;
    let number = |field, value, range| Err(ConfigError::DriveNumber { id: id(), field, value, range });
    if !(1..=MAX_QUEUES).contains(&drive.num_queues) {
        return number("num_queues", drive.num_queues, "1 to 32");
    }
    if drive.io_threads > drive.num_queues {
        return number("io_threads", drive.io_threads, "up to one for each of num_queues");
    }
    let printable = |serial: &String| serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if drive.serial.as_ref().is_some_and(|serial| !(1..=20).contains(&serial.len()) || !printable(serial)) {
        return Err(ConfigError::Serial(id()));
    }
    if drive.io_engine == Some(IoEngine::Async) && drive.path_on_host.is_none() {
        return Err(ConfigError::Engine(id()));
    }
    Ok(())
}

/// Checks a rate limiter; `field` is its name for a message.
///
/// # Errors
/// [`ConfigError::RefillTime`].
pub fn rate_limiter(field: &str, limiter: Option<&RateLimiter>) -> Result<(), ConfigError> {
    let Some(RateLimiter { bandwidth, ops }) = limiter else { return Ok(()) };
    for (bucket, name) in [(bandwidth, "bandwidth"), (ops, "ops")] {
        if let Some(bucket) = bucket.filter(|bucket| bucket.refill_time > MAX_REFILL_MS) {
            return Err(ConfigError::RefillTime(format!("{field}.{name}"), bucket.refill_time));
        }
    }
    Ok(())
}

/// What belongs together in the machine.
fn check_machine(machine: &MachineConfig) -> Result<(), ConfigError> {
    let huge = machine.huge_pages == HugePages::TwoMiB;
    match () {
        () if machine.cpu_template != CpuTemplate::None => Err(ConfigError::CpuTemplate),
        () if machine.smt && machine.vcpu_count > 1 && !machine.vcpu_count.is_multiple_of(2) => {
            Err(ConfigError::Threads(machine.vcpu_count))
        }
        () if huge && !machine.mem_size_mib.is_multiple_of(2) => {
            Err(ConfigError::OddMemory(machine.mem_size_mib))
        }
        () if huge && matches!(machine.memory_backing, MemoryBacking::PrivateFile(_)) => {
            Err(ConfigError::MemoryKinds("machine-config has a private_file and huge_pages \"2M\""))
        }
        () => Ok(()),
    }
}

fn check_hotplug(memory: &MemoryHotplug) -> Result<(), ConfigError> {
    let MemoryHotplug { total_size_mib: total, block_size_mib: block, slot_size_mib: slot } = *memory;
    let refuse = |field, value, range| Err(ConfigError::Hotplug { field, value, range });
    match () {
        () if block < 2 || !block.is_power_of_two() => {
            refuse("block_size_mib", block, "a power of two, 2 or more".into())
        }
        () if slot < block.max(128) || !slot.is_power_of_two() => refuse(
            "slot_size_mib",
            slot,
            format!("a power of two, {} or more (block_size_mib is {block})", block.max(128)),
        ),
        () if !(slot..=MAX_MEMORY_MIB).contains(&total) || !total.is_multiple_of(slot) => {
            let range = format!("a multiple of slot_size_mib ({slot}), up to {MAX_MEMORY_MIB}");
            refuse("total_size_mib", total, range)
        }
        () => Ok(()),
    }
}

/// What goes together of all that uses memory: a kernel is mapped over pages that can be exchanged one by one, for one.
fn check_memory(config: &VmConfig) -> Result<(), ConfigError> {
    let machine = &config.machine_config;
    let backing = config.memory_backing();
    if matches!(backing, MemoryBacking::PrivateFile(_)) && config.back_ends().next().is_some() {
        return Err(ConfigError::MemoryKinds(
            "a vhost-user back end maps guest memory, so it has to be \"shared\", and machine-config has a private_file",
        ));
    }
    let ordinary = *backing == MemoryBacking::Anonymous && machine.huge_pages != HugePages::TwoMiB;
    if config.boot_source.load == Some(KernelLoad::Map) && !ordinary {
        return Err(ConfigError::MemoryKinds(
            "boot-source.load is map, which goes with anonymous memory of ordinary pages only, and machine-config or a vhost-user back end asks for another kind",
        ));
    }
    let vhost = config.network_interfaces.iter().any(|net| net.vhost_net.is_some());
    let threads = config.drives.iter().any(|drive| drive.io_threads > 0);
    if config.memory_hotplug.is_some() && vhost && threads {
        // Vhost has memory guarded that is not plugged in, and such a thread may be about to write what another unplugs just now.
        return Err(ConfigError::MemoryKinds(
            "there is memory-hotplug, an interface has vhost_net and a drive has io_threads, which can't be had together",
        ));
    }
    Ok(())
}

/// How many virtio devices a document asks for.
fn device_count(config: &VmConfig) -> usize {
    config.drives.len()
        + config.network_interfaces.len()
        + usize::from(config.vsock.is_some())
        + config.file_systems.len()
        + config.pmem.len()
        + usize::from(config.memory_hotplug.is_some())
        + usize::from(config.balloon.is_some())
        + usize::from(config.entropy.is_some())
        + usize::from(config.vial.console.is_some())
}

/// Whether `name` can stand in a command line and in messages as one word.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn check_names<'a>(field: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for name in names {
        if !is_name(name) {
            return Err(ConfigError::Name { field, name: name.clone() });
        }
        if !seen.insert(name) {
            return Err(ConfigError::Duplicate { field, name: name.clone() });
        }
    }
    Ok(())
}
