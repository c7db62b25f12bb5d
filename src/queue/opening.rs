//! Opens payloads, of either layout: the type of a job, and the data for its handler.

use bytes::Bytes;
use jobs::{Failure, JobType};

use super::{Delivery, apalis::TaskEnvelope};

/// Why a payload is not opened.
pub(crate) enum PayloadRefusal {
    /// Another worker may know what to do with it.
    Unknown(Failure),
    /// No worker can open it.
    Failure(Failure),
}

impl Delivery {
    /// The job's type and data, which shares the memory of its payload.
    pub(crate) fn opened(&self) -> Result<(JobType, Bytes), PayloadRefusal> {
        let (kind, data) = self.open()?;
        let whole = self.payload.as_ref();
        Ok((kind, whole.map_or_else(Bytes::new, |whole| whole.slice_ref(data))))
    }

    /// The job's type and data. BullMQ keeps the type beside the payload, the apalis layout in an envelope around the data.
    pub(crate) fn open(&self) -> Result<(JobType, &[u8]), PayloadRefusal> {
        let Some(payload) = &self.payload else {
            return Err(PayloadRefusal::Failure(Failure::permanent(
                "the queue holds no payload for this job",
            )));
        };
        let known = |kind: &str| {
            kind.parse::<JobType>()
                .map_err(|unknown| PayloadRefusal::Unknown(Failure::permanent(unknown.to_string())))
        };
        if let Some(kind) = &self.kind {
            return Ok((known(kind)?, payload));
        }
        let envelope: TaskEnvelope<'_> = serde_json::from_slice(payload).map_err(|error| {
            // Where, and not what: the parser's own words would repeat the payload.
            let place = format!("line {}, column {}", error.line(), error.column());
            let fault = Failure::permanent(format!("payload is no {{\"type\": …, \"data\": …}} ({place})"));
            if error.is_data() {
                PayloadRefusal::Unknown(fault)
            } else {
                PayloadRefusal::Failure(fault)
            }
        })?;
        Ok((known(&envelope.kind)?, envelope.data.get().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use jobs::FailureClass;

    use super::*;

    fn delivery(payload: Option<&str>) -> Delivery {
        Delivery::first_of(None, payload.map(|text| text.to_owned().into()))
    }

    #[test]
    fn a_type_beside_the_payload_leaves_the_payload_as_it_is() {
        let beside = |kind: &str| Delivery {
            kind: Some(kind.to_owned()),
            ..delivery(Some("{\"type\":1}"))
        };
        assert!(matches!(
            beside("process-image").open(),
            Ok((JobType::ProcessImage, b"{\"type\":1}"))
        ));
        assert!(matches!(beside("x").open(), Err(PayloadRefusal::Unknown(_))));
    }

    #[test]
    fn a_payload_is_opened_or_says_what_is_wrong_with_it() {
        let good = delivery(Some(r#"{"type":"process-image","data":{"imageUrl":"x"}}"#));
        assert!(matches!(
            good.open(),
            Ok((JobType::ProcessImage, br#"{"imageUrl":"x"}"#))
        ));
        for payload in [None, Some(""), Some("{"), Some("\u{1}")] {
            let Err(PayloadRefusal::Failure(failure)) = delivery(payload).open() else {
                panic!("{payload:?} opened")
            };
            assert_eq!(failure.class(), FailureClass::Permanent);
        }
        // Well-formed payloads of unknown types, perhaps for another worker. The message must not quote their content.
        for payload in [
            r#"{"type":"process-image"}"#,
            r#"{"type":7,"data":{}}"#,
            r#""hunter2""#,
            "[]",
        ] {
            let Err(PayloadRefusal::Unknown(failure)) = delivery(Some(payload)).open() else {
                panic!("{payload:?} opened")
            };
            assert!(failure.to_string().contains("line 1, column"), "{failure}");
            assert!(!failure.to_string().contains("hunter2"));
        }
        let Err(PayloadRefusal::Unknown(failure)) = delivery(Some(r#"{"type":"x","data":{}}"#)).open() else {
            panic!("an unknown type opened")
        };
        assert_eq!(failure.to_string(), "Unknown job type: x");
    }
}
