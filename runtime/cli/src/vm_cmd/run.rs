//! `vial vm run`: boot, console on the terminal, truthful end, nothing left behind.

use super::escape::{Escape, Key};
use super::spec::RunArgs;
use super::{DETACHED, SEE_DOCTOR, registry, runtime};
use crate::output::{remark, tell};
use crate::terminal::Raw;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vial_vm::exit::ExitReason;
use vial_vm::spec::OWNER_VM;
use vial_vm::{ConsoleSpec, EndReason, Error, Launcher, Parts, Registry, Vm, VmExit, VmId, VmSpec, VmState};

/// How long a guest has for powering off when it is asked to end.
const GRACE: Duration = Duration::from_secs(10);
/// Exit status for a VM process that was killed: 128 + SIGKILL.
const KILLED: i32 = 137;
/// Exit status when it was called off before there was a VM: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// What is shown of a failed VM process's own words, in bytes.
const LOG_TAIL: u64 = 2000;

pub fn run(args: RunArgs) -> Result<i32, Error> {
    // First of all: nothing before this may start a thread.
    let launcher = Launcher::start()?;
    let parts = Parts::find()?;
    let id = match &args.name {
        Some(name) => name.parse()?,
        None => VmId::random()?,
    };
    let spec = args.to_spec(&parts).map_err(Error::Spec)?;
    if !spec.kernel.exists() && args.kernel.is_none() {
        return Err(Error::PartMissing { what: "the guest kernel (vmlinux)", path: spec.kernel });
    }
    let registry = registry()?;
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        // What a `vial vm run` left that was killed together with its launcher.
        registry.sweep_if(OWNER_VM, |info| !info.labels.contains_key(DETACHED)).await?;
        replace_ended(&registry, &id).await?;
        if let Some(missing) = &launcher.isolation().missing {
            tell(&format!("the VM process will be less isolated than it could be: {missing}"));
        }
        let start = Start { launcher, registry, parts, id, timing: args.timing };
        if args.detach { start.detached(spec).await } else { start.foreground(spec, args.no_console).await }
    });
    // A thread may be reading standard input; it ends with the process.
    runtime.shutdown_background();
    code
}

/// A detached VM of this name that has ended makes room.
async fn replace_ended(registry: &Registry, id: &VmId) -> Result<(), Error> {
    match registry.info(id) {
        Ok(info) if info.owner == OWNER_VM && matches!(info.state, VmState::Ended(_)) => {
            registry.remove(id).await
        }
        Ok(_) => Err(Error::Exists(id.clone())),
        Err(Error::NotFound(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

struct Start {
    launcher: Launcher,
    registry: Registry,
    parts: Parts,
    id: VmId,
    timing: bool,
}

impl Start {
    async fn launch(&self, spec: VmSpec) -> Result<Vm, Error> {
        Vm::launch(&self.launcher, &self.registry, &self.parts, self.id.clone(), spec).await
    }

    async fn detached(self, mut spec: VmSpec) -> Result<i32, Error> {
        spec.console = ConsoleSpec::Log;
        self.launch(spec).await?;
        // It runs, whether or not its name gets anywhere.
        if let Err(error) = super::write(&format!("{}\n", self.id)) {
            tell(&format!("VM {} runs, but {error}", self.id));
        }
        Ok(0)
    }

    async fn foreground(self, mut spec: VmSpec, no_console: bool) -> Result<i32, Error> {
        // Before the VM exists, so that no signal can fall between.
        let mut signals = Signals::new()?;
        let console = if no_console {
            None
        } else {
            let (ours, theirs) =
                Console::pipes().map_err(|source| Error::System { what: "make the console", source })?;
            spec.console = theirs;
            Some(ours)
        };
        let launched = tokio::select! {
            vm = self.launch(spec) => vm,
            // Dropping a launch undoes it.
            () = signals.next() => return Ok(INTERRUPTED),
        };
        let vm = launched?;
        let raw = match &console {
            Some(_) if Raw::is_possible() => {
                tell(&format!("VM {}; Ctrl-A x ends it, Ctrl-A Ctrl-A sends a Ctrl-A", self.id));
                Raw::enter().ok()
            }
            _ => None,
        };
        let outcome = attend(&vm, console, raw.is_some(), &mut signals).await;
        drop(raw);
        let exit = match outcome {
            Ok(exit) => exit,
            Err(error) => {
                // Whatever went wrong, no VM stays behind.
                vm.kill()?;
                vm.wait_exit().await;
                remove(vm).await?;
                return Err(error);
            }
        };
        if self.timing {
            print_timing(&vm, &exit);
        }
        let code = report(&vm, &exit);
        remove(vm).await?;
        Ok(code)
    }
}

/// Another `vial vm` may have been quicker.
async fn remove(vm: Vm) -> Result<(), Error> {
    match vm.remove().await {
        Err(Error::NotFound(_)) => Ok(()),
        other => other,
    }
}

/// SIGINT, SIGTERM and SIGHUP.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Error> {
        let watch = |kind| signal(kind).map_err(|source| Error::System { what: "watch for signals", source });
        Ok(Self([
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
            watch(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
    }
}

/// Our ends of the console's pipes.
struct Console {
    to_guest: pipe::Sender,
    from_guest: pipe::Receiver,
}

impl Console {
    fn pipes() -> io::Result<(Self, ConsoleSpec)> {
        let (input, to_guest): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_guest, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true);
        nonblocking(&to_guest)?;
        nonblocking(&from_guest)?;
        let ours = Self {
            to_guest: pipe::Sender::from_owned_fd(to_guest)?,
            from_guest: pipe::Receiver::from_owned_fd(from_guest)?,
        };
        Ok((ours, ConsoleSpec::Fds { input: Some(input), output }))
    }
}

/// Moves bytes and waits for the end, or for somebody who wants it.
async fn attend(
    vm: &Vm,
    console: Option<Console>,
    raw: bool,
    signals: &mut Signals,
) -> Result<VmExit, Error> {
    let (keys, mut asked) = tokio::sync::mpsc::channel(1);
    let tasks = console.map(|Console { to_guest, from_guest }| {
        (tokio::spawn(type_in(to_guest, raw, keys.clone())), tokio::spawn(print(from_guest, keys)))
    });
    let mut wish = async || {
        tokio::select! { () = signals.next() => {}, Some(Key::End) = asked.recv() => {} }
    };
    let exit = tokio::select! {
        exit = vm.wait_exit() => exit,
        () = wish() => end(vm, &mut wish).await?,
    };
    if let Some((input, output)) = tasks {
        input.abort();
        // The VM's end of the pipe closed with it: this ends when all is printed, unless nobody takes it.
        tokio::select! { _ = output => {}, () = signals.next() => {} }
    }
    Ok(exit)
}

/// Asks the guest to power off; a second wish is a command.
async fn end(vm: &Vm, wish: &mut impl AsyncFnMut()) -> Result<VmExit, Error> {
    tokio::select! {
        exit = vm.stop(GRACE) => exit,
        () = wish() => {
            vm.kill()?;
            Ok(vm.wait_exit().await)
        }
    }
}

/// Standard input → guest. The guest's end stays open when ours ends: a console has no end of file.
async fn type_in(mut to_guest: pipe::Sender, raw: bool, keys: tokio::sync::mpsc::Sender<Key>) {
    let (mut stdin, mut escape) = (tokio::io::stdin(), Escape::default());
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stdin.read(&mut buffer).await {
        let mut guest = Vec::with_capacity(read);
        if !raw {
            guest.extend(&buffer[..read]);
        } else if let Some(key) = escape.feed(&buffer[..read], &mut guest) {
            let _ = keys.send(key).await;
        }
        if to_guest.write_all(&guest).await.is_err() {
            return;
        }
    }
    // Keeps the pipe open, until this task is ended.
    let _open = (to_guest, keys);
    std::future::pending::<()>().await;
}

/// Guest → standard output. When nobody reads that any more, as when a pipeline ends, the VM has no purpose.
async fn print(mut from_guest: pipe::Receiver, keys: tokio::sync::mpsc::Sender<Key>) {
    let mut stdout = tokio::io::stdout();
    let mut buffer = [0; 16384];
    while let Ok(read @ 1..) = from_guest.read(&mut buffer).await {
        let written: io::Result<()> = async {
            stdout.write_all(&buffer[..read]).await?;
            stdout.flush().await
        }
        .await;
        if written.is_err() {
            let _ = keys.send(Key::End).await;
            return;
        }
    }
}

/// Says how it ended, unless that was in order; gives the exit status.
fn report(vm: &Vm, exit: &VmExit) -> i32 {
    if !exit.reason.is_clean() {
        let failed = exit.reason == EndReason::Exit(ExitReason::InternalError);
        tell(&format!("VM {}: {exit}{}", vm.id(), if failed { SEE_DOCTOR } else { "" }));
        let log = log_tail(vm).unwrap_or_default();
        // The process says its reason on standard error too, for those who run it without us.
        let said = match exit.reason {
            EndReason::Exit(reason) => format!("vial-vmm: {}", reason.in_words(&exit.detail)),
            EndReason::Killed => String::new(),
        };
        if !log.trim().is_empty() && log.trim() != said {
            remark(&format!("{}\n", crate::output::plain(log.trim_end())));
        }
    }
    match exit.reason {
        EndReason::Exit(reason) => reason.code(),
        EndReason::Killed => KILLED,
    }
}

/// The last of what the VM process wrote to standard error. It may come from a process that a guest took over, so what
/// could steer a terminal is left out.
fn log_tail(vm: &Vm) -> io::Result<String> {
    let mut file = std::fs::File::open(vm.dir().join("vmm.log"))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect())
}

fn print_timing(vm: &Vm, exit: &VmExit) {
    let start = vm.meta().created_mono_us;
    let since = |at: u64| at.saturating_sub(start) as f64 / 1000.0;
    for milestone in &exit.milestones {
        tell(&format!("{:>10.2} ms  {}", since(milestone.at_us), super::manage::step_name(milestone.step)));
    }
    if let Some(at) = exit.at_us {
        tell(&format!("{:>10.2} ms  {}", since(at), exit.reason));
    }
}
