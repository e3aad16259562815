//! How good the join of SYNs and accepted connections is.

/// Counts that tell how good the join is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JoinHealth {
    /// Accepted connections whose SYN was not observed.
    pub unobserved: u64,
    /// Of the half-open attempts, those given up on early for want of room.
    pub forgotten: u64,
    /// Accepted connections that found the queue to the join full.
    pub not_joined: u64,
    /// Ring records that were not understood: none, unless object and program do not belong together.
    pub unreadable: u64,
}

impl JoinHealth {
    /// What has been added to `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            unobserved: self.unobserved - before.unobserved,
            forgotten: self.forgotten - before.forgotten,
            not_joined: self.not_joined - before.not_joined,
            unreadable: self.unreadable - before.unreadable,
        }
    }
}
