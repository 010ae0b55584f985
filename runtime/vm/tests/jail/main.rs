//! The jail's proof: the production `vial-vmm` and its filters, made hostile from outside.
//!
//! A debugger makes a thread of a running VM's process do what it must not do, one act in one fresh VM: `acts/` lists them. For each
//! kind of thread and each profile the filter has to kill the process; and the same act in the same jail around a program that has no
//! filter has to fail too, wherever the table says that something else of the jail stops it. What is left to a thread that a guest has
//! taken over is read off the kernel: its filters, its descriptors, its namespaces (`reach.rs`).
//!
//! Both tables are kept in docs/jail.md; this test compares, and writes them with `--write`. It needs root, /dev/kvm (any: guests are
//! two instructions long) and a static `vial-vmm`, whose path is in VIAL_VMM: `tools/jail-proof` sees to all of it.
//!
//! A program of its own instead of libtest's harness: the launcher has to be forked while there is one thread.

#![allow(clippy::unwrap_used)] // a test, though not one that libtest runs

mod acts;
mod bpf;
mod injector;
mod names;
mod reach;
mod starts;
#[path = "../../../../vmm/tests/process/tiny.rs"]
mod tiny;
mod vms;

use acts::{Act, Arg, Filter, Second};
use injector::{Puppet, Seen};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use vial_vm::Launcher;
use vms::{Running, World};

/// A thread to do an act in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    PodMain,
    PodVcpu,
    OpenMain,
    OpenVcpu,
    OpenIo,
    ApiMain,
    ApiVcpu,
    ApiHttp,
    /// Reads kernel and initrd, while the main thread is held.
    Loader,
    // The kinds of VM whose filters allow other requests of ioctl(2), and nothing else: docs/jail.md lists them, off the kernel.
    PciMain,
    PciVcpu,
    PciApiMain,
    VhostMain,
    VhostVcpu,
    /// In the launcher's jail, without a filter.
    Unfiltered,
}

const ALL: [Where; 15] = [
    Where::PodMain,
    Where::PodVcpu,
    Where::OpenMain,
    Where::OpenVcpu,
    Where::OpenIo,
    Where::ApiMain,
    Where::ApiVcpu,
    Where::ApiHttp,
    Where::Loader,
    Where::PciMain,
    Where::PciVcpu,
    Where::PciApiMain,
    Where::VhostMain,
    Where::VhostVcpu,
    Where::Unfiltered,
];

impl Where {
    fn start(self, world: &World) -> Running {
        match self {
            Self::PodMain | Self::PodVcpu => world.jailed(),
            Self::OpenMain | Self::OpenVcpu | Self::OpenIo => world.open(),
            Self::ApiMain | Self::ApiVcpu | Self::ApiHttp => world.api(),
            Self::Loader => world.loading(),
            Self::PciMain | Self::PciVcpu => world.open_pci(),
            Self::PciApiMain => world.api_pci(),
            Self::VhostMain | Self::VhostVcpu => world.vhost(),
            Self::Unfiltered => world.unfiltered(),
        }
    }

    fn thread(self) -> &'static str {
        match self {
            Self::PodMain
            | Self::OpenMain
            | Self::ApiMain
            | Self::PciMain
            | Self::PciApiMain
            | Self::VhostMain => "vial-vmm",
            Self::PodVcpu | Self::OpenVcpu | Self::ApiVcpu | Self::PciVcpu | Self::VhostVcpu => "vcpu0",
            Self::Loader => "loader",
            Self::OpenIo => "io0",
            Self::ApiHttp => "api",
            Self::Unfiltered => "probe",
        }
    }

    /// Whether its filter lets this act be; the table says why.
    fn may(self, filter: Filter) -> bool {
        match filter {
            Filter::Kills => false,
            Filter::LetsLook => matches!(self.thread(), "vial-vmm" | "loader"),
            Filter::LetsConnect => matches!(self, Self::OpenMain | Self::ApiMain),
            Filter::LetsOpen => self == Self::ApiMain,
            Filter::LetsPlug => self == Self::PciApiMain,
            Filter::LetsRoute => matches!(self, Self::PciMain | Self::PciVcpu | Self::PciApiMain),
            Filter::LetsShare => self == Self::VhostMain,
            Filter::LetsStop => matches!(self, Self::VhostMain | Self::VhostVcpu),
        }
    }

    /// Whether its filter can make anything else of this act than another's does.
    fn differs(self, act: &Act) -> bool {
        let only_in_requests = matches!(
            self,
            Self::PciMain | Self::PciVcpu | Self::PciApiMain | Self::VhostMain | Self::VhostVcpu
        );
        !only_in_requests || act.calls.iter().any(|call| call.number == libc::SYS_ioctl)
    }
}

/// What the host has that a VM's process must not reach.
struct Bait {
    tcp: TcpListener,
    _abstract: UnixListener,
}

impl Bait {
    fn new() -> Self {
        let name = SocketAddr::from_abstract_name("vial-jail-proof").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { tcp, _abstract: UnixListener::bind_addr(&name).unwrap() }
    }

    /// `struct sockaddr_in`.
    fn address(&self) -> Vec<u8> {
        let port = self.tcp.local_addr().unwrap().port().to_be_bytes();
        [&[2, 0][..], &port, &[127, 0, 0, 1], &[0; 8]].concat()
    }
}

/// Starts and stops that nothing may be left of, where no other number is asked for.
const STARTS: u32 = 60;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let mounts = number("--mounts").unwrap_or(0);
    let folder = tempfile::tempdir().unwrap();
    if mounts > 0 {
        injector::add_mounts(folder.path(), mounts as usize).unwrap();
    }
    let launcher = Launcher::start().expect("no thread was made before this");
    let Some(vmm) = std::env::var_os("VIAL_VMM").map(PathBuf::from) else {
        panic!("VIAL_VMM must name a static vial-vmm; tools/jail-proof does it all");
    };
    let isolation = launcher.isolation();
    assert!(
        isolation.namespaces && isolation.own_ids,
        "the proof is of the whole jail, so it needs root: {isolation:?}"
    );
    let world = World::new(launcher, &vmm);
    let failed = if arguments.iter().any(|argument| argument == "--cost") {
        starts::cost(&world, mounts as usize);
        0
    } else if let Some(count) = number("--starts") {
        leaks(&world, count)
    } else {
        prove(&world, arguments.iter().any(|argument| argument == "--write"))
    };
    drop((world, folder));
    std::process::exit(i32::from(failed > 0));
}

/// Says what so many starts and stops left behind; how many things.
fn leaks(world: &World, count: u32) -> usize {
    let left = starts::leaks(world, count);
    left.iter().for_each(|what| println!("{what}"));
    println!(
        "{count} starts and stops: {}",
        if left.is_empty() { "nothing was left behind" } else { "see above" }
    );
    left.len()
}

/// Goes through both tables; how many rows are wrong.
fn prove(world: &World, write: bool) -> usize {
    let bait = Bait::new();
    let mut failures = Vec::new();
    let acts = acts::all();
    for act in &acts {
        for place in ALL.into_iter().filter(|place| place.differs(act)) {
            let seen = attempt(world, &bait, act, place);
            if let Err(why) = judge(act, place, seen) {
                println!("{}, {place:?}: {why}", act.name);
                failures.push(act.name);
            }
        }
    }
    failures.dedup();
    let page = reach::page(world, &acts);
    let mut failed = failures.len() + leaks(world, STARTS).min(1);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/jail.md");
    let old = std::fs::read_to_string(&docs).unwrap_or_default();
    if write {
        std::fs::write(&docs, page).unwrap();
    } else if old != page {
        println!(
            "docs/jail.md does not say what was found; write it with tools/jail-proof --write, and look at what changed"
        );
        failed += 1;
    }
    let passed = acts.len() + 2 - failed;
    println!("test result: {}. {passed} passed; {failed} failed;", if failed == 0 { "ok" } else { "FAILED" });
    failed
}

/// Does the act in a fresh process; what came of its last call.
fn attempt(world: &World, bait: &Bait, act: &Act, place: Where) -> Seen {
    let running = place.start(world);
    let mut puppet = running.puppet(place.thread());
    let seen = perform(&mut puppet, bait, act);
    puppet.kill();
    world.end(running);
    seen
}

fn perform(puppet: &mut Puppet, bait: &Bait, act: &Act) -> Seen {
    let (mut results, mut last) = (Vec::new(), Seen::Returned(0));
    for call in &act.calls {
        let mut numbers = [0; 6];
        for (number, argument) in numbers.iter_mut().zip(&call.arguments) {
            *number = match argument {
                Arg::N(number) => *number,
                Arg::Bytes(bytes) => puppet.put(bytes).unwrap(),
                Arg::Got(call) => results[*call],
                Arg::HostPid => std::process::id().into(),
                Arg::HostPort => puppet.put(&bait.address()).unwrap(),
            };
        }
        last = puppet.call(call.entry, call.number, numbers).unwrap();
        match last {
            Seen::Returned(value) if value >= 0 => results.push(value.cast_unsigned()),
            _ => break,
        }
    }
    last
}

/// Whether that is what the table promises.
fn judge(act: &Act, place: Where, seen: Seen) -> Result<(), String> {
    let killed = matches!(seen, Seen::Killed(libc::SIGSYS))
        // A kernel without that entry has nothing to filter.
        || act.calls.iter().any(|call| call.entry == injector::Entry::Int80) && seen == Seen::Killed(libc::SIGSEGV);
    match (place, &act.second) {
        (Where::Unfiltered, Second::Nobody(_)) => Ok(()),
        (Where::Unfiltered, Second::Jail(_, errors)) => match seen {
            Seen::Returned(value) if errors.iter().any(|errno| value == -i64::from(*errno)) => Ok(()),
            _ => Err(format!("one of the errors {errors:?} was promised, and {seen:?} was seen")),
        },
        _ if place.may(act.filter) => match seen {
            // The table must not promise less either.
            Seen::Returned(_) => Ok(()),
            Seen::Killed(_) => Err(format!("the filter should let it be, and it ended with {seen:?}")),
        },
        _ if killed => Ok(()),
        _ => Err(format!("the filter did not stop it: {seen:?}")),
    }
}
