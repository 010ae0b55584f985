//! Makes the virtio devices that the configuration asks for, in the order in which the guest finds them.

use crate::address_space::Pluggable;
use crate::api::config::{CacheType, Drive, NetworkInterface, Pmem, VmConfig};
use crate::door::Ceiling;
use crate::files::{Files, GuestConnections};
use crate::io_threads::{IoThreads, Rings};
use crate::memory::PmemMapping;
use crate::mmds::{SharedStore, Wire};
use crate::plugs::Name;
use crate::sys;
use crate::validate::{self, ConfigError};
use crate::virtio::vhost_user::{self, LossSink, VhostUser};
use crate::virtio::{VirtioDevice, balloon, block, console, mem, net, pmem, rng, vsock};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A drive's files are unusable.
    #[error("drive {id:?} can't be used")]
    Block {
        /// Which drive.
        id: String,
        /// Why.
        #[source]
        source: block::BlockConfigError,
    },
    /// A vhost-user back end is none for the device.
    #[error("{what} can't be used")]
    BackEnd {
        /// Which device.
        what: String,
        /// Why.
        #[source]
        source: vhost_user::BackEndError,
    },
    /// An interface's TAP is unusable.
    #[error("interface {id:?} can't be used")]
    Net {
        /// Which interface.
        id: String,
        /// Why.
        #[source]
        source: net::TapError,
    },
    /// A device's descriptors are unusable.
    #[error("{what} can't be used")]
    Io {
        /// Which device.
        what: String,
        /// errno.
        #[source]
        source: std::io::Error,
    },
}

/// A device, and what changes it from outside while it runs.
pub struct Made {
    /// The device.
    pub device: Box<dyn VirtioDevice>,
    /// Its outer half.
    pub handle: Handle,
}

/// What changes a running device from outside. Its calls belong to the VMM thread; none of them waits for the guest, and none
/// touches guest memory of its own accord.
pub enum Handle {
    /// Nothing can be changed.
    None,
    /// The socket device; it is only read.
    Vsock(Arc<vsock::VsockMetrics>),
    /// The entropy device; it is only read.
    Entropy(rng::RngCounts),
    /// A drive.
    Drive(block::Tray),
    /// A file in the guest's address space.
    Pmem(pmem::PmemControl),
    /// A drive that is a vhost-user back end's.
    BackEnd {
        /// Its name.
        id: String,
        /// What may be changed.
        control: vhost_user::BackEndControl,
    },
    /// Hot-pluggable memory.
    Memory(mem::MemControl),
    /// The balloon.
    Balloon(balloon::BalloonControl),
    /// An interface.
    Net {
        /// Its name.
        id: String,
        /// What may be changed.
        limits: net::Limits,
    },
}

impl Handle {
    /// The device's name, if it has one.
    pub fn name(&self) -> Option<Name> {
        match self {
            Self::None | Self::Vsock(_) | Self::Entropy(_) | Self::Memory(_) | Self::Balloon(_) => None,
            Self::Drive(tray) => Some(Name::Drive(tray.id().to_owned())),
            Self::BackEnd { id, .. } => Some(Name::Drive(id.clone())),
            Self::Net { id, .. } => Some(Name::Interface(id.clone())),
            Self::Pmem(control) => Some(Name::Pmem(control.id().to_owned())),
        }
    }
}

impl<D: VirtioDevice + 'static> From<D> for Made {
    fn from(device: D) -> Self {
        Self { device: Box::new(device), handle: Handle::None }
    }
}

/// What had to be made before the filters, in the order of the configuration. Drives that come later have nothing of it.
#[derive(Default)]
pub struct Prepared {
    /// Files in the guest's address space.
    pub pmem: Vec<PmemMapping>,
    /// Where hot-pluggable memory begins, its blocks, and its slots.
    pub hotplug: Option<Pluggable>,
    /// For drives.
    pub rings: Rings,
    /// For drives.
    pub threads: IoThreads,
    /// For the socket device.
    pub ceiling: Ceiling,
}

/// The metadata service on an interface, if it is to be there.
fn metadata(config: &VmConfig, id: &str, store: Option<&SharedStore>) -> Result<Option<Wire>, MakeError> {
    let (Some(mmds), Some(store)) = (&config.mmds_config, store) else { return Ok(None) };
    if !mmds.network_interfaces.iter().any(|interface| interface == id) {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = sys::secret();
    let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    Wire::new(mmds, Arc::clone(store), seed, Instant::now())
        .map(Some)
        .map_err(|source| MakeError::Io { what: "the metadata service".into(), source })
}

/// Drives first, as their order names them in the guest (`/dev/vda`, …); then persistent memory, interfaces, socket, hot-pluggable memory, balloon, entropy, console, file systems.
pub fn make(
    config: &VmConfig,
    vm: &str,
    files: &mut Files,
    prepared: &mut Prepared,
    losses: &LossSink,
) -> Result<Vec<Made>, MakeError> {
    let mut devices: Vec<Made> = Vec::new();
    let mut back_ends = files.back_ends.drain(..);
    for (drive, files) in config.drives.iter().zip(files.drives.drain(..)) {
        let socket = if drive.socket.is_some() { back_ends.next() } else { None };
        devices.push(match socket {
            // Beside rings and threads, of which it has none.
            Some(socket) => {
                prepared.rings.take();
                make_back_end_drive(drive, socket, losses)?
            }
            None => make_drive(drive, files, prepared)?,
        });
    }
    for (settings, mapping) in config.pmem.iter().zip(prepared.pmem.drain(..)) {
        devices.push(make_pmem(settings, mapping)?);
    }
    let tap_files = files.taps.drain(..).zip(files.vhosts.drain(..));
    for (interface, (taps, vhost)) in config.network_interfaces.iter().zip(tap_files) {
        let wire = metadata(config, &interface.iface_id, files.metadata.as_ref())?;
        devices.push(make_interface(interface, vm, taps, vhost, wire)?);
    }
    if let (Some(vsock), Some(files)) = (&config.vsock, files.vsock.take()) {
        let guest_connect = match files.guest_connections {
            GuestConnections::Ports(ports) => vsock::GuestConnect::Ports(ports),
            GuestConnections::Prefix(path) => vsock::GuestConnect::PathPrefix(path),
        };
        let (cid, listener, ceiling) = (vsock.guest_cid, files.listener, prepared.ceiling);
        let settings = vsock::VsockConfig { cid, listener, ceiling, guest_connect };
        let device = vsock::Vsock::new(settings)
            .map_err(|source| MakeError::Io { what: "the socket device".into(), source })?;
        let handle = Handle::Vsock(device.metrics());
        devices.push(Made { device: Box::new(device), handle });
    }
    if let (Some(settings), Some((start, blocks, slots)), Some(recipe)) =
        (config.memory_hotplug, prepared.hotplug.take(), &files.hotplug)
    {
        let device = mem::Mem::new(settings, start, (blocks, slots), recipe.clone())
            .map_err(|source| MakeError::Io { what: "hot-pluggable memory".into(), source })?;
        let handle = Handle::Memory(device.control());
        devices.push(Made { device: Box::new(device), handle });
    }
    if let Some(settings) = &config.balloon {
        let device = balloon::Balloon::new(settings, files.memory.clone())
            .map_err(|source| MakeError::Io { what: "the balloon".into(), source })?;
        let handle = Handle::Balloon(device.control());
        devices.push(Made { device: Box::new(device), handle });
    }
    if let Some(entropy) = &config.entropy {
        let device = rng::Rng::new(entropy.rate_limiter.as_ref())
            .map_err(|source| MakeError::Io { what: "the entropy device".into(), source })?;
        let handle = Handle::Entropy(device.counts());
        devices.push(Made { device: Box::new(device), handle });
    }
    if let Some((input, output)) = files.console.take() {
        let device = console::Console::new(input, output)
            .map_err(|source| MakeError::Io { what: "the console".into(), source })?;
        devices.push(device.into());
    }
    for (fs, socket) in config.file_systems.iter().zip(back_ends) {
        let settings = vhost_user::FsSettings { tag: fs.tag.clone(), queues: fs.num_queues };
        let device = VhostUser::fs(&settings, socket, losses.clone())
            .map_err(|source| MakeError::BackEnd { what: format!("file system {:?}", fs.tag), source })?;
        devices.push(device.into());
    }
    Ok(devices)
}

/// Persistent memory, which is in the machine already.
///
/// # Errors
/// Its limiter can't be made.
pub fn make_pmem(settings: &Pmem, mapping: PmemMapping) -> Result<Made, MakeError> {
    let device = pmem::Pmem::new(&settings.id, mapping, settings.rate_limiter.as_ref())
        .map_err(|source| MakeError::Io { what: format!("pmem {:?}", settings.id), source })?;
    let handle = Handle::Pmem(device.control());
    Ok(Made { device: Box::new(device), handle })
}

/// An interface of VM `vm`.
///
/// # Errors
/// The TAPs are unusable.
pub fn make_interface(
    interface: &NetworkInterface,
    vm: &str,
    taps: Vec<File>,
    vhost: Option<File>,
    wire: Option<Wire>,
) -> Result<Made, MakeError> {
    let mac = validate::mac(interface, vm)?;
    let device = net::Net::new(net::NetConfig {
        id: interface.iface_id.clone(),
        taps,
        mac,
        mtu: interface.mtu,
        vhost,
        receive_limit: interface.rx_rate_limiter,
        transmit_limit: interface.tx_rate_limiter,
    })
    .map_err(|source| MakeError::Net { id: interface.iface_id.clone(), source })?;
    let device = match wire {
        Some(wire) => device.with_metadata(wire),
        None => device,
    };
    let handle = Handle::Net { id: interface.iface_id.clone(), limits: device.limits() };
    Ok(Made { device: Box::new(device), handle })
}

fn make_back_end_drive(drive: &Drive, socket: UnixStream, losses: &LossSink) -> Result<Made, MakeError> {
    let id = drive.drive_id.clone();
    let settings = vhost_user::BlockSettings {
        id: id.clone(),
        flush: drive.cache_type == CacheType::Writeback,
        queues: drive.num_queues,
    };
    let device = VhostUser::block(&settings, socket, losses.clone())
        .map_err(|source| MakeError::BackEnd { what: format!("drive {id:?}"), source })?;
    let handle = Handle::BackEnd { id, control: device.control() };
    Ok(Made { device: Box::new(device), handle })
}

/// A drive; what it needs of `prepared` is the next there.
///
/// # Errors
/// The files are unusable.
pub fn make_drive(drive: &Drive, files: Vec<File>, prepared: &mut Prepared) -> Result<Made, MakeError> {
    let device = block::Block::new(block::BlockConfig {
        id: drive.drive_id.clone(),
        serial: drive.serial.clone(),
        files,
        read_only: drive.is_read_only || !drive.concat.is_empty(),
        removable: drive.is_removable,
        flush: drive.cache_type == CacheType::Writeback,
        direct: drive.direct,
        limit: drive.rate_limiter,
        queues: drive.num_queues.into(),
        rings: prepared.rings.take(),
        loops: prepared.threads.take(drive),
    })
    .map_err(|source| MakeError::Block { id: drive.drive_id.clone(), source })?;
    let handle = Handle::Drive(device.tray());
    Ok(Made { device: Box::new(device), handle })
}
