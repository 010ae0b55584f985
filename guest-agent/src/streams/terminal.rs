//! A process's terminal: the pseudo-terminal that libcontainer opens in the container's own devpts, and the agent's hold on it.
//!
//! libcontainer sends the master over a Unix socket and does not wait for an answer, so the command would race its terminal's size and
//! owner. It waits instead in our own last step before it runs (`runtime/launcher.rs`), until a byte comes through a pipe.

use rustix::fs::{Uid, fchown};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};
use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// How large a terminal is, in characters; 0 is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Ends {
    /// The side where a person sits; does not block.
    pub master: OwnedFd,
    /// The side of the process. Held as long as that lives: a process may close its terminal and open it again by name, and
    /// without anybody on this side the master would read as ended.
    pub process: OwnedFd,
}

/// A process's terminal. When the last holder of the master lets go, what is left on it gets SIGHUP.
#[derive(Debug, Default)]
pub struct Terminal {
    ends: RefCell<Option<Ends>>,
}

impl Terminal {
    /// Puts it in, when it has come.
    pub fn open(&self, ends: Ends) {
        self.ends.replace(Some(ends));
    }

    /// Lets go of it: its process is over.
    pub fn close(&self) {
        self.ends.take();
    }

    /// Changes its size.
    ///
    /// # Errors
    /// When it is not open (any more).
    pub fn resize(&self, size: Size) -> io::Result<()> {
        match &*self.ends.borrow() {
            // Either end would do.
            Some(ends) => set_size(&ends.process, size),
            None => Err(io::Error::other("the process is not running")),
        }
    }
}

fn set_size(terminal: &OwnedFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_col: size.cols, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// What the runtime needs to give a process a terminal.
#[derive(Debug)]
pub struct ConsoleEnd {
    /// The socket that the master is to be sent to.
    pub socket: PathBuf,
    /// A byte comes when the terminal is ready for its command.
    pub go: OwnedFd,
}

/// Where a terminal's master will arrive.
#[derive(Debug)]
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
    go: OwnedFd,
    uid: u32,
    size: Size,
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Console {
    /// Listens in `folder`, which nothing in a container may see, for the terminal of a process that runs as `uid`.
    ///
    /// # Errors
    /// When the agent is out of descriptors.
    pub fn listen(folder: &Path, uid: u32, size: Size) -> io::Result<(Self, ConsoleEnd)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // A name of its own and not the container's id, which would be too long for a socket's path.
        let path = folder.join(format!("tty-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path)?;
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC)?;
        let end = ConsoleEnd { socket: path.clone(), go: wait };
        Ok((Self { listener, path, go, uid, size }, end))
    }

    /// Waits for the master; sets size and owner, and lets the command run.
    ///
    /// # Errors
    /// When something else than a terminal arrives.
    pub async fn receive(self) -> io::Result<Ends> {
        let (stream, _) = self.listener.accept().await?;
        let master = stream.async_io(Interest::READABLE, || receive_descriptor(&stream)).await?;
        set_size(&master, self.size)?;
        // As for pipes: a user other than root could not open its own terminal by name.
        let process =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        fchown(&process, Some(Uid::from_raw(self.uid)), None)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        rustix::io::write(&self.go, &[1])?;
        Ok(Ends { master, process })
    }
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [io::IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::Error::other("no terminal came with the runtime's message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use rustix::pty::{grantpt, openpt, unlockpt};
    use rustix::termios::tcgetwinsize;
    use std::os::fd::AsFd;

    const SIZE: Size = Size { cols: 91, rows: 17 };

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test)
    }

    fn send(socket: &Path, descriptor: impl AsFd) {
        let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&stream, &[io::IoSlice::new(b"ptmx")], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_terminal_has_its_size_before_its_command_may_run() {
        let folder = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().as_raw();
        run(async {
            let (console, end) = Console::listen(folder.path(), uid, SIZE).unwrap();
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            send(&end.socket, &master);
            let received = console.receive().await.unwrap();
            assert_eq!(rustix::io::read(&end.go, &mut [0; 8]).unwrap(), 1);
            let size = tcgetwinsize(&received.process).unwrap();
            assert_eq!((size.ws_col, size.ws_row), (SIZE.cols, SIZE.rows));
            assert!(!end.socket.exists());
        });
    }

    #[test]
    fn what_is_no_terminal_is_refused_and_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        run(async {
            let (console, end) = Console::listen(folder.path(), 0, SIZE).unwrap();
            send(&end.socket, std::fs::File::open("/dev/null").unwrap());
            assert!(console.receive().await.is_err());
            assert_eq!(rustix::io::read(&end.go, &mut [0; 8]).unwrap(), 0);
        });
    }

    #[test]
    fn a_closed_terminal_can_not_be_resized() {
        assert!(Terminal::default().resize(SIZE).is_err());
    }
}
