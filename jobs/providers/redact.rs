//! Takes the key out of what a provider says: some echo it.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};

/// Replacement of a redacted key.
const STAND_IN: &[u8] = b"[key]";
/// A stand-in's key can be a letter or two: no secret, and to take it out would garble the JSON.
const SHORTEST: usize = 8;

/// The body without the key, also where JSON escapes characters of it: what reads the body would write them out.
pub(super) fn redact(body: Bytes, key: &SecretString) -> Bytes {
    let key = key.expose_secret().as_bytes();
    if key.len() < SHORTEST {
        return body;
    }
    let begins = |byte: &u8| *byte == key[0] || *byte == b'\\';
    let (mut redacted, mut kept, mut at) = (Vec::new(), 0, 0);
    while let Some(further) = body[at..].iter().position(begins) {
        at += further;
        // A search that begins inside a run of backslashes finds no more than one that began in front of it.
        let inside = at > 0 && body[at - 1..].starts_with(br"\\");
        match if inside { None } else { found(&body[at..], key) } {
            Some(length) => {
                redacted.extend_from_slice(&body[kept..at]);
                redacted.extend_from_slice(STAND_IN);
                at += length;
                kept = at;
            }
            None => at += 1,
        }
    }
    if kept == 0 {
        return body;
    }
    redacted.extend_from_slice(&body[kept..]);
    redacted.into()
}

/// How many bytes the key takes at the beginning of a text; `None` where it does not stand there.
fn found(text: &[u8], key: &[u8]) -> Option<usize> {
    if text.starts_with(key) {
        return Some(key.len());
    }
    let rest = key.iter().try_fold(text, |rest, byte| behind(rest, *byte))?;
    Some(text.len() - rest.len())
}

/// The rest after a character, plain or escaped; `None` if the text begins with another one. JSON within JSON escapes
/// backslashes again, so the function accepts any number of them.
fn behind(text: &[u8], byte: u8) -> Option<&[u8]> {
    let slashes = text.iter().take_while(|byte| **byte == b'\\').count();
    let bare = &text[slashes..];
    if slashes > 0
        && let Some((hex, rest)) = bare.strip_prefix(b"u").and_then(|code| code.split_at_checked(4))
        && let Ok(hex) = std::str::from_utf8(hex)
        && u32::from_str_radix(hex, 16) == Ok(byte.into())
    {
        return Some(rest);
    }
    bare.strip_prefix(&[byte])
}
