//! Times as people write them: with a unit, with a fraction, or without a unit where one reading alone is possible.

use std::{ops::RangeInclusive, time::Duration};

/// A time within `range`, and what was added to it.
///
/// # Errors
/// The requirement that the text does not meet.
pub(super) fn read(
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<(Duration, Option<String>), String> {
    let readings = match text.parse::<u64>() {
        Ok(0) => vec![("", Duration::ZERO)],
        Ok(number) => vec![
            ("s", Duration::from_secs(number)),
            ("ms", Duration::from_millis(number)),
        ],
        Err(_) => with_unit(text).map_or_else(Vec::new, |time| vec![("", time)]),
    };
    let possible: Vec<_> = readings.iter().filter(|(_, time)| range.contains(time)).collect();
    if let [(unit, time)] = possible[..] {
        let told = (!unit.is_empty()).then(|| {
            format!("has no unit: {text} is read as {text}{unit}, the one reading within its bounds")
        });
        return Ok((*time, told));
    }
    let [min, max] = [range.start(), range.end()].map(|time| humantime::format_duration(*time));
    let meant = match possible.len() {
        0 => String::new(),
        _ => format!("; {text}s or {text}ms?"),
    };
    Err(format!(
        "a time with its unit (250ms, 15s, 10m) from {min} to {max}{meant}"
    ))
}

/// `15s`, `1h 30m`, `1 min`, `1.5h`.
fn with_unit(text: &str) -> Option<Duration> {
    if let Ok(time) = humantime::parse_duration(text) {
        return Some(time);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let (unit, number) = (text[digits.len()..].trim(), digits.replace(',', "."));
    let number: f64 = number.parse().ok().filter(|number| (0.0..1e9).contains(number))?;
    let unit = humantime::parse_duration(&format!("1{unit}")).ok()?;
    Duration::try_from_secs_f64(number * unit.as_secs_f64()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_unit_that_is_certain_may_be_left_out() {
        let up_to_an_hour = SECOND..=SECOND * 3_600;
        for (text, seconds, is_told) in [
            ("90", 90, true),
            ("300000", 300, true),
            ("1h", 3_600, false),
            ("0h30m", 1_800, false),
            ("1 min", 60, false),
            ("1.5m", 90, false),
            ("0,5 h", 1_800, false),
            ("10 minutes", 600, false),
            ("1m30s", 90, false),
        ] {
            let (time, told) = read(text, up_to_an_hour.clone()).unwrap();
            assert_eq!((time.as_secs(), told.is_some()), (seconds, is_told), "{text}");
        }
        for (text, part) in [
            ("2000", "2000s or 2000ms?"),
            ("3600", "3600s or 3600ms?"),
            ("0", "from 1s to 1h"),
            ("2h", "from 1s to 1h"),
            ("4000000", "from 1s to 1h"),
            ("1.5", "with its unit"),
            ("-5s", "with its unit"),
            ("PT30S", "with its unit"),
            ("1.5 parsecs", "with its unit"),
            ("nan s", "with its unit"),
            ("s", "with its unit"),
            ("\u{661}s", "with its unit"),
        ] {
            let refusal = read(text, up_to_an_hour.clone()).unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
        assert_eq!(
            read("0", Duration::ZERO..=SECOND).unwrap(),
            (Duration::ZERO, None)
        );
    }
}
