//! Blocks of headers: counted pairs of names and values, compressed with one zlib stream a direction (SPDY/3, 2.6.10).

use super::dictionary::DICTIONARY;
use super::frame::FrameError;
use flate2::{Decompress, FlushDecompress, Status};
use std::collections::BTreeMap;

/// Headers of one stream. Names are in lower case.
pub type Headers = BTreeMap<String, String>;

/// Bytes of one block, when it is no longer compressed. What opens a stream has three short headers.
const MAX_BLOCK: usize = 16 << 10;
/// Headers in a block.
const MAX_HEADERS: usize = 64;

/// Undoes the compression of all blocks of a connection, which is one stream.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block.
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        // One byte more than allowed: what fills it is too long.
        let mut out = vec![0; MAX_BLOCK + 1];
        let (start_in, start_out) = (self.0.total_in(), self.0.total_out());
        loop {
            // Both are at most as long as the slices that they count in.
            let (taken, made) =
                ((self.0.total_in() - start_in) as usize, (self.0.total_out() - start_out) as usize);
            if made > MAX_BLOCK {
                return Err(FrameError::Headers("they are too long"));
            }
            match self.0.decompress(&block[taken..], &mut out[made..], FlushDecompress::Sync) {
                Ok(status) => {
                    let is_stuck = self.0.total_in() - start_in == taken as u64
                        && self.0.total_out() - start_out == made as u64;
                    if is_stuck || status == Status::StreamEnd {
                        if taken < block.len() {
                            return Err(FrameError::Headers("their compressed stream has ended"));
                        }
                        out.truncate(made);
                        return Ok(out);
                    }
                }
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(&DICTIONARY);
                    known.map_err(|_| FrameError::Headers("their dictionary is not SPDY/3's"))?;
                }
                Err(_) => return Err(FrameError::Headers("they can't be decompressed")),
            }
        }
    }
}

fn parse(block: &[u8]) -> Result<Headers, FrameError> {
    let mut rest = block;
    let cut = FrameError::Headers("they are cut off");
    let count = number(&mut rest).ok_or(cut)?;
    if count > MAX_HEADERS {
        return Err(FrameError::Headers("they are too many"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let (Some(name), Some(value)) = (text(&mut rest), text(&mut rest)) else { return Err(cut) };
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    usize::try_from(u32::from_be_bytes(*bytes)).ok()
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = number(rest)?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Blocks without any header, which is all that this side ever sends: compressed by not being compressed, in stored blocks of a zlib
/// stream (RFC 1950, RFC 1951 3.2.4), which needs no state but whether it has begun.
#[derive(Default)]
pub(super) struct EmptyBlocks {
    has_begun: bool,
}

impl EmptyBlocks {
    pub(super) fn next(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        if !std::mem::replace(&mut self.has_begun, true) {
            bytes.extend([0x78, 0x01]);
        }
        // Four bytes, their number, its complement; they say: no headers.
        bytes.extend([0, 4, 0, !4, !0, 0, 0, 0, 0]);
        // An empty block, as a flush makes it: Go's inflater shows nothing of a block before the next begins.
        bytes.extend([0, 0, 0, !0, !0]);
        bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// The other side of [`Inflater`], as clients are it.
    pub(in super::super) struct Deflater(Compress);

    impl Deflater {
        pub(in super::super) fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(&DICTIONARY).unwrap();
            Self(compress)
        }

        pub(in super::super) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend((text.len() as u32).to_be_bytes());
                plain.extend(text.as_bytes());
            }
            self.compress(&plain)
        }

        fn compress(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1000);
            self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        }
    }

    #[test]
    fn blocks_of_a_connection_are_one_stream() {
        let (mut client, mut server) = (Deflater::new(), Inflater::new());
        for _ in 0..3 {
            let block = client.block(&[("streamType", "error"), ("port", "80")]);
            let headers = server.headers(&block).unwrap();
            assert_eq!((&headers["streamtype"][..], &headers["port"][..]), ("error", "80"));
        }
    }

    #[test]
    fn what_grows_too_long_is_refused() {
        let (mut client, mut server) = (Deflater::new(), Inflater::new());
        let bomb = client.compress(&vec![0; 10 << 20]);
        assert!(bomb.len() < MAX_BLOCK);
        assert!(matches!(server.headers(&bomb), Err(FrameError::Headers(_))));
    }

    #[test]
    fn empty_blocks_are_understood() {
        let (mut blocks, mut client) = (EmptyBlocks::default(), Inflater::new());
        for _ in 0..3 {
            assert_eq!(client.headers(&blocks.next()).unwrap(), Headers::new());
        }
    }

    proptest! {
        #[test]
        fn no_block_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Inflater::new().headers(&bytes), parse(&bytes));
            let mut plain = Inflater::new();
            let _ = plain.headers(&Deflater::new().compress(&bytes));
        }
    }
}
