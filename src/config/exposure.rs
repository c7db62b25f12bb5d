//! Finds unprotected parts of a configuration; the start and `check` warn of them.

use url::{Host, Url};

use super::Config;

impl Config {
    /// The settings that leave the HTTP port more open than a deployment should.
    pub fn access_faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        if self.access.admin.is_none() && self.access.admin_from_loopback {
            faults.push(
                "ADMIN_FROM_LOOPBACK is on: a proxy or a sidecar on this host opens the changing routes to its callers",
            );
        }
        if self.access.read.is_none() {
            faults.push(
                "no READ_TOKEN: callers that name the port by an address, or localhost, read jobs and their results",
            );
        }
        faults
    }

    /// The variables with a URL over which a key would travel unencrypted, to another host.
    pub fn urls_in_the_clear(&self) -> Vec<&'static str> {
        let handlers = &self.handlers;
        let urls = [
            ("OPENAI_BASE_URL", handlers.openai.as_ref().map(|s| &s.base_url)),
            (
                "AZURE_SPEECH_ENDPOINT",
                handlers.speech.as_ref().map(|s| &s.endpoint),
            ),
            (
                "AZURE_VISION_ENDPOINT",
                handlers.vision.as_ref().map(|s| &s.endpoint),
            ),
        ];
        let webhook = (
            "USAGE_WEBHOOK_URL",
            self.webhook.as_ref().map(|webhook| &webhook.url),
        );
        let is_in_clear = |url: &Url| url.scheme() == "http" && !is_loopback(url);
        urls.into_iter()
            .chain([webhook])
            .filter(|(_, url)| url.is_some_and(is_in_clear))
            .map(|(name, _)| name)
            .collect()
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
