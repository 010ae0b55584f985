//! The on-disk structures of EROFS that Vial writes: Linux 6.12, `fs/erofs/erofs_fs.h`. All little-endian.

/// Log2 of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;
/// Bytes of a block: the page size of every guest, so that file pages map whole blocks.
pub const BLOCK: u64 = 1 << BLOCK_BITS;
/// `EROFS_SUPER_OFFSET`.
pub const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// `sizeof(struct erofs_super_block)`.
pub const SUPER_SIZE: usize = 128;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`.
pub const COMPAT_SB_CHKSUM: u32 = 1;
/// `EROFS_FEATURE_COMPAT_MTIME`.
pub const COMPAT_MTIME: u32 = 2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
pub const INCOMPAT_CHUNKED_FILE: u32 = 4;
/// `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`.
pub const INCOMPAT_DEVICE_TABLE: u32 = 8;

/// `EROFS_DEVT_SLOT_SIZE`; also the unit of `devt_slotoff`.
pub const DEVICE_SLOT: usize = 128;
/// Bytes of a device slot's tag; a SHA-256 in hex fills it exactly.
pub const DEVICE_TAG: usize = 64;

/// Unit of a node number: a compact inode.
pub const NID_UNIT: u64 = 32;
/// `sizeof(struct erofs_inode_extended)`.
pub const INODE: u64 = 64;
/// `sizeof(struct erofs_xattr_ibody_header)`.
pub const XATTR_HEADER: usize = 12;
/// `sizeof(struct erofs_dirent)`.
pub const DIRENT: usize = 12;
/// `sizeof(struct erofs_inode_chunk_index)`.
pub const CHUNK_INDEX: u64 = 8;
/// `EROFS_CHUNK_FORMAT_INDEXES`.
pub const CHUNK_FORMAT_INDEXES: u16 = 0x20;
/// `EROFS_CHUNK_FORMAT_BLKBITS_MASK`.
pub const CHUNK_FORMAT_BLKBITS_MASK: u16 = 0x1f;
/// `EROFS_NULL_ADDR`.
pub const NULL_ADDR: u32 = u32::MAX;

/// How an inode's data is stored (`EROFS_INODE_*`), bits 1 to 3 of `i_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLayout {
    /// Whole blocks.
    FlatPlain = 0,
    /// Whole blocks, and the tail right behind the inode.
    FlatInline = 2,
    /// Chunk indexes behind the inode, each naming a device.
    ChunkBased = 4,
}

/// `i_format` of an extended inode.
pub fn inode_format(layout: DataLayout) -> u16 {
    1 | (layout as u16) << 1
}

/// File type bits of `i_mode`.
pub mod mode {
    /// Type mask.
    pub const TYPE: u16 = 0o170_000;
    /// Socket.
    pub const SOCKET: u16 = 0o140_000;
    /// Symbolic link.
    pub const SYMLINK: u16 = 0o120_000;
    /// Regular file.
    pub const FILE: u16 = 0o100_000;
    /// Block device.
    pub const BLOCK: u16 = 0o060_000;
    /// Directory.
    pub const DIRECTORY: u16 = 0o040_000;
    /// Character device.
    pub const CHAR: u16 = 0o020_000;
    /// Named pipe.
    pub const FIFO: u16 = 0o010_000;
}

/// `FT_*` of a directory entry, from the type bits of a mode.
pub fn file_type(mode: u16) -> u8 {
    match mode & self::mode::TYPE {
        self::mode::FILE => 1,
        self::mode::DIRECTORY => 2,
        self::mode::CHAR => 3,
        self::mode::BLOCK => 4,
        self::mode::FIFO => 5,
        self::mode::SOCKET => 6,
        self::mode::SYMLINK => 7,
        _ => 0,
    }
}

/// Name prefixes that EROFS stores as a number (`EROFS_XATTR_INDEX_*`). The two ACLs are whole names.
pub const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Splits a full attribute name into EROFS' prefix number and the rest; `None` when EROFS can't hold it.
pub fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    let (index, rest) =
        XATTR_PREFIXES.iter().find_map(|&(index, prefix)| Some((index, name.strip_prefix(prefix)?)))?;
    let whole_name = matches!(index, 2 | 3);
    (rest.is_empty() == whole_name && rest.len() <= crate::limits::MAX_NAME).then_some((index, rest))
}

/// The full name behind a prefix number, the inverse of [`split_xattr_name`].
pub fn join_xattr_name(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let (_, prefix) = XATTR_PREFIXES.iter().find(|&&(known, _)| known == index)?;
    Some([prefix, rest].concat())
}

/// Linux' `new_encode_dev`.
pub fn encode_device(device: crate::tree::DeviceNumber) -> u32 {
    (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
}

/// Linux' `new_decode_dev`.
pub fn decode_device(raw: u32) -> crate::tree::DeviceNumber {
    crate::tree::DeviceNumber { major: (raw & 0xfff00) >> 8, minor: (raw & 0xff) | ((raw >> 12) & 0xfff00) }
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: without the final inversion. Once per image over 3 KiB.
pub fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }
            },
        )
    })
}

/// Marks that a layer's own metadata needs and EROFS has no field for: attributes under a prefix of ours.
/// Archives can't set them, the merged image never has them.
pub mod mark {
    /// All marks start so.
    pub const PREFIX: &[u8] = b"trusted.vial.";
    /// On a character device 0:0: a whiteout.
    pub const WHITEOUT: &[u8] = b"trusted.vial.whiteout";
    /// On a directory: hides the layers below.
    pub const OPAQUE: &[u8] = b"trusted.vial.opaque";
    /// On a directory: no tar entry described it.
    pub const IMPLICIT: &[u8] = b"trusted.vial.implicit";
    /// On a symbolic link: really a hardlink to that path in the layers below.
    pub const LOWER_LINK: &[u8] = b"trusted.vial.lower-link";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_the_kernels() {
        // The standard check value 0xE3069283 is the inverse of what the kernel's helper leaves.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn names_of_attributes_split_and_join() {
        for name in [&b"user.a"[..], b"security.capability", b"trusted.x", b"system.posix_acl_access"] {
            let (index, rest) = split_xattr_name(name).unwrap();
            assert_eq!(join_xattr_name(index, rest).unwrap(), name);
        }
        for name in [&b"user."[..], b"system.posix_acl_accessx", b"lustre.lov", b"nonsense"] {
            assert_eq!(split_xattr_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (5, 1), (4095, 1_048_575), (253, 65_536)] {
            let device = crate::tree::DeviceNumber { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }
}
