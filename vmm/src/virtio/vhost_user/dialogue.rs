//! What a back end still has to answer, and what of an answer has come: a pure state machine, fed with the bytes of a socket.

use super::message::{Answer, HEADER_LEN, MAX_PAYLOAD, ProtocolError, Request, check_header, decode};
use std::collections::VecDeque;

/// Requests that a back end may owe an answer to. A device is set up with fewer: six for each of its queues, and two.
pub const MAX_ASKED: usize = 4096;

/// One side of a conversation. It holds one message at most, whatever comes.
#[derive(Debug, Default)]
pub struct Dialogue {
    asked: VecDeque<Request>,
    inbox: Vec<u8>,
    // Of the message whose header is there.
    payload: Option<usize>,
}

impl Dialogue {
    /// The back end will answer this, after what it was asked before.
    ///
    /// # Errors
    /// It owes [`MAX_ASKED`] answers: a driver that sets its device up again and again made it any number.
    pub fn asked(&mut self, request: Request) -> Result<(), ProtocolError> {
        if self.asked.len() >= MAX_ASKED {
            return Err(ProtocolError::Owing(MAX_ASKED));
        }
        self.asked.push_back(request);
        Ok(())
    }

    /// Whether nothing is to be answered.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// How many bytes may be read next, one at least: never more than belong to the message that is under way.
    pub fn wanted(&self) -> usize {
        let whole = HEADER_LEN + self.payload.unwrap_or(0);
        whole.saturating_sub(self.inbox.len()).max(1)
    }

    /// Takes in up to [`Self::wanted`] bytes; what was asked and its answer, if that is complete now.
    ///
    /// # Errors
    /// It is no answer. The conversation is over then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Request, Answer)>, ProtocolError> {
        let request = *self.asked.front().ok_or(ProtocolError::Unasked)?;
        self.inbox.extend(&bytes[..bytes.len().min(HEADER_LEN + MAX_PAYLOAD - self.inbox.len())]);
        let Some((header, payload)) = self.inbox.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let len = check_header(request, *header)?;
        self.payload = Some(len);
        let Some(payload) = payload.get(..len) else { return Ok(None) };
        let answer = decode(request, payload)?;
        self.asked.pop_front();
        self.inbox.clear();
        self.payload = None;
        Ok(Some((request, answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::vhost_user::message::number;
    use proptest::prelude::*;

    fn answer(request: Request, value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        [request as u32, 5, 8].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(number(value));
        bytes
    }

    /// Gives all bytes to a dialogue, as a socket does that has them ready.
    fn feed(dialogue: &mut Dialogue, mut bytes: &[u8]) -> Result<Vec<Answer>, ProtocolError> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(dialogue.wanted().min(bytes.len()));
            answers.extend(dialogue.feed(now)?.map(|(_, answer)| answer));
            bytes = rest;
        }
        Ok(answers)
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let mut dialogue = Dialogue::default();
        assert_eq!(feed(&mut dialogue, &[0]), Err(ProtocolError::Unasked));
        dialogue.asked(Request::SetOwner).unwrap();
        dialogue.asked(Request::GetFeatures).unwrap();
        let bytes = [answer(Request::SetOwner, 0), answer(Request::GetFeatures, 7)].concat();
        assert_eq!(feed(&mut dialogue, &bytes), Ok(vec![Answer::Ack(0), Answer::Number(7)]));
        assert!(dialogue.is_idle());
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_make_the_same_answers(cuts in proptest::collection::vec(1..9usize, 1..40)) {
            let mut dialogue = Dialogue::default();
            dialogue.asked(Request::GetFeatures).unwrap();
            dialogue.asked(Request::GetQueueNum).unwrap();
            let bytes = [answer(Request::GetFeatures, 7), answer(Request::GetQueueNum, 8)].concat();
            let (mut rest, mut answers, mut cuts) = (&bytes[..], Vec::new(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(dialogue.wanted()).min(rest.len()));
                answers.extend(dialogue.feed(now).unwrap().map(|(_, answer)| answer));
                rest = later;
            }
            prop_assert_eq!(answers, vec![Answer::Number(7), Answer::Number(8)]);
        }

        #[test]
        fn it_never_holds_more_than_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut dialogue = Dialogue::default();
            dialogue.asked(Request::GetConfig).unwrap();
            let _ = feed(&mut dialogue, &bytes);
            prop_assert!(dialogue.inbox.len() <= HEADER_LEN + MAX_PAYLOAD);
        }
    }
}
