//! Simulates Document Intelligence, version 2024-11-30: the model `prebuilt-read` reads an image in an operation to poll.
//!
//! Lines are `content` in `analyzeResult.pages`. The answers to a submit and to an early poll carry `Retry-After`, and each
//! page of a file is billed.

use std::collections::HashMap;

use axum::extract::Query;
use imagesize::{ImageSize, ImageType};
use serde_json::{Value, json};

use super::{
    azure,
    exchange::{SimulatedAnswer, SimulatedRequest},
    vision::{self, ImageBounds, OperationState},
};

/// Where operations are polled.
pub(super) const RESULTS: &str = "/documentintelligence/documentModels/prebuilt-read/analyzeResults/";

/// The one version that is served.
const VERSION: &str = "2024-11-30";

/// Polls that find an operation unfinished.
const UNFINISHED: &[&str] = &["running"];

/// Seconds until the next poll, as the service asks for them.
const RETRY_AFTER: u64 = 1;

const BOUNDS: ImageBounds = ImageBounds {
    formats: &[ImageType::Jpeg, ImageType::Png, ImageType::Bmp, ImageType::Tiff],
    takes_heif: true,
    longest: 10_000,
};

/// POST /documentintelligence/documentModels/prebuilt-read:analyze.
pub(super) fn submit(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    try_submit(ask)
        .unwrap_or_else(|refusal| refusal)
        .with("apim-request-id", vision::request_id(ask))
}

fn try_submit(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.vision)?;
    let query = checked_query(ask)?;
    if let Some(overload) = query.get("_overload")
        && overload != "analyzeDocument"
    {
        let message = "The query parameter _overload must be analyzeDocument.";
        return Err(azure::error(400, "InvalidArgument", message));
    }
    let unknown = |name: &&String| !matches!(name.as_str(), "_overload" | "api-version");
    if let Some(name) = query.keys().find(unknown) {
        let message = format!("The query parameter {name} is not simulated.");
        return Err(azure::error(400, "InvalidArgument", &message));
    }
    let size = vision::check_image(ask, &BOUNDS)?;
    let accepted = vision::accept(ask, RESULTS, size, "prebuilt-read");
    Ok(accepted.with("retry-after", RETRY_AFTER))
}

/// GET /documentintelligence/documentModels/prebuilt-read/analyzeResults/{id}.
pub(super) fn poll(ask: &SimulatedRequest<'_>) -> SimulatedAnswer {
    try_poll(ask)
        .unwrap_or_else(|refusal| refusal)
        .with("apim-request-id", vision::request_id(ask))
}

fn try_poll(ask: &SimulatedRequest<'_>) -> Result<SimulatedAnswer, SimulatedAnswer> {
    azure::authorize(ask, &ask.shared.keys.vision)?;
    checked_query(ask)?;
    let mut answer =
        json!({"createdDateTime": "2026-01-01T00:00:00Z", "lastUpdatedDateTime": "2026-01-01T00:00:01Z"});
    let (pages, size) = match vision::state(ask, UNFINISHED)? {
        OperationState::Unfinished(status) => {
            answer["status"] = json!(status);
            return Ok(SimulatedAnswer::json(200, &answer).with("retry-after", RETRY_AFTER));
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
    let content: Vec<&str> = pages.iter().flatten().map(String::as_str).collect();
    answer["status"] = json!("succeeded");
    answer["analyzeResult"] = json!({
        "apiVersion": VERSION,
        "modelId": "prebuilt-read",
        "stringIndexType": "textElements",
        "content": content.join("\n"),
        "pages": pages.iter().enumerate().map(|(at, lines)| page(at + 1, lines, size)).collect::<Vec<_>>(),
        "styles": [],
        "contentFormat": "text",
    });
    Ok(SimulatedAnswer::json(200, &answer))
}

fn page(number: usize, lines: &[String], size: ImageSize) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|text| json!({"content": text, "polygon": [0, 0, 9, 0, 9, 9, 0, 9], "spans": []}))
        .collect();
    json!({
        "pageNumber": number, "unit": "pixel", "angle": 0, "width": size.width, "height": size.height,
        "lines": lines, "words": [], "spans": [],
    })
}

/// The query, which has to name the version.
fn checked_query(ask: &SimulatedRequest<'_>) -> Result<HashMap<String, String>, SimulatedAnswer> {
    let refused = |message: &str| azure::error(400, "InvalidArgument", message);
    let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&ask.parts.uri)
        .map_err(|_| refused("The query string is not valid."))?;
    match query.get("api-version").map(String::as_str) {
        Some(VERSION) => Ok(query),
        Some(_) => Err(refused("The api-version is not supported.")),
        None => Err(refused("Missing query parameter: api-version.")),
    }
}
