use super::*;
use crate::bus::BusDevice;
use crate::virtio::FaultSink;
use crate::virtio::block::{Block, BlockConfig};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{EVENT_IDX, Guest, INDIRECT, MEMORY_SIZE, VERSION_1};
use crate::virtio::transport::CoreState;
use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;

fn rng() -> Box<dyn VirtioDevice> {
    Box::new(Rng::new(None).unwrap())
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut guest = Guest::cold(rng());
    assert_eq!(guest.get(reg::VIRTIO_MMIO_MAGIC_VALUE), u32::from_le_bytes(*b"virt"));
    assert_eq!(guest.get(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 16);
    guest.set(reg::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    guest.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_DEVICE_FEATURES) & 1, 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
}

#[test]
fn steps_out_of_order_are_not_taken() {
    let mut guest = Guest::cold(rng());
    for (write, expect) in [(2, 0), (8, 0), (4, 0), (1, 1), (8 | 1, 1), (3, 3), (2, 3), (7, 3)] {
        guest.set(reg::VIRTIO_MMIO_STATUS, write);
        assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), expect, "after {write}");
    }
    // Without VERSION_1 there is no agreement.
    guest.set(reg::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 3);
    guest.set(reg::VIRTIO_MMIO_STATUS, 0x83);
    guest.set(reg::VIRTIO_MMIO_STATUS, 0x8b);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 0x83, "a driver that gave up does not go on");
    guest.set(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let mut guest = Guest::cold(rng());
    guest.negotiate(VERSION_1 | 1 << 40);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 3);
    guest.set(reg::VIRTIO_MMIO_STATUS, 0);
    guest.negotiate(VERSION_1 | EVENT_IDX | INDIRECT);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 11);
}

#[test]
fn rings_outside_of_memory_end_the_vm() {
    for (register, value) in [
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, MEMORY_SIZE as u32 - 16),
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1001),
        (reg::VIRTIO_MMIO_QUEUE_USED_HIGH, 1),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, u32::MAX),
        (reg::VIRTIO_MMIO_QUEUE_NUM, 17),
        (reg::VIRTIO_MMIO_QUEUE_NUM, 3),
        (reg::VIRTIO_MMIO_QUEUE_NUM, 0),
        (reg::VIRTIO_MMIO_QUEUE_NUM, 0x1_0010),
    ] {
        let mut guest = Guest::cold(rng());
        guest.negotiate(VERSION_1);
        guest.set(register, value);
        guest.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_READY), 0);
        assert!(guest.is_broken(), "{register:#x} = {value:#x}");
        assert_eq!(guest.faults().len(), 1);
        // Only a reset mends it.
        guest.set(reg::VIRTIO_MMIO_STATUS, 0);
        assert!(!guest.is_broken());
    }
}

#[test]
fn queues_can_be_set_up_between_features_and_driver_ok_only() {
    let mut guest = Guest::cold(rng());
    guest.set_up_rings();
    assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_READY), 0, "too early");
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_READY), 1);
    guest.set(reg::VIRTIO_MMIO_STATUS, 15);
    guest.set(reg::VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_QUEUE_READY), 1, "too late");
}

#[test]
fn a_reset_device_touches_nothing_and_starts_again() {
    let mut guest = Guest::ready(rng(), VERSION_1);
    let buffer = guest.room(64, true);
    guest.offer(0, &[buffer]);
    guest.kick(0);
    // The kick was not served yet; after the reset it never is.
    guest.set(reg::VIRTIO_MMIO_STATUS, 0);
    guest.run();
    assert_eq!(guest.used(0), None);
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set(reg::VIRTIO_MMIO_STATUS, 15);
    guest.run();
    let buffer = guest.room(64, true);
    guest.send(0, &[buffer]);
    assert_eq!(guest.used(0).map(|(_, len)| len), Some(64));
    assert_eq!(guest.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert!(guest.interrupted());
    guest.set(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(guest.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    assert!(guest.faults().is_empty());
}

#[test]
fn a_paused_device_waits_and_goes_on() {
    let mut guest = Guest::ready(rng(), VERSION_1);
    assert!(guest.transport.save().is_err(), "a running device has no state to save");
    guest.pause();
    guest.pause();
    let buffer = guest.room(32, true);
    guest.send(0, &[buffer]);
    assert_eq!(guest.used(0), None);
    guest.transport.core_mut().resume().unwrap();
    guest.run();
    assert_eq!(guest.used(0).map(|(_, len)| len), Some(32));
}

#[test]
fn a_saved_device_goes_on_elsewhere() {
    let mut guest = Guest::ready(rng(), VERSION_1 | EVENT_IDX);
    for _ in 0..40 {
        let buffer = guest.room(8, true);
        guest.send(0, &[buffer]);
        assert!(guest.used(0).is_some());
    }
    // This one's kick is lost on the way.
    let buffer = guest.room(8, true);
    guest.offer(0, &[buffer]);
    let mut guest = guest.migrate(rng());
    assert_eq!(guest.used(0).map(|(_, len)| len), Some(8));
    assert_eq!(guest.get(reg::VIRTIO_MMIO_STATUS), 15);
}

#[test]
fn a_state_of_another_device_is_refused() {
    let mut guest = Guest::ready(rng(), VERSION_1);
    guest.pause();
    let state = guest.transport.save().unwrap();
    let file = tempfile::tempfile().unwrap();
    let block = Block::new(BlockConfig::new("a", vec![file], false)).unwrap();
    assert!(Guest::cold(Box::new(block)).transport.restore(&state).is_err());
    for spoil in [
        |state: &mut CoreState| state.device.queues[0].desc_table = MEMORY_SIZE,
        |state: &mut CoreState| state.device.queues[0].size = 3,
        |state: &mut CoreState| state.device.queues[0].max_size *= 2,
        |state: &mut CoreState| state.device.queues.clear(),
        |state: &mut CoreState| state.queues.clear(),
        |state: &mut CoreState| state.driver_features |= 1 << 50,
    ] {
        let mut state = state.clone();
        let TransportState::Mmio { core } = &mut state else { unreachable!("it was made by virtio-mmio") };
        spoil(core);
        assert!(Guest::cold(rng()).transport.restore(&state).is_err());
    }
}

#[test]
fn event_idx_holds_interrupts_back() {
    let mut guest = Guest::ready(rng(), VERSION_1 | EVENT_IDX);
    guest.set_used_event(0, 2);
    let mut send = || {
        let buffer = guest.room(8, true);
        guest.send(0, &[buffer]);
        guest.used(0).unwrap();
        guest.interrupted()
    };
    assert_eq!([send(), send(), send(), send()], [false, false, true, false]);
}

#[test]
fn devices_that_share_a_line_raise_it_each() {
    let guest = Guest::cold(rng());
    let line = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let manager = event_manager::EventManager::new().unwrap();
    let new = || {
        let surroundings = Surroundings {
            memory: guest.memory.clone(),
            workers: manager.remote_endpoint(),
            faults: FaultSink::new(|_, _| {}),
            interrupts: Arc::default(),
        };
        MmioTransport::with_line(surroundings, rng(), Arc::clone(&line)).unwrap()
    };
    let (one, two) = (new(), new());
    two.core().signals().change_config(|| ());
    assert_eq!(line.read().unwrap(), 1);
    assert_eq!((one.core().signals().status(), two.core().signals().status()), (0, 2));
    assert_eq!((one.core().signals().generation(), two.core().signals().generation()), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_access_is_too_much(
        accesses in proptest::collection::vec((0..0x120u64, 1..9usize, any::<u64>(), any::<bool>(), 0..8u8), 1..400)
    ) {
        let mut guest = Guest::cold(rng());
        for (offset, len, value, write, step) in accesses {
            // Aligned registers are where something happens; sensible steps make it happen.
            match step {
                0 => guest.negotiate(VERSION_1),
                1 => guest.set_up_rings(),
                2 => guest.set(reg::VIRTIO_MMIO_STATUS, value as u32 & 0xcf),
                _ => {}
            }
            let (offset, len) = if step > 4 { (offset & !3, 4) } else { (offset, len) };
            let value = if step > 5 { value & 0xffff } else { value };
            let mut data = value.to_le_bytes();
            if write {
                guest.transport.write(offset, &data[..len]);
            } else {
                guest.transport.read(offset, &mut data[..len]);
            }
            guest.run();
        }
    }
}
