//! System call filters: an allow-list for each kind of thread; anything else kills the process.
//!
//! Threads are started first and wait; each puts its own filter on, then the VMM thread does, and only then is the first
//! byte of a kernel, a disk or a guest read. So no filter needs `clone`: a thread that could be made later would be one
//! that nobody confined. No mapping can become executable, and `ioctl` reaches only the calls that are listed here.

use crate::api::config::Profile;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// Why a filter could not be made or put on.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The list does not compile.
    #[error("could not compile the system call filter of a {0:?} thread")]
    Compile(Thread, #[source] seccompiler::BackendError),
    /// The kernel refused it.
    #[error(
        "could not put on the system call filter of a {0:?} thread; the host's kernel needs CONFIG_SECCOMP_FILTER"
    )]
    Apply(Thread, #[source] seccompiler::Error),
}

/// Kinds of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// Main thread: builds the machine, then runs the event loop with control and devices.
    Vmm,
    /// Runs a vCPU.
    Vcpu,
    /// Reads kernel and initrd, then ends.
    Loader,
    /// Serves queues of drives.
    Io,
    /// Speaks HTTP with clients of the API, and asks the VMM thread.
    Api,
}

/// What a VM has that not every VM has, and that needs calls of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uses {
    /// Its devices are on a PCI bus.
    pub pci: bool,
    /// An interface is vhost-net's.
    pub vhost: bool,
}

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter {
    thread: Thread,
    program: BpfProgram,
}

impl Filter {
    /// Compiles the list of `thread` under `profile`.
    pub fn new(thread: Thread, profile: Profile, uses: Uses) -> Result<Self, SeccompError> {
        let compile = || {
            let filter = SeccompFilter::new(
                rules(thread, profile, uses)?,
                SeccompAction::KillProcess,
                SeccompAction::Allow,
                TargetArch::x86_64,
            )?;
            BpfProgram::try_from(filter)
        };
        compile()
            .map(|program| Self { thread, program })
            .map_err(|source| SeccompError::Compile(thread, source))
    }

    /// Puts it on the calling thread, for good.
    pub fn apply(&self) -> Result<(), SeccompError> {
        seccompiler::apply_filter(&self.program).map_err(|source| SeccompError::Apply(self.thread, source))
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type RulesResult = Result<Rules, seccompiler::BackendError>;

/// What every thread needs: memory (without PROT_EXEC, below), locks, signals, time, the end.
const COMMON: [i64; 21] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // The vDSO falls back to it where the clock source can't be read from user space, as in nested virtualisation.
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // A panic's message goes out through it, and its abort asks who it is.
    libc::SYS_writev,
    libc::SYS_rt_sigaction,
    // Whether a pipe has room: every thread may have something to log or to say on the standard error, and waits for no reader.
    libc::SYS_poll,
];

/// What the event loop and the devices in it need.
const VMM: [i64; 30] = [
    // Rings are made before the filters, and each is restricted to reads, writes and syncs (virtio/block/ring.rs).
    libc::SYS_io_uring_enter,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fallocate,
    libc::SYS_fstat,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_ppoll,
    libc::SYS_dup,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_getsockname,
];

/// What a thread needs that serves drives and nothing else.
const IO: [i64; 13] = [
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_io_uring_enter,
    libc::SYS_ppoll,
];

/// What the loader needs besides: the files, and to end.
const LOADER: [i64; 4] = [libc::SYS_pread64, libc::SYS_fstat, libc::SYS_set_robust_list, libc::SYS_rseq];

/// What the HTTP thread needs besides: its connections. It waits in `futex` for the VMM thread.
const API: [i64; 11] = [
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_accept4,
    // The descriptor that is kept for clients beyond the last one (door.rs).
    libc::SYS_eventfd2,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    // The end of a thread of the standard library.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_getsockopt,
];

fn rules(thread: Thread, profile: Profile, uses: Uses) -> RulesResult {
    let mut rules: Rules = COMMON.iter().map(|call| (*call, Vec::new())).collect();
    let mut allow = |calls: &[i64]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    match thread {
        Thread::Vmm => allow(&VMM),
        Thread::Loader => allow(&LOADER),
        // A driver that resets its disk waits, in its own thread, for what the ring has under way.
        Thread::Vcpu => allow(&[libc::SYS_eventfd2, libc::SYS_io_uring_enter]),
        Thread::Io => allow(&IO),
        Thread::Api => allow(&API),
    }
    rules.insert(libc::SYS_mmap, vec![without_bits(2, libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![without_bits(2, libc::PROT_EXEC)?]);
    let advice = [
        libc::MADV_DONTNEED,
        libc::MADV_HUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_FREE,
        // A balloon gives memory of a memory file back by it.
        libc::MADV_REMOVE,
    ];
    rules.insert(libc::SYS_madvise, any_of(2, advice)?);
    // Kicks of vCPUs, and a panic's abort: threads of this process, and of no other that it may happen to see.
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, std::process::id())?]);
    let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    rules.insert(libc::SYS_fcntl, any_of(1, commands)?);
    rules.insert(libc::SYS_prctl, any_of(0, [libc::PR_SET_VMA, libc::PR_SET_NAME])?);
    if matches!(thread, Thread::Vmm | Thread::Loader) {
        // fstat in newer clothes, on a descriptor. That the path is empty no filter can see: the jail's empty tree has to do the rest.
        rules.insert(libc::SYS_statx, vec![with_bits(2, libc::AT_EMPTY_PATH)?]);
        rules.insert(libc::SYS_newfstatat, vec![with_bits(3, libc::AT_EMPTY_PATH)?]);
    }
    if let Some(calls) = ioctls::of(thread) {
        let pci = if uses.pci { ioctls::of_pci(thread) } else { &[] };
        let vhost = if uses.vhost { ioctls::of_vhost(thread) } else { &[] };
        let vhost = vhost.iter().map(|call| call.cast_signed());
        // A client plugs an interface in, and names its TAP.
        let plugs = thread == Thread::Vmm && profile == Profile::Api && uses.pci;
        let tap = if plugs { &ioctls::NAMED_TAP[..] } else { &[] };
        let all = calls.iter().chain(pci).chain(tap).copied().chain(vhost);
        rules.insert(libc::SYS_ioctl, any_of(1, all)?);
    }
    if thread == Thread::Vmm && profile == Profile::Api {
        // A client names another file for a drive while the VM runs. Only what is there already: nothing is made.
        rules.insert(
            libc::SYS_openat,
            vec![without_bits(2, libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY)?],
        );
    }
    if thread == Thread::Vmm && profile != Profile::Pod {
        // Guest connections to host ports: Unix sockets next to the socket device's own.
        rules.insert(libc::SYS_socket, any_of(0, [libc::AF_UNIX])?);
        rules.insert(libc::SYS_connect, Vec::new());
    }
    Ok(rules)
}

fn rule(argument: u8, op: SeccompCmpOp, value: u32) -> Result<SeccompRule, seccompiler::BackendError> {
    // The kernel takes these arguments as 32 bits, so only those are compared.
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value.into())?])
}

fn without_bits(argument: u8, bits: i32) -> Result<SeccompRule, seccompiler::BackendError> {
    rule(argument, SeccompCmpOp::MaskedEq(bits.cast_unsigned().into()), 0)
}

fn with_bits(argument: u8, bits: i32) -> Result<SeccompRule, seccompiler::BackendError> {
    let bits = bits.cast_unsigned();
    rule(argument, SeccompCmpOp::MaskedEq(bits.into()), bits)
}

fn any_of(
    argument: u8,
    values: impl IntoIterator<Item = i32>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values.into_iter().map(|value| rule(argument, SeccompCmpOp::Eq, value.cast_unsigned())).collect()
}

/// The ioctl numbers that threads may use.
mod ioctls {
    use super::Thread;
    use crate::virtio::net::vhost;
    use kvm_bindings::{
        kvm_cpuid2, kvm_enable_cap, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_lapic_state, kvm_msrs,
        kvm_regs, kvm_sregs, kvm_userspace_memory_region,
    };

    /// KVMIO of linux/kvm.h.
    const KVM: u32 = 0xae;
    const NONE: u32 = 0;
    const WRITE: u32 = 1;
    const READ: u32 = 2;

    /// `_IOC` of asm-generic/ioctl.h.
    const fn ioc(direction: u32, number: u32, size: usize) -> i32 {
        (direction << 30 | (size as u32) << 16 | KVM << 8 | number).cast_signed()
    }

    const RUN: i32 = ioc(NONE, 0x80, 0);
    const GET_REGS: i32 = ioc(READ, 0x81, size_of::<kvm_regs>());
    const KVMCLOCK_CTRL: i32 = ioc(NONE, 0xad, 0);
    /// linux/if_tun.h: the kind of a TAP, checked when the device is made; offloads and header size, set when the driver is
    /// ready.
    const TUNGETIFF: i32 = 0x8004_54d2_u32.cast_signed();
    const TUNSETOFFLOAD: i32 = 0x4004_54d0;
    const TUNSETVNETHDRSZ: i32 = 0x4004_54d8;
    /// SIOCGIFINDEX: whether a TAP is there, and TUNSETIFF: that a descriptor of /dev/net/tun is for it.
    pub(super) const NAMED_TAP: [i32; 2] = [0x8933, 0x4004_54ca];
    /// Queues of a TAP, taken up and let go of as the driver wants.
    const TUNSETQUEUE: i32 = 0x4004_54d9;

    const VCPU: [i32; 5] = [RUN, GET_REGS, KVMCLOCK_CTRL, TUNSETOFFLOAD, TUNSETVNETHDRSZ];

    const VMM: [i32; 27] = [
        ioc(NONE, 0x01, 0),                                         // KVM_CREATE_VM
        ioc(NONE, 0x03, 0),                                         // KVM_CHECK_EXTENSION
        ioc(NONE, 0x04, 0),                                         // KVM_GET_VCPU_MMAP_SIZE
        ioc(READ | WRITE, 0x05, size_of::<kvm_cpuid2>()),           // KVM_GET_SUPPORTED_CPUID
        ioc(NONE, 0x41, 0),                                         // KVM_CREATE_VCPU
        ioc(WRITE, 0x46, size_of::<kvm_userspace_memory_region>()), // KVM_SET_USER_MEMORY_REGION
        ioc(NONE, 0x47, 0),                                         // KVM_SET_TSS_ADDR
        ioc(WRITE, 0x48, size_of::<u64>()),                         // KVM_SET_IDENTITY_MAP_ADDR
        ioc(NONE, 0x60, 0),                                         // KVM_CREATE_IRQCHIP
        IRQFD,
        IOEVENTFD,
        ioc(WRITE, 0xa3, size_of::<kvm_enable_cap>()), // KVM_ENABLE_CAP
        ioc(WRITE, 0x82, size_of::<kvm_regs>()),       // KVM_SET_REGS
        ioc(READ, 0x83, size_of::<kvm_sregs>()),       // KVM_GET_SREGS
        ioc(WRITE, 0x84, size_of::<kvm_sregs>()),      // KVM_SET_SREGS
        ioc(READ | WRITE, 0x88, size_of::<kvm_msrs>()), // KVM_GET_MSRS: what a CPU template changes
        ioc(WRITE, 0x89, size_of::<kvm_msrs>()),       // KVM_SET_MSRS
        ioc(READ, 0x8e, size_of::<kvm_lapic_state>()), // KVM_GET_LAPIC
        ioc(WRITE, 0x8f, size_of::<kvm_lapic_state>()), // KVM_SET_LAPIC
        ioc(WRITE, 0x90, size_of::<kvm_cpuid2>()),     // KVM_SET_CPUID2
        TUNGETIFF,
        TUNSETOFFLOAD,
        TUNSETVNETHDRSZ,
        TUNSETQUEUE,
        0x5421,                       // FIONBIO: sockets that don't wait
        0x541b,                       // FIONREAD
        0x8008_1272u32.cast_signed(), // BLKGETSIZE64: the size of a block device
    ];

    /// FIONBIO: sockets that don't wait.
    const API: [i32; 1] = [0x5421];
    const IRQFD: i32 = ioc(WRITE, 0x76, size_of::<kvm_irqfd>());
    const IOEVENTFD: i32 = ioc(WRITE, 0x79, size_of::<kvm_ioeventfd>());
    const SET_GSI_ROUTING: i32 = ioc(WRITE, 0x6a, size_of::<kvm_irq_routing>());

    /// What a guest asks for by writing to configuration spaces and tables of messages, in its vCPUs' threads: BARs move, and with them the
    /// places of kicks; messages change and are masked. Unplugging undoes it in the main thread. All of it is about this VM alone.
    pub(super) fn of_pci(thread: Thread) -> &'static [i32] {
        match thread {
            Thread::Vcpu => &[IRQFD, IOEVENTFD, SET_GSI_ROUTING],
            Thread::Vmm => &[SET_GSI_ROUTING],
            Thread::Loader | Thread::Io | Thread::Api => &[],
        }
    }

    /// For a driver that gets ready, in the main thread; and for one that resets its interface, in a vCPU's.
    pub(super) fn of_vhost(thread: Thread) -> &'static [u32] {
        match thread {
            Thread::Vcpu => &vhost::STOP,
            Thread::Vmm => &vhost::ALL,
            Thread::Loader | Thread::Io | Thread::Api => &[],
        }
    }

    pub(super) fn of(thread: Thread) -> Option<&'static [i32]> {
        match thread {
            Thread::Api => Some(&API),
            Thread::Vmm => Some(&VMM),
            Thread::Vcpu => Some(&VCPU),
            Thread::Loader | Thread::Io => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Uses = Uses { pci: true, vhost: true };
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Names the variable that makes a child of this test try a call: `thread call`.
    const TRY: &str = "VMM_SECCOMP_TRY";

    /// Does `call` under the filter of `thread`; comes back only if the filter lets it.
    fn attempt(thread: &str, call: &str) {
        let thread = match thread {
            "vmm" => Thread::Vmm,
            "vcpu" => Thread::Vcpu,
            "io" => Thread::Io,
            "api" => Thread::Api,
            _ => Thread::Loader,
        };
        let null = std::fs::File::open("/dev/null").unwrap();
        Filter::new(thread, Profile::Pod, ALL).unwrap().apply().unwrap();
        match call {
            "nothing" => {}
            "open" => drop(std::fs::File::open("/dev/null")),
            "spawn" => drop(std::thread::Builder::new().spawn(|| ())),
            "execute" => map_executable(),
            "socket" => drop(std::os::unix::net::UnixStream::pair()),
            "connect" => drop(std::os::unix::net::UnixStream::connect("/x")),
            "stat" => drop(std::fs::metadata("/dev/null")),
            // TIOCSTI, that types on somebody's terminal.
            "ioctl" => type_on(&null),
            "own signal" => signal(std::process::id().cast_signed()),
            "signal" => signal(std::os::unix::process::parent_id().cast_signed()),
            other => panic!("unknown call {other}"),
        }
    }

    #[allow(unsafe_code)]
    fn signal(process: i32) {
        // SAFETY: signal 0 only asks whether it could be sent; the call touches no memory.
        unsafe { libc::syscall(libc::SYS_tgkill, process, process, 0) };
    }

    #[allow(unsafe_code)]
    fn map_executable() {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    }

    #[allow(unsafe_code)]
    fn type_on(terminal: &std::fs::File) {
        // SAFETY: the argument is a null pointer, which the kernel checks.
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(terminal), libc::TIOCSTI, 0) };
    }

    #[test]
    fn forbidden_calls_kill_the_process_and_others_do_not() {
        if let Ok(text) = std::env::var(TRY) {
            let (thread, call) = text.split_once(' ').unwrap();
            attempt(thread, call);
            std::process::exit(0);
        }
        let name = "seccomp::tests::forbidden_calls_kill_the_process_and_others_do_not";
        let run = |thread: &str, call: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            let child = child.args(["--exact", name, "--nocapture"]).env(TRY, format!("{thread} {call}"));
            child.output().unwrap().status
        };
        for thread in ["vmm", "vcpu", "loader", "io", "api"] {
            assert_eq!(run(thread, "nothing").code(), Some(0), "{thread}");
            assert_eq!(run(thread, "own signal").code(), Some(0), "{thread}");
            for call in ["open", "spawn", "execute", "socket", "connect", "stat", "ioctl", "signal"] {
                assert_eq!(run(thread, call).signal(), Some(libc::SIGSYS), "{thread} {call}");
            }
        }
    }

    #[test]
    fn every_list_compiles() {
        for thread in [Thread::Vmm, Thread::Vcpu, Thread::Loader, Thread::Io, Thread::Api] {
            for profile in [Profile::Pod, Profile::Open, Profile::Api] {
                Filter::new(thread, profile, ALL).unwrap();
            }
        }
    }

    #[test]
    fn kinds_of_vms_differ_in_requests_to_drivers_only() {
        for thread in [Thread::Vmm, Thread::Vcpu, Thread::Loader, Thread::Io, Thread::Api] {
            for profile in [Profile::Pod, Profile::Open, Profile::Api] {
                let others = |uses| {
                    let mut rules = rules(thread, profile, uses).unwrap();
                    rules.remove(&libc::SYS_ioctl);
                    rules
                };
                assert_eq!(others(ALL), others(Uses::default()));
                if matches!(thread, Thread::Loader | Thread::Io) {
                    assert_eq!(rules(thread, profile, ALL), rules(thread, Profile::Open, Uses::default()));
                }
            }
        }
    }

    #[test]
    fn no_thread_can_open_execute_trace_or_make_threads() {
        let never = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_ptrace,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_process_vm_writev,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_register,
        ];
        for thread in [Thread::Vmm, Thread::Vcpu, Thread::Loader, Thread::Io, Thread::Api] {
            let rules = rules(thread, Profile::Open, ALL).unwrap();
            assert!(never.iter().all(|call| !rules.contains_key(call)));
        }
    }

    #[test]
    fn only_the_vmm_thread_of_the_open_profile_connects() {
        for (thread, profile, allowed) in [
            (Thread::Vmm, Profile::Open, true),
            (Thread::Vmm, Profile::Pod, false),
            (Thread::Vcpu, Profile::Open, false),
            (Thread::Vmm, Profile::Api, true),
            (Thread::Api, Profile::Api, false),
        ] {
            assert_eq!(rules(thread, profile, ALL).unwrap().contains_key(&libc::SYS_connect), allowed);
        }
    }

    #[test]
    fn only_the_vmm_thread_of_the_api_profile_opens() {
        for (thread, profile, allowed) in [
            (Thread::Vmm, Profile::Api, true),
            (Thread::Vmm, Profile::Open, false),
            (Thread::Vcpu, Profile::Api, false),
            (Thread::Loader, Profile::Api, false),
            (Thread::Api, Profile::Api, false),
        ] {
            assert_eq!(rules(thread, profile, ALL).unwrap().contains_key(&libc::SYS_openat), allowed);
        }
    }
}
