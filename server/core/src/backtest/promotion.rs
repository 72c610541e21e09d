//! Whether the log speaks for what was learned since the last promotion.

use super::{Comparison, Fit, Rules};
use crate::app::Env;
use crate::choose::Expertise;
use crate::record::{Backtested, Record};

/// Judges `candidate` against `acting`, what the agent decides by, over a log that `read` hands out record by record, and twice: both are
/// asked what they would have done in each situation of it.
///
/// # Errors
/// What reading fails with.
pub fn promotion<E>(
    env: Env,
    acting: &Expertise,
    candidate: &Expertise,
    mut read: impl FnMut(&mut dyn FnMut(&Record)) -> Result<(), E>,
) -> Result<Backtested, E> {
    let (mut fit, mut upto) = (Fit::new(env), 0);
    read(&mut |record| {
        upto = record.seq;
        fit.fold(record);
    })?;
    let fitted = fit.finish();
    let rules = |learned: &Expertise| Rules::Learned(Box::new(learned.clone()));
    let mut comparison = Comparison::new(&fitted, rules(acting), rules(candidate));
    // What was written since the first reading would be compared with a fit that does not know how it ended.
    read(&mut |record| {
        if record.seq <= upto {
            comparison.fold(record);
        }
    })?;
    let report = comparison.report();
    Ok(Backtested {
        acting: acting.digest(),
        candidate: candidate.digest(),
        upto,
        differing: fitted.differing,
        situations: report.situations,
        outcomes: report.outcomes,
        difference: report.difference,
        verdict: report.verdict,
        why: report.why,
    })
}
