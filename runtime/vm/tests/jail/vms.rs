//! VMs to try things on: the production program in the launcher's jail, the same without a jail, and a jail without filters.

use crate::injector::{Puppet, careful, hold_when_confined, traced};
use crate::tiny;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::runtime::Runtime;
use vial_vm::{ConsoleSpec, DiskSource, DiskSpec, Launcher, Parts, Registry, Vm, VmId, VmSpec};

/// nobody: without a launcher the process has a user of its own all the same.
const NOBODY: u32 = 65534;

/// What all VMs are made of.
pub struct World {
    pub runtime: Runtime,
    pub launcher: Launcher,
    pub registry: Registry,
    pub folder: tempfile::TempDir,
    /// The production program, and one without filters.
    pub vmm: Parts,
    pub probe: Parts,
}

/// A process, its main thread's id, and how to be rid of it.
pub struct Running {
    pub pid: i32,
    end: End,
}

enum End {
    Vm(Vm),
    Child(Child),
}

/// How far a process is let before it is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Running,
    Confined,
}

impl World {
    pub fn new(launcher: Launcher, vmm: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let kernel = folder.path().join("kernel");
        // `hlt; jmp` for ever.
        std::fs::write(&kernel, tiny::kernel(&[0xf4, 0xeb, 0xfd])).unwrap();
        let parts = |vmm: PathBuf| Parts { vmm, kernel: kernel.clone(), initrd: kernel.clone() };
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            launcher,
            registry: Registry::open(&folder.path().join("run")).unwrap(),
            vmm: parts(vmm.to_owned()),
            probe: parts(build_probe(folder.path())),
            folder,
        }
    }

    /// A VM with a name of its own.
    pub async fn vm(&self, parts: &Parts, spec: VmSpec) -> Vm {
        let id = VmId::random().unwrap();
        Vm::launch(&self.launcher, &self.registry, parts, id, spec).await.unwrap()
    }

    fn launch(&self, parts: &Parts, spec: VmSpec) -> (Vm, i32) {
        let vm = self.runtime.block_on(self.vm(parts, spec));
        let record = std::fs::read(vm.dir().join("process.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let pid = record["pid"].as_i64().unwrap();
        (vm, pid.try_into().unwrap())
    }

    /// A VM as `vial` makes them, whose guest does nothing.
    pub fn jailed(&self) -> Running {
        self.jailed_with(VmSpec::new("test", self.vmm.kernel.clone()))
    }

    fn jailed_with(&self, spec: VmSpec) -> Running {
        let (vm, pid) = self.launch(&self.vmm, spec);
        wait_for(&vm.dir().join("control.sock"));
        Running { pid, end: End::Vm(vm) }
    }

    /// One with a device of each kind that needs nothing of the host, and the document that says which descriptor is what.
    pub fn jailed_with_devices(&self) -> (Running, Value) {
        let file = |name: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, [0; 4096]).unwrap();
            path
        };
        let disk = |id: &str, source, read_only| DiskSpec { id: id.into(), source, read_only, root: false };
        let spec = VmSpec {
            initrd: Some(file("initrd")),
            disks: vec![
                disk("upper", DiskSource::File(file("upper")), false),
                disk("image", DiskSource::Concat(vec![file("meta"), file("layer")]), true),
                disk("later", DiskSource::Removable { max_bytes: 4096 }, false),
            ],
            console: ConsoleSpec::Log,
            agent: true,
            ..VmSpec::new("test", self.vmm.kernel.clone())
        };
        let running = self.jailed_with(spec);
        let End::Vm(vm) = &running.end else { unreachable!("launched just now") };
        let document = std::fs::read(vm.dir().join("config.json")).unwrap();
        (running, serde_json::from_slice(&document).unwrap())
    }

    /// The launcher's jail around a program that has no filter.
    pub fn unfiltered(&self) -> Running {
        let mut spec = VmSpec::new("test", self.probe.kernel.clone());
        "stay".clone_into(&mut spec.cmdline);
        let (vm, pid) = self.launch(&self.probe, spec);
        Running { pid, end: End::Vm(vm) }
    }

    /// The production program with the open profile, as people start it: with paths, and no launcher.
    pub fn open(&self) -> Running {
        self.by_hand(&["--no-api"], Until::Running)
    }

    /// The same, with its devices on a PCI bus.
    pub fn open_pci(&self) -> Running {
        self.by_hand(&["--no-api", "--enable-pci"], Until::Running)
    }

    /// The same with the HTTP API.
    pub fn api(&self) -> Running {
        self.by_hand(&["--api-sock", "api"], Until::Running)
    }

    /// The same, with its devices on a PCI bus.
    pub fn api_pci(&self) -> Running {
        self.by_hand(&["--api-sock", "api", "--enable-pci"], Until::Running)
    }

    /// One that is held while its loader waits for its work, which takes that thread less time than anybody needs to find it.
    pub fn loading(&self) -> Running {
        self.by_hand(&["--no-api"], Until::Confined)
    }

    /// The open profile again, with an interface that is to be vhost-net's. Few machines have the device, and its user may not open it where
    /// it is there: then the VM does without, but its filters are those of one that has it.
    pub fn vhost(&self) -> Running {
        let tap = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        vmm::sys::attach_tap(&tap, "vialjail%d", false).unwrap();
        self.by_hand_with(&["--no-api"], Until::Running, Some(tap))
    }

    fn by_hand(&self, arguments: &[&str], until: Until) -> Running {
        self.by_hand_with(arguments, until, None)
    }

    fn by_hand_with(&self, arguments: &[&str], until: Until, tap: Option<File>) -> Running {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("disk"), [0; 4096]).unwrap();
        let mut command = Command::new(&self.vmm.vmm);
        let mut document = json!({
            "boot-source": {"kernel_image_path": self.vmm.kernel},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 32},
            "drives": [{"drive_id": "disk", "path_on_host": "disk", "is_read_only": true, "io_threads": 1}],
            "vsock": {"guest_cid": 3, "uds_path": "vsock"},
            "vial": {"control": {"fd": 3}},
        });
        if tap.is_some() {
            document["network-interfaces"] =
                json!([{"iface_id": "net", "host_dev_name": {"fd": 5}, "vhost_net": "/dev/vhost-net"}]);
            // It says each time that it does without.
            command.stderr(Stdio::null());
        }
        std::fs::write(path("config"), document.to_string()).unwrap();
        let control = UnixListener::bind(path("control")).unwrap();
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let descriptors = [control.into(), kvm.into()].into_iter().chain(tap.map(OwnedFd::from));
        let descriptors = descriptors.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 10).unwrap());
        command.args(["--config-file", "config", "--kvm-fd", "4"]).args(arguments).current_dir(folder.path());
        careful(&mut command, descriptors.collect(), NOBODY);
        if until == Until::Confined {
            traced(&mut command);
        }
        let child = command.spawn().unwrap();
        // It holds our copies of the descriptors: with them, a VMM that could not start would never be noticed.
        drop(command);
        let pid = child.id().try_into().unwrap();
        match until {
            Until::Running => wait_for(&path("control")),
            Until::Confined => hold_when_confined(pid).unwrap(),
        }
        Running { pid, end: End::Child(child) }
    }

    /// Ends it and removes what it left.
    pub fn end(&self, running: Running) {
        match running.end {
            End::Vm(vm) => self.runtime.block_on(async {
                // It may be dead already, of what it was made to do.
                let _ = vm.kill();
                vm.wait_exit().await;
                vm.remove().await.unwrap();
            }),
            End::Child(mut child) => {
                // Its end may have been seen by its tracer already.
                if matches!(child.try_wait(), Ok(None)) {
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
            }
        }
    }
}

impl Running {
    /// Takes over its thread of this name.
    pub fn puppet(&self, thread: &str) -> Puppet {
        let named = |path: &PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread)
        };
        let confined = |path: &PathBuf| {
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            thread == "probe" || status.lines().any(|line| line == "Seccomp:\t2")
        };
        // One that was only just started has neither its name nor its filter.
        let path = loop {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
            let mut tasks = tasks.map(|task| task.unwrap().path());
            match tasks.find(|path| named(path) && confined(path)) {
                Some(path) => break path,
                None => std::thread::yield_now(),
            }
        };
        let tid = path.file_name().and_then(|name| name.to_str()).unwrap().parse().unwrap();
        Puppet::new(self.pid, tid).unwrap()
    }
}

/// Waits until the VM's event loop has answered, so that all filters are on and the guest was let go, and has closed the connection.
fn wait_for(control: &Path) {
    let mut client = UnixStream::connect(control).unwrap();
    client.write_all(b"{\"action\":\"info\"}\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("running"), "{answer}");
}

/// The program of the launcher's own test, which has no filter and waits for ever.
fn build_probe(folder: &Path) -> PathBuf {
    let probe = folder.join("probe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probe.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let flags =
        ["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "relocation-model=static", "-o"];
    assert!(Command::new(rustc).args(flags).args([&probe, &source]).status().unwrap().success());
    probe
}
