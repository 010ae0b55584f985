//! Gets a vCPU thread out of KVM_RUN, without a race between the check and the call.
//!
//! The kicker sets `immediate_exit` in the vCPU's shared page and then sends a signal whose handler does nothing. If the
//! thread is about to enter KVM_RUN, the flag makes it return at once; if it is inside, the signal does. The thread clears the
//! flag before it looks at what is asked of it, so a later kick is never lost.
//!
//! One of the crate's few modules with `unsafe`: it shares one byte with another thread and installs a signal handler.

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use vmm_sys_util::signal::{Killable, register_signal_handler};

/// The signal. Real-time, because the standard ones may mean something to others.
fn signal() -> c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

/// The handler only has to exist: an ignored signal would not interrupt KVM_RUN.
extern "C" fn ignore(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

/// Must come before the first [`Kicker::kick`].
pub(super) fn install_handler() -> io::Result<()> {
    register_signal_handler(signal(), ignore).map_err(io::Error::from)
}

/// The other end of one vCPU thread.
pub(super) struct Kicker {
    immediate_exit: ImmediateExit,
    thread: JoinHandle<()>,
}

impl Kicker {
    /// For `vcpu`, which `thread` is going to run.
    pub(super) fn new(vcpu: &mut VcpuFd, thread: JoinHandle<()>) -> Self {
        Self { immediate_exit: ImmediateExit::of(vcpu), thread }
    }

    /// Makes the thread come out of KVM_RUN once, now or as soon as it goes in.
    pub(super) fn kick(&self) {
        self.immediate_exit.set(true);
        if !self.thread.is_finished() {
            // A thread that has just ended needs no kick.
            let _ = self.thread.kill(signal());
        }
    }
}

/// `kvm_run.immediate_exit` of a vCPU.
#[derive(Clone, Copy)]
pub(super) struct ImmediateExit(*const AtomicU8);

// SAFETY: the byte is only accessed atomically by this process (and read by KVM), and its page is never unmapped: `run`
// leaks the vCPU when it ends.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    pub(super) fn of(vcpu: &mut VcpuFd) -> Self {
        let run: *mut kvm_run = vcpu.get_kvm_run();
        // SAFETY: `run` points to the vCPU's mapped kvm_run; no reference is made.
        Self(unsafe { &raw mut (*run).immediate_exit }.cast())
    }

    pub(super) fn set(self, exit: bool) {
        // SAFETY: the page stays mapped as long as the process lives, see above; a byte is always aligned.
        // The signal that follows is a system call, which orders the store before the delivery.
        unsafe { &*self.0 }.store(exit.into(), Ordering::SeqCst);
    }
}
