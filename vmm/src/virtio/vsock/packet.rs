//! The header in front of every packet (virtio 1.2, section 5.10.6): pure parsing and writing.

/// Bytes of a header.
pub const HEADER_LEN: usize = 44;
/// The host's context ID.
pub const HOST_CID: u64 = 2;
/// VIRTIO_VSOCK_TYPE_STREAM.
pub const TYPE_STREAM: u16 = 1;
/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender takes no more data.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender has no more data.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// VIRTIO_VSOCK_OP_REQUEST: open a connection.
    Request,
    /// VIRTIO_VSOCK_OP_RESPONSE: it is open.
    Response,
    /// VIRTIO_VSOCK_OP_RST: there is none.
    Reset,
    /// VIRTIO_VSOCK_OP_SHUTDOWN.
    Shutdown,
    /// VIRTIO_VSOCK_OP_RW: data.
    Data,
    /// VIRTIO_VSOCK_OP_CREDIT_UPDATE.
    CreditUpdate,
    /// VIRTIO_VSOCK_OP_CREDIT_REQUEST.
    CreditRequest,
}

impl Operation {
    fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    fn raw(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Context ID of who sends.
    pub src_cid: u64,
    /// Context ID of who is meant.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes of data after the header.
    pub len: u32,
    /// Stream or sequence packets.
    pub kind: u16,
    /// `None`: an operation that nobody knows.
    pub operation: Option<Operation>,
    /// Only for [`Operation::Shutdown`].
    pub flags: u32,
    /// Bytes of buffer that the sender has for this connection.
    pub buf_alloc: u32,
    /// Bytes that the sender's user has taken out of it so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// Any 44 bytes are a header; whether it makes sense is the muxer's business.
    pub fn parse(raw: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(raw);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            kind: u16::from_le_bytes(fields.take()),
            operation: Operation::from_raw(u16::from_le_bytes(fields.take())),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// The bytes of it.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            raw[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.operation.map_or(0, Operation::raw).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        raw
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // The fields add up to the header's length, which the caller's type fixes.
        let (field, rest) = self.0.split_first_chunk().expect("a header has all its fields");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_parsed_is_encoded_again(raw: [u8; 32], tail: [u8; 12], operation in 1u16..8) {
            let mut bytes = [0; HEADER_LEN];
            bytes[..32].copy_from_slice(&raw);
            bytes[32..].copy_from_slice(&tail);
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            prop_assert_eq!(Header::parse(&bytes).encode(), bytes);
        }

        #[test]
        fn unknown_operations_are_none(operation in 8u16..) {
            let mut bytes = [0; HEADER_LEN];
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            prop_assert_eq!(Header::parse(&bytes).operation, None);
        }
    }
}
