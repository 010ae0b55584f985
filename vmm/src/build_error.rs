//! Why there is no machine, and whose fault it is.

use crate::api::status::ExitReason;
use crate::arch::ArchError;
use crate::bus::BadRange;
use crate::devices::MakeError;
use crate::files::FileError;
use crate::generation::GenerationError;
use crate::kernel::LoadError;
use crate::memory::{MemoryError, PmemError};
use crate::seccomp::SeccompError;
use crate::validate::ConfigError;
use crate::vcpu::VcpuError;
use std::io;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that it names.
    #[error(transparent)]
    File(#[from] FileError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel or initrd.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A device.
    #[error(transparent)]
    Device(#[from] MakeError),
    /// The platform.
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// vCPU threads.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Filters.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// Two devices at one place: a fault of this program.
    #[error("the machine's own address plan contradicts itself")]
    Plan(#[from] BadRange),
    /// More devices than a PCI bus has slots.
    #[error("too many devices: a PCI bus has room for 31; remove some, or set vial.transport to mmio")]
    NoSlot,
    /// A file can't be in the guest's address space.
    #[error("the file of pmem {id:?} can't be used")]
    Pmem {
        /// Which.
        id: String,
        /// Why.
        #[source]
        source: PmemError,
    },
    /// The generation ID.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A KVM call.
    #[error("KVM could not {step}")]
    Kvm {
        /// What was being done.
        step: &'static str,
        /// errno.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A thread or event could not be made.
    #[error("could not make {what}; does a limit on threads or descriptors stand in the way?")]
    Resource {
        /// What.
        what: &'static str,
        /// errno.
        #[source]
        source: io::Error,
    },
}

impl BuildError {
    /// Whose fault it is.
    pub fn reason(&self) -> ExitReason {
        match self {
            Self::Config(_)
            | Self::File(_)
            | Self::Load(_)
            | Self::Device(_)
            | Self::NoSlot
            | Self::Pmem { .. }
            | Self::Memory(MemoryError::FileTooShort { .. }) => ExitReason::BadConfig,
            Self::Arch(
                ArchError::CommandLineTooLong(_)
                | ArchError::CommandLineNotAscii
                | ArchError::TooManyDevices(_)
                | ArchError::TablesTooBig(_)
                | ArchError::MissingByTemplate(_)
                | ArchError::NoLeaf { .. }
                | ArchError::Msr(_),
            ) => ExitReason::BadConfig,
            _ => ExitReason::InternalError,
        }
    }
}

pub(crate) fn kvm_step(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

pub(crate) fn resource(what: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    move |source| BuildError::Resource { what, source }
}
