//! The table of signal windows between the telemetry streams and the loop.
//!
//! There is no queue between a socket and this table: a stream updates its apps' windows in place, and the loop closes the windows it
//! wants to look at. Overload sheds freshness, never order, and memory does not grow with load.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agentd_core::app::{AppName, Env, Millis};
use agentd_core::policy::{Freshness, Policy};
use agentd_core::signal::{Accepted, Believed, Reading, Sample};
use agentd_core::window::{Absorbed, Push, Window};
use hashbrown::HashTable;

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
    /// Found by the [`hash`] of the app's name.
    windows: HashTable<Heard>,
    /// Apps of which something was heard since the news were taken last, each once.
    news: Vec<AppName>,
    dropped: u64,
}

/// The window of an app, and whether the app is among the news.
#[derive(Debug)]
struct Heard {
    window: Window,
    is_news: bool,
}

impl Heard {
    const fn app(&self) -> &AppName {
        self.window.app()
    }
}

/// What names of apps are found by. Only names that were onboarded are in the table and they are short, so that no keyed hash is
/// needed.
fn hash(name: &str) -> u64 {
    // An odd number without a pattern: the fraction of the golden ratio.
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut hash, mut rest) = (0_u64, name.as_bytes());
    while let Some((word, more)) = rest.split_first_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = more;
    }
    let last = rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte));
    // The product is best mixed at its high end, and a table looks at the low one.
    mix(hash, last).rotate_left(26)
}

impl Shard {
    fn get(&mut self, hash: u64, app: &str) -> Option<&mut Heard> {
        self.windows.find_mut(hash, |heard| heard.app().as_str() == app)
    }
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

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // Other bits than those by which the table of the shard finds it.
        let index = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        // The index is below the length by construction; the first shard is a total answer, not a case that happens.
        let [first, ..] = &self.shards;
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a window for an app that was just onboarded. Signals of apps without one are refused.
    pub fn attach(&self, app: &AppName) {
        self.add(Window::new(app.clone()));
    }

    /// Makes a window for an app that was onboarded before this start: its monitors get time to report again.
    pub fn resume(&self, app: &AppName, now: Millis) {
        self.add(Window::resumed(app.clone(), now));
    }

    fn add(&self, window: Window) {
        let hash_of = |heard: &Heard| hash(heard.app().as_str());
        let heard = Heard { window, is_news: false };
        let hash = hash_of(&heard);
        let is_it = |known: &Heard| known.app() == heard.app();
        let mut shard = self.shard(hash);
        let Err(absent) = shard.windows.find_entry(hash, is_it) else { return };
        absent.into_table().insert_unique(hash, heard, hash_of);
    }

    /// Forgets the window of an app that was let go: signals about it are refused from here on.
    pub fn detach(&self, app: &AppName) {
        let hash = hash(app.as_str());
        if let Ok(found) = self.shard(hash).windows.find_entry(hash, |known| known.app() == app) {
            found.remove();
        }
    }

    /// Whether the app has a window, so that a signal about it is known.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<AppName> {
        let hash = hash(name);
        self.shard(hash).get(hash, name).map(|heard| heard.app().clone())
    }

    /// Does something to the window of an app and counts what was dropped; `None` if it has none.
    fn with(&self, app: &str, change: impl FnOnce(&mut Window) -> Absorbed) -> Option<Absorbed> {
        let hash = hash(app);
        let mut shard = self.shard(hash);
        let heard = shard.get(hash, app)?;
        let absorbed = change(&mut heard.window);
        let first = !std::mem::replace(&mut heard.is_news, true);
        let news = first.then(|| heard.app().clone());
        shard.news.extend(news);
        shard.dropped = shard.dropped.saturating_add(u64::from(absorbed.dropped));
        Some(absorbed)
    }

    /// Tells of which apps something was heard since this was asked last: their windows say something new when they are closed.
    pub fn news(&self, mut tell: impl FnMut(&AppName)) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut news = std::mem::take(&mut shard.news);
            for app in news.drain(..) {
                if let Some(heard) = shard.get(hash(app.as_str()), app.as_str()) {
                    heard.is_news = false;
                }
                tell(&app);
            }
            // The room for as many the next time.
            shard.news = news;
        }
    }

    /// Takes in one accepted signal, and says how much of it counted.
    pub fn accept(&self, accepted: &Accepted) -> Absorbed {
        self.with(accepted.app.as_str(), |window| window.absorb(accepted)).unwrap_or_default()
    }

    /// Takes in one signal about `app` that is still where it was read; `None` if the app has no window.
    pub fn hear(&self, app: &str, signal: &Believed<'_>) -> Option<Absorbed> {
        self.with(app, |window| window.hear(signal))
    }

    /// Takes in one sample of the server's own probes.
    pub fn sample(&self, app: &AppName, sample: &Sample) {
        let push = |window: &mut Window| {
            let kept = window.push(sample);
            let lost = !matches!(kept, Push::Kept | Push::Superseded | Push::OutOfOrder);
            Absorbed { dropped: u32::from(lost), ..Absorbed::default() }
        };
        let _ = self.with(app.as_str(), push);
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
        self.tick(app, now, policy, onboarded_at).0
    }

    /// The same, and until when it is all there is to say if nothing is heard: see [`Window::same_until`].
    #[must_use]
    pub fn tick(
        &self,
        app: &AppName,
        now: Millis,
        policy: &Policy,
        onboarded_at: Millis,
    ) -> (Reading, Option<Millis>) {
        let hash = hash(app.as_str());
        match self.shard(hash).get(hash, app.as_str()) {
            Some(Heard { window, .. }) => {
                let reading = window.close(now, policy, onboarded_at);
                (reading, window.same_until())
            }
            None => (Reading::silent(app.clone(), now, None), None),
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
