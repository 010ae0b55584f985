//! Opens what the configuration names, or takes over what was inherited: after this no path is needed any more.

use crate::api::config::{
    BootSource, FileSource, MachineConfig, MemoryBacking, MemoryHotplug, NetworkInterface, VmConfig,
};
use crate::api::control::Plugged;
use crate::back_ends;
use crate::line_writer::complain;
use crate::listen::listener;
use crate::memory::{self, Backing, Holes, MemoryError, Recipe};
use crate::mmds::SharedStore;
use crate::serial::SerialFiles;
use crate::{data_file, sys, validate};
use kvm_ioctls::Kvm;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

/// Something that the configuration names can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A path can't be opened.
    #[error("could not open {what} {path:?}")]
    Open {
        /// What it is for.
        what: String,
        /// The path.
        path: PathBuf,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A folder, a named pipe, a socket, a character device.
    #[error("{what} must be a regular file or a block device, and {name} is not")]
    NotData {
        /// What it is for.
        what: String,
        /// Path or descriptor.
        name: String,
    },
    /// The same, or a block device.
    #[error("{what} must be a regular file, and {name} is not; copy it into one")]
    NotRegular {
        /// What it is for.
        what: String,
        /// Path or descriptor.
        name: String,
    },
    /// A descriptor is not open.
    #[error(
        "descriptor {fd} for {what} is not open in this process; whoever starts it has to let it be inherited"
    )]
    NotOpen {
        /// What it is for.
        what: String,
        /// Its number.
        fd: RawFd,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A descriptor has two meanings.
    #[error("descriptor {fd} is given as {argument} and for {what}; each needs its own")]
    Twice {
        /// Which argument names it.
        argument: &'static str,
        /// What else it is for.
        what: String,
        /// Its number.
        fd: RawFd,
    },
    /// A vhost-user back end can't be reached.
    #[error("could not connect to the vhost-user back end of {what} at {name}; is it running?")]
    BackEnd {
        /// Which device.
        what: String,
        /// Path or descriptor.
        name: String,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A TAP can't be attached to.
    #[error("could not attach to the TAP device {name:?}; is it there, and is it yours (`ip tuntap`)?")]
    Tap {
        /// Its name.
        name: String,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A socket can't be made or set up.
    #[error("could not listen on {what}")]
    Listen {
        /// What it is for.
        what: String,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// A memory file.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// /dev/kvm.
    #[error("could not open /dev/kvm: {advice}")]
    Kvm {
        /// What to do.
        advice: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
    /// Not /dev/kvm.
    #[error("{0} is not /dev/kvm: its KVM API version is not 12")]
    NotKvm(String),
}

/// How guest connections to host ports are answered.
#[derive(Debug)]
pub enum GuestConnections {
    /// By these streams, one connection each.
    Ports(HashMap<u32, UnixStream>),
    /// By the sockets at `<path>_<port>`.
    Prefix(PathBuf),
}

/// The socket device's host side.
#[derive(Debug)]
pub struct VsockFiles {
    /// Where the host connects to guest ports.
    pub listener: UnixListener,
    /// Where the guest connects to host ports.
    pub guest_connections: GuestConnections,
}

/// Everything that the VM needs from outside, open.
#[derive(Debug)]
pub struct Files {
    /// Kernel.
    pub kernel: File,
    /// Initrd.
    pub initrd: Option<File>,
    /// What guest memory is made of.
    pub memory: Recipe,
    /// One list for each drive of the configuration.
    pub drives: Vec<Vec<File>>,
    /// Connections to the vhost-user back ends of the configuration, in its order.
    pub back_ends: Vec<UnixStream>,
    /// One for each persistent memory of the configuration.
    pub pmem: Vec<File>,
    /// What hot-pluggable memory is made of.
    pub hotplug: Option<Recipe>,
    /// The queues of each interface's TAP.
    pub taps: Vec<Vec<File>>,
    /// vhost-net for each interface that has it.
    pub vhosts: Vec<Option<File>>,
    /// Sockets of the socket device.
    pub vsock: Option<VsockFiles>,
    /// Input and output of the console.
    pub console: Option<(Option<File>, Option<File>)>,
    /// Input and output of the serial port.
    pub serial: Option<SerialFiles>,
    /// What the guest may read through the metadata service.
    pub metadata: Option<SharedStore>,
    /// Where control requests come in.
    pub control: Option<UnixListener>,
}

/// Takes over inherited descriptor `fd`. Each number may come once: [`check_inherited`] and [`validate::check`] have made
/// sure of it.
#[allow(unsafe_code)]
pub fn inherited(what: &str, fd: RawFd) -> Result<File, FileError> {
    // SAFETY: by the rule above nobody else in this process owns it; the standard three are refused by that check too.
    unsafe { sys::take_descriptor(fd) }.map_err(|source| FileError::NotOpen { what: what.into(), fd, source })
}

/// Makes sure that every descriptor of arguments and configuration was inherited. To be called before this process opens anything of
/// its own that stays open: a wrong number must not find one of those. No two `arguments` are the same number (args.rs).
pub fn check_inherited(
    config: Option<&VmConfig>,
    arguments: &[(&'static str, RawFd)],
) -> Result<(), FileError> {
    let check = |what: String, fd| match sys::check_open(fd) {
        Ok(()) => Ok(()),
        Err(source) => Err(FileError::NotOpen { what, fd, source }),
    };
    for (argument, fd) in arguments {
        check((*argument).to_owned(), *fd)?;
    }
    for (what, source) in config.map(validate::sources).unwrap_or_default() {
        let FileSource::Fd { fd } = source else { continue };
        if let Some((argument, _)) = arguments.iter().find(|(_, other)| *other == fd) {
            return Err(FileError::Twice { argument, what, fd });
        }
        check(what, fd)?;
    }
    Ok(())
}

fn open(what: &str, source: &FileSource, options: &OpenOptions) -> Result<File, FileError> {
    match source {
        FileSource::Fd { fd } => inherited(what, *fd),
        // Not blocking: signals are taken by the event loop, which does not run yet, so a named pipe without a peer would hold the
        // process for ever. Regular files and block devices know no difference.
        FileSource::Path(path) => options
            .clone()
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| FileError::Open { what: what.into(), path: path.clone(), source }),
    }
}

/// Opens what is read at offsets: a regular file or a block device.
fn open_data(what: &str, source: &FileSource, options: &OpenOptions) -> Result<File, FileError> {
    let file = open(what, source, options)?;
    let usable = data_file::has_offsets(&file).unwrap_or(false);
    if usable { Ok(file) } else { Err(FileError::NotData { what: what.into(), name: name_of(source) }) }
}

pub(crate) fn name_of(source: &FileSource) -> String {
    match source {
        FileSource::Path(path) => format!("{path:?}"),
        FileSource::Fd { fd } => format!("descriptor {fd}"),
    }
}

fn read_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    options
}

/// Opens for appending, making the file if it is not there.
fn append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    options
}

/// The status file, which has to be there before anything else can go wrong.
pub fn status(config: &VmConfig) -> Result<Option<File>, FileError> {
    config.vial.status.as_ref().map(|source| open("the status file", source, &append())).transpose()
}

/// /dev/kvm: inherited, or opened.
#[allow(unsafe_code)]
pub fn kvm(fd: Option<RawFd>) -> Result<Kvm, FileError> {
    let (file, name) = match fd {
        Some(fd) => (inherited("/dev/kvm (--kvm-fd)", fd)?, format!("descriptor {fd}")),
        None => (open_kvm()?, "/dev/kvm".to_owned()),
    };
    // SAFETY: the descriptor is ours, and goes over to `Kvm`.
    let kvm = unsafe { Kvm::from_raw_fd(file.into_raw_fd()) };
    // Documentation/virt/kvm/api.rst: refuse to run with any other version.
    if kvm.get_api_version() == 12 { Ok(kvm) } else { Err(FileError::NotKvm(name)) }
}

fn open_kvm() -> Result<File, FileError> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|source| FileError::Kvm {
        advice: match source.kind() {
            io::ErrorKind::NotFound => {
                "this host has no KVM; load kvm_intel or kvm_amd, switch virtualisation on in the firmware, or enable nested \
                 virtualisation (`vial doctor` tells which)"
            }
            io::ErrorKind::PermissionDenied => {
                "you may not use it; run as root, join the group that owns it (`kvm`), or pass it as --kvm-fd"
            }
            _ => "KVM does not work here (`vial doctor` looks closer)",
        },
        source,
    })
}

impl Files {
    /// Opens all of it; back ends are [`Self::connect`]ed to when nothing else can go wrong, since many end with their first connection.
    pub fn open(config: &VmConfig) -> Result<Self, FileError> {
        let (kernel, initrd) = boot(&config.boot_source)?;
        Ok(Self {
            kernel,
            initrd,
            memory: memory(config)?,
            drives: config.drives.iter().map(drive).collect::<Result<_, _>>()?,
            back_ends: Vec::new(),
            pmem: config.pmem.iter().map(pmem).collect::<Result<_, _>>()?,
            hotplug: config.memory_hotplug.map(|extra| hotplug(config, extra)).transpose()?,
            taps: config.network_interfaces.iter().map(taps).collect::<Result<_, _>>()?,
            vhosts: config.network_interfaces.iter().map(vhost).collect::<Result<_, _>>()?,
            vsock: config.vsock.as_ref().map(vsock).transpose()?,
            console: match &config.vial.console {
                Some(console) => Some((
                    optional("the console's input", console.input.as_ref(), &read_only())?,
                    optional("the console's output", console.output.as_ref(), &append())?,
                )),
                None => None,
            },
            serial: config.serial.as_ref().map(serial).transpose()?,
            metadata: None,
            control: config
                .vial
                .control
                .as_ref()
                .map(|source| listener("the control socket", source))
                .transpose()?,
        })
    }

    /// Connects to the vhost-user back ends.
    pub fn connect(&mut self, config: &VmConfig) -> Result<(), FileError> {
        let connected = config.back_ends().map(|(what, at)| back_ends::connect(&what, at));
        self.back_ends = connected.collect::<Result<_, _>>()?;
        Ok(())
    }
}

fn optional(
    what: &str,
    source: Option<&FileSource>,
    options: &OpenOptions,
) -> Result<Option<File>, FileError> {
    source.map(|source| open(what, source, options)).transpose()
}

/// Opens a file that holds a memory of so many MiB.
///
/// # Errors
/// It can't be, or is too short.
pub fn memory_file(source: &FileSource, mib: u64) -> Result<File, FileError> {
    let file = open_data("the file for guest memory", source, &read_only())?;
    memory::check_length(&file, mib << 20)?;
    Ok(file)
}

fn memory(config: &VmConfig) -> Result<Recipe, FileError> {
    let MachineConfig { huge_pages: pages, mem_size_mib, .. } = config.machine_config;
    let backing = match config.memory_backing() {
        MemoryBacking::Anonymous => Backing::Anonymous,
        MemoryBacking::Shared => return Ok(Recipe::shared(mem_size_mib << 20, pages)?),
        MemoryBacking::PrivateFile(source) => {
            Backing::PrivateFile(Arc::new(memory_file(source, mem_size_mib)?), Holes::default())
        }
    };
    Ok(Recipe { backing, pages })
}

/// Hot-pluggable memory is as the guest's RAM is, but no file that somebody gave holds it.
fn hotplug(config: &VmConfig, extra: MemoryHotplug) -> Result<Recipe, FileError> {
    let pages = config.machine_config.huge_pages;
    match config.memory_backing() {
        MemoryBacking::Shared => Ok(Recipe::shared(extra.total_size_mib << 20, pages)?),
        MemoryBacking::Anonymous | MemoryBacking::PrivateFile(_) => {
            Ok(Recipe { backing: Backing::Anonymous, pages })
        }
    }
}

/// Opens a file to be mapped.
pub fn pmem(config: &crate::api::config::Pmem) -> Result<File, FileError> {
    let mut options = read_only();
    options.write(!config.read_only);
    open_data(&format!("pmem {:?}", config.id), &config.path_on_host, &options)
}

/// Opens what a device names that is plugged in.
///
/// # Errors
/// It can't be.
pub fn plugged(device: &Plugged) -> Result<Vec<File>, FileError> {
    match device {
        Plugged::Drive(settings) => drive(settings),
        Plugged::Interface(settings) => there_is_tap(settings).and_then(|()| taps(settings)),
        Plugged::Pmem(settings) => pmem(settings).map(|file| vec![file]),
    }
}

fn serial(config: &crate::api::config::Serial) -> Result<SerialFiles, FileError> {
    let output = match &config.serial_out_path {
        Some(source) => open("the serial port's output", source, &append())?,
        None => sys::standard_output().map_err(|source| FileError::NotOpen {
            what: "the serial port's output".into(),
            fd: 1,
            source,
        })?,
    };
    let input = optional("the serial port's input", config.input.as_ref(), &read_only())?;
    Ok(SerialFiles { input, output, shared: config.serial_out_path.is_none() })
}

/// Kernel and initrd: they have a length, which ends what is loaded.
pub fn boot(boot: &BootSource) -> Result<(File, Option<File>), FileError> {
    let regular = |what: &str, source: &FileSource| {
        let file = open(what, source, &read_only())?;
        let usable = file.metadata().is_ok_and(|data| data.is_file());
        if usable {
            Ok(file)
        } else {
            Err(FileError::NotRegular { what: what.into(), name: name_of(source) })
        }
    };
    let kernel = regular("the kernel", &boot.kernel_image_path)?;
    let initrd = boot.initrd_path.as_ref().map(|source| regular("the initrd", source));
    Ok((kernel, initrd.transpose()?))
}

/// The files behind a drive.
pub fn drive(drive: &crate::api::config::Drive) -> Result<Vec<File>, FileError> {
    let what = format!("drive {:?}", drive.drive_id);
    let mut options = read_only();
    options.write(!drive.is_read_only && drive.concat.is_empty());
    drive.path_on_host.iter().chain(&drive.concat).map(|source| open_data(&what, source, &options)).collect()
}

/// Attaches to each queue of an interface's TAP, or takes over what is attached.
pub fn taps(net: &NetworkInterface) -> Result<Vec<File>, FileError> {
    let FileSource::Path(name) = &net.host_dev_name else {
        let queues = [&net.host_dev_name].into_iter().chain(&net.more_queues);
        return queues.map(|source| open("a TAP", source, &read_only())).collect();
    };
    (0..net.queue_pairs).map(|_| tap(&name.to_string_lossy(), net.queue_pairs > 1)).collect()
}

/// Whether the TAP is there. Attaching to one that is not would make it, with nothing connected to it, and letting go of it again would take
/// it away.
///
/// # Errors
/// It is not, or that can't be found out.
pub fn there_is_tap(net: &NetworkInterface) -> Result<(), FileError> {
    let FileSource::Path(path) = &net.host_dev_name else { return Ok(()) };
    let name = path.to_string_lossy();
    let source = match sys::interface_exists(&name) {
        Ok(true) => return Ok(()),
        Ok(false) => io::Error::from_raw_os_error(libc::ENODEV),
        Err(error) => error,
    };
    Err(FileError::Tap { name: name.into_owned(), source })
}

/// vhost-net, if it is asked for and there.
fn vhost(net: &NetworkInterface) -> Result<Option<File>, FileError> {
    let Some(source) = &net.vhost_net else { return Ok(None) };
    match (open("vhost-net", source, read_only().write(true)), source) {
        (Err(error), FileSource::Path(_)) => {
            let why = crate::chain(&error);
            complain(&format!(
                "interface {:?} does without vhost-net: {why} (modprobe vhost_net)",
                net.iface_id
            ));
            Ok(None)
        }
        (opened, _) => opened.map(Some),
    }
}

fn tap(name: &str, multi_queue: bool) -> Result<File, FileError> {
    let tun = FileSource::Path("/dev/net/tun".into());
    let tap = open("TAP devices", &tun, read_only().write(true))?;
    sys::attach_tap(&tap, name, multi_queue)
        .and_then(|()| sys::set_nonblocking(&tap))
        .map_err(|source| FileError::Tap { name: name.to_owned(), source })?;
    Ok(tap)
}

fn vsock(config: &crate::api::config::Vsock) -> Result<VsockFiles, FileError> {
    let guest_connections = match &config.uds_path {
        FileSource::Path(path) if config.host_ports.is_empty() => GuestConnections::Prefix(path.clone()),
        _ => {
            let stream = |host: &crate::api::config::HostPort| {
                let what = format!("host port {}", host.port);
                let stream = UnixStream::from(OwnedFd::from(inherited(&what, host.fd)?));
                sys::set_nonblocking(&stream).map_err(|source| FileError::NotOpen {
                    what,
                    fd: stream.as_raw_fd(),
                    source,
                })?;
                Ok((host.port, stream))
            };
            GuestConnections::Ports(config.host_ports.iter().map(stream).collect::<Result<_, FileError>>()?)
        }
    };
    Ok(VsockFiles { listener: listener("the socket device's socket", &config.uds_path)?, guest_connections })
}
