//! The launcher, natively: what a VM's process finds itself in, how its end is seen, what is left behind.
//!
//! A program of its own instead of libtest's harness: the launcher has to be forked while there is one thread.

#![allow(clippy::unwrap_used)] // a test, though not one that libtest runs

use rustix::fs::inotify;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use vial_vm::{DiskSource, DiskSpec, EndReason, Error, Launcher, Parts, Registry, Vm, VmId, VmSpec, VmState};
use vmm::api::status::ExitReason;

/// What makes this program a launcher's successor.
const SUCCESSOR: &[&str] = &["be-the-launcher"];

fn main() {
    if std::env::args().nth(1).as_deref() == Some(SUCCESSOR[0]) {
        Launcher::serve();
    }
    let launcher = Launcher::start_replaceable(SUCCESSOR).expect("nothing runs before this");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, folder, tied] = args.as_slice()
        && word == "launch-and-wait"
    {
        return runtime.block_on(launch_and_wait(&launcher, Path::new(folder), tied == "true"));
    }
    assert!(matches!(Launcher::start(), Err(Error::LauncherTooLate(n)) if n > 1));
    let dir = tempfile::tempdir().unwrap();
    let world = World {
        parts: parts(dir.path()),
        registry: Registry::open(&dir.path().join("run")).unwrap(),
        launcher,
    };
    runtime.block_on(async {
        world.is_alone().await;
        world.sees_every_end().await;
        world.stops().await;
        world.takes_media(dir.path()).await;
        world.replaces_a_killed_launcher().await;
        world.leaves_nothing_of_failures().await;
        world.survives_its_program(dir.path()).await;
        world.dies_with_its_program_when_tied(dir.path()).await;
    });
    println!("launcher: all passed");
}

/// The probe, built as static as the VM monitor is.
fn parts(folder: &Path) -> Parts {
    let probe = folder.join("probe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probe.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "relocation-model=static",
            "-o",
        ])
        .args([&probe, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let file = folder.join("file");
    std::fs::write(&file, "not a program").unwrap();
    Parts { vmm: probe, kernel: file.clone(), initrd: file }
}

struct World {
    parts: Parts,
    registry: Registry,
    launcher: Launcher,
}

fn spec(parts: &Parts, how: &str) -> VmSpec {
    let mut spec = VmSpec::new("test", parts.kernel.clone());
    how.clone_into(&mut spec.cmdline);
    spec.agent = true;
    spec
}

/// What the probe wrote, when it has ended.
fn facts(folder: &Path) -> HashMap<String, String> {
    let text = std::fs::read_to_string(folder.join("vmm.log")).unwrap();
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

impl World {
    async fn launch(&self, id: &str, how: &str) -> Result<Vm, Error> {
        let id: VmId = id.parse().unwrap();
        Vm::launch(&self.launcher, &self.registry, &self.parts, id, spec(&self.parts, how)).await
    }

    async fn is_alone(&self) {
        println!("a VM's process has nothing but what it was given");
        let vm = self.launch("alone", "off").await.unwrap();
        let uid = vm.meta().uid;
        assert_eq!(vm.wait_exit().await.reason, EndReason::Exit(ExitReason::GuestShutdown));
        let facts = facts(vm.dir());
        // Standard streams; configuration, KVM, status, control, kernel, vsock, ready.
        assert_eq!(facts["open"], "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]");
        assert_eq!(facts["no_new_privs"], "1");
        assert_eq!(facts["capabilities"], "0");
        assert_eq!(facts["session_leader"], "true");
        assert_eq!((facts["core"].as_str(), facts["files"].as_str()), ("0", "5120"));
        assert_eq!(facts["fsize"], (128u64 << 20).to_string());
        assert!(facts["args"].contains(r#""--id", "alone""#));
        let isolation = self.launcher.isolation();
        println!("  {isolation:?}");
        if isolation.namespaces {
            assert_eq!((facts["pid"].as_str(), facts["tree"].as_str()), ("1", "[]"));
            assert_eq!((facts["passwd"].as_str(), facts["write"].as_str()), ("false", "false"));
        }
        if isolation.own_ids {
            let uid = uid.unwrap().to_string();
            assert_eq!((&facts["uid"], &facts["gid"]), (&uid, &uid));
            assert_eq!(facts["groups"], "0");
            assert!(isolation.namespaces, "root can have it all: {isolation:?}");
        }
        vm.remove().await.unwrap();
    }

    async fn sees_every_end(&self) {
        println!("every end is told truthfully, also to a second program");
        let (a, b) = (self.launch("one", "stay").await.unwrap(), self.launch("two", "stay").await.unwrap());
        assert!(a.meta().uid.is_none() || a.meta().uid != b.meta().uid);
        assert!(matches!(self.launch("one", "stay").await, Err(Error::Exists(_))));
        assert_eq!(self.registry.info(a.id()).unwrap().state, VmState::Running);
        assert!(matches!(self.registry.remove(a.id()).await, Err(Error::Running(_))));
        let again = self.registry.attach(a.id()).await.unwrap();
        a.kill().unwrap();
        for exit in [a.wait_exit().await, again.wait_exit().await] {
            assert_eq!(exit.reason, EndReason::Killed);
        }
        assert!(matches!(self.registry.info(a.id()).unwrap().state, VmState::Ended(_)));
        assert!(matches!(b.info().unwrap().state, VmState::Running));
        assert_eq!(self.registry.sweep("test").await.unwrap(), [a.id().clone()]);
        b.kill().unwrap();
        b.wait_exit().await;
        b.remove().await.unwrap();

        let vm = self.launch("crash", "crash").await.unwrap();
        let error = vm.ready(Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, Error::Ended { exit, .. } if exit.reason == EndReason::Killed));
        vm.remove().await.unwrap();
        assert!(self.registry.list().unwrap().is_empty());
    }

    async fn stops(&self) {
        println!("a VM that ignores everything is stopped all the same");
        let vm = self.launch("stubborn", "stay").await.unwrap();
        // The first process of a PID namespace has no default action for SIGTERM: the last resort is needed.
        assert_eq!(vm.stop(Duration::from_millis(1)).await.unwrap().reason, EndReason::Killed);
        assert_eq!(vm.stop(Duration::from_millis(1)).await.unwrap().reason, EndReason::Killed);
        let cgroup = vm.meta().cgroup.clone();
        vm.remove().await.unwrap();
        assert!(cgroup.is_none_or(|path| !path.exists()));
    }

    async fn takes_media(&self, folder: &Path) {
        println!("media go in and out of a running VM, and are no other VM's meanwhile");
        let file = |name: &str, length: usize| {
            let path = folder.join(name);
            std::fs::write(&path, name.repeat(length)).unwrap();
            path
        };
        let (meta, layer, upper) = (file("m", 1024), file("l", 512), file("u", 4096));
        let image = DiskSource::Concat(vec![meta, layer]);
        let layer_of_its_own = DiskSource::File(upper.clone());
        let launch = |id: &'static str, disks: Vec<DiskSpec>| {
            let spec = VmSpec { disks, ..spec(&self.parts, "media") };
            Vm::launch(&self.launcher, &self.registry, &self.parts, id.parse().unwrap(), spec)
        };
        let removable = |id: &str, read_only| DiskSpec {
            id: id.into(),
            source: DiskSource::Removable { max_bytes: 1 << 40 },
            read_only,
            root: false,
        };
        let drives = || vec![removable("image0", true), removable("upper0", false)];
        let (one, two) = (launch("one", drives()).await.unwrap(), launch("two", drives()).await.unwrap());
        assert_eq!(one.insert("image0", &image).await.unwrap(), 1536);
        assert_eq!(one.insert("upper0", &layer_of_its_own).await.unwrap(), 4096);
        assert_eq!(&std::fs::read(&upper).unwrap()[..3], b"uWu");
        // Layers are shared, what is written to is not: with a drive, or with a VM that would start with it.
        assert_eq!(two.insert("image0", &image).await.unwrap(), 1536);
        let in_use = two.insert("upper0", &layer_of_its_own).await.unwrap_err();
        assert!(matches!(in_use, Error::DiskInUse { .. }), "{in_use}");
        let fixed = DiskSpec { source: layer_of_its_own.clone(), ..removable("fixed", true) };
        assert!(matches!(launch("three", vec![fixed]).await.unwrap_err(), Error::DiskInUse { .. }));
        one.eject("upper0").await.unwrap();
        two.insert("upper0", &layer_of_its_own).await.unwrap();
        two.kill().unwrap();
        two.wait_exit().await;
        two.remove().await.unwrap();
        // A program that comes later can do the same.
        let again = self.registry.attach(one.id()).await.unwrap();
        again.insert("upper0", &layer_of_its_own).await.unwrap();

        for (drive, source) in [
            ("nothing", image.clone()),
            ("upper0", image.clone()),
            ("image0", DiskSource::Concat(vec![])),
            ("image0", DiskSource::Concat(vec![upper.clone(); 241])),
            ("image0", DiskSource::Removable { max_bytes: 1 }),
            ("image0", DiskSource::File(folder.into())),
        ] {
            let error = one.insert(drive, &source).await.unwrap_err();
            assert!(matches!(error, Error::Spec(_)), "{error}");
        }
        let missing = DiskSource::Concat(vec![folder.join("missing")]);
        assert!(matches!(one.insert("image0", &missing).await.unwrap_err(), Error::File { .. }));
        one.control(vial_vm::ControlRequest::Stop {}).await.unwrap();
        one.wait_exit().await;
        assert!(matches!(one.insert("image0", &image).await.unwrap_err(), Error::Control(_)));
        assert!(matches!(one.eject("image0").await.unwrap_err(), Error::Control(_)));
        let facts = facts(one.dir());
        // The first byte of each file, and in how many of them it could write.
        assert_eq!((facts["inserted-image0"].as_str(), facts["inserted-upper0"].as_str()), ("ml 0", "u 1"));
        assert_eq!(facts["fsize"], (1u64 << 40).to_string());
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let files = 1024 + 4096 + 240 + 1;
        assert_eq!(facts["files"], most.map_or(files, |most| most.min(files)).to_string());
        one.remove().await.unwrap();
    }

    async fn replaces_a_killed_launcher(&self) {
        println!("a killed launcher is replaced, and VMs do not notice");
        let before = self.launch("before", "stay").await.unwrap();
        let (old, isolation) = (self.launcher.helper_pid(), self.launcher.isolation());
        for _ in 0..2 {
            let pid = rustix::process::Pid::from_raw(self.launcher.helper_pid()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                .expect("not reaped yet");
            rustix::event::poll(
                &mut [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)],
                None,
            )
            .unwrap();
            self.is_alone().await;
            assert_ne!(self.launcher.helper_pid(), pid.as_raw_nonzero().get());
        }
        assert_eq!(self.launcher.isolation(), isolation);
        assert!(!Path::new(&format!("/proc/{old}")).exists(), "a zombie was left");
        assert_eq!(before.info().unwrap().state, VmState::Running);
        before.kill().unwrap();
        before.wait_exit().await;
        before.remove().await.unwrap();
    }

    async fn leaves_nothing_of_failures(&self) {
        println!("a failed start leaves nothing");
        let bad = Parts { vmm: self.parts.kernel.clone(), ..self.parts.clone() };
        let make = |parts: Parts, spec: VmSpec| async move {
            Vm::launch(&self.launcher, &self.registry, &parts, "bad".parse().unwrap(), spec)
                .await
                .unwrap_err()
        };
        let error = make(bad.clone(), spec(&bad, "off")).await;
        let refused = |e: &std::io::Error| matches!(e.raw_os_error(), Some(libc::ENOEXEC | libc::EACCES));
        assert!(matches!(&error, Error::Launch { source, .. } if refused(source)), "{error}");
        let missing = Parts { vmm: "/does/not/exist".into(), ..bad };
        assert!(matches!(make(missing, spec(&self.parts, "off")).await, Error::File { .. }));
        let mut no_kernel = spec(&self.parts, "off");
        no_kernel.kernel = "/does/not/exist".into();
        let error = make(self.parts.clone(), no_kernel).await.to_string();
        assert!(error.contains("/does/not/exist"), "{error}");
        let mut folder = spec(&self.parts, "off");
        folder.kernel = "/".into();
        assert!(matches!(make(self.parts.clone(), folder).await, Error::Spec(_)));
        assert!(self.registry.list().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(self.registry.folder()).unwrap().count(), 1, "only the lock");
    }

    /// Another program launches a VM and is killed without a warning.
    async fn with_killed_program(&self, folder: &Path, tied: bool) -> (Vm, rustix::fd::OwnedFd) {
        std::fs::write(folder.join("parts"), self.parts.vmm.to_str().unwrap()).unwrap();
        let mut program = Command::new(std::env::current_exe().unwrap())
            .args(["launch-and-wait", folder.to_str().unwrap(), &tied.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let vm = self.registry.attach(&line.trim().parse().unwrap()).await.unwrap();
        assert_eq!(vm.info().unwrap().state, VmState::Running);
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, self.registry.folder(), inotify::WatchFlags::DELETE).unwrap();
        program.kill().unwrap();
        program.wait().unwrap();
        (vm, watch)
    }

    async fn survives_its_program(&self, folder: &Path) {
        println!("a VM survives the program that made it");
        let (vm, _) = self.with_killed_program(folder, false).await;
        assert_eq!(vm.info().unwrap().state, VmState::Running);
        vm.kill().unwrap();
        assert_eq!(vm.wait_exit().await.reason, EndReason::Killed);
        vm.remove().await.unwrap();
    }

    async fn dies_with_its_program_when_tied(&self, folder: &Path) {
        println!("a tied VM goes with the program that made it, and its folder and cgroup with it");
        let (vm, watch) = self.with_killed_program(folder, true).await;
        vm.wait_exit().await;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while vm.dir().exists() {
            events.next().unwrap();
        }
        assert!(vm.meta().cgroup.as_ref().is_none_or(|path| !path.exists()));
    }
}

async fn launch_and_wait(launcher: &Launcher, folder: &Path, tied: bool) {
    let vmm = PathBuf::from(std::fs::read_to_string(folder.join("parts")).unwrap());
    let file = folder.join("file");
    let parts = Parts { vmm, kernel: file.clone(), initrd: file };
    let registry = Registry::open(&folder.join("run")).unwrap();
    let mut spec = spec(&parts, "stay");
    spec.tied = tied;
    let vm = Vm::launch(launcher, &registry, &parts, VmId::random().unwrap(), spec).await.unwrap();
    println!("{}", vm.id());
    std::io::stdout().flush().unwrap();
    std::future::pending().await
}
