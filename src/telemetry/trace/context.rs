//! A position within a trace, in the format of the W3C header `traceparent`.
//!
//! The SDK's own propagator also takes headers that the standard calls invalid, such as ids that are too short.

use std::fmt;

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

/// A place in a trace. Its text is the header's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
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
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let context = SpanContext::new(
            TraceId::from_hex(trace).ok()?,
            SpanId::from_hex(span).ok()?,
            flags,
            true,
            TraceState::NONE,
        );
        context.is_valid().then_some(Self(context))
    }

    /// The span of a context; `None` where there is none.
    pub(super) fn of(context: &Context) -> Option<Self> {
        let span = context.span().span_context().clone();
        span.is_valid().then_some(Self(span))
    }

    /// A context whose new spans are children of this place.
    pub(super) fn as_parent(&self) -> Context {
        Context::new().with_remote_span_context(self.0.clone())
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (self.0.trace_id(), self.0.span_id());
        write!(f, "00-{trace}-{span}-{:02x}", self.0.trace_flags())
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
        assert!(context.0.is_sampled() && context.0.is_remote());
        assert_eq!(TraceContext::of(&context.as_parent()), Some(context));
        let unsampled = TraceContext::parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!unsampled.0.is_sampled());
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
