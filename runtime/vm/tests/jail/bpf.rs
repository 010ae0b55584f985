//! Reads a seccomp filter as the kernel runs it: which calls, with which arguments, end in "allow".
//!
//! A classic BPF program without loops, so every way through it can be walked; a call's number is known, its arguments are not, and a
//! test of one is followed both ways and noted down.

use libc::sock_filter;

/// Offset of the call's number, the architecture, the first argument, in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// AUDIT_ARCH_X86_64.
const X86_64: u32 = 0xc000_003e;

/// What a way through the filter demands of one argument's lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// Which argument, from 0 on.
    pub argument: u32,
    /// Its bits that are looked at.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

#[derive(Clone, Copy)]
enum Accumulator {
    Known(u32),
    /// An argument, and the bits of it that are left.
    Argument(u32, u32),
    /// The upper half of an argument.
    Upper,
}

/// All ways of call `number` that end in "allow": what each demands, an empty list for "whatever the arguments are".
pub fn allowed(program: &[sock_filter], number: u32) -> Vec<Vec<Demand>> {
    let mut ways = Vec::new();
    walk(program, 0, Accumulator::Known(0), number, Vec::new(), &mut ways);
    ways.sort();
    ways.dedup();
    ways
}

fn walk(
    program: &[sock_filter],
    mut at: usize,
    mut accumulator: Accumulator,
    number: u32,
    demands: Vec<Demand>,
    ways: &mut Vec<Vec<Demand>>,
) {
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        match u32::from(code) {
            // BPF_LD | BPF_W | BPF_ABS
            0x20 => {
                accumulator = match k {
                    NUMBER => Accumulator::Known(number),
                    ARCHITECTURE => Accumulator::Known(X86_64),
                    _ if k < ARGUMENTS => panic!("the filter looks at the instruction pointer"),
                    _ if k % 8 == 0 => Accumulator::Argument((k - ARGUMENTS) / 8, u32::MAX),
                    _ => Accumulator::Upper,
                };
            }
            // BPF_ALU | BPF_AND | BPF_K
            0x54 => {
                accumulator = match accumulator {
                    Accumulator::Known(value) => Accumulator::Known(value & k),
                    Accumulator::Argument(which, mask) => Accumulator::Argument(which, mask & k),
                    Accumulator::Upper => Accumulator::Upper,
                };
            }
            // BPF_JMP | BPF_JA
            0x05 => at += k as usize,
            // BPF_JMP | BPF_JEQ | BPF_K
            0x15 => match accumulator {
                Accumulator::Known(value) => at += usize::from(if value == k { jt } else { jf }),
                Accumulator::Argument(argument, mask) => {
                    let mut equal = demands.clone();
                    equal.push(Demand { argument, mask, value: k });
                    walk(program, at + usize::from(jt), accumulator, number, equal, ways);
                    at += usize::from(jf);
                }
                Accumulator::Upper => panic!("the filter looks at an upper half"),
            },
            // BPF_JMP | BPF_JGE | BPF_K, of the number only
            0x35 => match accumulator {
                Accumulator::Known(value) => at += usize::from(if value >= k { jt } else { jf }),
                _ => panic!("the filter compares an argument for more than equality"),
            },
            // BPF_RET | BPF_K
            0x06 => {
                match k {
                    libc::SECCOMP_RET_ALLOW => ways.push(demands),
                    libc::SECCOMP_RET_KILL_PROCESS => {}
                    other => panic!("the filter answers with {other:#x}"),
                }
                return;
            }
            other => panic!("the filter has an instruction {other:#x}"),
        }
    }
}
