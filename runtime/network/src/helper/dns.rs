//! Questions for names, passed on to whom the host asks: for hosts whose resolver listens on their loopback only.
//!
//! The pod is hostile: what it sends is bounded in size and number, and passed on only if it looks like a question. So is what comes back. Source: RFC
//! 1035, sections 4.1 and 4.2.

use crate::names::{MAX_BYTES, parse_resolv};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Bytes of a header.
const HEADER: usize = 12;
/// Bytes of a question over UDP at most; names end at 255.
const QUESTION: usize = 1232;
/// Bytes of an answer over UDP at most.
const ANSWER: usize = 4096;
/// Questions on their way at once, and connections.
const MAX_QUESTIONS: usize = 128;
const MAX_STREAMS: usize = 16;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(20);
/// After a failure of accept.
const PAUSE: Duration = Duration::from_millis(100);
const SERVFAIL: u8 = 2;

/// Passes datagrams on for ever.
pub async fn datagrams(socket: UdpSocket) {
    let socket = Arc::new(socket);
    let slots = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let mut buffer = [0; QUESTION + 1];
    loop {
        let Ok((count, pod)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(question) =
            buffer.get(..count).filter(|bytes| bytes.len() <= QUESTION && is_question(bytes))
        else {
            continue;
        };
        // One too many is lost, and asked again by its resolver.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (socket, question) = (socket.clone(), question.to_vec());
        tokio::spawn(async move {
            let _slot = slot;
            let answer = ask(&servers(), &question).await.unwrap_or_else(|| failure(&question));
            let _ = socket.send_to(&answer, pod).await;
        });
    }
}

/// Passes connections on for ever.
pub async fn streams(listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        // Never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((pod, _)) => drop(tokio::spawn(async move {
                let _slot = slot;
                // An error ends this connection, and that is all that can be said.
                let _ = stream(pod).await;
            })),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn stream(mut pod: TcpStream) -> std::io::Result<()> {
    for server in servers() {
        let Ok(Ok(mut upstream)) = tokio::time::timeout(PATIENCE, TcpStream::connect(server)).await else {
            continue;
        };
        // One question after the other, each of at most 64 KiB by its own length.
        loop {
            let Ok(question) = tokio::time::timeout(IDLE, message(&mut pod)).await else { return Ok(()) };
            let question = question?;
            if !is_question(&question) {
                return Ok(());
            }
            let answer = async {
                upstream.write_all(&framed(&question)).await?;
                message(&mut upstream).await
            };
            let answer = match tokio::time::timeout(IDLE, answer).await {
                Ok(Ok(answer)) if answers(&question, &answer) => answer,
                _ => failure(&question),
            };
            pod.write_all(&framed(&answer)).await?;
        }
    }
    Ok(())
}

async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn framed(message: &[u8]) -> Vec<u8> {
    // It came with a length of two bytes.
    let length = message.len() as u16;
    [&length.to_be_bytes(), message].concat()
}

async fn ask(servers: &[SocketAddr], question: &[u8]) -> Option<Vec<u8>> {
    for server in servers {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let asked = async {
            // A port of its own for each question, and connected: nobody else's answer is taken.
            let socket = UdpSocket::bind(any).await?;
            socket.connect(server).await?;
            socket.send(question).await?;
            let mut buffer = vec![0; ANSWER];
            loop {
                let count = socket.recv(&mut buffer).await?;
                if answers(question, &buffer[..count]) {
                    buffer.truncate(count);
                    return Ok::<_, std::io::Error>(buffer);
                }
            }
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
            return Some(answer);
        }
    }
    None
}

/// Whom the host asks now: the file is read again for each question, as it changes when the host moves. None at all is the local
/// machine (resolv.conf(5)).
fn servers() -> Vec<SocketAddr> {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open("/etc/resolv.conf") {
        let _ = file.take(MAX_BYTES).read_to_string(&mut text);
    }
    let mut servers = parse_resolv(&text).servers;
    if servers.is_empty() {
        servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    servers.into_iter().take(3).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// Where the question section ends, if there is one whole question.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        // Only whole names are in questions: no pointer has anything to point at.
        if length > 63 || at - HEADER > 255 {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            break;
        }
    }
    // Type and class.
    (message.len() >= at + 4).then_some(at + 4)
}

/// A standard question for one name, as every resolver sends them.
fn is_question(message: &[u8]) -> bool {
    let Some(header) = message.get(..HEADER) else { return false };
    let query = header[2] & 0xf8 == 0;
    let one = header[4..6] == [0, 1] && header[6..10] == [0; 4];
    query && one && question_end(message).is_some()
}

/// Whether this is an answer to that question: same number, same question.
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(question) else { return false };
    let (Some(header), Some(section)) = (answer.get(..HEADER), answer.get(HEADER..end)) else { return false };
    let same_name = section.eq_ignore_ascii_case(&question[HEADER..end]);
    header[..2] == question[..2] && header[2] & 0x80 != 0 && same_name
}

/// The answer that nobody could be asked.
fn failure(question: &[u8]) -> Vec<u8> {
    let mut answer = question[..question_end(question).unwrap_or(question.len())].to_vec();
    if let Some(header) = answer.get_mut(..HEADER) {
        header[2] |= 0x80;
        header[3] = 0x80 | SERVFAIL;
        // One question and nothing else: what came with it was cut off.
        header[6..HEADER].fill(0);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question(id: u16, name: &str) -> Vec<u8> {
        let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    fn answer(question: &[u8]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2] |= 0x80;
        bytes
    }

    #[test]
    fn only_questions_are_passed_on() {
        let good = question(7, "example.org");
        assert!(is_question(&good));
        assert!(!is_question(&answer(&good)), "an answer");
        assert!(!is_question(&good[..good.len() - 1]), "cut off");
        let mut two = good.clone();
        two[5] = 2;
        assert!(!is_question(&two));
        let mut pointer = good;
        pointer[HEADER] = 0xc0;
        assert!(!is_question(&pointer));
    }

    #[test]
    fn an_answer_is_to_its_question() {
        let asked = question(7, "example.org");
        assert!(answers(&asked, &answer(&question(7, "EXAMPLE.org"))));
        assert!(!answers(&asked, &answer(&question(8, "example.org"))));
        assert!(!answers(&asked, &answer(&question(7, "example.com"))));
        assert!(!answers(&asked, &asked));
        let failed = failure(&asked);
        assert!(answers(&asked, &failed) && failed[3] & 15 == SERVFAIL);
    }

    #[tokio::test]
    async fn the_first_server_that_answers_counts() {
        let (dead, alive) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let servers = [dead.local_addr().unwrap(), alive.local_addr().unwrap()];
        // With nobody at its port, the first refuses at once.
        drop(dead);
        let asked = question(9, "a.b");
        let serve = async {
            let mut buffer = [0; 512];
            let (count, from) = alive.recv_from(&mut buffer).await.unwrap();
            alive.send_to(b"rubbish", from).await.unwrap();
            alive.send_to(&answer(&buffer[..count]), from).await.unwrap();
        };
        let (got, ()) = tokio::join!(ask(&servers, &asked), serve);
        assert_eq!(got, Some(answer(&asked)));
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(a in proptest::collection::vec(any::<u8>(), 0..600), b in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = answers(&a, &b);
            if is_question(&a) {
                prop_assert!(answers(&a, &failure(&a)));
            }
        }
    }
}
