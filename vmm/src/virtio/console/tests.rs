use super::super::*;
use super::Guest;
use crate::virtio::testing::suite::Subject;
use crate::virtio::testing::{Buffer, EVENT_IDX, GuestOver, Registers, VERSION_1};
use std::io::Write;
use std::io::{Seek, pipe};
use std::os::fd::OwnedFd;

fn guest(input: Option<File>, output: Option<File>) -> Guest {
    Guest::ready(Box::new(Console::new(input, output).unwrap()), VERSION_1 | EVENT_IDX)
}

fn give(guest: &mut Guest, len: u32) -> Buffer {
    let buffer = guest.room(len, true);
    guest.send(0, &[buffer]);
    buffer
}

fn say(guest: &mut Guest, bytes: &[u8]) {
    let buffer = guest.data(bytes);
    guest.send(1, &[buffer]);
    assert!(guest.used(1).is_some(), "the guest never waits for a reader");
}

fn file(end: impl Into<OwnedFd>) -> File {
    File::from(end.into())
}

#[test]
fn output_goes_to_files_and_pipes() {
    let mut written = tempfile::tempfile().unwrap();
    let mut guest = guest(None, Some(written.try_clone().unwrap()));
    say(&mut guest, b"hello, ");
    say(&mut guest, b"world");
    written.rewind().unwrap();
    assert_eq!(std::io::read_to_string(&written).unwrap(), "hello, world");
}

#[test]
fn output_that_nobody_reads_is_bounded_and_its_loss_is_told() {
    let (mut reader, writer) = pipe().unwrap();
    let mut guest = guest(None, Some(file(writer)));
    let line = [b'x'; 4096];
    let buffer = guest.data(&line);
    let lines = 500;
    for _ in 0..lines {
        guest.send(1, &[buffer]);
        assert!(guest.used(1).is_some());
    }
    crate::virtio::io::set_nonblocking(&reader).unwrap();
    let mut output = Vec::new();
    loop {
        let mut bytes = [0; 65536];
        match reader.read(&mut bytes) {
            Ok(len) => output.extend_from_slice(&bytes[..len]),
            Err(_) => break,
        }
        guest.run();
    }
    let kept = output.iter().take_while(|byte| **byte == b'x').count();
    let note = format!("\r\n[{} bytes of console output lost]\r\n", lines * line.len() - kept);
    assert_eq!(String::from_utf8_lossy(&output[kept..]), note);
    assert!(kept >= OUTPUT_BUFFER && kept < lines * line.len());
    // And it goes on.
    say(&mut guest, b"back");
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
}

#[test]
fn a_reader_that_leaves_does_not_hurt() {
    let (reader, writer) = pipe().unwrap();
    let mut guest = guest(None, Some(file(writer)));
    drop(reader);
    say(&mut guest, b"anyone?");
    say(&mut guest, b"no");
    assert!(guest.faults().is_empty());
}

#[test]
fn input_waits_for_buffers_and_arrives_in_order() {
    let (reader, mut writer) = pipe().unwrap();
    let mut guest = guest(Some(file(reader)), None);
    writer.write_all(b"abcdef").unwrap();
    guest.run();
    let (first, second) = (give(&mut guest, 4), give(&mut guest, 4));
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(first, 4)), (4, b"abcd".to_vec()));
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(second, 2)), (2, b"ef".to_vec()));
    let third = give(&mut guest, 4);
    assert_eq!(guest.used(0), None);
    writer.write_all(b"g").unwrap();
    guest.run();
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(third, 1)), (1, b"g".to_vec()));
}

#[test]
fn the_end_of_input_is_quiet() {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(b"last").unwrap();
    drop(writer);
    let mut guest = guest(Some(file(reader)), None);
    let buffer = give(&mut guest, 64);
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(buffer, 4)), (4, b"last".to_vec()));
    give(&mut guest, 64);
    assert_eq!(guest.used(0), None);
    // A driver that comes again finds it still ended.
    guest.set_status(0);
    guest.run();
    guest.negotiate(VERSION_1);
    guest.set_up_rings();
    guest.set_status(15);
    give(&mut guest, 64);
    assert_eq!(guest.used(0), None);
}

#[test]
fn files_that_are_always_ready_work_too() {
    let mut typed = tempfile::tempfile().unwrap();
    typed.write_all(b"typed before").unwrap();
    typed.rewind().unwrap();
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut guest = guest(Some(typed), Some(null));
    let buffer = give(&mut guest, 64);
    assert_eq!((guest.used(0).unwrap().1, guest.bytes(buffer, 12)), (12, b"typed before".to_vec()));
    say(&mut guest, b"gone");
}

#[test]
fn a_buffer_without_room_ends_the_vm() {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let mut guest = guest(Some(file(reader)), None);
    let buffer = guest.data(b"readable");
    guest.send(0, &[buffer]);
    assert!(guest.is_broken());
}

/// A file that gets a line for each request.
struct Lines(File);

impl Subject for Lines {
    fn fresh(&mut self) -> Box<dyn VirtioDevice> {
        Box::new(Console::new(None, Some(self.0.try_clone().unwrap())).unwrap())
    }

    fn offer<R: Registers>(&mut self, guest: &mut GuestOver<R>, number: u32) -> (usize, u16) {
        let line = guest.data(format!("{number}\n").as_bytes());
        (1, guest.offer(1, &[line]))
    }

    fn answered<R: Registers>(&mut self, _guest: &mut GuestOver<R>, _number: u32, written: u32) {
        assert_eq!(written, 0);
    }

    fn finish(&mut self, count: u32) {
        self.0.rewind().unwrap();
        let lines = std::io::read_to_string(&self.0).unwrap();
        assert_eq!(lines, (0..count).map(|number| format!("{number}\n")).collect::<String>());
    }
}

#[test]
fn pauses_and_saved_states() {
    Guest::suite(|| Lines(tempfile::tempfile().unwrap()));
}
