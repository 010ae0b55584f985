//! ELF headers of a kernel: a pure function from bytes to checked segments and entries.
//!
//! Own code, because linux-loader's ELF loader reads segments through the file's position (which VMs share when they
//! inherit one descriptor), reads while it parses, and keeps its PVH note to itself.

use super::note;
use std::ops::Range;

/// Read from the start of the file at first: holds the headers of any kernel, ELF or bzImage.
pub const HEAD: usize = 4096;
/// Headers beyond this are refused; a kernel has five or six.
const MAX_SEGMENTS: u16 = 64;
/// A note segment beyond this is not looked into; a kernel's has a few hundred bytes.
pub const MAX_NOTES: u64 = 64 << 10;

/// Sizes and values of ELF-64 (System V ABI, "Object Files").
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;

/// Why a file is not a kernel that can be booted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Something else.
    #[error("it is not an ELF file (it begins with {0}); give a `vmlinux` or bzImage of an x86-64 Linux")]
    NotElf(String),
    /// For another processor, or an object file.
    #[error("it is not an x86-64 ELF executable ({0})")]
    WrongKind(&'static str),
    /// Headers or contents are cut off.
    #[error("it is truncated: {what} end at byte {needed}, the file at byte {len}")]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it would end.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// Headers that make no sense.
    #[error("its headers are damaged: {0}")]
    Damaged(&'static str),
    /// No contents.
    #[error("it has nothing to load")]
    NoSegments,
    /// A segment lies where no RAM is.
    #[error(
        "it does not fit: it needs guest memory from {start:#x} to {end:#x}, there is {ram_start:#x} to {ram_end:#x}; raise mem_size_mib"
    )]
    DoesNotFit {
        /// Lowest address.
        start: u64,
        /// First address behind it.
        end: u64,
        /// Where kernels may be.
        ram_start: u64,
        /// End of that.
        ram_end: u64,
    },
    /// The entry point is in no segment.
    #[error("its entry point {0:#x} lies outside of what it loads")]
    NoEntry(u64),
}

/// A piece of the file and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Guest-physical address.
    pub address: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Bytes in memory; those beyond `file_len` are zero.
    pub memory_len: u64,
}

/// A checked kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// What to load, in the file's order.
    pub segments: Vec<Segment>,
    /// 64-bit entry: guest-physical.
    pub entry: u64,
    /// Where notes are, for [`Elf::pvh_entry`].
    pub notes: Option<Range<u64>>,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    field(bytes, at).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    field(bytes, at).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    field(bytes, at).map_or(0, u64::from_le_bytes)
}

/// Parses `head`, the first [`HEAD`] bytes (or all) of a file of `len` bytes, for RAM in `ram`.
pub fn parse(head: &[u8], len: u64, ram: &Range<u64>) -> Result<Elf, ElfError> {
    check_kind(head, len)?;
    let (count, size) = (u16_at(head, 56), usize::from(u16_at(head, 54)));
    if size != PROGRAM_HEADER_SIZE {
        return Err(ElfError::Damaged("program headers of a wrong size"));
    }
    if count > MAX_SEGMENTS {
        return Err(ElfError::Damaged("more than 64 program headers"));
    }
    let start = u64_at(head, 32);
    let end =
        start.checked_add(u64::from(count) * size as u64).ok_or(ElfError::Damaged("an offset wraps"))?;
    if end > len {
        return Err(ElfError::Truncated { what: "program headers", needed: end, len });
    }
    let table = usize::try_from(start)
        .ok()
        .and_then(|start| head.get(start..usize::try_from(end).ok()?))
        .ok_or(ElfError::Damaged("program headers far from the start of the file"))?;
    let mut elf = Elf { segments: Vec::new(), entry: u64_at(head, 24), notes: None };
    for header in table.chunks_exact(PROGRAM_HEADER_SIZE) {
        elf.add(header, len)?;
    }
    elf.check(ram)?;
    Ok(elf)
}

fn check_kind(head: &[u8], len: u64) -> Result<(), ElfError> {
    if head.get(..4) != Some(b"\x7fELF") {
        return Err(ElfError::NotElf(describe(head)));
    }
    if head.len() < HEADER_SIZE {
        return Err(ElfError::Truncated { what: "the ELF header", needed: HEADER_SIZE as u64, len });
    }
    let kind = u16_at(head, 16);
    match () {
        () if head[4] != CLASS_64 => Err(ElfError::WrongKind("it is not a 64-bit one")),
        () if head[5] != LITTLE_ENDIAN => Err(ElfError::WrongKind("it is big-endian")),
        () if u16_at(head, 18) != MACHINE_X86_64 => Err(ElfError::WrongKind("it is for another processor")),
        () if kind != TYPE_EXEC && kind != TYPE_DYN => {
            Err(ElfError::WrongKind("it is an object file or a core dump"))
        }
        () => Ok(()),
    }
}

/// The start of a file as a person may know it.
fn describe(head: &[u8]) -> String {
    match head {
        [] => "nothing: it is empty".into(),
        [0x1f, 0x8b, ..] => "gzip's magic number".into(),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd's magic number".into(),
        [0xfd, b'7', b'z', ..] => "xz's magic number".into(),
        _ => format!("bytes {:02x?}", &head[..head.len().min(4)]),
    }
}

impl Elf {
    fn add(&mut self, header: &[u8], len: u64) -> Result<(), ElfError> {
        let (offset, file_len) = (u64_at(header, 8), u64_at(header, 32));
        let end = offset.checked_add(file_len).ok_or(ElfError::Damaged("a segment's offset wraps"))?;
        match u32_at(header, 0) {
            SEGMENT_LOAD => {
                if end > len {
                    return Err(ElfError::Truncated { what: "its segments", needed: end, len });
                }
                let memory_len = u64_at(header, 40);
                if memory_len < file_len {
                    return Err(ElfError::Damaged("a segment is longer in the file than in memory"));
                }
                if memory_len > 0 {
                    let address = u64_at(header, 24);
                    self.segments.push(Segment { offset, address, file_len, memory_len });
                }
            }
            SEGMENT_NOTE if end <= len && file_len <= MAX_NOTES => self.notes = Some(offset..end),
            _ => {}
        }
        Ok(())
    }

    fn check(&self, ram: &Range<u64>) -> Result<(), ElfError> {
        let end_of = |segment: &Segment| segment.address.checked_add(segment.memory_len);
        let mut sorted: Vec<_> = self.segments.iter().collect();
        sorted.sort_by_key(|segment| segment.address);
        let first = sorted.first().ok_or(ElfError::NoSegments)?;
        for segment in &sorted {
            let end = end_of(segment).ok_or(ElfError::Damaged("a segment's address wraps"))?;
            if segment.address < ram.start || end > ram.end {
                return Err(ElfError::DoesNotFit {
                    start: first.address.min(segment.address),
                    end: self.segments.iter().filter_map(end_of).max().unwrap_or(end),
                    ram_start: ram.start,
                    ram_end: ram.end,
                });
            }
        }
        if sorted.windows(2).any(|pair| end_of(pair[0]) > Some(pair[1].address)) {
            return Err(ElfError::Damaged("segments overlap"));
        }
        if !self.covers(self.entry) {
            return Err(ElfError::NoEntry(self.entry));
        }
        Ok(())
    }

    /// Whether contents of the file (not only zeros) are loaded at `address`.
    fn covers(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|segment| address >= segment.address && address - segment.address < segment.file_len)
    }

    /// The PVH entry that `notes` (the bytes of [`Elf::notes`]) name, if it is loaded.
    pub fn pvh_entry(&self, notes: &[u8]) -> Option<u64> {
        note::pvh_entry(notes).map(u64::from).filter(|entry| self.covers(*entry))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAM: Range<u64> = 0x10_0000..0x800_0000;

    /// A kernel with one LOAD segment of `code` at 1 MiB and, if given, one NOTE segment.
    pub fn kernel(code: &[u8], notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x1000];
        file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &TYPE_EXEC.to_le_bytes());
        put(18, &MACHINE_X86_64.to_le_bytes());
        put(24, &RAM.start.to_le_bytes());
        put(32, &64u64.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &2u16.to_le_bytes());
        let mut segment = |at: usize, kind: u32, offset: u64, len: u64| {
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 24, &RAM.start.to_le_bytes());
            put(at + 32, &len.to_le_bytes());
            put(at + 40, &(len + 16).to_le_bytes());
        };
        segment(64, SEGMENT_LOAD, 0x1000, code.len() as u64);
        segment(120, SEGMENT_NOTE, 0x1000 + code.len() as u64, notes.len() as u64);
        file.extend_from_slice(code);
        file.extend_from_slice(notes);
        file
    }

    fn parse_file(file: &[u8]) -> Result<Elf, ElfError> {
        parse(&file[..file.len().min(HEAD)], file.len() as u64, &RAM)
    }

    #[test]
    fn a_kernel_is_its_segments_and_its_entry() {
        let elf = parse_file(&kernel(b"code", b"")).unwrap();
        let segment = Segment { offset: 0x1000, address: RAM.start, file_len: 4, memory_len: 20 };
        assert_eq!((elf.segments.as_slice(), elf.entry), ([segment].as_slice(), RAM.start));
    }

    #[test]
    fn what_is_not_a_kernel_is_named() {
        assert!(matches!(parse_file(b"#!/bin/sh"), Err(ElfError::NotElf(_))));
        assert!(parse_file(b"").unwrap_err().to_string().contains("empty"));
        assert!(parse_file(&[0x1f, 0x8b, 8, 0]).unwrap_err().to_string().contains("gzip"));
        let mut arm = kernel(b"code", b"");
        arm[18] = 183;
        assert!(matches!(parse_file(&arm), Err(ElfError::WrongKind(_))));
    }

    #[test]
    fn a_truncated_kernel_is_named_as_such() {
        let file = kernel(b"code", b"");
        assert!(matches!(parse_file(&file[..file.len() - 1]), Err(ElfError::Truncated { .. })));
        assert!(matches!(parse_file(&file[..100]), Err(ElfError::Truncated { .. })));
        assert!(matches!(parse_file(&file[..40]), Err(ElfError::Truncated { .. })));
    }

    #[test]
    fn a_kernel_too_big_for_memory_says_so() {
        let file = kernel(&[0; 4096], b"");
        let error = parse(&file[..HEAD], file.len() as u64, &(0x10_0000..0x10_0800)).unwrap_err();
        assert!(matches!(error, ElfError::DoesNotFit { .. }), "{error}");
    }

    #[test]
    fn an_entry_outside_of_the_segments_is_refused() {
        let mut file = kernel(b"code", b"");
        file[24] = 5;
        assert_eq!(parse_file(&file), Err(ElfError::NoEntry(RAM.start + 5)));
        let mut empty = kernel(b"code", b"");
        empty[64] = 0;
        assert_eq!(parse_file(&empty), Err(ElfError::NoSegments));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_file(&bytes);
        }

        #[test]
        fn a_damaged_kernel_never_loads_outside_of_ram(
            changes in proptest::collection::vec((0usize..176, any::<u8>()), 1..12),
            notes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut file = kernel(b"some code", &notes);
            for (at, byte) in changes {
                file[at] = byte;
            }
            if let Ok(elf) = parse_file(&file) {
                for segment in &elf.segments {
                    prop_assert!(segment.address >= RAM.start);
                    prop_assert!(segment.address + segment.memory_len <= RAM.end);
                    prop_assert!(segment.offset + segment.file_len <= file.len() as u64);
                    prop_assert!(segment.file_len <= segment.memory_len);
                }
                let _ = elf.pvh_entry(&notes);
            }
        }
    }
}
