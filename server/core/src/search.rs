//! The search for a case that a property does not hold for; tests use it on what is real and on planted bugs alike.

use std::fmt::Debug;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// The first counterexample among so many cases, if there is one, with what is wrong about it.
///
/// It is made smaller in a few steps only: a planted bug has one each time, and nobody reads that one.
pub(crate) fn counterexample<T: Debug>(
    cases: u32,
    strategy: impl Strategy<Value = T>,
    wrong: impl Fn(T) -> Option<String>,
) -> Option<String> {
    let config =
        Config { cases, max_shrink_iters: 16, failure_persistence: None, ..Config::default() };
    let judged = TestRunner::new(config)
        .run(&strategy, |case| wrong(case).map_or(Ok(()), |wrong| Err(TestCaseError::fail(wrong))));
    judged.err().map(|error| error.to_string())
}
