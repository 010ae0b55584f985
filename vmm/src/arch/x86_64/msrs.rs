//! Model-specific registers that differ from KVM's reset values.

use super::{ArchError, kvm_step};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// IA32_MISC_ENABLE (Intel SDM vol. 4). Without "fast strings" Linux forgoes `rep movsb`; the two "unavailable" bits say
/// that there is no BTS and no PEBS, as KVM's reset value does.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1 | 1 << 11 | 1 << 12);
/// IA32_MTRR_DEF_TYPE: MTRRs on, write-back by default. Firmware would do this; without it the default is uncached.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Sets them. The TSC is left alone: vCPUs made one after the other have theirs in step already.
pub fn set(vcpu: &VcpuFd) -> Result<(), ArchError> {
    let list = [MISC_ENABLE, MTRR_DEF_TYPE];
    let entries = list.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).expect("two entries are far below the limit of the structure");
    let done = vcpu.set_msrs(&msrs).map_err(kvm_step("set model-specific registers"))?;
    match list.get(done) {
        Some((index, _)) => Err(ArchError::Msr(*index)),
        None => Ok(()),
    }
}
