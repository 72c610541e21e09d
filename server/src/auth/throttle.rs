//! Counts invalid tokens per peer address and slows the noisy ones down.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Invalid tokens an address may send per window before it is told to wait.
const PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once; an attacker with more of them pushes out the oldest.
const MAX_ADDRESSES: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    peers: Mutex<Peers>,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Peers {
    by_address: BTreeMap<IpAddr, Peer>,
    /// The same addresses in the order they came: the oldest makes room.
    order: VecDeque<IpAddr>,
}

#[derive(Debug)]
struct Peer {
    since: Instant,
    count: u32,
}

impl Throttle {
    /// Counts one failure of `peer`; answers how long it has to wait if it had too many.
    pub(super) fn failure(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let key = network(peer);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Peers { by_address, order } = &mut *peers;
        if !by_address.contains_key(&key) {
            if order.len() >= MAX_ADDRESSES
                && let Some(oldest) = order.pop_front()
            {
                by_address.remove(&oldest);
            }
            order.push_back(key);
        }
        let entry = by_address.entry(key).or_insert(Peer { since: now, count: 0 });
        let elapsed = now.saturating_duration_since(entry.since);
        if elapsed >= WINDOW {
            *entry = Peer { since: now, count: 0 };
        }
        entry.count = entry.count.saturating_add(1);
        (entry.count > PER_WINDOW)
            .then(|| WINDOW.saturating_sub(elapsed).max(Duration::from_secs(1)))
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// An IPv6 host can use any address of its /64: they count as one.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_failure_in_a_minute_has_to_wait_and_the_next_minute_is_free_again() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let peer = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..PER_WINDOW {
            assert_eq!(throttle.failure(peer, start), None);
        }
        let wait = throttle.failure(peer, start + Duration::from_secs(20)).expect("has to wait");
        assert_eq!(wait, Duration::from_secs(40));
        assert_eq!(throttle.failure(IpAddr::from([192, 0, 2, 2]), start), None, "another address");
        assert_eq!(throttle.failure(peer, start + WINDOW), None);
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_table() {
        let throttle = Throttle::default();
        let start = Instant::now();
        for i in 0..10_000_u32 {
            throttle
                .failure(IpAddr::from(i.to_be_bytes()), start + Duration::from_micros(i.into()));
        }
        let peers = throttle.peers.lock().expect("not poisoned");
        assert_eq!(peers.by_address.len(), MAX_ADDRESSES);
        assert_eq!(peers.order.len(), MAX_ADDRESSES);
        assert_eq!(throttle.failures(), 10_000);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let a: IpAddr = "2001:db8:1:2:aaaa::1".parse().expect("an address");
        let b: IpAddr = "2001:db8:1:2:bbbb::2".parse().expect("an address");
        assert_eq!(network(a), network(b));
    }
}
