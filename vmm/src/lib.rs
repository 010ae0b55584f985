//! The virtual machine monitor: one process is one microVM.
//!
//! It must never know of images, pods, containers or Kubernetes: its world is a kernel, memory, vCPUs, devices, and
//! descriptors that somebody else may have opened for it.
//!
//! The story of a VM is told in [`process`] (from arguments to exit code), [`machine`] (from files to running vCPUs) and
//! [`event_loop`] (from there to the end).

#![deny(unsafe_code)]
// Each device's tests are there twice: over virtio-mmio and over virtio-pci.
#![cfg_attr(test, allow(clippy::duplicate_mod))]

pub mod address_space;
pub mod api;
pub mod arch;
pub mod args;
pub mod back_ends;
pub mod backplane;
pub mod boot_timer;
mod build_error;
pub mod bus;
mod cards;
mod changes;
pub mod control;
pub mod data_file;
pub mod devices;
pub mod door;
pub mod end;
pub mod event_loop;
pub mod feed;
pub mod files;
pub mod generation;
pub mod handles;
pub mod http;
pub mod io_threads;
pub mod jailer;
pub mod kernel;
#[allow(unsafe_code)]
mod last_words;
mod line_writer;
mod listen;
mod lock;
pub mod log;
pub mod machine;
#[allow(unsafe_code)]
pub mod memory;
pub mod metrics;
pub mod mmds;
pub mod observe;
pub mod outlet;
pub mod pci;
pub mod platform;
pub mod plugs;
pub mod process;
pub mod seccomp;
pub mod serial;
pub mod status;
#[allow(unsafe_code)]
pub mod sys;
pub mod validate;
pub mod vcpu;
pub mod virtio;

/// An error and everything that caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many say their cause themselves.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_chain_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        enum Layer {
            #[error("could not do it")]
            Outer(#[source] Box<Layer>),
            #[error("the reason: {0}")]
            Repeats(#[source] std::io::Error),
        }
        let cause = std::io::Error::from_raw_os_error(libc::EINVAL);
        let error = Layer::Outer(Box::new(Layer::Repeats(cause)));
        assert_eq!(super::chain(&error), "could not do it: the reason: Invalid argument (os error 22)");
    }
}
