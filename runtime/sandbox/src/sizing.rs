//! How big a pod's VM is: what the container was promised, plus what the guest needs for itself, so that the container's cgroup
//! limit is always reached before the guest runs dry and its kernel's OOM killer looks at the agent.

/// Memory of a container when nobody says, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// Least memory of a container, in bytes, as Docker has it.
pub const MIN_MEMORY: u64 = 6 << 20;
/// Most memory of a container, in bytes: 1 TiB, far above any machine this runs on and far below overflow.
pub const MAX_MEMORY: u64 = 1 << 40;
/// Processors of a container when nobody says, in thousandths.
pub const DEFAULT_MILLI_CPUS: u32 = 1000;
/// Most vCPUs of a VM.
pub const MAX_VCPUS: u32 = 32;

/// What a guest needs before a container runs: kernel text and data, initramfs, agent, and slack for slab and page tables.
const GUEST_BASE: u64 = 64 << 20;
/// The kernel keeps a 64-byte `struct page` for each page of 4096 bytes, and page tables and slab grow alike: 1/32 in all.
const GUEST_SHARE: u64 = 32;
/// VM memory comes in whole huge pages.
const GRANULE: u64 = 2 << 20;

/// The size of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Guest memory in MiB, even.
    pub memory_mib: u64,
    /// vCPUs, 1 to 32.
    pub vcpus: u8,
}

/// Why a container can't be that big.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Outside [`MIN_MEMORY`] to [`MAX_MEMORY`].
    #[error(
        "{0} bytes of memory are not possible: a container gets from 6 MiB to 1 TiB; give --memory as in 512m or 2g"
    )]
    Memory(u64),
    /// More than the machine has.
    #[error(
        "its VM would have {wanted_mib} MiB of memory, and this machine has {host_mib} MiB in all; give less with --memory"
    )]
    Host {
        /// For the container and the guest.
        wanted_mib: u64,
        /// All of the machine's.
        host_mib: u64,
    },
    /// Outside 0.01 to 32.
    #[error("{} processors are not possible: a container gets from 0.01 to {MAX_VCPUS}", f64::from(*.0) / 1000.0)]
    Cpus(u32),
}

/// The VM for a container with this memory (bytes) and these processors (thousandths).
///
/// # Errors
/// When either is out of range.
pub fn vm_size(memory: u64, milli_cpus: u32) -> Result<VmSize, SizeError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&memory) {
        return Err(SizeError::Memory(memory));
    }
    if !(10..=MAX_VCPUS * 1000).contains(&milli_cpus) {
        return Err(SizeError::Cpus(milli_cpus));
    }
    let total = (memory + GUEST_BASE + memory / GUEST_SHARE).next_multiple_of(GRANULE);
    // In range by the check above: at most 32.
    let vcpus = milli_cpus.div_ceil(1000) as u8;
    Ok(VmSize { memory_mib: total >> 20, vcpus })
}

/// What a slot costs the guest whether it is used or not: two block devices of some 250 KiB (measured, Linux 6.12), and what the kernel keeps
/// of a container beside that container's own memory.
const SLOT_SHARE: u64 = 1 << 20;

/// The VM for a pod of so many containers with this memory (bytes) and these processors (thousandths) in all.
///
/// # Errors
/// When either is out of range.
pub fn shared_vm_size(memory: u64, milli_cpus: u32, slots: u8) -> Result<VmSize, SizeError> {
    let VmSize { memory_mib, vcpus } = vm_size(memory, milli_cpus)?;
    let slots = (u64::from(slots) * SLOT_SHARE).next_multiple_of(GRANULE);
    Ok(VmSize { memory_mib: memory_mib + (slots >> 20), vcpus })
}

impl VmSize {
    /// Whether a machine with so much memory can ever hold it; how much is free changes from one moment to the next.
    ///
    /// # Errors
    /// When it can't.
    pub fn fits(self, host_mib: u64) -> Result<Self, SizeError> {
        if self.memory_mib > host_mib {
            return Err(SizeError::Host { wanted_mib: self.memory_mib, host_mib });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_holds_its_container_and_the_guest() {
        assert_eq!(vm_size(DEFAULT_MEMORY, 1000), Ok(VmSize { memory_mib: 328, vcpus: 1 }));
        assert_eq!(shared_vm_size(DEFAULT_MEMORY, 1000, 7), Ok(VmSize { memory_mib: 336, vcpus: 1 }));
        assert_eq!(vm_size(1 << 30, 1500), Ok(VmSize { memory_mib: 1120, vcpus: 2 }));
        assert_eq!(vm_size(MIN_MEMORY, 10), Ok(VmSize { memory_mib: 72, vcpus: 1 }));
    }

    #[test]
    fn whatever_is_asked_for_fits() {
        for shift in 23..40 {
            let memory = (1u64 << shift) + 12345;
            let size = vm_size(memory, 32_000).unwrap();
            assert!((size.memory_mib << 20) >= memory + GUEST_BASE);
            assert_eq!(size.memory_mib % 2, 0);
            assert_eq!(size.vcpus, 32);
        }
    }

    #[test]
    fn what_no_machine_like_this_holds_is_refused() {
        let size = vm_size(1 << 30, 1000).unwrap();
        assert_eq!(size.fits(1120), Ok(size));
        assert_eq!(size.fits(1119), Err(SizeError::Host { wanted_mib: 1120, host_mib: 1119 }));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(vm_size(1 << 20, 1000), Err(SizeError::Memory(1 << 20)));
        assert_eq!(vm_size(u64::MAX, 1000), Err(SizeError::Memory(u64::MAX)));
        assert_eq!(vm_size(DEFAULT_MEMORY, 0), Err(SizeError::Cpus(0)));
        assert_eq!(vm_size(DEFAULT_MEMORY, 32_001), Err(SizeError::Cpus(32_001)));
    }
}
