//! Grants connections: places for all, a bound for each address, and a reserve that health and metrics always
//! find room in.
//!
//! A connection takes one of the places. Where none is left, for it or for its address, it comes into the reserve:
//! there it is answered about health and metrics at once, and about anything else when a place comes free. The reserve
//! is never full: the connection that has been in it for the longest is cut off for a new one.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{locks::locked, ratelimit::site};

/// The places of a server.
#[derive(Debug)]
pub(in crate::http_api) struct ConnectionSlots {
    most: usize,
    per_address: usize,
    reserve: usize,
    taken: Mutex<SlotUsage>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct SlotUsage {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections in the reserve, the oldest first.
    reserve: VecDeque<(u64, CancellationToken)>,
    next: u64,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(in crate::http_api) struct ConnectionSlot {
    places: Arc<ConnectionSlots>,
    address: IpAddr,
}

/// A connection in the reserve; out of it when this is dropped.
#[derive(Debug)]
pub(in crate::http_api) struct ReservedSlot {
    places: Arc<ConnectionSlots>,
    number: u64,
    address: IpAddr,
    /// Cancelled when the connection has to make room.
    pub(super) evicted: CancellationToken,
}

impl ConnectionSlots {
    /// `most` places, at most `per_address` of them for one address, and `reserve` connections beyond.
    pub(super) fn new(most: usize, per_address: usize, reserve: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            per_address,
            reserve: reserve.max(1),
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A place for a connection from this address, if one is left for it.
    pub(super) fn try_take(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        let address = site(address);
        let mut taken = self.taken();
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.all >= self.most || of_address >= self.per_address {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, of_address + 1);
        Some(ConnectionSlot {
            places: self.clone(),
            address,
        })
    }

    /// Waits for a place.
    async fn take(self: &Arc<Self>, address: IpAddr) -> ConnectionSlot {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.try_take(address) {
                return place;
            }
            freed.await;
        }
    }

    /// Takes a connection into the reserve; the oldest there has to leave if it is full.
    pub(super) fn reserve(self: &Arc<Self>, address: IpAddr) -> ReservedSlot {
        let mut taken = self.taken();
        if taken.reserve.len() >= self.reserve
            && let Some((_, oldest)) = taken.reserve.pop_front()
        {
            oldest.cancel();
        }
        let (number, evicted) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.reserve.push_back((number, evicted.clone()));
        ReservedSlot {
            places: self.clone(),
            number,
            address,
            evicted,
        }
    }

    fn taken(&self) -> MutexGuard<'_, SlotUsage> {
        locked(&self.taken)
    }
}

impl ReservedSlot {
    /// Waits for a place. From then on the connection is not cut off for others.
    pub(super) async fn place(&self) -> ConnectionSlot {
        let place = self.places.take(self.address).await;
        self.leave();
        place
    }

    fn leave(&self) {
        self.places
            .taken()
            .reserve
            .retain(|(number, _)| *number != self.number);
    }
}

impl Drop for ReservedSlot {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.address);
            }
        }
        drop(taken);
        // Each that waits looks for itself: the place may be of an address whose bound was the reason.
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn places_are_bounded_in_all_and_for_each_address() {
        let places = ConnectionSlots::new(3, 2, 2);
        let (one, other) = (address("10.0.0.1"), address("10.0.0.2"));
        let first = places.try_take(one).unwrap();
        let _second = places.try_take(one).unwrap();
        assert!(places.try_take(one).is_none(), "the bound of the address");
        let _third = places.try_take(other).unwrap();
        assert!(places.try_take(other).is_none(), "the bound of all");
        let reserved = places.reserve(other);
        let mut waits = std::pin::pin!(reserved.place());
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(first);
        let _place = waits.await;
        assert!(places.try_take(one).is_none());
    }

    #[test]
    fn the_oldest_in_the_reserve_makes_room() {
        let places = ConnectionSlots::new(0, 0, 2);
        let one = address("::ffff:10.0.0.1");
        let (first, second, third) = (places.reserve(one), places.reserve(one), places.reserve(one));
        assert!(first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(second);
        let fourth = places.reserve(one);
        assert!(!third.evicted.is_cancelled() && !fourth.evicted.is_cancelled());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        assert_eq!(site(address("2001:db8::1")), site(address("2001:db8::ffff:2")));
        assert_ne!(site(address("2001:db8:0:1::1")), site(address("2001:db8:0:2::1")));
        assert_eq!(site(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }
}
