//! A TAP that is there before anybody attaches to it, as `ip tuntap add` makes one.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

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

/// Hears of every interface that comes or goes from now on.
pub struct Links(OwnedFd);

impl Links {
    pub fn watch() -> Self {
        // SAFETY: the call takes three numbers.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::NETLINK_ROUTE)
        };
        assert!(fd >= 0);
        // SAFETY: it was just opened and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl is plain data for which zeroes are valid.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of an address that lives until the call returns.
        assert_eq!(unsafe { libc::bind(fd, (&raw const address).cast(), len) }, 0);
        Self(socket)
    }

    /// Whether there was one of this name: the kernel tells before it answers whoever made it.
    pub fn saw(&self, name: &str) -> bool {
        let mut seen = false;
        let mut message = [0; 65536];
        loop {
            // SAFETY: the kernel writes at most the buffer's length.
            let got =
                unsafe { libc::recv(self.0.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), 0) };
            let Ok(got) = usize::try_from(got) else { return seen };
            seen |= message[..got].windows(name.len()).any(|part| part == name.as_bytes());
        }
    }
}
