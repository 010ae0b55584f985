//! Words for a process that the guest's kernel killed for want of memory.

use agent_protocol::{OomLimit, OomVictim};

/// Which process it was, and which limit it reached. The name is the container's to choose, and so escaped.
pub fn sentence(victim: &OomVictim) -> String {
    let name: String = victim.name.chars().take(OomVictim::NAME_MAX).flat_map(char::escape_debug).collect();
    let size = match victim.limit_bytes {
        0 => String::new(),
        bytes if bytes >= 1 << 20 => format!(" of {} MiB", bytes >> 20),
        bytes => format!(" of {bytes} bytes"),
    };
    let limit = match victim.limit {
        OomLimit::Container => format!("the container reached its memory limit{size}"),
        OomLimit::Pod => format!("the pod's containers together reached its memory limit{size}"),
        OomLimit::Vm => "the VM itself ran out of memory".to_owned(),
    };
    format!("out of memory: the kernel killed process {} ({name}): {limit}", victim.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_victim_and_the_limit_are_named() {
        let victim = OomVictim {
            pid: 7,
            name: "ev\u{1b}il".into(),
            limit: OomLimit::Container,
            limit_bytes: 64 << 20,
        };
        assert_eq!(
            sentence(&victim),
            "out of memory: the kernel killed process 7 (ev\\u{1b}il): the container reached its memory limit of 64 MiB"
        );
        let victim = OomVictim { limit: OomLimit::Pod, limit_bytes: 0, ..victim };
        assert!(sentence(&victim).ends_with("the pod's containers together reached its memory limit"));
    }
}
