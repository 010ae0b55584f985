//! From the command line to a VM.

use super::DETACHED;
use crate::units;
use clap::Args;
use std::path::PathBuf;
use vial_vm::spec::OWNER_VM;
use vial_vm::{DiskSource, DiskSpec, FsSpec, Limits, NetSpec, Parts, TapSource, VmSpec};

/// `vial vm run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Kernel, a vmlinux (ELF) or a bzImage [default: the one that came with Vial]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Raw disk image or block device, or the socket of a vhost-user back end; the first is /dev/vda and, without --initrd, the
    /// root file system
    #[arg(long, value_name = "PATH[,ro][,id=NAME] | socket=PATH[,id=NAME]", value_parser = parse_disk)]
    pub disk: Vec<DiskArg>,
    /// File system of the host, served by a vhost-user back end such as virtiofsd
    #[arg(long, value_name = "tag=TAG,socket=PATH", value_parser = parse_fs)]
    pub fs: Vec<FsSpec>,
    /// Network device on an existing TAP
    #[arg(long, value_name = "tap=NAME[,mac=ADDRESS]", value_parser = parse_net)]
    pub net: Vec<NetArg>,
    /// Number of vCPUs, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub cpus: u8,
    /// Guest memory, as 512m or 2g; at least 32m
    #[arg(long, value_name = "SIZE", default_value = "512m", value_parser = parse_memory)]
    pub memory: u64,
    /// More words for the kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Name of the VM [default: made up]
    #[arg(long)]
    pub name: Option<String>,
    /// Print the VM's name and leave it running; its console goes to a log file
    #[arg(short, long)]
    pub detach: bool,
    /// Give the guest no console
    #[arg(long)]
    pub no_console: bool,
    /// Print at the end how long the steps of the start took
    #[arg(long)]
    pub timing: bool,
}

/// `--disk`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArg {
    source: DiskSource,
    read_only: bool,
    id: Option<String>,
}

/// `--net`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetArg {
    tap: String,
    mac: Option<String>,
}

fn twice(key: &str) -> String {
    format!("{key} is given twice")
}

/// Fills what `key` stands for.
fn once<T>(key: &str, place: &mut Option<T>, value: T) -> Result<(), String> {
    if place.is_some() {
        return Err(twice(key));
    }
    *place = Some(value);
    Ok(())
}

fn parse_disk(text: &str) -> Result<DiskArg, String> {
    let mut words = text.split(',');
    let place = words.next().filter(|p| !p.is_empty()).ok_or("a disk needs a path")?;
    let source = match place.split_once('=') {
        Some(("socket", "")) => return Err("socket= needs the path of a back end's socket".into()),
        Some(("socket", path)) => DiskSource::Socket(path.into()),
        _ => DiskSource::File(place.into()),
    };
    let mut disk = DiskArg { source, read_only: false, id: None };
    for word in words {
        match word.split_once('=') {
            None if word == "ro" && matches!(disk.source, DiskSource::Socket(_)) => {
                return Err("a back end's disk is read-only if the back end says so: leave ro out".into());
            }
            None if word == "ro" && disk.read_only => return Err(twice("ro")),
            None if word == "ro" => disk.read_only = true,
            Some(("id", id)) => once("id", &mut disk.id, id.to_owned())?,
            _ => return Err(format!("{word:?} is neither ro nor id=NAME")),
        }
    }
    Ok(disk)
}

fn parse_fs(text: &str) -> Result<FsSpec, String> {
    let (mut tag, mut socket) = (None, None);
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("tag", name)) if !name.is_empty() => once("tag", &mut tag, name.to_owned())?,
            Some(("socket", path)) if !path.is_empty() => once("socket", &mut socket, PathBuf::from(path))?,
            _ => return Err(format!("{word:?} is neither tag=TAG nor socket=PATH")),
        }
    }
    match (tag, socket) {
        (Some(tag), Some(socket)) => Ok(FsSpec { tag, socket }),
        _ => Err("a file system needs tag=TAG and socket=PATH".into()),
    }
}

fn parse_net(text: &str) -> Result<NetArg, String> {
    let (mut tap, mut mac) = (None, None);
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => once("tap", &mut tap, name.to_owned())?,
            Some(("mac", address)) => once("mac", &mut mac, check_mac(address)?)?,
            _ => return Err(format!("{word:?} is neither tap=NAME nor mac=ADDRESS")),
        }
    }
    Ok(NetArg { tap: tap.ok_or("a network device needs tap=NAME")?, mac })
}

fn check_mac(text: &str) -> Result<String, String> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2)).collect();
    match bytes.as_deref() {
        Some([first, rest @ ..]) if rest.len() == 5 && first & 1 == 0 => Ok(text.to_ascii_lowercase()),
        Some(all) if all.len() == 6 => {
            Err(format!("{text} is a group's address; the first byte must be even"))
        }
        _ => Err(format!("{text:?} is not an address like 52:54:00:12:34:56")),
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let mib = units::parse_bytes(text)? >> 20;
    if mib < 32 { Err("a VM needs 32m of memory or more".into()) } else { Ok(mib) }
}

impl RunArgs {
    /// The VM that these words describe; its console is the caller's business.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn to_spec(&self, parts: &Parts) -> Result<VmSpec, String> {
        if self.disk.is_empty() && self.initrd.is_none() {
            return Err("a VM needs a root file system: give it --disk PATH or --initrd PATH".into());
        }
        let mut spec = VmSpec::new(OWNER_VM, self.kernel.clone().unwrap_or_else(|| parts.kernel.clone()));
        spec.initrd.clone_from(&self.initrd);
        let console = (!self.no_console).then_some("console=hvc0");
        spec.cmdline = console.into_iter().chain(self.append.as_deref()).collect::<Vec<_>>().join(" ");
        spec.cpus = self.cpus;
        spec.memory_mib = self.memory;
        spec.disks = (self.disk.iter().enumerate())
            .map(|(n, disk)| DiskSpec {
                id: disk.id.clone().unwrap_or_else(|| format!("disk{n}")),
                source: disk.source.clone(),
                read_only: disk.read_only,
                root: n == 0 && self.initrd.is_none(),
            })
            .collect();
        spec.file_systems.clone_from(&self.fs);
        spec.nets = (self.net.iter().enumerate())
            .map(|(n, net)| NetSpec {
                id: format!("net{n}"),
                tap: TapSource::Named(net.tap.clone()),
                mac: net.mac.clone(),
            })
            .collect();
        spec.limits = Limits::for_vm(self.cpus, self.memory);
        spec.tied = !self.detach;
        if self.detach {
            spec.labels.insert(DETACHED.into(), "true".into());
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn spec(words: &[&str]) -> Result<VmSpec, String> {
        let line = Line::try_parse_from(["x"].iter().chain(words)).map_err(|e| e.to_string())?;
        line.run.to_spec(&Parts::at("/lib/vial".as_ref()))
    }

    #[test]
    fn a_disk_is_enough() {
        let spec = spec(&["--disk", "/d.ext4"]).unwrap();
        assert_eq!(spec.kernel, PathBuf::from("/lib/vial/vmlinux"));
        assert_eq!((spec.cmdline.as_str(), spec.cpus, spec.memory_mib), ("console=hvc0", 1, 512));
        assert_eq!(
            spec.disks,
            [DiskSpec {
                id: "disk0".into(),
                source: DiskSource::File("/d.ext4".into()),
                read_only: false,
                root: true
            }]
        );
        assert!(spec.tied);
    }

    #[test]
    fn everything_finds_its_place() {
        let spec = spec(&[
            "--kernel",
            "/k",
            "--initrd",
            "/i",
            "--disk",
            "/a,ro",
            "--disk",
            "/b,id=data",
            "--net",
            "tap=t0,mac=52:54:00:AA:bb:01",
            "--disk",
            "socket=/s,id=far",
            "--fs",
            "socket=/f,tag=host",
            "--cpus",
            "4",
            "--memory",
            "2g",
            "--append",
            "-x quiet",
            "-d",
        ]);
        let spec = spec.unwrap();
        assert_eq!(spec.cmdline, "console=hvc0 -x quiet");
        assert_eq!((spec.cpus, spec.memory_mib, spec.tied), (4, 2048, false));
        assert_eq!(
            spec.disks.iter().map(|d| (d.id.as_str(), d.read_only, d.root)).collect::<Vec<_>>(),
            [("disk0", true, false), ("data", false, false), ("far", false, false)]
        );
        assert_eq!(spec.disks[2].source, DiskSource::Socket("/s".into()));
        assert_eq!(spec.file_systems, [FsSpec { tag: "host".into(), socket: "/f".into() }]);
        assert_eq!(spec.nets[0].mac.as_deref(), Some("52:54:00:aa:bb:01"));
    }

    #[test]
    fn nonsense_is_explained() {
        for (words, part) in [
            (&[][..], "--disk PATH"),
            (&["--disk", ",ro"], "needs a path"),
            (&["--disk", "/a,rw"], "neither ro"),
            (&["--disk", "/a,ro,id=x,id=y"], "id is given twice"),
            (&["--disk", "/a,ro,ro"], "ro is given twice"),
            (&["--disk", "/a", "--fs", "tag=a,socket=/s,socket=/t"], "socket is given twice"),
            (&["--disk", "/a", "--net", "tap=a,tap=b"], "tap is given twice"),
            (&["--disk", "socket="], "needs the path"),
            (&["--disk", "socket=/s,ro"], "leave ro out"),
            (&["--disk", "/a", "--fs", "tag=t"], "tag=TAG and socket=PATH"),
            (&["--disk", "/a", "--fs", "tag=t,ro"], "neither tag=TAG"),
            (&["--disk", "/a", "--net", "mac=52:54:00:00:00:01"], "tap=NAME"),
            (&["--disk", "/a", "--net", "tap=a,mac=53:54:00:00:00:01"], "group"),
            (&["--disk", "/a", "--net", "tap=a,mac=zz"], "52:54:00"),
            (&["--disk", "/a", "--memory", "16m"], "32m"),
            (&["--disk", "/a", "--cpus", "0"], "1..=32"),
        ] {
            let error = spec(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
