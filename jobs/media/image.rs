//! Whether a picture is one that Azure Vision reads, told from its header: a picture that it would refuse must
//! not cost a call.

use std::{io::Cursor, ops::RangeInclusive};

use imagesize::{ImageType, image_type};

use crate::{Failure, VisionApi};

/// Largest image that Azure accepts, bytes.
pub const MAX_BYTES: usize = 20_971_520;

/// Shortest and longest side that the service accepts, pixels.
const fn side(api: VisionApi) -> RangeInclusive<u32> {
    match api {
        VisionApi::ImageAnalysis40 => 50..=16_000,
        VisionApi::Read32 => 50..=10_000,
    }
}

/// The formats that the service reads, and their names.
const fn formats(api: VisionApi) -> &'static [(ImageType, &'static str)] {
    match api {
        VisionApi::ImageAnalysis40 => &[
            (ImageType::Jpeg, "JPEG"),
            (ImageType::Png, "PNG"),
            (ImageType::Gif, "GIF"),
            (ImageType::Bmp, "BMP"),
            (ImageType::Webp, "WEBP"),
            (ImageType::Ico, "ICO"),
            (ImageType::Tiff, "TIFF"),
        ],
        VisionApi::Read32 => &[
            (ImageType::Jpeg, "JPEG"),
            (ImageType::Png, "PNG"),
            (ImageType::Bmp, "BMP"),
            (ImageType::Tiff, "TIFF"),
        ],
    }
}

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

/// Checks format and size of an image that `api` shall read. `field` is the payload field's name for the error.
///
/// # Errors
/// [`Class::Permanent`](crate::Class::Permanent) when the service would refuse the image.
pub fn check(field: &str, bytes: &[u8], api: VisionApi) -> Result<ImageInfo, Failure> {
    let refused = |why: String| Err(Failure::invalid_field(field, why));
    if bytes.len() > MAX_BYTES {
        return refused(format!(
            "image has {} bytes, at most {MAX_BYTES} are allowed",
            bytes.len()
        ));
    }
    // Twelve bytes tell the formats that count; with more, other formats' parsers would run as well.
    let kind = image_type(bytes.get(..12).unwrap_or_default());
    let formats = formats(api);
    let Some(&(kind, format)) = formats
        .iter()
        .find(|(known, _)| kind.as_ref().is_ok_and(|kind| kind == known))
    else {
        let names: Vec<_> = formats.iter().map(|(_, name)| *name).collect();
        return refused(format!("is none of {}", names.join(", ")));
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
    let side = side(api);
    if !side.contains(&width) || !side.contains(&height) {
        return refused(format!(
            "image is {width} × {height} pixels, each side must have {} to {}",
            side.start(),
            side.end()
        ));
    }
    Ok(ImageInfo {
        format,
        width,
        height,
    })
}

#[cfg(test)]
mod tests;
