//! What a start would fail on, tried before its threads are made and confined: until then a client can mend his documents and start again.

use crate::api::config::{Drive, Pmem, VmConfig};
use crate::arch;
use crate::build_error::BuildError;
use crate::devices::MakeError;
use crate::files::Files;
use crate::memory::PmemMapping;
use crate::virtio::block;
use kvm_ioctls::Kvm;
use std::fs::File;

/// Whether these files make this drive.
///
/// # Errors
/// They don't.
pub fn drive(drive: &Drive, files: &[File]) -> Result<(), BuildError> {
    let id = &drive.drive_id;
    let read_only = drive.is_read_only || !drive.concat.is_empty();
    let checked = block::check(id, files, read_only, drive.direct);
    checked.map_err(|source| MakeError::Block { id: id.clone(), source }.into())
}

/// Whether this file can be persistent memory.
///
/// # Errors
/// It can't.
pub fn pmem(settings: &Pmem, file: &File) -> Result<(), BuildError> {
    let failed = |source| BuildError::Pmem { id: settings.id.clone(), source };
    PmemMapping::len_of(file, settings.read_only).map(drop).map_err(failed)
}

/// Whether these files can be the drives and the memory of these documents.
///
/// # Errors
/// They can't.
pub fn files(config: &VmConfig, files: &Files) -> Result<(), BuildError> {
    for (settings, files) in config.drives.iter().zip(&files.drives) {
        drive(settings, files)?;
    }
    for (settings, file) in config.pmem.iter().zip(&files.pmem) {
        pmem(settings, file)?;
    }
    Ok(())
}

/// Whether this KVM makes such a processor.
///
/// # Errors
/// It does not.
pub fn processor(config: &VmConfig, kvm: &Kvm) -> Result<(), BuildError> {
    Ok(config.cpu_config.as_ref().map_or(Ok(()), |template| arch::try_template(kvm, template))?)
}
