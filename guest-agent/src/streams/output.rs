//! stdout and stderr: from the process's pipe into a ring, and from the ring to whichever connection is the newest.

use super::ring::Ring;
use super::wire;
use crate::sys::watch::watch;
use agent_protocol::{AgentError, ErrorKind, MAX_CHUNK, RING};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Most bytes that a terminal is read for after its process is over: far more than the kernel holds for it, so that only a child
/// left behind that goes on writing comes near.
const MAX_REST: usize = 1 << 20;

/// What one look at a pipe brought.
enum Step {
    Read(usize),
    Waited,
    End,
}

/// One output stream. It outlives connections and the process.
#[derive(Debug)]
pub struct Output {
    ring: RefCell<Ring>,
    /// Nothing will be added any more.
    ended: Cell<bool>,
    /// The end was sent on some connection.
    delivered: Cell<bool>,
    /// Woken when bytes or the end arrive, or when a newer connection takes over.
    news: Notify,
    /// Woken when the ring has room again or the process is over.
    room: Notify,
    process_over: Cell<bool>,
    abandoned: Cell<bool>,
    /// Number of the newest connection.
    newest: Cell<u64>,
}

impl Output {
    /// A stream without bytes.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            ring: RefCell::new(Ring::new(RING)),
            ended: Cell::new(false),
            delivered: Cell::new(false),
            news: Notify::new(),
            room: Notify::new(),
            process_over: Cell::new(false),
            abandoned: Cell::new(false),
            newest: Cell::new(0),
        })
    }

    /// Moves what the process writes into the ring until the pipe ends; returns when the stream is complete.
    ///
    /// Once the process is over ([`Output::process_over`]) only what lies in the pipe at that moment still counts: everything that
    /// the process itself wrote is there, and a child that it left behind must not hold its exit back.
    pub async fn pump(&self, pipe: OwnedFd) {
        if let Ok(pipe) = watch(pipe) {
            // An error on a pipe's reading end means the same as its end: nothing more will come.
            let _ = self.copy(&pipe).await;
        }
        self.end();
    }

    /// The same for a terminal's master, whose other end somebody must hold open until the process is over.
    pub async fn pump_terminal(&self, master: OwnedFd) {
        if let Ok(master) = watch(master)
            && self.copy_terminal(&master).await.is_ok()
        {
            self.drain(master.get_ref()).await;
        }
        self.end();
    }

    /// Nothing will be added any more.
    pub fn end(&self) {
        self.ended.set(true);
        self.news.notify_waiters();
    }

    async fn copy_terminal(&self, master: &AsyncFd<OwnedFd>) -> io::Result<()> {
        while !self.abandoned.get() && !self.process_over.get() {
            self.step(master).await?;
        }
        Ok(())
    }

    /// What a terminal still holds when its process is over. The kernel's count would leave out what is on its way between the
    /// two ends, which a read that finds nothing does not; so it is read until then, but not for ever.
    async fn drain(&self, master: &OwnedFd) {
        let mut left = MAX_REST;
        while !self.abandoned.get() && left > 0 {
            if self.ring.borrow().room() == 0 {
                self.room.notified().await;
                continue;
            }
            let read = rustix::io::read(master, self.ring.borrow_mut().spare());
            match read {
                Ok(n @ 1..) => {
                    self.ring.borrow_mut().commit(n);
                    left = left.saturating_sub(n);
                    self.news.notify_waiters();
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn copy(&self, pipe: &AsyncFd<OwnedFd>) -> io::Result<()> {
        let mut left: Option<u64> = None;
        loop {
            if self.abandoned.get() || left == Some(0) {
                return Ok(());
            }
            if self.process_over.get() && left.is_none() {
                left = Some(rustix::io::ioctl_fionread(pipe.get_ref())?);
                continue;
            }
            match self.step(pipe).await? {
                Step::Read(n) => left = left.map(|left| left.saturating_sub(n as u64)),
                Step::Waited => {}
                Step::End => return Ok(()),
            }
        }
    }

    /// Waits once, for bytes or for a change of what is wanted; reads once.
    async fn step(&self, pipe: &AsyncFd<OwnedFd>) -> io::Result<Step> {
        if self.ring.borrow().room() == 0 {
            self.room.notified().await;
            return Ok(Step::Waited);
        }
        let mut guard = tokio::select! {
            guard = pipe.readable() => guard?,
            () = self.room.notified() => return Ok(Step::Waited),
        };
        let read = guard.try_io(|pipe| {
            let mut ring = self.ring.borrow_mut();
            Ok(rustix::io::read(pipe.get_ref(), ring.spare())?)
        });
        match read {
            Ok(Ok(0)) => Ok(Step::End),
            Ok(Ok(n)) => {
                self.ring.borrow_mut().commit(n);
                self.news.notify_waiters();
                Ok(Step::Read(n))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(Step::Waited),
            Ok(Err(error)) => Err(error),
            Err(_would_block) => Ok(Step::Waited),
        }
    }

    /// The process has ended; see [`Output::pump`].
    pub fn process_over(&self) {
        self.process_over.set(true);
        self.room.notify_one();
    }

    /// Nobody will ask for the rest: end now, whatever the process still writes.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.room.notify_one();
    }

    /// Whether the host has everything: complete, the end sent, and all bytes safe.
    pub fn is_done(&self) -> bool {
        let ring = self.ring.borrow();
        self.ended.get() && self.delivered.get() && ring.start() == ring.end()
    }

    /// Whether a connection may begin at `offset`.
    ///
    /// # Errors
    /// When those bytes are gone or were never written.
    pub fn check(&self, offset: u64) -> Result<u64, AgentError> {
        let ring = self.ring.borrow();
        if (ring.start()..=ring.end()).contains(&offset) {
            return Ok(offset);
        }
        let message = format!("byte {offset} is not kept; the stream has {} to {}", ring.start(), ring.end());
        Err(AgentError::new(ErrorKind::InvalidArgument, message))
    }

    /// Serves one connection from `offset` on, until it ends or a newer one takes over.
    ///
    /// # Errors
    /// When the connection breaks or the peer acknowledges what it can't have.
    pub async fn serve<R, W>(&self, mut read: R, mut write: W, offset: u64) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let number = self.newest.get() + 1;
        self.newest.set(number);
        self.news.notify_waiters();
        let sent = Cell::new(offset);
        // After the end is out, what is left are the last acknowledgements, until the peer goes.
        let send = async {
            match self.send(&mut write, &sent).await {
                Ok(()) => std::future::pending().await,
                failed => failed,
            }
        };
        tokio::select! {
            biased;
            () = self.replaced(number) => Ok(()),
            result = self.acknowledgements(&mut read, &sent) => result,
            result = send => result,
        }
    }

    async fn send<W: AsyncWrite + Unpin>(&self, write: &mut W, sent: &Cell<u64>) -> io::Result<()> {
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            chunk.extend([0; wire::PREFIX]);
            {
                let ring = self.ring.borrow();
                let kept = ring.peek(sent.get());
                chunk.extend_from_slice(&kept[..kept.len().min(MAX_CHUNK)]);
            }
            let bytes = chunk.len() - wire::PREFIX;
            if bytes > 0 {
                chunk[..wire::PREFIX].copy_from_slice(&wire::prefix(bytes));
                // Noted before the write: the peer may acknowledge while it is still under way.
                sent.set(sent.get() + bytes as u64);
                write.write_all(&chunk).await?;
            } else if self.ended.get() {
                write.write_all(&wire::END).await?;
                self.delivered.set(true);
                return Ok(());
            } else {
                self.news.notified().await;
            }
        }
    }

    async fn acknowledgements<R: AsyncRead + Unpin>(&self, read: &mut R, sent: &Cell<u64>) -> io::Result<()> {
        let mut offset = [0; 8];
        loop {
            match read.read_exact(&mut offset).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let offset = u64::from_le_bytes(offset);
            if offset > sent.get() {
                return Err(io::Error::other("the host acknowledged bytes that were not sent"));
            }
            let mut ring = self.ring.borrow_mut();
            ring.forget(offset);
            if self.ended.get() {
                ring.shrink();
            }
            self.room.notify_one();
        }
    }

    async fn replaced(&self, number: u64) {
        while self.newest.get() == number {
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use tokio::io::duplex;
    use tokio::task::LocalSet;

    async fn chunk(read: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let length = read.read_u32_le().await.unwrap();
        let mut bytes = vec![0; length as usize];
        read.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn exactly(read: &mut (impl AsyncRead + Unpin), n: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < n {
            all.extend(chunk(read).await);
        }
        all
    }

    fn pipe() -> (OwnedFd, std::fs::File) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        (read, write.into())
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test));
    }

    fn connect(output: &Rc<Output>, offset: u64) -> tokio::io::DuplexStream {
        let (host, agent) = duplex(1 << 20);
        let output = Rc::clone(output);
        tokio::task::spawn_local(async move {
            let (read, write) = tokio::io::split(agent);
            let _ = output.serve(read, write, offset).await;
        });
        host
    }

    #[test]
    fn a_lost_connection_is_resumed_without_losing_a_byte() {
        run(async {
            let (read, mut process) = pipe();
            let output = Output::new();
            let pump = tokio::task::spawn_local({
                let output = Rc::clone(&output);
                async move { output.pump(read).await }
            });
            use std::io::Write;
            process.write_all(b"hello world").unwrap();
            let mut first = connect(&output, 0);
            assert_eq!(exactly(&mut first, 11).await, b"hello world");
            first.write_u64_le(6).await.unwrap();
            drop(first);
            drop(process);
            pump.await.unwrap();
            // The acknowledgement was read before the end of the first connection was seen.
            let mut second = connect(&output, output.check(6).unwrap());
            assert_eq!(exactly(&mut second, 5).await, b"world");
            assert_eq!(chunk(&mut second).await, b"");
            assert!(!output.is_done());
            second.write_u64_le(11).await.unwrap();
            second.shutdown().await.unwrap();
            assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
            assert!(output.is_done());
            assert!(output.check(5).is_err() && output.check(12).is_err());
        });
    }

    #[test]
    fn a_full_ring_holds_the_process_back_until_bytes_are_safe() {
        run(async {
            let (read, process) = pipe();
            let output = Output::new();
            let pump = tokio::task::spawn_local({
                let output = Rc::clone(&output);
                async move { output.pump(read).await }
            });
            let total = 1_000_000;
            let writer = std::thread::spawn(move || {
                let mut process = process;
                let bytes: Vec<u8> = (0..total).map(|n| (n % 253) as u8).collect();
                std::io::Write::write_all(&mut process, &bytes).unwrap();
            });
            let mut host = connect(&output, 0);
            let mut seen = exactly(&mut host, RING).await;
            // Nothing was acknowledged: the ring is full and stays so.
            assert_eq!((output.ring.borrow().start(), output.ring.borrow().end()), (0, RING as u64));
            host.write_u64_le(RING as u64).await.unwrap();
            while seen.len() < total {
                seen.extend(chunk(&mut host).await);
                host.write_u64_le(seen.len() as u64).await.unwrap();
            }
            assert!(seen.iter().enumerate().all(|(n, byte)| *byte == (n % 253) as u8));
            assert_eq!(chunk(&mut host).await, b"");
            writer.join().unwrap();
            pump.await.unwrap();
        });
    }

    #[test]
    fn a_newer_connection_replaces_the_older_one() {
        run(async {
            let output = Output::new();
            let mut first = connect(&output, 0);
            tokio::task::yield_now().await;
            let _second = connect(&output, 0);
            assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
        });
    }

    #[test]
    fn a_child_left_behind_does_not_hold_the_end_back() {
        run(async {
            let (read, mut process) = pipe();
            let output = Output::new();
            use std::io::Write;
            process.write_all(b"last words").unwrap();
            output.process_over();
            // `process` stays open, as in the hands of a child.
            output.pump(read).await;
            assert_eq!(output.ring.borrow().peek(0), b"last words");
        });
    }

    #[test]
    fn a_terminal_gives_all_that_was_written_and_does_not_wait_for_a_child_left_behind() {
        run(async {
            use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            unlockpt(&master).unwrap();
            let process = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            rustix::io::ioctl_fionbio(&master, true).unwrap();
            let output = Output::new();
            let pump = tokio::task::spawn_local({
                let output = Rc::clone(&output);
                async move { output.pump_terminal(master).await }
            });
            rustix::io::write(&process, b"first").unwrap();
            while output.ring.borrow().end() < 5 {
                output.news.notified().await;
            }
            rustix::io::write(&process, b" last").unwrap();
            output.process_over();
            // `process` stays open, as in the hands of a child.
            pump.await.unwrap();
            assert_eq!(output.ring.borrow().peek(0), b"first last");
        });
    }

    #[test]
    fn acknowledging_the_future_ends_the_connection() {
        run(async {
            let output = Output::new();
            let mut host = connect(&output, 0);
            host.write_u64_le(1).await.unwrap();
            assert_eq!(host.read(&mut [0; 1]).await.unwrap(), 0);
        });
    }
}
