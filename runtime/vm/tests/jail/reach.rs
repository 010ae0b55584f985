//! What a thread that a guest has taken over still reaches, read off the kernel, and the page that tells it.

use crate::acts::{Act, Filter, Second};
use crate::bpf::{self, Demand};
use crate::names;
use crate::vms::{Running, World};
use libc::sock_filter;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Numbers of system calls end before this.
const CALLS: u32 = 1024;

/// Requests of ioctl(2) that a filter may name, by their names in linux/kvm.h, linux/if_tun.h, linux/fs.h, asm/ioctls.h.
const REQUESTS: &[(u32, &str)] = &[
    (0xae01, "KVM_CREATE_VM"),
    (0xae03, "KVM_CHECK_EXTENSION"),
    (0xae04, "KVM_GET_VCPU_MMAP_SIZE"),
    (0xc008_ae05, "KVM_GET_SUPPORTED_CPUID"),
    (0xae41, "KVM_CREATE_VCPU"),
    (0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"),
    (0xae47, "KVM_SET_TSS_ADDR"),
    (0x4008_ae48, "KVM_SET_IDENTITY_MAP_ADDR"),
    (0xae60, "KVM_CREATE_IRQCHIP"),
    (0x4008_ae6a, "KVM_SET_GSI_ROUTING"),
    (0x4004_54ca, "TUNSETIFF"),
    (0x8008_af00, "VHOST_GET_FEATURES"),
    (0x4008_af00, "VHOST_SET_FEATURES"),
    (0xaf01, "VHOST_SET_OWNER"),
    (0x4008_af03, "VHOST_SET_MEM_TABLE"),
    (0x4008_af10, "VHOST_SET_VRING_NUM"),
    (0x4028_af11, "VHOST_SET_VRING_ADDR"),
    (0x4008_af12, "VHOST_SET_VRING_BASE"),
    (0xc008_af12, "VHOST_GET_VRING_BASE"),
    (0x4008_af20, "VHOST_SET_VRING_KICK"),
    (0x4008_af21, "VHOST_SET_VRING_CALL"),
    (0x4008_af30, "VHOST_NET_SET_BACKEND"),
    (0x4020_ae76, "KVM_IRQFD"),
    (0x4040_ae79, "KVM_IOEVENTFD"),
    (0xae80, "KVM_RUN"),
    (0x8090_ae81, "KVM_GET_REGS"),
    (0x4090_ae82, "KVM_SET_REGS"),
    (0x8138_ae83, "KVM_GET_SREGS"),
    (0x4138_ae84, "KVM_SET_SREGS"),
    (0xc008_ae88, "KVM_GET_MSRS"),
    (0x4008_ae89, "KVM_SET_MSRS"),
    (0x8400_ae8e, "KVM_GET_LAPIC"),
    (0x4400_ae8f, "KVM_SET_LAPIC"),
    (0x4008_ae90, "KVM_SET_CPUID2"),
    (0x4068_aea3, "KVM_ENABLE_CAP"),
    (0x4020_aea5, "KVM_SIGNAL_MSI"),
    (0xaead, "KVM_KVMCLOCK_CTRL"),
    (0x8004_54d2, "TUNGETIFF"),
    (0x4004_54d0, "TUNSETOFFLOAD"),
    (0x4004_54d8, "TUNSETVNETHDRSZ"),
    (0x4004_54d9, "TUNSETQUEUE"),
    (0x5421, "FIONBIO"),
    (0x541b, "FIONREAD"),
    (0x8008_1272, "BLKGETSIZE64"),
];

/// The whole of docs/jail.md.
pub fn page(world: &World, acts: &[Act]) -> String {
    let mut page = String::from(INTRODUCTION);
    table(&mut page, acts);
    page.push_str(REACH);
    let (jailed, document) = world.jailed_with_devices();
    page.push_str("\n**Descriptors** of a VM with a writable disk, an image of two files, a removable drive, a console's log and an agent:\n\n");
    descriptors(&mut page, &jailed, &document);
    page.push_str("\n**Surroundings**:\n\n");
    surroundings(&mut page, &jailed);
    let pod = filters(&jailed, ["vial-vmm", "vcpu0"]);
    world.end(jailed);
    let running = world.open();
    let open = filters(&running, ["vial-vmm", "vcpu0", "io0"]);
    world.end(running);
    let running = world.api();
    let api = filters(&running, ["vial-vmm", "vcpu0", "api"]);
    world.end(running);
    let running = world.loading();
    let [loader] = filters(&running, ["loader"]);
    world.end(running);
    let running = world.open_pci();
    let pci = filters(&running, ["vial-vmm", "vcpu0", "io0"]);
    world.end(running);
    let running = world.api_pci();
    let api_pci = filters(&running, ["vial-vmm", "vcpu0", "api"]);
    world.end(running);
    let running = world.vhost();
    let vhost = filters(&running, ["vial-vmm", "vcpu0", "io0"]);
    world.end(running);
    let none = Calls::new();
    for (who, all, known) in [
        ("**System calls** of the main thread in the pod profile", &pod[0], &none),
        ("of the main thread in the open profile, besides", &open[0], &pod[0]),
        ("of the main thread with the HTTP API, besides the open profile's", &api[0], &open[0]),
        ("of a vCPU's thread in the pod profile", &pod[1], &none),
        ("of a vCPU's thread in the open profile, besides", &open[1], &pod[1]),
        ("of a vCPU's thread with the HTTP API, besides", &api[1], &open[1]),
        ("of a drive's thread", &open[2], &none),
        ("of the HTTP API's thread", &api[2], &none),
        ("of the loader's thread", &loader, &none),
        ("**With a PCI bus**, of the main thread in the open profile, besides", &pci[0], &open[0]),
        ("of a vCPU's thread, besides", &pci[1], &open[1]),
        ("of a drive's thread, besides", &pci[2], &open[2]),
        ("of the main thread with the HTTP API, besides", &api_pci[0], &api[0]),
        ("of a vCPU's thread with the HTTP API, besides", &api_pci[1], &api[1]),
        ("of the HTTP API's thread, besides", &api_pci[2], &api[2]),
        ("**With vhost-net**, of the main thread in the open profile, besides", &vhost[0], &open[0]),
        ("of a vCPU's thread, besides", &vhost[1], &open[1]),
        ("of a drive's thread, besides", &vhost[2], &open[2]),
    ] {
        let _ = writeln!(page, "\n{who}:\n");
        calls(&mut page, all, known);
    }
    page
}

fn filters<const N: usize>(running: &Running, threads: [&str; N]) -> [Calls; N] {
    threads.map(|thread| filter(running, thread))
}

const INTRODUCTION: &str = "\
# What a VM's process can't do, and what it still can

This page is written by `tools/jail-proof --write` and compared by `tools/test`; what it means is in [security.md](security.md). The code is
`runtime/vm/tests/jail/`: the production `vial-vmm` runs a guest in the launcher's jail, a debugger makes one of its threads do what it must not do, one
act in one fresh VM, and looks at what becomes of it.

## Forbidden acts

Each was tried in every kind of thread (main, vCPU, drive, HTTP, loader), in all three profiles; where the second column says *kills*, the filter ended the process with
SIGSYS in all of them. The loader was caught between its filter and its work, with the main thread held. VMs with a PCI bus or vhost-net have filters that let more
requests to drivers (ioctl) be, and nothing else (the last lists of this page, and a test of `vmm/src/seccomp.rs`): so only such acts were tried with them. A VM whose document asks for vhost-net has
that filter even where the host has none and it does without. What a vhost-user back end has to do with makes no difference to a filter. The third column is the second line of defence: the same act in the launcher's jail, done by a program without a filter, fails for this
reason with one of these errors. *Nothing else*: only the filter stops it, and that is what it would be good for.

| act | filter | without the filter |
|---|---|---|
";

const REACH: &str = "
## What is left

What a guest that has taken over a thread of its VM's process has in its hands, as the kernel tells it.
";

fn table(page: &mut String, acts: &[Act]) {
    for act in acts {
        let filter = match act.filter {
            Filter::Kills => "kills",
            Filter::LetsConnect => "kills, but not the main thread of *open* and *API*",
            Filter::LetsOpen => "kills, but not the main thread of *API*",
            Filter::LetsPlug => "kills, but not the main thread of *API* with a PCI bus",
            Filter::LetsRoute => "kills, but not main and vCPU with a PCI bus",
            Filter::LetsShare => "kills, but not the main thread with vhost-net",
            Filter::LetsStop => "kills, but not main and vCPU with vhost-net",
            Filter::LetsLook => "kills, but **not main threads and the loader's**",
        };
        let second = match &act.second {
            Second::Jail(who, errors) => {
                let errors: Vec<_> = errors.iter().map(|errno| errno_name(*errno)).collect();
                format!("{who}: {}", errors.join(" or "))
            }
            Second::Nobody(what) => format!("*nothing else*: {what}"),
        };
        let _ = writeln!(page, "| {} | {filter} | {second} |", act.name);
    }
}

fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EBADF => "EBADF",
        libc::EACCES => "EACCES",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        other => panic!("errno {other} has no name here"),
    }
}

/// The numbers that the document names, each with its place in it.
fn named(document: &Value) -> BTreeMap<i64, String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeMap<i64, String>) {
        match value {
            Value::Object(fields) => {
                if let Some(fd) = fields.get("fd").and_then(Value::as_i64) {
                    found.insert(fd, path.to_owned());
                }
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(value, &path, found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    let name = value
                        .get("drive_id")
                        .and_then(Value::as_str)
                        .map_or(index.to_string(), str::to_owned);
                    walk(value, &format!("{path}.{name}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    walk(document, "", &mut found);
    found
}

fn descriptors(page: &mut String, running: &Running, document: &Value) {
    let (named, folder) = (named(document), format!("/proc/{}", running.pid));
    let mut rows: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for entry in std::fs::read_dir(format!("{folder}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number = entry.file_name().into_string().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
        let info = std::fs::read_to_string(format!("{folder}/fdinfo/{number}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let rights = match i32::from_str_radix(flags, 8).unwrap() & libc::O_ACCMODE {
            libc::O_RDONLY => "read",
            libc::O_WRONLY => "write",
            _ => "read, write",
        };
        let number: i64 = number.parse().unwrap();
        let name = match (number, named.get(&number)) {
            (0, _) => "standard input: /dev/null".to_owned(),
            (1, _) => "standard output: /dev/null".to_owned(),
            (2, _) => "standard error: `vmm.log` in the VM's folder".to_owned(),
            // Numbers of files that were closed are used again.
            (_, Some(name)) if !target.starts_with("anon_inode:") => format!("`{name}` of the document"),
            _ => format!(
                "`{}`",
                target.split(":[1").next().unwrap_or_default().split(":[2").next().unwrap_or_default()
            ),
        };
        *rows.entry((name, rights)).or_default() += 1;
    }
    page.push_str("| what | rights | how many |\n|---|---|---|\n");
    for ((name, rights), count) in rows {
        // How many queues and interrupts there are is no matter of what can be reached.
        let count = if name.contains("eventfd") { "many".to_owned() } else { count.to_string() };
        let _ = writeln!(page, "| {name} | {rights} | {count} |");
    }
    page.push_str("\nThose of a network device would be its TAP's, for reading and writing. /dev/kvm is closed before the guest runs.\n");
}

fn surroundings(page: &mut String, running: &Running) {
    let folder = format!("/proc/{}", running.pid);
    let link = |path: String| std::fs::read_link(path).unwrap();
    let (mut own, mut shared) = (Vec::new(), Vec::new());
    for name in ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time"] {
        let same = link(format!("{folder}/ns/{name}")) == link(format!("/proc/self/ns/{name}"));
        if same { shared.push(name) } else { own.push(name) }
    }
    let _ = writeln!(page, "- Namespaces of its own: {}. The host's: {}.", own.join(", "), shared.join(", "));
    let mounts = std::fs::read_to_string(format!("{folder}/mountinfo")).unwrap();
    let mounts: Vec<_> = mounts
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let kind = words.iter().position(|word| *word == "-").map_or("", |at| words[at + 1]);
            format!("{kind} on {} ({})", words[4], words[5])
        })
        .collect();
    let files = std::fs::read_dir(format!("{folder}/root/")).unwrap().count();
    let _ = writeln!(
        page,
        "- Mounts: {}, with {files} files in it. So no /proc, no /dev, no /sys.",
        mounts.join("; ")
    );
    let net = std::fs::read_to_string(format!("{folder}/net/dev")).unwrap();
    let interfaces: Vec<_> =
        net.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    let routes = std::fs::read_to_string(format!("{folder}/net/route")).unwrap().lines().skip(1).count();
    // Some kernels put tunnel devices that were never set up into every namespace.
    assert!(interfaces.contains(&"lo") && routes == 0, "{net}");
    page.push_str("- Network: a loopback interface that is down; no address, no route.\n");
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let field = |name: &str| {
        let prefix = format!("{name}:");
        status
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or("?")
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    let ids: Vec<u32> = field("Uid").iter().chain(&field("Gid")).map(|id| id.parse().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && (0x7000_0000..=0x7ffe_ffff).contains(id)), "{ids:?}");
    let _ = writeln!(
        page,
        "- User and group: one number of this VM's own; other groups: {}.",
        field("Groups").len()
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(field(set)[0], 16).unwrap(), 0, "{set}");
    }
    assert_eq!((field("NoNewPrivs")[0], field("Seccomp")[0]), ("1", "2"));
    page.push_str("- Capabilities: none, in any set. no_new_privs is set; each thread has its filter.\n");
    let limits = std::fs::read_to_string(format!("{folder}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let _ = writeln!(
        page,
        "- Limits: {} open files, files of at most {} bytes (here the memory's size), core files of {}.",
        limit("Max open files"),
        limit("Max file size"),
        limit("Max core file size")
    );
}

type Calls = BTreeMap<u32, Vec<Vec<Demand>>>;

/// What a thread may call. It must have one filter, or the page would not tell the whole truth.
fn filter(running: &Running, thread: &str) -> Calls {
    let puppet = running.puppet(thread);
    let program: Vec<sock_filter> = puppet.filter(0).unwrap().expect("the thread has a filter");
    assert!(puppet.filter(1).unwrap().is_none(), "{thread} has two filters");
    puppet.release().unwrap();
    (0..CALLS)
        .map(|number| (number, bpf::allowed(&program, number)))
        .filter(|(_, ways)| !ways.is_empty())
        .collect()
}

fn calls(page: &mut String, all: &Calls, known: &Calls) {
    let own_process = |number: &u32| i64::from(*number) == libc::SYS_tgkill && known.contains_key(number);
    let new = all.iter().filter(|(number, ways)| known.get(number) != Some(ways) && !own_process(number));
    let new: Vec<_> = new.collect();
    let plain = new.iter().filter(|(_, ways)| ways.contains(&Vec::new()));
    let mut plain: Vec<_> = plain.map(|(number, _)| format!("`{}`", names::of(**number))).collect();
    plain.sort();
    if !plain.is_empty() {
        let _ = writeln!(page, "- with any arguments: {}", plain.join(", "));
    }
    for (number, ways) in &new {
        if ways.contains(&Vec::new()) {
            continue;
        }
        let old = known.get(number);
        let new = ways.iter().filter(|demands| !old.is_some_and(|old| old.contains(demands)));
        let ways: Vec<_> = new.map(|demands| way(**number, demands)).collect();
        let _ = writeln!(page, "- `{}` with {}", names::of(**number), ways.join("; "));
    }
    if new.is_empty() {
        page.push_str("- nothing\n");
    }
}

fn way(number: u32, demands: &[Demand]) -> String {
    let parts = demands.iter().map(|Demand { argument, mask, value }| {
        let known = MEANINGS.iter().find(|(call, which, bits, what, _)| {
            (*call, *which, *bits, *what) == (i64::from(number), *argument, *mask, *value)
        });
        let request = REQUESTS.iter().find(|(request, _)| request == value);
        match (known, request) {
            (Some((.., meaning)), _) => (*meaning).to_owned(),
            (_, Some((_, name))) if i64::from(number) == libc::SYS_ioctl && *argument == 1 => {
                format!("`{name}`")
            }
            // A process of its own each: the number is another in every run.
            _ if i64::from(number) == libc::SYS_tgkill && *argument == 0 => "its own process".to_owned(),
            _ if *mask == u32::MAX => format!("argument {argument} = {value:#x}"),
            _ => format!("argument {argument} & {mask:#x} = {value:#x}"),
        }
    });
    parts.collect::<Vec<_>>().join(" and ")
}

const ALL: u32 = u32::MAX;

/// What filters demand of arguments, in words: call, argument, bits, value.
const MEANINGS: &[(i64, u32, u32, u32, &str)] = &[
    (libc::SYS_mmap, 2, 4, 0, "no `PROT_EXEC`"),
    (libc::SYS_mprotect, 2, 4, 0, "no `PROT_EXEC`"),
    (libc::SYS_madvise, 2, ALL, 4, "`MADV_DONTNEED`"),
    (libc::SYS_madvise, 2, ALL, 8, "`MADV_FREE`"),
    (libc::SYS_madvise, 2, ALL, 9, "`MADV_REMOVE`"),
    (libc::SYS_madvise, 2, ALL, 14, "`MADV_HUGEPAGE`"),
    (libc::SYS_madvise, 2, ALL, 16, "`MADV_DONTDUMP`"),
    (libc::SYS_fcntl, 1, ALL, 1, "`F_GETFD`"),
    (libc::SYS_fcntl, 1, ALL, 2, "`F_SETFD`"),
    (libc::SYS_fcntl, 1, ALL, 3, "`F_GETFL`"),
    (libc::SYS_fcntl, 1, ALL, 4, "`F_SETFL`"),
    (libc::SYS_fcntl, 1, ALL, 0x406, "`F_DUPFD_CLOEXEC`"),
    (libc::SYS_prctl, 0, ALL, 15, "`PR_SET_NAME`"),
    (libc::SYS_prctl, 0, ALL, 0x5356_4d41, "`PR_SET_VMA`"),
    (libc::SYS_newfstatat, 3, 0x1000, 0x1000, "`AT_EMPTY_PATH`"),
    (libc::SYS_statx, 2, 0x1000, 0x1000, "`AT_EMPTY_PATH`"),
    (libc::SYS_openat, 2, 0x40_0040, 0, "neither `O_CREAT` nor `O_TMPFILE`"),
    (libc::SYS_socket, 0, ALL, 1, "`AF_UNIX`"),
];
