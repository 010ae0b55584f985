use super::*;
use crate::spec::{DiskSpec, NetSpec, OWNER_POD, TapSource};

fn disk(id: &str, source: DiskSource, read_only: bool) -> DiskSpec {
    DiskSpec { id: id.into(), source, read_only, root: false }
}

fn pod() -> VmSpec {
    let mut spec = VmSpec::new(OWNER_POD, "/k".into());
    spec.initrd = Some("/i".into());
    spec.cmdline = "quiet".into();
    spec.cpus = 2;
    spec.agent = true;
    spec.console = ConsoleSpec::Log;
    spec.disks = vec![
        disk("image", DiskSource::Concat(vec!["/m".into(), "/l1".into(), "/l2".into()]), true),
        disk("upper", DiskSource::File("/u".into()), false),
        disk("far", DiskSource::Socket("/s".into()), false),
    ];
    spec.file_systems = vec![FsSpec { tag: "host".into(), socket: "/f".into() }];
    spec.nets = vec![NetSpec { id: "eth0".into(), tap: TapSource::Named("tap0".into()), mac: None }];
    spec
}

/// Every descriptor that the document names, in the order of its fields.
fn named(config: &VmConfig) -> Vec<RawFd> {
    let text = serde_json::to_string(config).unwrap();
    let mut numbers = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("\"fd\":") {
        rest = &rest[at + 5..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        numbers.push(rest[..end].parse().unwrap());
    }
    numbers
}

#[test]
fn every_entry_is_named_once_and_nothing_else() {
    let plan = plan(&pod()).unwrap();
    let mut numbers = named(&plan.config);
    numbers.sort_unstable();
    // The first two are named on the command line.
    let expected: Vec<RawFd> = (FIRST_FD + 2..FIRST_FD + plan.table.len() as RawFd).collect();
    assert_eq!(numbers, expected);
    assert!(
        !serde_json::to_string(&plan.config).unwrap().contains("\"/"),
        "no path is left for the VMM to open"
    );
}

#[test]
fn the_entries_are_what_the_document_means() {
    let plan = plan(&pod()).unwrap();
    let at = |source: &FileSource| match source {
        FileSource::Fd { fd } => plan.table[(*fd - FIRST_FD) as usize].clone(),
        FileSource::Path(path) => panic!("{path:?}"),
    };
    let config = &plan.config;
    assert_eq!(at(&config.boot_source.kernel_image_path), Opening::Read("/k".into()));
    assert_eq!(at(config.boot_source.initrd_path.as_ref().unwrap()), Opening::Read("/i".into()));
    assert_eq!(
        config.drives[0].concat.iter().map(at).collect::<Vec<_>>(),
        [Opening::Read("/m".into()), Opening::Read("/l1".into()), Opening::Read("/l2".into())]
    );
    assert_eq!(
        at(config.drives[1].path_on_host.as_ref().unwrap()),
        Opening::Disk { path: "/u".into(), read_only: false }
    );
    assert_eq!(at(config.drives[2].socket.as_ref().unwrap()), Opening::BackEnd("/s".into()));
    assert_eq!(at(&config.file_systems[0].socket), Opening::BackEnd("/f".into()));
    assert_eq!(at(&config.network_interfaces[0].host_dev_name), Opening::Tap("tap0".into()));
    let vsock = config.vsock.as_ref().unwrap();
    assert_eq!(at(&vsock.uds_path), Opening::Vsock);
    assert_eq!(
        (vsock.host_ports[0].port, plan.number_of(&Opening::Ready)),
        (READY_PORT, Some(vsock.host_ports[0].fd))
    );
    assert_eq!(config.vial.profile, Profile::Pod);
    assert_eq!(at(config.vial.status.as_ref().unwrap()), Opening::Status);
    assert_eq!(at(config.vial.control.as_ref().unwrap()), Opening::Control);
    assert_eq!(at(config.vial.console.as_ref().unwrap().output.as_ref().unwrap()), Opening::ConsoleLog);
}

#[test]
fn removable_disks_name_no_file_and_leave_room_for_media() {
    let mut spec = pod();
    let (before, files) = (max_open(&spec), plan(&spec).unwrap().table.len());
    spec.disks.push(disk("image0", DiskSource::Removable { max_bytes: 1 << 30 }, true));
    spec.disks.push(disk("upper0", DiskSource::Removable { max_bytes: 1 << 30 }, false));
    let plan = plan(&spec).unwrap();
    assert_eq!((max_open(&spec), plan.table.len()), (before + 240 + 1, files));
    let drives = &plan.config.drives[3..];
    assert!(
        drives
            .iter()
            .all(|drive| drive.is_removable && drive.path_on_host.is_none() && drive.concat.is_empty())
    );
    assert_eq!(drives.iter().map(|drive| drive.is_read_only).collect::<Vec<_>>(), [true, false]);
    vmm::validate::check(&plan.config).unwrap();
}

#[test]
fn no_agent_means_no_socket_device() {
    let mut spec = pod();
    spec.agent = false;
    let plan = plan(&spec).unwrap();
    assert_eq!(plan.config.vsock, None);
    assert_eq!(plan.number_of(&Opening::Ready), None);
}

#[test]
fn nonsense_is_refused() {
    type Change = fn(&mut VmSpec);
    let cases: Vec<(&str, Change)> = vec![
        ("vCPUs", |s| s.cpus = 0),
        ("vCPUs", |s| s.cpus = 33),
        ("memory", |s| s.memory_mib = 31),
        ("two disks", |s| s.disks[1].id = "image".into()),
        ("disk id", |s| s.disks[1].id = "x".repeat(21)),
        ("disk id", |s| s.disks[1].id = "a b".into()),
        ("read-only", |s| s.disks[0].read_only = false),
        ("no file", |s| s.disks[0].source = DiskSource::Concat(vec![])),
        ("root", |s| s.disks.iter_mut().for_each(|d| d.root = true)),
        ("removable", |s| {
            s.disks[0] = DiskSpec { root: true, ..disk("a", DiskSource::Removable { max_bytes: 1 }, true) };
        }),
        ("TAP", |s| s.nets[0].tap = TapSource::Named("a/b".into())),
        ("TAP", |s| s.nets[0].tap = TapSource::Named("x".repeat(16))),
        ("2048 bytes", |s| s.cmdline = "x".repeat(2048)),
        ("line break", |s| s.cmdline = "a\nb".into()),
        ("files", |s| s.disks[0].source = DiskSource::Concat(vec!["/x".into(); MAX_TABLE])),
    ];
    for (word, change) in cases {
        let mut spec = pod();
        change(&mut spec);
        let error = plan(&spec).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn the_longest_command_line_is_one_that_the_vmm_takes() {
    for root in [true, false] {
        let mut spec = pod();
        spec.disks[0].root = root;
        spec.cmdline = "x".repeat(if root { 2030 } else { 2047 });
        let made = plan(&spec).unwrap();
        assert!(vmm::validate::command_line(&made.config).is_ok());
        spec.cmdline.push('x');
        plan(&spec).unwrap_err();
        let mut config = made.config;
        config.boot_source.boot_args = Some(spec.cmdline);
        assert!(vmm::validate::command_line(&config).is_err());
    }
}
