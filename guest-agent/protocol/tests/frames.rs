//! Frames: what was encoded decodes to the same, and rubbish is an error and never a panic.

#![allow(clippy::unwrap_used, reason = "a test may end with a backtrace")]
use agent_protocol::frame::{FrameError, MAX_FRAME, MAX_HEADER, PREFIX, body_length, decode, encode};
use agent_protocol::*;
use proptest::prelude::*;

fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
    let frame = encode(message, MAX_FRAME).unwrap();
    let length = body_length(frame[..PREFIX].try_into().unwrap(), MAX_FRAME).unwrap();
    assert_eq!(length, frame.len() - PREFIX);
    decode(&frame[PREFIX..]).unwrap()
}

proptest! {
    #[test]
    fn rubbish_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<ClientMessage>(&body);
        let _ = decode::<ServerMessage>(&body);
        let _ = decode::<StreamHeader>(&body);
        let _ = decode::<ForwardHeader>(&body);
        let _ = decode::<Ready>(&body);
    }

    #[test]
    fn damaged_messages_are_errors(at in 0_usize..60, byte in any::<u8>()) {
        let mut frame = encode(&ClientMessage::Ack { seq: 123_456 }, MAX_HEADER).unwrap();
        let last = frame.len() - 1;
        frame[PREFIX + at % (last - PREFIX)] = byte;
        let _ = decode::<ClientMessage>(&frame[PREFIX..]);
    }

    #[test]
    fn lengths_over_the_limit_are_refused(prefix in any::<[u8; PREFIX]>(), limit in 0_usize..MAX_FRAME) {
        let said = u32::from_le_bytes(prefix) as usize;
        prop_assert_eq!(body_length(prefix, limit).is_ok(), said <= limit);
    }

    #[test]
    fn events_pass_unchanged(seq in any::<u64>(), container in ".{0,64}", code in any::<i32>(), signal in any::<Option<i32>>(), oom in any::<bool>()) {
        let status = ExitStatus { code, signal, oom };
        let message = ServerMessage::Event { seq, event: Event::Exited { container, exec: None, status } };
        prop_assert_eq!(round_trip(&message), message);
    }

    #[test]
    fn headers_pass_unchanged(token in ".{0,99}", exec in proptest::option::of(".{0,64}"), offset in any::<u64>()) {
        let header = StreamHeader { token, container: "c".into(), exec, stream: StreamKind::Stderr, offset };
        prop_assert_eq!(round_trip(&header), header);
    }
}

#[test]
fn a_four_gib_frame_is_refused_by_its_prefix() {
    assert!(matches!(
        body_length([0xff; PREFIX], MAX_FRAME),
        Err(FrameError::TooLong { length: 0xffff_ffff, .. })
    ));
}

#[test]
fn the_runtime_spec_passes_through_byte_for_byte() {
    let spec = r#"{"ociVersion": "1.0.2", "unknown-to-us": [1,  2.50, "\u00e4"]}"#;
    let create = CreateContainer {
        container: "c".into(),
        root: RootFs { image: "i".into(), image_bytes: None, upper: Upper::Tmpfs { size: 1 } },
        spec: serde_json::value::RawValue::from_string(spec.into()).unwrap(),
        stdin: false,
    };
    let request = ClientMessage::Request { id: 1, request: Request::CreateContainer(create) };
    let ClientMessage::Request { request: Request::CreateContainer(back), .. } = round_trip(&request) else {
        panic!("another message came back")
    };
    assert_eq!(back.spec.get(), spec);
}

#[test]
fn a_message_over_its_limit_is_not_sent() {
    let welcome = Welcome { token: "x".repeat(MAX_HEADER) };
    assert!(matches!(encode(&welcome, MAX_HEADER), Err(FrameError::TooLong { .. })));
}

#[test]
fn fields_of_a_newer_peer_are_skipped() {
    let ready: Ready =
        decode(br#"{"protocol":9,"build":"b","kernel":"k","uptime_us":1,"new":{"x":[]}}"#).unwrap();
    assert_eq!(ready.protocol, 9);
}

#[test]
fn what_an_older_peer_does_not_say_is_absent() {
    let root: RootFs = decode(br#"{"image":"i","upper":{"disk":{"serial":"u"}}}"#).unwrap();
    assert_eq!(
        root,
        RootFs {
            image: "i".into(),
            image_bytes: None,
            upper: Upper::Disk { serial: "u".into(), bytes: None }
        }
    );
    let event: Event = decode(br#"{"oom":{"container":"c"}}"#).unwrap();
    assert_eq!(event, Event::Oom { container: "c".into(), victim: None });
    let sandbox: Sandbox = decode(br#"{"hostname":"h","time_unix_ns":1,"entropy":""}"#).unwrap();
    assert_eq!(sandbox.memory, None);
}

#[test]
fn victims_pass_unchanged() {
    let victim = OomVictim { pid: 7, name: "a\\x0a".into(), limit: OomLimit::Pod, limit_bytes: 1 << 30 };
    let event = Event::Oom { container: "c".into(), victim: Some(victim) };
    assert_eq!(round_trip(&event), event);
}
