//! A pod's life: VM, image and containers together.
