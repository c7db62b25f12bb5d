//! Every format from its header, the limits, and what is no image at all.

use proptest::prelude::*;

use super::*;
use VisionApi::{DocumentIntelligence, ImageAnalysis40, Read32};

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../samples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let failure = check("imageUrl", bytes, ImageAnalysis40).unwrap_err();
    assert_eq!(failure.class(), crate::FailureClass::Permanent);
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
        &[0; 9],
        b"\0\0\0\0IEND\xae\x42\x60\x82",
    ]
    .concat()
}

#[test]
fn every_format_that_a_service_reads_is_told_with_its_size() {
    let (side, big): ([u8; 2], [u8; 2]) = (100_u16.to_le_bytes(), 200_u16.to_be_bytes());
    let gif = [
        b"GIF89a".as_slice(),
        &side,
        &side,
        &[0; 3],
        b"\x2c",
        &[0; 10],
        b"\x01x\0\x3b",
    ]
    .concat();
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
    let tiff = [
        b"MM\0*\0\0\0\x08\0\x02".as_slice(),
        &entry(0x100),
        &entry(0x101),
        &[0; 4],
    ]
    .concat();
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
        let info = ImageInfo {
            format,
            width,
            height,
            pages: 1,
            fit: ImageFit::Sent,
        };
        assert_eq!(check("f", &bytes, ImageAnalysis40).unwrap(), info);
        match format {
            "JPEG" | "PNG" | "BMP" | "TIFF" => assert_eq!(check("f", &bytes, Read32).unwrap(), info),
            _ => {
                let failure = check("f", &bytes, Read32).unwrap_err();
                assert!(
                    failure.message().ends_with("is none of JPEG, PNG, BMP, TIFF"),
                    "{failure}"
                );
            }
        }
    }
}

#[test]
fn sides_have_limits() {
    for (width, height) in [(50, 50), (16_000, 50), (50, 16_000)] {
        check("f", &png(width, height), ImageAnalysis40).unwrap();
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
    for (width, height) in [(50, 50), (10_000, 50), (50, 10_000)] {
        check("f", &png(width, height), Read32).unwrap();
    }
    for (width, height) in [(49, 50), (10_001, 50), (50, 10_001)] {
        let failure = check("f", &png(width, height), Read32).unwrap_err();
        assert!(
            failure.message().ends_with("each side must have 50 to 10000"),
            "{failure}"
        );
    }
    assert!(refusal(&sample("tiny49.png")).starts_with("image is 49 × 49 pixels"));
}

#[test]
fn what_is_no_such_image_is_refused() {
    let names = "is none of JPEG, PNG, GIF, BMP, WEBP, ICO, TIFF";
    for bytes in [&sample("bad.png")[..], b"", b"hello"] {
        assert_eq!(refusal(bytes), names);
    }
    let iphone = "send it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)";
    for (bytes, why) in [
        (
            &sample("good_morning.wav")[..],
            format!("is a WAV file, which is not supported: it {names}"),
        ),
        (
            b"qoif\0\0\0\x64\0\0\0\x64\0\0",
            format!("is a QOI file, which is not supported: it {names}"),
        ),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            format!("is a HEIC image, which is not supported: {iphone}"),
        ),
        (
            b"\0\0\0\x18ftypavif\0\0\0\0mif1avif",
            format!("is a AVIF image, which is not supported: {iphone}"),
        ),
        (
            b"%PDF-1.7\n",
            "is a PDF, which is not supported: send its pages as images (JPEG or PNG)".to_owned(),
        ),
        (
            b"<html>403 Forbidden</html>",
            format!("is a HTML file, which is not supported: it {names}"),
        ),
    ] {
        assert_eq!(refusal(bytes), why);
    }
    assert!(refusal(&png(100, 100)[..20]).starts_with("PNG image is damaged"));
    let mut large = png(100, 100);
    large.resize(MAX_BYTES, 0);
    check("f", &large, ImageAnalysis40).unwrap();
    large.push(0);
    assert!(matches!(
        check("f", &large, ImageAnalysis40).unwrap().fit,
        ImageFit::Scaled(_)
    ));
    let mut icon = [b"\0\0\x01\0\x01\0\x64\x64".as_slice(), &[0; 14]].concat();
    icon.resize(MAX_BYTES + 1, 0);
    assert_eq!(
        refusal(&icon),
        "image has 20971521 bytes, at most 20971520 are allowed"
    );
}

/// Every cut of a real image is refused, and so is one of each other format.
#[test]
fn an_image_without_its_end_is_refused() {
    for name in [
        "text.png",
        "text.jpg",
        "text.gif",
        "text.webp",
        "text.bmp",
        "text.tiff",
    ] {
        let file = sample(name);
        check("f", &file, ImageAnalysis40).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        // What some programs append does no harm.
        check("f", &[&file[..], b"more"].concat(), ImageAnalysis40).unwrap();
        for length in (1..file.len())
            .rev()
            .filter(|length| length % 7 == 0 || file.len() - length < 64)
        {
            check("f", &file[..length], ImageAnalysis40).expect_err(name);
        }
    }
    let why = refusal(&sample("text.png")[..5_000]);
    assert_eq!(
        why,
        "PNG image is incomplete: its end is missing; send the whole file"
    );
}

#[test]
fn a_tiff_of_several_pages_is_refused_where_one_is_read() {
    let file = sample("two_pages.tiff");
    assert_eq!(
        refusal(&file),
        "TIFF has 2 pages, only one can be read: send each page as an image of its own"
    );
    for api in [Read32, DocumentIntelligence] {
        assert_eq!(check("f", &file, api).unwrap().pages, 2);
    }
}

/// A JPEG with EXIF data that turn it.
fn turned_jpeg(orientation: u8) -> Vec<u8> {
    let exif = [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
        &[orientation, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let file = sample("text.jpg");
    [&file[..2], &[0xff, 0xe1], &length, &exif, &file[2..]].concat()
}

#[test]
fn a_photo_that_lies_on_its_side_is_to_be_turned() {
    for api in VisionApi::ALL {
        for orientation in 2..=8 {
            let ImageFit::Turned(plan) = check("f", &turned_jpeg(orientation), api).unwrap().fit else {
                panic!("{orientation} is not turned");
            };
            assert_eq!(plan.orientation, orientation);
        }
        for orientation in [0, 1, 9] {
            let info = check("f", &turned_jpeg(orientation), api).unwrap();
            assert_eq!(info.fit, ImageFit::Sent, "{orientation}");
        }
    }
}

#[test]
fn an_image_that_is_too_large_is_to_be_scaled_where_that_helps() {
    let scaled = |file: &[u8], api| {
        matches!(
            check("f", file, api),
            Ok(ImageInfo {
                fit: ImageFit::Scaled(_),
                ..
            })
        )
    };
    assert!(scaled(&png(1_080, 20_000), ImageAnalysis40));
    assert!(scaled(&png(10_001, 3_000), Read32) && !scaled(&png(10_001, 3_000), ImageAnalysis40));
    // More pixels than are decoded, and a side that would become too short.
    for (width, height) in [(16_001, 2_600), (16_001, 50), (65_000, 150)] {
        let failure = check("f", &png(width, height), ImageAnalysis40).unwrap_err();
        assert!(
            failure.message().contains("each side must have 50 to 16000"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn an_image_is_changed_before_it_is_sent() {
    let decoder = crate::media::decoder::InProcessDecoder;
    let size_of = |file: &[u8]| {
        let info = check("f", file, Read32).unwrap();
        assert_eq!(info.fit, ImageFit::Sent);
        (info.format, info.width, info.height)
    };
    let change = async |file: Vec<u8>| {
        let info = check("f", &file, Read32).unwrap();
        prepare(&decoder, "f", file.into(), (Read32, info.fit)).await
    };
    let whole = sample("text.jpg");
    let upright = change(turned_jpeg(6)).await.unwrap();
    assert_eq!(size_of(&upright), ("JPEG", 240, 800));
    assert_eq!(
        change(whole.clone()).await.unwrap(),
        whole,
        "nothing is to be done"
    );
    // Decoders may refuse what the provider reads: it is sent as it is.
    let mut strange = turned_jpeg(6);
    let tables = strange
        .windows(2)
        .position(|marker| marker == [0xff, 0xdb])
        .unwrap();
    strange[tables + 1] = 0xee;
    assert_eq!(change(strange.clone()).await.unwrap(), strange);
    // One that has to be scaled is refused then.
    let failure = change(png(10_001, 3_000)).await.unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent, "{failure}");
    assert!(failure.message().contains("image is damaged"), "{failure}");
}

/// A picture of this size in each format that is scaled.
fn painted(format: image::ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb([9, 99, 200]));
    image::DynamicImage::ImageRgb8(picture)
        .write_to(&mut file, format)
        .unwrap();
    file.into_inner()
}

#[tokio::test]
async fn an_image_of_any_format_is_scaled_down_to_the_services_size() {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};

    let decoder = crate::media::decoder::InProcessDecoder;
    for (format, height) in [
        (Jpeg, 20_000),
        (Png, 20_000),
        (Gif, 20_000),
        (Bmp, 20_000),
        (Tiff, 20_000),
        (WebP, 16_300),
    ] {
        let file = painted(format, 100, height);
        let info = check("f", &file, ImageAnalysis40).unwrap();
        assert!(matches!(info.fit, ImageFit::Scaled(_)), "{format:?}");
        let scaled = prepare(&decoder, "f", file.into(), (ImageAnalysis40, info.fit))
            .await
            .unwrap();
        let seen = check("f", &scaled, ImageAnalysis40).unwrap();
        assert_eq!((seen.fit, seen.height), (ImageFit::Sent, 16_000), "{format:?}");
        let middle = image::load_from_memory(&scaled).unwrap().into_rgb8();
        let pixel = middle.get_pixel(seen.width / 2, 8_000).0;
        assert!(pixel[0] < 40 && pixel[2] > 170, "{format:?}: {pixel:?}");
    }
}

/// Pages that are too large are refused by their number, and kinds that no decoder here reads by that.
#[tokio::test]
async fn a_tiff_that_cannot_be_scaled_says_why() {
    let mut pages = sample("two_pages.tiff");
    let is_little = pages.starts_with(b"II");
    let first = usize::try_from(complete::little(&pages, 4).unwrap()).unwrap();
    assert!(is_little && complete::is_complete(imagesize::ImageType::Tiff, &pages));
    let width = (0..20)
        .map(|entry| first + 2 + entry * 12)
        .find(|at| pages[*at..at + 2] == [0, 1]);
    let width = width.unwrap();
    pages[width + 2..width + 12].copy_from_slice(&[4, 0, 1, 0, 0, 0, 0x20, 0x4e, 0, 0]);
    let failure = check("f", &pages, Read32).unwrap_err();
    assert!(
        failure.message().contains("image is 20000 ×")
            && failure.message().ends_with("each page as an image of its own"),
        "{failure}"
    );
    // A palette of colours.
    let mut coloured = painted(image::ImageFormat::Tiff, 100, 20_000);
    let directory = usize::try_from(complete::little(&coloured, 4).unwrap()).unwrap();
    let kind = (0..20)
        .map(|entry| directory + 2 + entry * 12)
        .find(|at| coloured[*at..at + 2] == [6, 1]);
    coloured[kind.unwrap() + 8] = 3;
    let info = check("f", &coloured, ImageAnalysis40).unwrap();
    let decoder = crate::media::decoder::InProcessDecoder;
    let failure = prepare(&decoder, "f", coloured.into(), (ImageAnalysis40, info.fit))
        .await
        .unwrap_err();
    assert_eq!(failure.class(), FailureClass::Permanent);
    assert!(failure.message().contains("send it as JPEG or PNG"), "{failure}");
}

/// A HEIC of this size, as a phone writes it: where the picture is, then the picture.
fn heic(brands: &[u8], width: u32, height: u32) -> Vec<u8> {
    fn of(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 8).unwrap();
        [&length.to_be_bytes(), kind, content].concat()
    }
    let size = [&[0; 4][..], &width.to_be_bytes(), &height.to_be_bytes()].concat();
    let properties = of(b"iprp", &of(b"ipco", &of(b"ispe", &size)));
    [
        of(b"ftyp", brands),
        of(
            b"meta",
            &[&[0; 4], &of(b"hdlr", &[0; 24])[..], &properties].concat(),
        ),
        of(b"mdat", &[7; 300]),
    ]
    .concat()
}

#[test]
fn heic_is_sent_where_the_service_reads_it() {
    for brands in [
        b"heic\0\0\0\0mif1heic",
        b"mif1\0\0\0\0mif1heic",
        b"mif1\0\0\0\0mif1miaf",
    ] {
        let file = heic(brands, 4_032, 3_024);
        let info = check("f", &file, DocumentIntelligence).unwrap();
        assert_eq!(
            (info.format, info.width, info.height, info.pages),
            ("HEIF", 4_032, 3_024, 1)
        );
        for length in 16..file.len() {
            check("f", &file[..length], DocumentIntelligence).unwrap_err();
        }
        for api in [ImageAnalysis40, Read32] {
            let failure = check("f", &file, api).unwrap_err();
            assert!(failure.message().contains("which is not supported"), "{failure}");
        }
    }
    for (file, why) in [
        (heic(b"avif\0\0\0\0mif1avif", 400, 300), "AVIF"),
        (heic(b"heic\0\0\0\0mif1heic", 10_001, 300), "50 to 10000"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".to_vec(), "damaged"),
    ] {
        let failure = check("f", &file, DocumentIntelligence).unwrap_err();
        assert!(failure.message().contains(why), "{failure}");
    }
}

/// Directories that lead back to themselves, and as many entries as their counts can say.
#[test]
fn a_tiff_of_endless_directories_is_not_followed() {
    let directory = |entries: u16| {
        let mut file = b"II*\0\x08\0\0\0".to_vec();
        file.extend(entries.to_le_bytes());
        for tag in [256_u16, 257] {
            file.extend(tag.to_le_bytes());
            file.extend(b"\x03\0\x01\0\0\0\x64\0\0\0");
        }
        file.resize(10 + usize::from(entries) * 12, 0);
        file.extend(8_u32.to_le_bytes());
        file
    };
    assert!(refusal(&directory(20)).contains("TIFF has 100 pages"));
    for entries in [4_000, u16::MAX] {
        assert_eq!(
            refusal(&directory(entries)),
            "TIFF image is incomplete: its end is missing; send the whole file"
        );
    }
}

/// Whether the sides are within the service's bounds, or will be.
fn is_fitting(info: &ImageInfo, api: VisionApi) -> bool {
    let is_within = side(api).contains(&info.width) && side(api).contains(&info.height);
    is_within || matches!(info.fit, ImageFit::Scaled(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn noise_is_survived(
        start in prop::sample::select(vec![
            b"".as_slice(), b"\xff\xd8\xff\xe0", b"\x89PNG", b"GIF8", b"BM", b"RIFF\0\0\0\0WEBPVP8 ",
            b"\0\0\0\x14ftypheic\0\0\0\0heic", b"RIFF\0\0\0\0WEBPVP8X", b"\0\0\x01\0", b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..512),
        api in prop::sample::select(VisionApi::ALL.to_vec()),
    ) {
        if let Ok(info) = check("f", &[start, &noise].concat(), api) {
            prop_assert!(is_fitting(&info, api));
        }
    }

    #[test]
    fn cut_and_flipped_images_are_survived(
        name in prop::sample::select(vec!["text.png", "text.jpg"]),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((0_usize..64, any::<u8>()), 0..8),
        api in prop::sample::select(VisionApi::ALL.to_vec()),
    ) {
        let mut file = sample(name);
        file.truncate(cut.index(file.len()).max(64));
        for (at, value) in flips {
            file[at] ^= value;
        }
        if let Ok(info) = check("f", &file, api) {
            prop_assert!(is_fitting(&info, api));
        }
    }
}

proptest! {
    #![proptest_config(crate::media::encoded::tests::cases(128))]

    /// An image that was spoilt on its way, and cut at any byte of its text, is whole or is refused.
    #[test]
    fn a_spoilt_and_cut_image_is_whole_or_refused(
        name in prop::sample::select(vec!["text.png", "text.jpg", "text.gif", "text.webp", "text.tiff"]),
        cut in prop::option::of(any::<prop::sample::Index>()),
        how in crate::media::encoded::tests::spoilings(),
    ) {
        let file = sample(name);
        let mut text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &file);
        if let Some(cut) = cut {
            text.truncate(cut.index(text.len()));
        }
        let text = crate::media::encoded::tests::spoilt(&text, &how);
        if let Ok(bytes) = crate::media::encoded::decode("f", &text, 1 << 24) {
            prop_assert!(bytes == file || check("f", &bytes, ImageAnalysis40).is_err(), "{}", name);
        }
    }
}
