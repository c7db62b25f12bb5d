//! Reads variables one by one, and collects what is wrong with them.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{
    durations,
    endpoints::MappedEndpoint,
    examples::example,
    vars::{DefaultValue, EnvVar},
};

pub(super) struct EnvReader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    effective: Vec<(&'static str, String)>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> EnvReader<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            effective: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Returns the values in force and the changes made to them, or every fault.
    #[expect(clippy::type_complexity, reason = "two lists")]
    pub(super) fn finish(mut self) -> Result<(Vec<(&'static str, String)>, Vec<String>), Vec<String>> {
        // A variable may be read more than once.
        self.warnings.dedup();
        let mut seen = std::collections::HashSet::new();
        self.errors.retain(|error| seen.insert(error.clone()));
        if self.errors.is_empty() {
            Ok((self.effective, self.warnings))
        } else {
            Err(self.errors)
        }
    }

    /// Passes on a value that was changed, with a warning that says so.
    pub(super) fn told<T>(&mut self, var: &EnvVar, (value, told): (T, Option<String>)) -> T {
        if let Some(told) = told {
            self.warnings.push(format!("{} {told}", var.name));
        }
        value
    }

    pub(super) fn is_set(&self, var: &EnvVar) -> bool {
        (self.lookup)(var.name).is_some_and(|value| !bare(var.name, &value).0.is_empty())
    }

    /// Notes a fault of a variable that `parse` cannot see.
    pub(super) fn complain<T>(&mut self, var: &EnvVar, fault: &str) -> Option<T> {
        let shown = match var.default {
            DefaultValue::None => shown_example(var),
            _ => String::new(),
        };
        self.errors.push(format!("{} {fault}{shown}", var.name));
        None
    }

    /// A variable without a default. One that is set to nothing is not set.
    pub(super) fn optional<T>(
        &mut self,
        var: &EnvVar,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(var)?;
        // Words such as `on`, `json` and `10m` are lower case; panels and people write others as well.
        let parsed = parse(&text).or_else(|expected| match text.to_lowercase() {
            lower if lower != text && !var.secret => parse(&lower).map_err(|_| expected),
            _ => Err(expected),
        });
        match parsed {
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
    pub(super) fn parse<T>(&mut self, var: &EnvVar, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let default = match var.default {
            DefaultValue::Value(text) => text.to_owned(),
            DefaultValue::Computed(compute) => compute(),
            DefaultValue::None => String::new(),
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

    pub(super) fn number<T>(&mut self, var: &EnvVar, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.parse(var, |text| {
            let number = text.parse().ok().filter(|n| range.contains(n));
            number.ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    pub(super) fn duration(&mut self, var: &EnvVar, min: Duration, max: Duration) -> Duration {
        let read = self.parse(var, |text| durations::read(text, min..=max));
        self.told(var, read)
    }

    pub(super) fn switch(&mut self, var: &EnvVar) -> bool {
        self.parse(var, |text| match text {
            "on" | "true" | "1" | "yes" | "y" | "enabled" => Ok(true),
            "off" | "false" | "0" | "no" | "n" | "disabled" => Ok(false),
            _ => Err("on or off".to_owned()),
        })
    }

    /// The URL of a provider, as `map` understands it.
    pub(super) fn endpoint(&mut self, var: &EnvVar, map: fn(Url) -> MappedEndpoint) -> Url {
        let mapped = self.parse(var, |text| parse_loose_url(text).and_then(map));
        self.told(var, mapped)
    }

    /// The same for a variable without a default.
    pub(super) fn optional_endpoint(&mut self, var: &EnvVar, map: fn(Url) -> MappedEndpoint) -> Option<Url> {
        let mapped = self.optional(var, |text| parse_loose_url(text).and_then(map))?;
        Some(self.told(var, mapped))
    }

    /// A URL that may have a query.
    pub(super) fn optional_url_with_query(&mut self, var: &EnvVar) -> Option<Url> {
        self.optional(var, parse_loose_url)
    }

    pub(super) fn optional_url(&mut self, var: &EnvVar) -> Option<Url> {
        self.optional(var, parse_url)
    }

    pub(super) fn secret(&mut self, var: &EnvVar) -> Option<SecretString> {
        self.optional(var, printable)
    }

    /// A secret that callers of the HTTP port have to know.
    pub(super) fn token(&mut self, var: &EnvVar) -> Option<SecretString> {
        const SHORTEST: usize = 16;
        const REMEDY: &str = "openssl rand -hex 32 makes one";
        let read = |text: &str| printable(text).map_err(|expected| format!("{expected} ({REMEDY})"));
        let token = self.optional(var, read)?;
        if token.expose_secret().len() < SHORTEST {
            let fault = format!("is refused: a token has {SHORTEST} characters or more ({REMEDY})");
            return self.complain(var, &fault);
        }
        Some(token)
    }

    fn text(&mut self, var: &EnvVar) -> Option<String> {
        let value = (self.lookup)(var.name)?;
        let (text, left_out) = bare(var.name, &value);
        let text = text.to_owned();
        if text.is_empty() {
            return None;
        }
        for told in left_out {
            self.told(var, ((), Some(told.to_owned())));
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

    fn refuse(&mut self, var: &EnvVar, text: &str, expected: &str) {
        // A URL may hold a password, and a refused one need not be a URL.
        let shown = if var.secret || text.contains("://") || text.contains('@') {
            format!("the value ({} characters)", text.chars().count())
        } else {
            format!("{:?}", text.chars().take(LONGEST_SHOWN).collect::<String>())
        };
        // The addresses of all deployments are read alike, and each has variables of its own.
        let prefix = var.name.strip_suffix("BASE_URL").unwrap_or("OPENAI_");
        let expected = expected.replace("OPENAI_", prefix);
        let example = shown_example(var);
        self.errors
            .push(format!("{}: {shown} is refused: {expected}{example}", var.name));
    }
}

/// A secret that can become a header: one that cannot is better refused at the start than at each call.
fn printable(text: &str) -> Result<SecretString, String> {
    match text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(SecretString::from(text)),
        false => Err("printable ASCII without spaces".to_owned()),
    }
}

fn shown_example(var: &EnvVar) -> String {
    example(var).map_or_else(String::new, |example| {
        format!(" (example: {}={example})", var.name)
    })
}

/// Characters of a refused value that are shown.
const LONGEST_SHOWN: usize = 200;

/// A value without what is around it, and what of that is worth a warning: the quotes that `docker --env-file` and many
/// panels keep, and the name or escape that is copied with a line of a file. White space needs no warning.
fn bare<'a>(name: &str, value: &'a str) -> (&'a str, Vec<&'static str>) {
    let is_around = |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}' | '\u{2060}');
    let (mut text, mut left_out) = (value.trim_matches(is_around), Vec::new());
    loop {
        let after_name = || {
            let rest = text.strip_prefix("export ").unwrap_or(text).trim_start();
            rest.strip_prefix(name)?.trim_start().strip_prefix('=')
        };
        let before_escape = || text.strip_suffix("\\n").or_else(|| text.strip_suffix("\\r"));
        let quoted = QUOTES
            .iter()
            .find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close));
        let (inner, told) = if let Some(inner) = quoted {
            let told = "stands in quotes, which are left out: the tool that sets it passes them on";
            (inner, told)
        } else if let Some(inner) = after_name() {
            (inner, "begins with its own name, which is left out")
        } else if let Some(inner) = before_escape() {
            (inner, "ends with an escaped line break, which is left out")
        } else {
            return (text, left_out);
        };
        text = inner.trim_matches(is_around);
        if !left_out.contains(&told) {
            left_out.push(told);
        }
    }
}

/// Quotes around values: straight ones, and those of a text processor in English, German, French, Polish and Swedish.
const QUOTES: [(char, char); 13] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201c}', '\u{201d}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{201e}', '\u{201c}'),
    ('\u{201e}', '\u{201d}'),
    ('\u{201a}', '\u{2018}'),
    ('\u{201d}', '\u{201d}'),
    ('\u{2019}', '\u{2019}'),
    ('\u{ab}', '\u{bb}'),
    ('\u{bb}', '\u{ab}'),
    ('\u{ff02}', '\u{ff02}'),
];

fn parse_url(text: &str) -> Result<Url, String> {
    let url = parse_loose_url(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a URL without credentials, query or fragment".to_owned());
    }
    Ok(url)
}

/// A URL whose query the caller judges.
fn parse_loose_url(text: &str) -> Result<Url, String> {
    let has_scheme = text.contains("://");
    let url: Url = match text.parse() {
        Ok(url) => url,
        Err(_) if !has_scheme => return Err("an http or https URL: its scheme is missing".to_owned()),
        Err(e) => return Err(format!("a URL ({e})")),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("an http or https URL".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL without credentials, query or fragment".to_owned());
    }
    Ok(url)
}
