//! From a [`VmSpec`] to the VMM's configuration document and the table of descriptors that it names: a pure function.
//!
//! Every source in the document is a descriptor, so that the VMM opens nothing and its filters can forbid opening.

use super::{ConsoleSpec, DiskSource, FsSpec, TapSource, VmSpec};
use crate::Error;
use agent_protocol::READY_PORT;
use std::collections::HashSet;
use std::os::fd::RawFd;
use std::path::PathBuf;
use vmm::api::config::{
    BootSource, CacheType, Console, Drive, Entropy, Extensions, FileSource, FileSystem, HostPort,
    MachineConfig, NetworkInterface, Profile, Transport, VmConfig, Vsock,
};
use vmm::api::control::MAX_FILES;

/// Number of the first descriptor of the table in the VMM process: after standard input, output and error.
pub const FIRST_FD: RawFd = 3;
/// Upper bound of a table's length: one message carries 253 descriptors (SCM_MAX_FD), the launcher needs a few itself.
pub const MAX_TABLE: usize = 240;
/// Descriptors of a VM's process without removable drives and sockets.
const MAX_OPEN: u64 = 1024;
/// Those of a socket device: as many connections as it takes.
const MAX_SOCKETS: u64 = vmm::virtio::vsock::MAX_CONNECTIONS as u64;
/// Context id that every guest has; sockets are not shared between VMs, so one number serves all.
const GUEST_CID: u32 = 3;

/// COMMAND_LINE_SIZE of Linux on x86, without the NUL.
const MAX_COMMAND_LINE: usize = 2047;
/// Length of ` root=/dev/vda rw`, which the VMM adds.
const ROOT_ARGUMENTS: usize = 17;

/// What is behind an entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// The configuration document itself.
    Config,
    /// `/dev/kvm`.
    Kvm,
    /// The status file, for appending.
    Status,
    /// The listening control socket.
    Control,
    /// A file, for reading, which nobody changes: a kernel, an image's layer.
    Read(PathBuf),
    /// A disk that is one file or block device; while one VM may write to it no other VM has it.
    Disk {
        /// Where it is.
        path: PathBuf,
        /// Whether the guest may not write.
        read_only: bool,
    },
    /// A connection to the vhost-user back end that listens there: the VMM's own filters know no `connect`.
    BackEnd(PathBuf),
    /// The console log in the VM's folder.
    ConsoleLog,
    /// The caller's descriptor for console input.
    ConsoleInput,
    /// The caller's descriptor for console output.
    ConsoleOutput,
    /// The listening socket on which the host connects to guest ports.
    Vsock,
    /// The VMM's end of the pair on which the agent reports.
    Ready,
    /// A TAP device by name.
    Tap(String),
    /// The open TAP of the network device with this index.
    OpenTap(usize),
}

/// A configuration document and the descriptors that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The document.
    pub config: VmConfig,
    /// Entry i has number [`FIRST_FD`] + i in the VMM process.
    pub table: Vec<Opening>,
}

impl Plan {
    /// The number of the first entry equal to this.
    pub fn number_of(&self, opening: &Opening) -> Option<RawFd> {
        self.table.iter().position(|o| o == opening).map(number)
    }
}

/// The number of the table's entry at `index`; the table is shorter than [`MAX_TABLE`].
fn number(index: usize) -> RawFd {
    FIRST_FD + index as RawFd
}

/// Numbers for descriptors in the order in which they are asked for.
struct Table(Vec<Opening>);

impl Table {
    fn add(&mut self, opening: Opening) -> FileSource {
        FileSource::Fd { fd: self.add_raw(opening) }
    }

    fn add_raw(&mut self, opening: Opening) -> RawFd {
        self.0.push(opening);
        number(self.0.len() - 1)
    }
}

/// Maps a description to the document and its descriptors.
///
/// # Errors
/// [`Error::Spec`] when a number is out of range, a name is used twice or malformed, or there are too many files.
pub fn plan(spec: &VmSpec) -> Result<Plan, Error> {
    check(spec)?;
    let mut table = Table(vec![Opening::Config, Opening::Kvm]);
    let status = table.add(Opening::Status);
    let control = table.add(Opening::Control);
    let boot_source = BootSource {
        kernel_image_path: table.add(Opening::Read(spec.kernel.clone())),
        initrd_path: spec.initrd.as_ref().map(|path| table.add(Opening::Read(path.clone()))),
        boot_args: (!spec.cmdline.is_empty()).then(|| spec.cmdline.clone()),
        load: spec.load,
        entry: None,
    };
    let console = match &spec.console {
        ConsoleSpec::None => None,
        ConsoleSpec::Log => Some(Console { input: None, output: Some(table.add(Opening::ConsoleLog)) }),
        ConsoleSpec::Fds { input, .. } => Some(Console {
            input: input.is_some().then(|| table.add(Opening::ConsoleInput)),
            output: Some(table.add(Opening::ConsoleOutput)),
        }),
    };
    let vsock = spec.agent.then(|| Vsock {
        vsock_id: None,
        guest_cid: GUEST_CID,
        uds_path: table.add(Opening::Vsock),
        host_ports: vec![HostPort { port: READY_PORT, fd: table.add_raw(Opening::Ready) }],
    });
    let drives = spec.disks.iter().map(|disk| {
        let (mut path_on_host, mut concat, mut socket) = (None, vec![], None);
        match &disk.source {
            DiskSource::File(path) => {
                let opening = Opening::Disk { path: path.clone(), read_only: disk.read_only };
                path_on_host = Some(table.add(opening));
            }
            DiskSource::Concat(paths) => {
                concat = paths.iter().map(|path| table.add(Opening::Read(path.clone()))).collect();
            }
            DiskSource::Socket(path) => socket = Some(table.add(Opening::BackEnd(path.clone()))),
            DiskSource::Removable { .. } => {}
        }
        Drive {
            drive_id: disk.id.clone(),
            socket,
            path_on_host,
            concat,
            is_removable: matches!(disk.source, DiskSource::Removable { .. }),
            is_read_only: disk.read_only,
            partuuid: None,
            is_root_device: disk.root,
            // What a container has synced survives the host's power.
            cache_type: CacheType::Writeback,
            io_engine: None,
            // docs/devices.md says why no more, here and for interfaces.
            num_queues: 1,
            io_threads: 0,
            direct: false,
            serial: None,
            rate_limiter: None,
        }
    });
    let drives = drives.collect();
    let file_systems = spec.file_systems.iter().map(|fs| FileSystem {
        tag: fs.tag.clone(),
        socket: table.add(Opening::BackEnd(fs.socket.clone())),
        num_queues: 1,
    });
    let file_systems = file_systems.collect();
    let nets = spec.nets.iter().enumerate().map(|(index, net)| NetworkInterface {
        iface_id: net.id.clone(),
        host_dev_name: table.add(match &net.tap {
            TapSource::Named(name) => Opening::Tap(name.clone()),
            TapSource::Open(_) => Opening::OpenTap(index),
        }),
        guest_mac: net.mac.clone(),
        queue_pairs: 1,
        more_queues: vec![],
        vhost_net: None,
        mtu: None,
        rx_rate_limiter: None,
        tx_rate_limiter: None,
    });
    let network_interfaces = nets.collect();
    let machine_config =
        MachineConfig { vcpu_count: spec.cpus, mem_size_mib: spec.memory_mib, ..MachineConfig::default() };
    let config = VmConfig {
        machine_config,
        drives,
        file_systems,
        network_interfaces,
        vsock,
        entropy: Some(Entropy::default()),
        vial: Extensions {
            profile: Profile::Pod,
            transport: Transport::Mmio,
            console,
            control: Some(control),
            status: Some(status),
        },
        ..VmConfig::booting(boot_source)
    };
    if table.0.len() > MAX_TABLE {
        return Err(Error::Spec(format!(
            "it needs {} files, at most {MAX_TABLE} are possible; merge layers of its disks",
            table.0.len()
        )));
    }
    Ok(Plan { config, table: table.0 })
}

/// How many descriptors the VM's process may have: those of its table and of connections, and of all media that may ever be in its
/// removable drives at a time.
pub fn max_open(spec: &VmSpec) -> u64 {
    let media = spec.disks.iter().map(|disk| match disk.source {
        DiskSource::Removable { .. } if disk.read_only => MAX_FILES as u64,
        DiskSource::Removable { .. } => 1,
        DiskSource::File(_) | DiskSource::Concat(_) | DiskSource::Socket(_) => 0,
    });
    MAX_OPEN + media.sum::<u64>() + if spec.agent { MAX_SOCKETS } else { 0 }
}

fn check(spec: &VmSpec) -> Result<(), Error> {
    let fail = |why: String| Err(Error::Spec(why));
    if !(1..=32).contains(&spec.cpus) {
        return fail(format!("{} vCPUs; 1 to 32 are possible", spec.cpus));
    }
    if spec.memory_mib < 32 {
        return fail(format!("{} MiB of memory; 32 MiB is the least", spec.memory_mib));
    }
    let mut ids = HashSet::new();
    for disk in &spec.disks {
        let ok = (1..=20).contains(&disk.id.len())
            && disk.id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !ok {
            return fail(format!(
                "disk id {:?}; 1 to 20 letters, digits, '_', '.' and '-' are possible",
                disk.id
            ));
        }
        if !ids.insert(&disk.id) {
            return fail(format!("two disks have the id {:?}", disk.id));
        }
        match &disk.source {
            DiskSource::Concat(_) if !disk.read_only => {
                return fail(format!("disk {:?} joins several files and so must be read-only", disk.id));
            }
            DiskSource::Socket(_) if disk.read_only => {
                return fail(format!(
                    "disk {:?} is its back end's, which alone decides whether it is read-only",
                    disk.id
                ));
            }
            DiskSource::Concat(paths) if paths.is_empty() => {
                return fail(format!("disk {:?} has no file", disk.id));
            }
            DiskSource::Removable { .. } if disk.root => {
                return fail(format!("disk {:?} is removable and so can't be the root", disk.id));
            }
            _ => {}
        }
    }
    if spec.disks.iter().filter(|d| d.root).count() > 1 {
        return fail("more than one disk is the root".into());
    }
    let mut tags = HashSet::new();
    for FsSpec { tag, .. } in &spec.file_systems {
        if !(1..=36).contains(&tag.len()) || !tag.bytes().all(|b| b.is_ascii_graphic()) {
            return fail(format!(
                "tag {tag:?} of a file system; 1 to 36 printable ASCII characters are possible"
            ));
        }
        if !tags.insert(tag) {
            return fail(format!("two file systems have the tag {tag:?}"));
        }
    }
    let mut taps = HashSet::new();
    for net in &spec.nets {
        if !ids.insert(&net.id) {
            return fail(format!("two devices have the id {:?}", net.id));
        }
        let TapSource::Named(tap) = &net.tap else { continue };
        if !taps.insert(tap) {
            return fail(format!("TAP {tap:?} is used twice"));
        }
        // IFNAMSIZ is 16 with the final zero.
        let ok = (1..=15).contains(&tap.len()) && !tap.bytes().any(|b| b == b'/' || b <= b' ' || b >= 127);
        if !ok {
            return fail(format!("{tap:?} is not the name of a TAP device"));
        }
    }
    let root = if spec.disks.iter().any(|disk| disk.root) { ROOT_ARGUMENTS } else { 0 };
    let most = MAX_COMMAND_LINE - root;
    if spec.cmdline.len() > most {
        return fail(format!(
            "the kernel command line has {} bytes, and {most} are possible; shorten it",
            spec.cmdline.len()
        ));
    }
    if spec.cmdline.contains(['\0', '\n']) {
        return fail("the kernel command line contains a line break or a zero".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
