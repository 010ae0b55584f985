//! Names in archives, made safe: relative, without `.`, `..`, empty parts or NUL.
//!
//! As Docker does, absolute names become relative and `./` disappears. Stricter than Docker, `..` is refused
//! anywhere: Docker resolves `a/../b` and refuses only what leaves the root, but no honest tool writes either.

use crate::limits;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It has a `..`.
    #[error("its name has a \"..\"")]
    Parent,
    /// It has a NUL.
    #[error("its name has a NUL byte")]
    Nul,
    /// It is too long as a whole.
    #[error("its name has more than {} bytes", limits::MAX_PATH)]
    Long,
    /// One part is too long.
    #[error("a part of its name has more than {} bytes", limits::MAX_NAME)]
    LongPart,
    /// There is nothing.
    #[error("its name is empty")]
    Empty,
}

/// Parts joined by `/`; empty for the root itself.
pub fn normalise(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    if raw.is_empty() {
        return Err(PathError::Empty);
    }
    if raw.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(PathError::Parent),
            _ if part.len() > limits::MAX_NAME => return Err(PathError::LongPart),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    if path.len() > limits::MAX_PATH { Err(PathError::Long) } else { Ok(path) }
}

/// Splits a normalised, non-empty path into its directory (empty for the root) and its last part.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_made_relative_or_refused() {
        assert_eq!(normalise(b"/etc//./passwd/").unwrap(), b"etc/passwd");
        assert_eq!(normalise(b"./").unwrap(), b"");
        assert_eq!(normalise(b"a/../b"), Err(PathError::Parent));
        assert_eq!(normalise(b"../a"), Err(PathError::Parent));
        assert_eq!(normalise(b"a\0b"), Err(PathError::Nul));
        assert_eq!(normalise(b""), Err(PathError::Empty));
        assert_eq!(normalise(&[b'a'; 256]), Err(PathError::LongPart));
        assert_eq!(normalise(&b"a/".repeat(3000)), Err(PathError::Long));
        assert_eq!(normalise(b"..a/b..").unwrap(), b"..a/b..");
    }

    proptest! {
        #[test]
        fn no_name_escapes(raw in prop::collection::vec(prop::sample::select(&b"./a\0-"[..]), 0..40)) {
            if let Ok(path) = normalise(&raw) {
                prop_assert!(!path.starts_with(b"/"));
                for part in path.split(|&b| b == b'/').filter(|_| !path.is_empty()) {
                    prop_assert!(!part.is_empty() && part != b"." && part != b".." && !part.contains(&0));
                }
            }
        }
    }
}
