//! The settings of a queue that do not depend on its layout.

use std::{fmt, num::NonZeroU32, time::Duration};

/// The name of a field of a payload: 1 to 64 letters, digits, `_`, `-` and `.`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayloadField {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl PayloadField {
    const LONGEST: usize = 64;

    /// The name, unless it holds anything else.
    pub fn new(name: &str) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
        let fits = !name.is_empty() && name.len() <= Self::LONGEST && name.as_bytes().iter().all(plain);
        let mut bytes = [0; Self::LONGEST];
        fits.then(|| {
            for (place, byte) in bytes.iter_mut().zip(name.as_bytes()) {
                *place = *byte;
            }
            Self {
                bytes,
                length: name.len(),
            }
        })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default() // ASCII, as `new` has seen.
    }
}

impl fmt::Debug for PayloadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// How queues are kept, whatever their layout.
#[derive(Debug, Clone, Copy)]
pub struct BrokerOptions {
    /// How long a replica may be silent before its jobs are given to others.
    pub lease_ttl: Duration,
    /// Lost deliveries of a running job, after which it fails as poison. A job that was never started may lose four times
    /// as many.
    pub max_lost: u32,
    /// How long completed jobs are kept, where their producer says nothing.
    pub keep_completed_for: Duration,
    /// How many completed jobs are kept, where their producer says nothing.
    pub keep_completed_count: u64,
    /// The field of a job's payload that names its owner: within a priority, owners take turns. `None`: first come,
    /// first served.
    pub fairness: Option<PayloadField>,
    /// Jobs that one owner may have in flight, over the fleet; `None`: any number.
    pub most_per_owner: Option<NonZeroU32>,
    /// True if claims leave out payloads that do not fit their answer. The job reads its payload when there is room for it.
    pub leave_out_large: bool,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15),
            max_lost: 3,
            keep_completed_for: Duration::from_secs(24 * 3600),
            keep_completed_count: 10_000,
            fairness: PayloadField::new("userId"),
            most_per_owner: None,
            leave_out_large: false,
        }
    }
}
