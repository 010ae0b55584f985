//! What is so on this machine: nothing here judges.

use super::kvm::{self, Probe};
use crate::{Parts, cgroup, sys};
use rustix::fs::{Access, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everything that the judgement needs; can be recorded on one machine and judged on another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `x86_64`, …
    pub arch: String,
    /// `uname -r`
    pub kernel: String,
    /// Whether the processor's flags name vmx or svm.
    pub cpu_virtualisation: bool,
    /// Whether the processor's flags name `hypervisor`: this is a virtual machine itself.
    pub in_vm: bool,
    /// KVM, tried.
    pub kvm: Probe,
    /// Error number of opening `/dev/net/tun`; none is success.
    pub tun_errno: Option<i32>,
    /// nftables.
    pub nft: NftFacts,
    /// cgroup v2.
    pub cgroup: Option<CgroupFacts>,
    /// Landlock's ABI version; none without Landlock.
    pub landlock_abi: Option<i32>,
    /// MemAvailable in KiB.
    pub memory_available_kib: u64,
    /// The folder for images and state, and the bytes that are free there.
    pub data_dir: PathBuf,
    /// See there.
    pub disk_free: u64,
    /// Effective user id.
    pub uid: u32,
    /// Parts: the folder and the names of those that are missing.
    pub parts_dir: PathBuf,
    /// See there.
    pub parts_missing: Vec<String>,
    /// What other firewalls do with forwarded packets.
    pub firewall: FirewallFacts,
    /// Whether there is an iptables program.
    #[serde(default)]
    pub iptables: bool,
}

/// nftables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NftFacts {
    /// The ruleset could be read.
    Works,
    /// There is no `nft` program.
    NoProgram,
    /// It failed, with these words.
    Failed(String),
}

/// cgroup v2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFacts {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Controllers that it has.
    pub controllers: Vec<String>,
    /// Whether we may make groups there.
    pub writable: bool,
}

/// What other firewalls do with forwarded packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallFacts {
    /// Chains on the forward hook that drop what no rule allows, as `family table chain`, except our own.
    pub dropping: Vec<String>,
    /// Managers that run or have rules: `docker`, `ufw`, `firewalld`.
    pub managers: Vec<String>,
}

/// Looks at everything. Takes some tens of milliseconds.
pub fn gather(data_dir: &Path) -> Facts {
    let (cpu_virtualisation, in_vm) = processor();
    let uname = rustix::system::uname();
    let ruleset = nft_ruleset();
    let parts_dir = Parts::folder().unwrap_or_default();
    let parts = Parts::at(&parts_dir);
    let missing = [&parts.vmm, &parts.kernel, &parts.initrd].into_iter().filter(|path| !path.is_file());
    Facts {
        arch: uname.machine().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        cpu_virtualisation,
        in_vm,
        kvm: kvm::probe(),
        tun_errno: rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .err()
            .map(rustix::io::Errno::raw_os_error),
        firewall: firewall(ruleset.as_ref().ok()),
        iptables: ["/usr/sbin/iptables", "/sbin/iptables"].into_iter().any(|p| Path::new(p).exists()),
        nft: match ruleset {
            Ok(_) => NftFacts::Works,
            Err(facts) => facts,
        },
        cgroup: cgroup_facts(),
        landlock_abi: sys::landlock_abi(),
        memory_available_kib: memory_available_kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        disk_free: disk_free(data_dir),
        data_dir: data_dir.to_path_buf(),
        uid: rustix::process::geteuid().as_raw(),
        parts_missing: missing
            .filter_map(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()))
            .collect(),
        parts_dir,
    }
}

/// Whether the processor can virtualise, and whether it is a virtual one.
pub(super) fn processor() -> (bool, bool) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|f| f == flag);
    (has("vmx") || has("svm"), has("hypervisor"))
}

fn cgroup_facts() -> Option<CgroupFacts> {
    let mount = cgroup::mount_point()?;
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    Some(CgroupFacts {
        writable: rustix::fs::access(&mount, Access::WRITE_OK).is_ok(),
        controllers: controllers.split_ascii_whitespace().map(str::to_owned).collect(),
        mount,
    })
}

fn memory_available_kib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    line.and_then(|l| l.split_ascii_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Bytes free in the folder, or in the nearest one above that exists.
fn disk_free(folder: &Path) -> u64 {
    folder
        .ancestors()
        .find_map(|f| rustix::fs::statvfs(f).ok())
        .map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

fn nft_ruleset() -> Result<serde_json::Value, NftFacts> {
    // Not everybody's PATH has the folders of the system's tools.
    let program = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].into_iter().find(|p| Path::new(p).exists());
    let program = program.ok_or(NftFacts::NoProgram)?;
    let output = Command::new(program).args(["-j", "list", "ruleset"]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| NftFacts::Failed(e.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(NftFacts::Failed(words));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| NftFacts::Failed(e.to_string()))
}

/// Reads the JSON of `nft -j list ruleset`; rules of iptables-nft are in it too.
fn firewall(ruleset: Option<&serde_json::Value>) -> FirewallFacts {
    let mut facts = FirewallFacts::default();
    let objects = ruleset.and_then(|r| r["nftables"].as_array()).map(Vec::as_slice).unwrap_or_default();
    for chain in objects.iter().filter_map(|o| o.get("chain")) {
        let word = |key: &str| chain[key].as_str().unwrap_or_default();
        if word("table").starts_with("vial") {
            continue;
        }
        if word("hook") == "forward" && word("policy") == "drop" {
            facts.dropping.push(format!("{} {} {}", word("family"), word("table"), word("name")));
        }
        let name = word("name").to_ascii_lowercase();
        let manager = match () {
            () if name.starts_with("docker") => "docker",
            () if name.starts_with("ufw") => "ufw",
            () if word("table") == "firewalld" => "firewalld",
            () => continue,
        };
        if !facts.managers.iter().any(|m| m == manager) {
            facts.managers.push(manager.into());
        }
    }
    // iptables of the old kind keeps its rules where nft does not look; reading its policy needs no program of its own.
    if let Ok(tables) = fs::read_to_string("/proc/net/ip_tables_names")
        && tables.lines().any(|t| t == "filter")
        && legacy_forward_drops()
    {
        facts.dropping.push("ip filter FORWARD (iptables-legacy)".into());
    }
    facts
}

fn legacy_forward_drops() -> bool {
    let program =
        ["/usr/sbin/iptables-legacy", "/sbin/iptables-legacy"].into_iter().find(|p| Path::new(p).exists());
    let output = program.map(|p| Command::new(p).args(["-S", "FORWARD"]).stdin(Stdio::null()).output());
    matches!(output, Some(Ok(o)) if String::from_utf8_lossy(&o.stdout).lines().any(|l| l == "-P FORWARD DROP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_drops_forwarded_packets() {
        let ruleset = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "vial", "name": "forward", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "firewalld", "name": "filter_FORWARD", "hook": "forward", "policy": "accept"}},
        ]});
        let facts = firewall(Some(&ruleset));
        assert_eq!(facts.dropping[..1], ["ip filter FORWARD"]);
        assert_eq!(facts.managers, ["docker", "firewalld"]);
    }

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(memory_available_kib("MemTotal: 9 kB\nMemAvailable:    1234 kB\n"), 1234);
        let facts = gather(Path::new("/var/lib/does/not/exist"));
        assert!(facts.disk_free > 0);
        assert!(facts.memory_available_kib > 0);
        // Can be recorded.
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
