use super::*;
use crate::virtio::testing::{Buffer, EVENT_IDX, Guest, INDIRECT, QUEUE_SIZE, VERSION_1, arbitrary};
use proptest::prelude::*;
use std::io::{Read, Seek, Write};
use virtio_bindings::virtio_blk::*;

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = file;
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

fn disk(content: &[u8]) -> (Guest, File) {
    let file = file(content);
    let config = BlockConfig {
        id: "a-rather-long-drive-name".into(),
        files: vec![file.try_clone().unwrap()],
        read_only: false,
    };
    (Guest::ready(Box::new(Block::new(config).unwrap()), VERSION_1 | FLUSH | EVENT_IDX | INDIRECT), file)
}

fn read_only(files: Vec<File>) -> Guest {
    let config = BlockConfig { id: "ro".into(), files, read_only: true };
    Guest::ready(Box::new(Block::new(config).unwrap()), VERSION_1)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut header = vec![0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// Sends a request; its status, and what was read.
fn request(guest: &mut Guest, kind: u32, sector: u64, out: &[u8], read: u32) -> (u8, Vec<u8>) {
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
    let new = |files, read_only| Block::new(BlockConfig { id: "x".into(), files, read_only });
    assert!(matches!(new(vec![], true), Err(BlockConfigError::NoFiles(_))));
    assert!(matches!(new(vec![file(&[0; 513])], true), Err(BlockConfigError::Size { len: 513, .. })));
    assert!(matches!(new(vec![file(&[]), file(&[])], false), Err(BlockConfigError::ConcatWritable(_))));
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

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
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
    let config = BlockConfig { id: "a".into(), files: vec![under.try_clone().unwrap()], read_only: false };
    let mut guest = guest.migrate(Box::new(Block::new(config).unwrap()));
    assert_eq!(request(&mut guest, VIRTIO_BLK_T_IN, 7, &[], 512), (OK, vec![47; 512]));
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
