//! Registers of the boot vCPU at the kernel's entry.
//!
//! Other vCPUs keep their reset state: INIT and SIPI from the guest set theirs.

use super::{
    ArchError,
    boot::{Entry, put},
    kvm_step, layout,
};
use crate::api::config::BootProtocol;
use crate::memory::GuestMemory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

/// Control bits (Intel SDM vol. 3, 2.5 and 2.2.1).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_FIXED: u64 = 2;

/// Selectors of boot.rst: __BOOT_CS 0x10 and __BOOT_DS 0x18; PVH leaves them open.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// A flat 4 GiB segment.
fn segment(selector: u16, type_: u8, code_or_data: bool, wide: bool, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: if code_or_data { 0xffff_ffff } else { 0x67 },
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: (wide && !long).into(),
        s: code_or_data.into(),
        l: long.into(),
        g: code_or_data.into(),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The descriptor that a segment register was loaded from (Intel SDM vol. 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bits = |value: u8, shift: u32| u64::from(value) << shift;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | bits(segment.type_, 40)
        | bits(segment.s, 44)
        | bits(segment.dpl, 45)
        | bits(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bits(segment.avl, 52)
        | bits(segment.l, 53)
        | bits(segment.db, 54)
        | bits(segment.g, 55)
        | (segment.base >> 24 & 0xff) << 56
}

/// Sets general and special registers for `entry` and writes the descriptor table that they name.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry, memory: &GuestMemory) -> Result<(), ArchError> {
    let mut sregs = vcpu.get_sregs().map_err(kvm_step("read the special registers"))?;
    apply_segments(&mut sregs, entry.protocol);
    let table = [0, 0, descriptor(&sregs.cs), descriptor(&sregs.ds), descriptor(&sregs.tr)];
    put(memory, "the descriptor table", layout::GDT, &table.map(u64::to_le_bytes).concat())?;
    put(memory, "the interrupt table", layout::IDT, &[0; 8])?;
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (size_of_val(&table) - 1) as u16;
    sregs.idt.base = layout::IDT;
    sregs.idt.limit = 7;
    vcpu.set_sregs(&sregs).map_err(kvm_step("set the special registers"))?;

    let mut regs = kvm_regs { rip: entry.address, rflags: RFLAGS_FIXED, ..Default::default() };
    match entry.protocol {
        BootProtocol::Pvh => regs.rbx = layout::PVH_START_INFO,
        BootProtocol::Linux64 => regs.rsi = layout::ZERO_PAGE,
    }
    vcpu.set_regs(&regs).map_err(kvm_step("set the general registers"))
}

fn apply_segments(sregs: &mut kvm_sregs, protocol: BootProtocol) {
    // Types: 0xb code, execute/read, accessed; 0x3 data, read/write, accessed; 0xb busy TSS.
    let long = protocol == BootProtocol::Linux64;
    sregs.cs = segment(CODE, 0xb, true, true, long);
    let data = segment(DATA, 0x3, true, true, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(TASK, 0xb, false, false, false);
    match protocol {
        BootProtocol::Pvh => {
            (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0, 0);
        }
        BootProtocol::Linux64 => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            (sregs.cr3, sregs.cr4) = (layout::PML4, CR4_PAE);
            sregs.efer = EFER_LME | EFER_LMA;
        }
    }
}

/// LINT0 as external interrupt, LINT1 as NMI: what firmware leaves behind, and what Linux warns about otherwise.
pub fn set_local_interrupts(vcpu: &VcpuFd) -> Result<(), ArchError> {
    /// Offsets in the register page and delivery modes (Intel SDM vol. 3, 11.5.1).
    const LVT: [(usize, u32); 2] = [(0x350, 0b111), (0x360, 0b100)];
    let mut lapic = vcpu.get_lapic().map_err(kvm_step("read the local APIC"))?;
    for (offset, mode) in LVT {
        let register = &mut lapic.regs[offset..offset + 4];
        let old = u32::from_le_bytes(std::array::from_fn(|i| register[i].cast_unsigned()));
        let new = (old & !0x700 | mode << 8).to_le_bytes();
        register.iter_mut().zip(new).for_each(|(to, from)| *to = from.cast_signed());
    }
    vcpu.set_lapic(&lapic).map_err(kvm_step("set the local APIC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_match_the_ones_of_the_boot_protocol() {
        let mut sregs = kvm_sregs::default();
        apply_segments(&mut sregs, BootProtocol::Linux64);
        assert_eq!(descriptor(&sregs.cs), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&sregs.ds), 0x00cf_9300_0000_ffff);
        apply_segments(&mut sregs, BootProtocol::Pvh);
        assert_eq!(descriptor(&sregs.cs), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&sregs.tr), 0x0000_8b00_0000_0067);
        assert_eq!((sregs.cr0, sregs.efer), (0x11, 0));
    }
}
