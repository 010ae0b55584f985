//! The system-call filter of every container: Docker's default profile.
//!
//! Two programs are installed. The first is the allow list; what it does not name answers EPERM. The second knows only numbers:
//! calls that are newer than the profile's newest, and clone3, whose arguments no filter can see, answer ENOSYS, so that libraries fall
//! back to older calls. Where both answer with an error, the kernel takes the one of the program installed last.
//!
//! Only the native system-call table is served: a 32-bit call ends the process, because `socketcall` would open AF_VSOCK behind
//! the filter's back.

mod docker;

use crate::capabilities::{CAP_SYS_ADMIN, CapMask};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// The two programs, in the order in which they must be installed.
#[derive(Debug, Clone)]
pub struct Filter {
    /// The allow list.
    pub allow: BpfProgram,
    /// Answers ENOSYS to what the profile does not know.
    pub unknown: BpfProgram,
}

/// Compiles the filter for a container with these capabilities: some calls are allowed only together with the
/// capability that makes them useful.
///
/// # Errors
/// Never with the table of this build; seccompiler's error otherwise.
pub fn compile(capabilities: CapMask) -> Result<Filter, seccompiler::Error> {
    let rules = rules(capabilities)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(Filter { unknown: unknown(capabilities), allow: filter.try_into()? })
}

fn rules(capabilities: CapMask) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for group in docker::ALWAYS {
        rules.extend(group.iter().map(|call| (*call, Vec::new())));
    }
    let condition = |index, operator, value| -> Result<SeccompRule, seccompiler::Error> {
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    let families = docker::SOCKET_FAMILIES.iter().map(|&(first, last)| {
        let bound = |operator, value: i32| {
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, u64::from(value.unsigned_abs()))
        };
        SeccompRule::new(vec![bound(SeccompCmpOp::Ge, first)?, bound(SeccompCmpOp::Le, last)?])
    });
    rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
    rules.insert(
        libc::SYS_personality,
        docker::PERSONALITIES
            .iter()
            .map(|value| condition(0, SeccompCmpOp::Eq, u64::from(*value)))
            .collect::<Result<_, _>>()?,
    );
    rules.insert(
        libc::SYS_clone,
        vec![condition(0, SeccompCmpOp::MaskedEq(u64::from(docker::NAMESPACE_FLAGS)), 0)?],
    );
    // Last, because a capability lifts the conditions above.
    for (capability, calls) in docker::WITH_CAPABILITY {
        if capabilities & capability != 0 {
            rules.extend(calls.iter().map(|call| (*call, Vec::new())));
        }
    }
    Ok(rules)
}

/// `offsetof(struct seccomp_data, nr)`.
const OFFSET_NR: u32 = 0;
/// Bit of the x32 ABI in a call's number.
const X32_BIT: u32 = 0x4000_0000;

fn unknown(capabilities: CapMask) -> BpfProgram {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const IF_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let clone3 = if capabilities & CAP_SYS_ADMIN == 0 { libc::SYS_clone3 as u32 } else { u32::MAX };
    vec![
        step(LOAD, 0, 0, OFFSET_NR),
        step(IF_EQUAL, 3, 0, clone3),
        step(IF_AT_LEAST, 2, 0, X32_BIT),
        step(IF_ABOVE, 1, 0, docker::NEWEST as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a classic BPF program over one system call; enough of the machine for what seccompiler emits.
    fn run(program: &[sock_filter], nr: i64, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((nr as u32).to_le_bytes());
        data.extend(0xC000_003E_u32.to_le_bytes()); // AUDIT_ARCH_X86_64
        data.extend(0_u64.to_le_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
        let (mut at, mut acc) = (0_usize, 0_u32);
        loop {
            let insn = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { insn.jt } else { insn.jf });
            match insn.code {
                0x20 => {
                    let offset = insn.k as usize;
                    acc = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                0x05 => at += insn.k as usize,
                0x15 => at += jump(acc == insn.k),
                0x25 => at += jump(acc > insn.k),
                0x35 => at += jump(acc >= insn.k),
                0x54 => acc &= insn.k,
                0x06 => return insn.k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    fn answer(capabilities: CapMask, nr: i64, first: u64) -> (u32, u32) {
        let filter = compile(capabilities).unwrap();
        let args = [first, 0, 0, 0, 0, 0];
        (run(&filter.unknown, nr, args), run(&filter.allow, nr, args))
    }

    #[test]
    fn ordinary_calls_pass() {
        for call in [libc::SYS_read, libc::SYS_execve, libc::SYS_capset, libc::SYS_openat, libc::SYS_mknodat]
        {
            assert_eq!(answer(0, call, 0), (ALLOW, ALLOW), "call {call}");
        }
    }

    #[test]
    fn vsock_is_denied_whatever_the_capabilities() {
        for caps in [0, u64::MAX] {
            assert_eq!(answer(caps, libc::SYS_socket, libc::AF_INET as u64).1, ALLOW);
            assert_eq!(answer(caps, libc::SYS_socket, libc::AF_VSOCK as u64).1, EPERM);
            // The kernel takes the family as an int: bits above do not hide it.
            assert_eq!(answer(caps, libc::SYS_socket, 0xffff_0000_0000_0028).1, EPERM);
        }
    }

    #[test]
    fn socket_families_are_dockers() {
        // From the profile's own list: everything below 12, and these.
        let listed = [
            13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44,
            45,
        ];
        for family in 0..100 {
            let allowed = family < 12 || listed.contains(&family);
            let expected = if allowed { ALLOW } else { EPERM };
            assert_eq!(answer(u64::MAX, libc::SYS_socket, family).1, expected, "family {family}");
        }
    }

    #[test]
    fn io_uring_is_denied_because_it_opens_sockets_past_the_filter() {
        assert_eq!(answer(u64::MAX, libc::SYS_io_uring_setup, 0).1, EPERM);
    }

    #[test]
    fn mounting_needs_sys_admin() {
        assert_eq!(answer(0, libc::SYS_mount, 0).1, EPERM);
        assert_eq!(answer(CAP_SYS_ADMIN, libc::SYS_mount, 0).1, ALLOW);
    }

    #[test]
    fn clone_may_not_make_namespaces() {
        assert_eq!(answer(0, libc::SYS_clone, libc::SIGCHLD as u64).1, ALLOW);
        assert_eq!(answer(0, libc::SYS_clone, libc::CLONE_NEWUSER as u64).1, EPERM);
        assert_eq!(answer(CAP_SYS_ADMIN, libc::SYS_clone, libc::CLONE_NEWUSER as u64).1, ALLOW);
    }

    #[test]
    fn clone3_and_unknown_calls_do_not_exist() {
        assert_eq!(answer(0, libc::SYS_clone3, 0).0, ENOSYS);
        assert_eq!(answer(CAP_SYS_ADMIN, libc::SYS_clone3, 0), (ALLOW, ALLOW));
        assert_eq!(answer(0, docker::NEWEST + 1, 0).0, ENOSYS);
        assert_eq!(answer(0, i64::from(X32_BIT) + libc::SYS_read, 0).0, ENOSYS);
    }

    #[test]
    fn programs_fit_into_the_kernels_bound() {
        let filter = compile(u64::MAX).unwrap();
        assert!(filter.allow.len() < 4096, "{}", filter.allow.len());
    }
}
