//! What a container gives to `vial cp`.

use crate::tarball;
use std::path::Path;
use vial_archive::{Place, Root, Unpack};

/// Unpacks a tar, as it is and with right checksums: nothing appears beside the destination.
pub fn copies(bytes: &[u8]) {
    for bytes in [bytes, &tarball::sealed(bytes)] {
        // Nobody needs a large one to break something, and each is written to a disk.
        let bytes = &bytes[..bytes.len().min(256 << 10)];
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dst")).unwrap();
        let root = Root::open(Path::new("/")).unwrap();
        for (end, stream) in [("dst", true), ("dst", false), ("dst/new", false)] {
            let to = Place::parse(folder.path().join(end).as_os_str());
            let _ = root.unpack(&to, Unpack { stream, ..Unpack::default() }, bytes);
        }
        let beside = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(beside, 1, "something appeared beside the destination");
    }
}
