//! `vial-agent`: PID 1 inside a microVM. It runs a pod's containers for the host.
//!
//! It must never know of images, pods' policies or the daemon: the host sends disks by serial number and OCI runtime specs,
//! and the agent does what PID 1, a container runtime and the two protocol ports need. **The container is hostile to the agent.**
#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic))]

mod agent;
mod boot;
mod capabilities;
mod cgroup;
mod command;
mod container;
mod control;
mod debug;
mod devices;
mod disks;
mod errors;
mod etc;
mod events;
mod forward;
mod frames;
mod init;
mod inside;
mod interface;
mod ipc;
mod listen;
mod netlink;
mod oom;
mod own_stats;
mod processes;
mod reaper;
mod rootfs;
mod runtime;
mod seccomp;
mod spec;
mod streams;
mod sys;
mod users;
mod volumes;

use agent::Agent;
use agent_protocol::{PROTOCOL, Ready};
use boot::Mark;
use listen::Ports;
use reaper::Reaper;
use runtime::Youki;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::task::LocalSet;

/// Where the runtime keeps its state, on the tmpfs that ends with the VM.
const RUNTIME_STATE: &str = "/run/vial/runtime";

fn main() -> ExitCode {
    boot::reached(Mark::Started);
    if std::process::id() != 1 {
        eprintln!("vial-agent: this is the first process of a Vial microVM and does nothing elsewhere");
        return ExitCode::from(2);
    }
    // The end of PID 1 is a kernel panic, which the VMM reports as such: the truthful end of a VM without an agent.
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vial-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    init::boot()?;
    boot::reached(Mark::Mounted);
    cgroup::prepare()?;
    std::fs::create_dir_all(RUNTIME_STATE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(serve()))
}

async fn serve() -> io::Result<()> {
    let reaper = Rc::new(Reaper::default());
    let children = reaper::children()?;
    // Listening comes before the introduction: the host may connect as soon as it knows that the agent is there.
    let ports = Ports::bind()?;
    boot::reached(Mark::Listening);
    let welcome = match listen::introduce(&ready(), init::raise_limits).await {
        Ok(welcome) => welcome,
        Err(error) => {
            eprintln!("vial-agent: the host does not answer: {error}; powering off");
            init::power_off();
        }
    };
    boot::reached(Mark::Introduced);
    let runtime = Youki::new(Path::new(RUNTIME_STATE));
    let agent = Agent::new(welcome.token, Rc::clone(&reaper), Box::new(runtime));
    tokio::try_join!(ports.serve(agent), reaper.run(children)).map(drop)
}

fn ready() -> Ready {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Ready {
        protocol: PROTOCOL,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uptime_us: up.tv_sec as u64 * 1_000_000 + up.tv_nsec as u64 / 1_000,
    }
}
