use super::line::{Line, Victim, parse};
use super::{MAX_WAITING, Marks, Ooms};
use crate::reaper::Reaper;
use agent_protocol::OomLimit;
use proptest::prelude::*;
use std::rc::Rc;

const HEAD: &str =
    "6,400,12345678,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0";

/// A record as the kernel writes it, its escapes included.
fn record(oom: &str, task: &str, comm: &[u8]) -> Vec<u8> {
    let mut name = String::new();
    for &byte in comm {
        match byte {
            b'\\' | 0..0x20 | 0x7f.. => name += &format!("\\x{byte:02x}"),
            _ => name.push(byte.into()),
        }
    }
    format!("{HEAD}{oom},task_memcg={task},task={name},pid=77,uid=0\n SUBSYSTEM=x\n").into_bytes()
}

fn victim(record: &[u8]) -> Option<(String, Option<String>, u32, String)> {
    match parse(record)? {
        Line::Victim(Victim { container, limited, pid, name }) => {
            Some((container.into(), limited.map(Into::into), pid, name.into()))
        }
        Line::Spared(_) => None,
    }
}

fn named(
    container: &str,
    limited: Option<&str>,
    name: &str,
) -> Option<(String, Option<String>, u32, String)> {
    Some((container.into(), limited.map(Into::into), 77, name.into()))
}

#[test]
fn the_limit_is_the_containers_the_pods_or_the_guests() {
    let own = record(",oom_memcg=/pods/c1", "/pods/c1", b"python3");
    assert_eq!(victim(&own), named("c1", Some("/pods/c1"), "python3"));
    let pod = record(",oom_memcg=/pods", "/pods/c1", b"sh");
    assert_eq!(victim(&pod), named("c1", Some("/pods"), "sh"));
    let guest = record(",global_oom", "/pods/c1", b"sh");
    assert_eq!(victim(&guest), named("c1", None, "sh"));
    let below = record(",oom_memcg=/pods/c1/own", "/pods/c1/own/x", b"sh");
    assert_eq!(victim(&below), named("c1", Some("/pods/c1/own"), "sh"));
}

#[test]
fn a_spared_victim_is_known_by_its_number() {
    let text = |rest: &str| format!("3,401,1,-;Memory cgroup out of memory: OOM victim {rest}\n");
    let spared = text("77 (a) is already exiting. Skip killing the task");
    assert_eq!(parse(spared.as_bytes()), Some(Line::Spared(77)));
    assert_eq!(parse(text("x (a)").as_bytes()), None);
}

#[test]
fn names_that_look_like_fields_are_names() {
    for name in [
        ",pid=1,uid=0",
        ",task=x,pid=1",
        "a,task=b",
        ",task_memcg=/p",
        "oom-kill:",
        "=,=,=",
        "",
        ",global_oom",
        "/pods/c2",
        ",oom_memcg=/p",
        "a b)(",
    ] {
        let found = victim(&record(",oom_memcg=/pods/c1", "/pods/c1", name.as_bytes()));
        assert_eq!(found, named("c1", Some("/pods/c1"), name), "{name}");
    }
    let found = victim(&record(",oom_memcg=/pods/c1", "/pods/c1", b"\n\\;oom-kill:\xff"));
    assert_eq!(found, named("c1", Some("/pods/c1"), r"\x0a\x5c;oom-kill:\xff"));
}

#[test]
fn what_programs_write_and_torn_lines_are_not_believed() {
    let good = String::from_utf8(record(",oom_memcg=/pods/c1", "/pods/c1", b"sh")).unwrap();
    assert!(victim(good.as_bytes()).is_some());
    let changed = |from: &str, to: &str| victim(good.replacen(from, to, 1).as_bytes());
    assert_eq!(changed("6,400", "14,400"), None, "facility 1 is a program's");
    assert_eq!(changed(",-;", ",c;"), None, "a piece of another line");
    assert_eq!(changed(",-;", ",-;x"), None);
    assert_eq!(changed(",-;", ",-;\\x0a"), None);
    assert_eq!(changed("/pods/c1,task=", "/pods,task="), None);
    assert_eq!(changed("/pods/c1,task=", "/init/c1,task="), None);
    assert_eq!(changed("/pods/c1,task=", "/pods/c2,task="), None, "another container's limit");
    assert_eq!(changed(",pid=77", ",pid=-7"), None);
    assert_eq!(changed(",pid=77", ",pid=99999999999"), None);
    assert_eq!(changed(",oom_memcg=/pods/c1", ""), None);
}

#[test]
fn a_line_that_can_be_read_in_two_ways_is_not_read() {
    // A container that may make cgroups below its own could call them so.
    for group in ["x,task_memcg=/pods/c2", "x,task_memcg=/pods/c2,task=sh,pid=1,uid=0"] {
        let found = victim(&record(",oom_memcg=/pods/c1", &format!("/pods/c1/{group}"), b"sh"));
        assert_eq!(found, None, "{group}");
    }
    let limited = ",oom_memcg=/pods/c1/x,task_memcg=/pods/c2";
    assert_eq!(victim(&record(limited, "/pods/c1/x", b"sh")), None);
}

#[test]
fn ids_are_those_that_the_container_sees() {
    let inner = |cgroup: &str| {
        let marks = Marks { cgroup: cgroup.into(), status: "Name:\tx\nNSpid:\t321\t9\n".into() };
        marks.inner("c1")
    };
    assert_eq!(inner("0::/pods/c1\n"), Some(9));
    assert_eq!(inner("0::/pods/c1/below\n"), Some(9));
    assert_eq!(inner("0::/pods/c1 (deleted)\n"), Some(9));
    assert_eq!(inner("0::/pods/c10\n"), None, "the number is another's by now");
    assert_eq!(Marks::default().inner("c1"), None);
}

fn ooms() -> Ooms {
    Ooms::new(Rc::new(Reaper::default()))
}

fn note(ooms: &Ooms, container: &str, pid: u32) {
    let limited = format!("/pods/{container}");
    ooms.note(&Line::Victim(Victim { container, limited: Some(&limited), pid, name: "x" }));
}

#[test]
fn a_victim_is_told_when_its_kill_is_counted_and_only_then() {
    let ooms = ooms();
    // No process has such a number, so the guest's is told.
    let pids = |container: &str, kills| -> Vec<u32> {
        ooms.victims(container, kills).iter().map(|victim| victim.pid).collect()
    };
    for (container, pid) in [("a", 1 << 30), ("b", 2 << 30), ("a", 3 << 30)] {
        note(&ooms, container, pid);
    }
    assert!(pids("c", 5).is_empty());
    assert_eq!(pids("a", 1), [1 << 30]);
    assert_eq!(pids("a", 5), [3 << 30]);
    ooms.note(&Line::Spared(2 << 30));
    assert!(pids("b", 1).is_empty());
    note(&ooms, "b", 1 << 30);
    ooms.forget("b");
    assert!(pids("b", 1).is_empty());
}

#[test]
fn the_guests_own_limit_is_its_memory() {
    let ooms = ooms();
    ooms.note(&Line::Victim(Victim { container: "a", limited: None, pid: 1 << 30, name: "x" }));
    let victims = ooms.victims("a", 1);
    assert_eq!(victims[0].limit, OomLimit::Vm);
    assert!(victims[0].limit_bytes > 0);
}

#[test]
fn what_waits_is_bounded() {
    let ooms = ooms();
    (0..1000).for_each(|n| note(&ooms, "a", (1 << 30) + n));
    assert_eq!(ooms.victims("a", u64::MAX).len(), MAX_WAITING);
}

proptest! {
    #[test]
    fn a_name_never_changes_the_container(comm in proptest::collection::vec(any::<u8>(), 0..=15)) {
        let (container, limited, pid, name) =
            victim(&record(",oom_memcg=/pods/c1", "/pods/c1", &comm)).unwrap();
        prop_assert_eq!((container.as_str(), limited.as_deref(), pid), ("c1", Some("/pods/c1"), 77));
        prop_assert!(name.len() <= agent_protocol::OomVictim::NAME_MAX && name.bytes().all(|b| (0x20..0x7f).contains(&b)));
    }

    #[test]
    fn parts_of_real_lines_in_a_name_change_nothing(parts in proptest::collection::vec(
        proptest::sample::select(vec![",task=", ",pid=", "7", ",uid=", ",task_memcg=", "/pods/c2", "oom-kill:", "\n", "\\", ",", "="]), 0..6)
    ) {
        let mut comm = parts.concat().into_bytes();
        comm.truncate(15);
        let found = victim(&record(",global_oom", "/pods/c1", &comm)).unwrap();
        prop_assert_eq!((found.0.as_str(), found.1, found.2), ("c1", None, 77));
    }

    #[test]
    fn a_group_below_a_container_never_names_another(below in "[a-z0-9,=/]{0,30}(,task_memcg=|,task=|,oom_memcg=|,pid=|,uid=){0,3}[a-z0-9,=/]{0,30}", comm in "[a-z,=]{0,15}") {
        for oom in [",oom_memcg=/pods".to_owned(), format!(",oom_memcg=/pods/c1/{below}")] {
            if let Some(found) = victim(&record(&oom, &format!("/pods/c1/{below}"), comm.as_bytes())) {
                prop_assert_eq!(found.0, "c1");
            }
        }
    }

    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..200) {
        let _ = parse(&bytes);
        let good = record(",oom_memcg=/pods/c1", "/pods/c1", b"sh");
        let mut cut = good[..cut.min(good.len())].to_vec();
        let _ = parse(&cut);
        cut.extend(bytes);
        let _ = parse(&cut);
    }
}
