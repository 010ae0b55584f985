//! Result files: opened before the measurement, so that a wrong name does not cost it, and there as a whole or not at all.

use super::args::OutArgs;
use crate::error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use vial_bench::report;
use vial_bench::result::Document;

/// How a document is written.
type Form = fn(&Document) -> Result<String>;

/// Files that wait for their document.
pub struct Files(Vec<(PathBuf, NamedTempFile, Form)>);

impl Files {
    /// Makes sure that each can be written.
    ///
    /// # Errors
    /// When one can't be.
    pub fn open(out: &OutArgs) -> Result<Self> {
        let json: Form = |document| Ok(serde_json::to_string_pretty(document)? + "\n");
        let html: Form = |document| Ok(report::html(document));
        let markdown: Form = |document| Ok(report::markdown(document));
        let wanted = [(&out.json, json), (&out.html, html), (&out.markdown, markdown)];
        let open = |(path, form): (&Option<PathBuf>, Form)| {
            let path = path.clone()?;
            Some(temporary(&path).map(|file| (path, file, form)))
        };
        Ok(Self(wanted.into_iter().filter_map(open).collect::<Result<_>>()?))
    }

    /// Writes them all.
    ///
    /// # Errors
    /// When one can't be: the others are there.
    pub fn write(self, document: &Document) -> Result<()> {
        let mut result = Ok(());
        for (path, mut file, form) in self.0 {
            let text = form(document)?;
            let written = file.write_all(text.as_bytes()).and_then(|()| Ok(file.persist(&path)?));
            match written {
                Ok(_) => crate::output::remark(&format!("wrote {}\n", path.display())),
                Err(error) => result = Err(Error::io(format!("write {}", path.display()))(error)),
            }
        }
        result
    }
}

/// A file beside the one that is meant, with the mode that a new file has.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let wrong = || Error::io(format!("write {}", path.display()));
    if path.is_dir() {
        return Err(wrong()(std::io::ErrorKind::IsADirectory.into()));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    builder.prefix(".vial-bench-").permissions(readable).tempfile_in(folder).map_err(wrong())
}
