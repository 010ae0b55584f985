use super::chain::{Chain, RingError};
use super::testing::{Guest, INDIRECT_FLAG, MEMORY_SIZE, NEXT, QUEUE_SIZE, WRITE, arbitrary};
use proptest::prelude::*;
use vm_memory::GuestAddress;

const TABLE: u64 = 0x1000;
const INDIRECT_TABLE: u64 = 0x2000;

fn guest() -> Guest {
    Guest::cold(Box::new(super::rng::Rng::new(None).unwrap()))
}

fn load(guest: &Guest, head: u16) -> Result<Chain, RingError> {
    let mut chain = Chain::default();
    chain.load(&guest.memory, GuestAddress(TABLE), QUEUE_SIZE, head).map(|()| chain)
}

#[test]
fn a_chain_is_read_in_order_and_split() {
    let guest = guest();
    guest.descriptor(TABLE, 3, 0x10_0000, 16, NEXT, 7);
    guest.descriptor(TABLE, 7, 0x20_0000, 0, NEXT, 1);
    guest.descriptor(TABLE, 1, 0x30_0000, 8, NEXT | WRITE, 2);
    guest.descriptor(TABLE, 2, 0x40_0000, 1, WRITE, 0);
    let chain = load(&guest, 3).unwrap();
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (3, 16, 9));
    assert_eq!((chain.readable().len(), chain.writable().len()), (1, 2));
    // Copies cross the borders of buffers.
    assert_eq!(chain.write_at(&guest.memory, 7, &[1, 2, 3]), 2);
    assert_eq!(chain.writable_slices(&guest.memory, 7, 2).len(), 2);
}

#[test]
fn indirect_tables_are_followed_once() {
    let guest = guest();
    guest.descriptor(TABLE, 0, INDIRECT_TABLE, 32, INDIRECT_FLAG, 0);
    guest.descriptor(INDIRECT_TABLE, 0, 0x10_0000, 16, NEXT, 1);
    guest.descriptor(INDIRECT_TABLE, 1, 0x20_0000, 4, WRITE, 0);
    let chain = load(&guest, 0).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (16, 4));
    guest.descriptor(INDIRECT_TABLE, 1, INDIRECT_TABLE, 32, INDIRECT_FLAG, 0);
    assert!(matches!(load(&guest, 0), Err(RingError::BadIndirect(_))));
}

#[test]
fn broken_chains_are_errors() {
    let guest = guest();
    let check = |descriptors: &[arbitrary::Descriptor]| {
        for (index, (address, len, flags, next)) in descriptors.iter().enumerate() {
            guest.descriptor(TABLE, index as u16, *address, *len, *flags, *next);
        }
        load(&guest, 0).err()
    };
    assert_eq!(check(&[(0x10_0000, 1, NEXT, 0)]), Some(RingError::TooLong(QUEUE_SIZE)), "a loop");
    assert_eq!(check(&[(0x10_0000, 0, NEXT, 0)]), Some(RingError::TooLong(QUEUE_SIZE)), "an empty loop");
    assert_eq!(
        check(&[(0x10_0000, 1, NEXT, QUEUE_SIZE)]),
        Some(RingError::NoSuchDescriptor { index: QUEUE_SIZE, size: QUEUE_SIZE })
    );
    for (address, len) in [(MEMORY_SIZE, 1), (MEMORY_SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 16)] {
        assert_eq!(check(&[(address, len, 0, 0)]), Some(RingError::OutOfMemory { address, len }));
    }
    assert_eq!(
        check(&[(0x10_0000, 1, NEXT | WRITE, 1), (0x10_0000, 1, 0, 0)]),
        Some(RingError::ReadableAfterWritable)
    );
    for (len, flags) in [(0, 0), (15, 0), (16, NEXT), (0xffff_fff0, 0)] {
        let table = (INDIRECT_TABLE, len, INDIRECT_FLAG | flags, 0);
        assert!(matches!(check(&[table]), Some(RingError::BadIndirect(_))), "{len} {flags}");
    }
    assert!(matches!(check(&[(MEMORY_SIZE, 16, INDIRECT_FLAG, 0)]), Some(RingError::OutOfMemory { .. })));
    assert!(matches!(check(&[(u64::MAX - 15, 32, INDIRECT_FLAG, 0)]), Some(RingError::OutOfMemory { .. })));
}

proptest! {
    #[test]
    fn whatever_a_table_holds_what_comes_out_is_memory(
        table in proptest::collection::vec(arbitrary::descriptor(), usize::from(QUEUE_SIZE)),
        indirect in proptest::collection::vec(arbitrary::descriptor(), 20),
        head: u16,
    ) {
        let guest = guest();
        for (base, descriptors) in [(TABLE, &table), (INDIRECT_TABLE, &indirect)] {
            for (index, (address, len, flags, next)) in descriptors.iter().enumerate() {
                let address = if flags & INDIRECT_FLAG != 0 { INDIRECT_TABLE } else { *address };
                guest.descriptor(base, index as u16, address, *len, *flags, *next);
            }
        }
        for head in [head % QUEUE_SIZE, head] {
            let Ok(chain) = load(&guest, head) else { continue };
            let segments = chain.readable().iter().chain(chain.writable());
            prop_assert!(segments.clone().count() <= usize::from(QUEUE_SIZE));
            let mut total = 0;
            for segment in segments {
                prop_assert!(segment.len > 0);
                prop_assert!(segment.address.0.checked_add(segment.len.into()).unwrap() <= MEMORY_SIZE);
                total += u64::from(segment.len);
            }
            prop_assert_eq!(total, u64::from(chain.readable_len()) + u64::from(chain.writable_len()));
        }
    }
}
