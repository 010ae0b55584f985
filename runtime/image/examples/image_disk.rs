//! Loads an archive into a store and writes the disk of one of its images as one file:
//! `cargo run --release -p vial-image --example image_disk -- ARCHIVE STORE DISK`.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use vial_image::{ImageStore, LoadSource, Progress};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [archive, store, disk] = &arguments[..] else {
        return Err("usage: image_disk ARCHIVE STORE DISK".into());
    };
    let store = ImageStore::open(store)?;
    let loaded = store.load(LoadSource::Path(archive.clone()), &mut |progress| {
        if matches!(progress, Progress::LayerDone { .. } | Progress::Done(_)) {
            eprintln!("{progress:?}");
        }
    })?;
    let image = store.resolve(&loaded[0].id.to_string())?;
    let mut out = File::create(disk)?;
    for path in &image.disk {
        io::copy(&mut File::open(path)?, &mut out)?;
        println!("{}", path.display());
    }
    Ok(())
}
