//! How an image lies, by its EXIF data. They stand at another place in each format; a TIFF has their form itself.

use image::metadata::Orientation;
use imagesize::ImageType;

use super::complete::{big, little};

/// How a file is turned, as EXIF counts: 1 to 8. 1, upright, where it says nothing.
pub(super) fn orientation(kind: ImageType, file: &[u8]) -> u8 {
    let exif = match kind {
        ImageType::Jpeg => in_jpeg(file),
        ImageType::Png => in_png(file),
        ImageType::Webp => in_webp(file),
        ImageType::Tiff => Some(file),
        _ => None,
    };
    exif.and_then(Orientation::from_exif_chunk)
        .map_or(1, Orientation::to_exif)
}

/// In a segment in front of the pixels.
fn in_jpeg(file: &[u8]) -> Option<&[u8]> {
    let mut at = 2;
    loop {
        let &[0xff, marker] = file.get(at..at + 2)? else {
            return None;
        };
        match marker {
            0xff => at += 1,
            // The pixels begin, or the file ends.
            0xda | 0xd9 => return None,
            _ => {
                let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
                let end = at + 2 + length.max(2);
                let segment = file.get(at + 4..end)?;
                if let (0xe1, Some(exif)) = (marker, segment.strip_prefix(b"Exif\0\0")) {
                    return Some(exif);
                }
                at = end;
            }
        }
    }
}

/// In the chunk `eXIf`.
fn in_png(file: &[u8]) -> Option<&[u8]> {
    let mut at = 8_usize;
    loop {
        let length = usize::try_from(big(file, at)?).ok()?;
        let content = at + 8;
        let end = content.checked_add(length)?;
        match file.get(at + 4..content)? {
            b"eXIf" => return file.get(content..end),
            b"IEND" => return None,
            _ => at = end.checked_add(4)?,
        }
    }
}

/// In the chunk `EXIF`, which some writers begin as in a JPEG.
fn in_webp(file: &[u8]) -> Option<&[u8]> {
    let mut at = 12_usize;
    loop {
        let length = usize::try_from(little(file, at + 4)?).ok()?;
        let content = at + 8;
        let end = content.checked_add(length)?;
        if file.get(at..at + 4)? == b"EXIF" {
            let exif = file.get(content..end)?;
            return Some(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
        }
        // Chunks have an even length.
        at = end.checked_add(length % 2)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exif(orientation: u8) -> Vec<u8> {
        let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
        [b"II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat()
    }

    fn png_chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length, &name[..], content, &[0; 4]].concat()
    }

    #[test]
    fn the_orientation_is_found_in_each_format() {
        let png = [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            png_chunk(b"IHDR", &[0; 13]),
            png_chunk(b"eXIf", &exif(6)),
        ]
        .concat();
        assert_eq!(orientation(ImageType::Png, &png), 6);
        for start in [&b""[..], b"Exif\0\0"] {
            let content = [start, &exif(3)].concat();
            let length = u32::try_from(content.len()).unwrap().to_le_bytes();
            let webp = [
                b"RIFF\0\0\0\0WEBP".as_slice(),
                b"VP8X\x03\0\0\0\x01\x02\x03\0",
                b"EXIF",
                &length,
                &content,
            ]
            .concat();
            assert_eq!(orientation(ImageType::Webp, &webp), 3);
        }
        for number in 0..=9 {
            let wanted = if (1..=8).contains(&number) { number } else { 1 };
            assert_eq!(orientation(ImageType::Tiff, &exif(number)), wanted);
        }
        let tiff = exif(8);
        for length in 0..tiff.len() - 6 {
            assert_eq!(orientation(ImageType::Tiff, &tiff[..length]), 1);
        }
        for (kind, file) in [
            (ImageType::Png, &png),
            (ImageType::Jpeg, &png),
            (ImageType::Gif, &tiff),
        ] {
            for length in 0..file.len().min(60) {
                assert_eq!(orientation(kind, &file[..length]), 1);
            }
        }
    }
}
