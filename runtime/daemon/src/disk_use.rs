//! What takes room on the host's disk: `/v1/system/df`.

use crate::error::Result;
use crate::state::Shared;
use axum::Json;
use axum::extract::State;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vial_api::{ContainerUse, DiskUse, ImageUse};

/// How deep folders of ours are at most.
const DEPTH: u32 = 8;

/// Bytes that a file, or a folder with all in it, takes on the disk; holes take none, and what has just gone neither.
fn size(path: &Path, depth: u32) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() || depth == 0 {
        return own;
    }
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten();
    inside.fold(own, |sum, entry| sum.saturating_add(size(&entry.path(), depth - 1)))
}

/// `GET /v1/system/df`
pub async fn df(State(daemon): State<Shared>) -> Result<Json<DiskUse>> {
    let found = tokio::task::spawn_blocking(move || -> Result<DiskUse> {
        let records = daemon.store.list()?;
        let images = daemon.images.list()?.into_iter().map(|image| {
            let id = image.id.to_string();
            let containers = records.iter().filter(|record| record.image_id == id).count() as u64;
            ImageUse { id, names: image.names, size: image.size, containers }
        });
        let containers = records.iter().map(|record| ContainerUse {
            id: record.id.to_string(),
            name: record.name.clone(),
            state: daemon.state(record),
            layer: size(&daemon.uppers.path(record.id.as_str()), DEPTH),
            log: size(&daemon.paths.log(record.id.as_str()), DEPTH),
        });
        Ok(DiskUse {
            images: images.collect(),
            images_size: size(&daemon.paths.images(), DEPTH),
            containers: containers.collect(),
        })
    });
    Ok(Json(found.await??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("a")).unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(size(dir.path(), DEPTH) < 1 << 20);
        std::fs::write(dir.path().join("b"), vec![1; 1 << 20]).unwrap();
        assert!(size(dir.path(), DEPTH) >= 1 << 20);
        assert_eq!(size(&dir.path().join("none"), DEPTH), 0);
    }
}
