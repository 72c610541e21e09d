//! The table of signal windows between the telemetry streams and the loop.
//!
//! There is no queue between a socket and this table: a stream updates its apps' windows in place and marks them dirty, and the
//! loop closes the windows it wants to look at. Overload sheds freshness, never order, and memory does not grow with load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_core::app::{AppName, Env, Millis};
use agentd_core::policy::{Freshness, Policy};
use agentd_core::signal::{Accepted, Reading, Sample};
use agentd_core::window::{Absorbed, Push, Window};

/// Shards of the table: enough that streams rarely meet on one lock.
const SHARDS: usize = 16;

/// The windows of all apps.
#[derive(Debug)]
pub struct Ingest {
    shards: [Mutex<Shard>; SHARDS],
    /// What signals are judged by: kept here by the loop, so that nobody waits for the loop to learn it.
    rules: Mutex<Arc<Freshness>>,
}

#[derive(Debug, Default)]
struct Shard {
    windows: BTreeMap<AppName, Window>,
    dirty: BTreeSet<AppName>,
    dropped: u64,
}

impl Default for Ingest {
    fn default() -> Self {
        let rules = Mutex::new(Arc::new(Policy::default_for(Env::Prod).freshness));
        Self { shards: std::array::from_fn(|_| Mutex::default()), rules }
    }
}

impl Ingest {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the rules of a policy in force.
    pub fn set_rules(&self, rules: &Freshness) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules.clone());
    }

    /// What signals are judged by.
    #[must_use]
    pub fn rules(&self) -> Arc<Freshness> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn shard(&self, app: &AppName) -> MutexGuard<'_, Shard> {
        // FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/): names are short and validated, so no keyed hash is needed.
        let hash = app.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let index = usize::try_from(hash).unwrap_or(0) % SHARDS;
        // The index is below the length by construction; the first shard is a total answer, not a case that happens.
        let [first, ..] = &self.shards;
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a window for an app that was just onboarded. Signals of apps without one are refused.
    pub fn attach(&self, app: &AppName) {
        let window = || Window::new(app.clone());
        self.shard(app).windows.entry(app.clone()).or_insert_with(window);
    }

    /// Forgets the window of an app that was let go: signals about it are refused from here on.
    pub fn detach(&self, app: &AppName) {
        let mut shard = self.shard(app);
        shard.windows.remove(app);
        shard.dirty.remove(app);
    }

    /// Makes a window for an app that was onboarded before this start: its monitors get time to report again.
    pub fn resume(&self, app: &AppName, now: Millis) {
        let window = || Window::resumed(app.clone(), now);
        self.shard(app).windows.entry(app.clone()).or_insert_with(window);
    }

    /// Whether the app has a window, so that a signal about it is known.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<AppName> {
        let app = AppName::parse(name).ok()?;
        self.shard(&app).windows.contains_key(&app).then_some(app)
    }

    /// Takes in one accepted signal, and says how much of it counted.
    pub fn accept(&self, accepted: &Accepted) -> Absorbed {
        let mut shard = self.shard(&accepted.app);
        let Shard { windows, dirty, dropped } = &mut *shard;
        let Some(window) = windows.get_mut(&accepted.app) else { return Absorbed::default() };
        let absorbed = window.absorb(accepted);
        *dropped = dropped.saturating_add(u64::from(absorbed.dropped));
        if !dirty.contains(&accepted.app) {
            dirty.insert(accepted.app.clone());
        }
        absorbed
    }

    /// Takes in one sample of the server's own probes.
    pub fn sample(&self, app: &AppName, sample: &Sample) {
        let mut shard = self.shard(app);
        let Shard { windows, dirty, dropped } = &mut *shard;
        let Some(window) = windows.get_mut(app) else { return };
        if !matches!(window.push(sample), Push::Kept | Push::Superseded | Push::OutOfOrder) {
            *dropped = dropped.saturating_add(1);
        }
        dirty.insert(app.clone());
    }

    /// Closes the window of an app: one tick.
    #[must_use]
    pub fn close(
        &self,
        app: &AppName,
        now: Millis,
        policy: &Policy,
        onboarded_at: Millis,
    ) -> Reading {
        let mut shard = self.shard(app);
        shard.dirty.remove(app);
        match shard.windows.get_mut(app) {
            Some(window) => window.close(now, policy, onboarded_at),
            None => Reading::silent(app.clone(), now, None),
        }
    }

    /// Samples that were dropped because a limit of a window was reached.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).dropped)
            .fold(0, u64::saturating_add)
    }
}
