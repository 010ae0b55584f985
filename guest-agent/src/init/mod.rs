//! PID 1's duties around the agent proper: the first mounts, the network's first state, the end of the machine.

mod limits;
mod mounts;
mod network;

pub use limits::raise as raise_limits;
pub use network::set as set_network;

use std::fs;
use std::io;

/// Makes the initramfs into a system: mounts, own root, loopback, protection from the OOM killer.
///
/// # Errors
/// With what failed; the VM is of no use then.
pub fn boot() -> io::Result<()> {
    mounts::leave_initramfs()?;
    mounts::system()?;
    // The guest's own OOM killer must find something else: without the agent the VM is lost.
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    network::up()
}

/// Ends the VM. Returns only if the kernel refuses, and then PID 1's end ends it too.
pub fn power_off() -> ! {
    rustix::fs::sync();
    let refused = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    eprintln!("vial-agent: the machine can't be powered off: {refused:?}");
    std::process::exit(1)
}
