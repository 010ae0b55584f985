//! The loop around KVM_RUN.

use super::Shared;
use super::counters::{Counters, ExitKind};
use super::kick::ImmediateExit;
use crate::api::status::ExitReason;
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering;

/// What KVM has read of an instruction comes with KVM_INTERNAL_ERROR_EMULATION: from Linux 5.16 on, and if it could be read.
const BYTES: u64 = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as u64;
/// KVM_INTERNAL_ERROR_DELIVERY_EV.
const DELIVERY: u32 = 3;

/// Runs a vCPU for the rest of the process's life, or until it can't go on.
pub(super) fn run(vcpu: VcpuFd, index: u8, shared: &Shared, counters: &Counters) {
    // Never dropped: a kicker may write to its shared page until the process ends.
    let mut vcpu = ManuallyDrop::new(vcpu);
    let immediate_exit = ImmediateExit::of(&mut vcpu);
    while step(&mut vcpu, immediate_exit, index, shared, counters) {}
    // A vCPU that can't go on has ended the VM. Its thread stays, because ending one takes system calls that a confined
    // thread has no other use for.
    shared.gate.retire();
    loop {
        std::thread::park();
    }
}

/// One KVM_RUN and what it asks for; `false` when the vCPU can't go on.
fn step(
    vcpu: &mut VcpuFd,
    immediate_exit: ImmediateExit,
    index: u8,
    shared: &Shared,
    counters: &Counters,
) -> bool {
    let (reason, detail) = match vcpu.run() {
        Ok(VcpuExit::MmioWrite(address, data)) => {
            counters.add(ExitKind::MmioWrite);
            shared.mmio.write(address, data);
            return true;
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            counters.add(ExitKind::MmioRead);
            shared.mmio.read(address, data);
            return true;
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            counters.add(ExitKind::IoOut);
            shared.ports.write(port.into(), data);
            return true;
        }
        Ok(VcpuExit::IoIn(port, data)) => {
            counters.add(ExitKind::IoIn);
            shared.ports.read(port.into(), data);
            return true;
        }
        Err(error) if error.errno() == libc::EINTR => {
            counters.add(ExitKind::Intr);
            // KVM has completed the last port or memory access by now, so the vCPU's state is whole here.
            immediate_exit.set(false);
            if shared.gate.pass() {
                // Tells the guest that it stood still, so that its watchdogs don't bark. Refused if it has no kvm-clock,
                // and then there is nothing to tell.
                let _ = vcpu.kvmclock_ctrl();
            }
            return true;
        }
        // A vCPU that waited for its SIPI got it.
        Err(error) if error.errno() == libc::EAGAIN => return true,
        Ok(VcpuExit::Shutdown) => (ExitReason::GuestCrash, "the guest caused a triple fault".into()),
        Ok(VcpuExit::FailEntry(reason, cpu)) => (
            ExitReason::InternalError,
            format!("the processor refused to enter the guest: hardware reason {reason:#x} on CPU {cpu}"),
        ),
        Ok(VcpuExit::InternalError) => internal_error(vcpu, shared.pages_may_go.load(Ordering::Relaxed)),
        Ok(other) => (ExitReason::InternalError, format!("unexpected KVM exit: {other:?}")),
        Err(error) => (ExitReason::InternalError, format!("KVM_RUN failed: {error}")),
    };
    counters.add(ExitKind::Other);
    shared.end.end(reason, format!("vCPU {index}: {detail}"));
    false
}

/// KVM_EXIT_INTERNAL_ERROR as a reason, and in words (Documentation/virt/kvm/api.rst, 5.).
#[allow(unsafe_code)]
fn internal_error(vcpu: &mut VcpuFd, pages_may_go: bool) -> (ExitReason, String) {
    let run = vcpu.get_kvm_run();
    // SAFETY: after KVM_EXIT_INTERNAL_ERROR this member of the union is the one that KVM filled; all bits are valid.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let kind = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that it can't emulate",
        2 => "simultaneous exceptions",
        DELIVERY => "an event that it could not deliver",
        4 => "an unexpected exit reason of the processor",
        _ => "an unknown condition",
    };
    let data = &internal.data[..internal.data.len().min(internal.ndata as usize)];
    let at = vcpu.get_regs().map_or_else(|_| "?".into(), |regs| format!("{:#x}", regs.rip));
    let suberror = internal.suberror;
    let was_read = data.first().is_some_and(|flags| flags & BYTES != 0);
    let reason = match suberror {
        // The guest chose where it goes and what it does there: a floating-point store to a device, a jump to where nothing is.
        KVM_INTERNAL_ERROR_EMULATION if was_read || !pages_may_go => ExitReason::GuestCrash,
        // Its table of interrupts or its stack is where nothing is.
        DELIVERY if !pages_may_go => ExitReason::GuestCrash,
        // Or a page is gone that was there, which is the host's doing.
        _ => ExitReason::InternalError,
    };
    (reason, format!("KVM met {kind} at guest instruction {at} (internal error {suberror}, data {data:x?})"))
}
