//! `/entropy`: the entropy device.

use serde::{Deserialize, Serialize};

/// The entropy device has no settings yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entropy {}
