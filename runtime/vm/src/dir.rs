//! The folder of one VM: `<run dir>/vms/<id>/`.
//!
//! | file | what |
//! |---|---|
//! | `meta.json` | what the VM was made from, written before anything else exists of it |
//! | `process.json` | which process it is, written by the launcher before that process may execute the VMM |
//! | `config.json` | the configuration document |
//! | `status.jsonl` | the VMM's own records |
//! | `control.sock`, `vsock.sock` | sockets on which the VMM listens |
//! | `token` | the agent's secret, mode 0600 |
//! | `console.log`, `vmm.log` | the guest's console; what the VMM wrote to standard error |

use crate::process::ProcessRecord;
use crate::spec::Limits;
use crate::{Error, VmId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use vmm::api::config::VmConfig;

/// Upper bound of what is read of any of our own small files, in bytes.
const MAX_READ: u64 = 1 << 20;

/// What a VM was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Its name.
    pub id: VmId,
    /// Who looks after it.
    pub owner: String,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// CLOCK_MONOTONIC at the same moment, microseconds: the zero point of the VMM's milestones.
    pub created_mono_us: u64,
    /// vCPUs.
    pub cpus: u8,
    /// MiB.
    pub memory_mib: u64,
    /// The kernel's path on the host.
    pub kernel: PathBuf,
    /// Whether it has an agent.
    pub agent: bool,
    /// User and group id of its process; none: the caller's own.
    pub uid: Option<u32>,
    /// The folder of its cgroup; none: it has none of its own.
    pub cgroup: Option<PathBuf>,
    /// Limits that were asked for.
    pub limits: Limits,
    /// Limits that the host could not enforce.
    pub unenforced: Vec<String>,
    /// The program that makes the VM; while it lives, a VM without a process is starting, afterwards it is dead.
    pub maker: ProcessRecord,
}

/// The folder of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDir(PathBuf);

impl VmDir {
    /// The folder at this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `status.jsonl`
    pub fn status(&self) -> PathBuf {
        self.0.join("status.jsonl")
    }

    /// `control.sock`
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// `vsock.sock`
    pub fn vsock(&self) -> PathBuf {
        self.0.join("vsock.sock")
    }

    /// `console.log`
    pub fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// `vmm.log`
    pub fn vmm_log(&self) -> PathBuf {
        self.0.join("vmm.log")
    }

    /// `process.json`
    pub fn process(&self) -> PathBuf {
        self.0.join("process.json")
    }

    /// `config.json`
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    fn token_path(&self) -> PathBuf {
        self.0.join("token")
    }

    /// Notes what the VM is made from.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_meta(&self, meta: &Meta) -> Result<(), Error> {
        let path = self.0.join("meta.json");
        let text = serde_json::to_vec_pretty(meta).expect("plain data with text keys is always JSON");
        write_whole(&path, &text).map_err(Error::file("write", &path))
    }

    /// What the VM was made from; none when its maker died before it could say.
    ///
    /// # Errors
    /// When the file exists and can't be read.
    pub fn read_meta(&self) -> Result<Option<Meta>, Error> {
        read_json(&self.0.join("meta.json"))
    }

    /// Which process the VM is; none when there never was one.
    ///
    /// # Errors
    /// When the file exists and can't be read.
    pub fn read_process(&self) -> Result<Option<ProcessRecord>, Error> {
        read_json(&self.process())
    }

    /// What the VMM was told; none when the VM's maker died before it could say.
    ///
    /// # Errors
    /// When the file exists and can't be read.
    pub fn read_config(&self) -> Result<Option<VmConfig>, Error> {
        read_json(&self.config())
    }

    /// Notes the agent's secret.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_token(&self, token: &str) -> Result<(), Error> {
        let path = self.token_path();
        write_whole(&path, token.as_bytes()).map_err(Error::file("write", &path))
    }

    /// The agent's secret; none when the agent was never ready.
    ///
    /// # Errors
    /// When the file exists and can't be read.
    pub fn read_token(&self) -> Result<Option<String>, Error> {
        let path = self.token_path();
        let text = read_bounded(&path).map_err(Error::file("read", &path))?;
        Ok(text.and_then(|t| String::from_utf8(t).ok()).filter(|t| !t.is_empty()))
    }

    /// Makes a new file that only we may read.
    pub(crate) fn create_file(path: &Path, append: bool) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        if append {
            options.append(true)
        } else {
            options.write(true)
        };
        options.create_new(true).mode(0o600).open(path).map_err(Error::file("create", path))
    }
}

/// Writes a file so that a reader sees all of it or nothing.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    std::fs::rename(&new, path)
}

fn read_bounded(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(MAX_READ).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A file of ours; missing, empty and torn ones say nothing.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = read_bounded(path).map_err(Error::file("read", path))?;
    Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()))
}
