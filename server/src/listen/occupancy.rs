//! Who holds how many connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Limits;
use crate::auth::network;

/// The connections of one server, counted in all and per address.
#[derive(Debug)]
pub(super) struct Occupancy {
    limit: usize,
    limit_per_address: usize,
    reserved: usize,
    per_address: Mutex<BTreeMap<IpAddr, usize>>,
    total: watch::Sender<usize>,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    occupancy: Arc<Occupancy>,
    address: IpAddr,
}

impl Occupancy {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            limit: limits.max_connections,
            limit_per_address: limits.max_connections_per_address,
            reserved: limits.reserved_for_loopback.min(limits.max_connections),
            per_address: Mutex::new(BTreeMap::new()),
            total: watch::Sender::new(0),
        })
    }

    /// A seat for a connection from `peer`, unless a limit is reached.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let loopback = is_this_host(peer);
        let address = network(peer);
        let mut per_address = self.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = if loopback { self.limit } else { self.limit - self.reserved };
        let here = per_address.get(&address).copied().unwrap_or(0);
        if *self.total.borrow() >= limit || (!loopback && here >= self.limit_per_address) {
            return None;
        }
        per_address.insert(address, here + 1);
        self.total.send_modify(|total| *total += 1);
        Some(Seat { occupancy: Arc::clone(self), address })
    }

    pub(super) fn taken(&self) -> usize {
        *self.total.borrow()
    }

    /// Waits until no seat is taken.
    pub(super) async fn empty(&self) {
        // The sender lives in `self`, so that waiting cannot fail.
        let _ = self.total.subscribe().wait_for(|total| *total == 0).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut per_address =
            self.occupancy.per_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
        self.occupancy.total.send_modify(|total| *total = total.saturating_sub(1));
    }
}

/// Whether a connection comes from where programs of this host come from unless they choose otherwise. Who takes another one of the
/// sixteen million addresses of loopback, as a proxy may for each of its clients, is counted like anybody.
fn is_this_host(peer: IpAddr) -> bool {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4 == Ipv4Addr::LOCALHOST,
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy() -> Arc<Occupancy> {
        Occupancy::new(&Limits {
            max_connections: 5,
            max_connections_per_address: 2,
            reserved_for_loopback: 1,
            ..Limits::default()
        })
    }

    #[test]
    fn one_address_cannot_take_all_seats_and_the_reserve_is_for_loopback() {
        let occupancy = occupancy();
        let a = IpAddr::from([192, 0, 2, 1]);
        let b = IpAddr::from([192, 0, 2, 2]);
        let c = IpAddr::from([192, 0, 2, 3]);
        let mut seats: Vec<_> = [a, a, b, b].map(|ip| occupancy.take(ip).expect("free")).into();
        assert!(occupancy.take(a).is_none(), "two per address");
        assert!(occupancy.take(c).is_none(), "the last seat is reserved");
        seats.push(occupancy.take(IpAddr::from([127, 0, 0, 1])).expect("for loopback"));
        assert!(occupancy.take(IpAddr::from([127, 0, 0, 1])).is_none(), "five in all");
        seats.remove(0);
        assert!(occupancy.take(c).is_none(), "still reserved");
        seats.clear();
        assert_eq!(occupancy.taken(), 0);
        assert!(occupancy.per_address.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn only_the_usual_address_of_loopback_is_this_host() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("::ffff:127.0.0.2", false),
            ("192.0.2.1", false),
        ] {
            assert_eq!(is_this_host(address.parse().expect("an address")), expected, "{address}");
        }
    }

    #[tokio::test]
    async fn waiting_for_emptiness_ends_with_the_last_seat() {
        let occupancy = occupancy();
        occupancy.empty().await;
        let seat = occupancy.take(IpAddr::from([192, 0, 2, 1])).expect("free");
        let wait = occupancy.empty();
        tokio::pin!(wait);
        tokio::select! {
            biased;
            () = &mut wait => panic!("one seat is taken"),
            () = tokio::task::yield_now() => {}
        }
        drop(seat);
        wait.await;
    }
}
