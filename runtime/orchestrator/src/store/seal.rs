//! Secrets at rest: ChaCha20-Poly1305 (RFC 8439) with a key that lies beside the store, readable by its owner only.
//!
//! It keeps secrets out of copies of the store (backups, bug reports), not from who can read the whole folder.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const KEY_LEN: usize = 32;

/// Why a secret can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key can't be read or made.
    #[error("the key that seals secrets ({path}) can't be used: {source}")]
    Key {
        /// Where it should be.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// No randomness.
    #[error("the system gives no random numbers to seal a secret with")]
    Random,
    /// Sealed by another key, or changed.
    #[error("{0} can't be opened: it was sealed with another key, or the store was changed by hand")]
    Open(String),
}

/// The key.
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// Reads the key at `path`, or makes one there, durable before it is used.
    ///
    /// # Errors
    /// It can't be read, made, or is no key.
    pub fn at(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::Key { path: path.display().to_string(), source };
        let mut bytes = [0; KEY_LEN];
        match OpenOptions::new().read(true).open(path) {
            Ok(mut file) => file.read_exact(&mut bytes).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::Random)?;
                Self::write(path, &bytes).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
            .map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder)?.sync_all()
    }

    /// Seals `body`, which belongs to `place`.
    pub(super) fn seal(&self, place: &str, mut body: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Random)?;
        let aad = Aad::from(place.as_bytes());
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .map_err(|_| SealError::Random)?;
        Ok([&nonce[..], &body].concat())
    }

    /// Opens what [`Self::seal`] made for `place`.
    pub(super) fn open(&self, place: &str, sealed: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let bad = || SealError::Open(place.to_owned());
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(bad)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad())?;
        let mut body = body.to_vec();
        let len =
            self.0.open_in_place(nonce, Aad::from(place.as_bytes()), &mut body).map_err(|_| bad())?.len();
        body.truncate(len);
        Ok(body)
    }
}
