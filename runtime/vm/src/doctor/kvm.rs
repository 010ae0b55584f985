//! Tries KVM with a few dozen guest instructions at privilege level 0, as a Linux kernel runs them.
//!
//! Every step of the tiny guest ends with an OUT whose port says which step it was and whose value must be right. INT3 with
//! an IDT, POPCNT and XGETBV are among them because a Linux kernel executes them early, and hosts that only emulate such code stumble there.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};
use std::ffi::c_void;
use std::io;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Every instruction did what it should.
    Works,
    /// `/dev/kvm` can't be opened.
    NoDevice {
        /// The system's error number.
        errno: i32,
    },
    /// A call to KVM failed before the guest ran.
    NoVm {
        /// Which.
        call: String,
        /// The system's error number.
        errno: i32,
    },
    /// The guest did not do what it should.
    Broken {
        /// What it was about to do.
        step: String,
        /// What KVM said instead.
        exit: String,
    },
}

/// 2 MiB, mapped with one large page.
const MEMORY: usize = 2 << 20;
const CODE: usize = 0x1000;
const HANDLER: usize = 0x1800;
const PML4: usize = 0x2000;
const PDPT: usize = 0x3000;
const PD: usize = 0x4000;
const GDT: usize = 0x5000;
const IDT: usize = 0x6000;
const STACK_TOP: u64 = 0x9000;
/// Vector of the breakpoint exception.
const BREAKPOINT: usize = 3;

/// CPUID.1:ECX
const ECX_POPCNT: u32 = 1 << 23;
const ECX_XSAVE: u32 = 1 << 26;

/// A step of the guest: what it tries, its instructions (ending with OUT of EAX to `PORT` + its number), and what EAX must be.
struct Step {
    name: &'static str,
    code: &'static [u8],
    mask: u32,
    value: u32,
}

const PORT: u8 = 0xf0;
const PLAIN: Step = Step {
    name: "a register move and OUT",
    code: &[0xb8, 0x11, 0, 0, 0], // mov eax, 0x11
    mask: !0,
    value: 0x11,
};
const POPCNT: Step = Step {
    name: "POPCNT",
    code: &[0xbb, 0x0f, 0, 0, 0, 0xf3, 0x0f, 0xb8, 0xc3], // mov ebx, 0xf; popcnt eax, ebx
    mask: !0,
    value: 4,
};
const XGETBV: Step = Step {
    name: "XGETBV",
    code: &[0x31, 0xc9, 0x0f, 0x01, 0xd0], // xor ecx, ecx; xgetbv
    // Bit 0 of XCR0, the x87 state, is always set.
    mask: 1,
    value: 1,
};
const INT3: Step = Step {
    name: "INT3 through the interrupt table",
    code: &[0xb8, 0x22, 0, 0, 0, 0xcc], // mov eax, 0x22; int3
    mask: !0,
    value: 0x23,
};
const LOOP: Step = Step {
    name: "a loop",
    // mov ecx, 32; xor eax, eax; add eax, ecx; loop -4: the sum of 1 to 32
    code: &[0xb9, 0x20, 0, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xe2, 0xfc],
    mask: !0,
    value: 528,
};
/// inc eax; iretq
const HANDLER_CODE: &[u8] = &[0xff, 0xc0, 0x48, 0xcf];
const HLT: u8 = 0xf4;

/// Anonymous memory for the guest, unmapped at the end.
struct Memory(*mut c_void);

impl Memory {
    fn new() -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                MEMORY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self(at))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY);
        // SAFETY: inside of the mapping by the line above; no guest runs yet, so nobody else looks at it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast::<u8>().add(at), bytes.len()) };
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the VM that used it was dropped before (see `probe`), and nothing else points there.
        let _ = unsafe { munmap(self.0, MEMORY) };
    }
}

/// Tries it. Takes a few milliseconds.
pub fn probe() -> Probe {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(e) => return Probe::NoDevice { errno: e.errno() },
    };
    let mut memory = match Memory::new() {
        Ok(memory) => memory,
        Err(e) => return Probe::NoVm { call: "mmap".into(), errno: e.raw_os_error().unwrap_or(0) },
    };
    let result = build(&kvm, &mut memory).map(|(vm, mut vcpu, steps)| {
        let result = run(&mut vcpu, &steps);
        // The memory goes after them.
        drop((vcpu, vm));
        result
    });
    drop(memory);
    result.unwrap_or_else(|(call, e)| Probe::NoVm { call: call.into(), errno: e.errno() })
}

type Failed = (&'static str, kvm_ioctls::Error);

fn at(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Failed {
    move |e| (call, e)
}

fn build(kvm: &Kvm, memory: &mut Memory) -> Result<(VmFd, VcpuFd, Vec<Step>), Failed> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(at("KVM_GET_SUPPORTED_CPUID"))?;
    let features = cpuid.as_slice().iter().find(|leaf| leaf.function == 1).map_or(0, |leaf| leaf.ecx);
    let mut steps = vec![PLAIN];
    if features & ECX_POPCNT != 0 {
        steps.push(POPCNT);
    }
    if features & ECX_XSAVE != 0 {
        steps.push(XGETBV);
    }
    steps.extend([INT3, LOOP]);
    fill(memory, &steps);

    let vm = kvm.create_vm().map_err(at("KVM_CREATE_VM"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.0 as u64,
    };
    // SAFETY: the mapping has this size and outlives the VM (see `probe`).
    unsafe { vm.set_user_memory_region(region) }.map_err(at("KVM_SET_USER_MEMORY_REGION"))?;
    let vcpu = vm.create_vcpu(0).map_err(at("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&cpuid).map_err(at("KVM_SET_CPUID2"))?;
    enter_long_mode(&vcpu, features & ECX_XSAVE != 0)?;
    Ok((vm, vcpu, steps))
}

fn fill(memory: &mut Memory, steps: &[Step]) {
    let mut code = Vec::new();
    for (number, step) in (0..).zip(steps) {
        code.extend(step.code);
        code.extend([0xe7, PORT + number]); // out imm8, eax
    }
    code.push(HLT);
    memory.put(CODE, &code);
    memory.put(HANDLER, HANDLER_CODE);
    // Present and writable; the last level is a page of 2 MiB.
    memory.put_u64(PML4, PDPT as u64 | 3);
    memory.put_u64(PDPT, PD as u64 | 3);
    memory.put_u64(PD, 0x83);
    memory.put_u64(GDT + 8, 0x00af_9b00_0000_ffff);
    memory.put_u64(GDT + 16, 0x00cf_9300_0000_ffff);
    // A 64-bit interrupt gate to selector 8 (SDM volume 3, 6.14.1).
    let gate = HANDLER as u64 & 0xffff | 8 << 16 | 0x8e << 40;
    memory.put_u64(IDT + 16 * BREAKPOINT, gate);
}

fn enter_long_mode(vcpu: &VcpuFd, xsave: bool) -> Result<(), Failed> {
    let segment = |selector: u16, type_: u8, l: u8, db: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs().map_err(at("KVM_GET_SREGS"))?;
    sregs.cs = segment(8, 11, 1, 0);
    let data = segment(16, 3, 0, 1);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT as u64, 23);
    (sregs.idt.base, sregs.idt.limit) = (IDT as u64, 16 * 32 - 1);
    sregs.cr3 = PML4 as u64;
    // PAE, OSFXSR, and OSXSAVE, without which XGETBV does not exist.
    sregs.cr4 = 1 << 5 | 1 << 9 | if xsave { 1 << 18 } else { 0 };
    // PE, MP, ET, NE, WP, PG
    sregs.cr0 = 0x8001_0033;
    // LME, LMA
    sregs.efer = 1 << 8 | 1 << 10;
    vcpu.set_sregs(&sregs).map_err(at("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(at("KVM_GET_REGS"))?;
    (regs.rip, regs.rsp, regs.rflags) = (CODE as u64, STACK_TOP, 2);
    vcpu.set_regs(&regs).map_err(at("KVM_SET_REGS"))
}

fn run(vcpu: &mut VcpuFd, steps: &[Step]) -> Probe {
    for (number, step) in (0..).zip(steps) {
        let broken = |exit: String| Probe::Broken { step: step.name.into(), exit };
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) if port == u16::from(PORT + number) && data.len() == 4 => {
                let value = data.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
                if value & step.mask != step.value {
                    return broken(format!("the wrong result {value:#x}"));
                }
            }
            other => return broken(describe(other)),
        }
    }
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Probe::Works,
        other => Probe::Broken { step: "HLT".into(), exit: describe(other) },
    }
}

fn describe(exit: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> String {
    match exit {
        Ok(VcpuExit::InternalError) => {
            "KVM_EXIT_INTERNAL_ERROR (it emulates this instruction and can't)".into()
        }
        Ok(VcpuExit::Shutdown) => "KVM_EXIT_SHUTDOWN (triple fault)".into(),
        Ok(VcpuExit::FailEntry(reason, _)) => format!("KVM_EXIT_FAIL_ENTRY, reason {reason:#x}"),
        Ok(other) => format!("the exit {other:?}"),
        Err(e) => format!("the error {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_gets_a_verdict() {
        let probe = probe();
        println!("{probe:?}");
        // Twice, since nothing may be left over from the first time.
        assert_eq!(probe, super::probe());
        if let Probe::Broken { step, .. } = probe {
            assert_ne!(step, PLAIN.name, "whoever has /dev/kvm can run a move");
        }
    }
}
