//! stdin: from the newest connection into the process's pipe, with an explicit end; or into its terminal, which has none.

use super::wire;
use crate::sys::watch::watch;
use agent_protocol::MAX_CHUNK;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Where bytes go.
#[derive(Debug, Clone)]
enum Sink {
    /// The terminal is still being made.
    Awaited,
    /// A pipe's writing end, or a terminal's master.
    Open(Rc<AsyncFd<OwnedFd>>),
    /// The input has ended or nobody reads it any more.
    Closed,
}

/// A process's standard input. It outlives connections.
#[derive(Debug)]
pub struct Input {
    sink: RefCell<Sink>,
    /// An end from the host is not the end of a terminal: whoever typed has gone, and may come back.
    endless: bool,
    /// Bytes that the process's side has taken.
    taken: Cell<u64>,
    /// Woken when a newer connection takes over or the process is over.
    news: Notify,
    newest: Cell<u64>,
}

impl Input {
    /// An input that writes to `pipe`, which must be non-blocking.
    ///
    /// # Errors
    /// When the descriptor can't be watched.
    pub fn new(pipe: OwnedFd) -> io::Result<Rc<Self>> {
        let sink = Sink::Open(Rc::new(watch(pipe)?));
        Ok(Self::with(sink, false))
    }

    /// An input that will write to a terminal, which comes with [`Input::open`].
    pub fn of_terminal() -> Rc<Self> {
        Self::with(Sink::Awaited, true)
    }

    fn with(sink: Sink, endless: bool) -> Rc<Self> {
        Rc::new(Self {
            sink: RefCell::new(sink),
            endless,
            taken: Cell::new(0),
            news: Notify::new(),
            newest: Cell::new(0),
        })
    }

    /// The terminal has come; its master must be non-blocking.
    ///
    /// # Errors
    /// When the descriptor can't be watched.
    pub fn open(&self, master: OwnedFd) -> io::Result<()> {
        self.sink.replace(Sink::Open(Rc::new(watch(master)?)));
        self.news.notify_waiters();
        Ok(())
    }

    /// How many bytes the process's side has taken.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Ends the input: the process reads its end after what was written.
    pub fn close(&self) {
        self.sink.replace(Sink::Closed);
        self.news.notify_waiters();
    }

    /// Serves one connection until it ends or a newer one takes over.
    ///
    /// # Errors
    /// When the connection breaks or a chunk is too long.
    pub async fn serve<R, W>(&self, mut read: R, mut write: W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let number = self.newest.get() + 1;
        self.newest.set(number);
        self.news.notify_waiters();
        tokio::select! {
            result = self.receive(&mut read, &mut write) => match result {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                other => other,
            },
            () = self.replaced(number) => Ok(()),
        }
    }

    async fn receive<R, W>(&self, read: &mut R, write: &mut W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = Vec::new();
        loop {
            let mut prefix = [0; wire::PREFIX];
            read.read_exact(&mut prefix).await?;
            let length = wire::length(prefix)?;
            if length == 0 {
                if !self.endless {
                    self.close();
                }
                return Ok(());
            }
            buffer.resize(length.min(MAX_CHUNK), 0);
            read.read_exact(&mut buffer).await?;
            self.pass_on(&buffer).await?;
            write.write_all(&self.taken.get().to_le_bytes()).await?;
        }
    }

    /// Writes everything to the process, or drops it when the process no longer reads: the host's progress must not depend on it.
    async fn pass_on(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sink = self.sink.borrow().clone();
            let pipe = match sink {
                Sink::Open(pipe) => pipe,
                Sink::Awaited => {
                    self.news.notified().await;
                    continue;
                }
                Sink::Closed => {
                    self.taken.set(self.taken.get() + bytes.len() as u64);
                    return Ok(());
                }
            };
            let mut guard = tokio::select! {
                guard = pipe.writable() => guard?,
                // The end of the process closes the pipe: look again.
                () = self.news.notified() => continue,
            };
            match guard.try_io(|pipe| Ok(rustix::io::write(pipe.get_ref(), bytes)?)) {
                Ok(Ok(n)) => {
                    bytes = &bytes[n..];
                    self.taken.set(self.taken.get() + n as u64);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_nobody_reads)) => {
                    self.sink.replace(Sink::Closed);
                }
                Err(_would_block) => {}
            }
        }
        Ok(())
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
    use std::io::Read;
    use tokio::io::duplex;
    use tokio::task::LocalSet;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(test));
    }

    fn input() -> (Rc<Input>, std::fs::File) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        (Input::new(write).unwrap(), read.into())
    }

    fn connect(input: &Rc<Input>) -> tokio::io::DuplexStream {
        let (host, agent) = duplex(1 << 20);
        let input = Rc::clone(input);
        tokio::task::spawn_local(async move {
            let (read, write) = tokio::io::split(agent);
            let _ = input.serve(read, write).await;
        });
        host
    }

    #[test]
    fn bytes_arrive_in_order_over_two_connections_and_end_explicitly() {
        run(async {
            let (input, mut process) = input();
            let mut first = connect(&input);
            first.write_all(b"\x05\0\0\0hello").await.unwrap();
            assert_eq!(first.read_u64_le().await.unwrap(), 5);
            drop(first);
            tokio::task::yield_now().await;
            assert_eq!(input.taken(), 5);
            let mut second = connect(&input);
            second.write_all(b"\x06\0\0\0 world\0\0\0\0").await.unwrap();
            assert_eq!(second.read_u64_le().await.unwrap(), 11);
            assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
            let mut all = String::new();
            process.read_to_string(&mut all).unwrap();
            assert_eq!(all, "hello world");
        });
    }

    #[test]
    fn the_end_of_a_connection_is_not_the_end_of_a_terminal() {
        run(async {
            let input = Input::of_terminal();
            let mut first = connect(&input);
            first.write_all(b"\x02\0\0\0hi\0\0\0\0").await.unwrap();
            tokio::task::yield_now().await;
            // A pipe stands for the terminal that comes late.
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            rustix::io::ioctl_fionbio(&write, true).unwrap();
            input.open(write).unwrap();
            assert_eq!(first.read_u64_le().await.unwrap(), 2);
            assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
            let mut second = connect(&input);
            second.write_all(b"\x01\0\0\0!").await.unwrap();
            assert_eq!(second.read_u64_le().await.unwrap(), 3);
            input.close();
            let mut all = String::new();
            std::fs::File::from(read).read_to_string(&mut all).unwrap();
            assert_eq!(all, "hi!");
        });
    }

    #[test]
    fn a_process_that_does_not_read_does_not_stop_the_host() {
        run(async {
            let (input, process) = input();
            drop(process);
            let mut host = connect(&input);
            host.write_all(b"\x03\0\0\0abc").await.unwrap();
            assert_eq!(host.read_u64_le().await.unwrap(), 3);
        });
    }

    #[test]
    fn an_oversized_chunk_ends_the_connection() {
        run(async {
            let (input, _process) = input();
            let mut host = connect(&input);
            host.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
            assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(input.taken(), 0);
        });
    }
}
