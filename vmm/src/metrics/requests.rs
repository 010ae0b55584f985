//! How often each endpoint was asked, and how often in vain, under Firecracker's names.

use super::{Figure, Figures};
use std::sync::atomic::{AtomicU64, Ordering};

/// Group, first part of the path, Firecracker's name.
const ENDPOINTS: [(&str, &str, &str); 26] = [
    ("get_api_requests", "", "instance_info"),
    ("get_api_requests", "version", "vmm_version"),
    ("get_api_requests", "machine-config", "machine_cfg"),
    ("get_api_requests", "mmds", "mmds"),
    ("get_api_requests", "balloon", "balloon"),
    ("get_api_requests", "hotplug", "hotplug_memory"),
    ("put_api_requests", "actions", "actions"),
    ("put_api_requests", "boot-source", "boot_source"),
    ("put_api_requests", "drives", "drive"),
    ("put_api_requests", "logger", "logger"),
    ("put_api_requests", "machine-config", "machine_cfg"),
    ("put_api_requests", "cpu-config", "cpu_cfg"),
    ("put_api_requests", "metrics", "metrics"),
    ("put_api_requests", "network-interfaces", "network"),
    ("put_api_requests", "mmds", "mmds"),
    ("put_api_requests", "vsock", "vsock"),
    ("put_api_requests", "pmem", "pmem"),
    ("put_api_requests", "serial", "serial"),
    ("put_api_requests", "balloon", "balloon"),
    ("put_api_requests", "hotplug", "hotplug_memory"),
    ("patch_api_requests", "drives", "drive"),
    ("patch_api_requests", "network-interfaces", "network"),
    ("patch_api_requests", "machine-config", "machine_cfg"),
    ("patch_api_requests", "mmds", "mmds"),
    ("patch_api_requests", "balloon", "balloon"),
    ("patch_api_requests", "hotplug", "hotplug_memory"),
];

/// The counters; the HTTP thread counts, the VMM thread reads.
#[derive(Debug)]
pub struct Requests {
    endpoints: [[AtomicU64; 2]; ENDPOINTS.len()],
    deprecated: AtomicU64,
    // Microseconds that the last of each took; 0: there was none.
    pause: AtomicU64,
    resume: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            endpoints: std::array::from_fn(|_| Default::default()),
            deprecated: AtomicU64::default(),
            pause: AtomicU64::default(),
            resume: AtomicU64::default(),
        }
    }
}

impl Requests {
    /// Counts a request; what is no endpoint of Firecracker's is not counted.
    pub fn count(&self, method: &str, path: &str, failed: bool) {
        let group = match method {
            "GET" => "get_api_requests",
            "PUT" => "put_api_requests",
            "PATCH" => "patch_api_requests",
            _ => return,
        };
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let found = ENDPOINTS.iter().position(|(theirs, path, _)| (*theirs, *path) == (group, first));
        if let Some(index) = found {
            let [count, fails] = &self.endpoints[index];
            count.fetch_add(1, Ordering::Relaxed);
            fails.fetch_add(u64::from(failed), Ordering::Relaxed);
        }
    }

    /// Counts what Firecracker would rather not be asked.
    pub fn deprecated(&self) {
        self.deprecated.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how long the vCPUs took to stand still.
    pub fn paused(&self, us: u64) {
        self.pause.store(us.max(1), Ordering::Relaxed);
    }

    /// Notes how long they took to go on.
    pub fn resumed(&self, us: u64) {
        self.resume.store(us.max(1), Ordering::Relaxed);
    }

    /// Adds them to `figures`.
    pub fn read(&self, figures: &mut Figures) {
        let deprecated = self.deprecated.load(Ordering::Relaxed);
        figures.add("deprecated_api", "deprecated_http_api_calls", Figure::Count(deprecated));
        for (name, latency) in [("pause_vm", &self.pause), ("resume_vm", &self.resume)] {
            match latency.load(Ordering::Relaxed) {
                0 => {}
                us => figures.add("latencies_us", name, Figure::Gauge(us)),
            }
        }
        for ((group, _, name), [count, fails]) in ENDPOINTS.iter().zip(&self.endpoints) {
            figures.add(group, format!("{name}_count"), Figure::Count(count.load(Ordering::Relaxed)));
            if *group != "get_api_requests" {
                figures.add(group, format!("{name}_fails"), Figure::Count(fails.load(Ordering::Relaxed)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_under_their_endpoint() {
        let requests = Requests::default();
        requests.count("PUT", "/drives/a", false);
        requests.count("PUT", "/drives/b", true);
        requests.count("GET", "/", false);
        requests.count("DELETE", "/", false);
        requests.count("PUT", "/nowhere", true);
        requests.deprecated();
        requests.paused(7);
        let mut figures = Figures::default();
        requests.read(&mut figures);
        let document = figures.since(&Figures::default(), 0);
        assert_eq!(document["put_api_requests"]["drive_count"], 2);
        assert_eq!(document["put_api_requests"]["drive_fails"], 1);
        assert_eq!(document["get_api_requests"]["instance_info_count"], 1);
        assert_eq!(document["deprecated_api"]["deprecated_http_api_calls"], 1);
        // There was no resume.
        assert_eq!(document["latencies_us"], serde_json::json!({"pause_vm": 7}));
    }
}
