//! What a VM's process must not do, one row each: the calls, and who stops them besides the filter.
//!
//! Calls are chosen so that they do no harm where nobody stops them.

mod host;
mod machine;

use crate::injector::Entry;
use host::{files, processes, sockets};
use machine::{descriptors, kernel, memory, privileges};

/// An argument of a call.
pub enum Arg {
    /// A number.
    N(u64),
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// What the call with this index came back with.
    Got(usize),
    /// Process id of this test, a process of the host outside of every VM.
    HostPid,
    /// The address of a `sockaddr_in` that names a port of the host that this test listens on.
    HostPort,
}

/// One system call.
pub struct Call {
    /// How.
    pub entry: Entry,
    /// Its number.
    pub number: i64,
    /// Up to six.
    pub arguments: Vec<Arg>,
}

/// Who stops an act when there is no filter.
pub enum Second {
    /// This part of the jail, with one of these errors.
    Jail(&'static str, &'static [i32]),
    /// Nobody, and this is what it would be good for.
    Nobody(&'static str),
}

/// What the filters make of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Each of them ends the process.
    Kills,
    /// Each but those of the open and the API profile's main thread, which connects to sockets of the host for its guest.
    LetsConnect,
    /// Each but that of the API profile's main thread, whose clients give drives other files.
    LetsOpen,
    /// Each but that of the API profile's main thread with a PCI bus, whose clients plug interfaces in.
    LetsPlug,
    /// Each but those of main and vCPUs' threads with a PCI bus, whose guests say where messages go.
    LetsRoute,
    /// Each but that of the main thread with vhost-net, which gets a driver's queues ready.
    LetsShare,
    /// Each but those of main and vCPUs' threads with vhost-net, in which a driver resets its interface.
    LetsStop,
    /// Each but those of main threads and the loader's, which ask how long their files are: no filter can tell it from that.
    LetsLook,
}

/// A forbidden act.
pub struct Act {
    /// In a few words.
    pub name: &'static str,
    /// One after the other; the filter must stop one of them.
    pub calls: Vec<Call>,
    /// Without the filter.
    pub second: Second,
    /// What the filters make of it.
    pub filter: Filter,
}

fn act<const N: usize>(name: &'static str, calls: [Call; N], second: Second) -> Act {
    Act { name, calls: calls.into(), second, filter: Filter::Kills }
}

fn sys<const N: usize>(number: i64, arguments: [Arg; N]) -> Call {
    Call { entry: Entry::Syscall, number, arguments: arguments.into() }
}

fn n(number: impl TryInto<i64>) -> Arg {
    // Numbers of the kernel's interfaces: all of them fit.
    Arg::N(number.try_into().unwrap_or_default().cast_unsigned())
}

/// A path, or any other text that ends with a NUL.
fn text(text: &str) -> Arg {
    Arg::Bytes([text.as_bytes(), &[0]].concat())
}

fn zeroes(count: usize) -> Arg {
    Arg::Bytes(vec![0; count])
}

fn words<const N: usize>(words: [u64; N]) -> Arg {
    Arg::Bytes(words.map(u64::to_ne_bytes).concat())
}

/// A `struct sockaddr_un`, and its length.
fn unix(name: &str) -> [Arg; 2] {
    let bytes = [&libc::AF_UNIX.to_ne_bytes()[..2], name.as_bytes()].concat();
    let length = bytes.len();
    [Arg::Bytes(bytes), n(length)]
}

fn ioctl(request: u64) -> Call {
    sys(libc::SYS_ioctl, [n(2), Arg::N(request), zeroes(256)])
}

const TREE: &str = "empty tree";
const CAPABILITIES: &str = "no capabilities";
const PIDS: &str = "PID namespace";
const NETWORK: &str = "network namespace";
const EPERM: &[i32] = &[libc::EPERM];
const GONE: &[i32] = &[libc::ENOENT];
const NOBODY: &[i32] = &[libc::ESRCH];

fn nobody(what: &'static str) -> Second {
    Second::Nobody(what)
}

/// All of them.
pub fn all() -> Vec<Act> {
    [files(), sockets(), processes(), memory(), privileges(), kernel(), descriptors()]
        .into_iter()
        .flatten()
        .collect()
}
