//! Common parts of Azure Speech and Azure Vision: the key header and the shape of errors.

use serde_json::json;

use super::{
    digest,
    exchange::{SimulatedAnswer, SimulatedRequest},
};

/// An error in Azure's usual shape.
pub(super) fn error(status: u16, code: &str, message: &str) -> SimulatedAnswer {
    SimulatedAnswer::json(status, &json!({"error": {"code": code, "message": message}}))
}

/// The error that Azure sends with a status.
pub(super) fn refuse(status: u16) -> SimulatedAnswer {
    let (code, message) = match status {
        400 => ("InvalidRequest", "The request is not valid."),
        401 => (
            "401",
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid \
             key for an active subscription and use a correct regional API endpoint for your resource.",
        ),
        403 => ("403", "Access is denied."),
        404 => ("404", "Resource not found"),
        408 | 504 => ("Timeout", "The operation was timed out."),
        413 => ("InvalidRequest", "The request body is too large."),
        415 => (
            "UnsupportedMediaType",
            "The media type of the request is not supported.",
        ),
        429 => ("429", "Too many requests."),
        500 => ("InternalServerError", "Internal server error."),
        503 => ("ServiceUnavailable", "The service is temporarily unavailable."),
        _ => ("Unexpected", "The request failed."),
    };
    error(status, code, message)
}

/// 403: the volume of the pricing tier is used up.
pub(super) fn out_of_quota() -> SimulatedAnswer {
    error(
        403,
        "403",
        "Out of call volume quota. Quota will be replenished in 2.12 days.",
    )
}

/// Checks the key of a request.
pub(super) fn authorize(ask: &SimulatedRequest<'_>, key: &str) -> Result<(), SimulatedAnswer> {
    if ask.header("ocp-apim-subscription-key") == key {
        Ok(())
    } else {
        Err(refuse(401))
    }
}

/// An id in the form of a GUID.
pub(super) fn guid(seed: u64, seq: u64) -> String {
    let (high, low) = (
        digest::hex(digest::mix(seed)),
        digest::hex(digest::mix(seed ^ seq)),
    );
    format!(
        "{}-{}-4{}-a{}-{}{}",
        &high[..8],
        &high[8..12],
        &high[13..],
        &low[..3],
        &low[3..11],
        &high[..4]
    )
}
