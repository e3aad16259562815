//! What a target thinks of a source, as metrics and pages name it.

use serde::{Deserialize, Serialize};

/// What the target thinks of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Inside an allowed CIDR.
    Allowed,
    /// Outside all of them: the connection leaked.
    Denied,
}

impl Verdict {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Allowed, Self::Denied];

    /// The name in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}
