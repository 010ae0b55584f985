//! The helper process: takes orders until its program is gone.

use super::child::{self, Setup};
use super::wire::{self, Answer, Made, Order, Tie};
use super::{Isolation, jail};
use crate::process::{self, ProcessRecord, wait_readable};
use crate::sys::{self, Cloned};
use rustix::event::PollFlags;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Where the helper keeps its socket; everything above is closed.
const SOCKET: i32 = 3;
/// How long a child may take from its gate to its program: what it waits for can only be storage, and behind it wait all later launches.
const EXECUTED_WITHIN_MS: u32 = 60_000;
/// How long one that was killed may take to be gone.
const ENDED_WITHIN_MS: u32 = 30_000;

/// A VM that dies with the program.
struct Tied {
    pidfd: OwnedFd,
    folders: OwnedFd,
    names: Tie,
    /// The folder of the VM's cgroup, if it has one.
    cgroup: Option<OwnedFd>,
}

impl Tied {
    /// Whether it runs; says yes when that can't be told.
    fn runs(&self) -> bool {
        !matches!(wait_readable(&self.pidfd, PollFlags::IN, Some(0)), Ok(true))
    }

    /// Whether anything of it is still to be ended or removed.
    fn is_left(&self) -> bool {
        let folder = statat(&self.folders, self.names.folder.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        self.runs() || !matches!(folder, Err(Errno::NOENT))
    }
}

struct Helper {
    proc: OwnedFd,
    isolation: Isolation,
    tied: Vec<Tied>,
}

/// Lives as the helper. Never returns into the program's code, of which this process is a copy.
pub fn run(socket: OwnedFd) -> ! {
    let code = match prepare(socket) {
        Ok((socket, mut helper)) => {
            let served = helper.serve(&socket);
            helper.clean_up();
            i32::from(served.is_err())
        }
        Err(_) => 1,
    };
    sys::exit_now(code)
}

fn prepare(socket: OwnedFd) -> io::Result<(OwnedFd, Helper)> {
    // Out of the program's session, so that keys pressed at its terminal reach the program only.
    rustix::process::setsid()?;
    let _ = rustix::thread::set_name(c"vial-launcher");
    // Nobody waits for the VMs here: their ends are seen through pidfds, and the kernel reaps them.
    sys::ignore_signal(libc::SIGCHLD, true)?;
    sys::ignore_signal(libc::SIGPIPE, true)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // First of all: a program that was executed to be a helper has its socket among the numbers that change now.
    let high = sys::copy_above(&socket, SOCKET + 1)?;
    let null = {
        let high = sys::copy_above(&null, SOCKET + 1)?;
        std::mem::forget(null);
        high
    };
    for number in 0..SOCKET {
        // SAFETY: this copy of the program never touches its standard streams again.
        unsafe { sys::place_fd(&null, number)? };
    }
    // SAFETY: `socket` and whatever else the program had open belongs to code that never runs again in this process.
    unsafe { sys::place_fd(&high, SOCKET)? };
    // Its destructor would close a number that may be `SOCKET` by now.
    std::mem::forget((socket, null, high));
    let socket = sys::close_all_above(SOCKET)?;
    let proc = process::open_proc()?;
    let isolation = jail::enter();
    wire::send(socket.as_fd(), &isolation, &[])?;
    Ok((socket, Helper { proc, isolation, tied: Vec::new() }))
}

impl Helper {
    fn serve(&mut self, socket: &OwnedFd) -> io::Result<()> {
        while let Some((order, fds)) = wire::receive::<Order>(socket.as_fd())? {
            let sent = match self.carry_out(&order, fds) {
                Ok((pidfd, made)) => wire::send(socket.as_fd(), &Answer::Started(made), &[pidfd.as_fd()]),
                Err((stage, e)) => {
                    let errno = e.raw_os_error().unwrap_or(libc::EIO);
                    wire::send(socket.as_fd(), &Answer::Failed { stage, errno }, &[])
                }
            };
            sent?;
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        order: &Order,
        fds: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, Made), (String, io::Error)> {
        let mut made = Made { ordered_us: sys::monotonic_us(), ..Made::default() };
        let at = |stage: &str| {
            let stage = stage.to_owned();
            move |e: io::Error| (stage, e)
        };
        let mut fds = fds.into_iter();
        let mut next = || {
            fds.next()
                .ok_or_else(|| ("read the order".to_owned(), io::Error::from_raw_os_error(libc::EPROTO)))
        };
        let (exec, record_file, stderr) = (next()?, next()?, next()?);
        let cgroup = if order.cgroup { Some(next()?) } else { None };
        let folders = if order.tie.is_some() { Some(next()?) } else { None };
        let table: Vec<OwnedFd> = fds.collect();
        let args: Result<Vec<CString>, _> = order.args.iter().map(|a| CString::new(a.as_str())).collect();
        let args = args.map_err(|e| at("read the arguments")(e.into()))?;

        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
        let (gate_out, gate_in) = pipe().map_err(at("make a pipe"))?;
        let (failed_out, failed_in) = pipe().map_err(at("make a pipe"))?;
        let namespaces = if self.isolation.namespaces { jail::VM_NAMESPACES } else { 0 };
        let (pid, pidfd) =
            match sys::clone_process(namespaces, cgroup.as_ref()).map_err(at("clone the process"))? {
                Cloned::Child => {
                    // Else the child would wait for itself when we die, and not notice it afterwards.
                    drop((gate_in, failed_out));
                    let uid = order.uid.filter(|_| self.isolation.own_ids);
                    let setup = Setup {
                        exec,
                        stderr,
                        table,
                        args,
                        uid,
                        max_file: order.max_file,
                        max_open: order.max_open,
                        tied: order.tie.is_some(),
                    };
                    child::run(setup, gate_out, failed_in)
                }
                Cloned::Parent { pid, pidfd } => (pid, pidfd),
            };
        made.cloned_us = sys::monotonic_us();
        drop((gate_out, failed_in));
        let kill_on = |stage: &str, e: io::Error| {
            let _ = process::kill(&pidfd);
            (stage.to_owned(), e)
        };

        // The child passes the gate only when its record is written, so that no VM can run that nobody could find.
        let start_time =
            process::start_time(&self.proc, pid).map_err(|e| kill_on("look at the process", e))?;
        let record = ProcessRecord { pid, start_time, boot_id: order.boot_id.clone() };
        let text = serde_json::to_vec(&record).expect("plain data is always JSON");
        std::fs::File::from(record_file)
            .write_all(&text)
            .map_err(|e| kill_on("write the process record", e))?;
        let tied = match (&order.tie, folders) {
            (Some(tie), Some(folders)) => {
                let pidfd = pidfd.try_clone().map_err(|e| kill_on("copy a descriptor", e))?;
                Some(Tied { pidfd, folders, names: tie.clone(), cgroup })
            }
            _ => None,
        };
        std::fs::File::from(gate_in).write_all(&[1]).map_err(|e| kill_on("open the gate", e))?;
        made.released_us = sys::monotonic_us();

        // Closed by a successful exec; else it says what failed.
        let heard = wait_readable(&failed_out, PollFlags::IN, Some(EXECUTED_WITHIN_MS));
        if !heard.map_err(|e| kill_on("hear from the child", e))? {
            let stage = "execute the VM monitor, whose file has not been read in a minute (see whether the storage that has it hangs)";
            return Err(kill_on(stage, io::Error::from_raw_os_error(libc::ETIMEDOUT)));
        }
        let mut report = Vec::new();
        std::fs::File::from(failed_out)
            .take(4096)
            .read_to_end(&mut report)
            .map_err(|e| kill_on("hear from the child", e))?;
        if report.is_empty() {
            made.executed_us = sys::monotonic_us();
            self.tied.retain(Tied::is_left);
            self.tied.extend(tied);
            return Ok((pidfd, made));
        }
        let (stage, errno) =
            serde_json::from_slice::<(String, i32)>(&report).unwrap_or(("start".into(), libc::EIO));
        Err((stage, io::Error::from_raw_os_error(errno)))
    }

    /// The program is gone: what was tied to it goes too. Those that it cleaned up itself have no folder any more.
    fn clean_up(&mut self) {
        for tied in &self.tied {
            let _ = process::kill(&tied.pidfd);
        }
        for tied in self.tied.drain(..) {
            // One that hangs in the kernel is not waited for longer: others are behind it.
            let _ = wait_readable(&tied.pidfd, PollFlags::IN, Some(ENDED_WITHIN_MS));
            if let Some(cgroup) = &tied.cgroup {
                let _ = remove_cgroup(cgroup, &tied.names.cgroup);
            }
            let _ = remove_folder(&tied.folders, &tied.names.folder);
        }
    }
}

fn open_dir(at: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    Ok(openat(
        at,
        name,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// Removes a VM's cgroup through a descriptor of itself: paths of the host don't reach us here.
fn remove_cgroup(cgroup: &OwnedFd, name: &str) -> io::Result<()> {
    let parent = open_dir(cgroup, "..")?;
    let mut events = std::fs::File::from(openat(
        cgroup,
        "cgroup.events",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut events)?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|l| l == "populated 0") || !wait_readable(&events, PollFlags::PRI, Some(5_000))? {
            break;
        }
    }
    unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
    let root = open_dir(&parent, "..")?;
    Ok(unlinkat(&root, "vial", AtFlags::REMOVEDIR)?)
}

/// Removes a VM's folder, which holds no folders.
fn remove_folder(folders: &OwnedFd, name: &str) -> io::Result<()> {
    let folder = open_dir(folders, name)?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(unlinkat(folders, name, AtFlags::REMOVEDIR)?)
}
