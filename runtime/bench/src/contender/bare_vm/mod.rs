//! Virtual machines without containers. For a command: the same kernel, the image as initial RAM disk, the command as first process. For the
//! agent's word: the same kernel, and the initial RAM disk of pods with the agent in it. A floor: what a VM costs at least, with Vial's VMM and
//! with others.

mod line;

use super::{About, Contender, Ground, MARKER, Ready, find, line, version};
use crate::child::{Ear, Start, Until, quietly};
use crate::result::{ContenderKind, Scenario};
use line::{Boot, Device};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Memory of each, MiB.
const MEMORY: u32 = 128;
/// The first context id of guests on vhost-vsock; those who number theirs from 3 on are far below it.
const FIRST_CID: u32 = 0x5649_0000;

/// Vial's VMM as `vial vm` starts it and as Firecracker's users would, QEMU's microvm, Firecracker, Cloud Hypervisor
pub fn all() -> Vec<Box<dyn Contender>> {
    let vm = |vmm| -> Box<dyn Contender> { Box::new(BareVm::new(vmm)) };
    [Vmm::Vial, Vmm::VialAlone, Vmm::Qemu, Vmm::Firecracker, Vmm::CloudHypervisor].map(vm).into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vmm {
    /// `vial vm run`: launcher and jail included.
    Vial,
    /// `vial-vmm`, with its own filters only.
    VialAlone,
    Qemu,
    Firecracker,
    CloudHypervisor,
}

struct BareVm {
    vmm: Vmm,
    program: PathBuf,
    folder: PathBuf,
    kernel: PathBuf,
    /// The initial RAM disk with the agent in it.
    agent: Option<PathBuf>,
    /// Guests on vhost-vsock so far.
    guests: AtomicU32,
}

impl BareVm {
    fn new(vmm: Vmm) -> Self {
        let [program, folder, kernel] = [const { PathBuf::new() }; 3];
        Self { vmm, program, folder, kernel, agent: None, guests: AtomicU32::new(0) }
    }

    /// Somebody who hears the agent of a VM, and the device by which it is heard.
    fn ear(&self, id: &str, at_once: u32) -> Result<(Ear, Device), String> {
        match self.vmm {
            Vmm::Vial => {
                Err("`vial vm run` gives a guest no socket device; vial-vmm alone and vial's pods do".into())
            }
            Vmm::Qemu if at_once > 1 => Err("all guests on vhost-vsock speak to one port of the host".into()),
            Vmm::Qemu => {
                let ear = Ear::of_the_host().map_err(|error| {
                    format!("can't listen on the host's vsock (modprobe vhost_vsock): {error}")
                })?;
                let number = self.guests.fetch_add(1, Ordering::Relaxed);
                Ok((ear, Device::Vhost { cid: FIRST_CID + number % (1 << 16) }))
            }
            Vmm::VialAlone | Vmm::Firecracker | Vmm::CloudHypervisor => {
                let device = self.folder.join(format!("{id}.sock"));
                let ear = Ear::beside(&device)
                    .map_err(|error| format!("can't listen beside {}: {error}", device.display()))?;
                Ok((ear, Device::Unix(device)))
            }
        }
    }
}

impl Contender for BareVm {
    fn about(&self) -> About {
        let (name, title, program) = match self.vmm {
            Vmm::Vial => ("vial-vm", "bare microVM of Vial's VMM, jailed", None),
            Vmm::VialAlone => ("vial-vmm", "bare microVM of Vial's VMM, without launcher and jail", None),
            Vmm::Qemu => ("qemu-microvm", "bare microVM of QEMU", Some("qemu-system-x86_64")),
            Vmm::Firecracker => ("firecracker", "bare microVM of Firecracker", Some("firecracker")),
            Vmm::CloudHypervisor => {
                ("cloud-hypervisor", "bare VM of Cloud Hypervisor", Some("cloud-hypervisor"))
            }
        };
        About { name, title, kind: ContenderKind::Vm, program }
    }

    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String> {
        self.program = match (self.vmm, self.about().program) {
            (_, Some(name)) => find(name).ok_or_else(|| format!("{name} is not on the PATH"))?,
            (Vmm::VialAlone, None) => ground.parts.vmm.clone().ok_or("vial-vmm is not installed")?,
            (_, None) => ground.vial.clone(),
        };
        self.kernel =
            ground.parts.kernel.clone().ok_or("there is no guest kernel; give one with --kernel")?;
        self.agent.clone_from(&ground.parts.agent);
        self.folder = ground.folder.join(self.about().name);
        std::fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        ground.image.initrd(&self.folder.join("initrd"))?;
        Ok(Ready {
            version: version(&self.program, &["--version"], ground.stop),
            image: Some(ground.image.id.clone()),
            notes: vec![
                "no container, no network, no disk: the same kernel for all of these, the image as initial RAM disk, 1 processor, 128 MiB"
                    .into(),
            ],
        })
    }

    fn start(&self, scenario: Scenario, id: &str, _: u16, at_once: u32) -> Result<Start, String> {
        let (until, boot) = match scenario {
            // Firecracker tells its own log on standard output.
            Scenario::Exit if self.vmm == Vmm::Firecracker => (Until::AnyExit, Boot::Exit),
            Scenario::Exit => (Until::Exit { output: vec![] }, Boot::Exit),
            // A terminal makes of the line's end what it likes.
            Scenario::FirstByte => {
                (Until::Output { marker: MARKER.trim().into(), console: true }, Boot::FirstByte)
            }
            Scenario::Agent => {
                let initrd =
                    self.agent.clone().ok_or("the initial RAM disk with the agent is not installed")?;
                let (ear, device) = self.ear(id, at_once)?;
                (Until::Heard(Arc::new(ear)), Boot::Agent { initrd, device })
            }
            Scenario::Http => return Err("a bare VM has no network".into()),
        };
        Ok(Start { command: self.command(&boot, id)?, until })
    }

    fn idle(&self, _: &str) -> Result<Vec<OsString>, String> {
        Err("a bare VM is no pod".into())
    }

    fn clear(&self, id: &str) {
        if self.vmm == Vmm::Vial {
            quietly(&line(&self.program, &["vm", "kill", id]));
        }
    }
}
