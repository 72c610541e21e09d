//! The exploration draw: a function of (seed, app, seq) and of nothing else, so that a replay draws the same.

use sha2::{Digest as _, Sha256};

use crate::app::AppName;

/// One million: certainty in parts per million.
pub(super) const CERTAIN_PPM: u32 = 1_000_000;

/// Two independent draws of one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draw {
    whether: u64,
    which: u64,
}

impl Draw {
    /// The draw of decision `seq` about `app`.
    pub(super) fn new(seed: u64, app: &AppName, seq: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"agentd exploration draw 1\0");
        hash.update(seed.to_le_bytes());
        hash.update(seq.to_le_bytes());
        hash.update(app.as_str().as_bytes());
        let digest = hash.finalize();
        let mut words = digest
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        Self { whether: words.next().unwrap_or(0), which: words.next().unwrap_or(0) }
    }

    /// Whether to explore, which happens with probability `ppm`.
    pub(super) fn explores(self, ppm: u32) -> bool {
        below(self.whether, CERTAIN_PPM.into()) < u64::from(ppm)
    }

    /// An index below `count`, each equally likely; 0 when there is nothing to choose from.
    pub(super) fn index(self, count: usize) -> usize {
        usize::try_from(below(self.which, count as u64)).unwrap_or(0)
    }
}

/// Maps a uniform 64-bit number to `0..bound` by multiplication (D. Lemire: "Fast random integer generation in an interval", ACM
/// Transactions on Modeling and Computer Simulation 29 (2019)); the bias is below `bound` / 2^64.
fn below(uniform: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(uniform) * u128::from(bound)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_app_and_seq_alone() {
        let (web, api) = (AppName::parse("web").unwrap(), AppName::parse("api").unwrap());
        let draw = Draw::new(1, &web, 7);
        assert_eq!(draw, Draw::new(1, &web, 7));
        assert_ne!(draw, Draw::new(2, &web, 7));
        assert_ne!(draw, Draw::new(1, &api, 7));
        assert_ne!(draw, Draw::new(1, &web, 8));
    }

    #[test]
    fn it_explores_as_often_as_it_is_told_to_and_everything_equally() {
        let web = AppName::parse("web").unwrap();
        let draws: Vec<Draw> = (0..20_000).map(|seq| Draw::new(1, &web, seq)).collect();
        let explored = draws.iter().filter(|d| d.explores(50_000)).count();
        assert!((800..1_200).contains(&explored), "{explored} of 20,000 at 5 %");
        assert!(draws.iter().all(|d| !d.explores(0) && d.explores(CERTAIN_PPM)));
        for index in 0..3 {
            let hits = draws.iter().filter(|d| d.index(3) == index).count();
            assert!((6_300..7_000).contains(&hits), "{hits} of 20,000 at a third");
        }
        assert!(draws.iter().all(|d| d.index(0) == 0));
    }
}
