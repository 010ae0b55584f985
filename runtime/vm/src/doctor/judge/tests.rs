use super::*;
use crate::doctor::{CgroupFacts, FirewallFacts, Report};

/// A good machine, as recorded.
fn good() -> Facts {
    Facts {
        arch: "x86_64".into(),
        kernel: "6.1.0-44-cloud-amd64".into(),
        cpu_virtualisation: true,
        in_vm: false,
        kvm: Probe::Works,
        tun_errno: None,
        nft: NftFacts::Works,
        cgroup: Some(CgroupFacts {
            mount: "/sys/fs/cgroup".into(),
            controllers: CONTROLLERS.map(str::to_owned).to_vec(),
            writable: true,
        }),
        landlock_abi: Some(2),
        memory_available_kib: 8 << 20,
        data_dir: "/var/lib/vial".into(),
        disk_free: 100 << 30,
        uid: 0,
        parts_dir: "/usr/lib/vial".into(),
        parts_missing: vec![],
        firewall: FirewallFacts::default(),
        iptables: true,
    }
}

#[test]
fn a_good_machine_is_good() {
    let report = Report::from(judge(&good()));
    assert!(report.can_run);
    for check in report.checks {
        assert_eq!(
            (check.status, check.meaning.as_str(), check.mend.as_str()),
            (Status::Ok, "", ""),
            "{}",
            check.name
        );
    }
}

#[test]
fn every_miss_has_its_verdict_and_a_way_out() {
    type Change = fn(&mut Facts);
    let cases: Vec<(&str, Status, &str, Change)> = vec![
        ("system", Status::Fail, "5.11", |f| f.kernel = "5.4.0-42-generic".into()),
        ("system", Status::Fail, "x86_64", |f| f.arch = "aarch64".into()),
        ("kvm", Status::Fail, "usermod", |f| f.kvm = Probe::NoDevice { errno: libc::EACCES }),
        ("kvm", Status::Fail, "modprobe", |f| f.kvm = Probe::NoDevice { errno: libc::ENOENT }),
        ("kvm", Status::Fail, "nested", |f| {
            (f.cpu_virtualisation, f.in_vm) = (false, true);
            f.kvm = Probe::NoDevice { errno: libc::ENOENT };
        }),
        ("kvm", Status::Fail, "firmware", |f| {
            f.cpu_virtualisation = false;
            f.kvm = Probe::NoDevice { errno: libc::ENOENT };
        }),
        ("kvm", Status::Fail, "VirtualBox", |f| {
            f.kvm = Probe::NoVm { call: "KVM_CREATE_VM".into(), errno: libc::EBUSY };
        }),
        ("kvm", Status::Fail, "modprobe", |f| {
            f.kvm = Probe::NoVm { call: "KVM_CREATE_VM".into(), errno: libc::ENODEV };
        }),
        ("kvm", Status::Fail, "testbed", |f| {
            f.kvm = Probe::Broken { step: "POPCNT".into(), exit: "KVM_EXIT_INTERNAL_ERROR".into() };
        }),
        ("user", Status::Warn, "root", |f| f.uid = 1000),
        ("parts", Status::Fail, "tools/build", |f| f.parts_missing = vec!["vmlinux".into()]),
        ("cgroup", Status::Warn, "mount", |f| f.cgroup = None),
        ("cgroup", Status::Warn, "unified", |f| f.cgroup.as_mut().unwrap().controllers.clear()),
        ("cgroup", Status::Warn, "root", |f| f.cgroup.as_mut().unwrap().writable = false),
        ("landlock", Status::Warn, "lsm=", |f| f.landlock_abi = None),
        ("memory", Status::Fail, "memory", |f| f.memory_available_kib = 1000),
        ("memory", Status::Warn, "memory", |f| f.memory_available_kib = 512 << 10),
        ("disk", Status::Fail, "VIAL_DATA_DIR", |f| f.disk_free = 0),
        ("disk", Status::Warn, "VIAL_DATA_DIR", |f| f.disk_free = 1 << 30),
        ("tun", Status::Warn, "modprobe tun", |f| f.tun_errno = Some(libc::ENOENT)),
        ("tun", Status::Warn, "root", |f| f.tun_errno = Some(libc::EACCES)),
        ("nftables", Status::Warn, "apt-get", |f| f.nft = NftFacts::NoProgram),
        ("nftables", Status::Warn, "modprobe", |f| f.nft = NftFacts::Failed("Protocol error".into())),
        ("forwarding", Status::Warn, "nft insert rule inet filter forward iifname 'vial*' accept", |f| {
            f.firewall = FirewallFacts { dropping: vec!["inet filter forward".into()], managers: vec![] };
        }),
        ("forwarding", Status::Warn, "install iptables", |f| {
            f.iptables = false;
            f.firewall =
                FirewallFacts { dropping: vec!["ip filter FORWARD".into()], managers: vec!["ufw".into()] };
        }),
    ];
    for (name, status, way_out, change) in cases {
        let mut facts = good();
        change(&mut facts);
        let report = Report::from(judge(&facts));
        let check = report.checks.iter().find(|c| c.name == name).unwrap();
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.mend.contains(way_out), "{check:?}");
        assert!(!check.meaning.is_empty() && !check.found.is_empty(), "{check:?}");
        assert_eq!(report.can_run, status != Status::Fail);
        let others = report.checks.iter().filter(|c| c.name != name);
        assert!(others.clone().all(|c| c.status == Status::Ok), "{:?}", others.collect::<Vec<_>>());
    }
}

#[test]
fn a_firewall_that_is_told_is_no_reason_to_warn() {
    let mut facts = good();
    facts.firewall =
        FirewallFacts { dropping: vec!["ip filter FORWARD".into()], managers: vec!["docker".into()] };
    let report = Report::from(judge(&facts));
    let check = report.checks.iter().find(|c| c.name == "forwarding").unwrap();
    assert_eq!(check.status, Status::Ok);
    assert!(check.found.contains("docker") && check.found.contains("Vial inserts"), "{check:?}");
}
