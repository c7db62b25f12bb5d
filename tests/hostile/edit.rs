//! How a good document is made a bad one. An [`Edit`] works on bytes, and knows where in them JSON values stand: so
//! it serves whole documents as well as headers, hashes and binary files in which some stand.

use std::ops::Range;

use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_oneof},
    sample::{Index, select},
};

/// Values that real clients send by mistake.
static VALUES: &[&[u8]] = &[
    b"null",
    b"true",
    b"false",
    b"[]",
    b"{}",
    b"\"\"",
    b"\" \"",
    b"0",
    b"-0",
    b"-1",
    b"0.5",
    b"1e999",
    b"-1e999",
    b"1e-400",
    b"255",
    b"256",
    b"65536",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"9007199254740993",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1000000000000000000000000000000",
    b"NaN",
    b"\"nan\"",
    b"\"inf\"",
    b"\"-1\"",
    b"\"0x10\"",
    b"\"1e999\"",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    "\"\u{1f4a5}\u{202e}\u{e9}\"".as_bytes(),
    b"\"\xff\xfe\"",
    b"\"../../etc/passwd\"",
    b"\"https://169.254.169.254/latest\"",
    b"\"data:;base64,AAAA\"",
    b"[null,{},[]]",
    b"{\"\":{\"\":0}}",
    b"{\"__proto__\":1}",
    b"[[],[],[]]",
    b"\"\\\"\"",
    b"\"[1,2\"",
];

/// Pieces that mean something to one parser or another.
static PIECES: &[&[u8]] = &[
    b"\0",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"\t",
    b" ",
    b":",
    b"::",
    b",",
    b"=",
    b"/",
    b"//",
    b"/../",
    b"@",
    b"?",
    b"#",
    b"%00",
    b"%2f",
    b"%",
    b"\\",
    b"\"",
    b"'",
    b"{",
    b"[",
    b"]",
    b"}",
    b"-",
    b"+",
    b".",
    b"e",
    b"0x",
    b"nan",
    b"inf",
    b"://",
    b"[::1]",
    b"127.0.0.1",
    b"0177.1",
    b"\xff",
    b"\xc3\x28",
    "\u{661}".as_bytes(),
    "\u{200b}".as_bytes(),
    b"99999999999999999999",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\x01\x00\x00\x00",
];

/// Larger than this a document is not made, bytes.
const LARGEST: usize = 64 * 1024;

/// Deeper than this no value is looked for.
const DEEPEST: usize = 250;

/// One change to a document. Places are shares of its length, so that edits can be left out while a case is made
/// smaller.
#[derive(Debug, Clone)]
enum Edit {
    /// A JSON value becomes another.
    Replace(Index, Vec<u8>),
    /// A JSON value goes, and its name with it.
    Drop(Index),
    /// A JSON value stands there twice, under the same name; the second is another.
    Duplicate(Index, Vec<u8>),
    /// A JSON value is put into so many lists or objects.
    Nest(Index, usize, bool),
    /// The rest is cut off.
    Truncate(Index),
    /// A byte becomes another.
    Flip(Index, u8),
    /// Something is put in.
    Insert(Index, Vec<u8>),
    /// A part stands there several times.
    Repeat(Index, Index, usize),
}

/// Seeds with some edits, and now and then bytes that are nothing.
pub(crate) fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edited = (select(seeds), vec(edits(), 0..6)).prop_map(|(seed, edits)| edits.iter().fold(seed, apply));
    prop_oneof![9 => edited, 1 => vec(any::<u8>(), 0..512)]
}

fn edits() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    let value = || {
        prop_oneof![
            8 => select(VALUES).prop_map(<[u8]>::to_vec),
            1 => (1..5_000_usize).prop_map(|n| [b"\"", "a".repeat(n).as_bytes(), b"\""].concat()),
            1 => (1..300_usize).prop_map(|n| "[".repeat(n).into_bytes()),
        ]
    };
    let piece = prop_oneof![
        4 => select(PIECES).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..16),
        1 => "\\PC{1,8}".prop_map(String::into_bytes),
    ];
    prop_oneof![
        6 => (place(), value()).prop_map(|(at, value)| Edit::Replace(at, value)),
        3 => place().prop_map(Edit::Drop),
        2 => (place(), value()).prop_map(|(at, value)| Edit::Duplicate(at, value)),
        1 => (place(), 1..200_usize, any::<bool>()).prop_map(|(at, depth, list)| Edit::Nest(at, depth, list)),
        1 => place().prop_map(Edit::Truncate),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Flip(at, byte)),
        3 => (place(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        1 => (place(), place(), 2..20_usize).prop_map(|(from, to, times)| Edit::Repeat(from, to, times)),
    ]
}

fn apply(mut text: Vec<u8>, edit: &Edit) -> Vec<u8> {
    if text.is_empty() {
        return text;
    }
    let len = text.len();
    match edit {
        Edit::Replace(at, value) => {
            if let Some(found) = value_at(&text, at) {
                text.splice(found, value.iter().copied());
            }
        }
        Edit::Drop(at) => {
            if let Some(found) = value_at(&text, at) {
                let start = name_before(&text, found.start).unwrap_or(found.start);
                let comma = text[found.end..].first() == Some(&b',');
                text.drain(start..found.end + usize::from(comma));
            }
        }
        Edit::Duplicate(at, value) => {
            if let Some(found) = value_at(&text, at) {
                let name =
                    name_before(&text, found.start).map_or(Vec::new(), |at| text[at..found.start].to_vec());
                let again = [b",", name.as_slice(), value].concat();
                text.splice(found.end..found.end, again);
            }
        }
        Edit::Nest(at, depth, list) => {
            if let Some(found) = value_at(&text, at) {
                let (open, close) = if *list { ("[", "]") } else { ("{\"a\":", "}") };
                text.splice(found.end..found.end, close.repeat(*depth).into_bytes());
                text.splice(found.start..found.start, open.repeat(*depth).into_bytes());
            }
        }
        Edit::Truncate(at) => text.truncate(at.index(len)),
        Edit::Flip(at, byte) => text[at.index(len)] = *byte,
        Edit::Insert(at, piece) => {
            let at = at.index(len + 1);
            text.splice(at..at, piece.iter().copied());
        }
        Edit::Repeat(from, to, times) => {
            let (from, to) = (from.index(len), to.index(len));
            let part = &text[from.min(to)..from.max(to)];
            let times = (*times).min(LARGEST.saturating_sub(len) / part.len().max(1));
            let again = part.repeat(times);
            text.splice(to..to, again);
        }
    }
    text
}

/// One of the JSON values in whatever documents the text holds.
fn value_at(text: &[u8], at: &Index) -> Option<Range<usize>> {
    let (mut found, mut from) = (Vec::new(), 0);
    while from < text.len() {
        let known = found.len();
        let opens = matches!(text[from], b'{' | b'[');
        match opens.then(|| walk(text, from, 0, &mut found)).flatten() {
            Some(end) => from = end,
            None => {
                found.truncate(known);
                from += 1;
            }
        }
    }
    (!found.is_empty()).then(|| found.swap_remove(at.index(found.len())))
}

/// Notes where the value that begins at `at` stands, and all that stand in it; returns where it ends.
fn walk(text: &[u8], at: usize, depth: usize, found: &mut Vec<Range<usize>>) -> Option<usize> {
    let first = *text.get(at).filter(|_| depth < DEEPEST)?;
    let end = match first {
        b'"' => string_end(text, at)?,
        b'{' | b'[' => {
            let close = if first == b'{' { b'}' } else { b']' };
            let mut next = after_space(text, at + 1);
            while *text.get(next)? != close {
                if first == b'{' {
                    next = after_space(text, string_end(text, next)?);
                    next = after_space(text, next + usize::from(*text.get(next)? == b':'));
                }
                next = after_space(text, walk(text, next, depth + 1, found)?);
                next = after_space(text, next + usize::from(*text.get(next)? == b','));
            }
            next + 1
        }
        _ => {
            let length = text[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
                .count();
            (length > 0).then_some(at + length)?
        }
    };
    found.push(at..end);
    Some(end)
}

fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut next = text.get(at).filter(|byte| **byte == b'"').map(|_| at + 1)?;
    while *text.get(next)? != b'"' {
        next += 1 + usize::from(text[next] == b'\\');
    }
    Some(next + 1)
}

fn after_space(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the name of an object's member begins, whose value begins here.
fn name_before(text: &[u8], value: usize) -> Option<usize> {
    let name = text[..value].strip_suffix(b":")?.strip_suffix(b"\"")?;
    name.iter().rposition(|byte| *byte == b'"')
}
