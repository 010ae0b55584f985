//! A TAP that is there before anybody attaches to it, as `ip tuntap add` makes one.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

/// TUNSETPERSIST of linux/if_tun.h.
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;

/// It goes with this value.
pub struct Tap(String);

impl Tap {
    pub fn new(name: &str) -> Self {
        persist(name, 1);
        Self(name.to_owned())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        persist(&self.0, 0);
    }
}

fn persist(name: &str, whether: libc::c_int) {
    let tun: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    vmm::sys::attach_tap(&tun, name, false).unwrap();
    // SAFETY: the request takes a number.
    assert_eq!(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, whether) }, 0);
}
