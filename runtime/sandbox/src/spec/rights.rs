//! A container's rights, as far as they are not the usual ones.

use super::{SpecError, defaults};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Linux' capabilities by number (capability.h, 6.12), without `CAP_`.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Its root file system can't be written.
    #[serde(default)]
    pub read_only: bool,
    /// No program gives it more rights than it has.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Capabilities beside the usual ones, without `CAP_`; `ALL`.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Of the usual ones, those that it has not; `ALL`. What is added comes after.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Groups beside those that its user has in the image.
    #[serde(default)]
    pub groups: Vec<u32>,
}

impl Rights {
    /// Puts them into an OCI process.
    ///
    /// # Errors
    /// There is no such capability.
    pub fn apply(&self, process: &mut Value) -> Result<(), SpecError> {
        process["noNewPrivileges"] = self.no_new_privileges.into();
        if !self.groups.is_empty() {
            process["user"]["additionalGids"] = self.groups.clone().into();
        }
        if self.cap_add.is_empty() && self.cap_drop.is_empty() {
            return Ok(());
        }
        let named = |names: &[String]| -> Result<BTreeSet<String>, SpecError> {
            let mut found = BTreeSet::new();
            for name in names {
                match name.as_str() {
                    "ALL" => found.extend(ALL.map(|name| format!("CAP_{name}"))),
                    known if ALL.contains(&known) => drop(found.insert(format!("CAP_{known}"))),
                    _ => return Err(SpecError::Capability(name.clone())),
                }
            }
            Ok(found)
        };
        let (added, dropped) = (named(&self.cap_add)?, named(&self.cap_drop)?);
        let usual = defaults::CAPABILITIES
            .iter()
            .map(|name| (*name).to_owned())
            .filter(|name| !dropped.contains(name));
        let all: BTreeSet<String> = usual.chain(added).collect();
        process["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(add: &[&str], drop: &[&str]) -> Result<Vec<String>, SpecError> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut process = json!({ "capabilities": defaults::capabilities() });
        Rights { cap_add: owned(add), cap_drop: owned(drop), ..Rights::default() }.apply(&mut process)?;
        Ok(serde_json::from_value(process["capabilities"]["bounding"].clone()).unwrap())
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        assert_eq!(capabilities(&[], &[]).unwrap().len(), 14);
        assert_eq!(capabilities(&["NET_BIND_SERVICE"], &["ALL"]).unwrap(), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(capabilities(&["ALL"], &[]).unwrap().len(), 41);
        assert!(!capabilities(&[], &["MKNOD"]).unwrap().contains(&"CAP_MKNOD".to_owned()));
        assert_eq!(capabilities(&["NONE"], &[]), Err(SpecError::Capability("NONE".into())));
    }
}
