//! A look at SQLite's write-ahead log before SQLite sees it.
//!
//! SQLite takes the first frame with a wrong checksum for the end of the log, because that is what a loss of power leaves. But each commit
//! is on the disk before it is answered and before the next begins, so a loss of power can only break the last: what comes behind a
//! broken frame and a commit was answered once, and is lost by damage. <https://www.sqlite.org/fileformat2.html#walformat>

use super::StoreError;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
/// Of the format, since 2010.
const FORMAT: u32 = 3_007_000;

pub(super) fn path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Whether the log of the store at `store` holds anything.
pub(super) fn is_there(store: &Path) -> bool {
    std::fs::metadata(path(store)).is_ok_and(|found| found.len() > 0)
}

/// Looks for answered writes behind a broken one.
///
/// # Errors
/// There are some: the log is damaged. Or it can't be read.
pub(super) fn check(store: &Path) -> Result<(), StoreError> {
    let path = path(store);
    let failed = |source| StoreError::Beside { path: path.display().to_string(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // The head is synced before the first frame is written.
    if file.metadata().map_err(failed)?.len() <= HEAD as u64 {
        return Ok(());
    }
    match walk(&mut BufReader::with_capacity(1 << 20, file)).map_err(failed)? {
        Some(why) => Err(StoreError::Damaged(format!("{}: {why}", path.display()))),
        None => Ok(()),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The running checksum, over pairs of words.
fn add(sum: (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    let word = |bytes: &[u8]| {
        let word = number(bytes, 0);
        if is_big_endian { word } else { word.swap_bytes() }
    };
    bytes.chunks_exact(8).fold(sum, |(one, two), pair| {
        let one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        (one, two.wrapping_add(word(&pair[4..])).wrapping_add(one))
    })
}

fn walk(log: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = [0; HEAD];
    log.read_exact(&mut head)?;
    let (magic, page) = (number(&head, 0), number(&head, 8));
    let is_big_endian = magic & 1 == 1;
    let mut sum = add((0, 0), &head[..24], is_big_endian);
    let is_head = magic & !1 == 0x377f_0682
        && number(&head, 4) == FORMAT
        && (512..=1 << 16).contains(&page)
        && page.is_power_of_two()
        && sum == (number(&head, 24), number(&head, 28));
    if !is_head {
        return Ok(Some("its head is not as it was written".into()));
    }
    let mut frame = vec![0; FRAME_HEAD + page as usize];
    let (mut broken, mut has_commit) = (None, false);
    for index in 1.. {
        match log.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        // Of another round through the file: room that is not written again yet.
        let is_current = frame[8..16] == head[16..24];
        if broken.is_none() {
            sum = add(add(sum, &frame[..8], is_big_endian), &frame[FRAME_HEAD..], is_big_endian);
            if !is_current || sum != (number(&frame, 16), number(&frame, 20)) {
                broken = Some(index);
            }
        }
        if let Some(broken) = broken.filter(|_| is_current) {
            if has_commit {
                return Ok(Some(format!("frame {broken} is not as it was written, and later writes follow")));
            }
            // Only the last frame of a transaction says how large the file is then.
            has_commit = number(&frame, 4) != 0;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head as SQLite writes it, for pages of 512 bytes and these salts.
    fn head(salts: [u8; 8]) -> Vec<u8> {
        let mut head = Vec::new();
        for number in [0x377f_0683, FORMAT, 512, 0] {
            head.extend(u32::to_be_bytes(number));
        }
        head.extend(salts);
        let (one, two) = add((0, 0), &head, true);
        head.extend([one.to_be_bytes(), two.to_be_bytes()].concat());
        head
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..4000), is_headed: bool) {
            let mut log = if is_headed { head([7; 8]) } else { Vec::new() };
            log.extend(bytes);
            let judged = walk(&mut &log[..]);
            prop_assert_eq!(judged.is_err(), log.len() < HEAD);
        }
    }
}
