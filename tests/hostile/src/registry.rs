//! What a registry says: what it wants before it answers, and its manifests.

use vial_registry::challenge::{self, Challenge};
use vial_registry::limits::{MAX_BLOB, MAX_LAYERS};
use vial_registry::manifest::{self, ACCEPT, Document, Platform};
use vial_registry::{Descriptor, Digest};

/// A `WWW-Authenticate` header: what is made of it is in it, and no longer.
pub fn challenge(bytes: &[u8]) {
    let Ok(header) = std::str::from_utf8(bytes) else { return };
    let mut length = 0;
    for challenge in challenge::parse(header) {
        if let Challenge::Bearer { realm, service, scope } = challenge {
            assert!(!realm.is_empty(), "a token server has an address");
            let parts = [Some(realm), service, scope];
            length += parts.iter().flatten().map(String::len).sum::<usize>();
        }
    }
    assert!(length <= header.len(), "nothing is in it twice");
}

/// A manifest or an index. The first byte decides what the answer's header says; the rest is the document.
pub fn manifest(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    match manifest::parse(bytes, ACCEPT[usize::from(kind) % ACCEPT.len()]) {
        Ok(Document::Image(image)) => {
            assert!(image.layers().len() <= MAX_LAYERS);
            image.layers().iter().chain([image.config()]).for_each(check);
        }
        Ok(Document::Index(index)) => match manifest::choose(&index, &platform) {
            Ok(chosen) => {
                assert!(index.manifests().contains(chosen), "it is one of those that are there");
                check(chosen);
            }
            Err(error) => assert!(error.to_string().len() < 8 << 10, "an error can be read"),
        },
        Err(error) => {
            assert!(!error.to_string().contains(['\x1b', '\n']), "an error is one harmless line: {error:?}")
        }
    }
    let _ = manifest::check_platform(bytes, &platform);
}

fn check(blob: &Descriptor) {
    assert!(blob.size() <= MAX_BLOB);
    // It becomes part of a path, here and in the registry.
    let digest: &Digest = blob.digest();
    let hex = digest.as_ref().strip_prefix("sha256:").expect("what is followed is sha256");
    assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hex:?}");
}
