//! The entries of a stream, with long names put together under bounds that the tar library does not have.

use crate::{ArchiveError, Result};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use tar::{Archive, Entry, EntryType};

/// Longest name, link target or block of pax records, in bytes: the kernel's paths end at 4096.
const MAX_NAME: u64 = 64 << 10;

/// What a stream says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its kind.
    pub kind: EntryType,
    /// Its name: at least one part, and each a plain one.
    pub path: Vec<OsString>,
    /// Where a link points.
    pub link: PathBuf,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change, seconds since the epoch.
    pub mtime: u64,
    /// Device numbers.
    pub device: (u32, u32),
    /// Bytes of data that follow.
    pub size: u64,
}

/// Splits a name into plain parts.
///
/// # Errors
/// When it leads upwards.
pub fn parts(name: &[u8]) -> Result<Vec<OsString>> {
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let own = |part: &[u8]| match part {
        b".." => {
            Err(ArchiveError::Bad(format!("the name {:?} leads upwards", String::from_utf8_lossy(name))))
        }
        part if part.contains(&0) => Err(ArchiveError::Bad("a name holds a NUL byte".into())),
        part => Ok(OsString::from_vec(part.to_vec())),
    };
    parts.map(own).collect()
}

/// Calls `each` with every file of a tar, its data being what can be read.
///
/// # Errors
/// When the stream breaks, makes no sense, or `each` fails.
pub fn read<R: Read>(input: R, mut each: impl FnMut(Meta, &mut Entry<'_, R>) -> Result<()>) -> Result<()> {
    let mut archive = Archive::new(input);
    let entries = archive.entries().map_err(ArchiveError::Stream)?.raw(true);
    let (mut long_name, mut long_link): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Stream)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long_name = Some(name(&mut entry)?),
            EntryType::GNULongLink => long_link = Some(name(&mut entry)?),
            EntryType::XHeader => pax(&mut entry, &mut long_name, &mut long_link)?,
            EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => {
                return Err(ArchiveError::Bad(
                    "it has a file in GNU's sparse form; make it without --sparse".into(),
                ));
            }
            _ => {
                let path = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = long_link.take().or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
                let meta = meta(&entry, kind, &path, link.unwrap_or_default())?;
                each(meta, &mut entry)?;
            }
        }
    }
    Ok(())
}

fn meta<R: Read>(entry: &Entry<'_, R>, kind: EntryType, path: &[u8], link: Vec<u8>) -> Result<Meta> {
    let header = entry.header();
    let bad =
        |what: &str| ArchiveError::Bad(format!("{}: its {what} is no number", String::from_utf8_lossy(path)));
    let narrow = |number: std::io::Result<u64>, what: &str| {
        number.ok().and_then(|number| u32::try_from(number).ok()).ok_or_else(|| bad(what))
    };
    let device = |number: std::io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    Ok(Meta {
        kind,
        path: parts(path)?,
        link: PathBuf::from(OsString::from_vec(link)),
        mode: header.mode().map_err(|_| bad("mode"))? & 0o7777,
        uid: narrow(header.uid(), "owner")?,
        gid: narrow(header.gid(), "group")?,
        mtime: header.mtime().map_err(|_| bad("time"))?,
        device: (device(header.device_major()), device(header.device_minor())),
        size: entry.size(),
    })
}

fn bounded<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    if entry.size() > MAX_NAME {
        return Err(ArchiveError::Bad(format!("it has a name of {} bytes", entry.size())));
    }
    let mut bytes = Vec::new();
    entry.take(MAX_NAME).read_to_end(&mut bytes).map_err(ArchiveError::Stream)?;
    Ok(bytes)
}

fn name<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>> {
    let mut bytes = bounded(entry)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn pax<R: Read>(
    entry: &mut Entry<'_, R>,
    name: &mut Option<Vec<u8>>,
    link: &mut Option<Vec<u8>>,
) -> Result<()> {
    let bytes = bounded(entry)?;
    for record in tar::PaxExtensions::new(&bytes) {
        let record = record.map_err(|_| ArchiveError::Bad("its pax records make no sense".into()))?;
        match record.key_bytes() {
            b"path" => *name = Some(record.value_bytes().to_vec()),
            b"linkpath" => *link = Some(record.value_bytes().to_vec()),
            // The length of what follows would be read wrongly.
            b"size" => {
                return Err(ArchiveError::Bad("a file in it is longer than 8 GiB, in the pax form".into()));
            }
            key if key.starts_with(b"GNU.sparse") => {
                return Err(ArchiveError::Bad(
                    "it has a file in the sparse form; make it without --sparse".into(),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
