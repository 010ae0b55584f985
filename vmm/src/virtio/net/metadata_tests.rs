use super::super::tap::{HEADER, Tap};
use super::super::*;
use super::Guest;
use super::tests::{MAC, unlimited, wire};
use crate::api::config::MmdsConfig;
use crate::mmds::Store;
use crate::virtio::testing::VERSION_1;
use std::io::Read;
use std::time::Instant;

fn request(target: [u8; 4]) -> Vec<u8> {
    let mut arp = vec![0; HEADER];
    arp.extend([0xff; 6]);
    arp.extend(MAC);
    // ARP for IPv4 over Ethernet, a request (RFC 826).
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC);
    arp.extend([172, 16, 0, 2, 0, 0, 0, 0, 0, 0]);
    arp.extend(target);
    arp
}

#[test]
fn the_metadata_service_is_a_neighbour_and_others_are_on_the_wire() {
    let (ours, mut theirs) = wire();
    let config = MmdsConfig {
        version: Default::default(),
        network_interfaces: vec!["n".into()],
        ipv4_address: None,
        imds_compat: false,
    };
    let service = Wire::new(&config, Arc::new(Mutex::new(Store::new(100))), 1, Instant::now()).unwrap();
    let net = Net::with_taps(vec![Tap::pretend(ours)], MAC, None, unlimited()).with_metadata(service);
    let mut guest = Guest::ready(Box::new(net), VERSION_1);
    let data = guest.data(&request([169, 254, 169, 254]));
    guest.send(1, &[data]);
    assert!(guest.used(1).is_some());
    // It has no room for the answer, which waits until there is some.
    assert_eq!(guest.used(0), None);
    let buffer = guest.room(1526, true);
    guest.send(0, &[buffer]);
    let (_, len) = guest.used(0).expect("the answer");
    let answer = guest.bytes(buffer, len as usize)[HEADER..].to_vec();
    assert_eq!(answer[..6], MAC);
    assert_eq!(answer[12..14], [8, 6]);
    assert_eq!((answer[21], &answer[28..32]), (2, &[169, 254, 169, 254][..]));
    let mut bytes = [0; 4096];
    assert!(theirs.read(&mut bytes).is_err(), "nothing of it is on the wire");
    let other = request([172, 16, 0, 1]);
    let data = guest.data(&other);
    guest.send(1, &[data]);
    assert_eq!(theirs.read(&mut bytes).unwrap(), other.len());
    assert!(guest.faults().is_empty());
}
