//! Virtual machines without containers: the same kernel, the image as initial RAM disk, the command as first process. A floor: what a VM costs
//! at least, with Vial's VMM and with others.

use super::{About, Contender, Ground, MARKER, Ready, find, line, version};
use crate::child::{Start, Until, quietly};
use crate::result::{ContenderKind, Scenario};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

/// Memory of each, MiB.
const MEMORY: u32 = 128;

/// Vial's VMM, QEMU's microvm, Firecracker, Cloud Hypervisor
pub fn all() -> Vec<Box<dyn Contender>> {
    let vm = |vmm| -> Box<dyn Contender> {
        Box::new(BareVm { vmm, program: PathBuf::new(), folder: PathBuf::new(), kernel: PathBuf::new() })
    };
    [Vmm::Vial, Vmm::Qemu, Vmm::Firecracker, Vmm::CloudHypervisor].map(vm).into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vmm {
    Vial,
    Qemu,
    Firecracker,
    CloudHypervisor,
}

struct BareVm {
    vmm: Vmm,
    program: PathBuf,
    folder: PathBuf,
    kernel: PathBuf,
}

impl BareVm {
    /// The kernel's command line: the first process does the scenario's work and switches the machine off.
    fn kernel_words(&self, scenario: Scenario) -> String {
        let (console, work) = match scenario {
            Scenario::FirstByte => (true, format!("echo {}; ", MARKER.trim())),
            Scenario::Exit | Scenario::Http => (false, "true; ".to_owned()),
        };
        let console = match (console, self.vmm) {
            (false, _) | (true, Vmm::Vial) => "",
            (true, Vmm::Qemu | Vmm::CloudHypervisor) => "console=hvc0 ",
            (true, Vmm::Firecracker) => "console=ttyS0 ",
        };
        let off = match self.vmm {
            // It has no power button to be pressed from inside: a reset ends it.
            Vmm::Firecracker => "reboot -f",
            _ => "poweroff -f",
        };
        format!("{console}quiet panic=-1 reboot=k rdinit=/bin/sh -- -c \"{work}{off}\"")
    }

    fn command(&self, scenario: Scenario, id: &str) -> Vec<OsString> {
        let (kernel, initrd) = (self.kernel.as_os_str(), self.folder.join("initrd"));
        let words = self.kernel_words(scenario);
        let memory = MEMORY.to_string();
        let mut line = line::<&str>(&self.program, &[]);
        let mut add = |parts: &[&std::ffi::OsStr]| line.extend(parts.iter().map(|part| (*part).to_owned()));
        let o = std::ffi::OsStr::new;
        match self.vmm {
            Vmm::Vial => {
                let memory = format!("{MEMORY}m");
                add(&[
                    o("vm"),
                    o("run"),
                    o("--name"),
                    o(id),
                    o("--memory"),
                    o(&memory),
                    o("--kernel"),
                    kernel,
                ]);
                add(&[o("--initrd"), initrd.as_os_str(), o("--append"), o(&words)]);
            }
            Vmm::Qemu => {
                add(&[
                    o("-M"),
                    o("microvm,acpi=on,rtc=off,pit=off,pic=off,isa-serial=off"),
                    o("-accel"),
                    o("kvm"),
                ]);
                add(&[o("-cpu"), o("host"), o("-m"), o(&memory), o("-nodefaults"), o("-no-user-config")]);
                add(&[o("-display"), o("none"), o("-no-reboot"), o("-kernel"), kernel]);
                add(&[o("-initrd"), initrd.as_os_str(), o("-append"), o(&words)]);
                if scenario == Scenario::FirstByte {
                    add(&[o("-chardev"), o("stdio,id=out"), o("-device"), o("virtio-serial-device")]);
                    add(&[o("-device"), o("virtconsole,chardev=out")]);
                }
            }
            Vmm::Firecracker => {
                let config = self.folder.join(format!("{}.json", scenario.name()));
                add(&[o("--no-api"), o("--config-file"), config.as_os_str()]);
            }
            Vmm::CloudHypervisor => {
                let memory = format!("size={MEMORY}M");
                let console = if scenario == Scenario::FirstByte { "tty" } else { "off" };
                add(&[
                    o("--kernel"),
                    kernel,
                    o("--initramfs"),
                    initrd.as_os_str(),
                    o("--cmdline"),
                    o(&words),
                ]);
                add(&[o("--memory"), o(&memory), o("--cpus"), o("boot=1"), o("--serial"), o("off")]);
                add(&[o("--console"), o(console)]);
            }
        }
        line
    }
}

impl Contender for BareVm {
    fn about(&self) -> About {
        let (name, title, program) = match self.vmm {
            Vmm::Vial => ("vial-vm", "bare microVM of Vial's VMM", None),
            Vmm::Qemu => ("qemu-microvm", "bare microVM of QEMU", Some("qemu-system-x86_64")),
            Vmm::Firecracker => ("firecracker", "bare microVM of Firecracker", Some("firecracker")),
            Vmm::CloudHypervisor => {
                ("cloud-hypervisor", "bare VM of Cloud Hypervisor", Some("cloud-hypervisor"))
            }
        };
        About { name, title, kind: ContenderKind::Vm, program }
    }

    fn prepare(&mut self, ground: &Ground<'_>) -> Result<Ready, String> {
        self.program = match self.about().program {
            None => ground.vial.clone(),
            Some(name) => find(name).ok_or_else(|| format!("{name} is not on the PATH"))?,
        };
        self.kernel = ground.kernel.clone().ok_or("there is no guest kernel; give one with --kernel")?;
        self.folder = ground.folder.join(self.about().name);
        std::fs::create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        ground.image.initrd(&self.folder.join("initrd"))?;
        if self.vmm == Vmm::Firecracker {
            for scenario in [Scenario::Exit, Scenario::FirstByte] {
                let config = json!({
                    "boot-source": {
                        "kernel_image_path": self.kernel, "initrd_path": self.folder.join("initrd"),
                        "boot_args": self.kernel_words(scenario),
                    },
                    "drives": [],
                    "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY },
                });
                let path = self.folder.join(format!("{}.json", scenario.name()));
                std::fs::write(&path, config.to_string()).map_err(|error| error.to_string())?;
            }
        }
        Ok(Ready {
            version: version(&self.program, &["--version"], ground.stop),
            image: Some(ground.image.id.clone()),
            notes: vec![
                "no container, no network, no disk: the same kernel for all of these, the image as initial RAM disk, 1 processor, 128 MiB"
                    .into(),
            ],
        })
    }

    fn start(&self, scenario: Scenario, id: &str, _: u16, _: u32) -> Result<Start, String> {
        let until = match scenario {
            Scenario::Exit => Until::Exit { output: vec![] },
            // A terminal makes of the line's end what it likes.
            Scenario::FirstByte => Until::Output { marker: MARKER.trim().into(), console: true },
            Scenario::Http => return Err("a bare VM has no network".into()),
        };
        // Firecracker tells its own log on standard output.
        let until = match (until, self.vmm) {
            (Until::Exit { .. }, Vmm::Firecracker) => Until::AnyExit,
            (until, _) => until,
        };
        Ok(Start { command: self.command(scenario, id), until })
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
