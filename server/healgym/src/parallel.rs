//! Worlds are independent of each other: each is lived in by whichever core is free, and what comes out stands in their order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// `of(1)`, `of(2)`, ... up to `of(count)`.
pub fn each<T: Send>(count: u32, of: impl Fn(u32) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicU32::new(1), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > count {
                break;
            }
            let result = of(number);
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((number, result));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_numbers() {
        assert_eq!(each(50, |n| n * 2), (1..=50).map(|n| n * 2).collect::<Vec<_>>());
        assert!(each(0, |n| n).is_empty());
    }
}
