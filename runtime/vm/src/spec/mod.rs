//! What a VM is made of, in its caller's words. [`plan`] turns it into the VMM's words.

pub mod plan;

pub use plan::{Opening, Plan, plan};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use vmm::api::config::KernelLoad;

/// Owner of the VMs that `vial vm run` makes.
pub const OWNER_VM: &str = "vm";
/// Owner of the VMs that pods run in.
pub const OWNER_POD: &str = "pod";

/// A VM to be made.
#[derive(Debug)]
pub struct VmSpec {
    /// Who looks after it: [`OWNER_VM`] or [`OWNER_POD`]; nobody sweeps another's folders.
    pub owner: String,
    /// Kept with the VM for its owner; the meaning is the owner's.
    pub labels: BTreeMap<String, String>,
    /// ELF kernel.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; root device arguments of a [`DiskSpec::root`] are added by the VMM.
    pub cmdline: String,
    /// How the kernel gets into memory; none leaves it to the VMM.
    pub load: Option<KernelLoad>,
    /// vCPUs, 1 to 32.
    pub cpus: u8,
    /// Guest memory in MiB, 32 or more.
    pub memory_mib: u64,
    /// Block devices in guest order.
    pub disks: Vec<DiskSpec>,
    /// File systems of the host.
    pub file_systems: Vec<FsSpec>,
    /// Network devices.
    pub nets: Vec<NetSpec>,
    /// hvc0.
    pub console: ConsoleSpec,
    /// Whether an agent will report on the ready port: gives the VM a socket device.
    pub agent: bool,
    /// What the VM's process may use of the host.
    pub limits: Limits,
    /// Whether the VM dies with the program that made it, and is cleaned away, however that ends.
    pub tied: bool,
}

impl VmSpec {
    /// A VM with one vCPU, 128 MiB and nothing else.
    pub fn new(owner: &str, kernel: PathBuf) -> Self {
        Self {
            owner: owner.to_owned(),
            labels: BTreeMap::new(),
            kernel,
            initrd: None,
            cmdline: String::new(),
            load: None,
            cpus: 1,
            memory_mib: 128,
            disks: Vec::new(),
            file_systems: Vec::new(),
            nets: Vec::new(),
            console: ConsoleSpec::None,
            agent: false,
            limits: Limits::default(),
            tied: false,
        }
    }
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Unique name, 1 to 20 bytes of `[A-Za-z0-9_.-]`: the serial that the guest reads.
    pub id: String,
    /// Where its bytes are.
    pub source: DiskSource,
    /// Whether the guest may not write.
    pub read_only: bool,
    /// Whether it is the root file system of the guest's kernel.
    pub root: bool,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// One raw image.
    File(PathBuf),
    /// Raw images one after the other, as one disk; read-only.
    Concat(Vec<PathBuf>),
    /// Another program's, a vhost-user back end, which listens on this Unix socket. It sees all of the guest's memory.
    Socket(PathBuf),
    /// Nowhere yet: a drive whose media come and go with [`crate::Vm::insert`] and [`crate::Vm::eject`].
    Removable {
        /// Size of the largest medium that the guest may write to; it can't write beyond that in any.
        max_bytes: u64,
    },
}

/// A file system of the host, served by a vhost-user back end such as virtiofsd, which sees all of the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsSpec {
    /// What the guest mounts, 1 to 36 printable ASCII characters.
    pub tag: String,
    /// Where the back end listens.
    pub socket: PathBuf,
}

/// A network device.
#[derive(Debug)]
pub struct NetSpec {
    /// Unique name.
    pub id: String,
    /// The host's end.
    pub tap: TapSource,
    /// `aa:bb:cc:dd:ee:ff`; none: one derived from the name.
    pub mac: Option<String>,
}

/// A TAP with virtio-net headers.
#[derive(Debug)]
pub enum TapSource {
    /// An existing device of the host.
    Named(String),
    /// An open one. Once the VM is launched this copy is closed: one that is not persistent ends with the VM.
    Open(OwnedFd),
}

/// Where hvc0 leads.
#[derive(Debug, Default)]
pub enum ConsoleSpec {
    /// The guest has no console.
    #[default]
    None,
    /// Output goes to `console.log` in the VM's folder, no input.
    Log,
    /// Output and input are these descriptors. Give pipes: flags like O_NONBLOCK are shared with every holder.
    Fds {
        /// Read and given to the guest.
        input: Option<OwnedFd>,
        /// Receives the guest's output.
        output: OwnedFd,
    },
}

/// cgroup v2 limits of the VM's process; none is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `memory.max`, bytes; guest memory counts, so leave room for the VMM.
    pub memory_max: Option<u64>,
    /// `pids.max`, threads.
    pub pids_max: Option<u64>,
    /// `cpu.max`.
    pub cpu_max: Option<CpuMax>,
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u64>,
}

impl Limits {
    /// Limits that an honest VM process of this size never meets: its guest memory plus 64 MiB and 2 % (page tables,
    /// page cache that can be dropped), and a few threads per device.
    pub fn for_vm(cpus: u8, memory_mib: u64) -> Self {
        let memory = memory_mib.saturating_mul(1 << 20);
        Self {
            memory_max: Some(memory.saturating_add(memory / 50).saturating_add(64 << 20)),
            pids_max: Some(64 + u64::from(cpus)),
            cpu_max: None,
            cpu_weight: None,
        }
    }
}

/// Processor time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    /// Microseconds of processor time per period.
    pub quota_us: u64,
    /// Microseconds, 1 000 to 1 000 000.
    pub period_us: u64,
}
