//! The PVH note: a 32-bit entry point in an ELF note (xen/include/public/elfnote.h).

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// Owner of the note, with its NUL.
const OWNER: &[u8] = b"Xen\0";
/// Notes looked at before giving up.
const MAX_NOTES: usize = 1024;

/// The guest-physical PVH entry that a note segment's bytes name.
///
/// A note is three words (length of name, length of description, type), the name, the description; name and description
/// are padded to four bytes each (System V ABI, "Note Section").
pub(super) fn pvh_entry(mut notes: &[u8]) -> Option<u32> {
    for _ in 0..MAX_NOTES {
        let (name_len, rest) = word(notes)?;
        let (description_len, rest) = word(rest)?;
        let (kind, rest) = word(rest)?;
        let (name, rest) = padded(rest, name_len)?;
        let (description, rest) = padded(rest, description_len)?;
        if kind == PHYS32_ENTRY && name == OWNER {
            // Linux writes it as 4 or 8 bytes; an entry above 4 GiB could not be reached in 32-bit mode.
            return match description.len() {
                4 => Some(u32::from_le_bytes(description.try_into().ok()?)),
                8 => u64::from_le_bytes(description.try_into().ok()?).try_into().ok(),
                _ => None,
            };
        }
        notes = rest;
    }
    None
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// `len` bytes and what follows their padding; the last padding may be missing.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (content, _) = bytes.split_at_checked(len)?;
    let next = len.checked_next_multiple_of(4)?.min(bytes.len());
    Some((content, &bytes[next..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [owner.len() as u32, description.len() as u32, kind] {
            bytes.extend(number.to_le_bytes());
        }
        for part in [owner, description] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn the_entry_is_found_behind_other_notes() {
        let other = note(b"GNU\0", 3, &[7; 20]);
        let short = note(OWNER, PHYS32_ENTRY, &0x100_0250u32.to_le_bytes());
        let long = note(OWNER, PHYS32_ENTRY, &0x100_0250u64.to_le_bytes());
        assert_eq!(pvh_entry(&[other.clone(), short].concat()), Some(0x100_0250));
        assert_eq!(pvh_entry(&[other.clone(), long].concat()), Some(0x100_0250));
        assert_eq!(pvh_entry(&other), None);
    }

    #[test]
    fn an_entry_of_odd_size_or_above_four_gib_is_none() {
        assert_eq!(pvh_entry(&note(OWNER, PHYS32_ENTRY, &[1, 2, 3])), None);
        assert_eq!(pvh_entry(&note(OWNER, PHYS32_ENTRY, &(1u64 << 32).to_le_bytes())), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = pvh_entry(&bytes);
        }
    }
}
