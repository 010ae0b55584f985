//! Front ends with a back end of the tests' own, over each transport.

use super::Guest;
use crate::api::config::HugePages;
use crate::memory::{Recipe, allocate};
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{EVENT_IDX, GuestOver, INDIRECT, MEMORY_SIZE, Registers, VERSION_1};
use crate::virtio::vhost_user::test_back_end::{FEATURES, Manners, PROTOCOL, Sin};
use crate::virtio::vhost_user::{BackEndError, BlockSettings, FsSettings, LossSink, VhostUser, prepare};
use crate::virtio::{GuestMemory, Transport, VirtioDevice};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

const SECTORS: u32 = 8;

fn shared() -> GuestMemory {
    allocate(MEMORY_SIZE, &Recipe::shared(MEMORY_SIZE, HugePages::None).unwrap()).unwrap()
}

type Losses = Arc<Mutex<Vec<String>>>;

fn block(socket: UnixStream, queues: u8) -> Result<(VhostUser, Losses), BackEndError> {
    prepare(&socket).unwrap();
    let losses = Losses::default();
    let heard = Arc::clone(&losses);
    let sink = LossSink::new(move |device, why| heard.lock().unwrap().push(format!("{device}: {why}")));
    let settings = BlockSettings { id: "d".into(), flush: true, queues };
    VhostUser::block(&settings, socket, sink).map(|device| (device, losses))
}

fn fs(manners: &Manners, queues: u8) -> Result<VhostUser, BackEndError> {
    let socket = manners.start();
    prepare(&socket).unwrap();
    let settings = FsSettings { tag: "host".into(), queues };
    VhostUser::fs(&settings, socket, LossSink::new(|device, why| panic!("{device}: {why}")))
}

fn header<R: Registers>(guest: &mut GuestOver<R>, kind: u32, sector: u64) -> crate::virtio::testing::Buffer {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    guest.data(&header)
}

/// A disk of which every request writes a sector.
struct Writes {
    manners: Manners,
    statuses: Vec<crate::virtio::testing::Buffer>,
}

impl Subject for Writes {
    fn memory() -> GuestMemory {
        shared()
    }

    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(block(self.manners.start(), 1).unwrap().0)
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        let header = header(guest, 1, (number % SECTORS).into());
        let data = guest.data(&[number as u8; 512]);
        let status = guest.data(&[0xaa]);
        let status = crate::virtio::testing::Buffer { writable: true, ..status };
        self.statuses.push(status);
        (0, guest.offer(0, &[header, data, status]))
    }

    fn answered<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32, written: u32) {
        assert_eq!((written, guest.bytes(self.statuses[number as usize], 1)), (1, vec![0]));
    }

    fn finish(&mut self, count: u32) {
        let disk = self.manners.disk.lock().unwrap();
        for number in count.saturating_sub(SECTORS)..count {
            assert_eq!(disk[(number % SECTORS) as usize * 512], number as u8);
        }
    }
}

#[test]
fn it_stands_still_and_goes_on_elsewhere() {
    Guest::suite(|| Writes { manners: Manners::good(SECTORS as usize), statuses: Vec::new() });
}

#[test]
fn a_driver_reads_and_is_interrupted() {
    let manners = Manners::good(8);
    manners.disk.lock().unwrap()[512..1024].fill(7);
    let (device, losses) = block(manners.start(), 2).unwrap();
    let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
    // The back end's capacity, this front end's queues.
    assert_eq!(guest.config::<8>(0), 8u64.to_le_bytes());
    assert_eq!(guest.config::<2>(34), [2, 0]);
    for queue in [1, 0] {
        let header = header(&mut guest, 0, 1);
        let (data, status) = (guest.room(512, true), guest.room(1, true));
        guest.send(queue, &[header, data, status]);
        guest.run_until(|guest| guest.interrupted());
        assert!(guest.used(queue).is_some());
        assert_eq!(guest.bytes(data, 512), [7; 512]);
    }
    assert!(losses.lock().unwrap().is_empty());
    assert_eq!(guest.faults(), [""; 0]);
}

#[test]
fn only_what_the_back_end_knows_is_offered() {
    let offered = |features: u64| {
        let manners = Manners { features, ..Manners::good(8) };
        let mut guest = Guest::cold(Box::new(block(manners.start(), 1).unwrap().0));
        guest.negotiate(VERSION_1 | EVENT_IDX | INDIRECT | 1 << 9);
        guest.status() & 8 != 0
    };
    assert!(offered(FEATURES | 1 << 9));
    assert!(!offered(FEATURES));
    assert!(!offered(FEATURES & !EVENT_IDX | 1 << 9));
    assert!(!offered(FEATURES & !INDIRECT | 1 << 9));
}

#[test]
fn a_back_end_that_goes_takes_its_device_along_and_nothing_else() {
    let (front, back) = UnixStream::pair().unwrap();
    let hand = back.try_clone().unwrap();
    let manners = Manners::good(8);
    std::thread::spawn(|| crate::virtio::vhost_user::test_back_end::BackEnd::new(back, manners).run());
    let (device, losses) = block(front, 1).unwrap();
    let control = device.control();
    let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
    hand.shutdown(std::net::Shutdown::Both).unwrap();
    guest.run_until(Guest::is_broken);
    assert_eq!(*losses.lock().unwrap(), ["block d: its back end is gone"]);
    // A driver that begins anew finds it broken again, and nobody is told twice.
    guest.set_status(0);
    assert!(!guest.is_broken());
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    assert!(guest.is_broken());
    assert!(control.reread(&guest.transport.core().signals()).is_err());
    guest.pause();
    assert!(guest.transport.save().is_err());
    guest.transport.core_mut().resume().unwrap();
    assert_eq!(losses.lock().unwrap().len(), 1);
    assert_eq!(guest.faults(), [""; 0]);
}

#[test]
fn a_back_end_that_answers_wrongly_is_none() {
    for (request, sin, why) in [
        (1, Sin::Die, "gone"),
        (1, Sin::Confuse, "answered request 2"),
        (1, Sin::Boast, "4294967295 bytes"),
        (15, Sin::Chatter, "answered request 15"),
        (17, Sin::Confuse, "answered request 18"),
        (24, Sin::Stray, "something else"),
        (24, Sin::Boast, "4294967295 bytes"),
        (3, Sin::Refuse, "refused SetOwner"),
    ] {
        let error = crate::chain(&block(Manners::bad(request, sin).start(), 1).map(drop).unwrap_err());
        assert!(error.contains(why), "{request} {sin:?}: {error}");
    }
    let few = Manners { queues: 1, ..Manners::good(8) };
    assert!(block(few.start(), 2).map(drop).unwrap_err().to_string().contains("serves 1"));
    assert!(fs(&few, 1).map(drop).unwrap_err().to_string().contains("serves 1"));
}

#[test]
fn a_back_end_that_fails_later_is_lost() {
    // While it is set up: what it sends is noticed, or that it has gone.
    for (request, sin, why) in [
        (5, Sin::Refuse, "refused SetMemTable"),
        (9, Sin::Die, "gone"),
        (
            18,
            Sin::Chatter,
            "d: its back end broke the vhost-user protocol: it sent something that nobody asked for",
        ),
        (12, Sin::Confuse, "answered request 13"),
    ] {
        let (device, losses) = block(Manners::bad(request, sin).start(), 1).unwrap();
        let mut guest = Guest::with_memory(shared(), Box::new(device));
        guest.negotiate(VERSION_1);
        guest.set_up_rings();
        guest.set_status(15);
        guest.run_until(Guest::is_broken);
        let losses = losses.lock().unwrap();
        assert!(losses.len() == 1 && losses[0].contains(why), "{request} {sin:?}: {losses:?}");
    }
    // At a reset and at a pause.
    for (sin, why) in
        [(Sin::Die, "gone"), (Sin::Stray, "something else"), (Sin::Confuse, "answered request 12")]
    {
        for pause in [false, true] {
            let (device, losses) = block(Manners::bad(11, sin).start(), 1).unwrap();
            let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
            match pause {
                true => guest.pause(),
                false => guest.set_status(0),
            }
            assert_eq!(guest.is_broken(), pause);
            let losses = losses.lock().unwrap();
            assert!(losses.len() == 1 && losses[0].contains(why), "{sin:?}: {losses:?}");
        }
    }
}

#[test]
fn events_that_wait_are_not_waited_for() {
    // Calls, then kicks.
    for request in [13, 12] {
        let (device, losses) = block(Manners::bad(request, Sin::Wait).start(), 1).unwrap();
        let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
        // Empty, and then full.
        guest.set_status(0);
        guest.negotiate(VERSION_1);
        guest.set_up_rings();
        guest.set_status(15);
        guest.run();
        guest.pause();
        let _ = guest.transport.core().queue_events()[0].write(u64::MAX - 1);
        guest.transport.core_mut().notify(0);
        guest.transport.core_mut().resume().unwrap();
        guest.run();
        guest.set_status(0);
        assert!(losses.lock().unwrap().is_empty());
    }
}

#[test]
fn a_driver_and_a_back_end_that_owes_answers_pile_nothing_up() {
    let (device, losses) = block(Manners::bad(2, Sin::Mute).start(), 1).unwrap();
    let mut guest = Guest::with_memory(shared(), Box::new(device));
    for _ in 0..5000 {
        guest.negotiate(VERSION_1);
        // Without a ring there is nothing to be taken back, and so no answer to be waited for.
        guest.set_status(15);
        guest.run();
        guest.set_status(0);
    }
    let losses = losses.lock().unwrap();
    assert!(losses.len() == 1 && losses[0].contains("owes 4096 answers"), "{losses:?}");
}

#[test]
fn every_call_of_a_back_end_interrupts_the_driver() {
    let (device, _) = block(Manners::good(8).start(), 1).unwrap();
    let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
    for _ in 0..3 {
        let header = header(&mut guest, 0, 1);
        let (data, status) = (guest.room(512, true), guest.room(1, true));
        guest.send(0, &[header, data, status]);
        guest.run_until(|guest| guest.interrupted());
        assert!(guest.used(0).is_some());
    }
}

#[test]
fn a_disk_that_has_grown_is_told_of() {
    let manners = Manners::good(8);
    let (device, _) = block(manners.start(), 1).unwrap();
    let control = device.control();
    let mut guest = Guest::ready_with(shared(), Box::new(device), VERSION_1);
    let before = guest.generation();
    manners.disk.lock().unwrap().resize(16 * 512, 0);
    control.reread(&guest.transport.core().signals()).unwrap();
    assert_eq!(guest.config::<8>(0), 16u64.to_le_bytes());
    assert_ne!(guest.generation(), before);
    assert_eq!(guest.acknowledge() & 2, 2);
}

#[test]
fn memory_that_is_in_no_file_can_not_be_shared() {
    let (device, losses) = block(Manners::good(8).start(), 1).unwrap();
    let mut guest = Guest::cold(Box::new(device));
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    guest.run();
    assert!(guest.is_broken());
    assert!(losses.lock().unwrap()[0].contains("in no file"));
}

#[test]
fn a_file_system_has_a_tag_and_no_state_to_be_saved() {
    // Without a configuration space of its own.
    let manners = Manners { protocol: PROTOCOL & !(1 << 9), ..Manners::good(0) };
    let mut guest = Guest::ready_with(shared(), Box::new(fs(&manners, 2).unwrap()), VERSION_1);
    assert_eq!(guest.transport.core().device().queue_sizes(), [1024; 3]);
    assert_eq!(guest.config::<6>(0), *b"host\0\0");
    assert_eq!(guest.config::<4>(36), [2, 0, 0, 0]);
    guest.pause();
    let error = guest.transport.save().map(drop).unwrap_err().to_string();
    assert!(error.contains("can't be saved"), "{error}");
}
