//! Samples of the past in as few bytes as they take: what is next to a sample is like it, so that only the differences are kept.
//!
//! A sample that is the one before takes one byte, one that moves by less than a hundredth of a percent two, and any other as many
//! as its difference has groups of seven bits. Nothing is lost. They are read in the order in which they came, by as many readers as
//! are wanted, and let go behind the last one of them.

use std::collections::VecDeque;

/// Bytes by which the room for them grows: what lasts for hours is as large as it must be, not up to twice as large.
const GROWTH: usize = 64;
/// Bits of one byte that belong to the number; the highest one says that there are more.
const BITS: u32 = 7;
const MORE: u8 = 1 << BITS;

/// The samples that were not let go.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    bytes: VecDeque<u8>,
    /// Bytes that were let go.
    gone: u64,
    newest: i64,
}

/// The place of one reader: before the first sample, to begin with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reader {
    /// Bytes before it, of all there ever were.
    at: u64,
    /// The sample before it.
    before: i64,
}

impl Samples {
    /// Takes in the next one. Two neighbours are less than 2^63 apart.
    pub(super) fn push(&mut self, sample: i64) {
        let difference = sample.wrapping_sub(self.newest);
        self.newest = sample;
        // Small ones are small numbers whatever their sign.
        let mut rest = (difference.wrapping_shl(1) ^ (difference >> 63)).cast_unsigned();
        loop {
            if self.bytes.len() == self.bytes.capacity() {
                self.bytes.reserve_exact(GROWTH);
            }
            let low = u8::try_from(rest & u64::from(MORE - 1)).unwrap_or(0);
            rest >>= BITS;
            self.bytes.push_back(if rest == 0 { low } else { low | MORE });
            if rest == 0 {
                return;
            }
        }
    }

    /// The sample behind the reader, which passes it; `None` at the end, and for a reader whose samples were let go.
    pub(super) fn next(&self, reader: &mut Reader) -> Option<i64> {
        let start = usize::try_from(reader.at.checked_sub(self.gone)?).ok()?;
        let (mut number, mut length) = (0_u64, 0_u32);
        loop {
            let byte = *self.bytes.get(start.saturating_add(usize::try_from(length).ok()?))?;
            number |= u64::from(byte & !MORE).checked_shl(length * BITS)?;
            length += 1;
            if byte & MORE == 0 {
                break;
            }
        }
        let difference = (number >> 1).cast_signed() ^ -(number & 1).cast_signed();
        reader.at = reader.at.saturating_add(length.into());
        reader.before = reader.before.wrapping_add(difference);
        Some(reader.before)
    }

    /// Lets everything go that the reader has passed: it is the last one.
    pub(super) fn release(&mut self, last: &Reader) {
        let passed = usize::try_from(last.at.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        let passed = passed.min(self.bytes.len());
        self.bytes.drain(..passed);
        self.gone = self.gone.saturating_add(passed as u64);
        // Many were waited for, and few are kept.
        if self.bytes.capacity() > self.bytes.len() + 4 * GROWTH {
            self.bytes.shrink_to(self.bytes.len() + GROWTH);
        }
    }

    /// Bytes they take, with the room for more.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: i64 = 1_000_000_000_000_000;

    proptest! {
        #[test]
        fn whoever_reads_gets_what_came_in_the_order_it_came(
            samples in prop::collection::vec(prop_oneof![-MOST..MOST, -9..9_i64, Just(MOST), Just(-MOST)], 1..300),
            lag in 0..40_usize,
        ) {
            let (mut kept, mut near, mut far) =
                (Samples::default(), Reader::default(), Reader::default());
            for (n, sample) in samples.iter().enumerate() {
                kept.push(*sample);
                prop_assert_eq!(kept.next(&mut near), Some(*sample));
                prop_assert_eq!(kept.next(&mut near), None, "nothing is behind the newest one");
                if n >= lag {
                    prop_assert_eq!(kept.next(&mut far), Some(samples[n - lag]));
                    kept.release(&far);
                }
            }
        }
    }

    #[test]
    fn a_reader_whose_samples_are_gone_is_told_so() {
        let (mut kept, mut last) = (Samples::default(), Reader::default());
        let slow = last;
        (0..9).for_each(|n| kept.push(n));
        kept.next(&mut last);
        kept.release(&last);
        assert_eq!(kept.next(&mut slow.clone()), None);
        assert_eq!(kept.next(&mut last), Some(1));
    }

    #[test]
    fn what_stands_still_takes_a_byte_and_what_moves_a_little_two() {
        let (mut still, mut moving) = (Samples::default(), Samples::default());
        for n in 0..2_000 {
            still.push(80_000);
            moving.push(80_000 + n * 7_919 % 8_000);
        }
        assert!(still.size() <= 2_000 + 2 * GROWTH, "{}", still.size());
        assert!(moving.size() <= 4_000 + 2 * GROWTH, "{}", moving.size());
    }
}
