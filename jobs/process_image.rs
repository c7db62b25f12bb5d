//! `process-image`: the text in up to five images, by Azure Vision.
//!
//! - `recognise`: one image through the provider, in one request or by submit and poll.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    Failure, FailureClass, Job, JobCost, JobResources, MemoryReservation, Provider, ProviderGuard, VisionApi,
    media::{Media, MediaSource, decoder::MediaDecoder, image},
    payload,
    providers::AzureVision,
};

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets/vision.rs"]
pub(crate) mod fuzz;
mod recognise;
#[cfg(test)]
mod tests;

use recognise::{CheckedImage, Recogniser, RecognitionRequest};

/// More images than this are too many for one job.
const MOST_IMAGES: usize = 5;

/// The payload of `process-image`. Either exactly one of the three `image…` fields is given, or `images`.
// No Debug: a signed URL is a secret.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    title = "process-image payload",
    extend("oneOf" = [
        {"required": ["imageUrl"]}, {"required": ["imageBase64"]}, {"required": ["imageFilePath"]},
        {"required": ["images"]}
    ])
)]
pub struct Payload {
    /// Where the image can be fetched, over https.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_url: Option<String>,
    /// The image itself, in base64, with or without a `data:` prefix.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_base64: Option<String>,
    /// The image's path below the uploads folder.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_file_path: Option<String>,
    /// Up to five images.
    #[serde(default, deserialize_with = "images")]
    #[schemars(!default, length(min = 1, max = 5))]
    pub images: Option<Vec<Image>>,
    /// The text that this was read from: it counts as memory in use until this is dropped.
    #[serde(skip)]
    #[schemars(skip)]
    pub held: Option<Bytes>,
}

/// One of several images. Exactly one of the three fields is given.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {"required": ["imageUrl"]}, {"required": ["imageBase64"]}, {"required": ["imageFilePath"]}
]))]
pub struct Image {
    /// Where the image can be fetched, over https.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_url: Option<String>,
    /// The image itself, in base64, with or without a `data:` prefix.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_base64: Option<String>,
    /// The image's path below the uploads folder.
    #[serde(default, deserialize_with = "payload::medium")]
    #[schemars(!default)]
    pub image_file_path: Option<String>,
}

impl Payload {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`], naming the field and what is wrong with it.
    pub fn validate(&self) -> Result<(), Failure> {
        self.sources().map(drop)
    }

    /// Where each image comes from, with the name of its field.
    fn sources(&self) -> Result<Vec<(String, MediaSource<'_>)>, Failure> {
        let (url, base64, file_path) = (
            self.image_url.as_ref(),
            self.image_base64.as_ref(),
            self.image_file_path.as_ref(),
        );
        // An empty list is what a form sends that has none.
        let Some(images) = self.images.as_deref().filter(|images| !images.is_empty()) else {
            return Ok(vec![payload::one_source("image", url, base64, file_path)?]);
        };
        if [url, base64, file_path]
            .into_iter()
            .any(|source| payload::given(source).is_some())
        {
            return Err(Failure::invalid_field(
                "images",
                "cannot be given together with a single image",
            ));
        }
        if images.len() > MOST_IMAGES {
            let why = format_args!("has more than {MOST_IMAGES} entries");
            return Err(Failure::invalid_field("images", why));
        }
        images
            .iter()
            .enumerate()
            .map(|(index, image)| {
                payload::one_source(
                    &format!("images[{index}].image"),
                    image.image_url.as_ref(),
                    image.image_base64.as_ref(),
                    image.image_file_path.as_ref(),
                )
            })
            .collect()
    }
}

fn images<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Image>>, D::Error> {
    Ok(Option::<BoundedImages>::deserialize(deserializer)?.map(|BoundedImages(images)| images))
}

/// The images, and one more where there are too many: a payload of megabytes can name a million.
struct BoundedImages(Vec<Image>);

impl<'de> Deserialize<'de> for BoundedImages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor)
    }
}

struct FewVisitor;

impl<'de> Visitor<'de> for FewVisitor {
    type Value = BoundedImages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<BoundedImages, A::Error> {
        let mut few = Vec::new();
        while few.len() <= MOST_IMAGES
            && let Some(image) = all.next_element()?
        {
            few.push(image);
        }
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(BoundedImages(few))
    }
}

/// The result of `process-image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "process-image result")]
pub struct Output {
    /// Always true: a job that could read no image fails.
    pub success: bool,
    /// The text that was read.
    pub result: Recognition,
    /// The cost of the job. The worker adds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<JobCost>,
}

/// The text of all images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recognition {
    /// The text of all images, a blank line between two. Each image's text starts with a line that names the image by
    /// its number, `--- Image 1 ---`; an image without text has no such line.
    pub text: String,
    /// One page an image, in the order of the payload: the parts of `text` between the lines that name the images.
    pub pages: Vec<Page>,
    /// Number of pages.
    pub page_count: usize,
    /// Number of images that could be read.
    pub images_processed: usize,
    /// Number of images.
    pub total_images: usize,
}

/// The text of one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The number of the image, from 1.
    pub page: usize,
    /// Its text, without the line that names the image; empty when the image holds none.
    pub text: String,
    /// Its text, line by line.
    pub lines: Vec<String>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Reads images.
#[derive(Debug, Clone)]
pub struct ProcessImage {
    vision: Option<AzureVision>,
    media: Media,
    decoder: Arc<dyn MediaDecoder>,
}

impl Job for ProcessImage {
    const NAME: &'static str = "process-image";
    const QUEUE: &'static str = "vision-jobs";
    const PROVIDER: Provider = Provider::AzureVision;
    const FAILURE_SENTENCE: &'static str = "The text in the images could not be read.";

    type Payload = Payload;
    type Output = Output;

    fn new(resources: &JobResources) -> Self {
        Self {
            vision: resources.clients.vision.clone(),
            media: resources.media.clone(),
            decoder: resources.decoder.clone(),
        }
    }

    fn validate(payload: &Payload) -> Result<(), Failure> {
        payload.validate()
    }

    fn keep_source(payload: &mut Payload, source: Bytes) {
        payload.held = Some(source);
    }

    /// Reads the images. All are loaded and checked before the first is paid for, then read one after the other:
    /// the provider's limits are tight. So a job holds up to five files in memory. An image that cannot be had costs
    /// only its own page.
    ///
    /// # Errors
    /// [`FailureClass::Permanent`] for a bad payload, and when no image could be read; [`FailureClass::Transient`]
    /// when none could, but one of them may be had another time; [`FailureClass::Deployment`] without a key; else
    /// what the guard says.
    async fn run(&self, payload: Payload, guard: &dyn ProviderGuard) -> Result<Output, Failure> {
        let sources = payload.sources()?;
        let vision = self.vision.as_ref().ok_or_else(|| {
            let message =
                "AZURE_VISION_KEY and AZURE_VISION_ENDPOINT are not set: this worker cannot read images";
            Failure::deployment(message).by(Provider::AzureVision)
        })?;
        let ask = |ask: RecognitionRequest| -> BoxFuture<'_, _> {
            Box::pin(async move {
                match ask {
                    RecognitionRequest::Analyze(image) => vision.analyze(image).await,
                    RecognitionRequest::Submit(image) => vision.submit(image).await,
                    RecognitionRequest::Poll(operation) => vision.poll(&operation).await,
                }
            })
        };
        let recogniser = Recogniser {
            guard,
            ask: &ask,
            api: vision.api(),
            poll_interval: vision.poll_interval(),
        };

        let rooms = self.media.rooms(sources.iter().map(|(_, source)| *source)).await;
        let turn = Mutex::new(());
        let loads = sources
            .iter()
            .zip(rooms)
            .map(|((field, source), room)| self.load((room, &turn), field, *source, vision.api()));
        let images = join_all(loads).await;
        // The images in it are large, and calls may wait for long.
        drop(sources);
        drop(payload);
        let mut gathered = GatheredText::default();
        for (index, image) in images.into_iter().enumerate() {
            match image {
                Ok(image) => gathered.add(recogniser.lines(index + 1, image).await)?,
                Err(failure) => gathered.miss(failure)?,
            }
        }
        gathered.output()
    }

    fn is_reusable(result: &Value) -> bool {
        let result_of = |field: &str| &result["result"][field];
        let (read, all) = (result_of("imagesProcessed"), result_of("totalImages"));
        result["success"] == true && result_of("text").is_string() && read.is_u64() && read == all
    }

    fn samples() -> Vec<Value> {
        let image = |bytes: &[u8]| json!({ "imageBase64": BASE64_STANDARD.encode(bytes) });
        let (png, jpg) = (
            include_bytes!("../samples/text.png"),
            include_bytes!("../samples/text.jpg"),
        );
        vec![
            json!({ "images": [image(png)] }),
            json!({ "images": [image(png), image(jpg)] }),
        ]
    }
}

impl ProcessImage {
    async fn load(
        &self,
        (room, turn): (MemoryReservation, &Mutex<()>),
        field: &str,
        source: MediaSource<'_>,
        api: VisionApi,
    ) -> Result<CheckedImage, Failure> {
        let bytes = self.media.load_into(room, field, source).await?;
        let info = image::check(field, &bytes, api)?;
        // One at a time of each job: the helpers that change images are few, and other jobs wait for them too.
        let _turn = turn.lock().await;
        let bytes = image::prepare(&*self.decoder, field, bytes, (api, info.fit)).await?;
        Ok(CheckedImage {
            bytes,
            pages: info.pages,
        })
    }
}

/// The text of a job's images so far.
#[derive(Default)]
struct GatheredText {
    pages: Vec<Page>,
    failures: Vec<Failure>,
}

impl GatheredText {
    /// Adds the next image, as it was read. A bad one costs only its own page; any other failure is the job's.
    fn add(&mut self, lines: Result<Vec<String>, Failure>) -> Result<(), Failure> {
        let page = self.pages.len() + 1;
        match lines {
            Ok(lines) => self.pages.push(Page {
                page,
                text: lines.join("\n"),
                lines,
                error: None,
            }),
            Err(failure) if failure.class() == FailureClass::Permanent => self.miss(failure)?,
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Adds the next image, which is not to be had. Its reason is its page's, whatever its class: the other images
    /// are not lost with it. Only a job that has to let go does so.
    fn miss(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.class() == FailureClass::Cancelled {
            return Err(failure);
        }
        self.pages.push(Page {
            page: self.pages.len() + 1,
            error: Some(failure.to_string()),
            ..Page::default()
        });
        self.failures.push(failure);
        Ok(())
    }

    fn output(mut self) -> Result<Output, Failure> {
        let total_images = self.pages.len();
        let images_processed = total_images - self.failures.len();
        if images_processed == 0 {
            let transient = self
                .failures
                .iter()
                .position(|f| f.class() == FailureClass::Transient);
            return Err(match transient {
                Some(at) => self.failures.swap_remove(at),
                None if self.failures.len() == 1 => self.failures.swap_remove(0),
                None => no_image(&self.pages),
            });
        }
        let sections: Vec<String> = self
            .pages
            .iter()
            .filter(|page| !page.text.is_empty())
            .map(|page| format!("--- Image {} ---\n{}", page.page, page.text))
            .collect();
        let text = sections.join("\n\n");
        let page_count = total_images;
        let result = Recognition {
            text,
            pages: self.pages,
            page_count,
            images_processed,
            total_images,
        };
        Ok(Output {
            success: true,
            result,
            usage: None,
        })
    }
}

fn no_image(pages: &[Page]) -> Failure {
    let reasons: Vec<String> = pages
        .iter()
        .map(|page| {
            format!(
                "image {}: {}",
                page.page,
                page.error.as_deref().unwrap_or_default()
            )
        })
        .collect();
    Failure::permanent(format!("no image could be read: {}", reasons.join("; ")))
}
