//! A real crash of the agent in a guest.
//!
//! Nothing that a container may do reaches the agent, and no signal of the host's does. But the host's root may write the memory of the VM's process:
//! there the agent's code is found page by page and overwritten with an instruction that user mode may not execute. The agent gets its SIGSEGV as
//! soon as it runs again, as it would for a bug of its own.

use crate::host::Vial;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;
/// `hlt`, one byte long, so that it does not matter where in it somebody comes to execute.
const FAULTS: [u8; PAGE] = [0xf4; PAGE];
/// Mappings below this size, in bytes, are no RAM of a guest.
const SMALLEST: u64 = 1 << 20;
/// What is read of a guest at once, in pages.
const CHUNK: usize = 256;

/// The code of the installed agent: whole pages of its file, as the guest's page cache has them.
#[derive(Debug)]
pub struct AgentCode {
    pages: HashMap<(u64, u64), Vec<Box<[u8]>>>,
    count: usize,
}

impl AgentCode {
    /// Reads it from the initrd that pods boot with.
    ///
    /// # Panics
    /// When the install tree has none, or not as `tools/build` makes it.
    pub fn installed() -> Self {
        let program = Vial::program();
        let tree = program.ancestors().nth(2).expect("the program lies in bin/ of the install tree");
        let path = tree.join("lib/vial/initrd.cpio");
        let archive = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let init = init_of(&archive).expect("the initrd is a cpio (newc) with an init");
        let mut pages: HashMap<_, Vec<Box<[u8]>>> = HashMap::new();
        let mut count = 0;
        for code in executable(init) {
            let whole = code.start.next_multiple_of(PAGE)..code.end / PAGE * PAGE;
            for page in init.get(whole).expect("the segments lie inside the file").chunks_exact(PAGE) {
                pages.entry(key(page)).or_default().push(page.into());
                count += 1;
            }
        }
        assert!(count > 16, "the agent has hardly any code: {count} pages");
        Self { pages, count }
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.count
    }

    /// Overwrites it in the VM of this process; the agent crashes as soon as something wakes it. Says in how many pages of the guest: none, if the
    /// process or its guest is not (or no longer) that far.
    pub fn overwrite(&self, vmm: i32) -> usize {
        // Whatever fails here fails because the process is gone: root may read and write all the others.
        self.try_overwrite(vmm).unwrap_or(0)
    }

    fn try_overwrite(&self, vmm: i32) -> io::Result<usize> {
        let maps = std::fs::read_to_string(format!("/proc/{vmm}/maps"))?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{vmm}/mem"))?;
        let present = File::open(format!("/proc/{vmm}/pagemap"))?;
        let (mut bytes, mut flags) = (vec![0; CHUNK * PAGE], vec![0; CHUNK * 8]);
        let mut hits = 0;
        for range in maps.lines().filter_map(ram) {
            for start in range.clone().step_by(CHUNK * PAGE) {
                let len = usize::try_from(range.end - start).unwrap_or(usize::MAX).min(CHUNK * PAGE);
                let (bytes, flags) = (&mut bytes[..len], &mut flags[..len / PAGE * 8]);
                // Memory that nobody has touched is not to be brought to life by looking at it.
                present.read_exact_at(flags, start / PAGE as u64 * 8)?;
                let there = |flag: &[u8]| flag[7] & 0xc0 != 0;
                if !flags.chunks_exact(8).any(there) || memory.read_exact_at(bytes, start).is_err() {
                    continue;
                }
                for (number, page) in bytes.chunks_exact(PAGE).enumerate() {
                    if self.pages.get(&key(page)).is_some_and(|known| known.iter().any(|k| **k == *page)) {
                        memory.write_all_at(&FAULTS, start + (number * PAGE) as u64)?;
                        hits += 1;
                    }
                }
            }
        }
        Ok(hits)
    }
}

/// Tells nearly all pages apart.
fn key(page: &[u8]) -> (u64, u64) {
    let word = |at: usize| page[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    (word(0), word(PAGE / 2))
}

/// A line of /proc/PID/maps that may be RAM of a guest: private, to be written, not to be executed, large.
fn ram(line: &str) -> Option<Range<u64>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    (rest.starts_with("rw-p") && range.end - range.start >= SMALLEST).then_some(range)
}

/// The file `init` of a cpio archive (newc: a header of hexadecimal fields, the name, the file, the latter two padded to 4 bytes).
fn init_of(archive: &[u8]) -> Option<&[u8]> {
    let mut rest = archive;
    loop {
        let field = |number: usize| {
            let digits = std::str::from_utf8(rest.get(6 + number * 8..14 + number * 8)?).ok()?;
            usize::from_str_radix(digits, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = rest.get(110..110 + name_size)?;
        let start = (110 + name_size).next_multiple_of(4);
        if name == b"init\0" {
            return rest.get(start..start + size);
        }
        rest = rest.get((start + size).next_multiple_of(4)..)?;
    }
}

/// Where in a 64-bit ELF file the segments lie that are executed.
fn executable(elf: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize, len: usize| {
        elf[at..at + len].iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    assert!(elf.starts_with(b"\x7fELF\x02"), "the agent is no 64-bit ELF program");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let headers = (0..count).map(|index| table + index * size);
    // PT_LOAD with PF_X; offset and size in the file.
    let code = headers.filter(|at| number(*at, 4) == 1 && number(at + 4, 4) & 1 == 1);
    code.map(|at| number(at + 8, 8)..number(at + 8, 8) + number(at + 32, 8)).collect()
}
