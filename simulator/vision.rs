//! Azure Vision: Image Analysis 4.0 in one answer, Read 3.2 in an operation to be polled. The operations are those of
//! Document Intelligence as well.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::extract::Query;
use imagesize::{ImageSize, ImageType};
use serde_json::{Value, json};

use super::{
    Bill, Fault, azure, digest,
    exchange::{SimulatedAnswer, SimulatedRequest},
};

/// Versions of Image Analysis that read text.
const VERSIONS: [&str; 3] = ["2023-10-01", "2024-02-01", "2024-02-01-preview"];

/// Polls that find a Read operation unfinished: `notStarted` at the first, `running` at the second.
const UNFINISHED: &[&str] = &["notStarted", "running"];

/// Operations that are remembered.
const MAX_OPERATIONS: usize = 10_000;

/// Where operations are polled.
const RESULTS: &str = "/vision/v3.2/read/analyzeResults/";

/// The operations of Read and Document Intelligence.
#[derive(Default)]
pub(super) struct ReadOperations(Mutex<VecDeque<ReadOperation>>);

struct ReadOperation {
    id: String,
    /// The path below which its service polls it.
    results: &'static str,
    marker: String,
    /// The lines of each page.
    pages: Vec<Vec<String>>,
    size: ImageSize,
    polls: usize,
    fate: OperationFate,
}

/// How an operation ends.
enum OperationFate {
    Succeeds,
    /// With this code, if any.
    Fails(Option<String>),
    /// As if it had never been.
    Unknown,
}

impl OperationFate {
    /// What the fault makes of an operation, if it is of that sort.
    fn of(fault: Option<&Fault>) -> Option<Self> {
        match fault? {
            Fault::OperationFailed { code } => Some(Self::Fails(code.clone())),
            Fault::OperationUnknown => Some(Self::Unknown),
            _ => None,
        }
    }
}

impl ReadOperation {
    fn is_at(&self, path: &str) -> bool {
        path.strip_prefix(self.results) == Some(&*self.id)
    }
}

/// State of an operation at a poll.
pub(super) enum OperationState {
    /// Its status.
    Unfinished(&'static str),
    /// With this code, if any.
    Failed(Option<String>),
    /// The lines of each page, and the size of the first one.
    Read(Vec<Vec<String>>, ImageSize),
}

impl ReadOperations {
    /// The journal's name for the image whose operation this path polls.
    pub(super) fn marker(&self, path: &str) -> Option<String> {
        let all = self.all();
        let operation = all.iter().find(|operation| operation.is_at(path));
        operation.map(|operation| operation.marker.clone())
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<ReadOperation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 429. Vision names the time in the text alone.
pub(super) fn rate_limited(retry_after: f64) -> SimulatedAnswer {
    let message = format!(
        "Requests to the ComputerVision API have exceeded the rate limit of your current pricing tier. Please \
         retry after {} seconds.",
        retry_after.ceil()
    );
    azure::error(429, "429", &message)
}

/// POST /computervision/imageanalysis:analyze.
pub(super) fn analyze(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    try_analyze(ask)
        .unwrap_or_else(|refusal| refusal)
        .with("apim-request-id", request_id(ask))
}

fn try_analyze(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.vision)?;
    let query: Query<HashMap<String, String>> = Query::try_from_uri(&ask.parts.uri)
        .map_err(|_| azure::error(400, "InvalidRequest", "The query string is not valid."))?;
    match query.get("api-version").map(String::as_str) {
        Some(version) if VERSIONS.contains(&version) => {}
        Some(_) => {
            return Err(azure::error(
                400,
                "InvalidRequest",
                "The api-version is not supported.",
            ));
        }
        None => {
            return Err(azure::error(
                400,
                "InvalidRequest",
                "Missing query parameter: api-version.",
            ));
        }
    }
    if !query
        .get("features")
        .is_some_and(|features| features.split(',').any(|name| name == "read"))
    {
        let message = "The query parameter features must name read, the one feature that is simulated.";
        return Err(azure::error(400, "InvalidRequest", message));
    }
    let size = check_image(ask, &ANALYSIS)?;
    let lines: Vec<Value> = lines(ask, size)
        .iter()
        .enumerate()
        .map(|(i, text)| line(i, text, size))
        .collect();
    Ok(SimulatedAnswer::json(
        200,
        &json!({
            "modelVersion": "2023-10-01",
            "metadata": {"width": size.width, "height": size.height},
            "readResult": {"blocks": [{"lines": lines}]},
        }),
    )
    .billed(Bill {
        transactions: 1,
        ..Bill::default()
    }))
}

fn line(i: usize, text: &str, size: ImageSize) -> Value {
    let (top, bottom) = (i * 20 + 5, i * 20 + 20);
    let polygon = json!([
        {"x": 5, "y": top}, {"x": size.width - 5, "y": top},
        {"x": size.width - 5, "y": bottom}, {"x": 5, "y": bottom},
    ]);
    let words: Vec<Value> = text
        .split_whitespace()
        .map(|word| json!({"text": word, "boundingPolygon": polygon, "confidence": 0.99}))
        .collect();
    json!({"text": text, "boundingPolygon": polygon, "words": words})
}

/// POST /vision/v3.2/read/analyze.
pub(super) fn submit(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    try_submit(ask)
        .unwrap_or_else(|refusal| refusal)
        .with("apim-request-id", request_id(ask))
}

fn try_submit(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.vision)?;
    let size = check_image(ask, &READ)?;
    Ok(accept(ask, RESULTS, size, ""))
}

/// Starts an operation, which bills each page of the image to `model`.
pub(super) fn accept(
    ask: &SimulatedRequest<'_>,
    results: &'static str,
    size: ImageSize,
    model: &str,
) -> SimulatedAnswer {
    let id = request_id(ask);
    let place = format!("http://{}{results}{id}", ask.shared.addr);
    let pages: Vec<Vec<String>> = (1..=page_count(ask.body))
        .map(|number| match number {
            1 => lines(ask, size).into(),
            number => vec![format!("page {number}")],
        })
        .collect();
    let count = pages.len() as u64;
    let mut operations = ask.shared.operations.all();
    if operations.len() == MAX_OPERATIONS {
        operations.pop_front();
    }
    operations.push_back(ReadOperation {
        id,
        results,
        marker: ask.marker.to_owned(),
        pages,
        size,
        polls: 0,
        fate: OperationFate::of(ask.fault).unwrap_or(OperationFate::Succeeds),
    });
    let accepted = SimulatedAnswer {
        status: 202,
        headers: Vec::new(),
        body: Default::default(),
        bill: Some(Box::new(Bill {
            model: model.to_owned(),
            transactions: count,
            images: count,
            ..Bill::default()
        })),
        events: Vec::new(),
    };
    accepted.with("operation-location", place)
}

/// GET /vision/v3.2/read/analyzeResults/{id}.
pub(super) fn poll(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    try_poll(ask)
        .unwrap_or_else(|refusal| refusal)
        .with("apim-request-id", request_id(ask))
}

fn try_poll(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.vision)?;
    let mut answer =
        json!({"createdDateTime": "2026-01-01T00:00:00Z", "lastUpdatedDateTime": "2026-01-01T00:00:01Z"});
    let (pages, size) = match state(ask, UNFINISHED)? {
        OperationState::Unfinished(status) => {
            answer["status"] = json!(status);
            return Ok(SimulatedAnswer::json(200, &answer));
        }
        OperationState::Failed(code) => {
            answer["status"] = json!("failed");
            if let Some(code) = code {
                answer["error"] = json!({"code": code, "message": "The operation failed."});
            }
            return Ok(SimulatedAnswer::json(200, &answer));
        }
        OperationState::Read(pages, size) => (pages, size),
    };
    let read: Vec<Value> = pages
        .iter()
        .enumerate()
        .map(|(at, lines)| {
            let lines: Vec<Value> = lines
                .iter()
                .map(|text| {
                    let words: Vec<Value> = text
                        .split_whitespace()
                        .map(|word| json!({"text": word, "confidence": 0.99}))
                        .collect();
                    json!({"text": text, "words": words})
                })
                .collect();
            json!({
                "page": at + 1, "angle": 0, "unit": "pixel", "lines": lines,
                "width": size.width, "height": size.height,
            })
        })
        .collect();
    answer["status"] = json!("succeeded");
    answer["analyzeResult"] = json!({"version": "3.2.0", "modelVersion": "2022-04-30", "readResults": read});
    Ok(SimulatedAnswer::json(200, &answer))
}

/// Counts a poll. The first ones find the operation in the states of `unfinished`.
///
/// # Errors
/// The refusal of an operation that is not known.
pub(super) fn state(
    ask: &SimulatedRequest<'_>,
    unfinished: &'static [&'static str],
) -> Result<OperationState, SimulatedAnswer> {
    let mut operations = ask.shared.operations.all();
    let operation = operations
        .iter_mut()
        .find(|operation| operation.is_at(ask.parts.uri.path()))
        .ok_or_else(unknown_operation)?;
    if let Some(fate) = OperationFate::of(ask.fault) {
        operation.fate = fate;
    }
    Ok(match &operation.fate {
        OperationFate::Unknown => return Err(unknown_operation()),
        OperationFate::Fails(code) => OperationState::Failed(code.clone()),
        OperationFate::Succeeds => match unfinished.get(operation.polls) {
            Some(status) => {
                operation.polls += 1;
                OperationState::Unfinished(status)
            }
            None => OperationState::Read(operation.pages.clone(), operation.size),
        },
    })
}

fn unknown_operation() -> SimulatedAnswer {
    let message = "The operation does not exist or has expired.";
    azure::error(404, "OperationNotFound", message)
}

pub(super) fn request_id(ask: &SimulatedRequest<'_>) -> String {
    azure::guid(ask.shared.seed, ask.seq)
}

/// The text that the simulator reads in an image: which image it was.
fn lines(ask: &SimulatedRequest<'_>, size: ImageSize) -> [String; 2] {
    let hash = digest::hex(digest::of(&[ask.body]));
    [
        format!("image {hash} {}x{}", size.width, size.height),
        format!("{} bytes", ask.body.len()),
    ]
}

/// Pages of a TIFF by its directories; one of any other file.
fn page_count(file: &[u8]) -> usize {
    const MOST_PAGES: usize = 100;
    let number = |at: usize, size: usize| {
        let bytes = file.get(at..at.checked_add(size)?)?;
        let fold = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        match file.first()? {
            b'I' => Some(bytes.iter().rev().fold(0, fold)),
            _ => Some(bytes.iter().fold(0, fold)),
        }
    };
    if !matches!(file.get(..4), Some(b"II*\0" | b"MM\0*")) {
        return 1;
    }
    let next = |at: usize| number(at + 2 + number(at, 2)? * 12, 4);
    let mut directory = number(4, 4);
    let mut pages = 0;
    while let Some(at) = directory.filter(|at| *at > 0 && pages < MOST_PAGES) {
        pages += 1;
        directory = next(at);
    }
    pages.max(1)
}

/// The images that a service takes.
pub(super) struct ImageBounds {
    pub(super) formats: &'static [ImageType],
    pub(super) takes_heif: bool,
    /// Longest side, pixels.
    pub(super) longest: usize,
}

const ANALYSIS: ImageBounds = ImageBounds {
    formats: &[
        ImageType::Jpeg,
        ImageType::Png,
        ImageType::Gif,
        ImageType::Bmp,
        ImageType::Webp,
        ImageType::Ico,
        ImageType::Tiff,
    ],
    takes_heif: false,
    longest: 16_000,
};

const READ: ImageBounds = ImageBounds {
    formats: &[ImageType::Jpeg, ImageType::Png, ImageType::Bmp, ImageType::Tiff],
    takes_heif: false,
    longest: 10_000,
};

/// Checks type, format and size of the image.
pub(super) fn check_image(
    ask: &SimulatedRequest<'_>,
    takes: &ImageBounds,
) -> Result<ImageSize, SimulatedAnswer> {
    if ask.is_type("application/json") {
        let message = "The simulator fetches no image URL: send the bytes.";
        return Err(inner_error("InvalidImageUrl", message));
    }
    if !ask.is_type("application/octet-stream") {
        return Err(azure::refuse(415));
    }
    let longest = takes.longest;
    let readable = imagesize::image_type(ask.body).is_ok_and(|kind| {
        takes.formats.contains(&kind) || (takes.takes_heif && matches!(kind, ImageType::Heif(_)))
    });
    if !readable {
        return Err(inner_error(
            "InvalidImageFormat",
            "Input data is not a valid image.",
        ));
    }
    let size = imagesize::blob_size(ask.body)
        .map_err(|_| inner_error("InvalidImageFormat", "Input data is not a valid image."))?;
    if [size.width, size.height]
        .iter()
        .any(|side| !(50..=longest).contains(side))
    {
        let message = format!(
            "The image size {}x{} is not allowed to be smaller than 50x50 or larger than {longest}x{longest}.",
            size.width, size.height
        );
        return Err(inner_error("InvalidImageSize", &message));
    }
    Ok(size)
}

fn inner_error(code: &str, message: &str) -> SimulatedAnswer {
    let inner = json!({"code": code, "message": message});
    let error = json!({"code": "InvalidRequest", "message": message, "innererror": inner});
    SimulatedAnswer::json(400, &json!({"error": error}))
}
