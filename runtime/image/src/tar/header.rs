//! The 512-byte header block.

use super::TarError;
use super::sparse::Runs;

/// Bytes of a header and unit of everything in a tar.
pub const BLOCK: usize = 512;

/// One header block, as it came.
pub struct Header<'a>(pub &'a [u8; BLOCK]);

impl Header<'_> {
    fn field(&self, start: usize, length: usize) -> &[u8] {
        &self.0[start..start + length]
    }

    /// A text field ends at its first NUL or at its full length.
    fn text(&self, start: usize, length: usize) -> &[u8] {
        let field = self.field(start, length);
        &field[..field.iter().position(|&b| b == 0).unwrap_or(length)]
    }

    /// Two blocks of zeros end an archive.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&b| b == 0)
    }

    /// The sum of all bytes with the checksum field as spaces; old tars summed signed bytes.
    pub fn verify(&self) -> Result<(), TarError> {
        let stored = number(self.field(148, 8)).ok_or(TarError::Checksum)?;
        let bytes =
            || self.0.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { b' ' } else { b });
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
        if stored == unsigned || stored == signed { Ok(()) } else { Err(TarError::Checksum) }
    }

    pub fn type_flag(&self) -> u8 {
        self.0[156]
    }

    fn is_gnu(&self) -> bool {
        self.field(257, 8) == b"ustar  \0"
    }

    fn is_posix(&self) -> bool {
        self.field(257, 6) == b"ustar\0"
    }

    /// The name with ustar's prefix. GNU uses that space for other things.
    pub fn name(&self) -> Vec<u8> {
        let prefix = self.text(345, 155);
        if self.is_posix() && !prefix.is_empty() {
            [prefix, b"/", self.text(0, 100)].concat()
        } else {
            self.text(0, 100).to_vec()
        }
    }

    pub fn link_name(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub fn mode(&self) -> Result<u32, TarError> {
        unsigned(self.field(100, 8), "the mode")
    }

    pub fn uid(&self) -> Result<u32, TarError> {
        unsigned(self.field(108, 8), "the owner")
    }

    pub fn gid(&self) -> Result<u32, TarError> {
        unsigned(self.field(116, 8), "the group")
    }

    pub fn size(&self) -> Result<u64, TarError> {
        let value = number(self.field(124, 12)).ok_or(TarError::Number("the size"))?;
        u64::try_from(value).map_err(|_| TarError::Number("the size"))
    }

    pub fn mtime(&self) -> Result<i64, TarError> {
        number(self.field(136, 12)).ok_or(TarError::Number("the modification time"))
    }

    /// Device numbers exist in the ustar and GNU formats only.
    pub fn device(&self) -> Result<(u32, u32), TarError> {
        if !self.is_posix() && !self.is_gnu() {
            return Ok((0, 0));
        }
        let major = unsigned(self.field(329, 8), "the major device number")?;
        Ok((major, unsigned(self.field(337, 8), "the minor device number")?))
    }

    /// GNU's old sparse header: up to four runs, whether more follow, and the real size.
    pub fn gnu_sparse(&self) -> Result<(Runs, bool, u64), TarError> {
        let size = number(self.field(483, 12)).and_then(|v| u64::try_from(v).ok());
        let size = size.ok_or(TarError::Sparse("its size is not a number"))?;
        Ok((sparse_runs(self.field(386, 96))?, self.0[482] == 1, size))
    }
}

/// Runs of (offset, length) as GNU's headers store them: 12 characters each, ended by an empty one.
pub fn sparse_runs(field: &[u8]) -> Result<Runs, TarError> {
    let mut runs = Vec::new();
    for run in field.chunks_exact(24) {
        if run[0] == 0 && run[12] == 0 {
            break;
        }
        let parse = |field| number(field).and_then(|v| u64::try_from(v).ok());
        match (parse(&run[..12]), parse(&run[12..])) {
            (Some(offset), Some(length)) => runs.push((offset, length)),
            _ => return Err(TarError::Sparse("a run is not a number")),
        }
    }
    Ok(runs)
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u32, TarError> {
    number(field).and_then(|v| u32::try_from(v).ok()).ok_or(TarError::Number(what))
}

/// Octal digits between spaces and NULs (an empty field is 0), or base-256 when the top bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0] | 0x80) - 256 } else { i128::from(field[0] & 0x3f) };
        let value = field[1..].iter().try_fold(first, |value, &byte| {
            value.checked_mul(256).map(|v| v + i128::from(byte)).filter(|v| v.unsigned_abs() < 1 << 100)
        })?;
        return i64::try_from(value).ok();
    }
    let text = field.trim_ascii_start();
    let end = text.iter().position(|&b| b == 0 || b == b' ').unwrap_or(text.len());
    if text[end..].iter().any(|&b| b != 0 && b != b' ') {
        return None;
    }
    text[..end].iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"    644 "), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), Some(-256));
        assert_eq!(number(b"8       "), None);
        assert_eq!(number(b"12 34   "), None);
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
