//! A position within a trace, in the format of the W3C header `traceparent`.

use std::fmt;

/// A place in a trace. Its text is the header's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// A trace of its own.
    pub(super) fn root() -> Self {
        Self {
            trace: rand::random::<u128>().max(1),
            span: rand::random::<u64>().max(1),
            flags: 1,
        }
    }

    /// A new span within this one.
    pub(super) fn child(self) -> Self {
        Self {
            span: rand::random::<u64>().max(1),
            ..self
        }
    }

    /// Reads the header; `None` for what the standard calls invalid.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let mut hex = |length: usize| {
            let part = parts.next()?;
            let fine = part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            fine.then_some(part)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // A later version may say more; this one must not.
        if version == "ff" || version == "00" && parts.next().is_some() {
            return None;
        }
        let context = Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()? & 1,
        };
        (context.trace != 0 && context.span != 0).then_some(context)
    }

    pub(super) const fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    pub(super) const fn trace(self) -> u128 {
        self.trace
    }

    pub(super) const fn span(self) -> u64 {
        self.span
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_comes_back_as_it_was() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.to_string(), GOOD);
        assert!(context.is_sampled());
        let child = context.child();
        assert_eq!(child.trace(), context.trace());
        assert_ne!(child.span(), context.span());
        assert!(
            !TraceContext::parse(&GOOD.replace("-01", "-00"))
                .unwrap()
                .is_sampled()
        );
        assert!(TraceContext::parse(&format!("01{}-more", &GOOD[2..])).is_some());
    }

    #[test]
    fn what_the_standard_calls_invalid_is_none() {
        for header in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replace("00-0af", "ff-0af"),
            &format!("{GOOD}-more"),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("0af", "+af"),
            "00-ä-b-c",
        ] {
            assert_eq!(TraceContext::parse(header), None, "{header}");
        }
    }
}
