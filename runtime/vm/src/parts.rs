//! Where the installed parts are: `<folder of this executable>/../lib/vial/`, or `$VIAL_LIB_DIR`.

use crate::Error;
use std::path::{Path, PathBuf};

/// The parts that a VM is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The static VMM binary.
    pub vmm: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The cpio with the agent.
    pub initrd: PathBuf,
}

impl Parts {
    /// The parts in a folder, present or not.
    pub fn at(folder: &Path) -> Self {
        Self {
            vmm: folder.join("vial-vmm"),
            kernel: folder.join("vmlinux"),
            initrd: folder.join("initrd.cpio"),
        }
    }

    /// The folder where the parts belong for this process.
    ///
    /// # Errors
    /// When the process can't tell where its executable is.
    pub fn folder() -> Result<PathBuf, Error> {
        if let Some(folder) = std::env::var_os("VIAL_LIB_DIR").filter(|f| !f.is_empty()) {
            return Ok(folder.into());
        }
        let exe = std::env::current_exe().map_err(Error::system("find this program's own file"))?;
        Ok(exe.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("lib/vial"))
    }

    /// The installed parts. The kernel and the initrd may be missing, since a VM can be given others;
    /// [`Parts::require_guest`] checks them.
    ///
    /// # Errors
    /// When there is no VMM.
    pub fn find() -> Result<Self, Error> {
        let parts = Self::at(&Self::folder()?);
        present("the VM monitor (vial-vmm)", &parts.vmm)?;
        Ok(parts)
    }

    /// Checks that kernel and initrd are there.
    ///
    /// # Errors
    /// When one is missing.
    pub fn require_guest(&self) -> Result<(), Error> {
        present("the guest kernel (vmlinux)", &self.kernel)?;
        present("the guest's initial file system (initrd.cpio)", &self.initrd)
    }
}

fn present(what: &'static str, path: &Path) -> Result<(), Error> {
    if path.is_file() { Ok(()) } else { Err(Error::PartMissing { what, path: path.to_path_buf() }) }
}
