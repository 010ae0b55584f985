use super::*;
use event_manager::{EventManager, SubscriberOps};
use proptest::prelude::*;
use std::io::Seek;

struct World {
    port: SerialPort,
    control: SerialControl,
    line: Arc<EventFd>,
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    output: File,
}

impl World {
    fn new(input: Option<File>) -> Self {
        Self::limited(input, None)
    }

    fn limited(input: Option<File>, limit: Option<TokenBucket>) -> Self {
        let output = tempfile::tempfile().unwrap();
        let line = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let files = SerialFiles { input, output: output.try_clone().unwrap(), shared: false };
        let (port, worker, control) = new(files, limit, Arc::clone(&line)).unwrap();
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        manager.add_subscriber(Box::new(worker));
        Self { port, control, line, manager, output }
    }

    fn run(&mut self) {
        while self.manager.run_with_timeout(0).unwrap() > 0 {}
    }

    fn get(&mut self, offset: u64) -> u8 {
        let mut byte = [0];
        self.port.read(offset, &mut byte);
        byte[0]
    }

    fn written(&mut self) -> String {
        self.run();
        let mut text = String::new();
        self.output.rewind().unwrap();
        self.output.read_to_string(&mut text).unwrap();
        text
    }
}

#[test]
fn what_the_guest_writes_comes_out_in_order() {
    let mut world = World::new(None);
    for byte in b"hello, " {
        world.port.write(0, &[*byte]);
    }
    world.run();
    world.port.write(0, b"w");
    assert_eq!(world.written(), "hello, w");
    // Always ready to take more: bits 5 and 6 of the line status.
    assert_eq!(world.get(5) & 0x60, 0x60);
}

#[test]
fn what_is_beyond_the_limit_is_dropped_and_counted() {
    let bucket = TokenBucket { size: 5, one_time_burst: None, refill_time: 4_000_000_000 };
    let mut world = World::limited(None, Some(bucket));
    for byte in b"hello, world" {
        world.port.write(0, &[*byte]);
    }
    assert_eq!(world.written(), "hello");
    assert_eq!(world.control.dropped(), 7);
    // In another process there is no more left.
    let saved = serde_json::to_string(&world.control.save()).unwrap();
    let mut other = World::limited(None, Some(bucket));
    other.control.restore(serde_json::from_str(&saved).unwrap()).unwrap();
    other.port.write(0, b"!");
    assert_eq!((other.written(), other.control.dropped()), (String::new(), 1));
}

#[test]
fn what_comes_in_raises_an_interrupt_and_waits_where_there_is_no_room() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut world = World::new(Some(std::os::fd::OwnedFd::from(reader).into()));
    world.port.write(1, &[1]);
    let _ = world.line.read();
    let sent: Vec<u8> = (0..200).collect();
    writer.write_all(&sent).unwrap();
    let mut seen = Vec::new();
    world.run();
    assert!(world.line.read().is_ok());
    while world.get(5) & 1 != 0 {
        seen.push(world.get(0));
        world.run();
    }
    assert_eq!(seen, sent);
    // The other end is gone: the port stays as it is.
    drop(writer);
    world.run();
    assert_eq!(world.get(5) & 1, 0);
}

#[test]
fn a_paused_port_lets_nothing_in_and_goes_on_in_another_process() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = std::os::fd::OwnedFd::from(reader);
    let mut world = World::new(Some(reader.try_clone().unwrap().into()));
    world.port.write(1, &[1]);
    world.port.write(7, &[0x5a]);
    writer.write_all(b"ab").unwrap();
    world.run();
    world.control.pause();
    writer.write_all(b"cd").unwrap();
    world.run();
    let saved = world.control.save();
    assert_eq!(saved.input, b"ab");
    let text = serde_json::to_string(&saved).unwrap();
    let mut other = World::new(Some(reader.into()));
    other.control.restore(serde_json::from_str(&text).unwrap()).unwrap();
    // What was pending is raised there, and what waits outside comes in behind what was saved.
    assert!(other.line.read().is_ok());
    other.run();
    let seen: Vec<u8> = (0..4).map(|_| other.get(0)).collect();
    assert_eq!((&seen[..], other.get(7)), (&b"abcd"[..], 0x5a));
    // Here nothing was lost either.
    world.control.resume();
    writer.write_all(b"e").unwrap();
    world.run();
    assert_eq!([world.get(0), world.get(0), world.get(0)], *b"abe");
    let too_much = SavedSerial { input: vec![0; 65], ..saved };
    assert!(world.control.restore(too_much).is_err());
    assert_eq!(world.get(7), 0x5a);
}

proptest! {
    #[test]
    fn no_saved_state_is_too_strange(
        numbers in proptest::collection::vec(any::<u8>(), 9),
        input in proptest::collection::vec(any::<u8>(), 0..80),
        offsets in proptest::collection::vec((0u64..8, any::<bool>()), 0..40),
    ) {
        let mut world = World::new(None);
        let saved = SavedSerial {
            divisor: [numbers[0], numbers[1]],
            interrupt_enable: numbers[2],
            interrupt_identification: numbers[3],
            line_control: numbers[4],
            line_status: numbers[5],
            modem_control: numbers[6],
            modem_status: numbers[7],
            scratch: numbers[8],
            input,
            limiter: None,
        };
        let fits = saved.input.len() <= 64;
        prop_assert_eq!(world.control.restore(saved.clone()).is_ok(), fits);
        if fits {
            prop_assert_eq!(world.control.save(), saved);
        }
        for (offset, write) in offsets {
            if write { world.port.write(offset, &[7]) } else { let _ = world.get(offset); }
        }
        world.run();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_access_is_too_strange(
        accesses in proptest::collection::vec((0u64..9, proptest::collection::vec(any::<u8>(), 1..5), any::<bool>()), 0..300),
    ) {
        let mut world = World::new(Some(File::open("/dev/zero").unwrap()));
        for (offset, mut data, write) in accesses {
            if write { world.port.write(offset, &data) } else { world.port.read(offset, &mut data) }
            world.manager.run_with_timeout(0).unwrap();
        }
        prop_assert!(world.control.save().input.len() <= 64);
    }
}
