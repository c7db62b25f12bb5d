//! Limits the requests of one user, or one address, by sliding windows that the web API shares, in its format.
//!
//! `ratelimit:user:<id>:<action>` and `ratelimit:ip:<ip>:<action>` are sorted sets of ms timestamps. One script checks
//! and takes a place, so two concurrent requests cannot both get the last one.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
    time::Duration,
};

use redis::RedisError;
use serde::Serialize;

use crate::script::{Script, ScriptCall};
use crate::{connection::Connection, time_format::millis};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));
static PEEK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("peek.lua")));

/// The owner of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateSubject<'a> {
    /// A user of the app.
    User(&'a str),
    /// An address.
    Ip(IpAddr),
}

impl RateSubject<'_> {
    /// The window's key.
    pub fn key(&self, action: &str) -> String {
        match self {
            Self::User(id) => format!("ratelimit:user:{id}:{action}"),
            Self::Ip(ip) => format!("ratelimit:ip:{}:{action}", site(*ip)),
        }
    }
}

/// The part of an address that counts as one caller: of IPv6 the network of 64 bits, all of which one customer has.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// So many requests in any stretch of so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RateWindow {
    /// The most requests; 0 is no limit.
    pub limit: u32,
    /// The length of the window.
    pub length: Duration,
}

/// The verdict of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowUsage {
    /// True if the request may pass.
    pub allowed: bool,
    /// The most requests in the window.
    pub limit: u32,
    /// How many more may pass now.
    pub remaining: u32,
    /// Until the window frees a place.
    pub reset_after: Duration,
}

/// The windows of users and addresses.
#[derive(Debug, Clone)]
pub struct RateLimits {
    connection: Connection,
}

impl RateLimits {
    /// Windows in the given Redis.
    pub const fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Takes one request. `request` is unique to it: sent again it is not counted twice. `None` without a limit.
    ///
    /// # Errors
    /// Redis's own: nothing is known then.
    pub async fn take(
        &self,
        subject: &RateSubject<'_>,
        action: &str,
        window: RateWindow,
        request: &str,
    ) -> Result<Option<WindowUsage>, RedisError> {
        let mut call = TAKE.prepare_invoke();
        call.key(self.connection.named(&subject.key(action)))
            .arg(window.limit)
            .arg(millis(window.length))
            .arg(request);
        self.ask(window, &call).await
    }

    /// The verdict that the window would give. Nothing is counted.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn peek(
        &self,
        subject: &RateSubject<'_>,
        action: &str,
        window: RateWindow,
    ) -> Result<Option<WindowUsage>, RedisError> {
        let mut call = PEEK.prepare_invoke();
        call.key(self.connection.named(&subject.key(action)))
            .arg(window.limit)
            .arg(millis(window.length));
        self.ask(window, &call).await
    }

    async fn ask(
        &self,
        window: RateWindow,
        call: &ScriptCall<'_>,
    ) -> Result<Option<WindowUsage>, RedisError> {
        if window.limit == 0 {
            return Ok(None);
        }
        let (allowed, remaining, reset_ms): (bool, u32, u64) = self.connection.invoke(call).await?;
        let reset_after = Duration::from_millis(reset_ms);
        Ok(Some(WindowUsage {
            allowed,
            limit: window.limit,
            remaining,
            reset_after,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::PrivateRedis;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns true if one more request of a user's may pass.
    async fn lets_pass(
        limits: &RateLimits,
        user: &str,
        action: &str,
        window: RateWindow,
        request: &str,
    ) -> bool {
        let taken = limits
            .take(&RateSubject::User(user), action, window, request)
            .await;
        taken.unwrap().unwrap().allowed
    }

    #[test]
    fn keys_are_those_of_the_web_api() {
        assert_eq!(RateSubject::User("123").key("ai"), "ratelimit:user:123:ai");
        let mapped: IpAddr = "::ffff:192.168.1.1".parse().unwrap();
        assert_eq!(
            RateSubject::Ip(mapped).key("general"),
            "ratelimit:ip:192.168.1.1:general"
        );
        let one_customer = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::7"];
        for address in one_customer {
            let key = RateSubject::Ip(address.parse().unwrap()).key("general");
            assert_eq!(key, "ratelimit:ip:2001:db8:1:2:::general", "{address}");
        }
    }

    #[tokio::test]
    async fn a_window_lets_its_limit_pass_and_no_more_even_at_once() {
        let redis = PrivateRedis::start().await.unwrap();
        let limits = RateLimits::new(Connection::open(&redis.url().into()).unwrap());
        let window = RateWindow {
            limit: 5,
            length: HOUR,
        };
        let takes = (0..20).map(|n| {
            let limits = limits.clone();
            async move {
                limits
                    .take(&RateSubject::User("u"), "ai", window, &n.to_string())
                    .await
                    .unwrap()
                    .unwrap()
            }
        });
        let answers = futures_util::future::join_all(takes).await;
        assert_eq!(answers.iter().filter(|a| a.allowed).count(), 5);
        let last = limits
            .peek(&RateSubject::User("u"), "ai", window)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((last.allowed, last.remaining, last.limit), (false, 0, 5));
        assert!(last.reset_after <= HOUR && last.reset_after > HOUR - Duration::from_secs(120));
        // The same request again was let through before: it takes nothing more, and is not refused now.
        let passed = answers.iter().position(|a| a.allowed).unwrap().to_string();
        assert!(lets_pass(&limits, "u", "ai", window, &passed).await);
        // Another user, another action: other windows.
        assert!(lets_pass(&limits, "v", "ai", window, "x").await);
        assert!(lets_pass(&limits, "u", "other", window, "x").await);
        assert_eq!(
            limits
                .take(
                    &RateSubject::User("u"),
                    "ai",
                    RateWindow {
                        limit: 0,
                        length: HOUR
                    },
                    "x"
                )
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn what_the_web_api_counted_counts() {
        let redis = PrivateRedis::start().await.unwrap();
        let connection = Connection::open(&redis.url().into()).unwrap();
        let (seconds, _): (u64, u64) = {
            let mut pipe = redis::pipe();
            pipe.cmd("TIME");
            let ((s, m),): ((u64, u64),) = connection.query(&pipe).await.unwrap();
            (s, m)
        };
        let (now, window) = (
            seconds * 1000,
            RateWindow {
                limit: 3,
                length: HOUR,
            },
        );
        let mut pipe = redis::pipe();
        // Two of its requests, and one that is out of the window.
        for (at, member) in [(now, "a-0.1"), (now - 1000, "b-0.2"), (now - 3_700_000, "c-0.3")] {
            pipe.zadd("ratelimit:user:u:ai", member, at).ignore();
        }
        connection.query::<()>(&pipe).await.unwrap();
        let limits = RateLimits::new(connection);
        assert!(lets_pass(&limits, "u", "ai", window, "1").await);
        assert!(!lets_pass(&limits, "u", "ai", window, "2").await);
    }
}
