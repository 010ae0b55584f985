//! End-to-end tests: built binaries against real kernels and images.
