//! Workers that come and go, and one that is always busy.

use super::*;
use crate::virtio::testing::memory;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

/// Tells how often the loop has taken it in, and is called again and again.
struct Present(Arc<EventFd>, Arc<Mutex<Vec<&'static str>>>, &'static str);

impl Worker for Present {
    fn sources(&self) -> Vec<Source> {
        vec![Source::readable(&*self.0, 0)]
    }
    fn enter(&mut self) -> Result<(), RingError> {
        self.1.lock().unwrap().push(self.2);
        Ok(())
    }
    fn process(&mut self, _token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        self.1.lock().unwrap().push("called");
        Ok(())
    }
    fn save(&self) -> DeviceState {
        DeviceState::default()
    }
}

struct Silent;

impl Interrupt for Silent {
    fn queue(&self, _index: u16) {}
    fn config(&self) {}
    fn needs_reset(&self) {}
}

/// Works all the time, a moment at a time, and gives its seat up only in between; counts the moments.
struct Busy(Arc<EventFd>, Arc<AtomicUsize>);

impl Worker for Busy {
    fn sources(&self) -> Vec<Source> {
        vec![Source::readable(&*self.0, 0)]
    }
    fn process(&mut self, _token: u32, _interest: &mut Interest<'_, '_>) -> Result<(), RingError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(3));
        Ok(())
    }
    fn save(&self) -> DeviceState {
        DeviceState::default()
    }
}

#[test]
fn a_worker_that_is_always_busy_in_its_own_thread_is_stood_still_after_one_batch() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let mut manager = crate::event_loop::manager().unwrap();
            sender.send(manager.remote_endpoint()).unwrap();
            while !over.load(Ordering::SeqCst) {
                manager.run_with_timeout(10).unwrap();
            }
        }
    });
    let event = Arc::new(EventFd::new(0).unwrap());
    event.write(1).unwrap();
    let mut slot = WorkerSlot::new();
    let context = ActivateContext {
        memory: memory(),
        queues: Vec::new(),
        interrupt: Arc::new(Silent),
        features: 0,
        workers: receiver.recv().unwrap(),
        faults: FaultSink::new(|device, what| panic!("{device}: {what}")),
    };
    let batches = Arc::new(AtomicUsize::new(0));
    slot.start("test", context, |_| Ok(Busy(event, Arc::clone(&batches)))).unwrap();
    let rounds = (0..51).map(|_| {
        while batches.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        batches.store(0, Ordering::SeqCst);
        assert!(slot.still(Patience::Until(Instant::now() + Duration::from_secs(20))).is_some());
        batches.load(Ordering::SeqCst)
    });
    let mut rounds: Vec<_> = rounds.collect();
    rounds.sort_unstable();
    // One that was under way, and one that had passed the queue before it was closed; by luck it would be hundreds. On a busy machine more
    // of them begin before this thread has asked, now and then.
    assert!(rounds[25] <= 3, "{rounds:?}");
    over.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}

#[test]
fn a_device_that_is_started_again_and_again_is_one_message_to_the_loop() {
    let mut manager = crate::event_loop::manager().unwrap();
    let (mut slot, said, event) = (WorkerSlot::new(), Arc::default(), Arc::new(EventFd::new(0).unwrap()));
    event.write(1).unwrap();
    let workers = manager.remote_endpoint();
    let start = |slot: &mut WorkerSlot<Present>, name| {
        let context = ActivateContext {
            memory: memory(),
            queues: Vec::new(),
            interrupt: Arc::new(Silent),
            features: 0,
            workers: workers.clone(),
            faults: FaultSink::new(|device, what| panic!("{device}: {what}")),
        };
        let make = |_| Ok(Present(Arc::clone(&event), Arc::clone(&said), name));
        slot.start("test", context, make).unwrap();
    };
    for _ in 0..20 {
        start(&mut slot, "early");
        assert!(slot.stop().is_some());
    }
    start(&mut slot, "late");
    // The slot's, and the message's.
    assert_eq!(Arc::strong_count(&slot.shared), 2);
    manager.run_with_timeout(0).unwrap();
    assert_eq!(*said.lock().unwrap(), ["late"]);
    manager.run_with_timeout(0).unwrap();
    assert_eq!(*said.lock().unwrap(), ["late", "called"]);
    // Another in its place, of which the loop hears with what it has of the first.
    assert!(slot.stop().is_some());
    start(&mut slot, "other");
    while said.lock().unwrap().len() < 4 {
        manager.run_with_timeout(0).unwrap();
    }
    assert_eq!(said.lock().unwrap()[2..], ["other", "called"]);
    assert!(slot.stop().is_some());
    while manager.run_with_timeout(0).unwrap() > 0 {}
    assert_eq!((Arc::strong_count(&slot.shared), said.lock().unwrap().len()), (1, 4));
}
