//! Whether the chances that were given came true: the reliability of predictions, in integers.

use serde::Serialize;

/// A chance that was given, and whether it came true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// The chance, in millionths.
    pub chance_ppm: u32,
    /// Whether it came true.
    pub happened: bool,
}

/// Predictions of about the same chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// How many.
    pub count: u64,
    /// The mean chance that was given, in millionths.
    pub predicted_ppm: u64,
    /// The share that came true, in millionths.
    pub observed_ppm: u64,
}

/// How good predictions were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Calibration {
    /// How many.
    pub count: u64,
    /// Expected calibration error: how far the bins are off in the mean, in millionths.
    pub error_ppm: u64,
    /// Brier score: mean squared error, in millionths.
    pub brier_ppm: u64,
    /// Brier score of always predicting the mean, in millionths.
    pub base_ppm: u64,
    /// Bins of equal mass, least chance first.
    pub bins: Vec<Bin>,
}

/// Bins of a reliability table.
const BINS: usize = 10;
const ONE: u64 = 1_000_000;

/// Judges predictions; `None` without any.
#[must_use]
pub fn calibration(mut predictions: Vec<Prediction>) -> Option<Calibration> {
    predictions.sort_by_key(|p| (p.chance_ppm, p.happened));
    let count = u64::try_from(predictions.len()).ok().filter(|count| *count > 0)?;
    let bins: Vec<Bin> =
        predictions.chunks(predictions.len().div_ceil(BINS)).filter_map(bin).collect();
    let off = |bin: &Bin| bin.predicted_ppm.abs_diff(bin.observed_ppm).saturating_mul(bin.count);
    let squared = |p: &Prediction| {
        let error = u64::from(p.chance_ppm).abs_diff(if p.happened { ONE } else { 0 });
        error * error / ONE
    };
    let rate = bin(&predictions)?.observed_ppm;
    Some(Calibration {
        count,
        error_ppm: bins.iter().map(off).sum::<u64>() / count,
        brier_ppm: predictions.iter().map(squared).sum::<u64>() / count,
        base_ppm: rate * (ONE - rate) / ONE,
        bins,
    })
}

fn bin(part: &[Prediction]) -> Option<Bin> {
    let count = u64::try_from(part.len()).ok().filter(|count| *count > 0)?;
    let predicted: u64 = part.iter().map(|p| u64::from(p.chance_ppm)).sum();
    let happened: u64 = part.iter().map(|p| u64::from(p.happened)).sum();
    Some(Bin {
        count,
        predicted_ppm: predicted / count,
        observed_ppm: happened.saturating_mul(ONE) / count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(said: impl Fn(u32) -> u32) -> Vec<Prediction> {
        // Every chance from 0 to 99 %, and of each as many come true as it says.
        let one = |chance: u32, n: u32| Prediction {
            chance_ppm: said(chance * 10_000),
            happened: n < chance,
        };
        (0..100)
            .flat_map(|chance| (0..100).map(move |n| (chance, n)))
            .map(|(c, n)| one(c, n))
            .collect()
    }

    #[test]
    fn chances_that_come_true_are_calibrated_and_boasts_are_not() {
        let honest = calibration(predictions(|p| p)).unwrap();
        assert_eq!((honest.count, honest.bins.len()), (10_000, 10));
        assert!(honest.error_ppm < 100, "{honest:?}");
        assert!(honest.brier_ppm < honest.base_ppm);
        let sure =
            calibration(predictions(|p| if p > 500_000 { 990_000 } else { 10_000 })).unwrap();
        assert!(sure.error_ppm > 200_000 && sure.brier_ppm > honest.brier_ppm, "{sure:?}");
        assert_eq!(calibration(Vec::new()), None);
    }
}
