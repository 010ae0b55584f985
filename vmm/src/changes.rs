//! What changes of a machine's configuration while it runs, so that who asks for it sees what is: pure functions.

use crate::api::config::{Drive, FileSource, Pmem, RateLimiter, TokenBucket, VmConfig};
use std::path::PathBuf;

/// Drive `id` has these files by now; see [`drive_with`].
pub fn drive_files(config: &mut VmConfig, id: &str, paths: Option<&Files>) {
    if let Some(drive) = drive(config, id) {
        *drive = drive_with(drive, paths);
    }
}

/// The files that a drive is given while it runs.
pub enum Files {
    /// One.
    Path(PathBuf),
    /// Several that make one disk.
    Concat(Vec<PathBuf>),
}

/// `drive` with these files in the place of its own, or with such as have no path here.
pub fn drive_with(drive: &Drive, files: Option<&Files>) -> Drive {
    let source = |path: &PathBuf| FileSource::Path(path.clone());
    let (path_on_host, concat) = match files {
        None => (None, Vec::new()),
        Some(Files::Path(path)) => (Some(source(path)), Vec::new()),
        Some(Files::Concat(paths)) => (None, paths.iter().map(source).collect()),
    };
    // Several files make a disk for reading, and that it stays.
    let is_read_only = drive.is_read_only || !drive.concat.is_empty();
    Drive { path_on_host, concat, is_read_only, ..drive.clone() }
}

/// Drive `id` has the buckets of `change` by now.
pub fn limit_drive(config: &mut VmConfig, id: &str, change: &RateLimiter) {
    if let Some(drive) = drive(config, id) {
        limit(&mut drive.rate_limiter, Some(change));
    }
}

/// Interface `id` has these buckets by now.
pub fn limit_interface(
    config: &mut VmConfig,
    id: &str,
    receive: Option<&RateLimiter>,
    transmit: Option<&RateLimiter>,
) {
    if let Some(net) = config.network_interfaces.iter_mut().find(|net| net.iface_id == id) {
        limit(&mut net.rx_rate_limiter, receive);
        limit(&mut net.tx_rate_limiter, transmit);
    }
}

/// Persistent memory `id` has these buckets by now.
pub fn limit_pmem(config: &mut VmConfig, id: &str, change: Option<&RateLimiter>) {
    if let Some(Pmem { rate_limiter, .. }) = config.pmem.iter_mut().find(|pmem| pmem.id == id) {
        limit(rate_limiter, change);
    }
}

fn drive<'a>(config: &'a mut VmConfig, id: &str) -> Option<&'a mut Drive> {
    config.drives.iter_mut().find(|drive| drive.drive_id == id)
}

/// Buckets that a change leaves out stay; one that limits nothing is none.
fn limit(present: &mut Option<RateLimiter>, change: Option<&RateLimiter>) {
    let Some(change) = change else { return };
    let old = present.unwrap_or_default();
    let limits = |bucket: &TokenBucket| bucket.size > 0 && bucket.refill_time > 0;
    let new = RateLimiter {
        bandwidth: change.bandwidth.or(old.bandwidth).filter(limits),
        ops: change.ops.or(old.ops).filter(limits),
    };
    *present = (new != RateLimiter::default()).then_some(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> VmConfig {
        serde_json::from_value(json!({
            "boot-source": {"kernel_image_path": "/k"},
            "drives": [
                {"drive_id": "a", "path_on_host": "/a", "rate_limiter": {"ops": {"size": 1, "refill_time": 2}}},
                {"drive_id": "b", "concat": ["/b", "/c"]},
            ],
            "network-interfaces": [{"iface_id": "e", "host_dev_name": "t"}],
            "pmem": [{"id": "p", "path_on_host": "/p"}],
        }))
        .unwrap()
    }

    fn limiter(value: Value) -> RateLimiter {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn another_file_takes_the_place_of_all_former_ones() {
        let mut config = config();
        drive_files(&mut config, "a", None);
        drive_files(&mut config, "b", Some(&Files::Path("/d".into())));
        drive_files(&mut config, "none", None);
        assert_eq!((&config.drives[0].path_on_host, config.drives[0].is_read_only), (&None, false));
        let new = &config.drives[1];
        assert_eq!(new.path_on_host, Some(FileSource::Path("/d".into())));
        assert!(new.concat.is_empty() && new.is_read_only);
        drive_files(&mut config, "b", Some(&Files::Concat(vec!["/e".into(), "/f".into()])));
        let new = &config.drives[1];
        assert_eq!((&new.path_on_host, new.concat.len(), new.is_read_only), (&None, 2, true));
    }

    #[test]
    fn buckets_change_one_by_one_and_go_when_they_limit_nothing() {
        let mut config = config();
        let bandwidth = json!({"bandwidth": {"size": 3, "refill_time": 4}});
        limit_drive(&mut config, "a", &limiter(bandwidth.clone()));
        let both = limiter(
            json!({"bandwidth": {"size": 3, "refill_time": 4}, "ops": {"size": 1, "refill_time": 2}}),
        );
        assert_eq!(config.drives[0].rate_limiter, Some(both));
        let none = limiter(
            json!({"bandwidth": {"size": 0, "refill_time": 0}, "ops": {"size": 0, "refill_time": 2}}),
        );
        limit_drive(&mut config, "a", &none);
        assert_eq!(config.drives[0].rate_limiter, None);
        limit_interface(&mut config, "e", None, Some(&limiter(bandwidth.clone())));
        let net = &config.network_interfaces[0];
        assert_eq!((net.rx_rate_limiter, net.tx_rate_limiter), (None, Some(limiter(bandwidth.clone()))));
        limit_pmem(&mut config, "p", Some(&limiter(bandwidth.clone())));
        limit_pmem(&mut config, "p", None);
        assert_eq!(config.pmem[0].rate_limiter, Some(limiter(bandwidth)));
    }
}
