//! Media of removable drives: opened here, so that the VM's process opens nothing, and handed over while it runs.

use super::disk::{self, Disks, open_regular};
use crate::dir::VmDir;
use crate::{DiskSource, Error, VmId, control};
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use vmm::api::config::Drive;
use vmm::api::control::{MAX_FILES, Request};

/// Opens the files of a medium, hands them over and waits until it is in; its size in bytes.
pub async fn insert(id: &VmId, dir: &VmDir, drive: &str, source: &DiskSource) -> Result<u64, Error> {
    let (id, dir, name, source) = (id.clone(), dir.clone(), drive.to_owned(), source.clone());
    let socket = dir.control();
    let opened = tokio::task::spawn_blocking(move || open(&find(&id, &dir, &name)?, &source)).await;
    let (files, bytes) =
        opened.map_err(|e| Error::System { what: "open a medium", source: std::io::Error::other(e) })??;
    let count = u8::try_from(files.len()).expect("it was compared with MAX_FILES");
    let request = Request::Insert { drive_id: drive.to_owned(), files: count };
    control::call_with(&socket, request, &files).await?;
    Ok(bytes)
}

/// The drive as it was planned. The VM's own document is asked, because a restarted program knows nothing else of it.
fn find(id: &VmId, dir: &VmDir, drive: &str) -> Result<Drive, Error> {
    let drives = dir.read_config()?.map(|config| config.drives).unwrap_or_default();
    let found = drives.into_iter().find(|d| d.drive_id == drive && d.is_removable);
    found.ok_or_else(|| Error::Spec(format!("VM {id} has no removable disk {drive:?}")))
}

fn open(drive: &Drive, source: &DiskSource) -> Result<(Vec<OwnedFd>, u64), Error> {
    let fail = |why: &str| Err(Error::Spec(format!("the medium for disk {:?} {why}", drive.drive_id)));
    let mut bytes = 0u64;
    let mut count = |file: &OwnedFd, path| -> Result<(), Error> {
        bytes = bytes.saturating_add(disk::len(file, path)?);
        Ok(())
    };
    let files = match source {
        DiskSource::File(path) => {
            let file = Disks::default().open(path, drive.is_read_only)?;
            count(&file, path)?;
            vec![file]
        }
        DiskSource::Concat(_) if !drive.is_read_only => {
            return fail("joins several files, and the disk is not read-only");
        }
        DiskSource::Concat(paths) if !(1..=MAX_FILES).contains(&paths.len()) => {
            return fail(&format!("has {} files; 1 to {MAX_FILES} are possible", paths.len()));
        }
        DiskSource::Concat(paths) => {
            let mut one = |path| {
                let file = open_regular(path, OFlags::RDONLY)?;
                count(&file, path)?;
                Ok(file)
            };
            paths.iter().map(|path| one(path.as_path())).collect::<Result<_, Error>>()?
        }
        DiskSource::Socket(_) => return fail("can't be a back end's disk; name files"),
        DiskSource::Removable { .. } => return fail("can't be another removable disk; name files"),
    };
    Ok((files, bytes))
}
