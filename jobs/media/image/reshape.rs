//! Turns an image upright and scales it down, in a helper process.
//!
//! A photo of a phone holds the pixels as the sensor has them, and its EXIF data say how to turn them. A screenshot of a
//! long page has more pixels on a side than the provider takes. Both are written again as JPEG, without their metadata.

use std::{io::Cursor, panic::catch_unwind};

use image::{
    DynamicImage, GenericImageView, ImageError, ImageReader, Limits, Rgb, RgbImage,
    codecs::jpeg::JpegEncoder, imageops::thumbnail,
};

use super::MAX_BYTES;

/// Pixels of the largest image that is decoded, which bounds the memory of a decoding.
pub const MOST_PIXELS: u64 = 40_000_000;
/// Bytes that the decoders may ask for.
const MOST_MEMORY: u64 = 256 * 1024 * 1024;
/// Qualities of the JPEG, tried in this order until the file is small enough.
const QUALITIES: [u8; 3] = [90, 75, 50];

/// The change of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePlan {
    /// Longest side that it may have, pixels.
    pub longest: u32,
    /// How it is turned, as EXIF counts: 1 to 8, of which 1 is upright.
    pub orientation: u8,
}

/// Changes an image on the calling thread. A panic of a decoder counts as a damaged image.
///
/// # Errors
/// The fault of the image, as the rest of a sentence.
pub fn reshape(image: &[u8], plan: ImagePlan) -> Result<Vec<u8>, String> {
    catch_unwind(|| changed(image, plan))
        .unwrap_or_else(|_| Err("image is damaged: its decoder gave up".to_owned()))
}

fn changed(image: &[u8], plan: ImagePlan) -> Result<Vec<u8>, String> {
    let mut reader = ImageReader::new(Cursor::new(image))
        .with_guessed_format()
        .map_err(|error| format!("image cannot be read: {error}"))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let mut pixels = opaque(reader.decode().map_err(|error| refusal(&error))?);
    let (width, height) = pixels.dimensions();
    let longest = width.max(height);
    if longest > plan.longest {
        let scaled = |side: u32| {
            let side = u64::from(side) * u64::from(plan.longest) / u64::from(longest);
            u32::try_from(side).unwrap_or(plan.longest).max(1)
        };
        pixels = thumbnail(&pixels, scaled(width), scaled(height));
    }
    let turned = TurnedImage {
        pixels: &pixels,
        orientation: plan.orientation,
    };
    for quality in QUALITIES {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, quality)
            .encode_image(&turned)
            .map_err(|error| format!("image cannot be written: {error}"))?;
        if file.len() <= MAX_BYTES {
            return Ok(file);
        }
    }
    Err(format!(
        "image has more than {MAX_BYTES} bytes even when it is scaled down"
    ))
}

/// Why an image was not decoded.
fn refusal(error: &ImageError) -> String {
    match error {
        ImageError::Unsupported(_) => {
            "image is of a rare kind that cannot be changed here: send it as JPEG or PNG".to_owned()
        }
        ImageError::Limits(_) => "image takes too much memory: send a smaller one".to_owned(),
        _ => format!("image is damaged: {error}"),
    }
}

/// The pixels on white: text on a transparent ground is mostly black.
fn opaque(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let pixels = image.into_rgba8();
    RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let [red, green, blue, alpha] = pixels.get_pixel(x, y).0.map(u32::from);
        let on_white =
            |channel: u32| u8::try_from((channel * alpha + 255 * (255 - alpha)) / 255).unwrap_or(255);
        Rgb([red, green, blue].map(on_white))
    })
}

/// A turned view of the pixels. A turned copy would take as much memory once more.
struct TurnedImage<'a> {
    pixels: &'a RgbImage,
    orientation: u8,
}

impl GenericImageView for TurnedImage<'_> {
    type Pixel = Rgb<u8>;

    fn dimensions(&self) -> (u32, u32) {
        let (width, height) = self.pixels.dimensions();
        match self.orientation {
            5..=8 => (height, width),
            _ => (width, height),
        }
    }

    fn get_pixel(&self, x: u32, y: u32) -> Rgb<u8> {
        let (width, height) = self.pixels.dimensions();
        let (right, bottom) = (width - 1, height - 1);
        let (x, y) = match self.orientation {
            2 => (right - x, y),
            3 => (right - x, bottom - y),
            4 => (x, bottom - y),
            5 => (y, x),
            6 => (y, bottom - x),
            7 => (right - y, bottom - x),
            8 => (right - y, x),
            _ => (x, y),
        };
        *self.pixels.get_pixel(x, y)
    }
}

#[cfg(test)]
mod tests {
    use image::metadata::Orientation;

    use super::*;

    /// An image whose four quarters differ, so that each orientation shows.
    fn quarters(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
            (true, true) => Rgb([250, 0, 0]),
            (false, true) => Rgb([0, 250, 0]),
            (true, false) => Rgb([0, 0, 250]),
            (false, false) => Rgb([250, 250, 250]),
        })
    }

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Png).unwrap();
        file.into_inner()
    }

    #[test]
    fn an_image_is_turned_as_exif_says() {
        for number in 1..=8 {
            let image = DynamicImage::from(quarters(64, 32));
            let mut wanted = image.clone();
            wanted.apply_orientation(Orientation::from_exif(number).unwrap());
            let plan = ImagePlan {
                longest: 1_000,
                orientation: number,
            };
            let file = reshape(&png(&image), plan).unwrap();
            let seen = image::load_from_memory(&file).unwrap().into_rgb8();
            assert_eq!(seen.dimensions(), wanted.dimensions(), "{number}");
            let (width, height) = seen.dimensions();
            for (x, y) in [(4, 4), (width - 5, 4), (4, height - 5), (width - 5, height - 5)] {
                let (seen, wanted) = (seen.get_pixel(x, y).0, wanted.get_pixel(x, y).0);
                let is_near = seen.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 40);
                assert!(is_near, "{number} at {x}, {y}: {seen:?}, not {wanted:?}");
            }
        }
    }

    #[test]
    fn an_image_is_scaled_down_and_never_up() {
        let file = png(&quarters(300, 60).into());
        for (longest, size) in [
            (100, (100, 20)),
            (299, (299, 59)),
            (300, (300, 60)),
            (9_000, (300, 60)),
        ] {
            let file = reshape(
                &file,
                ImagePlan {
                    longest,
                    orientation: 1,
                },
            )
            .unwrap();
            assert_eq!(image::load_from_memory(&file).unwrap().dimensions(), size);
        }
    }

    #[test]
    fn what_shines_through_is_white() {
        let ink = image::RgbaImage::from_fn(32, 32, |x, _| {
            image::Rgba([0, 0, 0, if x < 16 { 255 } else { 0 }])
        });
        let file = reshape(
            &png(&ink.into()),
            ImagePlan {
                longest: 32,
                orientation: 1,
            },
        )
        .unwrap();
        let seen = image::load_from_memory(&file).unwrap().into_luma8();
        assert!(seen.get_pixel(4, 4).0[0] < 40 && seen.get_pixel(28, 4).0[0] > 215);
    }

    #[test]
    fn a_damaged_image_is_refused() {
        let whole = png(&quarters(64, 64).into());
        for file in [&whole[..whole.len() / 2], b"no image", &[]] {
            let why = reshape(
                file,
                ImagePlan {
                    longest: 9,
                    orientation: 1,
                },
            )
            .unwrap_err();
            assert!(why.starts_with("image "), "{why}");
        }
    }
}
