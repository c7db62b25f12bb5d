//! Reads variables one by one, and collects what is wrong with them.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::vars::{Fallback, Var};

pub(super) struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    effective: Vec<(&'static str, String)>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            effective: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// The values in force, or all that is wrong.
    pub(super) fn finish(self) -> Result<Vec<(&'static str, String)>, Vec<String>> {
        if self.errors.is_empty() {
            Ok(self.effective)
        } else {
            Err(self.errors)
        }
    }

    pub(super) fn is_set(&self, var: &Var) -> bool {
        (self.lookup)(var.name).is_some_and(|value| !value.trim().is_empty())
    }

    /// Notes a fault of a variable that `parse` cannot see.
    pub(super) fn complain<T>(&mut self, var: &Var, fault: &str) -> Option<T> {
        self.errors.push(format!("{} {fault}", var.name));
        None
    }

    /// A variable without a default. One that is set to nothing is not set.
    pub(super) fn optional<T>(&mut self, var: &Var, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(var)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.refuse(var, &text, &expected);
                None
            }
        }
    }

    /// A variable with a default.
    ///
    /// A faulty one yields what the default does, so that the faults of the others are found as well: the
    /// configuration is refused in the end.
    pub(super) fn parse<T>(&mut self, var: &Var, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let default = match var.default {
            Fallback::Value(text) => text.to_owned(),
            Fallback::Computed(compute) => compute(),
            Fallback::None => String::new(),
        };
        if let Some(value) = self.optional(var, &parse) {
            return value;
        }
        if !self.is_set(var) {
            self.effective.push((var.name, default.clone()));
        }
        match parse(&default) {
            Ok(value) => value,
            #[expect(
                clippy::panic,
                reason = "the defaults are ours, and a test reads every one of them"
            )]
            Err(expected) => panic!("the default of {} is wrong: {expected}", var.name),
        }
    }

    pub(super) fn number<T>(&mut self, var: &Var, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.parse(var, |text| {
            let number = text.parse().ok().filter(|n| range.contains(n));
            number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    pub(super) fn duration(&mut self, var: &Var, min: Duration, max: Duration) -> Duration {
        self.parse(var, |text| {
            let duration = if text == "0" {
                Some(Duration::ZERO)
            } else {
                humantime::parse_duration(text).ok()
            };
            duration.filter(|d| (min..=max).contains(d)).ok_or_else(|| {
                let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
                format!("a time with its unit (250ms, 15s, 10m) from {min} to {max}")
            })
        })
    }

    pub(super) fn switch(&mut self, var: &Var) -> bool {
        self.parse(var, |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("on or off".to_owned()),
        })
    }

    pub(super) fn url(&mut self, var: &Var) -> Url {
        self.parse(var, parse_url)
    }

    pub(super) fn optional_url(&mut self, var: &Var) -> Option<Url> {
        self.optional(var, parse_url)
    }

    pub(super) fn secret(&mut self, var: &Var) -> Option<SecretString> {
        self.optional(var, |text| {
            // It becomes a header: what cannot be one is better refused here than at each call.
            let plain = text.chars().all(|c| c.is_ascii_graphic());
            if plain {
                Ok(SecretString::from(text))
            } else {
                Err("printable ASCII without spaces".to_owned())
            }
        })
    }

    /// A secret that callers of the HTTP port have to know.
    pub(super) fn token(&mut self, var: &Var) -> Option<SecretString> {
        const SHORTEST: usize = 16;
        let token = self.secret(var)?;
        if token.expose_secret().len() < SHORTEST {
            return self.complain(
                var,
                "is refused: a token has 16 characters or more (openssl rand -hex 32 makes one)",
            );
        }
        Some(token)
    }

    fn text(&mut self, var: &Var) -> Option<String> {
        let text = (self.lookup)(var.name)?.trim().to_owned();
        if text.is_empty() {
            return None;
        }
        self.effective.push((
            var.name,
            if var.secret {
                "(set)".to_owned()
            } else {
                text.clone()
            },
        ));
        Some(text)
    }

    fn refuse(&mut self, var: &Var, text: &str, expected: &str) {
        // A URL may hold a password, and a refused one need not be a URL.
        let shown = if var.secret || text.contains("://") || text.contains('@') {
            "the value".to_owned()
        } else {
            format!("{text:?}")
        };
        self.errors
            .push(format!("{}: {shown} is refused: {expected}", var.name));
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|e| format!("a URL ({e})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("an http or https URL".to_owned());
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("a URL without credentials, query or fragment".to_owned());
    }
    Ok(url)
}
