//! Session tokens of the metadata service's second version: whoever may make a PUT request gets one, which a page that was tricked into
//! a GET request can't have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Seconds that a token may live at most, as in Firecracker and EC2.
pub const MAX_TTL: u32 = 21600;
/// Tokens at a time; the oldest goes when there are more. A guest that asks for so many harms itself alone.
const MAX_TOKENS: usize = 256;

/// The tokens that are valid.
#[derive(Debug, Default)]
pub struct Tokens(VecDeque<([u8; 32], Instant)>);

impl Tokens {
    /// Makes `secret`, which nobody can guess, a token for `ttl` seconds.
    pub fn add(&mut self, secret: [u8; 32], ttl: u32, now: Instant) -> String {
        self.0.retain(|(_, end)| *end > now);
        if self.0.len() == MAX_TOKENS {
            self.0.pop_front();
        }
        self.0.push_back((secret, now + Duration::from_secs(ttl.into())));
        secret.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `token` is valid. Takes as long for a wrong one as for a right one.
    pub fn knows(&self, token: &str, now: Instant) -> bool {
        let digit = |pair: &[u8]| match pair {
            [a, b] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                Some((digit(a)? << 4 | digit(b)?) as u8)
            }
            _ => None,
        };
        let bytes: Option<Vec<u8>> = token.as_bytes().chunks(2).map(digit).collect();
        let Some(Ok(given)) = bytes.map(<[u8; 32]>::try_from) else { return false };
        let same = |secret: &[u8; 32]| secret.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b)) == 0;
        self.0.iter().filter(|(secret, end)| same(secret) & (*end > now)).count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_valid_until_they_end_or_too_many_come() {
        let (mut tokens, start) = (Tokens::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = tokens.add([1; 32], 10, start);
        assert!(tokens.knows(&first, after(9)));
        assert!(!tokens.knows(&first, after(10)));
        for wrong in ["", "01", "zz", &"01".repeat(33), &"02".repeat(32), &"+1".repeat(32), "ä"] {
            assert!(!tokens.knows(wrong, start), "{wrong}");
        }
        for number in 0..MAX_TOKENS {
            tokens.add([number as u8; 32], 10, start);
        }
        assert_eq!(tokens.0.len(), MAX_TOKENS);
    }
}
