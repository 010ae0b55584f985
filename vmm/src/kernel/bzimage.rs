//! The setup header of a bzImage, the compressed form in which distributions ship their kernels (Documentation/arch/x86/boot.rst):
//! a pure function from bytes to what is loaded, and where.
//!
//! Own code, because linux-loader's bzImage loader reads through the file's position, as its ELF loader does, and enters the kernel
//! only where 32-bit loaders do.

use super::elf::Segment;
use linux_loader::loader::bootparam::{boot_params, setup_header};
use std::mem::offset_of;
use std::ops::Range;
use vm_memory::ByteValued;

/// Where the setup header begins, in the file as in the zero page.
const HEADER: usize = offset_of!(boot_params, hdr);
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// The 64-bit entry and `xloadflags` are of protocol 2.12 (Linux 3.8).
const VERSION_MIN: u16 = 0x020c;
/// XLF_KERNEL_64: there is a 64-bit entry.
const KERNEL_64: u16 = 1;
/// LOADED_HIGH: the protected-mode part goes above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// Where it lies, behind what it is loaded at.
const ENTRY_64: u64 = 0x200;
/// Sectors of set-up code when the header says none.
const SETUP_SECTORS: u8 = 4;
const SECTOR: u64 = 512;
/// Unit of `syssize`.
const PARAGRAPH: u64 = 16;

/// Why a bzImage can't be booted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    /// Too old.
    #[error("it is a bzImage of boot protocol {major}.{minor:02}; Vial needs 2.12 or later (Linux 3.8)", major = .0 >> 8, minor = .0 & 0xff)]
    Version(u16),
    /// For 32-bit processors.
    #[error("it is a bzImage without a 64-bit entry; give an x86-64 kernel")]
    No64Bit,
    /// Headers that make no sense.
    #[error("it is a damaged bzImage: {0}")]
    Damaged(&'static str),
    /// Contents are cut off.
    #[error("it is a truncated bzImage: its kernel ends at byte {needed}, the file at byte {len}")]
    Truncated {
        /// Where it would end.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// It unpacks itself to where no RAM is.
    #[error(
        "it does not fit: to unpack itself it needs guest memory from {start:#x} to {end:#x}, there is {ram_start:#x} to {ram_end:#x}; raise mem_size_mib"
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
}

/// A checked bzImage.
#[derive(Debug, Clone, PartialEq)]
pub struct BzImage {
    /// The protected-mode part, and the room in which it unpacks itself.
    pub segment: Segment,
    /// 64-bit entry: guest-physical.
    pub entry: u64,
    /// The kernel's own header, for the zero page: it reads some of it there.
    pub header: setup_header,
    /// First address at which its initrd may not end.
    pub initrd_end: u64,
}

/// Whether a file that begins with `head` is a bzImage.
pub fn is_one(head: &[u8]) -> bool {
    let at = HEADER + offset_of!(setup_header, header);
    head.get(at..at + size_of_val(&MAGIC)) == Some(&MAGIC.to_le_bytes())
}

/// Parses `head`, the first [`super::HEAD`] bytes (or all) of a file of `len` bytes, for RAM in `ram`.
pub fn parse(head: &[u8], len: u64, ram: &Range<u64>) -> Result<BzImage, BzImageError> {
    let header = read_header(head)?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < VERSION_MIN {
        return Err(BzImageError::Version(version));
    }
    if flags & KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return Err(BzImageError::No64Bit);
    }
    let sectors = if header.setup_sects == 0 { SETUP_SECTORS } else { header.setup_sects };
    let offset = (u64::from(sectors) + 1) * SECTOR;
    let size = u64::from(header.syssize) * PARAGRAPH;
    let file_len = size.min(len.saturating_sub(offset));
    // The size is rounded up to a paragraph, and not every build pads the file to it.
    if size - file_len >= PARAGRAPH || file_len == 0 {
        return Err(BzImageError::Truncated { needed: offset + size, len });
    }
    // Even a relocatable kernel moves itself to here first if it was loaded lower.
    let address = header.pref_address;
    let memory_len = u64::from(header.init_size).max(file_len);
    let end = address.checked_add(memory_len).ok_or(BzImageError::Damaged("its address wraps"))?;
    if address < ram.start || end > ram.end {
        return Err(BzImageError::DoesNotFit { start: address, end, ram_start: ram.start, ram_end: ram.end });
    }
    if file_len <= ENTRY_64 {
        return Err(BzImageError::Damaged("its kernel is shorter than the way to its entry"));
    }
    Ok(BzImage {
        segment: Segment { offset, address, file_len, memory_len },
        entry: address + ENTRY_64,
        initrd_end: u64::from(header.initrd_addr_max) + 1,
        header,
    })
}

/// The header as the zero page holds it, zeroes where the kernel's is shorter than ours. Its end is named by the operand of the jump
/// in front of "HdrS" (boot.rst, "Details of Header Fields": jump).
fn read_header(head: &[u8]) -> Result<setup_header, BzImageError> {
    let jump = HEADER + offset_of!(setup_header, jump);
    let operand = *head.get(jump + 1).ok_or(BzImageError::Damaged("its header is cut off"))?;
    let end = (jump + 2 + usize::from(operand)).min(HEADER + size_of::<setup_header>());
    let bytes = head.get(HEADER..end).ok_or(BzImageError::Damaged("its header is cut off"))?;
    let mut page = boot_params::default();
    page.as_mut_slice()[HEADER..end].copy_from_slice(bytes);
    if page.hdr.boot_flag != BOOT_FLAG || page.hdr.header != MAGIC {
        return Err(BzImageError::Damaged("its boot flag or magic number is missing"));
    }
    Ok(page.hdr)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAM: Range<u64> = 0x10_0000..0x800_0000;
    const SETUP: usize = 2 * SECTOR as usize;

    /// A bzImage with one sector of set-up code and `code` as its protected-mode part.
    pub fn image(code: &[u8]) -> Vec<u8> {
        let hdr = setup_header {
            setup_sects: 1,
            syssize: (code.len() as u32).div_ceil(PARAGRAPH as u32),
            boot_flag: BOOT_FLAG,
            jump: 0x6aeb,
            header: MAGIC,
            version: 0x020f,
            loadflags: LOADED_HIGH,
            xloadflags: KERNEL_64,
            initrd_addr_max: 0x7fff_ffff,
            pref_address: 0x100_0000,
            init_size: 0x20_0000,
            ..Default::default()
        };
        let page = boot_params { hdr, ..Default::default() };
        let mut file = page.as_slice()[..SETUP].to_vec();
        file.extend_from_slice(code);
        file
    }

    fn parse_file(file: &[u8]) -> Result<BzImage, BzImageError> {
        parse(&file[..file.len().min(4096)], file.len() as u64, &RAM)
    }

    fn changed(at: usize, bytes: &[u8]) -> Result<BzImage, BzImageError> {
        let mut file = image(&[0x90; 0x400]);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        parse_file(&file)
    }

    #[test]
    fn a_bzimage_is_its_protected_mode_part_and_the_room_to_unpack_it() {
        let image = parse_file(&image(&[0x90; 0x403])).unwrap();
        let segment = Segment { offset: 1024, address: 0x100_0000, file_len: 0x403, memory_len: 0x20_0000 };
        assert_eq!((image.segment, image.entry, image.initrd_end), (segment, 0x100_0200, 1 << 31));
        assert_eq!({ image.header.version }, 0x020f);
    }

    #[test]
    fn what_cannot_be_booted_is_named() {
        assert_eq!(changed(0x206, &[0x0b, 2]), Err(BzImageError::Version(0x020b)));
        assert_eq!(
            BzImageError::Version(0x0204).to_string().split(';').next(),
            Some("it is a bzImage of boot protocol 2.04")
        );
        assert_eq!(changed(0x236, &[0]), Err(BzImageError::No64Bit));
        assert_eq!(changed(0x211, &[0]), Err(BzImageError::No64Bit));
        assert!(matches!(changed(0x1f4, &[0x41]), Err(BzImageError::Truncated { .. })));
        assert!(matches!(changed(0x1fe, &[0]), Err(BzImageError::Damaged(_))));
        assert!(matches!(changed(0x258, &[0; 8]), Err(BzImageError::DoesNotFit { .. })));
        assert!(matches!(changed(0x258, &[0xff; 8]), Err(BzImageError::Damaged(_))));
        assert!(matches!(changed(0x260, &[0, 0, 0, 8]), Err(BzImageError::DoesNotFit { .. })));
        assert!(matches!(parse_file(&image(b"short")), Err(BzImageError::Damaged(_))));
        assert!(matches!(parse_file(&image(b"")), Err(BzImageError::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn a_damaged_bzimage_never_loads_outside_of_its_file_or_of_ram(
            changes in proptest::collection::vec((0x1f1usize..0x26c, any::<u8>()), 0..8),
            cut in 0usize..0x900,
        ) {
            let mut file = image(&[0x90; 0x400]);
            for (at, byte) in changes {
                file[at] = byte;
            }
            file.truncate(cut);
            if let Ok(BzImage { segment, entry, .. }) = parse_file(&file) {
                prop_assert!(segment.offset + segment.file_len <= file.len() as u64);
                prop_assert!(segment.file_len <= segment.memory_len);
                prop_assert!(segment.address >= RAM.start && segment.address + segment.memory_len <= RAM.end);
                prop_assert!(entry < segment.address + segment.file_len);
            }
        }
    }
}
