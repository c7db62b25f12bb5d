//! Fuzz targets of the lists of jobs, and of the cursors that callers send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::collections::HashMap;

use hostile::Target;

use super::{JobSnapshot, ListCursor, admin::read_page, watch::JobUpdate};
use crate::http_api::expect_tellable;

/// A hash of Redis, as bytes.
pub(crate) type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// A hash and the lines behind it: `field=value`, then an empty line, then one line each.
pub(crate) fn hash(input: &[u8]) -> (Fields, Vec<Vec<u8>>) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let fields = lines.by_ref().take_while(|line| !line.is_empty()).map(|line| {
        let at = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        (
            line[..at].to_vec(),
            line.get(at + 1..).unwrap_or_default().to_vec(),
        )
    });
    (fields.collect(), lines.map(<[u8]>::to_vec).collect())
}

/// Fails unless a job with any content can be serialised, and reported as events.
pub(crate) fn expect_showable(view: JobSnapshot) {
    assert!(view.progress <= 100);
    assert!(serde_json::to_string(&view).is_ok());
    expect_tellable(
        &view,
        [
            JobUpdate::Active,
            JobUpdate::Progress(view.progress),
            JobUpdate::Gone(None),
        ],
    );
}

/// A list: its cursor on the first line, then jobs as the scripts give them, field by field. A cursor that is taken
/// reads the same again.
pub(crate) static JOB_LIST: Target = Target::new("job_list", |input| {
    let (cursor, rest) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &b""[..]),
    };
    let cursor = String::from_utf8_lossy(cursor);
    let place = cursor.parse::<ListCursor>().ok();
    if let Some(place) = &place {
        assert_eq!(place.to_string().parse::<ListCursor>().as_ref().ok(), Some(place));
    }
    let text = |part: Option<&[u8]>| part.filter(|part| !part.is_empty()).map(<[u8]>::to_vec);
    let rows = rest.split(|byte| *byte == b'\n').map(|line| {
        let mut parts = line.split(|byte| *byte == b'\t');
        let mut next = || parts.next();
        let (id, kind, attempts, reason, at) =
            (next(), text(next()), text(next()), text(next()), text(next()));
        let score = String::from_utf8_lossy(next().unwrap_or_default()).into_owned();
        let history = parts.map(<[u8]>::to_vec).collect();
        (
            id.unwrap_or_default().to_vec(),
            kind,
            attempts,
            reason,
            at,
            1,
            score,
            history,
        )
    });
    let next = Some((1, cursor.into_owned(), 7));
    let page = read_page((rows.collect(), next, 1)).expect("any list can be read");
    assert!(serde_json::to_string(&page.jobs).is_ok());
    page.next_without(&page.jobs);
});

#[test]
fn job_lists() {
    JOB_LIST.run();
}
