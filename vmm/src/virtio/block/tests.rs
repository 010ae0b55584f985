use super::super::*;
use super::Guest;
use crate::data_file::Unfit;
use crate::event_loop::ROUND;
use crate::virtio::Transport;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{
    Buffer, EVENT_IDX, GuestOver, INDIRECT, MEMORY_SIZE, QUEUE_SIZE, Registers, VERSION_1, arbitrary,
};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use virtio_bindings::virtio_blk::*;

pub(super) const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;
pub(super) const DISCARD: u64 = 1 << VIRTIO_BLK_F_DISCARD;
pub(super) const ZEROES: u64 = 1 << VIRTIO_BLK_F_WRITE_ZEROES;
pub(super) const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

pub(super) fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

pub(super) fn content(file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = file;
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

fn disk(content: &[u8]) -> (Guest, File) {
    let file = file(content);
    let config = BlockConfig::new("a-rather-long-drive-name", vec![file.try_clone().unwrap()], false);
    let features = VERSION_1 | FLUSH | EVENT_IDX | INDIRECT | DISCARD | ZEROES;
    (Guest::ready(Box::new(Block::new(config).unwrap()), features), file)
}

fn read_only(files: Vec<File>) -> Guest {
    let config = BlockConfig::new("ro", files, true);
    Guest::ready(Box::new(Block::new(config).unwrap()), VERSION_1)
}

pub(super) fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = vec![0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// Sends a request; its status, and what was read.
pub(super) fn request(guest: &mut Guest, kind: u32, sector: u64, out: &[u8], read: u32) -> (u8, Vec<u8>) {
    let head = guest.data(&header(kind, sector));
    let mut buffers = vec![head];
    if !out.is_empty() {
        buffers.push(guest.data(out));
    }
    let into = guest.room(read, true);
    if read > 0 {
        buffers.push(into);
    }
    let status = guest.data(&[0xff]);
    buffers.push(Buffer { writable: true, ..status });
    guest.send(0, &buffers);
    let (_, written) = guest.used(0).expect("every request is answered");
    let code = guest.bytes(status, 1)[0];
    assert_eq!(written, if code == OK { read + 1 } else { 1 });
    (code, guest.bytes(into, read as usize))
}

#[test]
fn the_configuration_says_what_there_is() {
    let (mut guest, _file) = disk(&[0; 5 * 512]);
    assert_eq!(u64::from_le_bytes(guest.config(0)), 5);
    assert_eq!(u32::from_le_bytes(guest.config(20)), 512);
    assert_eq!(guest.config::<8>(56), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.config::<4>(0xe00), [0; 4]);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_GET_ID, 0, &[], 20), (OK, b"a-rather-long-drive-".to_vec()));
}

#[test]
fn files_that_make_no_disk_are_refused() {
    let new = |files, read_only| Block::new(BlockConfig::new("x", files, read_only));
    assert!(matches!(new(vec![], true), Err(BlockConfigError::NoFiles(_))));
    let torn = vec![file(&[0; 512]), file(&[0; 513])];
    assert!(matches!(new(torn, true), Err(BlockConfigError::Size { index: 1, len: 513, .. })));
    assert!(matches!(new(vec![file(&[]), file(&[])], false), Err(BlockConfigError::ConcatWritable(_))));
}

#[test]
fn what_is_less_than_a_sector_at_the_end_of_a_file_is_not_there() {
    let device = Block::new(BlockConfig::new("x", vec![file(&[7; 1000])], false)).unwrap();
    let tray = device.tray();
    let mut guest = Guest::ready(Box::new(device), VERSION_1);
    assert_eq!(u64::from_le_bytes(guest.config(0)), 1);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![7; 512]));
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512).0, IO);
    // Another file may be as odd, or have no sector at all.
    for (len, sectors) in [(1025, 2), (511, 0), (0, 0), (512, 1)] {
        tray.replace(vec![file(&vec![8; len])], &guest.transport.core().signals()).unwrap();
        assert_eq!(u64::from_le_bytes(guest.config(0)), sectors, "{len}");
    }
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![8; 512]));
}

#[test]
fn direct_io_needs_whole_blocks() {
    let odd = BlockConfig { direct: true, ..BlockConfig::new("x", vec![file(&[7; 1000])], true) };
    match Block::new(odd) {
        Err(BlockConfigError::DirectSize { len: 1000, .. }) => {}
        // Some file systems have no direct I/O.
        Err(BlockConfigError::Direct { .. }) => {}
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn reads_cross_the_borders_of_files() {
    let sizes = [512, 0, 4096, 512 * 3];
    let whole = pattern(sizes.iter().sum(), 7);
    let mut rest = &whole[..];
    let files = sizes.map(|size| {
        let (part, tail) = rest.split_at(size);
        rest = tail;
        file(part)
    });
    let mut guest = read_only(files.into());
    let sectors = whole.len() / 512;
    for from in 0..sectors {
        for to in from + 1..=sectors {
            let (status, read) =
                request(&mut guest, VIRTIO_BLK_T_IN, from as u64, &[], (to - from) as u32 * 512);
            assert_eq!((status, &read[..]), (OK, &whole[from * 512..to * 512]), "{from}..{to}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let (mut guest, _file) = disk(&[0; 4096]);
    for (sector, len) in [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100), (0, 8192)] {
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, sector, &[], len).0, IO, "{sector} {len}");
        assert_eq!(
            request(&mut guest, VIRTIO_BLK_T_OUT, sector, &vec![1; len as usize], 0).0,
            IO,
            "{sector} {len}"
        );
    }
    assert_eq!(request(&mut guest, 77, 0, &[], 0).0, UNSUPPORTED);
    // A header that is too short still has a place for its status.
    let short = guest.data(&[0; 15]);
    let status = guest.room(1, true);
    guest.send(0, &[short, status]);
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(status, 1)), (1, vec![IO]));
    assert!(guest.faults().is_empty());
    // Nothing can answer this one.
    let only = guest.data(&header(VIRTIO_BLK_T_FLUSH, 0));
    guest.send(0, &[only]);
    assert_eq!(guest.used(0), None);
    assert!(guest.is_broken());
    assert_eq!(guest.faults(), ["block a-rather-long-drive-name: a request has no place for its status"]);
}

#[test]
fn a_flood_of_large_requests_is_served_in_turns() {
    const LEN: u32 = 1 << 20;
    let (mut guest, _file) = disk(&[7; LEN as usize]);
    let (head, into, status) =
        (guest.data(&header(VIRTIO_BLK_T_IN, 0)), guest.room(LEN, true), guest.room(1, true));
    let head = guest.offer(0, &[head, into, status]);
    (1..QUEUE_SIZE).for_each(|_| guest.offer_head(0, head));
    guest.kick(0);
    guest.run_once();
    let first = std::iter::from_fn(|| guest.used(0)).count();
    assert_eq!(first as u64, request::TURN / u64::from(LEN));
    guest.run();
    assert_eq!(first + std::iter::from_fn(|| guest.used(0)).count(), usize::from(QUEUE_SIZE));
    // What waits for the disk itself goes one by one.
    let (head, status) = (guest.data(&header(VIRTIO_BLK_T_FLUSH, 0)), guest.room(1, true));
    let head = guest.offer(0, &[head, status]);
    guest.offer_head(0, head);
    guest.kick(0);
    guest.run_once();
    assert_eq!(std::iter::from_fn(|| guest.used(0)).count(), 1);
    guest.run();
    assert!(guest.used(0).is_some());
}

#[test]
fn a_round_of_the_loop_ends_however_many_queues_a_disk_has() {
    const LEN: u32 = 1 << 20;
    const QUEUES: usize = 16;
    let mut config = BlockConfig::new("many", vec![file(&[7; LEN as usize])], true);
    config.queues = QUEUES as u16;
    let device = Box::new(Block::new(config).unwrap());
    let mut guest = Guest::ready(device, VERSION_1 | 1 << VIRTIO_BLK_F_MQ);
    let (head, into, status) =
        (guest.data(&header(VIRTIO_BLK_T_IN, 0)), guest.room(LEN, true), guest.room(1, true));
    for queue in 0..QUEUES {
        let head = guest.offer(queue, &[head, into, status]);
        (1..QUEUE_SIZE).for_each(|_| guest.offer_head(queue, head));
        guest.kick(queue);
    }
    let answered = |guest: &mut Guest| -> Vec<usize> {
        (0..QUEUES).map(|queue| std::iter::from_fn(|| guest.used(queue)).count()).collect()
    };
    let turn = (request::TURN / u64::from(LEN)) as usize;
    // Each round goes to those that have waited longest.
    let mut all = vec![0; QUEUES];
    for round in 1..=QUEUES / ROUND {
        guest.run_once();
        let now = answered(&mut guest);
        assert_eq!(now.iter().sum::<usize>(), ROUND * turn, "round {round}");
        all.iter_mut().zip(now).for_each(|(all, now)| *all += now);
    }
    assert_eq!(all, vec![turn; QUEUES]);
    guest.run();
    assert_eq!(answered(&mut guest), vec![usize::from(QUEUE_SIZE) - turn; QUEUES]);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let before = pattern(1024, 1);
    let under = file(&before);
    let mut guest = read_only(vec![under.try_clone().unwrap()]);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_OUT, 0, &[9; 512], 0).0, IO);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(request(&mut guest, kind, 0, &range(0, 1, 0), 0).0, IO);
    }
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, OK);
    assert_eq!(content(&under), before);
}

pub(super) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn zeroes_and_holes_stay_inside_the_disk() {
    let before = pattern(64 << 10, 3);
    let (mut guest, under) = disk(&before);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(1, 2, 0), 0).0, OK);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(16, 8, 1), 0).0, OK);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_DISCARD, 0, &range(24, 8, 0), 0).0, OK);
    for (kind, bytes, expect) in [
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 1), UNSUPPORTED),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 2), UNSUPPORTED),
        (VIRTIO_BLK_T_DISCARD, range(127, 2, 0), IO),
        (VIRTIO_BLK_T_DISCARD, range(u64::MAX, 1, 0), IO),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, u32::MAX, 0), IO),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 0)[..15].to_vec(), IO),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 0).repeat(2), IO),
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 0).repeat(17), IO),
        (VIRTIO_BLK_T_DISCARD, vec![], IO),
    ] {
        assert_eq!(request(&mut guest, kind, 0, &bytes, 0).0, expect, "{kind} {bytes:?}");
    }
    let after = content(&under);
    assert_eq!(after.len(), before.len());
    for (sector, (new, old)) in after.chunks(512).zip(before.chunks(512)).enumerate() {
        match sector {
            1 | 2 | 16..24 => assert_eq!(new, [0; 512], "sector {sector}"),
            // What a discarded sector reads as is nobody's business.
            24..32 => {}
            _ => assert_eq!(new, old, "sector {sector}"),
        }
    }
}

#[test]
fn rings_wrap_and_saved_disks_go_on() {
    let (mut guest, under) = disk(&[0; 4096]);
    for round in 0..QUEUE_SIZE * 3 {
        let fill = vec![round as u8; 512];
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_OUT, u64::from(round % 8), &fill, 0).0, OK);
    }
    let config = BlockConfig::new("a", vec![under.try_clone().unwrap()], false);
    let mut guest = guest.migrate(Box::new(Block::new(config).unwrap()));
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 7, &[], 512), (OK, vec![47; 512]));
}

fn removable_device(read_only: bool) -> (Block, Tray) {
    let device = Block::new(BlockConfig::removable("a", read_only)).unwrap();
    let tray = device.tray();
    (device, tray)
}

/// A removable drive, its slot from outside, and what of it tells the driver.
fn removable(read_only: bool) -> (Guest, Tray) {
    let (device, tray) = removable_device(read_only);
    let writing = if read_only { 0 } else { DISCARD | ZEROES };
    (Guest::ready(Box::new(device), VERSION_1 | FLUSH | writing), tray)
}

fn insert(guest: &Guest, tray: &Tray, files: Vec<File>) -> Result<(), BlockConfigError> {
    tray.insert(files, &guest.transport.core().signals())
}

fn eject(guest: &Guest, tray: &Tray) {
    tray.eject(&guest.transport.core().signals()).unwrap();
}

#[test]
fn a_drive_without_a_medium_is_one_sector_of_zeroes() {
    for read_only in [true, false] {
        let (mut guest, _tray) = removable(read_only);
        assert_eq!(u64::from_le_bytes(guest.config(0)), 1);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![0; 512]));
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512).0, IO);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 1024).0, IO);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_OUT, 0, &[9; 512], 0).0, IO);
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(request(&mut guest, kind, 0, &range(0, 1, 0), 0).0, IO);
        }
        // Nobody can say that what was written to a medium is durable when it is out.
        let flushed = if read_only { OK } else { IO };
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, flushed);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_GET_ID, 0, &[], 1), (OK, b"a".to_vec()));
    }
}

#[test]
fn media_come_and_go_and_the_driver_is_told() {
    let (mut guest, tray) = removable(true);
    let mut generation = guest.generation();
    for (seed, sectors) in [(1, 3), (2, 3), (3, 7), (4, 1)] {
        let whole = pattern(sectors * 512, seed);
        let (first, second) = whole.split_at(512);
        let files = if second.is_empty() { vec![file(first)] } else { vec![file(first), file(second)] };
        insert(&guest, &tray, files).unwrap();
        let mut told = |guest: &mut Guest| {
            assert!(guest.interrupted());
            assert_eq!(guest.acknowledge() & 2, 2);
            let before = std::mem::replace(&mut generation, guest.generation());
            assert_ne!(generation, before);
        };
        told(&mut guest);
        assert_eq!(u64::from_le_bytes(guest.config(0)), sectors as u64);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], whole.len() as u32), (OK, whole));
        guest.acknowledge();
        guest.interrupted();
        eject(&guest, &tray);
        told(&mut guest);
        assert_eq!(u64::from_le_bytes(guest.config(0)), 1);
        assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![0; 512]));
        guest.acknowledge();
        guest.interrupted();
        // An empty drive has nothing to tell.
        eject(&guest, &tray);
        assert!(!guest.interrupted());
    }
    assert!(guest.faults().is_empty());
}

#[test]
fn a_medium_takes_the_place_of_another_or_leaves_it_there() {
    let (mut guest, tray) = removable(true);
    let (one, other) = (pattern(512, 1), pattern(1024, 2));
    insert(&guest, &tray, vec![file(&one)]).unwrap();
    guest.acknowledge();
    guest.interrupted();
    let swap = |guest: &Guest, bytes: &[u8]| tray.swap(vec![file(bytes)], &guest.transport.core().signals());
    assert!(matches!(swap(&guest, &[]), Err(BlockConfigError::Empty(_))));
    assert!(!guest.interrupted());
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, one));
    swap(&guest, &other).unwrap();
    assert_eq!(u64::from_le_bytes(guest.config(0)), 2);
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 1024), (OK, other));
}

#[test]
fn what_was_kicked_before_an_eject_and_is_served_after_it_does_not_reach_the_medium() {
    let (mut guest, tray) = removable(false);
    let (old, new) = (file(&[1; 1024]), file(&[2; 1024]));
    insert(&guest, &tray, vec![old.try_clone().unwrap()]).unwrap();
    let write = |guest: &mut Guest, fill| {
        let (header, data) = (guest.data(&header(VIRTIO_BLK_T_OUT, 1)), guest.data(&[fill; 512]));
        let status = guest.room(1, true);
        guest.offer(0, &[header, data, status]);
        guest.kick(0);
        status
    };
    let status = write(&mut guest, 7);
    eject(&guest, &tray);
    guest.run();
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(status, 1)), (1, vec![IO]));
    let status = write(&mut guest, 8);
    insert(&guest, &tray, vec![new.try_clone().unwrap()]).unwrap();
    guest.run();
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(status, 1)), (1, vec![OK]));
    assert_eq!(content(&old), [1; 1024]);
    assert_eq!(content(&new), [[2; 512], [8; 512]].concat());
}

#[test]
fn an_ejected_file_is_closed() {
    let (mut guest, tray) = removable(false);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [0; 512]).unwrap();
    let is_open = || {
        let table = std::fs::read_dir("/proc/self/fd").unwrap();
        // Tests beside this one open and close.
        table
            .into_iter()
            .flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file == path))
    };
    insert(&guest, &tray, vec![File::options().read(true).write(true).open(&path).unwrap()]).unwrap();
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_OUT, 0, &[5; 512], 0).0, OK);
    assert!(is_open());
    eject(&guest, &tray);
    assert!(!is_open());
}

#[test]
fn media_that_can_not_be_are_refused_and_change_nothing() {
    let (mut guest, tray) = removable(true);
    let (fixed, written) = (file(&[1; 512]), removable(false));
    assert!(matches!(insert(&guest, &tray, vec![]), Err(BlockConfigError::Count { count: 0, .. })));
    let many = (0..241).map(|_| fixed.try_clone().unwrap()).collect();
    assert!(matches!(insert(&guest, &tray, many), Err(BlockConfigError::Count { most: 240, .. })));
    let two = vec![file(&[1; 512]), file(&[1; 512])];
    assert!(matches!(insert(&written.0, &written.1, two), Err(BlockConfigError::Count { most: 1, .. })));
    let torn = vec![file(&[1; 513]), file(&[1; 512])];
    assert!(matches!(insert(&guest, &tray, torn), Err(BlockConfigError::Size { index: 0, .. })));
    for empty in [0, 511] {
        assert!(matches!(
            insert(&guest, &tray, vec![file(&vec![1; empty])]),
            Err(BlockConfigError::Empty(_))
        ));
    }
    let folder = File::open("/").unwrap();
    assert!(matches!(
        insert(&guest, &tray, vec![folder]),
        Err(BlockConfigError::Unfit { source: Unfit::Kind, .. })
    ));
    assert!(!guest.interrupted());
    assert_eq!(u64::from_le_bytes(guest.config(0)), 1);
    insert(&guest, &tray, vec![fixed]).unwrap();
    assert!(matches!(insert(&guest, &tray, vec![file(&[2; 512])]), Err(BlockConfigError::Present(_))));
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 512), (OK, vec![1; 512]));
}

#[test]
fn media_go_in_before_a_driver_is_up_and_while_the_device_is_paused() {
    let (device, tray) = removable_device(true);
    let mut guest = Guest::cold(Box::new(device));
    insert(&guest, &tray, vec![file(&[1; 1024])]).unwrap();
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512), (OK, vec![1; 512]));
    guest.pause();
    eject(&guest, &tray);
    insert(&guest, &tray, vec![file(&[2; 1024])]).unwrap();
    guest.transport.core_mut().resume().unwrap();
    guest.run();
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512), (OK, vec![2; 512]));
    // Another process's drive is empty until somebody puts the medium in.
    let (device, tray) = removable_device(true);
    let mut guest = guest.migrate(Box::new(device));
    insert(&guest, &tray, vec![file(&[3; 1024])]).unwrap();
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 1, &[], 512), (OK, vec![3; 512]));
}

#[test]
fn data_that_is_no_memory_fails_its_request_and_nothing_else() {
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        let (mut guest, _file) = disk(&pattern(4096, 1));
        let (head, room) = (guest.data(&header(kind, 0)), guest.room(512, kind == VIRTIO_BLK_T_IN));
        let status = guest.room(1, true);
        let nowhere = Buffer { address: MEMORY_SIZE - 8, ..room };
        for (data, answer) in [(nowhere, IO), (room, OK)] {
            guest.send(0, &[head, data, status]);
            assert!(guest.used(0).is_some());
            assert_eq!(guest.bytes(status, 1), [answer]);
        }
        // The status is the driver's own.
        guest.send(0, &[head, room, Buffer { address: MEMORY_SIZE, ..status }]);
        assert!(guest.is_broken() && guest.faults()[0].contains("is not guest memory"));
    }
}

#[test]
fn what_the_driver_has_not_accepted_is_not_done() {
    let before = pattern(64 << 10, 3);
    for (accepted, kind) in [(DISCARD, VIRTIO_BLK_T_WRITE_ZEROES), (ZEROES, VIRTIO_BLK_T_DISCARD)] {
        let under = file(&before);
        let config = BlockConfig::new("a", vec![under.try_clone().unwrap()], false);
        let mut guest = Guest::ready(Box::new(Block::new(config).unwrap()), VERSION_1 | accepted);
        assert_eq!(request(&mut guest, kind, 0, &range(0, 8, 0), 0).0, UNSUPPORTED);
        assert_eq!(content(&under), before);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_disk_holds_what_was_written_last(
        writes in proptest::collection::vec((0..60u64, proptest::collection::vec(1..9u32, 1..6), any::<u8>()), 1..30)
    ) {
        let mut model = pattern(64 * 512, 0);
        let (mut guest, under) = disk(&model);
        for (sector, parts, seed) in writes {
            let len = parts.iter().sum::<u32>() as usize * 128;
            let data = pattern(len, seed);
            let start = sector as usize * 512;
            // Buffers of any size: sectors may be spread over several.
            let mut buffers = vec![guest.data(&header(VIRTIO_BLK_T_OUT, sector))];
            let mut rest = &data[..];
            for part in parts {
                let (now, later) = rest.split_at(part as usize * 128);
                buffers.push(guest.data(now));
                rest = later;
            }
            let status = guest.room(1, true);
            buffers.push(status);
            guest.send(0, &buffers);
            guest.used(0).unwrap();
            let fits = len.is_multiple_of(512) && start + len <= model.len();
            prop_assert_eq!(guest.bytes(status, 1)[0], if fits { OK } else { IO });
            if fits {
                model[start..start + len].copy_from_slice(&data);
            }
        }
        prop_assert_eq!(&content(&under), &model);
        let (status, read) = request(&mut guest, VIRTIO_BLK_T_IN, 0, &[], 64 * 512);
        prop_assert_eq!((status, read), (OK, model));
    }

    #[test]
    fn no_ring_is_too_strange(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(QUEUE_SIZE)),
        heads in proptest::collection::vec(0..QUEUE_SIZE + 2, 1..20),
        requests in proptest::collection::vec((0..16u32, any::<u8>()), 1..16),
    ) {
        let (mut guest, under) = disk(&[0; 8192]);
        for (index, (address, len, flags, next)) in table.iter().enumerate() {
            guest.descriptor(guest.rings[0].table(), index as u16, *address, *len, *flags, *next);
        }
        for ((kind, sector), (address, ..)) in requests.iter().zip(&table) {
            let _ = vm_memory::Bytes::write(
                &guest.memory, &header(*kind, (*sector).into()), vm_memory::GuestAddress(*address),
            );
        }
        for head in heads {
            guest.offer_head(0, head);
            guest.kick(0);
            guest.run();
        }
        prop_assert_eq!(guest.is_broken(), !guest.faults().is_empty());
        prop_assert_eq!(content(&under).len(), 8192);
    }
}

/// A disk on which each request writes a sector of its own, through its queues in turn.
struct Written<const QUEUES: u16> {
    file: File,
    rings: bool,
    requests: std::collections::HashMap<u32, Buffer>,
}

impl<const QUEUES: u16> Written<QUEUES> {
    fn new(rings: bool) -> Self {
        Self { file: file(&[0; 1024 * 512]), rings, requests: Default::default() }
    }
}

impl<const QUEUES: u16> Subject for Written<QUEUES> {
    const FEATURES: u64 = FLUSH | if QUEUES > 1 { 1 << VIRTIO_BLK_F_MQ } else { 0 };

    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        let mut config = BlockConfig::new("suite", vec![self.file.try_clone().unwrap()], false);
        config.queues = QUEUES;
        if self.rings {
            let ring = |_| Ring::new(QUEUE_SIZE, &self.file).expect("this machine has io_uring");
            config.rings = (0..QUEUES).map(ring).collect();
        }
        Box::new(Block::new(config).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        let head = guest.data(&header(VIRTIO_BLK_T_OUT, (number % 1024).into()));
        let data = guest.data(&pattern(512, number as u8));
        let status = Buffer { writable: true, ..guest.data(&[0xff]) };
        self.requests.insert(number, status);
        let queue = number as usize % usize::from(QUEUES);
        (queue, guest.offer(queue, &[head, data, status]))
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        let status = self.requests.remove(&number).unwrap();
        assert_eq!((written, guest.bytes(status, 1)[0]), (1, OK));
        let at = number as usize % 1024 * 512;
        assert_eq!(content(&self.file)[at..at + 512], pattern(512, number as u8));
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Written::<1>::new(false));
}

#[test]
fn pauses_and_saved_states_behind_a_ring() {
    Guest::suite(|| Written::<1>::new(true));
}

#[test]
fn pauses_and_saved_states_of_several_queues() {
    Guest::suite(|| Written::<3>::new(false));
}

#[test]
fn pauses_and_saved_states_of_several_queues_behind_rings() {
    Guest::suite(|| Written::<3>::new(true));
}
