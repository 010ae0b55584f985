//! Frames as they arrive: lengths that lie, bodies that are no messages.

use agent_protocol::frame::{self, MAX_FRAME, PREFIX};
use agent_protocol::{
    ClientMessage, ForwardHeader, ForwardReply, Ready, ServerMessage, StreamHeader, StreamReply, Welcome,
};
use serde::{Serialize, de::DeserializeOwned};
use vial_api::frame::{self as api_frame, HEADER, Kind, MAX_PAYLOAD};

/// Frames of the agent's protocol, each taken for every message there is.
pub fn agent(mut bytes: &[u8]) {
    while let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() {
        let Ok(length) = frame::body_length(*prefix, MAX_FRAME) else { return };
        let (body, rest) = rest.split_at(length.min(rest.len()));
        accept::<ClientMessage>(body);
        accept::<ServerMessage>(body);
        accept::<StreamHeader>(body);
        accept::<StreamReply>(body);
        accept::<ForwardHeader>(body);
        accept::<ForwardReply>(body);
        accept::<Ready>(body);
        accept::<Welcome>(body);
        bytes = rest;
    }
}

/// What was accepted says the same after it was sent on.
fn accept<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(message) = frame::decode::<T>(body) else { return };
    let Ok(sent) = frame::encode(&message, MAX_FRAME) else { return };
    let again: T = frame::decode(&sent[PREFIX..]).expect("what was encoded can be decoded");
    assert_eq!(frame::encode(&again, MAX_FRAME).unwrap(), sent);
}

/// Frames of the daemon's streams, and the bodies of its requests.
pub fn api(mut bytes: &[u8]) {
    let _ = serde_json::from_slice::<vial_api::CreateContainer>(bytes);
    let _ = serde_json::from_slice::<vial_api::Exec>(bytes);
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let Ok((kind, length)) = api_frame::parse_header(*header) else { return };
        assert!(length <= MAX_PAYLOAD);
        assert_eq!(api_frame::header(kind, length), Ok(*header));
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        match kind {
            Kind::Exit => drop(serde_json::from_slice::<vial_api::Exit>(payload)),
            Kind::Error => drop(serde_json::from_slice::<vial_api::ErrorBody>(payload)),
            Kind::Timing => drop(serde_json::from_slice::<Vec<vial_api::TimingStep>>(payload)),
            Kind::Gap => drop(serde_json::from_slice::<api_frame::Gap>(payload)),
            Kind::Resize => {
                let _ = vial_api::TerminalSize::from_bytes(payload);
            }
            Kind::Stdin | Kind::Stdout | Kind::Stderr | Kind::StdinTaken | Kind::Started | Kind::Position => {
            }
        }
        bytes = rest;
    }
}
