//! The frame of an event: all of it but its text. Most events of a stream differ in their text alone, and an event in the
//! frame of an earlier one needs no parser.

/// A member of OpenAI's events that has another length in each of them, so that the length of an event tells nothing.
const PADDING: &str = r#""obfuscation":""#;

/// The beginning of an event's line, and the end of the event, as most providers write them.
const LINE: &str = "data: ";
const END: &str = "\n\n";

/// The parts of an event around its text.
#[derive(Debug)]
pub(super) struct EventFrame {
    /// With [`LINE`] in front.
    before: String,
    /// With [`END`] behind, unless there is padding.
    behind: String,
    /// The part behind the padding, where the event has one, and [`END`].
    behind_padding: Option<String>,
}

impl EventFrame {
    /// The frame of an event around its text, which is a part of it, in its escaped form.
    pub(super) fn around(event: &str, text: &str) -> Option<Self> {
        let at = (text.as_ptr() as usize).checked_sub(event.as_ptr() as usize)?;
        let (before, behind) = (event.get(..at)?, event.get(at + text.len()..)?);
        let (behind, behind_padding) = match behind.find(PADDING) {
            Some(found) => {
                let (behind, padding) = behind.split_at(found + PADDING.len());
                let end = inside_of_string(padding.as_bytes())?.len();
                (behind, Some(padding[end..].to_owned()))
            }
            None => (behind, None),
        };
        let mut frame = Self {
            before: format!("{LINE}{before}"),
            behind: behind.to_owned(),
            behind_padding,
        };
        frame
            .behind_padding
            .as_mut()
            .unwrap_or(&mut frame.behind)
            .push_str(END);
        Some(frame)
    }

    /// The text of the event in this frame with which the lines begin, in its escaped form, and the bytes that follow.
    pub(super) fn split_lines<'b>(&self, lines: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        self.split(lines, 0, 0)
    }

    /// The text of an event in this frame, in its escaped form.
    pub(super) fn text_of<'e>(&self, event: &'e str) -> Option<&'e str> {
        let (text, rest) = self.split(event.as_bytes(), LINE.len(), END.len())?;
        // Its ends are those of the frame's parts, which are whole characters.
        std::str::from_utf8(text).ok().filter(|_| rest.is_empty())
    }

    /// `bytes` lack so many bytes of the frame at its front and at its end.
    fn split<'b>(&self, bytes: &'b [u8], front: usize, end: usize) -> Option<(&'b [u8], &'b [u8])> {
        let begun = bytes.strip_prefix(&self.before.as_bytes()[front..])?;
        let text = inside_of_string(begun)?;
        let (behind, rest) = (self.behind.as_bytes(), &begun[text.len()..]);
        let rest = match &self.behind_padding {
            None => rest.strip_prefix(&behind[..behind.len() - end])?,
            Some(last) => {
                let padded = rest.strip_prefix(behind)?;
                let padding = inside_of_string(padded)?;
                padded[padding.len()..].strip_prefix(&last.as_bytes()[..last.len() - end])?
            }
        };
        Some((text, rest))
    }
}

/// The bytes that stand for themselves in a JSON string.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut control = 0;
    while control < 0x20 {
        plain[control] = false;
        control += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// The inside of the JSON string whose inside `bytes` begin with; `None` if it is not valid, or has no end.
fn inside_of_string(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|byte| !PLAIN[usize::from(*byte)])?;
        match bytes[at..] {
            [b'"', ..] => return Some(&bytes[..at]),
            [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => at += 2,
            [b'\\', b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(u8::is_ascii_hexdigit) => at += 6,
            _ => return None,
        }
    }
}
