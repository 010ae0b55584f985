//! A running VM's control socket: whoever has it asks for anything, while the guest does anything.

use crate::devices::{Guest, take};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use vmm::api::control::{Plugged, Request};
use vmm::api::document;
use vmm::devices::Handle;
use vmm::handles::Handles;
use vmm::validate;
use vmm::virtio::block::{Block, BlockConfig};
use vmm::virtio::net::Net;

/// More descriptors than this are not worth the time.
const MOST: u8 = 3;

/// A file of so many sectors.
fn medium(sectors: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(sectors * 512).unwrap();
    file
}

/// A disk, a drive for media, and an interface, one of them with a driver that does anything; in between requests, each behind a byte of its
/// length. What is understood passes through JSON unchanged, a medium goes only into an empty drive, and what is plugged in gets
/// each file that came once.
pub fn control(bytes: &[u8]) {
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let disk = Block::new(BlockConfig::new("disk", vec![medium(8)], false)).unwrap();
    let tray = Block::new(BlockConfig::removable("tray", false)).unwrap();
    let net = Net::standing_in(OwnedFd::from(ours).into(), [2, 0, 0, 0, 0, 1]);
    let made = [Handle::Drive(disk.tray()), Handle::Drive(tray.tray()), {
        Handle::Net { id: "net".into(), limits: net.limits() }
    }];
    let mut guests = [Guest::new(Box::new(disk)), Guest::new(Box::new(tray)), Guest::new(Box::new(net))];
    let mut handles = Handles::default();
    for (handle, guest) in made.into_iter().zip(&guests) {
        handles.add(handle, guest.signals());
    }
    let chosen = bytes.first().map_or(0, |first| usize::from(*first) % guests.len());
    guests.swap(0, chosen);
    let [guest, ..] = guests;
    let mut inside = false;
    guest.play(bytes.get(1..).unwrap_or_default(), |sectors, bytes| {
        let Some(length) = take::<1>(bytes) else { return };
        let (line, rest) = bytes.split_at(bytes.len().min(length[0].into()));
        *bytes = rest;
        let Ok(request) = document::parse::<Request>(line) else { return };
        let text = serde_json::to_vec(&request).unwrap();
        assert_eq!(document::parse::<Request>(&text).unwrap(), request);
        match request {
            Request::Insert { drive_id, files } => {
                let came = (0..files.min(MOST)).map(|_| medium(sectors.into())).collect();
                let taken = handles.insert(&drive_id, files, came).is_ok();
                assert!(!taken || !inside && drive_id == "tray" && files == 1);
                inside |= taken;
            }
            Request::Eject { drive_id } => {
                assert_eq!(handles.eject(&drive_id).is_ok(), drive_id == "tray");
                inside &= drive_id != "tray";
            }
            Request::UpdateDrive { drive_id, rate_limiter, files, measure } => {
                let came: Vec<_> = (0..files.min(MOST)).map(|_| medium(sectors.into())).collect();
                let done = handles.update_drive(&drive_id, rate_limiter.as_ref(), (files, came), measure);
                assert!(done.is_err() || drive_id == "disk" || drive_id == "tray" && files == 0);
            }
            Request::UpdateInterface { iface_id, rx_rate_limiter: receive, tx_rate_limiter: transmit } => {
                let done = handles.limit_interface(&iface_id, receive.as_ref(), transmit.as_ref());
                assert!(done.is_err() || iface_id == "net");
            }
            Request::Plug { device, files } => plug(&device, files),
            _ => {}
        }
    });
}

fn plug(device: &Plugged, said: u8) {
    let came: Vec<_> = (0..said.min(MOST)).map(|_| File::open("/dev/null").unwrap()).collect();
    let all: BTreeSet<_> = came.iter().map(File::as_raw_fd).collect();
    if let Ok(files) = validate::plugged(device, said, came) {
        assert_eq!(files.len(), all.len());
        assert_eq!(files.iter().map(File::as_raw_fd).collect::<BTreeSet<_>>(), all);
    }
}
