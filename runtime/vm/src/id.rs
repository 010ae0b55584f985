//! Names of VMs: folder and cgroup names too, so their alphabet is narrow.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A VM's name: 1 to 64 of `[A-Za-z0-9_.-]`, beginning with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

impl VmId {
    /// Twelve random hexadecimal digits.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(hex(&random_bytes::<6>()?)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::System { what: "get random bytes", source: e.into() })?;
    }
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl FromStr for VmId {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let ok = (1..=64).contains(&s.len())
            && s.as_bytes()[0].is_ascii_alphanumeric()
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if ok { Ok(Self(s.to_owned())) } else { Err(Error::BadId(s.to_owned())) }
    }
}

impl TryFrom<String> for VmId {
    type Error = Error;

    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn knows_names() {
        for good in ["a", "0", "web-1.2_x", &"x".repeat(64)] {
            assert_eq!(good.parse::<VmId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a\0", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<VmId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_names_stay_inside_their_folder(s in ".*") {
            if let Ok(id) = s.parse::<VmId>() {
                let path = std::path::Path::new("/run/vial/vms").join(id.as_str());
                prop_assert_eq!(path.components().count(), 5);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/run/vial/vms")));
            }
        }
    }
}
