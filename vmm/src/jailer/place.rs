//! Folders and files of a jail. A jail is used again, and until then its folder belonged to the VMM's user: nothing in there is
//! followed, and nothing that he made is written to.

use super::jail::{JailError, step};
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, flock, fstat,
    makedev, mkdirat, mknodat, open, openat, statat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is locked while a jail's VM lives.
const LOCK: &str = "lock";
/// How long a VM that was killed may have it still: it goes with the last of the process, its memory and its io_uring taken apart.
const ENDING: Duration = Duration::from_secs(1);
/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::RDONLY);

fn failed(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> JailError {
    let path = path.into();
    move |error| step(what, &path)(error.into())
}

/// Opens folder `below` of `base`, making what is missing. No link is followed below `base`.
///
/// # Errors
/// The step that failed; a link or a file in the place of a folder.
pub(super) fn folders(base: &Path, below: &[&str]) -> Result<OwnedFd, JailError> {
    let mut path = base.to_owned();
    let mut folder = open(base, FOLDER, Mode::empty()).map_err(failed("open", base))?;
    for name in below {
        path.push(name);
        match mkdirat(&folder, *name, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("make", path)(error)),
        }
        let next = openat(&folder, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        folder = next.map_err(failed("open the folder (links are not followed)", &path))?;
    }
    Ok(folder)
}

/// Keeps others from the jail `below` of `base`: a lock on a file beside its root, which whoever becomes the VMM keeps without knowing
/// of it, for as long as it lives. A file and not the folder, which would lead it out; and it can't write there.
///
/// # Errors
/// The step that failed; [`JailError::Running`] if somebody has it.
pub(super) fn hold(base: &Path, below: [&str; 2]) -> Result<OwnedFd, JailError> {
    let until = Instant::now() + ENDING;
    loop {
        let folder = folders(base, &below)?;
        let lock = match locked(&folder, OFlags::RDONLY) {
            // Network file systems lock nothing else exclusively.
            Err((Errno::BADF, _)) => locked(&folder, OFlags::RDWR),
            other => other,
        };
        match lock {
            // Whoever cleaned up after the one before took the file, and perhaps the folder: that lock keeps nobody away.
            Ok(lock) if fstat(&lock).is_ok_and(|file| file.st_nlink == 0) => {}
            Ok(lock) => return Ok(lock),
            Err((Errno::WOULDBLOCK, _)) if Instant::now() >= until => {
                return Err(JailError::Running(below[1].to_owned()));
            }
            Err((Errno::WOULDBLOCK, _)) => std::thread::sleep(LOOK_AGAIN),
            Err((error, what)) => return Err(failed(what, LOCK)(error)),
        }
    }
}

/// The lock in `folder`, opened like this; or what went wrong with what.
fn locked(folder: &OwnedFd, access: OFlags) -> Result<OwnedFd, (Errno, &'static str)> {
    // Whatever has that name, it is not waited for.
    let flags = access | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = openat(folder, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(|error| (error, "make"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| (error, "lock"))?;
    Ok(lock)
}

/// A new file `name` in `folder`, in the place of whatever has that name.
///
/// # Errors
/// It can't be made, or a folder has its name.
pub(super) fn fresh(folder: BorrowedFd<'_>, name: &str, mode: u32) -> Result<File, JailError> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed("remove the old", name)(error)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::from_raw_mode(mode)).map_err(failed("make", name))?;
    Ok(file.into())
}

/// Copies `program` to `name` in `folder`, with its mode.
///
/// # Errors
/// It can't be read, or the copy not be made.
pub(super) fn copy(program: &Path, folder: BorrowedFd<'_>, name: &str) -> Result<(), JailError> {
    let mut from = File::open(program).map_err(step("open the program", program))?;
    let mode = fstat(&from).map_err(failed("look at the program", program))?.st_mode & 0o777;
    let mut to = fresh(folder, name, mode)?;
    io::copy(&mut from, &mut to).map_err(step("copy the program to", Path::new(name)))?;
    // Whatever the umask takes away.
    fchmod(&to, Mode::from_raw_mode(mode)).map_err(failed("set the mode of", name))
}

/// Gives `folder` to `owner`, and to him alone.
///
/// # Errors
/// What the system says.
pub(super) fn give(folder: BorrowedFd<'_>, (uid, gid): (Uid, Gid)) -> Result<(), JailError> {
    fchmod(folder, Mode::RWXU).map_err(failed("close", "a folder of the jail"))?;
    fchown(folder, Some(uid), Some(gid)).map_err(failed("give away", "a folder of the jail"))
}

/// Device `name`, `number`, of `owner` in folder `below` of `root`: the one that is there if it is this one.
///
/// # Errors
/// It can't be made.
pub(super) fn device(
    root: &Path,
    below: &[&str],
    name: &str,
    number: (u32, u32),
    (uid, gid): (Uid, Gid),
) -> Result<(), JailError> {
    let folder = folders(root, below)?;
    let number = makedev(number.0, number.1);
    let there = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let is_it = there.as_ref().is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == number
    });
    if !is_it {
        if there.is_ok() {
            unlinkat(&folder, name, AtFlags::empty()).map_err(failed("remove the old", name))?;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(&folder, name, FileType::CharacterDevice, mode, number).map_err(failed("make", name))?;
    }
    chownat(folder.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("give away", name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_lock_is_waited_for_a_moment_is_no_file_to_write_to_and_is_that_of_the_folder_that_is_there() {
        let base = tempfile::tempdir().unwrap();
        let hold = || hold(base.path(), ["vmm", "id"]);
        let first = hold().unwrap();
        assert_eq!(rustix::io::write(&first, b"x"), Err(Errno::BADF));
        assert!(matches!(hold(), Err(JailError::Running(id)) if id == "id"));
        std::thread::scope(|scope| {
            let second = scope.spawn(hold);
            drop(first);
            second.join().unwrap().unwrap();
        });
        // Somebody waits for a lock whose file is taken away meanwhile.
        let old = hold().unwrap();
        let waits = std::thread::scope(|scope| {
            let next = scope.spawn(hold);
            fs::remove_dir_all(base.path().join("vmm")).unwrap();
            drop(old);
            next.join().unwrap().unwrap()
        });
        assert_eq!(fstat(&waits).unwrap().st_nlink, 1);
        assert!(hold().is_err(), "it is the one that others find");
    }

    #[test]
    fn links_of_the_former_tenant_are_replaced_and_never_followed() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::write(at("victim"), "mine").unwrap();
        fs::write(at("program"), "code").unwrap();
        fs::set_permissions(at("program"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::create_dir_all(at("jail")).unwrap();
        for link in ["symbolic", "hard"] {
            let folder = folders(base.path(), &["jail"]).unwrap();
            match link {
                "hard" => fs::hard_link(at("victim"), at("jail/p")).unwrap(),
                _ => symlink(at("victim"), at("jail/p")).unwrap(),
            }
            copy(&at("program"), folder.as_fd(), "p").unwrap();
            assert_eq!(fs::read_to_string(at("victim")).unwrap(), "mine", "{link}");
            assert_eq!(fs::read_to_string(at("jail/p")).unwrap(), "code");
            let copy = fs::symlink_metadata(at("jail/p")).unwrap();
            assert_eq!((copy.is_file(), copy.permissions().mode() & 0o777), (true, 0o750));
            fs::remove_file(at("jail/p")).unwrap();
        }
        // A link in the place of a folder.
        fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("jail/dev")).unwrap();
        assert!(folders(base.path(), &["jail", "dev", "net"]).is_err());
        assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);
    }
}
