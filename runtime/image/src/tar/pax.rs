//! pax extended headers: records of `"%d %s=%s\n"`.

use super::TarError;
use crate::erofs::layout::{mark, split_xattr_name};
use crate::limits;
use crate::tree::Xattrs;

/// What the records of one file say; empty fields leave the header in force.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link_path: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Xattrs,
    pub sparse: PaxSparse,
}

/// GNU's sparse files in pax, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Formats 0.x: the map is in the header.
    pub runs: Vec<(u64, u64)>,
    pub has_map: bool,
}

impl Pax {
    /// Parses all records of a header; later ones win.
    pub fn parse(mut bytes: &[u8]) -> Result<Pax, TarError> {
        let mut pax = Pax::default();
        let mut pending_offset = None;
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            bytes = rest;
            pax.set(key, value, &mut pending_offset)?;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8], pending: &mut Option<u64>) -> Result<(), TarError> {
        let text =
            || if value.contains(&0) { Err(TarError::Pax("a NUL in a value")) } else { Ok(value.to_vec()) };
        match key {
            b"path" => self.path = some(text()?),
            b"linkpath" => self.link_path = some(text()?),
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?.map(id).transpose()?,
            b"gid" => self.gid = optional(value)?.map(id).transpose()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = some(text()?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse_map(value)?,
            b"GNU.sparse.numblocks" => self.sparse.has_map = true,
            b"GNU.sparse.offset" => *pending = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = pending.take().ok_or(TarError::Sparse("a length without an offset"))?;
                self.sparse_run(offset, decimal(value)?)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn sparse_map(&mut self, value: &[u8]) -> Result<(), TarError> {
        self.sparse.has_map = true;
        self.sparse.runs.clear();
        let mut numbers = value.split(|&b| b == b',').filter(|text| !text.is_empty());
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or(TarError::Sparse("an odd number of numbers"))?;
            self.sparse_run(decimal(offset)?, decimal(length)?)?;
        }
        Ok(())
    }

    fn sparse_run(&mut self, offset: u64, length: u64) -> Result<(), TarError> {
        if self.sparse.runs.len() >= limits::MAX_SPARSE_RUNS {
            return Err(TarError::Sparse("too many runs"));
        }
        self.sparse.runs.push((offset, length));
        Ok(())
    }

    /// Names that EROFS can't store are dropped, as unpacking onto a file system without them does. So are the
    /// attributes by which an overlay or Vial itself would be steered: an image must not speak for them.
    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        if name.len() > limits::MAX_NAME || name.contains(&0) || value.len() > limits::MAX_XATTR_VALUE {
            return Err(TarError::Xattrs);
        }
        let steering = name.starts_with(mark::PREFIX)
            || name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.overlay.");
        if steering || split_xattr_name(name).is_none() {
            return Ok(());
        }
        self.xattrs.insert(name.into(), value.into());
        // What each takes on disk: a header of 4 bytes, padding to 4.
        let total: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        if self.xattrs.len() > limits::MAX_XATTRS_PER_FILE || total > limits::MAX_XATTR_BYTES_PER_FILE - 1024
        {
            return Err(TarError::Xattrs);
        }
        Ok(())
    }
}

fn some(value: Vec<u8>) -> Option<Vec<u8>> {
    (!value.is_empty()).then_some(value)
}

fn id(value: u64) -> Result<u32, TarError> {
    u32::try_from(value).map_err(|_| TarError::Pax("an owner is out of range"))
}

/// An empty value takes a record back.
fn optional(value: &[u8]) -> Result<Option<u64>, TarError> {
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some) }
}

/// Key, value, and the records that follow.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off the first record: `length key=value\n`, where length counts itself.
fn record(bytes: &[u8]) -> Result<Record<'_>, TarError> {
    let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or(TarError::Pax("no length"))?;
    let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| TarError::Pax("length"))?;
    let body = bytes.get(space + 1..length).ok_or(TarError::Pax("a length beyond its end"))?;
    let Some((b'\n', body)) = body.split_last() else { return Err(TarError::Pax("no newline at the end")) };
    let equals = body.iter().position(|&b| b == b'=').ok_or(TarError::Pax("no equals sign"))?;
    if equals == 0 {
        return Err(TarError::Pax("an empty key"));
    }
    Ok((&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// Decimal digits and nothing else.
pub fn decimal(text: &[u8]) -> Result<u64, TarError> {
    if text.is_empty() {
        return Err(TarError::Pax("a number is empty"));
    }
    text.iter()
        .try_fold(0u64, |value, &digit| match digit {
            b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        })
        .ok_or(TarError::Pax("a number is not decimal or too large"))
}

/// Seconds with an optional fraction, of which nanoseconds are kept.
fn time(text: &[u8]) -> Result<(i64, u32), TarError> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| TarError::Pax("a time is out of range"))?;
    let mut nanoseconds = 0u32;
    for index in 0..9 {
        let digit = fraction.get(index).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(TarError::Pax("a time is not a number"));
        }
        nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pax_records;
    use proptest::prelude::*;

    #[test]
    fn records_are_read() {
        let pax =
            Pax::parse(&pax_records(&[("path", "a/b"), ("mtime", "-1.25"), ("SCHILY.xattr.user.a", "b")]))
                .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
        assert_eq!(pax.xattrs.get(&b"user.a"[..]).map(|v| &**v), Some(&b"b"[..]));
    }

    #[test]
    fn attributes_that_steer_an_overlay_are_dropped() {
        for name in
            ["trusted.overlay.opaque", "user.overlay.redirect", "trusted.vial.lower-link", "strange.name"]
        {
            let pax = Pax::parse(&pax_records(&[(&format!("SCHILY.xattr.{name}"), "y")])).unwrap();
            assert!(pax.xattrs.is_empty(), "{name}");
        }
    }

    #[test]
    fn broken_records_are_refused() {
        for bytes in
            [&b"x"[..], b"5 a=b\n", b"6 a=bc", b"99 a=b\n", b"0 a=b\n", b"5 =ab\n", b"11 size=-1\n\n"]
        {
            assert!(Pax::parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_flood_of_attributes_is_refused() {
        let names: Vec<String> = (0..1000).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
        let records: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let bytes = pax_records(&records);
        assert!(matches!(Pax::parse(&bytes), Err(TarError::Xattrs)));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::parse(&bytes);
        }

        #[test]
        fn rubbish_after_a_length_never_panics(text in "[0-9]{1,3} [a-zA-Z.=,\n0-9-]{0,60}") {
            let _ = Pax::parse(text.as_bytes());
        }
    }
}
