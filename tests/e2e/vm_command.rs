//! End-to-end tests of vial vm.
