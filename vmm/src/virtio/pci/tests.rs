use super::*;
use crate::pci::Message;
use crate::pci::root::Root;
use crate::virtio::Interrupt;
use crate::virtio::rng::Rng;
use crate::virtio::testing::{BAR, EVENT_IDX, INDIRECT, MEMORY_SIZE, Pci, PciGuest, Registers, VERSION_1};
use crate::virtio::testing::{capability, read};
use proptest::prelude::*;

fn rng() -> Box<dyn VirtioDevice> {
    Box::new(Rng::new(None).unwrap())
}

fn config<const N: usize>(guest: &mut PciGuest, register: u16) -> [u8; N] {
    let mut data = [0xff; N];
    guest.transport.read_config(register, &mut data);
    data
}

#[test]
fn a_driver_finds_a_modern_device_4_1_2() {
    let mut guest = PciGuest::cold(rng());
    assert_eq!(config(&mut guest, 0), [0xf4, 0x1a, 0x44, 0x10]);
    assert_eq!(config(&mut guest, 8), [1, 0, 0xff, 0]);
    assert_eq!(config(&mut guest, 0x2c), [0xf4, 0x1a, 0x40, 0]);
    // MSI-X and no pin.
    assert_eq!(config(&mut guest, 0x3d), [0]);
}

#[test]
fn capabilities_say_where_structures_are_4_1_4() {
    let mut guest = PciGuest::cold(rng());
    for (kind, offset, len, size) in [
        (1u8, 0u32, 60u32, 16u8),
        (3, 0x1000, 1, 16),
        (4, 0x2000, 0x1000, 16),
        (2, 0x3000, 4, 20),
        (5, 0, 0, 20),
    ] {
        let at = capability(&mut guest.transport, 9, kind);
        assert_eq!(config::<3>(&mut guest, at + 2), [size, kind, 0]);
        assert_eq!(config(&mut guest, at + 8), offset.to_le_bytes());
        assert_eq!(config(&mut guest, at + 12), len.to_le_bytes());
        assert_eq!(at % 4, 0);
    }
    let notify = capability(&mut guest.transport, 9, 2);
    assert_eq!(config(&mut guest, notify + 16), 4u32.to_le_bytes());
    let msix = capability(&mut guest.transport, 0x11, 0);
    // Two messages: the configuration's and the queue's.
    assert_eq!(config(&mut guest, msix + 2), [1, 0x80]);
    assert_eq!(config(&mut guest, msix + 4), 0x4000u32.to_le_bytes());
    assert_eq!(config(&mut guest, msix + 8), 0x6000u32.to_le_bytes());
}

#[test]
fn fields_are_reached_by_their_own_width_4_1_3_1() {
    let mut guest = PciGuest::cold(rng());
    assert_eq!(read(&mut guest.transport, 18), [1, 0]);
    // Status and generation as one word is no field.
    assert_eq!(read(&mut guest.transport, 20), [0, 0]);
    guest.transport.write(20, &[1, 0, 0, 0]);
    assert_eq!(guest.status(), 0);
    guest.negotiate(VERSION_1);
    assert_eq!(guest.status(), 11);
    // Addresses by halves or as a whole.
    guest.transport.write(32, &0x11_2233_4000u64.to_le_bytes());
    assert_eq!(read(&mut guest.transport, 36), 0x11u32.to_le_bytes());
    guest.transport.write(36, &0x99u32.to_le_bytes());
    assert_eq!(read(&mut guest.transport, 32), 0x99_2233_4000u64.to_le_bytes());
    assert_eq!(read(&mut guest.transport, 33), [0; 4]);
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_4_1_4_3_1() {
    let mut guest = PciGuest::cold(rng());
    assert_eq!([0, 1, 0xffff].map(|queue| Pci::queue_size(&mut guest.transport, queue)), [16, 0, 0]);
    assert_eq!(read(&mut guest.transport, 26), [0xff, 0xff]);
}

#[test]
fn messages_that_do_not_exist_are_not_mapped_4_1_5_1_2_2() {
    let mut guest = PciGuest::cold(rng());
    for (at, vector, expected) in
        [(16, 1u16, 1u16), (16, 2, 0xffff), (16, 0, 0), (26, 1, 1), (26, 0x8000, 0xffff), (26, 0, 0)]
    {
        guest.transport.write(at, &vector.to_le_bytes());
        assert_eq!(read(&mut guest.transport, at), expected.to_le_bytes(), "{vector}");
    }
    guest.set_status(0);
    assert_eq!(read(&mut guest.transport, 16), [0xff; 2]);
    assert_eq!(read(&mut guest.transport, 26), [0xff; 2]);
}

#[test]
fn each_queue_and_the_configuration_have_messages_of_their_own() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    let buffer = guest.room(8, true);
    guest.send(0, &[buffer]);
    let message = |data| Message { address: 0xfee0_0000, data };
    assert_eq!(guest.registers.0.sent(), [message(1)]);
    guest.transport.core().signals().config();
    assert_eq!(guest.registers.0.sent(), [message(0)]);
    assert_eq!((guest.acknowledge(), guest.acknowledge()), (3, 0), "reading clears (4.1.4.5)");
    guest.transport.write(16, &0xffffu16.to_le_bytes());
    guest.transport.core().signals().config();
    assert_eq!(guest.registers.0.sent(), []);
}

/// Signals the queue; what was sent then.
fn signal(guest: &mut PciGuest) -> usize {
    guest.transport.core().signals().queue(0);
    guest.registers.0.sent().len()
}

#[test]
fn masked_messages_wait_pci_6_8_2() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    let at = capability(&mut guest.transport, 0x11, 0) + 2;
    let control = |guest: &mut PciGuest, value: u16| {
        guest.transport.write_config(at, &value.to_le_bytes());
        guest.registers.0.sent().len()
    };
    let vector = |guest: &mut PciGuest, value: u32| {
        guest.transport.write(0x401c, &value.to_le_bytes());
        guest.registers.0.sent().len()
    };
    let pending = |guest: &mut PciGuest| read::<8>(&mut guest.transport, 0x6000);
    assert_eq!(signal(&mut guest), 1);
    // One alone, twice signalled, is sent once.
    assert_eq!(vector(&mut guest, 1), 0);
    assert_eq!((signal(&mut guest), signal(&mut guest)), (0, 0));
    assert_eq!(pending(&mut guest), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(vector(&mut guest, 0), 1);
    assert_eq!(pending(&mut guest), [0; 8]);
    // All of them.
    assert_eq!(control(&mut guest, 0xc000), 0);
    assert_eq!(signal(&mut guest), 0);
    assert_eq!(control(&mut guest, 0x8000), 1);
    // Off: nothing is sent and nothing waits.
    assert_eq!(control(&mut guest, 0), 0);
    assert_eq!(signal(&mut guest), 0);
    assert_eq!(control(&mut guest, 0x8000), 0);
    assert_eq!(signal(&mut guest), 1);
}

#[test]
fn a_message_can_change_while_it_is_not_masked() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    guest.transport.write(0x4018, &77u32.to_le_bytes());
    guest.transport.core().signals().queue(0);
    assert_eq!(guest.registers.0.sent()[0].data, 77);
    // The table takes words and double words, aligned.
    guest.transport.write(0x4018, &[1, 0]);
    guest.transport.write(0x401a, &[1, 0, 0, 0]);
    assert_eq!(read(&mut guest.transport, 0x4018), 77u32.to_le_bytes());
    assert_eq!(read(&mut guest.transport, 0x4020), [0; 8], "behind its end");
}

#[test]
fn the_bar_is_reached_through_configuration_space_4_1_4_9() {
    let mut guest = PciGuest::cold(rng());
    let window = capability(&mut guest.transport, 9, 5);
    let aim = |guest: &mut PciGuest, bar: u8, offset: u32, len: u32| {
        guest.transport.write_config(window + 4, &[bar]);
        guest.transport.write_config(window + 8, &offset.to_le_bytes());
        guest.transport.write_config(window + 12, &len.to_le_bytes());
    };
    aim(&mut guest, 0, 18, 2);
    assert_eq!(config(&mut guest, window + 16), [1, 0, 0xff, 0xff]);
    aim(&mut guest, 0, 20, 1);
    guest.transport.write_config(window + 16, &[1]);
    assert_eq!(guest.status(), 1);
    for (bar, offset, len) in
        [(1, 20, 1), (0, 17, 2), (0, 20, 3), (0, 0x8000, 1), (0, u32::MAX, 4), (0, 20, 0)]
    {
        aim(&mut guest, bar, offset, len);
        guest.transport.write_config(window + 16, &[0; 4]);
        assert_eq!(guest.status(), 1, "{bar} {offset:#x} {len}");
        config::<4>(&mut guest, window + 16);
    }
}

#[test]
fn kicks_follow_the_bar() {
    let mut guest = PciGuest::cold(rng());
    let bench = Arc::clone(&guest.registers.0);
    let kicks = || bench.kicks.lock().unwrap().clone();
    guest.transport.place(Some(BAR));
    assert_eq!(kicks(), [BAR + 0x3000]);
    guest.transport.place(Some(BAR + 0x8000));
    assert_eq!(kicks(), [BAR + 0xb000]);
    guest.transport.place(None);
    assert!(kicks().is_empty());
    guest.transport.place(Some(BAR));
    drop(guest);
    assert!(kicks().is_empty());
}

#[test]
fn rings_outside_of_memory_end_the_vm() {
    let good = [0x1000, 0x1400, 0x1800];
    for (size, parts) in [
        (16, [MEMORY_SIZE - 16, good[1], good[2]]),
        (16, [0x1001, good[1], good[2]]),
        (16, [good[0], u64::MAX << 32, good[2]]),
        (16, [good[0], good[1], 1 << 32]),
        (17, good),
        (3, good),
        (0, good),
    ] {
        let mut guest = PciGuest::cold(rng());
        guest.negotiate(VERSION_1);
        Pci::set_up(&mut guest.transport, 0, size, parts);
        assert!(!Pci::is_ready(&mut guest.transport, 0));
        assert!(guest.is_broken(), "{size} {parts:x?}");
        assert_eq!(guest.faults().len(), 1);
        guest.set_status(0);
        assert!(!guest.is_broken());
    }
}

#[test]
fn a_reset_device_starts_again() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    let buffer = guest.room(64, true);
    guest.offer(0, &[buffer]);
    guest.kick(0);
    guest.set_status(0);
    assert_eq!(guest.status(), 0, "a reset is over when it reads as 0 (4.1.4.3.1)");
    guest.run();
    assert_eq!(guest.used(0), None);
    guest.negotiate(VERSION_1 | EVENT_IDX | INDIRECT);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    let buffer = guest.room(64, true);
    guest.send(0, &[buffer]);
    assert_eq!(guest.used(0).map(|(_, len)| len), Some(64));
    assert!(guest.interrupted());
}

#[test]
fn a_saved_function_goes_on_elsewhere_with_what_was_pending() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    guest.transport.write(0x401c, &1u32.to_le_bytes());
    guest.transport.write_config(0x3c, &[9]);
    guest.transport.core().signals().queue(0);
    let mut guest = guest.migrate(rng());
    assert_eq!(guest.transport.wanted(), Some(BAR));
    assert_eq!(config(&mut guest, 0x3c), [9]);
    assert_eq!(read(&mut guest.transport, 0x6000), [2, 0, 0, 0]);
    guest.transport.write(0x401c, &0u32.to_le_bytes());
    assert_eq!(guest.registers.0.sent(), [Message { address: 0xfee0_0000, data: 1 }]);
}

#[test]
fn a_function_s_spoilt_state_is_refused() {
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    guest.pause();
    let good = guest.transport.save().unwrap();
    for spoil in [
        |pci: &mut PciState| pci.config_vector = 2,
        |pci: &mut PciState| pci.queue_vectors[0] = 0xfffe,
        |pci: &mut PciState| pci.queue_vectors.clear(),
        |pci: &mut PciState| _ = pci.msix.entries.pop(),
    ] {
        let mut state = good.clone();
        let TransportState::Pci { pci, .. } = &mut state else { unreachable!("it was made by virtio-pci") };
        spoil(pci);
        assert!(PciGuest::cold(rng()).transport.restore(&state).is_err());
    }
    assert!(crate::virtio::testing::Guest::cold(rng()).transport.restore(&good).is_err());
}

#[test]
fn bars_are_where_the_guest_puts_them_and_never_in_each_other_s_way() {
    let root = Root::new(0xe800_0000..0xe810_0000);
    let guests: Vec<_> = (1..4)
        .map(|slot| {
            let PciGuest { mut transport, registers, .. } = PciGuest::cold(rng());
            transport.write_config(4, &[0]);
            root.add(slot, Arc::new(std::sync::Mutex::new(transport)));
            registers
        })
        .collect();
    let write = |slot: u64, register: u64, data: &[u8]| root.write_config(slot << 15 | register, data);
    let move_to = |slot, base: u64| {
        write(slot, 4, &[0]);
        write(slot, 0x10, &(base as u32).to_le_bytes());
        write(slot, 0x14, &((base >> 32) as u32).to_le_bytes());
        write(slot, 4, &[2]);
    };
    let found = |base: u64| {
        let mut queues = [0; 2];
        root.read(base - 0xe800_0000 + 18, &mut queues);
        queues == [1, 0]
    };
    let kicks = |slot: usize| guests[slot - 1].0.kicks.lock().unwrap().clone();
    move_to(1, 0xe800_0000);
    assert!(found(0xe800_0000) && kicks(1) == [0xe800_3000]);
    // In the way of the first; beside it; outside of the window; half outside of it.
    move_to(2, 0xe800_0000);
    assert!(kicks(2).is_empty());
    move_to(2, 0xe800_8000);
    assert!(found(0xe800_8000) && kicks(2) == [0xe800_b000]);
    for nowhere in [0xe810_0000, 0xe7ff_8000, 0, u64::MAX << 15, 1 << 32 | 0xe800_0000] {
        move_to(3, nowhere);
        assert!(kicks(3).is_empty(), "{nowhere:#x}");
    }
    move_to(3, 0xe80f_8000);
    assert!(found(0xe80f_8000));
    write(1, 4, &[0]);
    assert!(!found(0xe800_0000) && kicks(1).is_empty());
    // Gone from its slot, gone from the bus.
    assert!(root.remove(2).is_some() && root.remove(2).is_none());
    assert!(!found(0xe800_8000) && kicks(2).is_empty());
    let mut vendor = [0; 4];
    root.read_config(2 << 15, &mut vendor);
    assert_eq!(vendor, [0xff; 4]);
    assert_eq!(root.free_slots().next(), Some(2));
}

#[test]
fn a_function_that_was_taken_off_the_bus_is_settled_and_starts_no_more() {
    let root = Root::new(0xe800_0000..0xe810_0000);
    let mut guest = PciGuest::ready(rng(), VERSION_1);
    guest.transport.write_config(4, &[2]);
    let control = capability(&mut guest.transport, 0x11, 0) + 2;
    let mut messages = [0; 2];
    guest.transport.read_config(control, &mut messages);
    root.add(1, Arc::new(std::sync::Mutex::new(guest.transport)));
    let function = root.remove(1).unwrap();
    let mut function = function.lock().unwrap();
    let status = |function: &mut dyn crate::pci::Function| {
        let mut status = [0];
        function.read(20, &mut status);
        status[0]
    };
    assert_eq!(status(&mut *function), 0);
    // From a vCPU that had found it before.
    function.write(20, &[1]);
    assert_eq!(status(&mut *function), 0);
    messages[1] ^= 0x80;
    function.write_config(control, &messages);
    let mut now = [0; 2];
    function.read_config(control, &mut now);
    assert_ne!(now, messages, "its messages are off for good");
}

#[test]
fn there_is_one_bus_with_one_function_a_slot() {
    let root = Root::new(0xe800_0000..0xe810_0000);
    let vendor = |offset| {
        let mut data = [0; 4];
        root.read_config(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!(vendor(0), 0x0008_1b36);
    for nothing in [1 << 12, 7 << 12, 1 << 15, 31 << 15, 1 << 20, u64::MAX << 20, 0xfd, 0x100, 0xffc] {
        assert_eq!(vendor(nothing), u32::MAX, "{nothing:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_access_is_too_much(
        accesses in proptest::collection::vec(
            (any::<bool>(), 0..0x8000u64, 0..9usize, any::<u64>(), any::<bool>(), 0..8u8), 1..400
        )
    ) {
        let mut guest = PciGuest::cold(rng());
        for (space, offset, len, value, write, step) in accesses {
            match step {
                0 => guest.negotiate(VERSION_1),
                1 => guest.set_up_rings(),
                2 => guest.set_status(value as u32 & 0xcf),
                _ => {}
            }
            let (offset, len) = if step > 4 { (offset & !3, 4) } else { (offset, len) };
            // Where something is.
            let offset = if step > 5 { offset & 0x703f } else { offset };
            let mut data = value.to_le_bytes();
            let register = (offset % 0x110) as u16;
            match (space, write) {
                (true, true) => guest.transport.write_config(register, &data[..len]),
                (true, false) => guest.transport.read_config(register, &mut data[..len]),
                (false, true) => guest.transport.write(offset, &data[..len]),
                (false, false) => guest.transport.read(offset, &mut data[..len]),
            }
            let wanted = guest.transport.wanted();
            prop_assert!(wanted.is_none_or(|base| base % BAR_SIZE == 0));
            guest.transport.place(wanted.filter(|base| *base < 1 << 40));
            guest.run();
        }
    }
}
