//! Replays the inputs of `tests/fuzz`: good ones are read, bad ones refused, none panics.
#![allow(clippy::unwrap_used, reason = "a test that fails to set up has failed")]

use std::fs;
use std::path::Path;

use vial_image::{erofs, tar};

fn replay(folder: &str, accepts: impl Fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz").join(folder);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let good = !path.file_name().unwrap().to_string_lossy().starts_with("bad-");
        assert_eq!(accepts(&fs::read(&path).unwrap()), good, "{}", path.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn tars() {
    replay("tar", |bytes| {
        let mut reader = tar::Reader::new(bytes);
        loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
}

#[test]
fn layer_files() {
    replay("erofs", |bytes| erofs::reader::read(bytes).is_ok());
}
