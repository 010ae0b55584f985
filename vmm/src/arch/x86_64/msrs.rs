//! Model-specific registers that differ from KVM's reset values.

use super::{ArchError, kvm_step};
use crate::api::config::MsrModifier;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// IA32_MISC_ENABLE (Intel SDM vol. 4). Without "fast strings" Linux forgoes `rep movsb`; the two "unavailable" bits say
/// that there is no BTS and no PEBS, as KVM's reset value does.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1 | 1 << 11 | 1 << 12);
/// IA32_MTRR_DEF_TYPE: MTRRs on, write-back by default. Firmware would do this; without it the default is uncached.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Sets them, and those that a CPU template changes. The TSC is left alone: vCPUs made one after the other have theirs in step already.
pub fn set(vcpu: &VcpuFd, changes: &[MsrModifier]) -> Result<(), ArchError> {
    write(vcpu, &[MISC_ENABLE, MTRR_DEF_TYPE])?;
    for change in changes {
        // One at a time: KVM stops at the first that it does not know, and its number is what a person needs.
        let number = change.addr.0;
        write(vcpu, &[(number, change.bitmap.apply(read(vcpu, number)?))])?;
    }
    Ok(())
}

fn entries(list: &[(u32, u64)]) -> Msrs {
    let entries: Vec<_> = list
        .iter()
        .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
        .collect();
    Msrs::from_entries(&entries).expect("two entries are far below the limit of the structure")
}

fn write(vcpu: &VcpuFd, list: &[(u32, u64)]) -> Result<(), ArchError> {
    let done = vcpu.set_msrs(&entries(list)).map_err(kvm_step("set model-specific registers"))?;
    match list.get(done) {
        Some((index, _)) => Err(ArchError::Msr(*index)),
        None => Ok(()),
    }
}

fn read(vcpu: &VcpuFd, number: u32) -> Result<u64, ArchError> {
    let mut list = entries(&[(number, 0)]);
    let done = vcpu.get_msrs(&mut list).map_err(kvm_step("read a model-specific register"))?;
    if done == 1 { Ok(list.as_slice()[0].data) } else { Err(ArchError::Msr(number)) }
}
