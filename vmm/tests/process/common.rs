//! Runs the real `vial-vmm` with kernels of a few instructions.
//!
//! They are entered through PVH (32-bit, flat) and use only what every KVM can run, so that these tests need no machine
//! that boots Linux. Without /dev/kvm they say so and pass.

use serde_json::{Value, json};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use vmm::api::status::{ExitReason, Record};

pub use crate::tiny::kernel;

/// `hlt; jmp` for ever, with interrupts off: a guest that hangs.
pub const HANG: &[u8] = &[0xf4, 0xeb, 0xfd];
/// `jmp` to itself: a guest that spins.
pub const SPIN: &[u8] = &[0xeb, 0xfe];

/// `mov dx, port; mov al, value; out dx, al`.
pub fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// `mov eax, [address]; cmp eax, value; jne` back: waits until a register reads so.
pub fn until(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xa1];
    code.extend(address.to_le_bytes());
    code.push(0x3d);
    code.extend(value.to_le_bytes());
    code.extend([0x75, 0xf4]);
    code
}

/// `mov eax, value; mov [address], eax`.
pub fn set(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.push(0xa3);
    code.extend(address.to_le_bytes());
    code
}

/// Whether VMs can be made here.
pub fn kvm() -> bool {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        eprintln!("skipped: /dev/kvm can't be opened here");
    }
    usable
}

/// A running VMM; a test that fails takes it along.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with a kernel and a configuration.
pub struct Vm {
    pub folder: tempfile::TempDir,
    pub config: Value,
}

impl Vm {
    /// A VM that runs `code`, with a status file and a control socket.
    pub fn new(code: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kernel"), kernel(code)).unwrap();
        let path = |name: &str| folder.path().join(name);
        let config = json!({
            "boot-source": {"kernel_image_path": path("kernel")},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},
            "vial": {"status": path("status"), "control": path("control")},
        });
        Self { folder, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What starts it, with its standard error in a pipe.
    pub fn command(&self) -> Command {
        std::fs::write(self.path("config"), self.config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vial-vmm"));
        command.args(["--no-api", "--config-file"]).arg(self.path("config")).stderr(Stdio::piped());
        command
    }

    /// Starts it.
    pub fn spawn(&self) -> Process {
        self.spawn_with(&[])
    }

    /// Starts it with more arguments.
    pub fn spawn_with(&self, arguments: &[String]) -> Process {
        Process(self.command().args(arguments).spawn().unwrap())
    }

    /// Runs it to its end.
    pub fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs it with more arguments to its end.
    pub fn run_with(&self, arguments: &[String]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// What it said of its life.
    pub fn records(&self) -> Vec<Record> {
        let text = std::fs::read_to_string(self.path("status")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs it to its end; the reason, once exit code and record agree on it.
    pub fn end(&self) -> ExitReason {
        let output = self.run();
        let (reason, detail) = self.reason();
        assert_eq!(output.status.code(), Some(reason.code()), "{reason:?}: {detail}");
        reason
    }

    /// The exit record.
    pub fn reason(&self) -> (ExitReason, String) {
        match self.records().pop() {
            Some(Record::Exit { reason, detail, .. }) => (reason, detail),
            other => panic!("the last record is {other:?}"),
        }
    }
}

/// A listener at `path` that nobody accepts from and whose queue is full: connecting would wait for ever.
pub fn full_listener(path: &std::path::Path) -> (UnixListener, UnixStream) {
    let listener = UnixListener::bind(path).unwrap();
    // SAFETY: the call takes two numbers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let only = UnixStream::connect(path).unwrap();
    (listener, only)
}

/// Asks a process to end.
pub fn terminate(process: &Process) {
    // SAFETY: the call touches no memory, and the process was not waited for.
    assert_eq!(unsafe { libc::kill(process.0.id().cast_signed(), libc::SIGTERM) }, 0);
}

/// The flags of an open file.
pub fn flags(file: &impl AsRawFd) -> libc::c_int {
    // SAFETY: F_GETFL takes no pointer.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

/// Lets children inherit `file`; its number.
pub fn inherit(file: &impl AsRawFd) -> RawFd {
    let fd = file.as_raw_fd();
    // SAFETY: F_SETFD takes no pointer.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }, 0);
    fd
}

/// Waits for a VMM's end, a minute at most, and kills it then: its exit code if it ended by itself, and the most memory that it had
/// in use, in KiB.
pub fn peak_memory_kib(child: &Child) -> (Option<i32>, i64) {
    let pid = child.id().cast_signed();
    // SAFETY: pidfd_open touches no memory of ours.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let mut poll = libc::pollfd { fd: pidfd.try_into().unwrap(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, and its descriptor is closed right after.
    let ended = unsafe { libc::poll(&raw mut poll, 1, 60_000) } == 1;
    let mut status = 0;
    // SAFETY: rusage is plain data for which zeroes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the calls write one int and one rusage; the child was not waited for, so the number is still its.
    unsafe {
        libc::close(poll.fd);
        libc::kill(pid, libc::SIGKILL);
        libc::wait4(pid, &raw mut status, 0, &raw mut usage);
    }
    // SAFETY: as above.
    let mut own: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one rusage.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut own) };
    // Until its exec a child counts as its own what this process has, which may be large by the tests beside this one: a peak below
    // that says nothing.
    let peak = if usage.ru_maxrss > own.ru_maxrss { usage.ru_maxrss } else { 0 };
    ((ended && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status)), peak)
}
