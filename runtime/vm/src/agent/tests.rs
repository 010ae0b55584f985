//! Against agents that are hostile, broken, or silent.

use super::*;
use agent_protocol::frame::{MAX_FRAME, encode};
use agent_protocol::{
    AgentError, ClientMessage, ErrorKind, Event, MAX_CHUNK, Request, Response, ServerHello, ServerMessage,
    StreamHeader, StreamKind, StreamReply,
};
use proptest::prelude::*;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn hello() -> ServerMessage {
    ServerMessage::Hello(Ok(ServerHello { protocol: PROTOCOL, build: "1".into(), features: vec![] }))
}

fn event(seq: u64, message: String) -> ServerMessage {
    ServerMessage::Event { seq, event: Event::Log { message } }
}

async fn say(stream: &mut UnixStream, message: &ServerMessage) {
    stream.write_all(&encode(message, MAX_FRAME).unwrap()).await.unwrap();
}

async fn hear(stream: &mut UnixStream) -> ClientMessage {
    frame::decode(&read_frame(stream, MAX_FRAME).await.unwrap().unwrap()).unwrap()
}

async fn connected(events: bool) -> (AgentClient, Events, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = async {
        assert!(
            matches!(hear(&mut theirs).await, ClientMessage::Hello(h) if h.token == "t" && h.events == events)
        );
        say(&mut theirs, &hello()).await;
        theirs
    };
    let (client, theirs) = tokio::join!(AgentClient::connect(ours, "t", events, LONG), agent);
    let (client, events) = client.unwrap();
    (client, events, theirs)
}

/// What a client says to an agent that answers the hello with these bytes.
async fn greeted_with(bytes: &[u8]) -> AgentCallError {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    AgentClient::connect(ours, "t", true, LONG).await.unwrap_err()
}

#[tokio::test]
async fn bad_hellos_have_names() {
    let frame = |message: &ServerMessage| encode(message, MAX_FRAME).unwrap();
    // 4 GiB: nothing may be allocated for it.
    assert!(matches!(greeted_with(&u32::MAX.to_le_bytes()).await, AgentCallError::Broken(_)));
    assert!(matches!(greeted_with(b"\x05\0\0\0hello").await, AgentCallError::Broken(_)));
    assert!(matches!(greeted_with(b"\x05\0\0\0he").await, AgentCallError::Lost(_)));
    assert!(matches!(greeted_with(b"").await, AgentCallError::Lost(_)));
    assert!(matches!(greeted_with(&frame(&event(1, "early".into()))).await, AgentCallError::Broken(_)));
    let version = ServerHello { protocol: PROTOCOL + 1, build: "9".into(), features: vec![] };
    assert!(matches!(
        greeted_with(&frame(&ServerMessage::Hello(Ok(version)))).await,
        AgentCallError::Broken(_)
    ));
    let refusal = AgentError::new(ErrorKind::Unauthorized, "no");
    let answer = greeted_with(&frame(&ServerMessage::Hello(Err(refusal.clone())))).await;
    assert_eq!(answer, AgentCallError::Refused(refusal));
}

#[tokio::test(start_paused = true)]
async fn silence_ends() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = AgentClient::connect(ours, "t", true, LONG).await.unwrap_err();
    assert_eq!(error, AgentCallError::Silent(LONG));
}

#[tokio::test]
async fn requests_are_pipelined_in_order() {
    let (client, mut events, mut agent) = connected(true).await;
    let start = |name: &str| Request::Start { container: name.into() };
    let pending = client.send(vec![start("a"), start("b"), Request::Shutdown]).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let ClientMessage::Request { id, .. } = hear(&mut agent).await else { panic!() };
        ids.push(id);
    }
    assert_eq!(ids, [1, 2, 3]);
    // An event in between, and answers in another order.
    say(&mut agent, &event(7, "x".into())).await;
    let refusal = AgentError::new(ErrorKind::NotFound, "no such container");
    say(&mut agent, &ServerMessage::Response { id: 2, result: Err(refusal.clone()) }).await;
    say(&mut agent, &ServerMessage::Response { id: 1, result: Ok(Response::Started { pid: 9 }) }).await;
    say(&mut agent, &ServerMessage::Response { id: 3, result: Ok(Response::Done) }).await;
    let mut answers = Vec::new();
    for answer in pending {
        answers.push(answer.await);
    }
    assert_eq!(
        answers,
        [Ok(Response::Started { pid: 9 }), Err(AgentCallError::Refused(refusal)), Ok(Response::Done)]
    );
    assert!(matches!(events.next().await, Some((7, Event::Log { .. }))));
    client.ack(7).await.unwrap();
    assert!(matches!(hear(&mut agent).await, ClientMessage::Ack { seq: 7 }));
}

#[tokio::test]
async fn a_lost_agent_fails_all_that_wait() {
    let (client, mut events, agent) = connected(true).await;
    let pending = client.send(vec![Request::Shutdown]).await.unwrap();
    drop(agent);
    for answer in pending {
        assert!(matches!(answer.await, Err(AgentCallError::Lost(_))));
    }
    assert!(events.next().await.is_none());
    assert!(matches!(client.closed().await, AgentCallError::Lost(_)));
    assert!(matches!(client.request(Request::Shutdown).await, Err(AgentCallError::Lost(_))));
}

#[tokio::test]
async fn broken_rules_end_the_connection() {
    let rules: [(bool, &[ServerMessage]); 6] = [
        (true, &[ServerMessage::Response { id: 99, result: Ok(Response::Done) }]),
        (true, &[hello()]),
        (true, &[event(0, String::new())]),
        (true, &[event(5, String::new()), event(7, String::new())]),
        (true, &[event(u64::MAX, String::new()), event(0, String::new())]),
        (false, &[event(1, String::new())]),
    ];
    for (events, messages) in rules {
        let (client, _events, mut agent) = connected(events).await;
        for message in messages {
            say(&mut agent, message).await;
        }
        assert!(matches!(client.closed().await, AgentCallError::Broken(_)), "{messages:?}");
    }
}

#[tokio::test]
async fn a_flood_of_events_is_bounded() {
    for size in [0, MAX_FRAME - 100] {
        let (client, events, mut agent) = connected(true).await;
        let flood = async {
            for seq in 1.. {
                let bytes = encode(&event(seq, "x".repeat(size)), MAX_FRAME).unwrap();
                if agent.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! { why = client.closed() => assert!(matches!(why, AgentCallError::Broken(_))), () = flood => {} }
        drop(events);
    }
}

#[tokio::test]
async fn a_program_that_reads_its_events_gets_all_of_them() {
    let (_client, mut events, mut agent) = connected(true).await;
    let flood = async {
        for seq in 1..=200u64 {
            say(&mut agent, &event(seq, "x".repeat(100_000))).await;
        }
    };
    let read = async {
        for seq in 1..=200 {
            assert_eq!(events.next().await.unwrap().0, seq);
        }
    };
    tokio::join!(flood, read);
}

#[tokio::test]
async fn unanswered_requests_are_bounded() {
    let (client, _events, _agent) = connected(true).await;
    let mut all = Vec::new();
    let error = loop {
        match client.send(vec![Request::Shutdown; 128]).await {
            Ok(pending) => all.extend(pending),
            Err(error) => break error,
        }
    };
    assert_eq!((error, all.len()), (AgentCallError::Stuck, 1024));
}

#[tokio::test]
async fn reports_are_checked() {
    let ready =
        |protocol, kernel: &str| Ready { protocol, build: "1".into(), kernel: kernel.into(), uptime_us: 1 };
    let good = encode(&ready(PROTOCOL, "6.12"), MAX_HEADER).unwrap();
    let bad = [
        encode(&ready(0, "6.12"), MAX_HEADER).unwrap(),
        encode(&ready(PROTOCOL, "6.12\x1b[2J"), MAX_HEADER).unwrap(),
        encode(&ready(PROTOCOL, &"6".repeat(999)), MAX_HEADER).unwrap(),
        u32::MAX.to_le_bytes().to_vec(),
        vec![0xff; 64],
        vec![],
    ];
    for (bytes, ok) in bad.iter().map(|b| (b, false)).chain([(&good, true)]) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        assert_eq!(read_ready(&mut ours).await.is_ok(), ok, "{bytes:?}");
    }
}

fn header(stream: StreamKind, offset: u64) -> StreamHeader {
    StreamHeader { token: "t".into(), container: "c".into(), exec: None, stream, offset }
}

fn reply(offset: u64) -> Vec<u8> {
    encode(&StreamReply { result: Ok(offset) }, MAX_HEADER).unwrap()
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

#[tokio::test]
async fn output_comes_whole_and_is_acknowledged() {
    let (ours, mut agent) = UnixStream::pair().unwrap();
    agent.write_all(&reply(100)).await.unwrap();
    let mut output = OutputStream::open(ours, &header(StreamKind::Stdout, 100)).await.unwrap();
    read_frame(&mut agent, MAX_HEADER).await.unwrap().unwrap();
    agent.write_all(&[chunk(b"hello"), chunk(b" world"), chunk(b"")].concat()).await.unwrap();
    assert_eq!(output.next().await.unwrap().unwrap(), b"hello");
    output.ack(output.offset()).await.unwrap();
    assert_eq!(output.next().await.unwrap().unwrap(), b" world");
    assert_eq!(output.next().await.unwrap(), None);
    assert_eq!(output.next().await.unwrap(), None);
    assert_eq!(output.offset(), 111);
    assert_eq!(agent.read_u64_le().await.unwrap(), 105);
}

#[tokio::test]
async fn broken_output_has_a_name() {
    let open = async |bytes: Vec<u8>| {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        agent.write_all(&bytes).await.unwrap();
        agent.shutdown().await.unwrap();
        let mut output = OutputStream::open(ours, &header(StreamKind::Stderr, 5)).await?;
        output.next().await
    };
    assert!(matches!(open(u32::MAX.to_le_bytes().into()).await, Err(StreamError::Broken(_))));
    assert!(matches!(open(reply(4)).await, Err(StreamError::Broken(_))), "another byte than was asked for");
    let endless = [reply(5), u32::MAX.to_le_bytes().into()].concat();
    assert!(matches!(open(endless).await, Err(StreamError::Broken(_))));
    assert!(matches!(open([reply(5), vec![9, 0]].concat()).await, Err(StreamError::Lost(_))));
    assert!(matches!(open(reply(5)).await, Err(StreamError::Lost(_))), "an end without an end");
    let refusal = StreamReply { result: Err(AgentError::new(ErrorKind::NotFound, "no")) };
    assert!(matches!(open(encode(&refusal, MAX_HEADER).unwrap()).await, Err(StreamError::Refused(_))));
}

#[tokio::test]
async fn an_agent_that_does_not_read_acknowledgements_holds_up_nothing() {
    let (ours, mut agent) = UnixStream::pair().unwrap();
    agent.write_all(&reply(0)).await.unwrap();
    let mut output = OutputStream::open(ours, &header(StreamKind::Stdout, 0)).await.unwrap();
    for byte in 1..=200_000 {
        output.ack(byte).await.unwrap();
    }
    agent.write_all(&chunk(b"x")).await.unwrap();
    assert_eq!(output.next().await.unwrap().unwrap(), b"x");
    // When it reads at last, the newest is there in the end.
    read_frame(&mut agent, MAX_HEADER).await.unwrap().unwrap();
    let read = async {
        let mut last = 0;
        while last < 200_000 {
            let ack = agent.read_u64_le().await.unwrap();
            assert!(ack > last);
            last = ack;
        }
    };
    tokio::select! { () = read => {}, end = output.next() => panic!("{end:?}") }
}

#[tokio::test]
async fn input_is_sent_again_after_a_loss() {
    let (ours, mut agent) = UnixStream::pair().unwrap();
    agent.write_all(&reply(10)).await.unwrap();
    let mut input = StdinStream::open(ours, &header(StreamKind::Stdin, 0)).await.unwrap();
    assert_eq!(input.taken(), 10);
    input.write(b"abcdef").await.unwrap();
    agent.write_all(&12u64.to_le_bytes()).await.unwrap();
    drop(agent);

    let (ours, mut agent) = UnixStream::pair().unwrap();
    agent.write_all(&reply(13)).await.unwrap();
    input.resume(ours, &header(StreamKind::Stdin, 0)).await.unwrap();
    input.finish().await.unwrap();
    read_frame(&mut agent, MAX_HEADER).await.unwrap().unwrap();
    let mut rest = vec![0; 4 + 3 + 4];
    agent.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, [chunk(b"def"), chunk(b"")].concat());
}

#[tokio::test]
async fn input_is_held_back_by_a_container_that_does_not_read() {
    let (ours, mut agent) = UnixStream::pair().unwrap();
    agent.write_all(&reply(0)).await.unwrap();
    let mut input = StdinStream::open(ours, &header(StreamKind::Stdin, 0)).await.unwrap();
    let data: Vec<u8> = (0..9u32 << 20).map(|n| (n % 251) as u8).collect();
    let agent = async {
        read_frame(&mut agent, MAX_HEADER).await.unwrap().unwrap();
        let mut got: Vec<u8> = Vec::new();
        loop {
            let length = agent.read_u32_le().await.unwrap() as usize;
            assert!(length <= MAX_CHUNK);
            if length == 0 {
                return got;
            }
            let start = got.len();
            got.resize(start + length, 0);
            agent.read_exact(&mut got[start..]).await.unwrap();
            agent.write_all(&(got.len() as u64).to_le_bytes()).await.unwrap();
        }
    };
    let write = async {
        input.write(&data).await.unwrap();
        input.finish().await.unwrap();
    };
    let (got, ()) = tokio::join!(agent, write);
    assert!(got == data);
}

#[tokio::test]
async fn an_agent_cannot_have_taken_what_it_never_got() {
    for claim in [1u64 << 40, u64::MAX] {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        agent.write_all(&reply(0)).await.unwrap();
        let mut input = StdinStream::open(ours, &header(StreamKind::Stdin, 0)).await.unwrap();
        input.write(b"abc").await.unwrap();
        agent.write_all(&claim.to_le_bytes()).await.unwrap();
        // The claim is read along with the next write, whenever the socket says so.
        let error = loop {
            if let Err(error) = input.write(&[0; 1]).await {
                break error;
            }
        };
        assert!(matches!(error, StreamError::Broken(_)), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rubbish_never_panics_or_hangs(bytes in proptest::collection::vec(any::<u8>(), 0..200), after_hello: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if after_hello {
                let (client, _events, mut agent) = connected(true).await;
                agent.write_all(&bytes).await.unwrap();
                drop(agent);
                client.closed().await;
            } else {
                greeted_with(&bytes).await;
            }
        });
    }

    #[test]
    fn chunks_arrive_however_they_are_cut(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20),
        cut in 1usize..700,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let (ours, mut agent) = UnixStream::pair().unwrap();
            let mut bytes = reply(0);
            chunks.iter().for_each(|c| bytes.extend(chunk(c)));
            bytes.extend(chunk(b""));
            let send = async {
                for piece in bytes.chunks(cut) {
                    agent.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let read = async {
                let mut output = OutputStream::open(ours, &header(StreamKind::Stdout, 0)).await.unwrap();
                let mut got = Vec::new();
                while let Some(chunk) = output.next().await.unwrap() {
                    got.push(chunk);
                }
                got
            };
            tokio::join!(send, read).1
        });
        prop_assert_eq!(got, chunks);
    }
}
