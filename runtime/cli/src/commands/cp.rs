//! `vial cp`: files into a container and out of it.

use crate::args::CpArgs;
use crate::client::{Client, escape};
use crate::error::{Error, Result};
use crate::input::read_stdin;
use crate::streams::{Abort, read_frames, write_input};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::ffi::OsStr;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::Path;
use tokio::sync::mpsc;
use vial_api::frame::{Kind, MAX_PAYLOAD};
use vial_api::{Archive, Exit, Put};
use vial_archive::{Copied, Place, Root, Unpack};

/// Chunks on their way between the connection and the files.
const AHEAD: usize = 4;
/// Most that the other side may say about a failure, in bytes.
const MAX_WORDS: usize = 4096;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Stdio,
    Host(&'a str),
    Container { name: &'a str, path: &'a str },
}

/// Reads `CONTAINER:PATH`, `-` or a path of the host, which must begin with `/` or `.` when there is a colon in it.
fn side(text: &str) -> Side<'_> {
    match text.split_once(':') {
        _ if text == "-" => Side::Stdio,
        Some((name, path)) if !name.is_empty() && !text.starts_with(['/', '.']) => {
            Side::Container { name, path }
        }
        _ => Side::Host(text),
    }
}

/// Copies files between a container and the host.
///
/// # Errors
/// When either side can't.
pub async fn cp(client: &Client, args: &CpArgs) -> Result<i32> {
    for (text, what) in [(&args.source, "source"), (&args.destination, "destination")] {
        if text.is_empty() || matches!(side(text), Side::Container { path: "", .. }) {
            return Err(Error::Message(format!(
                "the {what} {text:?} has no path; write NAME:/ for all of a container"
            )));
        }
    }
    match (side(&args.source), side(&args.destination)) {
        (Side::Container { .. }, Side::Container { .. }) => Err(Error::Message(
            "copying between two containers is not possible; go by way of a folder".into(),
        )),
        (Side::Container { name, path }, to) => out(client, args, name, path, &to).await,
        (from, Side::Container { name, path }) => into(client, args, &from, name, path).await,
        _ => Err(Error::Message("one of the two must be in a container, as in NAME:/PATH".into())),
    }
    .map(|()| 0)
}

async fn connect(client: &Client, name: &str, archive: &Archive) -> Result<TokioIo<Upgraded>> {
    let path = format!("/containers/{}/archive", escape(name));
    client.upgrade(&path, archive).await.map(|(connection, _)| connection)
}

/// A path of the host, as one below its root.
fn place(path: &str) -> Result<Place> {
    let here = std::env::current_dir().map_err(Error::io("find the current folder"))?;
    Ok(Place::parse(here.join(path).as_os_str()))
}

fn host() -> Result<Root> {
    Root::open(Path::new("/")).map_err(files)
}

fn files(error: vial_archive::ArchiveError) -> Error {
    Error::Message(error.to_string())
}

async fn out(client: &Client, args: &CpArgs, name: &str, path: &str, to: &Side<'_>) -> Result<()> {
    let target = match to {
        Side::Host(path) => Some(place(path)?),
        _ if io::stdout().is_terminal() => {
            return Err(Error::Message(
                "a tar on a terminal helps nobody; send it to a file or a pipe".into(),
            ));
        }
        _ => None,
    };
    let how = Unpack {
        contents: Place::parse(OsStr::new(path)).is_contents,
        owners: args.archive,
        ..Unpack::default()
    };
    let root = host()?;
    let archive = Archive { path: path.to_owned(), follow: args.follow_link, put: None };
    let (reader, _writer) = tokio::io::split(connect(client, name, &archive).await?);
    let (sender, chunks) = mpsc::channel(AHEAD);
    let chunks = Chunks { chunks, rest: Vec::new(), at: 0 };
    let writing = tokio::task::spawn_blocking(move || write(&root, target.as_ref(), how, chunks));
    let (frame_sender, mut frames) = mpsc::channel(AHEAD);
    let _reading = Abort(tokio::spawn(read_frames(reader, frame_sender)));
    let received = receive(&mut frames, Some(sender)).await;
    let written = writing.await.map_err(|error| Error::Message(error.to_string()))?;
    match (received, written) {
        // What the container's side says, or that the daemon is gone, explains why the stream was cut short.
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(copied)) => {
            if copied.left_out > 0 {
                let words = "devices or other special files were left out";
                crate::output::tell(&format!("{} {words}", copied.left_out));
            }
            Ok(())
        }
    }
}

/// Makes files of what comes, or prints it.
fn write(root: &Root, target: Option<&Place>, how: Unpack, mut chunks: Chunks) -> Result<Copied> {
    if let Some(target) = target {
        let copied =
            root.unpack(target, how, BufReader::with_capacity(MAX_PAYLOAD, &mut chunks)).map_err(files);
        if copied.is_ok() {
            // A tar goes on for a while after its last file: the sender should not find nobody there.
            io::copy(&mut chunks, &mut io::sink()).map_err(Error::io("read what is left"))?;
        }
        return copied;
    }
    let mut out = io::stdout().lock();
    let printed = io::copy(&mut chunks, &mut out).and_then(|_| out.flush());
    printed.map(|()| Copied::default()).map_err(Error::io("write to standard output"))
}

async fn into(client: &Client, args: &CpArgs, from: &Side<'_>, name: &str, path: &str) -> Result<()> {
    let (root, source) = match from {
        Side::Host(path) => {
            let (root, source) = (host()?, place(path)?);
            if !args.follow_link {
                root.check(&source).map_err(files)?;
            }
            (root, Some(source))
        }
        _ if io::stdin().is_terminal() => {
            return Err(Error::Message("a tar is expected on standard input, which is a terminal".into()));
        }
        _ => (host()?, None),
    };
    let put = Put {
        contents: source.as_ref().is_some_and(|source| source.is_contents),
        owners: args.archive || source.is_none(),
        stream: source.is_none(),
    };
    let archive = Archive { path: path.to_owned(), follow: false, put: Some(put) };
    let (reader, writer) = tokio::io::split(connect(client, name, &archive).await?);
    let (payloads, receiver) = mpsc::channel(AHEAD);
    let _writing = Abort(tokio::spawn(write_input(writer, receiver)));
    let follow = args.follow_link;
    let mut reading = tokio::task::spawn_blocking(move || read(&root, source.as_ref(), follow, payloads));
    let (sender, mut frames) = mpsc::channel(AHEAD);
    let _reading = Abort(tokio::spawn(read_frames(reader, sender)));
    let mut answer = std::pin::pin!(receive(&mut frames, None));
    tokio::select! {
        answer = &mut answer => answer,
        read = &mut reading => {
            read.map_err(|error| Error::Message(error.to_string()))??;
            answer.await
        }
    }
}

/// Sends files, or standard input, and the end. Without the end nothing is taken for complete.
fn read(root: &Root, source: Option<&Place>, follow: bool, payloads: Payloads) -> Result<()> {
    match source {
        Some(source) => {
            let out = BufWriter::with_capacity(MAX_PAYLOAD, Sending(payloads.clone()));
            let mut out = match root.pack(source, follow, out) {
                // Nobody takes it any more, and says why on the connection.
                Err(vial_archive::ArchiveError::Stream(_)) => return Ok(()),
                packed => packed.map_err(files)?,
            };
            if out.flush().is_err() {
                return Ok(());
            }
        }
        None => {
            let mut stdin = read_stdin();
            while let Some(chunk) = stdin.blocking_recv() {
                if payloads.blocking_send((Kind::Stdin, chunk)).is_err() {
                    return Ok(());
                }
            }
        }
    }
    let _ = payloads.blocking_send((Kind::Stdin, Vec::new()));
    Ok(())
}

type Payloads = mpsc::Sender<(Kind, Vec<u8>)>;

struct Sending(Payloads);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(MAX_PAYLOAD);
        // An empty one would be the end.
        if count > 0 && self.0.blocking_send((Kind::Stdin, bytes[..count].to_vec())).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Chunks {
    chunks: mpsc::Receiver<Vec<u8>>,
    rest: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.rest.len() {
            let Some(next) = self.chunks.blocking_recv() else { return Ok(0) };
            (self.rest, self.at) = (next, 0);
        }
        let count = into.len().min(self.rest.len() - self.at);
        into[..count].copy_from_slice(&self.rest[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Passes output on until the other side says how it ended.
async fn receive(
    frames: &mut mpsc::Receiver<(Kind, Vec<u8>)>,
    output: Option<mpsc::Sender<Vec<u8>>>,
) -> Result<()> {
    let mut words = Vec::new();
    while let Some((kind, payload)) = frames.recv().await {
        match kind {
            Kind::Stdout => {
                if let Some(output) = &output
                    && output.send(payload).await.is_err()
                {
                    // Why is with whoever took it.
                    return Ok(());
                }
            }
            Kind::Stderr => {
                let room = MAX_WORDS.saturating_sub(words.len());
                words.extend_from_slice(&payload[..payload.len().min(room)]);
            }
            Kind::Exit => {
                let exit: Exit = serde_json::from_slice(&payload)?;
                return match exit.code {
                    0 => Ok(()),
                    _ => Err(Error::Message(failure(&words, &exit))),
                };
            }
            Kind::Error => return Err(Error::Api(serde_json::from_slice(&payload)?)),
            _ => {}
        }
    }
    Err(Error::Connection("it broke; not everything was copied".into()))
}

/// The guest's words, as one line.
fn failure(words: &[u8], exit: &Exit) -> String {
    let text = String::from_utf8_lossy(words);
    let text = text.trim_end().replace(['\n', '\t'], " ");
    match (text.is_empty(), &exit.reason) {
        (false, _) => format!("in the container: {text}"),
        (true, Some(reason)) => format!("the copy was cut off: {reason}"),
        (true, None) => format!("the copy was cut off in the container (status {})", exit.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_as_dockers() {
        assert_eq!(side("-"), Side::Stdio);
        assert_eq!(side("web:/etc/x"), Side::Container { name: "web", path: "/etc/x" });
        assert_eq!(side("web:a:b"), Side::Container { name: "web", path: "a:b" });
        for host in ["/a:b", "./a:b", "../x:y", "plain", ":x"] {
            assert_eq!(side(host), Side::Host(host));
        }
    }

    #[test]
    fn a_guests_words_are_one_line() {
        let exit = Exit { code: 1, ..Exit::default() };
        assert_eq!(failure(b"no\nfile\n", &exit), "in the container: no file");
    }
}
