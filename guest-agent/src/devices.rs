//! Which devices a container may use: rules, and the BPF program that the kernel asks on each access.
//!
//! The rules are Docker's defaults after those of the spec; the first rule from the *end of the spec's list* that speaks of an
//! access decides it, and nothing is allowed by silence. Making a node is allowed for every device, as Docker has it, because
//! a node that can't be opened is harmless and image tools make them.

use crate::sys::bpf::{Insn, attach_device_program};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::io;
use std::os::fd::BorrowedFd;

/// `BPF_DEVCG_ACC_*` (linux/bpf.h).
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const EVERYTHING: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*` (linux/bpf.h).
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

/// One rule. None means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: Some(CHAR), major: Some(major), minor, access: EVERYTHING }
}

const fn any_node(kind: u32) -> Rule {
    Rule { allow: true, kind: Some(kind), major: None, minor: None, access: MKNOD }
}

/// Docker's default list: making any node, and using null, zero, full, random, urandom, tty, ptmx and pts. Not the console (5:1), which
/// here is the VM's, whose log is a file of the host; a container's own `/dev/console` is a pts.
const DOCKER: [Rule; 10] = [
    any_node(CHAR),
    any_node(BLOCK),
    char_device(1, Some(3)),
    char_device(1, Some(5)),
    char_device(1, Some(7)),
    char_device(1, Some(8)),
    char_device(1, Some(9)),
    char_device(5, Some(0)),
    char_device(5, Some(2)),
    char_device(136, None),
];

/// The rules of a container: the spec's own, then the defaults.
pub fn rules(spec: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    spec.iter().map(from_spec).chain(DOCKER).collect()
}

fn from_spec(rule: &LinuxDeviceCgroup) -> Rule {
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let letters = rule.access().as_deref().unwrap_or("rwm");
    let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
    Rule {
        allow: rule.allow(),
        kind: match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHAR),
            _ => None,
        },
        major: number(rule.major()),
        minor: number(rule.minor()),
        access: bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE),
    }
}

/// Puts the rules in force for a cgroup.
///
/// # Errors
/// When the kernel refuses the program; the container must then not run.
pub fn enforce(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    attach_device_program(cgroup, &program(rules))
}

// Registers: r1 the context, r2 type, r3 access, r4 major, r5 minor, r6 scratch.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

const fn insn(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: to | (from << 4), offset, immediate }
}

/// The program that answers 1 (allowed) or 0 for a `struct bpf_cgroup_dev_ctx`.
pub fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        insn(LOAD_WORD, 2, 1, 0, 0),
        insn(MOVE_REGISTER, 3, 2, 0, 0),
        insn(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 3, 0, 0, 16),
        insn(LOAD_WORD, 4, 1, 4, 0),
        insn(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend([insn(MOVE_IMMEDIATE, 0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    program
}

/// One rule: jumps behind itself when it does not speak of the access, else answers. A rule to allow must cover the whole
/// access; a rule to deny need only touch it.
fn block(rule: &Rule) -> Vec<Insn> {
    let mut tests = Vec::new();
    for (register, value) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
        if let Some(value) = value {
            tests.push(insn(JUMP_NOT_EQUAL, register, 0, 0, value as i32));
        }
    }
    tests.push(insn(MOVE_REGISTER, 6, 3, 0, 0));
    tests.push(insn(AND_IMMEDIATE, 6, 0, 0, rule.access as i32));
    tests.push(if rule.allow {
        insn(JUMP_NOT_EQUAL_REGISTER, 6, 3, 0, 0)
    } else {
        // "Some bit of the access": skip over the way out unless nothing is left.
        insn(JUMP_NOT_EQUAL, 6, 0, 1, 0)
    });
    if !rule.allow {
        tests.push(insn(0x05, 0, 0, 0, 0));
    }
    let answer = [insn(MOVE_IMMEDIATE, 0, 0, 0, i32::from(rule.allow)), insn(EXIT, 0, 0, 0, 0)];
    let length = tests.len() + answer.len();
    for (at, test) in tests.iter_mut().enumerate() {
        let jumps = matches!(test.code, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER | 0x05);
        if jumps && test.offset == 0 {
            // A rule is a dozen instructions at most.
            test.offset = (length - at - 1) as i16;
        }
    }
    tests.extend(answer);
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let program = program(rules);
        let (mut r, mut at) = ([0_u64; 11], 0_i64);
        loop {
            let i = program[at as usize];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                LOAD_WORD => r[to] = u64::from(context[i.offset as usize / 4]),
                MOVE_REGISTER => r[to] = r[from],
                MOVE_IMMEDIATE => r[to] = i.immediate as u64,
                AND_IMMEDIATE => r[to] &= i.immediate as u64,
                SHIFT_RIGHT => r[to] >>= i.immediate,
                JUMP_NOT_EQUAL => at += if r[to] != i.immediate as u64 { i64::from(i.offset) } else { 0 },
                JUMP_NOT_EQUAL_REGISTER => at += if r[to] != r[from] { i64::from(i.offset) } else { 0 },
                0x05 => at += i64::from(i.offset),
                EXIT => return r[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn disks_can_be_named_but_not_used() {
        let rules = rules(&[]);
        assert!(allowed(&rules, BLOCK, MKNOD, 254, 0));
        assert!(!allowed(&rules, BLOCK, READ, 254, 0));
        assert!(!allowed(&rules, BLOCK, READ | MKNOD, 254, 0));
        assert!(!allowed(&rules, BLOCK, WRITE, 254, 0));
        assert!(!allowed(&rules, CHAR, READ, 1, 1), "/dev/mem");
        assert!(!allowed(&rules, CHAR, READ | WRITE, 10, 121), "/dev/vsock and its like");
        assert!(!allowed(&rules, CHAR, WRITE, 5, 1), "the VM's console");
    }

    #[test]
    fn the_default_devices_work() {
        let rules = rules(&[]);
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 7)] {
            assert!(allowed(&rules, CHAR, READ | WRITE, major, minor), "{major}:{minor}");
            assert!(allowed(&rules, CHAR, EVERYTHING, major, minor), "{major}:{minor}");
        }
        assert!(!allowed(&rules, BLOCK, READ, 1, 3));
    }

    #[test]
    fn the_spec_adds_devices_and_its_last_rule_wins() {
        let rule = |json: &str| -> LinuxDeviceCgroup { serde_json::from_str(json).unwrap() };
        let rules = rules(&[
            rule(r#"{"allow": false, "access": "rwm"}"#),
            rule(r#"{"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}"#),
            rule(r#"{"allow": true, "type": "b", "major": 7, "access": "rw"}"#),
            rule(r#"{"allow": false, "type": "b", "major": 7, "minor": 1, "access": "w"}"#),
        ]);
        assert!(allowed(&rules, CHAR, READ | WRITE, 10, 200));
        assert!(allowed(&rules, BLOCK, READ | WRITE, 7, 0));
        assert!(allowed(&rules, BLOCK, READ, 7, 1));
        assert!(!allowed(&rules, BLOCK, READ | WRITE, 7, 1));
        assert!(!allowed(&rules, BLOCK, READ, 8, 0));
        assert!(allowed(&rules, CHAR, READ, 1, 3), "the defaults still hold");
    }
}
