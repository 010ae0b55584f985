//! The control socket: one JSON request a line, one JSON reply a line.
//!
//! Requests become [`Command`]s for the machine's loop. Replies go out through the connection that the request came in on,
//! when they are known: a pause is answered once every vCPU stands still.
//!
//! A client that writes and reads at its own pace is heard at that pace: while it has answers to take, it is not read from, and makes place for
//! others.
//!
//! Descriptors that come along wait for the request under way. One that brings a drive's files takes them all; they are closed when a
//! request is complete that wants none.

use crate::api::control::{MAX_FILES, MAX_LINE, Reply, Request};
use crate::api::document;
use crate::door::Spare;
use crate::http::action::Asker;
use crate::http::{Answer, Fault};
use crate::outlet::{Desk, Outlet};
use crate::sys;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Connections at a time. A daemon has one, a person's tool another. One more takes the place of the one whose client has kept its answers waiting for
/// longest; where there is none of these, it is closed.
const MAX_CONNECTIONS: usize = 16;

/// A request and where its reply goes.
#[derive(Debug)]
pub struct Command {
    /// What is asked for, or why that was not to be understood: its answer waits for those of earlier requests too.
    pub request: Result<Request, String>,
    /// Descriptors that came with [`Request::Insert`], [`Request::UpdateDrive`] or [`Request::Plug`]; none with others.
    pub files: Vec<File>,
    /// Who asks.
    pub reply: ReplyTo,
}

/// Who waits for a reply.
#[derive(Debug)]
pub enum ReplyTo {
    /// A connection to the control socket.
    Stream(Arc<Outlet>),
    /// A request through the HTTP API.
    Api(Asker),
}

impl ReplyTo {
    /// Sends the reply, or has it sent when there is room. One who does not read his replies loses them: the VMM waits for nobody.
    pub fn send(&self, reply: &Reply) {
        match self {
            Self::Stream(outlet) => outlet.send(reply),
            Self::Api(asker) => asker.send(match reply {
                // Those of the API have a path of their own for devices.
                Reply::Ok { .. } | Reply::Devices { .. } => Ok(Answer::Empty),
                Reply::Fault { fault_message } => Err(Fault::bad(fault_message.clone())),
            }),
        }
    }

    /// Sends a refusal.
    pub fn refuse(&self, why: impl Into<String>) {
        self.send(&Reply::Fault { fault_message: why.into() });
    }
}

/// Collects bytes to lines of bounded length.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
struct LineTooLong;

impl Lines {
    /// Adds `bytes` and takes out the lines that are complete, without their ends.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let rest = self.0.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.0, rest);
            line.pop();
            if line.len() > MAX_LINE {
                return Err(LineTooLong);
            }
            lines.push(line);
        }
        if self.0.len() > MAX_LINE { Err(LineTooLong) } else { Ok(lines) }
    }

    fn is_under_way(&self) -> bool {
        !self.0.is_empty()
    }
}

#[derive(Debug)]
struct Connection {
    outlet: Arc<Outlet>,
    // Since when it is watched for room and not for requests, in the order of those.
    stuck: Option<u64>,
    // Whether all that is left to do is to send.
    ended: bool,
    lines: Lines,
    // For the request under way.
    files: Vec<File>,
}

impl Connection {
    fn new(outlet: Arc<Outlet>) -> Self {
        Self { outlet, stuck: None, ended: false, lines: Lines::default(), files: Vec::new() }
    }

    /// Sends what there is room for, and waits for room while there is more, for requests otherwise; whether for those.
    fn watch(&mut self, turns: &mut u64, ops: &mut EventOps<'_>) -> bool {
        let stuck = !self.outlet.flush();
        if self.stuck.is_some() != stuck {
            *turns += 1;
            self.stuck = stuck.then_some(*turns);
            let what = if stuck { EventSet::OUT } else { EventSet::IN };
            // It is watched already, so this can't fail.
            let _ = ops.modify(Events::new(self.outlet.stream(), what));
        }
        !stuck
    }
}

/// The socket and its connections, in the event loop.
pub struct Control {
    listener: UnixListener,
    spare: Spare,
    connections: HashMap<RawFd, Connection>,
    commands: Sender<Command>,
    desk: Arc<Desk>,
    turns: u64,
}

impl Control {
    /// `listener` must not block.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(listener: UnixListener, commands: Sender<Command>) -> io::Result<Self> {
        let (spare, connections, desk) = (Spare::default(), HashMap::new(), Arc::new(Desk::new()?));
        Ok(Self { listener, spare, connections, commands, desk, turns: 0 })
    }

    fn accept(&mut self, ops: &mut EventOps<'_>) {
        // One at a time: the loop calls again while there are more.
        let Some(stream) = self.spare.accept(&self.listener) else { return };
        if self.connections.len() >= MAX_CONNECTIONS {
            let stuck = self.connections.iter().filter_map(|(fd, connection)| Some((connection.stuck?, *fd)));
            let Some((_, longest)) = stuck.min() else { return };
            self.end(longest, ops);
        }
        if stream.set_nonblocking(true).is_ok() && ops.add(Events::new(&stream, EventSet::IN)).is_ok() {
            let fd = stream.as_raw_fd();
            self.connections.insert(fd, Connection::new(Outlet::new(stream, &self.desk)));
        }
    }

    /// Lets go of a connection. What was asked for is answered all the same, if its client still reads.
    fn end(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        // Out of the loop first: a closed number may come back as another connection's.
        let _ = ops.remove(Events::empty_raw(fd));
        if let Some(connection) = self.connections.remove(&fd) {
            connection.outlet.end();
        }
    }

    /// A connection has news: it is read from if it has taken its answers.
    fn serve(&mut self, fd: RawFd, ops: &mut EventOps<'_>) {
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        if connection.watch(&mut self.turns, ops) && (connection.ended || !self.read(fd)) {
            self.end(fd, ops);
        }
    }

    /// Somewhere an answer does not fit into its socket.
    fn help(&mut self, ops: &mut EventOps<'_>) {
        for outlet in self.desk.take_left() {
            let watched = self.connections.len() < MAX_CONNECTIONS
                && ops.add(Events::new(outlet.stream(), EventSet::IN)).is_ok();
            if watched {
                let fd = outlet.stream().as_raw_fd();
                self.connections.insert(fd, Connection { ended: true, ..Connection::new(outlet) });
            }
        }
        let mut done = Vec::new();
        for (fd, connection) in &mut self.connections {
            if connection.watch(&mut self.turns, ops) && connection.ended {
                done.push(*fd);
            }
        }
        done.into_iter().for_each(|fd| self.end(fd, ops));
    }

    /// Reads what has come; `false` when the connection is over.
    fn read(&mut self, fd: RawFd) -> bool {
        let Some(connection) = self.connections.get_mut(&fd) else { return true };
        let mut buffer = [0; MAX_LINE];
        let received = match sys::receive::<MAX_FILES>(connection.outlet.stream(), &mut buffer) {
            Ok(received) if received.bytes == 0 => return false,
            Ok(received) => received,
            Err(error) => {
                return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            }
        };
        let outlet = Arc::clone(&connection.outlet);
        connection.files.extend(received.files);
        let refuse = |why| {
            let _ = hand_on(&self.commands, Err(why), Vec::new(), &outlet);
            false
        };
        if received.lost || connection.files.len() > MAX_FILES {
            return refuse(format!(
                "a request brought more than {MAX_FILES} descriptors, or more than this process may have"
            ));
        }
        let Ok(lines) = connection.lines.push(&buffer[..received.bytes]) else {
            return refuse(format!("a request is longer than {MAX_LINE} bytes"));
        };
        let mut files = std::mem::take(&mut connection.files);
        if lines.iter().all(|line| request(&self.commands, line, &mut files, &outlet)) {
            if connection.lines.is_under_way() {
                connection.files = files;
            }
            true
        } else {
            false
        }
    }
}

/// Hands a request on; one that wants descriptors takes those that are there. `false` when nobody takes requests any more.
fn request(commands: &Sender<Command>, line: &[u8], files: &mut Vec<File>, outlet: &Arc<Outlet>) -> bool {
    let request = document::parse(line).map_err(|error| format!("not a request: {error}"));
    let files = match request {
        Ok(Request::Insert { .. } | Request::UpdateDrive { .. } | Request::Plug { .. }) => {
            std::mem::take(files)
        }
        _ => Vec::new(),
    };
    hand_on(commands, request, files, outlet)
}

fn hand_on(
    commands: &Sender<Command>,
    request: Result<Request, String>,
    files: Vec<File>,
    outlet: &Arc<Outlet>,
) -> bool {
    commands.send(Command { request, files, reply: ReplyTo::Stream(Arc::clone(outlet)) }).is_ok()
}

impl MutEventSubscriber for Control {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A listening socket can be watched, and this one is not yet; an event too.
        let _ = ops.add(Events::new(&self.listener, EventSet::IN));
        let _ = ops.add(Events::new(self.desk.bell(), EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.fd() {
            fd if fd == self.listener.as_raw_fd() => self.accept(ops),
            fd if fd == self.desk.bell().as_raw_fd() => self.help(ops),
            fd => self.serve(fd, ops),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::MAX_UNSENT;
    use event_manager::{EventManager, SubscriberOps};
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, channel};

    #[test]
    fn lines_are_found_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), Ok(vec![b"one".to_vec()]));
        assert_eq!(lines.push(b"o\n\nthree"), Ok(vec![b"two".to_vec(), vec![]]));
        assert_eq!(lines.push(&[b'x'; MAX_LINE]), Err(LineTooLong));
    }

    /// A control socket in a loop of its own, and a client of it.
    struct World {
        folder: tempfile::TempDir,
        manager: EventManager<Box<dyn MutEventSubscriber>>,
        client: UnixStream,
        commands: Receiver<Command>,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(folder.path().join("control")).unwrap();
            listener.set_nonblocking(true).unwrap();
            let client = UnixStream::connect(folder.path().join("control")).unwrap();
            let (sender, commands) = channel();
            let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
            manager.add_subscriber(Box::new(Control::new(listener, sender).unwrap()));
            Self { folder, manager, client, commands }
        }

        fn run(&mut self) {
            while self.manager.run_with_timeout(0).unwrap() > 0 {}
        }

        /// Another client, let in.
        fn dial(&mut self) -> UnixStream {
            let client = UnixStream::connect(self.folder.path().join("control")).unwrap();
            self.run();
            client
        }

        /// Sends bytes with so many descriptors and lets the loop work.
        fn send(&mut self, bytes: &str, descriptors: &[RawFd]) {
            use vmm_sys_util::sock_ctrl_msg::ScmSocket;
            assert_eq!(self.client.send_with_fds(&[bytes.as_bytes()], descriptors).unwrap(), bytes.len());
            self.run();
        }

        /// The request that came through, and with how many descriptors.
        fn command(&self) -> Option<(Request, usize)> {
            let command = self.commands.try_recv().ok()?;
            Some((command.request.unwrap(), command.files.len()))
        }

        /// Why what came through is no request.
        fn refusal(&self) -> Option<String> {
            self.commands.try_recv().ok()?.request.err()
        }
    }

    /// The reading end of a pipe, and the number of its only writing end that will be sent: once every copy of that is closed, a
    /// read ends.
    fn sent(world: &mut World, bytes: &str, count: usize) -> File {
        let (reader, writer) = std::io::pipe().unwrap();
        world.send(bytes, &vec![writer.as_raw_fd(); count]);
        drop(writer);
        crate::sys::set_nonblocking(&reader).unwrap();
        File::from(std::os::fd::OwnedFd::from(reader))
    }

    fn is_closed(reader: &mut File) -> bool {
        matches!(reader.read(&mut [0]), Ok(0))
    }

    fn insert(files: u8) -> (String, Request) {
        let request = Request::Insert { drive_id: "image0".into(), files };
        (serde_json::to_string(&request).unwrap() + "\n", request)
    }

    #[test]
    fn descriptors_reach_the_request_that_wants_them_however_it_arrives() {
        let mut world = World::new();
        let (line, request) = insert(3);
        sent(&mut world, &line, 3);
        assert_eq!(world.command(), Some((request.clone(), 3)));
        // In two pieces, both with descriptors.
        let (first, second) = line.split_at(10);
        let mut one = sent(&mut world, first, 1);
        assert_eq!(world.command(), None);
        assert!(!is_closed(&mut one));
        sent(&mut world, second, 2);
        assert_eq!(world.command(), Some((request.clone(), 3)));
        assert!(is_closed(&mut one), "the command was dropped");
        // Behind a request that wants none, read at one go.
        sent(&mut world, &format!("{{\"action\":\"info\"}}\n{line}"), 3);
        assert_eq!(world.command(), Some((Request::Info {}, 0)));
        assert_eq!(world.command(), Some((request, 3)));
        // How many it should be is for the drive to say.
        sent(&mut world, &line, MAX_FILES);
        assert_eq!(world.command().unwrap().1, MAX_FILES);
        world.send(&line, &[]);
        assert_eq!(world.command().unwrap().1, 0);
    }

    #[test]
    fn descriptors_that_nobody_wants_are_closed() {
        let mut world = World::new();
        for line in
            ["{\"action\":\"info\"}\n", "{\"action\":\"eject\",\"drive_id\":\"a\"}\n", "rubbish\n", "\n"]
        {
            let mut reader = sent(&mut world, line, 2);
            drop(world.commands.try_recv());
            assert!(is_closed(&mut reader), "{line}");
        }
        // Those of a client that goes in the middle of its request.
        let mut reader = sent(&mut world, "{\"action\"", 2);
        assert!(!is_closed(&mut reader));
        world.client.shutdown(std::net::Shutdown::Write).unwrap();
        world.run();
        assert!(is_closed(&mut reader));
    }

    #[test]
    fn what_no_request_has_is_refused() {
        for line in [
            r#"{"action":"pause","x":1}"#,
            r#"{"action":"eject","drive_id":"a","x":1}"#,
            r#"{"action":"update_drive","drive_id":"a","rate_limiter":[]}"#,
            r#"["pause"]"#,
            r#"{"action":"dance"}"#,
        ] {
            let mut world = World::new();
            world.send(&format!("{line}\n"), &[]);
            assert!(world.refusal().unwrap().starts_with("not a request: "), "{line}");
        }
    }

    #[test]
    fn what_is_no_request_waits_for_those_before_it() {
        let mut world = World::new();
        world.send("{\"action\":\"info\"}\nrubbish\n{\"action\":\"pause\"}\n", &[]);
        assert_eq!(world.command(), Some((Request::Info {}, 0)));
        assert!(world.refusal().is_some());
        assert_eq!(world.command(), Some((Request::Pause {}, 0)));
        world.send("{\"action\":\"info\"}\n", &[]);
        world.send(&"x".repeat(MAX_LINE + 1), &[]);
        assert_eq!(world.command(), Some((Request::Info {}, 0)));
        assert!(world.refusal().unwrap().contains("longer than"));
        assert_eq!(world.client.read(&mut [0]).unwrap(), 0, "its end is lost");
    }

    #[test]
    fn lines_without_number_cost_no_descriptors() {
        let mut world = World::new();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        world.send(&"\n".repeat(MAX_LINE), &[]);
        // Other tests open some too, but not thousands.
        assert!(open() < before + 1000);
        assert_eq!(world.commands.try_iter().count(), MAX_LINE);
    }

    /// Answers all that has come, at some length.
    fn answer(world: &World) -> usize {
        let answers = world.commands.try_iter().map(|command| command.reply.refuse("no ".repeat(50)));
        answers.count()
    }

    #[test]
    fn who_writes_all_at_once_and_reads_gets_every_answer() {
        let mut world = World::new();
        world.client.set_nonblocking(true).unwrap();
        world.send(&"\n".repeat(MAX_LINE), &[]);
        let mut answered = answer(&world);
        // The next ones wait until these are taken.
        world.send("\n", &[]);
        assert_eq!((answered, answer(&world)), (MAX_LINE, 0));
        let (mut lines, mut bytes) = (0, [0; 10_000]);
        while lines < MAX_LINE + 1 {
            if let Ok(read) = world.client.read(&mut bytes) {
                assert_ne!(read, 0, "cut off after {lines} answers");
                lines += bytes[..read].iter().filter(|byte| **byte == b'\n').count();
            }
            world.run();
            answered += answer(&world);
        }
        assert_eq!((lines, answered), (MAX_LINE + 1, MAX_LINE + 1));
    }

    #[test]
    fn who_does_not_read_makes_place_for_others() {
        let mut world = World::new();
        world.send(&"\n".repeat(MAX_LINE), &[]);
        assert_eq!(answer(&world), MAX_LINE);
        world.run();
        let more: Vec<_> = (1..MAX_CONNECTIONS).map(|_| world.dial()).collect();
        let mut one_more = world.dial();
        one_more.write_all(b"{\"action\":\"info\"}\n").unwrap();
        world.run();
        assert_eq!(world.command(), Some((Request::Info {}, 0)));
        // There is no other, so the next one goes; those before stay.
        assert_eq!(world.dial().read(&mut [0]).unwrap(), 0);
        for mut other in more {
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn who_has_said_all_gets_whole_answers_and_an_end() {
        for last in ["", &"x".repeat(MAX_LINE + 1)] {
            let mut world = World::new();
            world.send(&"\n".repeat(MAX_LINE), &[]);
            // It has ended before it is answered.
            world.send(last, &[]);
            world.client.shutdown(std::net::Shutdown::Write).unwrap();
            world.run();
            let asked = answer(&world);
            assert_eq!(asked, MAX_LINE + usize::from(!last.is_empty()));
            world.client.set_nonblocking(true).unwrap();
            let (mut bytes, mut buffer) = (Vec::new(), [0; 10_000]);
            loop {
                world.run();
                match world.client.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => bytes.extend(&buffer[..read]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            assert_eq!(bytes.last(), Some(&b'\n'));
            assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), asked);
        }
    }

    #[test]
    fn who_never_reads_is_cut_off() {
        let mut world = World::new();
        world.send("\n", &[]);
        let asked = world.commands.try_recv().unwrap().reply;
        for _ in 0..2 * MAX_UNSENT / 1000 {
            asked.refuse("n".repeat(1000));
        }
        world.run();
        drop(asked);
        let mut bytes = Vec::new();
        world.client.read_to_end(&mut bytes).unwrap();
        assert!(bytes.len() < MAX_UNSENT);
    }

    #[test]
    fn more_descriptors_than_are_taken_are_a_refusal_and_closed() {
        // In one message, where the kernel cuts them off; in several, where they are counted.
        for pieces in [vec![MAX_FILES + 1], vec![MAX_FILES, 1]] {
            let mut world = World::new();
            let mut readers: Vec<_> = pieces.iter().map(|count| sent(&mut world, "{", *count)).collect();
            assert!(readers.iter_mut().all(is_closed));
            assert!(world.refusal().unwrap().contains("more than 240 descriptors"));
            assert_eq!(world.client.read(&mut [0]).unwrap(), 0, "its end is lost");
            assert_eq!(world.command(), None);
        }
    }

    proptest! {
        #[test]
        fn never_more_than_a_line_and_a_read_is_kept(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..MAX_LINE), 0..20),
        ) {
            let mut lines = Lines::default();
            for chunk in chunks {
                if lines.push(&chunk).is_err() {
                    break;
                }
                prop_assert!(lines.0.len() <= MAX_LINE);
            }
        }

        #[test]
        fn any_line_is_a_request_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = document::parse::<Request>(&line);
        }
    }
}
