//! A pod's volumes: brought into the guest's memory over the control connection. The guest never sees a folder of the host's.

use crate::error::PodError;
use crate::sandbox::Sandbox;
use crate::start::too_old;
use agent_protocol::{FEATURE_VOLUMES, MAX_PIECE, PutFile, PutVolume, Request};

/// A volume as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name, unique in the pod: 1 to 63 of `[a-z0-9-]`.
    pub name: String,
    /// Bytes at most.
    pub size: u64,
    /// What is in it, if that is the host's; else it is empty and the containers'.
    pub files: Option<Vec<File>>,
    /// The group that it and everything in it belongs to.
    pub group: u32,
}

/// A file in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where: names joined by `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Sandbox {
    /// Has these volumes in the guest. What is there of them stays; files are written anew.
    ///
    /// # Errors
    /// When the agent refuses or can't be spoken to, or the guest has no room.
    pub async fn put_volumes(&self, volumes: &[Volume]) -> Result<(), PodError> {
        if volumes.is_empty() {
            return Ok(());
        }
        if !self.agent().hello().features.iter().any(|known| known == FEATURE_VOLUMES) {
            return Err(too_old("keep volumes", ""));
        }
        for volume in volumes {
            let request = PutVolume {
                name: volume.name.clone(),
                size: volume.size,
                files: volume.files.is_some(),
                group: volume.group,
            };
            self.ask(Request::PutVolume(request)).await?;
            for file in volume.files.iter().flatten() {
                self.put_file(&volume.name, file).await?;
            }
        }
        Ok(())
    }

    async fn put_file(&self, volume: &str, file: &File) -> Result<(), PodError> {
        // An empty file is one empty piece.
        let count = file.bytes.len().div_ceil(MAX_PIECE).max(1);
        for piece in 0..count {
            let begin = piece * MAX_PIECE;
            let bytes = &file.bytes[begin..file.bytes.len().min(begin + MAX_PIECE)];
            let request = PutFile {
                volume: volume.to_owned(),
                path: file.path.clone(),
                mode: file.mode,
                bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                first: piece == 0,
                last: piece + 1 == count,
            };
            self.ask(Request::PutFile(request)).await?;
        }
        Ok(())
    }
}
