//! The VM to be, while its documents come in one by one: no file is touched here, and a document that does not fit changes nothing.

use super::action::{Configure, Fault};
use super::shown;
use crate::api::config::{
    Balloon, BootSource, Drive, FileSource, MachineConfig, MmdsConfig, Transport, VmConfig,
};
use crate::validate::{self, ConfigError};

/// The documents so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    // Its boot source means something only if `boots`.
    config: VmConfig,
    boots: bool,
    // Of the command line; no document takes it back.
    pci: bool,
}

impl Default for Draft {
    fn default() -> Self {
        let boot_source = BootSource {
            kernel_image_path: FileSource::Path(Default::default()),
            initrd_path: None,
            boot_args: None,
            load: None,
            entry: None,
        };
        let config = VmConfig::booting(boot_source);
        Self { config, boots: false, pci: false }
    }
}

impl Draft {
    /// No documents yet; all devices are on a PCI bus if `pci`.
    pub fn new(pci: bool) -> Self {
        let mut draft = Self { pci, ..Self::default() };
        draft.keep_pci();
        draft
    }

    fn keep_pci(&mut self) {
        if self.pci {
            self.config.vial.transport = Transport::Pci;
        }
    }

    /// Takes a document in: a new one, or in the place of its namesake.
    ///
    /// # Errors
    /// A [`Fault`] that names the kind of document as Firecracker does and says what is wrong; the draft is as it was then.
    pub fn apply(&mut self, document: Configure) -> Result<(), Fault> {
        let kind = kind(&document);
        let mut next = self.clone();
        next.put(document)?;
        next.keep_pci();
        next.check().map_err(|error| Fault::bad(format!("{kind} error: {}", crate::chain(&error))))?;
        *self = next;
        Ok(())
    }

    fn put(&mut self, document: Configure) -> Result<(), Fault> {
        let config = &mut self.config;
        match document {
            Configure::Machine(machine) => config.machine_config = machine,
            Configure::MachineUpdate(update) => config.machine_config = update.apply(&config.machine_config),
            Configure::BootSource(boot) => {
                config.boot_source = boot;
                self.boots = true;
            }
            Configure::Drive(drive) => put_drive(&mut config.drives, drive)?,
            Configure::Network(net) => {
                replace(&mut config.network_interfaces, net, |a, b| a.iface_id == b.iface_id);
            }
            Configure::Vsock(vsock) => config.vsock = Some(vsock),
            Configure::Entropy(entropy) => config.entropy = Some(entropy),
            Configure::Cpu(template) => config.cpu_config = Some(template),
            Configure::Pmem(pmem) => replace(&mut config.pmem, pmem, |a, b| a.id == b.id),
            Configure::Hotplug(memory) => config.memory_hotplug = Some(memory),
            Configure::Balloon(balloon) => config.balloon = Some(balloon),
            Configure::Serial(serial) => config.serial = Some(serial),
            Configure::Mmds(mmds) => {
                check_mmds(&mmds, config)?;
                config.mmds_config = Some(mmds);
            }
            Configure::FileSystem(fs) => replace(&mut config.file_systems, fs, |a, b| a.tag == b.tag),
            Configure::Extensions(vial) => config.vial = vial,
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        // A number that a client gives is nobody's promise: it may well be a descriptor of this process itself.
        for (field, source) in validate::sources(&self.config) {
            if let FileSource::Fd { .. } = source {
                return Err(ConfigError::DescriptorInApi(field));
            }
        }
        validate::check(&self.config)
    }

    /// What `GET /machine-config` shows.
    pub fn machine_config(&self) -> &MachineConfig {
        &self.config.machine_config
    }

    /// What `GET /balloon` shows.
    ///
    /// # Errors
    /// There is none.
    pub fn balloon(&self) -> Result<Balloon, Fault> {
        self.config.balloon.clone().ok_or_else(|| Fault::bad("Balloon config error: this VM has no balloon"))
    }

    /// All documents, without a boot source as long as there is none.
    pub fn document(&self) -> serde_json::Value {
        let mut document = document(&self.config);
        if !self.boots
            && let Some(fields) = document.as_object_mut()
        {
            fields.remove("boot-source");
        }
        document
    }

    /// The whole, ready to be started.
    ///
    /// # Errors
    /// Nothing says what to boot.
    pub fn config(&self) -> Result<VmConfig, Fault> {
        if !self.boots {
            let message = "Start microvm error: Cannot start microvm without kernel configuration.";
            return Err(Fault::bad(message));
        }
        Ok(self.config.clone())
    }
}

/// A configuration as the document that `GET /vm/config` shows.
pub fn document(config: &VmConfig) -> serde_json::Value {
    shown::complete(
        serde_json::to_value(config).expect("documents have only strings, numbers and lists of them"),
    )
}

/// The root device comes first, as in Firecracker: guests boot from `/dev/vda` whatever the order of the requests was.
fn put_drive(drives: &mut Vec<Drive>, drive: Drive) -> Result<(), Fault> {
    let other_root = drives.iter().any(|other| other.is_root_device && other.drive_id != drive.drive_id);
    if drive.is_root_device && other_root {
        return Err(Fault::bad("Drive config error: A root block device already exists!"));
    }
    replace(drives, drive, |a, b| a.drive_id == b.drive_id);
    if let Some(root) = drives.iter().position(|drive| drive.is_root_device) {
        drives[..=root].rotate_right(1);
    }
    Ok(())
}

fn replace<T>(list: &mut Vec<T>, item: T, same: impl Fn(&T, &T) -> bool) {
    match list.iter_mut().find(|old| same(old, &item)) {
        Some(old) => *old = item,
        None => list.push(item),
    }
}

fn check_mmds(mmds: &MmdsConfig, config: &VmConfig) -> Result<(), Fault> {
    validate::mmds(mmds, config).map_err(|error| Fault::bad(format!("MMDS config error: {error}")))
}

/// Firecracker's word for it in messages.
pub(super) fn kind(document: &Configure) -> &'static str {
    match document {
        Configure::Machine(_) | Configure::MachineUpdate(_) => "Machine config",
        Configure::BootSource(_) => "Boot source",
        Configure::Drive(_) => "Drive config",
        Configure::Network(_) => "Network config",
        Configure::Vsock(_) => "Vsock config",
        Configure::Entropy(_) => "Entropy device",
        Configure::Cpu(_) => "Configure CPU",
        Configure::Pmem(_) => "Pmem device",
        Configure::Hotplug(_) => "Memory hotplug config",
        Configure::Balloon(_) => "Balloon config",
        Configure::Serial(_) => "Serial device",
        Configure::Mmds(_) => "MMDS config",
        Configure::FileSystem(_) => "File system config",
        Configure::Extensions(_) => "Vial config",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::action::Action;
    use crate::http::route::route;
    use proptest::prelude::*;

    fn apply(draft: &mut Draft, method: &str, path: &str, body: &str) -> Result<(), Fault> {
        match route(method, path, body.as_bytes())? {
            Action::Configure(document) => draft.apply(*document),
            other => panic!("{other:?} is no document"),
        }
    }

    fn drive(draft: &mut Draft, id: &str, root: bool) -> Result<(), Fault> {
        let body = format!(r#"{{"drive_id":"{id}","path_on_host":"/{id}","is_root_device":{root}}}"#);
        apply(draft, "PUT", &format!("/drives/{id}"), &body)
    }

    #[test]
    fn a_draft_without_a_kernel_does_not_start() {
        let mut draft = Draft::default();
        assert!(draft.config().unwrap_err().message.contains("without kernel configuration"));
        assert_eq!(draft.document().get("boot-source"), None);
        apply(&mut draft, "PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#).unwrap();
        assert_eq!(draft.config().unwrap().boot_source.kernel_image_path, FileSource::Path("/k".into()));
    }

    #[test]
    fn the_root_drive_is_the_first_disk_and_the_only_root() {
        let mut draft = Draft::default();
        for (id, root) in [("a", false), ("b", true), ("c", false), ("b", true)] {
            drive(&mut draft, id, root).unwrap();
        }
        let ids: Vec<_> = draft.config.drives.iter().map(|drive| drive.drive_id.as_str()).collect();
        assert_eq!(ids, ["b", "a", "c"]);
        assert!(drive(&mut draft, "d", true).unwrap_err().message.contains("already exists"));
        drive(&mut draft, "b", false).unwrap();
        drive(&mut draft, "d", true).unwrap();
    }

    #[test]
    fn a_document_that_does_not_fit_changes_nothing() {
        let mut draft = Draft::default();
        let before = draft.clone();
        for (method, path, body, expected) in [
            ("PUT", "/machine-config", r#"{"vcpu_count":0,"mem_size_mib":128}"#, "Machine config error: "),
            ("PATCH", "/machine-config", r#"{"vcpu_count":33}"#, "give 1 to 32"),
            ("PATCH", "/machine-config", r#"{"cpu_template":"T2"}"#, "cpu_template is not supported"),
            ("PUT", "/cpu-config", r#"{"msr_modifiers":[{"addr":"0xg","bitmap":"0b1"}]}"#, "is no number"),
            ("PUT", "/drives/a", r#"{"drive_id":"a"}"#, "exactly one of path_on_host"),
            ("PUT", "/vsock", r#"{"guest_cid":2,"uds_path":"/v"}"#, "Vsock config error: "),
            ("PUT", "/boot-source", r#"{"kernel_image_path":{"fd":3}}"#, "can't be named through the API"),
        ] {
            let fault = apply(&mut draft, method, path, body).unwrap_err();
            assert!(fault.message.contains(expected), "{}", fault.message);
        }
        assert_eq!(draft, before);
    }

    #[test]
    fn an_update_leaves_the_rest_alone() {
        let mut draft = Draft::default();
        apply(&mut draft, "PUT", "/machine-config", r#"{"vcpu_count":2,"mem_size_mib":256}"#).unwrap();
        apply(&mut draft, "PATCH", "/machine-config", r#"{"mem_size_mib":512}"#).unwrap();
        assert_eq!((draft.machine_config().vcpu_count, draft.machine_config().mem_size_mib), (2, 512));
    }

    proptest! {
        #[test]
        fn whatever_was_taken_in_is_a_valid_draft(
            requests in proptest::collection::vec((0usize..6, "[a-c]", any::<bool>(), 0u8..40), 0..12),
        ) {
            let mut draft = Draft::default();
            for (what, id, flag, number) in requests {
                let _ = match what {
                    0 => drive(&mut draft, &id, flag),
                    1 => apply(&mut draft, "PATCH", "/machine-config", &format!(r#"{{"vcpu_count":{number}}}"#)),
                    2 => apply(&mut draft, "PUT", "/vsock", &format!(r#"{{"guest_cid":{number},"uds_path":"/v"}}"#)),
                    3 => apply(&mut draft, "PUT", "/entropy", "{}"),
                    4 => apply(&mut draft, "PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#),
                    _ => apply(&mut draft, "PUT", &format!("/network-interfaces/{id}"),
                        &format!(r#"{{"iface_id":"{id}","host_dev_name":"tap0"}}"#)),
                };
                prop_assert!(draft.check().is_ok());
                prop_assert!(draft.config.drives.iter().skip(1).all(|drive| !drive.is_root_device));
            }
        }
    }
}
