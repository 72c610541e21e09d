//! The apps of the environment, and how many of them are what decisions on another one ask for: counted as they change, so that nobody
//! looks at all of them to decide on one.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Iter};
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::AppState;
use crate::app::AppName;

/// Applications by name. Whoever changes one goes through [`Apps::get_mut`], so that it is counted anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apps {
    by_name: BTreeMap<AppName, AppState>,
    census: Census,
}

/// How many apps there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// See [`AppState::is_unhealthy`].
    pub unhealthy: u32,
    /// With an attempt in flight that disrupts what runs.
    pub disrupting: u32,
    /// With any other attempt in flight.
    pub starting: u32,
}

impl Census {
    fn of(app: &AppState) -> Self {
        let disrupts = app.attempt.as_ref().map(|attempt| attempt.plan.disrupts() > 0);
        Self {
            unhealthy: app.is_unhealthy().into(),
            disrupting: (disrupts == Some(true)).into(),
            starting: (disrupts == Some(false)).into(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            unhealthy: self.unhealthy.saturating_add(other.unhealthy),
            disrupting: self.disrupting.saturating_add(other.disrupting),
            starting: self.starting.saturating_add(other.starting),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            unhealthy: self.unhealthy.saturating_sub(other.unhealthy),
            disrupting: self.disrupting.saturating_sub(other.disrupting),
            starting: self.starting.saturating_sub(other.starting),
        }
    }
}

impl Apps {
    /// All of them.
    #[must_use]
    pub const fn census(&self) -> Census {
        self.census
    }

    /// All but one.
    #[must_use]
    pub fn census_without(&self, name: &AppName) -> Census {
        self.by_name.get(name).map_or(self.census, |app| self.census.minus(Census::of(app)))
    }

    /// An app to be changed.
    pub fn get_mut(&mut self, name: &AppName) -> Option<Changing<'_>> {
        let app = self.by_name.get_mut(name)?;
        let before = Census::of(app);
        Some(Changing { app, before, census: &mut self.census })
    }

    /// An app to be changed, which is put in if there is none of that name.
    pub(super) fn get_or_insert(
        &mut self,
        name: AppName,
        new: impl FnOnce() -> AppState,
    ) -> Changing<'_> {
        let (app, before) = match self.by_name.entry(name) {
            Entry::Occupied(known) => {
                let before = Census::of(known.get());
                (known.into_mut(), before)
            }
            Entry::Vacant(place) => (place.insert(new()), Census::default()),
        };
        Changing { app, before, census: &mut self.census }
    }

    /// Puts an app in, instead of one of the same name.
    pub fn insert(&mut self, name: AppName, app: AppState) {
        self.census = self.census.plus(Census::of(&app));
        if let Some(old) = self.by_name.insert(name, app) {
            self.census = self.census.minus(Census::of(&old));
        }
    }

    /// Lets an app go.
    pub fn remove(&mut self, name: &AppName) {
        if let Some(old) = self.by_name.remove(name) {
            self.census = self.census.minus(Census::of(&old));
        }
    }
}

/// An app that is being changed: when that is done it is counted as what it is then.
#[derive(Debug)]
pub struct Changing<'a> {
    app: &'a mut AppState,
    before: Census,
    census: &'a mut Census,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        *self.census = self.census.plus(Census::of(self.app)).minus(self.before);
    }
}

impl Deref for Changing<'_> {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        self.app
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut AppState {
        self.app
    }
}

impl Deref for Apps {
    type Target = BTreeMap<AppName, AppState>;

    fn deref(&self) -> &Self::Target {
        &self.by_name
    }
}

impl From<BTreeMap<AppName, AppState>> for Apps {
    fn from(by_name: BTreeMap<AppName, AppState>) -> Self {
        let census = by_name.values().map(Census::of).fold(Census::default(), Census::plus);
        Self { by_name, census }
    }
}

impl<'a> IntoIterator for &'a Apps {
    type Item = (&'a AppName, &'a AppState);
    type IntoIter = Iter<'a, AppName, AppState>;

    fn into_iter(self) -> Self::IntoIter {
        self.by_name.iter()
    }
}

impl Serialize for Apps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.by_name.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Apps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}
