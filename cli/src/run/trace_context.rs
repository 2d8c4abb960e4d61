//! The trace that a run belongs to, from the variable `TRACEPARENT` (W3C Trace Context).
//!
//! The command inherits `TRACESTATE` as it is, and this variable too unless spans are exported.

/// The variable that names the trace and the parent span.
pub(super) const VARIABLE: &str = "TRACEPARENT";

/// The trace and the span from which a run was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace_id: u128,
    pub(super) span_id: u64,
    /// Bit 0: the caller records the trace.
    pub(super) flags: u8,
}

impl TraceParent {
    /// Returns the parent that the environment names. An invalid value counts as none.
    pub(super) fn from_environment() -> Option<Self> {
        let value = std::env::var_os(VARIABLE)?;
        let parent = value.to_str().and_then(Self::parse);
        match parent {
            Some(Self {
                trace_id, span_id, ..
            }) => tracing::debug!("the run belongs to trace {trace_id:032x}, span {span_id:016x}"),
            None => tracing::debug!("{VARIABLE} is invalid and is ignored"),
        }
        parent
    }

    /// Parses `VERSION-TRACE_ID-SPAN_ID-FLAGS`, all in lower-case hexadecimal digits. A version after
    /// 00 may have more fields.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hexadecimal(fields.next()?, 2)?;
        let trace_id = hexadecimal(fields.next()?, 32)?;
        let span_id = u64::try_from(hexadecimal(fields.next()?, 16)?).ok()?;
        let flags = u8::try_from(hexadecimal(fields.next()?, 2)?).ok()?;
        let valid = match version {
            0x00 => fields.next().is_none(),
            0xff => false,
            _ => true,
        };
        (valid && trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }
}

#[cfg(feature = "otlp")]
impl std::fmt::Display for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_parents_are_parsed() {
        let parent = TraceParent {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            flags: 1,
        };
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(text), Some(parent));
        let newer = format!("cc{}-more", &text[2..]);
        assert_eq!(TraceParent::parse(&newer), Some(parent));
    }

    #[test]
    fn invalid_parents_are_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }
}
