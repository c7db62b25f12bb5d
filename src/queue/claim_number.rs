//! Numbers that make a claim safe to send again.

/// Names one claim of one replica. The queue remembers the last one that it carried out: the same number again, or
/// an older one that was held up on its way, claims nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimNumber(u64);

impl ClaimNumber {
    /// The first claim.
    pub const FIRST: Self = Self(1);

    /// The claim after this one. Each that was not answered has to be asked for again.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}
