//! Files, sockets and descriptors that a document names.

use super::ConfigError;
use crate::api::config::{Drive, FileSource, MemoryBacking, Profile, VmConfig};
use std::collections::HashSet;

/// Every source of a document with a name for messages.
pub fn sources(config: &VmConfig) -> Vec<(String, FileSource)> {
    let boot = &config.boot_source;
    let mut all = vec![("boot-source.kernel_image_path".to_owned(), boot.kernel_image_path.clone())];
    let mut add = |name: String, source: Option<&FileSource>| {
        all.extend(source.map(|source| (name, source.clone())));
    };
    add("boot-source.initrd_path".into(), boot.initrd_path.as_ref());
    if let MemoryBacking::PrivateFile(source) = &config.machine_config.memory_backing {
        add("machine-config.memory_backing".into(), Some(source));
    }
    for Drive { drive_id, path_on_host, concat, .. } in &config.drives {
        add(format!("drive {drive_id:?}"), path_on_host.as_ref());
        concat.iter().for_each(|part| add(format!("drive {drive_id:?}"), Some(part)));
    }
    config.back_ends().for_each(|(name, socket)| add(name, Some(socket)));
    for pmem in &config.pmem {
        add(format!("pmem {:?}", pmem.id), Some(&pmem.path_on_host));
    }
    for net in &config.network_interfaces {
        add(format!("interface {:?}", net.iface_id), Some(&net.host_dev_name));
        net.more_queues
            .iter()
            .chain(&net.vhost_net)
            .for_each(|queue| add(format!("interface {:?}", net.iface_id), Some(queue)));
    }
    if let Some(vsock) = &config.vsock {
        add("vsock.uds_path".into(), Some(&vsock.uds_path));
        for host in &vsock.host_ports {
            add(format!("vsock.host_ports {}", host.port), Some(&FileSource::Fd { fd: host.fd }));
        }
    }
    if let Some(serial) = &config.serial {
        add("serial.serial_out_path".into(), serial.serial_out_path.as_ref());
        add("serial.input".into(), serial.input.as_ref());
    }
    let log = config.logger.as_ref().and_then(|logger| logger.log_path.clone()).map(FileSource::Path);
    add("logger.log_path".into(), log.as_ref());
    let metrics = config.metrics.as_ref().map(|metrics| FileSource::Path(metrics.metrics_path.clone()));
    add("metrics.metrics_path".into(), metrics.as_ref());
    let vial = &config.vial;
    if let Some(console) = &vial.console {
        add("vial.console.input".into(), console.input.as_ref());
        add("vial.console.output".into(), console.output.as_ref());
    }
    add("vial.control".into(), vial.control.as_ref());
    add("vial.status".into(), vial.status.as_ref());
    all
}

/// Descriptors are numbers above the standard ones, each used once, since each has one owner; pods have nothing else.
pub(super) fn check_sources(config: &VmConfig) -> Result<(), ConfigError> {
    let sockets = [
        ("vsock.uds_path", config.vsock.as_ref().map(|vsock| &vsock.uds_path)),
        ("vial.control", config.vial.control.as_ref()),
    ];
    for (field, source) in sockets {
        if let Some(FileSource::Path(path)) = source
            && path.as_os_str().is_empty()
        {
            return Err(ConfigError::NoPath(field));
        }
    }
    let mut taken = HashSet::new();
    for (field, source) in sources(config) {
        match source {
            FileSource::Path(_) if config.vial.profile == Profile::Pod => {
                return Err(ConfigError::PathInPod(field));
            }
            FileSource::Path(_) => {}
            FileSource::Fd { fd } if fd < 3 => return Err(ConfigError::Descriptor { field, fd }),
            FileSource::Fd { fd } if !taken.insert(fd) => {
                return Err(ConfigError::Duplicate { field: "descriptor", name: fd.to_string() });
            }
            FileSource::Fd { .. } => {}
        }
    }
    Ok(())
}
