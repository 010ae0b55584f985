//! Command lines of bare VMs, and the documents that they name.

use super::{BareVm, MEMORY, Vmm};
use crate::contender::MARKER;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a VM boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// `true`.
    Exit,
    /// `echo`.
    FirstByte,
    /// The agent.
    Agent {
        /// The initial RAM disk that it is in.
        initrd: PathBuf,
        /// The socket device on which it is heard.
        device: Device,
    },
}

/// Where a socket device's connections to the host end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// At Unix sockets beside this path.
    Unix(PathBuf),
    /// In the host's kernel, whose name for the guest this is.
    Vhost { cid: u32 },
}

/// A command line that grows.
struct Words(Vec<OsString>);

impl Words {
    fn add<W: Into<OsString>>(&mut self, words: impl IntoIterator<Item = W>) -> &mut Self {
        self.0.extend(words.into_iter().map(Into::into));
        self
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.add([OsString::from(name), value.into()])
    }
}

impl BareVm {
    /// The kernel's command line: the first process does the work and switches the machine off, unless it is the agent.
    fn kernel_words(&self, boot: &Boot) -> String {
        let (console, work) = match boot {
            Boot::Exit => (false, "true; ".to_owned()),
            Boot::FirstByte => (true, format!("echo {}; ", MARKER.trim())),
            Boot::Agent { .. } => (true, String::new()),
        };
        let console = match (console, self.vmm) {
            // `vial vm run` adds the word itself.
            (false, _) | (true, Vmm::Vial) => "",
            (true, Vmm::VialAlone | Vmm::Qemu | Vmm::CloudHypervisor) => "console=hvc0 ",
            (true, Vmm::Firecracker) => "console=ttyS0 ",
        };
        let common = "quiet panic=-1 reboot=k";
        if let Boot::Agent { .. } = boot {
            return format!("{console}{common}");
        }
        let off = match self.vmm {
            // It has no power button to be pressed from inside: a reset ends it.
            Vmm::Firecracker => "reboot -f",
            _ => "poweroff -f",
        };
        format!("{console}{common} rdinit=/bin/sh -- -c \"{work}{off}\"")
    }

    fn initrd(&self, boot: &Boot) -> PathBuf {
        match boot {
            Boot::Agent { initrd, .. } => initrd.clone(),
            Boot::Exit | Boot::FirstByte => self.folder.join("initrd"),
        }
    }

    /// What is executed for one start; documents that it names are written.
    pub(super) fn command(&self, boot: &Boot, id: &str) -> Result<Vec<OsString>, String> {
        let mut words = Words(vec![self.program.clone().into()]);
        match self.vmm {
            Vmm::Vial => self.vial(&mut words, boot, id),
            Vmm::VialAlone | Vmm::Firecracker => {
                let path = self.folder.join(format!("{id}.json"));
                std::fs::write(&path, self.document(boot).to_string())
                    .map_err(|error| format!("can't write {}: {error}", path.display()))?;
                words.add(["--no-api"]).option("--config-file", path);
            }
            Vmm::Qemu => self.qemu(&mut words, boot),
            Vmm::CloudHypervisor => self.cloud_hypervisor(&mut words, boot),
        }
        Ok(words.0)
    }

    fn vial(&self, words: &mut Words, boot: &Boot, id: &str) {
        words.add(["vm", "run"]).option("--name", id).option("--memory", format!("{MEMORY}m"));
        words.option("--kernel", &self.kernel).option("--initrd", self.initrd(boot));
        words.option("--append", self.kernel_words(boot));
    }

    /// What Firecracker and `vial-vmm` are configured with.
    fn document(&self, boot: &Boot) -> Value {
        let mut document = json!({
            "boot-source": {
                "kernel_image_path": self.kernel, "initrd_path": self.initrd(boot),
                "boot_args": self.kernel_words(boot),
            },
            "drives": [],
            "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY },
        });
        if let Boot::Agent { device: Device::Unix(path), .. } = boot {
            document["vsock"] = json!({ "guest_cid": 3, "uds_path": path });
        }
        // Firecracker has a serial port at once, and no other console.
        if self.vmm == Vmm::VialAlone {
            match boot {
                Boot::Exit => {}
                Boot::FirstByte => document["vial"] = json!({ "console": { "output": "/dev/stdout" } }),
                Boot::Agent { .. } => document["vial"] = json!({ "console": { "output": "/dev/null" } }),
            }
        }
        document
    }

    fn qemu(&self, words: &mut Words, boot: &Boot) {
        words.option("-M", "microvm,acpi=on,rtc=off,pit=off,pic=off,isa-serial=off").option("-accel", "kvm");
        words.option("-cpu", "host").option("-m", MEMORY.to_string());
        words.add(["-nodefaults", "-no-user-config", "-no-reboot"]).option("-display", "none");
        words.option("-kernel", &self.kernel).option("-initrd", self.initrd(boot));
        words.option("-append", self.kernel_words(boot));
        let console = match boot {
            Boot::Exit => None,
            Boot::FirstByte => Some("stdio,id=out"),
            Boot::Agent { .. } => Some("null,id=out"),
        };
        if let Some(console) = console {
            words.option("-chardev", console).option("-device", "virtio-serial-device");
            words.option("-device", "virtconsole,chardev=out");
        }
        if let Boot::Agent { device: Device::Vhost { cid }, .. } = boot {
            words.option("-device", format!("vhost-vsock-device,guest-cid={cid}"));
        }
    }

    fn cloud_hypervisor(&self, words: &mut Words, boot: &Boot) {
        words.option("--kernel", &self.kernel).option("--initramfs", self.initrd(boot));
        words.option("--cmdline", self.kernel_words(boot)).option("--memory", format!("size={MEMORY}M"));
        words.option("--cpus", "boot=1").option("--serial", "off");
        let console = match boot {
            Boot::Exit => "off",
            Boot::FirstByte => "tty",
            Boot::Agent { .. } => "null",
        };
        words.option("--console", console);
        if let Boot::Agent { device: Device::Unix(path), .. } = boot {
            words.option("--vsock", socket(path));
        }
    }
}

/// Cloud Hypervisor's words for a socket device.
fn socket(path: &Path) -> OsString {
    let mut words = OsString::from("cid=3,socket=");
    words.push(path);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(vmm: Vmm, boot: &Boot) -> String {
        let folder = tempfile::tempdir().unwrap();
        let vm = BareVm {
            program: "/bin/vmm".into(),
            folder: folder.path().to_owned(),
            kernel: "/vmlinux".into(),
            ..BareVm::new(vmm)
        };
        let line = vm.command(boot, "ID").unwrap();
        let mut said: Vec<_> = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        said.extend(std::fs::read_to_string(folder.path().join("ID.json")));
        said.join(" ")
    }

    #[test]
    fn the_agent_is_booted_alike_by_all_and_is_heard_by_each_ones_way() {
        let boot = |device| Boot::Agent { initrd: "/agent.cpio".into(), device };
        let unix = boot(Device::Unix("/run/v.sock".into()));
        let vhost = boot(Device::Vhost { cid: 7 });
        for (vmm, boot, way) in [
            (Vmm::VialAlone, &unix, r#""uds_path":"/run/v.sock""#),
            (Vmm::Firecracker, &unix, r#""uds_path":"/run/v.sock""#),
            (Vmm::CloudHypervisor, &unix, "--vsock cid=3,socket=/run/v.sock"),
            (Vmm::Qemu, &vhost, "-device vhost-vsock-device,guest-cid=7"),
        ] {
            let said = said(vmm, boot);
            assert!(said.contains(way), "{said}");
            assert!(said.contains("/vmlinux") && said.contains("/agent.cpio"), "{said}");
            assert!(said.contains("quiet panic=-1 reboot=k") && !said.contains("rdinit"), "{said}");
        }
    }

    #[test]
    fn a_command_is_the_first_process_and_switches_the_machine_off() {
        for vmm in [Vmm::Vial, Vmm::VialAlone, Vmm::Qemu, Vmm::CloudHypervisor] {
            let said = said(vmm, &Boot::Exit);
            assert!(said.contains("rdinit=/bin/sh") && said.contains("true; poweroff -f"), "{said}");
            assert!(!said.contains("vsock"), "{said}");
        }
        assert!(said(Vmm::Firecracker, &Boot::FirstByte).contains("echo vial-bench; reboot -f"));
    }
}
