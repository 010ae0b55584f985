//! `rmi`: takes names away, and images that have none left.

use super::{ImageStore, files, names_of};
use crate::digest::ImageId;
use crate::error::{Error, Result};
use crate::reference::ImageName;

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoveReport {
    /// Names that are gone, in familiar form.
    pub untagged: Vec<String>,
    /// Images that are gone.
    pub deleted: Vec<ImageId>,
}

impl ImageStore {
    /// Removes a name, and with its last name the image, as Docker does. An ID with several names needs `force`.
    ///
    /// An image for which `in_use` holds is never deleted: without `force` that is an error, with it only the
    /// names go. Layers that no other image uses go with the image.
    pub fn remove(
        &self,
        name_or_id: &str,
        in_use: &dyn Fn(&ImageId) -> bool,
        force: bool,
    ) -> Result<RemoveReport> {
        let _lock = files::lock(&self.dir)?;
        let mut names = self.names()?;
        let (id, by_name) = self.find(&names, name_or_id)?;
        let all: Vec<ImageName> =
            names.iter().filter(|&(_, &named)| named == id).map(|(name, _)| name.clone()).collect();
        let going = match by_name {
            Some(name) => vec![name],
            None if all.len() > 1 && !force => return Err(Error::SeveralNames { id, names: all.len() }),
            None => all.clone(),
        };
        let last = going.len() == all.len();
        let used = last && in_use(&id);
        if used && !force {
            return Err(Error::InUse { image: name_or_id.to_owned() });
        }
        for name in &going {
            names.remove(name);
        }
        if !going.is_empty() {
            self.write_names(&names)?;
        }
        let mut report =
            RemoveReport { untagged: going.iter().map(ToString::to_string).collect(), deleted: Vec::new() };
        if last && !used {
            files::remove(&self.record_path(id))?;
            files::sync_dir(&self.images())?;
            self.collect_garbage()?;
            report.deleted.push(id);
        }
        debug_assert!(!last || names_of(&names, id).is_empty());
        Ok(report)
    }
}
