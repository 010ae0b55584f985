//! Output that waits for nobody: what its reader does not take is kept, up to a bound; what is beyond that is dropped and counted.
//! It serves hvc0 and the serial port.

use super::super::io;
use crate::line_writer::write_if_room;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

/// Bytes of output that may wait for their reader.
pub const OUTPUT_BUFFER: usize = 256 << 10;
/// Bytes that go to a terminal at once: it is shared with others, so it is not made non-blocking, and when it says that it is
/// writable it has room for about this much.
const TERMINAL_CHUNK: usize = 256;

/// Where input comes from.
pub(crate) struct Input {
    pub(crate) file: File,
    // Regular files and /dev/null can't be watched: they are always ready.
    pub(crate) watched: bool,
}

impl Input {
    pub(crate) fn new(file: File) -> std::io::Result<Self> {
        Ok(Self { watched: can_be_watched(&file)?, file })
    }
}

/// Where output goes.
pub(crate) struct Output {
    pub(crate) file: File,
    kind: OutputKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputKind {
    /// Regular files: writing never waits for a reader.
    Always,
    /// Pipes and sockets, which are this process's own.
    NonBlocking,
    /// Terminals, and whatever the standard output is.
    Polled,
}

impl Output {
    /// Pipes and sockets are made non-blocking.
    pub(crate) fn new(file: File) -> std::io::Result<Self> {
        let kind = if !can_be_watched(&file)? {
            OutputKind::Always
        } else if file.metadata()?.file_type().is_char_device() {
            OutputKind::Polled
        } else {
            io::set_nonblocking(&file)?;
            OutputKind::NonBlocking
        };
        Ok(Self { file, kind })
    }

    /// To a file that others have too, and who would not expect it to become non-blocking.
    pub(crate) fn shared(file: File) -> std::io::Result<Self> {
        let kind = if can_be_watched(&file)? { OutputKind::Polled } else { OutputKind::Always };
        Ok(Self { file, kind })
    }
}

fn can_be_watched(file: &File) -> std::io::Result<bool> {
    match Epoll::new()?.ctl(ControlOperation::Add, file.as_raw_fd(), EpollEvent::default()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Output and what waits for it.
pub(crate) struct OutputBuffer {
    /// None: it is gone, or there never was one.
    pub(crate) output: Option<Arc<Output>>,
    waiting: VecDeque<u8>,
    dropped: u64,
}

impl OutputBuffer {
    pub(crate) fn new(output: Option<Arc<Output>>) -> Self {
        Self { output, waiting: VecDeque::new(), dropped: 0 }
    }

    /// How many of the next `len` bytes are to be given to [`Self::push`]; the others are lost.
    pub(crate) fn admit(&mut self, len: usize) -> usize {
        let room = OUTPUT_BUFFER - self.waiting.len().min(OUTPUT_BUFFER);
        let taken = if self.output.is_some() && self.dropped == 0 { room.min(len) } else { 0 };
        self.dropped += (len - taken) as u64;
        taken
    }

    /// Keeps bytes that were admitted.
    pub(crate) fn push(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.waiting.extend(bytes);
    }

    /// Whether something waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes what the output takes. `ready`: the loop says that it is writable. True if the loop is to watch for that.
    pub(crate) fn write(&mut self, ready: bool) -> bool {
        let Some(output) = self.output.clone() else {
            self.waiting = VecDeque::new();
            self.dropped = 0;
            return false;
        };
        let polled = output.kind == OutputKind::Polled;
        while !self.waiting.is_empty() && (!polled || ready) {
            let (first, _) = self.waiting.as_slices();
            let len = first.len().min(if polled { TERMINAL_CHUNK } else { OUTPUT_BUFFER });
            let mut file = &output.file;
            let written = match output.kind {
                OutputKind::Polled => write_if_room(&mut file, &first[..len]),
                OutputKind::Always | OutputKind::NonBlocking => file.write(&first[..len]),
            };
            match written {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody will ever read it, or the disk is full: the guest must not suffer for that.
                Err(_) if output.kind != OutputKind::Always => {
                    self.output = None;
                    self.waiting.clear();
                }
                Err(_) => self.waiting.clear(),
            }
            if self.waiting.is_empty() && self.dropped > 0 {
                let lost = std::mem::take(&mut self.dropped);
                self.waiting.extend(format!("\r\n[{lost} bytes of console output lost]\r\n").into_bytes());
            }
            if polled {
                break;
            }
        }
        self.is_waiting() && self.output.is_some()
    }
}
