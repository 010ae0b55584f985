//! The guest's kernel log, in which processes of containers have names.

// The agent is a program and shows nothing to other crates, but this part of it stands alone.
#[path = "../../../guest-agent/src/oom/line.rs"]
mod oom;

use agent_protocol::OomVictim;
use oom::Line;

/// Any record; and a victim with any name, which never becomes another container's.
pub fn line(bytes: &[u8]) {
    if let Some(Line::Victim(victim)) = oom::parse(bytes) {
        check(&victim);
    }
    let mut name = String::new();
    for &byte in bytes.iter().take(15) {
        match byte {
            b'\\' | 0..0x20 | 0x7f.. => name += &format!("\\x{byte:02x}"),
            _ => name.push(byte.into()),
        }
    }
    let record = format!(
        "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,oom_memcg=/pods,task_memcg=/pods/c1,task={name},pid=77,uid=0\n"
    );
    let Some(Line::Victim(victim)) = oom::parse(record.as_bytes()) else { panic!("{name:?} hides a kill") };
    check(&victim);
    assert_eq!((victim.container, victim.limited, victim.pid), ("c1", Some("/pods"), 77));
}

fn check(victim: &oom::Victim<'_>) {
    assert!(victim.name.len() <= OomVictim::NAME_MAX);
    assert!(victim.name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    assert!(!victim.container.is_empty() && !victim.container.contains(['/', ',', '=']));
}
