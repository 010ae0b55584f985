//! `/serial`: a 16550 serial port.

use super::{FileSource, TokenBucket};
use serde::{Deserialize, Serialize};

/// COM1 (`console=ttyS0`). Each byte costs an exit, so there is none unless it is asked for; hvc0 is the better console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// A file that the guest's output is appended to, a named pipe with a reader, or *(Vial)* a descriptor; absent: the standard output of
    /// the VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial_out_path: Option<FileSource>,
    /// *(Vial)* Read and given to the guest; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<FileSource>,
    /// Limits the guest's output, in bytes; what is beyond it is dropped and counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}
