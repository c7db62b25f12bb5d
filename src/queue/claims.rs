//! Numbers that make a claim safe to send again.

/// Names one claim of one replica. Sent again after a lost answer, it is marked as a resend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimNumber {
    number: u64,
    resend: bool,
}

impl ClaimNumber {
    /// The first claim.
    pub const FIRST: Self = Self {
        number: 1,
        resend: false,
    };

    /// The claim after this one, which has been answered.
    #[must_use]
    pub const fn next(self) -> Self {
        Self {
            number: self.number + 1,
            resend: false,
        }
    }

    /// The same claim, whose answer was lost.
    #[must_use]
    pub const fn again(self) -> Self {
        Self {
            number: self.number,
            resend: true,
        }
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.number
    }

    /// Whether it may have been carried out already.
    pub const fn is_resend(self) -> bool {
        self.resend
    }
}
