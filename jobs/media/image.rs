//! Whether a picture is one that Azure Vision reads, told from its header, and whether it is all there: a
//! picture that it would refuse, or read in part, must not cost a call.

use std::{io::Cursor, ops::RangeInclusive};

use imagesize::{Compression, ImageType, image_type};

use super::formats::name_of;
use crate::{Failure, VisionApi};

mod complete;

/// Largest image that Azure accepts, bytes.
pub const MAX_BYTES: usize = 20_971_520;

/// Shortest and longest side that the service accepts, pixels.
const fn side(api: VisionApi) -> RangeInclusive<u32> {
    match api {
        VisionApi::ImageAnalysis40 => 50..=16_000,
        VisionApi::Read32 | VisionApi::DocumentIntelligence => 50..=10_000,
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
        VisionApi::DocumentIntelligence => &[
            (ImageType::Jpeg, "JPEG"),
            (ImageType::Png, "PNG"),
            (ImageType::Bmp, "BMP"),
            (ImageType::Tiff, "TIFF"),
            (HEIF, "HEIF"),
        ],
    }
}

/// HEIF with pictures of any codec but AV1, HEIC among them.
const HEIF: ImageType = ImageType::Heif(Compression::Hevc);

/// What the header of an image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Name of the format: `JPEG`, `PNG`, `GIF`, `BMP`, `WEBP`, `ICO`, `TIFF` or `HEIF`.
    pub format: &'static str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Pages that the service reads.
    pub pages: u64,
}

/// Checks format and size of an image for `api`. `field` is the payload field's name for the error.
///
/// # Errors
/// [`FailureClass::Permanent`](crate::FailureClass::Permanent) when the service would refuse the image.
pub fn check(field: &str, bytes: &[u8], api: VisionApi) -> Result<ImageInfo, Failure> {
    let refused = |why: String| Err(Failure::invalid_field(field, why));
    if bytes.len() > MAX_BYTES {
        return refused(format!(
            "image has {} bytes, at most {MAX_BYTES} are allowed",
            bytes.len()
        ));
    }
    // Twelve bytes tell the formats that count; with more, other formats' parsers would run as well.
    let kind = match name_of(bytes) {
        Some("HEIC" | "HEIF") => Ok(HEIF),
        _ => image_type(bytes.get(..12).unwrap_or_default()),
    };
    let formats = formats(api);
    let Some(&(kind, format)) = formats
        .iter()
        .find(|(known, _)| kind.as_ref().is_ok_and(|kind| kind == known))
    else {
        let names: Vec<_> = formats.iter().map(|(_, name)| *name).collect();
        let names = names.join(", ");
        return refused(match name_of(bytes) {
            Some("PDF") => {
                "is a PDF, which is not supported: send its pages as images (JPEG or PNG)".to_owned()
            }
            Some(name @ ("HEIC" | "HEIF" | "AVIF")) => format!(
                "is a {name} image, which is not supported: send it as JPEG (on an iPhone: Settings, Camera, Formats, \
                 Most Compatible)"
            ),
            Some(name) => format!("is a {name} file, which is not supported: it is none of {names}"),
            None => format!("is none of {names}"),
        });
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
    if !complete::is_complete(kind, bytes) {
        return refused(format!(
            "{format} image is incomplete: its end is missing; send the whole file"
        ));
    }
    let pages = match kind {
        ImageType::Tiff => complete::tiff_pages(bytes),
        _ => 1,
    };
    if pages > 1 && !api.reads_pages() {
        return refused(format!(
            "TIFF has {pages} pages, only one can be read: send each page as an image of its own"
        ));
    }
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
        pages: pages as u64,
    })
}

#[cfg(test)]
mod tests;
