//! The protocol's messages as bytes, both ways (QEMU docs/interop/vhost-user.rst): pure, and bounded by what was asked for.
//!
//! A back end is another program, and what it answers is as good as what a guest writes.

use super::CONFIG_LEN;
use crate::virtio::QueueSnapshot;

/// Bytes in front of every message: request, flags, size of the payload.
pub const HEADER_LEN: usize = 12;
/// The longest payload that is ever taken from a back end: a configuration space and what stands before it.
pub const MAX_PAYLOAD: usize = CONFIG_PREFIX + CONFIG_LEN;
/// Regions of guest memory at most: what every back end takes, without the slots of newer ones.
pub const MAX_REGIONS: usize = 8;

/// Offset, size and flags before a configuration space.
const CONFIG_PREFIX: usize = 12;
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What is asked of a back end: the requests of the protocol that a front end without migration needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// Which features it has.
    GetFeatures = 1,
    /// Which of them the driver uses.
    SetFeatures = 2,
    /// This process is its front end.
    SetOwner = 3,
    /// Where guest memory is.
    SetMemTable = 5,
    /// Entries of a ring.
    SetVringNum = 8,
    /// Where a ring is.
    SetVringAddr = 9,
    /// Where it goes on in a ring.
    SetVringBase = 10,
    /// Stops a ring, and says where it would go on.
    GetVringBase = 11,
    /// What the driver kicks.
    SetVringKick = 12,
    /// What calls the driver.
    SetVringCall = 13,
    /// Which protocol features it has.
    GetProtocolFeatures = 15,
    /// Which of them are used.
    SetProtocolFeatures = 16,
    /// How many queues it can serve.
    GetQueueNum = 17,
    /// Lets it serve a ring.
    SetVringEnable = 18,
    /// The device's configuration space.
    GetConfig = 24,
}

impl Request {
    /// Bytes of the answer's payload; none where the only answer is an acknowledgement.
    fn answer_len(self) -> Option<usize> {
        match self {
            Self::GetFeatures | Self::GetProtocolFeatures | Self::GetQueueNum | Self::GetVringBase => Some(8),
            Self::GetConfig => Some(MAX_PAYLOAD),
            _ => None,
        }
    }
}

/// What a back end answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An acknowledgement (REPLY_ACK): 0 is success.
    Ack(u64),
    /// Features, protocol features, a number of queues.
    Number(u64),
    /// A ring's index, and where it would go on.
    Base(u32, u32),
    /// A configuration space.
    Config([u8; CONFIG_LEN]),
}

/// Something that is no answer to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It speaks unasked.
    #[error("it sent something that nobody asked for")]
    Unasked,
    /// Another version, or no reply.
    #[error("its answer to {0:?} has flags {1:#x}, which make it no reply of protocol version 1")]
    Flags(Request, u32),
    /// It answers nothing any more.
    #[error("it owes {0} answers")]
    Owing(usize),
    /// An answer to something else.
    #[error("it answered request {1} where {0:?} was asked")]
    Other(Request, u32),
    /// Too long or too short.
    #[error("its answer to {0:?} has {1} bytes")]
    Length(Request, u32),
    /// It says no.
    #[error("it refused {0:?} with code {1}")]
    Refused(Request, u64),
    /// Another part of the configuration space, or another ring.
    #[error("its answer to {0:?} is about something else than was asked for")]
    Subject(Request),
}

/// A message to a back end: `payload` behind its header; `ack` asks for an acknowledgement where nothing else is answered.
pub fn encode(request: Request, payload: &[u8], ack: bool) -> Vec<u8> {
    let flags = VERSION | if ack && request.answer_len().is_none() { NEED_REPLY } else { 0 };
    // Every payload is made below.
    let size = payload.len() as u32;
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    [request as u32, flags, size].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.extend(payload);
    bytes
}

/// Whether a back end answers `request`, when it acknowledges or not.
pub fn is_answered(request: Request, acks: bool) -> bool {
    acks || request.answer_len().is_some()
}

/// Payload: one number.
pub fn number(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

/// Payload: a ring and a number about it.
pub fn ring_state(index: u32, value: u32) -> [u8; 8] {
    number(u64::from(value) << 32 | u64::from(index))
}

/// Payload: where a ring is. Back ends are told guest-physical addresses in the place of this process's own, which nobody needs to know.
pub fn ring_address(index: u32, ring: &QueueSnapshot) -> Vec<u8> {
    let mut payload = ring_state(index, 0).to_vec();
    [ring.desc_table, ring.used_ring, ring.avail_ring, 0]
        .iter()
        .for_each(|at| payload.extend(at.to_le_bytes()));
    payload
}

/// A piece of guest memory in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical.
    pub start: u64,
    /// In bytes.
    pub len: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// Payload: where guest memory is, [`MAX_REGIONS`] at most; the files go beside it.
pub fn memory_table(regions: &[Region]) -> Vec<u8> {
    let regions = &regions[..regions.len().min(MAX_REGIONS)];
    let mut payload = number(regions.len() as u64).to_vec();
    for Region { start, len, offset } in regions {
        // The third is what rings' addresses count by: as `ring_address` says.
        [start, len, start, offset].iter().for_each(|field| payload.extend(field.to_le_bytes()));
    }
    payload
}

/// Payload: asks for the configuration space from its start.
pub fn config_request(len: usize) -> Vec<u8> {
    let mut payload = vec![0; CONFIG_PREFIX + len];
    payload[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    payload
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        word.copy_from_slice(found);
    }
    u32::from_le_bytes(word)
}

/// The length of the payload that a header announces, if it belongs to the answer to `request`.
///
/// # Errors
/// It doesn't.
pub fn check_header(request: Request, header: [u8; HEADER_LEN]) -> Result<usize, ProtocolError> {
    let (kind, flags, size) = (word(&header, 0), word(&header, 4), word(&header, 8));
    if kind != request as u32 {
        return Err(ProtocolError::Other(request, kind));
    }
    if flags & VERSION_MASK != VERSION || flags & REPLY == 0 {
        return Err(ProtocolError::Flags(request, flags));
    }
    match (request.answer_len(), usize::try_from(size)) {
        // A back end without a configuration space says so by an empty answer.
        (Some(MAX_PAYLOAD), Ok(0)) => Err(ProtocolError::Refused(request, 0)),
        (expected, Ok(size)) if size == expected.unwrap_or(8) => Ok(size),
        _ => Err(ProtocolError::Length(request, size)),
    }
}

/// What the payload behind a header of [`check_header`] says.
///
/// # Errors
/// It says no, or is about something else.
pub fn decode(request: Request, payload: &[u8]) -> Result<Answer, ProtocolError> {
    let number = u64::from(word(payload, 4)) << 32 | u64::from(word(payload, 0));
    match request.answer_len() {
        None if number == 0 => Ok(Answer::Ack(0)),
        None => Err(ProtocolError::Refused(request, number)),
        Some(_) if request == Request::GetVringBase => Ok(Answer::Base(word(payload, 0), word(payload, 4))),
        Some(8) => Ok(Answer::Number(number)),
        Some(_) => {
            let space = payload.get(CONFIG_PREFIX..).and_then(|space| space.try_into().ok());
            let space = space.ok_or(ProtocolError::Length(request, payload.len() as u32))?;
            match (word(payload, 0), word(payload, 4)) {
                (0, len) if len as usize == CONFIG_LEN => Ok(Answer::Config(space)),
                (_, 0) => Err(ProtocolError::Refused(request, 0)),
                _ => Err(ProtocolError::Subject(request)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: u32, flags: u32, size: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        for (place, value) in bytes.chunks_mut(4).zip([kind, flags, size]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn messages_are_as_the_specification_lays_them_out() {
        assert_eq!(encode(Request::SetOwner, &[], false), [3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(Request::SetOwner, &[], true)[4], 9);
        // What is answered anyway is not acknowledged too.
        assert_eq!(encode(Request::GetFeatures, &[], true)[4], 1);
        assert_eq!(ring_state(1, 2), [1, 0, 0, 0, 2, 0, 0, 0]);
        let ring = QueueSnapshot { desc_table: 1, avail_ring: 2, used_ring: 3, ..QueueSnapshot::default() };
        let address = ring_address(7, &ring);
        assert_eq!((address.len(), address[0], address[8], address[16], address[24]), (40, 7, 1, 3, 2));
        let region = Region { start: 5, len: 6, offset: 7 };
        let table = memory_table(&[region; 9]);
        assert_eq!(
            (table.len(), table[0], table[8], table[16], table[24], table[32]),
            (8 + 8 * 32, 8, 5, 6, 5, 7)
        );
        assert_eq!(config_request(60)[..8], [0, 0, 0, 0, 60, 0, 0, 0]);
    }

    #[test]
    fn only_the_answer_to_what_was_asked_is_one() {
        let asked = Request::GetFeatures;
        assert_eq!(check_header(asked, header(1, 5, 8)), Ok(8));
        assert_eq!(check_header(asked, header(2, 5, 8)), Err(ProtocolError::Other(asked, 2)));
        assert_eq!(check_header(asked, header(1, 1, 8)), Err(ProtocolError::Flags(asked, 1)));
        assert_eq!(check_header(asked, header(1, 6, 8)), Err(ProtocolError::Flags(asked, 6)));
        assert_eq!(check_header(asked, header(1, 5, u32::MAX)), Err(ProtocolError::Length(asked, u32::MAX)));
        let config = Request::GetConfig;
        assert_eq!(check_header(config, header(24, 5, 0)), Err(ProtocolError::Refused(config, 0)));
        assert_eq!(decode(config, &config_request(CONFIG_LEN)), Ok(Answer::Config([0; CONFIG_LEN])));
        let mut other = config_request(CONFIG_LEN);
        other[0] = 1;
        assert_eq!(decode(config, &other), Err(ProtocolError::Subject(config)));
        assert_eq!(
            decode(Request::SetOwner, &number(22)),
            Err(ProtocolError::Refused(Request::SetOwner, 22))
        );
        assert_eq!(decode(Request::GetVringBase, &ring_state(1, 2)), Ok(Answer::Base(1, 2)));
    }

    proptest! {
        #[test]
        fn no_answer_panics_and_none_is_longer_than_what_was_asked_for(
            bytes in any::<[u8; HEADER_LEN]>(),
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            near in any::<bool>(),
        ) {
            for request in [Request::GetFeatures, Request::GetConfig, Request::GetVringBase, Request::SetMemTable] {
                let bytes = if near { header(request as u32, 5, u32::from(bytes[0])) } else { bytes };
                if let Ok(len) = check_header(request, bytes) {
                    prop_assert!(len <= MAX_PAYLOAD);
                }
                let _ = decode(request, &payload);
            }
        }
    }
}
