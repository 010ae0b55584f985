//! When the guest's start reached what, by the guest's own clock: the kernel's steps from the stamps of its log, the agent's as it notes them.
//!
//! Noting costs a look at the clock. The log is read when somebody asks and not before, and nothing in it is believed that a program
//! could have written, except the one line by which the log's clock is compared with CLOCK_MONOTONIC.

use agent_protocol::{BootStep, BootTimes, MAX_BOOT_STEPS};
use rustix::time::{ClockId, clock_gettime};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI64, Ordering};

const LOG: &str = "/dev/kmsg";
/// A record is at most 2 KiB (PRINTK_MESSAGE_MAX); a shorter buffer would be refused.
const RECORD: usize = 8 << 10;
/// The ring holds 64 KiB: it can't be that there are more, unless the kernel writes faster than it can be read.
const MAX_RECORDS: usize = 4096;
/// What is written to the log to see its clock. Facility 1 is a program's, level 7 is never on a console that is not asked for it.
const MARK: &str = "vial-agent: the time";

/// Steps of the agent's own, in their usual order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `main` was entered.
    Started,
    /// Its file tree stands.
    Mounted,
    /// Its ports are open.
    Listening,
    /// The host knows of it, and it knows the VM's secret.
    Introduced,
    /// The host's first connection was greeted.
    Greeted,
    /// What the containers share is set up.
    SandboxApplied,
    /// The first container's root is mounted.
    RootMounted,
    /// The first container stands, up to the point before its command.
    ContainerCreated,
    /// The first container's command runs.
    CommandStarted,
}

const NAMES: [&str; 9] = [
    "agent: started",
    "agent: mounts done",
    "agent: listening",
    "agent: introduced",
    "agent: connected",
    "agent: sandbox applied",
    "agent: root mounted",
    "agent: container created",
    "agent: command started",
];

/// Lines that every boot has, in their order, and what was reached with them. Where a kernel words them otherwise the step is absent.
const LINES: [(&str, &str); 12] = [
    ("kvm-clock: using sched offset", "kernel: clock running"),
    ("Zone ranges:", "kernel: memory found"),
    ("Built ", "kernel: memory zones built"),
    ("Calibrating delay loop", "kernel: interrupts set up"),
    ("smp: Brought up ", "kernel: processors up"),
    ("ACPI: Interpreter enabled", "kernel: ACPI up"),
    ("NET: Registered PF_INET protocol", "kernel: network stack up"),
    ("Freeing initrd memory", "kernel: initramfs unpacked"),
    ("printk: legacy console [", "kernel: console up"),
    ("NET: Registered PF_VSOCK protocol", "kernel: vsock up"),
    ("Freeing unused kernel image (initmem)", "kernel: devices probed"),
    ("Run /init as init process", "kernel: init executed"),
];

/// Microseconds since boot; 0 is not reached yet.
static REACHED: [AtomicI64; NAMES.len()] = [const { AtomicI64::new(0) }; NAMES.len()];

/// CLOCK_MONOTONIC, microseconds.
fn now_us() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// Notes that a step was reached; the first time counts.
pub fn reached(mark: Mark) {
    let slot = &REACHED[mark as usize];
    if slot.load(Ordering::Relaxed) == 0 {
        slot.store(now_us(), Ordering::Relaxed);
    }
}

/// All that is known of this start.
pub fn times() -> BootTimes {
    let received_us = now_us();
    // A log that can't be read leaves the agent's own steps.
    let mut steps = kernel_steps().unwrap_or_default();
    let own = NAMES.iter().zip(&REACHED).map(|(name, at)| (*name, at.load(Ordering::Relaxed)));
    steps.extend(own.filter(|(_, at)| *at != 0).map(|(name, at_us)| BootStep { step: name.into(), at_us }));
    steps.truncate(MAX_BOOT_STEPS);
    BootTimes { received_us, steps, answered_us: now_us() }
}

fn kernel_steps() -> io::Result<Vec<BootStep>> {
    let mut log = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(LOG)?;
    let before = now_us();
    // A record without its line's end can't be read yet: more might be joined to it.
    log.write_all(format!("<15>{MARK}\n").as_bytes())?;
    let after = now_us();
    let mut found = Found::default();
    let mut record = vec![0; RECORD];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(n) => found.note(&record[..n]),
            // Records were overwritten before they were read; the next read goes on with the oldest that is left.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found.steps(i64::midpoint(before, after)))
}

/// What is found of the log.
#[derive(Debug, Default)]
struct Found {
    /// Steps by the log's clock.
    steps: Vec<(&'static str, i64)>,
    /// The last mark, by the log's clock.
    mark: Option<i64>,
}

impl Found {
    /// Looks at one record: `priority,number,microseconds,flags;text`, then lines of variables
    /// (Documentation/ABI/testing/dev-kmsg).
    fn note(&mut self, record: &[u8]) {
        let Some((kernel, at_us, text)) = parse(record) else { return };
        if !kernel {
            if text == MARK {
                self.mark = Some(at_us);
            }
            return;
        }
        // In their order: what comes after the last of them may be told on behalf of a program.
        let from = self.steps.last().and_then(|(name, _)| LINES.iter().position(|line| line.1 == *name));
        let rest = &LINES[from.map_or(0, |at| at + 1)..];
        if let Some((_, name)) = rest.iter().find(|(begin, _)| text.starts_with(begin)) {
            self.steps.push((name, at_us));
        }
    }

    /// Steps by CLOCK_MONOTONIC, on which the mark was written at `marked_us`.
    fn steps(self, marked_us: i64) -> Vec<BootStep> {
        let Some(mark) = self.mark else { return Vec::new() };
        let shift = marked_us.saturating_sub(mark);
        let step = |(name, at): (&str, i64)| BootStep { step: name.into(), at_us: at.saturating_add(shift) };
        self.steps.into_iter().map(step).collect()
    }
}

/// Whether the kernel itself wrote a record, when, and what.
fn parse(record: &[u8]) -> Option<(bool, i64, &str)> {
    let record = std::str::from_utf8(record).ok()?;
    let (header, text) = record.lines().next()?.split_once(';')?;
    let mut fields = header.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let at_us = fields.nth(1)?.parse().ok()?;
    Some((priority < 8, at_us, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(records: &[&str]) -> Vec<(String, i64)> {
        let mut found = Found::default();
        records.iter().for_each(|record| found.note(record.as_bytes()));
        found.steps(5000).into_iter().map(|step| (step.step, step.at_us)).collect()
    }

    #[test]
    fn the_kernels_lines_are_on_the_agents_clock() {
        let log = [
            "5,0,0,-;Linux version 6.12",
            "6,15,80,-;kvm-clock: using sched offset of 947067873 cycles",
            "6,106,479,-;smp: Brought up 1 node, 1 CPU\n SUBSYSTEM=cpu",
            "6,163,1222,-;Run /init as init process",
            "15,170,3000,-;vial-agent: the time",
            "6,171,9000,-;smp: Brought up by a process of this name",
        ];
        let expected = [
            ("kernel: clock running", 2080),
            ("kernel: processors up", 2479),
            ("kernel: init executed", 3222),
        ];
        assert_eq!(found(&log), expected.map(|(name, at)| (name.to_owned(), at)));
    }

    #[test]
    fn what_a_program_or_nobody_wrote_is_no_step() {
        let mark = "15,1,3000,-;vial-agent: the time";
        assert_eq!(found(&["12,0,5,-;Run /init as init process", mark]), []);
        assert_eq!(found(&["6,0,5,-;vial-agent: the time", "6,1,7,-;Zone ranges:"]), [], "no mark, no clock");
        for rubbish in
            ["", ";", "6;Zone ranges:", "6,1;Zone ranges:", "x,1,2,-;Zone ranges:", "6,1,x,-;Zone ranges:"]
        {
            assert_eq!(found(&[rubbish, mark]), [], "{rubbish}");
        }
        let mut found = Found::default();
        found.note(&[0xff, b';', b'6']);
        assert!(found.steps.is_empty());
    }

    #[test]
    fn a_step_is_noted_once() {
        reached(Mark::Greeted);
        let first = REACHED[Mark::Greeted as usize].load(Ordering::Relaxed);
        reached(Mark::Greeted);
        assert!(first > 0 && REACHED[Mark::Greeted as usize].load(Ordering::Relaxed) == first);
        assert_eq!(NAMES[Mark::CommandStarted as usize], "agent: command started");
    }
}
