//! Volumes: folders in the guest's memory that containers of the pod share, or files of the host's that they read. Each is a file system of
//! its own, so that one that is filled is full for those who fill it.
//!
//! Containers never get to write where files are, so no link of theirs can lie in a path here.

use crate::errors::{internal, invalid};
use agent_protocol::{AgentError, MAX_PIECE, PutFile, PutVolume, VOLUMES};
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Volumes of a pod at most: each is a mount that every container's namespace begins with.
const MAX_VOLUMES: usize = 128;
/// Folders in which a file lies at most.
const MAX_DEPTH: usize = 16;
/// Behind the name of a file that is not whole; no key of a ConfigMap or Secret can end so, since none has a space.
const UNFINISHED: &str = " unfinished";

fn place(name: &str, files: bool) -> Result<PathBuf, AgentError> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    match fits {
        true => Ok(Path::new(VOLUMES).join(if files { "files" } else { "empty" }).join(name)),
        false => Err(invalid("a volume's name has 1 to 63 of a-z, 0-9 and -")),
    }
}

/// Has a volume there.
///
/// # Errors
/// Its name is not possible, there are too many, or it can't be mounted.
pub fn put(volume: &PutVolume) -> Result<(), AgentError> {
    let place = place(&volume.name, volume.files)?;
    if place.exists() {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(Path::new(VOLUMES));
    fs::create_dir_all(parent).map_err(internal("the place of volumes can't be made"))?;
    if fs::read_dir(parent).map_or(0, Iterator::count) >= MAX_VOLUMES {
        return Err(invalid(format!("a pod has {MAX_VOLUMES} volumes at most")));
    }
    // Whoever a container runs as may write what is theirs.
    let mode = if volume.files { "0755" } else { "0777" };
    // What is made in it belongs to its group (the set-group-ID bit), except where everything is root's anyway.
    let group = if volume.group == 0 { String::new() } else { format!(",gid={}", volume.group) };
    let mode = if volume.group == 0 { mode.to_owned() } else { mode.replacen('0', "2", 1) };
    let options = CString::new(format!("size={},mode={mode}{group}", volume.size.max(1 << 12)));
    let options = options.map_err(|_| invalid("a size is a number"))?;
    fs::create_dir(&place).map_err(internal("a volume can't be made"))?;
    mount("tmpfs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).map_err(
        |error| {
            // Or it would be taken for one that is there.
            let _ = fs::remove_dir(&place);
            internal("a volume can't be mounted")(error)
        },
    )
}

/// Writes a piece of a file.
///
/// # Errors
/// The path leads elsewhere, the volume is not there, or it is full.
pub fn write(file: &PutFile, bytes: &[u8]) -> Result<(), AgentError> {
    let volume = place(&file.volume, true)?;
    if bytes.len() > MAX_PIECE {
        return Err(invalid("a piece of a file is too long"));
    }
    if !volume.exists() {
        return Err(invalid(format!("there is no volume {}", file.volume)));
    }
    write_below(&volume, file, bytes)
}

fn write_below(volume: &Path, file: &PutFile, bytes: &[u8]) -> Result<(), AgentError> {
    let path = Path::new(&file.path);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || file.path.is_empty() || path.components().count() > MAX_DEPTH || file.path.contains('\0')
    {
        return Err(invalid(format!("{:?} is no path in a volume", file.path)));
    }
    let whole = volume.join(path);
    let unfinished = volume.join(format!("{}{UNFINISHED}", file.path));
    let written = || -> io::Result<()> {
        if let Some(parent) = whole.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        options.mode(0o600).create(file.first);
        let mut out = if file.first { options.write(true).truncate(true) } else { options.append(true) }
            .open(&unfinished)?;
        out.write_all(bytes)?;
        if file.last {
            out.set_permissions(fs::Permissions::from_mode(file.mode & 0o777))?;
            fs::rename(&unfinished, &whole)?;
        }
        Ok(())
    };
    written().map_err(internal("a file of a volume can't be written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(path: &str, first: bool, last: bool) -> PutFile {
        PutFile { volume: "v".into(), path: path.into(), mode: 0o640, bytes: String::new(), first, last }
    }

    #[test]
    fn a_file_comes_in_pieces_and_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        write_below(folder.path(), &piece("a/b", true, false), b"one ").unwrap();
        assert!(!folder.path().join("a/b").exists());
        write_below(folder.path(), &piece("a/b", false, true), b"two").unwrap();
        assert_eq!(fs::read(folder.path().join("a/b")).unwrap(), b"one two");
        assert_eq!(fs::metadata(folder.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o640);
        write_below(folder.path(), &piece("a/b", true, true), b"new").unwrap();
        assert_eq!(fs::read(folder.path().join("a/b")).unwrap(), b"new");
    }

    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["", "/a", "../a", "a/../../b", "a/./../..", &"a/".repeat(20)] {
            assert!(write_below(folder.path(), &piece(path, true, true), b"x").is_err(), "{path}");
        }
        for name in ["", "..", "a/b", "A", &"a".repeat(64)] {
            assert!(place(name, true).is_err(), "{name}");
        }
    }
}
