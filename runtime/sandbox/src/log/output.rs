//! One container's log among tasks: pumps append, followers read along, and a follower that someone waits for holds the pumps back.

use super::{Item, Limits, Position, Reader, Stream, Writer};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

/// Bytes that a pump may be ahead of an attached client. Beyond it the pump waits, the agent's ring fills, and the
/// container's write blocks: back-pressure from the client's terminal to the process.
const WINDOW: u64 = 1 << 20;

/// What followers wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// Up to where readers can come. What was dropped for lack of space is beyond it until a record behind it tells of the gap.
    readable: Position,
    /// Where it ends, when nothing will be added: what a later start of the container adds is not this one's.
    end: Option<Position>,
}

/// The end of a log that nobody writes: all there is.
const ALL: Position = Position { stdout: u64::MAX, stderr: u64::MAX };

/// A container's log.
#[derive(Debug)]
pub struct OutputLog {
    dir: PathBuf,
    /// None: nothing will be added.
    writer: Option<Mutex<Writer>>,
    base: Position,
    progress: watch::Sender<Progress>,
    /// Bytes read by each follower that holds the pumps back.
    holding: Mutex<HashMap<u64, u64>>,
    moved: Notify,
    let_go: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves nothing half-changed in these: appends are undone on errors.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl OutputLog {
    /// Opens or makes the log in a folder, for the output of one start of its container. `base`: where that output begins; none: here.
    ///
    /// # Errors
    /// When its files can't be made or read.
    pub fn open(dir: &Path, limits: Limits, base: Option<Position>) -> io::Result<Arc<Self>> {
        let writer = Writer::open(dir, limits)?;
        let position = writer.position();
        let progress = Progress { readable: position, end: None };
        Ok(Self::new(dir, Some(writer), base.unwrap_or(position), progress))
    }

    /// The log of a container that does not run. Nothing is changed on the disk, so another may write to it at the same time.
    pub fn of_ended(dir: &Path) -> Arc<Self> {
        Self::new(dir, None, Position::default(), Progress { readable: Position::default(), end: Some(ALL) })
    }

    fn new(dir: &Path, writer: Option<Writer>, base: Position, progress: Progress) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            writer: writer.map(Mutex::new),
            base,
            progress: watch::Sender::new(progress),
            holding: Mutex::default(),
            moved: Notify::new(),
            let_go: AtomicBool::new(false),
        })
    }

    /// Up to where it holds the streams.
    pub fn position(&self) -> Position {
        self.writer.as_ref().map_or(ALL, |writer| lock(writer).position())
    }

    /// Where in it the output of this start begins: byte 0 of the process's streams.
    pub fn base(&self) -> Position {
        self.base
    }

    /// Appends; the bytes are in the host's page cache when this returns. Returns the stream's new position.
    ///
    /// When the disk is full, even after older output of this container was given up, the bytes are dropped and readers see a gap: a container must not
    /// hang because of its own output.
    pub async fn append(self: &Arc<Self>, stream: Stream, offset: u64, data: Vec<u8>) -> u64 {
        let log = self.clone();
        // A writer throttled by the kernel must not hold up the other tasks of this thread.
        let written = tokio::task::spawn_blocking(move || {
            // Whoever has output opened the log for it.
            let Some(mut writer) = log.writer.as_ref().map(lock) else { return (offset, false) };
            let time_ms = crate::now_ms();
            let appended = writer.append(stream, offset, &data, time_ms);
            if let Err(error) = &appended {
                tracing::warn!(dir = %log.dir.display(), %error, bytes = data.len(), "output is lost: the log cannot be written");
                writer.skip_to(stream, offset.saturating_add(data.len() as u64));
            }
            (writer.position().of(stream), appended.is_ok())
        })
        .await;
        match written {
            Ok((position, readable)) => {
                if readable {
                    self.progress.send_modify(|progress| progress.readable.set(stream, position));
                }
                position
            }
            // The runtime is shutting down: nothing was acknowledged, so nothing is lost.
            Err(_) => offset,
        }
    }

    /// Says that nothing will be added.
    pub fn complete(&self) {
        let end = self.position();
        self.progress.send_modify(|progress| progress.end = Some(end));
    }

    /// Waits until every follower that holds the pumps back is near the end.
    pub async fn room(&self) {
        loop {
            let moved = self.moved.notified();
            if self.let_go.load(Ordering::Acquire) {
                return;
            }
            let readable = self.progress.borrow().readable.total();
            let slowest = lock(&self.holding).values().copied().min();
            if slowest.is_none_or(|read| readable.saturating_sub(read) < WINDOW) {
                return;
            }
            moved.await;
        }
    }

    /// From now on no follower holds the pumps back.
    pub fn let_go(&self) {
        self.let_go.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    /// A follower from a position on. One that `holds` keeps the container from getting far ahead of it; for clients that
    /// the container's output is meant for.
    pub fn follow(self: &Arc<Self>, start: Position, holds: bool) -> Follower {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        if holds {
            lock(&self.holding).insert(id, start.total());
        }
        let progress = self.progress.subscribe();
        Follower { log: self.clone(), reader: Reader::new(&self.dir, start), progress, id, holds }
    }
}

/// Reads a log along with its writer.
#[derive(Debug)]
pub struct Follower {
    log: Arc<OutputLog>,
    reader: Reader,
    progress: watch::Receiver<Progress>,
    id: u64,
    holds: bool,
}

impl Follower {
    /// The next item; waits for one; `None` when the log is complete and all was read. Cancel-safe.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> io::Result<Option<Item>> {
        loop {
            // Before the read: what is written after it changes the progress again, and that ends the wait.
            let end = self.progress.borrow_and_update().end;
            let item = self.reader.read()?;
            if item.is_some() || end.is_some() {
                self.moved();
                let item = item.filter(|item| end.is_none_or(|end| item.is_before(end)));
                // What was dropped at the very end has no record behind it that tells.
                return Ok(
                    item.or_else(|| end.filter(|end| *end != ALL).and_then(|end| self.reader.skip_to(end)))
                );
            }
            self.moved();
            if self.progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// The next item of what is there now.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn now(&mut self) -> io::Result<Option<Item>> {
        self.reader.read()
    }

    fn moved(&self) {
        if self.holds {
            lock(&self.log.holding).insert(self.id, self.reader.position().total());
            self.log.moved.notify_waiters();
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.holds {
            lock(&self.log.holding).remove(&self.id);
            self.log.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_sees_all_and_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        let mut follower = log.follow(Position::default(), false);
        let writer = log.clone();
        let task = tokio::spawn(async move {
            let mut at = 0;
            for n in 0..200u64 {
                at = writer.append(Stream::Stdout, at, format!("line {n}\n").into_bytes()).await;
            }
            writer.complete();
            at
        });
        let mut got = Vec::new();
        while let Some(item) = follower.next().await.unwrap() {
            if let Item::Data { bytes, .. } = item {
                got.extend(bytes);
            }
        }
        assert_eq!(got.len() as u64, task.await.unwrap());
        assert!(got.ends_with(b"line 199\n"));
    }

    #[tokio::test]
    async fn a_slow_client_holds_the_pump_and_a_lost_one_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        let mut follower = log.follow(Position::default(), true);
        let mut at = 0;
        while at < WINDOW {
            log.room().await;
            at = log.append(Stream::Stdout, at, vec![1; 64 << 10]).await;
        }
        let mut room = Box::pin(log.room());
        assert!(futures_poll(room.as_mut()).is_pending());
        // One record further is room again.
        follower.next().await.unwrap();
        room.await;
        let more = log.append(Stream::Stdout, at, vec![1; 64 << 10]).await;
        log.append(Stream::Stdout, more, vec![1; 64 << 10]).await;
        let mut room = Box::pin(log.room());
        assert!(futures_poll(room.as_mut()).is_pending());
        drop(follower);
        room.await;
    }

    #[tokio::test]
    async fn output_that_the_disk_has_no_room_for_holds_nobody_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        let mut follower = log.follow(Position::default(), true);
        let at = log.append(Stream::Stdout, 0, b"before".to_vec()).await;
        // As `append` does when the disk is full.
        lock(log.writer.as_ref().unwrap()).skip_to(Stream::Stdout, at + 2 * WINDOW);
        assert!(matches!(follower.next().await.unwrap(), Some(Item::Data { .. })));
        log.room().await;
        log.complete();
        let gap = Item::Gap { stream: Stream::Stdout, bytes: 2 * WINDOW };
        assert_eq!(follower.next().await.unwrap(), Some(gap));
        assert_eq!(follower.next().await.unwrap(), None);
    }

    /// The container is started again while a client still reads what it wrote before.
    #[tokio::test]
    async fn each_start_has_its_own_end_and_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let first = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        first.append(Stream::Stdout, 0, b"one".to_vec()).await;
        let mut reading = first.follow(Position::default(), true);
        first.complete();
        let second = OutputLog::open(dir.path(), Limits::default(), None).unwrap();
        assert_eq!(second.base(), Position { stdout: 3, stderr: 0 });
        second.append(Stream::Stdout, 3, b"two".to_vec()).await;
        let text = |item: Option<Item>| match item {
            Some(Item::Data { bytes, .. }) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(reading.next().await.unwrap()), b"one");
        assert_eq!(reading.next().await.unwrap(), None, "what comes later is not the first one's");
        let mut reading = second.follow(second.base(), true);
        assert_eq!(text(reading.next().await.unwrap()), b"two");
        let mut all = OutputLog::of_ended(dir.path()).follow(Position::default(), false);
        assert_eq!(text(all.next().await.unwrap()), b"one");
        assert_eq!(text(all.next().await.unwrap()), b"two");
        assert_eq!(all.next().await.unwrap(), None);
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
