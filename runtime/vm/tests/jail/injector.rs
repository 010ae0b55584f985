//! Makes a thread of another process execute system calls of our choice: what a guest that has taken the thread over could do.
//!
//! By ptrace(2), from outside and as root: the thread is stopped, its instruction pointer is put on a `syscall` instruction of the
//! program's own text, the call's number and arguments into its registers, and it goes on for one instruction. The program and its
//! filters are those that every VM has; nothing in them knows of this.
//!
//! The only module of this test with `unsafe`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// PTRACE_SECCOMP_GET_FILTER of linux/ptrace.h.
const SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// How to enter the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The `syscall` instruction.
    Syscall,
    /// `int 0x80`, the way of 32-bit programs, written over the code at the instruction pointer.
    Int80,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The process is dead, by this signal.
    Killed(i32),
    /// The call came back with this: a value, or the error's number, negative.
    Returned(i64),
}

/// A thread that does what it is told. It, and the processes that it makes, die with this program.
#[derive(Debug)]
pub struct Puppet {
    pid: i32,
    tid: i32,
    /// Processes that it made; stopped.
    children: Vec<i32>,
    memory: File,
    /// Where a `syscall` instruction is.
    instruction: u64,
    registers: libc::user_regs_struct,
    /// Memory of its stack that nobody needs any more, grows downwards.
    scratch: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A request whose address is not used or a number.
fn request(request: libc::c_uint, tid: i32, data: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: the requests that are made through this function write no memory of ours.
    check(unsafe { libc::ptrace(request, tid, 0, data) })
}

/// waitpid(2) for one thread.
fn wait(tid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) }.into())?;
    Ok(status)
}

impl Puppet {
    /// Takes a thread over.
    pub fn new(pid: i32, tid: i32) -> io::Result<Self> {
        request(libc::PTRACE_ATTACH, tid, 0)?;
        wait(tid)?;
        let options = libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK;
        request(libc::PTRACE_SETOPTIONS, tid, options.cast_unsigned().into())?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        // SAFETY: plain data for which zeroes are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one such structure.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers) })?;
        // A thread that waits in a call stands behind one; looking for another takes much longer than all the rest.
        let (before, mut bytes) = (registers.rip - 2, [0; 2]);
        memory.read_exact_at(&mut bytes, before)?;
        let instruction = if bytes == SYSCALL { before } else { find_syscall(pid, &memory)? };
        // Far below what the stopped function uses, whose red zone is 128 bytes.
        let scratch = (registers.rsp - 16384) & !15;
        Ok(Self { pid, tid, children: Vec::new(), memory, instruction, registers, scratch })
    }

    /// Puts bytes into the thread's memory; their address.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.scratch = (self.scratch - bytes.len() as u64) & !15;
        self.memory.write_all_at(bytes, self.scratch)?;
        Ok(self.scratch)
    }

    /// Makes the call. After [`Seen::Killed`] there is no thread any more.
    pub fn call(&mut self, entry: Entry, number: i64, arguments: [u64; 6]) -> io::Result<Seen> {
        let mut registers = self.registers;
        registers.rax = number.cast_unsigned();
        // No call is under way that the kernel would have to begin again.
        registers.orig_rax = u64::MAX;
        registers.rip = self.instruction;
        let [a, b, c, d, e, f] = arguments;
        match entry {
            Entry::Syscall => {
                (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
                (registers.r10, registers.r8, registers.r9) = (d, e, f);
            }
            Entry::Int80 => {
                (registers.rbx, registers.rcx, registers.rdx) = (a, b, c);
                (registers.rsi, registers.rdi, registers.rbp) = (d, e, f);
                // Through ptrace's eyes text can be written to: the copy is this process's own.
                self.memory.write_all_at(&[0xcd, 0x80], self.instruction)?;
            }
        }
        // SAFETY: the kernel reads one such structure.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.tid, 0, &raw const registers) })?;
        let mut signal = 0;
        loop {
            request(libc::PTRACE_SINGLESTEP, self.tid, signal)?;
            let status = wait(self.tid)?;
            if libc::WIFSIGNALED(status) {
                return Ok(Seen::Killed(libc::WTERMSIG(status)));
            }
            if libc::WIFEXITED(status) {
                return Err(io::Error::other("the thread ended"));
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP if status >> 16 == 0 => break,
                // A new process is told of in between.
                libc::SIGTRAP => {
                    signal = 0;
                    self.children.push(self.message()?);
                }
                // SIGSEGV of a 32-bit entry that this kernel does not have, say: let it have its way.
                other => signal = other.cast_unsigned().into(),
            }
        }
        // SAFETY: the kernel writes one such structure.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.tid, 0, &raw mut registers) })?;
        Ok(Seen::Returned(registers.rax.cast_signed()))
    }

    /// The number that goes with an event: of a new process.
    fn message(&self) -> io::Result<i32> {
        let mut message: libc::c_ulong = 0;
        // SAFETY: the kernel writes one long.
        check(unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, self.tid, 0, &raw mut message) })?;
        i32::try_from(message).map_err(io::Error::other)
    }

    /// Kills the process and all that it made. Who traces has to see the ends, or they are nobody's.
    pub fn kill(self) {
        for process in self.children.iter().chain([&self.pid]) {
            // SAFETY: the call touches no memory; the processes are ours to trace, and so can't have become others.
            unsafe { libc::kill(*process, libc::SIGKILL) };
        }
        for thread in self.children.iter().chain([&self.tid]) {
            // Stops from before come first; an error says that the end was seen already.
            while wait(*thread).is_ok_and(|status| libc::WIFSTOPPED(status)) {}
        }
    }

    /// Lets it go on as if nothing had been.
    pub fn release(self) -> io::Result<()> {
        request(libc::PTRACE_DETACH, self.tid, 0).map(drop)
    }

    /// The thread's filter `index` as the kernel has it, the one that was put on last first; `None` behind the last.
    pub fn filter(&self, index: u32) -> io::Result<Option<Vec<libc::sock_filter>>> {
        // SAFETY: with a null pointer the kernel only says how long it is.
        let length = unsafe {
            libc::ptrace(SECCOMP_GET_FILTER, self.tid, libc::c_ulong::from(index), std::ptr::null_mut::<u8>())
        };
        let length = match check(length) {
            Ok(length) => usize::try_from(length).map_err(io::Error::other)?,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            // No filter at all.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; length];
        // SAFETY: the kernel writes as many instructions as it said.
        check(unsafe {
            libc::ptrace(SECCOMP_GET_FILTER, self.tid, libc::c_ulong::from(index), program.as_mut_ptr())
        })?;
        Ok(Some(program))
    }
}

/// Address of a `syscall` instruction in the program's text.
fn find_syscall(pid: i32, memory: &File) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights), Some(_), Some(_), Some(inode)) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // Of the file, so not the vDSO.
        if rights != "r-xp" || inode == "0" {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
        let (start, end) = (number(start)?, number(end)?);
        let mut text = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        memory.read_exact_at(&mut text, start)?;
        if let Some(at) = text.windows(2).position(|two| two == SYSCALL) {
            return Ok(start + at as u64);
        }
    }
    Err(io::Error::other("no syscall instruction in the program's text"))
}

/// Gives this process a mount namespace of its own with so many mounts more, below `folder`; they go with the process.
pub fn add_mounts(folder: &Path, count: usize) -> io::Result<()> {
    // SAFETY: the call touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    let none = std::ptr::null();
    // SAFETY: the texts are constants that end with a NUL.
    let private =
        unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) };
    check(private.into())?;
    for number in 0..count {
        let place = folder.join(number.to_string());
        std::fs::create_dir(&place)?;
        let place = CString::new(place.into_os_string().into_vec()).map_err(io::Error::other)?;
        let kind = c"tmpfs".as_ptr();
        // SAFETY: the texts live until the call returns and end with a NUL.
        check(unsafe { libc::mount(kind, place.as_ptr(), kind, 0, none.cast()) }.into())?;
    }
    Ok(())
}

/// Has `command`'s process stop when it executes its program, as a process that this thread traces.
pub fn traced(command: &mut Command) -> &mut Command {
    // SAFETY: the call touches no memory.
    let prepare = || check(unsafe { libc::ptrace(libc::PTRACE_TRACEME) }).map(drop);
    // SAFETY: between fork and exec it makes one system call.
    unsafe { command.pre_exec(prepare) }
}

/// Lets a process that was [`traced`] go on until its main thread has put its filter on, and holds that thread there for good. It puts its own
/// on when it has let others start, and before it tells them anything.
pub fn hold_when_confined(pid: i32) -> io::Result<()> {
    // The stop at exec.
    let mut status = wait(pid)?;
    loop {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        if text.lines().any(|line| line == "Seccomp:\t2") {
            return Ok(());
        }
        let signal = match libc::WSTOPSIG(status) {
            libc::SIGTRAP => 0,
            other => other.cast_unsigned().into(),
        };
        request(libc::PTRACE_SYSCALL, pid, signal)?;
        status = wait(pid)?;
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the process ended before it was confined"));
        }
    }
}

/// Has `command`'s process get these descriptors as 3, 4, …, leave the host's namespaces, and become another user: what a careful
/// person does who starts the VMM without a launcher.
pub fn careful(command: &mut Command, descriptors: Vec<OwnedFd>, user: u32) -> &mut Command {
    let prepare = move || {
        for (descriptor, number) in descriptors.iter().zip(3..) {
            // SAFETY: the process has one thread and is about to exec; all descriptors here lie above the numbers that they get.
            check(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }.into())?;
        }
        let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        // SAFETY: the call touches no memory.
        check(unsafe { libc::unshare(namespaces) }.into())?;
        // SAFETY: the call touches no memory.
        check(unsafe { libc::setresgid(user, user, user) }.into())?;
        // SAFETY: the call touches no memory.
        check(unsafe { libc::setresuid(user, user, user) }.into()).map(drop)
    };
    // SAFETY: between fork and exec it makes system calls and nothing else.
    unsafe { command.pre_exec(prepare) }
}
