//! Directory blocks: entries sorted by name, each 4 KiB block on its own (`struct erofs_dirent`).

use super::layout::{BLOCK, DIRENT};

/// One entry as it goes to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// File name, `.` or `..`.
    pub name: &'a [u8],
    /// Node number.
    pub nid: u64,
    /// `FT_*`.
    pub file_type: u8,
}

/// Bytes that a directory with these names takes (`i_size`): whole blocks, then what the last one uses.
pub fn size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full, mut used) = (0u64, 0u64);
    for name in names {
        let need = (DIRENT + name.len()) as u64;
        if used + need > BLOCK {
            full += BLOCK;
            used = 0;
        }
        used += need;
    }
    full + used
}

/// Appends the blocks of a directory. `entries` are sorted by name and have names of at most 255 bytes.
pub fn write(entries: &[Entry<'_>], out: &mut Vec<u8>) {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|entry| {
                used += DIRENT + entry.name.len();
                used as u64 <= BLOCK
            })
            .count();
        let (block, later) = rest.split_at(count);
        let start = out.len();
        let mut name_offset = DIRENT * count;
        for entry in block {
            out.extend_from_slice(&entry.nid.to_le_bytes());
            out.extend_from_slice(&(name_offset as u16).to_le_bytes());
            out.extend_from_slice(&[entry.file_type, 0]);
            name_offset += entry.name.len();
        }
        for entry in block {
            out.extend_from_slice(entry.name);
        }
        if !later.is_empty() {
            out.resize(start + BLOCK as usize, 0);
        }
        rest = later;
    }
}

/// Reads one block of at most 4 KiB; `None` when it breaks the format.
pub fn read(block: &[u8]) -> Option<Vec<Entry<'_>>> {
    let raw = |index: usize| block.get(index * DIRENT..(index + 1) * DIRENT);
    let name_offset = |raw: &[u8]| usize::from(u16::from_le_bytes([raw[8], raw[9]]));
    let names_start = name_offset(raw(0)?);
    if names_start == 0 || names_start % DIRENT != 0 || names_start > block.len() {
        return None;
    }
    let count = names_start / DIRENT;
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let entry = raw(index)?;
        let start = name_offset(entry);
        let name = if index + 1 < count {
            block.get(start..name_offset(raw(index + 1)?))?
        } else {
            let tail = block.get(start..)?;
            &tail[..tail.iter().position(|&b| b == 0).unwrap_or(tail.len())]
        };
        if start < names_start || name.is_empty() || name.len() > crate::limits::MAX_NAME {
            return None;
        }
        let nid = u64::from_le_bytes(entry[..8].try_into().ok()?);
        entries.push(Entry { name, nid, file_type: entry[10] });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            names in prop::collection::btree_set(prop::collection::vec(1u8..=255, 1..=255), 1..200)
        ) {
            let entries: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(i, name)| Entry { name, nid: i as u64 + 7, file_type: 1 })
                .collect();
            let mut bytes = Vec::new();
            write(&entries, &mut bytes);
            prop_assert_eq!(bytes.len() as u64, size(names.iter().map(|n| n.as_slice())));
            let back: Vec<_> = bytes.chunks(BLOCK as usize).flat_map(|b| read(b).unwrap()).collect();
            prop_assert_eq!(back, entries);
        }

        #[test]
        fn rubbish_never_panics(block in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = read(&block);
        }
    }
}
