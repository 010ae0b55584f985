//! Disks behind rings, with several queues, with and without the page cache.

use super::super::*;
use super::Guest;
use super::tests::{OK, content, file, header, pattern};
use crate::virtio::Transport;
use crate::virtio::patience::Patience;
use crate::virtio::testing::{Buffer, EVENT_IDX, INDIRECT, QUEUE_SIZE as ENTRIES, VERSION_1};
use proptest::prelude::*;
use std::fs::File;
use std::io::Write as _;
use virtio_bindings::virtio_blk::*;

const IO: u8 = VIRTIO_BLK_S_IOERR as u8;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const MQ: u64 = 1 << VIRTIO_BLK_F_MQ;

fn config(under: &File, queues: u16, direct: bool) -> BlockConfig {
    let rings = (0..queues).map(|_| Ring::new(QUEUE_SIZE, under).expect("this machine has io_uring"));
    let rings = rings.collect();
    BlockConfig { queues, direct, rings, ..BlockConfig::new("a", vec![under.try_clone().unwrap()], false) }
}

/// Whether files of tests can be read around the page cache.
fn has_direct() -> bool {
    let possible = direct::switch_on(&file(&[0; 4096])).is_ok();
    if !possible {
        eprintln!("skipped: the file system of temporary files has no O_DIRECT");
    }
    possible
}

/// Offers a request without letting the device work; its status and its data.
fn offer(guest: &mut Guest, queue: usize, kind: u32, sector: u64, out: &[u8], read: u32) -> (Buffer, Buffer) {
    let mut buffers = vec![guest.data(&header(kind, sector))];
    if !out.is_empty() {
        buffers.push(guest.data(out));
    }
    let into = guest.room(read, true);
    if read > 0 {
        buffers.push(into);
    }
    let status = Buffer { writable: true, ..guest.data(&[0xff]) };
    buffers.push(status);
    guest.offer(queue, &buffers);
    guest.kick(queue);
    (status, into)
}

fn request(guest: &mut Guest, queue: usize, kind: u32, sector: u64, out: &[u8], read: u32) -> (u8, Vec<u8>) {
    let (status, into) = offer(guest, queue, kind, sector, out, read);
    let mut written = 0;
    guest.run_until(|guest| {
        guest.used(queue).is_some_and(|(_, len)| {
            written = len;
            true
        })
    });
    let code = guest.bytes(status, 1)[0];
    assert_eq!(written, if code == OK { read + 1 } else { 1 });
    (code, guest.bytes(into, read as usize))
}

#[test]
fn the_driver_is_told_of_its_queues() {
    let under = file(&[0; 4096]);
    let mut guest = Guest::ready(Box::new(Block::new(config(&under, 3, false)).unwrap()), VERSION_1 | MQ);
    assert_eq!(u16::from_le_bytes(guest.config(34)), 3);
    let one = Block::new(config(&under, 1, false)).unwrap();
    assert_eq!(one.features() & MQ, 0);
    assert_eq!(
        Block::new(BlockConfig { flush: false, ..config(&under, 1, false) }).unwrap().features() & FLUSH,
        0
    );
}

#[test]
fn a_file_that_shrank_fails_only_what_is_gone() {
    let under = file(&pattern(8192, 5));
    let mut guest = Guest::ready(Box::new(Block::new(config(&under, 1, false)).unwrap()), VERSION_1 | FLUSH);
    under.set_len(5000).unwrap();
    let read = |guest: &mut Guest, sector| request(guest, 0, VIRTIO_BLK_T_IN, sector, &[], 1024);
    assert_eq!(read(&mut guest, 7), (OK, pattern(8192, 5)[3584..4608].to_vec()));
    assert_eq!(read(&mut guest, 9).0, IO);
    assert_eq!(read(&mut guest, 14).0, IO);
    assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_FLUSH, 0, &[], 0).0, OK);
    assert!(guest.faults().is_empty());
}

#[test]
fn a_driver_without_flush_writes_through_and_unsafe_disks_do_not() {
    for flush in [true, false] {
        let under = file(&[0; 4096]);
        let device = Block::new(BlockConfig { flush, ..config(&under, 1, false) }).unwrap();
        let metrics = Arc::clone(device.tray().metrics());
        let mut guest = Guest::ready(Box::new(device), VERSION_1);
        assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_OUT, 2, &[7; 512], 0).0, OK);
        assert_eq!(content(&under)[1024..1536], [7; 512]);
        assert_eq!(metrics.write_bytes.get(), 512);
    }
}

#[test]
fn what_is_under_way_lands_before_a_reset_a_pause_and_an_exchange_end() {
    if !has_direct() {
        return;
    }
    let old = pattern(1 << 20, 1);
    let under = file(&old);
    let device = Block::new(config(&under, 2, true)).unwrap();
    let tray = device.tray();
    let mut guest = Guest::ready(Box::new(device), VERSION_1 | MQ | FLUSH);
    // Buffers at multiples of 4096, so that nothing is done at once.
    let aligned = |guest: &mut Guest| {
        let room = guest.room(8192 + 4096, true);
        Buffer { address: room.address.next_multiple_of(4096), len: 8192, writable: true }
    };
    let start = |guest: &mut Guest| {
        for queue in [0, 1] {
            let (head, data) = (guest.data(&header(VIRTIO_BLK_T_IN, 16)), aligned(guest));
            let status = guest.room(1, true);
            guest.offer(queue, &[head, data, status]);
            guest.kick(queue);
        }
        guest.run_once();
    };
    for _ in 0..20 {
        start(&mut guest);
        guest.pause();
        // Both were begun, and are answered now.
        assert!(guest.used(0).is_some() && guest.used(1).is_some());
        guest.transport.core_mut().resume().unwrap();
        guest.run();
    }
    start(&mut guest);
    let new = file(&pattern(1 << 21, 2));
    tray.replace(vec![new], &guest.transport.core().signals()).unwrap();
    assert!(guest.used(0).is_some() && guest.used(1).is_some());
    assert_eq!(u64::from_le_bytes(guest.config(0)), 4096);
    assert_eq!(
        request(&mut guest, 1, VIRTIO_BLK_T_IN, 4000, &[], 512),
        (OK, pattern(1 << 21, 2)[4000 * 512..4001 * 512].to_vec())
    );
    start(&mut guest);
    // A fast disk may have answered one or both already.
    let _ = (guest.used(0), guest.used(1));
    guest.set_status(0);
    assert_eq!((guest.used(0), guest.used(1)), (None, None), "the driver is past wanting answers");
    guest.negotiate(VERSION_1 | FLUSH);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_OUT, 1, &[9; 512], 0).0, OK);
    assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_IN, 1, &[], 512), (OK, vec![9; 512]));
}

/// A guest whose disk hangs until its pipe is written to, with a request to it under way in each of two queues.
fn hanging() -> (Guest, Tray, std::io::PipeWriter) {
    let device = Block::new(BlockConfig { read_only: true, ..config(&file(&[0; 4096]), 2, false) }).unwrap();
    let tray = device.tray();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut guest = Guest::ready(Box::new(device), VERSION_1 | MQ);
    drop(tray.slot.exchange(Disk::of_pipe(reader, 4096)));
    for queue in [0, 1] {
        offer(&mut guest, queue, VIRTIO_BLK_T_IN, 1, &[], 512);
    }
    guest.run();
    assert_eq!((guest.used(0), guest.used(1)), (None, None));
    (guest, tray, writer)
}

#[test]
fn a_pause_waits_for_a_hanging_disk_without_holding_its_caller_up_and_begins_nothing() {
    let (mut guest, _tray, mut disk) = hanging();
    for _ in 0..3 {
        assert!(!guest.transport.core_mut().pause());
        guest.run();
    }
    assert!(guest.transport.save().is_err());
    offer(&mut guest, 0, VIRTIO_BLK_T_IN, 2, &[], 512);
    // Enough for all three.
    disk.write_all(&[7; 3 * 512]).unwrap();
    guest.pause();
    assert!(guest.used(0).is_some() && guest.used(1).is_some());
    guest.run();
    assert_eq!(guest.used(0), None, "begun in a pause");
    guest.transport.core_mut().resume().unwrap();
    guest.run_until(|guest| guest.used(0).is_some());
}

#[test]
fn a_pause_that_is_given_up_for_a_hanging_disk_leaves_no_request_behind() {
    let (mut guest, _tray, mut disk) = hanging();
    assert!(!guest.transport.core_mut().pause());
    offer(&mut guest, 0, VIRTIO_BLK_T_IN, 2, &[], 512);
    guest.run();
    guest.transport.core_mut().resume().unwrap();
    disk.write_all(&[7; 3 * 512]).unwrap();
    for queue in [0, 1, 0] {
        guest.run_until(|guest| guest.used(queue).is_some());
    }
    assert!(guest.faults().is_empty());
}

#[test]
fn files_of_a_hanging_disk_are_not_exchanged() {
    let (mut guest, tray, mut disk) = hanging();
    let signals = guest.transport.core().signals();
    let exchange = || tray.replace(vec![file(&pattern(8192, 3))], &signals);
    assert!(matches!(exchange(), Err(BlockConfigError::Busy { .. })));
    assert_eq!(u64::from_le_bytes(guest.config(0)), 8);
    disk.write_all(&[7; 2 * 512]).unwrap();
    exchange().unwrap();
    assert!(guest.used(0).is_some() && guest.used(1).is_some(), "what was under way is answered first");
    assert_eq!(
        request(&mut guest, 1, VIRTIO_BLK_T_IN, 15, &[], 512),
        (OK, pattern(8192, 3)[15 * 512..].to_vec())
    );
}

#[test]
fn a_queue_whose_ring_was_full_goes_on_after_an_exchange_or_its_refusal() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let device =
            Block::new(BlockConfig { read_only: true, ..config(&file(&[0; 4096]), 1, false) }).unwrap();
        let tray = device.tray();
        let (reader, mut disk) = std::io::pipe().unwrap();
        let mut guest = Guest::ready(Box::new(device), features);
        drop(tray.slot.exchange(Disk::of_pipe(reader, 4096)));
        for _ in 0..ROOM {
            offer(&mut guest, 0, VIRTIO_BLK_T_IN, 1, &[], 512);
        }
        guest.run();
        assert_eq!(guest.used(0), None);
        let signals = guest.transport.core().signals();
        let exchange = || tray.replace(vec![file(&pattern(8192, 3))], &signals);
        disk.write_all(&[7; 512]).unwrap();
        assert!(matches!(exchange(), Err(BlockConfigError::Busy { .. })));
        disk.write_all(&vec![7; 512 * usize::from(ROOM - 1)]).unwrap();
        exchange().unwrap();
        for _ in 0..ROOM {
            assert!(guest.used(0).is_some());
        }
        guest.run();
        let buffers = [guest.data(&header(VIRTIO_BLK_T_IN, 1)), guest.room(512, true), guest.room(1, true)];
        guest.offer(0, &buffers);
        let wants =
            if features & EVENT_IDX != 0 { guest.wants_kick(0) } else { guest.used_flags(0) & 1 == 0 };
        assert!(wants, "the driver would not kick");
        guest.kick(0);
        guest.run_until(|guest| guest.used(0).is_some());
    }
}

#[test]
fn files_are_exchanged_and_grow() {
    let (one, two) = (file(&pattern(4096, 1)), file(&pattern(1024, 2)));
    let device = Block::new(config(&one, 2, false)).unwrap();
    let tray = device.tray();
    let mut guest = Guest::ready(Box::new(device), VERSION_1 | MQ | FLUSH);
    let signals = guest.transport.core().signals();
    assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_IN, 0, &[], 512).1, pattern(4096, 1)[..512]);
    tray.replace(vec![two.try_clone().unwrap()], &signals).unwrap();
    for queue in [0, 1] {
        assert_eq!(request(&mut guest, queue, VIRTIO_BLK_T_IN, 1, &[], 512).1, pattern(1024, 2)[512..]);
        assert_eq!(request(&mut guest, queue, VIRTIO_BLK_T_IN, 2, &[], 512).0, IO);
    }
    two.set_len(8192).unwrap();
    while guest.interrupted() {}
    tray.measure(&signals).unwrap();
    assert!(guest.interrupted());
    assert_eq!(u64::from_le_bytes(guest.config(0)), 16);
    assert_eq!(request(&mut guest, 1, VIRTIO_BLK_T_OUT, 15, &[3; 512], 0).0, OK);
    assert_eq!(content(&two)[15 * 512..], [3; 512]);
    two.set_len(100).unwrap();
    tray.measure(&signals).unwrap();
    assert!(matches!(tray.replace(vec![], &signals), Err(BlockConfigError::Count { .. })));
    assert!(matches!(tray.eject(&signals), Err(BlockConfigError::NotRemovable(_))));
    assert_eq!(u64::from_le_bytes(guest.config(0)), 0);
    assert_eq!(request(&mut guest, 0, VIRTIO_BLK_T_IN, 0, &[], 512).0, IO);
    assert_eq!(tray.metrics().update_fails.get(), 1);
}

/// Whether a file that is locked by whoever has it open can be locked by somebody else, when the kernel has done with closing it.
fn is_closed(path: &std::path::Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let file = File::open(path).unwrap();
    (0..5000).any(|_| {
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if !locked {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        locked
    })
}

#[test]
fn files_that_were_exchanged_are_closed_whatever_the_driver_does() {
    use rustix::fs::{FlockOperation, flock};
    for (starts, pauses, files) in
        [(false, false, 1), (true, true, 1), (true, false, 1), (false, false, 2), (true, true, 2)]
    {
        let old = tempfile::NamedTempFile::new().unwrap();
        old.as_file().set_len(4096).unwrap();
        let under = old.reopen().unwrap();
        flock(&under, FlockOperation::LockExclusive).unwrap();
        // Of several files only a disk that is not written can be made.
        let device = Block::new(BlockConfig { read_only: true, ..config(&under, 2, false) }).unwrap();
        drop(under);
        let tray = device.tray();
        let mut guest = match starts {
            true => Guest::ready(Box::new(device), VERSION_1 | MQ),
            false => Guest::cold(Box::new(device)),
        };
        if pauses {
            guest.pause();
        }
        let new = (0..files).map(|_| file(&pattern(4096, 1))).collect();
        tray.replace(new, &guest.transport.core().signals()).unwrap();
        assert!(is_closed(old.path()), "{starts} {pauses} {files}");
        if pauses {
            guest.transport.core_mut().resume().unwrap();
        } else if !starts {
            guest.negotiate(VERSION_1 | MQ);
            guest.set_up_rings();
            guest.set_status(15);
        }
        guest.run();
        assert_eq!(
            request(&mut guest, 1, VIRTIO_BLK_T_IN, 1, &[], 512),
            (OK, pattern(4096, 1)[512..1024].to_vec())
        );
    }
}

#[test]
fn a_worker_that_is_made_while_files_are_exchanged_keeps_no_old_one() {
    use rustix::fs::{FlockOperation, flock};
    let old = tempfile::NamedTempFile::new().unwrap();
    old.as_file().set_len(4096).unwrap();
    let under = old.reopen().unwrap();
    flock(&under, FlockOperation::LockExclusive).unwrap();
    let device = Block::new(config(&under, 2, false)).unwrap();
    drop(under);
    let slot = device.tray().slot;
    let mut guest = Guest::cold(Box::new(device));
    // As far as it gets when it finds no worker, and what a worker would have is on its way to one.
    let new = Disk::new("disk", vec![file(&pattern(4096, 1))], false, false).unwrap();
    drop(slot.exchange(new));
    guest.negotiate(VERSION_1 | MQ);
    guest.set_up_rings();
    guest.set_status(15);
    assert!(is_closed(old.path()));
}

#[test]
fn a_ring_takes_nothing_but_reads_writes_and_syncs() {
    use io_uring::opcode;
    let under = file(&[0; 512]);
    let mut ring = Ring::new(8, &under).unwrap();
    let path = c"/dev/null";
    let forbidden = [
        opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), path.as_ptr()).build(),
        opcode::Nop::new().build(),
        opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build(),
        opcode::Read::new(io_uring::types::Fixed(0), std::ptr::null_mut(), 0)
            .build()
            .flags(io_uring::squeue::Flags::IO_DRAIN),
    ];
    for entry in forbidden {
        // SAFETY: the path lives as long as the program, and nothing else is pointed to.
        unsafe { ring.push_entry(&entry.user_data(5)) };
        ring.submit().unwrap();
        assert!(ring.wait(Patience::Endless));
        assert_eq!(ring.completed(), Some((5, -libc::EACCES)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_disk_holds_what_was_written_last_however_it_gets_there(
        steps in proptest::collection::vec((0..3usize, 0..60u64, 1..6u32, any::<u8>(), any::<bool>()), 1..40),
        direct: bool,
        flush: bool,
    ) {
        let direct = direct && has_direct();
        let mut model = pattern(64 * 512, 0);
        let under = file(&model);
        let features = VERSION_1 | EVENT_IDX | INDIRECT | MQ | if flush { FLUSH } else { 0 };
        let mut guest = Guest::ready(Box::new(Block::new(config(&under, 3, direct)).unwrap()), features);
        for (queue, sector, sectors, seed, write) in steps {
            let (start, len) = (sector as usize * 512, sectors as usize * 512);
            let fits = start + len <= model.len();
            if write {
                let data = pattern(len, seed);
                let status = request(&mut guest, queue, VIRTIO_BLK_T_OUT, sector, &data, 0).0;
                prop_assert_eq!(status, if fits { OK } else { IO });
                if fits {
                    model[start..start + len].copy_from_slice(&data);
                }
            } else {
                let (status, read) = request(&mut guest, queue, VIRTIO_BLK_T_IN, sector, &[], len as u32);
                prop_assert_eq!(status, if fits { OK } else { IO });
                if fits {
                    prop_assert_eq!(&read[..], &model[start..start + len]);
                }
            }
        }
        let (status, read) = request(&mut guest, 0, VIRTIO_BLK_T_IN, 0, &[], 64 * 512);
        prop_assert_eq!((status, read), (OK, model));
    }

    #[test]
    fn many_requests_at_a_time_are_all_answered(
        rounds in proptest::collection::vec(proptest::collection::vec((0..2usize, 0..15u64), 1..10), 1..12)
    ) {
        let whole = pattern(16 * 512, 4);
        let under = file(&whole);
        let mut guest = Guest::ready(Box::new(Block::new(config(&under, 2, false)).unwrap()), VERSION_1 | MQ);
        for round in rounds {
            let mut open: Vec<(usize, u64, Buffer, Buffer)> = Vec::new();
            for (queue, sector) in round {
                // Three descriptors each.
                if open.iter().filter(|(used, ..)| *used == queue).count() < usize::from(ENTRIES) / 3 {
                    let (status, into) = offer(&mut guest, queue, VIRTIO_BLK_T_IN, sector, &[], 512);
                    open.push((queue, sector, status, into));
                }
            }
            for (queue, ..) in &open {
                guest.run_until(|guest| guest.used(*queue).is_some());
            }
            for (_, sector, status, into) in open {
                prop_assert_eq!(guest.bytes(status, 1)[0], OK);
                let at = sector as usize * 512;
                prop_assert_eq!(&guest.bytes(into, 512)[..], &whole[at..at + 512]);
            }
        }
    }
}
