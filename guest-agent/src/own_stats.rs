//! What the agent itself and the whole guest use, from /proc, for those who measure a pod's price.

use agent_protocol::SandboxStats;
use std::fs;

/// What is used now; zero where the kernel does not say.
pub fn read() -> SandboxStats {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    parse(&text("/proc/self/status"), &text("/proc/meminfo"))
}

/// From the texts of `/proc/self/status` and `/proc/meminfo`.
fn parse(status: &str, meminfo: &str) -> SandboxStats {
    SandboxStats {
        agent_resident_bytes: field(status, "VmRSS:"),
        agent_anonymous_bytes: field(status, "RssAnon:"),
        memory_total_bytes: field(meminfo, "MemTotal:"),
        memory_available_bytes: field(meminfo, "MemAvailable:"),
    }
}

/// A line `name   123 kB`, in bytes.
fn field(text: &str, name: &str) -> u64 {
    let kib = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    kib.map_or(0, |kib: u64| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let status = "Name:\tvial-agent\nVmRSS:\t    2400 kB\nRssAnon:\t     700 kB\n";
        let meminfo = "MemTotal:         100 kB\nMemFree:           10 kB\nMemAvailable:      50 kB\n";
        let expected = SandboxStats {
            agent_resident_bytes: 2400 << 10,
            agent_anonymous_bytes: 700 << 10,
            memory_total_bytes: 100 << 10,
            memory_available_bytes: 50 << 10,
        };
        assert_eq!(parse(status, meminfo), expected);
    }

    #[test]
    fn what_is_not_told_is_zero() {
        assert_eq!(parse("", "MemTotal: many kB\nMemAvailable:"), SandboxStats::default());
    }
}
