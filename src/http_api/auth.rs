//! Access control of the HTTP routes. [`layers`] apply these rules in front of the handlers.
//!
//! - Routes that change something require `ADMIN_TOKEN`; those that add jobs accept `ENQUEUE_TOKEN` as well. Without a
//!   configured token these routes are off, unless `ADMIN_FROM_LOOPBACK` opens them to this host.
//! - Reads require `READ_TOKEN`. Without a configured token the worker answers only if `Host` is `localhost` or an
//!   address. After DNS rebinding a page sends its own name, so this check refuses it.
//!
//! A proxy on this host makes every remote client look local, and not all proxies add a header. So the operator must
//! enable trust in loopback explicitly. Then a caller must come from 127.0.0.1 or ::1, without a proxy's headers, name
//! this host in `Host`, and not send the origin of another page.

mod caller;
pub(super) mod layers;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use secrecy::SecretString;
use serde_json::json;

use self::caller::{address, bears, host, is_address, is_forwarded, is_loopback, is_of_this_host};

/// The tokens that open the routes.
#[derive(Debug, Clone, Default)]
pub struct AccessControl {
    /// For routes that change something.
    pub admin: Option<SecretString>,
    /// For routes that add jobs, beside the admin's.
    pub enqueue: Option<SecretString>,
    /// For reads, where they are not open.
    pub read: Option<SecretString>,
    /// True if this host may change something where no admin token is set.
    pub admin_from_loopback: bool,
    /// True if the last address of `X-Forwarded-For` is the caller's: behind a proxy that sets it.
    pub trust_proxy: bool,
}

/// The caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessDenied {
    /// A token is missing or wrong, or loopback would have to call; says which.
    Token(&'static str),
    /// A browser calls for a page of another site, or may.
    Foreign(&'static str),
}

impl IntoResponse for AccessDenied {
    fn into_response(self) -> Response {
        let body = |error: &str| Json(json!({ "success": false, "error": error }));
        match self {
            Self::Token(error) => {
                let bearer = [("www-authenticate", "Bearer")];
                (StatusCode::UNAUTHORIZED, bearer, body(error)).into_response()
            }
            Self::Foreign(error) => (StatusCode::FORBIDDEN, body(error)).into_response(),
        }
    }
}

impl AccessControl {
    /// Checks that a caller may change something.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_change(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<(), AccessDenied> {
        match &self.admin {
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) => Err(AccessDenied::Token(
                "this route wants Authorization: Bearer ADMIN_TOKEN",
            )),
            None if !self.admin_from_loopback => Err(AccessDenied::Token(
                "no ADMIN_TOKEN is configured: this route is off",
            )),
            None if !is_loopback(peer) || is_forwarded(headers) => Err(AccessDenied::Token(
                "no ADMIN_TOKEN is configured: this route answers to loopback only",
            )),
            None => is_of_this_host(headers),
        }
    }

    /// Checks that a caller may add jobs.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_enqueue(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<(), AccessDenied> {
        match &self.enqueue {
            Some(token) if bears(headers, token) => Ok(()),
            Some(_) => self.to_change(headers, peer).map_err(|denied| match denied {
                AccessDenied::Token(_) => AccessDenied::Token(
                    "this route wants Authorization: Bearer ENQUEUE_TOKEN, or ADMIN_TOKEN",
                ),
                foreign @ AccessDenied::Foreign(_) => foreign,
            }),
            None => self.to_change(headers, peer),
        }
    }

    /// Checks that a caller may read.
    ///
    /// # Errors
    /// [`AccessDenied`], saying what is missing.
    pub fn to_read(&self, headers: &HeaderMap) -> Result<(), AccessDenied> {
        let is_admin = || self.admin.as_ref().is_some_and(|admin| bears(headers, admin));
        match &self.read {
            Some(token) if bears(headers, token) => Ok(()),
            _ if is_admin() => Ok(()),
            Some(_) => Err(AccessDenied::Token(
                "this route wants Authorization: Bearer READ_TOKEN",
            )),
            None if is_address(host(headers)) => Ok(()),
            None => Err(AccessDenied::Foreign(
                "no READ_TOKEN is configured: reads are answered under localhost and literal addresses only",
            )),
        }
    }

    /// The caller's address.
    pub fn caller(&self, headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
        let forwarded = headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .filter(|_| self.trust_proxy);
        let address = forwarded.and_then(|value| address(value.to_str().ok()?.rsplit(',').next()?.trim()));
        address.unwrap_or(peer.ip()).to_canonical()
    }
}
