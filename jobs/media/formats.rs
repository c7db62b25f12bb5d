//! Names of files that are sent by mistake, or in a format that no provider reads, from their first bytes: a refusal
//! that names the format says what to do.

/// The name of the file's format, where it is one that phones, browsers or servers send in place of another.
pub(super) fn name_of(file: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| file.get(offset..).is_some_and(|file| file.starts_with(magic));
    if at(4, b"ftyp") {
        return file_type(file);
    }
    const AT_START: &[(&[u8], &str)] = &[
        (b"%PDF", "PDF"),
        (b"#!AMR-WB", "AMR-WB"),
        (b"#!AMR", "AMR"),
        (b"#!SILK", "SILK"),
        (b"\x02#!SILK", "SILK"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
        (b"MThd", "MIDI"),
        (b".RMF", "RealAudio"),
        (b".ra\xfd", "RealAudio"),
        (b".snd", "AU"),
        (b"wvpk", "WavPack"),
        (b"MAC ", "Monkey's Audio"),
        (b"TTA1", "TTA"),
        (b"MP+", "Musepack"),
        (b"MPCK", "Musepack"),
        (b"DSD ", "DSD"),
        (b"\x0b\x77", "AC-3"),
        (b"fLaC", "FLAC"),
        (b"ID3", "MP3"),
        (b"OggS", "Ogg"),
        (b"caff", "CAF"),
        (b"FORM", "AIFF"),
        (b"\x1a\x45\xdf\xa3", "WebM"),
        (b"FLV\x01", "Flash video"),
        (b"\0\0\x01\xba", "MPEG video"),
        (b"\0\0\x01\xb3", "MPEG video"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG", "PNG"),
        (b"GIF8", "GIF"),
        (b"8BPS", "Photoshop"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"qoif", "QOI"),
        (b"AT&TFORM", "DjVu"),
        (b"PK\x03\x04", "ZIP or Office"),
        (b"\x1f\x8b", "gzip"),
        (b"Rar!", "RAR"),
        (b"7z\xbc\xaf", "7-Zip"),
        (b"{\\rtf", "RTF"),
        (b"\xd0\xcf\x11\xe0", "old Office"),
    ];
    if let Some((_, name)) = AT_START.iter().find(|(magic, _)| at(0, magic)) {
        return Some(name);
    }
    if at(0, b"RIFF") {
        return Some(match file.get(8..12)? {
            b"WAVE" => "WAV",
            b"WEBP" => "WebP",
            b"AVI " => "AVI video",
            b"QLCM" => "QCP",
            _ => return None,
        });
    }
    text(file)
}

/// The brand of a file of the ISO family, which HEIC, AVIF, MP4 and 3GP belong to.
fn file_type(file: &[u8]) -> Option<&'static str> {
    let size = u32::from_be_bytes(file.get(..4)?.try_into().ok()?) as usize;
    let brands = file.get(8..size.clamp(16, 256).min(file.len()))?;
    // The second field is a version, no brand.
    let brands = brands.chunks_exact(4).enumerate().filter(|(i, _)| *i != 1);
    let names: Vec<&str> = brands.filter_map(|(_, brand)| brand_name(brand)).collect();
    // A file names the general brands of its family as well.
    let is_specific = |name: &&&str| !matches!(**name, "HEIF" | "MP4");
    names.iter().find(is_specific).or(names.first()).copied()
}

fn brand_name(brand: &[u8]) -> Option<&'static str> {
    Some(match brand {
        b"avif" | b"avis" => "AVIF",
        b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"hevm" | b"hevs" => "HEIC",
        b"mif1" | b"msf1" => "HEIF",
        b"crx " => "Canon raw",
        b"jxl " => "JPEG XL",
        b"M4A " | b"M4B " | b"M4P " => "M4A",
        b"qt  " => "QuickTime",
        brand if brand.starts_with(b"3g") => "3GP",
        brand if brand.starts_with(b"mp4") || brand.starts_with(b"iso") => "MP4",
        _ => return None,
    })
}

/// Texts: a server that answers with a page instead of a file, or the address in place of the file.
fn text(file: &[u8]) -> Option<&'static str> {
    let head = file.get(..file.len().min(512))?;
    let head = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let starts_with = |magic: &str| {
        head.get(..magic.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(magic.as_bytes()))
    };
    if starts_with("<!doctype html") || starts_with("<html") {
        return Some("HTML");
    }
    if starts_with("<svg") || (starts_with("<?xml") && head.windows(4).any(|part| part == b"<svg")) {
        return Some("SVG");
    }
    if starts_with("<?xml") {
        return Some("XML");
    }
    if starts_with("{") || starts_with("[") {
        return Some("JSON");
    }
    if starts_with("data:") || starts_with("iVBORw0KGgo") || starts_with("/9j/") || starts_with("UklGR") {
        return Some("base64 within base64");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_by_their_first_bytes() {
        for (file, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], Some("HEIC")),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", Some("AVIF")),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", Some("AVIF")),
            (b"\0\0\0\x18ftyp3gp4\0\0\0\0isom3gp4", Some("3GP")),
            (b"\0\0\0\x1cftypisom\0\0\x02\0isomiso2mp41", Some("MP4")),
            (b"#!AMR\n\x3c", Some("AMR")),
            (b"#!AMR-WB\n", Some("AMR-WB")),
            (b"%PDF-1.7", Some("PDF")),
            (b" \n<!DOCTYPE html><html>", Some("HTML")),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", Some("XML")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("WebP")),
            (b"hello", None),
            (b"", None),
            (b"\0\0\0\xffftyp", None),
            (b"\0\0\0\0ftypqt  ", Some("QuickTime")),
        ] {
            assert_eq!(name_of(file), name, "{file:?}");
        }
        for length in 0..24 {
            name_of(&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..length]);
        }
    }
}
