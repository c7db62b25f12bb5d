//! Whether a picture is one that Azure Vision reads, told from its header: a picture that it would refuse must
//! not cost a call.

use std::io::Cursor;

use imagesize::{ImageType, image_type};

use crate::Failure;

/// Largest image that Azure accepts, bytes.
pub const MAX_BYTES: usize = 20_971_520;

/// Shortest and longest side that Azure accepts, pixels.
pub const SIDE: std::ops::RangeInclusive<u32> = 50..=16_000;

/// What the header of an image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Name of the format: `JPEG`, `PNG`, `GIF`, `BMP`, `WEBP`, `ICO` or `TIFF`.
    pub format: &'static str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Checks format and size of an image. `field` is the payload field's name for the error.
///
/// # Errors
/// [`Class::Permanent`](crate::Class::Permanent) when Azure would refuse the image.
pub fn check(field: &str, bytes: &[u8]) -> Result<ImageInfo, Failure> {
    let refused = |why: String| Err(Failure::invalid_field(field, why));
    if bytes.len() > MAX_BYTES {
        return refused(format!(
            "image has {} bytes, at most {MAX_BYTES} are allowed",
            bytes.len()
        ));
    }
    // Twelve bytes tell the formats that count; with more, other formats' parsers would run as well.
    let kind = image_type(bytes.get(..12).unwrap_or_default());
    let (kind, format) = match kind {
        Ok(kind @ ImageType::Jpeg) => (kind, "JPEG"),
        Ok(kind @ ImageType::Png) => (kind, "PNG"),
        Ok(kind @ ImageType::Gif) => (kind, "GIF"),
        Ok(kind @ ImageType::Bmp) => (kind, "BMP"),
        Ok(kind @ ImageType::Webp) => (kind, "WEBP"),
        Ok(kind @ ImageType::Ico) => (kind, "ICO"),
        Ok(kind @ ImageType::Tiff) => (kind, "TIFF"),
        _ => return refused("is not a JPEG, PNG, GIF, BMP, WEBP, ICO or TIFF image".into()),
    };
    let mut reader = Cursor::new(bytes);
    // The WebP parser goes on from behind the twelve bytes that told the format.
    reader.set_position(12);
    let size = kind
        .reader_size(&mut reader)
        .map_err(|e| Failure::invalid_field(field, format_args!("{format} image is damaged")).caused_by(e))?;
    let (width, height) = match (u32::try_from(size.width), u32::try_from(size.height)) {
        // A BMP that is stored from the top down states its height as a negative number.
        (Ok(width), Ok(height)) if kind == ImageType::Bmp => (width, height.cast_signed().unsigned_abs()),
        (Ok(width), Ok(height)) => (width, height),
        _ => return refused(format!("{format} image is damaged")),
    };
    if !SIDE.contains(&width) || !SIDE.contains(&height) {
        return refused(format!(
            "image is {width} × {height} pixels, each side must have {} to {}",
            SIDE.start(),
            SIDE.end()
        ));
    }
    Ok(ImageInfo {
        format,
        width,
        height,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/../samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        let failure = check("imageUrl", bytes).unwrap_err();
        assert_eq!(failure.class(), crate::Class::Permanent);
        failure
            .to_string()
            .strip_prefix("payload field \"imageUrl\": ")
            .unwrap()
            .to_owned()
    }

    /// A PNG header with the given size.
    fn png(width: u32, height: u32) -> Vec<u8> {
        [
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(),
            &width.to_be_bytes(),
            &height.to_be_bytes(),
        ]
        .concat()
    }

    #[test]
    fn every_format_that_azure_reads_is_told_with_its_size() {
        let (side, big): ([u8; 2], [u8; 2]) = (100_u16.to_le_bytes(), 200_u16.to_be_bytes());
        let gif = [b"GIF89a".as_slice(), &side, &side, &[0; 8]].concat();
        let bmp = |height: i32| {
            [
                b"BM".as_slice(),
                &[0; 16],
                &100_u32.to_le_bytes(),
                &height.to_le_bytes(),
                &[0; 8],
            ]
            .concat()
        };
        let webp = [b"RIFF\0\0\0\0WEBPVP8 ".as_slice(), &[0; 10], &side, &side].concat();
        let lossless = [b"RIFF\0\0\0\0WEBPVP8L".as_slice(), &[0; 5], &[99, 192, 24, 0]].concat();
        let ico = [b"\0\0\x01\0\x01\0".as_slice(), &[100, 100], &[0; 14]].concat();
        let entry = |tag: u16| [tag.to_be_bytes(), [0, 3], [0, 0], [0, 1], big, [0, 0]].concat();
        let tiff = [b"MM\0*\0\0\0\x08\0\x02".as_slice(), &entry(0x100), &entry(0x101)].concat();
        for (bytes, format, width, height) in [
            (sample("text.png"), "PNG", 800, 240),
            (sample("text.jpg"), "JPEG", 800, 240),
            (gif, "GIF", 100, 100),
            (bmp(100), "BMP", 100, 100),
            (bmp(-100), "BMP", 100, 100),
            (webp, "WEBP", 100, 100),
            (lossless, "WEBP", 100, 100),
            (ico, "ICO", 100, 100),
            (tiff, "TIFF", 200, 200),
        ] {
            assert_eq!(
                check("f", &bytes).unwrap(),
                ImageInfo {
                    format,
                    width,
                    height
                }
            );
        }
    }

    #[test]
    fn sides_have_limits() {
        for (width, height) in [(50, 50), (16_000, 50), (50, 16_000)] {
            check("f", &png(width, height)).unwrap();
        }
        for (width, height) in [
            (49, 50),
            (50, 49),
            (16_001, 50),
            (50, 16_001),
            (0, 50),
            (50, u32::MAX),
        ] {
            let why = refusal(&png(width, height));
            let expected = format!("image is {width} × {height} pixels, each side must have 50 to 16000");
            assert_eq!(why, expected);
        }
        assert!(refusal(&sample("tiny49.png")).starts_with("image is 49 × 49 pixels"));
    }

    #[test]
    fn what_is_no_such_image_is_refused() {
        for bytes in [
            &sample("bad.png")[..],
            &sample("good_morning.wav"),
            b"",
            b"\x89PNG",
            b"qoif\0\0\0\x64\0\0\0\x64\0\0",
        ] {
            assert_eq!(
                refusal(bytes),
                "is not a JPEG, PNG, GIF, BMP, WEBP, ICO or TIFF image"
            );
        }
        assert!(refusal(&png(100, 100)[..20]).starts_with("PNG image is damaged"));
        let mut large = png(100, 100);
        large.resize(MAX_BYTES, 0);
        check("f", &large).unwrap();
        large.push(0);
        assert_eq!(
            refusal(&large),
            "image has 20971521 bytes, at most 20971520 are allowed"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn noise_is_survived(
            start in prop::sample::select(vec![
                b"".as_slice(), b"\xff\xd8\xff\xe0", b"\x89PNG", b"GIF8", b"BM", b"RIFF\0\0\0\0WEBPVP8 ",
                b"RIFF\0\0\0\0WEBPVP8X", b"\0\0\x01\0", b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0",
            ]),
            noise in prop::collection::vec(any::<u8>(), 0..512),
        ) {
            if let Ok(info) = check("f", &[start, &noise].concat()) {
                prop_assert!(SIDE.contains(&info.width) && SIDE.contains(&info.height));
            }
        }

        #[test]
        fn cut_and_flipped_images_are_survived(
            name in prop::sample::select(vec!["text.png", "text.jpg"]),
            cut in any::<prop::sample::Index>(),
            flips in prop::collection::vec((0_usize..64, any::<u8>()), 0..8),
        ) {
            let mut file = sample(name);
            file.truncate(cut.index(file.len()).max(64));
            for (at, value) in flips {
                file[at] ^= value;
            }
            if let Ok(info) = check("f", &file) {
                prop_assert!(SIDE.contains(&info.width) && SIDE.contains(&info.height));
            }
        }
    }
}
