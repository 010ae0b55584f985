//! A vhost-user back end that answers what it likes, and a guest that does what it likes meanwhile.

use crate::devices::{Guest, take};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vm_memory::FileOffset;
use vmm::virtio::vhost_user::{BlockSettings, FsSettings, LossSink, VhostUser, prepare};
use vmm::virtio::{GuestMemory, VirtioDevice};

const MEMORY_SIZE: u64 = 256 << 10;
/// Bytes of answers at most: they lie in the socket from the start.
const ANSWERS: usize = 32 << 10;

/// Memory as a back end needs it.
fn memory() -> GuestMemory {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY_SIZE).unwrap();
    vmm::memory::scratch(MEMORY_SIZE as usize, Some(FileOffset::new(file, 0))).unwrap()
}

/// The next message, with what no fuzzer guesses put right, unless the bytes want it otherwise; or bytes as they are.
fn message(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let [what] = take(bytes)?;
    if what >= 0xf0 {
        let len = usize::from(take::<1>(bytes)?[0]).min(bytes.len());
        let (raw, rest) = bytes.split_at(len);
        *bytes = rest;
        return Some(raw.to_vec());
    }
    let flags = if what & 0x20 == 0 { 5 } else { u32::from(take::<1>(bytes)?[0]) };
    let value = take::<8>(bytes)?;
    let request = u32::from(what & 0x1f);
    let payload = match request {
        // GET_CONFIG: offset, size, flags, and the space.
        24 => [&[0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0][..], &value, &[0x11; 52]].concat(),
        _ => value.to_vec(),
    };
    let header = [request, flags, payload.len() as u32].map(u32::to_le_bytes).concat();
    Some([header, payload].concat())
}

/// A disk or a file system whose back end says what the bytes say, and then nothing any more.
pub fn vhost_user(bytes: &[u8]) {
    let mut bytes = bytes;
    let (Some([kind]), Some(len)) = (take(&mut bytes), take(&mut bytes).map(u16::from_le_bytes)) else {
        return;
    };
    let (mut script, play) = bytes.split_at(usize::from(len).min(bytes.len()));
    let (front, mut back) = UnixStream::pair().unwrap();
    let mut left = ANSWERS;
    while let Some(message) = message(&mut script).filter(|message| message.len() <= left) {
        left -= message.len();
        back.write_all(&message).unwrap();
    }
    back.shutdown(Shutdown::Write).unwrap();
    prepare(&front).unwrap();
    // Nobody reads what it is told: a full socket is a silent back end.
    front.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let losses = LossSink::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let queues = 1 + (kind >> 1) % 3;
    let device = if kind & 1 == 0 {
        VhostUser::block(&BlockSettings { id: "fuzzed".into(), flush: kind & 8 == 0, queues }, front, losses)
    } else {
        VhostUser::fs(&FsSettings { tag: "fuzzed".into(), queues }, front, losses)
    };
    let Ok(device) = device else { return };
    let control = device.control();
    device.read_config(u64::from(kind), &mut [0; 16]);
    let guest = Guest::on(memory(), Box::new(device), 0);
    let signals = guest.signals();
    guest.play(play, |what, _| {
        if what % 4 == 0 {
            let _ = control.reread(&signals);
        }
    });
    // Told once, however often it is found out.
    assert!(told.load(Ordering::Relaxed) <= 1);
}
