//! Opens the files of a VM's disks, so that what one VM may write to is no other's.
//!
//! The locks (flock) belong to the open files and thus live with the VM's process: whatever ends it gives its disks back, and a new
//! daemon or a killed `vial vm run` changes nothing. They are advisory: they stop another VM, not another program.
//!
//! The kernel takes an io_uring apart after the process that had it is gone, some ten milliseconds as a rule, and only then closes the
//! file that is registered in it. So a disk that is in use is only refused when it stays so.

use super::launch::open;
use crate::Error;
use rustix::fs::{FileType, FlockOperation, OFlags, SeekFrom, flock, fstat, seek};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a disk may stay locked by a VM that is gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(2);

/// The disks that one VM has so far.
#[derive(Debug, Default)]
pub struct Disks {
    /// Device and inode of each: a file has many paths.
    locked: Vec<(u64, u64)>,
}

impl Disks {
    /// Opens a disk: alone if the VM may write to it, else together with others that only read. Waits up to a second for one that is in
    /// use.
    ///
    /// # Errors
    /// [`Error::DiskInUse`] and [`Error::DiskTwice`]; when it can't be opened or is neither a file nor a block device.
    pub fn open(&mut self, path: &Path, read_only: bool) -> Result<OwnedFd, Error> {
        let fd = open_regular(path, if read_only { OFlags::RDONLY } else { OFlags::RDWR })?;
        let stat = fstat(&fd).map_err(|e| Error::file("look at", path)(e.into()))?;
        let file = (stat.st_dev, stat.st_ino);
        let lock = match read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        let until = Instant::now() + PATIENCE;
        let locked = loop {
            match flock(&fd, lock) {
                Err(Errno::WOULDBLOCK) if self.locked.contains(&file) => {
                    return Err(Error::DiskTwice { path: path.into() });
                }
                Err(Errno::WOULDBLOCK) if Instant::now() < until => sleep(PAUSE),
                result => break result,
            }
        };
        match locked {
            Ok(()) => self.locked.push(file),
            Err(Errno::WOULDBLOCK) => return Err(Error::DiskInUse { path: path.into(), read_only }),
            // A file system without locks still makes a disk.
            Err(error @ (Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK)) => {
                tracing::warn!(disk = %path.display(), %error, "nothing keeps other VMs from using this disk");
            }
            Err(error) => return Err(Error::file("lock", path)(error.into())),
        }
        Ok(fd)
    }
}

/// A disk or kernel must be a file or a block device: a pipe or a folder would only fail later and less clearly.
pub fn open_regular(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    // NONBLOCK, else a pipe would hold us up; it means nothing to files.
    let fd = open(path, flags | OFlags::NONBLOCK)?;
    let kind = fstat(&fd).map(|s| FileType::from_raw_mode(s.st_mode));
    match kind {
        Ok(FileType::RegularFile | FileType::BlockDevice) => Ok(fd),
        _ => Err(Error::Spec(format!("{} is neither a file nor a block device", path.display()))),
    }
}

/// The bytes of a disk: right for block devices too, unlike the metadata's length.
pub fn len(file: &OwnedFd, path: &Path) -> Result<u64, Error> {
    // Their offset is nobody's: disks are read and written at places.
    seek(file, SeekFrom::End(0)).map_err(|e| Error::file("find the size of", path)(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        std::fs::write(&disk, "x").unwrap();
        std::fs::hard_link(&disk, &link).unwrap();
        let vm = Disks::default;

        let writer = vm().open(&disk, false).unwrap();
        assert!(matches!(vm().open(&disk, false), Err(Error::DiskInUse { read_only: false, .. })));
        assert!(matches!(vm().open(&link, true), Err(Error::DiskInUse { read_only: true, .. })));
        // It is whoever has the open file that has the lock: here a copy, for a VM its process.
        let copy = writer.try_clone().unwrap();
        drop(writer);
        assert!(vm().open(&disk, false).is_err());
        drop(copy);

        let readers = (vm().open(&disk, true).unwrap(), vm().open(&link, true).unwrap());
        assert!(matches!(vm().open(&disk, false), Err(Error::DiskInUse { .. })));
        drop(readers);
        vm().open(&disk, false).unwrap();
    }

    #[test]
    fn a_disk_that_is_about_to_be_given_back_is_waited_for() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let writer = Disks::default().open(disk.path(), false).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(20 * PAUSE);
                drop(writer);
            });
            Disks::default().open(disk.path(), false).unwrap();
        });
    }

    #[test]
    fn a_disk_that_is_given_twice_is_told_from_one_that_another_has() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        std::fs::write(&disk, "x").unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        for (first, second, fits) in
            [(true, true, true), (true, false, false), (false, true, false), (false, false, false)]
        {
            let mut vm = Disks::default();
            let _first = vm.open(&disk, first).unwrap();
            let second = vm.open(&link, second);
            assert_eq!(second.is_ok(), fits);
            assert!(fits || matches!(second, Err(Error::DiskTwice { .. })));
        }
    }
}
