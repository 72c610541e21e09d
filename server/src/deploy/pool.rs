//! How many deployments fetch and build at once: one to three, by how many there are.
//!
//! A worker is a place to work in. Who finds none waits in a bounded queue; beyond it nobody waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Error;

/// Most that build at once.
pub const WORKERS_MAX: usize = 3;
/// Most that wait.
pub const WAITING_MAX: usize = 64;

/// Places for `depth` deployments, those that wait and those that are being worked on.
const fn workers(depth: usize) -> usize {
    match depth {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => WORKERS_MAX,
    }
}

/// The places, and who waits for one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    shared: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    working: usize,
    refused: u64,
}

/// How busy the workers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Workers there are at present.
    pub workers: usize,
    /// Deployments that are being fetched or built.
    pub working: usize,
    /// Deployments that wait.
    pub waiting: usize,
    /// Deployments that found the queue full.
    pub refused: u64,
}

/// A place to work in; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Mutex<Queue>>);

/// A wait that may be given up at any moment, also when the place has just been granted.
struct Wait {
    granted: oneshot::Receiver<()>,
    shared: Arc<Mutex<Queue>>,
}

fn locked(shared: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // Nothing that holds this lock can leave it half changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    fn depth(&self) -> usize {
        self.waiting.len().saturating_add(self.working)
    }

    /// Lets in whoever may work now, first come, first served.
    fn admit(&mut self) {
        while self.working < workers(self.depth()) {
            let Some(next) = self.waiting.pop_front() else { return };
            // Whoever gave up waiting takes no place.
            if next.send(()).is_ok() {
                self.working = self.working.saturating_add(1);
            }
        }
    }

    fn leave(&mut self) {
        self.working = self.working.saturating_sub(1);
        self.admit();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.0).leave();
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.granted.close();
        if self.granted.try_recv().is_ok() {
            locked(&self.shared).leave();
        }
    }
}

impl Pool {
    /// Waits for a place.
    ///
    /// # Errors
    /// The queue is full, or the wait was ended.
    pub(super) async fn place(&self, stop: &CancellationToken) -> Result<Place, Error> {
        let (grant, granted) = oneshot::channel();
        {
            let mut queue = locked(&self.shared);
            queue.waiting.retain(|waiting| !waiting.is_closed());
            if queue.waiting.len() >= WAITING_MAX {
                queue.refused = queue.refused.saturating_add(1);
                return Err(Error::QueueFull(WAITING_MAX));
            }
            queue.waiting.push_back(grant);
            queue.admit();
        }
        let mut wait = Wait { granted, shared: Arc::clone(&self.shared) };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::Halted),
            granted = &mut wait.granted => match granted {
                Ok(()) => Ok(Place(Arc::clone(&self.shared))),
                Err(_) => Err(Error::Halted),
            },
        }
    }

    /// How busy they are.
    pub(super) fn load(&self) -> Load {
        let queue = locked(&self.shared);
        let waiting = queue.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        let depth = waiting.saturating_add(queue.working);
        Load { workers: workers(depth), working: queue.working, waiting, refused: queue.refused }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Place, Error>> + 'a>>;

    fn poll(waiting: Pin<&mut dyn Future<Output = Result<Place, Error>>>) -> Option<Place> {
        match waiting.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place.unwrap()),
            Poll::Pending => None,
        }
    }

    fn counts(pool: &Pool) -> (usize, usize, usize) {
        let load = pool.load();
        (load.workers, load.working, load.waiting)
    }

    #[test]
    fn workers_come_with_the_queue_and_go_with_it() {
        let (pool, stop) = (Pool::default(), CancellationToken::new());
        assert_eq!(counts(&pool), (1, 0, 0));
        let mut first: Vec<Waiting<'_>> =
            (0..5).map(|_| Box::pin(pool.place(&stop)) as Waiting<'_>).collect();
        let mut places: Vec<Place> = first.iter_mut().filter_map(|f| poll(f.as_mut())).collect();
        // The second comes in behind the first, the third place opens with the fourth in the queue.
        assert_eq!((places.len(), counts(&pool)), (2, (3, 3, 2)));
        places.extend(first.iter_mut().skip(2).filter_map(|f| poll(f.as_mut())));
        assert_eq!(places.len(), 3);
        places.clear();
        assert_eq!(counts(&pool), (2, 2, 0), "those who waited work now");
        drop(first);
        assert_eq!(counts(&pool), (1, 0, 0), "who goes away leaves no place taken");
    }

    #[test]
    fn the_queue_has_an_end_and_who_gave_up_is_not_in_it() {
        let (pool, stop) = (Pool::default(), CancellationToken::new());
        let (mut all, mut places): (Vec<Waiting<'_>>, Vec<Place>) = Default::default();
        for _ in 0..WORKERS_MAX + WAITING_MAX {
            all.push(Box::pin(pool.place(&stop)));
            places.extend(all.last_mut().and_then(|one| poll(one.as_mut())));
        }
        assert_eq!(counts(&pool), (WORKERS_MAX, WORKERS_MAX, WAITING_MAX));
        let is_full = || {
            let mut one = pin!(pool.place(&stop));
            let polled = one.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            matches!(polled, Poll::Ready(Err(Error::QueueFull(WAITING_MAX))))
        };
        assert!(is_full());
        assert_eq!(pool.load().refused, 1);
        all.pop();
        assert!(!is_full());
    }

    #[tokio::test]
    async fn a_halt_ends_the_wait() {
        let (pool, stop) = (Pool::default(), CancellationToken::new());
        let _place = pool.place(&stop).await.unwrap();
        let other = pool.place(&stop).await.unwrap();
        stop.cancel();
        assert!(matches!(pool.place(&stop).await, Err(Error::Halted)));
        drop(other);
        assert_eq!(counts(&pool), (1, 1, 0));
    }
}
