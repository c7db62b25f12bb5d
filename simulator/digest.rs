//! Small numbers drawn from inputs: what makes each answer of the simulator recognisable as the answer to its own
//! request. Stable between runs and builds, unlike the hasher of the standard library.

/// FNV-1a over the parts, with a separator between them, so that `["ab", "c"]` differs from `["a", "bc"]`.
pub(super) fn of(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(hash)
}

/// Spreads neighbouring numbers over the whole range (the finaliser of splitmix64).
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sixteen hexadecimal digits.
pub(super) fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// The first `job-…` name within the texts, at most 128 characters of it.
pub(super) fn marker(texts: &[&[u8]]) -> Option<String> {
    texts.iter().find_map(|text| {
        let mut rest = *text;
        while let Some(at) = find(rest, b"job-") {
            let name = &rest[at..];
            let tail = name[4..].iter().take(124);
            let length = tail
                .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                .count();
            if length > 0 {
                return Some(String::from_utf8_lossy(&name[..4 + length]).into_owned());
            }
            rest = &name[4..];
        }
        None
    })
}

/// Where `wanted` begins in `text`.
pub(super) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    text.windows(wanted.len()).position(|window| window == wanted)
}
