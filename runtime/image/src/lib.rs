//! OCI images: verify, store, turn into block images.
