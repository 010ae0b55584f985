//! Ids of pods and containers. A pod is one VM; containers live in it. One pod may hold several, or belong to
//! one alone.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Digits of an id's short form.
pub const SHORT: usize = 12;

/// `len` random bytes in lower-case hexadecimal.
///
/// # Errors
/// When the kernel's random source cannot be read.
pub fn random_hex(len: usize) -> std::io::Result<String> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new random one.
            ///
            /// # Errors
            /// When the kernel's random source cannot be read.
            pub fn random() -> std::io::Result<Self> {
                random_hex(32).map(Self)
            }

            /// One that was written down before; `None` when it is not 64 lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Option<Self> {
                let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                (text.len() == 64 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits.
            pub fn short(&self) -> &str {
                &self.0[..SHORT]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A pod, that is a VM.
    PodId
}
id! {
    /// A container in a pod.
    ContainerId
}

impl PodId {
    /// The name of the pod's VM in the registry: short, because a Unix socket's path ends at 107 bytes.
    pub fn vm_name(&self) -> String {
        self.0[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixty_four_digits_and_differ() {
        let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.short().len(), SHORT);
        assert_eq!(ContainerId::parse(a.as_str()), Some(a));
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65), "../../etc/passwd"] {
            assert_eq!(PodId::parse(text), None, "{text}");
        }
    }
}
