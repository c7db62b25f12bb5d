//! Checks by the header whether Azure Vision reads an image, and whether the file is complete. An image that the service
//! would refuse, or read in part, must not cost a call.

use std::{io::Cursor, ops::RangeInclusive};

use bytes::Bytes;
use imagesize::{Compression, ImageType, image_type};
use tracing::debug;

use super::{
    decoder::{DecodeError, MediaDecoder},
    formats::name_of,
};
use crate::{Failure, FailureClass, VisionApi};

mod complete;
mod exif;
pub mod reshape;

pub use reshape::ImagePlan;
use reshape::MOST_PIXELS;

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

/// The content of an image's header.
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
    /// The change that it needs before it is sent.
    pub fit: ImageFit,
}

/// The change that an image needs before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFit {
    /// No change.
    Sent,
    /// It should be turned upright. As it is, the service finds most of its text as well.
    Turned(ImagePlan),
    /// It has to be scaled down.
    Scaled(ImagePlan),
}

/// Checks format and size of an image for `api`. `field` is the payload field's name for the error.
///
/// # Errors
/// [`FailureClass::Permanent`] when the service would refuse the image.
pub fn check(field: &str, bytes: &[u8], api: VisionApi) -> Result<ImageInfo, Failure> {
    let refused = |why: String| Err(Failure::invalid_field(field, why));
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
    let fit = fit(field, bytes, (kind, pages), (width, height), api)?;
    Ok(ImageInfo {
        format,
        width,
        height,
        pages: pages as u64,
        fit,
    })
}

/// Finds the change that an image of one of the service's formats needs before it is sent.
fn fit(
    field: &str,
    bytes: &[u8],
    (kind, pages): (ImageType, usize),
    (width, height): (u32, u32),
    api: VisionApi,
) -> Result<ImageFit, Failure> {
    let side = side(api);
    let (shorter, longer) = (width.min(height), width.max(height));
    let fits = side.contains(&shorter) && side.contains(&longer) && bytes.len() <= MAX_BYTES;
    let can_be_changed = u64::from(width) * u64::from(height) <= MOST_PIXELS && pages == 1;
    let orientation = exif::orientation(kind, bytes);
    let plan = ImagePlan {
        longest: *side.end(),
        orientation,
    };
    if fits {
        return Ok(match can_be_changed && orientation > 1 {
            true => ImageFit::Turned(plan),
            false => ImageFit::Sent,
        });
    }
    // The shorter side shrinks with the longer one.
    let scaled = u64::from(shorter) * u64::from(plan.longest) / u64::from(longer.max(plan.longest));
    let is_known = matches!(
        kind,
        ImageType::Jpeg
            | ImageType::Png
            | ImageType::Bmp
            | ImageType::Webp
            | ImageType::Gif
            | ImageType::Tiff
    );
    if is_known && can_be_changed && scaled >= u64::from(*side.start()) {
        return Ok(ImageFit::Scaled(plan));
    }
    let mut why = match side.contains(&shorter) && side.contains(&longer) {
        true => format!("image has {} bytes, at most {MAX_BYTES} are allowed", bytes.len()),
        false => format!(
            "image is {width} × {height} pixels, each side must have {} to {}",
            side.start(),
            side.end()
        ),
    };
    if pages > 1 {
        why.push_str("; a TIFF of several pages is not scaled down: send each page as an image of its own");
    }
    Err(Failure::invalid_field(field, why))
}

/// Changes an image as `fit` says.
///
/// # Errors
/// As [`audio::prepare`](super::audio::prepare) for one that has to be changed; only [`FailureClass::Cancelled`] for
/// one that should be.
pub async fn prepare(
    decoder: &dyn MediaDecoder,
    field: &str,
    bytes: Bytes,
    (api, fit): (VisionApi, ImageFit),
) -> Result<Bytes, Failure> {
    let plan = match fit {
        ImageFit::Sent => return Ok(bytes),
        ImageFit::Turned(plan) | ImageFit::Scaled(plan) => plan,
    };
    let changed = decoder.reshape(bytes.clone(), plan).await;
    // A helper is not trusted: what it returns is looked at like any other image.
    let changed = changed.map(|image| match check(field, &image, api) {
        Ok(info) if info.fit == ImageFit::Sent => Some(image),
        _ => None,
    });
    match (changed, fit) {
        (Ok(Some(image)), _) => Ok(image),
        (Err(DecodeError::Stopped), _) => Err(Failure::new(
            FailureClass::Cancelled,
            "stopped while the image was prepared",
        )),
        (unchanged, ImageFit::Turned(_)) => {
            debug!(
                ?unchanged,
                "an image that lies on its side is sent as it is: it cannot be turned"
            );
            Ok(bytes)
        }
        (Err(DecodeError::Interrupted(why)), _) => {
            Err(Failure::transient(format!("payload field \"{field}\": {why}")))
        }
        (Err(DecodeError::Medium(why)), _) => Err(Failure::invalid_field(field, why)),
        (Ok(None), _) => Err(Failure::invalid_field(field, "image cannot be scaled down")),
    }
}

#[cfg(test)]
mod tests;
